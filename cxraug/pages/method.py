"""How the report's numbers were made, with sources."""

from __future__ import annotations

NOTES: tuple[tuple[str, str], ...] = (
    (
        "Splits",
        "All rows of a patient are in one split. Epoch, threshold and ratio were chosen on validation; the test "
        "rows choose nothing.",
    ),
    (
        "AUROC",
        "The probability that a random positive scores above a random negative. Variance by DeLong with patients as "
        "clusters, interval on the logit scale. DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988) 837; "
        "Obuchowski, Biometrics 53 (1997) 567.",
    ),
    (
        "Rates (TPR, FPR)",
        "Wilson's interval with the number of images divided by the design effect of patients with several images. "
        "Wilson, JASA 22 (1927) 209.",
    ),
    (
        "Differences between arms",
        "Paired over draws, seeds and test patients: variance of the draw means over draws plus the clustered "
        "sampling variance of the mean difference; Student's t, its degrees of freedom weighted by "
        "variance. Cochran & Cox, Experimental Designs (1950).",
    ),
    (
        "Many comparisons",
        "Holm's correction over the printed family. Holm, Scandinavian Journal of Statistics 6 (1979) 65.",
    ),
    (
        "Gaps",
        "Level minus the rest of the test set; interval and p value together by the studentised maximum over "
        "findings and levels of one metric and grouping. Westfall and Young, Resampling-Based Multiple Testing "
        "(1993).",
    ),
    (
        "Matched gaps",
        "“population”: level and reference weighted to the same mix of the other covariates; “prevalence”: to the same "
        "share of positives. Overlap weights leave out what only one side has. Li, Morgan and Zaslavsky, JASA 113 "
        "(2018) 390.",
    ),
    (
        "ECE",
        "Root mean square difference between frequency and probability over at most 15 bins of equal mass, debiased, "
        "so that a small group does not look worse for being small. Kumar, Liang and Ma, NeurIPS 32 (2019).",
    ),
    (
        "Smallest detectable difference",
        "What would have been found in four of five repetitions (80 % power) at the adjusted level. If it exceeds "
        "the room that the learning curve leaves, the verdict is “inconclusive”, not “no effect”.",
    ),
    (
        "Underdiagnosis",
        "The FPR of “No Finding”: the share of sick patients called healthy. Seyyed-Kalantari et al., Nature "
        "Medicine 27 (2021) 2176.",
    ),
    (
        "Flags",
        "“suppressed”: fewer than the smallest cell (10 unless set) of what a metric needs, so no number is given. "
        "“few”: fewer than 50; read it as a hint.",
    ),
)
