"""Of several candidates for each stand-in the best that the gate accepts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.gate.check import Images
from cxraug.gate.duplicates import standardise
from cxraug.gate.gate import Gate, claimed_images
from cxraug.gate.settings import GateSettings
from cxraug.privacy.nearest import nearest, unit
from cxraug.privacy.texts import RarePhrases, problem_of
from cxraug.studies.images import Encoding, encode, read_pixels
from cxraug.synthesis.assembly import set_frame

OWN = "its nearest training image is of the patient it stands for"


@dataclass
class Choice:
    """What was chosen: prompt_id -> the draw; and of the others the reasons of every candidate that was tried."""

    draw: dict[str, int] = field(default_factory=dict)
    refused: dict[str, list[str]] = field(default_factory=dict)
    tried: int = 0


class OwnPatient:
    """Whether an image's nearest real image, by the measure of the copy check, is of the patient it stands for.

    ``real`` : uint8 (n, S, S) training images; ``patients`` (n,) of them.
    """

    def __init__(self, real: np.ndarray, patients: np.ndarray) -> None:
        small = standardise(real)
        self.average = small.mean(axis=0)
        self.real, self.patients = unit(small - self.average), patients

    def hits(self, pixels: np.ndarray, own: np.ndarray) -> np.ndarray:
        """(m,) bool for images (m, S, S) that stand for the patients ``own`` (m,)."""
        if not len(pixels):
            return np.zeros(0, bool)
        _, at = nearest(unit(standardise(pixels) - self.average), self.real)
        return np.asarray((at >= 0) & (self.patients[at] == own), bool)


def choose(
    draws: Sequence[Sequence[dict[str, Any]]],
    folder: Path,
    gate: Gate,
    encoding: Encoding,
    settings: GateSettings,
    *,
    y: pd.DataFrame,
    owners: dict[str, str],
    own: OwnPatient | None,
    phrases: RarePhrases | None,
    forbidden: Any = None,
) -> Choice:
    """Choose a draw for every prompt, or none.

    Parameters
    ----------
    draws : for each draw the provenance lines of all prompts. folder : of the set, which their images are relative to.
    gate : fitted on the real training images; it remembers what was accepted, so that no two stand-ins are twins.
    encoding : of the pixels that the gate was fitted on. settings : the gate's.
    y : labels (prompts x findings: 1, 0, NaN) by prompt_id. owners : prompt_id -> the patient it stands for.
    own : refuses what is nearest to its own patient. phrases, forbidden : judge reports, where given.

    Notes
    -----
    A report that must not be published counts against its study's candidate like a picture that the gate rejects. The
    candidates of a study are tried from the best on, by the gate's scores.
    """
    candidates = [_candidate(draw, lines, folder, encoding) for draw, lines in enumerate(draws)]
    order = _ranking(candidates, gate, y, settings)
    choice = Choice()
    pending = list(y.index)
    for turn in range(len(draws)):
        parts = [candidates[order[prompt][turn]][prompt] for prompt in pending]
        batch = _Batch(parts, y, settings, owners, pending)
        reasons = batch.before(own, phrases, forbidden)
        able = np.array([not reasons[prompt] for prompt in batch.prompts], bool)
        for prompt, why in zip(batch.prompts[able], gate.judge(batch.images.take(able)) if able.any() else [],
                               strict=True):  # fmt: skip
            reasons[prompt] += [reason for reason in why if reason not in reasons[prompt]]
        choice.tried += len(pending)
        left = []
        for prompt in pending:
            if reasons[prompt]:
                choice.refused.setdefault(prompt, []).extend(reasons[prompt])
                left.append(prompt)
            else:
                choice.draw[prompt] = order[prompt][turn]
                choice.refused.pop(prompt, None)
        pending = left
        if not pending:
            break
    return choice


@dataclass(frozen=True)
class _Candidate:
    prompt_id: str
    pixels: np.ndarray  # (views, S, S)
    rows: pd.DataFrame  # of the set's manifest, one per view

    @property
    def report(self) -> str | None:
        report = self.rows["report"].iloc[0]
        return None if report != report or report is None else str(report)


def _candidate(draw: int, lines: Sequence[dict[str, Any]], folder: Path, encoding: Encoding) -> dict[str, _Candidate]:
    frame = set_frame(lines)
    found = {}
    for prompt, rows in frame.groupby("prompt_id", sort=False):
        pixels = np.stack([encode(read_pixels(folder / name), encoding) for name in rows["image"]])
        found[str(prompt)] = _Candidate(str(prompt), pixels, rows)
    return found


def _images(parts: Sequence[_Candidate], y: pd.DataFrame, settings: GateSettings) -> Images:
    """Candidates, view by view, as the gate's checks see them: with what is claimed about each."""
    rows = pd.concat([part.rows for part in parts], ignore_index=True)
    rows = rows.assign(patient_id=rows["prompt_id"])
    pixels = np.concatenate([part.pixels for part in parts])
    return claimed_images(rows, pixels, y.loc[rows["prompt_id"]].to_numpy(np.float32), None, settings)


class _Batch:
    """One candidate of every study that is still without a stand-in, view by view."""

    def __init__(
        self,
        parts: Sequence[_Candidate],
        y: pd.DataFrame,
        settings: GateSettings,
        owners: dict[str, str],
        prompts: Sequence[str],
    ) -> None:
        sizes = [len(part.pixels) for part in parts]
        self.parts = parts
        self.prompts = np.repeat(np.array(prompts, dtype=object), sizes)
        self.owners = np.array([owners[prompt] for prompt in self.prompts], dtype=object)
        self.images = _images(parts, y, settings)

    def before(self, own: OwnPatient | None, phrases: RarePhrases | None, forbidden: Any) -> dict[str, list[str]]:
        """What speaks against each study before the gate is asked."""
        reasons: dict[str, list[str]] = {part.prompt_id: [] for part in self.parts}
        if phrases is not None:
            for part in self.parts:
                problem = None if part.report is None else problem_of(part.report, phrases, forbidden)
                if problem is not None:
                    reasons[part.prompt_id].append(problem)
        if own is not None:
            for prompt in dict.fromkeys(self.prompts[own.hits(self.images.pixels, self.owners)]):
                reasons[prompt].append(OWN)
        return reasons


def _ranking(
    candidates: Sequence[dict[str, _Candidate]], gate: Gate, y: pd.DataFrame, settings: GateSettings
) -> dict[str, list[int]]:
    """For every prompt its draws from the best on: by the smallest score of a view, ties in the order drawn."""
    n = len(candidates)
    if n == 1:
        return {prompt: [0] for prompt in y.index}
    table = np.empty((len(y), n))
    for draw, found in enumerate(candidates):
        parts = [found[prompt] for prompt in y.index]
        sizes = [len(part.pixels) for part in parts]
        scores = np.asarray(gate.scores(_images(parts, y, settings)), float)
        table[:, draw] = np.minimum.reduceat(scores, np.concatenate([[0], np.cumsum(sizes)[:-1]]))
    best = np.argsort(-table, axis=1, kind="stable")
    return {prompt: best[row].tolist() for row, prompt in enumerate(y.index)}
