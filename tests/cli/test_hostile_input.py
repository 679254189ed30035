"""Hostile input is refused with one line or is harmless: files that lead elsewhere, blow up, run, or carry names."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from dicomfile import dataset, save
from pages.offline import assert_offline
from PIL import Image

from cxraug.cli.main import run
from cxraug.cores.recipe import read_core_recipe
from cxraug.errors import InputError
from cxraug.recipe import read_recipe
from cxraug.studies.images import ImageError, read_pixels
from cxraug.studies.manifest import read_manifest

N = 12
SCRIPT = "<script>alert(1)</script>"
HANDLER = '"><img src=x onerror=alert(1)>'


def frame() -> pd.DataFrame:
    return pd.DataFrame(
        {
            "image": [f"images/{i}.png" for i in range(N)],
            "patient_id": [f"p{i}" for i in range(N)],
            "sex": ["F", "M"] * (N // 2),
            "age": "40",
            "labels": ["Effusion", "No Finding", "Mass"] * (N // 3),
            "split": ["train"] * 6 + ["val"] * 3 + ["test"] * 3,
        }
    )


@pytest.fixture
def study(tmp_path: Path) -> Path:
    folder = tmp_path / "study"
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(N):
        Image.fromarray(rng.integers(0, 255, (40, 40), dtype=np.uint8)).save(folder / f"images/{i}.png")
    frame().to_csv(folder / "manifest.csv", index=False)
    return folder


def change(study: Path, row: int, column: str, value: str) -> None:
    table = pd.read_csv(study / "manifest.csv", dtype=str)
    if column not in table:
        table[column] = None
    table[column] = table[column].astype(object)
    table.loc[row, column] = value
    table.to_csv(study / "manifest.csv", index=False)


def refused(capsys: pytest.CaptureFixture[str], arguments: list[object], *words: str) -> str:
    code = run([str(a) for a in arguments])
    told = capsys.readouterr()
    assert code == 2, told
    lines = told.err.strip().splitlines()
    assert len(lines) == 1, lines
    assert len(lines[0]) < 1200
    assert not any(ord(c) < 32 or ord(c) == 127 for c in lines[0])
    for word in words:
        assert word in lines[0]
    return lines[0]


def audited(study: Path, *more: str) -> list[object]:
    return ["audit", study / "manifest.csv", "--groups", "sex", "--out", study.parent / "audit", *more]


# -- paths -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path",
    [
        "../secret.png", "images/../../secret.png", "/etc/hostname", "\\\\server\\share\\x.png", "C:\\x.png",
        "file:///etc/hostname", "..\\secret.png", "images/\x1b[2J.png", ".",
    ],
)  # fmt: skip
def test_a_path_that_leads_elsewhere_is_refused(study: Path, capsys: pytest.CaptureFixture[str], path: str) -> None:
    (study.parent / "secret.png").write_bytes((study / "images/0.png").read_bytes())
    change(study, 1, "image", path)
    refused(capsys, audited(study), "manifest.csv, row 3, column 'image'")


def test_a_nul_or_an_endless_path_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = frame()
    table.loc[1, "image"] = "images/\0.png"
    table.to_parquet(study / "manifest.parquet")
    refused(capsys, ["audit", study / "manifest.parquet", "--out", study.parent / "a"], "row 3", "'image'")
    change(study, 1, "image", "images/" + "x" * 5000 + ".png")
    refused(capsys, audited(study), "File name too long")
    change(study, 1, "image", "images/" + "x/" * 9000 + "y.png")
    refused(capsys, audited(study))


@pytest.mark.parametrize("kind", ["file", "folder", "mask"])
def test_a_link_out_of_the_folder_is_refused(study: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    outside = study.parent / "outside"
    outside.mkdir()
    (outside / "0.png").write_bytes((study / "images/0.png").read_bytes())
    if kind == "folder":
        (study / "linked").symlink_to(outside)
        change(study, 0, "image", "linked/0.png")
    else:
        (study / "images/link.png").symlink_to(outside / "0.png")
        change(study, 0, "image" if kind == "file" else "mask", "images/link.png")
    if kind == "mask":
        recipe = {"name": "r", "data": {"manifest": "manifest.csv"}, "encoding": {"size": 32},
                  "core": {"kind": "multiprompt", "report": None, "steps": 1}}  # fmt: skip
        (study / "core.yaml").write_text(json.dumps(recipe))
        refused(capsys, ["core", "train", study / "core.yaml", "--out", study.parent / "core"], "link leads out")
    else:
        refused(capsys, audited(study), "a link leads out of the data folder")


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
def test_what_is_no_regular_file_is_never_opened(study: Path, capsys: pytest.CaptureFixture[str], kind: str) -> None:
    path = study / "images/0.png"
    path.unlink()
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
        assert run([str(a) for a in audited(study)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
        return
    else:
        import socket

        old = os.getcwd()
        os.chdir(path.parent)
        try:
            socket.socket(socket.AF_UNIX).bind(path.name)
        finally:
            os.chdir(old)
    refused(capsys, audited(study), "not a regular file")


def test_a_pipe_as_manifest_or_recipe_is_never_opened(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(study / "pipe.csv")
    os.mkfifo(study / "pipe.yaml")
    refused(capsys, ["audit", study / "pipe.csv"], "not a regular file")
    refused(capsys, ["run", study / "pipe.yaml"], "no such recipe")
    refused(capsys, ["core", "train", study / "pipe.yaml", "--out", study / "o"], "no such recipe")


# -- images that blow up -----------------------------------------------------------------------------------------------


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, *extra: bytes, rows: bytes | None = None) -> bytes:
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    body = zlib.compress(rows if rows is not None else (b"\0" + b"\x80" * width) * height)
    return b"\x89PNG\r\n\x1a\n" + header + b"".join(extra) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def test_a_png_bomb_is_refused_before_it_unpacks(tmp_path: Path) -> None:
    for name, data in {
        "by its header": png(60_000, 60_000, rows=b"\0" * 10**7),
        "by more rows than it says": png(16, 16, rows=b"\0" * 10**8),
        "by its profile": png(16, 16, chunk(b"iCCP", b"p\0\0" + zlib.compress(b"\0" * 10**8, 9))),
        "by its text": png(16, 16, *[chunk(b"zTXt", b"Title\0\0" + zlib.compress(b"x" * 10**7, 9))] * 20),
        "by international text": png(16, 16, chunk(b"iTXt", b"T\0\x01\0\0\0" + zlib.compress(b"x" * 10**8, 9))),
    }.items():
        path = tmp_path / "bomb.png"
        path.write_bytes(data)
        tracemalloc.start()
        try:
            with contextlib.suppress(ImageError):
                assert read_pixels(path).shape == (16, 16), name  # harmless: only the picture is unpacked
        finally:
            peak = tracemalloc.get_traced_memory()[1]
            tracemalloc.stop()
        assert peak < 80 << 20, (name, peak)


# -- names in DICOM headers --------------------------------------------------------------------------------------------

NAMES = ("Doe^Jane", "MRN-4711", "Zebra Hospital", "secret-remark", "<script>alert(9)</script>")


def dicom(path: Path, pixels: np.ndarray) -> Path:
    data = dataset(pixels, BitsStored=12, HighBit=11)
    data.InstitutionName = "Zebra Hospital"
    data.StudyDescription = "<script>alert(9)</script>"
    data.PatientComments = "\x1b[2J\x07secret-remark"
    block = data.private_block(0x0011, "ZEBRA", create=True)
    block.add_new(1, "LO", "Doe^Jane")
    block.add_new(2, "UN", b"secret-remark MRN-4711")
    return save(path, data)


def texts(folder: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() + str(p).encode() for p in folder.rglob("*") if p.is_file()}


def test_nothing_of_a_dicom_header_gets_out(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rng = np.random.default_rng(1)
    table = frame()
    for i in range(N):
        dicom(study / f"images/{i}.dcm", rng.integers(0, 4096, (40, 40)).astype(np.uint16))
    table["image"] = [f"images/{i}.dcm" for i in range(N)]
    table.to_csv(study / "manifest.csv", index=False)
    out = study.parent / "out"
    recipe = {"name": "r", "data": {"manifest": "manifest.csv"}, "encoding": {"size": 32},
              "core": {"kind": "gaussian", "components": 3}}  # fmt: skip
    (study / "core.yaml").write_text(json.dumps(recipe))
    for arguments in (
        ["audit", study / "manifest.csv", "--groups", "sex", "--out", out / "audit"],
        ["core", "train", study / "core.yaml", "--out", out / "core"],
        ["core", "sample", out / "core", "--n", "3", "--out", out / "set"],
    ):
        assert run([str(a) for a in arguments]) == 0
    told = capsys.readouterr()
    dicom(study / "images/0.dcm", rng.integers(0, 4096, (40, 40)).astype(np.uint16))
    broken = (study / "images/0.dcm").read_bytes()
    (study / "images/0.dcm").write_bytes(broken[:-700])
    error = refused(capsys, ["audit", study / "manifest.csv", "--out", out / "audit2"], "end early")
    (study / "images/0.dcm").write_bytes(broken[:-700].replace(b"MONOCHROME2", b"Doe^Jane123"))
    error += refused(capsys, ["audit", study / "manifest.csv", "--out", out / "audit2"], "colours")
    found = {**texts(out), "out": told.out.encode(), "err": told.err.encode() + error.encode()}
    assert len(found) > 8
    for where, content in found.items():
        for name in NAMES:
            assert name.encode() not in content, (where, name)


def test_a_broken_dicom_says_one_line_on_stderr(study: Path) -> None:
    """Warnings of the DICOM library quote the header: none may reach the terminal."""
    path = dicom(study / "images/0.dcm", np.zeros((40, 40), np.uint16))
    data = path.read_bytes().replace(b"MONOCHROME2", b"Doe^Jane123").replace(b"\x0a\0\0\0MONO", b"\x0b\0\0\0MONO")
    path.write_bytes(data)
    change(study, 0, "image", "images/0.dcm")
    done = subprocess.run(
        [sys.executable, "-m", "cxraug", *map(str, audited(study))], capture_output=True, text=True, timeout=100,
        check=False, cwd=Path(__file__).parents[2],
    )  # fmt: skip
    assert done.returncode == 2
    assert len(done.stderr.strip().splitlines()) == 1
    assert "Doe" not in done.stderr


# -- text that browsers, terminals and spreadsheets run ----------------------------------------------------------------


def test_no_page_runs_what_a_manifest_says(study: Path) -> None:
    table = frame()
    table["labels"] = [f"{SCRIPT}", HANDLER, "Mass|-" + SCRIPT] * (N // 3)
    table["report"] = SCRIPT
    table["source"] = [SCRIPT, HANDLER] * (N // 2)
    table["ward"] = [HANDLER, SCRIPT] * (N // 2)
    table["patient_id"] = [f"{HANDLER}{i}" for i in range(N)]
    table.to_csv(study / "manifest.csv", index=False)
    out = study.parent / "audit"
    assert run(["audit", str(study / "manifest.csv"), "--groups", "ward,sex*ward", "--out", str(out)]) == 0
    page = (out / "audit.html").read_text()
    assert SCRIPT not in page
    assert SCRIPT in assert_offline(page).text


@pytest.mark.parametrize("column", ["labels", "patient_id", "ward", "report", "source", "view"])
def test_what_a_terminal_would_run_is_refused(study: Path, capsys: pytest.CaptureFixture[str], column: str) -> None:
    change(study, 2, column, "A\x1b]0;owned\x07")
    refused(capsys, audited(study), "row 4", repr(column))


def test_a_report_may_have_lines(study: Path) -> None:
    change(study, 2, "report", "FINDINGS:\r\n\tclear lungs\x0c\nIMPRESSION: normal")
    assert run([str(a) for a in audited(study)]) == 0


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("labels", "=cmd|' /C calc'!A0"), ("labels", "Mass|@SUM(A1)"), ("labels", "+HYPERLINK(A1)"),
        ("patient_id", '=HYPERLINK("http://x","y")'), ("source", "@SUM(1+1)"), ("study_id", "+cmd|'/C calc'!A0"),
        ("image", "=x.png"), ("ward", "=1+1"), ("ward", "-2+3+cmd|' /C calc'!A0"),
    ],
)  # fmt: skip
def test_what_a_spreadsheet_would_run_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], column: str, value: str
) -> None:
    change(study, 2, column, value)
    refused(capsys, ["audit", study / "manifest.csv", "--groups", "ward" if column == "ward" else "sex",
                     "--out", study.parent / "a"], "row 4", repr(column))  # fmt: skip


@pytest.mark.parametrize("name", ["=1+1", "@SUM(A1)", "-Mass", "?x", "a\x1b[2J"])
def test_a_column_whose_name_runs_or_is_no_finding_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    frame().drop(columns="labels").assign(**{name: "1"}).to_csv(study / "manifest.csv", index=False)
    refused(capsys, audited(study, "--label-columns", "auto"), "manifest.csv")


def test_ordinary_signs_are_no_formulas(study: Path) -> None:
    table = frame()
    table["labels"] = ["-Mass|Effusion", "?Mass", "No Finding"] * (N // 3)
    table["ward"] = ["-", "+", "-5", "+1.5", "a=b", "m@x"] * (N // 6)
    table.to_csv(study / "manifest.csv", index=False)
    assert run(["audit", str(study / "manifest.csv"), "--groups", "ward", "--out", str(study.parent / "a")]) == 0


# -- tables and recipes ------------------------------------------------------------------------------------------------


class Trap:
    """Unpickled, it writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str, str]]:
        return open, (str(self.path), "w")


