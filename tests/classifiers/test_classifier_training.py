"""Training: equal steps, exact resume, honest selection, and a problem that must be learnt."""

from __future__ import annotations

import json
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from squares import FINDINGS, SIZE, toy

from cxraug.classifiers import training
from cxraug.classifiers.arms import KINDS, ArmData, Images, arm_data
from cxraug.classifiers.models import weights_seen
from cxraug.classifiers.objective import masked_loss, validation_aurocs
from cxraug.classifiers.prediction import predict_arm
from cxraug.classifiers.schedule import batch_positions, learning_rate
from cxraug.classifiers.settings import TrainSettings
from cxraug.classifiers.training import train_arm
from cxraug.errors import InputError, WorkError
from cxraug.storage import file_sha256
from cxraug.studies.seen import Seen

FILES = ("model.safetensors", "history.csv", "card.json")


def digests(folder):
    return {name: file_sha256(folder / name) for name in FILES}


def card_of(folder):
    return json.loads((folder / "card.json").read_text())


@pytest.fixture
def train(settings, seen, tmp_path):
    """Train on 24 toy images; keyword arguments replace settings or go to train_arm."""

    def run(name, data=None, val=None, **changes):
        own = {k: changes.pop(k) for k in list(changes) if k in TrainSettings.model_fields}
        return train_arm(
            data or ArmData(toy(24, 0)), toy(30, 1) if val is None else val, tmp_path / name,
            settings.model_copy(update=own), **({"findings": FINDINGS, "seed": 3, "seen": seen} | changes),
        )  # fmt: skip

    return run


def test_a_bright_square_is_learnt(train):
    folder = train("toy", ArmData(toy(200, 0)), toy(60, 1), steps=60, batch_size=16, eval_every=20, lr=3e-3)
    card = card_of(folder)
    assert card["val_auroc"] > 0.95
    test = toy(200, 2)
    assert (validation_aurocs(test.y, predict_arm(folder, test.pixels)) > 0.95).all()
    assert card["sha256"] == file_sha256(folder / "model.safetensors")
    assert not (folder / "checkpoint.pt").exists()


