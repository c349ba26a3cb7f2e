"""Login and logout, which forms are accepted, and what operators do to files.

A form is refused unless it has the token of its session, and an Origin header of this page. Each
operation does what the command of the same name does, and is recorded as `asha (page)`.
"""

import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from urllib.parse import quote

import structlog

from emitterd.datasets.inspection import Inspector
from emitterd.errors import FileError, ValueProblem
from emitterd.intake.file_status import FileStatus, FileStatusReader, FolderState, Latest
from emitterd.intake.marking import read_marked
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
from emitterd.monitoring.explain import locate
from emitterd.spool.folder import Spool
from emitterd.text import display
from emitterd.translation.text import Text
from emitterd.web.http_server import Request, Response, parameters
from emitterd.web.operators import Operator, OperatorsFile, Role, read_name, verify
from emitterd.web.rendering import message, page, page_address, redirect
from emitterd.web.sessions import (
    Address,
    LoginThrottle,
    Sessions,
    Viewer,
    is_device,
    is_same,
    new_device,
)

HASH_WAIT_S = 2.0
"""How long a login waits for another one: a hash takes 16 MiB, so there is one at a time."""

DEVICE_S = 180 * 86400

MARK_WAIT_S = 5.0
"""How long a response waits until a file is read. After that, the reading goes on without it."""

SESSION, VISITOR, DEVICE = "emitterd_session", "emitterd_visitor", "emitterd_device"
"""The cookies: of a session; of a browser with the login form; of one that has logged in before."""

Apply = Callable[[OperationRequest, str], OperationReport]
"""Applies an operation under the name of a user, as the daemon does for the command line."""

log = structlog.get_logger()


