"""Every shipped core has a card in data_cards, and what it says is what card.json says."""

from __future__ import annotations

from pathlib import Path

import pytest

from cxraug.cores.registry import list_cores

CARDS = Path(__file__).parents[2] / "data_cards"


@pytest.mark.parametrize("core", list_cores(), ids=lambda card: card.name)
def test_a_shipped_core_has_a_card_that_agrees_with_its_weights(core):
    text = (CARDS / f"{core.name}.md").read_text()
    assert f"# Data card: core {core.name}" in text
    assert core.sha256 in text
    assert f"{core.resolution} x {core.resolution} pixels" in text
    assert core.licence.split(",")[0] in text
    for name in (*core.findings, *core.sources, *core.views):
        assert name in text or name.lower() in text.lower(), name
    assert f"{core.training_data['images']:,}" in text
    assert f"{core.training_data['patients']:,}" in text
    for heading in ("What it is not for", "Limits"):
        if heading in text:
            break
    else:
        raise AssertionError("no section about limits")
