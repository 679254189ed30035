"""The verdict in words: no claim without its interval, none against it."""

import io

import pandas as pd
import pytest
from rich.console import Console
from sample_run import FINDINGS, VERDICT, comparison

from cxraug.pages.verdict import caveats, heading, meaning, next_steps, outcome, primary_rows, print_verdict, sentence


def change(**values):
    return VERDICT | values


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({}, "better"),
        ({"ci_low": -0.001}, "inconclusive"),  # the interval holds 0
        ({"difference": -0.03, "ci_low": -0.05, "ci_high": -0.01}, "inconclusive"),  # the wrong side
        ({"outcome": "worse", "difference": -0.03, "ci_low": -0.05, "ci_high": -0.01}, "worse"),
        ({"outcome": "better", "metric": "fpr", "difference": -0.03, "ci_low": -0.05, "ci_high": -0.01}, "better"),
        ({"outcome": "better", "metric": "fpr"}, "inconclusive"),  # a higher FPR is not better
        ({"ci_low": None}, ""),
        ({"difference": float("nan")}, ""),
        ({"outcome": "proven"}, ""),
        ({"outcome": "no effect seen", "ci_low": -0.01, "mde": 0.03}, "no effect seen"),
        ({"outcome": "no effect seen", "ci_low": -0.01, "mde": 0.08}, "inconclusive"),  # mde above the room 0.071
        ({"outcome": "no effect seen"}, "inconclusive"),  # the interval does not hold 0
        ({"outcome": "inconclusive", "difference": None, "ci_low": None, "ci_high": None}, "inconclusive"),
    ],
)
def test_the_outcome_shown_follows_from_the_numbers(values, expected):
    assert outcome(change(**values)) == expected


def test_a_claim_without_interval_is_not_repeated():
    verdict = change(ci_low=None)
    assert "+0.032" not in sentence(verdict)
    assert heading(verdict) == "No verdict"
    assert "better" not in sentence(change(ci_low=-0.001))


def test_a_suppressed_endpoint_keeps_its_own_sentence():
    verdict = change(
        outcome="inconclusive", sentence="inconclusive, too few", difference=None, ci_low=None, ci_high=None
    )
    assert sentence(verdict) == "inconclusive, too few"
    assert "too few patients" in meaning(verdict)


def test_inconclusive_says_how_much_more_is_needed():
    verdict = change(outcome="inconclusive", mde=0.142, room=0.071, ci_low=-0.01)
    assert next_steps(verdict)[0].startswith("About 4 times as much evidence")  # (0.142 / 0.071)^2
    assert "not evidence that synthetic images do nothing" in meaning(verdict)


def test_no_effect_names_the_smallest_difference_that_would_have_been_seen():
    verdict = change(outcome="no effect seen", ci_low=-0.01, mde=0.029)
    assert "0.029 or more in four of five" in meaning(verdict)
    assert any("+0.071 [+0.050, +0.092]" in step for step in next_steps(verdict))


def test_no_effect_is_no_advice_against_synthesis_where_little_was_tried():
    nothing = change(outcome="no effect seen", ci_low=-0.01, mde=0.029)
    assert next_steps(nothing)[0].startswith("Do not expect a gain")
    assert "rests on one draw and few test cases" in next_steps(nothing | {"n_draws": 1, "few": True})[0]
    assert next_steps(nothing | {"room": None})[0].startswith("Measure the room")
    assert outcome(nothing | {"room": None, "mde": 0.3}) == "inconclusive"  # a perfect value is 0.249 away
    assert "would differ from “duplicated” by 0.249" in meaning(
        nothing | {"outcome": "inconclusive", "room": None, "mde": 0.3}
    )


@pytest.mark.parametrize("control", ["ungated", "random_reject"])
def test_a_comparison_with_the_ungated_core_is_about_the_gate_and_not_about_synthesis(control):
    better = change(control=control)
    assert meaning(better).startswith("What the gate threw out made Pneumothorax AUROC worse")
    assert next_steps(better)[0].startswith("Keep the gate on")
    worse = change(control=control, outcome="worse", difference=-0.03, ci_low=-0.05, ci_high=-0.01)
    assert meaning(worse).startswith("The gate's choice harms Pneumothorax AUROC")
    assert not any("Do not add these images" in step for step in next_steps(worse))
    nothing = change(control=control, outcome="no effect seen", ci_low=-0.01)
    assert next_steps(nothing)[0].startswith("Do not expect a gain from the gate")
    assert next_steps(nothing | {"n_seeds": 1})[0].startswith("Repeat with more before giving the gate up")
    assert "A worse core may change this" in next_steps(nothing)[-1]
    unclear = change(control=control, outcome="inconclusive", ci_low=-0.01, mde=0.2)
    assert meaning(unclear).endswith("That is not evidence that the gate does nothing.")
    # without the gate against a real control it is about the images again
    assert "longer training is not the reason" in meaning(change(arm=control, control="duplicated"))
    assert "longer training is not the reason" in meaning(change(arm="ungated", control="random_reject"))


def test_caveats_tell_of_outside_data_single_draws_and_missing_measurements():
    assert caveats(VERDICT)[0].startswith("With outside data")
    assert caveats(VERDICT)[-1] == "The core phantom-nano was trained on a phantom cohort."
    lines = caveats(change(outside=False, n_draws=1, n_seeds=1, mde=None, room=None, notes=[]))
    assert [line.split(":")[0].split(" ")[0] for line in lines] == ["One", "One", "The", "The"]
    assert any("several random draws" in step for step in next_steps(change(n_draws=1)))


def test_primary_rows_are_the_primary_arm_with_its_control_first():
    rows = primary_rows(VERDICT, comparison(FINDINGS))
    assert rows["baseline"].tolist() == ["duplicated", "real", "weighted", "gaussian"]
    assert set(rows["arm"]) == {"mixed"}
    assert set(rows["finding"]) == {"Pneumothorax"}


def printed(verdict, frame) -> str:
    stream = io.StringIO()
    print_verdict(verdict, frame, console=Console(file=stream, width=120))
    return stream.getvalue()


def test_the_terminal_shows_the_same_numbers():
    text = printed(VERDICT, comparison(FINDINGS))
    assert "Better than the control" in text
    assert "+0.032 [+0.011, +0.053]" in text
    assert "8 × 3" in text
    assert "0.071" in text


def test_the_terminal_hides_suppressed_numbers():
    frame = comparison(FINDINGS)
    frame.loc[frame["baseline"] == "real", "flag"] = "suppressed"
    row = next(line for line in printed(VERDICT, frame).splitlines() if "│ real" in line)
    assert "suppressed" in row
    assert "0." not in row


def test_hostile_names_do_not_drive_the_terminal():
    evil = "[red]x[/red]\x1b[2J\x07"
    verdict = change(finding=evil, sentence=f"{evil} AUROC", arm=evil)
    text = printed(verdict, pd.DataFrame())
    assert "\x1b" not in text
    assert "\x07" not in text
    assert "[red]x[/red]" in text  # shown as written, not as a style
