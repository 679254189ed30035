"""The real rows that an evaluation stands on, and the prompts that are made of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxraug.cores.core import LATERAL, Card
from cxraug.cores.given import write_files
from cxraug.cores.measures.regions import Box, boxes_of
from cxraug.errors import InputError
from cxraug.seeds import derive_seed
from cxraug.studies.images import read_mask_values
from cxraug.studies.labels import NO_FINDING, format_labels
from cxraug.studies.manifest import Manifest

FRONTAL = "frontal"
ATTRIBUTES = ("findings", "sex", "age", "race", "source")
# What each set of prompts takes over from its real study, beside the views. "attributes" takes all that the core knows.
SETS: dict[str, tuple[str, ...]] = {
    "attributes": ATTRIBUTES,
    "views only": (),
    "findings only": ("findings",),
    "sex only": ("sex",),
    "age only": ("age",),
    "attributes and boxes": (*ATTRIBUTES, "boxes"),
    "attributes and mask": (*ATTRIBUTES, "mask"),
    "report": ("report",),
    "frontal view": ("frontal",),
    "lateral view": ("lateral",),
}
GIVEN = {
    "frontal": FRONTAL,
    "lateral": LATERAL,
}  # the view of its real study that a prompt shows; it asks for the other
MAIN = "attributes"
REPORTED = (MAIN, "frontal view", "lateral view")  # with which a core that writes reports writes one


@dataclass(frozen=True)
class RealRows:
    """The chosen real images in the order of their studies, one per study and projection.

    ``study`` (n,) numbers the study of each row from 0; ``projection`` (n,) is "frontal" or "Lateral"; ``boxes`` holds
    each row's boxes as fractions of the side, None where nobody drew any.
    """

    manifest: Manifest
    study: np.ndarray
    projection: np.ndarray
    boxes: list[list[Box] | None]

    def __len__(self) -> int:
        return len(self.study)

    @property
    def patients(self) -> np.ndarray:
        """Patient (n,) of each row."""
        return self.manifest.frame["patient_id"].to_numpy(str)

    @property
    def views(self) -> np.ndarray:
        """View (n,) of each row."""
        return self.manifest.frame["view"].to_numpy(str)

    def of_studies(self, studies: Sequence[int] | np.ndarray) -> RealRows:
        """Only the rows of these studies, which keep their numbers."""
        at = np.flatnonzero(np.isin(self.study, studies))
        return RealRows(self.manifest.take(at), self.study[at], self.projection[at], [self.boxes[i] for i in at])

    def wanted(self, prompts: str) -> np.ndarray:
        """Positions of the rows that a set of prompts asks to generate: all, or those whose other view is given."""
        shown = [GIVEN[f] for f in SETS[prompts] if f in GIVEN]
        if not shown:
            return np.arange(len(self))
        given = set(self.study[self.projection == shown[0]].tolist())
        return np.flatnonzero((self.projection != shown[0]) & np.isin(self.study, list(given)))

    def y(self, findings: Sequence[str]) -> np.ndarray:
        """Labels (n, F): 1, 0, NaN."""
        return self.manifest.y(list(findings)).astype(float)

    @property
    def female(self) -> np.ndarray:
        """1 for F, 0 for M, NaN (n,)."""
        return female(self.manifest.frame)

    @property
    def age(self) -> np.ndarray:
        """Years (n,), NaN where unknown."""
        return self.manifest.frame["age"].to_numpy(float)


def choose_rows(manifest: Manifest, splits: Sequence[str], views: Sequence[str], n: int | None, seed: int) -> RealRows:
    """The images of ``n`` studies (default all), drawn at random from ``splits``, in those ``views`` that a core knows.

    Raises :class:`InputError` where no row is left, or fewer than ``n`` studies.
    """
    frame = manifest.frame
    keep = frame["split"].isin(list(splits)) & frame["view"].isin(list(views))
    if "synthetic" in frame:
        keep &= ~frame["synthetic"].fillna(False).astype(bool)
    rows = np.flatnonzero(keep.to_numpy(bool))
    if not len(rows):
        raise InputError(
            "no real row to measure against", file=manifest.file, column="split, view",
            expected=f"rows of the split {', '.join(splits)} in a view that the core knows ({', '.join(views)})",
        )  # fmt: skip
    key = frame["patient_id"].astype("str") + "\0" + frame["study_id"].astype("str")
    side = frame["view"].iloc[rows] == LATERAL  # one image of each projection: what cores can draw together
    rows = rows[~pd.DataFrame({"key": key.iloc[rows], "side": side}).duplicated().to_numpy()]
    study, names = pd.factorize(key.iloc[rows])
    if n is not None and n > len(names):
        raise InputError(
            "not that many studies", file=manifest.file, found=f"--n {n}", expected=f"at most {len(names)}"
        )
    picked = np.random.default_rng(derive_seed(seed, "studies")).permutation(len(names))[:n]
    place = np.full(len(names), -1)
    place[np.sort(picked)] = np.arange(len(picked))
    rows = rows[place[study] >= 0]
    number = place[study[place[study] >= 0]]
    order = np.lexsort((rows, number))
    chosen = manifest.take(rows[order])
    projection = np.where(chosen.frame["view"] == LATERAL, LATERAL, FRONTAL)
    return RealRows(chosen, number[order], projection, boxes_of(chosen))


def missing_fields(prompts: str, card: Card) -> list[str]:
    """Conditions that a set of prompts needs and the core does not know; of "attributes" it takes what there is."""
    optional = ATTRIBUTES if prompts.startswith(MAIN) else ()
    needed = ["reference_image" if f in GIVEN else f for f in SETS[prompts] if f not in optional]
    return [f for f in needed if f not in card.conditions]


def plan_of(
    rows: RealRows, prompts: str, card: Card, findings: Sequence[str], *, seed: int, repeats: int = 1
) -> pd.DataFrame:
    """A plan with one prompt per study (``p0000012``), ``repeats`` of it under other seeds (``p0000012-1``, ...).

    Of prompts that show a view only studies with both get one.

    Unknown labels are written ``?X``, which leaves them to the core. Boxes are scaled to the core's pixels.
    """
    fields = [f for f in SETS[prompts] if f in card.conditions]
    asked = [f for f in findings if f in card.findings and f != NO_FINDING]
    first = np.flatnonzero(np.diff(rows.study, prepend=-1))
    values, frame = rows.y(asked), rows.manifest.frame
    wanted = np.zeros(len(rows), bool)
    wanted[rows.wanted(prompts)] = True
    plan = []
    for start, stop in zip(first.tolist(), [*first[1:].tolist(), len(rows)], strict=True):
        number = int(rows.study[start])
        row = frame.iloc[start]
        if not wanted[start:stop].any():
            continue
        named = {f: (-1 if v != v else int(v)) for f, v in zip(asked, values[start], strict=True)}
        line = {
            "views": "|".join(rows.views[start:stop][wanted[start:stop]]),
            "labels": format_labels(named) if "findings" in fields and any(v >= 0 for v in named.values()) else None,
            "sex": _text(row, "sex") if "sex" in fields else None,
            "age": float(row["age"]) if "age" in fields else np.nan,
            "race": _text(row, "race") if "race" in fields else None,
            "source": _text(row, "source") if "source" in fields and row["source"] in card.sources else None,
            "report": _text(row, "report") if "report" in fields else None,
            "mask": _masks(rows, start, stop) if "mask" in fields else None,
            "boxes": _boxes(rows, start, stop, card, named) if "boxes" in fields else None,
            "reference_image": _others(rows, start, stop, wanted),
            "wants_report": prompts in REPORTED,
            "reason": f"evaluation: {prompts}",
        }
        for again in range(repeats):
            name = f"p{number:07d}" + (f"-{again}" if repeats > 1 else "")
            plan.append({"prompt_id": name, **line, "seed": derive_seed(seed, prompts, number, again)})
    made = pd.DataFrame(plan)
    return made.astype({c: "str" for c in made if c not in ("age", "seed", "wants_report")})


def female(frame: pd.DataFrame) -> np.ndarray:
    """1 for F, 0 for M, NaN where unknown (n,)."""
    return np.select([frame["sex"] == "F", frame["sex"] == "M"], [1.0, 0.0], np.nan)


def _text(row: pd.Series, name: str) -> str | None:
    value = row.get(name)
    return None if value is None or value != value or value == "" else str(value)


def _masks(rows: RealRows, start: int, stop: int) -> str | None:
    part = rows.manifest.take(np.arange(start, stop))
    part = part.take(part.frame["mask"].notna().to_numpy(bool))
    pairs = zip(part.frame["view"], part.paths("mask"), strict=True)
    files = {view: str(path) for view, path in pairs if read_mask_values(path).any()}
    return write_files(files) if files else None


def _others(rows: RealRows, start: int, stop: int, wanted: np.ndarray) -> str | None:
    """The views of a study that are not asked for, as a prompt shows them."""
    part = rows.manifest.take(np.arange(start, stop)[~wanted[start:stop]])
    if not len(part):
        return None
    return write_files({view: str(path) for view, path in zip(part.frame["view"], part.paths(), strict=True)})


def _boxes(rows: RealRows, start: int, stop: int, card: Card, named: dict[str, int]) -> str | None:
    """Boxes cut to the image, of findings that the prompt does not deny, in pixels of the core's output."""
    known = [i for i in range(start, stop) if rows.boxes[i] is not None]
    if not known:
        return None
    side, lines = card.resolution, []
    for i in known:
        for b in rows.boxes[i] or []:
            x, y = max(b.x, 0.0), max(b.y, 0.0)
            w, h = min(b.x + b.w, 1.0) - x, min(b.y + b.h, 1.0) - y
            if w > 0 and h > 0 and named.get(b.label) == 1:
                sides = {"x": x * side, "y": y * side, "w": w * side, "h": h * side}
                lines.append({"label": b.label, **sides, "view": str(rows.views[i])})
    return json.dumps(lines)
