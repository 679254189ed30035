"""Plots: marks stand where the numbers are."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cxraug.pages.plot import Axis, Change, Interval, changes, curve, effect, forest


def test_axis_has_round_ticks_and_linear_positions():
    axis = Axis(-0.021, 0.078)
    assert axis.ticks == [-0.04, -0.02, 0.0, 0.02, 0.04, 0.06, 0.08]
    assert axis.at(-0.04) == 0
    assert axis.at(0.08) == 100
    assert axis.at(0.02) == 50
    assert axis.at(9) == 100  # cut off, never outside the plot
    assert axis.text(0.02, sign=True) == "+0.02"
    assert axis.text(-0.02, sign=True) == "−0.02"
    assert axis.text(0.0, sign=True) == "0.00"


@given(st.floats(-1e4, 1e4), st.floats(1e-4, 1e4))
def test_axis_holds_what_it_is_given(low, span):
    axis = Axis(low, low + span)
    assert axis.low <= low + 1e-9 * span + 1e-9
    assert axis.high >= low + span - 1e-9 * span - 1e-9
    assert 2 <= len(axis.ticks) <= 12


def test_forest_puts_the_dot_and_the_ends_at_the_numbers():
    html = forest([Interval("a", 0.5, 0.25, 0.75, strong=True), Interval("b", 0.0, 0.0, 1.0)], what="x", reference=0.0)
    assert 'x1="25.0%" x2="75.0%"' in html
    assert 'cx="50.0%"' in html
    assert "0.500 [0.250, 0.750]" in html
    assert html.count("row strong") == 1


def test_suppressed_row_is_kept_without_a_mark():
    html = forest([Interval("seen", 0.5, 0.4, 0.6), Interval("hidden", note="suppressed: fewer than 10")], what="x")
    assert html.count("<circle") == 1
    assert "hidden" in html
    assert "suppressed: fewer than 10" in html


def test_one_hopeless_interval_does_not_flatten_the_others():
    rows = [Interval(str(i), 0.5, 0.48, 0.52) for i in range(9)] + [Interval("wide", 0.5, 0.0, 1.0)]
    html = forest(rows, what="x")
    assert "◂" in html
    assert "▸" in html
    assert "0.500 [0.000, 1.000]" in html  # the text tells the whole interval


def test_change_bars_are_in_proportion():
    html = changes([Change("cell", 25, 100, target=50)], what="n")
    assert 'class="s-before" x="0" width="25.0%"' in html
    assert 'class="s-added" x="25.0%" width="75.0%"' in html
    assert 'class="s-target" x1="50.0%"' in html
    assert "25 → 100" in html


def test_effect_shows_room_and_what_could_be_detected():
    html = effect(0.032, 0.011, 0.053, mde=0.029, room=0.071, what="difference")
    assert "too small for this experiment to detect (±0.029)" in html
    assert "room left by the learning curve (+0.071)" in html
    assert 'aria-label="difference: +0.032 [+0.011, +0.053]"' in html
    bare = effect(0.032, 0.011, 0.053, mde=None, room=None, what="difference")
    assert "s-band" not in bare
    assert "s-room" not in bare


@pytest.mark.parametrize("names", [["10"], ["10", "30", "all"]])
def test_curve_has_one_dot_per_step_and_says_its_numbers(names):
    means = [0.7 + 0.05 * i for i in range(len(names))]
    ends = [None] * len(names)
    html = curve(names, means, ends, ends, points=[(0, 0.69), (0, 0.71)], x_name="patients", y_name="AUROC")
    assert html.count("s-dot accent") == len(names)
    assert html.count("s-faint") == 2
    assert "polygon" not in html  # no interval, no band
    assert "0.700 at 10" in html


def test_names_are_escaped_and_bytes_repeat():
    rows = [Interval("<b>x</b>", 0.1, 0.0, 0.2, group="<i>g</i>")]
    html = forest(rows, what="<u>w</u>")
    assert not re.search(r"<[biu]>", html)
    assert html == forest(rows, what="<u>w</u>")
