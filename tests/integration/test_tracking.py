"""Tracking against a server with upstream's shapes: each state, each failure, each restart."""

import csv
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import SmallDisk
from emitterd.cli.commands.entries import receipts
from emitterd.client.server_reader import LIST_MAX_BYTES, LOG_MAX_BYTES, URL_MAX_BYTES
from emitterd.journal.reader import EntryQuery
from emitterd.monitoring.alarms import AlarmLimits, queue_alarms
from emitterd.monitoring.status import read_queue
from emitterd.rehearsal.server import RehearsalServer
from emitterd.tracking.policy import HOUR_S
from emitterd.tracking.tracker import BUSY_ROUNDS, LOOK_UPS_MAX
from emitterd.units import DAY_S
from support.client import Heard, Listener, asked, http_client
from support.faults import fault_list
from support.installation import Installation
from support.tracking import KEY, TrackingRig, tracking, tracking_at
from support.waiting import wait_until
from support.zips import sample

EXAM = "pat/periodic_exam_mst.zip"
OTHER = "pat/periodic_exam_mst_2.zip"
UNLOGGED = "school_category/school_category_master.zip"
POLL_S = 901.0


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[TrackingRig]:
    """Yield a rig without faults."""
    with tracking(tmp_path) as rig:
        yield rig


def alarms(rig: TrackingRig) -> list[str]:
    """Return the codes of the journal's alarms."""
    queue = read_queue(rig.journal.read, 0.0)
    raised = queue_alarms(queue, (), AlarmLimits(1e9, 1e9), 0.0, running=True)
    return [alarm.code for alarm in raised]


def process(rig: TrackingRig) -> None:
    """Let the server process what is in the bucket."""
    assert rig.server is not None
    rig.server.process()


def test_a_file_waits_and_is_then_processed(rig: TrackingRig) -> None:
    """The receipt says between which looks it was picked up, and counts the rows."""
    key = rig.send(EXAM)
    rig.look()
    assert rig.states() == ["waiting"]
    assert rig.asked() == ["list_s3_buckets", "list_s3_files"]
    process(rig)
    rig.look(POLL_S)
    assert rig.asked() == ["list_s3_files", "download_url", "object"]
    side = rig.sides()[EXAM]
    assert (side["state"], side["looks"]) == ("processed", 3)
    assert side["rows"]["accepted"] == side["rows"]["total"] == 3
    assert side["seen_at"] < side["gone_at"]
    assert "ended_at" in side
    assert "next_look_at" not in side
    [picked_up], [processed] = rig.logged("file.picked_up"), rig.logged("file.processed")
    assert (picked_up["path"], picked_up["key"]) == (EXAM, key)
    assert (picked_up["seen_at"], picked_up["gone_at"]) == (side["seen_at"], side["gone_at"])
    assert (processed["rows"], processed["log_level"]) == (side["rows"], "info")
    # Nothing is open: nothing is asked.
    rig.look(2 * POLL_S)
    assert rig.asked() == []
    assert rig.dropped == [(EXAM.encode(), 0)]


def test_receipt_and_log_have_the_same_instants(rig: TrackingRig) -> None:
    """Also where the clock has more digits than the JSON of SQLite keeps."""
    rig.send(EXAM)
    at = int(time.time()) + 900.140996
    rig.tracker.try_round(at)
    process(rig)
    rig.tracker.try_round(at + POLL_S)
    side, (picked_up,) = rig.sides()[EXAM], rig.logged("file.picked_up")
    assert (picked_up["seen_at"], picked_up["gone_at"]) == (side["seen_at"], side["gone_at"])


def test_dropped_rows_are_counted_and_logged_as_a_warning(rig: TrackingRig) -> None:
    """By the server's own reasons."""
    rig.faults("drop-rows@1:2")
    rig.send(EXAM)
    process(rig)
    rig.look()
    assert rig.server is not None
    assert rig.server.fired["drop-rows"] == 1
    rows = rig.sides()[EXAM]["rows"]
    assert {name: rows[name] for name in ("total", "accepted", "dropped", "duplicate")} == {
        "total": 3,
        "accepted": 1,
        "dropped": 2,
        "duplicate": 2,
    }
    assert rig.logged("file.processed")[0]["log_level"] == "warning"
    assert rig.dropped == [(EXAM.encode(), 2)]


