"""What a prompt gives: files and boxes read to known answers, and everything else refused in one line."""

from __future__ import annotations

import json
import struct
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given as any_of
from hypothesis import settings
from hypothesis import strategies as st
from PIL import Image

from cxraug.cores.core import Card, GenerativeCore, Prompt, Study, prompts_from_plan
from cxraug.cores.given import given_boxes, given_files, read_given, write_files
from cxraug.errors import InputError
from cxraug.storage import file_sha256
from cxraug.studies.images import MASK_BITS
from cxraug.studies.seen import Seen

FINDINGS = ["Effusion", "Mass"]
SIZE = 16


def save(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def read(prompt: Prompt, resolution: int = SIZE):
    return read_given(prompt, resolution=resolution, findings=FINDINGS)


def boxes(*items: object) -> str:
    return json.dumps(list(items))


def box(label: str = "Mass", x: float = 4, y: float = 2, w: float = 8, h: float = 4, **more: object) -> dict:
    return {"label": label, "x": x, "y": y, "w": w, "h": h, **more}


def test_nothing_given_is_nothing_read() -> None:
    nothing = read(Prompt("p"))
    assert (nothing.images, nothing.masks, nothing.boxes, nothing.sha256) == ({}, {}, {}, {})


def test_a_reference_image_is_encoded_like_a_training_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (SIZE, SIZE), dtype=np.uint8)
    wide = np.zeros((SIZE, 3 * SIZE), np.uint8)
    wide[:, SIZE : 2 * SIZE] = pixels
    path = save(tmp_path / "wide.png", wide)
    found = read(Prompt("p", views=("Lateral",), reference_image=path))
    assert list(found.images) == ["PA"]  # a bare reference is PA, whatever is asked for
    assert np.array_equal(found.images["PA"], pixels)  # the central square
    assert found.sha256 == {path: file_sha256(path)}


@pytest.mark.parametrize(
    ("values", "parts"),
    [
        ([0, 1], {"lung": [0, 1]}),
        ([0, 255], {"lung": [0, 1]}),
        ([0, 2], {"heart": [0, 1]}),
        ([0, 1, 2, 3, 4, 5], {"lung": [0, 1, 0, 1, 0, 1], "heart": [0, 0, 1, 1, 0, 0], "lesion": [0, 0, 0, 0, 1, 1]}),
        ([7, 7], {"lung": [1, 1], "heart": [1, 1], "lesion": [1, 1]}),
    ],
)
def test_masks_are_read_by_their_values(tmp_path: Path, values: list[int], parts: dict[str, list[int]]) -> None:
    rows = np.zeros((8, 8), np.uint8) + np.uint8(values[0])
    rows[: len(values)] = np.array(values, np.uint8)[:, None]
    found = read(Prompt("p", views=("Lateral", "AP"), mask=save(tmp_path / "m.png", rows)), 8).masks
    assert list(found) == ["AP"]  # the first frontal view asked for
    assert {name: part[: len(values), 0].astype(int).tolist() for name, part in found["AP"].items()} == parts
    assert all(part.dtype == bool and part.shape == (8, 8) for part in found["AP"].values())


def test_one_bit_masks_are_lungs(tmp_path: Path) -> None:
    Image.fromarray(np.eye(8, dtype=bool)).save(tmp_path / "m.png")
    assert np.array_equal(read(Prompt("p", mask=str(tmp_path / "m.png")), 8).masks["PA"]["lung"], np.eye(8, dtype=bool))


def test_a_lesion_of_one_pixel_survives_a_small_grid_and_keeps_its_place(tmp_path: Path) -> None:
    large = np.zeros((512, 512), np.uint8)
    large[:, :256] = 1
    large[100, 420] |= 4
    parts = read(Prompt("p", mask=save(tmp_path / "m.png", large)), 64).masks["PA"]
    assert np.array_equal(parts["lung"], np.repeat([True, False], 32)[None].repeat(64, 0))
    rows, columns = np.nonzero(parts["lesion"])
    assert np.abs(rows - 100 / 8).max() <= 1
    assert np.abs(columns - 420 / 8).max() <= 1


