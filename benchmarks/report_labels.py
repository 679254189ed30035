"""Measure the rule-based report labeller on answers that are known, and print Markdown tables.

python benchmarks/report_labels.py phantom    (labels that the reports were written from)
python benchmarks/report_labels.py iu         (MeSH terms that people annotated; --split val,test were never looked at)
"""

from __future__ import annotations

import argparse

import numpy as np
import pandas as pd

from cxraug.evaluation.report_labels import report_agreement
from cxraug.studies.iu import ANNOTATED, iu_reports
from cxraug.studies.labels import NO_FINDING, parse_labels
from cxraug.studies.phantom.cohort import PhantomSettings, sample_cohort
from cxraug.studies.phantom.findings import FINDINGS


def main() -> None:
    """Parse, label and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", choices=["phantom", "iu"])
    parser.add_argument("--split", default="val,test", help="parts of the IU reports to measure on")
    asked = parser.parse_args()
    if asked.source == "phantom":
        table = sample_cohort(PhantomSettings(n=3000, seed=77, views=("PA", "AP", "Lateral")))
        findings = list(FINDINGS)
    else:
        table = iu_reports()
        table = table[table["split"].isin(asked.split.split(",")) & (table["labels"] != "")]
        findings = [f for f in ANNOTATED if f != NO_FINDING]  # "normal" there also excludes what is no finding here
    y = np.array([[parse_labels(text).get(f, 0) for f in findings] for text in table["labels"]])
    found = report_agreement(list(table["report"]), y, findings)
    print(
        f"{len(table):,} reports\n\n"
        "| finding | annotated | reported | precision | recall | F1 |\n|---|---|---|---|---|---|"
    )
    for row in found.itertuples():
        rates = ["" if pd.isna(rate) else f"{rate:.3f}" for rate in (row.precision, row.recall, row.f1)]
        print(f"| {row.finding} | {row.n_pos} | {row.said} | {' | '.join(rates)} |")


if __name__ == "__main__":
    main()
