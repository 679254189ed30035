"""Shards: what WebDataset itself reads, and bytes that do not depend on the day."""

from __future__ import annotations

import hashlib
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from interop.clinic import read_study

from cxraug.interop.export import export
from cxraug.interop.settings import ExportSettings

WDS = ExportSettings(to="webdataset", shard=4)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("wds")
    real = read_study(folder / "clinic", 18)
    export(real, folder / "out", WDS)
    return real, folder / "out"


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.tar")}


def test_webdataset_reads_every_row_once(study):
    webdataset = pytest.importorskip("webdataset")
    real, out = study
    y = real.y()
    rows = []
    for split in ("train", "val", "test"):
        shards = [str(path) for path in sorted(out.glob(f"{split}-*.tar"))]
        assert len(shards) == -(-int((real.frame["split"] == split).sum()) // 4)
        for item in webdataset.WebDataset(shards, shardshuffle=False).decode():
            row = int(item["__key__"])
            rows.append(row)
            facts = item["json"]
            assert facts["split"] == split
            assert facts["patient_id"] == real.frame["patient_id"][row]
            found = [facts["y"][name] for name in real.findings]
            assert [np.nan if v is None else v for v in found] == pytest.approx(y[row].tolist(), nan_ok=True)
    assert sorted(rows) == list(range(len(real)))


def test_images_are_the_files_bytes(study):
    real, out = study
    paths = real.paths()
    for shard in out.glob("*.tar"):
        with tarfile.open(shard) as archive:
            for member in archive:
                assert (member.mtime, member.uid, member.gid, member.uname) == (0, 0, 0, "")
                key, _, suffix = member.name.partition(".")
                if suffix == "json" or paths[int(key)].suffix == ".dcm":
                    continue
                data = archive.extractfile(member).read()
                source = paths[int(key)] if suffix != "mask.png" else real.root / real.frame["mask"][int(key)]
                assert data == source.read_bytes()


def test_bytes_follow_from_rows_images_and_settings(study, tmp_path):
    real, out = study
    for path in (out.parent / "clinic").rglob("*"):
        path.touch()
    export(real, tmp_path / "again", WDS)
    assert digests(tmp_path / "again") == digests(out)
    index = json.loads((out / "shards.json").read_text())["shards"]
    assert {entry["shard"]: entry["sha256"] for entry in index} == digests(out)
    export(real, tmp_path / "other", WDS.model_copy(update={"seed": 1}))
    assert digests(tmp_path / "other") != digests(out)


def test_an_interrupted_export_goes_on_to_the_same_bytes(study, tmp_path, monkeypatch):
    real, out = study
    from cxraug.interop import shards

    original, made = shards.content, []

    def stop(path):
        made.append(path)
        if len(made) == 9:
            raise KeyboardInterrupt
        return original(path)

    monkeypatch.setattr(shards, "content", stop)
    with pytest.raises(KeyboardInterrupt):
        export(real, tmp_path / "out", WDS)
    assert 0 < len(digests(tmp_path / "out")) < len(digests(out))
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]
    monkeypatch.setattr(shards, "content", original)
    export(real, tmp_path / "out", WDS)
    assert digests(tmp_path / "out") == digests(out)
