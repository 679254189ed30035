"""The run report shows the numbers of the files, offline, and nothing real."""

import re
import shutil

import pandas as pd
import pytest
import typer
from offline import assert_offline
from sample_run import curve, settings, write_csv, write_run, write_set
from typer.testing import CliRunner

from cxraug.cli.report import register
from cxraug.errors import InputError
from cxraug.pages.evaluation import write_evaluation_report
from cxraug.pages.report import flatten, write_run_report
from cxraug.pages.results import draw_interval
from cxraug.storage import read_json, write_json

EVIL = "<script>alert('x')</script>"
EVIL_IMAGE = "\"><img src='http://evil.example/a.png'>{{7*7}}"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "demo")


@pytest.fixture(scope="module")
def html(run):
    return write_run_report(run).read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def text(html):
    return assert_offline(html).text


def copy_of(run, folder):
    return shutil.copytree(run, folder / "run")


def test_the_first_screen_is_the_verdict(text):
    start = text.index("Better than the control")
    assert start < text.index("What the data lack", text.index("What to do next"))
    for shown in (
        "Pneumothorax AUROC +0.032 [0.011, 0.053] against the count-matched control (duplicated)",
        "+0.011 to +0.053",
        "p value 0.004",
        "Smallest detectable 0.029",
        "Room +0.071",
        "Draws × seeds 8 × 3",
        "Test patients 612",
        "With outside data",
    ):
        assert shown in text


def test_audit_and_limit_are_told(text):
    assert "Pneumothorax is rare: 10 of 1,204 studies (0.8 %)" in text
    assert "9 of 10 positives come from source b. a hint: may be chance" in text
    assert "Only 10 training patients with Pneumothorax were kept." in text
    assert "train positives Pneumothorax 88 10 78" in text
    assert "test rows" not in text.split("What went with the dropped")[1].split("What the plan")[0]


def test_plan_is_shown_before_and_after(text):
    assert "sex F 3 → 74" in text
    assert "whole set 10 → 148" in text


def test_acceptance_and_reasons_are_counted_over_draws(text):
    # 48 images a draw, 2 draws; every sixth is rejected by the classifier, every sixteenth as a copy, none by both
    # but number 47.
    assert "core phantom-nano 2 96 76 20 79.2 %" in text
    assert "agreement: Nodule not seen 16 16.7 %" in text
    assert "duplicates: copy of a training image 6 6.2 %" in text
    assert "22 prompts were drawn again" in text
    assert "closest to a training image correlates 0.934" in text
    assert "Nodule 32 50.0 %" in text


def test_results_are_those_of_the_files(text):
    assert "mixed − duplicated +0.032 [+0.011, +0.053]" in text
    assert "mixed − real +0.041 [+0.017, +0.065]" in text
    assert "mixed 0.783 [0.753, 0.813]" in text
    assert "sex F · duplicated −0.057 [−0.097, −0.017]" in text
    assert "10 0.742" in text
    assert "draw-00 0.771 0.786 0.779 1" in text
    assert "torch" in text
    assert "Obuchowski" in text


def test_suppressed_cells_have_no_number_and_single_runs_stay_in_the_files(html, text):
    assert "0.988" not in html  # 0.9876 stands in every suppressed cell of the fixture
    assert "0.9876" not in html
    assert "suppressed: fewer than 10" in text
    assert "0.123" not in html  # the row of one seed and draw


def test_a_finding_without_any_shown_gap_is_one_line(run, tmp_path):
    folder = copy_of(run, tmp_path)
    path = folder / "evaluation" / "gaps.csv"
    frame = pd.read_csv(path, keep_default_na=False)
    frame.loc[frame["finding"] == "Nodule", "flag"] = "suppressed"
    write_csv(path, frame)
    text = assert_offline(write_run_report(folder).read_text(encoding="utf-8")).text
    assert "Suppressed in every level: Nodule." in text


def test_the_file_is_small_repeats_and_is_whole(run, html):
    assert len(html.encode()) < 1_000_000
    assert write_run_report(run).read_text(encoding="utf-8") == html
    assert not list(run.glob(".report*"))


def test_a_ratio_that_could_not_be_filled_is_shown_as_it_was(run, tmp_path):
    folder = copy_of(run, tmp_path)
    for ratio, added in (("0.5", 50), ("1", 73), ("2", 73)):
        card = folder / "draw-00" / "arms" / f"mixed@{ratio}" / "seed-0" / "card.json"
        write_json(card, {"data": {"real": 100, "added": added}})
    text = assert_offline(write_run_report(folder).read_text(encoding="utf-8")).text
    assert text.count("(in effect 0.73)") == 2  # ratios 1 and 2 of the first draw; 0.5 was filled
    assert "too few images to fill the ratio asked for" in text


def test_a_limit_that_others_cut_further_is_told(run, tmp_path):
    folder = copy_of(run, tmp_path)
    for draw, left in (("draw-00", 7), ("draw-01", 9)):
        path = folder / draw / "limit.json"
        limits = [{"finding": "Pneumothorax", "group": None, "available": 88, "asked": 10, "left": left}]
        write_json(path, read_json(path) | {"limits": limits})
    text = assert_offline(write_run_report(folder).read_text(encoding="utf-8")).text
    assert "With the other limits 7 to 9 of 10 asked for are left in every draw." in text


def test_a_large_run_stays_under_five_megabytes(run, tmp_path):
    folder = copy_of(run, tmp_path)
    for name in ("cells", "gaps", "comparison"):
        path = folder / "evaluation" / f"{name}.csv"
        frame = pd.read_csv(path)
        many = [frame.assign(finding=frame["finding"] + f" {i}") for i in range(12)]
        write_csv(path, pd.concat([frame, *many]))
    html = write_run_report(folder).read_text(encoding="utf-8")
    assert len(html.encode()) < 5_000_000
    assert "more rows" in html


