"""Turns templates into responses. The only module that uses jinja2.

Templates escape every value. Style and scripts are in the page itself, and its
Content-Security-Policy allows no others: only the files in `static/`, by their hash.
"""

import base64
import hashlib
import time
from collections.abc import Mapping
from http import HTTPStatus
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from emitterd import __version__
from emitterd.codes import Code
from emitterd.text import display, iso, local_time, sentence
from emitterd.units import format_age, format_size
from emitterd.web.http_server import Request, Response

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
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    # The browser keeps the page for its Back button, and asks again each time.
    "Cache-Control": "private, no-cache",
}
"""The headers of every response to a browser."""


def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("emitterd.web", "templates"),
        extensions=["jinja2.ext.i18n"],
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.install_null_translations(newstyle=True)  # type: ignore[attr-defined]  # by the extension
    environment.globals.update(static=STATIC.__getitem__, version=__version__)
    environment.filters.update(
        age=format_age,
        display=display,
        iso=iso,
        local_time=local_time,
        number="{:,}".format,
        meaning=lambda code: Code(code).title,
        remedy=lambda code: Code(code).remedy,
        sentence=sentence,
        size=format_size,
    )
    return environment


_ENVIRONMENT = _environment()


def render(request: Request, template: str, **values: object) -> str:
    """Return a template filled in. File names in `values` must be printable.

    Every template knows `viewer`, `language` and `host` of `request.state`, `now`, and `here`: the
    name of the page, which is empty for the overview. `asked` is the text in the search field.
    """
    state = request.state
    known: dict[str, object] = {
        "viewer": state.viewer,
        "language": state.language,
        "host": state.host,
        "here": request.scope["path"].lstrip("/"),
        "now": time.time(),
        "asked": "",
    }
    return _ENVIRONMENT.get_template(template).render(known | values)


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
    return html(render(request, template, **values), status, headers)


def message(
    request: Request, title: str, remark: str, status: HTTPStatus, asked: str = ""
) -> Response:
    """Return a page with one title and one remark, such as an error."""
    return page(request, "message.html", status, title=title, remark=remark, asked=asked)


def favicon(_: Request) -> Response:
    """Return the icon of all pages."""
    headers = {**HEADERS, "Cache-Control": "max-age=86400"}
    return Response(STATIC["favicon.svg"], HTTPStatus.OK, headers, "image/svg+xml")
