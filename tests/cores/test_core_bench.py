"""The bench scores what a core really draws, chooses the cheapest setting that is good enough, and resumes."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from typer.testing import CliRunner

from cxraug.cli.main import app
from cxraug.cores.bench import Trial, bench_core, trials
from cxraug.cores.core import Card, GenerativeCore, Prompt, Study
from cxraug.cores.registry import open_core, read_card
from cxraug.errors import InputError
from cxraug.fidelity.extractors import open_extractor
from cxraug.studies.manifest import read_manifest


def real(folder: Path, n: int = 60) -> Path:
    """Real images of two sexes whose brightness differs."""
    rng = np.random.default_rng(0)
    rows = []
    for i in range(n):
        image = np.clip(rng.normal(100 + 60 * (i % 2), 20, (32, 32)), 0, 255).astype(np.uint8)
        (folder / "images").mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / "images" / f"{i}.png")
        rows.append({"image": f"images/{i}.png", "patient_id": f"p{i}", "view": "PA", "sex": "MF"[i % 2], "age": 50,
                     "labels": "Effusion" if i % 3 else "No Finding", "split": "val", "source": "here"})  # fmt: skip
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


class Steps(GenerativeCore):
    """Draws the real distribution with 4 steps or more, too dark with fewer, and counts its calls."""

    batch_size = 4

    def __init__(self, findings: list[str]) -> None:
        self.card = Card(name="steps", version="1", kind="test", sha256="0" * 64, resolution=32, views=["PA"],
                         findings=findings, conditions=["views", "findings", "sex"], licence="", training_data={},
                         seen={"key": "00", "patients": [], "images": []})  # fmt: skip
        self.sampler = {"steps": 8, "guidance": 1.0, "guidance_until": 1.0}
        self.drawn = 0

    def configure(self, *, steps=None, guidance=None, guidance_until=None, guidance_from=None) -> None:
        self.sampler = {"steps": steps, "guidance": guidance, "guidance_until": guidance_until}

    def _generate(self, prompts, seeds):
        self.drawn += len(prompts)
        dark = 60 if self.sampler["steps"] < 4 else 0
        return [Study({"PA": np.clip(np.random.default_rng(s).normal(100 + 60 * (p.sex == "F") - dark, 20, (32, 32)), 0,
                                     255).astype(np.uint8)}) for p, s in zip(prompts, seeds, strict=True)]  # fmt: skip


def test_the_cheapest_good_setting_is_chosen_and_trials_are_kept(tmp_path: Path) -> None:
    manifest = read_manifest(real(tmp_path / "real"))
    core, extractor = Steps(list(manifest.findings)), open_extractor("conv-random")
    wanted = trials([2, 4, 8], [1.0], [1.0])
    # steps 4 and 8 draw the same images here, so their distances tie
    found = bench_core(core, manifest, extractor, wanted, splits=["val"], n=60, folder=tmp_path / "out")
    assert found["steps"].tolist() == [2, 4, 8]
    assert found.loc[0, "frechet"] > 2 * found.loc[1, "frechet"]
    assert found.loc[1, "over_best"] == found.loc[2, "over_best"] == 0
    assert found["chosen"].tolist() == [False, True, False]
    drawn = core.drawn
    again = bench_core(core, manifest, extractor, wanted, splits=["val"], n=60, folder=tmp_path / "out")
    assert core.drawn == drawn, "kept trials are not drawn again"
    pd.testing.assert_frame_equal(found, again)
    assert (tmp_path / "out" / "sheets" / "steps-4_guidance-1_until-1.png").is_file()


def test_evaluations_count_guidance() -> None:
    levels = [0.9, 0.6, 0.5, 0.2, 0.1]
    assert Trial(5, 1.0, 1.0).evaluations(levels) == 5
    assert Trial(5, 2.0, 1.0).evaluations(levels) == 10
    assert Trial(5, 2.0, 0.5).evaluations(levels) == 8
    assert Trial(5, 2.0, 0.6, 0.2).evaluations(levels) == 8
    assert len(trials([4], [1.0, 2.0], [0.5, 1.0])) == 3
    assert [t.since for t in trials([4], [1.0, 2.0], [1.0], [0.0, 0.3])] == [0.0, 0.0, 0.3]
    with pytest.raises(InputError, match=r"--from 0.6 --until 0.5"):
        trials([4], [2.0], [0.5], [0.6])


@pytest.mark.parametrize("kind", ["toy", "diffusion"])
def test_a_core_says_at_which_levels_it_evaluates(kind: str, request: pytest.FixtureRequest) -> None:
    """Counted where the network is called, and as the trial counts them."""
    core = open_core(request.getfixturevalue(f"{kind}_folder"))
    rows = []
    core.denoiser.register_forward_pre_hook(
        lambda _, given: rows.append(len(next(iter(given[1].values())) if kind == "toy" else given[0]))
    )
    core.configure(steps=6, guidance=2.0, guidance_until=0.7, **({"guidance_from": 0.2} if kind == "toy" else {}))
    core.generate(
        [Prompt(f"p{i}", {"Effusion": 1}, wants_report=False) for i in range(core.batch_size)],
        list(range(core.batch_size)),
    )
    levels = core.noise_levels()
    assert levels == sorted(levels, reverse=True)
    assert len(levels) == 6
    since = 0.2 if kind == "toy" else 0.0
    assert sum(rows) == core.batch_size * Trial(6, 2.0, 0.7, since).evaluations(levels)
    assert core.batch_size * 6 < sum(rows) < core.batch_size * 12


def test_the_command_writes_the_default(diffusion_folder: Path, tmp_path: Path) -> None:
    folder = tmp_path / "core"
    shutil.copytree(diffusion_folder, folder)
    manifest = real(tmp_path / "real", 40)
    before = read_card(folder)
    ran = CliRunner().invoke(app, ["core", "bench", str(folder), str(manifest), "--out", str(tmp_path / "out"),
                                   "--steps", "1,2", "--guidance", "1,1.5", "--n", "40", "--write"])  # fmt: skip
    assert ran.exit_code == 0, ran.output
    table = pd.read_csv(tmp_path / "out" / "bench.csv")
    assert len(table) == 4
    chosen = table[table["chosen"]].iloc[0]
    after = read_card(folder)
    assert after.settings["diffusion"]["sampler_steps"] == chosen["steps"]
    assert after.settings["diffusion"]["guidance"] == chosen["guidance"]
    assert after.sha256 == before.sha256


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["--steps", "4,x"], "--steps"), (["--steps", "0"], "--steps"), (["--splits", "train"], "no real row"),
     (["--write"], "not a shipped core")],
)  # fmt: skip
def test_bad_options_are_one_line(tmp_path: Path, arguments: list[str], words: str) -> None:
    manifest = real(tmp_path / "real", 40)
    ran = CliRunner().invoke(app, ["core", "bench", "phantom-nano", str(manifest), "--out", str(tmp_path / "o"),
                                   "--n", "40", *arguments])  # fmt: skip
    assert isinstance(ran.exception, InputError), ran.output
    assert words in str(ran.exception)
