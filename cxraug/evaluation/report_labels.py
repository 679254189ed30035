"""Findings from report text by rule: present, absent or uncertain, and how far reports say what was asked of them.

In the manner of NegEx (Chapman et al., J Biomed Inform 34, 2001: trigger phrases with a scope that runs to the end of
the sentence or to a terminating word, pseudo-negations that are none) and of the CheXpert labeller (Irvin et al., AAAI
2019, arXiv 1901.07031: mention, classification, aggregation in which present beats uncertain beats absent).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache

import numpy as np
import pandas as pd

from cxraug.errors import InputError
from cxraug.evaluation.report_terms import TERMS, Terms, terms_of
from cxraug.studies.labels import ABSENT, DEVICES, NO_FINDING, PRESENT, UNCERTAIN

FINDINGS = tuple(TERMS)

# Sections that say what was asked or what was there before, not what is seen
_SECTION = re.compile(
    r"\b(findings|impression|conclusion|opinion|indication|history|clinical (?:history|information)|comparison"
    r"|technique|reason for exam(?:ination)?|examination|exam|procedure)\s*:",
    re.IGNORECASE,
)
_SILENT = ("indication", "history", "clinical", "comparison", "technique", "reason", "procedure")
# A single line break is a wrapped line; a blank line or a new list item ends a sentence
_SENTENCE = re.compile(r"(?<=[.!?;])(?<!\bvs\.)\s+|\n\s*\n|\n(?=\s*(?:\d+[.)]|[-*•])\s)|;")

_SEEN = (
    r"(?:seen|identified|visuali[sz]ed|present|evident|demonstrated|appreciated|detected|noted|found|visible|apparent"
    r"|observed|shown)"
)
_CANNOT = r"(?:cannot|can not|can't|could not|not)(?: \w+)?"
# Triggers in order of precedence: one that overlaps an earlier one does not count.
_PSEUDO = re.compile(
    r"\bno (?:\w+ ){0,3}?(?:change|increase|decrease)\w*(?: in| of)?|\bnot (?:\w+ )?(?:changed|increased|decreased)\b"
    r"|\bwithout (?:\w+ ){0,2}?change\b|\bnot only\b|\bno longer (?:as|so) "
)
_UNCERTAIN_AFTER = re.compile(
    rf"\b{_CANNOT} (?:be )?(?:\w+ )?(?:excluded|ruled out)|\b(?:is|are|remains?) (?:\w+ )?(?:possible|questionable"
    r"|questioned|uncertain|equivocal|suspected|unlikely)|\bmay be present|\bnot excluded"
)
_UNCERTAIN_BEFORE = re.compile(
    rf"\b{_CANNOT} (?:exclude|rule out)|\bpossibl[ey]\b|\bmay\b|\bmight\b|\bcould\b|\bquestion(?:able|s)?\b"
    r"|\bequivocal\b|\b(?:suspicious|suspicion|concern|concerning|worrisome) (?:for|of)\b|\bsuspected\b"
    r"|\bdifferential\b|\b(?:exclude|rule out|evaluate for|assess for)\b|\bunlikely\b|\bcannot\b|\bsuggest\w*"
)
_ABSENT_AFTER = re.compile(
    rf"\b(?:not|no longer|never)(?: \w+)? {_SEEN}|\b(?:is|are) absent|\b(?:has|have|had)(?: \w+)? (?:resolved|cleared)"
    r"|\b(?:is|are|was|were|has been|have been) (?:ruled out|excluded|resolved)|\bresolved\b(?=\W*$)"
)
_ABSENT_BEFORE = re.compile(
    r"\bno\b|\bnot\b|\bwithout\b|\babsen(?:ce|t)(?: of)?\b|\b(?:free|clear) (?:of|from)\b|\bnegative for\b|\black of\b"
    r"|\b(?:resolution|clearing) of\b|\bresolved\b|\bneither\b|\bnor\b|\bnever\b|\bfails? to\b|\brather than\b"
)
_EARLIER = re.compile(r"\b(?:history|prior episodes?|risk) (?:of|for)\b")

_STOP = re.compile(  # where a trigger's scope ends
    r"\b(?:but|however|although|though|except|apart from|aside from|other than|otherwise|yet|whereas|while|with"
    r"|there (?:is|are))\b"
    rf"|(?:,| and) (?=(?:and |the )?(?:[\w-]+ ){{1,5}}?(?:is|are|has|have|remains?|appears?)\b(?! (?:\w+ )?{_SEEN}))"
    r"|,(?: and)? (?=(?:the|a|an|there)\b)"
)
_NEXT = re.compile(  # ", small right effusion": a new statement, unless the list goes on to an "or"
    r",(?: and)? (?=(?:stable|unchanged|mild(?:ly)?|minimal|moderate|small|large|marked|persistent|again|increased|new"
    r"|possibl[ey]|probabl[ey]|questionable|suspected|likely)\b)"
    r"(?!.*\bn?or\b)"
)
_VERB = re.compile(r"\b(?:is|are|was|were|has|have|shows?|demonstrates?|there)\b")
_OR_AFTER = re.compile(r"^(?: [\w-]+){0,2}\s+(?:versus|vs\.?|(?<!/)or)\b")
_OR_BEFORE = re.compile(r"\b(?:versus|vs\.?|(?<!/)or)\s+(?:[\w-]+ ){0,3}$")
_TURNED = re.compile(r"\b(?:not|no longer|nor|without)\b")


def report_labels(report: str, findings: Sequence[str] = FINDINGS) -> dict[str, int]:
    """What a report says about findings: 1 present, 0 absent, -1 uncertain; one it does not mention is left out.

    Several mentions of one finding: present beats uncertain, uncertain beats absent. "Probable", "likely" and
    "consistent with" count as present; "possible", "may", "suggests", "suspicious for", "versus", "A or B" and
    "cannot be excluded" as uncertain; "resolved" and "no longer seen" as absent. "The lungs are clear" excludes what
    would be a density in them.
    Sections on history, indication, technique and comparison are not read.

    Parameters
    ----------
    report : text of any length, with or without section headings.
    findings : names as in :mod:`cxraug.evaluation.report_terms`; another name is looked for as it is written.
        ``No Finding`` is present where something is said and none of the table's findings (devices apart) is present
        or uncertain, and absent where one is present.
    """
    parts = list(_sentences(report))
    labels = {}
    for finding in findings:
        value = _no_finding(parts) if finding == NO_FINDING else _label(parts, _patterns(finding))
        if value is not None:
            labels[finding] = value
    return labels


def report_agreement(reports: Sequence[str], asked: np.ndarray | pd.DataFrame, findings: Sequence[str]) -> pd.DataFrame:
    """How far reports say what was asked: precision, recall and F1 of present findings.

    Parameters
    ----------
    reports : (n,) texts.
    asked : (n, F) of 1 present, 0 absent, NaN (or -1, uncertain) not asked: those are left out.
    findings : (F,) columns of ``asked``.

    Returns
    -------
    DataFrame : one row per finding and a last one ``micro`` (counts summed over findings): ``finding, n`` (asked),
        ``n_pos`` (asked to be present), ``said`` (reported as present), ``hits``, ``precision, recall, f1`` in 0..1,
        NaN where nothing was asked or said.

    Raises
    ------
    InputError
        ``asked`` of another shape or with other values.
    """
    y = np.asarray(asked, float)
    if y.shape != (len(reports), len(findings)):
        raise InputError(
            "labels do not fit the reports", found=str(y.shape), expected=str((len(reports), len(findings)))
        )
    if not np.isin(y[~np.isnan(y)], (-1, 0, 1)).all():
        raise InputError("labels of reports are 1, 0, -1 or blank")
    said = np.zeros(y.shape, bool)
    for row, report in enumerate(reports):
        found = report_labels(report, findings)
        said[row] = [found.get(finding) == PRESENT for finding in findings]
    known = (y == PRESENT) | (y == ABSENT)
    counts = np.stack([known.sum(0), (y == PRESENT).sum(0), (said & known).sum(0), (said & (y == PRESENT)).sum(0)])
    counts = np.concatenate([counts, counts.sum(1, keepdims=True)], 1)
    _, positive, reported, hits = counts.astype(float)
    with np.errstate(invalid="ignore", divide="ignore"):
        precision, recall, f1 = hits / reported, hits / positive, 2 * hits / (reported + positive)
    table = pd.DataFrame(dict(zip(("n", "n_pos", "said", "hits"), counts, strict=True)))
    table.insert(0, "finding", [*findings, "micro"])
    return table.assign(precision=precision, recall=recall, f1=f1)


@lru_cache(maxsize=512)
def _patterns(finding: str) -> tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]:
    terms: Terms = terms_of(finding)
    return terms.mentions(), terms.doubts(), terms.exclusions()


@lru_cache(maxsize=1)
def _any_finding() -> re.Pattern[str]:
    return re.compile("|".join(_patterns(finding)[0].pattern for finding in FINDINGS))


def _no_finding(parts: list[str]) -> int | None:
    values = [_label(parts, _patterns(f)) for f in FINDINGS if f not in DEVICES]
    if PRESENT in values:
        return ABSENT
    return None if UNCERTAIN in values or not parts else PRESENT


def _sentences(report: str) -> Iterator[str]:
    """Lower-case sentences of the sections that say what is seen."""
    start, silent = 0, False
    spans: list[str] = []
    for heading in _SECTION.finditer(report):
        if not silent:
            spans.append(report[start : heading.start()])
        start, silent = heading.end(), heading[1].lower().startswith(_SILENT)
    if not silent:
        spans.append(report[start:])
    for span in spans:
        for sentence in _SENTENCE.split(span):
            text = " ".join(sentence.lower().split())
            if text:
                yield text


def _label(parts: list[str], patterns: tuple[re.Pattern[str], re.Pattern[str], re.Pattern[str]]) -> int | None:
    mentions, doubts, exclusions = patterns
    values: set[int] = set()
    for text in parts:
        for mention in mentions.finditer(text):
            value = _assertion(text, mention)
            if value is not None:
                values.add(value)
        values.update(UNCERTAIN for found in doubts.finditer(text) if not _negated(text, found))
        values.update(ABSENT for found in exclusions.finditer(text) if not _negated(text, found))
    return next((value for value in (PRESENT, UNCERTAIN, ABSENT) if value in values), None)


def _negated(text: str, found: re.Match[str]) -> bool:
    return bool(_TURNED.search(found[0])) or _assertion(text, found) == ABSENT


def _assertion(text: str, mention: re.Match[str]) -> int | None:
    """What a sentence says of one mention in it: present, absent, uncertain, or None where it speaks of the past."""
    before, after = [], []
    for start, end, value, forwards in _triggers(text):
        if forwards and end <= mention.start():
            before.append((end, value))
        elif not forwards and start >= mention.end():
            after.append((start, value))
    found = {value for start, value in after if _reaches_back(text, mention.end(), start)}
    if UNCERTAIN in found:
        return UNCERTAIN
    if ABSENT in found or _TURNED.search(mention[0]):
        return ABSENT
    reaching = [value for end, value in before if not _stopped(text, end, mention.start())]
    if ABSENT in reaching:  # "no findings to suggest an effusion": absent, although "suggest" is nearer
        return ABSENT
    if reaching:
        return reaching[-1]
    earlier = text[: mention.start()]
    tied = _OR_AFTER.search(text[mention.end() :]) or (_OR_BEFORE.search(earlier) and _any_finding().search(earlier))
    return UNCERTAIN if tied and not _PSEUDO.search(earlier) else PRESENT


def _stopped(text: str, start: int, end: int) -> bool:
    """Whether the scope of a trigger that ends at ``start`` stops before ``end``."""
    return any(stop.start() < end for pattern in (_STOP, _NEXT) for stop in pattern.finditer(text, start))


@lru_cache(maxsize=4096)
def _triggers(text: str) -> tuple[tuple[int, int, int | None, bool], ...]:
    """(start, end, value, whether it acts on what follows) of each trigger in a sentence."""
    claimed: list[tuple[int, int]] = []
    found: list[tuple[int, int, int | None, bool]] = []
    for pattern, value, forwards in _KINDS:
        for match in pattern.finditer(text):
            if all(match.end() <= start or match.start() >= end for start, end in claimed):
                claimed.append(match.span())
                if pattern is not _PSEUDO:
                    found.append((*match.span(), value, forwards))
    return tuple(sorted(found, key=lambda trigger: trigger[:2]))


_KINDS: tuple[tuple[re.Pattern[str], int | None, bool], ...] = (
    (_PSEUDO, None, True),
    (_UNCERTAIN_AFTER, UNCERTAIN, False),
    (_ABSENT_AFTER, ABSENT, False),
    (_UNCERTAIN_BEFORE, UNCERTAIN, True),
    (_ABSENT_BEFORE, ABSENT, True),
    (_EARLIER, None, True),
)


def _reaches_back(text: str, mention: int, trigger: int) -> bool:
    """Whether a trigger after the mention speaks of it: no clause with a verb of its own ends between them."""
    between = text[mention:trigger]
    if re.search(r"\b(?:but|however|although|though|while|whereas)\b", between):
        return False
    parts = re.split(r",| and ", between)
    return not any(_VERB.search(part) for part in parts[:-1]) and not (len(parts) > 1 and _VERB.search(text[:mention]))
