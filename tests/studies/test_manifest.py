from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pa_csv
import pytest

from cxraug.errors import InputError
from cxraug.studies.manifest import concat, findings_with_no_positive, read_manifest

REAL = Path(__file__).parents[2].parent / "shared" / "data" / "cxr" / "manifest.csv"
XRV = Path(find_spec("torchxrayvision").origin).parent / "data"  # found without importing it

GOOD = """image,patient_id,study_id,view,sex,age,labels,source,split
a.png,00123,s1,PA,M,64,A|-B,x,train
b.png,00123,s2,L,Female,,No Finding,x,training
c.png,7,,,u,0.5,?A,y,valid
d/e.png,8,s4,AP_Supine,f,120,,y,TEST
"""


@pytest.fixture
def write(tmp_path):
    def write(text, name="m.csv", encoding="utf-8"):
        path = tmp_path / name
        path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
        return path

    return write


def line(error):
    text = str(error.value)
    assert "\n" not in text
    assert error.value.exit_code == 2
    return text


def test_everything_is_in_its_final_form(write):
    m = read_manifest(write(GOOD))
    f = m.frame
    assert f["patient_id"].tolist() == ["00123", "00123", "7", "8"]
    assert f["study_id"].tolist() == ["s1", "s2", "c.png", "s4"]
    assert f["view"].tolist() == ["PA", "Lateral", "unknown", "AP Supine"]
    assert f["sex"].fillna("-").tolist() == ["M", "F", "-", "F"]
    np.testing.assert_array_equal(f["age"], [64, np.nan, 0.5, 120])
    assert f["split"].tolist() == ["train", "train", "val", "test"]
    assert m.findings == ("A", "B", "No Finding")
    assert m.annotated == {"x": ("A", "B", "No Finding"), "y": ("A",)}
    nan = np.nan
    np.testing.assert_array_equal(m.y(), [[1, 0, 0], [0, 0, 1], [nan, nan, nan], [nan, nan, nan]])
    assert m.paths()[3] == m.root / "d" / "e.png"


def test_only_image_and_patient_are_required(write):
    m = read_manifest(write("image,patient_id\na.png,1\nb.png,2\n"))
    assert m.findings == ()
    assert m.y().shape == (2, 0)
    assert m.frame["source"].tolist() == ["", ""]
    assert m.frame["view"].tolist() == ["unknown", "unknown"]
    assert m.frame["study_id"].tolist() == ["a.png", "b.png"]
    assert set(m.frame["split"]) <= {"train", "val", "test"}


