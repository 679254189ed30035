"""The gate of a sampler: what its core drew is judged by the rows that the sampler was given, and by nothing else."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from cxraug.balance.attributes import ASKED, real_attributes
from cxraug.balance.refusal import SamplingError
from cxraug.cores.core import GenerativeCore
from cxraug.gate.settings import GateSettings
from cxraug.studies.images import Encoding

REDRAWS = 10  # of the default: with the one of ``cxraug gate`` a good core, too, would leave some class unfilled
PATIENT = "patient_id"
NETWORKS = "gate"  # inside a set's folder
CANNOT = ("abstain", "rejects nothing", "not judged")  # in the gate's notes: what it could not check
UNKNOWN = "the real data or the reader do not know it"  # nobody said it, and nobody asked for it
REJECTED = ("prompt_id", "drawn_for", "donor", "draw", "seed", "sha256", "reasons")


def gate_settings(gate: Any) -> GateSettings | None:
    """What ``gate`` of a sampler asks for: None and False nothing, True and ``"default"`` the default settings.

    Raises :class:`SamplingError` for settings that name networks trained elsewhere, which may have seen rows that a
    sampler in a cross-validation must not, and for groups that no synthetic image has.
    """
    if gate is None or gate is False:
        return None
    settings = gate if isinstance(gate, GateSettings) else GateSettings(max_redraws=REDRAWS)
    if named := list(settings.networks()):
        raise SamplingError("gate names networks that were trained elsewhere", found=named[0],
                            expected="none: a sampler's gate learns from the rows it is given")  # fmt: skip
    groups = [] if settings.per_group in (None, "all") else str(settings.per_group).split("*")
    if strange := [group for group in groups if group.strip() not in ASKED]:
        raise SamplingError("bad per_group of the gate", found=strange[0], expected=f"some of {', '.join(ASKED)}")
    return settings.model_copy(update={"reports": False})  # a sampler asks for none


@dataclass(frozen=True)
class Judged:
    """A set after its gate.

    Attributes
    ----------
    lines : (m,) provenance line of the last draw of each prompt, in the order of the plan.
    accepted : (m,) whether it was accepted.
    rejected : a row per rejected image of any draw: ``place`` in the plan, ``draw``, ``seed``, ``sha256``, ``reasons``.
    summary : the content of ``gate.json``.
    """

    lines: list[dict[str, Any]]
    accepted: np.ndarray
    rejected: pd.DataFrame
    summary: dict[str, Any]

    def cannot(self) -> list[str]:
        """What the gate could not check, in its own words."""
        notes = self.summary["notes"]
        return [note for note in notes if any(word in note for word in CANNOT) and UNKNOWN not in note]

    def rejected_frame(self, made: pd.DataFrame) -> pd.DataFrame:
        """One row per rejected image, its index the row of the result that it was drawn for, as in ``made``.

        ``made`` is :func:`cxraug.balance.drawing.provenance_frame`. Columns ``REJECTED``.
        """
        asked = made.iloc[self.rejected["place"].to_numpy(int)][["prompt_id", "drawn_for", "donor"]]
        rest = self.rejected.drop(columns="place").set_index(asked.index)
        return pd.concat([asked, rest], axis=1)[list(REJECTED)]

    def refusal(self, core: str, wanted: np.ndarray) -> SamplingError | None:
        """The error where a class or finding is not filled; ``wanted`` (m,) is what each row was drawn for."""
        if self.accepted.all():
            return None
        names = dict.fromkeys(wanted[~self.accepted].tolist())
        short = ", ".join(
            f"{self.accepted[wanted == name].sum()} of {(wanted == name).sum()} asked for {name!r}" for name in names
        )
        why = Counter(reason for text in self.rejected["reasons"] for reason in text.split("|"))
        told = ", ".join(f"{reason} ({n})" for reason, n in why.most_common())
        draws = 1 + self.summary["settings"]["max_redraws"]
        return SamplingError(
            f"the gate refused too much of core {core}: accepted are {short}, of {draws} draw{'s' * (draws > 1)} of "
            f"each at most; reasons: {told}",
            expected="all of them: another core, a smaller sampling_strategy, or a gate that draws more or asks less "
            "(gate_ and rejected_ tell the rest)",
        )


@dataclass(frozen=True)
class SamplingGate:
    """The gate of a generated set, fitted on the rows that a sampler was given.

    Parameters
    ----------
    settings : as :func:`gate_settings` returns them.
    findings, texts : what y annotates (F,), and the label text of each real row (n,).
    frame : sensitive features of the real rows; ``patient_id`` says whose images belong together, without it each row
        is a patient of its own.
    pixels : uint8 (n, S, S). sha : (n,) digests of native pixels. encoding : of ``pixels``, and of synthetic images.
    view : of the real rows, where ``frame`` does not say it. seed : of the networks and their folds.
    """

    settings: GateSettings
    findings: tuple[str, ...]
    texts: np.ndarray
    frame: pd.DataFrame
    pixels: np.ndarray
    sha: Sequence[str]
    encoding: Encoding
    view: str | None
    seed: int

    def judge(self, folder: Path, core: GenerativeCore) -> Judged:
        """Judge the set in ``folder`` by :func:`cxraug.gate.gate.gate_set`; ``core`` draws again what is rejected."""
        from cxraug.gate.gate import gate_set
        from cxraug.studies.cache import PixelCache
        from cxraug.studies.manifest import Manifest
        from cxraug.synthesis.assembly import PROVENANCE

        rows = self._rows()
        annotated = dict.fromkeys(sorted(set(rows["source"])), self.findings)
        cache = PixelCache(self.pixels, np.array(self.sha), np.zeros(len(rows), np.uint8))
        summary = gate_set(
            folder, Manifest(rows, Path(), None, self.findings, annotated), cache, self.encoding, self.settings,
            findings=self.findings, folder=folder / NETWORKS, core=core, seed=self.seed,
        )  # fmt: skip
        lines = [json.loads(line) for line in (folder / PROVENANCE).read_text().splitlines()]
        last = {line["index"]: line for line in sorted(lines, key=lambda line: line["draw"])}
        why = summary["rejected"]
        found = [
            {"place": line["index"], **{name: line[name] for name in ("draw", "seed", "sha256")},
             "reasons": "|".join(why[line["image"]])}
            for line in lines if line["image"] in why
        ]  # fmt: skip
        columns = ["place", "draw", "seed", "sha256", "reasons"]
        final = [last[place] for place in sorted(last)]
        accepted = np.array([line["image"] not in why for line in final], bool)
        return Judged(final, accepted, pd.DataFrame(found, columns=columns), summary)

    def _rows(self) -> pd.DataFrame:
        """The real rows as a manifest has them."""
        n, known = len(self.pixels), real_attributes(self.frame, self.view)
        number = pd.Series([f"row {i}" for i in range(n)])
        patient = number
        if PATIENT in self.frame:
            given = self.frame[PATIENT]
            patient = given.astype(object).where(given.notna(), number).astype(str)
        text = {name: pd.Series(known.get(name, [""] * n), dtype="str") for name in ("sex", "race", "source", "view")}
        return pd.DataFrame(
            {
                "image": number, "patient_id": patient, "study_id": number, **text,
                "sex": text["sex"].where(text["sex"] != ""), "race": text["race"].where(text["race"] != ""),
                "age": np.asarray(known.get("age", np.full(n, np.nan)), dtype=float),
                "labels": pd.Series(self.texts, dtype="str"), "split": "train",
            }
        )  # fmt: skip
