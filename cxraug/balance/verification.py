"""Does a plan keep what was asked of it? Counted anew from the rows of plan and manifest.

This shares no code with the programme, nor with the census and the kinds that it rests on: label sets, levels and
shares are counted with plain pandas, so that a mistake there shows here.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from cxraug.balance.settings import PlanSettings

if TYPE_CHECKING:
    from cxraug.cores.core import Card
    from cxraug.studies.manifest import Manifest

COLUMNS = ("limit", "checked", "tightest", "allowed", "found", "holds")
PERSON = ("sex", "age", "race", "source")
VIEW_ORDER = ("PA", "AP", "AP Supine", "Lateral", "unknown")


def verify_plan(
    plan: pd.DataFrame,
    train: Manifest,
    settings: PlanSettings,
    *,
    findings: Sequence[str],
    groups: Sequence[str],
    age_bins: Sequence[float],
    card: Card | None = None,
    n: int | None = None,
) -> pd.DataFrame:
    """Check every limit of ``settings`` on the rows of a plan.

    Parameters
    ----------
    plan : rows of ``plan.parquet``. train : the training rows, earlier synthetic ones with ``synthetic`` true.
    findings, groups, age_bins : of the plan. card : the core. n : so many studies at most, in place of the budget.

    Returns
    -------
    One row per limit: ``limit, checked`` (how many cells, prompts or rows), ``tightest`` (the one nearest to its limit
    or beyond it), ``allowed, found`` (there) and ``holds``.
    """
    studies = _studies(train, list(findings))
    made = studies[studies["synthetic"]]
    real = studies[~studies["synthetic"]]
    sets = [frozenset(f for f in str(text).split("|") if not f.startswith("-")) for text in plan["labels"]]
    plan = plan.assign(_set=pd.Series(sets, index=plan.index, dtype=object))
    for group in groups:
        for frame in (plan, real, made):
            frame[f"_at {group}"] = _levels(frame, group, age_bins) if group in ("sex", "age") or len(frame) else ""
    budget = settings.budget if n is None else n
    rows = [_row("rows with an id and a seed of their own", len(plan), _repeated(plan))]
    if budget is not None:
        rows.append(_row("budget", 1, [("the plan", budget, len(plan))]))
    rows.append(_row(f"label sets seen in {settings.min_label_set} patients", plan["_set"].nunique(),
                     _unseen(plan, real, settings, card), least=True))  # fmt: skip
    if settings.per_prompt is not None:
        keys = ["_set", *(f"_at {g}" for g in groups), *(["views"] if settings.views_as_real is not None else [])]
        uses = plan.groupby(keys, sort=False).size()
        rows.append(_row("cap per prompt", len(uses), ((_name(k), settings.per_prompt, v) for k, v in uses.items())))
    if settings.per_real is not None:
        found = list(_per_real(plan, real, made, settings.per_real, findings, groups))
        rows.append(_row("synthetic per real", len(found), found))
    if settings.views_as_real is not None:
        found = list(_views(plan, real, settings.views_as_real, groups, card))
        rows.append(_row("views in proportion", len(found), found))
    if settings.views is not None:
        other = (plan["views"] != "|".join(settings.views)).sum()
        rows.append(_row("views as fixed", len(plan), [("other views", 0, other)]))
    if card is not None:
        rows.append(_row(f"conditions that {card.name} takes", len(plan), list(_refused(plan, card))))
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _row(limit: str, checked: int, found: Iterable[tuple[str, float, float]], *, least: bool = False) -> tuple:
    """The tightest of (name, allowed, found): the one with the least room; ``least``: at least so many are allowed."""
    every, sign = list(found) or [("", math.nan, math.nan)], -1 if least else 1
    name, allowed, value = min(every, key=lambda each: sign * (each[1] - each[2]) if each[1] == each[1] else math.inf)
    return limit, checked, name, allowed, value, not sign * (value - allowed) > 1e-9


def _repeated(plan: pd.DataFrame) -> list[tuple[str, float, float]]:
    return [(name, 0, int(plan[name].duplicated().sum())) for name in ("prompt_id", "seed")]


def _studies(train: Manifest, findings: list[str]) -> pd.DataFrame:
    """One row per study: present findings, whether all labels are known, and the first image's attributes."""
    frame, y = train.frame.reset_index(drop=True), train.y(findings)
    present = [frozenset(f for f, on in zip(findings, row, strict=True) if on) for row in y == 1]
    known = frame["labels"].notna().to_numpy(copy=True)
    for source in frame["source"].unique():
        asked = [f in train.annotated.get(source, train.findings) for f in findings]
        known &= ~((frame["source"] == source).to_numpy() & np.isnan(y[:, asked]).any(axis=1))
    synthetic = frame["synthetic"].fillna(False).astype(bool) if "synthetic" in frame else False
    frame = frame.assign(_known=known, _set=pd.Series(present, dtype=object), synthetic=synthetic)
    first = ~frame.duplicated(["patient_id", "study_id"])
    if not first.all():
        keys = frame.groupby(["patient_id", "study_id"], sort=False)
        frame["_set"] = keys["_set"].transform(lambda sets: [frozenset().union(*sets)] * len(sets))
        frame["_known"] = keys["_known"].transform("all")
        frame["views"] = keys["view"].transform(lambda views: _joined(set(views)))
    else:
        frame["views"] = frame["view"]
    return frame[first].reset_index(drop=True)


