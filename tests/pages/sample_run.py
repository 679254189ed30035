"""A small run folder made from known numbers: what the report must show again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cxraug.storage import write_json

FINDINGS = ("Pneumothorax", "Effusion", "Nodule", "No Finding")
ARMS = {"real": 0.742, "duplicated": 0.751, "weighted": 0.747, "gaussian": 0.758, "mixed": 0.783}
LIFT = {"Pneumothorax": 0.0, "Effusion": 0.071, "Nodule": -0.052, "No Finding": 0.034}
SIDE = 64

VERDICT: dict[str, Any] = {
    "sentence": "Pneumothorax AUROC +0.032 [0.011, 0.053] against the count-matched control (duplicated), 8 draws x 3 "
    "seeds, with outside data: better",
    "outcome": "better", "difference": 0.032, "ci_low": 0.011, "ci_high": 0.053, "p_value": 0.0041, "mde": 0.029,
    "room": 0.071, "room_low": 0.050, "room_high": 0.092, "room_ceiling": 0.822, "room_control": 0.751, "most": 0.249,
    "n_draws": 8, "n_seeds": 3, "n_patients": 612, "arm": "mixed", "control": "duplicated",
    "finding": "Pneumothorax", "metric": "auroc", "group": "all", "level": "all", "outside": True,
    "notes": ["the core phantom-nano was trained on a phantom cohort"],
}  # fmt: skip


def write_run(folder: Path, *, findings: tuple[str, ...] = FINDINGS, verdict: dict[str, Any] | None = None) -> Path:
    """Write a finished run into ``folder``; ``verdict`` replaces keys of :data:`VERDICT`."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "verdict.json", VERDICT | {"finding": findings[0]} | (verdict or {}))
    write_json(folder / "settings.json", settings(findings))
    write_json(folder / "audit" / "audit.json", audit(findings))
    for draw in range(2):
        write_draw(folder / f"draw-{draw:02d}", findings, seed=draw)
    write_csv(folder / "curve" / "points.csv", curve())
    evaluation = folder / "evaluation"
    write_csv(evaluation / "cells.csv", cells(findings))
    write_csv(evaluation / "gaps.csv", gaps(findings))
    write_csv(evaluation / "comparison.csv", comparison(findings))
    write_json(evaluation / "evaluation.json", evaluation_info())
    return folder


def write_csv(path: Path, frame: pd.DataFrame) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    frame.to_csv(path, index=False)


def settings(findings: tuple[str, ...]) -> dict[str, Any]:
    return {
        "recipe": {
            "name": "rare-pneumothorax", "seed": 0, "draws": 8, "seeds": 3,
            "data": {"size": 64, "limit": [{"finding": findings[0], "group": None, "patients": 10, "share": None}],
                     "limit_val": True},
            "arms": {"use": list(ARMS), "ratios": [0.5, 1.0, 2.0]},
            "evaluate": {"groups": ["sex", "age"], "age_bins": [0, 20, 40, 60, 80], "min_cell": 10,
                         "primary": {"arm": "mixed", "control": "duplicated", "finding": findings[0], "group": None}},
            "curve": {"finding": findings[0], "patients": [10, 30, 100]},
        },
        "versions": {"cxraug": "0.1.0", "torch": "2.15.0", "timm": "1.0.20"},
        "machine": {"system": "Linux", "processor": "x86_64"},
    }  # fmt: skip


def audit(findings: tuple[str, ...]) -> dict[str, Any]:
    named: list[dict[str, Any]] = [
        {"kind": "rare finding", "finding": findings[0], "n": 10, "expected": 74,
         "sentence": f"{findings[0]} is rare: 10 of 1,204 studies (0.8 %); the median finding has 74."},
        {"kind": "under-represented group", "group": "sex", "level": "F", "n": 214, "expected": 602,
         "sentence": "Women are under-represented: 214 of 1,204 studies (17.8 %)."},
        {"kind": "under-represented cell", "finding": findings[1], "group": "sex", "level": "F", "n": 6, "expected": 31,
         "sentence": f"{findings[1]} in women: 6 studies where 31 would follow from the two shares."},
        {"kind": "confounded", "holds": False, "finding": findings[2], "group": "source", "level": "b",
         "sentence": f"{findings[2]} goes with the source: 9 of 10 positives come from source b."},
    ]  # fmt: skip
    return {"named": named}


