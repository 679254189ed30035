"""Captions as the network read them in training.

ChexGen cleans captions as DeepFloyd IF and PixArt-alpha do, twice. diffusers has that (``PixArtAlphaPipeline``) but
only together with bs4 and ftfy, and otherwise leaves captions almost as they are. Here are its steps that can touch
an English impression, in its order. Left out are mending of broken encodings (ftfy), entities nested in markup, Chinese
characters and the wording of shops (file names, "free shipping", "page 3").
"""

from __future__ import annotations

import html
import re
from urllib.parse import unquote_plus

_FIRST = (
    # addresses; a missing space after a full stop makes one ("lungs.compatible")
    (r"\b(?:https?:(?:/{1,3}|[a-z0-9%])|[a-z0-9.\-]+[.](?:com|co|ru|net|org|edu|gov|it)[\w/-]*\b/?(?!@))", ""),
    (r"</?[a-z][^<>]*>", ""),
    (r"@\w+\b", ""),
    (r"[\u002D\u058A\u05BE\u2010-\u2015\u2E3A\u2E3B\uFE58\uFE63\uFF0D]+", "-"),
    (r"[`´«»“”¨]", '"'),
    (r"[‘’]", "'"),
    (r"&quot;?|&amp", ""),
    (r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}", " "),
    (r"\d:\d\d\s+$", ""),
    (r"\\n", " "),
    (r"#\d{1,3}\b", ""),
    (r"#\d{5,}\b", ""),
    (r"\b\d{6,}\b", ""),
    (r"[\"']{2,}", '"'),
    (r"[.]{2,}", " "),
    (r"[#®•©™&@·º½¾¿¡§~)(\]\[}{|\\/*]+", " "),
    (r"\s+\.\s+", " "),
)
_JOINT = re.compile(r"[-_]")  # more than three of them join words that are none
_THEN = (
    (r"\b[a-z]{1,3}\d{3,15}\b", ""),  # codes
    (r"\b[a-z]+\d+[a-z]+\b", ""),
    (r"\b\d+[a-z]+\d+\b", ""),
    (r"\b\d*[a-z]+\d+[a-z]+\d+[a-z\d]*\b", " "),
    (r"\b\d+\.?\d*[xх×]\d+\.?\d*\b", ""),  # sizes: 2x3
    (r"\b\s+:\s+", ": "),
    (r"(\D[,./])\b", r"\1 "),
    (r"\s+", " "),
    (r"^[\"']([\w\W]+)[\"']$", r"\1"),
    (r"^['_,\-:;]", ""),
    (r"['_,\-:+]$", ""),
    (r"^\.\S+$", ""),
)


def clean_caption(text: str) -> str:
    """``text`` in lower case with one kind of dash, quote and space, without codes, markup and most punctuation."""
    return _once(_once(text))


def _once(text: str) -> str:
    text = html.unescape(unquote_plus(text).strip().lower())
    for pattern, new in _FIRST:
        text = re.sub(pattern, new, text)
    if len(_JOINT.findall(text)) > 3:
        text = _JOINT.sub(" ", text)
    text = html.unescape(html.unescape(text))
    for pattern, new in _THEN:
        text = re.sub(pattern, new, text)
    return text.strip()
