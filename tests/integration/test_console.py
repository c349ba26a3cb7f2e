"""emitterd on a terminal: progress bars, log lines and the summary of `once`."""

import os
import re
import signal
from pathlib import Path

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_list
from support.installation import Installation
from support.terminal import Shown, on_terminal

BAR = "━"
ESCAPE = "\x1b"
COLOUR = re.compile(r"\x1b\[[0-9;]*m")
LOG_LINE = re.compile(r"\d\d:\d\d:\d\d [a-z]+\.[a-z_]+( |$)")
DELIVERED = "3 files delivered (293 KiB) in"


@pytest.fixture
def site(tmp_path: Path, server: RehearsalServer) -> Installation:
    """Have three files that take about a second to upload, and one incomplete file."""
    site = Installation(
        tmp_path, server.url, delivery_bandwidth="600KiB/s", delivery_drain_timeout="100ms"
    )
    for number in range(3):
        site.drop(f"pat/file_{number}.zip", os.urandom(100_000))
    return site


def once(site: Installation, columns: int = 80, **variables: str) -> Shown:
    """Run `once` on a terminal, with these variables."""
    set_them = ["env", *(f"{name}={value}" for name, value in variables.items())]
    environment = site.environment(LANG="C.UTF-8", TERM="xterm")
    return on_terminal([*set_them, *site.command("once")], environment, columns=columns)


def events(shown: Shown) -> list[str]:
    """Return the events on the screen, in order."""
    return [line.split()[1] for line in shown.lines if LOG_LINE.match(line)]


@pytest.mark.parametrize(
    "columns", [80, *(pytest.param(size, marks=pytest.mark.slow) for size in (60, 120))]
)
def test_bars_and_log_lines_never_overwrite_each_other(site: Installation, columns: int) -> None:
    """Bars are shown and gone in the end; each event is there once, the summary last."""
    shown = once(site, columns=columns)

    assert shown.code == 0
    assert BAR in shown.written
    assert BAR not in "".join(shown.lines)
    assert events(shown).count("file.admitted") == events(shown).count("file.delivered") == 3
    assert shown.lines[-1].startswith(DELIVERED)
    assert shown.lines[-1].endswith(", 0 not delivered")
    others = [line for line in shown.lines[:-1] if not LOG_LINE.match(line)]
    assert all(line.startswith(" " * 9) for line in others)


def test_what_is_not_delivered_is_listed_before_the_summary(
    site: Installation, server: RehearsalServer
) -> None:
    """Each file with code and reason; the log lines say what happened meanwhile."""
    whole = site.spool / "pat" / "file_0.zip"
    (site.spool / "pat" / "broken.zip").write_bytes(whole.read_bytes()[:-5])
    server.faults = fault_list("503@1")

    shown = once(site)

    assert shown.code == 1
    assert server.fired["503"] == 1
    assert "file.deferred" in events(shown)
    assert "1 file is not delivered" in shown.lines
    assert any(line.startswith("  pat/broken.zip: E201 ") for line in shown.lines)
    assert re.fullmatch(re.escape(DELIVERED) + r" \S+, 1 not delivered", shown.lines[-1])


def test_ctrl_c_ends_tidily_with_the_same_summary(site: Installation) -> None:
    """The bars go, the cursor comes back, and what is left is listed."""
    # The files would take more than half a minute.
    site.settings["EMITTERD_DELIVERY_BANDWIDTH"] = "8KiB/s"
    interrupt = {BAR: signal.SIGINT}
    shown = on_terminal(
        site.command("once"), site.environment(LANG="C.UTF-8", TERM="xterm"), signals=interrupt
    )

    assert shown.code == 1
    assert shown.written.rindex(f"{ESCAPE}[?25h") > shown.written.rindex(BAR)
    assert "3 files are not delivered" in shown.lines
    assert shown.lines[-1].startswith("interrupted: 0 files delivered (0 B) in ")
    assert shown.lines[-1].endswith(", 3 not delivered")
    assert "Traceback" not in shown.written


@pytest.mark.slow
def test_colours_are_only_where_they_are_wanted(site: Installation) -> None:
    """NO_COLOR leaves the bars; a terminal that can do nothing gets plain lines."""
    coloured = once(site)
    site.drop("pat/file_3.zip", os.urandom(1_000_000))
    plain = once(site, NO_COLOR="1")
    site.drop("pat/file_4.zip", os.urandom(100_000))
    dumb = once(site, TERM="dumb")

    assert f"{ESCAPE}[32mfile.delivered{ESCAPE}[0m" in coloured.written
    assert BAR in plain.written
    assert not COLOUR.search(plain.written)
    assert ESCAPE not in dumb.written
    assert "file.delivered" in events(dumb)


@pytest.mark.slow
def test_the_daemon_logs_short_lines_also_after_a_reload(site: Installation) -> None:
    """`run` on a terminal logs as `once` does, without bars."""
    signals = {"file.delivered": signal.SIGHUP, "daemon.reloaded": signal.SIGINT}
    shown = on_terminal(
        site.command("run"), site.environment(LANG="C.UTF-8", TERM="xterm"), signals=signals
    )

    assert shown.code == 0
    assert {"daemon.ready", "daemon.reloaded", "daemon.stopped"} <= set(events(shown))
    assert "{" not in "".join(shown.lines)
    assert BAR not in shown.written
