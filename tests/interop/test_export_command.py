"""`cxraug export`: links and copies, resuming, what it refuses, and synthetic sets."""

from __future__ import annotations

import hashlib
import json
import os
import shutil

import pandas as pd
import pytest
from huggingface_hub import DatasetCard
from interop.clinic import read_study, write_study
from synthesis.toycore import ToyCore, toy_plan

from cxraug.cli.main import run
from cxraug.errors import InputError
from cxraug.interop.export import export
from cxraug.interop.settings import ExportSettings
from cxraug.studies.manifest import read_manifest
from cxraug.synthesis.generate import generate_set


@pytest.fixture
def clinic(tmp_path):
    return write_study(tmp_path / "clinic", 6)


def test_images_are_links_unless_copies_are_asked_for(clinic, tmp_path, capsys):
    assert run(["export", str(clinic), "--to", "hf", "--out", str(tmp_path / "linked"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"] == 6
    assert run(["export", str(clinic), "--to", "hf", "--out", str(tmp_path / "copied"), "--copy"]) == 0
    source = clinic.parent / "scans/test-0.png"
    linked, copied = (next((tmp_path / name / "train").rglob("00000000.png")) for name in ("linked", "copied"))
    assert os.path.samefile(source, linked)
    assert not os.path.samefile(source, copied)
    assert copied.read_bytes() == source.read_bytes()


def test_without_links_images_are_copied(clinic, tmp_path, monkeypatch):
    def no_links(*_, **__):
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", no_links)
    export(read_manifest(clinic), tmp_path / "out", ExportSettings(to="hf"))
    assert not os.path.samefile(clinic.parent / "scans/test-0.png", next((tmp_path / "out").rglob("00000000.png")))


def test_an_interrupted_export_goes_on(clinic, tmp_path, monkeypatch):
    from cxraug.interop import imagefolder

    original, calls = imagefolder.place, []

    def stop(*args, **kwargs):
        calls.append(args)
        if len(calls) == 6:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(imagefolder, "place", stop)
    real = read_manifest(clinic)
    with pytest.raises(KeyboardInterrupt):
        export(real, tmp_path / "out", ExportSettings(to="hf"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*.png")}
    assert before
    monkeypatch.setattr(imagefolder, "place", original)
    export(real, tmp_path / "out", ExportSettings(to="hf"))
    export(real, tmp_path / "whole", ExportSettings(to="hf"))
    names = [sorted(p.relative_to(tmp_path / f) for p in (tmp_path / f).rglob("*")) for f in ("out", "whole")]
    assert names[0] == names[1]
    assert all(path.stat().st_mtime_ns == mtime for path, mtime in before.items())


def test_another_export_in_the_folder_is_refused_until_fresh(clinic, tmp_path, capsys):
    out = str(tmp_path / "out")
    assert run(["export", str(clinic), "--to", "hf", "--out", out]) == 0
    assert run(["export", str(clinic), "--to", "webdataset", "--out", out]) == 2
    assert "--fresh" in capsys.readouterr().err
    assert run(["export", str(clinic), "--to", "webdataset", "--out", out, "--fresh"]) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir() if p.is_dir()) == []
    (tmp_path / "other").mkdir()
    (tmp_path / "other/file").write_text("mine")
    assert run(["export", str(clinic), "--to", "hf", "--out", str(tmp_path / "other"), "--fresh"]) == 2
    assert (tmp_path / "other/file").read_text() == "mine"


def test_bad_usage_is_one_line(clinic, tmp_path, capsys):
    out = str(tmp_path / "out")
    for arguments, told in (
        (["--to", "yolo"], "--to"),
        (["--to", "hf", "--finding", "Mass"], "class folders"),
        (["--to", "webdataset", "--shard", "0"], "--shard"),
        (["--to", "folders", "--finding", "Edema"], "unknown finding"),
    ):
        assert run(["export", str(clinic), "--out", out, *arguments]) == 2
        error = capsys.readouterr().err
        assert told in error
        assert error.count("\n") == 1
        shutil.rmtree(out, ignore_errors=True)


def test_a_link_out_of_the_data_folder_is_not_exported(clinic, tmp_path, capsys):
    (tmp_path / "secret.png").write_bytes((clinic.parent / "scans/test-0.png").read_bytes())
    (clinic.parent / "scans/test-0.png").unlink()
    (clinic.parent / "scans/test-0.png").symlink_to(tmp_path / "secret.png")
    assert run(["export", str(clinic), "--to", "hf", "--out", str(tmp_path / "out")]) == 2
    assert "leads out of the data folder" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_synthetic_set_stays_synthetic_and_rejected_images_stay_behind(tmp_path, capsys):
    made = generate_set(toy_plan(8), ToyCore(), tmp_path / "set")
    frame = pd.read_parquet(made / "manifest.parquet")
    frame.loc[:, "gate"] = ["accept"] * 6 + ["reject"] * 2
    frame.to_parquet(made / "manifest.parquet", index=False)
    assert run(["export", str(made), "--to", "hf", "--out", str(tmp_path / "out")]) == 0
    assert "left out: 2 images that the gate rejected" in capsys.readouterr().out
    rows = read_manifest(tmp_path / "out/manifest.parquet").frame
    assert rows["synthetic"].all()
    for name in ("prompt_id", "core", "core_sha256", "seed", "labels", "sex", "report", "patient_id"):
        assert rows[name].tolist() == frame[name][:6].tolist()
    assert set(rows["split"]) == {"train"}
    assert run(["export", str(made), "--to", "hf", "--out", str(tmp_path / "all"), "--with-rejected"]) == 0
    assert len(read_manifest(tmp_path / "all/manifest.parquet")) == 8


def test_an_image_folder_of_a_set_has_its_card_about_what_was_exported(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    from datasets import load_dataset

    made = generate_set(toy_plan(9), ToyCore(), tmp_path / "set")
    assert run(["export", str(made), "--to", "hf", "--out", str(tmp_path / "out"), "--where", "sex=F"]) == 0
    text = (tmp_path / "out/README.md").read_text()
    data = DatasetCard(text).data.to_dict()
    assert "configs" not in data
    assert "| Images | 4, no gate |" in text
    assert "5 images of the set are not in this export" in text
    assert hashlib.sha256((tmp_path / "out/train/metadata.parquet").read_bytes()).hexdigest() in text
    lines = [json.loads(line) for line in (tmp_path / "out/provenance.jsonl").read_text().splitlines()]
    known = {line["image"]: line["sha256"] for line in lines}
    loaded = load_dataset(str(tmp_path / "out"), cache_dir=str(tmp_path / "cache"))["train"]
    assert len(loaded) == 4
    rows = read_manifest(tmp_path / "out/manifest.parquet")
    for path, original in zip(rows.paths(), loaded["original_image"], strict=True):
        assert hashlib.sha256(path.read_bytes()).hexdigest() == known[original]
    assert run(["export", str(made), "--to", "coco", "--out", str(tmp_path / "out"), "--fresh"]) == 2  # no boxes
    assert not (tmp_path / "out").exists()


def test_a_changed_image_is_other_work(clinic, tmp_path):
    real = read_manifest(clinic)
    export(real, tmp_path / "out", ExportSettings(to="webdataset"))
    (clinic.parent / "scans/test-0.png").write_bytes((clinic.parent / "scans/test-2.png").read_bytes())
    with pytest.raises(InputError, match="other rows, images or settings"):
        export(real, tmp_path / "out", ExportSettings(to="webdataset"))


def test_an_export_of_an_export_keeps_where_it_came_from(tmp_path):
    real = read_study(tmp_path / "clinic", 4)
    export(real, tmp_path / "one", ExportSettings(to="hf"))
    export(read_manifest(tmp_path / "one/manifest.parquet"), tmp_path / "two", ExportSettings(to="hf"))
    rows = read_manifest(tmp_path / "two/manifest.parquet").frame
    assert rows["original_image"].tolist() == real.frame["image"].tolist()
