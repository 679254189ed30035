"""``cxraug core evaluate`` from a manifest to tables and page: cores that copy, honour and ignore their prompts."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from measured_cohort import FINDINGS, PaintedCore, blind, copying, honest, make_cohort, read
from PIL import Image

from cxraug.cli.main import run
from cxraug.cores.core import Prompt, Study
from cxraug.cores.measures import table
from cxraug.cores.measures.evaluation import NEAREST, RESULT, TABLE, EvaluationSettings, evaluate_core
from cxraug.cores.measures.rows import choose_rows, plan_of
from cxraug.errors import HiddenDataError, InputError
from cxraug.pages.core_evaluation import PER_SHEET, write_core_report
from cxraug.studies.cache import build_cache
from cxraug.studies.images import Encoding
from cxraug.studies.seen import Seen

SETTINGS = EvaluationSettings(
    probe_steps=150, swaps=16, pairs=40, sets=("attributes", "attributes and boxes", "attributes and mask")
)
ALL = ("sex", "age", "boxes", "mask", "report")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_cohort(tmp_path_factory.mktemp("measured") / "cohort")


@pytest.fixture(scope="module")
def probes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("probes")


@pytest.fixture(scope="module")
def copied(cohort: Path, probes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The evaluation of a core that returns the real held-out images."""
    out = tmp_path_factory.mktemp("copied")
    core = PaintedCore(copying(read(cohort)), conditions=("sex", "age", "boxes", "mask"))
    evaluate_core(core, read(cohort), out, SETTINGS, probes=probes)
    return out


def rows_of(out: Path) -> pd.DataFrame:
    return pd.read_csv(out / TABLE, keep_default_na=False, na_values=[""]).set_index(["measure", "of", "prompts"])


def test_the_probes_read_the_real_images(copied: Path) -> None:
    rows = rows_of(copied)
    for measure, of, least in (
        ("label auroc", "macro", 0.95), ("sex accuracy", "sex", 0.95), ("age correlation", "age", 0.9),
        ("pair auroc", "frontal and lateral", 0.8),
    ):  # fmt: skip
        assert rows.loc[(measure, of, "attributes"), "real"] > least
    assert rows.loc[("box adherence", "Mass", "attributes and boxes"), "real"] > 0.9
    assert rows.loc[("mask adherence", "lung", "attributes and mask"), "real"] > 0.5


def test_a_core_that_copies_real_images_scores_like_real(copied: Path) -> None:
    rows = rows_of(copied)
    wanted = [("label auroc", f) for f in (*FINDINGS, "macro")] + [("sex auroc", "sex"), ("age correlation", "age")]
    for measure, of in wanted:
        assert rows.loc[(measure, of, "attributes"), "ratio"] == 1
    assert rows.loc[("box adherence", "Mass", "attributes and boxes"), "ratio"] == 1
    assert rows.loc[("mask adherence", "lesion", "attributes and mask"), "ratio"] == 1
    assert rows.loc[("pair auroc", "frontal and lateral", "attributes"), "ratio"] == 1
    assert rows.loc[("ms-ssim", "one prompt", "repeats"), "generated"] == pytest.approx(1)  # and has no diversity


def test_a_core_that_ignores_its_prompt_is_at_chance(cohort: Path, probes: Path, tmp_path: Path) -> None:
    evaluate_core(
        PaintedCore(blind, conditions=("sex", "age", "boxes")), read(cohort), tmp_path, SETTINGS, probes=probes
    )
    rows = rows_of(tmp_path)
    for measure, of in (("label auroc", "macro"), ("sex auroc", "sex")):
        row = rows.loc[(measure, of, "attributes")]
        assert row["generated"] == pytest.approx(0.5, abs=0.15)
        assert row["difference_high"] < -0.2
    assert abs(rows.loc[("age correlation", "age", "attributes"), "generated"]) < 0.3
    box = rows.loc[("box adherence", "Mass", "attributes and boxes")]
    assert box["generated"] == pytest.approx(box["chance"], abs=0.25)
    assert box["difference_high"] < -0.2
    assert rows.loc[("swap: own change", "Effusion", "swaps"), "generated"] == pytest.approx(0, abs=0.1)
    assert rows.loc[("pair auroc", "frontal and lateral", "attributes"), "difference_high"] < 0


