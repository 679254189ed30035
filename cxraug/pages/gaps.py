"""The gaps that are shown, in plain words, and what the audit could have missed.

A gap is *shown* where its adjusted p value is at most alpha and neither side is flagged ``few``; with few cases it is a
*hint*: small cells reject too often. That is no certainty, and *not shown* is not *absent*: how large a gap could have
been missed stands beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pandas as pd

from cxraug.evaluation.assembly import REST
from cxraug.evaluation.groups import MISSING
from cxraug.evaluation.metrics import NO_FINDING
from cxraug.pages.page import number
from cxraug.pages.runfolder import RunFolder, whole
from cxraug.pages.verdict import higher_is_better, label, p_text

RATES = ("tpr", "fpr", "fnr", "underdiagnosis", "overdiagnosis")
# What a gap of a metric says, and of whom its values are shares
PHRASES = {
    "auroc": ("{finding} is told from its absence {how} in {who}", ""),
    "tpr": ("{finding} is found {often} in {who}", " of the cases are called"),
    "fnr": ("{finding} is missed {often} in {who}", " of the cases"),
    "fpr": ("{finding} is called wrongly {often} in {who}", " of those without it"),
    "underdiagnosis": ("Sick people are called healthy {often} among {who}", " of them"),
    "overdiagnosis": ("Healthy people are called sick {often} among {who}", " of them"),
}
Row = Mapping[Any, Any]


@dataclass(frozen=True)
class ShownGap:
    """A place where a gap is shown: its raw and its matched row (either may be None) and the level's value.

    ``unmatched``: matching was tried, but too few have a counterpart.
    """

    raw: Row | None
    matched: Row | None
    value: float | None
    alpha: float
    unmatched: bool = False

    @property
    def row(self) -> Row:
        """The row that shows it, or hints at it: of two that do the same, the raw one."""
        both = [row for row in (self.raw, self.matched) if row is not None and _small_p(row, self.alpha)]
        return next((row for row in both if is_shown(row, self.alpha)), both[0])

    @property
    def hint(self) -> bool:
        """It rests on few cases."""
        return bool(self.row["flag"] == "few")

    @property
    def worse(self) -> bool:
        """The level is worse off than its reference."""
        return is_worse(self.row)


def is_worse(row: Row) -> bool:
    """Whether a gap is to the level's disadvantage."""
    return bool(row["gap"] < 0 if higher_is_better(str(row["metric"])) else row["gap"] > 0)


def is_shown(row: Row, alpha: float) -> bool:
    """Whether a gap is shown: its adjusted p is small, and neither side has few cases."""
    return _small_p(row, alpha) and row["flag"] == ""


def alpha_of(run: RunFolder) -> float:
    """The two-sided level of the evaluation."""
    return float((run.evaluation.get("settings") or {}).get("alpha", 0.05))


def distinct_gaps(gaps: pd.DataFrame) -> pd.DataFrame:
    """Gaps over all runs, shown or suppressed, each difference once.

    Left out are what says the same in other words: FNR beside TPR, FPR and FNR of "No Finding" beside under- and
    overdiagnosis, the levels whose group is not known, and of two mirror images (both levels of a grouping of two,
    each against the rest) the better one.
    """
    if gaps.empty:
        return gaps
    rows = whole(gaps)
    metrics = set(rows["metric"])
    drop = pd.Series(False, index=rows.index)
    if "tpr" in metrics:
        drop |= rows["metric"] == "fnr"
    for derived, plain in (("underdiagnosis", ["fpr"]), ("overdiagnosis", ["fnr", "tpr"])):
        if derived in metrics:
            drop |= (rows["finding"] == NO_FINDING) & rows["metric"].isin(plain)
    drop |= rows["level"].map(unknown)
    n_levels = rows.groupby("group")["level"].nunique()
    mirrored = (rows["group"].map(n_levels) == 2) & (rows["reference"] == REST)
    place = ["arm", "finding", "group", "metric", "matched"]
    suppressed = rows["flag"] == "suppressed"
    higher = rows["metric"].map({metric: higher_is_better(metric) for metric in metrics}).astype(bool)
    better = ~((rows["gap"] < 0) & higher | (rows["gap"] > 0) & ~higher)
    drop |= mirrored & ((better & ~suppressed) | (suppressed & rows.duplicated(place)))
    return rows[~drop]