def _joined(views: set[str]) -> str:
    order = {view: i for i, view in enumerate(VIEW_ORDER)}
    return "|".join(sorted(views, key=lambda view: (order.get(view, len(order)), view)))


def _levels(frame: pd.DataFrame, group: str, age_bins: Sequence[float]) -> pd.Series:
    """Level names as the tables have them, counted with ``pandas.cut``; NaN where a part is missing."""
    whole = None
    for part in (part.strip() for part in group.split("*")):
        values = frame[part]
        if part == "age":
            tops = [*(f"{b - 1:g}" for b in age_bins[1:]), None]
            names = [f"{b:g}+" if top is None else f"{b:g}-{top}" for b, top in zip(age_bins, tops, strict=True)]
            edges = [-np.inf, *age_bins, np.inf] if min(age_bins) > 0 else [*age_bins, np.inf]
            names = [f"<{age_bins[0]:g}", *names] if min(age_bins) > 0 else names
            values = pd.cut(values.astype(float), edges, right=False, labels=names)
        values = values.astype("object").where(values.notna() & (values.astype("object") != ""), None)
        whole = values if whole is None else whole.combine(values, lambda a, b: f"{a}*{b}" if a and b else None)
    assert whole is not None
    return whole


def _unseen(
    plan: pd.DataFrame, real: pd.DataFrame, settings: PlanSettings, card: Card | None
) -> Iterable[tuple[str, float, float]]:
    """In how many patients each label set was seen; one will do where one of its findings is in no set of as many."""
    complete = real[real["_known"]]
    patients = complete.groupby("_set")["patient_id"].nunique()
    able = [s for s in patients.index if card is None or all(f in (*card.findings, "No Finding") for f in s)]
    covered = {f for s in able if patients[s] >= settings.min_label_set for f in s}
    for wanted in dict.fromkeys(plan["_set"]):
        seen = int(patients.get(wanted, 0))
        excused = seen > 0 and any(f not in covered for f in wanted)
        least = 1 if excused else settings.min_label_set
        only = " (no larger set shows one of these)" if excused and seen < settings.min_label_set else ""
        yield "|".join(sorted(wanted)) + only, least, seen


def _per_real(
    plan: pd.DataFrame, real: pd.DataFrame, made: pd.DataFrame, most: float, findings: Sequence[str],
    groups: Sequence[str],
) -> Iterable[tuple[str, float, float]]:  # fmt: skip
    for group in (None, *groups):
        levels = [None] if group is None else real[f"_at {group}"].dropna().unique()
        for level in levels:
            parts = [f if group is None else f[f[f"_at {group}"] == level] for f in (plan, real, made)]
            where = "" if group is None else f" in {group} {level}"
            for finding in findings:
                new, there, before = (int(sum(finding in s for s in part["_set"])) for part in parts)
                yield f"{finding}{where}", max(math.floor(most * there + 1e-9), before), new + before
            yield (
                f"any study{where}",
                max(math.floor(most * len(parts[1]) + 1e-9), len(parts[2])),
                sum(len(part) for part in (parts[0], parts[2])),
            )


def _views(
    plan: pd.DataFrame, real: pd.DataFrame, tolerance: float, groups: Sequence[str], card: Card | None
) -> Iterable[tuple[str, float, float]]:
    """Per level and view: how far its count is from the real share of the planned studies there; one is rounding."""
    views = real["views"]
    if card is not None:
        views = views.map(lambda text: "|".join(v for v in text.split("|") if v in card.views))
    usable = real[[f"_at {g}" for g in groups]].notna().all(axis=1) & (views != "")
    for group in (None, *groups):
        levels = [None] if group is None else real[f"_at {group}"].dropna().unique()
        for level in levels:
            here = usable if group is None else usable & (real[f"_at {group}"] == level)
            asked = plan if group is None else plan[plan[f"_at {group}"] == level]
            for view, share in views[here].value_counts(normalize=True).items():
                off = abs((asked["views"] == view).sum() - share * len(asked))
                yield _name((group or "all", level or "", view)), tolerance * len(asked) + 1, off


def _refused(plan: pd.DataFrame, card: Card) -> Iterable[tuple[str, float, float]]:
    named = {f for s in plan["_set"] for f in s} - {"No Finding", ""}
    yield "findings it does not know", 0, len(named - set(card.findings))
    views = {v for text in plan["views"].dropna() for v in str(text).split("|")}
    yield "views it does not know", 0, len(views - set(card.views))
    for name in (*PERSON, "report"):
        if name not in card.conditions:
            yield f"{name}, which it does not take", 0, int(plan[name].notna().sum())
    for name, known in (("source", card.sources), ("race", card.races)):
        given = plan[name].dropna()
        yield f"{name} it does not know", 0, int((~given.isin([*known, ""])).sum())


def _name(key: object) -> str:
    parts = key if isinstance(key, tuple) else (key,)
    return " ".join("|".join(sorted(p)) if isinstance(p, frozenset) else str(p) for p in parts if p is not None).strip()
