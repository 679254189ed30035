"""What every source owes its user, asked of each of them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies.sources.layouts import LAYOUTS, build

from cxraug.balance.audit import audit_manifest
from cxraug.cli.main import run
from cxraug.errors import InputError
from cxraug.studies.manifest import read_manifest
from cxraug.studies.sources.assembly import import_source
from cxraug.studies.sources.contract import TRAINVAL
from cxraug.studies.sources.registry import KEYS, find_source
from cxraug.studies.sources.vocabulary import FINDINGS, NOTHING, OTHER, targets

CARDS = Path(__file__).parents[3] / "data_cards"
every = pytest.mark.parametrize("key", KEYS)
tables = pytest.mark.parametrize(("key", "file"), [(key, file) for key in KEYS for file in LAYOUTS[key].columns])


def imported(key: str, root: Path, name: str = "m.parquet", **settings: object):  # type: ignore[no-untyped-def]
    source = find_source(key)
    if key == "mimic":
        settings = {"mimic_iv": root, **settings}
    return import_source(source, root, root / name, source.settings(**settings), fresh=True)


@every
def test_the_manifest_says_what_the_tables_say(key: str, tmp_path: Path) -> None:
    layout = LAYOUTS[key]
    done = imported(key, build(key, tmp_path))
    frame = done.manifest.frame
    assert sorted(frame["image"]) == sorted(layout.images)
    assert {k: n for k, n in done.record["findings"].items() if n} == layout.findings
    assert done.record["uncertain"] == layout.uncertain
    assert done.record["missing_files"] == 0
    assert (frame["source"] == find_source(key).name).all()
    assert frame["license"].notna().all()
    assert frame["patient_id"].str.match("(?:" + key + "|nih|openi)-").all()
    assert len(frame[["patient_id", "split"]].drop_duplicates()) == frame["patient_id"].nunique()


@every
def test_its_manifest_is_read_audited_and_opened(key: str, tmp_path: Path) -> None:
    done = imported(key, build(key, tmp_path))
    again = read_manifest(tmp_path / "m.parquet")
    assert again.digest() == done.manifest.digest()
    assert all(path.is_file() for path in again.paths())
    audit = audit_manifest(again, groups=["sex", "age"])
    assert audit["images"] == len(LAYOUTS[key].images)
    assert run(["audit", str(tmp_path / "m.parquet"), "--no-pixels", "--out", str(tmp_path / "audit")]) == 0


@every
def test_the_mapping_is_in_the_vocabulary_and_kept(key: str, tmp_path: Path) -> None:
    source = find_source(key)
    assert {f for finding in source.labels.values() for f in targets(finding)} <= set(FINDINGS)
    done = imported(key, build(key, tmp_path))
    kept = pd.read_csv(tmp_path / "m.mapping.csv", keep_default_na=False)
    pd.testing.assert_frame_equal(kept, done.vocabulary.reset_index(drop=True), check_dtype=False)
    reached = {f for finding in kept["finding"] if finding not in (OTHER, NOTHING) for f in finding.split("|")}
    assert set(done.manifest.annotated[source.name]) <= reached
    assert set(done.manifest.findings) <= set(FINDINGS)
    card = (CARDS / source.card).read_text()
    access = next(line for line in card.splitlines() if line.startswith("| Licence and access"))
    assert re.search(r"\]\(https://", access)  # the page that counts


@every
def test_an_edited_mapping_is_used(key: str, tmp_path: Path) -> None:
    root = build(key, tmp_path)
    first = imported(key, root).vocabulary.iloc[0]
    edited = root / "edited.csv"
    pd.DataFrame([{"label": first["label"], "finding": "Renamed"}]).to_csv(edited, index=False)
    done = imported(key, root, mapping=edited)
    assert done.record["findings"]["Renamed"] > 0 or first["finding"] == NOTHING
    edited.write_text(f'label,finding\n"{first["label"]}",-bad\n')
    with pytest.raises(InputError, match=r"edited\.csv, row 2, column 'finding'.*cannot be written"):
        imported(key, root, mapping=edited)


@every
def test_a_missing_image_is_listed_and_never_guessed(key: str, tmp_path: Path) -> None:
    layout = LAYOUTS[key]
    root = build(key, tmp_path)
    (root / layout.images[1]).unlink()
    done = imported(key, root)
    assert sorted(done.manifest.frame["image"]) == sorted(set(layout.images) - {layout.images[1]})
    assert done.record["missing_files"] == 1
    listed = pd.read_csv(root / "m.missing.csv", dtype=str)
    assert [Path(p).stem for p in listed["image"]] == [Path(layout.images[1]).stem]
    assert listed["row"].astype(int).iloc[0] >= 1
    build(key, root)
    assert imported(key, root).record["missing_files"] == 0
    assert not (root / "m.missing.csv").exists()


def _base(name: str) -> str:
    return Path(name).name


def _short(name: str) -> str:
    """What other releases of OpenI call an image, without suffix."""
    return re.sub(r"^CXR(?:\d+_)?(\d+_IM)", r"\1", Path(name).stem)


ARRANGED = {
    ("nih", "one folder"): lambda name: "images/" + _base(name),
    ("nih", "made smaller"): lambda name: "images-224/images-224/" + _base(name),
    ("chexpert", "as it unpacks"): lambda name: "CheXpert-v1.0-small/" + name,
    ("chexpert", "in batches"): lambda name: "CheXpert-v1.0 batch 2 (train 1)/" + name.split("/", 1)[1],
    ("mimic", "without files/"): lambda name: name.removeprefix("files/"),
    ("mimic", "below the address"): lambda name: "physionet.org/files/mimic-cxr-jpg/2.1.0/" + name,
    ("mimic", "all in one"): lambda name: "resized/" + _base(name).replace(".jpg", ".png"),
    ("padchest", "one folder"): lambda name: "images/" + _base(name),
    ("padchest", "other numbers"): lambda name: "54/" + _base(name),
    ("vindr", "below the address"): lambda name: "physionet.org/files/vindr-cxr/1.0.0/" + name,
    ("vindr", "as PNG"): lambda name: "png/" + _base(name).replace(".dicom", ".png"),
    ("rsna", "as PNG"): lambda name: "png/" + _base(name).replace(".dcm", ".png"),
    ("siim", "one folder"): lambda name: "train/" + _base(name),
    ("siim", "below its name"): lambda name: "siim/" + name,
    ("openi", "DICOM"): lambda name: f"NLMCXR_dcm/1/{_short(name)}.dcm",
    ("openi", "Kaggle's names"): lambda name: f"images/images_normalized/{_short(name)}.dcm.png",
}  # fmt: skip


@pytest.mark.parametrize(("key", "how"), ARRANGED)
def test_images_are_found_however_the_archive_was_unpacked(key: str, how: str, tmp_path: Path) -> None:
    layout, root = LAYOUTS[key], build(key, tmp_path)
    place = ARRANGED[key, how]
    wanted = {place(name): name for name in layout.images}
    for new, name in wanted.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / name).rename(root / new)
    done = imported(key, root)
    assert done.record["missing_files"] == 0
    assert sorted(done.manifest.frame["image"]) == sorted(wanted)
    lost = sorted(wanted)[-1]
    (root / lost).unlink()
    done = imported(key, root)
    assert sorted(done.manifest.frame["image"]) == sorted(wanted)[:-1]
    assert len(pd.read_csv(root / "m.missing.csv")) == 1


def test_chexpert_is_found_below_the_folder_it_unpacks_to(tmp_path: Path) -> None:
    build("chexpert", tmp_path / "CheXpert-v1.0-small")
    done = imported("chexpert", tmp_path)
    assert len(done.manifest) == len(LAYOUTS["chexpert"].images)


@every
def test_without_images_only_tables_can_be_asked_for(key: str, tmp_path: Path) -> None:
    root = build(key, tmp_path, images=False)
    with pytest.raises(InputError, match=r"none of the images is there.*--table-only"):
        imported(key, root)
    assert not (root / "m.parquet").exists()
    done = imported(key, root, table_only=True)
    assert {k: n for k, n in done.record["findings"].items() if n} == LAYOUTS[key].findings
    assert len(done.manifest) == len(LAYOUTS[key].images)


@every
def test_the_official_split_is_kept_and_patients_are_together_otherwise(key: str, tmp_path: Path) -> None:
    layout = LAYOUTS[key]
    root = build(key, tmp_path)
    dealt = imported(key, root, split="patients")
    assert dealt.record["split"].startswith("by patient")
    if layout.splits is None:
        with pytest.raises(InputError, match="no official split"):
            imported(key, root, split="official")
        return
    rows = imported(key, root, split="official").record["rows"]
    wanted = {k: n for k, n in layout.splits.items() if k != TRAINVAL}
    assert {k: n for k, n in rows.items() if k in wanted} == wanted
    assert sum(rows.values()) == len(layout.images)
    if layout.split_file:
        (root / layout.split_file).unlink()
        if key == "nih":
            with pytest.raises(InputError, match=r"train_val_list\.txt: half of the official split is missing"):
                imported(key, root)
            (root / "test_list.txt").unlink()
        with pytest.raises(InputError, match="no official split; found 'no "):
            imported(key, root, split="official")
        assert imported(key, root).record["split"].startswith("by patient")


@pytest.mark.parametrize("key", [key for key in KEYS if LAYOUTS[key].uncertain])
@pytest.mark.parametrize("policy", ["zeros", "ones", "ignore"])
def test_uncertain_labels_follow_the_policy(key: str, policy: str, tmp_path: Path) -> None:
    root = build(key, tmp_path)
    kept, done = imported(key, root), imported(key, root, uncertain=policy)
    assert done.record["uncertain"] == LAYOUTS[key].uncertain
    for finding, n in LAYOUTS[key].uncertain.items():
        mask = kept.manifest.frame["labels"].str.contains("?" + finding, regex=False, na=False).to_numpy()
        assert mask.sum() == n
        y = done.manifest.y([finding])[:, 0]
        if policy == "ignore":
            assert np.isnan(y[mask]).all()
        else:
            np.testing.assert_array_equal(y[mask], float(policy == "ones"))
        rest = ~mask & done.manifest.frame["labels"].notna().to_numpy()  # ignore leaves nothing of "?A" alone
        np.testing.assert_array_equal(y[rest], kept.manifest.y([finding])[rest, 0])


@every
def test_out_must_be_new_and_of_a_known_kind(key: str, tmp_path: Path) -> None:
    source, root = find_source(key), build(key, tmp_path)
    imported(key, root)
    with pytest.raises(InputError, match="the file is there already"):
        import_source(source, root, root / "m.parquet")
    with pytest.raises(InputError, match=r"unknown kind of table; found '\.xlsx'"):
        import_source(source, root, root / "m.xlsx")
    with pytest.raises(InputError, match="the root is not a folder"):
        import_source(source, root / "nowhere", root / "n.parquet")


@every
def test_a_manifest_elsewhere_names_its_data_root(key: str, tmp_path: Path) -> None:
    root, aside = build(key, tmp_path / "data"), tmp_path / "aside"
    source = find_source(key)
    above = import_source(source, root, tmp_path / "m.parquet")
    assert above.record["data_root"] is None
    assert all(p.is_file() for p in read_manifest(tmp_path / "m.parquet").paths())
    away = import_source(source, root, aside / "m.parquet")
    assert Path(away.record["data_root"]) == root
    assert all(p.is_file() for p in read_manifest(aside / "m.parquet", root=root).paths())


@every
def test_import_export_import_is_the_same(key: str, tmp_path: Path) -> None:
    first = imported(key, build(key, tmp_path)).manifest
    first.save(tmp_path / "out.csv")
    fields = ["image", "patient_id", "study_id", "view", "sex", "age", "labels", "split"]
    arguments = ["import", "csv", str(tmp_path / "out.csv"), "--out", str(tmp_path / "again.parquet"), "--json"]
    for field in fields:
        arguments += ["--map", f"{field}={field}"]
    assert run([*arguments, "--map", f"source={find_source(key).name}"]) == 0
    second = read_manifest(tmp_path / "again.parquet", annotated=first.annotated)
    pd.testing.assert_frame_equal(second.frame[fields], first.frame[fields])
    np.testing.assert_array_equal(second.y(first.findings), first.y())


@tables
def test_marks_line_ends_and_blank_lines_change_nothing(key: str, file: str, tmp_path: Path) -> None:
    root = build(key, tmp_path, images=False)
    plain = imported(key, root, table_only=True).manifest
    text = LAYOUTS[key].files[file] + "\n\n"
    (root / file).write_bytes(text.replace("\n", "\r\n").encode("utf-8-sig"))
    assert imported(key, root, table_only=True).manifest.digest() == plain.digest()


def _with_latin(text: str) -> bytes:
    head, _, rest = text.partition("\n")
    return head.encode() + b"\n\xe9" + rest.encode()


BROKEN = {
    "semicolons": (lambda t, c: t.replace(",", ";").encode(), "row 1.*separated by semicolons.*expected commas"),
    "tabs": (lambda t, c: t.replace(",", "\t").encode(), "row 1.*separated by tabs.*expected commas"),
    "Latin-1": (lambda t, c: _with_latin(t), "row 2: not UTF-8 text.*expected a CSV saved as UTF-8"),
    "UTF-16": (lambda t, c: t.encode("utf-16"), "not UTF-8 text.*found 'UTF-16'"),
    "a renamed column": (
        lambda t, c: t.replace(c, c + "X", 1).encode(),
        "row 1, column '{c}': missing column.*found.*{c}X",
    ),
    "no rows": (lambda t, c: (t.partition("\n")[0] + "\n").encode(), "a header and no rows"),
    "nothing": (lambda t, c: b"", "the file is empty"),
    "a row cut short": (lambda t, c: (t.rstrip("\n") + "\nx").encode(), "number of fields"),
}
ALL_TABLES = ("semicolons", "Latin-1", "a renamed column", "no rows")


@pytest.mark.parametrize(
    ("key", "file", "how"),
    [
        (key, file, how)
        for key in KEYS
        for file in LAYOUTS[key].columns
        for how in BROKEN
        if how in ALL_TABLES or file == LAYOUTS[key].table
    ],
)
def test_a_malformed_table_gives_one_line_and_exit_code_2(
    key: str, file: str, how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root, column = build(key, tmp_path, images=False), LAYOUTS[key].columns[file]
    damage, expected = BROKEN[how]
    (root / file).write_bytes(damage(LAYOUTS[key].files[file], column))
    more = ["--mimic-iv", str(root)] if key == "mimic" else []
    assert run(["import", key, str(root), "--table-only", "--out", str(root / "m.parquet"), *more]) == 2
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    assert str(root / file) in line
    assert re.search(expected.replace("{c}", re.escape(column)), line), line
    assert not (root / "m.parquet").exists()


RENAMED = {
    "chexpert": {"train.csv": ("Path", "Sex", "Age", "Frontal/Lateral", "AP/PA", "No Finding", "Support Devices")},
    "mimic": {
        "mimic-cxr-2.0.0-metadata.csv": ("subject_id", "study_id", "ViewPosition", "StudyDate"),
        "mimic-cxr-2.0.0-chexpert.csv": ("study_id", "No Finding"),
        "mimic-cxr-2.0.0-split.csv": ("dicom_id",),
        "hosp/patients.csv": ("subject_id", "gender", "anchor_year"),
    },
    "nih": {"Data_Entry_2017_v2020.csv": ("Image Index", "Patient ID", "Patient Age", "Patient Gender",
                                          "View Position")},
    "padchest": {"PADCHEST_chest_x_ray_images_labels_160K_01.02.19.csv": (
        "StudyID", "PatientID", "PatientBirth", "PatientSex_DICOM", "StudyDate_DICOM", "Projection", "Labels", "Report",
        "MethodLabel")},
    "vindr": {"annotations/annotations_train.csv": ("image_id", "rad_id", "x_max"),
              "annotations/image_labels_train.csv": ("rad_id",)},
    "rsna": {"stage_2_train_labels.csv": ("patientId", "x", "width"),
             "stage_2_detailed_class_info.csv": ("patientId",)},
    "siim": {"train-rle.csv": ("EncodedPixels",)},
    "openi": {"indiana_projections.csv": ("projection",)},
}  # fmt: skip


@pytest.mark.parametrize(
    ("key", "file", "column"), [(k, f, c) for k, files in RENAMED.items() for f, names in files.items() for c in names]
)
def test_no_column_is_lost_because_it_was_renamed(key: str, file: str, column: str, tmp_path: Path) -> None:
    root = build(key, tmp_path, images=False)
    head, _, rest = LAYOUTS[key].files[file].partition("\n")
    names = [f"{n.strip()}_2" if n.strip() == column else n for n in head.split(",")]
    (root / file).write_text(",".join(names) + "\n" + rest)
    called = re.escape(column)
    with pytest.raises(InputError, match=rf"{re.escape(file)}, row 1, column '{called}': missing column; found .*_2"):
        imported(key, root, table_only=True)


MORE_TABLES = {
    ("chexpert", "people.csv"): ("PATIENT,PRIMARY_RACE\npatient00001,Asian\n", "PRIMARY_RACE"),
    ("mimic", "mimic_cxr_sectioned.csv"): ("study,impression,findings\ns50414267,Clear.,None\n", "findings"),
    ("rsna", "x_dicom_headers.csv"): ("PatientID,PatientSex,PatientAge,ViewPosition\nr1,M,51,AP\n", "PatientSex"),
    ("openi", "nlmcxr_dicom_metadata.csv"): ("imageid,View Position\nCXR1_1_IM-0001-3001,PA\n", "View Position"),
    ("vindr", "annotations/annotations_test.csv"): (
        LAYOUTS["vindr"].files["annotations/annotations_test.csv"], "class_name"),
}  # fmt: skip


@pytest.mark.parametrize(("key", "file"), MORE_TABLES)
def test_tables_that_few_have_are_read_as_strictly(key: str, file: str, tmp_path: Path) -> None:
    text, column = MORE_TABLES[key, file]
    root = build(key, tmp_path, images=False)
    settings = {"demographics": root / file} if key == "chexpert" else {}
    (root / file).write_text(text)
    plain = imported(key, root, table_only=True, **settings).manifest.digest()
    (root / file).write_bytes((text + "\n").replace("\n", "\r\n").encode("utf-8-sig"))
    assert imported(key, root, table_only=True, **settings).manifest.digest() == plain
    for how in ALL_TABLES:
        damage, expected = BROKEN[how]
        (root / file).write_bytes(damage(text, column))
        with pytest.raises(InputError, match=expected.replace("{c}", re.escape(column))) as caught:
            imported(key, root, table_only=True, **settings)
        assert str(root / file) in str(caught.value)


def test_reports_of_openi_are_read_as_strictly(tmp_path: Path) -> None:
    root = build("openi", tmp_path)
    plain = imported("openi", root).manifest.digest()
    file, text = root / "ecgen-radiology/2.xml", LAYOUTS["openi"].files["ecgen-radiology/2.xml"]
    file.write_bytes(("\ufeff" + text.replace("><", ">\r\n<")).encode())
    assert imported("openi", root).manifest.digest() == plain
    for data, told in (
        (text.replace("Clear", "Cl\xe9ar").encode("latin-1"), r"2\.xml, row 1: not well-formed XML"),
        (text[:80].encode(), r"2\.xml, row 1: not well-formed XML"),
        (b"", r"2\.xml, row 1: not well-formed XML"),
        (text.replace("uId", "uid").encode(), r'2\.xml: no uId; expected <uId id="CXR1"/>'),
        (b'<!DOCTYPE x [<!ENTITY a "b">]>' + text.encode(), r"2\.xml: entities in the XML"),
    ):
        file.write_bytes(data)
        with pytest.raises(InputError, match=told):
            imported("openi", root)
    for file in (root / "ecgen-radiology").glob("*.xml"):
        file.write_text(LAYOUTS["openi"].files[f"ecgen-radiology/{file.name}"].replace("MeSH", "Mesh"))
    with pytest.raises(InputError, match="no study has MeSH terms"):
        imported("openi", root)


def test_chexpert_without_its_validation_set_says_so(tmp_path: Path) -> None:
    root = build("chexpert", tmp_path)
    assert "without test.csv no row is in test: --split patients deals all patients" in imported(
        "chexpert", root).record["notes"]  # fmt: skip
    (root / "valid.csv").unlink()
    with pytest.raises(InputError, match=r"no official split; found 'no valid\.csv'"):
        imported("chexpert", root, split="official")
    assert any("without valid.csv and test.csv no row is in val or test" in n
               for n in imported("chexpert", root).record["notes"])  # fmt: skip


def test_a_renamed_label_of_vindr_is_refused_by_its_name(tmp_path: Path) -> None:
    root = build("vindr", tmp_path, images=False)
    file = root / "annotations/image_labels_train.csv"
    file.write_text(file.read_text().replace("Pneumonia", "Lung inflammation"))
    with pytest.raises(InputError, match=r"image_labels_train\.csv, row 1, column 'Lung inflammation': unknown label"):
        imported("vindr", root, table_only=True)


@every
def test_the_required_file_is_named_when_it_is_not_there(
    key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = build(key, tmp_path)
    required = "ecgen-radiology/1.xml" if key == "openi" else LAYOUTS[key].table
    for file in root.rglob("*.xml" if key == "openi" else Path(required).name):
        file.unlink()
    assert run(["import", key, str(root), "--out", str(root / "m.parquet")]) == 2
    line = capsys.readouterr().err
    assert ("no report" if key == "openi" else Path(required).name) in line


@pytest.mark.parametrize("key", [key for key in KEYS if LAYOUTS[key].again])
def test_repeated_rows_are_counted_and_differing_ones_refused(key: str, tmp_path: Path) -> None:
    layout = LAYOUTS[key]
    root = build(key, tmp_path)
    lines = layout.files[layout.table].rstrip("\n").split("\n")
    (root / layout.table).write_text("\n".join([*lines, lines[1]]) + "\n")
    done = imported(key, root)
    assert done.record["odd"]["rows repeated word for word, left out"] == 1
    assert len(done.manifest) == len(layout.images)
    other = lines[1].replace("PA", "AP").replace("Frontal,AP", "Frontal,PA") + ""
    other = other if other != lines[1] else lines[1].replace(",AP,", ",PA,")
    assert other != lines[1]
    (root / layout.table).write_text("\n".join([*lines, other]) + "\n")
    called = {"nih": "Image Index", "chexpert": "Path", "mimic": "dicom_id", "padchest": "ImageID"}[key]
    with pytest.raises(InputError, match=f"row {len(lines) + 1}, column '{called}': the same image path twice"):
        imported(key, root)


@every
def test_the_command_prints_the_mapping_and_json(key: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = build(key, tmp_path)
    out = root / "m.parquet"
    assert run(["import", key, str(root), "--out", str(out)]) == 0
    text = capsys.readouterr().out
    assert "Labels of the source" in text
    assert f"{len(LAYOUTS[key].images)} images" in text
    assert f"cxraug audit {out}" in text.replace("\n", "")
    assert run(["import", key, str(root), "--out", str(out), "--fresh", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert {k: n for k, n in answer["findings"].items() if n} == LAYOUTS[key].findings
    assert answer["mapping"][0].keys() == {"label", "finding", "images"}
    kept = json.loads((root / "m.import.json").read_text())
    assert kept["settings"]["uncertain"] == "keep"
    assert run(["import", key, str(root), "--out", str(out), "--fresh", "--uncertain", "maybe"]) == 2
    assert "--uncertain" in capsys.readouterr().err


def test_an_unknown_source_is_named() -> None:
    with pytest.raises(InputError, match="no such source; found 'brats'; expected one of nih"):
        find_source("brats")


def test_every_layout_is_asked() -> None:
    assert set(LAYOUTS) == set(KEYS)
