"""The pure measures of a core against known answers."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from scipy.stats import pearsonr
from sklearn.metrics import roc_auc_score

from cxraug.cores.measures import table
from cxraug.cores.measures.attributes import age_adherence, label_adherence, sex_adherence
from cxraug.cores.measures.consistency import others, view_consistency
from cxraug.cores.measures.diversity import diversity, ms_ssim, twins
from cxraug.cores.measures.memorisation import Training, memorisation
from cxraug.cores.measures.paired import compare, paired_auroc, paired_correlation, paired_mean
from cxraug.cores.measures.reader import Reading
from cxraug.cores.measures.regions import Box, box_adherence, coverage, dice, inside_box, mask_adherence
from cxraug.cores.measures.report_agreement import report_agreement_rows
from cxraug.cores.measures.retrieval import hits, retrieval
from cxraug.cores.measures.swaps import YEARS, real_units, swap_matrix, swap_plan, swap_rows

N = 400


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def patients(n: int = N) -> np.ndarray:
    return np.array([f"p{i // 2}" for i in range(n)])  # two rows each


def reading(n: int, rng: np.random.Generator, maps: int = 0, grid: int = 8) -> Reading:
    return Reading(rng.random((n, 2)), rng.random(n), rng.random(n) * 80, rng.random((n, maps, grid, grid)))


def test_paired_values_are_those_of_other_packages(rng: np.random.Generator) -> None:
    x, y = rng.normal(size=(2, N)), (rng.random(N) < 0.3).astype(float)
    x[0] += y
    auc = paired_auroc(x, y, patients())
    assert auc is not None
    assert np.allclose(auc.value, [roc_auc_score(y, run) for run in x])
    z = rng.normal(size=N)
    assert np.allclose(paired_correlation(x, z, patients()).value, [pearsonr(run, z).statistic for run in x])
    assert np.allclose(paired_mean(x, patients()).value, x.mean(axis=1))
    assert paired_auroc(x, np.ones(N), patients()) is None


def test_errors_are_those_of_the_bootstrap_over_patients(rng: np.random.Generator) -> None:
    z = rng.normal(size=(N // 2, 1)).repeat(2, axis=1).ravel() + 0.5 * rng.normal(size=N)
    x = np.stack([z + rng.normal(size=N), 0.5 * z + rng.normal(size=N)])

    def redrawn(measure) -> np.ndarray:  # type: ignore[no-untyped-def]
        found = []
        for _ in range(400):
            pairs = rng.integers(0, N // 2, N // 2)
            rows = np.column_stack([2 * pairs, 2 * pairs + 1]).ravel()
            found.append(measure(rows))
        return np.std(found, axis=0)

    together = paired_correlation(x, z, patients())
    want = redrawn(lambda rows: [pearsonr(run[rows], z[rows]).statistic for run in x])
    assert np.sqrt(together.variance) == pytest.approx(want, rel=0.15)
    means = redrawn(lambda rows: x[:, rows].mean(axis=1))
    assert np.sqrt(paired_mean(x, patients()).variance) == pytest.approx(means, rel=0.15)
    high = compare(paired_mean(x + 3, patients()))
    error = redrawn(lambda rows: np.log((x[1, rows] + 3).mean() / (x[0, rows] + 3).mean()))
    assert (np.log(high["ci_high"] / high["ci_low"]) / 2 / 1.97) == pytest.approx(float(error), rel=0.15)


def test_what_copies_the_real_images_has_ratio_one_without_doubt(rng: np.random.Generator) -> None:
    y = (rng.random((N, 2)) < 0.3).astype(float)
    said = rng.normal(size=(N, 2)) + y
    for row in label_adherence(said, said, y, ["A", "B"], patients(), prompts="x"):
        assert (row["ratio"], row["ci_low"], row["ci_high"], row["difference"]) == (1, 1, 1, 0)


def test_what_ignores_its_prompt_is_at_chance(rng: np.random.Generator) -> None:
    y = (rng.random((N, 2)) < 0.3).astype(float)
    real = y + rng.normal(size=(N, 2))
    rows = label_adherence(real, rng.permutation(real), y, ["A", "B"], patients(), prompts="x")
    assert [row["of"] for row in rows] == ["A", "B", "macro"]
    for row in rows:
        assert row["generated"] == pytest.approx(0.5, abs=0.08)
        assert row["difference_high"] < 0
        assert row["ci_high"] < 0.9
    age = rng.uniform(20, 80, N)
    found = age_adherence(age + rng.normal(size=N), rng.permutation(age), age, patients(), prompts="x", of="")
    assert abs(found[0]["generated"]) < 0.12
    assert found[0]["real"] > 0.99
    assert found[1]["generated"] == pytest.approx(20, abs=2.5)  # mean difference of two uniform ages: a third of 60
    sex = (rng.random(N) < 0.5).astype(float)
    accuracy = sex_adherence(0.1 + 0.8 * sex, rng.random(N), sex, patients(), prompts="x", of="")[1]
    assert accuracy["real"] == 1
    assert accuracy["generated"] == pytest.approx(0.5, abs=0.08)


def test_few_unknown_and_weak_rows_are_flagged_not_left_out(rng: np.random.Generator) -> None:
    y = np.zeros((100, 4))
    y[:5, 0], y[:20, 1], y[:50, 2], y[:60, 3] = 1, 1, 1, 1
    said = np.column_stack([rng.random(100), y[:, 1] + 0.1 * rng.random(100), rng.random(100), y[:, 3]])
    rows = label_adherence(said, said, y, list("abcd"), np.arange(100), prompts="x", unknown=["d"])
    assert [row["flag"] for row in rows] == ["suppressed", "few", table.WEAK, table.UNKNOWN, ""]
    assert np.isnan(rows[0]["real"])
    assert rows[4]["real"] == pytest.approx((rows[1]["real"] + rows[2]["real"]) / 2)


def test_a_cell_is_covered_by_the_share_of_it_in_the_box() -> None:
    covered = coverage([Box("A", 0.125, 0.25, 0.25, 0.5)], 4)
    assert covered.tolist() == [[0, 0, 0, 0], [0.5, 0.5, 0, 0], [0.5, 0.5, 0, 0], [0, 0, 0, 0]]
    heat = np.zeros((8, 8))
    heat[2, 6] = 1
    assert inside_box(heat, [Box("A", 5 / 8, 1 / 8, 2 / 8, 2 / 8)], margin=0) == 1
    assert inside_box(heat, [Box("A", 7 / 8, 1 / 8, 1 / 8, 2 / 8)], margin=0) == 0
    assert inside_box(heat, [Box("A", 7 / 8, 1 / 8, 1 / 8, 2 / 8)], margin=1) == 1


def test_box_adherence_of_evidence_in_the_box_and_of_evidence_anywhere(rng: np.random.Generator) -> None:
    corners = rng.integers(0, 4, N)
    boxes = [[Box("A", 0.5 * (k % 2), 0.5 * (k // 2), 0.5, 0.5)] for k in corners]
    maps = np.zeros((N, 1, 8, 8))
    maps[np.arange(N), 0, 4 * (corners // 2) + 1, 4 * (corners % 2) + 1] = 1
    real = Reading(np.zeros((N, 1)), np.zeros(N), np.zeros(N), maps)
    same = box_adherence(real, real, boxes, ["A"], patients(), prompts="x", of="", seed=0)
    assert (same[0]["real"], same[0]["generated"]) == (1, 1)
    assert same[0]["chance"] == pytest.approx(0.25, abs=0.08)
    other = real.take(rng.permutation(N))
    shuffled = box_adherence(real, other, boxes, ["A"], patients(), prompts="x", of="", seed=0)
    assert shuffled[0]["generated"] == pytest.approx(0.25, abs=0.08)
    assert shuffled[0]["difference_high"] < -0.5


def test_dice_of_masks(rng: np.random.Generator) -> None:
    a, b = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    a[:2], b[1:3] = True, True
    assert dice(a, b) == 0.5
    masks = (rng.random((60, 3, 8, 8)) < 0.5).astype(float)
    masks[:, 2] = np.nan
    real = Reading(np.zeros((60, 0)), np.zeros(60), np.zeros(60), np.nan_to_num(masks))
    rows = mask_adherence(real, real, masks, np.arange(60), prompts="x", of="")
    assert [row["of"] for row in rows] == ["lung", "heart", "lesion"]
    assert rows[0]["generated"] == 1
    assert rows[0]["chance"] == pytest.approx(0.5, abs=0.05)
    assert rows[2]["flag"] == "suppressed"


def test_views_of_one_patient_are_matched_and_of_nobody_are_not(rng: np.random.Generator) -> None:
    own = rng.normal(size=(N, 16))
    own /= np.linalg.norm(own, axis=1, keepdims=True)
    apart = rng.permutation(own)
    sex = np.where(rng.random(N) < 0.5, "F", "M")
    chosen = others(sex, patients(), 0)
    assert (sex[chosen] == sex).all()
    assert (patients()[chosen] != patients()).all()
    rows = view_consistency((own, own), (own, apart), sex, patients(), prompts="x", seed=0)
    assert [row["real"] for row in rows] == [1, 1]
    assert [row["generated"] for row in rows] == pytest.approx([0.5, 0.5], abs=0.08)


def test_diversity_knows_copies_from_draws(rng: np.random.Generator) -> None:
    a, b = rng.integers(0, 256, (2, 12, 32, 32), dtype=np.uint8)
    assert ms_ssim(a, a) == pytest.approx(np.ones(12))
    assert (ms_ssim(a, b) < 0.5).all()
    row = diversity((a, b), (a, a), np.arange(12), prompts="x", of="one prompt")
    assert row["generated"] == pytest.approx(1)
    assert row["difference_low"] > 0.4


def test_twins_share_everything_but_the_patient() -> None:
    labels = np.array([[1, 0], [1, 0], [1, 0], [0, 0], [1, 0], [1, 0]])
    sex, view = np.array(["F", "F", "F", "F", "M", "F"]), np.array(["PA"] * 5 + ["AP"])
    age, who = np.array([50, 53, 70, 50, 50, 50.0]), np.array(["a", "b", "c", "d", "e", "f"])
    assert twins(labels, sex, age, view, who) == [(0, 1)]
    assert twins(labels, sex, age, view, np.array(["a", "a", "c", "d", "e", "f"])) == []


def test_planted_memorisation_is_found(rng: np.random.Generator) -> None:
    def images(n: int) -> np.ndarray:
        coarse = rng.integers(0, 256, (n, 8, 8))
        return np.kron(coarse, np.ones((1, 8, 8))).astype(np.uint8)

    train, held, own = images(40), images(20), images(20)
    about = Training(train, [f"t{i}" for i in range(40)], ["p"] * 40)
    names = [f"g{i}" for i in range(20)]
    rows, listed = memorisation(own, held, about, images=names, of="images")
    assert [row["measure"] for row in rows] == [
        "nearest training image", "closer than any real", "aligned correlation", "called a copy",
        "more copies than chance",
    ]  # fmt: skip
    assert rows[4]["flag"] == "few"
    assert rows[4]["generated"] > 0.05
    planted = own.copy()
    planted[7] = np.clip(train[13].astype(int) + rng.integers(-3, 4, (64, 64)), 0, 255)
    rows, listed = memorisation(planted, held, about, images=names, of="images")
    assert {row["flag"] for row in rows} == {"copies"}
    assert rows[1]["generated"] >= 1
    assert tuple(listed.iloc[0][["image", "nearest_image"]]) == ("g7", "t13")
    assert bool(listed["closer_than_real"].iloc[0])
    assert listed["correlation"].iloc[0] > 0.95
    same, _ = memorisation(held, held, about, images=names, of="images")
    assert {row["flag"] for row in same} == {"few"}
    assert same[1]["generated"] == 0
    many, _ = memorisation(planted.repeat(20, axis=0), held, about, images=names * 20, of="images")
    assert many[4]["method"].startswith("p-value: 20 images match better than the real patient of rank 1")


def swapped_plan(n: int = 60) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "prompt_id": [f"p{i}" for i in range(n)], "labels": ["A|-B", "-A|?B"] * (n // 2),
            "sex": ["F", None, "M"] * (n // 3), "age": [40.0, 70.0] * (n // 2), "views": "PA", "seed": range(n),
        }
    )  # fmt: skip


def test_a_swap_changes_one_attribute_at_the_same_seed() -> None:
    swaps = swap_plan(swapped_plan(), ["A", "B"], ["sex", "age"], 4)
    part = swaps[swaps["base"] == "p0"].set_index("swapped")
    assert part["labels"].to_dict() == {"": "A|-B", "A": "-A|-B", "B": "A|B", "sex": "A|-B", "age": "A|-B"}
    assert part["direction"].to_dict() == {"": 0, "A": -1, "B": 1, "sex": -1, "age": 1}
    assert part.loc["sex", "sex"] == "M"
    assert part.loc["age", "age"] == 40 + YEARS
    assert swaps.groupby("base")["seed"].nunique().eq(1).all()
    assert list(swaps[swaps["base"] == "p1"]["swapped"]) == ["", "A", "age"]  # an open label and sex are left
    assert swaps["prompt_id"].is_unique


def test_a_swap_matrix_is_in_units_of_real_groups(rng: np.random.Generator) -> None:
    y, sex, age = (rng.random((N, 2)) < 0.5).astype(float), (rng.random(N) < 0.5) * 1.0, rng.uniform(20, 80, N)
    real = Reading(0.2 + 0.5 * y, 0.1 + 0.8 * sex, 10 + 0.5 * age, np.zeros((N, 0, 1, 1)))
    units = real_units(real, y, sex, age)
    assert units == pytest.approx([0.5, 0.5, 0.8, 15])
    swaps = swap_plan(swapped_plan(), ["A", "B"], ["sex", "age"], 60)
    says = {
        "A": (0.25, 0.0, 0.0, 0.0),
        "B": (0.05, 0.5, 0, 0),
        "sex": (0, 0, 0.8, 3),
        "age": (0, 0, 0, 15),
        "": [0] * 4,
    }
    steps = np.array([np.array(says[s]) * d for s, d in zip(swaps["swapped"], swaps["direction"], strict=True)])
    said = Reading(0.3 + steps[:, :2], 0.5 + steps[:, 2], 50 + steps[:, 3], np.zeros((len(swaps), 0, 1, 1)))
    matrix = swap_matrix(said, swaps, ["A", "B"], units)
    want = {"A": [0.5, 0, 0, 0], "B": [0.1, 1, 0, 0], "sex": [0, 0, 1, 0.2], "age": [0, 0, 0, 1]}
    for swapped, values in want.items():
        line = matrix[matrix["swapped"] == swapped]
        assert line["read"].tolist() == ["A", "B", "sex", "age"]
        assert line["change"].tolist() == pytest.approx(values)
    rows = swap_rows(matrix, ["A"])
    own = {row["of"]: row for row in rows if row["measure"] == "swap: own change"}
    assert own["A"]["flag"] == table.WEAK
    assert own["B"]["ratio"] == pytest.approx(1)
    other = {row["of"]: row["generated"] for row in rows if row["measure"] == "swap: other change"}
    assert other["sex"] == pytest.approx(0.2)
    assert other["B"] == pytest.approx(0, abs=1e-9)  # its change of A does not count: A cannot be read


def test_retrieval_of_itself_and_of_noise(rng: np.random.Generator) -> None:
    x, noise = rng.normal(size=(2, 50, 16))
    texts = [f"report {i}" for i in range(50)]
    assert hits(x, x, texts, 1).all()
    rows = retrieval(x, noise, x, texts, np.arange(50), prompts="x", of="")
    assert [row["measure"] for row in rows] == ["recall@1", "recall@10"] * 2
    assert [row["real"] for row in rows] == [1] * 4
    assert [row["chance"] for row in rows] == pytest.approx([0.02, 0.2] * 2)
    assert rows[1]["generated"] == pytest.approx(0.2, abs=0.15)
    twice = [f"report {i // 2}" for i in range(50)]  # either of two equal reports is a right answer
    swapped = np.arange(50) ^ 1
    assert hits(x[swapped], x, twice, 1).all()
    assert not hits(x[swapped], x, texts, 1).any()


def test_reports_that_say_what_was_asked_and_reports_of_somebody_else(rng: np.random.Generator) -> None:
    names = ["Effusion", "Pneumothorax"]
    y = (rng.random((200, 2)) < 0.5).astype(float)
    texts = [
        f"{'Small' if a else 'No'} pleural effusion. {'There is a' if b else 'No'} pneumothorax." for a, b in y.tolist()
    ]
    rows = report_agreement_rows(texts, texts, y, names, np.arange(200), prompts="x")
    assert [row["of"] for row in rows] == [*names, "micro"]
    assert [row["generated"] for row in rows] == [1, 1, 1]
    other = [texts[i] for i in rng.permutation(200)]
    row = report_agreement_rows(texts, other, y, names, np.arange(200), prompts="x")[-1]
    assert row["generated"] == pytest.approx(0.5, abs=0.08)
    assert row["ci_high"] < 0.7
    alone = report_agreement_rows(None, other, y, names, np.arange(200), prompts="x")[-1]
    assert alone["generated"] == row["generated"]
    assert np.isnan(alone["real"])
