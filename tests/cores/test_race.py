"""Race as a condition of every core: honoured where known, refused by name where not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from conftest import cohort, seen, tiny_settings
from toystudies import toy_settings, toy_studies, train_toy

from cxraug.cores.core import GenerativeCore, Prompt
from cxraug.cores.diffusion.training import train_diffusion
from cxraug.cores.gaussian import fit_gaussian
from cxraug.cores.registry import open_core, read_card
from cxraug.errors import InputError

RACES = ("Asian", "White")


def raced(n: int = 80) -> tuple[np.ndarray, object]:
    """Images of one group are 40 grey values brighter; race is unknown in every fifth row."""
    pixels, conditions = cohort(n, views=("PA",))
    race = np.array([RACES[i % 2] for i in range(n)], dtype=object)
    pixels = np.clip(pixels.astype(int) - 20 + 40 * (race == "White")[:, None, None], 0, 255).astype(np.uint8)
    race[::5] = ""
    return pixels, replace(conditions, race=race)


def make(kind: str, folder: Path) -> GenerativeCore:
    pixels, conditions = raced()
    if kind == "gaussian":
        fit_gaussian(pixels, conditions, folder, components=4, seen=seen(), training_data={})
    elif kind == "diffusion":
        settings = tiny_settings(steps=2)
        train_diffusion(pixels, conditions, folder, settings, seen=seen(), training_data={}, name="t")
    else:
        studies = toy_studies(60)
        race = np.array([RACES[i % 2] for i in range(60)], dtype=object).repeat(2)
        maps = np.clip(studies.maps.astype(int) - 20 + 40 * (race == "White")[:, None, None, None], 0, 255)
        with_race = replace(studies, maps=maps.astype(np.uint8), conditions=replace(studies.conditions, race=race))
        train_toy(with_race, folder, toy_settings(steps=2, guidance=1.0), report=None)
    return open_core(folder)


@pytest.mark.parametrize("kind", ["gaussian", "diffusion", "multiprompt"])
def test_race_is_honoured_and_an_unknown_one_refused(kind: str, tmp_path: Path) -> None:
    core = make(kind, tmp_path)
    assert core.card.races == list(RACES)
    assert "race" in core.card.conditions

    def brightness(race: str | None) -> float:
        asked = [Prompt(f"p{i}", race=race, wants_report=False) for i in range(8)]
        return float(np.mean([s.images["PA"].mean() for s in core.generate(asked, list(range(8)))]))

    assert 20 < brightness("White") - brightness("Asian") < 60
    assert brightness("Asian") < brightness(None) < brightness("White")
    with pytest.raises(InputError, match=r"does not know the race 'Black'.*Asian, White"):
        core.refuse(Prompt("p", race="Black"))


def test_a_core_without_races_learns_them_when_fine_tuned(toy_old: Path, tmp_path: Path) -> None:
    studies = toy_studies(30, seed=5)
    race = np.array(["White"] * 60, dtype=object)
    studies = replace(studies, conditions=replace(studies.conditions, race=race))
    folder = train_toy(studies, tmp_path / "tuned", toy_settings(steps=2), init=toy_old, report=None)
    assert read_card(toy_old).races == []
    assert read_card(folder).races == ["White"]
    assert open_core(folder).generate([Prompt("p", race="White", wants_report=False)], [1])[0].images["PA"].std() > 0


@pytest.fixture
def toy_old(tmp_path: Path) -> Path:
    return train_toy(toy_studies(), tmp_path / "old", toy_settings(steps=2), report=None)
