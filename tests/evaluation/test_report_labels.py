"""The report labeller against hand-written sentences and phantom reports whose labels are known."""

import numpy as np
import pytest

from cxraug.errors import InputError
from cxraug.evaluation.report_labels import FINDINGS, report_agreement, report_labels
from cxraug.studies.labels import parse_labels
from cxraug.studies.phantom.cohort import PhantomSettings, sample_cohort
from cxraug.studies.phantom.findings import FINDINGS as PHANTOM
from cxraug.studies.phantom.report import write_report

SENTENCES = [
    # negation before, and how far it reaches
    ("No pneumothorax.", "-Pneumothorax"),
    ("No effusion, pneumothorax or consolidation.", "-Effusion|-Pneumothorax|-Consolidation"),
    ("No pleural effusion, pneumothorax, or focal consolidation is seen.", "-Effusion|-Pneumothorax|-Consolidation"),
    ("There is no evidence of pulmonary edema.", "-Edema"),
    ("Lungs are free of focal consolidation, nodule, or mass.", "-Consolidation|-Nodule|-Mass"),
    ("Clear without effusion or pneumothorax.", "-Effusion|-Pneumothorax"),
    ("Negative for pneumonia.", "-Pneumonia"),
    ("Absence of pleural fluid.", "-Effusion"),
    ("The film does not demonstrate a pneumothorax.", "-Pneumothorax"),
    ("Neither effusion nor pneumothorax.", "-Effusion|-Pneumothorax"),
    ("No findings to suggest pleural effusion.", "-Effusion"),
    ("No consolidation, suspicious pulmonary nodule, or effusion.", "-Consolidation|-Nodule|-Effusion"),
    ("No pneumothorax, but there is a small left effusion.", "-Pneumothorax|Effusion"),
    ("No pneumothorax, small right pleural effusion.", "-Pneumothorax|Effusion"),
    ("No consolidation and the heart is enlarged.", "-Consolidation|Cardiomegaly"),
    ("No pneumothorax; a mass projects over the left hilum.", "-Pneumothorax|Mass"),
    ("Cardiomegaly without edema.", "Cardiomegaly|-Edema"),
    # negation after
    ("Pneumothorax is not seen.", "-Pneumothorax"),
    ("Pleural effusions are absent.", "-Effusion"),
    ("Effusion, nodule and mass are not identified.", "-Effusion|-Nodule|-Mass"),
    ("The previously described nodule is no longer visible.", "-Nodule"),
    ("The left effusion has resolved.", "-Effusion"),
    ("Interval resolution of the right pneumothorax.", "-Pneumothorax"),
    ("There is a nodule, and an effusion is not seen.", "Nodule|-Effusion"),
    # what looks like a negation and is none
    ("No significant change in the right pleural effusion.", "Effusion"),
    ("The left pneumothorax has not changed.", "Pneumothorax"),
    ("Without interval change of the mass.", "Mass"),
    # uncertainty
    ("Possible left lower lobe pneumonia.", "?Pneumonia"),
    ("A small effusion cannot be excluded.", "?Effusion"),
    ("Cannot exclude a subtle nodule.", "?Nodule"),
    ("Opacity that may represent atelectasis.", "?Atelectasis"),
    ("Atelectasis versus infiltrate.", "?Atelectasis|?Infiltration"),
    ("Atelectasis or consolidation at the left base.", "?Atelectasis|?Consolidation"),
    ("Hyperinflation suggestive of emphysema.", "?Emphysema"),
    ("Heart size is at the upper limits of normal.", "?Cardiomegaly"),
    ("Borderline heart size.", "?Cardiomegaly"),
    ("Blunted left costophrenic angle.", "?Effusion"),
    ("Nodular density in the right apex.", "?Nodule"),
    # present
    ("Findings consistent with pulmonary oedema.", "Edema"),
    ("Most likely subsegmental atelectasis.", "Atelectasis"),
    ("Enlarged cardiac silhouette.", "Cardiomegaly"),
    ("The cardiac silhouette is moderately enlarged.", "Cardiomegaly"),
    ("Heart size above the upper limit of normal.", "Cardiomegaly"),
    ("Loss of volume in the left lower lobe.", "Atelectasis"),
    ("The lung is partly collapsed by a large pneumothorax.", "Pneumothorax"),
    ("Pericardial effusion.", ""),
    ("Subcutaneous emphysema.", ""),
    ("Bilateral hydropneumothorax.", "Effusion|Pneumothorax"),
    # states of structures
    ("Heart size is normal.", "-Cardiomegaly"),
    ("Normal heart size.", "-Cardiomegaly"),
    ("The heart is not enlarged.", "-Cardiomegaly"),
    ("The cardiomediastinal silhouette and pulmonary vasculature are within normal limits.", "-Cardiomegaly|-Edema"),
    ("The costophrenic angles are sharp.", "-Effusion"),
    ("The lungs are clear.", "-Atelectasis|-Consolidation|-Edema|-Infiltration|-Mass|-Nodule|-Pneumonia"),
    ("The pulmonary vasculature is normal.", "-Edema"),
    # several mentions: present beats uncertain beats absent
    ("No large effusion. Small left effusion.", "Effusion"),
    ("No effusion is seen. A trace effusion cannot be excluded.", "?Effusion"),
    # sections that do not say what is seen
    ("INDICATION: rule out pneumonia. FINDINGS: No effusion.", "-Effusion"),
    ("History of pneumothorax.", ""),
    ("Degenerative change of the spine. No rib lesion.", ""),
]
NIH = ("Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Infiltration", "Mass",
       "Nodule", "Pneumonia", "Pneumothorax")  # fmt: skip