def test_a_core_that_honours_its_prompt_changes_what_it_should(cohort: Path, probes: Path, tmp_path: Path) -> None:
    settings = replace(SETTINGS, sets=("attributes", "views only", "findings only", "attributes and boxes", "report"))
    found = evaluate_core(PaintedCore(honest, conditions=ALL), read(cohort), tmp_path, settings, probes=probes)
    rows = rows_of(tmp_path)
    for of in (*FINDINGS, "sex", "age"):
        assert rows.loc[("swap: own change", of, "swaps"), "generated"] == pytest.approx(1, abs=0.25)
        assert abs(rows.loc[("swap: other change", of, "swaps"), "generated"]) < 0.3
    for prompts in ("attributes", "findings only"):
        assert rows.loc[("label auroc", "macro", prompts), "ratio"] > 0.95
    assert rows.loc[("box adherence", "Mass", "attributes and boxes"), "ratio"] > 0.9
    assert rows.loc[("ms-ssim", "one prompt", "repeats"), "generated"] < 0.9
    frechet = rows.loc[("frechet", "all", "attributes")]
    assert frechet["n"] == 40
    assert frechet["generated"] < 4 * frechet["real"]
    assert set(found["sets"]) == {*settings.sets, "swaps", "repeats"}
    assert rows.loc[("recall@1", "reports and images", "attributes"), "flag"] == "core has no shared space"


def the_other_view(prompt: Prompt, view: str, seed: int) -> np.ndarray:
    """The real image of ``view`` of the study whose other view is shown."""
    shown, path = next(iter(json.loads(prompt.reference_image or "{}").items()))
    return np.asarray(Image.open(path.replace(f"-{shown}", f"-{view}")))


class WritingCore(PaintedCore):
    """Says which findings the study has whose view is shown, or that there are none."""

    def __init__(self, told: dict[str, str], **others: object) -> None:
        super().__init__(the_other_view, conditions=("reference_image",), **others)  # type: ignore[arg-type]
        self.told = told
        self.card.settings = {"writes_report": True}

    def _generate(self, prompts: list[Prompt], seeds: list[int]) -> list[Study]:
        made = super()._generate(prompts, seeds)
        numbers = [Path(next(iter(json.loads(p.reference_image or "{}").values()))).name[:4] for p in prompts]
        return [replace(s, report=self.told[n]) for s, n in zip(made, numbers, strict=True)]


def test_prompts_that_show_a_view_ask_for_the_other(cohort: Path, probes: Path, tmp_path: Path) -> None:
    sets = ("frontal view", "lateral view")
    settings = replace(SETTINGS, sets=sets, swaps=0, pairs=0)
    frame = read(cohort).frame
    words = {"Effusion": "There is a pleural effusion.", "Mass": "There is a mass.", "No Finding": "No acute findings."}
    told = {image[7:11]: " ".join(words[x] for x in labels.split("|"))
            for image, labels in zip(frame["image"], frame["labels"], strict=True)}  # fmt: skip
    found = evaluate_core(WritingCore(told), read(cohort), tmp_path / "own", settings, probes=probes)
    assert found["sets"] == dict.fromkeys(sets, 80)
    rows = rows_of(tmp_path / "own")
    for prompts, side in (("frontal view", ", Lateral"), ("lateral view", "")):
        made = pd.read_parquet(tmp_path / "own" / "sets" / prompts.replace(" ", "-") / "manifest.parquet")
        assert set(made["view"]) == {"Lateral" if side else "PA"}
        for measure, of in (("label auroc", "macro"), ("sex accuracy", "sex"), ("age correlation", "age")):
            assert rows.loc[(measure, of + side, prompts), "ratio"] == 1
        assert rows.loc[("pair accuracy", "frontal and lateral", prompts), "ratio"] == 1
        assert rows.loc[("report agreement", "micro", prompts), "generated"] == 1
        assert ("label auroc", "macro" + ("" if side else ", Lateral"), prompts) not in rows.index
    stranger = PaintedCore(blind, conditions=("reference_image",))
    evaluate_core(stranger, read(cohort), tmp_path / "blind", settings, probes=probes)
    rows = rows_of(tmp_path / "blind")
    for prompts, side in (("frontal view", ", Lateral"), ("lateral view", "")):
        assert rows.loc[("label auroc", "macro" + side, prompts), "generated"] < 0.7
        assert rows.loc[("pair accuracy", "frontal and lateral", prompts), "generated"] < 0.7
        assert rows.loc[("report agreement", "micro", prompts), "flag"] == "core writes no reports"