def test_same_seed_same_bytes_and_another_seed_other_bytes(train):
    a, b, other = train("a"), train("b"), train("c", seed=4)
    assert digests(a) == digests(b)
    assert digests(a)["model.safetensors"] != digests(other)["model.safetensors"]


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9}, {"mixed_precision": "bf16", "channels_last": True}])
def test_a_killed_training_goes_on_bit_for_bit(train, monkeypatch, changes):
    data = arm_data("pretrained", toy(24, 0), [""] * 24, added=toy(8, 5), seed=0)
    whole = train("whole", data, **changes)
    advance = training._Training.advance

    def dies(self, step):
        if step == 8:  # after a checkpoint at step 5 and a validation at step 8, inside the second stage
            raise KeyboardInterrupt
        advance(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(training._Training, "advance", dies)
        with pytest.raises(KeyboardInterrupt):
            train("cut", data, **changes)
    assert (whole.parent / "cut" / "checkpoint.pt").is_file()
    assert not (whole.parent / "cut" / "card.json").exists()
    done = []
    monkeypatch.setattr(training._Training, "advance", lambda self, step: (done.append(step), advance(self, step))[1])
    assert digests(train("cut", data, **changes)) == digests(whole)
    assert done == list(range(5, 12))
    train("cut", data, **changes)  # finished: nothing is done again
    assert done == list(range(5, 12))


def test_a_folder_of_other_inputs_is_refused(train):
    train("a")
    with pytest.raises(InputError, match="other data or settings"):
        train("a", seed=9)
    with pytest.raises(InputError, match="other data or settings"):
        train("a", ArmData(toy(24, 7)))


def test_a_broken_checkpoint_is_named(train, tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "checkpoint.pt").write_text("broken")
    with pytest.raises(WorkError, match=r"checkpoint\.pt: cannot be read"):
        train("a")


def test_all_arms_take_the_same_steps_and_batches(train, monkeypatch):
    shown = []
    monkeypatch.setattr(training, "augment", lambda x, name, seed: (shown.append((len(x), name, seed)), x)[1])
    cells, planned = ["A|F|x|PA", "B|M|x|PA"] * 12, ["A|F|x|PA"] * 8
    seen_by_arm = {}
    for kind in KINDS:
        shown.clear()
        data = arm_data(kind, toy(24, 0), cells, added=toy(8, 5), planned_cells=planned, seed=0)
        history = pd.read_csv(train(kind, data, steps=4, eval_every=4) / "history.csv")
        seen_by_arm[kind] = [(n, seed) for n, _, seed in shown]
        assert {name for _, name, _ in shown} == {"strong" if kind == "augmented" else "base"}
        assert history["step"].tolist() == [4]
    assert len({tuple(v) for v in seen_by_arm.values()}) == 1
    assert [n for n, _ in seen_by_arm["real"]] == [8] * 4


def test_pretraining_takes_its_share_and_its_weights_are_never_kept(train):
    real = toy(24, 0)
    data = arm_data("pretrained", real, [""] * 24, added=toy(8, 5), seed=0, pretrain_share=0.5)
    folder = train("p", data, eval_every=2)
    history = pd.read_csv(folder / "history.csv")
    assert history["stage"].tolist() == [1, 1, 1, 2, 2, 2]
    card = card_of(folder)
    assert card["selection"]["step"] > 6
    assert card["data"]["pretrain_steps"] == 6
    assert (card["data"]["main"], card["data"]["pretrain"]) == (24, 32)


def test_one_epoch_shows_every_image_once():
    positions = np.concatenate([batch_positions(step, 4, 10, 0) for step in range(5)])
    assert sorted(positions[:10]) == sorted(positions[10:20]) == list(range(10))
    assert list(positions[:10]) != list(positions[10:20])


def test_the_learning_rate_rises_then_falls_to_one_percent():
    settings = TrainSettings(steps=100, warmup=0.1, lr=1.0)
    rates = [learning_rate(step, settings) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[9] == pytest.approx(1.0)
    assert rates[-1] == pytest.approx(0.01)
    assert all(a > b for a, b in pairwise(rates[9:]))


def test_unknown_labels_have_no_gradient():
    logits = torch.tensor([[2.0, -1.0], [0.5, 3.0]], requires_grad=True)
    y = torch.tensor([[1.0, torch.nan], [torch.nan, 0.0]])
    loss = masked_loss(logits, y)
    assert loss.item() == pytest.approx((np.log1p(np.exp(-2.0)) + np.log1p(np.exp(3.0))) / 2)
    loss.backward()
    assert logits.grad[0, 1] == logits.grad[1, 0] == 0
    assert (logits.grad.diagonal() != 0).all()
    nothing = masked_loss(logits, torch.full((2, 2), torch.nan))
    assert nothing.item() == 0


def test_weights_multiply_the_loss_of_positives_only():
    logits = torch.zeros(2, 1)
    one = masked_loss(logits, torch.tensor([[1.0], [0.0]]), torch.tensor([3.0]))
    assert one.item() == pytest.approx(np.log(2) * (3 + 1) / 2)


def test_a_finding_that_is_never_known_leaves_its_head_to_weight_decay_alone(train):
    blank = toy(24, 0).y
    blank[:, 1] = np.nan
    folder = train("blank", ArmData(Images(toy(24, 0).pixels, blank)), weight_decay=0.0)
    start = train("start", steps=1, lr=1e-30)  # the same seed: the same initial weights
    after, before = (load_file(f / "model.safetensors") for f in (folder, start))
    assert torch.equal(after["fc.weight"][1], before["fc.weight"][1])
    assert not torch.equal(after["fc.weight"][0], before["fc.weight"][0])


def test_validation_auroc_matches_a_count_by_hand_and_is_nan_where_it_is_undefined():
    y = np.array([[1, 1, 1], [0, 1, np.nan], [1, 1, 0], [0, 1, 0]], np.float32)
    p = np.array([[0.9, 0.1, 0.3], [0.4, 0.2, 0.9], [0.4, 0.3, 0.2], [0.1, 0.4, 0.3]])
    aurocs = validation_aurocs(y, p)
    assert aurocs[0] == pytest.approx(3.5 / 4)  # 4 pairs, one tie
    assert np.isnan(aurocs[1])
    assert aurocs[2] == pytest.approx(1.5 / 2)  # the blank row does not count
    assert validation_aurocs(y[:, :1], p[:, :1])[0] == pytest.approx(3.5 / 4)


def test_the_later_of_equal_steps_is_kept(train, monkeypatch):
    monkeypatch.setattr(training, "validation_aurocs", lambda y, p: np.array([0.7, 0.9]))
    card = card_of(train("ties", select="Square"))
    assert (card["selection"]["step"], card["val_auroc"]) == (12, 0.7)


def test_the_selected_finding_picks_the_step(train, monkeypatch):
    values = iter([[0.9, 0.1], [0.6, 0.2], [0.5, 0.15]])
    monkeypatch.setattr(training, "validation_aurocs", lambda y, p: np.array(next(values)))
    card = card_of(train("bar", select="Bar"))
    assert (card["selection"]["step"], card["val_auroc"]) == (8, 0.2)
    assert card["selection"]["metric"] == "AUROC of Bar"


def test_without_positives_in_validation_the_last_step_is_kept_and_said_so(train):
    val = toy(10, 1)
    val.y[:, 1] = 0
    card = card_of(train("none", val=val, select="Bar"))
    assert card["selection"]["step"] == 12
    assert card["val_auroc"] is None
    assert "the last step is kept" in card["selection"]["note"]
    empty = Images(np.zeros((0, SIZE, SIZE), np.uint8), np.zeros((0, 2), np.float32))
    assert card_of(train("empty", val=empty))["selection"]["step"] == 12


def test_what_initial_weights_had_seen_stays_known(train, tmp_path):
    first = train("first", seen=Seen.of(["old"], ["old image"], key="0a"))
    second = train("second", init=first)
    third = train("third", weights=str(second / "model.safetensors"))
    assert weights_seen(third).count_patients(["old", "p1", "new"]) == 2
    assert weights_seen(third).count_images(["old image", "i1", "new"]) == 2
    assert digests(third)["model.safetensors"] != digests(train("scratch"))["model.safetensors"]


def test_the_caller_keeps_random_state_and_threads(train):
    torch.manual_seed(0)
    expected = torch.rand(1)
    torch.manual_seed(0)
    train("state")
    assert torch.equal(torch.rand(1), expected)
    assert torch.get_num_threads() == 1


def test_a_loss_that_is_not_finite_stops_with_a_reason(train, monkeypatch):
    monkeypatch.setattr(training, "masked_loss", lambda *a: (a[0] * torch.nan).sum())
    with pytest.raises(WorkError, match="not finite at step 4"):
        train("nan")


def test_arrays_that_do_not_fit_are_refused(train):
    with pytest.raises(InputError, match="validation images have another size"):
        train("a", val=toy(4, 0, size=16))
    with pytest.raises(InputError, match="labels and findings differ"):
        train("b", findings=["Square"])
    with pytest.raises(InputError, match="select is not a finding"):
        train("c", select="Mass")


def test_settings_are_strict():
    for wrong in (
        {"step": 3},
        {"steps": 0},
        {"lr": -1},
        {"augment": "wild"},
        {"mixed_precision": "fp16"},
        {"lr": "nan"},
    ):
        with pytest.raises(ValueError, match="validation error"):
            TrainSettings(**wrong)
