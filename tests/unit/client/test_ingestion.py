"""The client of cQube 5 and a real service: uploads, final statuses, and lost answers."""

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from emitterd.client.ingestion.client import IngestionClient, Waits
from emitterd.client.ingestion.status import parse, program_of
from emitterd.client.responses import upload_error
from emitterd.client.session import Credentials
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.model import Confirmation, State
from emitterd.rehearsal.ingestion import IN_PROGRESS, KILLED, UPLOADED
from emitterd.shutdown import Shutdown
from support.client import Listener, answering, http_client
from support.waiting import wait_until
from support.worker import Rig, rigged
from support.zips import zipped

PROGRAM = "diksha_etb_plays-per-capita"
NAME = f"vsk/{PROGRAM}.zip"
OTHER_FOLDER = f"state/{PROGRAM}.zip"
HEADER = "state_name,state_code,plays_per_capita,latitude,longitude"
ROW = "Kerala,32,1.5,10.85,76.27"
BAD_ROW = "Kerala,32,1.5,north,76.27"
Restart = Callable[[], Rig]


def lines(*rows: str) -> bytes:
    """Return a CSV of the program."""
    return ("\n".join([HEADER, *rows]) + "\n").encode()


GOOD = zipped({f"{PROGRAM}.csv": lines(ROW, ROW)})


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig whose server processes each file at once."""
    with rigged(tmp_path, protocol="ingestion", process_after_s=0.0) as rig:
        yield rig


@pytest.fixture
def slow(tmp_path: Path) -> Iterator[Rig]:
    """Yield a rig whose server processes files when the test says so."""
    with rigged(tmp_path, protocol="ingestion") as rig:
        yield rig


def drop(rig: Rig, name: str = NAME, content: bytes = GOOD) -> None:
    """Write a zip as it is, and admit it."""
    path = rig.root / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content)
    rig.admit(name)


def tracked(rig: Rig, name: str = NAME) -> dict[str, Any] | None:
    """Return state and rows of what the server made of a file."""
    rows = rig.journal.read(
        "select tracked.state, rows from tracked join entry on entry.id = tracked.id"
        " where path = ?",
        (name.encode(),),
    )
    return {"state": rows[0][0], "rows": json.loads(rows[0][1])} if rows else None


def uploads(rig: Rig) -> list[tuple[int, str]]:
    """Return pid and status of every upload that the server tracks."""
    return [(item.pid, item.file_status) for item in rig.server.ingestion.files]


def step_until_delivered(rig: Rig, name: str) -> None:
    """Take turns, as time passes, until a file is delivered."""
    wait_until(
        lambda: rig.later() >= 0 and rig.state(name) is State.DELIVERED, 30, f"{name} is delivered"
    )


def killed(rig: Rig) -> int:
    """Return how often an upload has killed the service."""
    return sum(rig.server.fired[way] for way in KILLED)


def test_a_processed_file_is_delivered_with_the_counts_of_the_server(rig: Rig) -> None:
    """The receipt has the pid, both digests of what was sent, and total, accepted and dropped."""
    drop(rig)
    rig.step()

    row = rig.row(NAME)
    [item] = rig.server.ingestion.files
    assert (row["state"], row["key"], row["ambiguous"]) == ("delivered", f"{PROGRAM}/1", 0)
    assert (row["md5"].hex(), row["bytes"]) == (item.md5, item.size_bytes)
    counts = {"total": 2, "accepted": 2, "dropped": 0}
    assert tracked(rig) == {"state": "processed", "rows": counts}
    [processed] = rig.logged("file.processed")
    assert (processed["rows"], processed["log_level"]) == (counts, "info")


def test_rows_that_the_server_refuses_are_counted_as_dropped(rig: Rig) -> None:
    """A file with some wrong rows is delivered, and the receipt names the server's file of them."""
    dropped = []
    rig.journal.on_processed = lambda path, rows: dropped.append((path, rows))
    drop(rig, content=zipped({f"{PROGRAM}.csv": lines(ROW, BAD_ROW, ROW)}))
    rig.step()

    assert rig.state(NAME) is State.DELIVERED
    assert tracked(rig) == {
        "state": "processed",
        "rows": {"total": 3, "accepted": 2, "dropped": 1, "errors_file": f"{PROGRAM}_errors.csv"},
    }
    assert dropped == [(NAME.encode(), 1)]
    assert rig.logged("file.processed")[0]["log_level"] == "warning"


