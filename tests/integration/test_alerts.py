"""Alerts: what reaches a mail server, a webhook, a command and a heartbeat receiver."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from structlog.testing import capture_logs

from conftest import SmallDisk
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from emitterd.monitoring.alarms import Alarm, AlarmCode
from emitterd.monitoring.alarms import judge as judge_alarms
from emitterd.monitoring.alerts import channels
from emitterd.monitoring.alerts.channels import (
    AppriseChannel,
    CommandChannel,
    HeartbeatChannel,
    judge,
)
from emitterd.monitoring.alerts.incidents import BACKOFF_S, GATHER_S, GROWTH_S, QUIET_S
from emitterd.monitoring.alerts.loop import FIRST_HEARTBEAT_S, AlertRules, Alerts
from emitterd.monitoring.alerts.message import Place, compose_test
from emitterd.service.alerting import open_alerts
from emitterd.shutdown import Shutdown
from emitterd.translation.languages import LANGUAGES
from support.client import http_client
from support.in_process import Clock, Host, Killed, Mortal
from support.installation import Installation
from support.receivers import HOST, Receivers
from support.waiting import wait_until

PLACE = Place("deo-patna", "/srv/cqube_emission")
DEADLINE_S = 60.0
DAY_S = 86400.0


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[Receivers]:
    """Run a receiver for each channel."""
    with Receivers(tmp_path / "receivers") as receivers:
        yield receivers


@pytest.fixture
def silent() -> Iterator[int]:
    """Return the port of a server that accepts connections and never answers."""
    with socket.create_server((HOST, 0)) as server:
        yield server.getsockname()[1]


class Rig:
    """The alerts of a journal, looked at by hand; `alarms` are the present ones."""

    def __init__(self, journal: Journal) -> None:
        self.clock = Clock()
        self.journal = journal
        self.alarms: list[Alarm] = []
        self.shutdown = Shutdown()

    def start(self, rules: AlertRules) -> Alerts:
        """Start anew, with what the journal knows."""
        self.alerts = Alerts(
            lambda: judge_alarms(self.alarms), self.journal, PLACE, rules, self.shutdown
        )
        return self.alerts

    def raise_alarm(self, code: AlarmCode = AlarmCode.ROOT_LOST) -> None:
        """Raise an alarm and let it be due."""
        self.alarms.append(Alarm(code, time.time(), "the watched folder is gone", "mount it"))
        self.look()
        self.clock.pass_by(GATHER_S)

    def look(self) -> None:
        """Look once, and wait until every channel has answered."""
        look(self.alerts)


def look(alerts: Alerts) -> None:
    """Look once, and wait until every channel has answered."""
    alerts.step(time.time())
    while alerts._trying:
        alerts.collect(DEADLINE_S)


@pytest.fixture
def rig(journal: Journal) -> Iterator[Rig]:
    """Return alerts with a clock of their own."""
    rig = Rig(journal)
    with patch("time.time", rig.clock):
        yield rig


def script(path: Path, text: str) -> CommandChannel:
    """Return a command with this text, for the shell."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return CommandChannel((str(path),))


def failures(events: list[Any]) -> list[tuple[str, str]]:
    """Return channel and reason of each `alert.failed`."""
    return [(e["channel"], e["reason"]) for e in events if e["event"] == "alert.failed"]


# Channels, one at a time.


def test_a_refusal_is_reported_in_the_services_words_without_the_url(receivers: Receivers) -> None:
    """The message of Apprise is the reason of a failure; a url in it would be masked."""
    receivers.status = 503
    channel = AppriseChannel("json 1", "json (line 3)", receivers.hook_url)

    reason = channel.send(compose_test(PLACE), lambda: False)

    assert "503" in reason
    assert "secret" not in reason
    assert "\n" not in reason


def test_a_mail_in_hindi_arrives_as_it_was_written(receivers: Receivers) -> None:
    """Subject and body are encoded for servers that know only ASCII."""
    message = compose_test(PLACE, LANGUAGES["hi"])

    assert AppriseChannel("m", "m", receivers.mail_url).send(message, lambda: False) == ""

    [mail] = receivers.mails
    assert str(mail["Subject"]) == message.title == "deo-patna पर emitterd: परीक्षण सूचना"
    assert mail.get_body(("plain",)).get_content().split() == message.body.split()  # type: ignore[union-attr]
    assert mail.as_bytes().isascii()


