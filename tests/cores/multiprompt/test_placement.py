"""Boxes drawn for findings that are asked for without one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from toystudies import FINDINGS, SIZE, toy_settings, toy_studies, train_toy

from cxraug.cores.conditions import Vocabulary
from cxraug.cores.core import GenerativeCore, Prompt
from cxraug.cores.multiprompt.core import MultipromptCore
from cxraug.cores.multiprompt.network import FRONTAL, LATERAL_SLOT
from cxraug.cores.multiprompt.placement import GROW, MOVE, STUDIES, Placement, fit_placement
from cxraug.cores.multiprompt.studyset import StudySet
from cxraug.cores.registry import open_core

NODULE = FINDINGS.index("Nodule")


def both_views(n: int = 400) -> StudySet:
    """Toy studies whose nodules are also seen from the side, at the same height."""
    studies = toy_studies(n)
    boxes, known = studies.boxes.copy(), studies.boxes_known.copy()
    boxes[1::2] = boxes[::2]
    boxes[1::2, :, 1] = 0.25 * (boxes[::2, :, 1] + 1)
    known[1::2] = 1
    return replace(studies, boxes=boxes, boxes_known=known)


def fitted(studies: StudySet) -> Placement:
    found = fit_placement(studies, Vocabulary.of(studies.conditions))
    assert found is not None
    return found


def test_only_findings_that_usually_have_a_box() -> None:
    studies = toy_studies(600)
    found = fitted(studies)
    assert found.findings == {NODULE}  # an effusion has none
    assert found.slots == {FRONTAL}  # nobody marked lateral views
    assert found.boxes[:, 1].unique().tolist() == list(range(STUDIES))
    marked = {tuple(b) for b in studies.boxes[::2, 0].round(4).tolist() if b[0] == NODULE}
    assert {(row[0], *row[3:]) for row in found.boxes.round(decimals=4).tolist()} <= marked
    y = studies.conditions.y[::2]
    assert found.frequency.tolist() == pytest.approx(y.mean(0).tolist())
    rarely = replace(studies, boxes=np.where(np.arange(1200)[:, None, None] % 4, studies.boxes, -1))
    assert fit_placement(rarely, Vocabulary.of(studies.conditions)) is None  # half of the nodules have one
    unmarked = replace(studies, boxes_known=0 * studies.boxes_known)
    assert fit_placement(unmarked, Vocabulary.of(studies.conditions)) is None


def test_drawn_boxes_are_those_of_training_a_little_moved() -> None:
    found = fitted(both_views())
    assert found.slots == {FRONTAL, LATERAL_SLOT}
    drawn = [found.draw(NODULE, [0, 1], torch.Generator().manual_seed(i)) for i in range(500)]
    again = found.draw(NODULE, [0, 1], torch.Generator().manual_seed(7))
    assert torch.equal(again[0], drawn[7][0])
    frontal, lateral = (torch.cat([d[s] for d in drawn]) for s in (0, 1))
    assert len(frontal) == len(lateral) == 500
    for boxes in (frontal, lateral):
        assert (boxes[:, 1:3] >= 0).all()
        assert (boxes[:, 1:3] + boxes[:, 3:] <= 1 + 1e-6).all()
    inside = (frontal[:, 2] > 0) & (frontal[:, 2] + frontal[:, 4] < 1)
    assert torch.allclose(frontal[inside, 2], lateral[inside, 2], atol=1e-6), "one body, one height"
    known = found.boxes[found.boxes[:, 2] == FRONTAL][:, 3:]
    centre, old = (b[:, :2] + b[:, 2:] / 2 for b in (frontal[:, 1:], known))
    off = torch.cdist(centre, old).min(1).values
    assert 0.3 * MOVE < off.mean() < 2 * MOVE, "near a training box, not on it"
    assert torch.log(frontal[:, 3] / 0.25).std().item() == pytest.approx(GROW, rel=0.2)
    assert torch.cdist(old.unique(dim=0), centre).min(1).values.max() < 4 * MOVE, "every place has its chance"


def contrast(image: np.ndarray, box: torch.Tensor) -> float:
    """Mean inside the box less that of a frame of two pixels around it."""
    x, y, w, h = (round(v * SIZE) for v in box[1:].tolist())
    wide = image[max(0, y - 2) : y + h + 2, max(0, x - 2) : x + w + 2].astype(float)
    part = image[y : y + h, x : x + w].astype(float)
    return part.mean() - (wide.sum() - part.sum()) / (wide.size - part.size)


def test_the_finding_lies_where_its_box_was_drawn(learned: GenerativeCore) -> None:
    assert isinstance(learned, MultipromptCore)
    prompts = [Prompt(f"p{i}", {"Nodule": 1, "Effusion": 0}, wants_report=False) for i in range(16)]
    role = learned._role(prompts[0])
    nothing = learned_given(learned, prompts[0])
    boxes = [learned._placed(p, nothing, i, role)[FRONTAL] for i, p in enumerate(prompts)]
    assert all(len(b) == 1 for b in boxes)
    studies = learned.generate(prompts, list(range(16)))
    images = [s.images["PA"] for s in studies]
    for study, drawn in zip(studies, boxes, strict=True):
        (told,) = study.boxes["PA"]
        assert told["label"] == "Nodule"
        assert [told[side] / SIZE for side in "xywh"] == pytest.approx(drawn[0, 1:].tolist(), abs=0.1 / SIZE + 1e-6)
    seen = [contrast(image, b[0]) for image, b in zip(images, boxes, strict=True)]
    assert np.median(seen) > 35
    elsewhere = [contrast(image, b[0]) for image, b in zip(images, boxes[1:] + boxes[:1], strict=True)]
    assert np.median(elsewhere) < 15
    learned.configure(draw_boxes=False)
    try:
        assert learned._placed(prompts[0], nothing, 0, role) == {}
        free = [s.images["PA"] for s in learned.generate(prompts, list(range(16)))]
    finally:
        learned.configure(draw_boxes=True)
    assert np.median([contrast(image, b[0]) for image, b in zip(free, boxes, strict=True)]) < 15


def learned_given(core: MultipromptCore, prompt: Prompt):
    from cxraug.cores.given import read_given

    return read_given(prompt, resolution=core.card.resolution, findings=core.card.findings)


def placed(core: MultipromptCore, **asked) -> dict[int, torch.Tensor]:
    prompt = Prompt("p", **{"wants_report": False, **asked})
    return core._placed(prompt, learned_given(core, prompt), 5, core._role(prompt))


def test_what_else_is_given_may_say_where(learned: GenerativeCore) -> None:
    assert isinstance(learned, MultipromptCore)
    box = json.dumps([{"label": "Nodule", "x": 1, "y": 1, "w": 4, "h": 4}])
    asked = {"labels": {"Nodule": 1}}
    assert len(placed(learned, **asked)[FRONTAL]) == 1
    assert placed(learned, **asked, boxes=box) == {}
    assert placed(learned, **asked, boxes="[]") == {}
    assert placed(learned, **asked, report="No pleural effusion. Examined was a man.") == {}
    assert placed(learned, labels={"Nodule": 0}) == {}
    assert placed(learned, labels={"Effusion": 1}) == {}
    assert placed(learned, **asked, views=("Lateral",)) == {}


def test_open_findings_get_boxes_as_often_as_they_occur(toy_folder: Path) -> None:
    core = open_core(toy_folder)
    assert isinstance(core, MultipromptCore)
    one = torch.tensor([[0, 0, FRONTAL, 0.1, 0.1, 0.2, 0.2], [1, 0, FRONTAL, 0.5, 0.5, 0.2, 0.2]])
    core.placement = Placement(one, torch.tensor([0.25, 0.5]))
    prompts = [Prompt(f"p{i}", {"Nodule": 1}) for i in range(400)]
    role, nothing = core._role(prompts[0]), learned_given(core, prompts[0])
    drawn = [core._placed(p, nothing, i, role)[FRONTAL][:, 0].tolist() for i, p in enumerate(prompts)]
    assert all(1.0 in d for d in drawn)
    assert np.mean([0.0 in d for d in drawn]) == pytest.approx(0.25, abs=0.07)
    assert np.mean([len(placed(core, labels={"Nodule": 1, "Effusion": 0})[FRONTAL])]) == 1
    box = json.dumps([{"label": "Nodule", "x": 1, "y": 1, "w": 4, "h": 4}])
    completed = placed(core, labels={"Nodule": 1, "Effusion": 1}, boxes=box)
    (study,) = core.generate([Prompt("p", {"Nodule": 1, "Effusion": 1}, boxes=box)], [5])
    assert [told["label"] for told in study.boxes["PA"]] == ["Nodule", "Effusion"]
    assert study.boxes["PA"][0] == json.loads(box)[0]
    assert completed[FRONTAL][:, 0].tolist() == [0.0], "the asked box stays, the other finding gets its own"


def test_boxes_follow_their_findings_into_an_older_vocabulary(toy_folder: Path, tmp_path: Path) -> None:
    """A core that is fine-tuned keeps its findings first; boxes of new data are numbered as those data are."""
    studies = toy_studies()
    names = ("Atelectasis", *reversed(FINDINGS))
    y = np.concatenate([0 * studies.conditions.y[:, :1], studies.conditions.y[:, ::-1]], 1)
    boxes = studies.boxes.copy()
    boxes[..., 0] = np.where(boxes[..., 0] == NODULE, 1, -1)
    other = replace(studies, conditions=replace(studies.conditions, findings=names, y=y), boxes=boxes)
    old = Vocabulary.of(studies.conditions)
    grown = old.union(Vocabulary.of(other.conditions))
    assert grown.findings == (*FINDINGS, "Atelectasis")
    rows = np.arange(10)
    same, moved = (s.encode(v).asked(rows, [FRONTAL]).layouts[FRONTAL].boxes
                   for s, v in ((studies, old), (other, grown)))  # fmt: skip
    assert torch.equal(same, moved)
    assert (same[..., 0] == NODULE).any()
    found = fit_placement(other, grown)
    assert found is not None
    assert found.findings == {NODULE}
    folder = train_toy(other, tmp_path / "core", toy_settings(steps=2), init=toy_folder)
    tuned = open_core(folder)
    assert isinstance(tuned, MultipromptCore)
    assert tuned.placement is not None
    assert torch.equal(tuned.placement.boxes, fit_placement(other, grown, 3).boxes)  # type: ignore[union-attr]


def test_findings_without_boxes_keep_their_earlier_ones() -> None:
    box = torch.tensor([[1.0, 0, FRONTAL, 0.5, 0.5, 0.2, 0.2]])
    earlier = Placement(torch.cat([box, box * torch.tensor([0.0, 1, 1, 1, 1, 1, 1])]), torch.tensor([0.3, 0.4]))
    new = Placement(box * torch.tensor([1.0, 1, 1, 0.1, 1, 1, 1]), torch.tensor([0.1, 0.2, 0.6]))
    both = new.over(earlier)
    assert both.boxes[:, 0].tolist() == [1.0, 0.0]
    assert both.boxes[0, 3].item() == pytest.approx(0.05)
    assert both.frequency.tolist() == pytest.approx([0.3, 0.2, 0.6])
    assert new.over(None) is new
