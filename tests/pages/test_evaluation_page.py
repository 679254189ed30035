"""The audit's page and fairness card say what the tables hold, and nothing of what is suppressed."""

import re

import numpy as np
import pandas as pd
import pytest
from offline import assert_offline
from typer.testing import CliRunner

from cxraug.cli.main import app
from cxraug.errors import InputError
from cxraug.evaluation.assembly import CELLS, COMPARISON, GAPS
from cxraug.evaluation.curves import CURVES
from cxraug.evaluation.evaluate import EvaluationSettings, evaluate, write_evaluation
from cxraug.evaluation.predictions import read_predictions
from cxraug.pages.answers import answers_of
from cxraug.pages.evaluation import write_evaluation_report
from cxraug.pages.gaps import distinct_gaps, people, sentence, shown_gaps
from cxraug.pages.markdown import plain_text
from cxraug.pages.runfolder import read_evaluation
from cxraug.storage import read_json

EVIL = "<script>alert('x')</script>|[a](http://evil.example)![b](http://evil.example/c.png)"


def predictions(seed: int = 1, finding: str = "Edema", few: str = "N") -> pd.DataFrame:
    """800 patients; Edema is hard to see in women (a planted gap); five people of the site ``few``."""
    rng = np.random.default_rng(seed)
    n = 800
    sex = rng.choice(["F", "M"], n)
    y = (rng.random(n) < 0.4).astype(float)
    score = y * np.where(sex == "F", 0.2, 2.5) + rng.standard_normal(n)
    other = (rng.random(n) < 0.4).astype(float)
    return pd.DataFrame(
        {
            "image": [f"{i}.png" for i in range(n)],
            "patient_id": [f"p{i}" for i in range(n)],
            "sex": sex,
            "site": np.where(np.arange(n) < 5, few, rng.choice(["a", "b"], n)),
            f"y_{finding}": y,
            f"p_{finding}": 1 / (1 + np.exp(-(score - 1))),
            "y_Mass": other,
            "p_Mass": 1 / (1 + np.exp(-(2 * other + rng.standard_normal(n) - 1))),
        }
    )


def evaluated(folder, frame, finding="Edema", groups=("sex", "site")):
    settings = EvaluationSettings(groups=groups, metrics=("auroc", "tpr", "fpr", "ece"), bootstrap=0)
    cuts = pd.DataFrame({"finding": [finding, "Mass"], "threshold": 0.5})
    write_evaluation(evaluate(read_predictions([frame]), settings, thresholds=cuts), folder)
    write_evaluation_report(folder, ("html", "md", "json"))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return evaluated(tmp_path_factory.mktemp("audit"), predictions())


@pytest.fixture(scope="module")
def page(folder):
    return assert_offline((folder / "report.html").read_text(encoding="utf-8"))


def test_the_first_screen_answers_four_questions(page):
    start = page.text.index("Gaps in words", page.text.index("What to do"))
    first = page.text[:start]
    for question in ("How good is it?", "For whom is it worse?", "How sure is that?", "What to do"):
        assert question in first
    assert "Worse for some, most clearly Edema" in first
    assert "Edema" in first
    assert "One training: whether another seed gives the same was not assessed." in first


def test_a_planted_gap_gives_its_sentence_once_and_from_the_side_that_is_worse(folder, page):
    gaps = pd.read_csv(folder / "gaps.csv", keep_default_na=False)
    row = gaps[(gaps["finding"] == "Edema") & (gaps["level"] == "F") & (gaps["metric"] == "auroc")]
    row = row[row["matched"] == ""].iloc[0]
    cells = pd.read_csv(folder / "cells.csv", keep_default_na=False)
    value = cells[(cells["finding"] == "Edema") & (cells["level"] == "F") & (cells["metric"] == "auroc")]["value"]
    f, m = float(value.iloc[0]), float(value.iloc[0]) - float(row["gap"])
    said = f"Edema is told from its absence less well in female patients: AUROC {f:.3f}, against {m:.3f} in the rest."
    assert page.text.count(said) == 1
    assert "told from its absence better in male patients" not in page.text
    assert "Edema is found less often in female patients" in page.text
    assert said in (folder / "report.md").read_text()
    answers = read_json(folder / "report.json")
    assert any(gap["sentence"].startswith(said[:-1]) and gap["worse"] for gap in answers["shown_gaps"])


