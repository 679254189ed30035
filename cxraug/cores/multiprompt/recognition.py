"""What a given view or report says about the study: findings, sex, age and source, for the conditions left open.

A small denoiser learns slowly that a report which speaks of an effusion wants one in the image. So what is given is
read first, p(attributes | given), and the study is drawn from p(study | given, attributes). The network here is part of
the core and trained on the core's own studies; no measure of a core uses it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from cxraug.cores.conditions import AGE_CENTRE, AGE_LIMIT, AGE_SCALE, Conditions
from cxraug.cores.core import Prompt
from cxraug.cores.multiprompt.alignment import content, modalities
from cxraug.cores.multiprompt.network import REPORT
from cxraug.cores.multiprompt.studyset import StudySet
from cxraug.cores.pixel_core import stream
from cxraug.cores.reading import known_mean, strided
from cxraug.cores.steps import train_small
from cxraug.evaluation.report_labels import report_labels
from cxraug.studies.labels import NO_FINDING, PRESENT

BATCH, RATE = 64, 2e-3
LEGIBLE, REPORTS = 0.95, 1000
SURE = 8.0  # logit of a rule
CHECKPOINT = "recognition.pt"
WIDTHS = (16, 32, 64, 128)


class Recognition(nn.Module):
    """One reader per slot; each says the same things: logits of findings, of female, mean and log deviation of the age,
    logits of sources.

    ``told`` names what studies knew at all (of "sex" and "age"); the rest stays open. ``spelled`` names the findings
    that a rule reads off the training reports as their labels say (:func:`spelled_findings`).
    """

    def __init__(
        self, channels: int, slots: Sequence[int], report: tuple[int, int], findings: Sequence[str],
        sources: Sequence[str], told: Sequence[str], spelled: Sequence[str] = (),
    ) -> None:  # fmt: skip
        super().__init__()
        self.findings, self.sources, self.told = tuple(findings), tuple(sources), tuple(told)
        self.spelled = tuple(spelled)
        outputs, tokens = len(findings) + 3 + len(sources), report[0] * report[1]
        self.images = nn.ModuleDict({str(s): _ImageReader(channels, outputs) for s in slots if s != REPORT})
        self.text = nn.Sequential(
            nn.LayerNorm(tokens), nn.Linear(tokens, 384), nn.SiLU(), nn.Dropout(0.1), nn.Linear(384, 384), nn.SiLU(),
            nn.Linear(384, outputs),
        ) if REPORT in slots else None  # fmt: skip

    @property
    def slots(self) -> tuple[int, ...]:
        """What it reads."""
        return (*sorted(int(s) for s in self.images), *([REPORT] if self.text is not None else []))

    def forward(self, slot: int, shown: Tensor) -> Tensor:
        """(B, findings + 3 + sources) of maps (B, C, S, S) of a view slot, or of report latents (B, tokens, d)."""
        if slot == REPORT:
            assert self.text is not None
            return self.text(shown.flatten(1))  # type: ignore[no-any-return]
        return self.images[str(slot)](shown)  # type: ignore[no-any-return]

    def loss(self, said: Tensor, targets: dict[str, Tensor]) -> Tensor:
        """Negative log likelihood per study, each part averaged over the studies where it is known."""
        f = len(self.findings)
        y, female, age, source = (targets[name] for name in ("y", "female", "age", "source"))
        parts = [known_mean(functional.binary_cross_entropy_with_logits, said[:, i], y[:, i]) for i in range(f)]
        parts.append(known_mean(functional.binary_cross_entropy_with_logits, said[:, f], female))
        told = torch.isfinite(age)
        if told.any():
            mean, log_deviation = said[told, f + 1], said[told, f + 2].clamp(-4, 2)
            parts.append((((age[told] - mean) / log_deviation.exp()).square() / 2 + log_deviation).mean())
        if len(self.sources) > 1 and (source >= 0).any():
            parts.append(functional.cross_entropy(said[source >= 0, f + 3 :], source[source >= 0]))
        return torch.stack(parts).sum()

    @torch.no_grad()
    def says(self, text: str, latent: Tensor) -> Tensor:
        """What a report says, as :meth:`forward` (findings + 3 + sources); ``latent`` (1, tokens, d) is of ``text``.

        A rule that reads a finding right where the truth is known overrules the network, which knows reports in one
        piece, not drawn ones that contradict themselves.
        """
        said: Tensor = self(REPORT, latent)[0]
        found = report_labels(text, self.spelled)
        for name in self.spelled:
            said[self.findings.index(name)] = SURE if found.get(name) == PRESENT else -SURE
        return said

    @torch.no_grad()
    def complete(self, prompt: Prompt, shown: dict[int, Tensor], seed: int) -> Prompt:
        """``prompt`` with what it leaves open drawn given what it shows, slot -> content (1, ...).

        Several readings are averaged. Every attribute has a random stream of its own, so what a prompt asks for changes
        nothing else.
        """
        readings = [
            self.says(prompt.report, x) if slot == REPORT and prompt.report else self(slot, x)[0]
            for slot, x in sorted(shown.items())
        ]
        said = torch.stack(readings).double().mean(0).cpu()
        f, labels = len(self.findings), dict(prompt.labels)

        def chance(name: str) -> float:
            return float(torch.rand(1, generator=stream(seed, f"recognised {name}"), dtype=torch.float64))

        if labels.get(NO_FINDING) != 1:
            for at, name in enumerate(self.findings):
                if name not in labels:
                    labels[name] = int(chance(name) < float(said[at].sigmoid()))
        sex, age, source = prompt.sex, prompt.age, prompt.source
        if sex is None and "sex" in self.told:
            sex = "F" if chance("sex") < float(said[f].sigmoid()) else "M"
        if age is None and "age" in self.told:
            spread = float(torch.randn(1, generator=stream(seed, "recognised age"), dtype=torch.float64))
            drawn = float(said[f + 1]) + spread * math.exp(float(said[f + 2].clamp(-4, 2)))
            age = min(max(AGE_CENTRE + AGE_SCALE * drawn, 0.0), float(AGE_LIMIT))
        if not source and len(self.sources) > 1:
            steps = said[f + 3 :].softmax(0).cumsum(0)
            source = self.sources[min(int((steps <= chance("source")).sum()), len(self.sources) - 1)]
        return replace(prompt, labels=labels, sex=sex, age=age, source=source)


def spelled_findings(studies: StudySet, findings: Sequence[str]) -> list[str]:
    """Those of ``findings`` that :func:`report_labels` reads off the reports as the labels say, present and absent each
    in at least :data:`LEGIBLE` of up to :data:`REPORTS` studies."""
    rows = np.flatnonzero([bool(r) for r in studies.reports])
    rows = rows[np.linspace(0, len(rows) - 1, min(REPORTS, len(rows))).astype(int)] if len(rows) else rows
    read = [report_labels(str(studies.reports[row]), findings) for row in rows]
    kept = []
    for name in findings:
        y = studies.conditions.y[studies.first[rows], studies.conditions.findings.index(name)]
        right = (np.array([r.get(name) == PRESENT for r in read]) == (y == 1)).astype(float)
        if all((y == value).any() and right[y == value].mean() >= LEGIBLE for value in (0, 1)):
            kept.append(name)
    return kept


def train_recognition(studies: StudySet, folder: Path, *, steps: int, key: str, seed: int = 0) -> Recognition | None:
    """Train the readers on whatever ``studies`` know, resumable; None where nothing is to be read or ``steps`` is 0.

    ``studies`` are encoded and have their report latents. ``key`` names the training: a checkpoint of another one is
    refused.
    """
    conditions, slots = studies.conditions, modalities(studies)
    labelled = np.isfinite(conditions.y).any(0)
    if not steps or not labelled.any() or not slots:
        return None
    findings = [name for name, known in zip(conditions.findings, labelled, strict=True) if known]
    sources = sorted({str(s) for s in conditions.source if s})
    shape = (0, 0) if studies.latents is None else (studies.latents.shape[1], studies.latents.shape[2])
    targets = _targets(conditions, findings, sources)
    rows = {s: studies.with_slots([s]) if s != REPORT else np.flatnonzero([bool(r) for r in studies.reports])
            for s in slots}  # fmt: skip
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        spelled = spelled_findings(studies, findings) if REPORT in slots else []
        model = Recognition(studies.maps.shape[1], slots, shape, findings, sources, conditions.known(), spelled)

        def loss(step: int) -> Tensor:
            slot = slots[step % len(slots)]
            picked = rows[slot][torch.randint(len(rows[slot]), (BATCH,)).numpy()]
            images = torch.from_numpy(studies.first[picked] if slot == REPORT else studies.views[picked, slot])
            said = model(slot, content(studies, slot, picked, augment=True))
            return model.loss(said, {name: part[images] for name, part in targets.items()})

        path = Path(folder) / CHECKPOINT
        train_small(model, loss, path, steps=steps, rate=RATE, key=key, seed=seed, what="recognition")
    return model.eval()


class _ImageReader(nn.Module):
    """Strided convolutions, then mean and maximum over the picture."""

    def __init__(self, channels: int, outputs: int) -> None:
        super().__init__()
        layers = [strided(channels, WIDTHS[0], 5, 2)]
        for a, b in pairwise(WIDTHS):
            layers += [strided(a, b, 3, 2), strided(b, b, 3, 1)]
        self.body, self.head = nn.Sequential(*layers), nn.Linear(2 * WIDTHS[-1], outputs)

    def forward(self, maps: Tensor) -> Tensor:
        x = self.body(maps)
        return self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], 1))  # type: ignore[no-any-return]


def _targets(conditions: Conditions, findings: Sequence[str], sources: Sequence[str]) -> dict[str, Tensor]:
    columns = [conditions.findings.index(name) for name in findings]
    female = np.select([conditions.sex == "F", conditions.sex == "M"], [1.0, 0.0], np.nan)
    place = {name: i for i, name in enumerate(sources)}
    return {
        "y": torch.from_numpy(conditions.y[:, columns]).float(),
        "female": torch.from_numpy(female).float(),
        "age": torch.from_numpy((conditions.age - AGE_CENTRE) / AGE_SCALE).float(),
        "source": torch.tensor([place.get(str(s), -1) for s in conditions.source]),
    }
