"""The controls of a gate: same counts per cell, no eye for the gate's verdicts, and nothing that it chose."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toycore import ToyCore, draw_chest, toy_plan

from cxraug.seeds import derive_seed
from cxraug.storage import file_sha256
from cxraug.studies.images import Encoding
from cxraug.synthesis.assembly import write_set
from cxraug.synthesis.generate import first_draw, generate_set, redraw
from cxraug.synthesis.rejection import (
    FRESH,
    LEFT_OUT,
    gated_draws,
    list_first_draws,
    list_random_rejection,
    load_listed,
    match_cells,
    reject_at_random,
)

REDRAWN = ("p000001", "p000004", "p000007", "p000010")  # all of the cell of Mass, rejected once
GIVEN_UP = ("p000004", "p000010")  # and twice
ENCODING = Encoding(size=32)


@pytest.fixture(scope="module")
def draw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a draw whose set went through a gate that rejects by name."""
    folder = tmp_path_factory.mktemp("draw-00")
    out = generate_set(toy_plan(), ToyCore(), folder / "sets" / "core")
    lines = first_draw(out) + redraw(out, ToyCore(), REDRAWN, 1)
    last = {line["prompt_id"]: line for line in lines}
    reasons = {line["image"]: ["bad"] if name in GIVEN_UP else [] for name, line in last.items()}
    write_set(out, lines, reasons)
    return folder


def cells_of(plan: pd.DataFrame) -> list[str]:
    return list(plan["labels"] + "|" + plan["sex"])


def test_the_gates_draws_are_read_from_its_set(draw: Path) -> None:
    found = gated_draws(draw / "sets" / "core")
    assert {name: found[name] for name in REDRAWN} == {
        "p000001": 1, "p000004": LEFT_OUT, "p000007": 1, "p000010": LEFT_OUT,
    }  # fmt: skip
    assert Counter(found.values()) == {0: 18, 1: 2, LEFT_OUT: 2}


def test_ungated_are_all_first_draws_in_plan_order_with_no_verdict(draw: Path) -> None:
    plan = toy_plan()
    assert list_first_draws(draw / "sets" / "core", draw / "ungated") == {"images": 22, "studies": 22}
    frame, pixels = load_listed(draw / "ungated", ENCODING)
    assert frame["prompt_id"].tolist() == plan["prompt_id"].tolist()
    assert frame["image"].tolist() == [f"sets/core/images/{name}-PA.png" for name in plan["prompt_id"]]
    for i, (labels, seed) in enumerate(zip(plan["labels"], plan["seed"], strict=True)):
        asked = {name.lstrip("-"): int(name[0] != "-") for name in labels.split("|")}
        assert np.array_equal(pixels[i], draw_chest(asked, np.random.default_rng([seed, 0])))  # the rejected ones too
    assert "gate" not in frame or frame["gate"].isna().all()


def test_random_rejection_has_the_gates_counts_in_every_cell_and_images_no_verdict_chose(draw: Path) -> None:
    plan, core = toy_plan(), draw / "sets" / "core"
    cells = cells_of(plan)
    counts = list_random_rejection(core, plan, ToyCore(), draw / "random_reject", cells=cells, seed=5)
    assert counts == {"images": 20, "studies": 20, "drawn_again": 2, "left_out": 2}
    frame, _ = load_listed(draw / "random_reject", ENCODING)
    by_name = dict(zip(plan["prompt_id"], cells, strict=True))
    accepted = [name for name, taken in gated_draws(core).items() if taken != LEFT_OUT]
    assert Counter(by_name[name] for name in frame["prompt_id"]) == Counter(by_name[name] for name in accepted)
    assert frame["prompt_id"].is_monotonic_increasing
    # an image is a first draw or a fresh one, never one that the gate asked for
    fresh = frame[frame["image"].str.startswith(f"random_reject/{FRESH}/")]
    assert len(fresh) == 2
    assert set(frame["image"]) - set(fresh["image"]) <= {f"sets/core/images/{n}-PA.png" for n in plan["prompt_id"]}
    # what is drawn anew has the seed of the re-draw that the gate would have asked for
    asked = dict(zip(plan["prompt_id"], plan["seed"], strict=True))
    for row in fresh.to_dict("records"):
        assert row["seed"] == derive_seed("redraw", asked[row["prompt_id"]], 1)
    # the same call leaves the same bytes
    before = file_sha256(draw / "random_reject" / "manifest.parquet")
    list_random_rejection(core, plan, ToyCore(), draw / "random_reject", cells=cells, seed=5)
    assert file_sha256(draw / "random_reject" / "manifest.parquet") == before


