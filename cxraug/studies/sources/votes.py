"""Votes of readers as label text."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from cxraug.studies.labels import ABSENT, DEVICES, NO_FINDING, PRESENT, UNCERTAIN, format_labels
from cxraug.studies.sources.vocabulary import OTHER, Labelled, annotated_by, mapping_table, targets


def vote_texts(agreed: pd.DataFrame, images: pd.Series, labels: Mapping[str, str], votes: pd.DataFrame) -> Labelled:
    """Label text of each of ``images`` (n,) from ``image, label, value``, whose labels are findings already.

    "No Finding" is present where it is agreed on and no finding is; beside a finding that is agreed on it is left out.
    Where there is only something outside the vocabulary, the findings are absent as in
    :func:`cxraug.studies.sources.vocabulary.label_terms`; "No Finding" is uncertain where that is.
    """
    sign = agreed["value"].map({PRESENT: "", UNCERTAIN: "?"})
    joined = (sign + agreed["label"]).groupby(agreed["image"]).agg(";".join)
    codes, texts = pd.factorize(images.map(joined))
    annotated = annotated_by(labels)
    made: list[str | None] = []
    clash = np.zeros(len(texts) + 1, bool)
    for at, text in enumerate(texts):
        value, clash[at] = _settle(str(text).split(";"), annotated)
        made.append(value)
    result = pd.Series(np.array([*made, None], object)[codes], index=images.index, dtype="str")
    seen = votes.drop_duplicates(["image", "label"])["label"].value_counts()
    vocabulary = mapping_table(labels, {str(k): int(n) for k, n in seen.items()})
    counts = {"'No finding' by most readers beside a finding of most, dropped": int(clash[codes].sum())}
    return Labelled(result, vocabulary, annotated, {k: n for k, n in counts.items() if n})


def _settle(found: list[str], annotated: tuple[str, ...]) -> tuple[str | None, bool]:
    values = {f.removeprefix("?"): UNCERTAIN if f.startswith("?") else PRESENT for f in found}
    other, healthy = values.pop(OTHER, ABSENT), values.pop(NO_FINDING, ABSENT)
    named: dict[str, int] = {}
    for finding, value in values.items():
        for f in targets(finding):
            named[f] = PRESENT if PRESENT in (value, named.get(f)) else value
    disease = [v for f, v in named.items() if f not in DEVICES]
    if PRESENT in disease:
        return format_labels(named) or None, healthy == PRESENT
    if other == PRESENT:
        return format_labels({f: named.get(f, ABSENT) for f in annotated}) or None, healthy == PRESENT
    if healthy == PRESENT:
        return format_labels({NO_FINDING: PRESENT, **named}), False
    if other == UNCERTAIN and not disease:
        return format_labels({f: named.get(f, UNCERTAIN if f == NO_FINDING else ABSENT) for f in annotated}), False
    return format_labels(named) or None, False
