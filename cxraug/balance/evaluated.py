"""Where an evaluation on validation rows says that the next budget should go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import special

from cxraug.balance.settings import PlanSettings
from cxraug.balance.target import ALL
from cxraug.errors import InputError
from cxraug.evaluation.groups import MISSING
from cxraug.storage import file_sha256

if TYPE_CHECKING:
    from cxraug.evaluation.evaluate import Evaluation
    from cxraug.studies.manifest import Manifest

AIMS = ("gap", "interval")


@dataclass(frozen=True)
class Aims:
    """Cells that deserve new studies: ``cells`` has ``finding, group, level, weight`` (above 0), ``notes`` say why."""

    cells: pd.DataFrame
    groups: tuple[str, ...]
    age_bins: tuple[float, ...]
    notes: tuple[str, ...] = ()


def read_aims(
    folder: str | Path, *, aim: str = "gap", arm: str | None = None, manifest: Manifest | None = None
) -> Aims:
    """Weights of cells from an evaluation of validation rows.

    Parameters
    ----------
    folder : what ``cxraug evaluate --on val`` wrote.
    aim : ``gap``: how far a level's AUROC lies below its reference, shrunk towards 0 by how uncertain the gaps are
        (normal prior with the variance that the gaps show beyond their errors); ``interval``: the width of the AUROC's
        95 % interval, 1 where there are too few patients to measure it.
    arm : whose rows; needed where there are several. manifest : its test patients must not be among those judged.

    Raises
    ------
    InputError : an evaluation that was read on test rows, or that does not say on which; an unknown arm.
    """
    from cxraug.evaluation.evaluate import Evaluation

    found = Evaluation.load(folder)
    judged = found.info.get("judged")
    if judged != "val":
        raise InputError(
            "a plan is aimed by validation rows only; this evaluation was read on "
            + ("test rows" if judged == "test" else "rows that it does not name"),
            file=Path(folder) / "evaluation.json",
            expected="the folder of `cxraug evaluate --on val`",
        )
    notes = _refuse_test_patients(found.info, manifest) if manifest is not None else []
    arms = list(dict.fromkeys(found.cells["arm"]))
    if arm is None and len(arms) > 1:
        raise InputError("the evaluation has several arms", file=folder, found=", ".join(arms), expected="--arm NAME")
    if arm is not None and arm not in arms:
        raise InputError("no such arm in the evaluation", file=folder, found=arm, expected=", ".join(arms))
    weighed = {"gap": _by_gap, "interval": _by_interval}
    if aim not in weighed:
        raise InputError("--aim is not known", found=aim, expected=" or ".join(AIMS))
    settings = found.info["settings"]
    cells, told = weighed[aim](found, arm or arms[0])
    cells = cells[[MISSING not in str(level).split("*") for level in cells["level"]]]
    groups = tuple(g for g in dict.fromkeys(cells["group"]) if g != ALL)
    return Aims(cells.reset_index(drop=True), groups, tuple(settings["age_bins"]), (*notes, *told))


def spread_budget(
    cells: pd.DataFrame, aims: Aims, settings: PlanSettings, budget: int | None
) -> tuple[pd.DataFrame, list[str]]:
    """``cells`` with a target for every aim: what is there, and a part of the budget in proportion to its weight.

    Shortfalls are compared with the part (column ``scale``), so that limits cut all parts alike. A study counts in
    several cells, so fewer than the budget would do; the plan then grows in proportion.

    Raises
    ------
    InputError : no budget; no aim in the cells that can be planned for.
    """
    if budget is None:
        raise InputError("a plan from an evaluation needs a budget", expected="--budget (or plan.budget)")
    key = ["finding", "group", "level"]
    weight = cells[key].merge(aims.cells, on=key, how="left")["weight"].to_numpy()
    if settings.findings is not None:
        weight = np.where(cells["finding"].isin(settings.findings), weight, np.nan)
    if not (weight > 0).any():
        raise InputError(
            "the evaluation aims at no cell that can be planned for", found=", ".join(aims.groups) or "none"
        )
    share = np.nan_to_num(weight) / np.nansum(weight)
    asked = np.maximum(np.floor(share * budget), np.where(share > 0, 1, 0))
    target = np.where(share > 0, cells["before"] + asked, np.nan)
    return cells.assign(target=target, scale=asked, share=np.nan, both=False), list(aims.notes)


def _by_gap(found: Evaluation, arm: str) -> tuple[pd.DataFrame, list[str]]:
    rows = found.gaps[(found.gaps["arm"] == arm) & (found.gaps["seed"] == "all") & (found.gaps["draw"] == "all")]
    rows = rows[(rows["metric"] == "auroc") & (rows["matched"] == "") & _is_finding(found, rows)]
    shown = rows[rows["gap"].notna()].reset_index(drop=True)
    notes = []
    if len(rows) > len(shown):
        notes.append(f"{len(rows) - len(shown)} gaps are suppressed and get nothing; --aim interval would count them")
    gap, error = shown["gap"].to_numpy(float), _errors(shown)
    spread = max(float((gap**2 - error**2).mean()), 0.0) if len(gap) else 0.0
    kept = gap * spread / (spread + error**2) if spread else np.zeros(len(gap))
    shown = shown.assign(weight=np.maximum(-kept, 0.0))
    if not (shown["weight"] > 0).any():
        cells, more = _by_interval(found, arm)
        why = "no gap of the validation rows is larger than its own error would make it: aimed by intervals instead"
        return cells, [*notes, why, *more]
    worst = shown.iloc[int(shown["weight"].argmax())]
    notes.append(
        f"the worst validation gap is {worst['finding']}, {worst['group']} {worst['level']}: AUROC {worst['gap']:+.3f} "
        f"against {worst['reference']}, {-worst['weight']:+.3f} after shrinking"
    )
    return shown.loc[shown["weight"] > 0, ["finding", "group", "level", "weight"]], notes


def _by_interval(found: Evaluation, arm: str) -> tuple[pd.DataFrame, list[str]]:
    rows = found.cells[(found.cells["arm"] == arm) & (found.cells["seed"] == "all") & (found.cells["draw"] == "all")]
    rows = rows[(rows["metric"] == "auroc") & _is_finding(found, rows)]
    if (rows["group"] != ALL).any():
        rows = rows[rows["group"] != ALL]
    width = (rows["ci_high"] - rows["ci_low"]).astype(float).fillna(1.0)
    rows = rows.assign(weight=width)
    worst = rows.iloc[int(width.argmax())]
    note = f"the widest validation interval is {worst['finding']}, {worst['group']} {worst['level']}: {width.max():.2f}"
    return rows[["finding", "group", "level", "weight"]], [note]


def _is_finding(found: Evaluation, rows: pd.DataFrame) -> np.ndarray:
    """Rows of single findings: macro means and any finding are made of them."""
    return rows["finding"].isin(found.info["findings"]).to_numpy()


def _errors(rows: pd.DataFrame) -> np.ndarray:
    """Standard errors of gaps: half the width of their simultaneous intervals over the quantile of their family."""
    half = (rows["ci_high"] - rows["ci_low"]).to_numpy(float) / 2
    z = -special.ndtri(np.clip(rows["p_value"].to_numpy(float), 1e-12, 1) / 2)
    gap = np.abs(rows["gap"].to_numpy(float))
    errors = np.empty(len(rows))
    for family in dict.fromkeys(rows["family"]):
        here = (rows["family"] == family).to_numpy()
        clear = here & (z == z[here].max())  # the quantile is read off where the p value says most
        at = int(np.flatnonzero(clear)[0])
        quantile = half[at] * z[at] / gap[at] if gap[at] > 0 and z[at] > 0 else 2.0
        errors[here] = half[here] / quantile
    return errors


def _refuse_test_patients(info: dict[str, Any], manifest: Manifest) -> list[str]:
    """Refuse predictions whose validation rows are other patients than the manifest's, or those of its test split.

    Files that are gone, and patients that are not in the manifest, are noted.
    """
    from cxraug.evaluation.predictions import SPLITS, read_table

    patients = manifest.frame["patient_id"].astype("str")
    test, known = set(patients[manifest.frame["split"] == "test"]), set(patients)
    gone, strangers, count = [], 0, 0
    for source in info.get("files", []):
        path = Path(str(source.get("file")))
        if not path.is_file() or file_sha256(path) != source.get("sha256"):
            gone.append(path.name)
            continue
        rows = read_table(path)
        judged = rows["split"].astype("str").str.strip().str.lower().map(SPLITS) == "val"
        found = set(rows.loc[judged, "patient_id"].astype("str"))
        strangers, count = strangers + len(found - known), count + len(found)
        shared = sorted(test & found)
        if shared:
            raise InputError(
                "the evaluation judged patients of the manifest's test split as validation",
                file=path,
                column="split",
                found=shared[0],
                expected="validation patients only",
            )
    if count and strangers == count:
        raise InputError(
            "the evaluation judged other patients than those of the manifest",
            file=manifest.file,
            column="patient_id",
            found=f"none of {count:,} judged patients",
            expected="the manifest that the predictions were made for",
        )
    notes = [f"{strangers:,} of {count:,} judged patients are not in the manifest"] if strangers else []
    lost = "not checked against the manifest's test patients, since the file is gone: "
    return [*notes, *(lost + name for name in gone)]
