"""Finding official files and images in a folder."""

from __future__ import annotations

import os
from pathlib import Path

import pandas as pd
import pytest

from cxraug.errors import InputError
from cxraug.studies.sources.folder import Folder, locate


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def test_files_are_found_plain_packed_or_in_folders_and_zips_are_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.csv.gz", "deep/b.csv", "c.csv.zip")
    folder = Folder(tmp_path)
    assert folder.find("a.csv") == tmp_path / "a.csv.gz"
    assert folder.find("b.csv") is None
    assert folder.need("x.csv", "b.csv", what="it", under=("", "deep")) == tmp_path / "deep" / "b.csv"
    assert folder.read == [tmp_path / "a.csv.gz", tmp_path / "deep" / "b.csv"]
    with pytest.raises(InputError, match=r"c\.csv: no such file; found 'c\.csv\.zip, which has to be unpacked first'"):
        folder.need("c.csv", what="the table")


def test_images_are_listed_without_masks_hidden_folders_and_linked_ones(tmp_path: Path) -> None:
    touch(tmp_path, "a/1.PNG", "2.dcm", "masks/1.png", ".cache/3.png", "a/notes.txt", "b/4.dicom")
    os.symlink(tmp_path / "a", tmp_path / "link")
    assert Folder(tmp_path).images() == ["2.dcm", "a/1.PNG", "b/4.dicom"]


def test_the_official_place_wins_then_the_first_by_name() -> None:
    official = pd.Series(["x/1.png", "x/2.png", "x/3.png", "x/1.2.840.5.dcm"], dtype="str")
    there = sorted(["a/1.png", "x/1.png", "a/2.jpg", "b/2.png", "y/1.2.840.5.png"])
    found, several = locate(official, there, 1)
    assert found.fillna("-").tolist() == ["x/1.png", "a/2.jpg", "-", "y/1.2.840.5.png"]
    assert several == 1
    by_two, _ = locate(pd.Series(["t/p1/s1/v.jpg", "t/p2/s1/v.jpg"], dtype="str"), ["q/p2/s1/v.png"], 3)
    assert by_two.fillna("-").tolist() == ["-", "q/p2/s1/v.png"]
