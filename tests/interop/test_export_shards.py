"""Shards: what WebDataset itself reads, bytes that do not depend on the day, and rows that come back."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from interop.studies import assert_same_rows, read_study

from cxraug.errors import InputError
from cxraug.interop.export import export
from cxraug.interop.settings import ExportSettings
from cxraug.interop.shards import read_shards
from cxraug.studies.images import read_pixels
from cxraug.studies.manifest import read_manifest

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


def test_rows_and_pixels_come_back(study, tmp_path):
    real, out = study
    back = read_manifest(read_shards(out, tmp_path / "back"))
    assert_same_rows(back.frame, real.frame)
    assert back.annotated == real.annotated
    np.testing.assert_array_equal(back.y(), real.y())
    for a, b in zip(back.paths(), real.paths(), strict=True):
        assert (read_pixels(a) == read_pixels(b)).all()
    masked = real.frame["mask"].notna()
    for a, b in zip(back.take(masked).paths("mask"), real.take(masked).paths("mask"), strict=True):
        assert a.read_bytes() == b.read_bytes()


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


def hostile(folder: Path, name: str, data: bytes = b"x", kind: bytes = tarfile.REGTYPE) -> Path:
    folder.mkdir()
    with tarfile.open(folder / "train-000000.tar", "w") as archive:
        info = tarfile.TarInfo(name)
        info.size, info.type, info.linkname = (len(data) if kind == tarfile.REGTYPE else 0), kind, "/etc/passwd"
        archive.addfile(info, io.BytesIO(data) if kind == tarfile.REGTYPE else None)
    (folder / "shards.json").write_text(json.dumps({"shards": [{"shard": "train-000000.tar"}]}))
    return folder


@pytest.mark.parametrize(
    ("name", "kind"),
    [("../../evil.png", tarfile.REGTYPE), ("/etc/x.png", tarfile.REGTYPE), ("1.sh", tarfile.REGTYPE),
     ("1.png", tarfile.SYMTYPE), ("1.png", tarfile.LNKTYPE), ("a/1.png", tarfile.REGTYPE)],
)  # fmt: skip
def test_members_that_no_export_writes_are_refused(tmp_path, name, kind):
    with pytest.raises(InputError, match="not a member that an export writes"):
        read_shards(hostile(tmp_path / "in", name, kind=kind), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_json_that_is_no_row_is_refused(tmp_path):
    for number, data in enumerate((b"[1]", b"{", b"[" * 100_000)):
        with pytest.raises(InputError, match=r"not valid JSON|not a row"):
            read_shards(hostile(tmp_path / str(number), "1.json", data), tmp_path / "out")


def test_an_index_that_leads_out_is_refused(tmp_path):
    (tmp_path / "shards.json").write_text(json.dumps({"shards": [{"shard": "../x.tar"}]}))
    with pytest.raises(InputError, match="leads out of the folder"):
        read_shards(tmp_path, tmp_path / "out")
