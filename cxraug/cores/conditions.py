"""What studies are conditioned on, as a table, and its encoding as vectors in which any part may be unknown."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from cxraug.cores.core import LATERAL, Prompt
from cxraug.errors import InputError
from cxraug.studies.labels import NO_FINDING

if TYPE_CHECKING:
    from cxraug.studies.manifest import Manifest

AGE_CENTRE, AGE_SCALE, AGE_LIMIT = 50.0, 25.0, 100.0  # years; fixed, so that encodings of two cores agree

KINDS = ("findings", "demo", "views", "sources", "races")  # parts of the condition vector, in its order


@dataclass(frozen=True)
class Conditions:
    """One row per image. ``y`` (n, F) holds 1, 0 or NaN (unknown) for each of the F ``findings``.

    ``sex`` (n,) is "M", "F" or ""; ``age`` (n,) is in years or NaN; ``view`` (n,) is never blank; ``source`` (n,) is ""
    where unknown, and so is ``race`` (n,). "No Finding" is no finding of its own: it means that every finding is 0.
    """

    findings: tuple[str, ...]
    y: np.ndarray
    sex: np.ndarray
    age: np.ndarray
    view: np.ndarray
    source: np.ndarray
    race: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.view)
        if self.y.shape != (n, len(self.findings)) or {*map(len, (self.sex, self.age, self.source, self.race))} != {n}:
            raise ValueError(f"conditions of unequal length: y {self.y.shape}, view {n}")
        bad = sorted(set(self.sex.tolist()) - {"M", "F", ""})
        if bad:
            raise InputError("unknown sex", found=bad[0], expected="M, F or nothing")

    def __len__(self) -> int:
        return len(self.view)

    @classmethod
    def of(
        cls,
        findings: Sequence[str],
        y: np.ndarray,
        *,
        sex: Sequence[object] | None = None,
        age: Sequence[float] | np.ndarray | None = None,
        view: Sequence[object] | None = None,
        source: Sequence[object] | None = None,
        race: Sequence[object] | None = None,
    ) -> Conditions:
        """Build a table from columns; missing columns and blank, None or NaN entries are unknown (view: PA)."""
        n = len(y)
        keep = [i for i, name in enumerate(findings) if name != NO_FINDING]
        y = np.asarray(y, np.float32).reshape(n, len(findings))[:, keep]
        ages = np.full(n, np.nan) if age is None else np.array([np.nan if a is None else a for a in age], float)
        texts = [_text(column, n, default) for column, default in ((sex, ""), (view, "PA"), (source, ""), (race, ""))]
        return cls(tuple(findings[i] for i in keep), y, texts[0], ages, *texts[1:])

    @classmethod
    def from_manifest(cls, manifest: Manifest, findings: Sequence[str] | None = None) -> Conditions:
        """The conditions of every row of ``manifest`` for ``findings`` (default: all of the manifest's)."""
        names = [f for f in (findings or manifest.findings) if f != NO_FINDING]
        frame = manifest.frame
        return cls.of(
            names,
            manifest.y(names),
            sex=frame["sex"].tolist(),
            age=frame["age"].to_numpy(float),
            view=frame["view"].tolist(),
            source=frame["source"].tolist(),
            race=frame["race"].tolist() if "race" in frame else None,
        )

    @classmethod
    def from_prompts(cls, prompts: Sequence[Prompt], views: Sequence[str], findings: Sequence[str]) -> Conditions:
        """The conditions of ``prompts``, one view each; ``No Finding`` makes every unnamed finding absent."""
        y = np.full((len(prompts), len(findings)), np.nan, np.float32)
        for row, prompt in enumerate(prompts):
            if prompt.labels.get(NO_FINDING) == 1:
                y[row] = 0
            for column, name in enumerate(findings):
                if name in prompt.labels:
                    y[row, column] = prompt.labels[name]
        return cls.of(
            findings,
            y,
            sex=[p.sex for p in prompts],
            age=[np.nan if p.age is None else p.age for p in prompts],
            view=list(views),
            source=[p.source for p in prompts],
            race=[p.race for p in prompts],
        )

    def take(self, rows: np.ndarray) -> Conditions:
        """The rows of a boolean mask or of indices."""
        columns = (self.y, self.sex, self.age, self.view, self.source, self.race)
        return Conditions(self.findings, *(column[rows] for column in columns))

    def known(self) -> list[str]:
        """Names of the conditions (as in ``Prompt.asks_for``) that at least one row knows."""
        names = ["views"]
        names += ["findings"] if np.isfinite(self.y).any() else []
        names += ["sex"] if (self.sex != "").any() else []
        names += ["age"] if np.isfinite(self.age).any() else []
        names += ["source"] if (self.source != "").any() else []
        return names + (["race"] if (self.race != "").any() else [])

    def texts(self) -> list[list[str]]:
        """The columns of text, for a digest; ``race`` only where a row knows it."""
        columns = [self.sex, self.view, self.source, *([self.race] if (self.race != "").any() else [])]
        return [[str(text) for text in column] for column in columns]


@dataclass(frozen=True)
class Vocabulary:
    """The findings, views, sources and races a core knows, in the order of its condition vector.

    The vector has one entry per finding (+1 present, -1 absent), one for sex (+1 F, -1 M), two for age (linear and
    squared), one per view, per source and per race (0 or 1); beside it stands a mask of equal length that says which
    entries are known. Unknown entries are 0, so the vector of zeros knows nothing: the null of guidance.
    """

    findings: tuple[str, ...]
    views: tuple[str, ...]
    sources: tuple[str, ...] = ()
    races: tuple[str, ...] = ()

    @classmethod
    def of(cls, conditions: Conditions) -> Vocabulary:
        """Everything that occurs in ``conditions``."""
        sources, races = (tuple(sorted({s for s in c.tolist() if s})) for c in (conditions.source, conditions.race))
        return cls(conditions.findings, tuple(sorted(set(conditions.view.tolist()))), sources, races)

    def union(self, other: Vocabulary) -> Vocabulary:
        """This vocabulary with what only ``other`` knows appended to each part."""

        def join(a: tuple[str, ...], b: tuple[str, ...]) -> tuple[str, ...]:
            return a + tuple(name for name in b if name not in a)

        return Vocabulary(
            join(self.findings, other.findings), join(self.views, other.views), join(self.sources, other.sources),
            join(self.races, other.races),
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.findings) + 3 + len(self.views) + len(self.sources) + len(self.races)

    def groups(self) -> np.ndarray:
        """(D,) which entries are known or hidden together: each finding, sex, age, the view, source, race."""
        f, v, s, r = len(self.findings), len(self.views), len(self.sources), len(self.races)
        return np.array([*range(f), f, f + 1, f + 1, *[f + 2] * v, *[f + 3] * s, *[f + 3 + (s > 0)] * r])

    def positions(self, larger: Vocabulary) -> np.ndarray:
        """(D,) where each entry of this vocabulary stands in the vector of ``larger``, which contains it."""
        names = [(kind, name) for kind in KINDS for name in larger._part(kind)]
        mine = [(kind, name) for kind in KINDS for name in self._part(kind)]
        return np.array([names.index(name) for name in mine], int)

    def _part(self, kind: str) -> tuple[str, ...]:
        return ("sex", "age", "age2") if kind == "demo" else getattr(self, kind)

    def encode(self, conditions: Conditions) -> tuple[np.ndarray, np.ndarray]:
        """Encode ``conditions`` as values and known mask, both (n, D) float32.

        Raises
        ------
        InputError
            A view, source or race that is not in the vocabulary. Findings of the vocabulary that ``conditions`` lacks
            are unknown; further findings of ``conditions`` are left out.
        """
        n, f, v = len(conditions), len(self.findings), len(self.views)
        values = np.zeros((n, len(self)), np.float32)
        known = np.zeros((n, len(self)), np.float32)
        for at, name in enumerate(self.findings):
            if name in conditions.findings:
                y = conditions.y[:, conditions.findings.index(name)]
                known[:, at] = np.isfinite(y)
                values[:, at] = np.where(np.isfinite(y), 2 * y - 1, 0)
        known[:, f] = conditions.sex != ""
        values[:, f] = (conditions.sex == "F").astype(np.float32) - (conditions.sex == "M")
        age = (np.clip(conditions.age, 0, AGE_LIMIT) - AGE_CENTRE) / AGE_SCALE
        known[:, f + 1 : f + 3] = np.isfinite(age)[:, None]
        values[:, f + 1 : f + 3] = np.nan_to_num(np.stack([age, age**2 - 1], 1))
        for what, names, column, start in (
            ("view", self.views, conditions.view, f + 3),
            ("source", self.sources, conditions.source, f + 3 + v),
            ("race", self.races, conditions.race, f + 3 + v + len(self.sources)),
        ):
            strange = sorted(set(column.tolist()) - set(names) - {""})
            if strange:
                raise InputError(f"unknown {what}", found=strange[0], expected=f"one of {', '.join(names) or 'none'}")
            for at, name in enumerate(names, start):
                values[:, at] = column == name
            known[:, start : start + len(names)] = (column != "")[:, None]
        return values, known


def projection(views: np.ndarray) -> np.ndarray:
    """(n,) 1 for lateral views, 0 for all others: the two directions of projection share no covariance."""
    return (np.asarray(views) == LATERAL).astype(np.int64)


def _text(column: Sequence[object] | None, n: int, default: str) -> np.ndarray:
    if column is None:
        return np.full(n, default, dtype=object)
    return np.array([default if v is None or v != v or v == "" else str(v) for v in column], dtype=object)
