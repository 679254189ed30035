import numpy as np
import pandas as pd
import pytest
from simulated import table

from cxraug.errors import InputError
from cxraug.evaluation.predictions import read_predictions, refuse_one_class


def wrong(message, *frames, **options):
    with pytest.raises(InputError, match=message) as caught:
        read_predictions(list(frames), **options)
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("y_A", 2, r"row 4, column 'y_A': not a label; found '2.*expected 0, 1 or blank"),
        ("y_A", -1, "not a label"),
        ("p_A", 1.2, r"row 4, column 'p_A': not a probability; found '1.2'.*--logits"),
        ("p_A", np.nan, "not a probability; found 'nothing'"),
        ("patient_id", " ", "row 4, column 'patient_id': blank"),
        ("image", None, "column 'image': blank"),
        ("split", "holdout", "unknown split; found 'holdout'; expected train, val or test"),
    ],
)
def test_a_bad_value_is_named_with_its_row(column, value, message):
    frame = table()
    frame[column] = frame[column].astype(object)
    frame.loc[2, column] = value
    wrong(message, frame)


def test_text_that_is_no_label_is_refused_in_files_too(tmp_path):
    frame = table().astype({"y_B": object})
    frame.loc[0, "y_B"] = "yes"
    frame.to_csv(tmp_path / "p.csv", index=False)
    wrong(r"p\.csv, row 2, column 'y_B': not a label; found 'yes'", tmp_path / "p.csv")


@pytest.mark.parametrize("column", ["image", "patient_id", "y_A"])
def test_missing_columns_are_named(column):
    wrong(f"column '{column}': missing column", table().drop(columns=column))


def test_no_scores_no_rows_no_file(tmp_path):
    wrong("p_<finding>", table().drop(columns=["p_A", "p_B"]))
    wrong("no test rows", table().assign(split="val"))
    wrong("no such file", tmp_path / "none.csv")
    (tmp_path / "x.parquet").write_text("not parquet")
    wrong("not a readable Parquet file", tmp_path / "x.parquet")
    with pytest.raises(InputError, match="no predictions"):
        read_predictions([])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda text: text.replace(",", ";"), r"p\.csv, row 1: the columns are separated by semicolons"),
        (lambda text: "", r"p\.csv: the file is empty"),
        (lambda text: text.replace("i00001", "i00001,x"), r"p\.csv, row 3: a row with another number of fields"),
        (lambda text: text.replace("split", "sex", 1), r"p\.csv, row 1, column 'sex': two columns have the same name"),
    ],
)
def test_what_is_no_table_is_refused_as_a_manifest_is(tmp_path, change, message):
    (tmp_path / "p.csv").write_text(change(table().to_csv(index=False)))
    wrong(message, tmp_path / "p.csv")
    wrong(f"{tmp_path}: this is a folder", tmp_path)


@pytest.mark.parametrize(("age", "message"), [("060Y", "age is not a number.*is written 60"), (999, "impossible age")])
def test_an_age_is_refused_with_the_row_of_the_file(tmp_path, age, message):
    frame = table().sample(frac=1, random_state=0).astype({"age": object})
    frame.iloc[4, frame.columns.get_loc("age")] = age
    frame.to_csv(tmp_path / "p.csv", index=False)
    wrong(rf"p\.csv, row 6, column 'age': {message}", tmp_path / "p.csv")