def test_what_a_core_does_not_know_is_a_row(cohort: Path, probes: Path, tmp_path: Path) -> None:
    core = PaintedCore(honest, conditions=("sex",), views=("PA",))
    core.card.findings = ["Mass", "Fracture"]
    settings = EvaluationSettings(n=40, probe_steps=3, swaps=2, pairs=0)
    evaluate_core(core, read(cohort), tmp_path, settings)
    flags = rows_of(tmp_path)["flag"]
    assert flags[("label auroc", "Effusion", "attributes")] == table.UNKNOWN
    assert flags[("label auroc", "Fracture", "attributes")] == "not in the manifest"
    assert flags[("age adherence", "age", "attributes")] == table.UNKNOWN
    assert flags[("view", "Lateral", "attributes")] == table.UNKNOWN
    assert flags[("prompts", "boxes", "attributes and boxes")] == table.UNKNOWN
    assert flags[("prompts", "reference_image", "frontal view")] == table.UNKNOWN
    assert flags[("pair auroc", "frontal and lateral", "attributes")] == table.UNKNOWN
    page = write_core_report(tmp_path).read_text()
    assert "Not known to this core" in page
    assert "Effusion" in page


def test_a_second_evaluation_reuses_sets_and_probes(copied: Path, cohort: Path, probes: Path) -> None:
    made = {path: path.stat().st_mtime_ns for path in [*copied.glob("sets/*/images/*"), *probes.rglob("*.safetensors")]}
    before = (copied / TABLE).read_bytes()
    core = PaintedCore(copying(read(cohort)), conditions=("sex", "age", "boxes", "mask"))
    core.draw = None  # type: ignore[assignment]
    found = evaluate_core(core, read(cohort), copied, SETTINGS, probes=probes)
    assert (copied / TABLE).read_bytes() == before
    assert made == {path: path.stat().st_mtime_ns for path in made}
    assert found["probes"]["reader"]["sha256"] == json.loads((probes / "reader" / "probe.json").read_text())["sha256"]
    with pytest.raises(InputError, match="probe of other data or settings; found 'steps'"):
        evaluate_core(core, read(cohort), copied, EvaluationSettings(probe_steps=7), probes=probes)


def test_the_page_shows_generated_images_of_every_set_and_no_real_one(
    cohort: Path, probes: Path, tmp_path: Path
) -> None:
    settings = EvaluationSettings(n=60, probe_steps=150, swaps=3, pairs=3, sets=("attributes", "views only"))
    core = PaintedCore(honest)
    core.embed = lambda content, view=None: np.eye(60)[: len(content)]  # type: ignore[attr-defined]
    evaluate_core(core, read(cohort), tmp_path, settings, probes=probes)
    assert rows_of(tmp_path).loc[("recall@1", "report to image", "attributes"), "generated"] == 1
    page = write_core_report(tmp_path).read_text()
    sets = [len(pd.read_parquet(path)) for path in tmp_path.glob("sets/*/manifest.parquet")]
    assert len(sets) == 4
    assert page.count("data:image/png") == sum(min(n, PER_SHEET) for n in sets)
    assert str(tmp_path) not in page
    assert write_core_report(tmp_path).read_text() == page


