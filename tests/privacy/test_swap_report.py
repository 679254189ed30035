"""The report of a swap on a toy set, through the command line: tables, page, and that hostile words stay harmless."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from pages.offline import assert_offline
from privacy.test_swap import GATE, Writing, write_real

from cxraug.classifiers.settings import TrainSettings
from cxraug.cli.main import run
from cxraug.cores.conditions import Conditions
from cxraug.cores.gaussian import fit_gaussian
from cxraug.pages.swap import _utility as utility_section
from cxraug.privacy import swap_report
from cxraug.privacy.attacks import AttackSettings
from cxraug.privacy.swap import swap
from cxraug.privacy.swap_report import write_report
from cxraug.privacy.swap_settings import SwapSettings
from cxraug.privacy.utility import COLUMNS, REAL, UtilitySettings
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.manifest import read_manifest
from cxraug.studies.seen import Seen

UTILITY = UtilitySettings(
    train=TrainSettings(model="test_resnet", steps=6, batch_size=8, eval_every=6), seeds=1, min_cell=2, components=8
)
SETTINGS = SwapSettings(k=3, candidates=1, size=32, gate=GATE)


QUICK = AttackSettings(size=32, folds=2, steps=2, replicates=50, copies=False)


def no_attacks(swapped, settings):
    return {"rows": [{"attack": "re-identification", "target": "real pairs", "measure": "auc", "value": 0.9,
                      "ci_low": 0.8, "ci_high": 0.95, "flag": "", "method": "<b>bold</b>"}],
            "sentences": ["The attack recognises <script>alert(1)</script>."], "alarms": [],
            "notes": ["no attack in this test"]}  # fmt: skip


@pytest.fixture(scope="module")
def reported(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("reported")
    real = read_manifest(write_real(folder / "clinic"))
    core = Writing()
    core.says = "<script>alert('x')</script> The heart is <b>not</b> enlarged."

    def reporter(swapped, where):
        return write_report(swapped, where, settings=UTILITY)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(swap_report, "_attacks", no_attacks)
        swap(real, core, folder / "out", SETTINGS, reporter=reporter)
    return folder / "out" / "report"


def test_the_tables_hold_every_arm_and_say_who_was_compared(reported) -> None:
    table = pd.read_csv(reported / "utility.csv")
    assert list(table.columns) == list(COLUMNS)
    assert set(table["arm"]) == {REAL, *UtilitySettings().arms}
    whole = table[(table["group"] == "all") & (table["finding"] == "Effusion")].set_index("arm")
    assert whole["auroc"].between(0, 1).all()
    assert whole["n"].eq(10).all()
    facts = json.loads((reported / "swap.json").read_text())
    assert facts["k"] >= 3
    assert facts["attacks"]["rows"][0]["value"] == 0.9
    assert list(pd.read_csv(reported / "attacks.csv").columns)[:4] == ["attack", "target", "measure", "value"]
    assert any("no differential privacy" in line for line in facts["not_promised"])
    assert facts["reports"]["reports"] == facts["swapped"]


def test_the_page_says_what_is_promised_and_what_is_not_and_runs_nothing(reported) -> None:
    page = assert_offline((reported / "swap.html").read_text())
    facts = json.loads((reported / "swap.json").read_text())
    assert f"{facts['swapped']} of 60 studies" in page.text
    assert "no differential privacy" in page.text
    assert "Attributes are kept by design" in page.text
    assert "The attack recognises <script>alert(1)</script>." in page.text  # as text
    assert page.count("script") == 1  # the page's own
    assert page.count("b") == 0
    assert page.count("img") > 0


def test_the_command_swaps_by_a_gaussian_core_and_prints_counts(tmp_path, capsys) -> None:
    manifest = write_real(tmp_path / "clinic")
    real = read_manifest(manifest)
    train = real.take((real.frame["split"] == "train").to_numpy())
    _, cache = build_cache(train, tmp_path / "cache", Encoding(32))
    seen = Seen.of(train.frame["patient_id"], cache.sha)
    fit_gaussian(np.asarray(cache.pixels), Conditions.from_manifest(train), tmp_path / "core", components=8, seen=seen,
                 training_data={})  # fmt: skip
    paths = [str(manifest), "--core", str(tmp_path / "core"), "--out", str(tmp_path / "out")]
    options = ["--size", "32", "--only-copies", "--no-report", "--candidates", "2", "--allow-own", "--json"]
    arguments = ["anonymize", *paths, "--k", "3", *options]
    assert run(arguments) == 0
    answer = json.loads(capsys.readouterr().out)
    frame = pd.read_parquet(tmp_path / "out" / "manifest.parquet")
    assert answer["images"] == len(frame) > 30
    assert answer["k"] >= 3
    assert not (tmp_path / "out-private").exists()
    assert run(arguments) == 2
    assert "holds a finished swap; expected another folder, or --fresh" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--strength", "0.5"], "cannot start from an image"),
        (["--strength", "much"], "--strength; found 'much'"),
        (["--k", "0"], "--k: "),
        (["--view-as", "AP"], "--view-as; found 'AP'"),
        (["--drop", "Hernia"], "--drop names nothing that is there; found 'Hernia'"),
        (["--splits", "train,exam"], "--splits"),
        (["--keep-key", "clinic/manifest.csv"], "this file is there already"),
        (["--key", "clinic/manifest.csv", "--k", "1"], "not a key"),
        (["--keep-key", "out/key"], "a key in this folder would be given out with the set"),
        (["--keep-key", "out-private/key"], "is thrown away with the private folder"),
        (["--keep-key", "nowhere/key"], "--keep-key: no such folder"),
        (["--splits", "exam"], "--splits: Input should be 'train', 'val' or 'test'"),
        (["--k", "1000"], "no combination of attributes has 1000 patients"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    real = read_manifest(write_real(tmp_path / "clinic", 9))
    _, cache = build_cache(real, tmp_path / "cache", Encoding(32))
    fit_gaussian(np.asarray(cache.pixels), Conditions.from_manifest(real), tmp_path / "core", components=4,
                 seen=Seen.of([], []), training_data={})  # fmt: skip
    base = ["anonymize", "clinic/manifest.csv", "--core", "core", "--out", "out", "--no-report"]
    assert run([*base, *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()
    assert message in error[-1]
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "out-private").exists()  # nothing that the next try would stumble over


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--model", "foo"], "no such timm model; found 'foo'"), (["--groups", "ward"], "column 'ward': no such group")],
)
def test_what_would_fail_after_the_drawing_fails_before_it(tmp_path, capsys, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(tmp_path)
    write_real(tmp_path / "clinic", 9)
    base = ["anonymize", "clinic/manifest.csv", "--core", "phantom-nano", "--out", "out"]
    assert run([*base, *arguments]) == 2
    assert message in capsys.readouterr().err.strip().splitlines()[-1]
    assert not (tmp_path / "out-private").exists()


def test_a_ratio_to_a_classifier_at_chance_is_said_to_mean_nothing() -> None:
    row = {"finding": "macro", "group": "all", "level": "all", "n_pos": 9, "n_patients": 60, "flag": "",
           "auroc": 0.5, "auroc_low": 0.38, "auroc_high": 0.62, "baseline_auroc": 0.4, "ratio": 1.25, "ratio_low": 0.9,
           "ratio_high": 1.7, "difference": 0.1, "difference_low": 0.0, "difference_high": 0.2}  # fmt: skip
    for low, said in ((0.28, True), (0.55, False)):
        real = row | {"arm": "real", "auroc": low + 0.1, "auroc_low": low, "auroc_high": low + 0.2}
        page = str(utility_section({"utility": [real, row | {"arm": "swapped"}]}))
        assert ("this ratio says nothing" in page) == said


def test_a_set_without_labels_is_swapped_and_has_no_utility(tmp_path) -> None:
    path = write_real(tmp_path / "clinic")
    pd.read_csv(path).drop(columns=["labels", "report"]).to_csv(path, index=False)
    facts = swap(read_manifest(path), Writing(), tmp_path / "out", SETTINGS,
                 reporter=lambda s, f: write_report(s, f, settings=UTILITY, attack=QUICK))  # fmt: skip
    frame = pd.read_parquet(tmp_path / "out" / "manifest.parquet")
    assert len(frame) == facts["images"] > 40
    assert frame["labels"].isna().all()
    found = json.loads((tmp_path / "out" / "report" / "swap.json").read_text())
    assert any("no finding has positives and negatives" in text for text in found["notes"])
    assert "weights" not in found["settings"]["gate"]


def test_a_swap_without_test_rows_has_no_utility_and_says_so(tmp_path) -> None:
    real = read_manifest(write_real(tmp_path / "clinic"))
    real = real.take((real.frame["split"] == "train").to_numpy())
    swap(
        real,
        Writing(),
        tmp_path / "out",
        SETTINGS.model_copy(update={"drop": ("report",)}),
        reporter=lambda s, f: write_report(s, f, settings=UTILITY, attack=QUICK),
    )
    facts = json.loads((tmp_path / "out" / "report" / "swap.json").read_text())
    assert facts["utility"] == []
    assert any("no real test row" in text for text in facts["notes"])
    attacks = pd.read_csv(tmp_path / "out" / "report" / "attacks.csv")
    assert attacks["target"].iloc[0] == "real pairs"
    assert {"re-identification", "attribute linkage", "closest record"} <= set(attacks["attack"])
