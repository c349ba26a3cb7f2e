"""Turns templates into responses. The only module that uses jinja2.

Templates escape every value. Style and scripts are in the page itself, and its
Content-Security-Policy allows no others: only the files in `static/`, by their hash.

Each language has an environment, with its catalogue behind `_` and `{% trans %}`. A text from
Python passes a filter: `translate` for plain text; `phrase` for HTML, with commands as code;
`prose` for the same as a sentence. `name` is for a state.
"""

import base64
import hashlib
import re
import secrets
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from importlib.resources import files
from typing import Any
from urllib.parse import quote, unquote_to_bytes

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from emitterd import __version__
from emitterd.codes import Code
from emitterd.intake.file_status import FolderState
from emitterd.model import State
from emitterd.monitoring.alarms import STAGE_NAMES
from emitterd.text import ShownPath, display, iso, local_time, printable
from emitterd.translation.languages import ENDS, ENGLISH, LANGUAGES, Language, negotiate
from emitterd.translation.text import Instant, Text
from emitterd.units import format_age, format_size
from emitterd.web.http_server import Request, Response, form_fields, parameters

STATIC: Mapping[str, str] = {
    file.name: file.read_text("utf-8")
    for file in files("emitterd.web").joinpath("static").iterdir()
}
"""The files in `static/` by name. A template contains one by `{{ static("page.css") }}`."""


def _hashes(suffix: str) -> str:
    digests = (
        hashlib.sha256(text.encode()).digest()
        for name, text in sorted(STATIC.items())
        if name.endswith(suffix)
    )
    return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)


POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hashes('.css')}",
        f"script-src {_hashes('.js')}",
        "connect-src 'self'",
        "form-action 'self'",
        "img-src 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""The Content-Security-Policy of every page."""

HEADERS: Mapping[str, str] = {
    "X-Content-Type-Options": "nosniff",
    # With no-referrer, browsers send `Origin: null` with a form. Source: Fetch, "Origin" header.
    "Referrer-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The browser keeps the page for its Back button, and asks again each time.
    "Cache-Control": "private, no-cache",
    "Vary": "Accept-Language, Cookie",
}
"""The headers of every response to a browser."""

NOT_KEPT = {"Cache-Control": "private, no-store"}
"""For a page of a user: after the logout, the Back button must not show it. The answer to a form is
kept, because the browser would send the form again."""


NAMES: Mapping[str, Text] = {
    State.QUEUED: Text("queued"),
    State.DELIVERING: Text("being sent"),
    State.DEFERRED: Text("deferred"),
    State.DELIVERED: Text("delivered"),
    State.REJECTED: Text("rejected"),
    State.WITHDRAWN: Text("withdrawn"),
    State.HELD: Text("held"),
    FolderState.ABSENT: Text("absent"),
    FolderState.IGNORED: Text("ignored"),
    FolderState.UNSUITABLE: Text("unsuitable"),
    FolderState.UNREADABLE: Text("unreadable"),
    FolderState.WRITTEN: Text("being written"),
    FolderState.SETTLING: Text("settling"),
    FolderState.INCOMPLETE: Text("incomplete"),
    FolderState.NEW: Text("new"),
    **STAGE_NAMES,
}
"""What the page calls the states of a file, and the stages of an upload."""

ANSWERS_MAX, ANSWER_MAX = 50, 256 * 1024
"""Answers to forms that are kept, and how many characters the page of one may have."""

_LANGUAGE_COOKIE = "emitterd_language"
_COOKIE_AGE_S = 400 * 86400
"""The longest time that browsers keep a cookie."""

_PAGE = re.compile(r"[a-z]*(\?[!-~]*)?")
"""The address of a page, relative to the others."""

_ACTIONS = {"login", "logout", "act"}
"""Addresses that are no page to go back to."""


def language_of(request: Request) -> str:
    """Return the language for this reader: the chosen one, or else what the browser prefers."""
    chosen = request.cookies.get(_LANGUAGE_COOKIE)
    return negotiate(chosen, request.headers.get("Accept-Language", "")).code


def choose_language(request: Request) -> Response:
    """Keep the language of the form in a cookie, and go back to the page of the form."""
    form = request.state.form
    back = form.get("back", "")
    response = redirect(page_address(back))
    if (chosen := form.get("language", "")) in LANGUAGES:
        response.set_cookie(
            _LANGUAGE_COOKIE, chosen, _COOKIE_AGE_S, httponly=True, samesite="strict"
        )
    return response


