"""One turn of a worker: the outcome of an entry, its record and its log line."""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from emitterd.delivery.circuit_breaker import STREAK, UNTRIED_EVERY_S
from emitterd.delivery.dispatch import IDLE_S
from emitterd.delivery.worker import ROOT_LOST_S
from emitterd.journal.operations import Operation, OperationRequest, Operations
from emitterd.journal.work import Execute
from emitterd.model import State
from support.worker import INITIAL_S, Rig, rigged

NAME = "pat/exam.zip"


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig without faults."""
    with rigged(tmp_path) as rig:
        yield rig


def test_a_file_is_delivered(rig: Rig) -> None:
    """The receipt is in the journal, the object in the bucket, and one line in the log.

    The observer sees the beginning, all bytes, and the end.
    """
    content = rig.drop(NAME).read_bytes()

    assert rig.step() == 0.0

    row, [(key, stored)] = rig.row(NAME), rig.server.objects.items()
    assert (row["state"], row["key"], row["attempts"]) == ("delivered", key, 0)
    assert row["sha256"] == hashlib.sha256(content).digest()
    assert row["etag"] == stored.md5
    assert row["verified"]
    assert not row["pinned"]
    [line] = rig.logged("file.delivered")
    assert (line["path"], line["key"], line["attempt"]) == (NAME, key, 1)
    kinds = [kind for kind, _ in rig.watcher.seen]
    assert (kinds[0], kinds[-1]) == ("began", "ended")
    assert sum(n for kind, n in rig.watcher.seen if kind == "sent") >= len(content)


def test_a_file_at_the_top_that_an_older_version_queued_is_withdrawn(rig: Rig) -> None:
    """Nothing is sent, and the intake looks at the file again: it reports E220."""
    rig.drop("exam.zip")
    rig.step()

    assert (rig.row("exam.zip")["state"], rig.row("exam.zip")["error"]) == ("withdrawn", "E220")
    assert rig.changed == [b"exam.zip"]
    assert not rig.server.objects


def test_without_work_a_worker_idles(rig: Rig) -> None:
    """Nothing to do is nothing asked of the server."""
    assert rig.step() == IDLE_S
    assert not rig.server.requests


def test_a_temporary_failure_is_a_due_time(rig: Rig) -> None:
    """A deferred entry costs an attempt, waits as long as asked, and keeps its key."""
    rig.faults("503@1:5")
    rig.drop(NAME)
    before = time.time()
    rig.step()

    row = rig.row(NAME)
    assert rig.server.fired["503"] == 1
    assert (row["state"], row["attempts"], row["error"]) == ("deferred", 1, "E501")
    assert before + 5 + INITIAL_S <= row["due_at"] <= time.time() + 5 + INITIAL_S
    assert row["pinned"]
    assert 0 < rig.step() <= 5 + INITIAL_S
    assert rig.reached("bucket") == 1
    [line] = rig.logged("file.deferred")
    assert (line["path"], line["error"], line["attempt"]) == (NAME, "E501", 1)

    rig.later()
    assert rig.row(NAME)["state"] == "delivered"
    assert rig.row(NAME)["key"] == row["key"]
    assert rig.reached("upload-url") == 1


def test_each_failure_doubles_the_wait(rig: Rig) -> None:
    """The wait grows with the attempts of the entry."""
    rig.faults("request-timeout")
    rig.drop(NAME)
    waits = []
    for _ in range(3):
        rig.later()
        waits.append(rig.row(NAME)["due_at"] - time.time())

    assert rig.server.fired["request-timeout"] == 3
    assert [round(wait_s / INITIAL_S) for wait_s in waits] == [1, 2, 4]


def test_failure_of_the_destination_costs_no_attempt(rig: Rig) -> None:
    """It pauses uploads: a line at its beginning and end, and a fact for `status`."""
    rig.faults("429:1:30")
    rig.drop(NAME)
    rig.drop("pat/other.zip")
    rig.step()

    row = rig.row(NAME)
    assert (row["state"], row["attempts"], row["error"]) == ("deferred", 0, "E409")
    assert json.loads(rig.fact("destination") or "{}")["code"] == "E409"
    assert 30 <= rig.step() <= 30 + INITIAL_S
    assert rig.reached("upload-url") == 1
    rig.later()
    assert rig.server.fired["429"] == 2
    rig.faults("")
    while State.DEFERRED in {rig.state(NAME), rig.state("pat/other.zip")}:
        assert rig.later() == 0.0
    rig.step()

    assert rig.state(NAME) is rig.state("pat/other.zip") is State.DELIVERED
    assert len(rig.logged("destination.down")) == len(rig.logged("destination.up")) == 1
    assert rig.fact("destination") == "null"
    assert not rig.logged("file.deferred")
    assert rig.row(NAME)["attempts"] == 0


def test_a_streak_of_temporary_failures_pauses_uploads(rig: Rig) -> None:
    """Four files in a row that the bucket defers are a failure of the bucket."""
    rig.faults("503")
    for number in range(6):
        rig.drop(f"pat/{number}.zip")
    turns = [rig.step() for _ in range(6)]

    assert rig.server.fired["503"] == 4
    assert turns[:4] == [0.0] * 4
    assert min(turns[4:]) > 0
    [line] = rig.logged("destination.down")
    assert (line["error"], line["stage"]) == ("E501", "bucket")
    # The first three were taken for the files' own trouble, until the fourth.
    assert len(rig.logged("file.deferred")) == 3
    assert {rig.row(f"pat/{number}.zip")["attempts"] for number in range(6)} == {0}


@pytest.mark.parametrize(("fault", "code"), [("signature", "E503"), ("no-such-bucket", "E504")])
def test_a_refused_grant_is_not_used_again(rig: Rig, fault: str, code: str) -> None:
    """When the bucket is back the file gets a grant of its own time."""
    rig.faults(f"{fault}@1")
    rig.drop(NAME)
    rig.step()

    first = rig.row(NAME)
    assert rig.server.fired[fault] == 1
    assert (first["error"], first["attempts"], first["pinned"]) == (code, 0, 0)
    rig.later()
    assert rig.row(NAME)["state"] == "delivered"
    assert rig.row(NAME)["key"] != first["key"]
    assert rig.row(NAME)["earlier_keys"] is None


def test_a_file_the_bucket_never_takes_is_rejected(rig: Rig) -> None:
    """A refusal of one file is final for it and leaves the others alone."""
    rig.faults("too-large@1")
    rig.drop(NAME)
    rig.drop("pat/other.zip")
    rig.step()
    rig.step()

    row = rig.row(NAME)
    assert rig.server.fired["too-large"] == 1
    assert (row["state"], row["error"], row["pinned"]) == ("rejected", "E505", 0)
    assert rig.state("pat/other.zip") is State.DELIVERED
    [line] = rig.logged("file.rejected")
    assert (line["path"], line["error"]) == (NAME, "E505")
    assert line["hint"]
    assert not rig.logged("destination.down")


def test_files_that_the_bucket_refuses_hold_up_no_other(rig: Rig) -> None:
    """Each refused file waits for its own time, and the next file goes out at once."""
    rig.faults("malformed")
    names = [f"pat/{number}.zip" for number in range(3 * STREAK)]
    for name in names:
        rig.drop(name)
    assert {rig.step() for _ in names} == {0.0}
    rig.later()
    rig.faults("")
    rig.drop(NAME)
    rig.step()

    assert rig.server.fired["malformed"] == len(names) + 1
    assert rig.state(NAME) is State.DELIVERED
    assert {rig.row(name)["error"] for name in names} == {"E510"}
    assert sum(rig.row(name)["attempts"] for name in names) == len(names) + 1
    assert len(rig.logged("file.deferred")) == len(names) + 1
    assert not rig.logged("destination.down")


@pytest.mark.parametrize(
    ("fault", "code"), [pytest.param("denied", "E503", marks=pytest.mark.slow), ("filter", "E508")]
)
def test_a_file_that_is_refused_on_the_way_holds_up_no_other(
    rig: Rig, fault: str, code: str
) -> None:
    """One file that fails again and again is the cause; uploads are not paused for it."""
    rig.faults(fault)
    rig.drop(NAME)
    for _ in range(3 * STREAK):
        assert rig.later() == 0.0
    rig.faults("")
    rig.drop("pat/other.zip")
    rig.step()

    assert rig.server.fired[fault] == 3 * STREAK
    assert rig.row(NAME)["error"] == code
    assert rig.state("pat/other.zip") is State.DELIVERED
    assert not rig.logged("destination.down")


@pytest.mark.parametrize("fault", ["denied", "filter"])
def test_a_filter_that_refuses_all_files_pauses_uploads(rig: Rig, fault: str) -> None:
    """Several files in a row are the destination's failure; a file not tried yet is the probe."""
    rig.faults(fault)
    for number in range(2 * STREAK):
        rig.drop(f"pat/{number}.zip")
    now = time.time()
    while rig.worker.step(now) == 0.0:
        pass
    [line] = rig.logged("destination.down")
    assert line["stage"] == "bucket"
    # One more: the first file that was not tried yet is a probe at once.
    assert rig.server.fired[fault] == STREAK + 1
    assert 0 < rig.worker.step(now) <= UNTRIED_EVERY_S
    rig.faults("")
    rig.worker.step(now + UNTRIED_EVERY_S)

    assert rig.state(f"pat/{STREAK + 1}.zip") is State.DELIVERED
    assert len(rig.logged("destination.up")) == 1


