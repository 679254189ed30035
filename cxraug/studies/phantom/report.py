"""Free-text reports from labels: a small grammar, varied by a random generator, for any finding names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

SIDES = ("right", "left", "bilateral")

# {place} is the side, or side and zone; {Place} the same capitalised; {degree} small, moderate, ...
PRESENT: dict[str, tuple[str, ...]] = {
    "Atelectasis": (
        "Linear opacity in the {place} lung base with mild volume loss, consistent with atelectasis.",
        "{Degree} {place} basilar atelectasis.",
        "Plate-like atelectasis at the {place} base with elevation of the hemidiaphragm.",
        "Band-like density at the {place} base, most likely subsegmental atelectasis.",
    ),
    "Cardiomegaly": (
        "The cardiac silhouette is {degreely} enlarged.",
        "{Degree} cardiomegaly.",
        "The heart is enlarged with an increased cardiothoracic ratio.",
        "Cardiac size is above the upper limit of normal.",
    ),
    "Consolidation": (
        "Patchy airspace consolidation in the {place} lung.",
        "{Degree} {place} airspace opacity with air bronchograms, compatible with consolidation.",
        "There is confluent consolidation in the {place} lung.",
        "Ill-defined {place} parenchymal opacity; consolidation is suspected.",
    ),
    "Edema": (
        "Bilateral perihilar haze and indistinct vessels, in keeping with {degree} pulmonary edema.",
        "{Degree} interstitial pulmonary edema with septal lines.",
        "Vascular congestion and bilateral perihilar opacities suggest edema.",
        "Findings of {degree} pulmonary edema.",
    ),
    "Effusion": (
        "{Degree} {place} pleural effusion.",
        "Blunting of the {place} costophrenic angle from a {degree} pleural effusion.",
        "There is a {degree} {place} pleural effusion with a meniscus.",
        "{Place} pleural fluid is present, {degree} in amount.",
    ),
    "Mass": (
        "A mass larger than 3 cm projects over the {place} lung.",
        "{Place} lung mass; CT is recommended.",
        "Rounded mass-like opacity in the {place} lung, suspicious for neoplasm.",
        "There is a lobulated {place} pulmonary mass.",
    ),
    "Nodule": (
        "A nodule smaller than 3 cm projects over the {place} lung.",
        "{Place} pulmonary nodule; follow-up CT is advised.",
        "Small rounded nodular density in the {place} lung.",
        "Solitary nodule in the {place} lung.",
    ),
    "Pneumothorax": (
        "{Degree} {place} pneumothorax.",
        "There is a {place} pneumothorax with a visible pleural line.",
        "The {place} lung is partly collapsed: {degree} pneumothorax.",
        "{Place} apical lucency without lung markings, consistent with a {degree} pneumothorax.",
    ),
}
ABSENT: dict[str, tuple[str, ...]] = {
    "Atelectasis": ("No atelectasis.", "No volume loss is seen."),
    "Cardiomegaly": ("Heart size is normal.", "The cardiac silhouette is not enlarged.", "Normal heart size."),
    "Consolidation": ("No focal consolidation.", "There is no airspace consolidation."),
    "Edema": ("No pulmonary edema.", "The pulmonary vasculature is normal."),
    "Effusion": ("No pleural effusion.", "The costophrenic angles are sharp.", "No effusion is seen."),
    "Mass": ("No mass.", "No suspicious mass is identified."),
    "Nodule": ("No pulmonary nodule.", "No nodule is seen."),
    "Pneumothorax": ("No pneumothorax.", "There is no pneumothorax.", "No pneumothorax is identified."),
}
PRESENT_ANY = ("There is {name}.", "Findings are consistent with {name}.", "{Name} is present.", "Evidence of {name}.")
ABSENT_ANY = ("No {name}.", "There is no evidence of {name}.", "No {name} is identified.")
UNCERTAIN = ("Possible {name}.", "{Name} cannot be excluded.", "Questionable {name}; clinical correlation is advised.")
NORMAL = (
    "No acute cardiopulmonary abnormality.",
    "The lungs are clear.",
    "Normal chest radiograph.",
    "Lungs are clear and well expanded.",
)
TECHNIQUE = ("{views} of the chest.", "Chest radiograph, {views}.", "{views}.", "Examination: chest, {views}.")
PERSON = ("{age}-year-old {noun}.", "Patient: {noun}, {age} years.", "{noun} aged {age}.", "")
BONES = (
    "The visualized osseous structures are unremarkable.",
    "Bony thorax is intact.",
    "No acute osseous abnormality.",
    "",
    "",
)
OLD_BONES = ("Degenerative changes of the spine.", "Mild osteopenia.", "Age-related degenerative change.", "", "")
OLD_AGE = 60.0
ABSENT_SHARE = 0.45  # of the absent findings that a report cares to mention


def write_report(
    labels: Mapping[str, int],
    sex: str | None,
    age: float | None,
    views: Sequence[str],
    rng: np.random.Generator,
    *,
    details: Mapping[str, Mapping[str, object]] | None = None,
) -> str:
    """Write a short radiology report that says what ``labels`` says and nothing against it.

    Every present and every uncertain finding is mentioned; of the absent ones a random part is. A finding without
    templates of its own gets generic sentences, so any vocabulary works.

    Parameters
    ----------
    labels : finding to 1 (present), 0 (absent) or -1 (uncertain). ``No Finding`` is allowed.
    sex, age : "M"/"F"/None and years/None (NaN counts as None).
    views : e.g. ``("PA", "Lateral")``.
    rng : decides the wording; the same state gives the same text.
    details : per finding ``{"side": "right"|"left"|"bilateral", "severity": 0..1}``; what is missing is drawn
        (a side) or left unsaid (a severity).

    Returns
    -------
    str : "FINDINGS: ... IMPRESSION: ..." on one line.
    """
    details = details or {}

    def pick(options: Sequence[str]) -> str:
        return options[int(rng.integers(len(options)))]

    present = [f for f, y in labels.items() if y == 1 and f != "No Finding"]
    uncertain = [f for f, y in labels.items() if y == -1 and f != "No Finding"]
    absent = [f for f, y in labels.items() if y == 0 and f != "No Finding"]
    sentences = [_fill(pick(PRESENT.get(f, PRESENT_ANY)), f, details.get(f, {}), rng) for f in present]
    sentences += [_fill(pick(UNCERTAIN), f, {}, rng) for f in uncertain]
    sentences += [_fill(pick(ABSENT.get(f, ABSENT_ANY)), f, {}, rng) for f in absent if rng.random() < ABSENT_SHARE]
    if not present and not uncertain:
        sentences.append(pick(NORMAL[1:2] + NORMAL[3:]))
    order = rng.permutation(len(sentences))
    body = [sentences[i] for i in order]
    old = age is not None and age == age and age >= OLD_AGE
    body.append(pick(OLD_BONES if old else BONES))
    head = [pick(TECHNIQUE).format(views=_views(views)), _person(pick(PERSON), sex, age)]
    impression = " ".join(_impression(f, details.get(f, {})) for f in present) or ("" if uncertain else pick(NORMAL))
    if uncertain:
        impression += " Possible " + " and ".join(f.lower() for f in uncertain) + "."
    text = f"{' '.join(p for p in head if p)} FINDINGS: {' '.join(b for b in body if b)} IMPRESSION: {impression}"
    return " ".join(text.split())


def _fill(template: str, finding: str, detail: Mapping[str, object], rng: np.random.Generator) -> str:
    side = str(detail.get("side") or SIDES[int(rng.integers(2))])
    degree, degreely = _degree(detail.get("severity"))
    name = finding.lower()
    text = template.format(
        place=side, Place=side, degree=degree, Degree=degree, degreely=degreely, name=name, Name=name
    )
    text = " ".join(text.split()).replace("a  ", "a ")
    return text[0].upper() + text[1:]


def _degree(severity: object) -> tuple[str, str]:
    if not isinstance(severity, (int, float)):
        return "mild to moderate", "mildly to moderately"
    if severity < 0.4:
        return "mild", "mildly"
    return ("moderate", "moderately") if severity < 0.75 else ("marked", "markedly")


def _impression(finding: str, detail: Mapping[str, object]) -> str:
    side = detail.get("side")
    text = f"{side} {finding.lower()}." if side and side != "none" else f"{finding.lower()}."
    return text[0].upper() + text[1:]


def _views(views: Sequence[str]) -> str:
    names = [v if v in ("PA", "AP", "AP Supine") else v.lower() for v in views if v != "unknown"]
    if not names:
        return "single view"
    return " and ".join(names) + (" views" if len(names) > 1 else " view")


def _person(template: str, sex: str | None, age: float | None) -> str:
    noun = {"F": "woman", "M": "man"}.get(sex or "", "")
    if not noun or age is None or age != age:
        return ""
    text = template.format(age=round(age), noun=noun)
    return text[:1].upper() + text[1:]
