"""The primary endpoint of an experiment and the verdict about it, in one sentence."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
from pydantic import BaseModel, ConfigDict, Field, field_validator

from cxraug.errors import InputError
from cxraug.evaluation.metrics import METRICS
from cxraug.evaluation.room import Room

CONTROLS = {
    "real": "the step-matched control (real)",
    "duplicated": "the count-matched control (duplicated)",
    "oversampled": "the oversampling control (oversampled)",
    "weighted": "the weighted-loss control (weighted)",
    "augmented": "the stronger-augmentation control (augmented)",
    "gaussian": "the Gaussian-core control (gaussian)",
    "outside": "the control with the same outside data (outside)",
    "real_pretrained": "the pretraining control (real_pretrained)",
    "ungated": "the same core without its gate (ungated)",
    "random_reject": "as many studies rejected at random (random_reject)",
}


class Endpoint(BaseModel):
    """One comparison, named in advance: ``arm`` against ``control`` for one finding, metric and group level.

    ``margin`` (metric units, > 0): also say whether the arm is non-inferior, i.e. worse by less than the margin.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    arm: str
    control: str
    finding: str
    metric: str = "auroc"
    group: str = "all"
    level: str = "all"
    margin: float | None = Field(default=None, gt=0)

    @field_validator("metric")
    @classmethod
    def _known(cls, value: str) -> str:
        if value not in METRICS:
            raise ValueError(f"unknown metric {value!r}; one of {', '.join(METRICS)}")
        return value


def verdict(
    evaluation: Any,
    endpoint: Endpoint,
    *,
    room: Room | None = None,
    outside: bool = False,
    notes: list[str] | None = None,
) -> dict[str, Any]:
    """What the experiment says about ``endpoint``.

    Parameters
    ----------
    evaluation : has ``comparison`` (the contract's columns) with a row of family ``primary``, ``cells`` and ``info``.
    room : how much the learning curve leaves to gain; None where it was not measured.
    outside : the core or initial weights were trained on other data ("with outside data").
    notes : caveats to keep beside the sentence.

    Returns
    -------
    dict with ``sentence, difference, ci_low, ci_high, p_value, mde, room, n_draws, n_seeds, outcome``, the fields of
    ``endpoint``, ``n_patients``, ``few``, ``outside`` and ``notes``; with a measured room ``room_low, room_high,
    room_ceiling, room_control``. ``most`` is what separates the control from a perfect value: no room can exceed it.
    ``outcome`` is

    - ``worse``: the interval excludes 0 on the bad side;
    - ``inconclusive``: the smallest detectable effect exceeds the room (unmeasured: ``most``), or the cell is too small
      to be shown;
    - ``better``: the interval excludes 0 on the good side;
    - ``no effect seen``: neither, although an effect as large as the room would have been seen (or no room is known).
    """
    metric = METRICS[endpoint.metric]
    row = _row(evaluation.comparison, endpoint)
    alpha = float(evaluation.info.get("settings", {}).get("alpha", 0.05))
    where = "" if endpoint.group == "all" else f" in {endpoint.group} {endpoint.level}"
    what = f"{endpoint.finding} {metric.label}{where}"
    against = f"against {CONTROLS.get(endpoint.control, f'the control {endpoint.control!r}')}"
    result: dict[str, Any] = {**endpoint.model_dump(), "outside": outside, "notes": list(notes or [])}
    result |= {"room": None if room is None else room.value, "most": _most(evaluation.cells, endpoint)}
    if room is not None:
        result |= {"room_low": room.ci_low, "room_high": room.ci_high}
        result |= {"room_ceiling": room.ceiling, "room_control": room.control}
    result["few"] = row["flag"] == "few"
    for key in ("difference", "ci_low", "ci_high", "p_value", "mde"):
        result[key] = None if pd.isna(row[key]) else float(row[key])
    for key in ("n_draws", "n_seeds", "n_patients"):
        result[key] = int(row[key])
    clauses = [_design(result["n_draws"], result["n_seeds"])]
    if outside:
        clauses.append("with outside data")
    if row["flag"] == "suppressed":
        result["outcome"] = "inconclusive"
        result["sentence"] = f"{what} {against}: inconclusive, the test set holds too few of them to be shown"
        return result
    if row["flag"] == "few":
        clauses.append("few test cases")
    difference, low, high, mde = (result[key] for key in ("difference", "ci_low", "ci_high", "mde"))
    good = difference if metric.higher_is_better else -difference
    significant = result["p_value"] < alpha
    text = f"{what} {difference:+.3f} [{low:.3f}, {high:.3f}] {against}, {', '.join(clauses)}"
    result["outcome"], say = _conclude(significant, good, mde, room, result["most"])
    if endpoint.margin is not None:
        worst = low if metric.higher_is_better else -high
        shown = "non-inferior" if worst > -endpoint.margin else "non-inferiority not shown"
        say += f"; {shown} at the margin {endpoint.margin:g}"
    result["sentence"] = f"{text}: {say}"
    return result