HEAD = "image,patient_id,sex,age,view,labels,split,boxes,synthetic\n"


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("image,sex\na.png,M\n", ["row 1", "'patient_id'", "missing column", "found 'image, sex'"]),
        ("image,Patient ID\na.png,1\n", ["'patient_id'", "rename 'Patient ID'?"]),
        ("", ["empty"]),
        ("image,patient_id\n", ["empty manifest", "expected one row per image"]),
        ("image,patient_id\na.png,1\nb.png,\n", ["row 3", "'patient_id'", "found 'nothing'"]),
        ("image,patient_id\na.png,nan\n", ["row 2", "'patient_id'"]),
        ("image,patient_id\n,1\n", ["row 2", "'image'", "blank"]),
        (
            "image,patient_id\na.png,1\n/etc/passwd,2\n",
            ["row 3", "'image'", "found '/etc/passwd'", "data.root (recipe) or --root (command)"],
        ),
        ("image,patient_id\n../a.png,1\n", ["row 2", "'image'", "leads out", "found '../a.png'"]),
        ("image,patient_id\nx/../../a.png,1\n", ["row 2", "leads out"]),
        ("image,patient_id\nx\\..\\..\\a.png,1\n", ["row 2", "leads out"]),
        ("image,patient_id\nC:\\x\\a.png,1\n", ["row 2", "leads out"]),
        ("image,patient_id\nhttp://x/a.png,1\n", ["row 2", "leads out"]),
        ("image,patient_id\n.,1\n", ["row 2", "leads out"]),
        ("image,patient_id\na.png,1\nb.png,1\na.png,1\n", ["row 4", "'image'", "twice", "also in row 2"]),
        ("image,patient_id\nx/a.png,1\nx//./a.png,1\n", ["row 3", "twice", "found 'x/a.png'"]),
        (HEAD + "a,1,,999,,,train,,\n", ["row 2", "'age'", "found '999'", "0 to 120"]),
        (HEAD + "a,1,,-1,,,train,,\n", ["row 2", "'age'", "found '-1'"]),
        (HEAD + "a,1,,inf,,,train,,\n", ["row 2", "'age'", "found 'inf'"]),
        (HEAD + "a,1,,5,,,train,,\nb,1,,old,,,train,,\n", ["row 3", "'age'", "found 'old'", "years as a number"]),
        (HEAD + "a,1,,060Y,,,train,,\n", ["row 2", "'age'", "found '060Y'", "DICOM"]),
        (HEAD + "a,1,0,,,,train,,\n", ["row 2", "'sex'", "found '0'", "expected M, F"]),
        (HEAD + "a,1,,,sideways,,train,,\n", ["row 2", "'view'", "found 'sideways'", "AP Supine"]),
        (HEAD + "a,1,,,,A||B,train,,\n", ["row 2", "'labels'", "empty finding name", "found 'A||B'"]),
        (HEAD + "a,1,,,,A|-A,train,,\n", ["row 2", "'labels'", "named twice"]),
        (HEAD + "a,1,,,,No Finding|A,train,,\n", ["row 2", "'labels'", "No Finding' together with 'A'"]),
        (HEAD + "a,1,,,,,holdout,,\n", ["row 2", "'split'", "found 'holdout'", "train, val, test"]),
        (HEAD + "a,1,,,,,train,,\nb,2,,,,,,,\n", ["row 3", "'split'", "found 'nothing'"]),
        (HEAD + "a,p,,,,,train,,\nb,q,,,,,val,,\nc,p,,,,,test,,\n", ["row 4", "'p' in two splits", "train in row 2"]),
        (HEAD + "a,1,,,,,train,oops,\n", ["row 2", "'boxes'", "not JSON"]),
        (HEAD + "a,1,,,,,train,{},\n", ["row 2", "'boxes'", "not a list"]),
        (HEAD + 'a,1,,,,,train,"[{""label"":""A"",""x"":1,""y"":2,""w"":3}]",\n', ["row 2", "'boxes'", "x, y, w, h"]),
        (HEAD + 'a,1,,,,,train,"[{""x"":1,""y"":2,""w"":3,""h"":4}]",\n', ["row 2", "'boxes'", "without a label"]),
        (HEAD + "a,syn-1,,,,,test,,True\n", ["row 2", "'split'", "synthetic row outside train", "found 'test'"]),
        (HEAD + "a,1,,,,,train,,maybe\n", ["row 2", "'synthetic'", "found 'maybe'"]),
        ("image;patient_id\na.png;1\n", ["row 1", "separated by semicolons", "expected commas"]),
        ("image\tpatient_id\na.png\t1\n", ["row 1", "separated by tabs"]),
        ("image,patient_id,report\na.png,1,clear, no effusion\n", ["row 2", "number of fields", "found 4", "3 fields"]),
        ("image,patient_id,report\na.png,1,x\nb.pn", ["row 3", "number of fields", "found 1"]),
        ("image,image,patient_id\na,b,1\n", ["row 1", "'image'", "same name"]),
        ("image,patient_id,,x\na,1,,\n", ["row 1", "no name"]),
        (b"image,patient_id\na.png,1\nb\xe9.png,2\n", ["row 3", "not UTF-8"]),
        ("image,patient_id\na.png,1\n".encode("utf-16"), ["UTF-16", "expected a CSV saved as UTF-8"]),
        (b"PK\x03\x04\x14\x00", ["not a CSV", "spreadsheet"]),
        (b"PAR1\x00\x00", ["not a CSV", "Parquet"]),
    ],
)
def test_bad_input_is_one_line_that_says_where(write, text, parts):
    path = write(text)
    with pytest.raises(InputError) as error:
        read_manifest(path)
    message = line(error)
    assert message.startswith(str(path))
    for part in parts:
        assert part in message


@pytest.mark.parametrize("name", ["missing.csv", "m.xlsx", "broken.parquet", "."])
def test_what_is_no_table(write, tmp_path, name):
    write("x", "m.xlsx")
    write("x", "broken.parquet")
    with pytest.raises(InputError) as error:
        read_manifest(tmp_path / name)
    assert line(error).startswith(str(tmp_path))


