"""Every path on content: what is given decides what is generated, and nothing else does."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cxraug.cores.core import GenerativeCore, Prompt
from cxraug.errors import InputError

N = 16


def draw(core: GenerativeCore, **asked) -> tuple[dict[str, np.ndarray], list[str]]:
    """Images by view, (N, S, S) float, and reports of N studies of one prompt."""
    prompts = [Prompt(f"p{i}", **{"views": ("PA",), "wants_report": False, **asked}) for i in range(N)]
    studies = core.generate(prompts, list(range(N)))
    images = {v: np.stack([s.images[v] for s in studies]).astype(float) for v in studies[0].images}
    return images, [s.report or "" for s in studies]


def lower(images: np.ndarray) -> np.ndarray:
    """How much brighter the lower half is than the upper quarter's right... a toy effusion adds 50."""
    return images[:, 8:].mean((1, 2)) - images[:, 6:8].mean((1, 2))


def toy_frontal(effusion: bool, exposure: float = 0.0, right: bool = True) -> np.ndarray:
    image = np.full((16, 16), 100.0 + exposure)
    image[:6, 8 * right : 8 * right + 8] -= 40
    image[8:] += 50 * effusion
    return image.clip(0, 255).astype(np.uint8)


def toy_lateral(effusion: bool, exposure: float = 0.0) -> np.ndarray:
    image = np.full((16, 16), 100.0 + exposure)
    image[8:] += 50 * effusion
    return image.clip(0, 255).astype(np.uint8)


def png(path: Path, pixels: np.ndarray) -> str:
    Image.fromarray(pixels).save(path)
    return str(path)


def says_effusion(reports: list[str]) -> float:
    return float(np.mean(["There is a pleural effusion" in r for r in reports]))


def test_findings_to_frontal(learned: GenerativeCore) -> None:
    with_it, _ = draw(learned, labels={"Effusion": 1})
    without, _ = draw(learned, labels={"Effusion": 0})
    assert lower(with_it["PA"]).min() > 25 > lower(without["PA"]).max()


def test_findings_to_lateral(learned: GenerativeCore) -> None:
    with_it, _ = draw(learned, labels={"Effusion": 1}, views=("Lateral",))
    without, _ = draw(learned, labels={"Effusion": 0}, views=("Lateral",))
    assert lower(with_it["Lateral"]).min() > 25 > lower(without["Lateral"]).max()


def test_findings_to_report(learned: GenerativeCore) -> None:
    for present in (1, 0):
        images, reports = draw(learned, labels={"Effusion": present}, sex="F", views=(), wants_report=True)
        assert images == {}
        assert abs(says_effusion(reports) - present) <= 0.07
        assert np.mean(["woman" in r for r in reports]) >= 0.9


def test_sex_to_frontal_leaves_the_effusion(learned: GenerativeCore) -> None:
    def left(images: np.ndarray) -> np.ndarray:
        return images[:, 8:, :8].mean((1, 2)) - images[:, 8:, 8:].mean((1, 2))

    women, _ = draw(learned, labels={"Effusion": 1, "Nodule": 0}, sex="F")
    men, _ = draw(learned, labels={"Effusion": 1, "Nodule": 0}, sex="M")
    assert left(women["PA"]).mean() - left(men["PA"]).mean() == pytest.approx(20, abs=8)
    assert abs(lower(women["PA"]).mean() - lower(men["PA"]).mean()) < 15


def test_both_views_and_report_agree(learned: GenerativeCore) -> None:
    images, reports = draw(learned, views=("PA", "Lateral"), wants_report=True, labels={"Nodule": 0})
    frontal, lateral = lower(images["PA"]) > 25, lower(images["Lateral"]) > 25
    assert 2 <= frontal.sum() <= N - 2, "left open, some have an effusion and some have none"
    assert np.mean(frontal == lateral) >= 0.9
    assert np.mean(frontal == ["There is a pleural effusion" in r for r in reports]) >= 0.85
    exposure = np.corrcoef(images["PA"][:, 6:8, 8:].mean((1, 2)), images["Lateral"][:, 2:8].mean((1, 2)))[0, 1]
    assert exposure > 0.6, "the views are of one exposure"


