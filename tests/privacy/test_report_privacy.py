"""Reports that name somebody, or repeat what few reports say, are found."""

from __future__ import annotations

import pytest

from cxraug.privacy.readback import Forbidden
from cxraug.privacy.texts import RarePhrases, identifiers, overlap, problem_of, words

NORMAL = "The lungs are clear without effusion or pneumothorax. The heart is not enlarged."


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("Compared to 2019-03-31.", "date"),
        ("Compared to 3/31/19.", "date"),
        ("Seen on March 31, 2019.", "date"),
        ("Since 31 March.", "date"),
        ("Called at 14:30.", "time"),
        ("Call (555) 123-4567.", "phone"),
        ("MRN: 00123456", "id"),
        ("Accession no. AB1234", "id"),
        ("Discussed with Dr. Smith by phone.", "name"),
        ("Discussed with Mrs Meyer-Landrut.", "name"),
        ("Read by Jones, M.D.", "name"),
        ("Write to a.b@hospital.org", "address"),
        ("A 93-year-old woman.", "age over 89"),
    ],
)
def test_what_names_somebody_is_found(text: str, kind: str) -> None:
    assert kind in [found for found, _ in identifiers(text)]


@pytest.mark.parametrize(
    "text",
    [
        NORMAL,
        "A 90-year-old woman.",
        "Nodule of 12 mm in the right upper lobe.",
        "Man aged 45. T4 to T8. Grade 3 of 5.",
    ],
)
def test_plain_reports_name_nobody(text: str) -> None:
    assert identifiers(text) == []


def phrases(k: int = 3, limit: float | None = 0) -> RarePhrases:
    common = [NORMAL] * 5
    rare = "An old bullet fragment lies beside the left third rib of this farmer."
    return RarePhrases.of([*common, rare, rare], ["a", "b", "c", "d", "e", "f", "f"], k, limit=limit)


def test_phrases_of_fewer_than_k_patients_are_rare_and_repeats_of_one_patient_count_once() -> None:
    rare = phrases()
    assert rare.repeated(NORMAL) == 0  # five patients have it
    assert rare.repeated("an old bullet fragment, lies beside - THE left lung") == 3
    assert rare.repeated("An old bullet fragment lies") == 0  # five words are no phrase of six
    assert phrases(k=1).repeated("an old bullet fragment lies beside the left third rib") == 0


def test_the_limit_is_what_strangers_share() -> None:
    stock = "There is a small amount of fluid in the left costophrenic angle today."
    reports = [
        f"Report number {i} of a series with words of its own {'x' * i}. {stock if i < 2 else ''}" for i in range(20)
    ]
    found = RarePhrases.of(reports, range(20), 3)
    n_stock = len(words(stock)) - 5
    assert found.repeated(stock) == n_stock
    shared_by_all_but_the_tail = 5  # report number .. of a series with words of its own: 20 patients, not rare
    assert found.limit <= n_stock + shared_by_all_but_the_tail
    assert RarePhrases.of(reports, range(20), 3, limit=7).limit == 7


def test_problems_are_named_and_reports_without_any_pass() -> None:
    forbidden = Forbidden(["PAT-0042"])
    assert problem_of(NORMAL, phrases(), forbidden) is None
    assert problem_of("Known from pat-0042.", phrases(), forbidden) == (
        "a report with an id, name or date of the original data"
    )
    assert problem_of("Old bullet fragment lies beside the rib.", phrases(), forbidden) is not None
    assert problem_of("Seen by Dr. Who.", phrases(), forbidden) == "a report with what looks like a name"


def test_the_overlap_is_counted() -> None:
    found = overlap([NORMAL, "an old bullet fragment lies beside the rib"], phrases())
    assert (found["reports"], found["most"], found["mean"], found["share_with_any"]) == (2, 2, 1.0, 0.5)
    assert overlap([], phrases())["mean"] is None