def shown_gaps(run: RunFolder) -> list[ShownGap]:
    """Every shown gap and hint, once, raw beside matched; to a disadvantage first, then of many cases, raw, small p."""
    rows, alpha = distinct_gaps(run.gaps), alpha_of(run)
    if rows.empty:
        return []
    every = whole(run.gaps)
    keys = ["arm", "finding", "group", "level", "reference", "metric"]
    by_kind: dict[bool, dict[tuple, dict]] = {True: {}, False: {}}
    for row in every[every["flag"] != "suppressed"].to_dict("records"):
        by_kind[row["matched"] == ""][tuple(row[key] for key in keys)] = row
    lost = every[(every["flag"] == "suppressed") & (every["matched"] != "")]
    unmatched = set(lost[keys].itertuples(index=False, name=None))
    values = _values(run)
    found = {}
    for row in rows[(rows["flag"] != "suppressed") & (rows["p_adjusted"] <= alpha)].to_dict("records"):
        key = tuple(row[k] for k in keys)
        raw, matched = by_kind[True].get(key), by_kind[False].get(key)
        found[key] = ShownGap(raw, matched, values.get(_place(row)), alpha, key in unmatched)
    return sorted(found.values(), key=_rank)


def sentence(gap: ShownGap) -> str:
    """One gap in plain words, with its simultaneous interval, p value and what matching says."""
    row = gap.row
    metric, finding = str(row["metric"]), str(row["finding"])
    who, rest = people(str(row["group"]), str(row["level"])), reference_text(row)
    words = {
        "finding": finding, "who": who, "how": "less well" if row["gap"] < 0 else "better",
        "often": "more often" if row["gap"] > 0 else "less often",
    }  # fmt: skip
    if metric in PHRASES:
        start, of_whom = PHRASES[metric]
        if metric == "auroc" and finding == NO_FINDING:
            start = "Sick people are told from healthy ones {how} among {who}"
        text = start.format(**words)
        if row["matched"] == "" and gap.value is not None:
            spec = ".1%" if metric in RATES else ".3f"
            value, other = number(gap.value, spec), number(gap.value - float(row["gap"]), spec)
            text += f": {'AUROC ' if metric == 'auroc' else ''}{value}{of_whom}, against {other} in {rest}"
        else:
            text += f" than in {rest}{_mix(row)}"
    else:
        how, judged = "higher" if row["gap"] > 0 else "lower", "worse" if gap.worse else "better"
        text = f"{label(metric)} of {finding} is {how} ({judged}) in {who} than in {rest}{_mix(row)}"
    tail = f". Gap {gap_text(row)}, adjusted p {p_text(row['p_adjusted'])}."
    if gap.hint:
        tail += " Few cases: a hint."
    return text + tail + _after_matching(gap)


def short(gap: ShownGap) -> str:
    """``Consolidation TPR in female patients aged 40-59: -28.7 points [...]``."""
    row = gap.row
    who = people(str(row["group"]), str(row["level"]))
    return f"{row['finding']} {label(str(row['metric']))} in {who}{_mix(row)}, {gap_text(row)}"


def gap_text(row: Row) -> str:
    """A gap with its simultaneous interval, rates in percentage points."""
    metric = str(row["metric"])
    scale, spec, unit = (100, "+.1f", " points") if metric in RATES else (1, "+.3f", "")
    if metric == "brier":
        spec = "+.4f"
    value, low, high = (number(scale * float(row[key]), spec) for key in ("gap", "ci_low", "ci_high"))
    return f"{value}{unit} [{low}, {high}]"


