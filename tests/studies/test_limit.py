import numpy as np
import pytest

from cxraug.errors import InputError
from cxraug.studies.limit import count_patients, limit_patients
from cxraug.studies.manifest import read_manifest


@pytest.fixture(scope="module")
def manifest(tmp_path_factory):
    """120 patients with two images each; every third has the rare finding (in one image only), every second is F."""
    lines = ["image,patient_id,sex,age,labels,split"]
    for p in range(120):
        split = ("train", "train", "train", "train", "val", "test")[p % 6]
        rare = "Rare|Common" if p // 6 % 3 == 0 else "Common"
        sex = "MF"[p // 6 % 2]
        lines += [f"{p}a,p{p},{sex},{p % 90},{rare},{split}", f"{p}b,p{p},{sex},{p % 90},No Finding,{split}"]
    path = tmp_path_factory.mktemp("limit") / "m.csv"
    path.write_text("\n".join(lines) + "\n")
    return read_manifest(path)


def patients(manifest, keep, split, finding="Rare"):
    rows = keep & (manifest.frame["split"] == split).to_numpy() & (manifest.y([finding])[:, 0] == 1)
    return set(manifest.frame.loc[rows, "patient_id"])


def test_whole_patients_go_and_test_stays(manifest):
    limited = limit_patients(manifest, finding="Rare", patients=5)
    everyone = np.ones(len(manifest), bool)
    assert len(patients(manifest, limited.keep, "train")) == 5
    assert patients(manifest, limited.keep, "test") == patients(manifest, everyone, "test")
    assert manifest.frame.assign(keep=limited.keep).groupby("patient_id")["keep"].nunique().max() == 1
    gone = set(manifest.frame.loc[~limited.keep, "patient_id"])
    assert gone <= patients(manifest, everyone, "train") | patients(manifest, everyone, "val")


def test_validation_in_proportion(manifest):
    everyone = np.ones(len(manifest), bool)
    n_train, n_val = (len(patients(manifest, everyone, s)) for s in ("train", "val"))
    assert (n_train, n_val) == (28, 7)
    for wanted, expected in ((14, 4), (1, 1), (28, 7)):
        keep = limit_patients(manifest, finding="Rare", patients=wanted).keep
        assert len(patients(manifest, keep, "val")) == expected
    keep = limit_patients(manifest, finding="Rare", patients=1, limit_val=False).keep
    assert len(patients(manifest, keep, "val")) == n_val


def test_kept_sets_are_nested_and_seeds_differ(manifest):
    kept = [patients(manifest, limit_patients(manifest, finding="Rare", patients=k, seed=3).keep, "train")
            for k in (2, 5, 20)]  # fmt: skip
    assert kept[0] < kept[1] < kept[2]
    others = {frozenset(patients(manifest, limit_patients(manifest, finding="Rare", patients=5, seed=s).keep, "train"))
              for s in range(6)}  # fmt: skip
    assert len(others) == 6


def test_the_order_of_rows_does_not_matter(manifest):
    backwards = manifest.take(np.arange(len(manifest))[::-1])
    a = limit_patients(manifest, finding="Rare", patients=5)
    b = limit_patients(backwards, finding="Rare", patients=5)
    np.testing.assert_array_equal(a.keep, b.keep[::-1])


def test_a_group_by_share(manifest):
    limited = limit_patients(manifest, group={"sex": "F"}, share=0.2)
    frame = manifest.frame[limited.keep]
    train = frame[frame["split"] == "train"]
    assert train.loc[train["sex"] == "F", "patient_id"].nunique() == 8  # a fifth of 40
    assert train.loc[train["sex"] == "M", "patient_id"].nunique() == 40


def test_finding_within_a_group_and_an_age_band(manifest):
    keep = limit_patients(manifest, finding="Rare", group={"sex": "F"}, patients=0, limit_val=False).keep
    frame = manifest.frame[keep]
    rare = frame[(manifest.y(["Rare"])[keep, 0] == 1) & (frame["split"] == "train")]
    assert set(rare["sex"]) == {"M"}
    keep = limit_patients(manifest, group={"age": "60-79"}, patients=0, limit_val=False).keep
    train = manifest.frame[keep & (manifest.frame["split"] == "train").to_numpy()]
    assert not train["age"].between(60, 79).any()


def test_what_else_went_is_counted(manifest):
    limited = limit_patients(manifest, finding="Rare", patients=8)
    table = limited.removed.set_index(["split", "what", "name"])
    assert table.loc[("train", "patients", "")].tolist() == [80, 60, 20]
    assert table.loc[("train", "rows", "")].tolist() == [160, 120, 40]
    assert table.loc[("train", "positives", "Rare")].tolist() == [28, 8, 20]
    assert table.loc[("train", "positives", "Common")].tolist() == [80, 60, 20]
    assert table.loc["test"]["removed"].sum() == 0
    sexes = table.xs("sex", level="what").loc["train"]
    assert sexes["before"].sum() == 160
    assert sexes["kept"].sum() == 120


def test_what_two_limits_leave_together_is_counted(manifest):
    few = limit_patients(manifest, group={"sex": "F"}, patients=0, limit_val=False).keep
    keep = few & limit_patients(manifest, finding="Rare", patients=8).keep
    frame = manifest.frame
    rare = set(frame["patient_id"][frame["labels"].str.contains("Rare").to_numpy() & (frame["split"] == "train")])
    stay = {p for p in frame["patient_id"][keep] if p in rare}
    assert 0 < len(stay) < 8
    assert set(frame["sex"][frame["patient_id"].isin(stay)]) == {"M"}
    assert count_patients(manifest, keep, finding="Rare") == len(stay)
    assert count_patients(manifest, keep, group={"sex": "F"}) == 0
    assert count_patients(manifest, np.ones(len(manifest), bool), finding="Rare") == 28


@pytest.mark.parametrize(
    ("options", "part"),
    [
        ({"finding": "Rare", "patients": 29}, "asked for 29 training patients with Rare, 28 are available"),
        ({"finding": "Rae", "patients": 1}, "unknown finding; found 'Rae'; expected one of Common, No Finding, Rare"),
        ({"group": {"sex": "X"}, "share": 0.5}, "no such level of sex; found 'X'; expected one of F, M"),
        ({"group": {"race": "X"}, "share": 0.5}, "race"),
        ({"patients": 1}, "nothing to limit"),
        ({"finding": "Rare"}, "either patients or share"),
        ({"finding": "Rare", "patients": 1, "share": 0.1}, "either patients or share"),
        ({"finding": "Rare", "patients": -1}, "negative"),
        ({"finding": "Rare", "share": 1.5}, "out of range"),
    ],
)
def test_impossible_limits_are_named(manifest, options, part):
    with pytest.raises(InputError) as error:
        limit_patients(manifest, **options)
    assert part in str(error.value)


def test_nobody_in_train(manifest):
    rest = manifest.take((manifest.frame["split"] != "train").to_numpy())
    with pytest.raises(InputError, match="no training patient with Rare"):
        limit_patients(rest, finding="Rare", patients=1)
