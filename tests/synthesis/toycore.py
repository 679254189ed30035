"""A tiny deterministic core, so that the tests of generation and gate do not depend on a real one."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import pandas as pd

from cxraug.cores.core import Card, GenerativeCore, Prompt, Study
from cxraug.studies.seen import Seen

FINDINGS = ["Effusion", "Mass"]
SIZE = 32


def draw_chest(labels: dict[str, int], rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    """A smooth random picture; Effusion is a bright lower left corner, Mass a bright blob above it on the right."""
    coarse = rng.normal(size=(6, 6))
    pixels = 100 + 22 * np.kron(coarse, np.ones((size // 6 + 1, size // 6 + 1)))[:size, :size]
    pixels += rng.normal(scale=6, size=(size, size))
    half, quarter = size // 2, size // 4
    if labels.get("Effusion") == 1:
        pixels[-quarter:, :half] += 90
    if labels.get("Mass") == 1:
        pixels[quarter : half - 2, half : half + quarter - 2] += 90
    return np.clip(pixels, 0, 255).astype(np.uint8)


class ToyCore(GenerativeCore):
    """Draws what is asked; ``paint`` replaces the drawing, ``pause`` slows each batch down."""

    batch_size = 4

    def __init__(
        self,
        *,
        paint: Callable[[Prompt, str, int], np.ndarray] | None = None,
        pause: float = 0.0,
        weights: str = "a" * 64,
        seen: Seen | None = None,
        views: tuple[str, ...] = ("PA", "Lateral"),
    ) -> None:
        self.paint, self.pause = paint, pause
        self.card = Card(
            name="toy", version="1", kind="toy", sha256=weights, resolution=SIZE, views=list(views), findings=FINDINGS,
            conditions=["findings", "views", "sex", "age", "source"], licence="none", training_data={},
            seen=(seen or Seen.of([], [], key="00")).to_json(), sources=["here"],
        )  # fmt: skip
        self.batches = 0

    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        self.batches += 1
        time.sleep(self.pause)
        studies = []
        for prompt, seed in zip(prompts, seeds, strict=True):
            images = {}
            for number, view in enumerate(prompt.views):
                if self.paint is not None:
                    images[view] = self.paint(prompt, view, seed)
                else:
                    images[view] = draw_chest(dict(prompt.labels), np.random.default_rng([seed, number]))
            studies.append(Study(images, f"Report of {prompt.prompt_id}."))
        return studies


def toy_plan(n: int = 22, views: str = "PA") -> pd.DataFrame:
    labels = ["Effusion|-Mass", "-Effusion|Mass", "-Effusion|-Mass"]
    return pd.DataFrame(
        {
            "prompt_id": [f"p{i:06d}" for i in range(n)],
            "labels": [labels[i % 3] for i in range(n)],
            "sex": ["F" if i % 2 else "M" for i in range(n)],
            "age": [float(20 + i) if i % 5 else float("nan") for i in range(n)],
            "views": views,
            "seed": [1000 + i for i in range(n)],
        }
    )
