"""What a page would load or run, found by parsing it as a browser does."""

from __future__ import annotations

from html.parser import HTMLParser


class Parsed(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside not in ("script", "style"):
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def count(self, tag: str) -> int:
        return sum(name == tag for name, _ in self.tags)

    def values(self, *names: str) -> list[str]:
        return [value or "" for _, attrs in self.tags for name, value in attrs.items() if name in names]


def assert_offline(html: str) -> Parsed:
    """The page loads nothing, links nowhere outside itself, and runs no script but its own."""
    page = Parsed(html)
    assert page.count("script") == 1
    for forbidden in ("link", "iframe", "object", "embed", "form", "base", "video", "audio"):
        assert page.count(forbidden) == 0, forbidden
    assert all(value.startswith("data:image/png;base64,") for value in page.values("src", "srcset", "poster"))
    assert all(value.startswith("#") for value in page.values("href", "xlink:href", "action"))
    assert not [name for _, attrs in page.tags for name in attrs if name.startswith("on")]
    assert "url(" not in html
    assert "@import" not in html
    return page