def test_hostile_names_are_text_everywhere(tmp_path):
    names = (EVIL, EVIL_IMAGE, "[A](javascript:1)", "No Finding")
    folder = write_run(tmp_path / "evil<b>", findings=names, verdict={"arm": "mixed", "sentence": EVIL + EVIL_IMAGE})
    page = assert_offline(write_run_report(folder).read_text(encoding="utf-8"))
    assert EVIL in page.text
    assert "{{7*7}}" in page.text
    assert page.count("img") > 0  # the sheets
    assert all(value.startswith("Synthetic chest X-ray") for value in page.values("alt"))


def test_a_set_with_a_row_not_marked_synthetic_shows_no_image(run, tmp_path):
    folder = copy_of(run, tmp_path)
    path = folder / "draw-00" / "sets" / "core" / "manifest.parquet"
    frame = pd.read_parquet(path)
    frame.loc[7, "synthetic"] = False
    frame.to_parquet(path, index=False)
    page = assert_offline(write_run_report(folder).read_text(encoding="utf-8"))
    assert page.count("img") == 0
    assert "not marked as synthetic" in page.text


def test_images_rejected_as_copies_are_not_shown_in_any_view(run, tmp_path):
    folder = copy_of(run, tmp_path)
    part = folder / "draw-00" / "sets" / "core"
    frame = write_set(part, ("A", "B", "C"), core="x", n=6)
    frame["gate"] = "reject"
    frame["gate_reasons"] = "agreement: A not seen"
    frame.loc[0, "gate_reasons"] = "duplicates: copy of a training image"
    frame.loc[1, "prompt_id"] = "p000000"
    frame.loc[1, "gate_reasons"] = "another view of the study was rejected"
    frame.to_parquet(part / "manifest.parquet", index=False)
    page = assert_offline(write_run_report(folder).read_text(encoding="utf-8"))
    assert page.count("img") == 4
    assert "2 images rejected as copies" in page.text


def test_studies_of_a_cores_own_cohort_are_no_synthetic_images(run, tmp_path):
    folder = copy_of(run, tmp_path)
    for draw in ("draw-00", "draw-01"):
        sets = folder / draw / "sets"
        shutil.rmtree(sets / "gaussian")
        (sets / "core").rename(sets / "outside")
    page = assert_offline(write_run_report(folder).read_text(encoding="utf-8"))
    assert page.count("img") == 0


@pytest.mark.parametrize(
    ("part", "line"),
    [
        ("audit", "audit/audit.json is not there"),
        ("draw-00/plan", "draw-*/plan/table.csv is not there"),
        ("draw-00/sets", "draw-*/sets/*/manifest.parquet is not there"),
        ("draw-00/ratio.json", "names no ratios"),
        ("curve", "No learning curve was asked for"),
        ("evaluation/cells.csv", "evaluation/cells.csv is not there"),
        ("evaluation/gaps.csv", "evaluation/gaps.csv is not there"),
        ("evaluation/comparison.csv", "evaluation/comparison.csv is not there"),
        ("verdict.json", "has no verdict yet"),
        ("settings.json", "Only 10 training patients"),
    ],
)
def test_a_missing_part_is_said_in_a_plain_line(run, tmp_path, part, line):
    folder = copy_of(run, tmp_path)
    shutil.rmtree(folder / "draw-01")
    path = folder / part
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    page = assert_offline(write_run_report(folder).read_text(encoding="utf-8"))
    assert (line in page.text) == (part != "settings.json")


def test_a_folder_that_is_no_run_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="no such run folder"):
        write_run_report(tmp_path / "nowhere")
    with pytest.raises(InputError, match="not a run folder"):
        write_run_report(tmp_path)
    write_json(tmp_path / "settings.json", settings(("A", "B", "C", "D")))
    (tmp_path / "verdict.json").write_text("{broken")
    with pytest.raises(InputError, match=r"verdict\.json"):
        write_run_report(tmp_path)


def test_an_evaluation_folder_has_a_page_of_its_own(run, tmp_path):
    folder = tmp_path / "evaluation"
    shutil.copytree(run / "evaluation", folder)
    page = assert_offline(write_evaluation_report(folder).read_text(encoding="utf-8"))
    assert "Audit of predictions" in page.text
    assert "mixed 0.783 [0.753, 0.813]" in page.text
    assert "Verdict" not in page.text


def test_curve_interval_is_over_draws(tmp_path):
    points = curve()
    value, (low, high) = draw_interval(points[points["n_patients"] == "10"])
    # draw means 0.730 and 0.754: mean 0.742, sd 0.01697, t(0.975, 1) = 12.706
    assert value == pytest.approx(0.742)
    assert low is not None
    assert high == pytest.approx(0.742 + 12.7062 * 0.0169706 / 2**0.5, abs=1e-4)
    assert draw_interval(points[points["draw"] == 0])[1] == (None, None)


def test_settings_are_flattened_to_their_key_paths():
    value = {"a": {"b": 1, "c": [1, 2]}, "d": [{"e": None}], "f": []}
    assert flatten(value) == [("a.b", "1"), ("a.c", "1, 2"), ("d.0.e", "not set"), ("f", "none")]


def test_the_command_writes_the_page_and_prints_the_verdict(run):
    app = typer.Typer()
    register(app)
    result = CliRunner().invoke(app, [str(run)])
    assert result.exit_code == 0
    assert "Better than the control" in result.output
    assert re.search(r"report: .*report\.html", result.output.replace("\n", ""))
    assert '"outcome": "better"' in CliRunner().invoke(app, [str(run), "--json"]).output