def test_a_finding_without_a_gap_has_no_sentence(folder):
    assert {gap.row["finding"] for gap in shown_gaps(read_evaluation(folder))} == {"Edema"}


def test_nothing_is_called_certain(folder, page):
    """An adjusted p value below 5 % is no certainty; one above it is not the absence of a gap."""
    for text in (page.text, (folder / "report.md").read_text(), (folder / "report.json").read_text()):
        assert "certain" not in text.replace("uncertain", "")
    assert "gaps are shown (adjusted p at most 0.05)" in page.text


def test_suppressed_cells_have_no_number_and_no_curve(folder, page):
    run = read_evaluation(folder)
    assert not ((run.curves["group"] == "site") & (run.curves["level"] == "N")).any()
    assert "Suppressed, not drawn: N." in page.text
    labels = [value for value in page.values("aria-label") if value.startswith(("TPR by FPR", "frequency by"))]
    assert labels
    assert not [value for value in labels if re.search(r"\bN\b", value.split(": ")[1])]
    card = (folder / "report.md").read_text()
    assert "site N: Edema, Mass" in card
    assert "| site | N | fewer than 10 | fewer than 10 |" in card


def test_a_curve_that_the_tables_suppress_is_not_drawn(folder, tmp_path):
    """Were a curve in the file all the same, the page goes by the tables."""
    for name in ("cells.csv", "gaps.csv", "comparison.csv", "evaluation.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    curves = pd.read_csv(folder / "curves.csv")
    slipped = curves[curves["level"] == "a"].assign(level="N", y=0.3333)
    pd.concat([curves, slipped]).to_csv(tmp_path / "curves.csv", index=False)
    assert write_evaluation_report(tmp_path).read_text() == (folder / "report.html").read_text().replace(
        folder.name, tmp_path.name
    )


def test_the_page_can_be_drawn_again_from_the_folder(folder):
    before = (folder / "report.html").read_bytes()
    found = CliRunner().invoke(app, ["report", str(folder), "--format", "html,md"])
    assert found.exit_code == 0, found.output
    assert (folder / "report.html").read_bytes() == before


def test_an_older_folder_without_curves_says_so(folder, tmp_path):
    for name in ("cells.csv", "gaps.csv", "comparison.csv", "evaluation.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    assert "No curves were kept" in assert_offline(write_evaluation_report(tmp_path).read_text()).text


def test_no_gap_is_not_called_fair(tmp_path):
    frame = predictions()
    frame["sex"] = np.random.default_rng(5).choice(["F", "M"], len(frame))
    found = answers_of(read_evaluation(evaluated(tmp_path, frame, groups=("sex",))))
    assert found.heading == "No gap to a group's disadvantage is shown"
    assert any("could have been missed" in line for line in found.what_to_do)
    mdg = distinct_gaps(read_evaluation(tmp_path).gaps).query("metric == 'auroc' and matched == ''")["mdg"].median()
    assert f"AUROC gaps by sex of up to {mdg:.2f} could have been missed" in found.sentence
    assert found.tone == "quiet"


def test_a_gap_of_few_cases_is_a_hint_not_shown(folder, tmp_path):
    for name in ("comparison.csv", "evaluation.json", "cells.csv"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    gaps = pd.read_csv(folder / "gaps.csv", keep_default_na=False)
    gaps.loc[gaps["flag"] == "", "flag"] = "few"
    gaps.to_csv(tmp_path / "gaps.csv", index=False)
    before, found = answers_of(read_evaluation(folder)), answers_of(read_evaluation(tmp_path))
    assert before.heading.endswith("to a group's disadvantage")
    assert re.fullmatch(r"\d hints of a gap, from few cases", found.heading)
    assert found.tone == "warn"
    assert found.for_whom_worse[0] == "For nobody that could be shown."
    assert found.for_whom_worse[1].startswith("Hints, from few cases: Edema")
    assert found.how_sure[0].startswith("0 of ")
    assert all(gap["hint"] for gap in found.as_json()["shown_gaps"])
    text = assert_offline(write_evaluation_report(tmp_path).read_text()).text
    assert "To a disadvantage" not in text
    assert "0 are shown (bold)" in text
    assert "are shown (bold)" in assert_offline((folder / "report.html").read_text()).text
    framed = re.compile(r'<td class="(?:worse|better)-\d strong">')
    assert framed.search((folder / "report.html").read_text())
    assert not framed.search((tmp_path / "report.html").read_text())
    assert "Hints, from few cases" in text


def test_the_spread_over_seeds_is_told(tmp_path):
    runs = [predictions().assign(seed=k) for k in range(3)]
    for k, frame in enumerate(runs):
        frame["p_Edema"] = np.clip(frame["p_Edema"] + 0.05 * k * np.random.default_rng(k).standard_normal(800), 0, 1)
    settings = EvaluationSettings(groups=("sex",), metrics=("auroc",), bootstrap=0)
    found = evaluate(read_predictions([pd.concat(runs)]), settings)
    write_evaluation(found, tmp_path)
    cells = found.cells[(found.cells["finding"] == "macro") & (found.cells["group"] == "all")]
    values = cells.loc[cells["seed"] != "all", "value"]
    said = answers_of(read_evaluation(tmp_path)).how_good[0]
    assert f"; 3 runs from {values.min():.3f} to {values.max():.3f}." in said


def test_without_groups_nothing_is_judged(tmp_path):
    assert answers_of(read_evaluation(evaluated(tmp_path, predictions(), groups=()))).heading == "No gap was judged"


def test_hostile_names_stay_text(tmp_path):
    folder = evaluated(tmp_path, predictions(finding=EVIL, few=EVIL), finding=EVIL)
    page = assert_offline((folder / "report.html").read_text(encoding="utf-8"))
    assert "<script>alert('x')</script>" in page.text
    card = (folder / "report.md").read_text()
    assert "<script>" not in card
    assert "](" not in card
    assert not [line for line in card.splitlines() if line.startswith("|") and EVIL in line]


def test_markdown_in_a_name_is_escaped():
    assert plain_text("a|b <i> `x`\n[y](z)") == "a\\|b &lt;i&gt; \\`x\\` [y]\\(z)"


@pytest.mark.parametrize(
    ("group", "level", "text"),
    [
        ("sex", "F", "female patients"),
        ("sex*age", "M*80+", "male patients aged 80 or more"),
        ("age*sex", "0-19*missing", "patients aged 0-19 of unknown sex"),
        ("race", "Asian", "patients with race Asian"),
        ("race", "a*b", "patients with race a*b"),
    ],
)
def test_levels_are_named_as_people(group, level, text):
    assert people(group, level) == text


def large_folder(folder, n_findings=15, n_levels=30, arms=("model",)):
    """15 findings x 30 levels with every metric and curve, a quarter of the gaps shown."""
    rng = np.random.default_rng(0)
    cells, gaps, curves = [], [], []
    for f in range(n_findings):
        for k in range(n_levels + 1):
            where = (
                f"Finding number {f}",
                "all" if k == 0 else f"group{k // 11}",
                "all" if k == 0 else f"some level {k}",
            )
            for metric in ("auroc", "auprc", "tpr", "fpr", "fnr", "ppv", "npv", "f1", "brier", "ece"):
                v = 0.5 + 0.4 * rng.random()
                numbers = (metric, v, v - 0.1, v + 0.1, 900, 300, 800, "x", "")
                cells += [(arm, "all", "all", *where, *numbers) for arm in arms]
                for matched in ("", "population") if k else ():
                    g, p = rng.normal(0, 0.1), rng.random()
                    numbers = (g, g - 0.1, g + 0.1, p, 0.01 if p < 0.25 else p, f"{metric} x {where[1]}", 0.1)
                    gaps.append((arms[0], "all", "all", *where, "rest", metric, matched, *numbers, ""))
            for curve, points in (("roc", 60), ("calibration", 10)):
                xs, ys = np.linspace(0, 1, points).round(4), np.sort(rng.random(points)).round(4)
                limits = [(x, y, max(y - 0.07, 0), min(y + 0.06, 1)) for x, y in zip(xs, ys, strict=True)]
                curves += [(arm, *where, curve, *numbers) for arm in arms for numbers in limits]
    for name, rows, columns in (("cells", cells, CELLS), ("gaps", gaps, GAPS), ("curves", curves, CURVES)):
        pd.DataFrame(rows, columns=list(columns)).to_csv(folder / f"{name}.csv", index=False)
    pd.DataFrame([], columns=list(COMPARISON)).to_csv(folder / "comparison.csv", index=False)


def test_fifteen_findings_by_thirty_levels_stay_under_five_megabytes(tmp_path):
    large_folder(tmp_path)
    path = write_evaluation_report(tmp_path)
    assert_offline(path.read_text(encoding="utf-8"))
    assert path.stat().st_size < 5e6


def test_every_arm_has_its_curves_under_a_choice_without_a_script(tmp_path):
    frames = [predictions(k).assign(arm=arm, image=lambda f: f["image"], seed="0") for k, arm in enumerate("abc")]
    for frame in frames[1:]:
        for column in ("y_Edema", "y_Mass", "sex", "site"):
            frame[column] = frames[0][column]
    settings = EvaluationSettings(groups=("sex",), metrics=("auroc", "ece"), bootstrap=0)
    write_evaluation(evaluate(read_predictions(frames), settings), tmp_path)
    text = write_evaluation_report(tmp_path).read_text()
    page = assert_offline(text)
    for arm in "abc":
        assert text.count(f"<summary>{arm}</summary>") == 2  # one per finding
    assert text.count('<details name="arm-0"') == 3
    assert page.text.count("by arm, whole test set") == 2
    assert text.count(' band" d="') == 2 * 2 * (3 + 3 * 2)  # findings x curves x (arms + arms x sexes)


def test_curves_of_an_older_folder_have_no_band(folder, tmp_path):
    for name in ("cells.csv", "gaps.csv", "comparison.csv", "evaluation.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    pd.read_csv(folder / "curves.csv").drop(columns=["low", "high"]).to_csv(tmp_path / "curves.csv", index=False)
    assert ' band" d="' in (folder / "report.html").read_text()
    assert ' band" d="' not in write_evaluation_report(tmp_path).read_text()


def test_arms_that_would_make_the_page_too_large_are_named(tmp_path):
    large_folder(tmp_path, arms=("a", "b", "c"))
    path = write_evaluation_report(tmp_path)
    assert path.stat().st_size < 5e6
    assert "to keep the page small: c (in curves.csv)" in assert_offline(path.read_text()).text


def test_each_difference_is_counted_once(folder):
    rows = distinct_gaps(read_evaluation(folder).gaps)
    sexes = rows[(rows["group"] == "sex") & (rows["matched"] == "")]
    assert not sexes.duplicated(["finding", "metric"]).any()
    assert "fnr" not in set(rows["metric"])


def test_sentence_tells_rates_in_points(folder):
    found = [g for g in shown_gaps(read_evaluation(folder)) if g.row["metric"] == "tpr" and g.row["matched"] == ""]
    said = sentence(found[0])
    assert re.search(r"Gap −\d+\.\d points \[−\d+\.\d, −\d+\.\d\], adjusted p < 0.001\.", said)


@pytest.mark.parametrize("formats", [("pdf",), ()])
def test_unknown_formats_are_refused(folder, formats):
    with pytest.raises(InputError, match="--format"):
        write_evaluation_report(folder, formats)
