"""Events on a terminal: one short line each, with any content."""

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.cli.console_log import ConsoleLog, event_line

AT = "2026-11-30T07:34:05.123456Z"
PLAIN = {"COLUMNS": "80", "NO_COLOR": "1", "LANG": "C.UTF-8"}

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(), part, max_size=3),
    max_leaves=5,
)


@pytest.fixture(autouse=True)
def terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """Show events on a terminal of 80 columns without colours."""
    for name, value in PLAIN.items():
        monkeypatch.setenv(name, value)
    for name in ("FORCE_COLOR", "CLICOLOR_FORCE"):
        monkeypatch.delenv(name, raising=False)


def line(event: str, level: str = "info", **fields: Any) -> str:  # noqa: ANN401  as logged
    """Return the text of an event without its time."""
    text = event_line({"timestamp": AT, "level": level, "event": event, **fields})
    at, _, rest = text.partition(" ")
    assert re.fullmatch(r"\d\d:\d\d:\d\d", at)
    return rest


def test_a_delivery_is_path_size_and_duration() -> None:
    """Digests and the key are in the JSON log only."""
    text = line(
        "file.delivered",
        path="pat/periodic_exam_mst.zip",
        bytes=1_258_291,
        key="pat/periodic_exam_mst_20261130.zip",
        etag="d41d8cd98f00b204e9800998ecf8427e",
        verified=True,
        sha256="e3b0",
        attempt=1,
        ambiguous=False,
        duration_s=0.412345,
    )

    assert text == "file.delivered  pat/periodic_exam_mst.zip  1.2 MiB  412ms"


def test_counts_of_nothing_are_left_out() -> None:
    """What is left is what happened."""
    text = line("sweep.finished", files=5, admitted=0, missed=0, not_sent=1, duration_s=0.3)

    assert text == "sweep.finished  300ms  files=5  not_sent=1"


def test_trouble_has_its_level_reason_and_hint() -> None:
    """The level is a word, not only a colour; the hint begins a line of its own."""
    text = line(
        "file.rejected",
        "error",
        path="pat/a.zip",
        error="E202",
        reason="the file is larger than the server accepts, and nothing can make it smaller",
        hint="split it: `zip -s 4g whole.zip --out parts.zip`",
    )

    assert text.splitlines() == [
        "file.rejected   pat/a.zip  error: E202 the file is larger than the",
        "         server accepts, and nothing can make it smaller",
        "         split it: `zip -s 4g whole.zip --out parts.zip`",
    ]


def test_a_long_path_is_cut_in_the_middle() -> None:
    """The line fits the terminal; folder and file name can be recognised."""
    text = line("file.admitted", path=f"pat/{'x' * 90}/end.zip", bytes=10)

    assert len(f"00:00:00 {text}") == 80
    assert re.fullmatch(r"file\.admitted   pat/x+…x+/end\.zip  10 B", text)


def test_instants_are_local_and_lists_are_joined() -> None:
    """The next try is a time of day."""
    text = line("file.deferred", "warning", due_at=AT, findings=["E233", "E240"], reason="no")
    when = event_line({"timestamp": AT, "level": "info", "event": "x"})[:8]

    assert text == f"file.deferred   due_at={when}  findings=E233,E240  warning: no"


def test_a_traceback_follows_its_line() -> None:
    """It keeps its lines; none controls the terminal."""
    trace = "Traceback (most recent call last):\n  ValueError: x\x1b[2J"
    assert line("path.failed", "warning", exception=trace) == (
        "path.failed\nTraceback (most recent call last):\n  ValueError: x\\x1b[2J"
    )


@pytest.mark.parametrize(
    ("level", "event", "code"),
    [
        ("error", "destination.down", "31"),
        ("warning", "file.deferred", "33"),
        ("info", "file.delivered", "32"),
    ],
)
def test_the_colour_is_that_of_the_level(
    monkeypatch: pytest.MonkeyPatch, level: str, event: str, code: str
) -> None:
    """Only the name of the event has it; other events have none."""
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.setenv("CLICOLOR_FORCE", "1")

    assert line(event, level, path="a.zip").startswith(f"\x1b[{code}m{event}\x1b[0m ")
    assert "\x1b" not in line("file.admitted", path="a.zip")


@given(st.dictionaries(st.sampled_from(["path", "reason", "hint", "error", "x"]), VALUES))
def test_no_value_controls_the_terminal(fields: dict[str, Any]) -> None:
    """Each line is printable, with any fields."""
    assert all(part.isprintable() for part in line("x", **fields).split("\n"))


def test_an_event_that_cannot_be_shown_is_written_as_json(
    capfd: pytest.CaptureFixture[str],
) -> None:
    """The log never stops the work."""
    ConsoleLog().write('{"event": "x"}', {"event": "x", "timestamp": "never"})

    assert capfd.readouterr().out == '{"event": "x"}\n'
