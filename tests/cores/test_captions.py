"""Captions say what the prompt asks, each seed in other words."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxraug.cores.captions import BONES, DEGREES, HEALTHY, PHRASES, Captions
from cxraug.cores.core import Prompt
from cxraug.errors import InputError
from cxraug.evaluation.report_labels import report_labels
from cxraug.evaluation.report_terms import TERMS

ASKED = Prompt("p", {"Effusion": 1, "Mass": 0}, sex="F", age=71.4, race="Black", report="Small effusion.")


def test_presets() -> None:
    assert Captions("roentgen-v2")(ASKED, "PA", 1) == "71 year old Black female. Small effusion."
    assert Captions("chexgen")(ASKED, "PA", 1) == "sex:Female, age:71.4, race:Black. Small effusion."
    assert Captions()(ASKED, "Lateral", 1) == "Chest X-ray, Lateral view. 71 year old Black female. Small effusion."
    bare = Prompt("p", report="Small effusion")
    assert [Captions(name)(bare, "unknown", 1) for name in ("roentgen-v2", "chexgen", "plain")] == [
        "Small effusion.", "Small effusion.", "Chest X-ray. Small effusion.",
    ]  # fmt: skip


def test_a_template_of_the_users_own() -> None:
    captions = Captions("a {view} film of a {age}-year-old {sex}: {findings}")
    assert captions(ASKED, "AP", 1) == "a AP film of a 71-year-old female: Effusion"
    with pytest.raises(InputError, match=r"prompt p: .*\{age\}, which the prompt leaves open"):
        captions(Prompt("p", sex="F"), "AP", 1)
    healthy = Captions("{findings}")
    assert healthy(Prompt("p", labels={"Mass": 0}), "AP", 1) == "no finding"
    with pytest.raises(InputError, match=r"\{findings\}, which the prompt leaves open"):
        healthy(Prompt("p"), "AP", 1)
    with pytest.raises(InputError, match=r"unknown field.*\{weight\}"):
        Captions("{impression} {weight}")
    with pytest.raises(InputError, match="not a template of captions"):
        Captions("roentgen")
    braces = Prompt("p", report="{age}")
    assert Captions("{impression}")(braces, "PA", 1) == "{age}", "what a report says is no template"


@given(st.lists(st.sampled_from(sorted(set(TERMS) - {"Pleural Other", "Support Devices"})), unique=True, min_size=1,
                max_size=4), st.integers(0, 10**9))  # fmt: skip
def test_an_impression_says_all_findings_asked_for(findings: list[str], seed: int) -> None:
    """As the report labeller reads it, an oracle of its own."""
    text = Captions("{impression}")(Prompt("p", dict.fromkeys(findings, 1)), "PA", seed)
    said = report_labels(text, findings)
    assert all(said.get(name) == 1 for name in findings), (text, said)


def test_a_caption_is_hardly_ever_repeated_and_follows_from_its_seed() -> None:
    captions, prompt = Captions("roentgen-v2"), Prompt("p", {"Effusion": 1, "Cardiomegaly": 1}, sex="M", age=60)
    texts = [captions(prompt, "PA", seed) for seed in range(300)]
    assert len(set(texts)) > 280
    assert texts == [captions(prompt, "PA", seed) for seed in range(300)]
    single = [captions(Prompt("p", {"Effusion": 1}), "PA", seed) for seed in range(1000)]
    assert max(single.count(text) for text in set(single)) <= 40, "also where one finding is all there is to say"
    assert captions(prompt, "PA", 3) == captions(prompt, "Lateral", 3), "views of a study show the same"


def test_healthy_and_open_prompts() -> None:
    captions = Captions("{impression}")
    assert captions(Prompt("p", {"No Finding": 1}), "PA", 1).startswith(HEALTHY)
    assert captions(Prompt("p", {"Effusion": 0, "Mass": 0}), "PA", 1).startswith(HEALTHY)
    assert not any(bone in captions(Prompt("p", {"Fracture": 1}), "PA", seed) for seed in range(50) for bone in BONES)
    assert captions(Prompt("p"), "PA", 1) == "Chest radiograph.", "nothing is asked, nothing is said"
    assert report_labels(captions(Prompt("p", {"Rare Thing": 1}), "PA", 1), ["Rare Thing"]) == {"Rare Thing": 1}


def test_severity() -> None:
    captions = Captions("{impression}")
    for degree in DEGREES:
        for name in PHRASES:
            prompt = Prompt("p", {name: 1}, conditions={"severity": degree})
            assert degree in captions(prompt, "PA", 5).lower(), name
    both = Prompt("p", {"Effusion": 1, "Edema": 1}, conditions={"severity": {"Effusion": "severe"}})
    assert "evere" in captions(both, "PA", 1)
    for bad in ("huge", {"Mass": "mild"}, {"Effusion": "huge"}, 3):
        with pytest.raises(InputError, match="prompt p: severity"):
            captions(Prompt("p", {"Effusion": 1}, conditions={"severity": bad}), "PA", 1)


def test_impressions_from_a_table(tmp_path: Path) -> None:
    path = tmp_path / "impressions.csv"
    rows = [("Effusion", "Effusion one."), ("Effusion", "Effusion two."), ("Mass", "A mass."),
            ("Mass|Edema", "Both."), ("No Finding", "Clear.")]  # fmt: skip
    pd.DataFrame(rows, columns=["labels", "impression"]).to_csv(path, index=False)
    captions = Captions("{impression}", path)
    effusion = Prompt("p", {"Effusion": 1, "Mass": 0})
    assert {captions(effusion, "PA", seed) for seed in range(20)} == {"Effusion one.", "Effusion two."}
    assert captions(Prompt("p", {"Edema": 1, "Mass": 1}), "PA", 1) == "Both."
    joined = captions(Prompt("p", {"Effusion": 1, "Mass": 1}), "PA", 1)
    assert joined in ("Effusion one. A mass.", "Effusion two. A mass.")
    assert captions(Prompt("p", {"No Finding": 1}), "PA", 1) == "Clear."
    with pytest.raises(InputError, match=r"impressions\.csv: prompt p: no impression of Hernia"):
        captions(Prompt("p", {"Hernia": 1}), "PA", 1)
    assert captions.settings["impressions"] is not None
    path.write_text("labels,impression\nEffusion,\n")
    with pytest.raises(InputError, match=r"row 2.*impression|impression.*row 2"):
        Captions("{impression}", path)
    path.write_text("labels,text\n")
    with pytest.raises(InputError, match="a column is missing"):
        Captions("{impression}", path)
    with pytest.raises(InputError, match="no such table"):
        Captions("{impression}", tmp_path / "none.csv")


def test_what_captions_leave_out_cannot_be_asked_for(tmp_path: Path) -> None:
    asked = ["views", "findings", "sex", "age", "race", "report", "severity"]
    assert [Captions(name).conditions(asked) for name in ("plain", "roentgen-v2", "chexgen")] == [asked] * 3
    assert Captions("{impression}").conditions(asked) == ["views", "findings", "report", "severity"]
    assert Captions("{age} {sex} {findings}").conditions(asked) == ["views", "findings", "sex", "age"]
    (tmp_path / "t.csv").write_text("labels,impression\nEffusion,An effusion.\n")
    assert "severity" not in Captions("plain", tmp_path / "t.csv").conditions(asked)
    assert ["view" in Captions(name).says for name in ("plain", "roentgen-v2", "{view} {impression}")] == [1, 0, 1]
    with pytest.raises(InputError, match="a report is given, and the severity"):
        Captions()(Prompt("p", {"Mass": 1}, report="A mass.", conditions={"severity": "mild"}), "PA", 1)


def test_uncertain_or_denied_normality_is_not_called_normal(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text("labels,impression\n?Pneumonia,Possible pneumonia.\nNo Finding,Normal chest.\n")
    healthy = Prompt("p", {"No Finding": 1})
    assert {Captions("{impression}", table)(healthy, "PA", seed) for seed in range(20)} == {"Normal chest."}
    assert Captions("{impression}")(Prompt("p", {"No Finding": 0, "Mass": 0}), "PA", 1) == "Chest radiograph."


def test_a_missing_impression_is_an_error_in_parquet_too(tmp_path: Path) -> None:
    pd.DataFrame({"labels": ["Mass", "Mass"], "impression": ["A mass.", None]}).to_parquet(tmp_path / "t.parquet")
    with pytest.raises(InputError, match=r"row 3.*an impression is empty"):
        Captions("{impression}", tmp_path / "t.parquet")
