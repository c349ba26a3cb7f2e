"""Text for people: secrets it must not show, and times."""

import base64
import html
import json
import urllib.parse

import pytest

from emitterd.text import MASK, keep_secret, local_time, masked
from emitterd.units import parse_instant

SECRET = 'geheim "& <é>/%'


@pytest.mark.parametrize(
    "quoted",
    [
        SECRET,
        urllib.parse.quote(SECRET, safe=""),
        html.escape(SECRET),
        json.dumps(SECRET)[1:-1],
        base64.b64encode(SECRET.encode()).decode(),
    ],
    ids=["plain", "url", "html", "json", "base64"],
)
def test_a_secret_is_masked_in_each_form(quoted: str) -> None:
    """A server may quote a password as it came, or encoded."""
    keep_secret("password", SECRET)

    answer = masked(f"wrong password: {quoted}, sorry")

    assert answer.replace("=", "") == f"wrong password: {MASK}, sorry"


def test_a_short_secret_is_masked_as_a_word() -> None:
    """Else a password of a few letters would mask half of every message."""
    keep_secret("password", "in")

    assert masked("invalid login: in (E401)") == f"invalid login: {MASK} (E401)"


def test_the_former_token_is_masked_too() -> None:
    """Of a kind the last two are known, and an empty secret is none."""
    for token in ("", "token-number-1", "token-number-2", "token-number-2", "token-number-3"):
        keep_secret("token", token)

    assert masked("token-number-1 token-number-2 token-number-3") == f"token-number-1 {MASK} {MASK}"


def test_a_secret_that_is_part_of_another_reveals_nothing_of_it() -> None:
    """The longer one is masked as a whole."""
    keep_secret("password", "p@ss")
    keep_secret("proxy", "geheim-p@ss")

    assert masked("geheim-p@ss and p@ss") == f"{MASK} and {MASK}"


@pytest.mark.usefixtures("in_india")
@pytest.mark.parametrize("at", [1_764_484_265.4, "2025-11-30T06:31:05.400Z"])
def test_people_read_the_time_of_this_machine_with_its_offset(at: float | str) -> None:
    """An instant for people is local, and `--since` takes it as it is written."""
    written = local_time(at)

    assert written == "2025-11-30 12:01:05+05:30"
    assert parse_instant(written, 0.0) == parse_instant("2025-11-30 12:01:05", 0.0) == 1764484265


def test_any_time_of_a_file_can_be_written() -> None:
    """A file may be older than the calendar."""
    assert local_time(-1e18)[:2] == "00"
    assert local_time(1e18)[:4] == "9999"
