import json

import pytest
import typer
from simulated import table
from typer.testing import CliRunner

from cxraug.cli.evaluate import register
from cxraug.errors import InputError


@pytest.fixture(scope="module")
def app():
    app = typer.Typer()

    @app.callback()
    def root() -> None:
        pass

    register(app)
    return app


@pytest.fixture
def files(tmp_path):
    for k in range(2):
        table(150, validation=50, run=k, boost=k).to_csv(tmp_path / f"{k}.csv", index=False)
    return [str(tmp_path / f"{k}.csv") for k in range(2)]


def run(app, *arguments):
    return CliRunner().invoke(app, ["evaluate", *arguments], catch_exceptions=True)


def test_tables_are_printed_and_written(app, files, tmp_path):
    out = tmp_path / "out"
    found = run(
        app, f"old:{files[0]}", f"new:{files[1]}", "--groups", "sex,age", "--reference", "sex=M", "--out", str(out)
    )
    assert found.exit_code == 0, found.output
    for word in ("2 run(s)", "Gaps:", "Arms against controls"):
        assert word in found.output
    assert sorted(path.name for path in out.iterdir()) == [
        "cells.csv", "comparison.csv", "curves.csv", "evaluation.json", "gaps.csv", "report.html", "thresholds.csv",
    ]  # fmt: skip


def test_json_is_for_machines(app, files):
    found = run(app, *files, "--json", "--metrics", "auroc,tpr", "--bootstrap", "0")
    value = json.loads(found.stdout)
    assert {row["metric"] for row in value["cells"]} == {"auroc", "tpr"}
    assert value["gaps"] == []


def test_frozen_thresholds_can_be_given_back(app, files, tmp_path):
    run(app, files[0], "--out", str(tmp_path / "a"))
    run(app, files[0], "--out", str(tmp_path / "b"), "--thresholds", str(tmp_path / "a" / "thresholds.csv"))
    assert (tmp_path / "a" / "cells.csv").read_bytes() == (tmp_path / "b" / "cells.csv").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--groups", "race"), "race"),
        (("--reference", "sex"), "GROUP=LEVEL"),
        (("--age-bins", "0,x"), "takes numbers"),
        (("--metrics", "auc"), "--metrics: unknown metric auc"),
        (("--alpha", "2"), "--alpha"),
        (("--threshold-rule", "best"), "unknown threshold rule"),
        (("--thresholds", "none.csv"), "no such file"),
    ],
)
def test_bad_options_are_one_line(app, files, arguments, message):
    found = run(app, files[0], *arguments)
    assert isinstance(found.exception, InputError)
    assert message in str(found.exception)
    assert "\n" not in str(found.exception)


def test_non_inferiority_is_printed_and_kept(app, files, tmp_path):
    arguments = (f"old:{files[0]}", f"new:{files[1]}", "--metrics", "auroc", "--non-inferiority", "0.02")
    found = run(app, *arguments, "--out", str(tmp_path / "out"))
    assert "new - old, A auroc: non-inferior at the margin 0.02" in found.output
    value = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [row["finding"] for row in value["non_inferiority"]] == ["A", "B", "macro"]
    assert "Non-inferiority" in (tmp_path / "out" / "report.html").read_text()
    alone = run(app, files[0], "--non-inferiority", "0.02")
    assert "compares arms" in str(alone.exception)
