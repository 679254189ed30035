"""Captions are cleaned as in training."""

from __future__ import annotations

import html
import re
from types import SimpleNamespace

import diffusers.pipelines.pixart_alpha.pipeline_pixart_alpha as pixart
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cxraug.cores.chexgen.cleaning import clean_caption

WORDS = [
    "sex:Male,", "age:71.0,", "race:Black.", "Mild", "cardiomegaly.", "No", "acute", "process", ".", "T12", "and/or",
    "(right)", "2.5x3", "cm", "3:45", "J2D1A2a", "AB1234", "1234567", "___", "follow-up", "--", "“subtle”", "patient's",
    "lungs.compatible", "50%", "a+b", "X-ray;", "...", "effusion/atelectasis", "–", "#12", "1.", "2.", ":", "'", "e.g.",
    "&amp;", "&lt;5",
]  # fmt: skip


@pytest.fixture(scope="module")
def as_diffusers() -> object:
    """diffusers' own cleaning, with stand-ins that do to plain text what bs4 does, and ftfy: nothing."""
    patch = pytest.MonkeyPatch()
    patch.setattr(
        pixart, "BeautifulSoup", lambda text, features: SimpleNamespace(text=html.unescape(text)), raising=False
    )
    patch.setattr(pixart, "ftfy", SimpleNamespace(fix_text=lambda text: text), raising=False)
    pipeline = SimpleNamespace(bad_punct_regex=pixart.PixArtAlphaPipeline.bad_punct_regex)
    clean = pixart.PixArtAlphaPipeline._clean_caption
    yield lambda text: clean(pipeline, clean(pipeline, text))
    patch.undo()


def test_published_captions() -> None:
    caption = "sex:Male, age:71.0, race:Black. No acute findings in the chest."
    assert clean_caption(caption) == "sex:male, age:71.0, race:black. no acute findings in the chest."
    assert clean_caption("  Mild  <b>edema</b> &amp; (small) effusion ") == "mild edema small effusion"


@settings(max_examples=150, deadline=None)
@given(words=st.lists(st.sampled_from(WORDS), max_size=12))
def test_as_diffusers_does(as_diffusers, words: list[str]) -> None:
    caption = " ".join(words)
    assert clean_caption(caption) == as_diffusers(caption)


def test_stand_ins_are_used(as_diffusers) -> None:
    assert as_diffusers("A  B") == "a b"
    assert re.search(r"\(", pixart.PixArtAlphaPipeline.bad_punct_regex.pattern)
