"""The commands audit and plan, from a CSV to files and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from cxraug.cli import audit as audit_command
from cxraug.cli import plan as plan_command
from cxraug.cli.selection import choice, names, parse_age_bins, parse_where
from cxraug.errors import InputError
from cxraug.studies.manifest import Manifest


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer()
    audit_command.register(made)
    plan_command.register(made)
    return made


@pytest.fixture
def table(imbalanced: Manifest, tmp_path: Path) -> Path:
    path = tmp_path / "manifest.csv"
    imbalanced.frame.assign(image=imbalanced.frame["image"] + ".png").drop(columns="study_id").to_csv(path, index=False)
    return path


def test_audit_writes_and_prints(app: typer.Typer, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "audit"
    result = CliRunner().invoke(app, ["audit", str(table), "--no-pixels", "--out", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) <= 15
    assert next(line for line in lines if line.startswith("rare finding")).split("  ")[-1].strip().startswith("Nodule ")
    assert lines[-1].endswith("audit.html, audit.json, *.csv")
    assert (out / "audit.html").is_file()
    result = CliRunner().invoke(
        app, ["audit", str(table), "--no-pixels", "--json", "--groups", "sex", "--out", str(out)]
    )
    assert json.loads(result.stdout)["named"][0]["finding"] == "Nodule"


def test_without_images_the_error_says_how_to_go_on(app: typer.Typer, table: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["audit", str(table), "--out", str(tmp_path / "audit")])
    assert isinstance(result.exception, InputError)
    assert "no such image" in str(result.exception)
    assert "--no-pixels" in str(result.exception)
    assert not (tmp_path / "audit").exists()


def test_plan_writes_and_prints(app: typer.Typer, table: Path, tmp_path: Path) -> None:
    out = tmp_path / "plan"
    words = ["plan", str(table), "--target", "floor=40", "--budget", "120", "--groups", "sex", "--out", str(out)]
    result = CliRunner().invoke(app, words, catch_exceptions=False)
    assert result.exit_code == 0
    assert "120 studies" in result.output
    assert "note: " in result.output
    assert len(pd.read_parquet(out / "plan.parquet")) == 120
    with pytest.raises(InputError, match="another plan"):
        CliRunner().invoke(app, [*words, "--seed", "1"], catch_exceptions=False)
    assert CliRunner().invoke(app, [*words, "--seed", "1", "--fresh"]).exit_code == 0
    assert CliRunner().invoke(app, [*words, "--fresh"]).exit_code == 0
    answer = json.loads(CliRunner().invoke(app, [*words, "--json"]).stdout)
    assert answer["studies"] == 120
    assert {"before", "target", "planned", "after", "shortfall"} <= set(answer["table"][0])


def test_plan_takes_tolerance_and_companions(app: typer.Typer, table: Path, tmp_path: Path) -> None:
    words = ["plan", str(table), "--groups", "sex", "--json"]
    shares = [*words, "--target", "parity", "--tolerance", "0.2", "--out", str(tmp_path / "shares")]
    answer = json.loads(CliRunner().invoke(app, shares, catch_exceptions=False).stdout)
    assert any("within 20 % of itself" in note for note in answer["notes"])
    one = ["--findings", "Nodule", "--target", "floor=40", "--companions", "1", "--out", str(tmp_path / "one")]
    CliRunner().invoke(app, [*words, *one], catch_exceptions=False)
    planned = pd.read_parquet(tmp_path / "one" / "plan.parquet")
    beside = planned["reason"].str.startswith("companion")
    assert beside.sum() == (~beside).sum() > 0
    assert not planned.loc[beside, "labels"].str.contains("Nodule").any()
    with pytest.raises(InputError, match="companions go with target: floor or power"):
        CliRunner().invoke(app, [*shares, "--companions", "1"], catch_exceptions=False)


def test_where_and_bad_usage(app: typer.Typer, table: Path, tmp_path: Path) -> None:
    words = ["audit", str(table), "--no-pixels", "--json", "--where", "sex=F", "--out", str(tmp_path / "w")]
    found = json.loads(CliRunner().invoke(app, words, catch_exceptions=False).stdout)
    assert found["images"] == (pd.read_csv(table)["sex"] == "F").sum()
    for words, message in (
        (["plan", str(table), "--target", "much"], "--target"),
        (["plan", str(table), "--tolerance", "2"], "--tolerance"),
        (["plan", str(table), "--views", "PA,Side"], "unknown view 'Side'"),
        (["plan", str(table), "--n", "5", "--budget", "9"], "--n is exact"),
        (["plan", str(table), "--from-evaluation", "nowhere"], "nowhere.*cxraug evaluate"),
        (["plan", str(table), "--findings", "Nodul"], r"--findings.*train; found 'Nodul'.*did you mean 'Nodule'"),
        (["audit", str(table), "--no-pixels", "--age-bins", "40,20"], "--age-bins"),
        (["audit", str(table), "--no-pixels", "--groups", "sex", "--where", "sex"], "--where"),
        (["audit", str(table), "--on-bad-image", "guess"], "--on-bad-image"),
    ):
        with pytest.raises(InputError, match=message):
            CliRunner().invoke(app, [*words, "--out", str(tmp_path / "bad")], catch_exceptions=False)


def test_selections() -> None:
    assert names(None) is None
    assert names("a, b,,") == ["a", "b"]
    assert parse_where([]) is None
    assert parse_where(["a=1,2", "b=x", "a=3"]) == {"a": ["1", "2", "3"], "b": ["x"]}
    assert parse_age_bins("0,18,65") == (0, 18, 65)
    assert choice("skip", "--x", ("skip",)) == "skip"
    for wrong in ("", "a", "5,5", "-1,4"):
        with pytest.raises(InputError):
            parse_age_bins(wrong)
