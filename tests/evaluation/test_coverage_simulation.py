"""The intervals against simulated patients with known truth (``benchmarks/coverage.py``), and the simulation itself."""

from concurrent.futures import ThreadPoolExecutor
from functools import partial
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score

from benchmarks import coverage
from benchmarks.coverage import AT_ONCE, CASE_MIXES, FAMILY_BAND, THRESHOLD, Seen, simulate, summary
from cxraug.evaluation.predictions import read_predictions
from cxraug.evaluation.uncertainty import mixed_df

SLOW = 400  # replicates of a slow test
LAST = list(CASE_MIXES)[-1]


# -- the simulation ----------------------------------------------------------------------------------------------------


def test_truth_of_two_unit_normals():
    line = coverage.posterior_line(0.1, 1.5)
    found = coverage.truths(np.array([1, 1.5]), np.array([1, 0]), 0.1, line)
    assert found["auroc"] == pytest.approx(stats.norm.cdf(1.5 / np.sqrt(2)))
    assert (found["tpr"], found["fpr"]) == pytest.approx((stats.norm.sf(-0.5), stats.norm.sf(1)))
    assert found["ece"] == pytest.approx(0, abs=1e-9)  # p is the posterior
    chance = coverage.truths(np.array([1, 0]), np.array([1, 0]), 0.3, (0, 0))
    assert [chance[name] for name in ("auroc", "auprc", "ppv", "brier", "ece")] == pytest.approx(
        [0.5, 0.3, 0.3, 0.25, 0.2]
    )


def test_patients_are_as_stated():
    rng = np.random.default_rng(0)
    ids = coverage.patients_of(60000, rng)
    assert len(ids) / 60000 == pytest.approx(3.4, abs=0.05)
    noise, first = coverage.latent(ids, rng), np.flatnonzero(ids[1:] == ids[:-1])
    assert np.corrcoef(noise[first], noise[first + 1])[0, 1] == pytest.approx(0.4, abs=0.01)
    assert coverage.labels(ids, 0.1, rng).mean() == pytest.approx(0.1, abs=0.004)
    lasting = coverage.labels(ids, 0.1, rng, rho=1.0)
    assert (lasting[first] == lasting[first + 1]).all()


def overlap_weights(woman, stratum):
    """Share of the other sex in the stratum: the definition, image by image."""
    women = pd.Series(woman).groupby(stratum).transform("mean").to_numpy()
    return np.where(woman, 1 - women, women)


@pytest.fixture(scope="module")
def many():
    """A third of a million images."""
    return CASE_MIXES[LAST].simulate(100_000, np.random.default_rng(1))


@pytest.mark.parametrize("matched", ["", "population", "prevalence"])
def test_true_gaps_are_those_of_a_large_sample(many, matched):
    mix = CASE_MIXES[LAST]
    y, p, woman = many.y[0], many.p[0, 0], (many.table["sex"] == "F").to_numpy()
    strata = {"": np.zeros(len(y)), "population": many.table["view"].to_numpy(), "prevalence": y}
    weight = overlap_weights(woman, strata[matched])
    line = coverage.posterior_line(mix.overall)
    called = p >= 1 / (1 + np.exp(-line[0] - line[1] * THRESHOLD))

    def values(side):
        truth, score, w, positive = y[side], p[side], weight[side], called[side]
        rates = [np.average(part[keep], weights=w[keep]) for part, keep in (
            (positive, truth == 1), (positive, truth == 0), (truth, positive), (1 - truth, ~positive))]  # fmt: skip
        return {
            "auroc": roc_auc_score(truth, score, sample_weight=w),
            "auprc": average_precision_score(truth, score, sample_weight=w),
            "brier": brier_score_loss(truth, score, sample_weight=w),
            **dict(zip(("tpr", "fpr", "ppv", "npv"), rates, strict=True)),
        }

    women, men, truth = values(woman), values(~woman), mix.gaps(matched)
    for name in women if matched == "" else set(women) & set(coverage.MATCHED[matched]):
        assert women[name] - men[name] == pytest.approx(truth[name], abs=0.008), name


def test_true_calibration_error_is_that_of_a_large_sample():
    rng = np.random.default_rng(2)
    y = (rng.random(1_000_000) < 0.1).astype(float)
    line = (-3.0, 2.0)
    p = 1 / (1 + np.exp(-line[0] - line[1] * (1.5 * y + rng.standard_normal(len(y)))))
    bins = np.searchsorted(np.quantile(p, np.arange(1, 15) / 15), p)
    miss, size = np.bincount(bins, y - p) / len(y), np.bincount(bins) / len(y)
    assert coverage.plain_truths(0.1, line)["ece"] == pytest.approx(np.sqrt((miss**2 / size).sum()), abs=0.001)


