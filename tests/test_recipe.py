"""A recipe is checked to the last key before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from cxraug.errors import InputError
from cxraug.gate.settings import SHARES
from cxraug.recipe import Recipe, parse_recipe, read_recipe

RECIPES = Path(__file__).parents[1] / "recipes"
NO_CHECK = dict.fromkeys([*SHARES, "duplicates"], False)
MINIMAL = {
    "data": {"manifest": "manifest.csv"},
    "evaluate": {"primary": {"arm": "mixed", "control": "duplicated", "finding": "Effusion"}},
}


def primary(arm: str = "mixed", control: str = "duplicated") -> dict:
    return {"primary": {"arm": arm, "control": control, "finding": "Effusion"}}


def write(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def refusal(folder: Path, change: dict) -> str:
    raw = {**yaml.safe_load(yaml.safe_dump(MINIMAL)), **change}
    with pytest.raises(InputError) as caught:
        parse_recipe(raw, folder / "mine.yaml")
    message = str(caught.value)
    assert "\n" not in message
    assert caught.value.exit_code == 2
    return message


def test_defaults_fill_a_minimal_recipe(tmp_path: Path) -> None:
    recipe = read_recipe(write(tmp_path, yaml.safe_dump(MINIMAL)))
    assert recipe.name == "mine"
    assert recipe.data.manifest == str(tmp_path / "manifest.csv")
    assert (recipe.seeds, recipe.draws) == (3, 1)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda p: p.name)
def test_every_run_recipe_of_the_project_is_valid(path: Path) -> None:
    raw = yaml.safe_load(path.read_text())
    if "evaluate" not in raw:
        pytest.skip("a recipe of a core, checked in tests/cores")
    assert read_recipe(path).name == path.stem


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"trian": {}}, ["trian", "unknown key", "did you mean 'train'"]),
        ({"train": {"stps": 5}}, ["train.stps", "unknown key", "did you mean 'steps'"]),
        ({"train": {"steps": "many"}}, ["train.steps", "'many'"]),
        ({"draws": 0}, ["draws", "found 0"]),
        ({"data": {}}, ["data", "either manifest or phantom"]),
        ({"data": {"manifest": "a.csv", "limit": [{"finding": "X"}]}}, ["data.limit.0", "either patients or share"]),
        ({"data": {"manifest": "a.csv", "findings": ["Mass"]}}, ["data.findings does not name 'Effusion'", "Mass"]),
        ({"data": {"manifest": "a.csv", "findings": ["Efusion", "Mass"]}}, ["data.findings does", "'Efusion' there"]),
        ({"arms": {"use": ["real", "duplicated"]}}, ["arms", "no synthetic arm"]),
        ({"arms": {"use": ["real", "mixed"]}}, ["evaluate.primary.control", "duplicated"]),
        ({"arms": {"use": ["duplicated", "mixed"], "ratios": []}}, ["arms", "ratios"]),
        ({"arms": {"use": ["duplicated", "mixed", "real_pretrained"]}}, ["real_pretrained", "without pretrained"]),
        ({"core": {"name": "train"}}, ["core.name: train needs settings under core.train"]),
        ({"core": {"name": "gaussian", "train": {"steps": 5}}}, ["remove core.train (--set core.train=null)"]),
        ({"core": {"name": "phantom-nano", "finetune_steps": 5}}, ["--set core.finetune_steps=0"]),
        ({"core": {"name": "gaussian", "guidance": 2.0}}, ["core gaussian has no sampler", "remove core.guidance"]),
        ({"core": {"name": "gaussian", "sampler_steps": 5}}, ["core gaussian has no sampler", "core.sampler_steps"]),
        ({"core": {"name": "gaussian"}}, ["gaussian and mixed are the same arm twice", "arms.use without gaussian"]),
        (
            {"train": {"augment": "strong"}, "arms": {"use": ["duplicated", "mixed", "augmented"]}},
            ["augmented is real again"],
        ),
        ({"curve": {"finding": "Effusion"}}, ["curve.finding", "data.limit"]),
        ({"name": "../x"}, ["name"]),
        ({"evaluate": primary(arm="duplicated", control="mixed")}, ["'mixed'", "no control of 'duplicated'"]),
        ({"evaluate": primary(control="real"), "arms": {"use": ["real", "mixed"]}}, ["count-matched control"]),
        ({"core": {"name": "gaussian"}, "arms": {"use": ["duplicated", "mixed", "outside"]}}, ["outside", "gaussian"]),
        ({"arms": {"use": ["duplicated", "pretrained", "ungated"]}, "evaluate": primary("pretrained")},
         ["arms.use has ungated, a control of mixed, without mixed"]),
        ({"arms": {"use": ["duplicated", "mixed", "random_reject"]}, "gate": NO_CHECK},
         ["every check of the gate turned off", "random_reject is mixed again", "--set gate.agreement=true"]),
        ({"arms": {"use": ["duplicated", "mixed", "ungated"]}, "evaluate": primary("ungated", "mixed")},
         ["'mixed' is no control of 'ungated'", "random_reject"]),
        ({"evaluate": primary() | {"threshold_rule": "youdn"}}, ["evaluate", "threshold_rule", "youdn"]),
        ({"evaluate": primary() | {"metrics": ["auc"]}}, ["evaluate", "metrics", "auc"]),
        ({"evaluate": primary() | {"age_bins": [40, 20]}}, ["evaluate", "age_bins"]),
        ({"evaluate": primary() | {"recalibration": "plat"}}, ["evaluate.recalibration", "'isotonic'", "found 'plat'"]),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named_with_its_key_in_one_line(tmp_path: Path, change: dict, parts: list[str]) -> None:
    message = refusal(tmp_path, change)
    for part in ("mine.yaml", *parts):
        assert part in message


@pytest.mark.parametrize(
    ("text", "part"),
    [
        ("a: &x 1\nb: *x\n", "alias"),
        ("seed: 1\nseed: 2\n", "'seed' occurs twice"),
        ("- 1\n", "keys and values"),
        ("a: [\n", "not valid YAML"),
        ("!!python/object/apply:os.system ['true']\n", "not valid YAML"),
        ("", "keys and values"),
    ],
)
def test_hostile_or_broken_yaml_is_refused(tmp_path: Path, text: str, part: str) -> None:
    with pytest.raises(InputError, match=part):
        read_recipe(write(tmp_path, text))


@pytest.mark.parametrize("name", ["mine.csv", "mine.csv.gz", "mine.PARQUET"])
def test_a_table_in_place_of_a_recipe_is_called_one(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"image,patient_id\na: b: c,p\n")
    with pytest.raises(InputError, match=r"this is a table; expected a recipe \(YAML\)"):
        read_recipe(tmp_path / name)


def test_a_missing_recipe_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such recipe"):
        read_recipe(tmp_path / "none.yaml")


@pytest.mark.parametrize("control", ["ungated", "random_reject"])
def test_a_primary_endpoint_may_be_about_the_gate(tmp_path: Path, control: str) -> None:
    use = ["duplicated", "mixed", "ungated", "random_reject"]
    raw = {**MINIMAL, "arms": {"use": use}, "evaluate": primary(control=control)}
    assert parse_recipe(raw, tmp_path / "mine.yaml").evaluate.primary.control == control
    # one check is enough for a gate to be there
    parse_recipe({**raw, "gate": NO_CHECK | {"realism": True}}, tmp_path / "mine.yaml")


def test_set_replaces_settings_by_path(tmp_path: Path) -> None:
    path = write(tmp_path, yaml.safe_dump(MINIMAL))
    recipe = read_recipe(path, ["train.steps=7", "arms.ratios=[0.5, 1]", "data.limit=[{finding: Mass, patients: 3}]"])
    assert recipe.train.steps == 7
    assert recipe.arms.ratios == [0.5, 1]
    assert recipe.data.limit[0].patients == 3
    with pytest.raises(InputError, match=r"key\.path=value"):
        read_recipe(path, ["train.steps"])
    with pytest.raises(InputError, match="unknown key"):
        read_recipe(path, ["train.step=1"])


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 10**6), draws=st.integers(1, 50), share=st.floats(0.01, 0.99), size=st.integers(16, 1024))
def test_a_recipe_survives_a_round_trip_through_json(seed: int, draws: int, share: float, size: int) -> None:
    data = {"manifest": "m.csv", "size": size, "limit": [{"group": {"sex": "F"}, "share": share}]}
    recipe = parse_recipe({**MINIMAL, "seed": seed, "draws": draws, "data": data}, Path("x.yaml"))
    assert Recipe.model_validate_json(recipe.model_dump_json()) == recipe
