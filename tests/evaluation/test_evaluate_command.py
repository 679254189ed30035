import json

import pandas as pd
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


def test_the_primary_endpoint_is_a_family_of_its_own(app, files, tmp_path):
    named = [f"old:{files[0]}", f"new:{files[1]}"]
    found = run(app, *named, "--primary", "new,old,B,tpr,sex=F", "--bootstrap", "0", "--out", str(tmp_path / "out"))
    assert found.exit_code == 0
    first, *others = pd.read_csv(tmp_path / "out" / "comparison.csv").itertuples()
    assert (first.family, first.finding, first.metric, first.group, first.level) == ("primary", "B", "tpr", "sex", "F")
    assert first.p_adjusted == first.p_value
    assert "primary" not in {row.family for row in others}


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
        (("--groups", "age", "--age-bins", "0,nan"), "age bins are finite numbers, found 0.0, nan"),
        (
            ("--groups", "sex", "--reference", "sex=M", "--reference", "sex=F"),
            "a group twice; found 'sex=M, sex=F'",
        ),
        (("--groups", "sex", "--match-on", "scanner"), "column 'scanner': no such column to match on"),
        (("--out", __file__), "--out is a file; expected a folder"),
        (("--metrics", "auc"), "--metrics: unknown metric auc"),
        (("--alpha", "2"), "--alpha"),
        (("--threshold-rule", "best"), "unknown threshold rule"),
        (("--thresholds", "none.csv"), "no such file"),
        (("--groups", "sex*sex"), "--groups: sex*sex crosses a column with itself"),
        (("--groups", "sex*age,age*sex"), "--groups: age*sex and sex*age are one grouping"),
        (("--primary", "model,A"), "--primary names a comparison; found 'model,A'; expected ARM,CONTROL,FINDING"),
        (("--primary", "new,model,A"), "no such arm in the predictions; found 'new'; expected model"),
        (("--primary", "model,model,A,auc"), "unknown metric 'auc'"),
        (("--recalibration", "beta"), "unknown recalibration; found 'beta'; expected platt, temperature, isotonic"),
    ],
)
def test_bad_options_are_one_line(app, files, arguments, message):
    found = run(app, files[0], *arguments)
    assert isinstance(found.exception, InputError)
    assert message in str(found.exception)
    assert "\n" not in str(found.exception)


@pytest.mark.parametrize(
    ("asked", "said"),
    [("isotonic", "recalibrated on validation (isotonic)"), ("none", "p as given"),
     ("temperature", "recalibrated on validation (temperature)")],
)  # fmt: skip
def test_the_recalibration_asked_for_is_named(app, files, tmp_path, asked, said):
    assert run(app, files[0], "--metrics", "brier", "--recalibration", asked, "--out", str(tmp_path)).exit_code == 0
    assert json.loads((tmp_path / "evaluation.json").read_text())["recalibration"] == {"A": asked, "B": asked}
    methods = pd.read_csv(tmp_path / "cells.csv").query("finding == 'A'")["method"]
    assert methods.str.endswith(said).all()


def test_a_mitigation_is_printed_written_and_on_the_page(app, tmp_path):
    pytest.importorskip("fairlearn")
    table(200, validation=200).to_csv(tmp_path / "p.csv", index=False)
    arguments = (str(tmp_path / "p.csv"), "--metrics", "tpr,fpr", "--mitigate", "sex")
    found = run(app, *arguments, "--out", str(tmp_path / "out"))
    assert found.exit_code == 0, found.output
    assert "Mitigation, not applied: thresholds by sex, equalized_odds" in found.output
    assert (tmp_path / "out" / "mitigation.csv").is_file()
    page = (tmp_path / "out" / "report.html").read_text()
    assert '<section id="mitigation"' in page
    assert "Nothing else on this page uses these thresholds" in page
    value = json.loads(run(app, *arguments, "--mitigate-by", "true_positive_rate_parity", "--json").stdout)
    assert value["mitigation"]["constraint"] == "true_positive_rate_parity"
    assert len(value["mitigation"]["rows"]) == 2 * 2 * 3


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.rename(columns={"y_A": "y_macro", "p_A": "p_macro"}), "column 'p_macro': a name that the tables"),
        (lambda f: f.assign(sex=f["sex"].replace("M", "rest")), "column 'sex': a level with the name of the reference"),
    ],
)
def test_names_that_would_collide_are_refused(app, tmp_path, change, message):
    change(table(60)).to_csv(tmp_path / "p.csv", index=False)
    found = run(app, str(tmp_path / "p.csv"), "--groups", "sex")
    assert isinstance(found.exception, InputError)
    assert message in str(found.exception)


