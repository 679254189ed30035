"""New names and dates: the same under one key, unrelated under another, and never the old ones."""

from __future__ import annotations

import hashlib
import hmac
import stat
from datetime import date

import pytest

from cxraug.errors import InputError
from cxraug.privacy.pseudonyms import Pseudonyms, parse_date, read_key, write_key


def test_names_are_hmac_sha256_under_the_key() -> None:
    key = bytes(range(32))
    wanted = hmac.new(key, b"study\0s-1", hashlib.sha256).hexdigest()[:15]
    assert Pseudonyms(key).name("study", "s-1") == "s" + wanted
    assert Pseudonyms(key).name("patient", "s-1") != "p" + wanted
    assert Pseudonyms().name("study", "s-1") != Pseudonyms().name("study", "s-1")


def test_new_dates_keep_distances_and_lie_in_another_century() -> None:
    old = [date(2019, 3, 31), date(2019, 4, 2), date(2018, 12, 31)]
    new = Pseudonyms(b"k" * 32).dates("p1", old)
    assert [(a - new[2]).days for a in new] == [(a - old[2]).days for a in old]
    assert 2100 <= min(new).year <= 2199
    starts = {Pseudonyms(b"k" * 32).dates(f"p{i}", old[:1])[0] for i in range(50)}
    assert len(starts) == 50


def test_a_key_file_is_private_and_read_back(tmp_path) -> None:
    write_key(tmp_path / "key", b"\x01" * 32)
    assert read_key(tmp_path / "key") == b"\x01" * 32
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600


def test_what_is_no_key_is_refused_and_not_printed(tmp_path) -> None:
    (tmp_path / "key").write_text("secret but short")
    with pytest.raises(InputError, match="not a key; found '16 characters'") as error:
        read_key(tmp_path / "key")
    assert "secret" not in str(error.value)
    with pytest.raises(InputError, match="no such key file"):
        read_key(tmp_path / "nothing")


def test_dates_are_read_in_the_two_usual_forms() -> None:
    assert parse_date("2019-03-31") == parse_date("20190331") == parse_date("2019-03-31 12:00") == date(2019, 3, 31)
    for bad in ("31.3.2019", "2019-02-30", "yesterday"):
        with pytest.raises(ValueError, match=r"date|day"):
            parse_date(bad)
