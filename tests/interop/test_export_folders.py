"""Class folders as torchvision reads them, and the rule for images with several findings."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from interop.clinic import assert_same_rows, read_study
from torchvision.datasets import ImageFolder

from cxraug.errors import InputError
from cxraug.interop.classfolders import folder_names, row_classes
from cxraug.interop.export import export
from cxraug.interop.settings import ExportSettings
from cxraug.studies.manifest import read_manifest


def test_torchvision_reads_the_classes_of_a_finding_and_they_are_the_labels(tmp_path):
    real = read_study(tmp_path / "clinic")
    answer = export(real, tmp_path / "out", ExportSettings(to="folders", finding="Effusion"))
    y = real.y(["Effusion"])[:, 0]
    assert answer["classes"] == {"Effusion": int((y == 1).sum()), "no Effusion": int((y == 0).sum())}
    assert sum(answer["left_out"].values()) == int(np.isnan(y).sum())
    rows = read_manifest(tmp_path / "out/manifest.parquet")
    assert_same_rows(rows.frame, real.frame[~np.isnan(y)].reset_index(drop=True), but=("mask",))
    of = dict(zip(rows.frame["image"], rows.y(["Effusion"])[:, 0], strict=True))
    for split in set(real.frame["split"]):
        data = ImageFolder(str(tmp_path / "out" / split), allow_empty=True)
        assert data.classes == ["Effusion", "no Effusion"]
        for path, label in data.samples:
            assert of[path.removeprefix(f"{tmp_path}/out/")] == (data.classes[label] == "Effusion")


def test_rows_with_several_findings_are_refused_or_left_out_and_counted(tmp_path):
    real = read_study(tmp_path / "clinic", 6)
    frame = real.frame.assign(labels=["Effusion|Mass", "Mass", "No Finding", None, "-Effusion|-Mass", "Effusion"])
    frame.to_csv(tmp_path / "clinic/several.csv", index=False)
    several = read_manifest(tmp_path / "clinic/several.csv")
    with pytest.raises(InputError, match=r"1 rows have several findings.*Effusion\|Mass of scans.*--leave-out-several"):
        export(several, tmp_path / "out", ExportSettings(to="folders"))
    assert not (tmp_path / "out").exists()  # nothing stands in the way of another try
    answer = export(several, tmp_path / "out", ExportSettings(to="folders", leave_out_several=True))
    assert answer["classes"] == {"Effusion": 1, "Mass": 1, "No Finding": 2}
    assert answer["left_out"] == {"several findings": 1, "no finding present, and not known to be absent": 1}


def test_uncertain_alone_is_no_class(tmp_path):
    real = read_study(tmp_path / "clinic", 6)
    classes, _ = row_classes(real, leave_out_several=True)
    assert classes == ["Effusion", "No Finding", None, None, "Mass", "Effusion"]


@given(st.lists(st.text(min_size=1, max_size=30), min_size=1, max_size=8))
def test_a_folder_name_leads_nowhere_and_is_nobody_elses(names):
    folders = folder_names(names)
    assert set(folders) == set(names)
    assert len({name.lower() for name in folders.values()}) == len(set(names))
    for folder in folders.values():
        assert folder
        assert not folder.startswith(".")
        assert not set(folder) & set('/\\:*?"<>|\0\n')
        assert folder not in (".", "..")


def test_hostile_findings_become_harmless_folders(tmp_path):
    real = read_study(tmp_path / "clinic", 4)
    frame = real.frame.assign(labels=["../../x", "Nodule/Mass", "C:\\Windows", "../../x"], boxes=None)
    frame.to_csv(tmp_path / "clinic/odd.csv", index=False)
    export(read_manifest(tmp_path / "clinic/odd.csv"), tmp_path / "out", ExportSettings(to="folders"))
    assert not (tmp_path / "x").exists()
    names = json.loads((tmp_path / "out/classes.json").read_text())
    assert set(names.values()) == {"../../x", "Nodule/Mass", "C:\\Windows"}
    assert all((tmp_path / "out/train" / folder).is_dir() for folder in names)


def test_an_unknown_finding_is_refused(tmp_path):
    with pytest.raises(InputError, match="unknown finding"):
        export(read_study(tmp_path / "clinic", 4), tmp_path / "out", ExportSettings(to="folders", finding="Edema"))


def test_counts_agree_with_pandas(tmp_path):
    real = read_study(tmp_path / "clinic")
    classes, why = row_classes(real, leave_out_several=True)
    y = pd.DataFrame(real.y(["Effusion", "Mass"]))
    assert sum(c is not None and c != "No Finding" for c in classes) == int(((y == 1).sum(axis=1) == 1).sum())
    assert why["several findings"] == int(((y == 1).sum(axis=1) > 1).sum())
