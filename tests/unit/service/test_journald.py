"""Events on their way to journald: a socket that plays it, and journald itself."""

import json
import os
import re
import shutil
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from conftest import Python
from emitterd.codes import Code
from emitterd.service import journald
from emitterd.text import display, undisplay
from support.paths import ROOT
from support.waiting import wait_until

NAME = re.compile(rb"[A-Z0-9][A-Z0-9_]{0,63}")
THREADS = 8

NAMES = [
    b"plain.zip",
    b"new\nline=1\nPRIORITY=0.zip",
    b"caf\xe9.zip",
    "उपस्थिति.zip".encode(),
    b"\xff" * 251 + b".zip",
    b"x" * 251 + b".zip",
    b"tab\tand\x1b[31m.zip",
    b"\xed\xa0\x80=.zip",
]
"""What producers may call a file: one for each thread."""

LOGGING = f"""
import json, os, sys, threading
from pathlib import Path
import structlog
from emitterd.service import logging as logs
from emitterd.text import display
NAMES = {NAMES!r}
log = structlog.get_logger()
def stream_of(descriptor):
    stat = os.fstat(descriptor)
    return f"{{stat.st_dev}}:{{stat.st_ino}}"
def work(name, count):
    for number in range(count):
        log.info("file.delivered", path=display(name), attempt=number)
def work_all(count):
    threads = [threading.Thread(target=work, args=(name, count)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
"""
"""The head of a script that logs with a thread for each name."""


def parsed(data: bytes) -> dict[str, bytes]:
    """Return the fields of a message, each of which must be valid and there once."""
    fields: dict[str, bytes] = {}
    while data:
        head, _, data = data.partition(b"\n")
        name, equals, value = head.partition(b"=")
        if not equals:
            (length,) = struct.unpack_from("<Q", data)
            value, end = data[8 : 8 + length], data[8 + length : 9 + length]
            assert end == b"\n"
            data = data[9 + length :]
        assert NAME.fullmatch(name), name
        assert name.decode() not in fields
        fields[name.decode()] = value
    return fields


class Receiver:
    """A socket where journald's would be, with its parsed messages."""

    def __init__(self, address: Path) -> None:
        self.address = address
        self.messages: list[dict[str, bytes]] = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(address))

    def take(self) -> None:
        """Read one message."""
        self.messages.append(parsed(self.socket.recv(2**20)))

    def drain(self) -> None:
        """Read what is there."""
        self.socket.settimeout(0)
        try:
            while True:
                self.take()
        except BlockingIOError:
            self.socket.settimeout(None)

    @contextmanager
    def taking(self, count: int) -> Iterator[None]:
        """Read so many messages beside the block, and wait for the last."""

        def take_all() -> None:
            for _ in range(count):
                self.take()

        thread = threading.Thread(target=take_all, daemon=True)
        thread.start()
        yield
        wait_until(lambda: not thread.is_alive(), 60, f"{count} messages, {len(self.messages)}")

    def numbers(self) -> dict[bytes, list[int]]:
        """Return what each path was numbered with, in the order of arrival."""
        found: dict[bytes, list[int]] = {}
        for fields in self.messages:
            path = fields["EMITTERD_PATH"]
            found.setdefault(path, []).append(int(fields["EMITTERD_ATTEMPT"]))
        return found


@pytest.fixture
def receiver(tmp_path: Path) -> Iterator[Receiver]:
    """Play journald."""
    receiver = Receiver(tmp_path / "socket")
    yield receiver
    receiver.socket.close()


class Service:
    """A script whose standard output is a stream socket, as a service's is."""

    def __init__(self, script: str, *arguments: object) -> None:
        self.stream, theirs = socket.socketpair()
        with theirs:
            stat = os.fstat(theirs.fileno())
            self.process = subprocess.Popen(  # noqa: S603  our own argument list
                [sys.executable, "-c", LOGGING + script, *map(str, arguments)],
                stdin=subprocess.PIPE,
                stdout=theirs.fileno(),
                env={**os.environ, "JOURNAL_STREAM": f"{stat.st_dev}:{stat.st_ino}"},
            )

    def say(self) -> None:
        """Give the script its next line of input."""
        assert self.process.stdin
        self.process.stdin.write(b"\n")
        self.process.stdin.flush()

    def lines(self) -> list[dict[str, object]]:
        """Wait for the script's end; return the lines on its standard output."""
        with self.stream, self.stream.makefile("rb") as stream:
            found = [json.loads(line) for line in stream]
        assert self.process.wait(60) == 0
        return found


@pytest.fixture
def service() -> Iterator[Callable[..., Service]]:
    """Start scripts; what still runs at the end of the test is killed."""
    started: list[Service] = []

    def start(script: str, *arguments: object) -> Service:
        started.append(Service(script, *arguments))
        return started[-1]

    yield start
    for item in started:
        with item.process as process, item.stream:
            process.kill()


