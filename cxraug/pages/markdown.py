"""Markdown of results: text that stays text, tables and lists."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def plain_text(text: object) -> str:
    """``text`` so that Markdown and HTML in it stay text, on one line."""
    line = " ".join(str(text).split())
    for mark, kept in (("\\", "\\\\"), ("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("`", "\\`"), ("*", "\\*"),
                       ("|", "\\|"), ("![", "!\\["), ("](", "]\\("), ("][", "]\\["), ("#", "\\#")):  # fmt: skip
        line = line.replace(mark, kept)
    return line


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of cells that are Markdown already; empty without rows."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    if not lines:
        return ""
    return "\n".join([f"| {' | '.join(head)} |", "|" + "---|" * len(head), *lines])


def bullets(lines: Iterable[str]) -> str:
    """A list, each line as plain text."""
    return "\n".join(f"- {plain_text(line)}" for line in lines)
