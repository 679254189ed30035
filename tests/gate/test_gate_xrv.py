"""torchxrayvision's networks from local files of their layout (random weights, smaller relatives)."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from cxraug.errors import InputError
from cxraug.gate import reader as reader_module
from cxraug.gate import xrv
from cxraug.gate.check import Images
from cxraug.gate.crossfit import FoldModels
from cxraug.gate.reader import Reader
from cxraug.gate.seen import networks_seen
from cxraug.gate.settings import GateSettings
from cxraug.storage import write_json
from cxraug.studies.seen import Seen


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Relatives of the same layout that fit a test."""
    for name, value in (("SEX_NETWORK", "resnet18"), ("RACE_NETWORK", "resnet18"), ("AGE_NETWORK", "legacy_seresnet18"),
                        ("SEX_SIZE", 32), ("RACE_SIZE", 40), ("AGE_SIZE", 32)):  # fmt: skip
        monkeypatch.setattr(xrv, name, value)


def images(n: int = 24) -> Images:
    rng = np.random.default_rng(0)
    who = np.array([f"p{i}" for i in range(n)], object)
    return Images(
        rng.integers(0, 256, (n, 32, 32)).astype(np.uint8), (rng.random((n, 2)) < 0.5).astype(np.float32), who,
        np.array([f"s{i}" for i in range(n)]), female=(np.arange(n) % 2).astype(float), age=np.linspace(20, 80, n),
        race=np.array(["white", "ASIAN"] * (n // 2), object),
    )  # fmt: skip


def sex_file(folder: Path) -> Path:
    """As PyTorch Lightning saves it: the state dict inside, every key with ``model.`` before it."""
    torch.manual_seed(0)
    network = xrv._torchvision("resnet18", 2)
    torch.save({"state_dict": {f"model.{k}": v for k, v in network.state_dict().items()}}, folder / "sex.ckpt")
    return folder / "sex.ckpt"


def race_file(folder: Path) -> Path:
    """As DataParallel saves it: every key with ``module.`` before it, the head inside a sequence."""
    torch.manual_seed(1)
    network = xrv._torchvision("resnet18", 3)
    network.fc = torch.nn.Sequential(network.fc, torch.nn.LogSoftmax(dim=1))
    torch.save({f"module.{k}": v for k, v in network.state_dict().items()}, folder / "race.pt")
    return folder / "race.pt"


def age_file(folder: Path) -> Path:
    import timm

    torch.manual_seed(2)
    torch.save(timm.create_model("legacy_seresnet18", num_classes=1).state_dict(), folder / "age.pt")
    return folder / "age.pt"


@pytest.fixture(scope="module")
def dense(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from torchxrayvision.models import DenseNet

    torch.manual_seed(3)
    state = DenseNet(num_classes=18).state_dict()
    state["op_threshs"] = torch.full((18,), 0.5)
    file = tmp_path_factory.mktemp("xrv") / "densenet.pt"
    torch.save(state, file)
    return file


def test_findings_are_matched_by_name_and_scores_are_the_logits(dense: Path) -> None:
    from torchxrayvision.datasets import default_pathologies
    from torchxrayvision.models import DenseNet

    real = images(4)
    settings = GateSettings(xrv_findings=str(dense), demographics=False)
    (source,) = xrv.open_xrv(settings, real, ["Pleural Effusion", "Viral Pneumonia", "pleural_thickening"])
    assert source.names == ("Pleural Effusion", "pleural_thickening")
    assert source.held_out[0].all()
    network = DenseNet(num_classes=18).eval()
    state = torch.load(dense, weights_only=True)
    state.pop("op_threshs")
    network.load_state_dict(state)
    grey = torch.from_numpy(real.pixels).float()[:, None] / 255
    x = torch.nn.functional.interpolate(grey, (224, 224), mode="bilinear", antialias=True) * 2048 - 1024
    with torch.no_grad():
        logits = network(x).numpy()
    at = [default_pathologies.index(name) for name in ("Effusion", "Pleural_Thickening")]
    assert source.scorers[0](real.pixels) == pytest.approx(logits[:, at], abs=1e-4)


def test_sex_race_and_age_are_read_from_files_of_their_layout(small: None, tmp_path: Path) -> None:
    real = images()
    settings = GateSettings(
        xrv_sex=str(sex_file(tmp_path)), xrv_race=str(race_file(tmp_path)), xrv_age=str(age_file(tmp_path))
    )
    sex, race, age = xrv.open_xrv(settings, real, ["Mass"])
    assert (sex.names, age.names) == (("sex=F",), ("age",))
    assert race.names == ("race=ASIAN", "race=Black", "race=white")  # as the data spell them
    network = xrv._torchvision("resnet18", 2)
    network.load_state_dict({k[6:]: v for k, v in torch.load(tmp_path / "sex.ckpt")["state_dict"].items()})
    with torch.no_grad():
        out = network.eval()(torch.from_numpy(real.pixels).float()[:, None].expand(-1, 3, -1, -1))
    assert sex.scorers[0](real.pixels)[:, 0] == pytest.approx((out[:, 1] - out[:, 0]).numpy(), abs=1e-4)
    shares = np.exp(race.scorers[0](real.pixels)).sum(axis=1)
    assert shares == pytest.approx(np.ones(24), abs=1e-5)
    assert age.scorers[0](real.pixels).shape == (24, 1)


def test_only_what_they_do_not_read_is_cross_fitted(
    small: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = {}

    def own(real: Images, y: np.ndarray, names: tuple[str, ...], *_: object) -> FoldModels:
        asked["names"], asked["y"] = tuple(names), y
        half = np.arange(len(real)) % 2 == 0
        score = lambda pixels: np.repeat(pixels[:, :1, 0].astype(float), len(names), axis=1)  # noqa: E731
        return FoldModels([score, score], [half, ~half], tuple(names), "ours", ["0", "0"])

    monkeypatch.setattr(reader_module, "fit_folds", own)
    settings = GateSettings(xrv_sex=str(sex_file(tmp_path)), xrv_age=str(age_file(tmp_path)))
    reader = Reader(["Mass", "Effusion"], settings, 0, tmp_path)
    real = images()
    reader.fit(real)
    assert asked["names"] == ("Mass", "Effusion", "race=ASIAN", "race=white")
    assert np.array_equal(asked["y"][:, :2], real.y)
    assert np.array_equal(np.isnan(asked["y"][:, 2]), np.arange(24) % 4 != 0)  # attributes are told for one row in four
    assert reader.names == ("sex=F", "age", *asked["names"])
    assert [part["model"] for part in reader.describe()] == ["xrv:mira sex resnet18", "xrv:riken age legacy_seresnet18",
                                                             "ours"]  # fmt: skip
    assert np.nanmean(reader.real, axis=0) == pytest.approx(np.zeros(6), abs=1e-6)


def test_rows_that_the_card_names_do_not_calibrate(small: None, tmp_path: Path) -> None:
    file, real = sex_file(tmp_path), images()
    settings = GateSettings(xrv_sex=str(file))
    assert networks_seen(settings) == {str(file): None}
    write_json(tmp_path / "sex.ckpt.card.json", {"seen": Seen.of(["p3"], ["s5"], key="00").to_json()})
    (source,) = xrv.open_xrv(settings, real, [])
    assert np.flatnonzero(~source.held_out[0]).tolist() == [3, 5]
    seen = networks_seen(settings)[str(file)]
    assert seen is not None
    assert seen.count_patients(["p3", "p4"]) == 1


def test_files_that_are_missing_or_of_another_layout_are_refused_in_one_line(small: None, tmp_path: Path) -> None:
    real = images(4)
    with pytest.raises(InputError, match="nothing is downloaded here"):
        xrv.open_xrv(GateSettings(xrv_sex=str(tmp_path / "none.pt")), real, [])
    with pytest.raises(InputError, match="nothing is downloaded here"):
        networks_seen(GateSettings(xrv_findings=str(tmp_path / "none.pt")))
    with pytest.raises(InputError, match="weights do not fit at 'fc"):
        xrv.open_xrv(GateSettings(xrv_sex=str(race_file(tmp_path))), real, [])
    with pytest.raises(InputError, match="the weights lack"):
        xrv.open_xrv(GateSettings(xrv_findings=str(sex_file(tmp_path))), real, ["Mass"])
    torch.jit.script(torch.nn.Linear(2, 1)).save(str(tmp_path / "scripted.pt"))
    with pytest.raises(InputError, match="cannot be read without running code"):
        xrv.open_xrv(GateSettings(xrv_age=str(tmp_path / "scripted.pt")), real, [])