@pytest.mark.parametrize(
    ("level", "priority"),
    [("critical", b"2"), ("error", b"3"), ("warning", b"4"), ("info", b"6"), ("debug", b"7")],
)
def test_priority(level: str, priority: bytes) -> None:
    """Each level is the priority that `journalctl -p` knows it by."""
    assert parsed(journald.message("{}", {"event": "x", "level": level})) == {
        "MESSAGE": b"{}",
        "PRIORITY": priority,
        "SYSLOG_IDENTIFIER": b"emitterd",
        "EMITTERD_EVENT": b"x",
    }


@pytest.mark.parametrize(
    ("value", "arrives"),
    [
        ("pat/x.zip", b"pat/x.zip"),
        ("a\nPRIORITY=0", b"a\nPRIORITY=0"),
        ("\n", b"\n"),
        ("", b""),
        ("a=b\0c", b"a=b\0c"),
        ("उपस्थिति", "उपस्थिति".encode()),
        ("caf\udce9", rb"caf\udce9"),
        (3, b"3"),
    ],
)
def test_value_arrives_whole(value: object, arrives: bytes) -> None:
    """No value can end its field; what is not Unicode is written as JSON writes it."""
    event = {"level": "info", "path": value, "event": "file.admitted"}
    fields = parsed(journald.message("{}", event))

    assert fields["EMITTERD_PATH"] == arrives
    assert fields["PRIORITY"] == b"6"
    assert len(fields) == 5


def test_an_error_code_is_a_message_id() -> None:
    """Each code has an id of its own, the same for each event and in each version."""
    event = {"level": "info", "event": "file.deferred", "error": Code.REFUSED}

    fields = parsed(journald.message("{}", event))
    assert fields["MESSAGE_ID"] == b"b8dff40ed9af5784a43a08e36695efc2"
    assert len({journald.message_id(code) for code in Code}) == len(Code)


def test_fields_are_documented() -> None:
    """docs/events.md lists exactly the fields that there are."""
    listed = re.findall(r"`(EMITTERD_[A-Z0-9_]+)`", (ROOT / "docs/events.md").read_text())

    assert listed == [f"EMITTERD_{name.upper()}" for name in journald.FIELDS]


@pytest.mark.parametrize(
    ("output", "error", "expected", "native"),
    [
        ("socket", "socket", 1, True),
        ("socket", "socket", 2, True),
        ("socket", "file", 1, True),
        ("socket", "socket", None, False),
        ("file", "socket", 2, False),
        ("file", "file", 1, False),
        ("socket", "socket", 0, False),
        ("closed", "socket", 2, False),
    ],
)
def test_is_standard_output(
    output: str, error: str, expected: int | None, *, native: bool, tmp_path: Path
) -> None:
    """Only a socket is journald's, and only if $JOURNAL_STREAM names it or its twin."""
    answer = tmp_path / "answer"
    script = (
        "import os, sys; from pathlib import Path\n"
        "from emitterd.service import journald\n"
        "if sys.argv[2] == 'closed': os.close(1)\n"
        "Path(sys.argv[1]).write_text(str(journald.is_standard_output()))"
    )
    ours, out = socket.socketpair()
    theirs, err = socket.socketpair()
    environment = dict(os.environ)
    environment.pop("JOURNAL_STREAM", None)
    with ours, theirs, out, err, (tmp_path / "file").open("wb") as file:
        descriptors = {
            0: ours.fileno(),
            1: file.fileno() if output == "file" else out.fileno(),
            2: file.fileno() if error == "file" else err.fileno(),
        }
        if expected is not None:
            stat = os.fstat(descriptors[expected])
            environment["JOURNAL_STREAM"] = f"{stat.st_dev}:{stat.st_ino}"
        subprocess.run(  # noqa: S603  our own argument list
            [sys.executable, "-c", script, str(answer), output],
            stdout=descriptors[1],
            stderr=descriptors[2],
            env=environment,
            check=True,
        )

    assert answer.read_text() == str(native)


@pytest.mark.slow
def test_every_event_of_many_threads(receiver: Receiver, service: Callable[..., Service]) -> None:
    """Twenty thousand events of eight threads arrive, in order, with names intact."""
    each = 2500
    script = """
logs.configure("info", socket=Path(sys.argv[1]))
work_all(int(sys.argv[2]))
"""
    with receiver.taking(THREADS * each):
        running = service(script, receiver.address, each)

    assert running.lines() == []
    assert receiver.numbers() == {display(name).encode(): list(range(each)) for name in NAMES}
    for path in receiver.numbers():
        assert set(undisplay(path.decode())) & set(NAMES)
    for fields in receiver.messages:
        line = json.loads(fields["MESSAGE"])
        assert line["path"] == fields["EMITTERD_PATH"].decode()
        assert b"\n" not in fields["MESSAGE"]