def test_refused_files_do_not_hold_up_one_that_was_not_tried(rig: Rig) -> None:
    """During the pause each new file is a probe, however long the pause has grown."""
    rig.faults("filter")
    for number in range(3 * STREAK):
        rig.drop(f"pat/{number}.zip")
    now = time.time()
    for _ in range(3 * STREAK):
        rig.worker.step(now)
        now += UNTRIED_EVERY_S
    assert rig.server.fired["filter"] == 3 * STREAK
    assert rig.worker.step(now) > UNTRIED_EVERY_S
    rig.faults("")
    rig.drop(NAME)

    assert rig.worker.step(now) == 0.0
    assert rig.state(NAME) is State.DELIVERED
    assert rig.server.fired["filter"] == 3 * STREAK


@pytest.mark.parametrize(
    ("name", "grants"),
    [
        ("pat/${filename}.zip", 0),
        ("/".join(["d" * 200] * 6) + "/x.zip", 0),
        # Only with the time that the server adds is it too long.
        ("/".join(["d" * 200] * 5) + "/x.zip", 1),
    ],
    ids=["replaced by S3", "too long", "too long with the time"],
)
def test_a_name_that_no_key_can_have_is_rejected_before_it_is_sent(
    rig: Rig, name: str, grants: int
) -> None:
    """The bucket sees nothing of it."""
    rig.drop(name)
    rig.step()

    assert (rig.row(name)["state"], rig.row(name)["error"]) == ("rejected", "E511")
    assert rig.reached("upload-url") == grants
    assert rig.reached("bucket") == 0
    assert rig.logged("file.rejected")[0]["hint"]


