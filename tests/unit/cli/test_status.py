"""`status`: what it prints of the health."""

import pytest

from emitterd.cli.commands.status import _print_health

SINCE = "2026-11-30T12:00:00.000Z"


def alarm(words: str, hint: str) -> dict[str, str]:
    """Return an alarm as in `status --json`."""
    return {"code": "x", "level": "WARNING", "since": SINCE, "words": words, "hint": hint}


def test_alarms_with_one_remedy_stand_together(capsys: pytest.CaptureFixture[str]) -> None:
    """The remedy is printed once, after the last of them."""
    alarms = [alarm("first", "do a"), alarm("second", "do b"), alarm("third", "do a")]
    _print_health({"health": {"alarms": alarms}}, 1796040000.0)

    lines = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in lines] == [
        *("WARNING: first", "WARNING: third", "  what to do: do a"),
        *("WARNING: second", "  what to do: do b"),
    ]