@pytest.mark.parametrize("rows", [(), (BAD_ROW, BAD_ROW)], ids=["header only", "all rows wrong"])
def test_a_file_without_a_processed_row_is_rejected(rig: Rig, rows: tuple[str, ...]) -> None:
    """`Uploaded` is no success by itself: without a processed row the file is rejected."""
    fault = "no-rows@1" if not rows else ""
    rig.faults(fault)
    drop(rig, content=zipped({f"{PROGRAM}.csv": lines(*rows)}))
    rig.step()

    row = rig.row(NAME)
    assert (row["state"], row["error"]) == ("rejected", Code.NOTHING_PROCESSED)
    assert f"total {len(rows)}" in row["reason"]
    assert uploads(rig) == [(1, UPLOADED)]


def test_an_unknown_program_concerns_this_file_only(rig: Rig) -> None:
    """The server's refusal of a name defers the file, and the next file is delivered."""
    drop(rig, "vsk/unknown.zip", zipped({"unknown.csv": lines(ROW)}))
    rig.step()
    drop(rig)
    rig.step()

    assert rig.row("vsk/unknown.zip")["error"] == Code.UNKNOWN_PROGRAM
    assert rig.state(NAME) is State.DELIVERED
    assert not rig.logged("destination.down")


def test_a_status_that_is_not_final_in_time_is_looked_up_first(slow: Rig) -> None:
    """The file waits as ambiguous; the next attempt finds its final status, and sends nothing."""
    drop(slow)
    slow.step()
    row = slow.row(NAME)
    assert (row["state"], row["error"], row["ambiguous"]) == ("deferred", Code.NOT_FINISHED, 1)
    assert uploads(slow) == [(1, IN_PROGRESS)]

    slow.later()
    assert slow.state(NAME) is State.DEFERRED
    slow.server.process()
    slow.later()

    row = slow.row(NAME)
    assert (row["state"], row["confirmation"]) == ("delivered", Confirmation.FOUND)
    assert uploads(slow) == [(1, UPLOADED)]
    assert tracked(slow) is not None


def test_a_restart_between_upload_and_final_status_sends_nothing_again(tmp_path: Path) -> None:
    """A process that dies after the acceptance leaves a pin; the next one asks, and confirms."""
    with rigged(tmp_path, protocol="ingestion") as rig:
        drop(rig)
        stopped = threading.Timer(0.1, rig.shutdown.now.set)
        stopped.start()
        rig.step()
        stopped.join()
        row = rig.row(NAME)
        assert (row["state"], row["ambiguous"], row["pinned"]) == ("queued", 1, 1)
        rig.server.process()
        assert uploads(rig) == [(1, UPLOADED)]
        port = rig.server.port
    with rigged(tmp_path, protocol="ingestion", port=port) as rig:
        rig.step()
        row = rig.row(NAME)
        assert (row["state"], row["confirmation"]) == ("delivered", Confirmation.FOUND)
        assert uploads(rig) == [(1, UPLOADED)]


def test_an_upload_that_the_server_does_not_know_is_sent_again(rig: Rig) -> None:
    """After a lost answer without a newer pid the file is sent once more, and delivered."""
    rig.faults("lost-answer@1")
    drop(rig)
    rig.step()
    assert rig.row(NAME)["ambiguous"] == 1
    # As if the upload had never been tracked.
    rig.server.ingestion.files.clear()
    rig.later()

    row = rig.row(NAME)
    assert (row["state"], row["confirmation"]) == ("delivered", Confirmation.ABSENT)