def write_draw(folder: Path, findings: tuple[str, ...], *, seed: int) -> None:
    removed = [
        {"split": split, "what": what, "name": name, "before": before, "kept": before - gone, "removed": gone}
        for split, what, name, before, gone in (
            ("train", "rows", "", 1290, 86), ("train", "positives", findings[0], 88 + seed, 78 + seed),
            ("train", "sex", "F", 240, 26), ("test", "rows", "", 640, 0),
        )
    ]  # fmt: skip
    write_json(folder / "limit.json", {"removed": removed, "kept": 1204})
    write_csv(folder / "plan" / "table.csv", plan_table(findings))
    scores = {"0.5": 0.771, "1": 0.786, "2": 0.779}
    write_json(folder / "ratio.json", {"chosen": 1.0, "validation_auroc": scores, "arm": "mixed"})
    for name in ("core", "gaussian"):
        write_set(folder / "sets" / name, findings, core={"core": "phantom-nano"}.get(name, name), seed=seed)


def evaluation_info() -> dict[str, Any]:
    return {
        "settings": {"min_cell": 10, "alpha": 0.05}, "threshold_source": "youden", "n_images": 640, "n_patients": 612,
        "methods": ["Intervals are patient-clustered."], "notes": ["age 80+ is suppressed for every finding"],
    }  # fmt: skip


def plan_table(findings: tuple[str, ...]) -> pd.DataFrame:
    rows = []
    for i, finding in enumerate(findings):
        before = {"all": 10 + 64 * i, "M": 7 + 48 * i, "F": 3 + 16 * i}
        for group, level in (("all", "all"), ("sex", "M"), ("sex", "F")):
            target = 74.0 if group == "sex" else float("nan")
            planned = max(0, 74 - before[level]) if group == "sex" else max(0, 67 - 48 * i) + max(0, 71 - 16 * i)
            rows.append(
                {"finding": finding, "group": group, "level": level, "studies": 1204, "before": before[level],
                 "target": target, "planned": planned, "after": before[level] + planned, "shortfall": 0,
                 "prevalence_before": before[level] / 1204, "prevalence_after": (before[level] + planned) / 1500}
            )  # fmt: skip
    return pd.DataFrame(rows)


