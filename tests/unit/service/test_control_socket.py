"""The socket beside the journal: who may ask, and that the daemon answers."""

import json
import os
import socket
import stat
import struct
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from conftest import NOBODY, NoThreads, Python
from emitterd.errors import JournalError
from emitterd.journal.operations import (
    Operation,
    OperationReport,
    OperationRequest,
    OperationResult,
)
from emitterd.model import State
from emitterd.service.control_socket import (
    LINE_MAX_BYTES,
    ControlServer,
    ask,
    send_request,
    user_name,
)
from emitterd.shutdown import Shutdown
from support.waiting import wait_until

HOLD = OperationRequest(Operation.HOLD, (b"pat/caf\xe9.zip",))
DONE = OperationReport(1, (OperationResult(b"pat/caf\xe9.zip", State.QUEUED, State.HELD),))


class Listening:
    """A control that keeps what it is asked; an act on a whole state waits."""

    def __init__(self, journal: Path) -> None:
        self.journal = journal
        self.go_on = threading.Event()
        self.asked: list[tuple[OperationRequest, str]] = []
        self.shutdown = Shutdown()
        self.control = ControlServer(journal, self._obey, self.shutdown, self._answer)
        self.thread = threading.Thread(target=self.control.run)
        self.thread.start()

    def _obey(self, instruction: OperationRequest, user: str) -> OperationReport:
        self.asked.append((instruction, user))
        if instruction.state is not None:
            assert self.go_on.wait(20.0)
        return DONE

    def _answer(self, question: str, path: bytes) -> Iterator[dict[str, object]]:
        for number in range(10_000):
            if question == "bug":
                raise ArithmeticError
            if question == "broken" and number:
                raise JournalError("it cannot be read")
            yield {"path": os.fsdecode(path), "number": number}

    def raw(self, line: bytes) -> dict[str, object]:
        """Say something else than `send_request` would; return the answer."""
        with socket.socket(socket.AF_UNIX) as caller:
            caller.connect(str(self.journal) + ".sock")
            caller.sendall(line)
            caller.shutdown(socket.SHUT_WR)
            answer: dict[str, object] = json.loads(caller.makefile().read())
            return answer

    def end(self) -> None:
        """Stop it, and see it end."""
        self.shutdown.drain(0.0)
        self.thread.join(20.0)
        assert not self.thread.is_alive()


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[Listening]:
    """Listen beside a journal."""
    file = Listening(tmp_path / "journal.db")
    yield file
    file.end()


def test_asked_and_answered(listening: Listening) -> None:
    """The daemon gets the instruction and the caller's name, the caller the outcome."""
    assert send_request(listening.journal, HOLD) == DONE
    assert send_request(listening.journal, HOLD) == DONE
    assert listening.asked == [(HOLD, user_name(os.getuid(), ""))] * 2


def test_only_root_and_the_daemons_user_may_say_who_they_are(listening: Listening) -> None:
    """Root acts as the daemon's user, so that user's word counts; the name is escaped."""
    request = OperationRequest(Operation.HOLD, caller=user_name(0, "asha\n"))
    send_request(listening.journal, request)

    assert listening.asked[0][1] == user_name(0, "asha\n") == "root (asha\\n)"
    assert user_name(65534, "asha") == user_name(65534, "")
    assert user_name(4_000_000, "") == "4000000"


def test_nobody_listens(tmp_path: Path, listening: Listening) -> None:
    """Without a daemon there is no answer, even where its socket was left behind."""
    listening.end()

    assert send_request(listening.journal, HOLD) is None
    assert send_request(tmp_path / "other.db", HOLD) is None


def test_socket_of_a_dead_daemon_is_replaced(listening: Listening) -> None:
    """The next daemon listens where a killed one did."""
    listening.end()
    again = Listening(listening.journal)

    answer = send_request(listening.journal, HOLD)
    again.end()

    assert answer == DONE


def test_long_paths(tmp_path: Path) -> None:
    """A journal may lie deeper than a socket's address is long."""
    folder = tmp_path / ("d" * 120) / ("e" * 120)
    folder.mkdir(parents=True)
    deep = Listening(folder / "journal.db")

    answer = send_request(deep.journal, HOLD)
    deep.end()

    assert answer == DONE


@pytest.mark.parametrize("line", [b"", b"hold it\n", b"{}\n", b'{"operation": "hold"}'], ids=repr)
def test_nonsense_is_answered(listening: Listening, line: bytes) -> None:
    """What is no instruction gets a word back, and the next caller is served."""
    output = listening.raw(line)

    assert output["done"] == 0
    assert "not understood" in str(output["trouble"])
    assert send_request(listening.journal, HOLD) == DONE


