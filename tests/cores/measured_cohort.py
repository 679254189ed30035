"""A tiny cohort whose pictures show what their rows say, and cores that honour, copy or ignore a prompt."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from cxraug.cores.core import Card, GenerativeCore, Prompt, Study
from cxraug.studies.manifest import Manifest, read_manifest
from cxraug.studies.seen import Seen

SIDE = 32
FINDINGS = ["Effusion", "Mass"]
CORNERS = ((4, 4), (4, 20), (16, 4), (16, 20))  # of a mass, y and x, 8 pixels wide


def paint(
    labels: dict[str, int], sex: str | None, age: float | None, rng: np.random.Generator,
    *, corner: int | None = None, height: int | None = None,
) -> np.ndarray:  # fmt: skip
    """Effusion: a bright floor. Mass: a bright square in a corner. Sex: a bright left edge. Age: a bright ceiling.

    ``height`` is that of a line which all views of a patient share.
    """
    pixels = rng.normal(60, 10, (SIDE, SIDE))
    if labels.get("Effusion") == 1:
        pixels[28:] += 70
    if labels.get("Mass") == 1:
        y, x = CORNERS[rng.integers(4) if corner is None else corner]
        pixels[y : y + 8, x : x + 8] += 80
    if sex == "F":
        pixels[:, :3] += 70
    pixels[:3] += 1.2 * ((50 if age is None else age) - 20)
    line = int(rng.integers(6, 26) if height is None else height)
    pixels[line : line + 2, 13:19] += 110
    return np.clip(pixels, 0, 255).astype(np.uint8)


def make_cohort(folder: Path, *, train: int = 300, test: int = 80, views: tuple[str, ...] = ("PA", "Lateral")) -> Path:
    """Write a manifest of one study per patient; no two ages of the test rows are equal."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(train + test):
        split = "train" if i < train else "test"
        labels = {f: int(rng.random() < 0.4) for f in FINDINGS}
        sex, age = "FM"[int(rng.random() < 0.5)], round(20 + 60 * float(rng.random()), 4)
        corner, height = int(rng.integers(4)), int(rng.integers(6, 26))
        for view in views:
            name = f"{i:04d}-{view}.png"
            picture = paint(labels, sex, age, rng, corner=corner, height=height)
            Image.fromarray(picture).save(folder / "images" / name)
            mask = np.zeros((SIDE, SIDE), np.uint8)
            y, x = CORNERS[corner]
            mask[:4] = 1
            mask[y : y + 8, x : x + 8] |= 4 * labels["Mass"]
            Image.fromarray(mask).save(folder / "masks" / name)
            boxes = [{"label": "Mass", "x": x, "y": y, "w": 8, "h": 8}] if labels["Mass"] else []
            text = "|".join(f for f in FINDINGS if labels[f]) or "No Finding"
            rows.append(
                {"image": f"images/{name}", "patient_id": f"p{i}", "study_id": f"s{i}", "view": view, "sex": sex,
                 "age": age, "labels": text, "split": split, "mask": f"masks/{name}", "boxes": json.dumps(boxes),
                 "source": "here", "report": f"Report of study {i}."}
            )  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


class PaintedCore(GenerativeCore):
    """Draws with ``draw(prompt, view, seed)``."""

    batch_size = 8

    def __init__(
        self, draw: Callable[[Prompt, str, int], np.ndarray], *, conditions: tuple[str, ...] = ("sex", "age"),
        views: tuple[str, ...] = ("PA", "Lateral"), seen: Seen | None = None, weights: str = "b",
    ) -> None:  # fmt: skip
        self.draw = draw
        self.card = Card(
            name="painted", version="1", kind="toy", sha256=weights * 64, resolution=SIDE, views=list(views),
            findings=FINDINGS, conditions=["findings", "views", *conditions], licence="none", training_data={},
            seen=(seen or Seen.of([], [], key="00")).to_json(), sources=["here"],
        )  # fmt: skip

    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        return [
            Study({view: self.draw(prompt, view, seed) for view in prompt.views})
            for prompt, seed in zip(prompts, seeds, strict=True)
        ]


def honest(prompt: Prompt, view: str, seed: int) -> np.ndarray:
    """What the prompt asks for; the noise is that of the seed alone, the patient's line that of both views."""
    height = int(np.random.default_rng([seed, 5]).integers(6, 26))
    corner = None
    for box in json.loads(prompt.boxes or "[]"):
        corner = min(range(4), key=lambda k: abs(CORNERS[k][0] - box["y"]) + abs(CORNERS[k][1] - box["x"]))
    rng = np.random.default_rng([seed, len(view)])
    return paint(dict(prompt.labels), prompt.sex, prompt.age, rng, height=height, corner=corner)


def blind(prompt: Prompt, view: str, seed: int) -> np.ndarray:
    """A picture of somebody else, whatever was asked."""
    rng = np.random.default_rng([seed, len(view), 1])
    labels = {f: int(rng.random() < 0.4) for f in FINDINGS}
    return paint(labels, "FM"[int(rng.random() < 0.5)], 20 + 60 * float(rng.random()), rng)


def copying(manifest: Manifest) -> Callable[[Prompt, str, int], np.ndarray]:
    """Returns the real image whose age is asked for: a core that repeats the real rows."""
    frame = manifest.frame
    place = dict(zip(zip(frame["age"], frame["view"], strict=True), manifest.paths(), strict=True))

    def draw(prompt: Prompt, view: str, seed: int) -> np.ndarray:
        path = place.get((prompt.age, view))  # a swapped age is nobody's
        return honest(prompt, view, seed) if path is None else np.asarray(Image.open(path))

    return draw


def read(path: Path) -> Manifest:
    """The cohort's manifest."""
    return read_manifest(path)
