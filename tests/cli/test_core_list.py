"""The table of cores on a narrow terminal."""

from __future__ import annotations

import pytest

from cxraug.cli.main import run
from cxraug.cores.registry import list_cores


def test_no_name_is_cut_at_80_columns(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run(["core", "list"]) == 0
    shown = capsys.readouterr().out
    assert "…" not in shown
    for card in list_cores():
        for name in (card.name, *card.findings, *card.conditions):
            assert name in shown