def test_the_phantoms_masks_have_the_same_bits() -> None:
    assert MASK_BITS == {"lung": 1, "heart": 2, "lesion": 4}


def test_objects_name_the_view_of_each_file(tmp_path: Path) -> None:
    one, two = (save(tmp_path / f"{i}.png", np.full((8, 8), i, np.uint8)) for i in (1, 2))
    files = write_files({"PA": one, "Lateral": two})
    found = read(Prompt("p", mask=files, reference_image=files), 8)
    assert {view: int(pixels[0, 0]) for view, pixels in found.images.items()} == {"PA": 1, "Lateral": 2}
    assert {view: set(parts) for view, parts in found.masks.items()} == {"PA": {"lung"}, "Lateral": {"heart"}}
    assert set(found.sha256) == {one, two}


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


BOMB = (
    b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")
)  # fmt: skip


@pytest.mark.parametrize("what", ["mask", "reference_image"])
@pytest.mark.parametrize(
    ("content", "words"),
    [(None, "no such image"), (b"", "empty"), (b"<html>", "not an image; found 'text'"), (BOMB, "too large"),
     (b"%PDF-1.4", "a PDF"), (b"\x89PNG\r\n\x1a\nxxxx", "broken")],
)  # fmt: skip
def test_hostile_files_are_one_line(tmp_path: Path, what: str, content: bytes | None, words: str) -> None:
    path = tmp_path / "x.png"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words) as caught:
        read(Prompt("p", **{what: str(path)}))
    assert "x.png" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_folders_devices_and_odd_names_are_refused(tmp_path: Path) -> None:
    for path in (str(tmp_path), "/dev/zero", "a\0b"):
        for what in ("mask", "reference_image"):
            with pytest.raises(InputError, match=r"not a regular file|cannot be opened"):
                read(Prompt("p", **{what: path}))


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((8, 8, 3), np.uint8), "not a mask; found 'a picture of mode RGB'"),
        (np.ones((8, 8), np.uint16), "mode I;16"),
        (np.array([[0, 8]], np.uint8).repeat(8, 0).repeat(4, 1), "the value 8"),
        (np.array([[1, 255]], np.uint8).repeat(8, 0).repeat(4, 1), "the value 255"),
        (np.zeros((8, 8), np.uint8), "empty"),
        (np.repeat([[1, 0, 0]], 8, 0).repeat(8, 1).astype(np.uint8), "empty"),  # outside the central square
    ],
)
def test_what_is_no_mask_is_refused(tmp_path: Path, pixels: np.ndarray, words: str) -> None:
    path = save(tmp_path / "m.png", pixels)
    with pytest.raises(InputError, match=words):
        read(Prompt("p", mask=path), 8)


def test_a_jpeg_is_no_mask(tmp_path: Path) -> None:
    Image.fromarray(np.ones((8, 8), np.uint8)).save(tmp_path / "m.jpg")
    with pytest.raises(InputError, match="PNG"):
        read(Prompt("p", mask=str(tmp_path / "m.jpg")))


