"""What radiologists call the findings of NIH ChestX-ray14, CheXpert and the phantom: the one table of synonyms.

Everything is a regular expression over lower-case text. The choice of synonyms follows the mention lists of the
CheXpert labeller (Irvin et al., AAAI 2019, arXiv 1901.07031) in kind, not in letter.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

# Words between a structure and its state that do not belong to another structure
_GAP = r"(?:[\s,]+(?!but\b|normal|lung|aort|vascul|vessel|arter|hil|spine|there\b|costo)[\w/-]+){0,6}?[\s,]+"
_FAR = r"[^.;]{0,90}?\b"  # "heart size, mediastinal contours and pulmonary vessels are normal"
_NORMAL = (
    r"(?<!near )(?<!limits of )(?<!limit of )(?<!upper )(?<!above )normal\b(?! variant)|within normal|unremarkable"
)
_HEART = (
    r"(?:heart|cardiac (?:silhouette|size|contours?|shadow)|cardio-?mediastinal (?:silhouette|contours?|size)"
    r"|cardiothoracic ratio)"
)
_LARGE = r"(?:enlarged|enlargement|increased|large|above (?:the )?(?:upper )?(?:limits?|range) of normal|exceeds)"
_ANGLES = r"(?:costo-?phrenic|cp) (?:angles?|sulcus|sulci|recess(?:es)?)"
_LUNGS = r"(?:lungs|lung fields|lung zones)"


@dataclass(frozen=True)
class Terms:
    """How a finding is said.

    ``names`` are mentions of the finding itself, ``hints`` of what may be it ("nodular density").
    ``states`` pairs a structure with an abnormal state, in either order
    ("the heart is enlarged", "enlarged heart"); ``doubtful`` with a state that leaves the finding open; ``normal``
    with a state that excludes it ("the costophrenic angles are sharp").
    """

    names: tuple[str, ...] = ()
    hints: tuple[str, ...] = ()
    states: tuple[tuple[str, str], ...] = ()
    doubtful: tuple[tuple[str, str], ...] = ()
    normal: tuple[tuple[str, str], ...] = ()

    def mentions(self) -> re.Pattern[str]:
        """Mentions that a negation can turn."""
        either = [f"{s}{_GAP}{a}|{a}[\\s-]+(?:[\\w-]+ ){{0,3}}?{s}" for s, a in self.states]
        return _any([*(rf"\b{name}" for name in self.names), *(rf"\b(?:{e})\b" for e in either)])

    def doubts(self) -> re.Pattern[str]:
        """Statements that leave the finding open."""
        either = [rf"\b{s}{_FAR}(?:{a})|\b(?:{a})[\s-]+(?:[\w-]+ ){{0,3}}?{s}" for s, a in self.doubtful]
        return _any([*(rf"\b{hint}" for hint in self.hints), *either])

    def exclusions(self) -> re.Pattern[str]:
        """Statements of normality that exclude the finding."""
        return _any([rf"\b{s}\b{_FAR}(?:{a})|\b(?:{a}) (?:[\w-]+ ){{0,2}}?{s}" for s, a in self.normal])


_NODULAR = (r"nodularit\w+", r"nodular (?:\w+ )?(?:densit|opacit|lesion)\w*")
_CLEAR = ((_LUNGS, r"clear\b"),)
TERMS: dict[str, Terms] = {
    "Atelectasis": Terms(
        (r"atelecta\w*", r"volume loss", r"loss of (?:lung )?volume", r"collapsed?\b(?!.*pneumothora)"), normal=_CLEAR
    ),
    "Cardiomegaly": Terms(
        (r"(?:mega)?cardiomegaly", r"cardiac enlargement", r"cardiac dilat\w+"),
        states=((_HEART, _LARGE),),
        doubtful=((_HEART, r"upper limits?|upper normal|borderline|top[- ]normal|high normal|prominent"),),
        normal=((_HEART, _NORMAL),),
    ),
    "Consolidation": Terms((r"consolidat\w*", r"air[- ]bronchograms?"), normal=_CLEAR),
    "Edema": Terms(
        (r"(?<!tissue )(?<!subcutaneous )(?<!extremity )o?edema\w*",),
        normal=(*_CLEAR, (r"(?:pulmonary )?(?:vasculature|vascularity|vessels|vascular markings)", _NORMAL)),
    ),
    "Effusion": Terms(
        (r"(?<!pericardial )effusions?\b", r"pleural (?:or|and) pericardial effusions?\b", r"pleural fluid",
         r"h(?:a?emo|ydro)(?:pneumo)?thorax"),
        doubtful=((_ANGLES, r"blunt\w+|obscured|obliterat\w+|indistinct"),),
        normal=((_ANGLES, r"sharp\b|clear\b|preserved|well[- ]defined|intact|" + _NORMAL),),
    ),
    "Emphysema": Terms((r"(?<!subcutaneous )(?<!mediastinal )(?<!tissue )emphysema\w*",)),
    "Enlarged Cardiomediastinum": Terms(
        (r"mediastinal (?:widening|enlargement)",),
        states=((r"(?:cardio-?)?mediastin(?:um|al \w+)", r"(?:widened|enlarged|wide)"),),
        normal=((r"(?:cardio-?)?mediastin(?:um|al \w+)", _NORMAL),),
    ),
    "Fibrosis": Terms((r"(?<!cystic )fibros[ie]s", r"fibrotic")),
    "Fracture": Terms((r"fractur\w*",)),
    "Hernia": Terms((r"hernia\w*",)),
    "Infiltration": Terms((r"infiltrat\w*",), normal=_CLEAR),
    "Lung Lesion": Terms(
        (r"nodules?\b", r"mass(?:es)?\b(?! effect)",
         r"(?:lung|pulmonary|parenchymal|cavitary) lesions?"),
        _NODULAR, normal=_CLEAR,
    ),
    "Lung Opacity": Terms(
        (r"opaci\w+", r"air-?space (?:disease|process\w*)", r"infiltrat\w*", r"consolidat\w*",
         r"(?:patchy|hazy|band-?like|nodular|streaky|ill-defined|increased) densit\w+"),
        normal=_CLEAR,
    ),
    "Mass": Terms((r"mass(?:es)?\b(?! effect)",), normal=_CLEAR),
    "Nodule": Terms((r"nodules?\b",), _NODULAR, normal=_CLEAR),
    "Pleural Other": Terms(
        (r"pleural (?:[\w/]+ ){0,2}?(?:thickening|plaques?|scar\w*|calcification\w*)", r"fibrothorax")
    ),
    "Pleural Thickening": Terms(
        (r"pleural (?:[\w/]+ ){0,2}?thickening", r"thickening of the (?:\w+ )?pleura", r"apical (?:thickening|caps?\b)")
    ),
    "Pneumonia": Terms((r"(?:broncho)?pneumonia\w*", r"pneumonic"), normal=_CLEAR),
    "Pneumothorax": Terms((r"(?:h(?:a?emo|ydro))?pneumothora\w*", r"ptx\b")),
    "Support Devices": Terms(
        (r"catheters?\b", r"picc\b", r"pacemakers?\b", r"pacer\b", r"tubes?\b", r"(?:central|venous|picc) lines?\b",
         r"port-?a-?caths?\b", r"mediport", r"defibrillator", r"icd\b", r"stents?\b",
         r"(?:pacer|pacing|pacemaker) leads?\b",
         r"(?:implanted|support|medical) devices?\b", r"prosthe\w+"),
    ),
}  # fmt: skip
ALIASES = {"Pleural Effusion": "Effusion", "Oedema": "Edema", "Infiltrate": "Infiltration"}


def terms_of(finding: str) -> Terms:
    """The table's entry, or the finding's own name where it has none ("Hilar_Calcification": hilar calcification)."""
    name = " ".join(finding.replace("_", " ").split())
    name = ALIASES.get(name, name)
    if name in TERMS:
        return TERMS[name]
    words = [re.escape(word) for word in name.lower().split()]
    return Terms((r"[\s-]+".join(words) + r"(?:e?s)?\b",))


def _any(patterns: list[str]) -> re.Pattern[str]:
    return re.compile("|".join(f"(?:{p})" for p in patterns) if patterns else r"(?!)")