def test_two_folders_with_one_name_take_turns(slow: Rig) -> None:
    """While a file's status is not final, no file of its name is sent, from any folder."""
    drop(slow)
    drop(slow, OTHER_FOLDER)
    slow.step()
    slow.step()

    waiting = slow.row(OTHER_FOLDER)
    assert (waiting["state"], waiting["error"], waiting["attempts"]) == ("deferred", "E413", 0)
    assert uploads(slow) == [(1, IN_PROGRESS)]
    slow.server.process()
    slow.server.ingestion.process_after_s = 0.0
    step_until_delivered(slow, NAME)
    step_until_delivered(slow, OTHER_FOLDER)

    assert [pid for pid, _ in uploads(slow)] == [1, 2]
    assert killed(slow) == 0


def test_a_restart_keeps_other_folders_waiting(tmp_path: Path) -> None:
    """The journal knows which name may be under way, also in the next process."""
    with rigged(tmp_path, protocol="ingestion") as rig:
        drop(rig)
        rig.step()
        assert uploads(rig) == [(1, IN_PROGRESS)]
        port = rig.server.port
    with rigged(tmp_path, protocol="ingestion", port=port) as rig:
        drop(rig, OTHER_FOLDER)
        rig.step()
        assert rig.row(OTHER_FOLDER)["error"] == Code.NOT_FINISHED
        assert uploads(rig) == [(1, IN_PROGRESS)]


def json_answer(document: object, status: str = "200 OK") -> bytes:
    """Return an answer with a JSON body."""
    body = json.dumps(document).encode()
    return (f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n").encode() + body


def text_answer(text: str, status: str = "200 OK") -> bytes:
    """Return an answer with a text."""
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode()


@pytest.mark.parametrize(
    ("answer", "code"),
    [
        (text_answer("<html>log in</html>"), Code.MALFORMED_ANSWER),
        (text_answer(""), Code.MALFORMED_ANSWER),
        (text_answer("no", "401 Unauthorized"), Code.CREDENTIALS),
        (text_answer("no", "404 Not Found"), Code.NOT_AN_EMISSION_API),
    ],
)
def test_only_a_token_is_one(answer: bytes, code: Code) -> None:
    """A page, nothing, and refusals are no token, and pause uploads at the login."""
    with Listener(answering(answer)) as server, http_client() as http:
        client = _client(http, server.url)
        with pytest.raises(DeliveryError) as raised:
            client.login()
    assert (raised.value.code, raised.value.decision) == (code, Decision.PAUSE)
    assert raised.value.stage == "login"


def test_a_configured_token_goes_first() -> None:
    """With an API key there is no login, and each request has this token."""
    status = {"response": {"pid": 4, "file_status": "Uploaded", "total_data_count": "1"}}
    with Listener(answering(json_answer(status))) as server, http_client() as http:
        client = _client(http, server.url, secret="of-the-gateway")
        assert client.login() is None
        grant = client.grant(NAME.encode())
        assert server.heard[0].line.startswith(f"GET /file-status?filename={PROGRAM}.zip&")
    assert server.heard[0].headers["authorization"] == "Bearer of-the-gateway"
    assert grant.fields["pid"] == "4"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{}",
        b"<html>",
        b"[" * 100_000,
        b'{"response": []}',
        b'{"response": {"pid": 1, "file_status": {}}}',
        *(
            b'{"response": {"pid": %s, "file_status": "Uploaded"}}' % pid
            for pid in (b'"x"', b'"1_0"', b"true", b"1.5", b"0", b"-5", b"1e400", b"9" * 19)
        ),
        b'{"response": {"pid": "%s", "file_status": "Uploaded"}}' % (b"9" * 6000),
    ],
    ids=lambda body: body[:50].decode(),
)
def test_an_answer_without_pid_and_status_pauses(body: bytes) -> None:
    """What is no status of an upload is not guessed at; the message names the file."""
    with pytest.raises(DeliveryError) as raised:
        parse(body, PROGRAM)
    assert (raised.value.code, raised.value.decision) == (Code.MALFORMED_ANSWER, Decision.PAUSE)
    assert f"{PROGRAM}.zip" in raised.value.reason


