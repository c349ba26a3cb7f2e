"""What libraries take along where they find it, and what the daemon has no use for."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

UNUSED = ("anyio", "httpx._main", "rich", "trio")
"""httpcore's other event loops, httpx's own command, and structlog's tracebacks: a
quarter of the daemon's start, and 8 MiB."""


@contextmanager
def unused_left_out() -> Iterator[None]:
    """Let what is imported within do without them; afterwards they can be imported.

    Source: the Python reference, "The module cache": None there says that there is no
    such module, and each of these is imported by who can go on without.
    """
    absent = [name for name in UNUSED if name not in sys.modules]
    for name in absent:
        sys.modules[name] = None  # type: ignore[assignment]  # as documented
    try:
        yield
    finally:
        for name in absent:
            del sys.modules[name]
