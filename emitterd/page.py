"""The page for people: a WSGI application that shows, and changes nothing.

`/` is the whole page, `/overview` the part of it that lives, `/explain?path=` tells
of one file. Who may ask at all is the listener's business.
"""

import hashlib
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

from emitterd.admission import Known
from emitterd.chart import HEIGHT, WIDTH
from emitterd.destination import Down
from emitterd.errors import JournalError, printable
from emitterd.explanation import Explanation, OutsideSpool, explain, locate
from emitterd.headline import Headline, forecast, headline, progress, rate
from emitterd.overview import SHOWN, Overview, gather
from emitterd.records import Records
from emitterd.rendering import POLICY, render
from emitterd.search import search
from emitterd.standing import Standings
from emitterd.throughput import Throughput
from emitterd.uploads import Uploads
from emitterd.verdict import Verdict

SAID_MAX = 4096
"""A longer path than the kernel takes is none."""

Environ = dict[str, Any]
StartResponse = Callable[[str, list[tuple[str, str]]], object]
Latest = Callable[[bytes], Known | None]

_HEADERS = [
    ("Content-Type", "text/html; charset=utf-8"),
    ("Content-Security-Policy", POLICY),
    ("X-Content-Type-Options", "nosniff"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
    # Kept by the browser for the way back only, and asked for anew each time.
    ("Cache-Control", "private, no-cache"),
]
