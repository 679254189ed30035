"""The cohort obeys what it was told and is the same every time."""

import json

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from pydantic import ValidationError

from cxraug.errors import InputError
from cxraug.studies.phantom import cohort
from cxraug.studies.phantom.cohort import FINDINGS, PhantomSettings, make_cohort, render_study, sample_cohort

N = 20_000
PLANTED = PhantomSettings(
    n=N,
    seed=3,
    female=0.25,
    prevalence={"Pneumothorax": 0.03, "Effusion": 0.25, "Nodule": 0.0},
    odds_ratio={"Pneumothorax": {"sex=F": 0.4}, "Effusion": {"sex=F": 2.0, "age>=60": 3.0}},
    severity={"Effusion": {"sex=F": 0.6}, "Mass": {"age<40": 0.5}},
)


@pytest.fixture(scope="module")
def planted():
    return sample_cohort(PLANTED)


def has(frame, finding, column="labels"):
    return frame[column].str.split("|").apply(lambda names: finding in names).to_numpy()


def share_error(p, n):
    """Standard error of a share; the studies of a patient (1.4 on average) are correlated, hence the 1.5."""
    return 1.5 * np.sqrt(p * (1 - p) / n)


def odds_ratio(y, group):
    a, b = (y & group).sum(), (~y & group).sum()
    c, d = (y & ~group).sum(), (~y & ~group).sum()
    return np.log(a * d / (b * c)), 1.5 * np.sqrt(1 / a + 1 / b + 1 / c + 1 / d)


@pytest.mark.parametrize("finding", FINDINGS)
def test_prevalence_is_as_set(planted, finding):
    wanted = PLANTED.prevalence_of(finding)
    assert abs(has(planted, finding).mean() - wanted) <= 3.5 * share_error(wanted, N)


def test_odds_ratios_are_as_set(planted):
    woman = (planted["sex"] == "F").to_numpy()
    log_ratio, error = odds_ratio(has(planted, "Pneumothorax"), woman)
    assert abs(log_ratio - np.log(0.4)) < 3.5 * error
    old = (planted["age"] >= 60).to_numpy()
    effusion = has(planted, "Effusion")
    for stratum in (old, ~old):  # conditional on age, so no confounding by it
        log_ratio, error = odds_ratio(effusion[stratum], woman[stratum])
        assert abs(log_ratio - np.log(2)) < 3.5 * error
    for stratum in (woman, ~woman):
        log_ratio, error = odds_ratio(effusion[stratum], old[stratum])
        assert abs(log_ratio - np.log(3)) < 3.5 * error
    log_ratio, error = odds_ratio(has(planted, "Mass"), woman)
    assert abs(log_ratio) < 3.5 * error


def test_severity_factor_is_as_set(planted):
    severity = planted["severity"].apply(lambda text: json.loads(text).get("Effusion", np.nan))
    women, men = severity[planted["sex"] == "F"].dropna(), severity[planted["sex"] == "M"].dropna()
    assert men.mean() == pytest.approx(0.65, abs=0.02)
    assert women.mean() / men.mean() == pytest.approx(0.6, abs=0.03)
    mass = planted["severity"].apply(lambda text: json.loads(text).get("Mass", np.nan))
    assert mass[planted["age"] < 40].mean() / mass[planted["age"] >= 40].mean() == pytest.approx(0.5, abs=0.04)


def test_people_are_as_set(planted):
    people = planted.drop_duplicates("patient_id")
    assert (people["sex"] == "F").mean() == pytest.approx(0.25, abs=0.015)
    assert len(planted) / len(people) == pytest.approx(1.4, abs=0.03)
    assert planted["age"].between(18, 95).all()
    assert len(planted[["patient_id", "sex", "age", "split"]].drop_duplicates()) == len(people)
    shares = people["split"].value_counts(normalize=True)
    assert [round(shares[s], 2) for s in ("train", "val", "test")] == [0.6, 0.1, 0.3]
    assert planted["study_id"].is_unique
    assert planted["study_seed"].is_unique
    assert len(planted[["patient_id", "patient_seed"]].drop_duplicates()) == len(people)
    assert people["patient_seed"].is_unique


def test_cohorts_of_other_seeds_share_nobody():
    one, two = (sample_cohort(PhantomSettings(n=500, seed=s)) for s in (0, 1))
    assert not set(one["patient_id"]) & set(two["patient_id"])
    assert not set(one["patient_seed"]) & set(two["patient_seed"])
    pd.testing.assert_frame_equal(one, sample_cohort(PhantomSettings(n=500, seed=0)))


def test_labels_agree_with_severity_and_report(planted):
    rows = planted.head(300).to_dict("records")
    for row in rows:
        present = [] if row["labels"] == "No Finding" else row["labels"].split("|")
        assert sorted(json.loads(row["severity"])) == sorted(present)
        for finding in present:
            assert finding.lower() in row["report"].lower()


