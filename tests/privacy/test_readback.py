"""What is read back: every plant of the originals is found, and a clean set passes."""

from __future__ import annotations

import base64
import io
import json
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from cxraug.errors import WorkError
from cxraug.privacy.readback import (
    Forbidden,
    Originals,
    eight_bit,
    original_strings,
    read_back,
    refuse_leak,
    tile_hashes,
)
from cxraug.studies.images import pixel_sha256

RNG = np.random.default_rng(0)
REAL = RNG.integers(0, 256, (64, 48), dtype=np.uint8)
ROWS = pd.DataFrame(
    {
        "image": ["scans/IMG_20417.png", "scans/b.png"], "patient_id": ["pat-0042", "10032"],
        "study_id": ["st.7", "Effusion"], "sex": ["F", "M"], "source": ["clinic", "clinic"], "labels": ["Mass", "Mass"],
        "physician": ["Ada Lovelace", "Ada Lovelace"], "StudyDate": ["20190331", "20190401"], "bmi": ["23.5", "24.5"],
        "device": ["portable", "fixed"], "report": ["clear", "clear"],
    }
)  # fmt: skip


def originals() -> Originals:
    forbidden = original_strings(
        ROWS, root=Path("/data/clinic-7"), file=Path("/data/clinic-7/m.csv"), public=["Effusion"]
    )
    return Originals(forbidden, frozenset([pixel_sha256(REAL)]), np.unique(tile_hashes(REAL)), 1)


def write_set(folder: Path) -> Path:
    (folder / "images").mkdir(parents=True)
    Image.fromarray(RNG.integers(0, 256, (40, 40), dtype=np.uint8)).save(folder / "images" / "s1-PA.png")
    rows = pd.DataFrame(
        {"image": ["images/s1-PA.png"], "labels": ["Mass"], "seed": [10032], "report": ["Clear lungs."]}
    )
    rows.to_parquet(folder / "manifest.parquet")
    (folder / "provenance.jsonl").write_text(json.dumps({"seed": 10032, "prompt_id": "s1"}) + "\n")
    (folder / "left_out.csv").write_text("reason,studies\nrare,10032\n")
    return folder


def problems(folder: Path) -> list[str]:
    return read_back(folder, originals(), images=["images/s1-PA.png"]).problems


def test_a_clean_set_passes_numbers_that_equal_an_id_included(tmp_path) -> None:
    found = read_back(write_set(tmp_path / "s"), originals(), images=["images/s1-PA.png"])
    assert found.problems == []
    assert (found.images, found.texts) == (1, 3)
    refuse_leak(found)


@pytest.mark.parametrize(
    "text", ["pat-0042", "PAT-0042", "scans/IMG_20417.png", "img_20417", "Ada Lovelace", "Lovelace Ada", "20190331",
             "/data/clinic-7/m.csv", "st.7"],
)  # fmt: skip
def test_an_original_string_is_found_in_every_kind_of_text(tmp_path, text: str) -> None:
    folder = write_set(tmp_path / "s")
    frame = pd.read_parquet(folder / "manifest.parquet")
    if text == "Lovelace Ada":
        text = "Ada Lovelace"
    for name, write in {
        "manifest.parquet": lambda: frame.assign(report=f"Seen: {text}.").to_parquet(folder / "manifest.parquet"),
        "provenance.jsonl": lambda: (folder / "provenance.jsonl").write_text(json.dumps({"a": {"b": [text]}})),
        "left_out.csv": lambda: (folder / "left_out.csv").write_text(f'reason\n"{text}"\n'),
        "page.html": lambda: (folder / "page.html").write_text(f"<p>{text}</p>"),
        "keys.json": lambda: (folder / "keys.json").write_text(json.dumps({text: 1})),
    }.items():
        folder_before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        write()
        assert any(problem.startswith(name) for problem in problems(folder)), name
        (folder / name).unlink()
        for path, content in folder_before.items():
            path.write_bytes(content)
    assert problems(folder) == []


def test_values_of_other_columns_and_published_words_are_no_names() -> None:
    forbidden = originals().forbidden
    for harmless in ("23.5", "portable", "clear", "Effusion", "clinic", "xpat-0042x", "2019033"):
        assert forbidden.find(harmless) is None
    assert forbidden.find("see 10032") == "10032"
    assert forbidden.find("see 10032", numbers=False) is None