def test_memorised_training_images_are_found_and_not_shown(cohort: Path, probes: Path, tmp_path: Path) -> None:
    data = read(cohort)
    train = data.take((data.frame["split"] == "train").to_numpy())
    shas = build_cache(train, tmp_path / "pixels", Encoding(32))[1].sha
    seen = Seen.of(train.frame["patient_id"], shas)
    pictures = train.take((train.frame["view"] == "PA").to_numpy()).paths()

    def leaky(prompt, view, seed):  # type: ignore[no-untyped-def]
        from PIL import Image

        return np.asarray(Image.open(pictures[7])) if seed % 5 == 0 else honest(prompt, view, seed)

    core = PaintedCore(leaky, views=("PA",), seen=seen)
    settings = EvaluationSettings(n=60, probe_steps=3, swaps=0, pairs=0, sets=("attributes",))
    evaluate_core(core, data, tmp_path / "out", settings)
    rows = rows_of(tmp_path / "out")
    assert rows.loc[("nearest training image", "images", "all"), "flag"] == "copies"
    listed = pd.read_csv(tmp_path / "out" / NEAREST)
    assert listed["distance"].iloc[0] == 0
    assert listed["nearest_patient_id"].iloc[0] == "p7"
    copies = set(listed["image"][listed["closer_than_real"]])
    page = write_core_report(tmp_path / "out").read_text()
    assert f"{len(copies)} images close to training images are not shown" in page
    with pytest.raises(HiddenDataError, match="has seen 60 patients and 60 images of the train rows"):
        evaluate_core(core, data, tmp_path / "no", EvaluationSettings(splits=("train",), n=60))


def test_the_command_prints_the_probes_first_and_writes_tables_and_page(
    cohort: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    core = PaintedCore(honest, views=("PA",))
    monkeypatch.setattr("cxraug.cores.registry.open_core", lambda name, device="cpu": core)
    arguments = ["core", "evaluate", "toy", str(cohort), "--out", str(tmp_path), "--n", "40", "--probe-steps", "3"]
    arguments += ["--sets", "attributes", "--swaps", "0", "--pairs", "0"]
    assert run(arguments) == 0
    told = capsys.readouterr().out
    assert "the probes on 40 real images: macro AUROC" in told.splitlines()[0]
    assert {path.name for path in tmp_path.iterdir()} >= {TABLE, RESULT, "report.html", "sets", "probes"}
    assert run([*arguments, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == json.loads((tmp_path / RESULT).read_text()) | {"seconds": answer["seconds"]}
    monkeypatch.undo()
    assert run(["core", "evaluate", "nowhere", str(cohort), "--out", str(tmp_path)]) == 2
    assert "no such core; found 'nowhere'" in capsys.readouterr().err


def test_prompts_say_what_their_row_says(cohort: Path) -> None:
    data = read(cohort)
    rows = choose_rows(data, ("test",), ("PA", "Lateral"), 30, 0)
    core = PaintedCore(honest, conditions=ALL)
    plan = plan_of(rows, "attributes and boxes", core.card, FINDINGS, seed=0)
    assert len(plan) == 30
    assert len(rows) == 60
    first = rows.manifest.frame[rows.study == 4].iloc[0]
    line = plan.iloc[4]
    present = {f for f in FINDINGS if f in first["labels"]}
    assert set(line["labels"].split("|")) == {f if f in present else f"-{f}" for f in FINDINGS}
    assert (line["sex"], line["age"], line["views"]) == (first["sex"], first["age"], "PA|Lateral")
    want = [dict(box, view=view) for view in ("PA", "Lateral") for box in json.loads(first["boxes"])]
    assert json.loads(line["boxes"]) == want
    again = choose_rows(data, ("test",), ("PA", "Lateral"), 30, 0)
    assert again.manifest.frame.equals(rows.manifest.frame)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"splits": ("val",)}, "no real row to measure against"),
        ({"n": 500}, "not that many studies; found '--n 500'; expected at most 80"),
        ({"sets": ("nothing",)}, "--sets: no such set of prompts; found 'nothing'"),
        ({"extractor": "nowhere"}, "no such extractor"),
    ],
)
def test_bad_settings_are_one_line(cohort: Path, tmp_path: Path, changed: dict, words: str) -> None:
    with pytest.raises(InputError, match=words):
        evaluate_core(PaintedCore(honest), read(cohort), tmp_path, EvaluationSettings(**changed))
    assert not (tmp_path / RESULT).exists()
