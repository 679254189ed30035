"""Shards in: rows, pixels and masks come back, and whatever no export writes is refused before anything is written."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
from interop.clinic import assert_same_rows, read_study
from PIL import Image

from cxraug.cli.main import run
from cxraug.interop import unpacking
from cxraug.interop.export import export
from cxraug.interop.settings import ExportSettings
from cxraug.studies.images import read_pixels
from cxraug.studies.manifest import read_manifest


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    real = read_study(folder / "clinic", 18)
    export(real, folder / "out", ExportSettings(to="webdataset", shard=4))
    return real, folder / "out"


def arguments(folder: Path, out: Path) -> list[str]:
    return ["import", "webdataset", str(folder), "--out", str(out)]


def refused(folder: Path, out: Path, expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert run(arguments(folder, out)) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert expected in line
    assert not out.exists()
    assert not out.with_name("m-images").exists()


def test_rows_pixels_and_masks_come_back(study, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    real, out = study
    assert run([*arguments(out, tmp_path / "m.parquet"), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["images"], answer["data_root"]) == (18, None)
    back = read_manifest(tmp_path / "m.parquet")
    assert_same_rows(back.frame, real.frame)
    assert back.annotated == real.annotated
    np.testing.assert_array_equal(back.y(), real.y())
    for a, b in zip(back.paths(), real.paths(), strict=True):
        assert (read_pixels(a) == read_pixels(b)).all()
    masked = real.frame["mask"].notna()
    for a, b in zip(back.take(masked).paths("mask"), real.take(masked).paths("mask"), strict=True):
        assert a.read_bytes() == b.read_bytes()


def test_an_interrupted_import_goes_on_and_nothing_of_others_is_thrown_away(
    study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    _, out = study
    manifest, images = tmp_path / "m.parquet", tmp_path / "m-images"
    original, made = unpacking.atomic, []

    def stop(path):
        made.append(path)
        if len(made) == 5:
            raise KeyboardInterrupt
        return original(path)

    monkeypatch.setattr(unpacking, "atomic", stop)
    assert run(arguments(out, manifest)) == 130
    monkeypatch.setattr(unpacking, "atomic", original)
    there = {path: path.stat().st_mtime_ns for path in images.rglob("*.png")}
    assert there
    assert run(arguments(out, manifest)) == 0
    assert all(path.stat().st_mtime_ns == time for path, time in there.items())
    assert run(arguments(out, manifest)) == 2
    assert run([*arguments(out, manifest), "--fresh"]) == 0
    (tmp_path / "other-images").mkdir()
    (tmp_path / "other-images/mine.txt").write_text("x")
    capsys.readouterr()
    assert run([*arguments(out, tmp_path / "other.parquet"), "--fresh"]) == 2
    assert "the folder for the images holds something else" in capsys.readouterr().err
    assert (tmp_path / "other-images/mine.txt").is_file()


def png() -> bytes:
    stream = io.BytesIO()
    Image.fromarray(np.zeros((4, 4), np.uint8)).save(stream, "PNG")
    return stream.getvalue()


GOOD = [("0.png", png()), ("0.json", b'{"patient_id": "p", "split": "train", "labels": "Mass"}')]


def shard(folder: Path, members: list, *, sha256: str | None = None, name: str = "train-000000.tar") -> Path:
    """A folder with one shard; a member is its name and content, or a header of its own."""
    folder.mkdir(exist_ok=True)
    with tarfile.open(folder / name, "w") as archive:
        for member, data in members:
            info = member if isinstance(member, tarfile.TarInfo) else tarfile.TarInfo(member)
            if info.isreg() and not info.size:
                info.size = len(data)
            archive.addfile(info, io.BytesIO(data) if info.isreg() and info.size == len(data) else None)
    digest = sha256 or hashlib.sha256((folder / name).read_bytes()).hexdigest()
    (folder / "shards.json").write_text(json.dumps({"shards": [{"shard": name, "sha256": digest}]}))
    return folder


def header(name: str, kind: bytes = tarfile.REGTYPE, size: int = 0) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "/etc/passwd"
    return info


def test_the_smallest_shard_is_read(tmp_path: Path) -> None:
    assert run(arguments(shard(tmp_path / "in", GOOD), tmp_path / "m.parquet")) == 0
    assert read_manifest(tmp_path / "m.parquet").frame["labels"].tolist() == ["Mass"]


HOSTILE = {
    "a path": ([("../../evil.png", png())], "not a member that an export writes; found '../../evil.png'"),
    "an absolute path": ([("/etc/x.png", png())], "not a member that an export writes"),
    "another kind of file": ([("1.sh", b"x")], "not a member that an export writes; found '1.sh'"),
    "a folder in the name": ([("a/1.png", png())], "not a member that an export writes"),
    "a link": ([(header("1.png", tarfile.SYMTYPE), b"")], "not a member that an export writes"),
    "a hard link": ([(header("1.png", tarfile.LNKTYPE), b"")], "not a member that an export writes"),
    "a device": ([(header("1.png", tarfile.CHRTYPE), b"")], "not a member that an export writes"),
    "a giant": ([(header("1.png", size=1 << 40), b"")], "1.png: too large; found '1099511627776 bytes'"),
    "a giant row": ([(header("1.json", size=1 << 30), b"")], "1.json: too large"),
    "text for an image": ([("0.png", b"hello, world"), GOOD[1]], "0.png: not an image of this kind"),
    "a JPEG called PNG": ([("0.png", b"\xff\xd8\xff\xe0aaaa"), GOOD[1]], "0.png: not an image of this kind"),
    "half an image": ([("0.png", png()[:20]), GOOD[1]], "0.png"),
    "two images of a row": ([*GOOD, ("0.jpg", b"\xff\xd8\xff\xe0aaaa")], "two images of one row; found '0.jpg'"),
    "columns twice": ([*GOOD, GOOD[1]], "a member twice; found '0.json'"),
    "no columns": (GOOD[:1], "a row without its image or its columns; found '0'"),
    "no image": (GOOD[1:], "a row without its image or its columns"),
    "no JSON": ([GOOD[0], ("0.json", b"{")], "train-000000.tar/0.json: not valid JSON"),
    "no row": ([GOOD[0], ("0.json", b"[1]")], "train-000000.tar/0.json: not a row"),
    "JSON without end": ([GOOD[0], ("0.json", b"[" * 100_000)], "not valid JSON"),
    "a nested value": ([GOOD[0], ("0.json", b'{"patient_id": {"a": 1}, "split": "train"}')], "'patient_id': a nested"),
    "no patient": ([GOOD[0], ("0.json", b'{"split": "train"}')], "0.json, row 1, column 'patient_id': blank"),
    "an unknown split": ([GOOD[0], ("0.json", b'{"patient_id": "p", "split": "x"}')], "column 'split': unknown split"),
    "labels in no grammar": ([GOOD[0], ("0.json", b'{"patient_id": "p", "split": "test", "labels": "A||B"}')],
                             "column 'labels': empty finding name"),
    "boxes that are none": ([GOOD[0], ("0.json", b'{"patient_id": "p", "split": "test", "boxes": [1]}')],
                            "column 'boxes': a box without a label"),
    "a control character": ([GOOD[0], ("0.json", b'{"patient_id": "\\u001b[2J", "split": "test"}')], "a control char"),
    "nothing": ([], "no rows"),
}  # fmt: skip


@pytest.mark.parametrize("how", HOSTILE)
def test_what_no_export_writes_is_refused_and_nothing_is_written(
    how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    members, expected = HOSTILE[how]
    refused(shard(tmp_path / "in", members), tmp_path / "m.parquet", expected, capsys)


def test_a_shard_that_is_cut_short_changed_or_gone_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder, out = tmp_path / "in", tmp_path / "m.parquet"
    refused(folder, out, "not an export of shards", capsys)
    shard(folder, GOOD)
    data = (folder / "train-000000.tar").read_bytes()
    (folder / "train-000000.tar").write_bytes(data[:600])
    refused(folder, out, "train-000000.tar: a shard that is not the one of the index", capsys)
    (folder / "train-000000.tar").unlink()
    refused(folder, out, "train-000000.tar: a shard that the index lists is not there", capsys)
    (folder / "shards.json").write_text(json.dumps({"shards": [{"shard": "../x.tar"}]}))
    refused(folder, out, "path leads out of the folder", capsys)
    (folder / "shards.json").write_text(json.dumps([1]))
    refused(folder, out, "not an index of shards", capsys)
    (folder / "shards.json").write_text("{")
    refused(folder, out, "not valid JSON", capsys)
    (folder / "x.tar").write_bytes(b"no tar" * 200)
    (folder / "shards.json").write_text(json.dumps({"shards": [{"shard": "x.tar"}]}))
    refused(folder, out, "x.tar: not a readable shard", capsys)