def test_names_stay_text_and_numbers_stay_numbers(tmp_path):
    frame = table().assign(site=1.0, ward=["007", "B"] * (len(table()) // 2) + ["NA"] * (len(table()) % 2))
    frame["patient_id"] = frame["patient_id"].str.replace("p", "0")
    (tmp_path / "p.csv").write_text("\ufeff" + frame.to_csv(index=False).replace("\n", "\r\n"), encoding="utf-8")
    read = read_predictions([tmp_path / "p.csv"]).table
    assert set(read["patient_id"]) == set(frame["patient_id"])
    assert read["site"].tolist() == [1.0] * len(read)
    assert {"007", "B"} <= set(read["ward"].dropna()) <= {"007", "B"}


def test_the_same_image_twice_in_a_run_is_refused_and_in_two_runs_is_not():
    frame = table()
    wrong(
        "row 3: the same image twice in one arm, seed and draw; found 'i00000.png'",
        pd.concat([frame.iloc[:1], frame]),
    )
    both = pd.concat([frame.assign(seed=0), frame.assign(seed=1)])
    assert len(read_predictions([both]).runs) == 2


def test_a_patient_in_two_splits_is_refused():
    frame = table(validation=20)
    frame.loc[:1, "patient_id"] = "p0000"
    frame.loc[:1, "split"] = ["val", "test"]
    wrong("row 3, column 'split': a patient in two splits; found 'p0000'", frame)


def test_runs_must_hold_the_same_test_images_labels_patients_and_findings():
    frame = table()
    wrong(r"different test images \(1 only in one\)", frame, frame.iloc[1:])
    wrong("different labels", frame, frame.assign(y_A=1 - frame["y_A"]))
    swapped = frame.assign(patient_id=frame["patient_id"].where(frame.index > 0, "other"))
    wrong("name different patients for image 'i00000.png'; found 'p0000 and other'", frame, swapped)
    wrong("other findings.*'B'", frame, frame.drop(columns=["y_B", "p_B"]))
    wrong("the same arm, seed and draw in two files", frame.assign(seed=3), frame.assign(seed=3))


def test_files_are_seeds_in_order_and_names_are_arms(tmp_path):
    for k in range(3):
        table(run=k).to_csv(tmp_path / f"{k}.csv", index=False)
    files = [f"{name}:{tmp_path / f'{k}.csv'}" for name, k in (("old", 0), ("new", 1), ("new", 2))]
    runs = read_predictions(files).runs
    assert runs[["arm", "seed", "draw"]].to_numpy().tolist() == [
        ["old", "0", "0"],
        ["new", "0", "0"],
        ["new", "1", "0"],
    ]
    plain = read_predictions([tmp_path / "0.csv", tmp_path / "1.csv"])
    assert plain.runs["seed"].tolist() == ["0", "1"]
    assert plain.arms == ["model"]
    assert len(plain.sources[0]["sha256"]) == 64


def test_one_file_is_no_two_seeds_but_may_be_two_arms(tmp_path):
    table().to_csv(tmp_path / "p.csv", index=False)
    wrong("the same predictions twice in one arm", tmp_path / "p.csv", tmp_path / "p.csv")
    assert read_predictions([f"a:{tmp_path / 'p.csv'}", f"b:{tmp_path / 'p.csv'}"]).arms == ["a", "b"]


def test_columns_that_runs_fill_otherwise_are_kept_apart():
    frame = table()
    other = frame.assign(age=frame["age"].astype(float), sex=frame["sex"].replace({"M": "F"}), epoch=2)
    read = read_predictions([frame.assign(epoch=1), other])
    assert set(read.unequal) == {"sex", "epoch"}
    assert read.unequal["sex"].startswith("M in frame 0 (arm model seed 0 draw 0), F in frame 1")


def test_labels_without_scores_are_said():
    assert read_predictions([table().drop(columns="p_B")]).notes == (
        "Not judged, labels without scores (no p_ column): B.",
    )


def test_rows_may_come_in_any_order_and_as_parquet(tmp_path):
    frame = table(validation=30)
    frame.sample(frac=1, random_state=0).to_parquet(tmp_path / "p.parquet")
    a, b = read_predictions([frame]), read_predictions([tmp_path / "p.parquet"])
    np.testing.assert_array_equal(a.p, b.p)
    assert a.table["image"].tolist() == b.table["image"].tolist()
    assert len(a.validation[0].y[0]) == (frame["split"] == "val").sum()


def test_training_rows_are_left_out_and_said():
    frame = table(validation=30).replace({"split": {"val": "train"}})
    found = read_predictions([frame])
    assert "training split were left out" in found.notes[0]
    assert found.validation[0].y.shape[1] == 0


def test_training_rows_alone_are_refused_unless_asked(tmp_path):
    frame = table().assign(split="train")
    frame.to_csv(tmp_path / "t.csv", index=False)
    wrong(r"t\.csv, column 'split': every row is of the training split.*--with-train", tmp_path / "t.csv")
    found = read_predictions([frame], with_train=True)
    assert len(found.table) == len(frame)
    assert f"{len(frame)} rows of the training split are judged as test rows" in found.notes[0]


def test_a_patient_in_train_and_test_is_refused_though_training_rows_are_left_out():
    frame = table(validation=20).replace({"split": {"val": "train"}})
    frame.loc[frame.index[-1], "patient_id"] = "p0000"
    wrong("a patient in two splits; found 'p0000'", frame)


def test_images_that_all_runs_hold_are_kept_and_counted():
    frame = table(validation=20)
    n = int((frame["split"] == "test").sum())
    found = read_predictions([frame.iloc[2:], frame.assign(p_A=0.5), frame.iloc[:n]], strict=False)
    wanted = frame.iloc[2:n].sort_values(["patient_id", "image"])
    assert found.table["image"].tolist() == wanted["image"].tolist()
    np.testing.assert_array_equal(found.p[0, 0], wanted["p_A"])
    assert set(found.p[1, 0]) == {0.5}
    assert f"judged on the {n - 2} of {n} that all of them hold ({n - 2} in frame 0" in found.notes[0]
    assert read_predictions([frame, frame], strict=False).notes == ()
    wrong("share no test image; found '", frame, frame.assign(image="x" + frame["image"]), strict=False)
    wrong("different labels", frame, frame.iloc[2:].assign(y_A=1 - frame["y_A"]), strict=False)


@pytest.mark.parametrize(("label", "word"), [(0.0, "absent"), (1.0, "present"), (np.nan, "unknown")])
def test_one_class_in_every_finding_is_refused(label, word):
    frame = table(validation=20)
    refuse_one_class(read_predictions([frame.assign(y_A=label)]))  # B can be judged
    one = frame.assign(y_A=label, y_B=label).where(frame["split"] == "test", frame)
    with pytest.raises(InputError, match=f"every finding is {word} in every test row.*'A, B'.*both classes"):
        refuse_one_class(read_predictions([one]))


def test_no_rows_are_refused():
    wrong("no rows; expected one row per image", table().iloc[:0])


def test_logits_on_request():
    frame = table()
    as_logits = frame.assign(**{c: np.log(frame[c] / (1 - frame[c])) for c in ("p_A", "p_B")})
    wrong("not a probability", as_logits)
    np.testing.assert_allclose(read_predictions([as_logits], logits=True).p, read_predictions([frame]).p)
    wrong("every p_ is a probability already", frame, logits=True)


def test_no_torch_is_needed():
    import subprocess
    import sys

    code = "import sys, cxraug.evaluation.evaluate, cxraug.evaluation.endpoint; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