def test_boxes_are_fractions_by_view() -> None:
    text = boxes(box(), box("Effusion", 0, 0, 16, 16, view="Lateral"))
    assert read(Prompt("p", views=("Lateral", "AP"), boxes=text)).boxes == {
        "AP": [("Mass", 0.25, 0.125, 0.5, 0.25)],
        "Lateral": [("Effusion", 0.0, 0.0, 1.0, 1.0)],
    }
    assert read(Prompt("p", boxes="[]")).boxes == {"PA": []}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("here", "not JSON"),
        ("[" * 100_000, "not JSON"),
        ('[{"label": "Mass", "label": "Mass", "x": 1, "y": 1, "w": 1, "h": 1}]', "not JSON"),
        ("{}", "not a list"),
        ("[1]", "box 1 is not a box"),
        (boxes({"label": "Mass", "x": 1, "y": 1, "w": 1}), "box 1 is not a box"),
        (boxes(box(colour="red")), "box 1 is not a box"),
        (boxes(box(), box("Scurvy")), "box 2 is of an unknown finding; found 'Scurvy'; expected one of Effusion, Mass"),
        (boxes(box("No Finding")), "unknown finding"),
        (boxes(box(label=["Mass"])), "unknown finding"),
        (boxes(box(view=3)), "view"),
        (boxes(box(x="4")), "no number"),
        (boxes(box(x=True)), "no number"),
        (boxes(box(w=float("nan"))), "no number"),
        (boxes(box(w=10**300)), "no number"),
        (boxes(box(x=-1)), "not inside"),
        (boxes(box(w=0)), "not inside"),
        (boxes(box(x=9)), "not inside the image; .*x [+] w and y [+] h <= 16"),
    ],
)
def test_bad_boxes_are_one_line(text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        given_boxes(Prompt("p7", boxes=text), resolution=SIZE, findings=FINDINGS)
    assert str(caught.value).startswith("prompt p7: ")
    assert len(str(caught.value)) < 600


SIDE = st.floats(0, 1e4, allow_nan=False)


@settings(deadline=None)
@any_of(x=SIDE, y=SIDE, w=SIDE, h=SIDE, size=st.integers(8, 2048))
def test_a_box_is_accepted_exactly_when_it_lies_in_the_image(x: float, y: float, w: float, h: float, size: int) -> None:
    prompt = Prompt("p", boxes=boxes(box("Mass", x, y, w, h)))
    inside = w > 0 and h > 0 and x + w <= size and y + h <= size
    if inside:
        ((label, *sides),) = given_boxes(prompt, resolution=size, findings=FINDINGS)["PA"]
        assert label == "Mass"
        assert np.allclose(np.array(sides) * size, [x, y, w, h])
    else:
        with pytest.raises(InputError, match="not inside"):
            given_boxes(prompt, resolution=size, findings=FINDINGS)


@settings(deadline=None)
@any_of(st.text() | st.recursive(st.none() | st.booleans() | st.floats() | st.text(), st.lists).map(json.dumps))
def test_any_text_is_boxes_or_an_input_error(text: str) -> None:
    with suppress(InputError):
        found = given_boxes(Prompt("p", boxes=text), resolution=SIZE, findings=FINDINGS)
        rows = [row for part in found.values() for row in part]
        assert all(label in FINDINGS and x + w <= 1 and y + h <= 1 for label, x, y, w, h in rows)
    with suppress(InputError):
        assert all(isinstance(path, str) for path in given_files(Prompt("p", mask=text), "mask").values())


@pytest.mark.parametrize("text", ["{", "{}", '{"PA": 3}', '{"PA": ""}', '{"PA": "a", "PA": "b"}'])
def test_bad_file_maps_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="prompt p: mask"):
        given_files(Prompt("p", mask=text), "mask")


class AnyCore(GenerativeCore):
    """A core that knows every condition and draws the number of the prompt's references."""

    batch_size = 2

    def __init__(self, *conditions: str, writes_report: bool = True) -> None:
        self.card = Card(
            name="any", version="1", kind="any", sha256="0", resolution=SIZE, views=["PA", "AP", "Lateral"],
            findings=FINDINGS, conditions=["views", "findings", *conditions], licence="none", training_data={},
            seen=Seen.of([], [], key="00").to_json(), settings={"writes_report": writes_report},
        )  # fmt: skip
        self.drawn = 0

    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        self.drawn += 1
        return [Study({v: np.zeros((SIZE, SIZE), np.uint8) for v in p.views}, f"report {p.prompt_id}") for p in prompts]


