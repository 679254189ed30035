"""Writing in the pixels: what is drawn is found, what an X-ray holds otherwise is not, and it goes where it must."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from dicomfile import write as write_dicom
from PIL import Image, ImageDraw, ImageFont

from cxraug.cli.main import run
from cxraug.cores.recipe import read_core_recipe, train_core
from cxraug.cores.registry import read_card
from cxraug.errors import InputError
from cxraug.stages import _without_text
from cxraug.studies.burned_text import (
    MARKER,
    NONE,
    TAGGED,
    TEXT,
    clean_rows,
    find_rows,
    of_concern,
    writing_in,
    writing_in_file,
)
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import read_manifest
from cxraug.studies.phantom.cohort import PhantomSettings, render_study, sample_cohort

SIDE = 256
NAME = "DOE JANE 1956-04-12"


@pytest.fixture(scope="module")
def phantoms() -> np.ndarray:
    settings = PhantomSettings(n=24, seed=5, size=SIDE, studies_per_patient=1)
    records = sample_cohort(settings).to_dict("records")
    return np.stack([next(iter(render_study(s, settings).images.values())) for s in records])


def drawn(image: np.ndarray, text: str, at: tuple[int, int], size: int = 14, grey: int = 255) -> np.ndarray:
    picture = Image.fromarray(image)
    ImageDraw.Draw(picture).text(at, text, fill=grey, font=ImageFont.load_default(size))
    return np.asarray(picture)


def test_phantoms_have_no_text(phantoms: np.ndarray) -> None:
    assert [writing_in(image) for image in phantoms] == [NONE] * len(phantoms)


@pytest.mark.parametrize("size", [10, 12, 16, 24])
@pytest.mark.parametrize("at", [(4, 4), (4, 226), (90, 120)])
def test_a_name_is_found_wherever_it_stands(phantoms: np.ndarray, size: int, at: tuple[int, int]) -> None:
    for image in phantoms[:6]:
        x, y = at
        spot = image[y : y + size, x : x + 9 * size]
        grey = 255 if spot.mean() < 128 else 0
        assert writing_in(drawn(image, NAME, at, size, grey)) == TEXT
        assert writing_in(np.rot90(drawn(image, NAME, at, size, grey)).copy()) == TEXT


def test_the_box_lies_on_the_text() -> None:
    image = drawn(np.full((200, 300), 20, np.uint8), "PORTABLE", (120, 60), 16)
    inside = np.argwhere(image > 130)
    row = max(find_rows(image.astype(np.float32)), key=lambda r: r.strokes)
    assert (row.top, row.left) == pytest.approx(inside.min(axis=0), abs=2)
    assert (row.bottom, row.right) == pytest.approx(inside.max(axis=0) + 1, abs=2)
    assert row.strokes >= 8


def test_a_marker_is_not_text(phantoms: np.ndarray) -> None:
    for image in phantoms[:6]:
        assert writing_in(drawn(image, "L", (8, 8), 24)) == MARKER
        assert writing_in(drawn(image, "R", (8, 8), 18)) == MARKER


def test_large_and_deep_images_are_read_like_small_ones(phantoms: np.ndarray) -> None:
    large = np.asarray(Image.fromarray(phantoms[0]).resize((3000, 2400), Image.Resampling.BICUBIC))
    assert writing_in(large) == NONE
    deep = drawn(large, NAME, (40, 40), 60).astype(np.uint16) * 257
    assert writing_in(deep) == TEXT
    assert writing_in(large.astype(np.uint16) * 16) == NONE


@pytest.mark.parametrize("shape", [(1, 1), (31, 400), (64, 64)])
def test_odd_images_are_harmless(shape: tuple[int, int]) -> None:
    assert writing_in(np.zeros(shape, np.uint8)) == NONE
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    assert writing_in(noise) == NONE


def test_a_header_that_says_yes_is_believed_and_one_that_says_no_is_not(tmp_path: Path) -> None:
    blank, written = np.full((200, 300), 20, np.uint8), drawn(np.full((200, 300), 20, np.uint8), NAME, (20, 20))
    for name, pixels, said, expected in (
        ("a", blank, "YES", TAGGED), ("b", blank, "NO", NONE), ("c", written, "NO", TEXT), ("d", written, None, TEXT)
    ):  # fmt: skip
        path = write_dicom(tmp_path / f"{name}.dcm", pixels, **({"BurnedInAnnotation": said} if said else {}))
        assert writing_in_file(path, pixels) == expected
    assert of_concern(np.array([NONE, MARKER, TEXT, TAGGED])).tolist() == [False, False, True, True]


def test_which_rows_a_core_sees(capsys: pytest.CaptureFixture[str]) -> None:
    writing = np.array([NONE, TEXT, MARKER, TAGGED], np.uint8)
    assert clean_rows(writing, "leave_out").tolist() == [True, False, True, False]
    assert "2 of 4 images have text burned into their pixels" in capsys.readouterr().err
    assert clean_rows(writing, "keep").all()
    assert "the core is trained on them" in capsys.readouterr().err
    assert clean_rows(writing[:1], "leave_out").all()
    assert capsys.readouterr().err == ""
    with pytest.raises(InputError, match="every training image"):
        clean_rows(writing[[1, 3]], "leave_out")


@pytest.fixture
def study(tmp_path: Path, phantoms: np.ndarray) -> Path:
    """Sixteen phantoms, every fourth with a name on it, and one header that admits to it."""
    (tmp_path / "images").mkdir()
    names = []
    for i, image in enumerate(phantoms[:16]):
        name = f"images/{i}.png"
        if i == 1:
            name = "images/1.dcm"
            write_dicom(tmp_path / name, image, BurnedInAnnotation="YES")
        else:
            Image.fromarray(drawn(image, NAME, (4, 4)) if i % 4 == 0 else image).save(tmp_path / name)
        names.append(name)
    frame = pd.DataFrame({"image": names, "patient_id": [f"p{i}" for i in range(16)], "labels": ["Mass", "Edema"] * 8})
    frame.assign(split="train", sex="F", age=40).to_csv(tmp_path / "m.csv", index=False)
    return tmp_path


def test_the_audit_counts_and_lists_them(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = study / "audit"
    assert run(["audit", str(study / "m.csv"), "--out", str(out)]) == 0
    assert "burned-in text 5 images" in " ".join(capsys.readouterr().out.split())
    found = json.loads((out / "audit.json").read_text())["burned_text"]
    assert (found["images"], found["tagged"], found["train"], found["checked"]) == (5, 1, 5, True)
    listed = pd.read_csv(out / "burned_text.csv")
    assert listed["image"].tolist() == [f"images/{n}" for n in ("0.png", "1.dcm", "4.png", "8.png", "12.png")]
    assert listed["writing"].tolist() == ["text", "tagged", "text", "text", "text"]
    assert "5 images have text burned into their pixels" in (out / "audit.html").read_text()
    assert run(["audit", str(study / "m.csv"), "--out", str(study / "none"), "--no-pixels"]) == 0
    assert "Burned-in text was not looked for" in (study / "none" / "audit.html").read_text()
    assert not (study / "none" / "burned_text.csv").exists()


@pytest.mark.parametrize("policy", [None, "keep"])
def test_a_core_is_trained_without_them_unless_asked(
    study: Path, policy: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    data = {"manifest": "m.csv", **({"burned_text": policy} if policy else {})}
    recipe = {"name": "r", "data": data, "encoding": {"size": 32}, "core": {"kind": "gaussian", "components": 3}}
    (study / "core.yaml").write_text(json.dumps(recipe))
    card = read_card(train_core(read_core_recipe(study / "core.yaml"), study / "core"))
    told = capsys.readouterr().err
    assert "5 of 16 images have text burned into their pixels" in told
    assert ("without them" in told) == (policy is None)
    assert card.training_data["images"] == (11 if policy is None else 16)
    assert card.hashes.count_patients(["p0", "p1", "p4"]) == (0 if policy is None else 3)
    assert card.hashes.count_patients(["p2", "p3"]) == 2


def test_some_rows_of_a_cache_as_a_memory_map(study: Path) -> None:
    _, cache = build_cache(read_manifest(study / "m.csv"), study / "cache", Encoding(32))
    rows = ~of_concern(cache.writing)
    part = cache.stored(rows, study / "part.npy")
    assert isinstance(part.pixels, np.memmap)
    np.testing.assert_array_equal(part.pixels, cache.pixels[rows])
    assert part.sha.tolist() == cache.sha[rows].tolist()
    assert not of_concern(part.writing).any()


@pytest.mark.parametrize(("policy", "expected"), [("leave_out", [True, False, False]), ("keep", [True, True, False])])
def test_a_run_trains_its_cores_without_them_unless_asked(policy: str, expected: list[bool]) -> None:
    cache = SimpleNamespace(writing=np.array([NONE, TEXT, TEXT], np.uint8))
    recipe = SimpleNamespace(core=SimpleNamespace(burned_text=policy))
    run_ = SimpleNamespace(cache=cache, recipe=recipe)
    keep = np.array([True, True, False])
    assert _without_text(run_, keep).tolist() == expected  # type: ignore[arg-type]
    assert keep.tolist() == [True, True, False]
