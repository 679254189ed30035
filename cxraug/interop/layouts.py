"""What a card says of the files beside it: a set's own folder, or its export as a Hugging Face image folder."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cxraug.interop.imagefolder import FOLDERS
from cxraug.interop.metadata import METADATA
from cxraug.interop.setfacts import SetFacts
from cxraug.storage import file_sha256
from cxraug.synthesis.assembly import CARD_FILES, MANIFEST, PROVENANCE

README, CROISSANT = CARD_FILES


@dataclass(frozen=True)
class Layout:
    """Files (name, what, SHA-256), what stands below their table, how they are loaded, and where rejected images are.

    ``configs`` tells the hub where the rows are; empty where it finds them itself. All of it is Markdown already.
    """

    files: list[tuple[str, str, str]]
    note: str
    loading: str
    rejected: str
    configs: list[dict[str, Any]] = field(default_factory=list)


def set_layout(facts: SetFacts) -> Layout:
    """The folder of a generated or swapped set."""
    return Layout(
        files=[
            (f"`{MANIFEST}`", "one row per image", f"`{facts.hashes[MANIFEST]}`"),
            ("`images/`", "PNG, 8 bit; the digest is of the list of all images' SHA-256 in the order of the manifest",
             f"`{facts.hashes['images']}`"),
            (f"`{PROVENANCE}`", "how each image was made", f"`{facts.hashes[PROVENANCE]}`"),
            (f"`{CROISSANT}`", "this description for machines (Croissant)", ""),
        ],
        note=_SWAPPED if facts.swapped else _UNPUBLISHED,
        loading=_LOADING,
        rejected="Rejected ones are in the folder and marked `reject` in the column `gate`: leave them out.",
        configs=[{"config_name": "default", "data_files": [{"split": "train", "path": MANIFEST}]}],
    )  # fmt: skip


def image_folder_layout(out: Path, facts: SetFacts, *, left: int) -> Layout:
    """The Hugging Face image folder ``out`` of a set of which ``left`` images stayed behind."""
    tables = [(f"{split}/{METADATA}", "one row per image, and the images beside it") for split in FOLDERS.values()]
    files = [(name, what) for name, what in tables if (out / name).is_file()]
    files.append((MANIFEST, "the same rows for cxraug"))
    origin = "how each image was made; `image` is the column `original_image`"
    return Layout(
        files=[*((f"`{name}`", what, f"`{file_sha256(out / name)}`") for name, what in files),
               (f"`{PROVENANCE}`", origin, f"`{facts.hashes[PROVENANCE]}`")],
        note=f"{left:,} images of the set are not in this export." if left else "",
        loading=_LOADING_FOLDER,
        rejected="",
    )  # fmt: skip


_SWAPPED = "`left_out.csv` and `report/` belong to the swap and may be published with it."
_UNPUBLISHED = (
    "Nothing else in the folder belongs to the data set. `plan.parquet`, `units/`, `gate/`, `cache/` and `privacy/` "
    "are for working on: they may hold paths of a machine and pixels of real images, and are not to be published."
)
_GRAMMAR = "Labels: `A|-B|?C` is A present, B absent, C uncertain."
_LOADING = f"""```python
import pandas as pd
rows = pd.read_parquet("manifest.parquet")  # image, labels, sex, age, view, report, prompt_id, ...
rows = rows[rows["gate"] != "reject"]
```

{_GRAMMAR} `cxraug export SET --to hf` (or `folders`, `webdataset`, `coco`) writes
the accepted images in the layout of other libraries."""
_LOADING_FOLDER = f"""```python
from datasets import load_dataset
rows = load_dataset("imagefolder", data_dir=".")["train"]  # image, labels, y_<finding>, sex, age, view, ...
```

{_GRAMMAR}"""