ALL = ("report", "mask", "boxes", "reference_image", "sex")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"views": (), "wants_report": False}, "nothing is wanted"),
        ({"views": (), "report": "Clear."}, "nothing is wanted"),
        ({"boxes": boxes(box()), "labels": {"Mass": 0}}, "box of 'Mass', which the labels deny"),
        ({"boxes": boxes(box()), "labels": {"No Finding": 1}}, "labels deny"),
        ({"boxes": boxes(box(view="Oblique"))}, "view 'Oblique'"),
        ({"mask": '{"Oblique": "m.png"}'}, "view 'Oblique'"),
        ({"reference_image": '{"unknown": "m.png"}'}, "view 'unknown'"),
        ({"reference_image": '{"PA": "a.png", "AP": "b.png"}'}, "two reference images of one projection"),
    ],
)
def test_what_cannot_be_is_refused_by_name(change: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        AnyCore(*ALL).generate([Prompt("p", **change)], [0])


@pytest.mark.parametrize("name", ["mask", "boxes", "report", "reference_image"])
def test_a_core_that_does_not_know_a_condition_refuses_it_by_name(name: str) -> None:
    with pytest.raises(InputError, match=f"does not know the condition '{name}'"):
        AnyCore("sex").generate([Prompt("p", **{name: "[]"})], [0])


def test_boxes_of_present_or_open_findings_pass() -> None:
    for labels in ({}, {"Mass": 1}, {"Effusion": 0}, {"No Finding": 0}):
        prompt = Prompt("p", labels, boxes=boxes(box()))
        AnyCore(*ALL).refuse(prompt)
        assert [label for label, *_ in given_boxes(prompt, resolution=SIZE, findings=FINDINGS)["PA"]] == ["Mass"]


def test_a_report_alone_needs_a_core_that_writes_reports() -> None:
    assert AnyCore().generate([Prompt("p", views=())], [0])[0] == Study({}, "report p")
    with pytest.raises(InputError, match="no report without a view; expected at least one view"):
        AnyCore(writes_report=False).generate([Prompt("p", views=())], [0])


def test_a_report_is_written_only_where_it_is_wanted_and_not_given() -> None:
    asked = [Prompt("a"), Prompt("b", wants_report=False), Prompt("c", report="Clear.")]
    assert [study.report for study in AnyCore(*ALL).generate(asked, [0, 1, 2])] == ["report a", None, None]


def test_files_are_read_before_anything_is_computed(tmp_path: Path) -> None:
    core = AnyCore(*ALL)
    good = save(tmp_path / "m.png", np.ones((8, 8), np.uint8))
    asked = [Prompt(f"p{i}", mask=good) for i in range(4)] + [Prompt("q", mask=str(tmp_path / "none.png"))]
    with pytest.raises(InputError, match=r"none\.png: no such image"):
        core.generate(asked, range(5))
    assert core.drawn == 0
    assert len(core.generate(asked[:4], range(4))) == 4


def test_a_plan_carries_every_field() -> None:
    row = {"prompt_id": "p", "labels": "Mass", "views": "AP|Lateral", "mask": "m.png", "boxes": boxes(box()),
           "reference_image": '{"PA": "a.png"}', "wants_report": False, "sex": "F"}  # fmt: skip
    (prompt,) = prompts_from_plan(pd.DataFrame([row]), FINDINGS)
    assert prompt == Prompt(
        "p", {"Mass": 1, "Effusion": 0}, "F", views=("AP", "Lateral"), mask="m.png", boxes=row["boxes"],
        reference_image='{"PA": "a.png"}', wants_report=False,
    )  # fmt: skip
    assert prompts_from_plan(pd.DataFrame([{"prompt_id": "p", "views": "none"}]))[0].views == ()


@pytest.mark.parametrize(
    ("value", "wants"), [(True, True), (np.True_, True), ("False", False), ("no", False), (0.0, False), (None, True)]
)
def test_wants_report_of_a_plan(value: object, wants: bool) -> None:
    assert prompts_from_plan(pd.DataFrame({"prompt_id": ["p"], "wants_report": [value]}))[0].wants_report is wants


def test_a_plan_with_a_report_given_and_wanted_is_refused() -> None:
    row = {"prompt_id": "p", "report": "Clear.", "wants_report": "yes"}
    with pytest.raises(ValueError, match="a report is given and one is wanted"):
        prompts_from_plan(pd.DataFrame([row]))
    with pytest.raises(ValueError, match="wants_report is 'maybe'"):
        prompts_from_plan(pd.DataFrame([{**row, "wants_report": "maybe"}]))
    assert not prompts_from_plan(pd.DataFrame([row]).drop(columns="wants_report"))[0].writes_report