def write_set(folder: Path, findings: tuple[str, ...], *, core: str, seed: int = 0, n: int = 48) -> pd.DataFrame:
    """A generated set: every sixth image is rejected by the classifier and every sixteenth as a copy."""
    rng = np.random.default_rng(seed)
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows = []
    for i in range(n):
        name = f"images/p{i:06d}_PA.png"
        Image.fromarray(picture(rng)).save(folder / name)
        reasons = ["duplicates: copy of a training image"] if i % 16 == 15 else []
        reasons += [f"agreement: {findings[i % 3]} not seen"] if i % 6 == 5 else []
        rows.append(
            {"image": name, "patient_id": f"syn-p{i:06d}", "study_id": f"p{i:06d}", "view": "PA",
             "sex": "FM"[i // 3 % 2], "age": float(25 + i), "labels": findings[i % 3], "split": "train",
             "synthetic": True, "prompt_id": f"p{i:06d}", "core": core, "seed": i,
             "gate": "reject" if reasons else "accept", "gate_reasons": "|".join(reasons) or None}
        )  # fmt: skip
    frame = pd.DataFrame(rows)
    frame.to_parquet(folder / "manifest.parquet", index=False)
    accepted = int((frame["gate"] == "accept").sum())
    gate = {
        "total": n, "accepted": accepted, "redrawn": 11, "checks": {"duplicates": {"cutoff": 0.957}},
        "closest": [{"prompt_id": "p000015", "view": "PA", "correlation": 0.981, "gate": "reject"},
                    {"prompt_id": "p000002", "view": "PA", "correlation": 0.934, "gate": "accept"}],
        "notes": ["all checks together reject 57 of 1204 held-out real training images (budget 5.0%)"],
    }  # fmt: skip
    write_json(folder / "gate.json", gate)
    return frame


def picture(rng: np.random.Generator) -> np.ndarray:
    """Two dark lungs in a grey chest: enough to see that a sheet is laid out right."""
    y, x = np.mgrid[-1 : 1 : SIDE * 1j, -1 : 1 : SIDE * 1j]  # type: ignore[misc]
    light = 190 - 40 * np.abs(x)
    for side in (-1, 1):
        inside = ((x - side * 0.42) / 0.3) ** 2 + (y / 0.65) ** 2
        light = light - 120 * np.clip(1.2 - inside, 0, 1)
    return np.clip(light + rng.normal(0, 6, light.shape), 0, 255).astype(np.uint8)


def curve() -> pd.DataFrame:
    means = {"10": 0.742, "30": 0.775, "100": 0.806, "all": 0.813}
    rows = []
    for i, (patients, mean) in enumerate(means.items()):
        for draw in range(2):
            for seed in range(2):
                value = mean + (0.012 if draw else -0.012) / (i + 1) + (0.004 if seed else -0.004)
                rows.append({"n_patients": patients, "draw": draw, "seed": seed, "auroc": round(value, 4)})
    return pd.DataFrame(rows)


def cells(findings: tuple[str, ...]) -> pd.DataFrame:
    rows = []
    lifts = dict(zip(findings, LIFT.values(), strict=True))
    levels = [("all", "all", 0.0, 640), ("sex", "F", -0.045, 118), ("sex", "M", 0.012, 522),
              ("age", "0-19", -0.02, 44), ("age", "20-39", 0.01, 180), ("age", "40-59", 0.0, 230),
              ("age", "60-79", -0.01, 178), ("age", "80+", 0.0, 8)]  # fmt: skip
    for arm, base in ARMS.items():
        for finding in findings:
            for group, level, shift, n in levels:
                flag = "suppressed" if n < 10 else "few" if n < 50 else ""
                for metric, value, half in (("auroc", base, 0.03), ("tpr", base - 0.1, 0.06), ("fpr", 0.31, 0.05)):
                    at = value + lifts[finding] + shift
                    wide = half * (640 / n) ** 0.5
                    # A suppressed row keeps a value here on purpose: the report must not print it.
                    rows.append(
                        {"arm": arm, "seed": "all", "draw": "all", "finding": finding, "group": group, "level": level,
                         "metric": metric, "value": 0.9876 if flag == "suppressed" else at, "ci_low": max(at - wide, 0),
                         "ci_high": min(at + wide, 1), "n": n, "n_pos": n // 9, "n_patients": int(n * 0.95),
                         "method": "clustered DeLong", "flag": flag}
                    )  # fmt: skip
    single = rows[0] | {"seed": "0", "draw": "0", "value": 0.1234}
    return pd.DataFrame([*rows, single])


def gaps(findings: tuple[str, ...]) -> pd.DataFrame:
    rows = []
    for arm in ARMS:
        for finding in findings:
            for group, level, gap in (
                ("sex", "F", -0.057),
                ("sex", "M", 0.057),
                ("age", "0-19", -0.02),
                ("age", "80+", 0),
            ):
                for metric, sign in (("auroc", 1), ("tpr", 1.4), ("fpr", -0.6)):
                    value = gap * sign * (0.5 if arm == "mixed" else 1.0)
                    flag = {"80+": "suppressed", "0-19": "few"}.get(level, "")
                    rows.append(
                        {"arm": arm, "seed": "all", "draw": "all", "finding": finding, "group": group, "level": level,
                         "reference": "rest", "metric": metric, "matched": "", "gap": value, "ci_low": value - 0.04,
                         "ci_high": value + 0.04, "p_value": 0.012, "p_adjusted": 0.048, "family": f"{metric}|{group}",
                         "mdg": 0.055, "flag": flag}
                    )  # fmt: skip
    return pd.DataFrame(rows)


def comparison(findings: tuple[str, ...]) -> pd.DataFrame:
    rows = []
    pairs = [(c, "mixed") for c in ("duplicated", "real", "weighted", "gaussian")] + [("real", "gaussian")]
    for control, arm in pairs:
        for i, finding in enumerate((*findings, "macro")):
            primary = (control, arm, i) == ("duplicated", "mixed", 0)
            value = 0.032 if primary else round((ARMS[arm] - ARMS[control]) / (1 + i), 4)
            rows.append(
                {"baseline": control, "arm": arm, "finding": finding, "group": "all", "level": "all", "metric": "auroc",
                 "difference": value, "ci_low": 0.011 if primary else value - 0.024,
                 "ci_high": 0.053 if primary else value + 0.024, "p_value": 0.0041 if primary else 0.21,
                 "p_adjusted": 0.0041 if primary else 0.63, "family": "primary" if primary else "exploratory",
                 "n_seeds": 3, "n_draws": 8, "n_patients": 612, "mde": 0.029, "flag": "few" if i == 2 else ""}
            )  # fmt: skip
    return pd.DataFrame(rows)
