"""What a run's shared folder shows, and what it must never show."""

import json

import pandas as pd
import pytest
from PIL import Image
from sample_run import FINDINGS, SIDE, write_run

from cxraug.errors import InputError
from cxraug.pages.share import write_share


def shared(tmp_path, **changes):
    run = write_run(tmp_path / "run", **changes)
    write_share(run, tmp_path / "out")
    return run, tmp_path / "out"


def test_the_result_names_verdict_controls_and_curve(tmp_path):
    _, out = shared(tmp_path)
    text = (out / "result.md").read_text()
    assert "Pneumothorax AUROC +0.032 [0.011, 0.053] against the count-matched control" in text
    assert "| duplicated | +0.032 [" in text
    assert "## Learning curve of the real data" in text
    assert "With outside data" in text
    assert json.loads((out / "verdict.json").read_text())["room"] == 0.071


def test_tables_are_over_all_seeds_and_draws(tmp_path):
    run, out = shared(tmp_path)
    assert len(pd.read_csv(run / "evaluation" / "cells.csv")) >= len(pd.read_csv(out / "cells.csv")) > 0
    for name in ("cells", "gaps"):
        table = pd.read_csv(out / f"{name}.csv", dtype=str)
        assert set(table["seed"]) == {"all"}
    assert len(pd.read_csv(out / "comparison.csv")) > 0


def test_the_sheet_shows_accepted_synthetic_images_only(tmp_path):
    run, out = shared(tmp_path)
    with Image.open(out / "sheet.png") as sheet:
        assert sheet.mode == "L"
        assert sheet.width >= 2 * SIDE
    manifest = run / "draw-00" / "sets" / "core" / "manifest.parquet"
    rows = pd.read_parquet(manifest)
    rows.loc[rows.index[0], ["synthetic", "gate"]] = [False, "accept"]
    rows.to_parquet(manifest)
    with pytest.raises(InputError, match="not marked as synthetic"):
        write_share(run, tmp_path / "again")


def test_paths_are_cut_to_names(tmp_path):
    run = write_run(tmp_path / "run")
    settings = json.loads((run / "settings.json").read_text())
    settings["recipe"]["data"] = {**settings["recipe"].get("data", {}), "manifest": "/home/someone/secret/m.csv"}
    settings["recipe"]["core"] = {"name": "/home/someone/core"}
    (run / "settings.json").write_text(json.dumps(settings))
    write_share(run, tmp_path / "out")
    texts = [path.read_text(errors="ignore") for path in (tmp_path / "out").iterdir() if path.suffix != ".png"]
    assert not any("/home" in text for text in texts)
    assert json.loads((tmp_path / "out" / "settings.json").read_text())["recipe"]["data"]["manifest"] == "m.csv"


def test_hostile_names_stay_text(tmp_path):
    _, out = shared(tmp_path, findings=("<script>x</script>", *FINDINGS[1:]), verdict={"sentence": "<b>x</b>"})
    assert "<" not in (out / "result.md").read_text()


def test_a_folder_with_something_else_and_an_unfinished_run_are_refused(tmp_path):
    run = write_run(tmp_path / "run")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(InputError, match="holds something else"):
        write_share(run, tmp_path / "mine")
    (run / "verdict.json").unlink()
    with pytest.raises(InputError, match="no verdict yet"):
        write_share(run, tmp_path / "out")
