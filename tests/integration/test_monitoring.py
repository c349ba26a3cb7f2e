"""The daemon as monitoring sees it: scraped, asked, judged, and the files for that."""

import json
import os
import re
import signal
import subprocess
import tomllib
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
import yaml

from conftest import SmallDisk
from emitterd.journal.opening import open_journal
from emitterd.journal.sqlite.connection import open_nothing
from emitterd.monitoring.alarms import Alarm, AlarmCode, Health
from emitterd.monitoring.metrics import Metrics
from emitterd.monitoring.status import QueueReading, read_queue
from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_list
from support.installation import Installation
from support.paths import ROOT
from support.ports import free_port, listens
from support.waiting import wait_until
from support.zips import sample

FOLDER = ROOT / "docs" / "monitoring"
DEADLINE_S = 60.0
MASTER = "school_master/school_mst.zip"
LAST_SUCCESS = 'dataset_last_success_timestamp_seconds{dataset="school_master/school_mst"}'


def get(port: int, path: str) -> tuple[int, str]:
    """Ask the daemon, as soon as it listens; return status and body."""
    wait_until(lambda: listens(port), DEADLINE_S, "the page")
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as a:
            return a.status, a.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
def port(site: Installation) -> int:
    """Have the daemon listen."""
    port = free_port()
    site.settings["EMITTERD_WEB_LISTEN"] = f"127.0.0.1:{port}"
    return port


@pytest.mark.slow
def test_the_daemon_is_asked_how_it_is(site: Installation, port: int) -> None:
    """While all is well it is healthy and ready, and a delivery is counted."""
    site.drop(MASTER)
    with site.running() as daemon:
        daemon.wait_for_event("web.served")
        site.wait_delivered(1)
        health, output = get(port, "/healthz")
        ready, _ = get(port, "/readyz")
        # The gauges are at most a second old.
        wait_until(lambda: LAST_SUCCESS in get(port, "/metrics")[1], DEADLINE_S, "last success")
        _, metrics = get(port, "/metrics")
        line = site.call("status", "--check")

    assert (health, json.loads(output)) == (200, {"level": "OK", "alarms": []})
    assert ready == 200
    assert re.search(r'emitterd_files_total\{dataset="[^"]+",outcome="delivered"\} 1.0', metrics)
    sent = re.search(r"^emitterd_sent_bytes_total (\S+)", metrics, re.MULTILINE)
    assert sent is not None
    assert float(sent[1]) >= site.events("file.delivered")[0]["bytes"]
    assert (line.returncode, line.stdout.split(" | ")[0]) == (0, "OK - nothing waits")


@pytest.mark.slow
def test_an_outage_is_one_verdict_everywhere(
    site: Installation, server: RehearsalServer, port: int
) -> None:
    """`/healthz`, the metrics and `status --check` have the same alarm."""
    server.faults = fault_list("no-such-bucket")
    site.drop(MASTER)
    with site.running() as daemon:
        daemon.wait_for_event("destination.down")
        wait_until(
            lambda: get(port, "/healthz")[0] == HTTPStatus.SERVICE_UNAVAILABLE,
            DEADLINE_S,
            "an unhealthy daemon",
        )
        _, output = get(port, "/healthz")
        _, metrics = get(port, "/metrics")
        line = site.call("status", "--check")
        data = site.call("status", "--check", "--json")

    (alarm,) = json.loads(output)["alarms"]
    assert alarm["code"] == "destination_down"
    assert "down at the upload: E504" in alarm["words"]
    assert 'emitterd_alarm{code="destination_down",level="critical"} 1.0' in metrics
    assert 'emitterd_destination_up{stage="bucket"} 0.0' in metrics
    assert line.returncode == 1
    assert line.stdout.startswith(f"CRITICAL - {alarm['words']} | waiting=1;")
    assert line.stdout.count("\n") == 1
    assert json.loads(data.stdout)["alarms"] == [alarm]


@pytest.mark.slow
def test_a_check_without_a_daemon(site: Installation, server: RehearsalServer) -> None:
    """What waits while nobody works on it is critical; that nothing waits is well."""
    server.faults = fault_list("no-such-bucket")
    site.drop(MASTER)
    site.call("once", "--wait", "1s")
    waiting = site.call("status", "--check")
    server.faults = fault_list("")
    site.call("once")
    done = site.call("status", "--check")

    assert waiting.returncode == 1
    assert waiting.stdout.startswith("CRITICAL - no daemon runs, and 1 file waits | ")
    assert (done.returncode, done.stdout.split(" | ")[0]) == (
        0,
        "OK - nothing waits; no daemon runs",
    )


