"""A core that honours every condition by painting it, so that what reaches a core can be read off its images."""

from __future__ import annotations

import numpy as np

from cxraug.cores.core import Card, GenerativeCore, Prompt, Study
from cxraug.cores.given import read_given
from cxraug.studies.seen import Seen

SIZE = 32
FINDINGS = ["Effusion", "Mass"]
BOX, LUNG = 250, 40  # the level inside a box, and what lungs add


class PaintingCore(GenerativeCore):
    """Grey level = the seed, or the mean of the references; lungs are lighter, boxes white."""

    batch_size = 2

    def __init__(self, weights: str = "a" * 64) -> None:
        self.card = Card(
            name="painting", version="1", kind="painting", sha256=weights, resolution=SIZE,
            views=["PA", "AP", "Lateral"], findings=FINDINGS, licence="none", training_data={}, sources=["here"],
            conditions=["views", "findings", "sex", "age", "source", "report", "mask", "boxes", "reference_image"],
            seen=Seen.of([], [], key="00").to_json(), settings={"writes_report": True},
        )  # fmt: skip
        self.sampler = {"steps": 1}
        self.batches = 0

    def configure(self, **sampler) -> None:
        self.sampler = {**self.sampler, **{k: v for k, v in sampler.items() if v is not None}}

    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        self.batches += 1
        return [self._study(prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]

    def _study(self, prompt: Prompt, seed: int) -> Study:
        given = read_given(prompt, resolution=SIZE, findings=FINDINGS)
        level = np.mean([p.mean() for p in given.images.values()]) if given.images else 10 + seed % 100
        if prompt.report is not None:
            level = len(prompt.report)
        images = {}
        for view in prompt.views:
            pixels = np.full((SIZE, SIZE), int(level), np.uint8)
            if view in given.masks:
                pixels[given.masks[view]["lung"]] += LUNG
            for _, x, y, w, h in given.boxes.get(view, []):
                left, top, right, bottom = (round(side * SIZE) for side in (x, y, x + w, y + h))
                pixels[top:bottom, left:right] = BOX
            images[view] = pixels
        told = ", ".join(f"{name} {value}" for name, value in sorted(prompt.labels.items()))
        return Study(images, f"{told or 'nothing'}; {prompt.sex} {prompt.age} {prompt.source}; seed {seed}")
