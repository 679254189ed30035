"""A run folder as the report reads it: every part may be missing, none is guessed."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from cxraug.errors import InputError
from cxraug.storage import read_json

TEXT_COLUMNS = frozenset(
    {
        "arm", "seed", "draw", "finding", "group", "level", "metric", "method", "flag", "reference", "matched",
        "family", "baseline", "kind", "reason", "split", "curve", "attribute",
    }
)  # fmt: skip
NUMBER_COLUMNS = frozenset(
    {
        "value", "ci_low", "ci_high", "n", "n_pos", "gap", "p_value", "p_adjusted", "mdg", "difference", "n_seeds",
        "n_draws", "n_patients", "mde", "auroc",
    }
)  # fmt: skip


@dataclass(frozen=True)
class SetFolder:
    """A generated set: its folder, its manifest's rows and the gate's summary ({} where there is none)."""

    name: str
    draw: str
    folder: Path
    rows: pd.DataFrame
    gate: dict[str, Any]


@dataclass(frozen=True)
class DrawFolder:
    """One random draw of the limited data.

    ``realised`` gives for each ratio asked for how many images its arms added, and to how many real ones.
    """

    name: str
    limit: dict[str, Any]
    plan: pd.DataFrame
    ratio: dict[str, Any]
    sets: tuple[SetFolder, ...]
    realised: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass(frozen=True)
class RunFolder:
    """Everything that a finished (or half-finished) run has to show; empty where a part is missing."""

    path: Path
    settings: dict[str, Any] = field(default_factory=dict)
    verdict: dict[str, Any] = field(default_factory=dict)
    audit: dict[str, Any] = field(default_factory=dict)
    draws: tuple[DrawFolder, ...] = ()
    curve: pd.DataFrame = field(default_factory=pd.DataFrame)  # learning curve
    curves: pd.DataFrame = field(default_factory=pd.DataFrame)  # ROC and calibration
    cells: pd.DataFrame = field(default_factory=pd.DataFrame)
    gaps: pd.DataFrame = field(default_factory=pd.DataFrame)
    comparison: pd.DataFrame = field(default_factory=pd.DataFrame)
    probes: pd.DataFrame = field(default_factory=pd.DataFrame)
    probe_differences: pd.DataFrame = field(default_factory=pd.DataFrame)
    evaluation: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)  # per stage, all sittings

    def setting(self, *keys: str, default: Any = None) -> Any:
        """A setting of the recipe by its path of keys."""
        node: Any = self.settings.get("recipe", self.settings)
        for key in keys:
            if not isinstance(node, dict) or key not in node:
                return default
            node = node[key]
        return node

    @property
    def sets(self) -> list[SetFolder]:
        """The generated sets of all draws."""
        return [part for draw in self.draws for part in draw.sets]


def read_run(path: str | Path) -> RunFolder:
    """Read the run folder ``path``.

    Raises
    ------
    InputError
        If it is no run folder (neither settings nor verdict nor evaluation), or one of its files is broken.
    """
    path = Path(path)
    if not path.is_dir():
        raise InputError("no such run folder", file=path)
    found = RunFolder(
        path=path,
        settings=_json(path / "settings.json"),
        verdict=_json(path / "verdict.json"),
        audit=_json(path / "audit" / "audit.json"),
        draws=tuple(_draw(folder) for folder in sorted(path.glob("draw-*")) if folder.is_dir()),
        curve=_csv(path / "curve" / "points.csv", names=("n_patients",)),
        cells=_csv(path / "evaluation" / "cells.csv"),
        gaps=_csv(path / "evaluation" / "gaps.csv"),
        comparison=_csv(path / "evaluation" / "comparison.csv"),
        probes=_csv(path / "evaluation" / "probes.csv"),
        probe_differences=_csv(path / "evaluation" / "probe_differences.csv"),
        evaluation=_json(path / "evaluation" / "evaluation.json"),
        seconds=_seconds(path / "times.jsonl"),
    )
    if not (found.settings or found.verdict or found.evaluation or len(found.cells)):
        raise InputError("not a run folder", file=path, expected="settings.json, verdict.json or evaluation/")
    return found


def read_evaluation(folder: str | Path) -> RunFolder:
    """Read an evaluation folder that stands alone, e.g. of ``cxraug evaluate``."""
    folder = Path(folder)
    if not (folder / "cells.csv").is_file():
        raise InputError("not an evaluation folder", file=folder, expected="cells.csv, gaps.csv, evaluation.json")
    return RunFolder(
        path=folder,
        cells=_csv(folder / "cells.csv"),
        gaps=_csv(folder / "gaps.csv"),
        comparison=_csv(folder / "comparison.csv"),
        curves=_csv(folder / "curves.csv"),
        probes=_csv(folder / "probes.csv"),
        probe_differences=_csv(folder / "probe_differences.csv"),
        evaluation=_json(folder / "evaluation.json"),
    )


def whole(frame: pd.DataFrame) -> pd.DataFrame:
    """The rows over all seeds and draws, where the table tells them apart."""
    for column in ("seed", "draw"):
        if column in frame and (frame[column] == "all").any():
            frame = frame[frame[column] == "all"]
    return frame


def _draw(folder: Path) -> DrawFolder:
    sets = []
    for part in sorted((folder / "sets").glob("*")) if (folder / "sets").is_dir() else ():
        manifest = part / "manifest.parquet"
        if manifest.is_file():
            sets.append(SetFolder(part.name, folder.name, part, _parquet(manifest), _json(part / "gate.json")))
    return DrawFolder(
        name=folder.name,
        limit=_json(folder / "limit.json"),
        plan=_csv(folder / "plan" / "table.csv"),
        ratio=_json(folder / "ratio.json"),
        sets=tuple(sets),
        realised=_realised(folder / "arms"),
    )


def _seconds(path: Path) -> dict[str, float]:
    """Seconds per stage; a line that a kill cut short is left out."""
    total: dict[str, float] = {}
    for line in path.read_text(encoding="utf-8").splitlines() if path.is_file() else ():
        try:
            row = json.loads(line)
            total[str(row["stage"])] = total.get(str(row["stage"]), 0.0) + float(row["seconds"])
        except (ValueError, KeyError, TypeError):
            continue
    return total


def _realised(arms: Path) -> dict[str, tuple[int, int]]:
    """(added, real) images by the ratio in an arm's folder name; arms of one ratio and draw add equally many.

    Oversampling is left out: imbalanced-learn chooses its number.
    """
    found: dict[str, tuple[int, int]] = {}
    for path in sorted(arms.glob("*@*/seed-*/card.json")):
        kind, _, ratio = path.parent.parent.name.partition("@")
        data = _json(path).get("data") or {}
        if kind != "oversampled" and data.get("real"):
            found.setdefault(ratio, (int(data.get("added", 0)), int(data["real"])))
    return found


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    value = read_json(path)
    if not isinstance(value, dict):
        raise InputError("not a JSON object", file=path, found=type(value).__name__)
    return value


def _csv(path: Path, *, names: tuple[str, ...] = ()) -> pd.DataFrame:
    """A table whose names stay text: a finding called ``NA`` or a draw ``00`` is not a number and not missing.

    ``names`` are further columns to keep as text.
    """
    if not path.is_file():
        return pd.DataFrame()
    try:
        frame = pd.read_csv(path, dtype="str", keep_default_na=False)
    except pd.errors.EmptyDataError:
        return pd.DataFrame()
    except (ValueError, UnicodeDecodeError) as error:
        raise InputError(f"not a CSV table ({error})", file=path) from None
    for name in frame.columns:
        if name in TEXT_COLUMNS or name in names:
            continue
        values = pd.to_numeric(frame[name].replace("", None), errors="coerce")
        if name in NUMBER_COLUMNS or not (values.isna() & (frame[name] != "")).any():
            frame[name] = values.astype("float64")
    return frame


def _parquet(path: Path) -> pd.DataFrame:
    try:
        return pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise InputError(f"not a Parquet table ({error})", file=path) from None