def test_expected_metrics_average_over_classifiers():
    sharp = coverage.expected(0.3, 1.5, 0.0, 0.0)
    plain = coverage.plain_truths(0.3, coverage.posterior_line(0.3))
    assert sharp == pytest.approx({name: plain[name] for name in sharp}, abs=1e-5)
    grid = 0.3 * stats.norm.ppf((np.arange(20) + 0.5) / 20)  # twenty equally likely deviations
    each = [coverage.expected(0.3, 1.2 + a, 0.1 + b, 0.0) for a in grid for b in grid]
    for name, value in coverage.expected(0.3, 1.2, 0.1, 0.09).items():
        assert np.mean([one[name] for one in each]) == pytest.approx(value, abs=0.004)


def test_predictions_are_those_that_tables_give():
    rng = np.random.default_rng(4)
    ids = coverage.patients_of(80, rng)
    y, half = coverage.labels(ids, 0.4, rng), rng.integers(0, 2, 80)[ids]
    line = coverage.posterior_line(0.4)
    p = coverage.probability(1.5 * y + rng.standard_normal((2, len(y))), line)
    columns = {"image": [f"{k:04d}.png" for k in range(len(y))], "patient_id": [f"p{k:02d}" for k in ids], "half": half}
    frames = [pd.DataFrame({**columns, "y_A": y, "p_A": p[k], "arm": str(k), "seed": 0}) for k in range(2)]
    given = coverage.predictions_of(ids, y, p, half=half)
    settings = {"groups": ("half",), "controls": ("0",), "matched": ("prevalence",)}
    found, wanted = (coverage.audit(one, line, **settings) for one in (given, read_predictions(frames)))
    for name in ("cells", "gaps", "comparison"):
        pd.testing.assert_frame_equal(getattr(found, name), getattr(wanted, name))


def test_one_replicate_judges_every_quantity_of_the_tables():
    rng = np.random.default_rng(5)
    seen = {one.name: one for one in coverage.one_classifier(rng, 500, 0.1)}
    assert seen["positives"].value == pytest.approx(500, rel=0.3)
    assert seen["positive patients"].value < seen["positives"].value < seen["patients"].value < seen["images"].value
    truth = coverage.plain_truths(0.1, coverage.posterior_line(0.1))
    for name in coverage.CELL_METRICS[:-1]:
        assert seen[name].value == pytest.approx(truth[name], abs=0.12), name
    assert {one.hit for one in seen.values() if one.name in truth} <= {0.0, 1.0}
    few = {one.name: one for one in coverage.one_classifier(rng, 20, 0.1)}
    assert few["auroc"].flag in ("few", "suppressed")
    assert np.isnan(few["gap of auroc"].hit)
    names = [one.name for one in coverage.no_gap(rng)]
    for group in coverage.GROUPINGS:
        for metric in (*coverage.FAMILIES, *coverage.EXTREMES_SEEN):
            assert names.count(f"{group}: {metric}") == AT_ONCE
    paired = coverage.comparison(rng, "draws matter", 2, 2, 100)
    assert [one.name for one in paired] == list(coverage.COMPARED)


@pytest.mark.parametrize("units", [3, 5, 8])
@pytest.mark.parametrize("ratio", [0, 0.5, 1, 4, 10])
def test_degrees_of_freedom_hold_the_band_where_satterthwaites_do_not(units, ratio):
    assert 0.94 < coverage.coverage_of_df(mixed_df, units, ratio) < 0.967
    if units == 3 and ratio == 10:
        assert 0.915 < coverage.coverage_of_df(coverage.squared, units, ratio) < 0.93


def toy(rng):
    return [Seen("a", float(rng.random() < 0.9), value=rng.random()), Seen("b", np.nan, "suppressed")]


def test_blocks_do_not_depend_on_who_computes_them():
    alone = simulate(toy, "toy", 60)
    with ThreadPoolExecutor(3) as pool:
        pd.testing.assert_frame_equal(alone, simulate(toy, "toy", 60, pool))
    assert len(alone) == 120
    pd.testing.assert_frame_equal(alone.iloc[:100], simulate(toy, "toy", 50))  # more replicates keep the first ones
    assert alone["value"].nunique() == 60
    assert not alone["value"].equals(simulate(toy, "another", 60)["value"])


def test_summary_counts_hits_among_what_was_shown():
    seen = [Seen("a", 1.0, "few"), Seen("a", 0.0, "few"), Seen("a", np.nan, "suppressed"), Seen("b", 1.0, "", 2.0)]
    found = summary(pd.DataFrame(seen))
    assert found.loc["a", ["share", "shown", "flag", "replicates"]].tolist() == [0.5, pytest.approx(2 / 3), "few", 3]
    assert found.loc["b", ["share", "value", "shown", "flag"]].tolist() == [1.0, 2.0, 1.0, ""]


def test_a_row_covers_what_its_limits_hold():
    row = SimpleNamespace(ci_low=0.2, ci_high=0.4, value=0.3, flag="")
    assert [coverage.row_seen("x", row, "value", truth).hit for truth in (0.2, 0.4, 0.41)] == [1, 1, 0]
    row.flag = "suppressed"
    assert np.isnan(coverage.row_seen("x", row, "value", 0.3).hit)