@pytest.mark.slow
def test_a_rejected_file_is_a_warning_until_it_is_forgotten(site: Installation, port: int) -> None:
    """The daemon stays healthy, and says that somebody should look."""
    site.settings["EMITTERD_SPOOL_CATALOGUE"] = "enforce"
    site.drop("nowhere/x.zip")
    with site.running() as daemon:
        daemon.wait_for_event("file.rejected")
        line = site.call("status", "--check")
        # A look serves all who ask within a second.
        wait_until(lambda: "WARNING" in get(port, "/healthz")[1], DEADLINE_S, "the warning")
        health, _ = get(port, "/healthz")
        _, metrics = get(port, "/metrics")
        (site.spool / "nowhere/x.zip").unlink()
        site.call("forget", "nowhere/x.zip")
        after = site.call("status", "--check")

    assert 'emitterd_findings_total{error="E221"} 1.0' in metrics
    assert line.stdout.startswith("WARNING - 1 file is rejected")
    assert line.returncode == 1
    assert health == 200
    assert after.returncode == 0


def check(site: Installation, level: str) -> str:
    """Return the line of `status --check` if it begins so, or else nothing."""
    line = site.call("status", "--check").stdout
    return line if line.startswith(level) else ""


@pytest.mark.slow
def test_what_only_the_daemon_knows_is_in_the_check(site: Installation) -> None:
    """The watched folder is gone: the daemon notes it, and `status --check` says it."""
    with site.running() as daemon:
        site.spool.rename(site.folder / "away")
        daemon.wait_for_event("watch.root_lost")
        line = wait_until(lambda: check(site, "CRITICAL"), DEADLINE_S, "an alarm")
        (site.folder / "away").rename(site.spool)
        daemon.wait_for_event("watch.root_back")

    assert "E105" in line


@pytest.mark.slow
def test_a_taken_port_stops_no_delivery(site: Installation, port: int) -> None:
    """Files are delivered all the same, and `check` says what is wrong."""
    with RehearsalServer(site.folder / "other", port=port):
        output = site.call("check")
        site.drop(MASTER)
        with site.running() as daemon:
            daemon.wait_for_event("web.unserved")
            site.wait_delivered(1)

    assert "web.listen" in output.stdout
    assert "emitterd cannot listen on" in output.stdout