def page_address(text: str) -> str:
    """Return the address of a page that a form gives; the overview if it is not one of ours."""
    ours = _PAGE.fullmatch(text) and text.partition("?")[0] not in _ACTIONS
    return text if ours else ""


def redirect(address: str) -> Response:
    """Return a response that leads to a page, by its address relative to the others.

    The location begins with `./`, so that it cannot name another host.
    """
    headers = {**HEADERS, "Location": f"./{address}", "Cache-Control": "no-store"}
    return Response(None, HTTPStatus.SEE_OTHER, headers)


def file_address(path: str) -> str:
    """Return the address of the page of a file."""
    if not isinstance(path, ShownPath):
        return f"explain?path={quote(path, errors='surrogateescape')}"
    # With `exact` it is not read as a person may have typed or copied it.
    text = path.raw.decode("utf-8", "surrogateescape")
    exact = "&exact=1" if text != text.strip() or "\\" in text else ""
    return f"explain?path={quote(path.raw)}{exact}"


def form_value(path: str) -> str:
    """Return what a form has for a path: each byte of it. `form_path` reads it."""
    return quote(path.raw if isinstance(path, ShownPath) else path)


def form_path(request: Request) -> bytes:
    """Return the path that a form of ours names."""
    text = form_fields(request).get("path", "")
    return unquote_to_bytes(text.encode("utf-8", "surrogateescape"))


def prose(language: Language, text: str) -> Markup:
    """Return a text as a sentence in HTML: commands as code, and English marked as such."""
    if not language.pattern(text):
        return _ENGLISH_PART.format(prose(ENGLISH, text))
    words = phrase(language, text)
    if language is ENGLISH and _begins_with_word(text):
        words = words[:1].upper() + words[1:]
    # The full stop of a catalogue is no HTML.
    return words if words.endswith(ENDS) else Markup(language.full_stop).format(words=words)  # noqa: S704


_FIRST_VALUE = re.compile(r"\{(\w+)\}")
_WORD = re.compile(r"(?!emitterd\b)[a-z]+([-'][a-z]+)*[,;:.!?…)]*(\s|$)")


def _begins_with_word(value: object) -> bool:
    """Return whether a text begins with a word, and not with a name: that keeps its letters."""
    if isinstance(value, Text) and value.values and (first := _FIRST_VALUE.match(value.message)):
        return _begins_with_word(value.values[first[1]])
    return isinstance(value, str) and type(value) is not ShownPath and bool(_WORD.match(value))


def phrase(language: Language, value: object) -> Markup:
    """Return a text in HTML. A value of it is a name, a number, or a text of its own."""
    if isinstance(value, ShownPath):
        return escape(value)
    if isinstance(value, int):
        return Markup(language.number(value))  # noqa: S704  digits
    text = value if isinstance(value, Text | Instant) else str(value)
    pattern = language.pattern(text)
    if not pattern:
        # A word is a name, such as a path or a code.
        is_name = type(text) is str and " " not in text
        return escape(text) if is_name else _ENGLISH_PART.format(phrase(ENGLISH, text))
    if isinstance(text, Instant):
        # The page's script writes it in the reader's time zone.
        return _TIME.format(text.at.isoformat(), pattern)
    words = Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(pattern))))  # noqa: S704
    if isinstance(text, Text) and text.values:
        words = words.format(**{name: phrase(language, part) for name, part in text.values.items()})
    return words


_ENGLISH_PART = Markup('<span lang="en">{}</span>')
_TIME = Markup('<time datetime="{}">{}</time>')