def test_metadata_and_hidden_bytes_in_a_picture_are_found(tmp_path) -> None:
    folder = write_set(tmp_path / "s")
    path = folder / "images" / "s1-PA.png"
    clean = path.read_bytes()
    info = PngInfo()
    info.add_text("PatientName", "somebody")
    Image.open(path).save(path, pnginfo=info)
    assert problems(folder) == ["images/s1-PA.png: metadata in the picture (tEXt)"]
    path.write_bytes(clean)
    exif = Image.Exif()
    exif[0x010E] = "somebody"
    Image.open(path).save(path, exif=exif)
    assert problems(folder) == ["images/s1-PA.png: metadata in the picture (eXIf)"]
    path.write_bytes(clean + b"\0" * 128 + b"DICM")
    assert "bytes after the picture's end" in problems(folder)[0]


def test_original_pixels_are_found_whole_and_in_pieces_wherever_they_lie(tmp_path) -> None:
    folder = write_set(tmp_path / "s")
    path = folder / "images" / "s1-PA.png"
    Image.fromarray(REAL).save(path)
    assert problems(folder)[0] == "images/s1-PA.png: the pixels of an original image"
    stand_in = RNG.integers(0, 256, (40, 40), dtype=np.uint8)
    stand_in[7:23, 11:27] = REAL[16:32, 32:48]
    Image.fromarray(stand_in).save(path)
    assert problems(folder) == ["images/s1-PA.png: a piece of 16 x 16 pixels of an original image"]
    stand_in[7, 11] ^= 1
    Image.fromarray(stand_in).save(path)
    assert problems(folder) == []


def test_pictures_inside_a_page_are_read_and_their_text_is_no_name(tmp_path) -> None:
    folder = write_set(tmp_path / "s")
    for pixels, wanted in ((RNG.integers(0, 256, (64, 48), dtype=np.uint8), []), (REAL, ["pixels", "piece"])):
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG")
        text = base64.b64encode(buffer.getvalue()).decode()
        (folder / "page.html").write_text(f'<img src="data:image/png;base64,{text}">')
        found = problems(folder)
        assert len(found) == len(wanted)
        assert all(p.startswith("page.html, picture 1: ") and w in p for p, w in zip(found, wanted, strict=True))


def test_the_hash_of_a_tile_is_the_same_by_both_ways_and_flat_tiles_do_not_count() -> None:
    every = tile_hashes(REAL, every=True).reshape(64 - 15, 48 - 15)
    grid = tile_hashes(REAL).reshape(4, 3)
    assert (every[::16, ::16] == grid).all()
    assert len(np.unique(every)) == every.size
    assert len(tile_hashes(np.full((64, 64), 7, np.uint8))) == 0
    wide = np.linspace(0, 60000, 400).astype(np.uint16).reshape(20, 20)
    assert (eight_bit(wide).min(), eight_bit(wide).max()) == (0, 255)


def test_strange_files_links_and_names_are_found(tmp_path) -> None:
    folder = write_set(tmp_path / "s")
    (folder / "core.bin").write_bytes(b"x")
    assert problems(folder) == ["core.bin: a file of a kind that a swapped set does not have"]
    (folder / "core.bin").unlink()
    (folder / "images" / "pat-0042.png").symlink_to(folder / "images" / "s1-PA.png")
    assert problems(folder) == ["images/pat-0042.png: no plain file"]
    (folder / "images" / "pat-0042.png").unlink()
    Image.fromarray(REAL + 1).save(folder / "images" / "pat-0042-PA.png")
    assert any("its name holds 'pat-0042'" in p for p in problems(folder))
    (folder / "images" / "pat-0042-PA.png").unlink()
    (folder / "images" / "s1-PA.png").unlink()
    assert problems(folder) == ["images/s1-PA.png: missing"]


def test_a_leak_is_a_failure_of_work_that_names_the_first(tmp_path) -> None:
    folder = write_set(tmp_path / "s")
    (folder / "left_out.csv").write_text("pat-0042\nscans/b.png\n")
    with pytest.raises(WorkError, match=r"nothing was given out: left_out.csv, line 1: 'pat-0042' .*1 more") as error:
        refuse_leak(read_back(folder, originals()))
    assert error.value.exit_code == 1


def test_many_strings_are_looked_up_quickly() -> None:
    forbidden = Forbidden([f"patient-{i:06d}" for i in range(100_000)])
    text = "the lungs are clear and patient of the ward " * 5000
    start = time.perf_counter()
    assert forbidden.find(text) is None
    assert forbidden.find(text + " patient-099999") == "patient-099999"
    assert time.perf_counter() - start < 5
