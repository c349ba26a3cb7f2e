"""Notifying systemd, on a real datagram socket."""

import secrets
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emitterd.service.systemd import extend_timeout, notify, reloading, watchdog_s


@pytest.fixture(params=["path", "abstract"])
def manager(
    request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[socket.socket]:
    """Listen where systemd would, by either kind of address."""
    if request.param == "path":
        name = bound = str(tmp_path / "notify")
    else:
        name = f"@emitterd-{secrets.token_hex(8)}"
        bound = "\0" + name[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(bound)
        listener.settimeout(10.0)
        monkeypatch.setenv("NOTIFY_SOCKET", name)
        yield listener


def test_lines_arrive_as_one_datagram(manager: socket.socket) -> None:
    """All lines of one call are one message."""
    assert notify("READY=1", "STATUS=3 queued")
    assert manager.recv(4096) == b"READY=1\nSTATUS=3 queued"


def test_text_is_utf_8(manager: socket.socket) -> None:
    """What cannot be encoded is replaced, the rest is UTF-8."""
    assert notify("STATUS=दो \udce9")
    assert manager.recv(4096) == "STATUS=दो ?".encode()


@pytest.mark.parametrize("address", ["", "notify", "vsock:2:1234"])
def test_silent_where_nobody_asked(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """No address, or one of a kind that is not spoken: nothing is sent."""
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    assert not notify("READY=1")


def test_silent_without_the_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Started by hand there is nobody to notify."""
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    assert not notify("READY=1")


def test_manager_that_went_away(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that is gone does not stop the daemon."""
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "gone"))
    assert not notify("READY=1")


def test_address_too_long_for_a_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    """An address that no socket can have does not stop the daemon either."""
    monkeypatch.setenv("NOTIFY_SOCKET", "/" + "x" * 200)
    assert not notify("READY=1")


def test_reload_carries_its_instant() -> None:
    """`Type=notify-reload` wants to know by the monotonic clock when it began."""
    before = time.monotonic_ns() // 1000
    first, second = reloading().split("\n")

    assert first == "RELOADING=1"
    name, _, instant = second.partition("=")
    assert name == "MONOTONIC_USEC"
    assert before <= int(instant) <= time.monotonic_ns() // 1000


def test_time_is_asked_for_in_microseconds() -> None:
    """The manager counts in whole microseconds."""
    assert extend_timeout(43.5) == "EXTEND_TIMEOUT_USEC=43500000"


@pytest.mark.parametrize(
    ("environ", "every_s"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "7"}, 60.0),
        ({"WATCHDOG_USEC": "1500000"}, 1.5),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": "8"}, None),
        ({"WATCHDOG_USEC": "60000000", "WATCHDOG_PID": ""}, None),
        ({"WATCHDOG_USEC": "0", "WATCHDOG_PID": "7"}, None),
        ({"WATCHDOG_USEC": "soon", "WATCHDOG_PID": "7"}, None),
        ({"WATCHDOG_USEC": "-5"}, None),
        ({"WATCHDOG_PID": "7"}, None),
    ],
    ids=[
        "no watchdog",
        "ours",
        "anybody's",
        "another's",
        "nobody's",
        "off",
        "no number",
        "negative",
        "no time",
    ],
)
def test_whose_watchdog_it_is(environ: dict[str, str], every_s: float | None) -> None:
    """Only a watchdog of this very process, with a time, is fed."""
    assert watchdog_s(environ, 7) == every_s