def test_rows_are_counted_as_a_spreadsheet_does(write):
    text = 'image,patient_id,report,age\na,1,"two\nlines, ""quoted""",3\n\nb,2,,4\n,,,\nc,3,,999\n\n'
    with pytest.raises(InputError, match="row 6, column 'age'"):
        read_manifest(write(text))
    m = read_manifest(write(text.replace("999", "")))
    assert m.frame["image"].tolist() == ["a", "b", "c"]
    assert m.frame["report"][0] == 'two\nlines, "quoted"'


def test_a_byte_order_mark_and_windows_line_ends(write):
    m = read_manifest(write(GOOD.replace("\n", "\r\n"), encoding="utf-8-sig"))
    assert m.digest() == read_manifest(write(GOOD)).digest()


def test_the_unnamed_index_that_pandas_writes_is_no_column(write, tmp_path):
    frame = pd.DataFrame({"image": ["a"], "patient_id": ["1"]})
    frame.to_csv(tmp_path / "m.csv")
    assert "" not in read_manifest(tmp_path / "m.csv").frame.columns


@pytest.mark.parametrize("ids", [[123, 7], ["00123", "7"], [123.0, 7.0], [" 123 ", "7"]])
@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet"])
def test_patient_ids_are_text(tmp_path, ids, suffix):
    frame = pd.DataFrame({"image": ["a", "b"], "patient_id": ids})
    path = tmp_path / f"m{suffix}"
    frame.to_parquet(path) if suffix == ".parquet" else frame.astype(str).to_csv(path, index=False)
    expected = "00123" if ids[0] == "00123" else "123"
    if isinstance(ids[0], float) and suffix != ".parquet":
        expected = "123.0"  # text is text
    assert read_manifest(path).frame["patient_id"][0] == expected


def test_large_integer_ids_keep_every_digit(tmp_path):
    ids = [2**53 + 1, 2**53 + 3]
    pd.DataFrame({"image": ["a", "b"], "patient_id": ids}).to_parquet(tmp_path / "m.parquet")
    assert read_manifest(tmp_path / "m.parquet").frame["patient_id"].tolist() == [str(i) for i in ids]


def test_csv_and_parquet_are_the_same_manifest(write, tmp_path):
    m = read_manifest(write(GOOD))
    m.save(tmp_path / "n.parquet")
    m.save(tmp_path / "n.csv")
    for name in ("n.parquet", "n.csv"):
        again = read_manifest(tmp_path / name)
        assert again.digest() == m.digest()
        assert again.annotated == m.annotated
    assert m.take([0, 1]).digest() != m.digest()


def test_parquet_remembers_what_is_annotated(write, tmp_path):
    m = read_manifest(write(GOOD), annotated={"y": ["A", "Rare"]}, findings=["A"])
    m.save(tmp_path / "n.parquet")
    again = read_manifest(tmp_path / "n.parquet")
    assert again.annotated["y"] == ("A", "Rare")
    assert again.findings == ("A",)


def test_a_data_root_makes_room_but_has_walls(tmp_path):
    (tmp_path / "lists").mkdir()
    path = tmp_path / "lists" / "m.csv"
    path.write_text(f"image,patient_id\nimages/a.png,1\n../images/b.png,2\n{tmp_path}/images/c.png,3\n")
    m = read_manifest(path, root=tmp_path)
    assert m.frame["image"].tolist() == ["images/a.png", "images/b.png", "images/c.png"]
    assert m.paths()[1] == tmp_path / "images" / "b.png"
    path.write_text("image,patient_id\n../../x.png,2\n")
    with pytest.raises(InputError, match="leads out"):
        read_manifest(path, root=tmp_path)
    with pytest.raises(InputError, match="not a folder"):
        read_manifest(path, root=tmp_path / "nowhere")


def test_a_mask_must_stay_inside_too(write):
    with pytest.raises(InputError, match="column 'mask': path leads out"):
        read_manifest(write("image,patient_id,mask\na.png,1,../m.png\n"))


def test_unknown_findings_are_named(write):
    with pytest.raises(InputError) as error:
        read_manifest(write(GOOD), findings=["A", "No finding"])
    assert "found 'No finding'; expected one of A, B, No Finding (did you mean 'No Finding'?)" in line(error)
    with pytest.raises(InputError, match="no such source"):
        read_manifest(write(GOOD), annotated={"z": ["A"]})


def test_annotated_makes_unknown_absent(write):
    m = read_manifest(write(GOOD), annotated={"y": ["A", "B", "No Finding"]})
    np.testing.assert_array_equal(m.y(["B"])[:, 0], [0, 0, 0, np.nan])