def test_a_dropped_file_stalls_after_a_day_and_raises_an_alarm(rig: TrackingRig) -> None:
    """The log has a start and no end, and counts that must be ignored."""
    rig.faults("drop-file@1")
    rig.send(EXAM)
    process(rig)
    rig.look()
    assert rig.states() == ["picked_up"]
    rig.look(DAY_S - 1)
    assert rig.states() == ["picked_up"]
    assert alarms(rig) == []
    rig.look(DAY_S + HOUR_S)
    assert rig.states() == ["stalled"]
    assert "rows" not in rig.sides()[EXAM]
    [line] = rig.logged("file.stalled")
    assert line["path"] == EXAM
    assert "emitterd explain" in line["hint"]
    assert alarms(rig) == ["stalled"]
    rig.send(EXAM, b"another content")
    assert alarms(rig) == []


def test_a_file_stalls_once_a_later_file_of_the_dataset_has_an_end(rig: TrackingRig) -> None:
    """Both times are the server's."""
    rig.faults("drop-file@1")
    rig.send(EXAM)
    process(rig)
    rig.look()
    assert rig.server is not None
    rig.server.processing.clock_offset_s = 5
    rig.send(OTHER)
    process(rig)
    rig.look(POLL_S)
    assert rig.states() == ["stalled", "processed"]


def test_a_file_that_no_log_names_stays_unknown(rig: TrackingRig) -> None:
    """No failure: after eight days emitterd stops asking."""
    rig.faults("no-log@1")
    rig.send(EXAM)
    process(rig)
    rig.look()
    rig.look(7 * DAY_S)
    assert rig.states() == ["picked_up"]
    rig.asked()
    rig.look(8 * DAY_S + 1)
    assert rig.states() == ["unknown"]
    assert rig.asked() == []
    assert alarms(rig) == []


def test_without_a_log_of_its_dataset_picked_up_is_the_last_state(rig: TrackingRig) -> None:
    """No log is asked for, and nothing is asked again."""
    rig.send(UNLOGGED)
    process(rig)
    rig.look()
    assert rig.states() == ["picked_up"]
    assert rig.asked() == ["list_s3_buckets", "list_s3_files"]
    rig.look(POLL_S)
    assert rig.asked() == []


def test_a_file_that_nobody_takes_raises_an_alarm_after_a_day(rig: TrackingRig) -> None:
    """The last look found it in the bucket. The alarm stays after emitterd has stopped asking."""
    rig.send("nobody/takes.zip", b"x")
    rig.look()
    rig.look(DAY_S - 60)
    assert alarms(rig) == []
    rig.look(DAY_S + POLL_S)
    assert rig.states() == ["waiting"]
    assert alarms(rig) == ["not_taken"]
    rig.look(8 * DAY_S + 1)
    assert "next_look_at" not in rig.sides()["nobody/takes.zip"]
    assert (rig.states(), alarms(rig)) == (["waiting"], ["not_taken"])


def test_the_place_of_the_uploads_to_another_server_is_not_that_of_this_one(
    rig: TrackingRig,
) -> None:
    """`emission.url` was changed and changed back: downloads from this server are allowed."""
    rig.send(EXAM)
    process(rig)
    rig.journal.save_fact("bucket_url", {"https://other.test/data": "https://other.test/bucket"})
    rig.restart()
    rig.look()
    assert rig.states() == ["processed"]
    assert rig.logged("tracking.failed") == []


def test_a_log_that_is_as_before_is_not_sent_again(rig: TrackingRig) -> None:
    """With the same ETag the server answers 304; the day of a stalled file goes on."""
    rig.faults("drop-file@1")
    rig.send(EXAM)
    process(rig)
    rig.look()
    rig.asked()
    rig.look(POLL_S)
    assert rig.server is not None
    assert [request.status for request in rig.server.requests] == [304]
    rig.look(DAY_S + HOUR_S)
    assert rig.states() == ["stalled"]


