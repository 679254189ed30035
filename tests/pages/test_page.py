"""The frame of every page: offline, escaped, sortable."""

import base64
import hashlib
import re

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markupsafe import Markup
from offline import Parsed, assert_offline

from cxraug.pages.page import Cell, bullets, facts, fold, interval, note, number, render_page, section, table, tag

HOSTILE = "<img src=x onerror=alert(1)></table><script src='http://evil.example/x.js'></script>\"'&{{7*7}}"


def test_every_block_escapes_plain_text():
    body = section(
        "key",
        HOSTILE,
        table(pd.DataFrame({HOSTILE: [HOSTILE]}), caption=HOSTILE),
        note(HOSTILE),
        bullets([HOSTILE]),
        tag(HOSTILE),
        fold(HOSTILE, HOSTILE),
        facts([(HOSTILE, HOSTILE)]),
        lead=HOSTILE,
    )
    page = assert_offline(render_page(HOSTILE, body, subtitle=HOSTILE, nav=[("key", HOSTILE)]))
    assert page.count("img") == 0
    assert page.text.count(HOSTILE) >= 12  # it is shown, as text, and {{7*7}} is not evaluated


def test_plain_text_cannot_be_a_body():
    with pytest.raises(TypeError, match="Markup"):
        render_page("title", "<b>not markup</b>")  # type: ignore[arg-type]


def test_policy_allows_the_pages_own_script_only():
    html = render_page("title", Markup("<p>x</p>"))
    script = re.search(r"<script>(.*?)</script>", html, re.S)
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert script is not None
    assert policy is not None
    digest = base64.b64encode(hashlib.sha256(script[1].encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in policy[1]
    assert "default-src 'none'" in policy[1]


@settings(max_examples=40, deadline=None)
@given(st.text(st.characters(blacklist_categories=("Cs", "Cc"))))
def test_any_text_in_a_cell_comes_back_as_that_text(text):
    page = Parsed(f"<div>{table(pd.DataFrame({'a': [Cell(text, text)]}))}</div>")
    assert [name for name, _ in page.tags].count("td") == 1
    assert " ".join(text.split()) in page.text
    assert text in page.values("data-sort")


def test_table_formats_sorts_and_marks_what_is_missing():
    frame = pd.DataFrame(
        {
            "finding": ["Edema", "Mass"],
            "images": [1200, 7],
            "share": [0.25, float("nan")],
            "AUROC": [Cell("0.800 [0.700, 0.900]", 0.8), Cell(tag("suppressed"))],
        }
    )
    html = table(frame, formats={"share": ".1%"}, strong=[True, False])
    page = Parsed(html)
    assert page.values("data-sort") == ["Edema", "1200", "0.25", "0.8", "Mass", "7", "", ""]
    assert "1,200" in page.text
    assert "25.0\N{NO-BREAK SPACE}%" in html
    assert html.count('class="strong"') == 1
    assert html.count('scope="col"') == 4
    assert html.count('<th scope="col" aria-sort="none" class="number">') == 3


def test_numbers_have_a_true_minus_and_gaps_have_a_dash():
    assert number(-0.0514, "+.3f") == "−0.051"
    assert number(-0.0002, "+.3f") == "0.000"
    assert number(0.0, ".1%") == "0.0\N{NO-BREAK SPACE}%"
    assert number(1204, ",d") == "1,204"
    assert number(float("nan")) == number(None) == number(float("inf")) == "–"
    assert interval(0.5, 0.4, 0.6) == "0.500 [0.400, 0.600]"
    assert interval(0.5, None, 0.6) == "0.500 [no interval]"
    assert interval(None, 0.4, 0.6) == "–"


def test_a_limit_says_on_which_side_of_zero_it_is() -> None:
    assert interval(0.003, -0.0003, 0.006) == "0.003 [−0.000, 0.006]"
    assert interval(-0.0001, -0.2, -0.0004) == "0.000 [−0.200, −0.000]"
    assert interval(0.1, 0.0, 0.2) == "0.100 [0.000, 0.200]"