def _environment(language: Language) -> Environment:
    environment = Environment(
        loader=PackageLoader("emitterd.web", "templates"),
        extensions=["jinja2.ext.i18n"],
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.policies["ext.i18n.trimmed"] = True
    environment.install_gettext_callables(  # type: ignore[attr-defined]  # by the extension
        language.gettext, language.ngettext, newstyle=True
    )
    environment.globals.update(
        static=STATIC.__getitem__, version=__version__, languages=LANGUAGES.values()
    )
    environment.filters.update(
        age=lambda seconds: language.translate(format_age(seconds)),
        display=display,
        file_address=file_address,
        form_value=form_value,
        iso=iso,
        local_time=lambda at: language.translate(local_time(at)),
        meaning=lambda code: Code(code).title,
        name=lambda value: language.translate(NAMES.get(value, value)),
        number=language.number,
        phrase=partial(phrase, language),
        printable=printable,
        prose=partial(prose, language),
        remedy=lambda code: Code(code).remedy,
        size=format_size,
        translate=language.translate,
    )
    return environment


_ENVIRONMENTS = {code: _environment(language) for code, language in LANGUAGES.items()}


def render(request: Request, template: str, **values: object) -> str:
    """Return a template filled in. File names in `values` must be printable.

    Every template knows `viewer`, `language` and `host` of `request.state`, `now`, and `here`: the
    name of the page, which is empty for the overview. `asked` is the text in the search field,
    `back` the address of the page for a form that comes back, and `up` leads to the overview.
    """
    state = request.state
    known: dict[str, object] = {
        "viewer": state.viewer,
        "language": state.language,
        "host": state.host,
        "here": request.scope["path"].lstrip("/"),
        "back": _address(request),
        "up": "../" * (request.scope.get("raw_path", b"/").count(b"/") - 1),
        "now": time.time(),
        "asked": "",
    }
    return _ENVIRONMENTS[state.language].get_template(template).render(known | values)


def _address(request: Request) -> str:
    """Return the page and its query, for a form that comes back; the overview after a POST."""
    query = request.scope["query_string"].decode("latin-1")
    name = request.scope["path"].lstrip("/")
    return (f"{name}?{query}" if query else name) if request.method != "POST" else ""


def html(
    text: str, status: HTTPStatus = HTTPStatus.OK, headers: Mapping[str, str] | None = None
) -> Response:
    """Return HTML with the headers of every page."""
    all_headers = {**HEADERS, "Content-Security-Policy": POLICY, **(headers or {})}
    return Response(text, status, all_headers, "text/html")


def page(
    request: Request,
    template: str,
    status: HTTPStatus = HTTPStatus.OK,
    headers: Mapping[str, str] | None = None,
    **values: object,
) -> Response:
    """Return a whole page: a template that extends `layout.html`."""
    answers: Answers | None = getattr(request.state, "answers", None)
    if request.method != "POST" and request.state.viewer.name is not None:
        headers = NOT_KEPT | dict(headers or {})
    if request.method != "POST" or answers is None:
        return html(render(request, template, **values), status, headers)
    name = secrets.token_urlsafe(16)
    values = {"here": request.scope["path"].lstrip("/"), "back": f"answer?name={name}"} | values
    text = render(request, template, **values)
    if len(text) <= ANSWER_MAX:
        del values["back"]
        answers.keep(name, Answer(request.state.viewer.name, template, values))
    return html(text, status, headers)


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer to a form, as it can be rendered again. `user`: who got it; None for a visitor."""

    user: str | None
    template: str
    values: Mapping[str, Any]


class Answers:
    """The last answers to forms: a reader who changes the language sees the answer again.

    Thread-safe.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._answers: dict[str, Answer] = {}

    def keep(self, name: str, answer: Answer) -> None:
        """Keep an answer for a while, under a name that only its reader knows."""
        with self._lock:
            self._answers[name] = answer
            if len(self._answers) > ANSWERS_MAX:
                del self._answers[next(iter(self._answers))]

    def show(self, request: Request) -> Response:
        """Return the answer that an address names; the overview if it is no longer kept."""
        answer = self._answers.get(parameters(request).get("name", ""))
        user = request.state.viewer.name
        # A visitor may have logged in to do what was refused. A login form is of no use then.
        of_visitor = answer and answer.user is None and answer.template != "login.html"
        if answer is None or (answer.user != user and not of_visitor):
            return redirect("")
        return page(request, answer.template, **answer.values)


def message(
    request: Request, title: str, remark: str, status: HTTPStatus, asked: str = ""
) -> Response:
    """Return a page with one title and one remark, such as an error.

    After the form of a file it leads back to the file.
    """
    file = display(form_path(request))
    asked = asked or file
    return page(request, "message.html", status, title=title, remark=remark, asked=asked, file=file)


def forbidden(request: Request, title: str, remark: str) -> Response:
    """Return a page that says why something is refused."""
    return message(request, title, remark, HTTPStatus.FORBIDDEN)


def favicon(_: Request) -> Response:
    """Return the icon of all pages."""
    headers = {**HEADERS, "Cache-Control": "max-age=86400"}
    return Response(STATIC["favicon.svg"], HTTPStatus.OK, headers, "image/svg+xml")
