"""The audit names what was planted, and nothing where nothing was planted."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cxraug.balance.audit import audit_manifest, write_audit
from cxraug.balance.naming import headlines, summary
from cxraug.errors import InputError
from cxraug.pages.audit import audit_page
from cxraug.studies.manifest import Manifest


def named(audit: dict, kind: str, *, holds: bool | None = None) -> list[dict]:
    return [n for n in audit["named"] if n["kind"] == kind and (holds is None or n["holds"] == holds)]


def test_planted_facts_are_named(imbalanced: Manifest) -> None:
    audit = audit_manifest(imbalanced, groups=("sex", "age"))
    assert [n["finding"] for n in named(audit, "rare finding")] == ["Nodule"]
    rare = named(audit, "rare finding")[0]
    train = imbalanced.frame[imbalanced.frame["split"] == "train"]
    assert rare["n"] == train["labels"].str.contains("Nodule").sum()
    assert f"{rare['n']} positive patients" in rare["sentence"]
    women = [n for n in named(audit, "under-represented group") if n["group"] == "sex"]
    assert [n["level"] for n in women] == ["F"]
    assert women[0]["n"] == (train["sex"] == "F").sum()
    assert women[0]["expected"] == pytest.approx(len(train) / 2)
    cells = named(audit, "under-represented cell")
    assert [(c["finding"], c["level"]) for c in cells if c["group"] == "sex"] == [("Cardiomegaly", "F")]
    assert cells[0]["holds"]
    assert cells[0]["ratio"] == pytest.approx(1 / 3, abs=0.15)
    assert audit["named"][0]["kind"] == "rare finding"


def test_nothing_is_named_where_nothing_is_wrong(make_manifest) -> None:
    rng = np.random.default_rng(3)
    false_alarms = 0
    for _ in range(10):
        rows = [
            {
                "sex": rng.choice(["F", "M"]),
                "labels": rng.choice(["A", "B", "No Finding"]),
                "view": rng.choice(["PA", "AP"]),
            }
            for _ in range(600)
        ]
        audit = audit_manifest(make_manifest(rows), groups=("sex",))
        kinds = {n["kind"] for n in audit["named"] if n["holds"]}
        false_alarms += bool(
            kinds & {"under-represented cell", "confounded", "under-represented group", "rare finding"}
        )
    assert false_alarms <= 1


def test_counts_by_hand(make_manifest) -> None:
    rows = [
        {"patient_id": "p1", "sex": "F", "labels": "A", "study_id": "s1", "image": "1"},
        {"patient_id": "p1", "sex": "F", "labels": "B", "study_id": "s2", "image": "2"},
        {"patient_id": "p2", "sex": "M", "labels": "-A", "study_id": "s1", "image": "3"},
        {"patient_id": "p3", "sex": "M", "study_id": "s1", "image": "4"},
        {"patient_id": "p4", "labels": "?A|B", "study_id": "s1", "image": "5"},
        {"patient_id": "p5", "labels": "A|B", "study_id": "s1", "image": "6", "split": "test"},
    ]
    audit = audit_manifest(make_manifest(rows), groups=("sex",))
    assert (audit["images"], audit["studies"], audit["patients"]) == (6, 6, 5)
    a = next(f for f in audit["findings"] if f["finding"] == "A")
    # p1 positive, p2 negative; p3 is blank and p4 uncertain: unknown, not negative
    assert (a["patients_known"], a["patients_positive"], a["images_positive"]) == (2, 1, 1)
    assert a["images_uncertain"] == 2
    assert a["by_split"]["test"]["patients_positive"] == 1
    cells = {(c["finding"], c["level"]): c for c in audit["cells"]}
    assert (cells["A", "F"]["patients_positive"], cells["A", "F"]["patients"]) == (1, 1)
    assert (cells["A", "M"]["patients_positive"], cells["A", "M"]["patients"]) == (0, 1)
    assert (cells["B", "missing"]["patients_positive"], cells["B", "missing"]["ratio"]) == (1, None)
    together = audit["cooccurrence"]
    assert together["findings"] == ["A", "B"]
    assert together["studies"] == [[1, 0], [0, 2]]
    missing = {m["column"]: m["missing"] for m in audit["missing"]}
    assert (missing["sex"], missing["labels"], missing["age"]) == (2, 1, 6)


def test_a_patient_with_many_images_counts_once(make_manifest) -> None:
    rows = [{"patient_id": "one", "labels": "A", "image": f"a{i}", "sex": "F"} for i in range(500)]
    rows += [{"labels": "B", "sex": "M", "patient_id": f"q{i}"} for i in range(100)]
    audit = audit_manifest(make_manifest(rows), groups=("sex",))
    rare = {n["finding"]: n["n"] for n in named(audit, "rare finding")}
    assert rare == {"A": 1}


def test_source_view_and_single_source(make_manifest) -> None:
    rows = [{"labels": "COVID", "source": "a", "view": "AP"}] * 60 + [{"labels": "Normal", "source": "a"}] * 5
    rows += [{"labels": "Normal", "source": "b"}] * 60 + [{"labels": "COVID", "source": "b"}] * 5
    both = ("COVID", "Normal")
    annotated = {"a": (*both, "Rare"), "b": both}
    data = make_manifest([*rows, {"labels": "Rare", "source": "a"}], annotated)
    audit = audit_manifest(data, groups=())
    seen = {(n["finding"], n["group"]): n for n in named(audit, "confounded")}
    assert ("COVID", "source") in seen
    assert ("COVID", "view") in seen
    assert seen["COVID", "source"]["v"] > 0.7
    assert named(audit, "annotated in one source")[0]["level"] == "a"
    assert named(audit, "annotated in one source")[0]["finding"] == "Rare"


def test_duplicates_and_leaks(make_manifest) -> None:
    rows = [{"labels": "A", "split": s, "patient_id": p} for s, p in
            (("train", "p1"), ("train", "p1"), ("test", "p2"), ("val", "p3"), ("test", "p3"))]  # fmt: skip
    data = make_manifest(rows)
    audit = audit_manifest(data, groups=(), pixel_sha=np.array(["x", "x", "x", "y", "z"]))
    copies = audit["duplicates"]
    assert (copies["checked"], copies["sets"], copies["images"], copies["across_splits"]) == (True, 1, 2, 3)
    assert copies["across_patients"] == 1
    assert copies["examples"] == [["00000", "00001", "00002"]]
    assert [p["patient_id"] for p in audit["patients_in_two_splits"]] == ["p3"]
    assert audit["named"][0]["kind"] == "patients in two splits"
    assert audit_manifest(data, groups=())["duplicates"]["checked"] is False
    with pytest.raises(ValueError, match="pixel_sha"):
        audit_manifest(data, pixel_sha=np.array(["x"]))


def test_one_sex_only_and_missing_groups(make_manifest) -> None:
    audit = audit_manifest(make_manifest([{"labels": "A", "sex": "F"}] * 80), groups=("sex", "age", "hospital"))
    group = named(audit, "under-represented group")
    assert [(g["level"], g["n"]) for g in group] == [("M", 0)]
    assert {n["group"] for n in named(audit, "missing")} == {"age", "hospital"}


def test_intersections_are_compared_with_their_margins(make_manifest) -> None:
    rows = [{"sex": s, "age": a, "labels": "A"} for s, a, n in
            (("F", 30, 20), ("F", 70, 200), ("M", 30, 200), ("M", 70, 200)) for _ in range(n)]  # fmt: skip
    audit = audit_manifest(make_manifest(rows), groups=("sex*age",))
    assert [g["level"] for g in named(audit, "under-represented group")] == ["F*20-39"]
    assert named(audit, "under-represented group")[0]["expected"] == pytest.approx(220 * 220 / 620)


def test_adjustment_counts_mirror_images_once(make_manifest) -> None:
    rng = np.random.default_rng(0)
    rows = [{"sex": "FM"[i % 2], "labels": rng.choice(["A", "B"])} for i in range(200)]
    audit = audit_manifest(make_manifest(rows), groups=("sex",))
    cells = {(c["finding"], c["level"]): c for c in audit["cells"]}
    a = cells["A", "F"]
    assert a["p_adjusted"] == pytest.approx(min(1.0, 2 * a["p_value"]))  # two findings, not four cells
    assert cells["A", "M"]["p_adjusted"] == a["p_adjusted"]


def test_headlines_show_every_kind(imbalanced: Manifest) -> None:
    item = {"holds": True, "sentence": ""}
    many = [{**item, "kind": "rare finding"}] * 20 + [{**item, "kind": "confounded"}]
    shown = headlines(many, 5)
    assert [n["kind"] for n in shown] == ["rare finding"] * 4 + ["confounded"]
    found = audit_manifest(imbalanced)["named"]
    assert headlines(found, 100) == found


def test_page_is_offline_and_escapes_names(make_manifest, tmp_path) -> None:
    evil = "<script>alert(1)</script>"
    rows = [{"labels": evil, "sex": "F", "age": 30, "source": "<b>src"}] * 5 + [{"labels": "B", "source": "t"}] * 5
    audit = audit_manifest(make_manifest(rows), pixel_sha=np.array(["<i>"] * 10))
    write_audit(audit, tmp_path)
    page = (tmp_path / "audit.html").read_text()
    assert evil not in page
    assert "<b>src" not in page
    assert "&lt;script&gt;" in page
    for foreign in ("http://", "https://", "src=", "@import"):
        assert foreign not in page
    for sentence in (n["sentence"] for n in audit["named"]):
        assert sentence.split(":")[0].split("<")[0] in page
    saved = json.loads((tmp_path / "audit.json").read_text())
    assert saved["named"] == audit["named"]


def test_no_train_rows_no_findings(make_manifest, tmp_path) -> None:
    audit = audit_manifest(make_manifest([{"labels": "A", "split": "test"}] * 3))
    assert audit["naming_rows"] == "all rows"
    blank = audit_manifest(make_manifest([{"sex": "F"}] * 3))
    assert blank["findings"] == []
    write_audit(blank, tmp_path)


def test_no_finding_is_never_a_rare_finding(make_manifest) -> None:
    sick = [{"labels": "Mass" if i % 2 else "Effusion"} for i in range(400)]
    for rest in ([{"labels": "No Finding"}] * 5, [{"labels": "-No Finding"}] * 5):
        audit = audit_manifest(make_manifest([*sick, *rest]), groups=[])
        assert "No Finding" in [f["finding"] for f in audit["findings"]]
        assert [n for n in audit["named"] if n["kind"] == "rare finding"] == []
    audit = audit_manifest(make_manifest([*sick, {"labels": "Nodule"}]), groups=[])
    assert [n["finding"] for n in audit["named"] if n["kind"] == "rare finding"] == ["Nodule"]


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 60),
    groups=st.sampled_from([("sex", "age"), (), ("sex*age", "ward"), ("source",)]),
)
def test_any_manifest_has_an_audit(make_manifest, seed: int, n: int, groups: tuple[str, ...]) -> None:
    rng = np.random.default_rng(seed)
    rows = [
        {
            "patient_id": f"p{rng.integers(0, 1 + n // 2)}",
            "labels": rng.choice(["A", "-A", "?A|B", "No Finding", "A|B", None]),
            "sex": rng.choice(["F", "M", None]),
            "age": rng.choice([3.0, 44.0, 81.0, np.nan]),
            "view": rng.choice(["PA", "AP", "Lateral", "unknown"]),
            "source": rng.choice(["", "x", "y"]),
            "ward": rng.choice(["1", "2"]),
        }
        for _ in range(n)
    ]
    split = {f"p{i}": str(rng.choice(["train", "val", "test"])) for i in range(n)}
    audit = audit_manifest(make_manifest([{**r, "split": split[r["patient_id"]]} for r in rows]), groups=groups)
    assert "Audit" in audit_page(audit)
    assert len(summary(audit["named"])) <= 12
    for f in audit["findings"]:
        assert f["images_positive"] <= f["images_known"]
        if f["images_known"]:
            assert f["image_ci_low"] - 1e-9 <= f["image_prevalence"] <= f["image_ci_high"] + 1e-9
    for c in audit["measurable"]["cells"]:
        assert 0 <= c["power"] <= 1
    json.dumps(audit, allow_nan=False)


def test_text_in_place_of_findings_is_refused(imbalanced: Manifest) -> None:
    frame = imbalanced.frame.assign(labels=[f"word {i}" for i in range(len(imbalanced))])
    names = tuple(f"word {i}" for i in range(501))
    with pytest.raises(InputError, match=r"too many findings.*501 different ones, such as 'word 0'.*500 at most"):
        audit_manifest(Manifest(frame, imbalanced.root, None, names, {"": names}))