def test_a_log_as_before_is_read_again_for_another_file(rig: TrackingRig) -> None:
    """The server may have ended a file before emitterd saw that it was picked up."""
    first = rig.send(EXAM)
    second = rig.send(OTHER)
    process(rig)
    assert rig.server is not None
    # At the first look the second file is still in the bucket.
    held = rig.server.logs["log_summary/log_summary_pat.json"]
    held[0]["process_end_time"] = None
    stored = rig.journal.read("select id from entry where key = ?", (second,))
    path = rig._folder / "again"
    path.write_bytes(b"x")
    rig.server.bucket.keep(second, path, 1, "0" * 32)
    rig.look()
    assert rig.states() == ["picked_up", "waiting"]
    del rig.server.objects[second]
    rig.look(POLL_S)
    assert stored
    assert rig.states() == ["picked_up", "processed"]
    assert first != second


def test_a_log_whose_result_could_not_be_saved_is_read_again(small_disk: SmallDisk) -> None:
    """The journal's disk was full after the request; the log has not changed since."""
    with tracking(small_disk.root) as rig:
        rig.send(EXAM)
        process(rig)
        assert rig.server is not None
        record = rig.server.logs["log_summary/log_summary_pat.json"][0]
        ended_at, record["process_end_time"] = record["process_end_time"], None
        rig.look()
        record["process_end_time"] = ended_at
        rig.asked()
        small_disk.fill(spare=False)
        rig.look(POLL_S)
        assert rig.asked() == ["object"]
        assert [item["error"] for item in rig.logged("tracking.failed")] == ["E104"]
        assert rig.states() == ["picked_up"]

        small_disk.free()
        rig.look(2 * POLL_S)
        assert rig.states() == ["processed"]


def test_a_truncated_list_leaves_the_rest_to_single_looks(rig: TrackingRig) -> None:
    """1,500 other objects: 20 files are looked up in a round, the others in the next one."""
    rig.fill(1500)
    keys = [rig.send(f"pat/periodic_exam_mst_{number:02}.zip") for number in range(22)]
    assert rig.server is not None
    gone = keys[3]
    rig.asked()
    del rig.server.objects[gone]
    rig.look()
    asked = rig.asked()
    assert asked.count("list_s3_files") == 1
    assert asked.count("object") == LOOK_UPS_MAX + 1
    looks = [side["looks"] for side in rig.sides().values()]
    assert sorted(looks) == [0] * 2 + [1] * 19 + [2]
    # The next round begins with those that it left out; at last it reads the log of the one gone.
    rig.look(POLL_S)
    assert rig.asked() == ["list_s3_files", *["download_url", "object"] * LOOK_UPS_MAX, "object"]
    assert min(side["looks"] for side in rig.sides().values()) == 1
    assert rig.states().count("waiting") == 21
    # What sorts before the last listed key needs no look of its own.
    rig.pretend("a/x.zip", "a/x_1.zip")
    rig.look(POLL_S + 1)
    assert rig.asked() == ["list_s3_files"]
    assert rig.sides()["a/x.zip"]["state"] == "picked_up"


@pytest.mark.parametrize("offset_s", [-HOUR_S, HOUR_S])
def test_a_clock_an_hour_off_changes_nothing(rig: TrackingRig, offset_s: float) -> None:
    """Neither the server's nor this host's, set back or forward between two looks."""
    assert rig.server is not None
    rig.server.processing.clock_offset_s = offset_s
    rig.faults("drop-file@1")
    rig.send(EXAM)
    rig.look()
    process(rig)
    rig.look(POLL_S + offset_s)
    rig.look(2 * POLL_S + HOUR_S)
    rig.send(OTHER)
    process(rig)
    rig.look(2 * POLL_S + HOUR_S + offset_s)
    rig.look(3 * POLL_S + 2 * HOUR_S)
    assert rig.states()[1] == "processed"
    assert rig.states()[0] in {"picked_up", "stalled"}
    rig.look(DAY_S + 3 * HOUR_S)
    assert rig.states() == ["stalled", "processed"]


