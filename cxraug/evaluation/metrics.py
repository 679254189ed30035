"""The metrics by name: what each one needs, on which scale its interval is symmetric, where it may be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Need = Literal["positive", "negative", "both", "called", "cleared", "any"]


@dataclass(frozen=True)
class Metric:
    """One metric.

    ``needs``: of what a cell must hold enough (images and patients) to show it; ``scale`` of its interval;
    ``threshold``: it needs an operating threshold; ``gap``: comparable between groups of different prevalence;
    ``higher_is_better``; ``matched``: at what equal mix of both sides its gaps are given, too or only. Scale ``root``:
    measured as a squared error, shown as its root.
    """

    name: str
    label: str
    needs: Need
    scale: Literal["logit", "wilson", "linear", "root"]
    threshold: bool
    gap: bool
    higher_is_better: bool
    matched: Literal["population", "prevalence", ""] = ""


METRICS = {
    metric.name: metric
    for metric in (
        Metric("auroc", "AUROC", "both", "logit", False, True, True, "population"),
        Metric("auprc", "AUPRC", "positive", "logit", False, False, True, "prevalence"),
        Metric("tpr", "TPR", "positive", "wilson", True, True, True, "population"),
        Metric("fpr", "FPR", "negative", "wilson", True, True, False, "population"),
        Metric("fnr", "FNR", "positive", "wilson", True, True, False, "population"),
        Metric("ppv", "PPV", "called", "wilson", True, False, True, "prevalence"),
        Metric("npv", "NPV", "cleared", "wilson", True, False, True, "prevalence"),
        Metric("f1", "F1", "positive", "logit", True, False, True, "prevalence"),
        Metric("brier", "Brier score", "any", "logit", False, False, False, "prevalence"),
        Metric("ece", "ECE", "both", "root", False, True, False),
        Metric("calibration_slope", "calibration slope", "both", "linear", False, False, True),
        Metric("underdiagnosis", "underdiagnosis", "any", "wilson", True, True, False, "population"),
        Metric("overdiagnosis", "overdiagnosis", "any", "wilson", True, True, False, "population"),
    )
}
NO_FINDING = "No Finding"
ANY_FINDING = "any finding"
MACRO = "macro"


def base_metric(metric: str, subject: str) -> str:
    """Rate behind a name: underdiagnosis is FPR of "No Finding" or FNR of "any finding", overdiagnosis the other."""
    if metric == "underdiagnosis":
        return "fpr" if subject == NO_FINDING else "fnr"
    if metric == "overdiagnosis":
        return "fnr" if subject == NO_FINDING else "fpr"
    return metric
