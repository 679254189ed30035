import pandas as pd
import pytest
from pydantic import ValidationError

from cxraug.errors import InputError
from cxraug.evaluation.assembly import COMPARISON
from cxraug.evaluation.endpoint import Endpoint, verdict
from cxraug.evaluation.evaluate import Evaluation
from cxraug.evaluation.room import Room

ENDPOINT = Endpoint(arm="mixed", control="duplicated", finding="Pneumothorax")


def evaluation(difference=0.031, half=0.019, p=0.001, mde=0.027, control=0.8, **changes):
    row = {
        "baseline": "duplicated", "arm": "mixed", "finding": "Pneumothorax", "group": "all", "level": "all",
        "metric": "auroc", "difference": difference, "ci_low": difference - half, "ci_high": difference + half,
        "p_value": p, "p_adjusted": p, "family": "primary", "n_seeds": 3, "n_draws": 8, "n_patients": 500, "mde": mde,
        "flag": "",
    }  # fmt: skip
    frame = pd.DataFrame([{**row, **changes}], columns=list(COMPARISON))
    cells = pd.DataFrame([{**row, **changes, "arm": "duplicated", "seed": "all", "draw": "all", "value": control}])
    return Evaluation(cells, pd.DataFrame(), frame, {"settings": {"alpha": 0.05}})


def room(value):
    return Room(value, value - 0.01, value + 0.01, 0.8 + value, 0.8)


def test_the_sentence_says_what_against_what_with_how_much():
    found = verdict(evaluation(), ENDPOINT, room=room(0.05), outside=True, notes=["validation was not limited"])
    assert found["sentence"].startswith(
        "Pneumothorax AUROC +0.031 [0.012, 0.050] against the count-matched control (duplicated), "
        "8 draws x 3 seeds, with outside data"
    )
    assert found["outcome"] == "better"
    assert (found["difference"], found["mde"], found["room"]) == (0.031, 0.027, 0.05)
    assert (found["outside"], found["notes"]) == (True, ["validation was not limited"])


@pytest.mark.parametrize(
    ("difference", "p", "mde", "left", "outcome"),
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
def test_outcomes(difference, p, mde, left, outcome):
    found = verdict(
        evaluation(difference=difference, p=p, mde=mde), ENDPOINT, room=None if left is None else room(left)
    )
    assert found["outcome"] == outcome
    assert "outside" not in found["sentence"]


def test_lower_is_better_for_error_rates():
    endpoint = ENDPOINT.model_copy(update={"metric": "fnr"})
    assert verdict(evaluation(difference=-0.05, metric="fnr"), endpoint, room=room(0.1))["outcome"] == "better"


def test_one_draw_says_that_draws_were_not_assessed():
    assert "1 draw x 3 seeds (draws were not assessed)" in verdict(evaluation(n_draws=1), ENDPOINT)["sentence"]
    assert "nor were seeds" in verdict(evaluation(n_draws=1, n_seeds=1), ENDPOINT)["sentence"]


def test_a_suppressed_cell_is_inconclusive_and_shows_no_number():
    nothing = dict.fromkeys(("ci_low", "ci_high"), float("nan"))
    row = evaluation(difference=float("nan"), p=float("nan"), mde=float("nan"), flag="suppressed", **nothing)
    found = verdict(row, ENDPOINT, room=room(0.05))
    assert found["outcome"] == "inconclusive"
    assert found["difference"] is None
    assert "nan" not in found["sentence"]


def test_non_inferiority_needs_the_whole_interval_inside_the_margin():
    shown = verdict(evaluation(difference=0.0, p=1.0), ENDPOINT.model_copy(update={"margin": 0.02}), room=room(0.05))
    assert "; non-inferior at the margin 0.02" in shown["sentence"]
    missed = verdict(
        evaluation(difference=-0.005, p=0.6), ENDPOINT.model_copy(update={"margin": 0.02}), room=room(0.05)
    )
    assert "non-inferiority not shown" in missed["sentence"]


def test_bad_endpoints_are_refused():
    with pytest.raises(ValidationError):
        Endpoint(arm="a", control="b", finding="c", metric="auc")
    with pytest.raises(ValidationError):
        Endpoint(arm="a", control="b", finding="c", test="z")
    with pytest.raises(InputError, match="was not evaluated"):
        verdict(evaluation(arm="other"), ENDPOINT)


def test_what_the_control_lacks_bounds_a_room_that_was_not_measured():
    found = verdict(evaluation(difference=0.005, p=0.4, mde=0.1, control=0.93), ENDPOINT)
    assert found["outcome"] == "inconclusive"
    assert found["most"] == pytest.approx(0.07)
    assert "exceeds all that separates the control from a perfect value, 0.070" in found["sentence"]
    assert verdict(evaluation(difference=0.005, p=0.4, mde=0.06, control=0.93), ENDPOINT)["outcome"] == "no effect seen"
    lower = ENDPOINT.model_copy(update={"metric": "fpr"})
    assert verdict(evaluation(metric="fpr", control=0.2), lower)["most"] == pytest.approx(0.2)


def test_the_room_is_shown_with_its_interval():
    found = verdict(evaluation(difference=0.005, p=0.4), ENDPOINT, room=room(0.05))
    assert "of a room of 0.050 [0.040, 0.060]" in found["sentence"]
    assert (found["room_low"], found["room_high"]) == pytest.approx((0.04, 0.06))
