"""The command line of the phantom."""

import json

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from cxraug.cli.phantom import register
from cxraug.errors import InputError

app = typer.Typer()
register(app)


def run(*arguments):
    return CliRunner().invoke(app, [str(a) for a in arguments])


def test_makes_a_cohort(tmp_path):
    result = run(
        "--n", 6, "--seed", 2, "--size", 32, "--views", "PA,Lateral", "--out", tmp_path, "--prevalence", "Mass=0.99",
        "--odds", "Mass:sex=F=0.5", "--severity", "Mass:age>=60=0.5", "--workers", 1, "--json",
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    summary = json.loads(result.stdout)
    assert summary["images"] == 12
    assert summary["studies"] == 6
    assert summary["positives"]["Mass"] >= 4
    assert len(pd.read_parquet(tmp_path / "manifest.parquet")) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--prevalence", "Hernia=0.1"], "Hernia"),
        (["--prevalence", "Mass"], "NAME=VALUE"),
        (["--prevalence", "Mass=often"], "no number"),
        (["--odds", "sex=F=0.5"], "FINDING:CONDITION=FACTOR"),
        (["--odds", "Mass:shoe>=40=0.5"], "shoe"),
        (["--views", "PA,Oblique"], "Oblique"),
        (["--n", "0"], "n:"),
    ],
)
def test_wrong_options_are_one_line(tmp_path, arguments, message):
    result = run("--out", tmp_path / "x", *arguments)
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)
    assert not (tmp_path / "x").exists()
