"""The look at images from the command line: files, resumption, limits."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from cxraug.balance import image_audit
from cxraug.balance.image_audit import chosen_rows, look_at_images, structure_of
from cxraug.cli import audit as audit_command
from cxraug.cli import plan as plan_command
from cxraug.privacy import structure
from cxraug.studies.cache import PixelCache


@pytest.fixture(scope="module")
def app() -> typer.Typer:
    made = typer.Typer()
    audit_command.register(made)
    plan_command.register(made)  # a single command would lose its name
    return made


def test_the_command_writes_every_table(app: typer.Typer, pictures, tmp_path: Path) -> None:
    manifest, _, path = pictures
    out = tmp_path / "audit"
    result = CliRunner().invoke(app, ["audit", str(path), "--out", str(out), "--gap", "0.15"], catch_exceptions=False)
    assert result.exit_code == 0
    assert len(result.stdout.splitlines()) <= 15
    answer = json.loads((out / "audit.json").read_text())
    looked = answer["images_looked_at"]
    assert (looked["images"], looked["of"]) == (240, 240)
    assert answer["measurable"]["question"]["gap"] == 0.15
    tables = {p.name: pd.read_csv(p) for p in out.glob("*.csv")}
    assert set(tables) == {
        "prevalence.csv", "associations.csv", "acquisition.csv", "measurable.csv", "faulty_images.csv",
        "near_copies.csv", "doubtful_labels.csv", "burned_text.csv", "shortcuts.csv",
    }  # fmt: skip
    assert len(tables["doubtful_labels.csv"]) == looked["label_noise"]["candidates"]
    assert set(tables["doubtful_labels.csv"]["image"]) <= set(manifest.frame["image"])
    page = (out / "audit.html").read_text()
    for words in ("Which gaps can be measured", "Faulty pictures", "Near copies", "Doubtful labels"):
        assert words in page


def test_tables_are_empty_but_readable_where_nothing_is_said(app: typer.Typer, pictures, tmp_path: Path) -> None:
    _, _, path = pictures
    words = ["audit", str(path), "--no-pixels", "--groups", "", "--out", str(tmp_path)]
    assert CliRunner().invoke(app, words, catch_exceptions=False).exit_code == 0
    assert list(pd.read_csv(tmp_path / "shortcuts.csv").columns)[:3] == ["finding", "from", "auroc"]
    assert len(pd.read_csv(tmp_path / "measurable.csv")) == 0


def test_structure_is_kept(pictures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, pixels, _ = pictures
    monkeypatch.setattr(image_audit, "PART", 100)
    sha = np.array([str(i) for i in range(240)])
    whole = structure_of(pixels, sha, tmp_path)
    (tmp_path / "structure" / "00000100.npy").unlink()
    calls: list[int] = []
    real = structure.cells_of
    monkeypatch.setattr(structure, "cells_of", lambda part: calls.append(len(part)) or real(part))
    assert np.array_equal(structure_of(pixels, sha, tmp_path), whole)
    assert calls == [100]
    structure_of(pixels[:50], sha[:50], tmp_path)
    assert calls == [100, 50]


def test_limits_take_whole_patients(pictures, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest, pixels, _ = pictures
    patients = manifest.frame["patient_id"]
    rows = chosen_rows(patients, 100, 0)
    assert 80 <= len(rows) <= 100
    assert not set(patients[rows]) & set(patients.drop(rows))
    assert np.array_equal(rows, chosen_rows(patients, 100, 0))
    assert len(chosen_rows(patients, None, 0)) == 240
    assert len(chosen_rows(pd.Series(["a"] * 9), 3, 0)) == 9
    sha = np.array([str(i) for i in range(240)])
    cache = PixelCache(pixels, sha, np.zeros(240, np.uint8))
    looked = look_at_images(manifest, cache, tmp_path, limit=100)
    assert looked.summary["images"] == len(rows)
    assert "240 images are looked at" in capsys.readouterr().err
    with pytest.raises(ValueError, match="rows"):
        look_at_images(manifest.take(rows), cache, tmp_path)


def test_bad_questions_are_refused(app: typer.Typer, pictures, tmp_path: Path) -> None:
    from cxraug.errors import InputError

    _, _, path = pictures
    with pytest.raises(InputError, match="chance"):
        CliRunner().invoke(app, ["audit", str(path), "--gap", "0.4", "--out", str(tmp_path)], catch_exceptions=False)