def test_a_parquet_file_never_unpickles(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trap = study.parent / "owned"
    bomb = pickle.dumps(Trap(trap))
    kinds = [
        pa.field("ward", pa.binary()),
        pa.field("ward", pa.binary(), metadata={"ARROW:extension:name": "arrow.py_extension_type",
                                                "ARROW:extension:metadata": bomb}),
    ]  # fmt: skip
    for kind in kinds:
        table = pa.Table.from_pandas(frame(), preserve_index=False).append_column(kind, pa.array([bomb] * N))
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), b"cxraug": bomb})
        pq.write_table(table, study / "manifest.parquet")
        run(["audit", str(study / "manifest.parquet"), "--groups", "ward", "--out", str(study.parent / "a")])
        assert not trap.exists()
        told = capsys.readouterr()
        assert len(told.err.strip().splitlines()) <= 1
    pickle.loads(bomb).close()  # the trap itself works
    assert trap.exists()


def test_a_parquet_file_of_nested_values_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = frame()
    table["image"] = [[f"images/{i}.png"] for i in range(N)]
    table.to_parquet(study / "manifest.parquet")
    refused(capsys, ["audit", study / "manifest.parquet", "--out", study.parent / "a"])


def test_json_nested_without_end_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    deep = "[" * 10**5 + "]" * 10**5
    change(study, 2, "boxes", deep)
    refused(capsys, audited(study), "row 4, column 'boxes'")
    frame().to_parquet(study / "m.parquet")
    table = pq.read_table(study / "m.parquet").replace_schema_metadata({b"cxraug": deep.encode()})
    pq.write_table(table, study / "m.parquet")
    refused(capsys, ["audit", study / "m.parquet", "--out", study.parent / "a"], "m.parquet")
    (study / "card.json").write_text(deep)
    refused(capsys, ["core", "sample", study, "--n", "1", "--out", study.parent / "s"], "card.json")


