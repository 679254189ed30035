"""Report privacy: no synthetic report may name a person or repeat phrases that few patients' reports have."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

WORDS = 6  # of a phrase (an n-gram)
QUANTILE = 0.95  # of what real reports share with other patients' reports

_MONTH = (
    r"(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|"
    r"oct(?:ober)?|nov(?:ember)?|dec(?:ember)?)"
)
_NAME = r"[A-Z][a-z]+(?:[-'][A-Z]?[a-z]+)*"
PATTERNS: dict[str, re.Pattern[str]] = {
    "date": re.compile(
        r"\b(?:\d{4}[-/.]\d{1,2}[-/.]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:\d{4}|\d{2})|(?:19|20)\d{6}"
        rf"|(?:\d{{1,2}}(?:st|nd|rd|th)?\s+(?:of\s+)?{_MONTH}\b\.?(?:,?\s+\d{{4}})?)"
        rf"|(?:{_MONTH}\.?\s+\d{{1,2}}(?:st|nd|rd|th)?\b(?:,?\s+\d{{4}})?)|{_MONTH}\.?,?\s+(?:19|20)\d{{2}})\b",
        re.IGNORECASE,
    ),
    "time": re.compile(r"\b(?:[01]?\d|2[0-3]):[0-5]\d(?::[0-5]\d)?\b"),
    "phone": re.compile(r"(?<![\w.])(?:\+?\d{1,3}[\s.-]?)?(?:\(\d{2,4}\)|\d{3,4})[\s.-]\d{3,4}[\s.-]?\d{3,4}\b"),
    "id": re.compile(
        r"\b(?:mrn|accession|patient\s+id|id|case|pager?|ssn)\s*(?:no\.?|number|\#)?\s*[:#]?\s*[A-Za-z]{0,3}[-\d]*\d{3,}\b"
        r"|(?<![\w.])\d{6,}\b|\b[A-Z]{1,4}-?\d{5,}\b|\b\d{3}-\d{2}-\d{4}\b",
        re.IGNORECASE,
    ),
    "address": re.compile(r"[\w.+-]+@[\w-]+\.[\w.]+|\bhttps?://\S+|\bwww\.\S+", re.IGNORECASE),
    "name": re.compile(
        rf"\b(?:Dr|Drs|Mr|Mrs|Ms|Miss|Prof|Professor|Doctor|Nurse|Sir|Madam|DR|MR|MRS|MS)\b\.?\s+(?:{_NAME}|[A-Z]{{2,}})"
        rf"|\b{_NAME},\s+(?:M\.?D|R\.?N|D\.?O|PhD)\b\.?"
    ),
    "age over 89": re.compile(r"\b(?:9[1-9]|1[0-2]\d)[\s-]*(?:years?|yrs?|y/?o|y\.o\.)", re.IGNORECASE),
}


def identifiers(text: str) -> list[tuple[str, str]]:
    """(kind, text) of everything in ``text`` that looks like a date, time, phone number, id, address or name."""
    return [(kind, match.group()) for kind, pattern in PATTERNS.items() for match in pattern.finditer(text)]


def words(text: str) -> list[str]:
    """Lower-case words and numbers; punctuation and layout do not count."""
    return re.findall(r"[^\W_]+", text.lower())


@dataclass(frozen=True)
class RarePhrases:
    """Phrases of :data:`WORDS` words in real reports, and how many patients' reports have each.

    Attributes
    ----------
    hashes : (m,) uint64, sorted: 64 bits of each phrase (a chance match among 10^7: 10^-12 per phrase asked).
    patients : (m,) patients with it. k : fewer than k patients make a phrase rare.
    limit : rare phrases that a synthetic report may repeat: the 95 % quantile of how many phrases a real report shares
        with the reports of one to k - 1 *other* patients. Reports are written from a common stock; what strangers share
        with one another is no copy.
    """

    hashes: np.ndarray
    patients: np.ndarray
    k: int
    limit: float
    n_reports: int

    @classmethod
    def of(
        cls, reports: Sequence[str], patients: Sequence[object], k: int, *, limit: float | None = None
    ) -> RarePhrases:
        """Count the phrases of ``reports``; ``limit`` sets another limit than the data's own."""
        codes = {name: number for number, name in enumerate(dict.fromkeys(map(str, patients)))}
        owner = np.array([codes[str(p)] for p in patients], np.int64)
        phrases = [np.unique(_hashes(report)) for report in reports]
        sizes = [len(part) for part in phrases]
        if not sum(sizes):
            return cls(np.zeros(0, np.uint64), np.zeros(0, int), k, 0.0 if limit is None else limit, len(reports))
        every = np.concatenate(phrases)
        who = np.repeat(owner, sizes)
        distinct, of = np.unique(every, return_inverse=True)
        pairs = np.unique(np.stack([of, who]), axis=1)
        counts = np.bincount(pairs[0], minlength=len(distinct))
        others = counts[of] - 1
        shared = (others >= 1) & (others < k)
        per_report = np.bincount(np.repeat(np.arange(len(reports)), sizes), shared, minlength=len(reports))
        own = float(np.quantile(per_report, QUANTILE))
        return cls(distinct, counts, k, own if limit is None else float(limit), len(reports))

    def repeated(self, text: str) -> int:
        """How many different rare phrases ``text`` repeats."""
        asked = np.unique(_hashes(text))
        if not len(asked) or not len(self.hashes):
            return 0
        at = np.minimum(np.searchsorted(self.hashes, asked), len(self.hashes) - 1)
        return int(((self.hashes[at] == asked) & (self.patients[at] < self.k)).sum())


def problem_of(text: str, phrases: RarePhrases, forbidden: Any = None) -> str | None:
    """Why a synthetic report must not be published, in a few words, or None.

    ``forbidden`` : finds strings of the original data in a text (:class:`cxraug.privacy.readback.Forbidden`).
    """
    found = identifiers(text)
    if found:
        return f"a report with what looks like a {found[0][0]}"
    if forbidden is not None and forbidden.find(text) is not None:
        return "a report with an id, name or date of the original data"
    if phrases.repeated(text) > phrases.limit:
        return "a report that repeats rare phrases of real reports"
    return None


def overlap(reports: Sequence[str], phrases: RarePhrases) -> dict[str, Any]:
    """How many rare phrases of real reports the ``reports`` repeat: mean, share with any, most, and the limit."""
    counts = np.array([phrases.repeated(text) for text in reports], float)
    summary: Mapping[str, Any] = {
        "words": WORDS, "fewer_than_patients": phrases.k, "real_reports": phrases.n_reports, "limit": phrases.limit,
        "reports": len(counts),
        "mean": float(counts.mean()) if len(counts) else None,
        "share_with_any": float((counts > 0).mean()) if len(counts) else None,
        "most": int(counts.max()) if len(counts) else None,
    }  # fmt: skip
    return dict(summary)


_FACTORS = np.random.default_rng(6).integers(1, 2**63, size=WORDS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)


def _hashes(text: str) -> np.ndarray:
    """uint64 hashes of the phrases of a text: sums of odd random multiples of the words' own hashes."""
    found = words(text)
    if len(found) < WORDS:
        return np.zeros(0, np.uint64)
    each = [int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "big") for word in found]
    one = np.array(each, np.uint64)
    n = len(one) - WORDS + 1
    total = np.zeros(n, np.uint64)
    for place, factor in enumerate(_FACTORS):
        total += one[place : place + n] * factor
    return total
