"""What is given is read before the rest is drawn."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from cores.interrupted import dying_after
from PIL import Image
from toystudies import FINDINGS, toy_settings, toy_studies, train_toy

from cxraug.cores import steps as module
from cxraug.cores.conditions import Vocabulary
from cxraug.cores.core import GenerativeCore, Prompt
from cxraug.cores.given import Given, read_given
from cxraug.cores.multiprompt.alignment import content
from cxraug.cores.multiprompt.core import MultipromptCore
from cxraug.cores.multiprompt.network import FRONTAL, LATERAL_SLOT, REPORT
from cxraug.cores.multiprompt.recognition import SURE, Recognition, spelled_findings, train_recognition
from cxraug.cores.multiprompt.sampling import Model
from cxraug.cores.multiprompt.studyset import StudySet
from cxraug.cores.registry import open_core

EFFUSION = FINDINGS.index("Effusion")


def with_ages(n: int, seed: int) -> StudySet:
    """Toy studies whose age is in their latent, with an error of 5 years; a third of the ages is unknown."""
    studies = toy_studies(n, seed)
    rng = np.random.default_rng(seed)
    age = rng.uniform(20, 90, n)
    latents = torch.randn(n, 2, 8, generator=torch.Generator().manual_seed(seed))
    latents[:, 0, 0] = torch.from_numpy((age - 55 + rng.normal(0, 5, n)) / 20).float()
    latents[:, 1, 3] = torch.from_numpy(np.where(studies.conditions.y[::2, EFFUSION] == 1, 2.0, -2.0)).float()
    told = np.where(rng.random(n) < 0.3, np.nan, age)
    conditions = replace(studies.conditions, age=told.repeat(2))
    return replace(studies, conditions=conditions, latents=latents).encode(Vocabulary.of(conditions))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Recognition:
    found = train_recognition(with_ages(1200, 1), tmp_path_factory.mktemp("r"), steps=500, key="k")
    assert found is not None
    return found


def test_every_slot_is_read(trained: Recognition) -> None:
    studies = with_ages(300, 2)
    y = studies.conditions.y[::2]
    female = studies.conditions.sex[::2] == "F"
    assert trained.slots == (FRONTAL, LATERAL_SLOT, REPORT)
    with torch.no_grad():
        said = {s: trained(s, content(studies, s, np.arange(300))).numpy() for s in trained.slots}
    for slot in trained.slots:
        right = (said[slot][:, EFFUSION] > 0) == (y[:, EFFUSION] == 1)
        assert right.mean() > 0.95, slot
    assert ((said[FRONTAL][:, 1] > 0) == (y[:, 1] == 1)).mean() > 0.85, "a nodule of 4 x 4 pixels"
    assert ((said[FRONTAL][:, 2] > 0) == female).mean() > 0.85
    guess = 1 / (1 + np.exp(-said[LATERAL_SLOT][:, 2]))
    assert abs(guess - female.mean()).mean() < 0.2, "sex is not in the lateral view, and it is not sure of it"
    known = np.isfinite(studies.conditions.age[::2])
    error = (50 + 25 * said[REPORT][:, 3] - studies.conditions.age[::2])[known]
    assert 3 < error.std() < 8
    assert 25 * np.exp(said[REPORT][:, 4]).mean() == pytest.approx(error.std(), rel=0.3), "it knows how sure it is"


def test_only_what_is_open_is_drawn_and_each_from_its_own_stream(trained: Recognition) -> None:
    studies = with_ages(40, 3)
    shown = {REPORT: content(studies, REPORT, np.array([int(np.flatnonzero(studies.conditions.y[::2, EFFUSION])[0])]))}
    drawn = [trained.complete(Prompt("p"), shown, seed) for seed in range(200)]
    assert all(set(p.labels) == set(FINDINGS) and p.sex in ("M", "F") for p in drawn)
    assert np.mean([p.labels["Effusion"] for p in drawn]) >= 0.75
    nodules = np.mean([p.labels["Nodule"] for p in drawn])
    with torch.no_grad():
        assert nodules == pytest.approx(float(trained(REPORT, shown[REPORT])[0, 1].sigmoid()), abs=0.1)
    assert np.std([p.age for p in drawn]) == pytest.approx(6, rel=0.4)
    asked = Prompt("p", {"Effusion": 0}, "F", 33.0)
    same = trained.complete(asked, shown, 7)
    assert (same.labels["Effusion"], same.sex, same.age) == (0, "F", 33.0)
    assert same.labels["Nodule"] == drawn[7].labels["Nodule"]
    healthy = Prompt("p", {"No Finding": 1})
    assert trained.complete(healthy, shown, 7).labels == {"No Finding": 1}


def test_what_no_study_knows_stays_open(tmp_path: Path) -> None:
    studies = with_ages(60, 1)
    c = studies.conditions
    y = c.y.copy()
    y[:, EFFUSION] = np.nan
    blank = replace(studies, conditions=replace(c, y=y, sex=np.array([""] * len(c.sex), object)))
    found = train_recognition(blank, tmp_path, steps=2, key="k")
    assert found is not None
    assert found.findings == ("Nodule",)
    drawn = found.complete(Prompt("p"), {FRONTAL: content(studies, FRONTAL, np.array([0]))}, 1)
    assert set(drawn.labels) == {"Nodule"}
    assert drawn.sex is None
    assert 0 <= drawn.age <= 100
    assert train_recognition(blank, tmp_path, steps=0, key="k") is None


def test_interrupted_and_resumed_is_bit_identical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    studies = with_ages(60, 1)
    monkeypatch.setattr(module, "CHECKPOINT_EVERY", 2)
    whole = train_recognition(studies, tmp_path / "a", steps=6, key="k")
    with dying_after(4):
        train_recognition(studies, tmp_path / "b", steps=6, key="k")
    again = train_recognition(studies, tmp_path / "b", steps=6, key="k")
    assert whole is not None
    assert again is not None
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name]), name


def test_a_core_keeps_it_and_bytes_do_not_depend_on_neighbours(toy_folder: Path, tmp_path: Path) -> None:
    core = open_core(toy_folder)
    assert isinstance(core, MultipromptCore)
    assert core.recognition is not None
    prompts = [Prompt(f"p{i}", report=text, views=("PA",)) for i, text in
               enumerate(["No pleural effusion.", "There is a pleural effusion."] * 2)]  # fmt: skip
    whole = core.generate(prompts, [1, 2, 3, 4])
    (alone,) = core.generate(prompts[2:3], [3])
    assert np.array_equal(whole[2].images["PA"], alone.images["PA"])
    tuned = open_core(train_toy(toy_studies(), tmp_path / "core", toy_settings(steps=2), init=toy_folder))
    assert isinstance(tuned, MultipromptCore)
    assert tuned.recognition is not None
    state = tuned.recognition.state_dict()
    assert all(torch.equal(x, state[name]) for name, x in core.recognition.state_dict().items())
    none = open_core(train_toy(toy_studies(), tmp_path / "none", toy_settings(steps=2, recognition_steps=0)))
    assert isinstance(none, MultipromptCore)
    assert none.recognition is None


def test_a_core_completes_what_its_prompt_shows(learned: GenerativeCore, tmp_path: Path) -> None:
    assert isinstance(learned, MultipromptCore)
    studies = toy_studies(60, seed=9)
    right = []
    for study in range(60):
        Image.fromarray(studies.maps[2 * study, 0]).save(tmp_path / "frontal.png")
        prompt = Prompt("p", views=("Lateral",), reference_image=json.dumps({"PA": str(tmp_path / "frontal.png")}))
        given = read_given(prompt, resolution=16, findings=learned.card.findings)
        drawn = learned._completed(prompt, given, study, {})
        y, sex = studies.conditions.y[2 * study], studies.conditions.sex[2 * study]
        right.append((drawn.labels["Effusion"] == y[EFFUSION], drawn.sex == sex))
        assert learned._role(prompt).attributes, "guided by what was read"
    assert np.mean(right, 0) == pytest.approx([0.95, 0.8], abs=0.1)
    open_prompt = Prompt("p")
    assert learned._completed(open_prompt, read_given(open_prompt, resolution=16, findings=()), 1, {}) is open_prompt
    assert not learned._role(open_prompt).attributes


def test_reports_that_read_wrong_are_drawn_again(learned: GenerativeCore) -> None:
    """Rows that read right keep their text, the others gain; a row does not depend on its neighbours."""
    assert isinstance(learned, MultipromptCore)
    prompts = [Prompt(f"p{i}", {"Effusion": i % 2}, views=()) for i in range(32)]
    y = torch.tensor([[float("nan")] * len(FINDINGS)] * 32)
    y[:, EFFUSION] = torch.tensor([float(p.labels["Effusion"]) for p in prompts])
    own = learned.settings
    try:
        learned.configure(guidance=0.0, report_guidance=0.0, report_tries=1)  # a report of anybody
        once = [s.report for s in learned.generate(prompts, list(range(32)))]
        learned.configure(report_tries=6)
        tried = [s.report for s in learned.generate(prompts, list(range(32)))]
        (alone,) = learned.generate(prompts[5:6], [5])
    finally:
        learned._use(own)
    before, right = learned._agreement(once, y)
    after, reads = learned._agreement(tried, y)
    assert 0.2 < right.float().mean() < 0.8
    assert reads.float().mean() > 0.9
    assert (after >= before).all()
    assert [t for t, r in zip(tried, right.tolist(), strict=True) if r] == [
        t for t, r in zip(once, right, strict=True) if r
    ]
    assert alone.report == tried[5]
    said = ["There is a pleural effusion" in text for text in tried]
    assert np.mean([a == p.labels["Effusion"] for a, p in zip(said, prompts, strict=True)]) > 0.85


def test_a_report_is_drawn_without_its_views_only_where_nothing_is_open(learned: GenerativeCore) -> None:
    """Beside the views it never comes out right here; without them at once."""
    assert isinstance(learned, MultipromptCore)
    assert learned.codec is not None
    sentences = ("No pleural effusion. Examined was a man.", "There is a pleural effusion. Examined was a man.")
    latents = {learned.codec.decode(x)[0]: x for x in (learned.codec.encode([text]) for text in sentences)}
    wrong, right = latents
    assert [text.startswith("There is") for text in latents] == [False, True]
    draws: list[str] = []

    def towards(text: str, name: str) -> Model:
        def model(noisy: dict[int, torch.Tensor], t: float) -> dict[int, torch.Tensor]:
            draws.append(name)
            return {REPORT: latents[text].expand_as(noisy[REPORT])}

        return model

    prompts = [Prompt("open", {"Effusion": 1}), Prompt("closed", {"Effusion": 1, "Nodule": 0})]
    drawn = latents[wrong].expand(2, -1, -1)
    said = learned._reports(drawn, prompts, [1, 2], towards(wrong, "beside"), towards(right, "alone"))
    assert said == [wrong, right]
    assert draws[0] == "beside"
    assert draws[-1] == "alone"
    assert learned._reports(drawn[:1], prompts[:1], [1], towards(wrong, "beside"), towards(right, "alone")) == [wrong]


def test_findings_that_a_rule_reads_right_are_read_by_rule(learned: GenerativeCore) -> None:
    """Reports of the toy speak of effusions and never of nodules."""
    assert isinstance(learned, MultipromptCore)
    assert learned.codec is not None
    assert learned.recognition is not None
    assert learned.recognition.spelled == ("Effusion",)
    studies = toy_studies(100)
    assert spelled_findings(replace(studies, reports=np.array([""] * 100, object)), FINDINGS) == []
    swapped = [str(r).replace("No ", "There is a ") for r in studies.reports]
    assert spelled_findings(replace(studies, reports=np.array(swapped, object)), FINDINGS) == []
    text = "Examined was a man. Pleural effusion on the left. Old fractures."  # in words the network never saw
    latent = learned.codec.encode([text])
    assert learned.recognition.says(text, latent)[EFFUSION] == SURE
    assert learned.recognition.says("Examined was a man.", latent)[EFFUSION] == -SURE
    assert (
        learned._completed(Prompt("p", report=text), Given({}, {}, {}, {}), 1, {text: latent[0]}).labels["Effusion"]
        == 1
    )