def _conclude(significant: bool, good: float, mde: float, room: Room | None, most: float | None) -> tuple[str, str]:
    """The outcome and what is said of it; ``good`` is the difference with a gain above 0."""
    if significant and good < 0:
        return "worse", "worse"
    if room is not None and mde > room.value:
        say = f"inconclusive: the smallest detectable effect {mde:.3f} exceeds the room of {_room(room)}"
        if room.value <= 0:
            say = f"inconclusive: the learning curve leaves no room for any gain ({_room(room)})"
        return "inconclusive", say + ("; an interval without 0 then overstates the effect" if significant else "")
    if significant:
        return "better", "better"
    if most is not None and mde > most:
        beyond = f"all that separates the control from a perfect value, {most:.3f}"
        return "inconclusive", f"inconclusive: the smallest detectable effect {mde:.3f} exceeds {beyond}"
    known = f" of a room of {_room(room)}" if room is not None else " (room not measured)"
    return "no effect seen", f"no effect seen, the smallest detectable effect is {mde:.3f}{known}"


def _room(room: Room) -> str:
    return f"{room.value:.3f} [{room.ci_low:.3f}, {room.ci_high:.3f}]"


def _most(cells: pd.DataFrame, endpoint: Endpoint) -> float | None:
    """What separates the control's value from a perfect one; None for metrics without one, or where it is not shown."""
    metric = METRICS[endpoint.metric]
    if metric.scale == "linear" or cells.empty:
        return None
    wanted = {
        "arm": endpoint.control, "seed": "all", "draw": "all", "finding": endpoint.finding, "group": endpoint.group,
        "level": endpoint.level, "metric": endpoint.metric,
    }  # fmt: skip
    keep = np.logical_and.reduce([(cells[key].astype(str) == value).to_numpy() for key, value in wanted.items()])
    values = cells.loc[keep, "value"].dropna()
    if values.empty:
        return None
    return float(1 - values.iloc[0]) if metric.higher_is_better else float(values.iloc[0])


def _row(comparison: pd.DataFrame, endpoint: Endpoint) -> pd.Series:
    wanted = {
        "baseline": endpoint.control,
        "arm": endpoint.arm,
        "finding": endpoint.finding,
        "group": endpoint.group,
        "level": endpoint.level,
        "metric": endpoint.metric,
    }
    keep = np.logical_and.reduce([(comparison[key] == value).to_numpy() for key, value in wanted.items()])
    rows = comparison[keep]
    if rows.empty:
        name = f"{endpoint.arm} against {endpoint.control}, {endpoint.finding}, {endpoint.metric}"
        raise InputError("the primary endpoint was not evaluated", found=name)
    primary = rows[rows["family"] == "primary"]
    return (primary if len(primary) else rows).iloc[0]


def _design(n_draws: int, n_seeds: int) -> str:
    seeds = f"{n_seeds} seed{'s' if n_seeds != 1 else ''}"
    if n_draws == 1:
        return f"1 draw x {seeds} (draws were not assessed{'' if n_seeds > 1 else ', nor were seeds'})"
    return f"{n_draws} draws x {seeds}"
