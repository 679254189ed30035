"""Networks and weights files: what fits is loaded, what does not is refused by its key."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import save_file

from cxraug.classifiers.models import build_model, weights_seen
from cxraug.errors import InputError
from cxraug.storage import file_sha256
from cxraug.studies.seen import Seen

TINY = "test_resnet"


@pytest.fixture(scope="module")
def state():
    return build_model(TINY, 2).net.state_dict()


def test_one_logit_per_finding():
    assert build_model(TINY, 3)(torch.rand(2, 1, 32, 32)).shape == (2, 3)


def test_a_network_of_one_size_is_built_for_the_images():
    assert build_model("test_vit", 2, size=64)(torch.rand(1, 1, 64, 64)).shape == (1, 2)


@pytest.mark.parametrize("name", ["resnet10tt", "hf_hub:someone/model", "local-dir:/tmp/x", "xrv:resnet-none"])
def test_unknown_names_are_refused(name):
    with pytest.raises(InputError, match="no such"):
        build_model(name, 2)


def test_hub_weights_are_named_and_not_downloaded():
    with pytest.raises(InputError, match=r"timm/resnet18\.a1_in1k.*train\.weights"):
        build_model("resnet18.a1_in1k", 2)
    with pytest.raises(InputError, match=r"https://github\.com/mlmed/torchxrayvision.*train\.weights"):
        build_model("xrv:densenet121-res224-all", 2)


@pytest.mark.parametrize("kind", ["safetensors", "pt", "nested"])
def test_weights_are_loaded_exactly(kind, state, tmp_path):
    file = tmp_path / ("w.safetensors" if kind == "safetensors" else "w.pt")
    if kind == "safetensors":
        save_file(state, file)
    else:
        torch.save({"state_dict": {f"module.{k}": v for k, v in state.items()}} if kind == "nested" else state, file)
    model = build_model(TINY, 2, weights=file)
    assert model.notes == []
    assert all(torch.equal(v, state[k]) for k, v in model.net.state_dict().items())


def test_a_head_of_another_size_starts_anew_and_says_so(state, tmp_path, capsys):
    save_file(state, tmp_path / "w.safetensors")
    model = build_model(TINY, 5, weights=tmp_path / "w.safetensors")
    assert "2 outputs in the file, 5 wanted" in model.notes[0]
    assert "the head starts anew" in capsys.readouterr().err
    assert torch.equal(model.net.state_dict()["conv1.0.weight"], state["conv1.0.weight"])


def test_a_head_of_other_findings_starts_anew(state, tmp_path):
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    (tmp_path / "card.json").write_text(json.dumps({"findings": ["Mass", "Nodule"]}))
    head = [k for k in state if k.startswith("fc.")]
    same = build_model(TINY, 2, weights=file, findings=["Mass", "Nodule"]).net.state_dict()
    other = build_model(TINY, 2, weights=file, findings=["Nodule", "Mass"])
    assert all(torch.equal(same[k], state[k]) for k in head)
    assert "Mass, Nodule" in other.notes[0]
    assert not torch.equal(other.net.state_dict()["fc.weight"], state["fc.weight"])


def test_any_other_difference_is_refused_by_key(state, tmp_path):
    def load(changed):
        save_file(changed, tmp_path / "w.safetensors")
        return build_model(TINY, 2, weights=tmp_path / "w.safetensors")

    with pytest.raises(InputError, match=r"another shape at 'conv1\.0\.weight'.*\(4, 3, 3, 3\)"):
        load(state | {"conv1.0.weight": torch.zeros(4, 3, 3, 3)})
    with pytest.raises(InputError, match=r"lack 'bn1\.bias'"):
        load({k: v for k, v in state.items() if k != "bn1.bias"})
    with pytest.raises(InputError, match=r"hold 'extra\.weight'"):
        load(state | {"extra.weight": torch.zeros(1)})
    with pytest.raises(InputError, match=r"not finite at 'bn1\.bias'"):
        load(state | {"bn1.bias": torch.full_like(state["bn1.bias"], torch.nan)})


def test_files_that_are_no_weights_are_refused(tmp_path):
    (tmp_path / "a.safetensors").write_text("not weights")
    (tmp_path / "b.pt").write_text("not weights")
    torch.save(torch.nn.Linear(1, 1), tmp_path / "c.pt")
    torch.save([1, 2], tmp_path / "d.pt")
    for name in ("a.safetensors", "b.pt", "c.pt", "d.pt", "none.pt"):
        with pytest.raises(InputError, match=name):
            build_model(TINY, 2, weights=tmp_path / name)


def test_torchxrayvision_weights_of_the_right_layout_are_loaded(tmp_path):
    from torchxrayvision.models import DenseNet

    source = DenseNet(num_classes=18)
    with torch.no_grad():
        source.features.norm5.weight.fill_(1.5)
    torch.save(source.state_dict() | {"op_threshs": torch.zeros(18)}, tmp_path / "xrv.pt")
    model = build_model("xrv:densenet121-res224-all", 2, weights=tmp_path / "xrv.pt").eval()
    own, given = model.net.state_dict(), source.state_dict()
    assert all(torch.equal(own[k], given[k]) for k in own if not k.startswith("classifier."))
    assert "18 outputs in the file, 2 wanted" in model.notes[0]
    seen_by_net = []
    model.net.register_forward_pre_hook(lambda _, args: seen_by_net.append(args[0]))
    with torch.inference_mode():
        assert model(torch.tensor([0.0, 1.0]).view(2, 1, 1, 1).expand(2, 1, 16, 16)).shape == (2, 2)
    assert seen_by_net[0].shape[-2:] == (224, 224)
    assert seen_by_net[0].amin((1, 2, 3)).tolist() == pytest.approx([-1024, 1024], abs=0.01)


def test_what_weights_have_seen_is_read_from_their_card(state, tmp_path):
    file = tmp_path / "w.safetensors"
    save_file(state, file)
    assert weights_seen(file) is None
    first, second = Seen.of(["a"], ["x"], key="01"), Seen.of(["b"], ["y"], key="02")
    card = {"seen": first.to_json(), "seen_before": [second.to_json()], "sha256": file_sha256(file)}
    (tmp_path / "w.safetensors.card.json").write_text(json.dumps(card))
    seen = weights_seen(file)
    assert seen.count_patients(["a", "b", "c"]) == 2
    assert seen.count_images(["x", "y", "z"]) == 2
    (tmp_path / "w.safetensors.card.json").write_text(json.dumps(card | {"sha256": "0"}))
    with pytest.raises(InputError, match="other weights"):
        weights_seen(file)
    (tmp_path / "w.safetensors.card.json").write_text(json.dumps({"name": "x"}))
    with pytest.raises(InputError, match="does not say what was seen"):
        weights_seen(file)
