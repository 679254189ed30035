"""The IU reports that torchxrayvision carries, and an archive made up here."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import pytest

from cxraug.errors import InputError
from cxraug.studies import iu
from cxraug.studies.labels import parse_labels


def archive(path: Path, studies: dict[str, tuple[dict[str, str], list[str]]]) -> Path:
    with tarfile.open(path, "w:gz") as files:
        for name, (texts, mesh) in studies.items():
            parts = "".join(f'<AbstractText Label="{k}">{v}</AbstractText>' for k, v in texts.items())
            terms = "".join(f"<major>{m}</major>" for m in mesh)
            xml = f'<eCitation><uId id="{name}"/>{parts}<MeSH>{terms}</MeSH></eCitation>'.encode()
            info = tarfile.TarInfo(f"ecgen-radiology/{name}.xml")
            info.size = len(xml)
            files.addfile(info, io.BytesIO(xml))
    return path


def test_reports_and_labels_of_a_made_up_archive(tmp_path: Path) -> None:
    path = archive(tmp_path / "reports.tgz", {
        "CXR10": ({"INDICATION": "Pain", "FINDINGS": "Large\n heart.", "IMPRESSION": "Cardiomegaly."},
                  ["Cardiomegaly/mild", "Hydropneumothorax/left", "Spine/degenerative"]),
        "CXR9": ({"IMPRESSION": "Clear."}, ["normal"]),
        "CXR8": ({"FINDINGS": "Unclear."}, ["No Indexing"]),
        "CXR7": ({"INDICATION": "No text at all"}, ["normal"]),
    })  # fmt: skip
    table = iu.iu_reports(path).set_index("study_id")
    assert table.index.tolist() == ["CXR8", "CXR9", "CXR10"]
    assert table.loc["CXR10", "report"] == "FINDINGS: Large heart. IMPRESSION: Cardiomegaly."
    labels = parse_labels(table.loc["CXR10", "labels"])
    assert {f for f, y in labels.items() if y == 1} == {"Cardiomegaly", "Effusion", "Pneumothorax"}
    assert labels["Mass"] == labels["No Finding"] == 0
    assert {f for f, y in parse_labels(table.loc["CXR9", "labels"]).items() if y} == {"No Finding"}
    assert table.loc["CXR8", "labels"] == ""
    assert table.loc["CXR9", "mesh"] == "normal"


def test_the_reports_of_the_installed_package() -> None:
    table = iu.iu_reports()
    assert len(table) == 3927  # of 3,955; the others have neither findings nor an impression
    assert table["patient_id"].is_unique
    assert (table["labels"] != "").sum() == 3832
    assert table["report"].str.match("FINDINGS: |IMPRESSION: ").all()
    shares = table["split"].value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.8, abs=0.02)
    assert shares["val"] == pytest.approx(0.1, abs=0.02)


def test_what_is_missing_or_broken_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.tgz").write_bytes(b"no archive")
    with pytest.raises(InputError, match=r"broken\.tgz: cannot read the IU reports"):
        iu.iu_reports(tmp_path / "broken.tgz")
    monkeypatch.setattr(iu, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pip install torchxrayvision"):
        iu.iu_reports()
