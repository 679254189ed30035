"""Any table: asked for on a terminal, named on the command line, replayed from what was kept."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from typer.testing import CliRunner

import cxraug.cli.import_source as command
from cxraug.cli.main import app, run
from cxraug.errors import InputError
from cxraug.studies.manifest import read_manifest
from cxraug.studies.sources.columnmap import FIELDS, FILES, ColumnMap, column_map, guess_map, parse_map, write_map
from cxraug.studies.table import read_table

TABLE = """FileName,PatientID,Gender,PatientAge,Projection,Diagnosis,Ward,Part
p1.png,17,1,063Y,front,effusion; mass,A,dev
p2.png,18,2,41,side,healthy,B,training
p3.png,19,,,front,,B,testing
"""
MAP = ["image=FileName", "patient_id=PatientID", "sex=Gender", "age=PatientAge", "view=Projection", "labels=Diagnosis",
       "split=Part", "separator=;", "sexes.1=F", "sexes.2=M", "views.front=PA", "views.side=Lateral",
       "findings.mass=Mass", "findings.effusion=Effusion", "findings.healthy=No Finding", "keep=Ward", "source=ours",
       "licence=internal"]  # fmt: skip


@pytest.fixture
def table(tmp_path: Path) -> Path:
    for name in ("p1.png", "deep/p2.png", "p3.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("L", (8, 8)).save(tmp_path / name)
    (tmp_path / "export.csv").write_text(TABLE)
    return tmp_path / "export.csv"


def arguments(table: Path, name: str, items: list[str]) -> list[str]:
    found = ["import", "csv", str(table), "--out", str(table.parent / name)]
    for item in items:
        found += ["--map", item]
    return found


def test_columns_named_by_options_and_replayed_from_the_kept_mapping(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(table, "m.parquet", MAP)) == 0
    text = capsys.readouterr().out
    assert "3 images, 3 patients" in text
    assert f"--map {table.parent / 'm.map.yaml'}" in text
    data = read_manifest(table.parent / "m.parquet")
    frame = data.frame
    assert frame["image"].tolist() == ["p1.png", "deep/p2.png", "p3.png"]
    assert frame["sex"].fillna("-").tolist() == ["F", "M", "-"]
    np.testing.assert_array_equal(frame["age"], [63, 41, np.nan])
    assert frame["view"].tolist() == ["PA", "Lateral", "PA"]
    assert frame["split"].tolist() == ["val", "train", "test"]
    assert frame["Ward"].tolist() == ["A", "B", "B"]
    assert set(frame["source"]) == {"ours"}
    np.testing.assert_array_equal(data.y(["Effusion", "Mass", "No Finding"]), [[1, 1, 0], [0, 0, 1], [np.nan] * 3])
    assert run(arguments(table, "again.parquet", [str(table.parent / "m.map.yaml")])) == 0
    assert read_manifest(table.parent / "again.parquet").digest() == data.digest()
    kept = yaml.safe_load((table.parent / "m.map.yaml").read_text())
    assert kept["findings"] == {"mass": "Mass", "effusion": "Effusion", "healthy": "No Finding"}


def test_asked_on_a_terminal_and_kept(table: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_on_terminal", lambda: True)
    table.write_text(TABLE.replace(",1,", ",F,").replace(",2,", ",M,").replace("front", "PA").replace("side", "L"))
    answers = ["", "", "", "", "", "", "", "nothing", "Diagnosis", "", "Part", ";"]
    result = CliRunner().invoke(app, ["import", "csv", str(table), "--out", str(table.parent / "m.parquet")],
                                input="\n".join(answers) + "\n")  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "no column 'nothing'" in result.output
    kept = yaml.safe_load((table.parent / "m.map.yaml").read_text())
    assert kept == {"image": "FileName", "patient_id": "PatientID", "view": "Projection", "sex": "Gender",
                    "age": "PatientAge", "labels": "Diagnosis", "split": "Part", "separator": ";"}  # fmt: skip
    first = read_manifest(table.parent / "m.parquet")
    assert first.findings == ("effusion", "healthy", "mass")
    assert run(arguments(table, "again.parquet", [str(table.parent / "m.map.yaml")])) == 0
    assert read_manifest(table.parent / "again.parquet").digest() == first.digest()


def test_words_of_its_own_are_asked_for_and_kept_before_the_import(
    table: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "_on_terminal", lambda: True)
    table.write_text(TABLE.replace("063Y", "old"))  # refused once everything was answered
    answers = ["", "", "", "", "PA", "Lateral", "", "X", "F", "M", "", "", "Diagnosis", "", "Part", ";"]
    arguments_ = ["import", "csv", str(table), "--out", str(table.parent / "m.parquet")]
    result = CliRunner().invoke(app, arguments_, input="\n".join(answers) + "\n")
    assert result.exit_code != 0
    assert "'X' is none of M, F" in result.output
    kept = yaml.safe_load((table.parent / "m.map.yaml").read_text())
    assert kept["views"] == {"front": "PA", "side": "Lateral"}
    assert kept["sexes"] == {"1": "F", "2": "M"}
    assert "splits" not in kept
    assert not (table.parent / "m.parquet").exists()
    table.write_text(TABLE)
    assert run(arguments(table, "m.parquet", [str(table.parent / "m.map.yaml")])) == 0
    frame = read_manifest(table.parent / "m.parquet").frame
    assert frame["sex"].fillna("-").tolist() == ["F", "M", "-"]
    assert frame["view"].tolist() == ["PA", "Lateral", "PA"]


def test_columns_that_nothing_names_are_told_and_so_are_missing_labels(
    table: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    items = ["image=FileName", "patient_id=PatientID"]
    assert run([*arguments(table, "m.parquet", items), "--root", str(table.parent), "--split", "patients"]) == 0
    text = capsys.readouterr().out
    assert "left out: Gender, PatientAge, Projection, Diagnosis, Ward, Part" in text
    assert "no image has a label" in text
    assert f"--root {table.parent} --split patients --fresh" in text
    again = next(line for line in text.splitlines() if line.startswith("again: ")).removeprefix("again: cxraug ")
    assert run(shlex.split(again)) == 0


def test_the_columns_of_findings_are_among_what_to_name(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.write_text("FileName,PatientID,Mass,Lung Opacity\np1.png,1,0,1\np2.png,2,1,0\np3.png,3,0,0\n")
    assert run(arguments(table, "m.parquet", [])) == 2
    words = shlex.split(capsys.readouterr().err.partition("by their names: ")[2])
    assert run(["import", "csv", str(table), "--out", str(table.parent / "m.parquet"), *words]) == 0
    assert read_manifest(table.parent / "m.parquet").findings == ("Lung Opacity", "Mass")


def test_without_a_terminal_it_says_what_to_name(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(arguments(table, "m.parquet", [])) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert "--map image=FileName --map patient_id=PatientID" in line


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (["image=File", "patient_id=PatientID"], "row 1, column 'File': missing column.*did you mean 'FileName'"),
        (["image=FileName"], "--map, patient_id: Field required"),
        (["image=FileName", "patient_id=PatientID", "colour=x"], "--map, colour: Extra inputs"),
        (["image=FileName", "patient_id=PatientID", "image.x=1"], "--map; found 'image.x=1'; expected image=COLUMN"),
        (["nowhere.yaml"], "--map is neither KEY=COLUMN nor a file that is there; found 'nowhere.yaml'"),
        (["image=FileName", "patient_id=PatientID", "sex=Gender"], "row 2, column 'Gender': unknown sex.*found '1'"),
        (["image=FileName", "patient_id=PatientID", "age=Ward"], "row 2, column 'Ward': age is not a number"),
        (
            ["image=FileName", "patient_id=PatientID", "view=Ward"],
            "row 2, column 'Ward': unknown view.*found 'A'.*--map views.A=PA",
        ),
        (["image=FileName", "patient_id=PatientID", "sex=Gender"], "found '1'.*or --map sexes.1=M"),
        (
            ["image=FileName", "patient_id=PatientID", "split=Ward"],
            "row 2, column 'Ward': unknown split.*found 'A'.*or --map splits.A=train",
        ),
        (["image=FileName", "patient_id=Gender"], "row 4, column 'Gender': blank.*expected a value of Gender"),
        (["image=Ward", "patient_id=PatientID"], "row 4, column 'Ward': the same image path twice.*also in row 3"),
        (
            ["image=FileName", "patient_id=Ward", "split=Part"],
            "row 4, column 'Part': patient 'B' in two splits: train in row 3; found 'test'",
        ),
        (
            ["image=FileName", "patient_id=PatientID", "boxes=Diagnosis"],
            "row 2, column 'Diagnosis': boxes are not JSON",
        ),
        (["image=", "patient_id=PatientID"], "--map: no column is named; found 'image='"),
        (["image=FileName", "patient_id=PatientID", "sex=Gender", "sexes.1=W"], "--map sexes.1: not a sex.*found 'W'"),
        (["image=FileName", "patient_id=PatientID", "sexes.1=F"], "--map sexes: no column is named for it"),
        (
            ["image=FileName", "patient_id=PatientID", "labels=Diagnosis", "findings.mass=-x"],
            "--map findings.mass: finding name '-x' cannot be written",
        ),
        (
            ["image=FileName", "patient_id=PatientID", "label_columns.Ward="],
            "--map label_columns.Ward: finding name ''",
        ),
        (["image=FileName", "patient_id=PatientID", "labels=Diagnosis", "label_columns.Ward=X"], "one of the two"),
        (["image=FileName", "patient_id=PatientID", "keep=Ward,Ward"], "--map keep: the same column twice"),
    ],
)
def test_a_wrong_mapping_gives_one_line(
    table: Path, items: list[str], expected: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(arguments(table, "m.parquet", items)) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert re.search(expected, line), line


@pytest.mark.parametrize("damage", [
    (TABLE.replace(",", "\t").encode(), "separated by tabs"),
    (TABLE.replace(";", "/").replace(",", ";").encode(), "separated by semicolons"),
    (TABLE.encode().replace(b"healthy", b"\xe9"), "row 3: not UTF-8"),
    (TABLE.partition("\n")[0].encode() + b"\n", "a header and no rows"),
])  # fmt: skip
def test_a_malformed_table_gives_one_line(
    table: Path, damage: tuple[bytes, str], capsys: pytest.CaptureFixture[str]
) -> None:
    table.write_bytes(damage[0])
    assert run(arguments(table, "m.parquet", MAP)) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert damage[1] in line


def test_words_that_labels_cannot_hold_are_asked_for(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table.write_text(TABLE.replace("healthy", "?mass"))
    items = ["image=FileName", "patient_id=PatientID", "labels=Diagnosis", "separator=;"]
    assert run(arguments(table, "m.parquet", items)) == 2
    line = capsys.readouterr().err
    assert "row 3, column 'Diagnosis': the word '?mass' cannot be a finding" in line
    assert "--map findings.?mass=FINDING" in line
    assert run(arguments(table, "m.parquet", [*items, "findings.?mass=(nothing)", "findings.masse=Mass"])) == 0
    assert "note: --map findings.masse: no row has this word" in capsys.readouterr().out


def test_boxes_and_masks_are_taken_over(table: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (table.parent / "masks").mkdir()
    Image.new("L", (8, 8), 4).save(table.parent / "masks/1.png")
    table.write_text('image,patient,where,drawn\np1.png,1,"[{""label"":""Mass"",""x"":1,""y"":2,""w"":3,""h"":4}]",'
                     "masks/1.png\np3.png,2,[],masks/none.png\n")  # fmt: skip
    assert run(arguments(table, "m.parquet", ["image=image", "patient_id=patient", "boxes=where", "mask=drawn"])) == 0
    assert "masks that are not there, left out: 1" in capsys.readouterr().out
    frame = read_manifest(table.parent / "m.parquet").frame
    assert frame["mask"].fillna("-").tolist() == ["masks/1.png", "-"]
    assert frame["boxes"].tolist() == ['[{"label":"Mass","x":1,"y":2,"w":3,"h":4}]', "[]"]


def test_marks_and_line_ends_change_nothing(table: Path) -> None:
    assert run(arguments(table, "m.parquet", MAP)) == 0
    table.write_bytes(TABLE.replace("\n", "\r\n").encode("utf-8-sig"))
    assert run(arguments(table, "n.parquet", MAP)) == 0
    found = [read_manifest(table.parent / name).digest() for name in ("m.parquet", "n.parquet")]
    assert found[0] == found[1]


def test_label_columns_are_guessed_and_used(table: Path) -> None:
    table.write_text("image,patient,Edema,Mass,Ward\np1.png,1,1,0,3\np2.png,2,-1,,4\np3.png,3,,,5\n")
    guess = guess_map(read_table(table))
    assert guess == {"image": "image", "patient_id": "patient", "label_columns": {"Edema": "Edema", "Mass": "Mass"}}
    items = ["image=image", "patient_id=patient", "label_columns.Edema=Edema", "label_columns.Mass=Mass"]
    assert run([*arguments(table, "m.parquet", items), "--uncertain", "ones"]) == 0
    data = read_manifest(table.parent / "m.parquet")
    np.testing.assert_array_equal(data.y(["Edema", "Mass"]), [[1, 0], [1, 0], [np.nan, np.nan]])


names = st.text("abcXYZ -:#'\"é{}[]", min_size=1, max_size=12).filter(lambda t: t.strip() == t)


@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries({"image": names, "patient_id": names},
                             optional={f: names for f in FIELDS if f not in ("image", "patient_id")}),
       st.dictionaries(names, names, max_size=3), st.lists(names, max_size=3))  # fmt: skip
def test_what_is_kept_is_what_was_asked(
    tmp_path_factory: pytest.TempPathFactory, fields: dict, findings: dict, keep: list
) -> None:
    asked = column_map({**fields, "findings": findings, "keep": keep})
    path = tmp_path_factory.mktemp("map") / "m.yaml"
    write_map(asked, path)
    assert column_map(parse_map([str(path)])) == asked


def test_the_mapping_has_no_unknown_keys() -> None:
    with pytest.raises(InputError, match="Extra inputs"):
        column_map({"image": "a", "patient_id": "b", "patients": "c"})
    assert {*FIELDS, *FILES} < set(ColumnMap.model_fields)


def test_words_that_yaml_takes_for_numbers_are_words_and_those_it_takes_for_no_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "map.yaml"
    path.write_text("image: FileName\npatient_id: PatientID\nsexes: {1: F, 2: M}\n")
    assert column_map(parse_map([str(path)])).sexes == {"1": "F", "2": "M"}
    path.write_text("image: FileName\npatient_id: PatientID\nfindings: {no: No Finding}\n")
    with pytest.raises(InputError, match=r"map.yaml, column 'findings'.*found False; expected the word in quotes"):
        parse_map([str(path)])