@pytest.mark.parametrize(
    ("fault", "code"), [("no-role", "E402"), ("no-lists", "E404")], ids=["401", "404"]
)
def test_a_server_that_does_not_let_itself_be_tracked_is_asked_once(
    rig: TrackingRig, fault: str, code: str
) -> None:
    """Tracking ends until the next start, with one line in the log."""
    rig.faults(fault)
    rig.send(EXAM)
    rig.asked()
    thread = threading.Thread(target=rig.tracker.run)
    thread.start()
    thread.join(30)
    assert not thread.is_alive()
    assert rig.server is not None
    assert rig.server.fired[fault] == 1
    [line] = rig.logged("tracking.ended")
    assert (line["error"], line["log_level"]) == (code, "warning")
    assert rig.asked() == ["list_s3_buckets"]
    assert rig.states() == ["waiting"]
    # A restart asks again.
    rig.faults("")
    rig.restart()
    process(rig)
    rig.look()
    assert rig.states() == ["processed"]


def test_a_server_error_changes_nothing_and_is_logged_once(rig: TrackingRig) -> None:
    """The next round asks again."""
    rig.send(EXAM)
    process(rig)
    rig.faults("read-500")
    for _ in range(3):
        rig.look()
    assert rig.states() == ["waiting"]
    assert [line["error"] for line in rig.logged("tracking.failed")] == ["E408"]
    assert rig.asked() == ["list_s3_buckets"] * 3
    rig.faults("read-500@1")
    rig.look()
    rig.look()
    assert rig.states() == ["processed"]
    assert not rig.tracker.ended


def test_a_restart_in_the_middle_goes_on_where_it_was(rig: TrackingRig) -> None:
    """What was seen is on disk after each request, and nothing is asked before it is due."""
    rig.send(EXAM)
    rig.send(OTHER)
    rig.look()
    before = rig.sides()
    process(rig)
    rig.asked()
    rig.restart()
    rig.look(60)
    assert rig.asked() == []
    assert rig.sides() == before
    # The list is read, then uploads come: the log must wait.
    rig.tracker._busy = lambda: "list_s3_files" in [r.endpoint for r in requests]
    assert rig.server is not None
    requests = rig.server.requests
    rig.look(POLL_S)
    assert rig.states() == ["picked_up", "picked_up"]
    rig.asked()
    rig.restart()
    rig.look(POLL_S)
    assert rig.asked() == ["list_s3_buckets", "download_url", "object"]
    assert rig.states() == ["processed", "processed"]


def test_uploads_go_first_but_not_without_end(rig: TrackingRig) -> None:
    """While uploads go on, nothing is asked; after four intervals a round is due all the same."""
    rig.send(EXAM)
    rig.asked()
    rig.is_busy = True
    rig.look()
    assert rig.asked() == []
    rig.rule = replace(rig.rule, poll_every_s=0.05)
    rounds: list[bool] = []
    try_round = rig.tracker.try_round

    def counted(now: float) -> bool:
        rounds.append(try_round(now))
        return rounds[-1]

    rig.tracker.try_round = counted  # type: ignore[method-assign]
    thread = threading.Thread(target=rig.tracker.run)
    thread.start()
    wait_until(lambda: True in rounds, 30, "a round in spite of uploads")
    rig.shutdown.drain(0.0)
    thread.join(30)
    assert rounds.index(True) >= BUSY_ROUNDS - 1
    assert rig.asked()[:2] == ["list_s3_buckets", "list_s3_files"]


def test_deliveries_before_tracking_was_enabled_are_tracked_for_eight_days(
    rig: TrackingRig,
) -> None:
    """Older ones are not, nor those to another server."""
    rig.send(EXAM)
    rig.look(8 * DAY_S + 1)
    assert rig.states() == []
    rig.journal.deliver_to("https://other.example.org/data")
    rig.look()
    assert rig.states() == []
    rig.journal.deliver_to(rig.url)
    rig.look()
    assert rig.states() == ["waiting"]


