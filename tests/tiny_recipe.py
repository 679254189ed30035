"""The smallest recipe that walks the whole way: two arms, a closed-form core, two training steps."""

from __future__ import annotations

from typing import Any


def tiny_recipe(name: str, data: dict[str, Any], *, seeds: int = 1, **evaluate: Any) -> dict[str, Any]:
    """A recipe about Effusion on ``data``; ``evaluate`` adds to the settings of the evaluation."""
    return {
        "name": name, "seeds": seeds, "workers": 1, "data": {"findings": ["Effusion"], "size": 32, **data},
        "plan": {"findings": ["Effusion"], "floor": 60, "budget": 16, "groups": [], "companions": 1},
        "core": {"name": "gaussian"},
        "gate": {"steps": 2, "model": "test_resnet"},
        "arms": {"use": ["duplicated", "mixed"]},
        "train": {"steps": 2, "batch_size": 8, "eval_every": 2, "model": "test_resnet"},
        "evaluate": {
            "groups": [], "source_probe": False, "metrics": ["auroc"],
            "primary": {"arm": "mixed", "control": "duplicated", "finding": "Effusion"}, **evaluate,
        },
    }  # fmt: skip
