"""Readers who agree, counted here by plain loops."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from cxraug.studies.sources.consensus import agreed_boxes, agreed_labels

COLUMNS = ["image", "label", "reader", "x", "y", "w", "h"]


def test_two_of_three_make_a_finding_and_one_a_doubt() -> None:
    votes = pd.DataFrame(
        [("a", "M", "1"), ("a", "M", "2"), ("a", "M", "2"), ("a", "N", "3"), ("a", "N", "3"), ("b", "N", "1")],
        columns=["image", "label", "reader"],
    )
    found = agreed_labels(votes, pd.Series({"a": 3, "b": 1}), 2)
    assert found.to_records(index=False).tolist() == [("a", "M", 1), ("a", "N", -1), ("b", "N", 1)]


def test_boxes_that_overlap_become_one_of_medians() -> None:
    boxes = pd.DataFrame(
        [("a", "M", "1", 0, 0, 10, 10), ("a", "M", "2", 1, 0, 10, 10), ("a", "M", "3", 2, 0, 10, 12),
         ("a", "M", "3", 100, 100, 5, 5), ("a", "N", "1", 0, 0, 10, 10), ("a", "M", "1", 50, 50, 9, 9),
         ("a", "M", "1", 50, 50, 9, 9)],
        columns=COLUMNS,
    )  # fmt: skip
    found = agreed_boxes(boxes, pd.Series({"a": 3}), 2, 0.4)
    assert found.to_records(index=False).tolist() == [("a", "M", 1.0, 0.0, 10.0, 10.0)]
    alone = agreed_boxes(boxes.iloc[:1], pd.Series({"a": 1}), 2, 0.4)
    assert len(alone) == 1
    assert agreed_boxes(boxes.iloc[:0], pd.Series({"a": 3}), 2, 0.4).empty


def overlap(a: tuple, b: tuple) -> float:
    (ax, ay, aw, ah), (bx, by, bw, bh) = a[3:], b[3:]
    w, h = min(ax + aw, bx + bw) - max(ax, bx), min(ay + ah, by + bh) - max(ay, by)
    shared = max(w, 0) * max(h, 0)
    return shared / (aw * ah + bw * bh - shared)


def slow(rows: list[tuple], least: int, threshold: float) -> set[tuple]:
    """Sets of linked boxes grown one link at a time."""
    sets = [{i} for i in range(len(rows))]
    for i, j in combinations(range(len(rows)), 2):
        a, b = rows[i], rows[j]
        if a[:2] == b[:2] and a[2] != b[2] and overlap(a, b) >= threshold:
            one, two = next(s for s in sets if i in s), next(s for s in sets if j in s)
            if one is not two:
                one |= two
                sets.remove(two)
    found = set()
    for group in sets:
        members = [rows[i] for i in group]
        if len({m[2] for m in members}) >= least:
            edges = np.median([(m[3], m[4], m[3] + m[5], m[4] + m[6]) for m in members], axis=0)
            found.add((members[0][0], members[0][1], *map(float, edges)))
    return found


row = st.tuples(st.sampled_from("ab"), st.sampled_from("MN"), st.sampled_from("123"), st.integers(0, 9),
                st.integers(0, 9), st.integers(1, 9), st.integers(1, 9))  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(st.lists(row, max_size=12), st.integers(1, 3))
def test_agreed_boxes_are_those_of_plain_loops(rows: list[tuple], least: int) -> None:
    boxes = pd.DataFrame(rows, columns=COLUMNS)
    found = agreed_boxes(boxes, pd.Series({"a": 3, "b": 3}), least, 0.4)
    fast = {(b.image, b.label, float(b.x), float(b.y), float(b.x + b.w), float(b.y + b.h)) for b in found.itertuples()}
    assert fast == slow(rows, least, 0.4)
