"""The card of a set: what it says, that it is true, what it must not say, and that hostile text stays text."""

from __future__ import annotations

import hashlib
import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from huggingface_hub import DatasetCard
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from privacy.test_swap import GATE, Writing, write_real
from synthesis.toycore import ToyCore, toy_plan

from cxraug.cli.main import run
from cxraug.errors import InputError
from cxraug.gate.gate import gate_set
from cxraug.gate.settings import GateSettings
from cxraug.interop.card import card_text, one_line, plain, write_card
from cxraug.interop.counts import finding_counts, one_row_per_study, present_by_level
from cxraug.interop.licences import hub_licence
from cxraug.interop.setfacts import read_set_facts
from cxraug.pages.markdown import table
from cxraug.privacy import swap_report
from cxraug.privacy.swap import swap
from cxraug.privacy.swap_settings import SwapSettings
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.labels import parse_labels
from cxraug.studies.manifest import read_manifest
from cxraug.synthesis.generate import generate_set

ONLY_COPIES = GateSettings(
    **dict.fromkeys(("agreement", "demographics", "realism", "reports"), False), max_redraws=0
)  # fmt: skip


@pytest.fixture(scope="module")
def gated(tmp_path_factory) -> Path:
    """A gated set of two views, with a card."""
    folder = tmp_path_factory.mktemp("card")
    real = read_manifest(write_real(folder / "clinic"))
    made = generate_set(toy_plan(12, "PA|Lateral"), ToyCore(), folder / "set")
    kept, cache = build_cache(real, folder / "cache", Encoding(32))
    train = (kept.frame["split"] == "train").to_numpy()
    gate_set(made, kept.take(train), cache.take(train), Encoding(32), ONLY_COPIES, findings=["Effusion", "Mass"],
             folder=folder / "gate")  # fmt: skip
    write_card(made, read_set_facts(made))
    return made


@pytest.fixture
def ungated(tmp_path) -> Path:
    return generate_set(toy_plan(6), ToyCore(), tmp_path / "set")


def section(text: str, heading: str) -> str:
    return text.split(f"## {heading}\n")[1].split("\n## ")[0]


def test_the_front_matter_is_what_the_hub_reads(gated):
    data = DatasetCard((gated / "README.md").read_text()).data.to_dict()
    assert data["pretty_name"] == "set"
    assert data["size_categories"] == ["n<1K"]
    assert "synthetic" in data["tags"]
    assert data["license"] == "other"
    (config,) = data["configs"]
    assert config["data_files"] == [{"split": "train", "path": "manifest.parquet"}]