@pytest.mark.parametrize("pid", [7, "7"])
def test_a_status_of_another_file_pauses(pid: object) -> None:
    """A mixed-up answer, as of a cache, is not taken for the end of this upload."""
    record = {"pid": pid, "file_name": "nas_all-dashboard.zip", "file_status": "Uploaded"}
    body = json.dumps({"response": record}).encode()
    assert parse(body, "nas_all-dashboard").pid == 7
    with pytest.raises(DeliveryError, match=r"is about nas_all-dashboard\.zip") as raised:
        parse(body, PROGRAM)
    assert (raised.value.code, raised.value.decision) == (Code.MALFORMED_ANSWER, Decision.PAUSE)


@pytest.mark.parametrize(
    ("status", "counts", "final", "good"),
    [
        ("Uploaded", ("52", "52", None), True, True),
        ("Uploaded", ("52", "50", "2"), True, True),
        ("Uploaded", ("1", None, None), True, False),
        ("Uploaded", ("0", None, None), True, False),
        ("Uploaded", (None, None, None), False, False),
        ("Upload_in_progress", ("5", "5", None), False, False),
        ("Error ->No event found", (None, None, None), True, False),
        ("Uploaded", ("-3", "many", True), False, False),
    ],
)
def test_what_a_status_means(
    status: str, counts: tuple[object, ...], *, final: bool, good: bool
) -> None:
    """Success is `Uploaded` with processed rows; without any count it is not final yet."""
    names = ("total_data_count", "processed_data_count", "error_data_count")
    record = {"pid": "7", "file_status": status, **dict(zip(names, counts, strict=True))}
    read = parse(json.dumps({"response": record}).encode(), PROGRAM)
    assert (read.pid, read.final, read.good) == (7, final, good)


@pytest.mark.parametrize(
    ("status", "body", "decision", "code", "ambiguous"),
    [
        (200, b"<html>log in</html>", Decision.PAUSE, Code.MALFORMED_ANSWER, True),
        (
            201,
            b'{"message": "File is being processed"}',
            Decision.PAUSE,
            Code.MALFORMED_ANSWER,
            True,
        ),
        (204, b"", Decision.PAUSE, Code.MALFORMED_ANSWER, True),
        (302, b"", Decision.PAUSE, Code.MALFORMED_ANSWER, False),
        (400, b'{"message": "File is required"}', Decision.REFUSE, Code.REQUEST_REFUSED, False),
        (
            400,
            b'{"message": "Schema doesn\'t exists for this program"}',
            Decision.REFUSE,
            Code.UNKNOWN_PROGRAM,
            False,
        ),
        (401, b"", Decision.RENEW_TOKEN, Code.TOKEN_REFUSED, False),
        (403, b"", Decision.PAUSE, Code.FORBIDDEN, False),
        (404, b"", Decision.PAUSE, Code.NOT_AN_EMISSION_API, False),
        (413, b"", Decision.REJECT, Code.BODY_REFUSED, False),
        (429, b"", Decision.PAUSE, Code.RATE_LIMITED, False),
        (500, b"", Decision.DEFER, Code.BUCKET_TROUBLE, True),
        (502, b"", Decision.DEFER, Code.BUCKET_TROUBLE, True),
        (503, b"", Decision.DEFER, Code.BUCKET_TROUBLE, False),
    ],
    ids=str,
)
def test_what_an_answer_to_an_upload_means(
    status: int, body: bytes, decision: Decision, code: Code, *, ambiguous: bool
) -> None:
    """Each answer has its decision; only some leave open whether the service has the file."""
    error = upload_error(status, {}, body)
    assert error is not None
    assert (error.decision, error.code, error.ambiguous) == (decision, code, ambiguous)
    assert error.stage == "bucket"


def test_the_program_is_the_name_of_the_zip() -> None:
    """Folders do not matter, and only `.zip` is cut off."""
    assert program_of(b"a/b/nas.all-dashboard.zip") == "nas.all-dashboard"
    assert program_of(b"check.zip") == "check"


def _client(http: Any, url: str, secret: str = "") -> IngestionClient:  # noqa: ANN401
    credentials = Credentials(None, lambda: secret, "Bearer")
    return IngestionClient(http, url, credentials, shutdown=Shutdown(), waits=Waits(first_s=0.01))
