"""Kinds of study that can be planned: label sets that occur, times the levels of the groups that occur."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from cxraug.balance.census import NO_FINDING, Census, pair_codes
from cxraug.evaluation.groups import MISSING


@dataclass(frozen=True)
class Kinds:
    """What can be planned.

    Attributes
    ----------
    sets : label sets, each a tuple of present findings, the most frequent first; ``()`` is every finding absent.
    set_of : (n,) index into ``sets`` of every study of the census, -1 where its set cannot be planned.
    combos : (K,) for each combination of group levels, the row of a study that has it.
    combo_of : (n,) index into ``combos`` of every study, -1 where a level is missing.
    allowed : (S, K) bool; False where the source of the combination does not annotate a finding of the label set.
    """

    sets: list[tuple[str, ...]]
    set_of: np.ndarray
    combos: np.ndarray
    combo_of: np.ndarray
    allowed: np.ndarray

    def joint(self) -> np.ndarray:
        """(S, K) studies of each label set in each combination."""
        counts = np.zeros((len(self.sets), len(self.combos)), dtype=np.int64)
        both = (self.set_of >= 0) & (self.combo_of >= 0)
        np.add.at(counts, (self.set_of[both], self.combo_of[both]), 1)
        return counts

    def familiarity(self) -> np.ndarray:
        """(S, K) positive: half the joint count, half what independence of set and combination would give."""
        joint = self.joint()
        in_set = np.bincount(self.set_of[self.set_of >= 0], minlength=len(self.sets))
        in_combo = np.bincount(self.combo_of[self.combo_of >= 0], minlength=len(self.combos))
        expected = np.outer(in_set, in_combo) / max(in_combo.sum(), 1)
        return np.maximum(0.5 * joint + 0.5 * expected, 1e-3)


def list_kinds(
    census: Census, levels: Mapping[str, pd.Series], *, known: Collection[str] | None, min_label_set: int
) -> tuple[Kinds, list[str]]:
    """List the kinds of study that occur in ``census``.

    Parameters
    ----------
    levels : group -> level of every study.
    known : findings that the core can show; label sets with another finding are left out. None: all.
    min_label_set : label sets of fewer patients are left out, unless a finding occurs in no larger one; then its most
        frequent set stays.

    Returns
    -------
    kinds, and notes in plain words about what was left out.
    """
    names = census.label_sets()
    pairs = zip(census.frame["patient_id"], names, strict=True)
    counted = Counter(name for _, name in dict.fromkeys(pairs) if name is not None)
    # the empty set is asked for by naming every finding as absent, so the core must know them all
    named = {s: s or census.findings for s in counted}
    able = {s: n for s, n in counted.items() if known is None or all(f in known or f == NO_FINDING for f in named[s])}
    keep = {s for s, n in able.items() if n >= min_label_set}
    covered = {f for s in keep for f in s}
    for finding in census.findings:
        candidates = [s for s in able if finding in s and finding not in covered]
        if candidates:
            keep.add(max(candidates, key=lambda s: (able[s], -len(s), s)))
    notes = []
    if len(able) < len(counted):
        notes.append(f"{len(counted) - len(able)} label sets with findings that the core does not know are left out")
    sets = sorted(keep, key=lambda s: (-able[s], s))
    index = {s: i for i, s in enumerate(sets)}
    set_of = np.array([index.get(name, -1) if name is not None else -1 for name in names], dtype=np.int64)
    combos, combo_of = _combine(census, list(levels.values()))
    allowed = _allowed(census, sets, combos, by_source="source" in group_columns(levels))
    return Kinds(sets, set_of, combos, combo_of, allowed), notes


def group_columns(levels: Iterable[str]) -> set[str]:
    """The columns that the groups in ``levels`` are made of."""
    return {part.strip() for group in levels for part in group.split("*")}


def _allowed(census: Census, sets: Sequence[tuple[str, ...]], combos: np.ndarray, *, by_source: bool) -> np.ndarray:
    allowed = np.ones((len(sets), len(combos)), dtype=bool)
    if by_source:
        for k, source in enumerate(census.frame["source"].iloc[combos]):
            annotated = set(census.annotated.get(source, census.findings))
            allowed[:, k] = [annotated.issuperset(s or census.findings) for s in sets]
    return allowed


def _combine(census: Census, levels: Sequence[pd.Series]) -> tuple[np.ndarray, np.ndarray]:
    code = pd.Series(np.zeros(len(census), dtype=np.int64))
    missing = np.zeros(len(census), dtype=bool)
    for level in levels:
        missing |= np.array([MISSING in text.split("*") for text in level], dtype=bool)
        code = pd.Series(pair_codes(code, level.reset_index(drop=True)))
    combo_of, _ = pd.factorize(code.where(~missing), use_na_sentinel=True)
    first = np.flatnonzero(~pd.Series(combo_of).duplicated().to_numpy() & (combo_of >= 0))
    return first, combo_of.astype(np.int64)
