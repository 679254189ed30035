"""A manifest or a synthetic set in the layout of another program; goes on where it was interrupted."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd

from cxraug import __version__
from cxraug.errors import InputError
from cxraug.interop.classfolders import CLASSES, write_class_folders
from cxraug.interop.coco import ANNOTATIONS, write_coco
from cxraug.interop.imagefolder import FOLDERS, write_image_folder
from cxraug.interop.settings import ExportSettings, Format
from cxraug.interop.shards import INDEX, write_shards
from cxraug.storage import digest, plain, read_json, write_json
from cxraug.studies.cache import refuse_missing
from cxraug.studies.manifest import Manifest
from cxraug.synthesis.assembly import CARD_FILES, MANIFEST, PROVENANCE
from cxraug.synthesis.unit import disk_full_is_work_error

STATE = "export.json"
OWN = (*FOLDERS.keys(), *FOLDERS.values(), ANNOTATIONS, CLASSES, INDEX, MANIFEST, PROVENANCE, *CARD_FILES)
Writer = Callable[[Manifest, Path, ExportSettings], tuple[pd.DataFrame | None, dict[str, Any]]]
WRITERS: dict[Format, Writer] = {
    "hf": write_image_folder, "folders": write_class_folders, "webdataset": write_shards, "coco": write_coco,
}  # fmt: skip


def export(manifest: Manifest, out: str | Path, settings: ExportSettings, *, fresh: bool = False) -> dict[str, Any]:
    """Write ``manifest`` into ``out`` in another layout; returns counts, JSON-ready.

    ``export.json`` says what was exported. Layouts with images in folders also have ``manifest.parquet``, so that an
    export is itself a data folder of cxraug, with what each source annotates.

    Parameters
    ----------
    out : a new folder, or one in which the same export was interrupted. fresh : throw away an export that is in it.

    Raises
    ------
    InputError
        An image that is missing or lies outside the data folder, a folder that holds something else, rows that the
        layout cannot hold.
    WorkError : disk full; what was finished stays.
    """
    out = Path(out)
    refuse_missing(manifest)
    states = [(status.st_size, status.st_mtime_ns) for status in (path.stat() for path in manifest.paths())]
    work = digest([manifest.digest(), str(manifest.root), settings.model_dump(mode="json"), states])
    _claim(out, work, fresh)
    with disk_full_is_work_error(out):
        try:
            frame, counts = WRITERS[settings.to](manifest, out, settings)
        except InputError:
            _leave(out)
            raise
        if frame is not None:
            Manifest(frame, out, None, manifest.findings, manifest.annotated).save(out / MANIFEST)
        images = len(manifest) if frame is None else len(frame)
        facts = {"format": settings.to, "images": images, **counts, "cxraug": __version__,
                 "settings": settings.model_dump(mode="json")}  # fmt: skip
        write_json(out / STATE, {"work": work, "finished": True, **facts})
    return dict(plain({"folder": str(out), **facts}))


def _leave(out: Path) -> None:
    """Take back the claim where nothing was written yet: the next try may have other settings."""
    if [path.name for path in out.iterdir()] == [STATE]:
        (out / STATE).unlink()
        out.rmdir()


def _claim(out: Path, work: str, fresh: bool) -> None:
    """Make ``out`` the folder of exactly this export, or refuse."""
    state = out / STATE
    if state.is_file() and fresh:
        for name in (*OWN, *(path.name for path in out.glob("*.tar")), STATE):  # the state goes last
            shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
    if state.is_file():
        if read_json(state).get("work") != work:
            raise InputError("this folder holds an export of other rows, images or settings", file=out,
                             expected="another folder, or --fresh")  # fmt: skip
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise InputError("this folder holds something that is no export", file=out, expected="an empty or new folder")
    with disk_full_is_work_error(out):
        write_json(state, {"work": work, "finished": False})
