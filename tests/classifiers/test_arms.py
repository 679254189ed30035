"""Arms and controls: counts, cells and weights are what they are said to be."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from cxraug.classifiers.arms import KINDS, Images, arm_data, concat, duplicates, oversample, positive_weights
from cxraug.errors import InputError

CELLS = ["A|F|20-39|PA", "A|M|20-39|PA", "A+B|F|40-59|PA", "|M|20-39|PA", "No Finding|M|60-79|AP"]


def images(n: int, value: int = 0) -> Images:
    y = np.stack([np.arange(n) % 2, np.arange(n) % 3 == 0], 1).astype(np.float32)
    return Images(np.full((n, 8, 8), value, np.uint8), y)


def every_arm(seed: int = 0):
    cells = (CELLS * 4)[:20]
    planned = ["A+B|F|40-59|PA"] * 7
    return {k: arm_data(k, images(20), cells, added=images(7, 9), planned_cells=planned, seed=seed) for k in KINDS}


def test_every_kind_of_the_contract_is_built_and_counts_agree():
    arms = every_arm()
    assert {k: len(a.main) for k, a in arms.items() if k != "oversampled"} == {
        "real": 20, "duplicated": 27, "weighted": 20, "augmented": 20, "gaussian": 27, "mixed": 27, "pretrained": 20,
        "real_pretrained": 20, "outside": 27, "ungated": 27, "random_reject": 27,
    }  # fmt: skip
    assert len(arms["pretrained"].pretrain) == len(arms["real_pretrained"].pretrain) == 27
    assert arms["augmented"].augment == "strong"
    assert [k for k, a in arms.items() if a.augment] == ["augmented"]
    assert [k for k, a in arms.items() if a.loss_weights is not None] == ["weighted"]
    assert arms["duplicated"].facts["duplicates_by_match"] == {"cell": 7, "label set": 0, "finding": 0}
    # only arms that are meant to hold added images do
    with_added = {"gaussian", "mixed", "outside", "ungated", "random_reject"}
    assert {k for k, a in arms.items() if (a.main.pixels == 9).any()} == with_added
    assert (arms["pretrained"].pretrain.pixels == 9).any()
    assert not (arms["real_pretrained"].pretrain.pixels == 9).any()


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    st.lists(st.sampled_from(CELLS), min_size=1, max_size=30),
    st.lists(st.integers(0, 999), max_size=40),
    st.integers(0, 9),
)
def test_duplicates_fill_exactly_the_planned_cells(real_cells, picks, seed):
    planned = [real_cells[pick % len(real_cells)] for pick in picks]
    rows, levels = duplicates(real_cells, planned, seed)
    assert [real_cells[row] for row in rows] == planned
    assert levels == {"cell": len(planned), "label set": 0, "finding": 0}
    again, _ = duplicates(real_cells, planned, seed)
    assert (rows == again).all()


def test_an_empty_cell_falls_back_to_its_label_set_and_then_to_its_findings_and_says_so():
    rows, levels = duplicates(CELLS, ["A|M|80+|AP", "B|M|80+|AP", "A+B+C|F|20-39|PA"], 0)
    assert levels == {"cell": 0, "label set": 1, "finding": 2}
    assert rows[0] in (0, 1)
    assert list(rows[1:]) == [2, 2]  # the only image with B, and the one that shares most of A, B, C
    with pytest.raises(InputError, match="shares a finding"):
        duplicates(CELLS, ["Z|M|80+|AP"], 0)


def test_duplicates_are_drawn_with_replacement_from_the_whole_cell():
    rows, _ = duplicates(["A|F|x|PA"] * 4 + ["B|F|x|PA"], ["A|F|x|PA"] * 400, 3)
    counts = Counter(rows.tolist())
    assert set(counts) == {0, 1, 2, 3}
    assert min(counts.values()) > 70


def test_oversampling_makes_planned_label_sets_equally_frequent():
    cells = ["A|F|x|PA"] * 3 + ["B|F|x|PA"] * 9 + ["|F|x|PA"] * 12
    rows = oversample(cells, ["A|F|x|PA", "B|F|x|PA"], 0)
    assert Counter(cells[r].split("|")[0] for r in rows) == {"A": 12, "B": 12, "": 12}
    assert list(rows[:24]) == list(range(24))
    only_a = oversample(cells, ["A|F|x|PA"], 0)  # B is not planned: it counts with the rest
    assert Counter(cells[r].split("|")[0] == "A" for r in only_a) == {True: 21, False: 21}
    assert list(oversample(["A|F|x|PA"] * 3, None, 0)) == [0, 1, 2]


def test_weights_are_negatives_over_positives_capped_and_blank_labels_do_not_count():
    y = np.array([[1, 1, 0, np.nan], [0, np.nan, 0, np.nan], [0, 0, 0, 1], [0, np.nan, 0, np.nan]], np.float32)
    assert positive_weights(y).tolist() == [3.0, 1.0, 1.0, 1.0]
    many = np.zeros((100, 1), np.float32)
    many[0] = 1
    assert positive_weights(many).tolist() == [20.0]


def test_concat_keeps_repeats_and_refuses_other_sizes():
    a = images(4).take(np.array([3, 3, 0]))
    both = concat([a, images(2, 9)])
    assert len(both) == 5
    assert (both.labels[:3] == images(4).y[[3, 3, 0]]).all()
    assert (both.pixels[both.stored(np.arange(5))][3:] == 9).all()
    with pytest.raises(InputError, match="different size"):
        concat([images(2), Images(np.zeros((1, 9, 9), np.uint8), np.zeros((1, 2), np.float32))])


@pytest.mark.parametrize(
    ("kind", "kwargs", "message"),
    [
        ("nonsense", {}, "no such arm"),
        ("mixed", {}, "needs added images"),
        ("duplicated", {}, "needs planned cells"),
        ("mixed", {"added": images(2), "planned_cells": ["A"]}, "differ"),
    ],
)
def test_what_an_arm_lacks_is_named(kind, kwargs, message):
    with pytest.raises(InputError, match=message):
        arm_data(kind, images(2), CELLS[:2], seed=0, **kwargs)