def test_endless_line_is_cut_off(listening: Listening) -> None:
    """A caller that never comes to an end takes a bounded amount of memory."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(listening.journal) + ".sock")
        with suppress(OSError):
            caller.sendall(b"x" * (LINE_MAX_BYTES + 1_000_000))

    assert send_request(listening.journal, HOLD) == DONE
    assert listening.asked == [(HOLD, user_name(os.getuid(), ""))]


def test_others_do_not_wait_for_a_long_act(listening: Listening) -> None:
    """An act on a whole state, and a caller that says nothing, hold nobody up."""
    everything = OperationRequest(Operation.HOLD, state=State.QUEUED)
    with socket.socket(socket.AF_UNIX) as idle, ThreadPoolExecutor(1) as pool:
        idle.connect(str(listening.journal) + ".sock")
        long = pool.submit(send_request, listening.journal, everything)
        wait_until(lambda: listening.asked, 20.0, "the long act has begun")

        assert send_request(listening.journal, HOLD) == DONE
        assert not long.done()
        listening.go_on.set()
        assert long.result(20.0) == DONE


def test_caller_that_goes_away(listening: Listening) -> None:
    """Who hangs up before the answer harms nobody."""
    with socket.socket(socket.AF_UNIX) as caller:
        caller.connect(str(listening.journal) + ".sock")
        caller.sendall(HOLD.pack())
        linger = struct.pack("ii", 1, 0)
        caller.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    assert send_request(listening.journal, HOLD) == DONE


def test_daemon_that_dies_before_it_answers(tmp_path: Path) -> None:
    """An answer that breaks off is an error, not an empty outcome."""
    journal = tmp_path / "journal.db"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{journal}.sock")
        listener.listen()

        def hang_up() -> None:
            caller, _ = listener.accept()
            with caller:
                caller.recv(4096)
                caller.sendall(b'{"done"')

        thread = threading.Thread(target=hang_up)
        thread.start()

        with pytest.raises(ConnectionError, match="before it answered"):
            send_request(journal, HOLD)
        thread.join(20.0)


def test_other_users_are_shut_out(listening: Listening, python: Python) -> None:
    """The socket is the daemon's user's and root's: nobody else may even connect."""
    mode = Path(f"{listening.journal}.sock").stat().st_mode
    # pytest's folder is the tester's alone; the socket itself is what is asked here.
    folder = listening.journal.parent
    output = python(
        f"""
import os, socket, sys
os.chdir({str(folder)!r})
{NOBODY}
try:
    socket.socket(socket.AF_UNIX).connect("journal.db.sock")
except PermissionError:
    print("shut out")
""",
        cwd=folder,
    )

    assert stat.S_IMODE(mode) == 0o600
    assert output == "shut out\n"
    assert listening.asked == []


def test_a_question_is_answered_record_by_record(listening: Listening) -> None:
    """The caller gets every record of a long answer, about the path that it names."""
    records = ask(listening.journal, "skipped", b"caf\xe9.zip")
    assert records is not None
    answer = list(records)
    assert [record["number"] for record in answer] == list(range(10_000))
    assert os.fsencode(answer[0]["path"]) == b"caf\xe9.zip"


def test_an_answer_that_breaks_off_is_an_error(listening: Listening) -> None:
    """The caller does not take a part of an answer for the whole."""
    records = ask(listening.journal, "broken")
    assert records is not None
    with pytest.raises(ConnectionError, match="ended before"):
        list(records)


def test_without_a_daemon_nobody_answers(tmp_path: Path) -> None:
    """The caller then looks for itself."""
    assert ask(tmp_path / "journal.db", "skipped") is None


def test_at_the_limit_of_threads_callers_are_answered(
    listening: Listening, no_threads: NoThreads
) -> None:
    """Where no thread can be started, a command is carried out all the same."""
    with no_threads():
        assert send_request(listening.journal, HOLD) == DONE
    assert send_request(listening.journal, HOLD) == DONE


def test_a_bug_concerns_one_caller(listening: Listening) -> None:
    """The caller learns that it got no answer, the log why; the next one is served."""
    with capture_logs() as events:
        records = ask(listening.journal, "bug")
        assert records is not None
        with pytest.raises(ConnectionError):
            list(records)
        wait_until(lambda: bool(events), 20.0, "it is logged")
    assert events[0]["event"] == "operator.failed"
    assert send_request(listening.journal, HOLD) == DONE