class PageAccess:
    """Who is logged in. Thread-safe."""

    def __init__(self, operators: OperatorsFile, address: Address) -> None:
        self._operators = operators
        self._address = address
        self._sessions = Sessions()
        self._throttle = LoginThrottle()
        self._hashing = threading.Lock()

    def viewer(self, request: Request) -> Viewer:
        """Return who asks."""
        if not self._operators.enabled:
            return Viewer()
        viewer = self._sessions.find(
            _cookie(request, SESSION, self._address),
            time.monotonic(),
            self._operators.current().get,
            # The page's script asks for this one without a person.
            renew=request.scope["path"] != "/overview",
        )
        if viewer is not None:
            return viewer
        cookie = _cookie(request, VISITOR, self._address)
        token = self._sessions.visitor_token(cookie) if cookie else ""
        return Viewer(form_token=token, can_log_in=True)

    def refusal(self, request: Request) -> Response | None:
        """Return why a form is not accepted, or None: for each POST request, before its handler.

        A handler that reads its body itself compares the token of its form.
        """
        viewer: Viewer = request.state.viewer
        headers = request.headers
        host, origin = headers.get("host", ""), headers.get("origin", "")
        if not self._address.is_own_origin(origin, host):
            remark = Text(
                "Open the page again, and repeat it there. Behind a proxy: the administrator must"
                " set web.public_url to the address in your browser."
            )
            return _forbidden(request, Text("This form was not sent by this page"), remark)
        # Without a session there is nothing to protect but the login.
        protected = viewer.name is not None or request.scope["path"] == "/login"
        streamed = not hasattr(request.state, "form")
        if streamed or not protected or viewer.form_token == "":
            return None
        if is_same(_form(request).get("form_token", ""), viewer.form_token):
            return None
        remark = Text("Open the page again, and repeat it there. Nothing was changed.")
        return _forbidden(request, Text("This form is too old"), remark)

    def login(self, request: Request) -> Response:
        """Show the login form, or log in."""
        viewer: Viewer = request.state.viewer
        if not viewer.can_log_in:
            remark = Text("The administrator can allow it with web.operators_file.")
            return message(request, Text("There is no login"), remark, HTTPStatus.NOT_FOUND)
        if not self._address.allows_login(request.headers.get("host", "")):
            remark = Text(
                "Others in the network could read your password. Use an SSH tunnel to this machine,"
                " or the https:// address that the administrator sets as web.public_url."
            )
            return _forbidden(request, Text("You cannot log in at this address"), remark)
        if not self._operators.current():
            remark = Text(
                "The administrator adds users with `emitterd operator add`. If the file of users"
                " cannot be used, `emitterd check` says why."
            )
            status = HTTPStatus.SERVICE_UNAVAILABLE
            return message(request, Text("There are no users"), remark, status)
        if request.method == "POST":
            return self._log_in(request)
        if viewer.name is not None:
            return redirect(_target(request))
        return self._login_form(request)

    def logout(self, request: Request) -> Response:
        """End the session."""
        self._sessions.close(_cookie(request, SESSION, self._address))
        response = redirect("")
        self._set_cookie(request, response, SESSION, "", 0)
        return response

    def _login_form(
        self, request: Request, problem: str = "", status: HTTPStatus = HTTPStatus.OK
    ) -> Response:
        """Return the login form, with the cookie that belongs to its token."""
        cookie = _cookie(request, VISITOR, self._address)
        new_cookie = "" if cookie else secrets.token_urlsafe(32)
        token = self._sessions.visitor_token(cookie or new_cookie)
        response = page(
            request,
            "login.html",
            status,
            token=token,
            problem=problem,
            target=_target(request),
            given=_form(request).get("name", "").encode(errors="replace").decode(),
        )
        if new_cookie:
            self._set_cookie(request, response, VISITOR, new_cookie)
        return response

    def _log_in(self, request: Request) -> Response:
        if request.state.viewer.form_token == "":
            problem = Text(
                "Your browser sent no cookie. Allow cookies for this page, and try again."
            )
            return self._login_form(request, problem, HTTPStatus.FORBIDDEN)
        form = _form(request)
        operator = self._known(form.get("name", ""))
        device = _cookie(request, DEVICE, self._address)
        trusted = is_device(operator, device)
        key = device if trusted else form.get("name", "").strip().lower()[:64]
        if not self._hashing.acquire(timeout=HASH_WAIT_S):
            problem = Text("Others log in at this moment. Try again.")
            return self._login_form(request, problem, HTTPStatus.SERVICE_UNAVAILABLE)
        try:
            wait_s = self._throttle.begin(key, time.monotonic(), trusted=trusted)
            right = wait_s == 0 and verify(operator, form.get("password", ""))
        finally:
            self._hashing.release()
        if wait_s:
            seconds = math.ceil(wait_s)
            problem = Text("Too many wrong passwords. Try again in {seconds} s.", seconds=seconds)
            response = self._login_form(request, problem, HTTPStatus.TOO_MANY_REQUESTS)
            response.headers["Retry-After"] = str(seconds)
            return response
        if not right or operator is None:
            # People also type their password where the name belongs.
            log.warning("web.login_refused", user=operator.name if operator else None)
            problem = Text("The name or the password is wrong.")
            return self._login_form(request, problem, HTTPStatus.FORBIDDEN)
        self._throttle.forgive(key, trusted=trusted)
        return self._open(request, operator, None if trusted else new_device(operator))

    def _open(self, request: Request, operator: Operator, device: str | None) -> Response:
        # What the browser had before the login is worth nothing after it.
        self._sessions.close(_cookie(request, SESSION, self._address))
        identifier = self._sessions.open(operator, time.monotonic())
        log.info("web.login", user=operator.name, role=operator.role)
        response = redirect(_target(request))
        self._set_cookie(request, response, SESSION, identifier)
        if device is not None:
            self._set_cookie(request, response, DEVICE, device, DEVICE_S)
        return response

    def _known(self, text: str) -> Operator | None:
        try:
            return self._operators.current().get(read_name(text))
        except ValueProblem:
            return None

    def _set_cookie(
        self, request: Request, response: Response, name: str, value: str, age_s: int | None = None
    ) -> None:
        secure = self._address.is_public(request.headers.get("host", ""))
        response.set_cookie(
            f"__Host-{name}" if secure else name,
            value,
            max_age=age_s,
            path="/",
            secure=secure,
            httponly=True,
            samesite="strict",
        )


def _cookie(request: Request, name: str, address: Address) -> str:
    # With this prefix no page of a neighbouring host name can set it.
    secure = address.is_public(request.headers.get("host", ""))
    return request.cookies.get(f"__Host-{name}" if secure else name, "")


def _form(request: Request) -> Mapping[str, str]:
    form: Mapping[str, str] = getattr(request.state, "form", {})
    return form


def _forbidden(request: Request, title: str, remark: str) -> Response:
    return message(request, title, remark, HTTPStatus.FORBIDDEN)


