"""Croissant JSON-LD, judged by mlcroissant: no error, and the records that it reads are the set's."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from synthesis.toycore import ToyCore, toy_plan

from cxraug.interop.card import write_card
from cxraug.interop.croissant import croissant
from cxraug.interop.setfacts import read_set_facts
from cxraug.synthesis.generate import generate_set

mlcroissant = pytest.importorskip("mlcroissant")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = generate_set(toy_plan(6), ToyCore(), tmp_path_factory.mktemp("croissant") / "set")
    write_card(made, read_set_facts(made), name="A set: no. 1", licence="CC0-1.0")
    return made


@pytest.fixture(scope="module")
def dataset(folder):
    return mlcroissant.Dataset(str(folder / "croissant.json"))


def test_mlcroissant_finds_no_error(dataset):
    issues = dataset.metadata.ctx.issues
    assert not issues.errors
    assert all("citeAs" in text or "datePublished" in text for text in issues.warnings)
    assert dataset.metadata.name == "A-set-no-1"
    assert dataset.metadata.license == ["https://creativecommons.org/publicdomain/zero/1.0/"]
    assert any("nothing diagnostic" in text for text in dataset.metadata.data_limitations)


def test_it_tells_counts_gate_and_privacy(folder, dataset, tmp_path):
    frame = pd.read_parquet(folder / "manifest.parquet")
    told = dataset.metadata
    mass = frame[frame["labels"].str.contains(r"(?:^|\|)Mass")]
    by_sex = mass["sex"].value_counts()
    assert any(
        text.startswith(f"Mass: {len(mass)} studies (F {by_sex.get('F', 0)}, M {by_sex.get('M', 0)};")
        for text in told.data_biases
    )
    assert told.data_preprocessing_protocol == ["Not gated: no image was checked."]
    assert any("Not attacked" in text for text in told.personal_sensitive_information)
    facts = read_set_facts(folder)
    more = replace(facts, gate={"accepted": 5, "total": 6, "reasons": {"copy": 1}},
                   privacy={"alarms": ["membership"], "sentences": ["Members are told apart."]})  # fmt: skip
    found = croissant(more, title="x")
    assert found["rai:dataPreprocessingProtocol"] == ["A gate accepted 5 of 6 images. Rejected: copy: 1."]
    assert "Members are told apart." in found["rai:personalSensitiveInformation"]
    assert "Attacked with cxraug privacy; alarms: membership." in found["rai:personalSensitiveInformation"]


def test_its_rows_are_the_tables(folder, dataset):
    frame = pd.read_parquet(folder / "manifest.parquet")
    rows = list(dataset.records("rows"))
    assert len(rows) == len(frame)
    for record, row in zip(rows, frame.to_dict("records"), strict=True):
        for name in ("image", "labels", "sex", "prompt_id", "core_sha256"):
            assert record[f"rows/{name}"].decode() == row[name]
        assert record["rows/synthetic"] is True or record["rows/synthetic"] == 1
        age = record["rows/age"]
        assert age == row["age"] or (np.isnan(row["age"]) and (age is None or np.isnan(age)))


def test_its_images_are_the_files(folder, dataset):
    files = {record["files/path"].decode(): record["files/content"] for record in dataset.records("files")}
    assert set(files) == set(pd.read_parquet(folder / "manifest.parquet")["image"])
    for name, image in files.items():
        with Image.open(folder / name) as stored:
            assert (np.asarray(image.convert("L")) == np.asarray(stored)).all()


def test_a_changed_table_is_noticed(folder, tmp_path):
    import shutil

    shutil.copytree(folder, tmp_path / "set")
    pd.read_parquet(folder / "manifest.parquet").iloc[:-1].to_parquet(tmp_path / "set/manifest.parquet", index=False)
    with pytest.raises(mlcroissant.GenerationError) as caught:
        list(mlcroissant.Dataset(str(tmp_path / "set/croissant.json")).records("rows"))
    assert "Hash" in str(caught.value.__cause__)


def test_text_in_it_ends_no_script(tmp_path):
    made = generate_set(toy_plan(4), ToyCore(), tmp_path / "set")
    write_card(made, read_set_facts(made), name="x</script><script>alert(1)</script>", licence="</script>")
    text = (made / "croissant.json").read_text()
    assert "<" not in text
    assert json.loads(text)["license"] == "</script>"
    assert not mlcroissant.Dataset(str(made / "croissant.json")).metadata.ctx.issues.errors