def test_findings_with_no_positive(write):
    m = read_manifest(write(GOOD))
    assert findings_with_no_positive(m) == ["B"]
    assert findings_with_no_positive(m, "test", ["A"]) == ["A"]


def test_where(write):
    path = write(GOOD)
    assert read_manifest(path, where={"source": "x"}).findings == ("A", "B", "No Finding")
    assert read_manifest(path, where={"source": ["y"], "sex": "F"}).frame["image"].tolist() == ["d/e.png"]
    assert read_manifest(path, where={"age": 120}).frame["image"].tolist() == ["d/e.png"]
    assert read_manifest(path, where={"sex": None}).frame["image"].tolist() == ["c.png"]
    kept = read_manifest(path, where={"labels": "A"})
    assert kept.frame["image"].tolist() == ["a.png"]
    assert kept.annotated["x"] == ("A", "B", "No Finding")  # of the whole source, not of the kept rows
    assert read_manifest(path, where={"labels": ["No Finding", "A"]}).frame["image"].tolist() == ["a.png", "b.png"]


@pytest.mark.parametrize(
    ("where", "part"),
    [
        ({"sauce": "x"}, "no such column"),
        ({"source": ["x", "z"]}, "found 'z'; expected one of x, y"),
        ({"labels": "C"}, "no such finding; found 'C'; expected one of A, B, No Finding"),
        ({"source": "x", "age": 120}, "no row meets all conditions"),
        ({"age": {"gt": 3}}, "not a value"),
        ({"age": "@__import__('os').system('true')"}, "no row has this value"),
    ],
)
def test_where_refuses(write, where, part):
    with pytest.raises(InputError) as error:
        read_manifest(write(GOOD), where=where)
    assert part in line(error)


CHEXPERT = """image,patient_id,Effusion,Lung Opacity,No Finding,Support Devices
a,1,1.0,,,
b,2,0.0,-1.0,,
c,3,,,1.0,1.0
d,4,,,,
"""


def test_label_columns(write):
    columns = {
        "Effusion": "Effusion",
        "Lung Opacity": "Opacity",
        "No Finding": "No Finding",
        "Support Devices": "Support Devices",
    }
    m = read_manifest(write(CHEXPERT), label_columns=columns)
    assert m.frame["labels"].fillna("").tolist() == ["Effusion", "-Effusion|?Opacity", "No Finding|Support Devices", ""]
    assert m.findings == ("Effusion", "No Finding", "Opacity", "Support Devices")
    nan = np.nan
    np.testing.assert_array_equal(m.y(["Effusion", "Opacity", "No Finding"])[:3], [[1, 0, 0], [0, nan, nan], [0, 0, 1]])
    assert np.isnan(m.y()[3]).all()
    some = read_manifest(write(CHEXPERT), label_columns=["Effusion"])
    assert some.findings == ("Effusion",)


@pytest.mark.parametrize(
    ("text", "columns", "parts"),
    [
        (CHEXPERT, ["Edema"], ["'Edema'", "no such label column"]),
        (CHEXPERT, {"Effusion": "E", "Lung Opacity": "E"}, ["two label columns"]),
        (CHEXPERT.replace("b,2,0.0", "b,2,2"), ["Effusion"], ["row 3", "'Effusion'", "found '2'", "1, 0, -1"]),
        (CHEXPERT.replace("c,3,,", "c,3,1,"), ["Effusion", "No Finding"], ["row 4", "'Effusion'", "together"]),
    ],
)
def test_label_columns_refuse(write, text, columns, parts):
    with pytest.raises(InputError) as error:
        read_manifest(write(text), label_columns=columns)
    for part in parts:
        assert part in line(error)


def test_take_by_mask_and_position(write):
    m = read_manifest(write(GOOD))
    assert m.take(m.frame["source"] == "y").frame.index.tolist() == [0, 1]
    assert m.take([2, 0]).frame["image"].tolist() == ["c.png", "a.png"]
    assert m.take([2]).findings == m.findings
    with pytest.raises(ValueError, match="mask"):
        m.take(np.array([True]))


