"""Operators of a running daemon: who can log in, what they do, and that deliveries go on."""

import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.installation import DEADLINE_S, Installation, Process
from support.ports import free_port
from support.visitors import PASSWORD, Visitor, make_user, write_users
from support.waiting import wait_until

pytestmark = pytest.mark.slow
NAME = "school_master/school_mst.zip"


class Site(Installation):
    """An installation with the page."""

    def __init__(self, folder: Path, url: str) -> None:
        self.port = free_port()
        super().__init__(folder, url, web_listen=f"127.0.0.1:{self.port}")
        self.operators = folder / "operators"
        self.daemon: Process
        with self.config.open("a") as file:
            file.write("web:\n  operators_file: operators\n")

    def visitor(self) -> Visitor:
        """Open a browser."""
        return Visitor(self.port, f"127.0.0.1:{self.port}")


@pytest.fixture
def site(tmp_path: Path, server: RehearsalServer) -> Iterator[Site]:
    """Run an installation with one operator."""
    site = Site(tmp_path, server.url)
    write_users(site.operators, make_user("asha"))
    with site.running() as site.daemon:
        site.daemon.wait_for_event("web.served")
        yield site


def test_an_operator_of_a_running_daemon_acts(site: Site) -> None:
    """The log, the journal and `explain` name the user; the worker goes on at once."""
    asha = site.visitor()
    assert asha.log_in().status == 303
    site.drop(NAME)
    site.wait_delivered(1)
    assert asha.act("forget", NAME, confirmation="school_mst.zip").status == 303
    site.wait_delivered(2)

    (event,) = site.events("operator.acted")
    assert (event["act"], event["user"], event["path"]) == ("forget", "asha (page)", NAME)
    (action,) = site.ask("explain", NAME)["actions"]
    assert (action["act"], action["user"]) == ("forget", "asha (page)")


def test_a_broken_file_stops_logins_and_no_delivery(site: Site) -> None:
    """One event says so; sessions end; a reload reads the corrected file."""
    asha = site.visitor()
    asha.log_in()
    assert asha.user == "asha"
    site.operators.write_text("broken\n")

    assert asha.user == ""
    assert asha.get("/login").title == "The file of users cannot be used"
    site.drop(NAME)
    site.wait_delivered(1)
    assert len(site.events("web.operators_unusable")) == 1

    write_users(site.operators, make_user("ravi"))
    assert site.visitor().log_in("asha").status == 403
    assert site.visitor().log_in("ravi").status == 303


def test_a_reload_can_switch_the_login_off_and_on(site: Site) -> None:
    """`web.operators_file` applies at once."""
    asha = site.visitor()
    asha.log_in()
    text = site.config.read_text()

    def reload(new_text: str) -> None:
        before = len(site.events("daemon.reloaded"))
        site.config.write_text(new_text)
        site.daemon.signal(signal.SIGHUP)
        wait_until(lambda: len(site.events("daemon.reloaded")) > before, DEADLINE_S, "the reload")

    reload(text.replace("web:\n  operators_file: operators\n", ""))
    assert site.events("daemon.reloaded")[-1]["changed"] == ["web.operators_file"]
    assert asha.get("/login").title == "There is no login"
    assert asha.user == ""
    reload(text)
    assert asha.user == "asha"


def test_the_command_and_the_daemon_agree(site: Site) -> None:
    """A user who was added can log in without a reload, and is out when removed."""
    command, environ = site.command("operator", "add", "meera"), site.environment()
    subprocess.run(command, env=environ, input=PASSWORD, text=True, check=True)  # noqa: S603
    meera = site.visitor()
    assert meera.log_in("meera").status == 303
    assert meera.user == "meera"
    assert site.call("operator", "remove", "meera").returncode == 0
    assert meera.user == ""
