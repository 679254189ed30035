"""Image folders in: those that cxraug wrote, those of others by their map, and those that are refused."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from interop.clinic import assert_same_rows, read_study
from PIL import Image

import cxraug.cli.import_source as command
from cxraug.cli.main import run
from cxraug.interop.export import export
from cxraug.interop.settings import ExportSettings
from cxraug.studies.images import read_pixels
from cxraug.studies.manifest import read_manifest

ROWS = [
    {"file_name": "a.png", "subject": "p1", "gender": "female", "years": 61, "dx": "mass;effusion"},
    {"file_name": "deep/b.png", "subject": "p2", "gender": "male", "years": 40.5, "dx": "normal"},
]
MAP = ["patient_id=subject", "sex=gender", "age=years", "labels=dx", "separator=;", "findings.mass=Mass",
       "findings.effusion=Effusion", "findings.normal=No Finding", "source=theirs", "licence=CC0"]  # fmt: skip


def picture(path: Path, value: int = 9) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8), value, np.uint8)).save(path)


def foreign(folder: Path, kind: str = "jsonl", rows: list[dict] = ROWS, splits: tuple[str, ...] = ("train", "test")):
    """An image folder that somebody else wrote: the same two rows in every split."""
    for number, split in enumerate(splits):
        mine = [{**row, "subject": f"{row.get('subject')}{split}"} for row in rows]
        for row in mine:
            picture(folder / split / str(row["file_name"]), number * 20 + len(str(row["file_name"])))
        if kind == "jsonl":
            text = "".join(json.dumps(row) + "\n" for row in mine)
            (folder / split / "metadata.jsonl").write_text(text)
        elif kind == "csv":
            pd.DataFrame(mine).to_csv(folder / split / "metadata.csv", index=False)
        else:
            pd.DataFrame(mine).to_parquet(folder / split / "metadata.parquet", index=False)
    return folder


def arguments(folder: Path, items: list[str] | None = None) -> list[str]:
    return ["import", "hf", str(folder), "--out", str(folder.parent / "m.parquet"),
            *(part for item in items or [] for part in ("--map", item))]  # fmt: skip


def refused(arguments: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(arguments) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(expected, line), line


def test_every_kind_of_row_comes_back(tmp_path: Path) -> None:
    real = read_study(tmp_path / "clinic")
    export(real, tmp_path / "out", ExportSettings(to="hf"))
    (tmp_path / "out/manifest.parquet").unlink()
    assert run(arguments(tmp_path / "out")) == 0
    back = read_manifest(tmp_path / "m.parquet")
    assert_same_rows(back.frame, real.frame)
    assert back.frame["original_image"].tolist() == real.frame["image"].tolist()
    assert back.annotated == real.annotated
    np.testing.assert_array_equal(back.y(), real.y())
    for a, b in zip(back.paths(), real.paths(), strict=True):
        assert (read_pixels(a) == read_pixels(b)).all()
    assert run([*arguments(tmp_path / "out"), "--fresh", "--split", "patients"]) == 0
    assert "by patient" in json.loads((tmp_path / "m.import.json").read_text())["split"]


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_folder_of_others_by_its_map(kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = foreign(tmp_path / "data", kind)
    assert run(arguments(folder, MAP)) == 0
    text = capsys.readouterr().out
    assert "4 images, 4 patients" in text
    assert f"again: cxraug import hf {folder} --map {tmp_path / 'm.map.yaml'}" in text
    first = read_manifest(tmp_path / "m.parquet")
    frame = first.frame.set_index("image")
    assert frame.loc["data/train/a.png", ["sex", "age", "split", "source", "license"]].tolist() == [
        "F", 61, "train", "theirs", "CC0"]  # fmt: skip
    assert frame["split"].value_counts().to_dict() == {"train": 2, "test": 2}
    np.testing.assert_array_equal(first.y(["Effusion", "Mass", "No Finding"])[:2], [[1, 1, 0], [0, 0, 1]])
    again = [*arguments(folder, [str(tmp_path / "m.map.yaml")]), "--fresh"]
    assert run(again) == 0
    assert read_manifest(tmp_path / "m.parquet").digest() == first.digest()


def test_names_of_a_manifest_need_no_map_and_what_is_left_behind_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"file_name": "train/x.png", "patient_id": 7, "labels": ["Mass", "Edema"], "ward": "A", "extra": {"a": 1},
             "objects": {"bbox": [[1, 2, 3.5, 4]], "categories": ["Mass"]}},
            {"file_name": "train/y.png", "patient_id": 8, "labels": [], "ward": "B", "extra": None,
             "objects": {"bbox": [], "categories": []}}]  # fmt: skip
    folder = tmp_path / "data"
    for row in rows:
        picture(folder / str(row["file_name"]))
    (folder / "metadata.jsonl").write_bytes(b"\xef\xbb\xbf" + "\r\n".join(map(json.dumps, rows)).encode() + b"\r\n\r\n")
    assert run(arguments(folder)) == 0
    text = capsys.readouterr().out.replace("\n", " ")
    assert "columns left behind (--map keep=NAME,NAME): ward" in text
    assert "the nested column 'extra' is left out" in text
    frame = read_manifest(tmp_path / "m.parquet").frame
    assert frame["patient_id"].tolist() == ["7", "8"]
    assert frame["labels"].fillna("-").tolist() == ["Mass|Edema", "-"]
    assert [json.loads(t) for t in frame["boxes"]] == [[{"label": "Mass", "x": 1, "y": 2, "w": 3.5, "h": 4}], []]
    assert run([*arguments(folder, ["keep=ward", "findings.Mass=Lump"]), "--fresh"]) == 0
    frame = read_manifest(tmp_path / "m.parquet").frame
    assert frame["ward"].tolist() == ["A", "B"]
    assert json.loads(frame["boxes"][0])[0]["label"] == "Lump"


def test_class_folders_are_findings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    for name in ("train/NORMAL/1.jpeg", "train/PNEUMONIA/2.jpeg", "val/NORMAL/3.jpeg"):
        picture(folder / name)
    refused(arguments(folder), "which column holds the patient.*--map patient_id=file_name", capsys)
    items = ["patient_id=file_name", "findings.NORMAL=No Finding", "findings.PNEUMONIA=Pneumonia"]
    assert run(arguments(folder, items)) == 0
    data = read_manifest(tmp_path / "m.parquet")
    np.testing.assert_array_equal(data.y(["No Finding", "Pneumonia"]), [[1, 0], [0, 1], [1, 0]])
    assert data.frame["split"].tolist() == ["train", "train", "val"]


def test_on_a_terminal_the_patient_is_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from cxraug.cli.main import app

    monkeypatch.setattr(command, "_on_terminal", lambda: True)
    folder = foreign(tmp_path / "data")
    answers = ["", "subject", "", "", "gender", "years", "", "dx", "", "", ";"]
    result = CliRunner().invoke(app, arguments(folder), input="\n".join(answers) + "\n")
    assert result.exit_code == 0, result.output
    assert read_manifest(tmp_path / "m.parquet").findings == ("effusion", "mass", "normal")


def test_answers_are_kept_before_the_import_and_the_line_that_repeats_it_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from cxraug.cli.main import app

    monkeypatch.setattr(command, "_on_terminal", lambda: True)
    folder, kept = foreign(tmp_path / "a folder"), tmp_path / "m.map.yaml"
    answers = ["", "subject", "", "", "gender", "years", "", "dx", "", "", ";"]
    words = [*arguments(folder), "--uncertain", "zeros", "--split", "patients"]
    refused = CliRunner().invoke(
        app, [*words, "--mapping", str(tmp_path / "none.csv")], input="\n".join(answers) + "\n"
    )
    assert refused.exit_code != 0
    assert kept.exists()
    done = CliRunner().invoke(app, [*words, "--map", str(kept)])
    assert done.exit_code == 0, done.output
    again = shlex.split(next(line for line in done.output.splitlines() if line.startswith("again: "))[7:])
    assert again[:2] == ["cxraug", "import"]
    assert CliRunner().invoke(app, again[1:]).exit_code == 0
    assert {"zeros", "patients"} <= set(again)


def test_a_missing_image_is_listed(tmp_path: Path) -> None:
    folder = foreign(tmp_path / "data")
    (folder / "train/a.png").unlink()
    assert run(arguments(folder, MAP)) == 0
    assert len(read_manifest(tmp_path / "m.parquet")) == 3
    assert pd.read_csv(tmp_path / "m.missing.csv")["image"].tolist() == ["train/a.png"]


BROKEN = {
    "a line that is no JSON": ('{"file_name": "a.png", "subject": "p"}\n{"file_name": \n',
                               r"metadata\.jsonl, row 2: not valid JSON.*found '\{\"file_name\": "),
    "a line that is no row": ('[1]\n', r"metadata\.jsonl, row 1: not a row; found '\[1\]"),
    "Latin-1": (b'{"file_name": "a.png", "subject": "\xe9"}\n', r"metadata\.jsonl, row 1: not valid JSON.*UTF-8"),
    "nested without end": ("[" * 200_000 + "\n", r"row 1: not valid JSON"),
    "no file_name": ('{"file": "a.png", "subject": "p"}\n', r"row 1, column 'file_name': missing column; found 'file"),
    "a blank file_name": ('{"file_name": null, "subject": "p"}\n', r"row 1, column 'file_name': blank"),
    "a way out": ('{"file_name": "../../secret.png", "subject": "p"}\n',
                  r"row 1, column 'file_name': path leads out of the folder; found '\.\./\.\./secret\.png'"),
    "an absolute path": ('{"file_name": "/etc/passwd", "subject": "p"}\n', r"path leads out of the folder"),
    "an address": ('{"file_name": "https://x.org/a.png", "subject": "p"}\n', r"path leads out of the folder"),
    "a control character": ('{"file_name": "a.png", "subject": "p\\u001b[31m"}\n', r"row 1, column 'subject': a contr"),
    "an image twice": ('{"file_name": "a.png", "subject": "p"}\n\n{"file_name": "./a.png", "subject": "q"}\n',
                       r"row 3, column 'file_name': the same image path twice.*also in row 1"),
    "a formula": ('{"file_name": "a.png", "subject": "=cmd()"}\n', r"row 1, column 'subject': a spreadsheet would run"),
    "no patient": ('{"file_name": "a.png", "subject": ""}\n', r"row 1, column 'subject': blank"),
    "an unknown sex": ('{"file_name": "a.png", "subject": "p", "gender": "w"}\n', r"row 1, column 'gender': unknown"),
    "another split": ('{"file_name": "a.png", "subject": "p", "split": "test"}\n',
                      r"row 1, column 'split': the row and its folder name two splits; found 'test'"),
    "boxes that are none": ('{"file_name": "a.png", "subject": "p", "objects": {"bbox": [[1]], "category": ["x"]}}\n',
                            r"row 1, column 'objects': not boxes"),
    "no rows": ("\n\n", "missing column|no rows"),
}  # fmt: skip


@pytest.mark.parametrize("how", BROKEN)
def test_what_is_wrong_is_said_with_its_line(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, expected = BROKEN[how]
    picture(tmp_path / "data/train/a.png")
    picture(tmp_path / "secret.png")
    path = tmp_path / "data/train/metadata.jsonl"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    items = ["patient_id=subject", *(["sex=gender"] if "gender" in str(text) else [])]
    refused(arguments(tmp_path / "data", items), expected, capsys)
    assert not (tmp_path / "m.parquet").exists()


def test_a_patient_in_two_folders_is_named_with_both_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = foreign(tmp_path / "data", "csv")
    path = folder / "train/metadata.csv"
    path.write_text(path.read_text().replace("p2train", "p1test"))
    told = r"train/metadata\.csv, row 3, column 'split': patient 'p1test' in two splits: test in row 2 of \S+/test/meta"
    refused(arguments(folder, MAP), told, capsys)


def test_folders_that_are_none_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    refused(arguments(folder), "the root is not a folder", capsys)
    folder.mkdir()
    refused(arguments(folder), "not an image folder.*metadata.csv, metadata.jsonl or metadata.parquet", capsys)
    (folder / "data").mkdir()
    pd.DataFrame({"image": [b"x"]}).to_parquet(folder / "data/train-00000.parquet")
    refused(arguments(folder), "images inside Parquet are not read", capsys)
    shutil.rmtree(folder)
    foreign(folder)
    (folder / "train/metadata.csv").write_text("file_name\na.png\n")
    refused(arguments(folder, MAP), r"train: two tables of metadata.*metadata\.jsonl and metadata\.csv", capsys)
    (folder / "train/metadata.csv").unlink()
    (folder / "train/metadata.jsonl").rename(folder / "train/metadata.parquet")
    refused(arguments(folder, MAP), r"train/metadata\.parquet: not a readable Parquet file", capsys)


def test_what_is_no_image_or_lies_elsewhere_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = foreign(tmp_path / "data")
    (folder / "train/a.png").write_text("no image")
    refused(arguments(folder, MAP), r"train/a\.png: ", capsys)
    (folder / "train/a.png").unlink()
    picture(tmp_path / "secret.png")
    (folder / "train/a.png").symlink_to(tmp_path / "secret.png")
    refused(arguments(folder, MAP), r"train/a\.png: a link leads out of the data folder", capsys)
    assert not (tmp_path / "m.parquet").exists()
    assert run([*arguments(folder, MAP), "--table-only"]) == 0
