"""From counts per kind to the rows of a plan: label sets, ages, views, sources, seeds and reasons."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxraug.balance.allocation import Demand, interleave
from cxraug.balance.census import Census
from cxraug.balance.kinds import Kinds, group_columns
from cxraug.balance.limits import VIEWS
from cxraug.errors import InputError

if TYPE_CHECKING:
    from cxraug.cores.core import Card

ENOUGH_DONORS = 10
LARGE = 512  # donors


def write_prompts(
    census: Census,
    kinds: Kinds,
    counts: np.ndarray,
    demands: Sequence[Demand],
    levels: Mapping[str, pd.Series],
    *,
    views: Sequence[str] | None,
    card: Card | None,
    rng: np.random.Generator,
    reports: bool = False,
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The plan's rows in their final order, and the group levels of each row.

    Sex, age and race come from a real study of the same label set and group levels, or of the same group levels alone
    where there are fewer than ``ENOUGH_DONORS``; views and source then come from a real study of the same label set.
    Donors take turns over the whole plan, the least used first, so that prompts repeat as little as they can.

    Parameters
    ----------
    counts : (S, K) studies per kind. demands : what they are for. views : of every study; None: the donor's.
    card : the core; what it does not take stays blank.
    reports : also give the report of the study that lends the views. No text is given twice: where a donor's report
        is used up, the prompt has none.
    """
    from cxraug.cores.core import PLAN_COLUMNS
    from cxraug.studies.labels import format_labels

    asked_views = askable_views(census, views, card)
    fixed = [c for c in ("source", "view", VIEWS) if c in group_columns(levels)]
    donors = Donors(census, kinds, asked_views.notna().to_numpy(), fixed, rng)
    kind = interleave(counts.ravel())
    labels, reasons = np.empty(len(kind), dtype=object), np.empty(len(kind), dtype=object)
    persons, styles = np.zeros(len(kind), dtype=np.int64), np.zeros(len(kind), dtype=np.int64)
    for k, here in pd.Series(kind).groupby(kind).indices.items():
        s, combo = divmod(int(k), len(kinds.combos))  # type: ignore[call-overload]
        present = kinds.sets[s]
        labels[here] = format_labels(dict.fromkeys(present, 1) if present else dict.fromkeys(census.findings, 0))
        reasons[here] = _reason([d.words for d in demands if d.missing > 0 and d.mask[s, combo]], demands)
        persons[here], styles[here] = donors.draw(s, combo, len(here))
    person, style = (census.frame.iloc[rows].reset_index(drop=True) for rows in (persons, styles))
    columns = {
        "prompt_id": [f"p{i:06d}" for i in range(len(kind))],
        "labels": labels,
        "views": asked_views.iloc[styles].to_numpy(dtype=object),
        "seed": rng.choice(2**31, size=len(kind), replace=False),
        "reason": reasons,
    }
    for name, donor in (("sex", person), ("age", person), ("race", person), ("source", style)):
        if name in donor.columns and (card is None or name in card.conditions):
            columns[name] = donor[name].where(donor[name] != "").to_numpy(dtype=object)
    if reports and (card is None or "report" in card.conditions):
        columns["report"] = _reports_once(style, kinds.set_of[styles], kind // len(kinds.combos))
    frame = pd.DataFrame(columns).reindex(columns=list(PLAN_COLUMNS))
    if card is not None:
        for name, taken in (("source", card.sources), ("race", card.races)):
            frame[name] = frame[name].where(frame[name].isin(taken))
    text = [c for c in PLAN_COLUMNS if c not in ("age", "seed")]
    types = {**dict.fromkeys(text, "str"), "age": "float64", "seed": "int64"}
    of_row = pd.DataFrame({g: level.iloc[persons].to_numpy() for g, level in levels.items()}, index=frame.index)
    return frame.astype(types), of_row


class Donors:
    """Real studies that lend what a label set and group levels leave open.

    ``able`` (n,) marks studies with a view that can be asked for; ``fixed`` are the columns among source and view that
    the groups fix.
    """

    def __init__(
        self, census: Census, kinds: Kinds, able: np.ndarray, fixed: Sequence[str], rng: np.random.Generator
    ) -> None:
        self.kinds, self.rng = kinds, rng
        self.used = {what: np.zeros(len(able), dtype=np.int64) for what in ("person", "style")}
        values = census.frame[list(fixed)].astype("str")
        alike = values.groupby(list(fixed), sort=False).ngroup().to_numpy() if fixed else np.zeros(len(able), np.int64)
        self.alike = alike[kinds.combos]
        # rows of able studies by what they share: (label set, combination), (label set, fixed), combination, fixed
        self.of_pair = _rows_by(able, kinds.set_of, kinds.combo_of)
        self.of_set = _rows_by(able, kinds.set_of, alike)
        self.of_combo, self.of_fixed = _rows_by(able, kinds.combo_of), _rows_by(able, alike)
        self.of_any = _rows_by(np.ones(len(able), dtype=bool), kinds.combo_of)

    def draw(self, s: int, combo: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows of ``count`` donors of sex, age and race, and of as many donors of views and source."""
        nobody = np.zeros(0, dtype=np.int64)
        both = self.of_pair.get((s, combo), nobody)
        if len(both) >= ENOUGH_DONORS:
            taken = self._turns(both, count, "person", "style")
            return taken, taken
        person = self.of_combo.get((combo,), nobody)
        person = person if len(person) else self.of_any[(combo,)]
        alike = int(self.alike[combo])
        style = self.of_set.get((s, alike), nobody)
        style = style if len(style) else self.of_fixed.get((alike,), nobody)
        if not len(style):
            raise InputError("no training study of a planned group level has a view that the core knows")
        return self._turns(person, count, "person"), self._turns(style, count, "style")

    def _turns(self, pool: np.ndarray, count: int, *lends: str) -> np.ndarray:
        """``count`` rows of ``pool``, those first that have lent least, by chance among equals.

        From a pool much larger than ``count`` the least used of a random part are taken: nearly the same, and quick.
        """
        if len(pool) > LARGE + 8 * count:
            pool = pool[np.unique(self.rng.integers(len(pool), size=LARGE // 8 + 4 * count))]
        rows = self.rng.permutation(pool)
        used = self.used[lends[0]][rows]
        order = np.argsort(used, kind="stable")
        # the k-th use of a donor comes when all others have been used k times
        uses = np.concatenate([used[order] + i for i in range(-(-count // len(rows)))])
        taken = np.tile(rows[order], -(-count // len(rows)))[np.argsort(uses, kind="stable")][:count]
        for what in lends:
            np.add.at(self.used[what], taken, 1)
        return taken


def _rows_by(able: np.ndarray, *keys: np.ndarray) -> dict[tuple[int, ...], np.ndarray]:
    """The able rows of every combination of ``keys`` (n,); a negative key is none."""
    rows = np.flatnonzero(able & np.all([key >= 0 for key in keys], axis=0))
    found = pd.DataFrame({i: key[rows] for i, key in enumerate(keys)}).groupby(list(range(len(keys))), sort=False)
    # pandas names a group by one key with the key itself
    named = ((key if isinstance(key, tuple) else (key,), rows[at]) for key, at in found.indices.items())
    return {tuple(int(part) for part in key): at for key, at in named}


def _reason(served: Sequence[str], demands: Sequence[Demand]) -> str:
    if served:
        return "raises " + ", ".join(served)
    if any(d.ratio for d in demands):
        return "keeps the wanted shares"
    return "companion without the wanted findings" if demands else "keeps the real proportions"


def _reports_once(style: pd.DataFrame, donor_set: np.ndarray, wanted_set: np.ndarray) -> np.ndarray:
    """The donors' reports, each text at its first use only, and only where the donor shows the label set asked for."""
    if "report" not in style.columns:
        return np.full(len(style), None, dtype=object)
    text = style["report"].where(style["report"].astype("str").str.strip() != "")
    usable = text.notna().to_numpy() & (donor_set == wanted_set)
    first = ~text.where(usable).duplicated().to_numpy()
    return text.where(usable & first).to_numpy(dtype=object)


def askable_views(census: Census, views: Sequence[str] | None, card: Card | None) -> pd.Series:
    """The views to ask for, per donor study; NaN where the core knows none of a donor's views."""
    if views is not None:
        return pd.Series("|".join(views), index=census.frame.index, dtype="str")
    real = census.frame["views"]
    if card is None:
        return real
    able = {v: "|".join(p for p in v.split("|") if p in card.views) for v in pd.unique(real.dropna())}
    asked = real.map(able)  # NaN stays NaN: views that went through here once before
    asked = asked.where(asked != "")
    if asked.isna().all():
        raise InputError(
            f"core {card.name} knows none of the views in the data",
            found=", ".join(sorted(able)),
            expected="one of " + ", ".join(card.views),
        )
    return asked