@pytest.mark.parametrize(("sentence", "expected"), SENTENCES)
def test_sentence(sentence: str, expected: str) -> None:
    assert report_labels(sentence, NIH) == parse_labels(expected)


def test_every_spelling_of_white_space_case_and_numbering_reads_the_same() -> None:
    text = "FINDINGS:\n1.  NO PLEURAL\n EFFUSION.\n2. mild Cardiomegaly\n3. nodule"  # one line is wrapped
    assert report_labels(text, NIH) == {"Cardiomegaly": 1, "Effusion": 0, "Nodule": 1}
    assert report_labels(" ".join(text.split()), NIH) == {"Cardiomegaly": 1, "Effusion": 0, "Nodule": 1}
    assert report_labels("No effusion\n- nodule", NIH) == {"Effusion": 0, "Nodule": 1}


def test_synonymous_names_of_findings_and_names_the_table_does_not_know() -> None:
    text = "Small left pleural effusion. Apical pleural thickening. No hilar calcifications. Possible Azygos lobe."
    asked = ("Pleural Effusion", "Effusion", "Pleural_Thickening", "Hilar Calcification", "Azygos Lobe", "Scoliosis")
    assert report_labels(text, asked) == {
        "Pleural Effusion": 1, "Effusion": 1, "Pleural_Thickening": 1, "Hilar Calcification": 0, "Azygos Lobe": -1,
    }  # fmt: skip


def test_no_finding_needs_that_nothing_is_present_or_uncertain() -> None:
    assert report_labels("The lungs are clear. Pacemaker.", ["No Finding"]) == {"No Finding": 1}
    assert report_labels("Small effusion.", ["No Finding"]) == {"No Finding": 0}
    assert report_labels("Possible effusion.", ["No Finding"]) == {}
    assert report_labels("", ["No Finding", "Effusion"]) == {}


def test_phantom_reports_say_their_labels() -> None:
    cohort = sample_cohort(PhantomSettings(n=3000, seed=77, views=("PA", "AP", "Lateral")))
    y = np.array([[parse_labels(text).get(f, 0) for f in PHANTOM] for text in cohort["labels"]])
    table = report_agreement(list(cohort["report"]), y, PHANTOM).set_index("finding")
    assert table.loc["micro", "f1"] >= 0.99
    assert table["f1"].min() >= 0.98
    assert table.loc["micro", "n"] == 3000 * len(PHANTOM)


def test_phantom_reports_of_any_vocabulary_with_uncertain_and_absent_findings() -> None:
    rng = np.random.default_rng(0)
    names = (*PHANTOM, "Emphysema", "Fibrosis", "Scoliosis")
    wrong = total = 0
    for _ in range(200):
        labels = {name: int(rng.integers(-1, 2)) for name in names}
        found = report_labels(write_report(labels, "F", 50.0, ("PA",), rng), names)
        total += len(found)
        wrong += sum(value != labels[name] for name, value in found.items())
        assert {n for n, v in labels.items() if v} <= found.keys()
    assert wrong <= 0.01 * total


def test_agreement_counts_by_hand() -> None:
    reports = ["Small effusion. Nodule.", "No effusion. Mass.", "Normal chest radiograph.", "Possible effusion."]
    y = np.array([[1, 1], [1, 0], [0, np.nan], [0, -1]])
    table = report_agreement(reports, y, ["Effusion", "Nodule"])
    assert table["finding"].tolist() == ["Effusion", "Nodule", "micro"]
    assert table["n"].tolist() == [4, 2, 6]
    assert table["n_pos"].tolist() == [2, 1, 3]
    assert table["said"].tolist() == [1, 1, 2]
    assert table["precision"].tolist() == [1, 1, 1]
    assert table["recall"].tolist() == [0.5, 1, pytest.approx(2 / 3)]
    assert table["f1"].tolist() == [pytest.approx(2 / 3), 1, pytest.approx(0.8)]


def test_agreement_refuses_labels_that_do_not_fit() -> None:
    with pytest.raises(InputError, match="do not fit"):
        report_agreement(["a"], np.zeros((2, 1)), ["Mass"])
    with pytest.raises(InputError, match="1, 0, -1"):
        report_agreement(["a"], np.full((1, 1), 2.0), ["Mass"])


def test_every_finding_of_the_table_can_be_present_and_absent() -> None:
    for finding in set(FINDINGS) - {"Enlarged Cardiomediastinum", "Lung Lesion", "Lung Opacity", "Pleural Other",
                                    "Support Devices"}:  # fmt: skip
        assert report_labels(f"There is {finding.lower()}.", [finding]) == {finding: 1}
        assert report_labels(f"There is no {finding.lower()}.", [finding]) == {finding: 0}
    text = "Widened mediastinum. Lung nodule. Hazy opacity. Pleural plaques. Right PICC line."
    groups = ("Enlarged Cardiomediastinum", "Lung Lesion", "Lung Opacity", "Pleural Other", "Support Devices")
    assert report_labels(text, groups) == dict.fromkeys(groups, 1)