@contextmanager
def scraping(folder: Path, target: int) -> Iterator[int]:
    """Run Prometheus on our own rules and one target; yield its port."""
    port = free_port()
    config = folder / "prometheus.json"
    config.write_text(
        json.dumps(
            {
                "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
                "rule_files": [str(FOLDER / "emitterd.rules.yml")],
                "scrape_configs": [
                    {
                        "job_name": "emitterd",
                        "static_configs": [{"targets": [f"127.0.0.1:{target}"]}],
                    }
                ],
            }
        )
    )
    process = subprocess.Popen(  # noqa: S603  our own argument list
        [  # noqa: S607
            "prometheus",
            f"--config.file={config}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield port
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def asked(port: int, expression: str) -> list[Any]:
    """Return what Prometheus answers to an expression; nothing while it starts."""
    try:
        status, body = get(port, f"/api/v1/query?query={quote(expression)}")
    except OSError:
        return []
    if status != HTTPStatus.OK:
        return []
    found: list[Any] = json.loads(body)["data"]["result"]
    return found


@pytest.mark.tools("prometheus")
def test_prometheus_reads_it(site: Installation, port: int) -> None:
    """A real Prometheus scrapes the daemon, and the alert for a rejected file fires."""
    site.settings["EMITTERD_SPOOL_CATALOGUE"] = "enforce"
    site.drop(MASTER, sample(MASTER))
    site.drop("nowhere/x.zip")
    with site.running() as daemon, scraping(site.folder, port) as monitor:
        daemon.wait_for_event("file.rejected")
        site.wait_delivered(1)
        up = wait_until(lambda: asked(monitor, 'up{job="emitterd"} == 1'), DEADLINE_S, "a scrape")
        delivered = wait_until(
            lambda: asked(monitor, 'sum(emitterd_files_total{outcome="delivered"}) > 0'),
            DEADLINE_S,
            "the delivery",
        )
        alerts = wait_until(
            lambda: asked(monitor, 'ALERTS{alertname="EmitterdFileRejected"}'),
            DEADLINE_S,
            "the alert",
        )

    assert len(up) == 1
    assert float(delivered[0]["value"][1]) > 0
    assert alerts[0]["metric"]["alertstate"] == "firing"


def judged(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Have promtool judge the files that are shipped."""
    return subprocess.run(  # noqa: S603  our own argument list
        ["promtool", *arguments],  # noqa: S607
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.tools("promtool")
def test_the_alerts_fire() -> None:
    """Dead destination, stuck queue, rejected file, absent daemon: by promtool."""
    done = judged("test", "rules", "emitterd.rules.test.yml")

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.tools("promtool")
def test_the_configuration_for_prometheus_is_sound() -> None:
    """It is what an administrator copies."""
    done = judged("check", "config", "prometheus.yml")

    assert done.returncode == 0, done.stdout + done.stderr


def exposed() -> set[str]:
    """Return the name of every series that a scrape may have."""
    connection = open_nothing()

    def read() -> QueueReading:
        seen = read_queue(lambda sql, values: connection.execute(sql, values).fetchall(), 0.0)
        return QueueReading(seen, Health(), (), eta_s=None, swept_at=None)

    text = Metrics(lambda _: None).scraper(read)("")[0].decode()
    connection.close()
    endings = {"histogram": ("_bucket", "_sum", "_count")}
    return {
        name + ending
        for name, kind in re.findall(r"^# TYPE (\S+) (\S+)", text, re.MULTILINE)
        for ending in endings.get(kind, ("",))
    }


@pytest.mark.parametrize("name", ["emitterd.rules.yml", "emitterd.rules.test.yml", "grafana.json"])
def test_only_metrics_that_exist_are_named(name: str) -> None:
    """Rules and dashboard name no metric that the daemon does not have."""
    text = (FOLDER / name).read_text()
    named = set(re.findall(r"\bemitterd_[a-z_]+", text))

    assert named
    assert named <= exposed()


def test_every_metric_is_documented() -> None:
    """The table has what a scrape has, no more, no less."""
    table = (FOLDER.parent / "monitoring.md").read_text()
    rows = re.findall(r"^\| (`emitterd_.*?) \|", table, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    ours = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for name in exposed()
        if name.startswith("emitterd_")
    }

    assert named == ours


def test_every_alarm_has_help_and_an_alert() -> None:
    """The table has a row for each alarm; the `runbook_url` of each alert leads to one."""
    document = (FOLDER.parent / "monitoring.md").read_text()
    rows = re.findall(r'^\| <a id="(.*?)"></a>`(.*?)` \| (.*?) \|.*\|.*\|$', document, re.MULTILINE)
    listed = {code for code, _, _ in rows}
    assert listed == set(AlarmCode)
    for anchor, code, level in rows:
        assert (anchor, level) == (code, Alarm(code, 0.0, "", "").level.lower())

    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]
    runbook = urls["Documentation"].replace("index.md", "monitoring.md")
    alerted = set()
    (group,) = yaml.safe_load((FOLDER / "emitterd.rules.yml").read_text())["groups"]
    for rule in group["rules"]:
        labels = re.findall(r'code=~?"(.*?)"', rule["expr"])
        codes = {code for label in labels for code in label.split("|")}
        address, _, anchor = rule["annotations"]["runbook_url"].partition("#")
        assert address == runbook
        assert anchor in (codes or listed) or anchor == "{{ $labels.code }}"
        alerted |= codes or {anchor}
    # Prometheus sees these two as a daemon that is absent.
    assert alerted == listed - {AlarmCode.DAEMON_SILENT, AlarmCode.DAEMON_STOPPED}


def test_lnav_knows_every_field() -> None:
    """The format for lnav has the fields of docs/events.md, no more, no less."""
    document = (FOLDER.parent / "events.md").read_text()
    columns = re.findall(r"^\| `\w+\.\w+` \|.*\| (.*) \|$", document, re.MULTILINE)
    fields = {
        field
        for column in columns
        for field in re.findall(r"`(\w+)`", re.sub(r"\(.*?\)", "", column))
    }
    lnav_format = json.loads((FOLDER / "emitterd.lnav.json").read_text())["emitterd_log"]

    assert set(lnav_format["value"]) == fields | {"event"}
    shown = {item["field"] for item in lnav_format["line-format"] if isinstance(item, dict)}
    assert shown <= {"__timestamp__", "level", *lnav_format["value"]}


@pytest.mark.tools("lnav")
def test_lnav_reads_the_log(site: Installation) -> None:
    """Lnav finds nothing wrong with the format, shows a line, and answers SQL by field."""
    site.drop(MASTER)
    with site.running() as daemon:
        daemon.wait_for_event("file.delivered")
    (delivered,) = site.events("file.delivered")

    def lnav(*arguments: str) -> str:
        done = subprocess.run(  # noqa: S603
            ["lnav", *arguments],  # noqa: S607
            env={**os.environ, "HOME": str(site.folder), "XDG_CONFIG_HOME": str(site.folder)},
            capture_output=True,
            text=True,
            check=True,
        )
        assert "warning:" not in done.stderr
        return done.stdout

    lnav("-i", str(FOLDER / "emitterd.lnav.json"))
    # journalctl pipes the same lines.
    log = site.folder / "lines.jsonl"
    log.write_text("".join(f"{json.dumps(event)}\n" for event in site.events()))
    query = ";select path, bytes, duration_s from emitterd_log where event = 'file.delivered'"
    assert re.search(rf"INFO +file\.delivered {MASTER}", lnav("-n", "-W", str(log)))
    (row,) = json.loads(lnav("-n", str(log), "-c", query, "-c", ":write-json-to -"))
    assert row["path"] == MASTER
    assert (int(row["bytes"]), float(row["duration_s"])) == (
        delivered["bytes"],
        delivered["duration_s"],
    )


def test_the_dashboard_is_whole() -> None:
    """Every panel has a query, a place of its own, and names no host."""
    dashboard = json.loads((FOLDER / "grafana.json").read_text())
    panels = dashboard["panels"]
    places = {(panel["gridPos"]["x"], panel["gridPos"]["y"]) for panel in panels}

    assert len(places) == len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel["targets"] for panel in panels)
    assert all(
        'instance=~"$instance"' in target["expr"] for panel in panels for target in panel["targets"]
    )


def test_a_full_disk_is_in_the_check(
    tmp_path: Path, server: RehearsalServer, small_disk: SmallDisk
) -> None:
    """The daemon notes it with the room that it kept, and `status --check` says it."""
    site = Installation(tmp_path, server.url)
    site.settings["EMITTERD_JOURNAL_PATH"] = str(small_disk.root / "journal.db")
    with site.running() as daemon:
        small_disk.fill()
        site.drop(MASTER)
        daemon.wait_for_event("journal.full")
        line = wait_until(lambda: check(site, "CRITICAL"), DEADLINE_S, "the alarm")
        small_disk.free()
        after = wait_until(lambda: check(site, "OK"), DEADLINE_S, "all well again")

    assert line.count("E104") == 1
    assert after.startswith("OK - nothing waits")


def test_a_full_disk_that_is_not_noted_is_in_the_check(
    tmp_path: Path, server: RehearsalServer, small_disk: SmallDisk
) -> None:
    """Others may take even the room that was kept: `status --check` looks itself."""
    site = Installation(tmp_path, server.url)
    site.settings["EMITTERD_JOURNAL_PATH"] = str(small_disk.root / "journal.db")
    with open_journal(small_disk.root / "journal.db"):
        before = check(site, "OK")
        small_disk.fill()
        line = check(site, "CRITICAL")

    assert before.startswith("OK - nothing waits")
    assert line.count("E104") == 1


@pytest.mark.slow
def test_a_daemon_that_does_not_answer_is_an_alarm(site: Installation) -> None:
    """A stopped daemon notes no alarm, and looks at no file."""
    with site.running() as daemon:
        assert site.call("status", "--check").returncode == 0
        daemon.signal(signal.SIGSTOP)
        try:
            done, shown = site.call("status", "--check"), site.call("status").stdout
        finally:
            daemon.signal(signal.SIGCONT)

    assert done.returncode == 1
    assert "CRITICAL - the daemon runs, but it does not answer" in done.stdout
    assert re.search(r"daemon +running, but it does not answer", shown)
    assert shown.startswith("CRITICAL: the daemon runs, but it does not answer")
