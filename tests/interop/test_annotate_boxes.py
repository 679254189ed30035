"""Boxes of COCO and VOC files into a manifest, and every way in which such a file is refused."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from interop.clinic import SIZE, read_study, write_study

from cxraug.cli.main import run
from cxraug.errors import InputError
from cxraug.interop.annotation import annotate_boxes, fit_boxes
from cxraug.interop.coco import BoxedImage, read_coco
from cxraug.interop.matching import Names
from cxraug.interop.voc import read_voc
from cxraug.interop.xmltree import read_xml
from cxraug.studies.manifest import read_manifest

HEIGHT, WIDTH = SIZE
FIRST, SECOND = "scans/test-0.png", "scans/deep/test-1.png"


def coco(**changes):
    value = {
        "categories": [{"id": 3, "name": "Mass"}, {"id": "e", "name": "opacity"}],
        "images": [{"id": 1, "file_name": "test-0.png", "height": HEIGHT, "width": WIDTH},
                   {"id": 2, "file_name": "elsewhere/test-1.png"}, {"id": 3, "file_name": "unknown.png"}],
        "annotations": [{"id": 9, "image_id": 1, "category_id": 3, "bbox": [1, 2, 3.5, 4]},
                        {"id": 8, "image_id": 1, "category_id": "e", "bbox": [0, 0, WIDTH, HEIGHT]}],
    }  # fmt: skip
    return {**value, **changes}


def voc(name="test-0.png", box=(1, 2, 5, 6), size=(HEIGHT, WIDTH), label="Mass", extra=""):
    sides = "".join(f"<{k}>{v}</{k}>" for k, v in zip(("xmin", "ymin", "xmax", "ymax"), box, strict=True))
    return (
        f"<annotation><folder>/home/x</folder><filename>{name}</filename><path>/home/x/y.png</path>"
        f"<size><width>{size[1]}</width><height>{size[0]}</height></size>{extra}"
        f"<object><name>{label}</name><bndbox>{sides}</bndbox></object></annotation>"
    )


@pytest.fixture
def bare(tmp_path):
    real = read_study(tmp_path / "clinic", 4)
    return type(real)(real.frame.drop(columns="boxes"), real.root, real.file, real.findings, real.annotated)


def write(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def test_coco_boxes_reach_their_rows(bare, tmp_path):
    path = write(tmp_path / "boxes.json", coco())
    out, counts = annotate_boxes(bare, read_coco(path), path, classes={"opacity": "Lung Opacity"})
    assert json.loads(out.frame["boxes"][0]) == [
        {"label": "Mass", "x": 1, "y": 2, "w": 3.5, "h": 4},
        {"label": "Lung Opacity", "x": 0, "y": 0, "w": WIDTH, "h": HEIGHT},
    ]
    assert json.loads(out.frame["boxes"][1]) == []  # named without a box: somebody looked
    assert out.frame["boxes"][2:].isna().all()
    assert counts == {"images": 2, "boxes": 2, "images_without_boxes": 1, "not_in_manifest": 1, "denied_by_labels": 1}
    assert out.frame.drop(columns="boxes").equals(bare.frame)


def test_voc_boxes_reach_their_rows_from_zero_or_from_one(bare, tmp_path):
    (tmp_path / "voc").mkdir()
    write(tmp_path / "voc/a.xml", voc())
    write(tmp_path / "voc/b.xml", voc("test-1.jpg", (1, 1, WIDTH, HEIGHT), (0, 0)))
    out, _ = annotate_boxes(bare, read_voc(tmp_path / "voc"), tmp_path / "voc")
    assert json.loads(out.frame["boxes"][0]) == [{"label": "Mass", "x": 1, "y": 2, "w": 4, "h": 4}]
    out, _ = annotate_boxes(bare, read_voc(tmp_path / "voc", one_based=True), tmp_path / "voc")
    assert json.loads(out.frame["boxes"][0]) == [{"label": "Mass", "x": 0, "y": 1, "w": 5, "h": 5}]
    assert json.loads(out.frame["boxes"][1]) == [{"label": "Mass", "x": 0, "y": 0, "w": WIDTH, "h": HEIGHT}]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"annotations": [{"image_id": 7, "category_id": 3, "bbox": [0, 0, 1, 1]}]}, "image_id names nothing"),
        ({"annotations": [{"image_id": 1, "category_id": 4, "bbox": [0, 0, 1, 1]}]}, "category_id names nothing"),
        ({"annotations": [{"image_id": [1], "category_id": 3, "bbox": [0, 0, 1, 1]}]}, "image_id names nothing"),
        ({"annotations": [{"image_id": 1, "category_id": 3, "bbox": [0, 0, 0, 1]}]}, "not a box"),
        ({"annotations": [{"image_id": 1, "category_id": 3, "bbox": [0, 0, -3, 1]}]}, "not a box"),
        ({"annotations": [{"image_id": 1, "category_id": 3, "bbox": [0, float("nan"), 3, 1]}]}, "not a box"),
        ({"annotations": [{"image_id": 1, "category_id": 3, "bbox": [0, float("inf"), 3, 1]}]}, "not a box"),
        ({"annotations": [{"image_id": 1, "category_id": 3, "bbox": "0011"}]}, "not a box"),
        ({"annotations": [{"image_id": 1, "category_id": 3, "bbox": [True, 0, 3, 1]}]}, "not a box"),
        ({"annotations": [{"image_id": 1, "category_id": 3, "bbox": [0, 0, WIDTH + 5, 1]}]}, "outside the image"),
        ({"annotations": [{"image_id": 1, "category_id": 3, "bbox": [900, 900, 5, 1]}]}, "outside the image"),
        ({"annotations": [{"image_id": 1, "category_id": 3, "bbox": [-50, 0, 5, 1]}]}, "outside the image"),
        ({"annotations": None}, "no list of annotations"),
        ({"images": [{"id": 1, "file_name": "../../etc/passwd"}], "annotations": []}, "leads out of the data folder"),
        ({"images": [{"id": 1, "file_name": "/etc/passwd"}], "annotations": []}, "leads out of the data folder"),
        ({"images": [{"id": 1, "file_name": "file:///x.png"}], "annotations": []}, "leads out of the data folder"),
        ({"images": [{"id": 1, "file_name": "no.png"}], "annotations": []}, "none of the names is an image"),
        ({"images": [{"id": 1}], "annotations": []}, "no file_name"),
        ({"images": [{"id": 1, "file_name": "test-0.png"}] * 2, "annotations": []}, "the id occurs twice"),
        ({"images": [{"id": 1, "file_name": "test-0.png"}, {"id": 2, "file_name": FIRST}], "annotations": []},
         "two names mean the same image"),
        ({"images": [{"id": 1, "file_name": "test-0.png", "height": 9, "width": 9}], "annotations": []},
         "another size"),
        ({"images": [{"id": 1, "file_name": "test-0.png", "height": "9", "width": 9}], "annotations": []}, "bad size"),
        ({"categories": [{"id": 3, "name": "=cmd()"}, {"id": "e", "name": "x"}]}, "label grammar"),
        ({"categories": [{"id": 3, "name": "A|B"}, {"id": "e", "name": "x"}]}, "label grammar"),
        ({"categories": [{"id": 3, "name": "a\x1b[31m"}, {"id": "e", "name": "x"}]}, "no table may hold"),
        ({"categories": []}, "category_id names nothing"),
    ],
)  # fmt: skip
def test_a_bad_coco_file_is_refused_in_one_line(bare, tmp_path, change, told):
    path = write(tmp_path / "boxes.json", coco(**change))
    with pytest.raises(InputError, match=told) as caught:
        annotate_boxes(bare, read_coco(path), path)
    assert "\n" not in str(caught.value)
    assert "boxes.json" in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "{", "[" * 100_000, '"x"', "\xff\xfe"])
def test_what_is_no_coco_file_is_refused(tmp_path, text):
    (tmp_path / "boxes.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError):
        read_coco(tmp_path / "boxes.json")


LAUGHS = '<!DOCTYPE lolz [<!ENTITY lol "lol"><!ENTITY lol2 "&lol;&lol;">]>' + voc(label="&lol2;")
QUOTES = '<!DOCTYPE x [<!ENTITY file SYSTEM "file:///etc/passwd">]>' + voc(label="&file;")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (LAUGHS, "document type or entities"),
        (QUOTES, "document type or entities"),
        ('<!DOCTYPE x SYSTEM "http://evil.test/x.dtd">' + voc(), "document type or entities"),
        (voc(label="&undefined;"), "not well-formed"),
        ("<a>" * 5000 + "</a>" * 5000, "nested too deeply"),
        ("<annotation>", "not well-formed"),
        ('<?xml version="1.0" encoding="klingon"?><annotation/>', "not (well-formed|readable) XML"),
        ("<other/>", "not an annotation"),
        (voc(box=("a", 1, 2, 3)), "xmin is not a number"),
        (voc(box=("nan", 1, 2, 3)), "xmin is not a number"),
        (voc(box=("1e400", 1, 2, 3)), "xmin is not a number"),
        (voc(box=(5, 1, 2, 3)), "not a box"),
        (voc(label=""), "no name"),
        (voc(size=("x", 2)), "height is not a number"),
        (voc(size=(7, 7)), "another size"),
        (voc(box=(0, 0, 400, 3)), "outside the image"),
        (voc(name="../../x.png"), "leads out of the data folder"),
        (voc(extra="<object><name>Mass</name></object>"), "no bndbox"),
    ],
)  # fmt: skip
def test_bad_xml_is_refused_in_one_line(bare, tmp_path, text, told):
    write(tmp_path / "a.xml", text)
    with pytest.raises(InputError, match=told) as caught:
        annotate_boxes(bare, read_voc(tmp_path), tmp_path)
    assert "\n" not in str(caught.value)


def test_xml_of_any_size_is_not_read(tmp_path):
    with open(tmp_path / "a.xml", "wb") as stream:
        stream.truncate((1 << 24) + 1)
    with pytest.raises(InputError, match="too large"):
        read_xml(tmp_path / "a.xml")


def test_boxes_that_are_there_stay_unless_replaced(tmp_path):
    real = read_study(tmp_path / "clinic", 4)
    path = write(tmp_path / "boxes.json", coco())
    with pytest.raises(InputError, match="has boxes already"):
        annotate_boxes(real, read_coco(path), path)
    out, _ = annotate_boxes(real, read_coco(path), path, over=True)
    assert json.loads(out.frame["boxes"][0])[0]["w"] == 3.5


def test_a_name_of_two_images_needs_its_folder(tmp_path):
    real = read_study(tmp_path / "clinic", 4)
    names = [FIRST, "other/test-0.png", *real.frame["image"][2:]]
    twice = type(real)(real.frame.assign(image=names), real.root, real.file, real.findings, real.annotated)
    known = Names(twice)
    for name, row in ((FIRST, 0), ("other/test-0.png", 1), ("deep/other/test-0.png", None), ("other\\test-0.jpg", 1)):
        if row is None:
            with pytest.raises(InputError, match="several images have this name"):
                known.find(name, file=tmp_path, where="here")
        else:
            assert known.find(name, file=tmp_path, where="here") == row
    with pytest.raises(InputError, match="several images have this name"):
        known.find("test-0.png", file=tmp_path, where="here")


side = st.integers(8, 200)


@given(side, side, st.floats(-50, 250), st.floats(-50, 250), st.floats(0.5, 300), st.floats(0.5, 300), st.booleans())
def test_a_fitted_box_lies_in_its_image(height, width, x, y, w, h, clip):
    image = BoxedImage("a", None, [{"label": "Mass", "x": x, "y": y, "w": w, "h": h}], "here")
    try:
        (box,) = fit_boxes(image, (height, width), None, clip=clip)
    except InputError:
        inside = x >= 0 and y >= 0 and x + w <= width and y + h <= height
        assert not inside
        return
    slack = 1e-6 if clip else 1 + 1e-6
    assert box["x"] >= -slack
    assert box["y"] >= -slack
    assert box["x"] + box["w"] <= width + slack
    assert box["y"] + box["h"] <= height + slack
    assert box["w"] > 0
    assert box["h"] > 0


@given(side, side, side, side)
def test_a_rescaled_box_covers_the_same_share(height, width, tall, wide):
    image = BoxedImage(
        "a", (tall, wide), [{"label": "Mass", "x": wide / 4, "y": tall / 2, "w": wide / 2, "h": tall / 4}], "here"
    )
    (box,) = fit_boxes(image, (height, width), None, rescale=True)
    assert box["x"] / width == pytest.approx(0.25)
    assert box["h"] / height == pytest.approx(0.25)


def test_the_command_writes_a_manifest_that_reads(tmp_path, capsys):
    manifest = write_study(tmp_path / "clinic", 4)
    path = write(tmp_path / "boxes.json", coco())
    out = tmp_path / "clinic/boxed.parquet"
    arguments = ["annotate", str(manifest), "--coco", str(path), "--replace", "--out", str(out)]
    assert run([*arguments, "--class", "opacity=Lung Opacity", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["boxes"]["boxes"] == 2
    assert answer["root"] is None
    assert json.loads(read_manifest(out).frame["boxes"][0])[1]["label"] == "Lung Opacity"
    before = out.read_bytes()
    assert run([*arguments, "--class", "opacity=Lung Opacity"]) == 2
    assert "the file is there already" in capsys.readouterr().err
    assert run(["annotate", str(manifest), "--coco", str(path), "--replace", "--out", str(manifest)]) == 2
    assert out.read_bytes() == before
    assert run([*arguments, "--class", "opacity=Lung Opacity", "--fresh"]) == 0
    capsys.readouterr()
    arguments += ["--fresh"]
    assert run([*arguments, "--class", "nothing=Mass"]) == 2
    assert "names a label that no box has" in capsys.readouterr().err
    assert run(["annotate", str(manifest), "--out", str(out), "--fresh"]) == 2
    assert "nothing to annotate with" in capsys.readouterr().err
    assert run([*arguments[:-2], str(tmp_path / "out.txt")]) == 2
    assert ".csv or .parquet" in capsys.readouterr().err
