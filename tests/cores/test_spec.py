"""Names of cores of other programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from tiny_recipe import tiny_recipe

from cxraug.cores.spec import parse_spec, resolve_spec
from cxraug.errors import InputError
from cxraug.recipe import read_recipe


def test_kind_path_and_options() -> None:
    found = parse_spec("diffusers:/models/a+b/sd v1+lora:x/y.safetensors+prompt:plain")
    assert found is not None
    assert (found.kind, found.path) == ("diffusers", "/models/a+b/sd v1")
    assert dict(found.options) == {"lora": "x/y.safetensors", "prompt": "plain"}
    assert parse_spec("chexgen:a.pth").path == "a.pth"  # type: ignore[union-attr]


def test_home_is_meant_by_a_tilde(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/x")
    found = parse_spec("chexgen:~/w.pth+t5:~/T5+prompt:~{impression}")
    assert found is not None
    assert (found.path, found.options["t5"], found.options["prompt"]) == (
        "/home/x/w.pth",
        "/home/x/T5",
        "~{impression}",
    )


def test_other_names_are_none() -> None:
    assert [parse_spec(name) for name in ("phantom-nano", "runs/core", "other:x", "gaussian")] == [None] * 4


@pytest.mark.parametrize(
    ("name", "match"),
    [("diffusers:", "no path"), ("chexgen:a+lora:b", r"\+lora:b.*\+t5:"), ("xgem:a+findings:", "not an option"),
     ("diffusers:a+lora:b+lora:c", "given twice")],
)  # fmt: skip
def test_refusals(name: str, match: str) -> None:
    with pytest.raises(InputError, match=match):
        parse_spec(name)


def test_paths_in_a_name_start_where_it_is_written(tmp_path: Path) -> None:
    found = resolve_spec("diffusers:sd+lora:x.safetensors+prompt:plain+config:/abs", tmp_path)
    assert found == f"diffusers:{tmp_path}/sd+lora:{tmp_path}/x.safetensors+prompt:plain+config:/abs"
    path = tmp_path / "sub" / "r.yaml"
    path.parent.mkdir()
    recipe = tiny_recipe("r", {"phantom": {"n": 10, "seed": 1}}) | {"core": {"name": "chexgen:w.pth+t5:T5"}}
    path.write_text(yaml.safe_dump(recipe))
    assert read_recipe(path).core.name == f"chexgen:{tmp_path}/sub/w.pth+t5:{tmp_path}/sub/T5"
    assert read_recipe(path, ["core.name=xgem:w.pt"]).core.name == f"xgem:{Path.cwd()}/w.pt"