def test_files_with_other_images_are_cut_to_the_shared_ones_or_refused(app, files):
    frame = pd.read_csv(files[0])
    frame.iloc[1:].to_csv(files[1], index=False)
    found = run(app, *files, "--metrics", "auroc")
    n = int((frame["split"] == "test").sum())
    assert f"judged on the {n - 1} of {n} that all of them hold" in found.output
    assert "different test images" in str(run(app, *files, "--strict").exception)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"split": "train"}, "every row is of the training split"),
        ({"y_A": 0, "y_B": 0}, "every finding is absent in every test row"),
        ({"p_A": float("nan")}, "not a probability"),
        ({"image": "one.png"}, "the same image twice"),
    ],
)
def test_bad_files_are_one_line(app, files, change, message):
    pd.read_csv(files[0]).assign(**change).to_csv(files[0], index=False)
    found = run(app, files[0])
    assert isinstance(found.exception, InputError)
    assert message in str(found.exception)


def test_runs_that_disagree_on_a_group_are_refused_where_it_is_asked_for(app, files):
    frame = pd.read_csv(files[1])
    frame.assign(sex=frame["sex"].map({"M": "F", "F": "M"})).to_csv(files[1], index=False)
    assert "column 'sex': the runs disagree on a group; found " in str(run(app, *files, "--groups", "sex").exception)
    assert run(app, *files, "--groups", "age", "--match-on", "", "--metrics", "auroc").exit_code == 0


def test_a_group_with_thousands_of_levels_is_refused(app, tmp_path):
    frame = table(600)
    frame.assign(zip=[f"z{i % 1500}" for i in range(len(frame))]).to_csv(tmp_path / "z.csv", index=False)
    found = run(app, str(tmp_path / "z.csv"), "--groups", "zip")
    assert "column 'zip': too many levels for a group" in str(found.exception)


def test_an_intersection_may_be_written_with_spaces(app, files):
    found = run(app, files[0], "--metrics", "auroc", "--groups", " sex * age ", "--bootstrap", "0", "--json")
    assert {row["group"] for row in json.loads(found.stdout)["cells"]} == {"all", "sex*age"}


def test_a_small_p_value_is_not_printed_as_zero(app, files):
    found = run(app, f"old:{files[0]}", f"new:{files[1]}", "--metrics", "auroc", "--bootstrap", "0")
    assert "< 0.001" in found.output
    assert " 0.000 " not in found.output


def test_non_inferiority_is_printed_and_kept(app, files, tmp_path):
    arguments = (f"old:{files[0]}", f"new:{files[1]}", "--metrics", "auroc", "--non-inferiority", "0.02")
    found = run(app, *arguments, "--out", str(tmp_path / "out"))
    assert "new - old, A auroc: non-inferior at the margin 0.02" in found.output
    value = json.loads((tmp_path / "out" / "evaluation.json").read_text())
    assert [row["finding"] for row in value["non_inferiority"]] == ["A", "B", "macro"]
    assert "Non-inferiority" in (tmp_path / "out" / "report.html").read_text()
    alone = run(app, files[0], "--non-inferiority", "0.02")
    assert "compares arms" in str(alone.exception)
