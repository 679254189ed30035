"""Captions for cores that take text: demographics and an impression, written from a prompt.

No two studies should share a caption by default (a core that is asked the same text a hundred times varies the noise
alone), so an impression is worded anew for every seed, or drawn from a table of impressions.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from cxraug.cores.core import Prompt
from cxraug.cores.spec import CoreSpec
from cxraug.errors import InputError
from cxraug.seeds import derive_seed
from cxraug.storage import file_sha256
from cxraug.studies.labels import NO_FINDING, parse_labels

DEGREES = ("mild", "moderate", "severe")
SIDES = ("right", "left", "bilateral")
SEX = {"F": "female", "M": "male"}

# {d} degree, {s} side; a finding that is not here is named as it is written
PHRASES: Mapping[str, tuple[str, ...]] = {
    "Atelectasis": ("{s} basilar atelectasis", "{d} atelectasis at the {s} base", "{s} subsegmental atelectasis"),
    "Cardiomegaly": ("{d} cardiomegaly", "{d} enlargement of the cardiac silhouette", "{d}ly enlarged heart"),
    "Consolidation": ("{s} consolidation", "{s} airspace consolidation", "{d} {s} focal consolidation"),
    "Edema": ("{d} pulmonary edema", "{d} interstitial edema", "findings of {d} pulmonary edema"),
    "Effusion": ("{d} {s} pleural effusion", "{s} pleural effusion, {d} in size", "{d} {s} effusion"),
    "Emphysema": ("{d} emphysema", "hyperinflated lungs, compatible with {d} emphysema"),
    "Enlarged Cardiomediastinum": ("enlarged cardiomediastinal silhouette", "{d} mediastinal widening"),
    "Fibrosis": ("{s} pulmonary fibrosis", "{d} fibrotic changes, {s}"),
    "Fracture": ("{s} rib fracture", "fracture of a {s} rib"),
    "Hernia": ("hiatal hernia", "{d} hiatal hernia"),
    "Infiltration": ("{s} infiltrate", "{d} {s} infiltration"),
    "Lung Lesion": ("{s} lung lesion", "focal {s} lung lesion"),
    "Lung Opacity": ("{s} lung opacity", "{d} {s} opacities"),
    "Mass": ("{s} lung mass", "mass in the {s} lung"),
    "Nodule": ("{s} pulmonary nodule", "nodule in the {s} lung"),
    "Pleural Thickening": ("{s} pleural thickening", "{d} {s} pleural thickening"),
    "Pneumonia": ("{s} pneumonia", "{d} {s} pneumonia", "{s} airspace disease, compatible with pneumonia"),
    "Pneumothorax": ("{s} pneumothorax", "{d} {s} pneumothorax", "{s} apical pneumothorax"),
    "Support Devices": ("support devices in place", "lines and tubes in place"),
}
HEALTHY = (
    "No acute cardiopulmonary abnormality.", "No acute cardiopulmonary process.", "No evidence of acute disease.",
    "Normal chest.", "The lungs are clear; the heart is of normal size.", "Unremarkable chest radiograph.",
)  # fmt: skip

BESIDE = (  # what says nothing of any finding, so that the same finding is told in many ways
    "The trachea is midline.", "The upper abdomen is unremarkable.", "The soft tissues are unremarkable.",
    "No free air under the diaphragm.", "Inspiration is adequate.", "The patient is well positioned.",
    "No acute osseous abnormality.", "The bones are intact.",
)  # fmt: skip
BONES = BESIDE[-2:]


def plain(prompt: Prompt, view: str, impression: str) -> str:
    """Chest X-ray, PA view. 64 year old female. <impression>"""
    who = " ".join(filter(None, [_age(prompt, " year old"), prompt.race, SEX.get(prompt.sex or "")]))
    return _sentences(f"Chest X-ray, {view} view" if view != "unknown" else "Chest X-ray", who, impression)


def roentgen_v2(prompt: Prompt, view: str, impression: str) -> str:
    """50 year old White female. <impression>"""
    who = " ".join(filter(None, [_age(prompt, " year old"), prompt.race, SEX.get(prompt.sex or "")]))
    return _sentences(who, impression)


def chexgen(prompt: Prompt, view: str, impression: str) -> str:
    """sex:Male, age:71.0, race:Black. <impression>"""
    sex = SEX[prompt.sex].capitalize() if prompt.sex else ""
    parts = [("sex", sex), ("age", "" if prompt.age is None else f"{prompt.age:.1f}"), ("race", prompt.race or "")]
    return _sentences(", ".join(f"{name}:{value}" for name, value in parts if value), impression)


PRESETS: Mapping[str, Callable[[Prompt, str, str], str]] = {
    "plain": plain, "roentgen-v2": roentgen_v2, "chexgen": chexgen,
}  # fmt: skip

WHO = frozenset({"sex", "age", "race"})


class Captions:
    """Writes the caption of a prompt; the same prompt, view and seed give the same text.

    Parameters
    ----------
    preset : one of :data:`PRESETS`, or a template of your own with the fields ``{age}``, ``{sex}`` (female, male),
        ``{race}``, ``{view}``, ``{impression}`` and ``{findings}``. A field of a template that a prompt leaves open is
        an error; a preset leaves it out.
    table : CSV or Parquet with the columns ``labels`` (``A|B``) and ``impression``; a study gets an impression of its
        own findings, or, where the table has none, one of each of its findings, joined. Without a table impressions
        are worded from :data:`PHRASES`.

    A report that a prompt gives is the impression. Findings that are asked to be absent are not written: to name a
    finding risks drawing it.
    """

    def __init__(self, preset: str = "plain", table: Path | None = None) -> None:
        fields = re.findall(r"{([^{}]*)}", preset)
        known = ("age", "sex", "race", "view", "impression", "findings")
        if preset not in PRESETS and not set(fields) & {"impression", "findings"}:
            expected = f"{', '.join(PRESETS)}, or a text with {{impression}} or {{findings}}"
            raise InputError("not a template of captions", found=preset, expected=expected)
        for name in fields:
            if name not in known:
                expected = ", ".join(f"{{{field}}}" for field in known)
                raise InputError("template of captions: unknown field", found=f"{{{name}}}", expected=expected)
        self.preset, self.fields = preset, tuple(fields)
        self.says = frozenset(fields) if preset not in PRESETS else WHO | ({"view"} if preset == "plain" else set())
        self.table = None if table is None else _read_table(table)
        self.settings = {"prompt": preset, "impressions": None if table is None else file_sha256(table)}
        self.file = table

    def conditions(self, known: Sequence[str]) -> list[str]:
        """Those of ``known`` that the captions say: what they leave out cannot be asked for."""
        silent = WHO - self.says
        if "impression" not in self.says and self.preset not in PRESETS:
            silent |= {"report", "severity"}
        elif self.table is not None:
            silent |= {"severity"}
        return [name for name in known if name not in silent]

    def views(self, asked: str | None, known: Sequence[str]) -> list[str]:
        """The views that may be asked for: those of the option ``asked`` (PA|AP), or the ``known`` ones.

        Only one, the first known, where captions say no view: several would be drawn alike.
        """
        chosen = asked.split("|") if asked else list(known if "view" in self.says else known[:1])
        if len(chosen) > 1 and "view" not in self.says:
            raise InputError(f"captions of the form {self.preset} say no view, so several would be drawn alike",
                             found=f"+view:{asked}", expected="one view, or +prompt: with {view}")  # fmt: skip
        return chosen

    def __call__(self, prompt: Prompt, view: str, seed: int) -> str:
        """The caption of ``view``; views of one study share the impression."""
        if prompt.report and "severity" in prompt.conditions:
            raise InputError(f"prompt {prompt.prompt_id}: a report is given, and the severity of its findings",
                             expected="one of them")  # fmt: skip
        impression = prompt.report or self._impression(prompt, np.random.default_rng(derive_seed(seed, "impression")))
        if self.preset in PRESETS:
            return PRESETS[self.preset](prompt, view, impression)
        healthy = "no finding" if _healthy(prompt) else ""
        values = {
            "age": _age(prompt, ""), "sex": SEX.get(prompt.sex or "", ""), "race": prompt.race or "", "view": view,
            "impression": impression, "findings": ", ".join(present(prompt)) or healthy,
        }  # fmt: skip
        for name in self.fields:
            if not values[name]:
                raise InputError(f"prompt {prompt.prompt_id}: the template of captions names {{{name}}}, which the "
                                 "prompt leaves open", expected=f"a plan with {name}, or another template")  # fmt: skip
        return re.sub(r"{([^{}]*)}", lambda field: values[field[1]], self.preset)

    def _impression(self, prompt: Prompt, rng: np.random.Generator) -> str:
        findings = present(prompt)
        if self.table is not None:
            return self._from_table(prompt, findings, rng)
        if not findings and not _healthy(prompt):
            return "Chest radiograph."
        degrees = _degrees(prompt)
        order = [findings[i] for i in rng.permutation(len(findings))]
        said = [_worded(name, degrees.get(name), rng) for name in order] or [str(rng.choice(HEALTHY))]
        beside = [text for text in BESIDE if text not in BONES or "Fracture" not in findings]
        return " ".join([*said, *rng.choice(beside, int(rng.integers(0, 3)), replace=False)])

    def _from_table(self, prompt: Prompt, findings: Sequence[str], rng: np.random.Generator) -> str:
        assert self.table is not None
        whole = self.table.get(frozenset(findings))
        if whole is not None:
            return str(rng.choice(whole))
        parts = [self.table.get(frozenset([name])) for name in findings]
        missing = [name for name, part in zip(findings, parts, strict=True) if part is None]
        if missing or not parts:
            what, expected = (
                missing[0] if missing else NO_FINDING,
                "a row with these labels, or with each finding alone",
            )
            raise InputError(f"prompt {prompt.prompt_id}: no impression of {what}", file=self.file, expected=expected)
        return " ".join(str(rng.choice(part)) for part in parts if part is not None)


def present(prompt: Prompt) -> list[str]:
    """The findings that a prompt asks for."""
    return [name for name, value in prompt.labels.items() if value == 1 and name != NO_FINDING]


def _healthy(prompt: Prompt) -> bool:
    said = prompt.labels.get(NO_FINDING)
    return said == 1 or (said is None and bool(prompt.labels) and set(prompt.labels.values()) == {0})


def _worded(finding: str, degree: str | None, rng: np.random.Generator) -> str:
    phrases = PHRASES.get(finding, (finding.lower(),))
    phrases = tuple(p for p in phrases if "{d}" in p) or (f"{{d}} {phrases[0]}",) if degree else phrases
    text = str(rng.choice(phrases))
    text = text.replace("{d}", degree or str(rng.choice(DEGREES))).replace("{s}", str(rng.choice(SIDES)))
    return f"{text[0].upper()}{text[1:]}."


def _degrees(prompt: Prompt) -> dict[str, str]:
    """Condition ``severity``: a degree of all findings, or finding -> degree."""
    asked = prompt.conditions.get("severity")
    if asked is None:
        return {}
    found = dict.fromkeys(present(prompt), asked) if isinstance(asked, str) else asked
    if not isinstance(found, Mapping) or not set(found.values()) <= set(DEGREES) or set(found) - set(present(prompt)):
        raise InputError(f"prompt {prompt.prompt_id}: severity", found=asked,
                         expected=f"{', '.join(DEGREES)}, or an object: finding asked for -> one of them")  # fmt: skip
    return dict(found)


def _age(prompt: Prompt, unit: str) -> str:
    return "" if prompt.age is None else f"{prompt.age:.0f}{unit}"


def _sentences(*parts: str) -> str:
    return " ".join(part if part.endswith(".") else f"{part}." for part in parts if part)


def _read_table(path: Path) -> dict[frozenset[str], np.ndarray]:
    if not path.is_file():
        raise InputError("no such table of impressions", file=path)
    frame = pd.read_parquet(path) if path.suffix == ".parquet" else pd.read_csv(path, dtype=str, keep_default_na=False)
    for column in ("labels", "impression"):
        if column not in frame:
            raise InputError("table of impressions: a column is missing", file=path, column=column,
                             found=", ".join(map(str, frame.columns)))  # fmt: skip
    frame = frame.astype(object).where(frame.notna(), "")  # Parquet has missing texts
    rows: dict[frozenset[str], list[str]] = {}
    for row, (labels, text) in enumerate(zip(frame["labels"], frame["impression"], strict=True), 2):
        try:
            named = parse_labels(str(labels or ""))
        except ValueError as error:
            raise InputError(f"labels: {error}", file=path, row=row, column="labels") from None
        if not str(text or "").strip():
            raise InputError("an impression is empty", file=path, row=row, column="impression")
        if any(value not in (0, 1) for value in named.values()):
            continue  # an uncertain finding is neither in nor out of what a study is asked to show
        held = frozenset(name for name, value in named.items() if value == 1 and name != NO_FINDING)
        rows.setdefault(held, []).append(" ".join(str(text).split()))
    if not rows:
        raise InputError("table of impressions: no rows of certain labels", file=path)
    return {labels: np.array(texts, dtype=object) for labels, texts in rows.items()}


def captions_of(spec: CoreSpec, preset: str = "plain") -> Captions:
    """What a core's options ``prompt`` and ``impressions`` say."""
    table = spec.options.get("impressions")
    return Captions(spec.options.get("prompt", preset), None if table is None else Path(table))
