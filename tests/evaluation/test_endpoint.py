import pandas as pd
import pytest
from pydantic import ValidationError

from cxraug.errors import InputError
from cxraug.evaluation.assembly import COMPARISON
from cxraug.evaluation.endpoint import Endpoint, verdict
from cxraug.evaluation.evaluate import Evaluation

ENDPOINT = Endpoint(arm="mixed", control="duplicated", finding="Pneumothorax")


def evaluation(difference=0.031, half=0.019, p=0.001, mde=0.027, **changes):
    row = {
        "baseline": "duplicated", "arm": "mixed", "finding": "Pneumothorax", "group": "all", "level": "all",
        "metric": "auroc", "difference": difference, "ci_low": difference - half, "ci_high": difference + half,
        "p_value": p, "p_adjusted": p, "family": "primary", "n_seeds": 3, "n_draws": 8, "n_patients": 500, "mde": mde,
        "flag": "",
    }  # fmt: skip
    frame = pd.DataFrame([{**row, **changes}], columns=list(COMPARISON))
    return Evaluation(pd.DataFrame(), pd.DataFrame(), frame, {"settings": {"alpha": 0.05}})


def test_the_sentence_says_what_against_what_with_how_much():
    found = verdict(evaluation(), ENDPOINT, room=0.05, outside=True, notes=["validation was not limited"])
    assert found["sentence"].startswith(
        "Pneumothorax AUROC +0.031 [0.012, 0.050] against the count-matched control (duplicated), "
        "8 draws x 3 seeds, with outside data"
    )
    assert found["outcome"] == "better"
    assert (found["difference"], found["mde"], found["room"]) == (0.031, 0.027, 0.05)
    assert (found["outside"], found["notes"]) == (True, ["validation was not limited"])


@pytest.mark.parametrize(
    ("difference", "p", "mde", "room", "outcome"),
    [
        (0.031, 0.001, 0.027, 0.05, "better"),
        (-0.031, 0.001, 0.027, 0.05, "worse"),
        (0.005, 0.4, 0.027, 0.05, "no effect seen"),
        (0.005, 0.4, 0.027, 0.02, "inconclusive"),
        (0.031, 0.001, 0.027, 0.02, "inconclusive"),
        (-0.031, 0.001, 0.027, 0.02, "worse"),
        (0.005, 0.4, 0.027, None, "no effect seen"),
        (0.005, 0.4, 0.027, -0.01, "inconclusive"),
    ],
)
def test_outcomes(difference, p, mde, room, outcome):
    found = verdict(evaluation(difference=difference, p=p, mde=mde), ENDPOINT, room=room, outside=False, notes=[])
    assert found["outcome"] == outcome
    assert "outside" not in found["sentence"]


def test_lower_is_better_for_error_rates():
    endpoint = ENDPOINT.model_copy(update={"metric": "fnr"})
    assert verdict(evaluation(difference=-0.05, metric="fnr"), endpoint, room=0.1)["outcome"] == "better"


def test_one_draw_says_that_draws_were_not_assessed():
    assert "1 draw x 3 seeds (draws were not assessed)" in verdict(evaluation(n_draws=1), ENDPOINT)["sentence"]
    assert "nor were seeds" in verdict(evaluation(n_draws=1, n_seeds=1), ENDPOINT)["sentence"]


def test_a_suppressed_cell_is_inconclusive_and_shows_no_number():
    nothing = dict.fromkeys(("ci_low", "ci_high"), float("nan"))
    row = evaluation(difference=float("nan"), p=float("nan"), mde=float("nan"), flag="suppressed", **nothing)
    found = verdict(row, ENDPOINT, room=0.05)
    assert found["outcome"] == "inconclusive"
    assert found["difference"] is None
    assert "nan" not in found["sentence"]


def test_non_inferiority_needs_the_whole_interval_inside_the_margin():
    shown = verdict(evaluation(difference=0.0, p=1.0), ENDPOINT.model_copy(update={"margin": 0.02}), room=0.05)
    assert "; non-inferior at the margin 0.02" in shown["sentence"]
    missed = verdict(evaluation(difference=-0.005, p=0.6), ENDPOINT.model_copy(update={"margin": 0.02}), room=0.05)
    assert "non-inferiority not shown" in missed["sentence"]


def test_bad_endpoints_are_refused():
    with pytest.raises(ValidationError):
        Endpoint(arm="a", control="b", finding="c", metric="auc")
    with pytest.raises(ValidationError):
        Endpoint(arm="a", control="b", finding="c", test="z")
    with pytest.raises(InputError, match="was not evaluated"):
        verdict(evaluation(arm="other"), ENDPOINT)