def test_journald_that_does_not_read(receiver: Receiver, service: Callable[..., Service]) -> None:
    """A journald that does not read blocks no worker; lost lines are counted later.

    If each line waited, this would not end before the test's time does.
    """
    each = 500
    script = """
logs.configure("info", socket=Path(sys.argv[1]))
work_all(int(sys.argv[2]))
Path(sys.argv[3]).touch()
sys.stdin.readline()
log.info("daemon.ready")
"""
    done = receiver.address.with_name("done")
    running = service(script, receiver.address, each, done)
    wait_until(done.exists, 60, "the end of all threads, with nobody reading")
    receiver.drain()
    queued = len(receiver.messages)
    running.say()
    assert running.lines() == []
    receiver.drain()

    *_, ready, loss = receiver.messages
    assert ready["EMITTERD_EVENT"] == b"daemon.ready"
    assert loss["EMITTERD_EVENT"] == b"log.lost"
    lost = json.loads(loss["MESSAGE"])["count"]
    assert lost > 0
    assert queued + lost == THREADS * each
    assert len(receiver.messages) == queued + 2


def test_without_a_socket_lines_go_to_standard_output(
    tmp_path: Path, service: Callable[..., Service]
) -> None:
    """If journald's socket does not exist, the lines are on standard output."""
    script = """
logs.configure("info", socket=Path(sys.argv[1]))
log.info("daemon.started")
"""
    [line] = service(script, tmp_path / "socket").lines()

    assert line["event"] == "daemon.started"


def test_a_message_above_the_kernels_limit_is_counted(
    receiver: Receiver, service: Callable[..., Service]
) -> None:
    """A line that no datagram can hold is lost and counted; the next one arrives."""
    script = """
logs.configure("info", socket=Path(sys.argv[1]))
log.info("file.deferred", exception="x" * 50_000_000)
log.info("daemon.stopped")
"""
    with receiver.taking(2):
        assert service(script, receiver.address).lines() == []

    stopped, loss = receiver.messages
    assert stopped["EMITTERD_EVENT"] == b"daemon.stopped"
    assert json.loads(loss["MESSAGE"])["count"] == 1


def test_terminal_and_file_come_first(
    receiver: Receiver, service: Callable[..., Service], tmp_path: Path
) -> None:
    """With `log.file` nothing goes to journald, for any standard output."""
    file = tmp_path / "log.jsonl"
    script = """
logs.configure("info", Path(sys.argv[2]), socket=Path(sys.argv[1]))
log.info("daemon.ready")
"""
    assert service(script, receiver.address, file).lines() == []
    receiver.drain()
    assert receiver.messages == []
    assert json.loads(file.read_text())["event"] == "daemon.ready"


REAL = """
journalctl --root="$PWD" --update-catalog
mount --bind var/lib/systemd/catalog /var/lib/systemd/catalog
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
$JOURNALD >/dev/null 2>&1 & journald=$!
until test -S /run/systemd/journal/socket -a -S /run/systemd/journal/stdout; do
    kill -0 $journald 2>/dev/null || exit 77
done
systemd-cat "$@"
journalctl --quiet --sync
find() { journalctl --quiet --no-pager -o cat -t emitterd "$@"; echo; }
find
find -p err
find EMITTERD_PATH=pat/x.zip
find EMITTERD_ERROR=E202
find -x -o short -p err
"""


@pytest.mark.system
def test_journald_itself(python: Python, tmp_path: Path) -> None:
    """The journal has all events, the errors, one file, one error; `-x` explains a code."""
    daemon = Path("/lib/systemd/systemd-journald")
    if not (daemon.exists() and shutil.which("systemd-cat")):
        pytest.skip("Debian package systemd is missing: systemd-journald")
    (tmp_path / "real").write_text(REAL)
    catalogs = tmp_path / "usr/lib/systemd/catalog"
    catalogs.mkdir(parents=True)
    (tmp_path / "var/lib/systemd/catalog").mkdir(parents=True)
    shutil.copy(ROOT / "docs/monitoring/emitterd.catalog", catalogs)
    script = f"""{LOGGING}
os.environ["JOURNAL_STREAM"] = stream_of(1)
logs.configure("info")
log.info("file.delivered", path="pat/x.zip", sha256="ab" * 32)
log.error("file.rejected", path="pat/y.zip", error="E202", reason="x" * 400_000)
log.critical("daemon.stopping", thread="worker")
log.warning("watch.started", path=os.fsdecode({b"new" + bytes([10]) + b"line"!r}))
"""
    output = python(
        script,
        # All ends with the shell, journald too.
        before=f"JOURNALD={daemon} exec unshare --mount --pid --fork --kill-child"
        ' --mount-proc sh -e real "$@"',
        cwd=tmp_path,
    )

    def events(text: str) -> list[str]:
        return [json.loads(line)["event"] for line in text.splitlines()]

    everything, errors, path, code, explained = output.split("\n\n", 4)
    assert events(everything) == [
        "file.delivered",
        "file.rejected",
        "daemon.stopping",
        "watch.started",
    ]
    assert events(errors) == ["file.rejected", "daemon.stopping"]
    assert events(path) == ["file.delivered"]
    assert events(code) == ["file.rejected"]
    (subject,) = re.findall("Subject: (.*)", explained)
    assert subject == f"E202: {Code.TOO_LARGE.title}"
    assert f"What to do: {Code.TOO_LARGE.remedy}." in explained