def test_concat_keeps_paths_and_unites_findings(tmp_path):
    for name, labels in (("p", "A"), ("q", "B")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "m.csv").write_text(f"image,patient_id,labels,source,split\na.png,{name},{labels},s,train\n")
    p, q = (read_manifest(tmp_path / name / "m.csv") for name in "pq")
    both = concat([p, q])
    assert both.paths() == [tmp_path / "p" / "a.png", tmp_path / "q" / "a.png"]
    assert both.frame["image"].tolist() == ["a.png", "a.png"]
    assert both.annotated == {"s": ("A", "B")}
    assert concat([both, concat([both.take([1])]).take([])]).paths() == both.paths()
    both.save(tmp_path / "both.csv")
    assert read_manifest(tmp_path / "both.csv").paths() == both.paths()
    with pytest.raises(InputError, match="twice"):
        concat([p, p])


def test_concat_refuses_a_patient_in_two_splits(tmp_path):
    for name, split in (("p", "train"), ("q", "test")):
        (tmp_path / f"{name}.csv").write_text(f"image,patient_id,split\n{name}.png,7,{split}\n")
    with pytest.raises(InputError, match="'7' in two splits"):
        concat([read_manifest(tmp_path / "p.csv"), read_manifest(tmp_path / "q.csv")])


def test_concat_of_real_and_synthetic_rows(tmp_path):
    (tmp_path / "r.csv").write_text("image,patient_id,labels,split\nr.png,1,A,test\n")
    (tmp_path / "s.csv").write_text("image,patient_id,labels,split,synthetic\ns.png,syn-1,A,train,True\n")
    both = concat([read_manifest(tmp_path / "r.csv"), read_manifest(tmp_path / "s.csv")])
    assert both.frame["synthetic"].tolist() == [False, True]
    assert both.frame["synthetic"].dtype == bool


def test_synthetic_rows_without_a_split_are_train(write):
    text = "image,patient_id,synthetic\n" + "".join(f"{i}.png,syn-{i},true\n" for i in range(40))
    assert set(read_manifest(write(text)).frame["split"]) == {"train"}


@pytest.mark.skipif(not REAL.exists(), reason="../shared/data/cxr is not here")
def test_the_real_manifest():
    m = read_manifest(REAL, where={"source": "kermany_pediatric", "labels": ["Viral Pneumonia", "Bacterial Pneumonia"]})
    test = m.take(m.frame["split"] == "test")
    assert np.nansum(test.y(["Viral Pneumonia", "Bacterial Pneumonia"]), axis=0).tolist() == [226, 445]
    nih = read_manifest(REAL, where={"source": ["nih_cxr14", "nih_cxr14_64px"]})
    assert len(nih) == 975 + 803
    assert nih.frame[["sex", "age"]].notna().all().all()
    everything = read_manifest(REAL)
    assert len(everything) == 6931
    covid = everything.take(everything.frame["source"] == "hannover_covid")
    assert np.isnan(covid.y(["Effusion"])).all()  # not annotated there


def test_400000_rows_of_the_nih_table(tmp_path):
    nih = pd.read_csv(XRV / "Data_Entry_2017_v2020.csv.gz")
    assert len(nih) == 112_120
    parts = [
        pd.DataFrame(
            {
                "image": f"part{k}/" + nih["Image Index"],
                "patient_id": nih["Patient ID"] + 100_000 * k,
                "view": nih["View Position"],
                "sex": nih["Patient Gender"],
                "age": nih["Patient Age"],
                "labels": nih["Finding Labels"],
            }
        )
        for k in range(4)
    ]
    frame = pd.concat(parts).head(400_000)
    pa_csv.write_csv(pa.Table.from_pandas(frame, preserve_index=False), tmp_path / "m.csv")
    m = read_manifest(tmp_path / "m.csv")
    assert len(m) == 400_000
    y = m.y()
    texts = frame["labels"].value_counts()
    for at, finding in enumerate(m.findings):
        assert y[:, at].sum() == sum(n for text, n in texts.items() if finding in text.split("|"))
    assert not np.isnan(y).any()  # one source that annotates all fifteen
    assert m.frame.groupby("patient_id")["split"].nunique().max() == 1
    shares = m.frame.drop_duplicates("patient_id")["split"].value_counts(normalize=True)
    assert shares["train"] == pytest.approx(0.7, abs=0.01)
    with open(tmp_path / "m.csv", "a") as stream:
        stream.write("last.png,1,PA,M,999,No Finding\n")
    with pytest.raises(InputError, match="row 400002, column 'age': impossible age; found '999'"):
        read_manifest(tmp_path / "m.csv")