Answers = dict[str, bytes | Callable[[Heard], bytes]]
BUCKETS = json.dumps({"input": "i", "output": "out", "emission": "em"}).encode()
EMPTY = json.dumps({"Name": "em", "IsTruncated": False}).encode()


def answer(body: bytes, status: str = "200 OK") -> bytes:
    """Return a whole HTTP answer."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[tuple[TrackingRig, Listener, Answers]]:
    """Yield a rig with a server that answers what the test says, by the end of the path."""
    answers: Answers = {"list_s3_buckets": BUCKETS, "list_s3_files": EMPTY}

    def serve(listener: Listener, connection: Any) -> None:  # noqa: ANN401  a socket
        while request := listener.hear(connection):
            path = request.line.split(" ")[1]
            name = path.partition("?")[0].rpartition("/")[2]
            body = answers.get(name, b"")
            connection.sendall(answer(body(request) if callable(body) else body))

    with (
        Listener(serve) as listener,
        http_client() as client,
        tracking_at(tmp_path, f"{listener.url}data", client) as rig,
    ):
        rig.pretend(EXAM, "pat/periodic_exam_mst_1.zip")
        yield rig, listener, answers


Hostile = tuple[TrackingRig, Listener, Answers]


def listed(**changes: object) -> bytes:
    """Return a list that has a problem."""
    return json.dumps({"Name": "em", "IsTruncated": False, "Contents": []} | changes).encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"{" * 100_000,
        b'{"IsTruncated": false, "Contents": [' + b" " * LIST_MAX_BYTES + b"]}",
        listed(IsTruncated=None),
        listed(IsTruncated="false"),
        listed(IsTruncated=True),
        listed(Name="another"),
        listed(Contents={}),
        listed(Contents=None),
        listed(Contents=["a"]),
        listed(Contents=[{"Key": 7}]),
        listed(Contents=[{}]),
        listed(IsTruncated=True, Contents=[{"Key": "z"}, {"Key": "a"}]),
    ],
    ids=range(15),
)
def test_a_list_that_is_none_proves_nothing(hostile: Hostile, body: bytes) -> None:
    """The old state stays, and the next round asks again."""
    rig, _, answers = hostile
    answers["list_s3_files"] = body
    rig.look()
    assert [line["error"] for line in rig.logged("tracking.failed")] == ["E406"]
    assert rig.states() == ["waiting"]
    assert rig.sides()[EXAM]["looks"] == 0
    answers["list_s3_files"] = EMPTY
    rig.look()
    assert rig.states() == ["picked_up"]


@pytest.mark.parametrize(
    "body",
    [b"", b"null", b"{}", b'{"emission": "em"}', b'{"emission": "em", "output": "../x"}', b"7"],
)
def test_buckets_without_names_are_a_failure(hostile: Hostile, body: bytes) -> None:
    """No list is asked for."""
    rig, listener, answers = hostile
    answers["list_s3_buckets"] = body
    rig.look()
    assert [line["error"] for line in rig.logged("tracking.failed")] == ["E406"]
    assert len(listener.heard) == 1


@pytest.mark.parametrize(
    "url",
    [
        b"http://169.254.169.254/latest",
        b"file:///etc/passwd",
        b"http://other.example.org/log",
        b"",
        b"http://[",
        b"http://127.0.0.1:1\r\nX: y/",
        b"http://127.0.0.1:1/" + b"x" * URL_MAX_BYTES,
    ],
    ids=["link", "file", "elsewhere", "empty", "none", "header", "long"],
)
def test_a_download_url_must_lead_to_the_place_of_the_uploads(hostile: Hostile, url: bytes) -> None:
    """Nothing is requested there, also after a restart."""
    rig, listener, answers = hostile
    rig.emission.reader.bucket_url = listener.url
    answers["download_url"] = url
    rig.look()
    rig.restart()
    rig.emission.reader.bucket_url = rig.emission.reader.bucket_url or listener.url
    rig.look(POLL_S)
    expected = "E406" if len(url) > URL_MAX_BYTES else "E407"
    assert {line["error"] for line in rig.logged("tracking.failed")} == {expected}
    assert rig.states() == ["picked_up"]
    assert {heard.line.split(" ")[1].rpartition("/")[2] for heard in listener.heard} == {
        "list_s3_buckets",
        "list_s3_files",
        "download_url",
    }


@pytest.mark.parametrize(
    "body",
    [b"[" + b" " * LOG_MAX_BYTES + b"]", b"<html>", b"[" * 100_000, b"{}", b'[{"filename": '],
    ids=["huge", "html", "deep", "object", "cut"],
)
def test_a_log_that_is_none_changes_nothing(hostile: Hostile, body: bytes) -> None:
    """It is reported once, with the key of the log; tracking goes on."""
    rig, listener, answers = hostile
    answers["download_url"] = f"{listener.url}log".encode()
    answers["log"] = body
    rig.look()
    rig.look(POLL_S)
    assert rig.states() == ["picked_up"]
    [line] = rig.logged("tracking.failed")
    assert (line["error"], line["key"]) == ("E406", "log_summary/log_summary_pat.json")
    ended = "2026-11-30 16:40:05"
    record = {"filename": "periodic_exam_mst_1.zip", "process_end_time": ended}
    answers["log"] = json.dumps([record]).encode()
    rig.look(2 * POLL_S)
    assert rig.states() == ["processed"]


def test_the_key_is_never_sent_to_the_bucket(hostile: Hostile) -> None:
    """Only the API gets it."""
    rig, listener, answers = hostile
    answers["download_url"] = f"{listener.url}log".encode()
    answers["log"] = b"[]"
    rig.look()
    by_path = {
        heard.line.split(" ")[1]: heard.headers.get("authorization") for heard in listener.heard
    }
    assert by_path.pop("/log") is None
    assert set(by_path.values()) == {f"Bearer {KEY}"}


def printed(
    capsys: pytest.CaptureFixture[str], site: Installation, form: str, parse: Callable[[str], Any]
) -> Any:  # noqa: ANN401  what the form holds
    """Return what `receipts` prints in a form."""
    capsys.readouterr()
    assert receipts(site.config, EntryQuery(), (), form) == 0
    return parse(capsys.readouterr().out)


@pytest.mark.slow
def test_the_daemon_tracks_and_every_view_shows_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """`receipts` in each form, `explain`, and the log; a kill and a start repeat nothing.

    While the server cannot be asked, uploads go on.
    """
    with RehearsalServer(tmp_path / "server", process_after_s=0.0) as server:
        server.faults = fault_list("read-500@2,drop-rows@1:2")
        site = Installation(
            tmp_path, server.url, tracking_enabled="true", tracking_poll_every="200ms"
        )
        site.drop(EXAM, sample(EXAM))
        with site.running() as daemon:
            daemon.wait_for_event("file.processed")
            explained = site.call("explain", EXAM).stdout
            daemon.kill()
        assert server.fired == {"read-500": 2, "drop-rows": 1}
        assert len(site.events("tracking.failed")) == 1
        server.requests.clear()
        with site.running() as daemon:
            site.drop(UNLOGGED, sample(UNLOGGED))
            daemon.wait_for_event("file.picked_up")
        assert asked(server, "object") == []
        assert site.events("destination.down") == []
    assert "it accepted 1 of 3 rows" in explained
    assert "2 with a duplicate key" in explained
    sides = {row["path"]: row["server_side"] for row in printed(capsys, site, "json", json.loads)}
    assert sides[EXAM]["rows"]["dropped"] == 2
    assert sides[UNLOGGED]["state"] == "picked_up"
    table = printed(capsys, site, "table", str.splitlines)
    assert table[0].endswith("at the server")
    assert [line.rpartition("  ")[2] for line in table[1:]] == [
        "processed, 2 rows dropped",
        "picked up",
    ]
    rows = list(csv.DictReader(printed(capsys, site, "csv", str.splitlines)))
    columns = ("server_state", "rows_total", "rows_accepted", "rows_dropped")
    assert [tuple(row[name] for name in columns) for row in rows] == [
        ("processed", "3", "1", "2"),
        ("picked_up", "", "", ""),
    ]
