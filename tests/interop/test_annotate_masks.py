"""PNG masks into a manifest: parts put together as bits, and what is refused."""

from __future__ import annotations

import json

import numpy as np
import pytest
from interop.clinic import SIZE, read_study, write_study
from PIL import Image

from cxraug.cli.main import run
from cxraug.errors import InputError
from cxraug.interop.masks import annotate_masks
from cxraug.studies.images import ImageError, read_mask_values
from cxraug.studies.manifest import read_manifest


@pytest.fixture
def bare(tmp_path):
    real = read_study(tmp_path / "clinic", 4)
    return type(real)(real.frame.drop(columns="mask"), real.root, real.file, real.findings, real.annotated)


def draw(path, inside, value=255):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((inside * value).astype(np.uint8)).save(path)
    return path


def square(left, top):
    inside = np.zeros(SIZE, bool)
    inside[top : top + 8, left : left + 8] = True
    return inside


def test_parts_become_bits_of_one_mask(bare, tmp_path):
    lung, lesion = square(2, 2), square(6, 6)
    draw(tmp_path / "lung/test-0_mask.png", lung)
    draw(tmp_path / "lesion/test-0_mask.png", lesion, 1)
    draw(tmp_path / "lesion/other_mask.png", lesion)
    draw(tmp_path / "lesion/test-2_mask.png", lesion * False)
    out, counts = annotate_masks(
        bare, {"lung": tmp_path / "lung", "lesion": tmp_path / "lesion"}, bare.root / "new", suffix="_mask"
    )
    assert counts == {"images": 1, "files": 4, "empty": 1, "not_in_manifest": 1}
    values = read_mask_values(out.take([0]).paths("mask")[0])
    np.testing.assert_array_equal(values, lung * 1 + lesion * 4)
    assert out.frame["mask"].notna().sum() == 1


def test_masks_of_a_manifest_are_taken_as_they_are(bare, tmp_path):
    values = np.arange(SIZE[0] * SIZE[1]).reshape(SIZE) % 8
    draw(tmp_path / "bits/test-0.png", values, 1)
    draw(tmp_path / "bits/deep/test-1.png", square(3, 3))  # 0 and 255: lungs
    out, _ = annotate_masks(bare, {"bits": tmp_path / "bits"}, bare.root / "new")
    paths = out.take([0, 1]).paths("mask")
    np.testing.assert_array_equal(read_mask_values(paths[0]), values)
    np.testing.assert_array_equal(read_mask_values(paths[1]), square(3, 3) * 1)


@pytest.mark.parametrize(
    ("part", "pixels", "told"),
    [
        ("lung", np.zeros((9, 9), np.uint8), "another size"),
        ("lung", np.arange(SIZE[0] * SIZE[1]).reshape(SIZE).astype(np.uint8), "one part"),
        ("bits", np.full(SIZE, 99, np.uint8), "not a mask"),
        ("bits", np.zeros((*SIZE, 3), np.uint8), "not a mask"),
        ("bits", np.full(SIZE, 700, np.uint16), "not a mask"),
        ("liver", np.ones(SIZE, np.uint8), "unknown part"),
    ],
)  # fmt: skip
def test_a_bad_mask_is_refused_in_one_line(bare, tmp_path, part, pixels, told):
    (tmp_path / "masks").mkdir()
    Image.fromarray(pixels).save(tmp_path / "masks/test-0.png")
    with pytest.raises(InputError, match=told) as caught:
        annotate_masks(bare, {part: tmp_path / "masks"}, bare.root / "new")
    assert "\n" not in str(caught.value)


def test_files_that_are_no_masks_are_refused(bare, tmp_path):
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/test-0.png").write_text("no picture")
    with pytest.raises(ImageError, match="not an image"):
        annotate_masks(bare, {"lung": tmp_path / "masks"}, bare.root / "new")
    (tmp_path / "masks/test-0.png").unlink()
    with pytest.raises(InputError, match="no mask here"):
        annotate_masks(bare, {"lung": tmp_path / "masks"}, bare.root / "new")
    draw(tmp_path / "secret.png", square(1, 1))
    (tmp_path / "masks/test-0.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(InputError, match="a link leads out"):
        annotate_masks(bare, {"lung": tmp_path / "masks"}, bare.root / "new")


def test_masks_stay_in_the_data_folder_and_do_not_replace_others_unasked(tmp_path):
    real = read_study(tmp_path / "clinic", 4)
    draw(tmp_path / "masks/test-0.png", square(1, 1))
    with pytest.raises(InputError, match="has a mask already"):
        annotate_masks(real, {"lung": tmp_path / "masks"}, real.root / "new")
    before = (real.root / real.frame["mask"][0]).read_bytes()
    out, _ = annotate_masks(real, {"lung": tmp_path / "masks"}, real.root / "new", over=True)
    assert out.frame["mask"][0] != real.frame["mask"][0]
    assert (real.root / real.frame["mask"][0]).read_bytes() == before
    with pytest.raises(InputError, match="must lie in the data folder"):
        annotate_masks(real, {"lung": tmp_path / "masks"}, tmp_path / "new", over=True)


def test_the_command_writes_masks_beside_the_manifest(tmp_path, capsys):
    manifest = write_study(tmp_path / "clinic", 4)
    draw(tmp_path / "masks/test-2.png", square(4, 4))
    out = tmp_path / "clinic/masked.csv"
    assert run(["annotate", str(manifest), "--masks", f"lesion={tmp_path / 'masks'}", "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["masks"]["images"] == 1
    found = read_manifest(out)
    np.testing.assert_array_equal(read_mask_values(found.take([2]).paths("mask")[0]), square(4, 4) * 4)
    assert found.frame["mask"][2].startswith("masked-masks/")
    twice = ["--masks", str(tmp_path / "masks"), "--masks", str(tmp_path / "masks")]
    assert run(["annotate", str(manifest), *twice, "--out", str(out), "--fresh"]) == 2
    assert "a part twice" in capsys.readouterr().err
