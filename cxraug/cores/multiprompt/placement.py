"""Where findings lie: boxes of training studies, from which boxes are drawn for findings that are asked for without.

Images given findings are then drawn in two steps, p(boxes | findings) p(image | findings, boxes). A denoiser that must
find a place for a small lesion on its way averages over all places while noise is high, and then tends to leave the
lesion out.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from cxraug.cores.conditions import Vocabulary
from cxraug.cores.multiprompt.network import FRONTAL, LATERAL_SLOT
from cxraug.cores.multiprompt.studyset import StudySet

STUDIES = 256  # at most, per finding
MOVE, GROW = 0.02, 0.05  # of a drawn box: deviation of its place (share of the side) and of the logarithm of its size
USUAL = 0.8  # share of the positive studies with boxes that must have one of a finding, for it to be drawn


@dataclass(frozen=True)
class Placement:
    """A smoothed sample of boxes.

    ``boxes`` (rows, 7): place in the vocabulary of findings, number of the study (from 0, per finding), slot, and x, y,
    width, height as fractions of the side. ``frequency`` (findings,): share of studies that have each finding, for
    those that a prompt leaves open.
    """

    boxes: Tensor
    frequency: Tensor

    @property
    def findings(self) -> set[int]:
        """Places in the vocabulary of the findings that have boxes."""
        return set(self.boxes[:, 0].long().tolist())

    @property
    def slots(self) -> set[int]:
        """Views that have boxes."""
        return set(self.boxes[:, 2].long().tolist())

    def over(self, earlier: Placement | None) -> Placement:
        """These boxes, and for findings without any those of ``earlier``, whose vocabulary is the beginning of this."""
        if earlier is None:
            return self
        kept = earlier.findings - self.findings
        frequency = self.frequency.clone()
        for finding in kept:
            frequency[finding] = earlier.frequency[finding]
        rows = torch.tensor([int(f) in kept for f in earlier.boxes[:, 0].tolist()], dtype=torch.bool)
        return Placement(torch.cat([self.boxes, earlier.boxes[rows]]), frequency)

    def draw(self, finding: int, slots: Iterable[int], random: torch.Generator) -> dict[int, Tensor]:
        """Boxes (n, 5) of ``finding`` by slot, those of one training study, moved and scaled a little.

        Views share height and scale, as both show the same body. A slot where that study has none gets none.
        """
        rows = self.boxes[self.boxes[:, 0] == finding]
        picked = int(torch.randint(int(rows[:, 1].max()) + 1, (1,), generator=random))
        rows = rows[rows[:, 1] == picked]
        down, *across = (MOVE * torch.randn(3, generator=random)).tolist()
        scale = float(torch.exp(GROW * torch.randn(1, generator=random)))
        found = {}
        for slot in slots:
            x, y, w, h = rows[rows[:, 2] == slot][:, 3:].unbind(1)
            x = x + across[0 if slot == FRONTAL else 1] + w * (1 - scale) / 2
            y = y + down + h * (1 - scale) / 2
            w, h = (w * scale).clamp(max=1), (h * scale).clamp(max=1)
            x, y = torch.minimum(x.clamp(min=0), 1 - w), torch.minimum(y.clamp(min=0), 1 - h)
            found[slot] = torch.stack([torch.full_like(x, float(finding)), x, y, w, h], 1)
        return found


def fit_placement(studies: StudySet, vocabulary: Vocabulary, seed: int = 0) -> Placement | None:
    """Boxes of up to :data:`STUDIES` positive studies of every finding that usually has one; None without any.

    Studies of which at least one view has its boxes known count, and of them those views.
    """
    views, y = studies.views, studies.conditions.y
    marked = ((studies.boxes_known[views] > 0) & (views >= 0)).any(1)
    rng = np.random.default_rng(seed)
    kept: list[np.ndarray] = []
    frequency = torch.zeros(len(vocabulary.findings))
    for column, name in enumerate(studies.conditions.findings):
        label, place = y[studies.first, column], vocabulary.findings.index(name)
        frequency[place] = float((label == 1).sum() / max(1, np.isfinite(label).sum()))
        positive = np.flatnonzero(marked & (label == 1))
        found = [rows for study in positive.tolist() if len(rows := _boxes(studies, study, column))]
        if found and len(found) >= USUAL * len(positive):
            for number, at in enumerate(rng.permutation(len(found))[:STUDIES]):
                numbered = np.broadcast_to([place, number], (len(found[at]), 2))
                kept.append(np.concatenate([numbered, found[at]], 1))
    return Placement(torch.from_numpy(np.concatenate(kept)).float(), frequency) if kept else None


def _boxes(studies: StudySet, study: int, finding: int) -> np.ndarray:
    """(n, 5) slot, x, y, width, height of the boxes of a finding in all views of a study."""
    images = {slot: studies.views[study, slot] for slot in (FRONTAL, LATERAL_SLOT)}
    rows = [
        [slot, *box[1:]]
        for slot, image in images.items() if image >= 0 and studies.boxes_known[image]
        for box in studies.boxes[image] if box[0] == finding
    ]  # fmt: skip
    return np.array(rows).reshape(-1, 5)
