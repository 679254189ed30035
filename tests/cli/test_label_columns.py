"""Tables with one 0/1/-1/blank column per finding (CheXpert, MIMIC-CXR) on the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from cxraug.cli.main import run
from cxraug.cli.selection import parse_label_columns
from cxraug.errors import InputError
from cxraug.recipe import read_recipe

FINDINGS = ["Edema", "No Finding", "Pleural Effusion"]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    n = 600
    edema, effusion = (rng.choice(["1.0", "0.0", "-1.0", ""], n, p=p) for p in ([0.2, 0.5, 0.1, 0.2],) * 2)
    healthy = np.where((edema == "1.0") | (effusion == "1.0"), "", "1.0")
    frame = {
        "image": [f"{i}.png" for i in range(n)],
        "patient_id": [f"p{i}" for i in range(n)],
        "sex": rng.choice(["Female", "Male"], n),
        "age": rng.integers(20, 90, n),
        "ward": rng.choice(["1", "2", "3"], n),  # a number, but no label
        "seed": "1",  # has a meaning of its own
        "never": "",
        "Edema": edema,
        "Pleural Effusion": effusion,
        "No Finding": healthy,
    }
    pd.DataFrame(frame).to_csv(tmp_path / "chexpert.csv", index=False)
    return tmp_path / "chexpert.csv"


@pytest.mark.parametrize("command", ["audit", "plan", "recipe new"])
def test_labels_are_never_lost_silently(table: Path, tmp_path: Path, capsys, command: str) -> None:
    assert run([*command.split(), str(table), "--out", str(tmp_path / "out")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "chexpert.csv" in lines[0]
    assert "findings: Edema, Pleural Effusion, No Finding;" in lines[0]
    assert "--label-columns" in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("option", ["auto", "Edema, Pleural Effusion,No Finding"])
def test_the_audit_reads_the_columns_and_says_which(table: Path, tmp_path: Path, capsys, option: str) -> None:
    words = ["audit", str(table), "--no-pixels", "--json", "--out", str(tmp_path / "a"), "--label-columns", option]
    assert run(words) == 0
    told = capsys.readouterr()
    assert told.err.splitlines() == ["labels from the columns: Edema, Pleural Effusion, No Finding"]
    found = {f["finding"]: f["by_split"]["all"] for f in json.loads(told.out)["findings"]}
    assert list(found) == FINDINGS
    column = pd.read_csv(table, dtype=str)["Edema"]
    assert found["Edema"]["images_positive"] == (column == "1.0").sum()
    assert found["Edema"]["images_uncertain"] >= (column == "-1.0").sum() > 0  # unknown, neither present nor absent
    assert found["Edema"]["images_known"] <= (column != "-1.0").sum()


def test_none_says_that_there_are_no_labels(table: Path, tmp_path: Path, capsys) -> None:
    words = ["audit", str(table), "--no-pixels", "--json", "--out", str(tmp_path / "a"), "--label-columns", "none"]
    assert run(words) == 0
    assert json.loads(capsys.readouterr().out)["findings"] == []


def test_a_plan_from_columns_under_other_names(table: Path, tmp_path: Path, capsys) -> None:
    columns = "Edema,Pleural Effusion=Effusion"
    words = ["plan", str(table), "--n", "12", "--out", str(tmp_path / "p"), "--label-columns", columns, "--json"]
    assert run(words) == 0
    assert capsys.readouterr().err.splitlines() == ["labels from the columns: Edema, Pleural Effusion=Effusion"]
    labels = pd.read_parquet(tmp_path / "p" / "plan.parquet")["labels"]
    assert set(labels.str.split("|").explode().str.lstrip("-")) == {"Edema", "Effusion"}


@pytest.mark.parametrize(
    ("option", "columns"),
    [
        ("auto", ["Edema", "Pleural Effusion", "No Finding"]),
        ("Edema,Pleural Effusion=Effusion", {"Edema": "Edema", "Pleural Effusion": "Effusion"}),
    ],
)
def test_a_drafted_recipe_names_the_columns(table: Path, tmp_path: Path, option: str, columns: object) -> None:
    out = tmp_path / "recipe.yaml"
    assert run(["recipe", "new", str(table), "--out", str(out), "--finding", "Edema", "--label-columns", option]) == 0
    assert read_recipe(out).data.label_columns == columns
    for image in pd.read_csv(table, dtype=str)["image"]:
        (table.parent / image).touch()  # that they are there is what check looks at
    assert run(["recipe", "check", str(out)]) == 0


@pytest.mark.parametrize("text", ["", "a,a", "a=", "=b"])
def test_what_names_no_columns_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--label-columns"):
        parse_label_columns(text)


def test_no_such_column_and_nothing_to_take(table: Path, tmp_path: Path, capsys) -> None:
    out = ["--no-pixels", "--out", str(tmp_path / "a")]
    assert run(["audit", str(table), *out, "--label-columns", "Scurvy"]) == 2
    assert "'Scurvy': no such label column" in capsys.readouterr().err
    pd.read_csv(table, dtype=str).drop(columns=FINDINGS).to_csv(table, index=False)
    assert run(["audit", str(table), *out, "--label-columns", "auto"]) == 2
    assert "no column holds only 1, 0, -1 and blank" in capsys.readouterr().err
    assert run(["audit", str(table), *out]) == 0  # no labels, and none that are overlooked
    pd.read_csv(table, dtype=str).assign(labels="Edema", smoker="1").to_csv(table, index=False)
    assert run(["audit", str(table), *out]) == 0
    assert run(["audit", str(table), *out, "--label-columns", "auto"]) == 2
    assert "without the column 'labels'" in capsys.readouterr().err