def test_label_noise_keeps_prevalence():
    settings = PhantomSettings(n=6000, seed=5, label_noise=0.2, prevalence={"Edema": 0.2})
    frame = sample_cohort(settings)
    truth, label = has(frame, "Edema", "truth"), has(frame, "Edema")
    assert (~label[truth]).mean() == pytest.approx(0.2, abs=0.045)
    assert label.mean() == pytest.approx(0.2, abs=0.025)


def test_studies_of_a_patient_resemble_each_other(planted):
    effusion = pd.Series(has(planted, "Effusion"))
    number = planted.groupby("patient_id").cumcount()
    patients = planted["patient_id"]
    first = effusion[number == 0].set_axis(patients[number == 0])
    second = effusion[number == 1].set_axis(patients[number == 1])
    together = pd.concat([first, second], axis=1, join="inner").astype(float)
    assert together.corr().iloc[0, 1] > 0.2


def test_views():
    both = sample_cohort(PhantomSettings(n=400, views=("PA", "AP", "Lateral"), ap_share=0.25))
    assert set(both["views"]) == {"PA|Lateral", "AP|Lateral"}
    assert (both["views"] == "AP|Lateral").mean() == pytest.approx(0.25, abs=0.08)
    assert set(sample_cohort(PhantomSettings(n=10))["views"]) == {"PA"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"prevalence": {"Hernia": 0.1}},
        {"prevalence": {"Edema": 1.0}},
        {"odds_ratio": {"Edema": {"race=X": 2}}},
        {"odds_ratio": {"Edema": {"sex=F": 0}}},
        {"severity": {"Edema": {"sex=F": 9}}},
        {"views": ("Oblique",)},
        {"splits": (0.5, 0.1, 0.1)},
        {"n": 0},
        {"unknown": 1},
        {"age_range": (60, 50)},
        {"severity_range": (0.0, 1.0)},
    ],
)
def test_wrong_settings_are_refused(wrong):
    with pytest.raises(ValidationError):
        PhantomSettings(**wrong)


SMALL = PhantomSettings(n=40, seed=8, size=48, views=("PA", "Lateral"), studies_per_patient=2)


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cohort")
    make_cohort(SMALL, folder, workers=1)
    return folder


def test_manifest_is_complete(made):
    frame = pd.read_parquet(made / "manifest.parquet")
    assert len(frame) == 80
    assert set(frame["view"]) == {"PA", "Lateral"}
    assert frame["image"].is_unique
    assert set(frame["source"]) == {"phantom"}
    for row in frame.head(20).to_dict("records"):
        picture, mask = np.asarray(Image.open(made / row["image"])), np.asarray(Image.open(made / row["mask"]))
        assert picture.shape == mask.shape == (48, 48)
        assert picture.dtype == np.uint8
        assert picture.std() > 20
        assert mask.max() <= 7
        assert ((mask & 1) > 0).mean() > 0.05
        lesion = row["truth"] != "No Finding"
        assert ((mask & 4) > 0).any() == lesion
        assert bool(json.loads(row["boxes"])) == lesion
    pictures = [Image.open(made / p).tobytes() for p in frame["image"]]
    assert len(set(pictures)) == len(pictures)


def test_manifest_is_accepted(made):
    manifest = pytest.importorskip("cxraug.studies.manifest")
    data = manifest.read_manifest(made / "manifest.parquet")
    assert len(data) == 80
    assert "No Finding" in data.findings


def test_same_bytes_with_other_workers(made, tmp_path):
    make_cohort(SMALL, tmp_path, workers=2)
    assert contents(tmp_path) == contents(made)


def test_interrupted_work_goes_on_to_the_same_bytes(made, tmp_path, monkeypatch):
    calls = []

    def render_some(study, settings):
        if len(calls) == 35:
            raise KeyboardInterrupt
        calls.append(study)
        return render_study(study, settings)

    monkeypatch.setattr(cohort, "render_study", render_some)
    with pytest.raises(KeyboardInterrupt):
        make_cohort(SMALL, tmp_path, workers=1)
    assert not (tmp_path / "manifest.parquet").exists()
    monkeypatch.setattr(cohort, "render_study", lambda s, t: calls.append(s) or render_study(s, t))
    make_cohort(SMALL, tmp_path, workers=1)
    assert len(calls) == 35 + 40 - 32  # the first unit of 32 was not done again
    assert contents(tmp_path) == contents(made)


def test_finished_folder_is_left_alone_and_other_settings_refused(made, monkeypatch):
    before = contents(made)
    monkeypatch.setattr(cohort, "render_study", None)
    make_cohort(SMALL, made)
    with pytest.raises(InputError, match="another 'seed'"):
        make_cohort(SMALL.model_copy(update={"seed": 9}), made)
    assert contents(made) == before


def test_fresh_starts_over(tmp_path):
    tiny = PhantomSettings(n=2, size=32)
    make_cohort(tiny, tmp_path, workers=1)
    make_cohort(tiny.model_copy(update={"seed": 1}), tmp_path, workers=1, fresh=True)
    assert all("phantom-1-" in p for p in pd.read_parquet(tmp_path / "manifest.parquet")["image"])
    assert all("phantom-1-" in p.name for p in (tmp_path / "images").iterdir())
