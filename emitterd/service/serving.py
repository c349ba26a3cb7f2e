"""What the listener serves: the page for people, metrics, and health."""

from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from emitterd.config.secrets import read_token
from emitterd.monitoring.health import readyz
from emitterd.monitoring.http_server import Listener
from emitterd.monitoring.page import Page, PageSources
from emitterd.monitoring.throughput import Throughput
from emitterd.monitoring.uploads import UploadTracker
from emitterd.service.components import Components

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication


def open_listener(
    parts: Components, uploads: UploadTracker, ready: Callable[[], bool]
) -> Listener | None:
    """Return the listener, or None where `metrics.listen` is not given.

    `ready` is asked at each `/readyz`.
    """
    rule, metrics = parts.config.metrics, parts.metrics
    if rule.listen is None or metrics is None:
        return None
    token = read_token(rule.token_file) if rule.token_file else None
    mounts: dict[str, WSGIApplication] = {
        "/": Page(_window(parts, uploads)),
        "/metrics": metrics.application(parts.health.read),
        "/healthz": parts.health.healthz(),
        "/readyz": readyz(ready),
    }
    return Listener(rule.listen, mounts, token)


def _window(parts: Components, uploads: UploadTracker) -> PageSources:
    return PageSources(
        parts.config.journal.path,
        uploads,
        Throughput(),
        parts.standings,
        parts.health.verdict,
        lambda: parts.destination.down,
        lambda: urlsplit(parts.config.emission.url).hostname or "",
    )