def test_report_to_frontal_and_lateral(learned: GenerativeCore) -> None:
    for text, present in (("There is a pleural effusion. Examined was a man.", True),
                          ("No pleural effusion. Examined was a man.", False)):  # fmt: skip
        images, reports = draw(learned, report=text, views=("PA", "Lateral"))
        assert reports == [""] * N
        assert np.mean((lower(images["PA"]) > 25) == present) >= 0.9
        assert np.mean((lower(images["Lateral"]) > 25) == present) >= 0.9


@pytest.mark.parametrize("present", [True, False])
def test_frontal_to_lateral(learned: GenerativeCore, tmp_path: Path, present: bool) -> None:
    bright = png(tmp_path / "bright.png", toy_frontal(present, 30))
    dark = png(tmp_path / "dark.png", toy_frontal(present, -30))
    a, _ = draw(learned, reference_image=bright, views=("Lateral",))
    b, _ = draw(learned, reference_image=dark, views=("Lateral",))
    assert np.mean((lower(a["Lateral"]) > 25) == present) >= 0.9
    assert a["Lateral"][:, :8].mean() - b["Lateral"][:, :8].mean() > 30, "the exposure of the given view is kept"


@pytest.mark.parametrize("present", [True, False])
def test_lateral_to_frontal(learned: GenerativeCore, tmp_path: Path, present: bool) -> None:
    given = json.dumps({"Lateral": png(tmp_path / "l.png", toy_lateral(present))})
    images, _ = draw(learned, reference_image=given, views=("PA",))
    assert np.mean((lower(images["PA"]) > 25) == present) >= 0.9


@pytest.mark.parametrize("present", [True, False])
def test_frontal_to_report(learned: GenerativeCore, tmp_path: Path, present: bool) -> None:
    given = png(tmp_path / "f.png", toy_frontal(present))
    images, reports = draw(learned, reference_image=given, views=(), wants_report=True)
    assert images == {}
    assert abs(says_effusion(reports) - present) <= 0.13


@pytest.mark.parametrize("present", [True, False])
def test_lateral_to_report(learned: GenerativeCore, tmp_path: Path, present: bool) -> None:
    given = json.dumps({"Lateral": png(tmp_path / "l.png", toy_lateral(present))})
    _, reports = draw(learned, reference_image=given, views=(), wants_report=True)
    assert abs(says_effusion(reports) - present) <= 0.13


@pytest.mark.parametrize("present", [True, False])
def test_frontal_and_lateral_to_report(learned: GenerativeCore, tmp_path: Path, present: bool) -> None:
    given = {
        "PA": png(tmp_path / "f.png", toy_frontal(present)),
        "Lateral": png(tmp_path / "l.png", toy_lateral(present)),
    }
    _, reports = draw(learned, reference_image=json.dumps(given), views=(), wants_report=True)
    assert abs(says_effusion(reports) - present) <= 0.13


def test_frontal_and_report_to_lateral(learned: GenerativeCore, tmp_path: Path) -> None:
    given = png(tmp_path / "f.png", toy_frontal(True, 20))
    images, _ = draw(learned, reference_image=given, report="There is a pleural effusion. Examined was a man.",
                     views=("Lateral",))  # fmt: skip
    assert np.mean(lower(images["Lateral"]) > 25) >= 0.9


@pytest.mark.parametrize(("x", "y"), [(0, 0), (12, 12), (0, 12), (8, 4)])
def test_boxes_to_frontal(learned: GenerativeCore, x: int, y: int) -> None:
    box = json.dumps([{"label": "Nodule", "x": x, "y": y, "w": 4, "h": 4}])
    images, _ = draw(learned, labels={"Nodule": 1, "Effusion": 0}, sex="M", boxes=box)
    none, _ = draw(learned, labels={"Nodule": 0, "Effusion": 0}, sex="M", boxes="[]")
    change = images["PA"].mean(0) - none["PA"].mean(0)
    inside = change[y : y + 4, x : x + 4].mean()
    change[y : y + 4, x : x + 4] = np.nan
    assert inside > 35
    assert inside > 3 * abs(np.nanmean(change))