def people(group: str, level: str) -> str:
    """The people of a group level: ``female patients aged 40-59``, ``patients with race Asian``."""
    if group == "all":
        return "all patients"
    names, parts = [name.strip() for name in group.split("*")], level.split("*")
    if len(names) != len(parts):  # a level whose own name has an asterisk
        return f"patients with {group} {level}"
    before, after = "", []
    for name, part in zip(names, parts, strict=True):
        if part == MISSING:
            after.append(f"of unknown {name}")
        elif name == "sex" and part in ("F", "M"):
            before = "female " if part == "F" else "male "
        elif name == "age":
            after.append(f"aged {part[:-1]} or more" if part.endswith("+") else f"aged {part}")
        else:
            after.append(f"with {name} {part}")
    return " ".join([f"{before}patients", *after])


def reference_text(row: Row) -> str:
    """What a gap is measured against."""
    return "the rest" if row["reference"] == REST else people(str(row["group"]), str(row["reference"]))


def unknown(level: str) -> bool:
    """Rows whose group is not known."""
    return MISSING in str(level).split("*")


def missed(run: RunFolder, metrics: tuple[str, ...] = ("auroc", "tpr", "fpr", "underdiagnosis")) -> pd.DataFrame:
    """Per grouping and metric: how many raw gaps could be judged, how many were suppressed, what went unseen.

    Returns
    -------
    ``group, metric, shown, suppressed, mdg, most``: the median and the largest of the smallest detectable gaps.
    """
    rows = distinct_gaps(run.gaps)
    columns = ["group", "metric", "shown", "suppressed", "mdg", "most"]
    if rows.empty:
        return pd.DataFrame(columns=columns)
    rows = rows[(rows["matched"] == "") & rows["metric"].isin(metrics)]
    found = []
    for (group, metric), part in rows.groupby(["group", "metric"], sort=False):
        mdg = part.loc[part["flag"] != "suppressed", "mdg"]
        found.append((group, metric, len(mdg), len(part) - len(mdg), mdg.median(), mdg.max()))
    return pd.DataFrame(found, columns=columns)


def suppressed_places(run: RunFolder, metric: str = "auroc") -> list[tuple[str, str, list[str]]]:
    """(group, level, findings) in which ``metric`` is suppressed, so that nobody knows."""
    if run.cells.empty:
        return []
    rows = whole(run.cells)
    rows = rows[(rows["metric"] == metric) & (rows["flag"] == "suppressed") & (rows["group"] != "all")]
    return [
        (str(group), str(level), list(dict.fromkeys(part["finding"])))
        for (group, level), part in rows.groupby(["group", "level"], sort=False)
    ]


def _rank(gap: ShownGap) -> tuple:
    return not gap.worse, gap.hint, gap.row["matched"] != "", gap.row["p_adjusted"]


def _small_p(row: Row, alpha: float) -> bool:
    return bool(row["p_adjusted"] <= alpha)


def _mix(row: Row) -> str:
    if row["matched"] == "population":
        return " at the same mix of the other covariates"
    return " at the same share of positives" if row["matched"] == "prevalence" else ""


def _after_matching(gap: ShownGap) -> str:
    """Whether a raw gap stands at the same mix of covariates, or a matched one was there before."""
    if gap.row["matched"] == "":
        if gap.matched is None:
            return " Too few have a counterpart at the same mix of the other covariates." if gap.unmatched else ""
        held = "it stands" if _small_p(gap.matched, gap.alpha) else "it is no longer shown"
        return f" At the same mix of the other covariates {held}: {gap_text(gap.matched)}."
    if gap.raw is not None:
        return f" Without matching it is not shown: {gap_text(gap.raw)}."
    return ""


def _place(row: Row) -> tuple:
    return tuple(row[key] for key in ("arm", "finding", "group", "level", "metric"))


def _values(run: RunFolder) -> dict[tuple, float]:
    if run.cells.empty:
        return {}
    rows = whole(run.cells)
    return {_place(row): float(row["value"]) for row in rows[rows["flag"] != "suppressed"].to_dict("records")}