def _target(request: Request) -> str:
    """Return the address of the page that the login was asked on."""
    return page_address(_form(request).get("next") or parameters(request).get("next", ""))


def seen(spool: Spool, path: bytes) -> str:
    """Return a mark of the file, which changes with it; empty if there is no file."""
    try:
        stat = spool.stat(path)
    except FileError:
        return ""
    return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"


def offered(state: State | FolderState) -> list[Operation]:
    """Return the operations that change a file in this state."""
    operations = [
        operation
        for operation, verbs in VERBS.items()
        if any(state in TRANSITIONS[verb][0] for verb in verbs)
    ]
    if state in {State.QUEUED, State.DEFERRED, State.HELD, State.REJECTED, FolderState.NEW}:
        operations.append(Operation.MARK)
    if state in set(State) - {State.DELIVERING}:
        operations.append(Operation.FORGET)
    return operations


@dataclass(slots=True)
class _Marking:
    """A file that is being read, to be marked as delivered."""

    path: bytes
    problem: str = Text("a bug in emitterd; its log says more")
    ended: threading.Event = field(default_factory=threading.Event)


@dataclass(slots=True)
class Actions:
    """What operators do to files. Thread-safe.

    `server` returns the emission API that has what is marked as delivered.
    """

    journal: Path
    status_reader: Callable[[Latest], FileStatusReader]
    inspector: Callable[[], Inspector]
    server: Callable[[], str]
    apply: Apply
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _marking: _Marking | None = field(default=None, init=False)

    def act(self, request: Request) -> Response:
        """Apply the operation of a form to its path; then show the file."""
        viewer: Viewer = request.state.viewer
        if viewer.name is None or viewer.role is not Role.OPERATOR:
            remark = Text("Log in as an operator, and repeat it. Nothing was changed.")
            return _forbidden(request, Text("Only operators may do this"), remark)
        form = _form(request)
        try:
            operation = Operation(form.get("operation", ""))
        except ValueError:
            remark = Text("The form names no operation of emitterd. Nothing was changed.")
            title = Text("There is no such operation")
            return message(request, title, remark, HTTPStatus.BAD_REQUEST)
        with JournalReader(self.journal) as reader:
            statuses = self.status_reader(reader.latest)
            try:
                path = locate(statuses.spool, reader, form.get("path", ""))
            except ValueError as error:
                title = Text("Not in the folder")
                return message(request, title, error.args[0], HTTPStatus.NOT_FOUND)
            status = statuses.look_up(path)
        if operation is Operation.FORGET and not _confirms(form.get("confirmation", ""), path):
            remark = Text("You did not type the name of the file.")
            return _refused(request, path, remark, HTTPStatus.BAD_REQUEST)
        user = f"{viewer.name} (page)"
        if operation is Operation.MARK:
            return self._mark(request, statuses, status, user)
        report = self.apply(OperationRequest(operation, (path,)), user)
        problem = _problem(report)
        return _refused(request, path, problem) if problem else _show(path)

    def note(self, path: bytes) -> str:
        """Return what a file's page says about marking it as delivered; mostly nothing."""
        marking = self._marking
        if marking is None or marking.path != path:
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
        if _form(request).get("seen", "") != seen(statuses.spool, status.path):
            remark = Text("The file has changed since you saw it. Look at it again.")
            return _refused(request, status.path, remark)
        with self._lock:
            marking = self._marking
            if marking is None or marking.ended.is_set():
                marking = _Marking(status.path)
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
                return _refused(request, status.path, remark)
        if not marking.ended.wait(MARK_WAIT_S):
            return _show(status.path)
        problem = marking.problem
        return _refused(request, status.path, problem) if problem else _show(status.path)

    def _read(
        self, marking: _Marking, statuses: FileStatusReader, status: FileStatus, user: str
    ) -> None:
        try:
            marked = read_marked(statuses.spool, self.inspector(), status)
            marking.problem = self._apply_mark(marked, user)
        finally:
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
    return text.strip() == display(path).rpartition("/")[2]


def _show(path: bytes) -> Response:
    return redirect(f"explain?path={quote(display(path), safe='/')}")


def _refused(
    request: Request, path: bytes, problem: str, status: HTTPStatus = HTTPStatus.CONFLICT
) -> Response:
    shown = display(path)
    return message(request, Text("Nothing was changed"), problem, status, shown)
