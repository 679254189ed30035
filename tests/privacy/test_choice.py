"""The choice among candidates: the best by score first, none that is refused, and what was said of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from PIL import Image

from cxraug.gate.check import Images
from cxraug.gate.settings import GateSettings
from cxraug.privacy.choice import OWN, OwnPatient, choose
from cxraug.privacy.texts import RarePhrases
from cxraug.studies.images import Encoding

ENCODING = Encoding(32)


class Brightness:
    """A gate that likes bright images and rejects dark ones; whole studies, as the gate does."""

    def __init__(self) -> None:
        self.judged: list[int] = []

    def scores(self, batch: Images) -> np.ndarray:
        return batch.pixels.mean(axis=(1, 2)) / 50

    def judge(self, batch: Images) -> list[list[str]]:
        self.judged.append(len(batch))
        dark = {p for p, s in zip(batch.patients, self.scores(batch), strict=True) if s <= 1}
        return [["agreement: too dark"] if p in dark else [] for p in batch.patients]


def draws(folder: Path, levels: dict[str, list[list[int]]], report: str | None = None) -> list[list[dict[str, Any]]]:
    """``levels`` : prompt -> draws -> brightness of each view."""
    lines: list[list[dict[str, Any]]] = [[] for _ in next(iter(levels.values()))]
    for index, (prompt, brightness) in enumerate(levels.items()):
        for draw, views in enumerate(brightness):
            for view, level in zip(("PA", "Lateral"), views, strict=False):
                name = f"{prompt}-{view}-{draw}.png"
                Image.fromarray(np.full((32, 32), level, np.uint8)).save(folder / name)
                asked = {"labels": {"Mass": 1}, "views": ["PA", "Lateral"][: len(views)]}
                lines[draw].append({
                    "prompt_id": prompt, "index": index, "draw": draw, "view": view, "seed": draw, "image": name,
                    "sha256": "", "report": report, "prompt": asked, "core": "toy", "core_sha256": "a",
                })  # fmt: skip
    return lines


def claims(*prompts: str) -> pd.DataFrame:
    return pd.DataFrame({"Mass": np.ones(len(prompts), np.float32)}, index=list(prompts))


def test_the_best_candidate_by_its_worst_view_is_taken(tmp_path) -> None:
    lines = draws(tmp_path, {"a": [[60, 60], [200, 10], [90, 95]], "b": [[80], [100], [70]], "c": [[9], [8], [49]]})
    found = choose(lines, tmp_path, Brightness(), ENCODING, GateSettings(), y=claims("a", "b", "c"),
                   owners=dict.fromkeys("abc", "p"), own=None, phrases=None)  # fmt: skip
    assert found.draw == {"a": 2, "b": 1}
    assert found.refused == {"c": ["agreement: too dark"] * 3}
    assert found.tried == 3 + 1 + 1


def test_reports_and_own_patients_are_judged_before_the_gate_remembers_anything(tmp_path) -> None:
    rng = np.random.default_rng(0)
    real = rng.integers(0, 256, (4, 32, 32), dtype=np.uint8)
    own = OwnPatient(real, np.array(["p0", "p1", "p2", "p3"], dtype=object))
    noisy = np.clip(real.astype(int) + rng.integers(-20, 20, real.shape), 0, 255).astype(np.uint8)
    assert own.hits(noisy, np.array(["p0", "p1", "p3", "p2"], dtype=object)).tolist() == [True, True, False, False]
    lines = draws(tmp_path, {"a": [[90]], "b": [[90]]}, report="Seen by Dr. Smith.")
    gate = Brightness()
    phrases = RarePhrases.of(["x"], ["p"], 5)
    found = choose(lines, tmp_path, gate, ENCODING, GateSettings(), y=claims("a", "b"),
                   owners={"a": "p0", "b": "p1"}, own=None,
                   phrases=phrases)  # fmt: skip
    assert found.draw == {}
    assert gate.judged == []
    assert set(found.refused["a"]) == {"a report with what looks like a name"}
    Image.fromarray(noisy[0]).save(tmp_path / "a-PA-0.png")
    lines = [[{**line, "report": None} for line in lines[0]]]
    found = choose(lines, tmp_path, gate, ENCODING, GateSettings(), y=claims("a", "b"),
                   owners={"a": "p0", "b": "p9"}, own=own,
                   phrases=None)  # fmt: skip
    assert found.refused == {"a": [OWN]}
    assert found.draw == {"b": 0}