def test_a_manifest_of_one_line_is_refused(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study / "m.csv"
    for content in (
        b"image,patient_id," + b"x" * 10**7,
        b"image,patient_id" + b",x" * (5 * 10**6),
        b"image,patient_id\n" + b"a.png," + b"x" * 10**7 + b"\xff",
        b'image,patient_id\n"' + b"x" * 10**7,
        b"image,patient_id\n" + b",".join([b"x"] * 5 * 10**6),
    ):
        path.write_bytes(content)
        refused(capsys, ["audit", path, "--out", study.parent / "a"], "m.csv")


def test_a_compressed_table_that_inflates_without_end_is_refused(
    study: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    import gzip

    from cxraug.studies import table

    monkeypatch.setattr(table, "MAX_INFLATED", 1 << 20)
    with gzip.open(study / "m.csv.gz", "wb") as stream:
        stream.write(b"image,patient_id\n" + b"a.png,b\n" * (1 << 18))
    refused(capsys, ["audit", study / "m.csv.gz", "--out", study.parent / "a"], "inflates")


YAML = {
    "an object": "name: !!python/object/apply:os.system ['touch owned']\n",
    "a module": "name: !!python/name:os.system\n",
    "an alias bomb": "a: &a [x,x,x,x,x,x,x,x,x]\n"
    + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(9)),
    "merge keys": "a: &a {x: 1}\nb: {<<: *a}\n",
    "nested without end": "a: " + "[" * 10**5 + "]" * 10**5 + "\n",
    "many keys": "".join(f"k{i}: 1\n" for i in range(90_000)),
    "one key twice": "name: a\nname: b\n",
    "a list as key": "? [a, b]\n: 1\n",
    "control characters": "name: \x00\x1b[2J\n",
    "a huge number": f"seed: {'9' * 10_000}\n",
}


@pytest.mark.parametrize("name", YAML)
@pytest.mark.parametrize("read", [read_recipe, read_core_recipe])
def test_a_recipe_is_data_and_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, read: object) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "r.yaml"
    path.write_text(YAML[name])
    with pytest.raises(InputError) as error:
        read(path)  # type: ignore[operator]
    assert str(error.value).startswith(str(path))
    assert len(str(error.value)) < 1500
    assert not any(ord(c) < 32 for c in str(error.value))
    assert not (tmp_path / "owned").exists()


def test_the_shipped_recipes_still_read() -> None:
    folder = Path(__file__).parents[2] / "recipes"
    for path in folder.glob("*.yaml"):
        kind = yaml.safe_load(path.read_text()).get("core", {})
        (read_core_recipe if "kind" in kind else read_recipe)(path)


def test_a_name_with_a_newline_cannot_write_a_second_line(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(study, 1, "sex", "Q\nerror: all is well")
    refused(capsys, audited(study), "row 3", "'sex'")


def test_the_manifest_reads_as_ever(study: Path) -> None:
    manifest = read_manifest(study / "manifest.csv")
    assert manifest.findings == ("Effusion", "Mass", "No Finding")
    stream = io.StringIO()
    manifest.frame.to_csv(stream)
    assert "images/0.png" in stream.getvalue()
