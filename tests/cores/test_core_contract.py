"""One suite for every core: determinism, refusals by name, shapes, reports, cards."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from cxraug.cores.core import Card, GenerativeCore, Prompt
from cxraug.cores.registry import list_cores, open_core, read_card
from cxraug.errors import InputError
from cxraug.storage import file_sha256
from cxraug.studies.seen import refuse_hidden


@pytest.fixture(params=["gaussian", "diffusion", "toy", "phantom-nano", "pixart"], scope="module")
def core(request: pytest.FixtureRequest) -> GenerativeCore:
    if request.param == "phantom-nano":
        if request.param not in [card.name for card in list_cores()]:
            pytest.skip("not shipped")
        core = open_core("phantom-nano", overrides={"sampler_steps": 2})
        core.batch_size = 4
        return core
    if request.param == "pixart":  # a pipeline of another program
        return open_core(f"diffusers:{request.getfixturevalue('tiny')['pixart']}", overrides={"steps": 2})
    return open_core(request.getfixturevalue(f"{request.param}_folder"))


def prompts(core: GenerativeCore, n: int = 4) -> list[Prompt]:
    findings, view = core.card.findings, core.card.views[-1]
    ages = [30.0 + i if "age" in core.card.conditions else None for i in range(n)]
    return [
        Prompt(f"p{i}", {findings[i % len(findings)]: 1, findings[(i + 1) % len(findings)]: 0}, "MF"[i % 2], ages[i],
               views=(view,))
        for i in range(n)
    ]  # fmt: skip


def images(core: GenerativeCore, asked: list[Prompt], seeds: list[int]) -> np.ndarray:
    return np.stack([next(iter(study.images.values())) for study in core.generate(asked, seeds)])


def test_shapes_and_reports(core: GenerativeCore) -> None:
    studies = core.generate(prompts(core, 5), [1, 2, 3, 4, 5])  # more than one batch, the last one padded
    assert len(studies) == 5
    for prompt, study in zip(prompts(core, 5), studies, strict=True):
        assert set(study.images) == set(prompt.views)
        pixels = study.images[prompt.views[0]]
        assert pixels.shape == (core.card.resolution,) * 2
        assert pixels.dtype == np.uint8
        assert pixels.std() > 3
        if core.card.kind == "diffusers":
            assert study.report is None, "a text-to-image pipeline writes none"
            continue
        named = next(name for name, value in prompt.labels.items() if value)
        assert study.report
        assert named.lower()[:6] in study.report.lower() or len(study.report) > 40


def test_same_prompt_and_seed_same_bytes(core: GenerativeCore) -> None:
    asked = prompts(core)
    first, again = images(core, asked, [1, 2, 3, 4]), images(core, asked, [1, 2, 3, 4])
    assert np.array_equal(first, again)
    other = images(core, asked, [1, 2, 3, 5])
    assert np.array_equal(first[:3], other[:3])  # a neighbour's seed does not matter in the same batch shape
    assert not np.array_equal(first[3], other[3])


def test_order_does_not_matter(core: GenerativeCore) -> None:
    asked = prompts(core)
    first, turned = images(core, asked, [1, 2, 3, 4]), images(core, asked[::-1], [4, 3, 2, 1])[::-1]
    assert np.abs(first.astype(int) - turned).max() <= 1  # rounding may differ with the place in the batch


def test_cut_does_not_matter(core: GenerativeCore) -> None:
    asked = prompts(core, 8)
    seeds = list(range(8))
    whole = images(core, asked, seeds)
    parts = np.concatenate([images(core, asked[:4], seeds[:4]), images(core, asked[4:], seeds[4:])])
    assert np.array_equal(whole, parts)


def test_global_random_state_is_left_alone(core: GenerativeCore) -> None:
    before = torch.get_rng_state()
    images(core, prompts(core), [1, 2, 3, 4])
    assert torch.equal(before, torch.get_rng_state())


def test_views_are_drawn_apart(core: GenerativeCore) -> None:
    if len(core.card.views) < 2:
        pytest.skip("one view only")
    if core.card.kind == "multiprompt":
        pytest.skip("draws the views of a study together: tests/cores/multiprompt/test_paths.py")
    both = [replace(prompt, views=("PA", "Lateral")) for prompt in prompts(core)]
    pa = [replace(prompt, views=("PA",)) for prompt in both]
    joint, single = core.generate(both, [1, 2, 3, 4]), core.generate(pa, [1, 2, 3, 4])
    for a, b in zip(joint, single, strict=True):
        assert list(a.images) == ["PA", "Lateral"]
        assert np.array_equal(a.images["PA"], b.images["PA"])
        assert not np.array_equal(a.images["PA"], a.images["Lateral"])


def test_any_subset_of_conditions(core: GenerativeCore) -> None:
    view = (core.card.views[0],)
    asked = [Prompt("a", views=view), Prompt("b", {"No Finding": 1}, views=view), Prompt("c", sex="F", views=view),
             Prompt("d", {core.card.findings[0]: 1}, views=view)]  # fmt: skip
    assert len(core.generate(asked, [1, 1, 1, 1])) == 4


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"labels": {"Scoliosis": 1}}, "Scoliosis"),
        ({"views": ("Oblique",)}, "Oblique"),
        ({"views": ()}, "view"),
        ({"race": "x"}, "race"),
        ({"source": "elsewhere"}, "elsewhere"),
        ({"conditions": {"kVp": 120}}, "kVp"),
        ({"mask": "m.png"}, "mask"),
    ],
)
def test_refusals_name_what_is_unknown(core: GenerativeCore, change: dict, named: str) -> None:
    if change.get("views") == () and core.card.settings.get("writes_report"):
        pytest.skip("writes reports without any view")
    if named in core.card.conditions:
        named = change[named]  # known, so it is the file that is missing
    if "source" in change and "source" not in core.card.conditions:
        named = "source"
    with pytest.raises(InputError, match=named):
        core.generate([replace(prompts(core)[0], **change)], [1])


def test_bad_sex_and_number_of_seeds_are_refused(core: GenerativeCore) -> None:
    with pytest.raises(InputError, match="sex"):
        core.generate([replace(prompts(core)[0], sex="female")], [1])
    with pytest.raises(InputError, match="length"):
        core.generate(prompts(core), [1])


def test_card_is_true(core: GenerativeCore, request: pytest.FixtureRequest) -> None:
    card = core.card
    assert {"views", "findings", "sex"} <= set(card.conditions)
    assert "No Finding" not in card.findings
    assert bool(card.hashes.patients) == bool(card.hashes.images) == (card.kind != "diffusers"), "or nobody knows"
    assert isinstance(core.sampler, dict)
    assert core.sampler


def test_a_core_that_has_seen_test_rows_is_refused(gaussian_folder: Path) -> None:
    with pytest.raises(InputError, match="1 patients"):
        refuse_hidden(read_card(gaussian_folder).hashes, "core", patients={"test": ["p1"]}, images={})


def test_unknown_core_lists_the_known_ones() -> None:
    with pytest.raises(InputError, match="no such core") as caught:
        open_core("nothing")
    for card in list_cores():
        assert card.name in str(caught.value)


def test_changed_weights_are_refused(gaussian_folder: Path, tmp_path: Path) -> None:
    for name in ("card.json", "model.safetensors"):
        (tmp_path / name).write_bytes((gaussian_folder / name).read_bytes())
    assert file_sha256(tmp_path / "model.safetensors") == read_card(tmp_path).sha256
    with open(tmp_path / "model.safetensors", "r+b") as stream:
        stream.seek(-1, 2)
        stream.write(b"\x01")
    with pytest.raises(InputError, match="not those of"):
        open_core(tmp_path)


def test_a_card_of_another_kind_is_refused(gaussian_folder: Path, tmp_path: Path) -> None:
    card = Card.model_validate({**read_card(gaussian_folder).model_dump(), "kind": "magic"})
    (tmp_path / "card.json").write_text(card.model_dump_json())
    with pytest.raises(InputError, match="magic"):
        open_core(tmp_path)
    (tmp_path / "card.json").write_text('{"name": "x"}')
    with pytest.raises(InputError, match="card"):
        open_core(tmp_path)
