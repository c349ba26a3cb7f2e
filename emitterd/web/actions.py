"""What operators do to files on the page.

Each operation does what the command of the same name does, and is recorded as `asha (page)`.
"""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING
from unicodedata import normalize

from emitterd.codes import Code
from emitterd.datasets.inspection import Inspector
from emitterd.errors import FileError
from emitterd.intake.file_status import FileStatus, FileStatusReader, FolderState, Latest
from emitterd.intake.marking import read_marked
from emitterd.journal.opening import JournalLocation
from emitterd.journal.operations import (
    VERBS,
    MarkedFile,
    Operation,
    OperationReport,
    OperationRequest,
    OperationResult,
)
from emitterd.journal.reader import JournalReader
from emitterd.model import TRANSITIONS, State
from emitterd.monitoring.explain import within
from emitterd.spool.folder import Spool
from emitterd.text import display
from emitterd.translation.text import Text
from emitterd.web.http_server import Request, Response, form_fields
from emitterd.web.rendering import file_address, forbidden, form_path, message, redirect

if TYPE_CHECKING:
    from emitterd.web.access.sessions import Viewer

MARK_WAIT_S = 5.0
"""How long a response waits until a file is read. After that, the reading goes on without it."""

Apply = Callable[[OperationRequest, str], OperationReport]
"""Applies an operation under the name of a user, as the daemon does for the command line."""


def seen(spool: Spool, path: bytes) -> str:
    """Return a mark of the file, which changes with it; empty if there is no file."""
    try:
        stat = spool.stat(path)
    except FileError:
        return ""
    return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"


def offered(
    state: State | FolderState,
    error: str | None = None,
    *,
    is_there: bool = True,
    is_moved: bool = False,
) -> list[Operation]:
    """Return the operations that change a file in this state.

    `error`: the code of what is wrong with it. `is_there`: whether it is in the folder; `is_moved`:
    whether emitterd has moved it to another one.
    """
    operations = [
        operation
        for operation, verbs in VERBS.items()
        if any(state in TRANSITIONS[verb][0] for verb in verbs)
        and not (is_moved and operation is Operation.RETRY)
    ]
    complete = {State.QUEUED, State.DEFERRED, State.HELD, State.REJECTED, FolderState.NEW}
    if is_there and state in complete and error != Code.INCOMPLETE:
        operations.append(Operation.MARK)
    if state in set(State) - {State.DELIVERING}:
        operations.append(Operation.FORGET)
    return operations


@dataclass(slots=True)
class _Marking:
    """A file that is being read, to be marked as delivered. `seen`: which version of it."""

    path: bytes
    seen: str
    problem: str = Text("a bug in emitterd; its log says more")
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class Actions:
    """What operators do to files. Thread-safe.

    `server` returns the emission API that has what is marked as delivered.
    """

    journal: JournalLocation
    status_reader: Callable[[Latest], FileStatusReader]
    inspector: Callable[[], Inspector]
    server: Callable[[], str]
    apply: Apply
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _marking: _Marking | None = field(default=None, init=False)

    def act(self, request: Request) -> Response:
        """Apply the operation of a form to its path; then show the file."""
        viewer: Viewer = request.state.viewer
        if not viewer.is_operator:
            remark = Text("Log in as an operator, and repeat it. Nothing was changed.")
            return forbidden(request, Text("Only operators may do this"), remark)
        form = form_fields(request)
        try:
            operation = Operation(form.get("operation", ""))
        except ValueError:
            remark = Text("The form names no operation of emitterd. Nothing was changed.")
            title = Text("There is no such operation")
            return message(request, title, remark, HTTPStatus.BAD_REQUEST)
        with JournalReader(self.journal) as reader:
            statuses = self.status_reader(reader.latest)
            try:
                path = within(statuses.spool.root, form_path(request))
            except ValueError as error:
                title = Text("Not in the folder")
                return message(request, title, error.args[0], HTTPStatus.NOT_FOUND)
            status = statuses.look_up(path)
        if operation is Operation.FORGET and not _confirms(form.get("confirmation", ""), path):
            remark = Text("You did not type the name of the file.")
            return _refused(request, remark, HTTPStatus.BAD_REQUEST)
        user = f"{viewer.name} (page)"
        if operation is Operation.MARK:
            return self._mark(request, statuses, status, user)
        report = self.apply(OperationRequest(operation, (path,)), user)
        problem = _problem(report)
        return _refused(request, problem) if problem else _show(path)

    def note(self, path: bytes, seen: str, state: State | FolderState) -> str:
        """Return what a file's page says about marking it as delivered; mostly nothing.

        `seen` is the mark of the file that the page is about, and `state` its state.
        """
        marking = self._marking
        if marking is None or (marking.path, marking.seen) != (path, seen):
            return ""
        if state is State.DELIVERED:
            return ""
        if not marking.ended.is_set():
            return Text(
                "This file is being read now. emitterd then marks it as delivered."
                " Reload this page."
            )
        if marking.problem:
            return Text("not marked as delivered: {reason}", reason=marking.problem)
        return ""

    def _mark(
        self, request: Request, statuses: FileStatusReader, status: FileStatus, user: str
    ) -> Response:
        shown = form_fields(request).get("seen", "")
        if shown != seen(statuses.spool, status.path):
            remark = Text("The file has changed since you saw it. Look at it again.")
            return _refused(request, remark)
        with self._lock:
            marking = self._marking
            if marking is None or marking.ended.is_set():
                marking = _Marking(status.path, shown)
                # It only reads until its end, and may end with the process.
                arguments = (marking, statuses, status, user)
                threading.Thread(target=self._read, args=arguments, daemon=True).start()
                # Not before: at a limit of threads it would never end.
                self._marking = marking
            elif marking.path != status.path:
                other = display(marking.path)
                remark = Text(
                    "Another file is being read now: {other}. Try again when that is done.",
                    other=other,
                )
                return _refused(request, remark)
        if not marking.ended.wait(MARK_WAIT_S):
            return _show(status.path)
        problem = marking.problem
        return _refused(request, problem) if problem else _show(status.path)

    def _read(
        self, marking: _Marking, statuses: FileStatusReader, status: FileStatus, user: str
    ) -> None:
        try:
            marked = read_marked(statuses.spool, self.inspector(), status)
            marking.problem = self._apply_mark(marked, user)
        finally:
            # A file that has changed meanwhile: the reason is for those who look at it now.
            marking.seen = seen(statuses.spool, status.path)
            marking.ended.set()

    def _apply_mark(self, marked: MarkedFile | OperationResult, user: str) -> str:
        if isinstance(marked, OperationResult):
            return marked.refusal
        server = self.server()
        request = OperationRequest(Operation.MARK, files=(marked,), server=server)
        return _problem(self.apply(request, user))


def _problem(report: OperationReport) -> str:
    refusals = (result.refusal for result in report.results)
    return report.trouble or next(filter(None, refusals), "")


def _confirms(text: str, path: bytes) -> bool:
    """Return whether a person has typed the name of a file, as far as a page shows it."""
    name = display(path).rpartition("/")[2]
    # A browser shows a run of spaces as one, and none at the beginning; and a keyboard may give
    # other characters for the same letter. The path of the form tells which file is meant.
    typed, expected = (normalize("NFC", " ".join(value.split())) for value in (text, name))
    return typed == expected != "" or text == name


def _show(path: bytes) -> Response:
    return redirect(file_address(display(path)))


def _refused(request: Request, problem: str, status: HTTPStatus = HTTPStatus.CONFLICT) -> Response:
    return message(request, Text("Nothing was changed"), problem, status)
