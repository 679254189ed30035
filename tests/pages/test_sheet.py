"""Contact sheets: synthetic images only."""

import base64
import io

import numpy as np
import pandas as pd
import pytest
from offline import Parsed
from PIL import Image
from sample_run import FINDINGS, write_set

from cxraug.errors import InputError
from cxraug.pages.sheet import choose, data_uri, prompt_text, read_synthetic, sheet


@pytest.fixture
def part(tmp_path):
    return tmp_path, write_set(tmp_path, FINDINGS, core="phantom-nano", n=12)


@pytest.mark.parametrize("value", [False, None, "no", 0, 1])
def test_a_row_that_is_not_synthetic_is_refused(part, value):
    folder, rows = part
    rows["synthetic"] = rows["synthetic"].astype("object")
    rows.loc[3, "synthetic"] = value
    with pytest.raises(InputError, match=r"row 5, column 'synthetic'.*no real image"):
        sheet(folder, rows)


def test_rows_without_the_mark_are_refused(part):
    folder, rows = part
    with pytest.raises(InputError, match="synthetic"):
        sheet(folder, rows.drop(columns="synthetic"))


def test_a_real_patient_id_is_refused(part):
    folder, rows = part
    rows.loc[0, "patient_id"] = "patient-7"
    with pytest.raises(InputError, match="patient_id"):
        sheet(folder, rows)


def test_an_image_outside_the_set_is_refused(part):
    folder, rows = part
    real = folder.parent / "real.png"
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(real)
    (folder / "images" / "link.png").symlink_to(real)
    for name in ("../real.png", str(real), "images/link.png"):
        with pytest.raises(InputError, match="outside its generated set"):
            sheet(folder, rows.head(1).assign(image=name))
    real.unlink()


def test_a_text_file_called_png_is_an_input_error(part):
    folder, _ = part
    (folder / "images" / "bad.png").write_text("not an image")
    with pytest.raises(InputError, match="not an image"):
        read_synthetic(folder, "images/bad.png")


def test_data_uri_holds_the_grey_pixels():
    pixels = np.arange(64, dtype=np.uint8).reshape(8, 8)
    head, data = data_uri(pixels).split(",")
    image = Image.open(io.BytesIO(base64.b64decode(data)))
    assert head == "data:image/png;base64"
    assert image.mode == "L"
    np.testing.assert_array_equal(np.asarray(image), pixels)


def test_captions_name_the_prompt(part):
    folder, rows = part
    page = Parsed(sheet(folder, rows.head(1)))
    assert page.values("alt") == ["Synthetic chest X-ray: Pneumothorax · F, 25 years"]
    assert prompt_text({"labels": "A|-B|?C|D", "sex": None, "age": float("nan")}) == "A, D"


def test_a_budget_leaves_images_out_and_says_so(part):
    folder, rows = part
    size = len(data_uri(read_synthetic(folder, rows["image"][0])))
    page = Parsed(sheet(folder, rows, budget=int(2.9 * size)))
    assert page.count("img") == 2
    assert "10 more are left out" in page.text


def test_each_finding_and_sex_gets_its_images_once(part):
    _, rows = part
    rows = pd.concat([rows, rows.head(1).assign(labels="Effusion|Pneumothorax", prompt_id="both")], ignore_index=True)
    chosen = choose(rows, FINDINGS, ["sex"], per_cell=2)
    shown = [i for _, levels in chosen for _, part_ in levels for i in part_.index]
    assert len(shown) == len(set(shown))
    assert [finding for finding, _ in chosen] == ["Pneumothorax", "Effusion", "Nodule"]
    assert {level for _, levels in chosen for level, _ in levels} == {"F", "M"}
    assert max(len(part_) for _, levels in chosen for _, part_ in levels) == 2
