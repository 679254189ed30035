"""The registry of public cores, and what of a core is on this machine."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from cores.chexgen.tinychexgen import PLAIN, save_checkpoint
from safetensors.torch import load_file
from typer.testing import CliRunner

from cxraug.cli.main import app
from cxraug.cores.inventory import missing, parameters
from cxraug.cores.known import known_cores, search_cores
from cxraug.cores.registry import find_core, read_card
from cxraug.cores.spec import OPTIONS, parse_spec
from cxraug.errors import InputError

ROOT = Path(__file__).parents[2]


def test_every_entry_can_be_named_here_and_has_a_data_card() -> None:
    cores = known_cores()
    assert len({core.name for core in cores}) == len(cores) >= 5
    for core in cores:
        spec = parse_spec(core.spec)
        assert spec is not None, core.name
        assert spec.kind in OPTIONS
        assert core.source.startswith("https://")
        card = {"roentgen-v2": "roentgen"}.get(core.name, core.name)
        assert (ROOT / "data_cards" / f"{card}.md").is_file(), core.name


def test_search_by_words_conditions_and_views() -> None:
    def names(*words: str, **how: list[str]) -> list[str]:
        return [core.name for core in search_cores(words, **how)]

    assert names("roentgen") == ["roentgen", "roentgen-v2"]
    assert names("mimic", "sana") == ["chexgenbench"]
    assert names(conditions=["race"]) == ["roentgen-v2", "chexgen"]
    assert names(conditions=["race", "boxes"]) == ["chexgen"]
    assert names(views=["Lateral"]) == ["xgem"]
    assert names("nothing such") == []


def test_the_command_prints_terms_and_says_where_nothing_is() -> None:
    said = CliRunner().invoke(app, ["core", "search", "roentgen", "request"]).output
    assert "licence" in said
    assert "use as      diffusers:FOLDER" in said
    assert "get the weights from the source yourself" in said
    assert "none in the registry" in CliRunner().invoke(app, ["core", "search", "unheard-of"]).output
    answer = json.loads(CliRunner().invoke(app, ["core", "search", "--condition", "mask", "--json"]).output)
    assert [core["name"] for core in answer["cores"]] == ["chexgen"]


def test_parameters_are_counted_by_part(tmp_path: Path) -> None:
    stored = load_file(find_core("phantom-nano") / "model.safetensors")
    assert parameters("phantom-nano") == {"all": sum(t.numel() for t in stored.values())}
    torch.save({"state_dict": {"a": torch.ones(2, 3), "b": {"c": torch.ones(4)}}, "step": 3}, tmp_path / "x.ckpt")
    assert parameters(f"diffusers:{tmp_path / 'x.ckpt'}") == {"all": 10}


def test_what_is_missing_is_said_by_show_and_is_no_failure(tmp_path: Path) -> None:
    assert missing("phantom-nano") == []
    shutil.copytree(find_core("phantom-nano"), tmp_path / "core")
    (tmp_path / "core" / "card.json").write_text("{}")
    assert "not a core's card" in missing(tmp_path / "core")[0]
    (tmp_path / "pipe").mkdir()
    result = CliRunner().invoke(app, ["core", "show", f"diffusers:{tmp_path / 'pipe'}"])
    assert result.exit_code == 0
    answer = json.loads(result.output)
    assert "model_index.json" in answer["missing"][0]
    assert answer["parameters"] == {}


@pytest.mark.parametrize("name", ["diffusers:a", "phantom-nano"])
def test_only_single_checkpoints_are_converted(tmp_path: Path, name: str) -> None:
    result = CliRunner().invoke(app, ["core", "convert", name, str(tmp_path / "out")])
    assert "nothing to convert" in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_what_captions_leave_out_cannot_be_asked_for(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "chexgen.pth", PLAIN)
    card = read_card(f"chexgen:{tmp_path / 'chexgen.pth'}")
    assert {"sex", "age", "race"} <= set(card.conditions)
    assert card.views == ["PA"], "its captions say no view"
    silent = read_card(f"chexgen:{tmp_path / 'chexgen.pth'}+prompt:{{impression}}+view:Lateral")
    assert not {"sex", "age", "race"} & set(silent.conditions)
    assert silent.views == ["Lateral"]
    said = read_card(f"chexgen:{tmp_path / 'chexgen.pth'}+prompt:{{view}} view. {{impression}}+view:PA|Lateral")
    assert said.views == ["PA", "Lateral"]
    with pytest.raises(InputError, match=r"say no view.*\+view:PA\|Lateral"):
        read_card(f"chexgen:{tmp_path / 'chexgen.pth'}+view:PA|Lateral")


def test_every_part_that_is_missing_is_named_and_nothing_is_loaded(tmp_path: Path) -> None:
    name = f"chexgen:{save_checkpoint(tmp_path / 'chexgen.pth', PLAIN)}"
    t5, vae = missing(name)
    assert "DeepFloyd/t5-v1_1-xxl" in t5
    assert "stabilityai/sd-vae-ft-ema" in vae
    (tmp_path / "t5").mkdir()
    assert "not whole" in missing(name)[0]
    assert missing(f"xgem:{tmp_path / 'none.pt'}")[0].endswith("no such checkpoint")
