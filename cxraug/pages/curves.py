"""ROC and calibration curves with their bands: every arm and finding, by group."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup

from cxraug.pages import plot
from cxraug.pages.gaps import alpha_of, shown_gaps
from cxraug.pages.page import blocks, figure, fold, heading, note, section
from cxraug.pages.results import absent
from cxraug.pages.runfolder import RunFolder, whole

OPEN = 2  # findings whose curves are not folded
MOST_CELLS = 1100  # cells with curves, 2 kB each: more could make the page larger than 5 MB
NEEDS = {"roc": "auroc", "calibration": "ece"}
Place = tuple[str, str, str, str, str]  # arm, finding, group, level, curve


@dataclass(frozen=True)
class Drawn:
    """A curve's points (x, y) and its band (x, low, high), which may be empty."""

    points: tuple[tuple[float, float], ...] = ()
    band: tuple[tuple[float, float, float], ...] = ()


def curves_section(run: RunFolder) -> Markup:
    """ROC and calibration of every finding by grouping; cells that are suppressed have no curve."""
    title = "ROC and calibration by group"
    if run.curves.empty:
        return section("curves", title, absent("curves.csv", "No curves were kept with this evaluation."))
    drawn = _drawn(run)
    arms = list(dict.fromkeys(run.curves["arm"]))
    worse = {gap.row["finding"] for gap in shown_gaps(run) if gap.worse}
    findings = sorted(dict.fromkeys(run.curves["finding"]), key=lambda name: name not in worse)
    per_arm = [sum(place[0] == arm and place[4] == "roc" for place in drawn) for arm in arms]
    shown = [arm for k, arm in enumerate(arms) if k == 0 or sum(per_arm[: k + 1]) <= MOST_CELLS]
    parts: list[str | Markup] = []
    for rank, finding in enumerate(findings):
        if len(arms) > 1:
            by_arm = [
                fold(str(arm), _by_group(run, drawn, arm, finding), name=f"arm-{rank}", opened=k == 0)
                for k, arm in enumerate(shown)
            ]
            pictures = blocks([_whole_set(drawn, arms, finding), *by_arm])
        else:
            pictures = _by_group(run, drawn, arms[0], finding)
        parts += [heading(finding), pictures] if rank < OPEN else [fold(finding, pictures)]
    if left := [str(arm) for arm in arms if arm not in shown]:
        parts.append(note(f"Not drawn by group, to keep the page small: {', '.join(left)} (in curves.csv)."))
    return section("curves", title, *parts, note(_caption(run)))


def _caption(run: RunFolder) -> str:
    runs = len(run.evaluation.get("runs") or [])
    several = " the spread between seeds (or draws) counts in it, and" if runs > 1 else ""
    return (
        "ROC: at most 60 vertices, averaged over runs at equal FPR. Calibration: at most ten bins of equal mass, each "
        f"of enough patients; on the diagonal the probabilities are right. Shaded: {100 * (1 - alpha_of(run)):g} % "
        f"band, patient-clustered;{several} it holds at each point by itself, not for the whole curve, and is not "
        "drawn where hardly anybody is called. Bands that overlap are no test of a gap: the gaps above are. °: few "
        "cases, a rough curve. Findings with a gap that is shown come first."
    )


def _drawn(run: RunFolder) -> dict[Place, Drawn]:
    """Every curve that may be drawn: the tables decide, whatever curves.csv holds."""
    rows = whole(run.cells)
    rows = rows[rows["flag"] != "suppressed"]
    allowed = set()
    for curve, metric in NEEDS.items():
        part = rows[rows["metric"] == metric]
        keys = zip(part["arm"], part["finding"], part["group"], part["level"], strict=True)
        allowed |= {(*key, curve) for key in keys}
    found: dict[Place, Drawn] = {}
    curves = run.curves.reindex(columns=[*run.curves.columns, *({"low", "high"} - set(run.curves.columns))])
    for place, part in curves.groupby(["arm", "finding", "group", "level", "curve"], sort=False):
        arm, finding, group, level, curve = map(str, place)
        if (arm, finding, group, level, curve) in allowed:
            values = part[["x", "y", "low", "high"]].to_numpy(dtype=float)
            limits = values[~np.isnan(values).any(axis=1)][:, [0, 2, 3]]
            found[arm, finding, group, level, curve] = Drawn(
                tuple(map(tuple, values[:, :2].tolist())), tuple(map(tuple, limits.tolist()))
            )
    return found


def _by_group(run: RunFolder, drawn: Mapping[Place, Drawn], arm: str, finding: str) -> Markup:
    """One pair of plots per grouping: its levels over the whole set."""
    cells = whole(run.cells)
    cells = cells[(cells["arm"] == arm) & (cells["finding"] == finding) & (cells["metric"] == "auroc")]
    few = {(row["group"], row["level"]): "°" for row in cells[cells["flag"] == "few"].to_dict("records")}
    groups = [group for group in dict.fromkeys(cells["group"]) if group != "all"]
    parts: list[Markup] = []
    for group in groups:
        levels = list(dict.fromkeys(cells.loc[cells["group"] == group, "level"]))
        kept = [level for level in levels if (arm, finding, group, level, "roc") in drawn]
        places = {f"{level}{few.get((group, level), '')}": (arm, finding, group, level) for level in kept}
        gone = [str(level) for level in levels if level not in kept]
        caption = f"{finding} by {group}." + (f" Suppressed, not drawn: {', '.join(gone)}." if gone else "")
        parts.append(_pair(drawn, places, caption, under=(arm, finding, "all", "all")))
    return blocks(parts or [_pair(drawn, {"all": (arm, finding, "all", "all")}, f"{finding}, whole test set.")])


def _whole_set(drawn: Mapping[Place, Drawn], arms: list[str], finding: str) -> Markup:
    """The arms side by side on the whole test set."""
    places = {str(arm): (arm, finding, "all", "all") for arm in arms}
    return _pair(drawn, places, f"{finding} by arm, whole test set. By group, per arm:")


def _pair(
    drawn: Mapping[Place, Drawn],
    places: Mapping[str, tuple[str, str, str, str]],
    caption: str,
    *,
    under: tuple[str, str, str, str] | None = None,
) -> Markup:
    """ROC and calibration side by side, a line per place by its name; ``under`` is what they are read against."""
    pictures, lines = [], []
    for curve in NEEDS:
        lines = [plot.Line("all", drawn.get((*under, curve), Drawn()).points, faint=True)] if under else []
        for name, place in places.items():
            found = drawn.get((*place, curve), Drawn())
            lines.append(plot.Line(name, found.points, band=found.band))
        points = [point for line in lines for point in line.points]
        if not points:
            continue
        if curve == "roc":
            pictures.append(plot.square(lines, x_name="FPR", y_name="TPR"))
        else:
            names = {"x_name": "mean probability", "y_name": "frequency"}
            pictures.append(plot.square(lines, most=max(0.01, *map(max, points)), dots=True, **names))
    return figure(Markup('<div class="pair">{}</div>').format(blocks(pictures)) + plot.line_keys(lines), caption)