def test_outside_means_outside_the_band_widened_by_standard_errors():
    assert [coverage.outside(share, 1000) for share in (0.929, 0.93, 0.97, 0.971)] == [True, False, False, True]
    assert not coverage.outside(0.93 - 2.9 * np.sqrt(0.93 * 0.07 / 1000), 1000, errors=3)
    assert coverage.outside(0.93 - 3.1 * np.sqrt(0.93 * 0.07 / 1000), 1000, errors=3)


def test_the_table_names_flags_and_what_lies_outside():
    page = coverage.Page(1000, None, [], [])

    def told(share, shown, flag, judged=True):
        return page.number(SimpleNamespace(share=share, shown=shown, flag=flag, replicates=900), "here", judged)

    assert told(0.951, 1.0, "") == "95.1"
    assert told(0.9, 0.86, "few") == "90.0 few (86 % shown)"
    assert told(np.nan, 0.0, "suppressed") == "suppressed"
    assert told(0.9, 1.0, "", judged=False) == "90.0"
    assert page.misses == []
    assert told(0.9, 1.0, "") == "90.0 below"
    assert told(0.98, 1.0, "") == "98.0 above"
    assert page.misses == ["here: 90.0 % (standard error 1.0 %)", "here: 98.0 % (standard error 0.5 %)"]


# -- the intervals -----------------------------------------------------------------------------------------------------


def shares(replicate, title, replicates=SLOW):
    """Share of hits by name."""
    return summary(simulate(replicate, title, replicates))["share"]


def hold(found, names, band=coverage.BAND, replicates=SLOW):
    """Every named share lies in its band, widened by three standard errors of the simulation."""
    wrong = {name: found[name] for name in names if coverage.outside(found[name], replicates, band, errors=3)}
    assert not wrong


CASES = {
    "10 %": {"positives": 500, "prevalence": 0.1},
    "50 %": {"positives": 500, "prevalence": 0.5},
    "lasting finding": {"positives": 500, "prevalence": 0.1, "label_rho": 1.0},
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_intervals_of_one_classifier_and_of_gaps_cover(case):
    names = [name for name in coverage.CELL_METRICS if name != "ece"]
    names += [f"gap of {name}" for name in coverage.RAW if name != "ece"]
    names += [f"gap of {name}, matched prevalence" for name in coverage.AT_PREVALENCE]
    hold(shares(partial(coverage.one_classifier, **CASES[case]), case), names)


@pytest.mark.slow
def test_images_taken_for_patients_are_not_covered():
    """The simulation can tell: without clusters the FPR's interval is far too narrow."""
    found = shares(partial(coverage.one_classifier, **CASES["10 %"], by_image=True), "by image", 200)
    assert found["fpr"] < 0.92


@pytest.mark.slow
def test_calibration_errors_are_covered():
    """ECE is wide where nothing is wrong (see ``squared_ece``): there it must only not be too narrow."""
    found = shares(partial(coverage.calibration, positives=500, prevalence=0.1), "calibration")
    levels = ("calibrated", "overconfident")
    names = [f"{metric}, {level}" for metric in ("brier", "calibration_slope") for level in levels]
    hold(found, [*names, "ece, overconfident", "gap of brier, matched prevalence"])
    hold(found, ["ece, calibrated", "gap of ece"], band=(0.93, 1.0))


@pytest.mark.slow
@pytest.mark.parametrize("world", CASE_MIXES)
def test_matched_gaps_cover_and_raw_ones_see_the_case_mix(world):
    found = shares(partial(coverage.matched_gaps, world=world, positives=500), world)
    names = [f"{matched} {metric}" for matched, metrics in coverage.MATCHED.items() for metric in metrics]
    hold(found, [*names, "raw auroc", "raw tpr", "raw fpr"])
    if world == next(iter(CASE_MIXES)):
        assert max(found[f"raw {metric} holds 0"] for metric in ("auroc", "tpr", "fpr")) < 0.3


@pytest.mark.slow
@pytest.mark.parametrize("world", coverage.WORLDS)
@pytest.mark.parametrize("draws", [1, 8])
def test_paired_differences_cover(world, draws):
    replicate = partial(coverage.comparison, world=world, draws=draws, seeds=3, positives=500)
    hold(shares(replicate, f"{world} {draws}"), coverage.COMPARED)


@pytest.mark.slow
def test_families_err_as_promised_also_with_patients_in_two_groups():
    """An extreme's p is below 0.05 at most as often: its null is wide where groups are many and small."""
    found = shares(coverage.no_gap, "no gap", 250)
    families = [f"{group}: {metric}" for group in coverage.GROUPINGS for metric in coverage.FAMILIES]
    hold(found, families, FAMILY_BAND, 250 * AT_ONCE)
    extremes = [f"{group}: {name}" for group in coverage.GROUPINGS for name in coverage.EXTREMES_SEEN]
    hold(found, extremes, (0.0, FAMILY_BAND[1]), 250 * AT_ONCE)
