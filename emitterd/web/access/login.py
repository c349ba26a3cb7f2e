"""Login and logout, and which forms are accepted.

A form is refused unless it has the token of its session, and an Origin header of this page.
"""

import math
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http import HTTPStatus

import structlog

from emitterd.errors import ValueProblem
from emitterd.translation.text import Text
from emitterd.web.access.sessions import (
    Address,
    LoginThrottle,
    Sessions,
    Viewer,
    is_device,
    is_same,
    new_device,
)
from emitterd.web.access.users import User, UsersFile, read_name, verify
from emitterd.web.http_server import Request, Response, form_fields, parameters
from emitterd.web.rendering import forbidden, message, page, page_address, redirect

HASH_WAIT_S = 2.0
"""How long a login waits for another one: a hash takes 16 MiB, so there is one at a time."""

LOGINS = 3
"""Logins that hash or wait: each keeps one of the few threads that make the pages. Browsers in
which a user has logged in before do not count."""

DEVICE_S = 180 * 86400

SESSION, VISITOR, DEVICE = "emitterd_session", "emitterd_visitor", "emitterd_device"
"""The cookies: of a session; of a browser with the login form; of one that has logged in before."""

log = structlog.get_logger()


class PageAccess:
    """Who is logged in. Thread-safe."""

    def __init__(self, users: UsersFile, address: Address) -> None:
        self._users = users
        self._address = address
        self._sessions = Sessions()
        self._throttle = LoginThrottle()
        self._hashing = threading.Lock()
        self._logins = threading.Semaphore(LOGINS)

    def viewer(self, request: Request) -> Viewer:
        """Return who asks."""
        if not self._users.enabled:
            return Viewer()
        viewer = self._sessions.find(
            _cookie(request, SESSION, self._address),
            time.monotonic(),
            self._users.current().get,
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
            return forbidden(request, Text("This form was not sent by this page"), remark)
        # Without a session there is nothing to protect but the login.
        protected = viewer.name is not None or request.scope["path"] == "/login"
        streamed = not hasattr(request.state, "form")
        if streamed or not protected or viewer.form_token == "":
            return None
        if is_same(form_fields(request).get("form_token", ""), viewer.form_token):
            return None
        remark = Text("Open the page again, and repeat it there. Nothing was changed.")
        return forbidden(request, Text("This form is too old"), remark)

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
            return forbidden(request, Text("You cannot log in at this address"), remark)
        if not self._users.current():
            title = Text("There are no users")
            remark = Text("The administrator adds users with `emitterd operator add`.")
            if not self._users.is_usable:
                title = Text("The file of users cannot be used")
                remark = Text(
                    "Nobody can log in until the administrator has corrected it. `emitterd check`"
                    " says what is wrong."
                )
            return message(request, title, remark, HTTPStatus.SERVICE_UNAVAILABLE)
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
            given=form_fields(request).get("name", "").encode(errors="replace").decode(),
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
        form = form_fields(request)
        user = self._known(form.get("name", ""))
        device = _cookie(request, DEVICE, self._address)
        trusted = is_device(user, device)
        key = device if trusted else form.get("name", "").strip().lower()[:64]
        header = self._address.client_header
        lines = request.headers.getlist(header) if header else []
        source = self._address.client(request.headers.get("host", ""), lines)
        with self._turn(trusted=trusted) as has_turn:
            if not has_turn:
                problem = Text("Others log in at this moment. Try again.")
                return self._login_form(request, problem, HTTPStatus.SERVICE_UNAVAILABLE)
            now = time.monotonic()
            wait_s = self._throttle.begin(key, now, trusted=trusted, source=source)
            right = wait_s == 0 and verify(user, form.get("password", ""))
        if wait_s:
            seconds = math.ceil(wait_s)
            problem = Text("Too many wrong passwords. Try again in {seconds} s.", seconds=seconds)
            response = self._login_form(request, problem, HTTPStatus.TOO_MANY_REQUESTS)
            response.headers["Retry-After"] = str(seconds)
            return response
        if not right or user is None:
            # People also type their password where the name belongs.
            log.warning("web.login_refused", user=user.name if user else None)
            problem = Text("The name or the password is wrong.")
            return self._login_form(request, problem, HTTPStatus.FORBIDDEN)
        self._throttle.forgive(key, now, trusted=trusted, source=source)
        return self._open(request, user, None if trusted else new_device(user))

    @contextmanager
    def _turn(self, *, trusted: bool) -> Iterator[bool]:
        """Wait for the turn of a login; its block gets whether it has it."""
        if not (trusted or self._logins.acquire(blocking=False)):
            yield False
            return
        has_turn = self._hashing.acquire(timeout=HASH_WAIT_S)
        try:
            yield has_turn
        finally:
            if has_turn:
                self._hashing.release()
            if not trusted:
                self._logins.release()

    def _open(self, request: Request, user: User, device: str | None) -> Response:
        # What the browser had before the login is worth nothing after it.
        self._sessions.close(_cookie(request, SESSION, self._address))
        identifier = self._sessions.open(user, time.monotonic())
        log.info("web.login", user=user.name, role=user.role)
        response = redirect(_target(request))
        self._set_cookie(request, response, SESSION, identifier)
        if device is not None:
            self._set_cookie(request, response, DEVICE, device, DEVICE_S)
        return response

    def _known(self, text: str) -> User | None:
        try:
            return self._users.current().get(read_name(text))
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


def _target(request: Request) -> str:
    """Return the address of the page that the login was asked on."""
    return page_address(form_fields(request).get("next") or parameters(request).get("next", ""))