def test_a_gate_that_rejects_nothing_leaves_both_controls_as_its_own_images(tmp_path: Path) -> None:
    out = generate_set(toy_plan(), ToyCore(), tmp_path / "core")
    lines = first_draw(out)
    write_set(out, lines, {line["image"]: [] for line in lines})
    plan = toy_plan()
    list_first_draws(out, tmp_path / "ungated")
    counts = list_random_rejection(out, plan, ToyCore(), tmp_path / "random_reject", cells=cells_of(plan), seed=0)
    assert counts == {"images": 22, "studies": 22, "drawn_again": 0, "left_out": 0}
    left, right = (pd.read_parquet(tmp_path / name / "manifest.parquet") for name in ("ungated", "random_reject"))
    pd.testing.assert_frame_equal(left, right)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from([0, 0, 0, 1, 2, LEFT_OUT]), st.sampled_from("abc")), max_size=40),
    st.integers(0, 9),
)
def test_the_numbers_of_every_cell_are_kept_and_the_gates_choice_is_not_looked_at(rows, seed) -> None:
    draws, cells = [d for d, _ in rows], [c for _, c in rows]
    dealt = reject_at_random(draws, cells, seed)
    assert Counter(zip(dealt, cells, strict=True)) == Counter(zip(draws, cells, strict=True))
    # the same numbers in another order inside each cell are dealt out in the same way
    moved = list(draws)
    for cell in set(cells):
        places = [i for i, c in enumerate(cells) if c == cell]
        for i, j in zip(places, reversed(places), strict=True):
            moved[i] = draws[j]
    assert reject_at_random(moved, cells, seed) == dealt


def test_each_study_is_rejected_with_equal_probability() -> None:
    """Hypergeometric: 10 studies, the gate rejected the first 3; each is hit in 30 % of 2,000 choices (sd 1.0 %)."""
    hits = np.zeros(10)
    for seed in range(2000):
        hits += np.array(reject_at_random([1, LEFT_OUT, 1] + [0] * 7, ["x"] * 10, seed)) != 0
    assert np.abs(hits / 2000 - 0.3).max() < 0.045


def test_matching_takes_the_first_of_each_cell_and_keeps_shared_images_in_place() -> None:
    # the gate kept b, c, d of cell x; without it a, b, c come first, whatever the verdict on a was
    rows = match_cells(["d", "b", "c", "e"], ["x", "x", "x", "y"], ["a", "b", "c", "d", "e"], ["x", "x", "x", "x", "y"])
    assert rows.tolist() == [0, 1, 2, 4]
    with pytest.raises(ValueError, match="cell 'y': 1 images for 2"):
        match_cells(["a", "b"], ["y", "y"], ["a"], ["y"])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=40), st.randoms())
def test_matched_images_fill_the_same_cells_none_twice(rows, order) -> None:
    keys, cells = [str(i) for i in range(len(rows))], [cell for cell, _ in rows]
    arm = [i for i, (_, accepted) in enumerate(rows) if accepted]
    order.shuffle(arm)
    chosen = match_cells([keys[i] for i in arm], [cells[i] for i in arm], keys, cells)
    assert [cells[row] for row in chosen] == [cells[i] for i in arm]
    assert len(set(chosen.tolist())) == len(arm)