def test_a_token_that_a_child_prints_is_masked(tmp_path: Path) -> None:
    """Each piece of a url is a secret, in every output of its process."""
    channel = AppriseChannel("x", "x", "tgram://123456:ABCDEFGH/chat-42", "http://u:prox1pass@p:1")
    printing = script(tmp_path / "print", "cat; exit 1").command
    with patch.object(channels, "SENDER", printing):
        reason = channel.send(compose_test(PLACE), lambda: False)

    assert reason
    for secret in ("123456", "ABCDEFGH", "chat-42", "prox1pass"):
        assert secret not in reason


def test_apprise_judges_the_urls() -> None:
    """An unknown scheme, a url without its parts, broken brackets, and a good one."""
    answers = judge(["foo://x", "tgram://bad", "json://[::1", "json://example.org/hook"])

    assert [bool(answer) for answer in answers] == [True, True, True, False]
    assert "no service" in answers[0]


def test_a_command_gets_json_and_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The environment of a command has neither the password nor the credentials' folder."""
    monkeypatch.setenv("EMITTERD_EMISSION_PASSWORD", "hunter2")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "/run/credentials")
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy:3128")
    channel = script(tmp_path / "alert", f"cat > {tmp_path}/got; env > {tmp_path}/env")

    assert channel.send(compose_test(PLACE), lambda: False) == ""

    assert json.loads((tmp_path / "got").read_text()) == compose_test(PLACE).record()
    environment = (tmp_path / "env").read_text()
    assert "HTTPS_PROXY=http://proxy:3128" in environment
    assert "hunter2" not in environment
    assert "CREDENTIALS" not in environment


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("echo no credit >&2; exit 3", "exit code 3: no credit"),
        ("exit 1", "exit code 1"),
        ("head -c 9000000 /dev/zero | tr '\\0' x; echo; echo end; exit 1", "x end"),
        ("printf '\\033[31mred\\nforged'; exit 1", "exit code 1: \\x1b[31mred forged"),
    ],
)
def test_what_a_command_prints_is_the_reason(tmp_path: Path, text: str, reason: str) -> None:
    """Its last words, bounded and printable."""
    said = script(tmp_path / "alert", text).send(compose_test(PLACE), lambda: False)

    assert said.endswith(reason)
    assert len(said) < channels.OUTPUT_MAX_BYTES + 100


def test_a_command_that_cannot_run_is_a_reason() -> None:
    """A program that was removed since the start fails like any other."""
    assert "cannot be run" in CommandChannel(("/nowhere",)).send(compose_test(PLACE), bool)


def test_a_command_may_leave_a_process_behind(tmp_path: Path) -> None:
    """The end of the command counts, not that of what it started, even if that prints."""
    channel = script(tmp_path / "alert", "yes & exit 0")
    assert channel.send(compose_test(PLACE), lambda: False) == ""


