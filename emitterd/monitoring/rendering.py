"""The page as HTML: the one module that knows jinja2.

Whatever a template is given is escaped; what it may not be given is a name that can
forge: those go through `entry.display` before. Style and script stand in the page
itself, and its policy allows these two and nothing else.
"""

import base64
import hashlib
from datetime import UTC, datetime
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined

from emitterd import __version__
from emitterd.codes import Code
from emitterd.meanings import MEANING
from emitterd.model import display, iso
from emitterd.text import amount, count, sentence, span

_ASSETS = files("emitterd.monitoring").joinpath("templates")
STYLE = _ASSETS.joinpath("page.css").read_text("utf-8")
SCRIPT = _ASSETS.joinpath("page.js").read_text("utf-8")


def _hash(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"


POLICY = "; ".join(
    (
        "default-src 'none'",
        f"style-src {_hash(STYLE)}",
        f"script-src {_hash(SCRIPT)}",
        "connect-src 'self'",
        "form-action 'self'",
        # The empty icon, without which browsers ask for one.
        "img-src data:",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
"""The Content-Security-Policy of every page."""


def _utc(at: float) -> str:
    """Return an instant in UTC; the script puts it into the reader's time zone."""
    plain = datetime.fromtimestamp(at, UTC)
    return f"{plain.day} {plain:%b, %H:%M} UTC"


def _meaning(code: str) -> str:
    return MEANING[Code(code)].title


_environment = Environment(
    loader=PackageLoader("emitterd.monitoring", "templates"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.globals.update(style=STYLE, script=SCRIPT, version=__version__)
_environment.filters.update(
    amount=amount,
    count=count,
    display=display,
    iso=iso,
    meaning=_meaning,
    sentence=sentence,
    span=span,
    utc=_utc,
)


def render(template: str, **values: object) -> str:
    """Return a template of `pages/` filled in."""
    return _environment.get_template(template).render(values)
