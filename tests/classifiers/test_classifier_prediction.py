"""Predictions: the columns of the contract, the right order, and a whole manifest from files."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from squares import FINDINGS, SIZE, toy

from cxraug.classifiers.arms import ArmData
from cxraug.classifiers.manifest import predict_manifest
from cxraug.classifiers.objective import validation_aurocs
from cxraug.classifiers.prediction import open_classifier, predict_arm, write_predictions
from cxraug.classifiers.probe import arm_features
from cxraug.classifiers.settings import TrainSettings
from cxraug.classifiers.training import train_arm
from cxraug.cli.main import run
from cxraug.errors import HiddenDataError, InputError
from cxraug.studies.seen import Seen


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    settings = TrainSettings(model="test_resnet", steps=60, batch_size=16, eval_every=30, lr=3e-3, device="cpu")
    return train_arm(
        ArmData(toy(200, 0)), toy(60, 1), tmp_path_factory.mktemp("model") / "arm", settings,
        findings=FINDINGS, seed=0, seen=Seen.of(["patient-3"], [], key="0b"), card={"encoding": {"size": SIZE}},
    )  # fmt: skip


@pytest.fixture
def manifest(tmp_path):
    images = toy(20, 2)
    rows = []
    for i, (pixels, y) in enumerate(zip(images.pixels, images.y, strict=True)):
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
        labels = "|".join(f if value else f"-{f}" for f, value in zip(FINDINGS, y, strict=True))
        rows.append({"image": f"{i}.png", "patient_id": f"patient-{i}", "sex": "MF"[i % 2], "age": 40 + i,
                     "labels": labels, "split": "train" if i < 5 else "test"})  # fmt: skip
    pd.DataFrame(rows).to_csv(tmp_path / "manifest.csv", index=False)
    return tmp_path / "manifest.csv"


def test_rows_are_predicted_in_order_whatever_the_batch(model):
    pixels = toy(10, 3).pixels
    whole = predict_arm(model, pixels)
    assert whole.shape == (10, 2)
    assert whole.dtype == np.float32
    assert predict_arm(model, pixels, batch=3) == pytest.approx(whole, abs=1e-6)
    assert predict_arm(model, pixels[::-1])[::-1] == pytest.approx(whole, abs=1e-6)
    assert predict_arm(model, pixels[:0]).shape == (0, 2)


def test_predictions_are_what_the_last_layer_makes_of_the_features(model):
    pixels = toy(10, 3).pixels
    features = torch.from_numpy(arm_features(model, pixels, device="cpu"))
    with torch.inference_mode():
        logits = open_classifier(model, pixels, device="cpu")[1].logits(features)
    assert torch.equal(
        torch.sigmoid(logits.double()).float(), torch.from_numpy(predict_arm(model, pixels, device="cpu"))
    )


def test_other_images_and_swapped_weights_are_refused(model, tmp_path):
    with pytest.raises(InputError, match=r"expected uint8 \(n, 32, 32\)"):
        predict_arm(model, np.zeros((1, 16, 16), np.uint8))
    for name in ("card.json", "model.safetensors"):
        (tmp_path / name).write_bytes((model / name).read_bytes())
    predict_arm(tmp_path, toy(1, 0).pixels)
    (tmp_path / "model.safetensors").write_bytes((model / "model.safetensors").read_bytes()[:-1] + b"\x01")
    with pytest.raises(InputError, match="not the ones"):
        predict_arm(tmp_path, toy(1, 0).pixels)
    with pytest.raises(InputError, match="no such file"):
        predict_arm(tmp_path / "nowhere", toy(1, 0).pixels)


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_predictions_have_the_columns_of_the_contract(tmp_path, suffix):
    rows = pd.DataFrame(
        {
            "image": ["a", "b"],
            "patient_id": ["1", "2"],
            "split": ["val", "test"],
            "sex": ["F", None],
            "age": [3.0, np.nan],
            "labels": ["x", "y"],
            "report": ["", ""],
            "ward": ["n", "s"],
            "_root": ["/", "/"],
        },
        index=[5, 9],
    )
    y, p = np.array([[1.0], [np.nan]], np.float32), np.array([[0.25], [0.5]], np.float32)
    path = write_predictions(tmp_path / f"p.{suffix}", rows, y, p, ["Mass"], arm="real", seed=2, draw=0)
    table = pd.read_csv(path) if suffix == "csv" else pd.read_parquet(path)
    assert list(table.columns) == [
        "image", "patient_id", "split", "sex", "age", "ward", "y_Mass", "p_Mass", "arm", "seed", "draw"
    ]  # fmt: skip
    assert table["y_Mass"].tolist()[0] == 1
    assert pd.isna(table["y_Mass"][1])
    assert table["p_Mass"].tolist() == [0.25, 0.5]
    assert "arm" not in pd.read_csv(write_predictions(tmp_path / "q.csv", rows, y, p, ["Mass"])).columns
    with pytest.raises(InputError, match="must lie in"):
        write_predictions(tmp_path / "r.csv", rows, y, p + 1, ["Mass"])
    with pytest.raises(InputError, match="differ"):
        write_predictions(tmp_path / "r.csv", rows[:1], y, p, ["Mass"])


def test_a_manifest_is_predicted_from_the_command_line(model, manifest, tmp_path, capsys):
    out = tmp_path / "out" / "p.parquet"
    assert run(["predict", str(model), str(manifest), "--out", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "images": 20, "rejected": 0, "findings": list(FINDINGS), "label_columns": {}, "predictions": str(out)
    }  # fmt: skip
    table = pd.read_parquet(out)
    assert table["image"].tolist() == [f"{i}.png" for i in range(20)]
    y = table[[f"y_{f}" for f in FINDINGS]].to_numpy()
    assert (y == toy(20, 2).y).all()
    assert (validation_aurocs(y, table[[f"p_{f}" for f in FINDINGS]].to_numpy()) > 0.95).all()
    assert [path.name for path in out.parent.iterdir()] == ["p.parquet"]  # the decoded images are gone


def test_one_column_per_finding_gives_the_same_predictions(model, manifest, tmp_path, capsys):
    frame, y = pd.read_csv(manifest), toy(20, 2).y
    columns = {f: y[:, at].astype(int) for at, f in enumerate(FINDINGS)}
    frame.drop(columns="labels").assign(**columns).to_csv(tmp_path / "columns.csv", index=False)
    words = ["predict", str(model), str(tmp_path / "columns.csv"), "--out", str(tmp_path / "p.csv")]
    assert run(words) == 2
    assert "--label-columns" in capsys.readouterr().err
    assert run([*words, "--label-columns", "auto"]) == 0
    table = pd.read_csv(tmp_path / "p.csv")
    assert (table[[f"y_{f}" for f in FINDINGS]].to_numpy() == y).all()


def test_rows_that_a_classifier_was_trained_on_are_no_test_rows(model, manifest, tmp_path):
    table = pd.read_csv(manifest)
    table.assign(split="test").to_csv(manifest, index=False)
    with pytest.raises(HiddenDataError, match=r"1 patients .* of the test rows"):
        predict_manifest(model, manifest, tmp_path / "p.csv")


def test_labels_that_a_manifest_does_not_know_are_blank_and_splits_can_be_chosen(model, manifest, tmp_path):
    table = pd.read_csv(manifest)
    table.assign(labels=table["labels"].str.split("|").str[0]).to_csv(manifest, index=False)
    done = predict_manifest(model, manifest, tmp_path / "p.csv", splits=["test"])
    table = pd.read_csv(tmp_path / "p.csv")
    assert done["images"] == len(table) == 15
    assert table["y_Bar"].isna().all()
    assert table["y_Square"].notna().all()
    with pytest.raises(InputError, match="no row is left"):
        predict_manifest(model, manifest, tmp_path / "p.csv", splits=["val"])
    with pytest.raises(InputError, match="unknown kind of table"):
        predict_manifest(model, manifest, tmp_path / "p.txt")


def test_bad_images_are_left_out_and_counted(model, manifest, tmp_path):
    (tmp_path / "7.png").write_text("text")
    with pytest.raises(InputError, match=r"7\.png"):
        predict_manifest(model, manifest, tmp_path / "p.csv")
    done = predict_manifest(model, manifest, tmp_path / "p.csv", on_bad_image="skip")
    assert (done["images"], done["rejected"]) == (19, 1)