def test_a_rejection_ends_an_outage(rig: Rig) -> None:
    """A definite answer to the probe shows that the destination is up."""
    rig.faults("429@1:1")
    rig.drop(NAME)
    rig.step()
    rig.faults("too-large")
    rig.later()

    assert rig.server.fired == {"429": 1, "too-large": 1}
    assert rig.state(NAME) is State.REJECTED
    assert len(rig.logged("destination.up")) == 1


def test_a_file_whose_permissions_changed_is_sent(rig: Rig) -> None:
    """Another ctime alone costs no waiting upload its place and its grant."""
    rig.drop(NAME).chmod(0o604)
    rig.step()

    assert rig.state(NAME) is State.DELIVERED
    assert rig.changed == []


def test_a_file_that_is_opened_before_it_is_sent_is_withdrawn(rig: Rig) -> None:
    """Another ctime, and a writer: it is examined again when it is closed."""
    path = rig.drop(NAME)
    path.chmod(0o604)
    with path.open("ab"):
        rig.step()

    assert rig.row(NAME)["error"] == "E204"
    assert rig.changed == [NAME.encode()]


def test_a_file_under_a_lease_of_another_program_is_deferred(rig: Rig) -> None:
    """It is not unreadable: somebody else has it open, as Samba for an SMB client."""
    path = rig.drop(NAME)
    with path.open("ab") as samba:
        fcntl.fcntl(samba, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        rig.step()

    assert rig.row(NAME)["error"] == "E206"
    assert rig.state(NAME) is State.DEFERRED


def test_a_file_that_went_is_withdrawn(rig: Rig) -> None:
    """A vanished file is withdrawn, and intake looks at its path again."""
    rig.drop(NAME).unlink()
    rig.step()

    row = rig.row(NAME)
    assert (row["state"], row["error"], row["attempts"]) == ("withdrawn", "E203", 0)
    assert rig.changed == [NAME.encode()]
    assert len(rig.logged("file.withdrawn", NAME)) == 1
    assert not rig.server.requests


def test_a_file_that_changed_is_withdrawn(rig: Rig) -> None:
    """A version that is no more is not sent under its old fingerprint."""
    rig.drop(NAME).write_bytes(b"newer")
    rig.step()

    assert (rig.row(NAME)["state"], rig.row(NAME)["error"]) == ("withdrawn", "E204")
    assert rig.changed == [NAME.encode()]
    assert not rig.server.requests


def test_a_file_that_became_a_link_is_withdrawn(rig: Rig, tmp_path: Path) -> None:
    """Nothing outside of the folder is read, with anything in a file's place."""
    secret = tmp_path / "secret"
    secret.write_bytes(b"of this host")
    path = rig.drop(NAME)
    path.unlink()
    path.symlink_to(secret)
    rig.step()

    assert (rig.row(NAME)["state"], rig.row(NAME)["error"]) == ("withdrawn", "E207")
    assert not rig.server.requests


def test_a_folder_that_is_lost_withdraws_nothing(rig: Rig) -> None:
    """Without its root the worker waits, and the queue is kept."""
    rig.drop(NAME)
    rig.root.rename(rig.root.with_name("away"))

    assert rig.step() == ROOT_LOST_S
    assert rig.state(NAME) is State.QUEUED
    rig.root.with_name("away").rename(rig.root)
    rig.step()
    assert rig.state(NAME) is State.DELIVERED


def test_a_touched_file_is_not_sent_again(rig: Rig) -> None:
    """Known content under its old name is folded into the version delivered."""
    path = rig.drop(NAME)
    rig.step()
    requests = len(rig.server.requests)
    os.utime(path, (1, 1))
    rig.admit(NAME)
    rig.step()

    assert len(rig.server.requests) == requests
    assert rig.row(NAME)["state"] == "delivered"
    assert len(rig.logged("file.unchanged", NAME)) == 1
    assert len(rig.logged("file.delivered")) == 1
    assert rig.admit(NAME).result == "known"


def test_content_of_an_older_version_is_sent(rig: Rig) -> None:
    """What the server has is the last version: going back to the first is news."""
    for content in (b"first", b"second", b"first"):
        rig.drop(NAME, content)
        rig.step()

    assert [row["state"] for row in rig.rows(NAME)] == ["delivered"] * 3
    assert len(rig.server.objects) == 3


def test_content_is_sent_where_a_later_version_may_have_arrived(rig: Rig) -> None:
    """After an attempt whose answer was lost even the last content is sent again."""
    rig.drop(NAME, b"first")
    rig.step()
    rig.faults("lost-answer@1")
    rig.drop(NAME, b"second")
    rig.step()
    rig.drop(NAME, b"first")
    rig.step()

    assert rig.server.fired["lost-answer"] == 1
    states = [row["state"] for row in rig.rows(NAME)]
    assert states == ["delivered", "withdrawn", "delivered"]
    assert len(rig.server.objects) == 3


@pytest.mark.parametrize("menu", ["", "lost-answer@1"])
def test_content_is_sent_where_a_forgotten_version_arrived(rig: Rig, menu: str) -> None:
    """Forgotten or not, the server has it: going back to the first is news."""
    rig.drop(NAME, b"first")
    rig.step()
    rig.faults(menu)
    rig.drop(NAME, b"other")
    rig.step()
    forget = OperationRequest(Operation.FORGET, (NAME.encode(),))
    Operations(rig.journal.store, rig.shutdown).apply(forget, "operator", lambda _: None)
    content = rig.drop(NAME, b"first").read_bytes()
    rig.step()

    last = max(rig.server.objects.values(), key=lambda value: value.stored_at)
    assert len(rig.server.objects) == 3
    assert last.path.read_bytes() == content
    assert not rig.logged("file.unchanged")


def test_two_versions_within_a_second_have_two_keys(rig: Rig) -> None:
    """The server stamps keys with the second: the worker keeps them apart."""
    for content in (b"first", b"second"):
        rig.drop(NAME, content)
        rig.step()

    first, second = rig.rows(NAME)
    assert first["key"] != second["key"]
    assert {item.posts for item in rig.server.objects.values()} == {1}


def test_two_versions_have_two_keys_though_a_clock_was_set(rig: Rig) -> None:
    """The keys differ, even if both requests have one time."""
    rig.drop(NAME, b"first")
    rig.step()
    # As a clock leaves it that was set back between the two.
    rig.journal.store.write(Execute("update entry set granted_at = granted_at + 86400"))
    rig.drop(NAME, b"second")
    rig.step()

    assert [row["state"] for row in rig.rows(NAME)] == ["delivered"] * 2
    assert len({row["key"] for row in rig.rows(NAME)}) == 2
    assert {item.posts for item in rig.server.objects.values()} == {1}


def test_a_delivered_file_is_deleted_where_that_is_the_rule(tmp_path: Path) -> None:
    """The file goes after its receipt is on disk, and only then."""
    with rigged(tmp_path, delete=True) as rig:
        path = rig.drop(NAME)
        rig.step()

        assert rig.row(NAME)["disposal"] == "done"
        assert not path.exists()
        names = [event["event"] for event in rig.events]
        assert names.index("file.delivered") < names.index("file.disposed")


def test_an_idle_worker_logs_in_once_at_the_start(rig: Rig) -> None:
    """Where nothing waits, one login shows whether the server answers; the journal has it."""
    for _ in range(3):
        rig.step()
    assert (rig.reached("auth"), rig.fact("answered_at")) == (0, None)
    rig.destination.asks_at_start = True
    for _ in range(3):
        rig.step()
    assert rig.reached("auth") == 1
    assert rig.destination.answered
    assert rig.fact("answered_at") is not None


def test_a_login_that_fails_at_the_start_is_tried_until_it_works(rig: Rig) -> None:
    """A server that is down before the first file is reported, and so is its return."""
    rig.send_to("http://127.0.0.1:1/data")
    rig.destination.asks_at_start = True
    rig.step()
    [down] = rig.logged("destination.down")
    assert (down["stage"], down["error"]) == ("login", "E302")
    assert 0 < rig.step() <= 2 * INITIAL_S
    assert rig.fact("answered_at") is None

    rig.send_to(rig.server.url)
    rig.later()
    assert len(rig.logged("destination.up")) == 1
    assert rig.fact("answered_at") is not None
    assert rig.logged("destination.down") == [down]