def test_a_hanging_command_is_killed_with_its_children(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the deadline the whole process group is gone."""
    monkeypatch.setattr(channels, "SEND_S", 0.5)
    channel = script(tmp_path / "alert", f"sleep 600 & echo $! > {tmp_path}/pid; wait")

    assert channel.send(compose_test(PLACE), lambda: False).startswith("no result within")

    child = Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}/stat")

    def gone() -> bool:
        # Somebody must reap it; until then it is a zombie.
        return not child.exists() or child.read_text().split()[2] == "Z"

    wait_until(gone, DEADLINE_S, "the child is killed")


# The loop.


def test_each_channel_has_its_own_success(receivers: Receivers, rig: Rig, tmp_path: Path) -> None:
    """One that fails is logged once, tried with backoff, and repeats nothing to the other."""
    fails = script(tmp_path / "fails", "exit 3")
    works = CommandChannel((str(receivers.command),), "works", "works")
    with capture_logs() as events:
        rig.start(AlertRules((fails, works)))
        rig.raise_alarm()
        rig.look()
        assert len(receivers.received()) == 1
        for _ in range(3):
            rig.clock.pass_by(2 * BACKOFF_S)
            rig.look()
        assert failures(events) == [("command", "exit code 3")]
        script(tmp_path / "fails", "exit 0")
        rig.clock.pass_by(3600)
        rig.look()
        script(tmp_path / "fails", "exit 4")
        rig.alarms.clear()
        rig.look()
        rig.clock.pass_by(QUIET_S)
        rig.look()
    assert failures(events) == [("command", "exit code 3"), ("command", "exit code 4")]
    assert receivers.titles()["command"] == [
        "emitterd on deo-patna: CRITICAL: the watched folder is gone (1 alarm)",
        "emitterd on deo-patna: 1 alarm ended, none left",
    ]
    raised, cleared = (event for event in events if "alarm" in event)
    assert (raised["event"], cleared["event"]) == ("alert.raised", "alert.cleared")
    # Without the ten minutes in which it could have returned.
    lasted_s = GATHER_S + 6 * BACKOFF_S + 3600
    assert lasted_s <= cleared["duration_s"] < lasted_s + QUIET_S


def test_a_hanging_channel_delays_no_other_and_no_stop(
    receivers: Receivers, rig: Rig, silent: int
) -> None:
    """While a mail server is silent, the webhook gets the alert, and the drain ends at once."""
    hangs = AppriseChannel(
        "mailto 1", "mailto", f"mailto://{HOST}:{silent}?from=a@example.org&to=b@example.org"
    )
    works = AppriseChannel("json 1", "json", receivers.hook_url)
    alerts = rig.start(AlertRules((hangs, works)))
    rig.raise_alarm()
    alerts.step(time.time())
    assert alerts.collect(DEADLINE_S)
    assert len(receivers.hooks) == 1
    assert list(alerts._trying) == ["mailto 1"]

    thread = alerts._trying["mailto 1"]
    began_at = time.monotonic()
    rig.shutdown.drain(30.0)
    alerts.run()
    assert not thread.is_alive()
    assert time.monotonic() - began_at < 10
    # No record says that it was sent: the next start sends it.
    rig.shutdown = Shutdown()
    rig.start(AlertRules((AppriseChannel("mailto 1", "mailto", receivers.mail_url), works)))
    rig.look()
    assert len(receivers.mails) == 1
    assert len(receivers.hooks) == 1


def test_an_alert_sent_just_before_the_stop_is_not_sent_again(
    receivers: Receivers, rig: Rig
) -> None:
    """A result that comes with the stop is still noted."""
    rules = AlertRules((CommandChannel((str(receivers.command),)),))
    alerts = rig.start(rules)
    rig.raise_alarm()
    alerts.step(time.time())
    alerts._trying["command"].join()
    rig.shutdown.drain(30.0)
    alerts.run()
    rig.shutdown = Shutdown()
    rig.start(rules)
    rig.look()
    assert len(receivers.received()) == 1


def test_a_full_disk_delays_no_alert(receivers: Receivers, small_disk: SmallDisk) -> None:
    """Without room in the journal, memory keeps what was sent; later the journal has it."""
    with open_journal(small_disk.root / "journal.db") as journal:
        rig = Rig(journal)
        rules = AlertRules((CommandChannel((str(receivers.command),)),))
        with patch("time.time", rig.clock):
            rig.start(rules)
            small_disk.fill(spare=False)
            rig.raise_alarm(AlarmCode.JOURNAL_FULL)
            rig.look()
            assert journal.store.state.full_since is not None
            rig.clock.pass_by(60)
            rig.look()
            assert len(receivers.received()) == 1
            small_disk.free()
            rig.look()
            rig.start(rules)
            rig.clock.pass_by(60)
            rig.look()
            assert len(receivers.received()) == 1


def test_the_heartbeat_is_silent_while_an_alarm_is_critical(receivers: Receivers, rig: Rig) -> None:
    """It begins a minute after the start, stops for a critical alarm, and fails once in the log."""
    with capture_logs() as events:
        heartbeat = HeartbeatChannel(receivers.heartbeat_url, lambda: http_client().__enter__())
        rig.start(AlertRules(heartbeat=heartbeat, heartbeat_every_s=300.0))
        rig.look()
        assert receivers.beats == []
        for after_s in (FIRST_HEARTBEAT_S, 299.0, 1.0):
            rig.clock.pass_by(after_s)
            rig.look()
        assert receivers.beats == ["/beat/secret-token?status=up"] * 2
        rig.raise_alarm()
        rig.clock.pass_by(3600)
        rig.look()
        assert len(receivers.beats) == 2
        rig.alarms = [Alarm(AlarmCode.REJECTED, 0.0, "a warning", "look")]
        rig.look()
        assert len(receivers.beats) == 3
        receivers.status = 500
        for _ in range(3):
            rig.clock.pass_by(300)
            rig.look()
        assert failures(events) == [("heartbeat", "it answered with status 500")]
        receivers.status = 200
        rig.clock.pass_by(60)
        rig.look()
        assert len(receivers.beats) == 4


def test_other_channels_apply_at_once(receivers: Receivers, rig: Rig, tmp_path: Path) -> None:
    """After a reload a new channel hears of what goes on, and the former one nothing more."""
    alerts = rig.start(AlertRules((CommandChannel((str(receivers.command),)),)))
    rig.raise_alarm()
    rig.look()
    other = script(tmp_path / "other", f"echo sent >> {tmp_path}/heard")
    alerts.apply_rules(AlertRules((replace(other, key="other"),)))
    rig.look()
    rig.clock.pass_by(DAY_S + 1)
    rig.look()
    assert len(receivers.received()) == 1
    assert (tmp_path / "heard").read_text() == "sent\n" * 2


def test_a_failure_before_a_reload_does_not_delay_the_corrected_channel(
    rig: Rig, tmp_path: Path
) -> None:
    """It ends after the reload; the other channel of this key is tried at the next look."""
    fails = script(tmp_path / "fails", "exit 1")
    alerts = rig.start(AlertRules((fails,)))
    rig.raise_alarm()
    alerts.step(time.time())
    assert list(alerts._trying) == ["command"]
    alerts.apply_rules(AlertRules((script(tmp_path / "works", f"echo sent >> {tmp_path}/heard"),)))
    alerts.step(time.time())
    with capture_logs() as events:
        while alerts._trying:
            alerts.collect(DEADLINE_S)
        rig.look()

    assert (tmp_path / "heard").read_text() == "sent\n"
    assert failures(events) == []


@pytest.mark.parametrize("late", [False, True])
def test_a_kill_repeats_at_most_the_message_that_was_being_sent(
    receivers: Receivers, rig: Rig, *, late: bool
) -> None:
    """Killed before the record it is sent twice; killed after it, once."""
    rules = AlertRules((CommandChannel((str(receivers.command),)),))
    rig.start(rules)
    rig.raise_alarm()
    # The first commit is that of what was logged.
    Mortal(rig.journal).doom(2, late=late)
    with pytest.raises(Killed):
        rig.look()
    assert len(receivers.received()) == 1
    for _ in range(2):
        rig.start(rules)
        rig.look()
    assert len(receivers.received()) == (1 if late else 2)


# The whole chain.


class Story:
    """An installation that alerts all receivers; each step lets its looks happen."""

    def __init__(self, host: Host, receivers: Receivers) -> None:
        self.host = host
        self.receivers = receivers
        self.alerts = open_alerts(host.components)

    def look(self, *after_s: float) -> None:
        """Look now, and again after each of these times."""
        look(self.alerts)
        for wait_s in after_s:
            self.host.pass_by(wait_s)
            # Without a sweep now and then it would be overdue.
            self.host.sweep()
            look(self.alerts)

    def kill(self) -> None:
        """Kill the daemon and start it anew."""
        self.host.kill()
        self.alerts = open_alerts(self.host.components)

    def deliver(self, name: str, *, faults: str) -> None:
        """Drop a file, and have a worker try to deliver it."""
        self.host.faults(faults)
        self.host.site.drop(f"pat/{name}")
        self.host.sweep()
        self.host.work(3)

    def reject(self, *names: str) -> None:
        """Have broken files rejected."""
        for name in names:
            (self.host.site.spool / "pat" / name).write_bytes(b"no zip")
        for _ in range(2):
            self.host.sweep()
            self.host.pass_by(2)

    def received(self) -> list[list[str]]:
        """Return what each message was about; every receiver has had the same."""
        titles = self.receivers.titles()
        assert titles["mail"] == titles["hook"] == titles["command"]
        return [
            [f"{alarm['change']} {alarm['code']}" for alarm in alert["alarms"]]
            for alert in self.receivers.received()
        ]


@pytest.mark.slow
def test_an_outage_rejected_files_and_a_kill_message_by_message(
    tmp_path: Path, receivers: Receivers
) -> None:
    """What reached each receiver, over two lives of the daemon."""
    settings = receivers.settings(spool_incomplete_after="1s", datasets_expect="pat: 2d")
    with Host(tmp_path / "host", **settings) as host:
        host.components.note_expectations()
        story = Story(host, receivers)
        story.look(FIRST_HEARTBEAT_S)

        story.deliver("a.zip", faults="api-503")
        story.reject("b.zip")
        story.look(GATHER_S)
        messages = [["began destination_down", "began rejected"]]
        story.kill()
        story.look(GATHER_S, 60.0)
        assert story.received() == messages

        story.reject("c.zip", "d.zip")
        story.look(GATHER_S, GROWTH_S)
        # The new life has not asked the server again; its file has waited for an hour.
        messages += [["began no_success", "began oldest_waiting", "grew rejected"]]
        messages[-1] += ["ended destination_down"]
        host.faults("")
        host.work()
        story.look(QUIET_S)
        messages += [["ended no_success", "ended oldest_waiting"]]
        host.pass_by(2 * DAY_S)
        host.sweep()
        story.look(GATHER_S)
        messages += [["began arrival_overdue", "goes_on rejected"]]
        assert story.received() == messages
        short_name = socket.gethostname().partition(".")[0]
        assert [title.partition(" (")[0] for title in receivers.titles()["mail"][::2]] == [
            f"emitterd on {short_name}: {title}"
            for title in (
                "CRITICAL: the destination is down at the upload request",
                "2 alarms ended, 1 left",
            )
        ]


@pytest.mark.slow
def test_alerts_are_in_the_language_of_the_configuration(
    tmp_path: Path, receivers: Receivers
) -> None:
    """`alerts.language: hi`: each receiver gets the rejected file in Hindi."""
    settings = receivers.settings(alerts_language="hi", spool_incomplete_after="1s")
    with Host(tmp_path / "host", **settings) as host:
        (host.site.spool / "pat").mkdir()
        story = Story(host, receivers)
        story.reject("b.zip")
        story.look(GATHER_S)
        assert story.received() == [["began rejected"]]
        host.kill()
    [title] = receivers.titles()["mail"]
    assert title.endswith("चेतावनी: 1 फ़ाइल अस्वीकृत है, और बदली नहीं गई (1 अलार्म)")


def set_alerts(site: Installation, settings: dict[str, str]) -> None:
    """Have an installation alert these receivers, and reject a broken file soon."""
    site.settings |= {f"EMITTERD_{key.upper()}": value for key, value in settings.items()}
    site.settings["EMITTERD_SPOOL_INCOMPLETE_AFTER"] = "1s"


@pytest.mark.slow
def test_a_hanging_mail_server_delays_neither_uploads_nor_the_stop(
    site: Installation, receivers: Receivers
) -> None:
    """The daemon delivers and ends while its mail is not taken."""
    with socket.create_server((HOST, 0)) as silent:
        url = f"mailto://{HOST}:{silent.getsockname()[1]}?from=a@example.org&to=b@example.org"
        set_alerts(site, receivers.settings(url, heartbeat=False))
        site.drop("pat/broken.zip").write_bytes(b"no zip")
        with site.running() as daemon:
            silent.settimeout(DEADLINE_S)
            connection, _ = silent.accept()
            with connection:
                for number in range(5):
                    site.drop(f"pat/{number}.zip")
                site.wait_delivered(5)
                wait_until(receivers.received, DEADLINE_S, "the command gets the alert")
                daemon.end()
        assert site.events("alert.failed") == []
        assert [event["channel"] for event in site.events("alert.sent")] == ["command"]


@pytest.mark.slow
def test_a_killed_daemon_sends_no_alert_twice(site: Installation, receivers: Receivers) -> None:
    """After kill -9 and a start only a new alarm is sent."""
    set_alerts(site, receivers.settings())
    site.drop("pat/broken.zip").write_bytes(b"no zip")
    daemon = site.start()
    wait_until(lambda: len(site.events("alert.sent")) == 3, DEADLINE_S, "all have the alert")
    daemon.kill()
    (site.spool / "wrong.ZIP").write_bytes(b"")
    with site.running():
        wait_until(lambda: len(site.events("alert.sent")) == 6, DEADLINE_S, "all have the alert")
    codes = [[alarm["code"] for alarm in alert["alarms"]] for alert in receivers.received()]
    assert codes == [["rejected"], ["not_sent"]]
    assert [len(titles) for titles in receivers.titles().values()] == [2, 2, 2]
    written = site.log.read_text() + site.journal.read_bytes().decode("latin-1")
    assert "secret-token" not in written


# The commands.


@pytest.mark.slow
def test_notify_test_says_of_each_channel_whether_it_works(
    site: Installation, receivers: Receivers
) -> None:
    """Without a daemon: a line for each, and 1 as soon as one fails."""
    set_alerts(site, receivers.settings(receivers.hook_url, "foo://secret-secret"))
    done = site.call("notify-test")

    assert done.returncode == 1
    assert [line.split()[:2] for line in done.stdout.splitlines()] == [
        ["ok", "json"],
        ["error", "foo"],
        ["ok", "command"],
        ["ok", "heartbeat"],
    ]
    assert "secret" not in done.stdout + done.stderr
    assert [hook["title"].partition(": ")[2] for hook in receivers.hooks] == ["test alert"]
    assert len(receivers.beats) == 1
    assert [alert["test"] for alert in receivers.received()] == [True]


@pytest.mark.slow
def test_a_reload_starts_the_alerts_and_a_test_needs_none(
    site: Installation, receivers: Receivers
) -> None:
    """Without channels no thread runs. The daemon sends a test by what the file says now."""
    with site.running() as daemon:
        threads = Path(f"/proc/{daemon.pid}/task")
        before = len(list(threads.iterdir()))
        assert "no channel is configured" in site.call("notify-test").stderr
        site.config.write_text(
            f"{site.config.read_text()}alerts:\n  command: {receivers.command}\n"
        )
        done = site.call("notify-test")
        assert done.returncode == 0, done.stderr
        assert done.stdout.split() == ["ok", "command", "took", "the", "test", "alert"]
        assert len(receivers.received()) == 1
        assert len(list(threads.iterdir())) == before

        daemon.signal(signal.SIGHUP)
        daemon.wait_for_event("daemon.reloaded")
        wait_until(lambda: len(list(threads.iterdir())) > before, DEADLINE_S, "a thread runs")


def test_check_names_a_wrong_url_by_line_and_scheme(
    site: Installation, receivers: Receivers
) -> None:
    """Apprise judges each url; no message quotes one."""
    urls = (receivers.hook_url, "foo://secret-secret", "tgram://secret")
    set_alerts(site, receivers.settings(*urls))
    done = site.call("check")

    assert done.returncode == 1
    lines = [line for line in done.stdout.splitlines() if "notify_file  " in line]
    assert [line.split()[0] for line in lines if "(line" in line] == ["error", "error", "ok"]
    assert "foo (line 4): Apprise knows no service" in done.stdout
    assert "tgram (line 5): Apprise cannot use" in done.stdout
    assert "secret" not in done.stdout.replace(str(site.config.parent), "")


@pytest.mark.slow
def test_check_warns_of_a_heartbeat_url_that_everybody_may_read(
    site: Installation, receivers: Receivers
) -> None:
    """Who knows the URL can fake the heartbeat. The warning does not show it."""
    with site.config.open("a") as file:
        file.write(f"alerts:\n  heartbeat_url: {receivers.heartbeat_url}\n")
    site.config.chmod(0o644)
    shown = site.call("check").stdout
    assert "chmod o-r" in shown
    assert "secret-token" not in shown
    site.config.chmod(0o640)
    assert "chmod o-r" not in site.call("check").stdout