def test_datasets_loads_the_rows_as_the_front_matter_says(gated, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from datasets import load_dataset

    loaded = load_dataset(str(gated), cache_dir=str(tmp_path / "cache"))
    frame = pd.read_parquet(gated / "manifest.parquet")
    assert list(loaded) == ["train"]
    assert loaded["train"]["image"][:] == frame["image"].tolist()
    assert loaded["train"]["labels"][:] == frame["labels"].tolist()


def test_counts_are_those_of_the_table(gated):
    text = section((gated / "README.md").read_text(), "Counts")
    studies = pd.read_parquet(gated / "manifest.parquet").drop_duplicates("study_id")
    parsed = studies["labels"].map(parse_labels)
    bands = pd.cut(
        studies["age"], [0, 20, 40, 60, 80, 200], right=False, labels=["0-19", "20-39", "40-59", "60-79", "80+"]
    )
    for finding in ("Effusion", "Mass"):
        value = parsed.map(lambda labels, f=finding: labels.get(f))
        assert f"| {finding} | {(value == 1).sum()} | {(value == 0).sum()} | {(value == -1).sum()} | 0 |" in text
        by_sex = [((value == 1) & (studies["sex"] == sex)).sum() for sex in ("F", "M")]
        assert f"| {finding} | {by_sex[0]} | {by_sex[1]} |" in text
        ages = [((value == 1) & (bands == band)).sum() for band in ("20-39",)] + [((value == 1) & bands.isna()).sum()]
        assert f"| {finding} | {ages[0]} | {ages[1]} |" in text
    assert f"| all studies | {(studies['sex'] == 'F').sum()} | {(studies['sex'] == 'M').sum()} |" in text


def test_hashes_gate_and_core_are_those_of_the_set(gated):
    text = (gated / "README.md").read_text()
    for name in ("manifest.parquet", "provenance.jsonl"):
        assert hashlib.sha256((gated / name).read_bytes()).hexdigest() in section(text, "Files")
    frame = pd.read_parquet(gated / "manifest.parquet")
    shas = [hashlib.sha256((gated / name).read_bytes()).hexdigest() for name in frame["image"]]
    assert hashlib.sha256(json.dumps(shas, separators=(",", ":")).encode()).hexdigest() in section(text, "Files")
    gate = json.loads((gated / "gate.json").read_text())
    assert f"{gate['accepted']} of {gate['total']} images accepted" in section(text, "Gate")
    assert "realism was not checked" in section(text, "Gate")
    assert "a" * 64 in text
    assert "| Licence of the core | none |" in text
    assert "**Not attacked**" in section(text, "Privacy")
    assert "No image shows a patient" in section(text, "What is not promised")


def test_what_the_gate_could_not_judge_is_named(gated):
    facts = read_set_facts(gated)
    said = "**Accepted without a check of** the labels; sex; age; realism"
    assert said in section(card_text(facts, title="x"), "Gate")
    read = {"Effusion": {"present_cutoff": 0.5}, "Mass": {"present_cutoff": None}}
    checks = {"agreement": {"findings": read}, "realism": {}, "duplicates": {}, "reports": {},
              "demographics": {"attributes": {"sex": {"level": 0.01}, "age": {"level": None}}}}  # fmt: skip
    text = card_text(replace(facts, gate={**facts.gate, "checks": checks}), title="x")
    assert "**Accepted without a check of** the labels Mass; age. The" in section(text, "Gate")
    read["Mass"]["present_cutoff"] = checks["demographics"]["attributes"]["age"]["level"] = 0.02
    text = card_text(replace(facts, gate={**facts.gate, "checks": checks}), title="x")
    assert "without a check" not in text


def test_nothing_of_the_real_data_or_the_machine_is_in_it(gated):
    for name in ("README.md", "croissant.json"):
        text = (gated / name).read_text()
        for secret in ("secret-", "visit-", "original-", "clinic", str(gated.parent), "very special finding"):
            assert secret not in text


def test_a_card_is_the_same_twice_and_needs_no_asking_for_its_own(gated, capsys):
    before = {name: (gated / name).read_bytes() for name in ("README.md", "croissant.json")}
    assert run(["card", str(gated), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["gated"], answer["attacked"], answer["swapped"]) == (True, False, False)
    assert {name: (gated / name).read_bytes() for name in before} == before


def test_without_gate_and_attack_it_says_so(ungated, capsys):
    assert run(["card", str(ungated), "--name", "My set", "--licence", "CC-BY-4.0"]) == 0
    assert "not gated, not attacked" in capsys.readouterr().out
    text = (ungated / "README.md").read_text()
    assert "**Not gated**" in text
    assert "# My set" in text
    data = DatasetCard(text).data.to_dict()
    assert data["license"] == "cc-by-4.0"
    assert "creativecommons.org/licenses/by/4.0" in data["license_link"]


def test_somebodys_readme_is_not_overwritten_unasked(ungated, capsys):
    (ungated / "README.md").write_text("mine")
    assert run(["card", str(ungated)]) == 2
    assert "--fresh" in capsys.readouterr().err
    assert (ungated / "README.md").read_text() == "mine"
    assert run(["card", str(ungated), "--fresh"]) == 0


def test_a_set_that_is_made_anew_loses_its_card(ungated):
    write_card(ungated, read_set_facts(ungated))
    generate_set(toy_plan(4), ToyCore(), ungated, fresh=True)
    assert not (ungated / "README.md").exists()
    assert not (ungated / "croissant.json").exists()


def test_what_was_given_to_the_core_is_said(tmp_path):
    plan = toy_plan(4).assign(report=["A real patient's report.", None, None, None])
    made = generate_set(plan, Writing(), tmp_path / "set")
    facts = read_set_facts(made)
    assert facts.given == {"report": 1}
    text = card_text(facts, title="x")
    assert "Something was given to the core" in section(text, "Provenance")
    assert "real patient" not in text


def edit(folder: Path, **columns: object) -> None:
    frame = pd.read_parquet(folder / "manifest.parquet")
    frame.assign(**columns).to_parquet(folder / "manifest.parquet", index=False)


def test_what_is_not_as_it_was_made_is_refused(ungated, tmp_path):
    image = next((ungated / "images").iterdir())
    kept = image.read_bytes()
    image.write_bytes(kept + b"x")
    with pytest.raises(InputError, match="not the one that was made"):
        read_set_facts(ungated)
    image.write_bytes(kept)
    (ungated / "gate.json").write_text(json.dumps({"total": 99, "accepted": 1}))
    with pytest.raises(InputError, match=r"gate\.json is about other rows"):
        read_set_facts(ungated)
    (ungated / "gate.json").unlink()
    lines = (ungated / "provenance.jsonl").read_text().splitlines()
    (ungated / "provenance.jsonl").write_text("\n".join(lines[1:]))
    with pytest.raises(InputError, match="without provenance"):
        read_set_facts(ungated)
    (ungated / "provenance.jsonl").write_text("[" * 100_000)
    with pytest.raises(InputError, match="not a line of provenance"):
        read_set_facts(ungated)
    (ungated / "provenance.jsonl").write_text("\n".join(lines))
    edit(ungated, synthetic=False)
    with pytest.raises(InputError, match="not synthetic"):
        read_set_facts(ungated)
    with pytest.raises(InputError, match="not a finished"):
        read_set_facts(tmp_path)


def attacked(folder: Path, where: Path, **changes: object) -> dict:
    found = {"digests": {"synthetic": read_manifest(folder / "manifest.parquet").digest()}, "alarms": ["membership"],
             "sentences": ["Real pairs are recognised with AUC 0.9."], "rule": "One rule."}  # fmt: skip
    where.mkdir(exist_ok=True)
    (where / "privacy.json").write_text(json.dumps({**found, **changes}))
    return found


def test_an_audit_of_this_set_is_shown_and_one_of_another_is_not(ungated, tmp_path, capsys):
    attacked(ungated, ungated / "privacy")
    text = card_text(read_set_facts(ungated), title="x")
    assert "Alarms: **membership**" in section(text, "Privacy")
    assert "AUC 0.9" in section(text, "Privacy")
    assert "No differential privacy" in section(text, "What is not promised")
    attacked(ungated, ungated / "privacy", digests={"synthetic": "other"})
    text = card_text(read_set_facts(ungated), title="x")
    assert "**Not attacked**" in section(text, "Privacy")
    assert "another state of this set" in section(text, "Privacy")
    attacked(ungated, tmp_path / "elsewhere", digests={"synthetic": "other"})
    assert run(["card", str(ungated), "--privacy", str(tmp_path / "elsewhere")]) == 2
    assert "about other rows" in capsys.readouterr().err
    assert run(["card", str(ungated), "--privacy", str(tmp_path / "nowhere")]) == 2


def no_attacks(swapped, settings):
    row = {"attack": "re-identification", "target": "stand-ins", "measure": "auc", "value": 0.5, "ci_low": 0.4,
           "ci_high": 0.6, "flag": "", "method": "", "n_pairs": 9, "n_patients": 9, "impostors": ""}  # fmt: skip
    return {"rows": [row], "alarms": [], "rule": "One rule.", "notes": [],
            "sentences": ["On stand-ins the attack has AUC 0.5."]}  # fmt: skip


def reporter(swapped, where):
    """The report of a swap without its trainings and attacks."""

    class Settings:
        def model_dump(self, **_):
            return {}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swap_report, "_attacks", no_attacks)
        patch.setattr(swap_report, "_utility", lambda *_: pd.DataFrame(columns=list(swap_report.COLUMNS)))
        swap_report.write_report(swapped, where, settings=Settings())


@pytest.mark.parametrize("report", [True, False])
def test_a_swapped_set_says_k_and_attacks_and_nothing_of_its_originals(tmp_path, report):
    real = read_manifest(write_real(tmp_path / "clinic"))
    settings = SwapSettings(k=3, candidates=1, size=32, gate=GATE)
    answer = swap(real, Writing(), tmp_path / "out", settings, reporter=reporter if report else None)
    assert run(["card", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out/README.md").read_text()
    assert "stand in for those of a private set" in text
    assert "A stand-in is no finding about its patient" in section(text, "What is not promised")
    if report:
        assert f"At least {answer['k']} patients" in section(text, "Privacy")
        assert "AUC 0.5" in section(text, "Privacy")
        assert "Alarms: **none**" in section(text, "Privacy")
    else:
        assert "**Not attacked**" in section(text, "Privacy")
        assert "Not gated" not in text
        assert "What that gate checked is not known here" in section(text, "Gate")
    for name in ("README.md", "croissant.json"):
        written = (tmp_path / "out" / name).read_text()
        for secret in ("secret-", "visit-", "original-", "clinic", str(tmp_path), "very special"):
            assert secret not in written
    if not report:  # a card does not stand in the way of a new swap
        swap(real, Writing(), tmp_path / "out", settings, fresh=True)
        assert not (tmp_path / "out/README.md").exists()


def test_the_licence_comes_from_the_core_that_is_named_if_it_is_the_one(ungated):
    card = ToyCore().card
    (ungated / "core_card.json").unlink()
    assert read_set_facts(ungated).core["licence"] is None
    assert read_set_facts(ungated, core=card).core["licence"] == "none"
    with pytest.raises(InputError, match="not the one that made this set"):
        read_set_facts(ungated, core=card.model_copy(update={"sha256": "b" * 64}))
    assert "| Licence of the core | not recorded |" in card_text(read_set_facts(ungated), title="x")


HOSTILE = (
    "<script>alert(1)</script>", "<img src=x onerror=alert(1)>", "[click](javascript:alert(1))",
    "![x](http://evil.test/x)",
    "`code` **bold** _em_ ~~s~~ $x$", "<http://evil.test>", "http://evil.test/a www.evil.test me@evil.test",
    "[a]: http://e", "&lt;b&gt;", "x\\[y](http://evil.test)", "--- license: mit", "\u202egnp.exe", "# heading",
    "1) list", "a\\", "![][x]",
)  # fmt: skip


def tokens(text: str) -> list:
    found = []
    for token in MarkdownIt("commonmark").enable("table").parse(text):
        found += [token, *(token.children or [])]
    return found


def assert_inert(text: str) -> None:
    body = text.split("\n---\n", 1)[1]
    for token in tokens(body):
        assert not token.type.startswith(("html_inline", "link", "image")), token
        assert token.type != "html_block" or token.content.strip() == "<!-- written by cxraug card -->"
    assert not re.search(r"[\u202a-\u202e\u2066-\u2069\x00-\x09\x0b-\x1f]", text)


@pytest.mark.parametrize("text", HOSTILE)
def test_hostile_text_stays_text(gated, text):
    facts = read_set_facts(gated)
    frame = facts.manifest.frame.assign(labels=f"x{text}".replace("|", "/"), source=text)
    manifest = type(facts.manifest)(frame, facts.manifest.root, facts.manifest.file, (text,), {})
    core = {**facts.core, "name": text, "version": text, "licence": text, "sampler": {text: text}, "device": [text],
            "versions": {text: text}}  # fmt: skip
    gate = {**facts.gate, "notes": [text], "reasons": {text: 3}, "studies": {"findings": {text: {"n": 1}}, "all": {}}}
    privacy = {"alarms": [text], "sentences": [text], "rule": text}
    bad = type(facts)(manifest, False, core, gate, None, privacy, {text: 1}, facts.hashes, [text])
    plain_facts = type(facts)(facts.manifest, False, facts.core, facts.gate, None, None, {}, facts.hashes, [])
    written = card_text(bad, title=text.replace("\u202e", "x"))
    assert_inert(written)
    data = DatasetCard(written).data.to_dict()
    assert set(data) == set(DatasetCard(card_text(plain_facts, title="x")).data.to_dict())
    assert data["license"] == "other"
    assert data["pretty_name"] == " ".join(text.replace("\u202e", "x").split())
    headings = [t for t in tokens(written.split("\n---\n", 1)[1]) if t.type == "heading_open"]
    assert len(headings) == 8


MARKS = st.text(alphabet="\\\\`*_[]()#|~$&<>@!-+=.:/1 awx\n\"'{};", max_size=40)


@given(st.text(max_size=60) | MARKS)
def test_any_text_is_shown_as_it_is_and_does_nothing(text):
    found = tokens(f"- {plain(text)}a")
    kinds = {token.type for token in found}
    allowed = {"inline", "paragraph_open", "paragraph_close", "bullet_list_open", "bullet_list_close", "list_item_open",
               "list_item_close", "text", "text_special"}  # fmt: skip
    assert kinds <= allowed
    shown = "".join(token.content for token in found if token.type in ("text", "text_special"))
    assert shown == one_line(text) + "a"


@given(MARKS)
def test_any_text_is_one_cell_of_a_table(text):
    found = tokens(table(("a", "b"), [(plain(text), "second")]))
    assert sum(token.type == "td_open" for token in found) == 2
    shown = [t.content for t in found if t.type == "inline"]
    assert shown[3] == "second"


def test_a_name_with_line_ends_is_no_front_matter(ungated):
    write_card(ungated, read_set_facts(ungated), name="x\n---\nlicense: mit\n---\n# y", licence="my\nlicense: mit")
    text = (ungated / "README.md").read_text()
    assert DatasetCard(text).data.to_dict()["license"] == "other"
    assert_inert(text)


def test_licences_of_the_shipped_cores_are_known_to_the_hub():
    assert hub_licence("CC BY 4.0, with the credits of data_cards/cxr-nano.md")[0] == "cc-by-4.0"
    assert hub_licence("CC0-1.0")[0] == "cc0-1.0"
    assert hub_licence("as its source says") == ("other", None)
    assert hub_licence(None) == ("other", None)


def test_counting_by_hand(gated):
    manifest = read_manifest(gated / "manifest.parquet")
    studies = one_row_per_study(manifest)
    assert len(studies) == manifest.frame["study_id"].nunique()
    counted = finding_counts(studies)
    assert (counted.sum(axis=1) == len(studies)).all()
    by_age = present_by_level(studies, "age")
    np.testing.assert_array_equal(by_age.drop(index="all studies").sum(axis=1), counted["present"])
    assert by_age.loc["all studies"].sum() == len(studies)
    nothing = present_by_level(studies.assign(sex=np.nan), "sex")
    assert list(nothing.columns) == ["missing"]
