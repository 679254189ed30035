"""What the classes or columns of a target mean as findings: the step from y to the label text of a prompt."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from cxraug.balance.refusal import SamplingError
from cxraug.studies.labels import NO_FINDING, contradicts, format_labels, label_matrix, parse_labels


@dataclass(frozen=True)
class Meaning:
    """Label text of each row.

    Attributes
    ----------
    findings : those that y annotates, without ``No Finding``; the others are left open.
    texts : (u,) distinct label texts, every finding of ``findings`` named in each that does not leave it open.
    codes : (n,) which of them is each row's.
    """

    findings: tuple[str, ...]
    texts: tuple[str, ...]
    codes: np.ndarray

    def matrix(self) -> np.ndarray:
        """(n, F) 1, 0 or NaN (left open by a ``?``), float32, for ``findings``."""
        series = pd.Series(list(self.texts), dtype="str")
        return label_matrix(series, None, self.findings, {"": self.findings})[self.codes]

    def asked(self, known: Sequence[str]) -> np.ndarray:
        """(n,) label text to ask a core for that knows ``known``: what y does not annotate is left to the core.

        A row of ``No Finding`` is the exception: there everything else is absent.
        """
        others = [finding for finding in known if finding not in self.findings]
        full = []
        for text in self.texts:
            labels = parse_labels(text)
            open_ones = {} if labels.get(NO_FINDING) == 1 else dict.fromkeys(others, -1)
            full.append(format_labels({**labels, **open_ones}))
        return np.array(full, dtype=object)[self.codes]


def column_meaning(y: np.ndarray, findings: Sequence[str]) -> Meaning:
    """The meaning of an indicator matrix (n, F) of 0 and 1 whose columns are ``findings``.

    Raises :class:`SamplingError` for a name that is no finding's, a name there twice, and a row of ``No Finding`` that
    shows another one.
    """
    if len(set(findings)) < len(findings):
        raise SamplingError("a finding is named twice", found=list(findings))
    sets, codes = np.unique(y.astype(np.int8), axis=0, return_inverse=True)
    texts = []
    for row in sets:
        labels = dict(zip(findings, row.tolist(), strict=True))
        denied = contradicts(labels)
        if denied is not None:
            raise SamplingError(f"a row of y shows {denied!r} and {NO_FINDING!r}", expected="one of the two")
        texts.append(_written({f: v for f, v in labels.items() if f != NO_FINDING or v == 1}))
    return Meaning(tuple(f for f in findings if f != NO_FINDING), tuple(texts), codes.reshape(-1))


def class_meaning(y: np.ndarray, named: Any = None, name: str | None = None) -> Meaning:
    """The meaning of classes (n,).

    Parameters
    ----------
    named : a dict of class to label text (``{0: "No Finding", 1: "Pneumothorax|-Mass"}``); or one finding, for two
        classes of which the larger shows it; or a finding per class, in the order of the sorted classes.
    name : of the target, which is the finding of a binary one where nothing is named.

    Classes of text that nothing names are label text themselves; others are findings called ``class 0`` and so on,
    which only a core that is fitted on them knows.

    Raises
    ------
    SamplingError
        A class without a name, as many names as do not fit, or text that is no label text.
    """
    classes, codes = np.unique(y, return_inverse=True)
    texts = _class_texts(classes, named, name)
    try:
        parsed = [parse_labels(text) for text in texts]
    except ValueError as error:
        raise SamplingError(f"a class is no label text: {error}", expected="findings={class: 'A|-B', ...}") from None
    if any(not labels for labels in parsed):
        raise SamplingError("a class has no label text", expected="findings={class: 'A|-B', ...}")
    findings = tuple(dict.fromkeys(f for labels in parsed for f in labels if f != NO_FINDING))
    if not findings:
        raise SamplingError("the classes name no finding", found=texts, expected="at least one besides No Finding")
    full = []
    for labels in parsed:
        denied = contradicts(labels)
        if denied is not None:
            raise SamplingError(f"a class shows {denied!r} and {NO_FINDING!r}", expected="one of the two")
        full.append(_written({**labels, **{f: 0 for f in findings if f not in labels}}))
    return Meaning(findings, tuple(full), codes.reshape(-1))


def _class_texts(classes: np.ndarray, named: Any, name: str | None) -> list[str]:
    if isinstance(named, Mapping):
        unnamed = [c for c in classes.tolist() if c not in named]
        if unnamed:
            raise SamplingError("findings does not say what a class means", found=unnamed[0],
                                expected=f"one of {list(named)}")  # fmt: skip
        return [str(named[c]) for c in classes.tolist()]
    if named is not None:
        names = [str(f) for f in named]
        if len(names) == len(classes):
            return names
        if len(names) == 1 and len(classes) == 2:
            return [f"-{names[0]}", names[0]]
        raise SamplingError("findings does not fit the classes", found=f"{len(names)} for {len(classes)} classes",
                            expected="one per class in sorted order, one for two classes, or a dict")  # fmt: skip
    if all(isinstance(c, str) for c in classes.tolist()):
        return [str(c) for c in classes.tolist()]
    if len(classes) == 2:
        finding = name or f"class {classes[1]}"
        return [f"-{finding}", finding]
    return [f"class {c}" for c in classes.tolist()]


def _written(labels: Mapping[str, int]) -> str:
    try:
        return format_labels(labels)
    except ValueError as error:
        raise SamplingError(str(error), expected="names of findings without signs in front and without '|'") from None
