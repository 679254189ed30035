"""``cxraug fidelity``: from manifests to tables, the order of what is more and less alike, and refusals."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from pages.offline import Parsed, assert_offline
from PIL import Image, ImageFilter
from torchxrayvision.models import DenseNet
from typer.testing import CliRunner

from cxraug.cli.main import app, run
from cxraug.errors import InputError
from cxraug.fidelity.comparison import COLUMNS, draw
from cxraug.fidelity.extractors import conv_random, open_extractor
from cxraug.fidelity.score import EVERY_MEASURE, MEASURES
from cxraug.pages.fidelity import _beyond
from cxraug.studies.manifest import read_manifest
from cxraug.studies.phantom.cohort import PhantomSettings, render_study, sample_cohort

SIDE = 32
N = 80


def write(folder: Path, pixels: np.ndarray, **columns: object) -> Path:
    (folder / "images").mkdir(parents=True)
    for i, image in enumerate(pixels):
        Image.fromarray(image).save(folder / f"images/{i}.png")
    n = len(pixels)
    frame = pd.DataFrame(
        {
            "image": [f"images/{i}.png" for i in range(n)],
            "patient_id": [f"{folder.name}-{i}" for i in range(n)],
            "view": "PA",
            "labels": ["Effusion" if i % 5 else "Mass" for i in range(n)],
            **columns,
        }
    )
    frame.to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def phantoms(n: int, seed: int) -> np.ndarray:
    settings = PhantomSettings(n=n, seed=seed, size=SIDE, studies_per_patient=1)
    return np.stack([render_study(s, settings).images["PA"] for s in sample_cohort(settings).to_dict("records")])


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sets")
    other = phantoms(N // 2, 1)
    blurred = np.stack([np.asarray(Image.fromarray(x).filter(ImageFilter.GaussianBlur(1))) for x in other])
    noise = np.random.default_rng(0).integers(0, 256, other.shape, dtype=np.uint8)
    made = {"real": phantoms(N, 0), "other": other, "blurred": blurred, "noise": noise}
    paths = {name: write(root / name, pixels) for name, pixels in made.items()}
    frame = pd.read_csv(paths["other"]).assign(synthetic=True, split="train", gate=["reject"] + ["accept"] * 39)
    shutil.copytree(root / "other" / "images", root / "set" / "images")
    frame.to_parquet(root / "set" / "manifest.parquet")
    return {**paths, "root": root, "set": root / "set"}


def answer(*arguments: object) -> dict:
    result = CliRunner().invoke(app, ["fidelity", *map(str, arguments), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def test_another_seed_is_nearer_than_blur_and_blur_than_noise(sets: dict[str, Path]) -> None:
    found = {name: answer(sets["real"], sets[name]) for name in ("other", "blurred", "noise")}
    for at, measure in enumerate(MEASURES[:2]):
        row = [found[name]["rows"][at] for name in found]
        assert [r["measure"] for r in row] == [measure] * 3
        assert row[0]["score"] < row[1]["score"] < row[2]["score"]
        assert row[0]["floor"] == row[1]["floor"] == row[2]["floor"]  # the same draw of the real patients
        assert row[2]["difference_low"] > max(row[0]["difference_high"], 0)
    assert found["noise"]["rows"][2]["score"] == 0


def test_tables_name_extractor_hash_and_n(sets: dict[str, Path], tmp_path: Path) -> None:
    arguments = ["fidelity", str(sets["real"]), str(sets["other"]), "--by", "findings", "--out", str(tmp_path)]
    shown = CliRunner().invoke(app, arguments)
    assert shown.exit_code == 0, shown.output
    text = " ".join(shown.output.split())
    assert "not comparable with published FID" in text
    assert re.search(r"suppressed, fewer than 30 per sample: .*Mass \(8\)", text)
    table = pd.read_csv(tmp_path / "fidelity.csv", keep_default_na=False)
    assert tuple(table.columns) == COLUMNS
    assert set(table["finding"]) == {"all", "Effusion", "Mass"}
    assert set(table["extractor_sha256"]) == {conv_random().sha256}
    assert table.set_index("finding").loc["all", "n"].unique().tolist() == [40]
    mass = table[table["finding"] == "Mass"]
    assert set(mass["flag"]) == {"suppressed"}
    assert set(mass["score"]) == {""}
    again = tmp_path / "again"
    CliRunner().invoke(app, [*arguments[:-1], str(again)])
    assert (again / "fidelity.csv").read_bytes() == (tmp_path / "fidelity.csv").read_bytes()
    assert json.loads((tmp_path / "fidelity.json").read_text())["n"] == 40


def test_groups_are_cells_of_their_own(sets: dict[str, Path], tmp_path: Path) -> None:
    paths = []
    for name in ("real", "other"):
        frame = pd.read_csv(sets[name])
        frame["sex"] = ["F" if i % 10 else "M" for i in range(len(frame))]
        frame["age"] = [30 if i % 10 else np.nan for i in range(len(frame))]
        paths.append(sets[name].with_name("grouped.csv"))
        frame.to_csv(paths[-1], index=False)
    out = tmp_path / "out"
    found = answer(*paths, "--by", "findings", "--groups", "sex,age", "--halves", 2, "--size", 32, "--out", out)
    table = pd.read_csv(out / "fidelity.csv", keep_default_na=False)
    cells = table.groupby(["finding", "group", "level"])["flag"].agg(set).to_dict()
    assert cells["all", "all", "all"] == cells["all", "sex", "F"] == cells["all", "age", "20-39"] == {"few"}
    assert cells["all", "sex", "M"] == cells["Mass", "sex", "F"] == {"suppressed"}
    assert not [key for key in cells if "missing" in key]
    n = table.set_index(["finding", "group", "level"])["n"]
    assert set(n["all", "sex", "F"]) == {36}
    assert set(n["Effusion", "sex", "F"]) == {32}
    shown = table[(table["flag"] != "suppressed") & (table["measure"] != "ms_ssim")]
    assert (shown["floor_sd"].astype(float) >= 0).all()
    assert list(table["measure"][:14]) == list(EVERY_MEASURE)
    assert found["halves"] == 2
    assert_offline((out / "fidelity.html").read_text())
    page = Parsed((out / "fidelity.html").read_text())
    assert page.count("img") == 0
    assert page.count("polyline") == 6
    assert "every finding, sex F" in page.text
    assert "all, sex M" not in page.text
    assert run(["fidelity", *map(str, paths), "--groups", "ward"]) == 2
    assert run(["fidelity", *map(str, paths), "--halves", "0"]) == 2


def test_blur_takes_the_high_band_and_noise_adds_to_it(sets: dict[str, Path]) -> None:
    found = {
        name: {row["measure"]: row for row in answer(sets["real"], sets[name], "--size", SIDE)["rows"]}
        for name in ("other", "blurred", "noise")
    }
    power = {name: rows["power_high"] for name, rows in found.items()}
    assert power["blurred"]["score"] < power["other"]["score"] < power["noise"]["score"]
    assert power["blurred"]["score"] < power["blurred"]["floor_low"]
    assert power["other"]["floor_low"] < power["other"]["score"] < power["other"]["floor_high"]
    assert found["noise"]["ms_ssim"]["score"] < found["noise"]["ms_ssim"]["floor_low"]


def test_rejected_images_of_a_set_are_left_out(sets: dict[str, Path]) -> None:
    found = answer(sets["real"], sets["set"])
    assert (found["rejected_left_out"], found["n"]) == (1, 39)
    assert answer(sets["real"], sets["set"], "--with-rejected")["n"] == 40


def test_halves_share_no_patient_and_have_one_image_each(tmp_path: Path) -> None:
    pixels = np.zeros((90, 8, 8), np.uint8)
    real = read_manifest(write(tmp_path / "a", pixels, patient_id=[f"p{i // 3}" for i in range(90)]))
    other = read_manifest(write(tmp_path / "b", pixels))
    samples = draw(real, other, np.random.default_rng(0), 100)
    ids = real.frame["patient_id"].to_numpy()
    both = np.concatenate([ids[samples.reference], ids[samples.floor]])
    assert len(both) == len(set(both)) == 30
    assert len(samples.synthetic) == 15


def test_the_random_extractor_never_changes() -> None:
    """A change of its weights or features has to come with another name."""
    used, pixels = conv_random(), phantoms(4, 3)
    assert used.sha256.startswith("05aaebb439d3")
    features = used.features(np.tile(pixels, (1, 2, 2)))
    assert features.shape == (4, 448)
    assert np.array_equal(features, used.features(np.tile(pixels, (1, 2, 2))))


def test_an_xrv_state_dict_is_taken_from_a_file(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = DenseNet(num_classes=18)
    torch.save(network.state_dict(), tmp_path / "xrv.pt")
    used = open_extractor(f"xrv:{tmp_path / 'xrv.pt'}")
    features = used.features(np.zeros((2, 224, 224), np.uint8))
    assert (used.name, used.encoding.size, features.shape) == ("xrv:xrv.pt", 224, (2, 1024))
    with torch.inference_mode():
        expected = network.eval().features2(torch.full((2, 1, 224, 224), -1024.0))
    assert np.allclose(features, expected.numpy(), atol=1e-4)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("inception", "no such extractor; found 'inception'; expected conv-random"),
        ("xrv:nowhere.pt", "nowhere.pt: no such weights file, and nothing is downloaded here; expected https://"),
    ],
)
def test_an_extractor_that_is_not_there_is_refused(name: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        open_extractor(name)


def bad(sets: dict[str, Path], tmp_path: Path, name: str) -> tuple[list[object], str]:
    real, other, blank = sets["real"], sets["other"], np.zeros((31, 8, 8), np.uint8)
    return {
        "few patients": ([other, other], "too few patients; found 40; expected at least 60"),
        "few prompts": (
            [real, write(tmp_path / "s", blank[:29])],
            "too few prompts (patient ids); found 29; expected at least 30",
        ),
        "small n": ([real, other, "--n", 5], "--n is too small; found 5; expected at least 30"),
        "large n": ([real, other, "--n", 41], "not that many images; found '--n 41'; expected at most 40"),
        "views": ([real, write(tmp_path / "t", blank, view="AP")], "different views: PA in the real data; found 'AP'"),
        "no view": ([real, other, "--views", "Lateral"], "column 'view': --views names a view that is not there"),
        "synthetic": (
            [sets["set"] / "manifest.parquet", other],
            "column 'synthetic': a synthetic row in the real data",
        ),
        "no set": ([real, tmp_path], "not a finished generated set"),
        "by": ([real, other, "--by", "sex"], "--by is not known; found 'sex'; expected one of findings"),
        "folder": ([real, other, "--extractor", tmp_path], "card.json: no such file"),
    }[name]


@pytest.mark.parametrize(
    "name",
    ["few patients", "few prompts", "small n", "large n", "views", "no view", "synthetic", "no set", "by", "folder"],
)
def test_bad_input_is_one_line(
    sets: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    arguments, words = bad(sets, tmp_path, name)
    assert run(["fidelity", *map(str, arguments)]) == 2
    told = capsys.readouterr()
    assert told.out == ""
    assert len(told.err.splitlines()) == 1
    assert words in told.err


def test_beyond_chance_never_contradicts_the_interval_beside_it() -> None:
    row = {"floor_low": 0.72, "floor_high": 1.0, "score": 0.668, "difference_low": -0.67, "difference_high": 0.18}
    assert _beyond(row) == "no"
    assert _beyond(row | {"difference_high": -0.01}) == "below"
    assert _beyond(row | {"score": 1.6, "difference_low": 0.1, "difference_high": 0.9}) == "above"
    assert _beyond(row | {"score": 0.9, "difference_high": -0.01}) == "no"
    assert _beyond(row | {"floor_low": None}) == "not assessed"