@pytest.mark.parametrize("right", [0, 1])
def test_mask_to_frontal(learned: GenerativeCore, tmp_path: Path, right: int) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[:6, 8 * right : 8 * right + 8] = 255
    images, _ = draw(learned, labels={"Nodule": 0}, sex="M", mask=png(tmp_path / "m.png", mask))
    halves = images["PA"][:, :6, :8].mean((1, 2)), images["PA"][:, :6, 8:].mean((1, 2))
    assert (halves[1 - right] - halves[right]).min() > 10


def test_reference_varies_a_study(learned: GenerativeCore, tmp_path: Path) -> None:
    given = png(tmp_path / "f.png", toy_frontal(True))
    images, _ = draw(learned, reference_image=given)
    other, _ = draw(learned, reference_image=png(tmp_path / "g.png", toy_frontal(False)))
    assert np.mean(lower(images["PA"]) > 25) - np.mean(lower(other["PA"]) > 25) > 0.5
    assert images["PA"].std(0).mean() > 3, "a variation, not a copy"


def test_nothing_asked_is_the_cohort(learned: GenerativeCore) -> None:
    images, _ = draw(learned)
    share = np.mean(lower(images["PA"]) > 25)
    assert 0.1 <= share <= 0.9
    assert abs(images["PA"].mean() - 114) < 15


def test_five_conditions_at_once(learned: GenerativeCore, tmp_path: Path) -> None:
    mask = np.zeros((16, 16), np.uint8)
    mask[:6, 8:] = 255
    box = json.dumps([{"label": "Nodule", "x": 2, "y": 10, "w": 4, "h": 4}])
    images, _ = draw(learned, labels={"Effusion": 1, "Nodule": 1}, sex="M", source="toy", boxes=box,
                     mask=png(tmp_path / "m.png", mask))  # fmt: skip
    pa = images["PA"].mean(0)
    assert np.mean(lower(images["PA"]) > 20) >= 0.9
    assert pa[10:14, 2:6].mean() - pa[10:14, 9:].mean() > 25
    assert pa[:6, :8].mean() - pa[:6, 8:].mean() > 10


def test_strength_says_how_much_of_a_reference_is_drawn_again(learned: GenerativeCore, tmp_path: Path) -> None:
    shown = toy_frontal(True, 40)
    given, apart = png(tmp_path / "f.png", shown), {}
    try:
        for strength in (0.2, 0.8, 1.0):
            learned.configure(strength=strength)
            assert learned.sampler["strength"] == strength
            images, _ = draw(learned, reference_image=given)
            apart[strength] = np.abs(images["PA"] - shown).mean()
            assert strength == 1 or np.mean(lower(images["PA"]) > 25) >= 0.9, "what it shows is kept"
        learned.configure(strength=0.2)
        images, reports = draw(learned, reference_image=given, views=("PA", "Lateral"), wants_report=True)
        assert np.mean(lower(images["PA"]) > 25) == 1
        assert np.mean(lower(images["Lateral"]) > 25) >= 0.8, "the other view is drawn beside the variation"
        assert np.mean(["There is a pleural effusion" in r for r in reports]) >= 0.8
    finally:
        learned.configure(strength=1.0)
    assert apart[0.2] < apart[0.8] < apart[1.0]
    assert apart[0.2] < 10 < apart[1.0]


def test_below_strength_1_any_core_varies_an_image(toy_folder: Path, tmp_path: Path) -> None:
    from cxraug.cores.multiprompt.core import load_multiprompt
    from cxraug.cores.registry import read_card

    core = load_multiprompt(toy_folder, read_card(toy_folder))
    core.alignment = None
    core.card = core.card.model_copy(update={"conditions": ["views", "findings"]})
    given = png(tmp_path / "f.png", toy_frontal(False))
    with pytest.raises(InputError, match="does not know the condition 'reference_image'"):
        draw(core, reference_image=given)
    core.configure(strength=0.3)
    images, _ = draw(core, reference_image=given)
    near = np.abs(images["PA"] - toy_frontal(False)).mean()
    assert near < 25
    with pytest.raises(InputError, match="only varies a reference image"):
        draw(core, reference_image=given, views=("Lateral",))
