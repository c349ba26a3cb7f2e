"""What the listener serves: metrics, health, and whatever is mounted beside them."""

from collections.abc import Callable

from emitterd.assembly import Parts
from emitterd.health import readyz
from emitterd.listener import Listener
from emitterd.secrets_source import read_token


def open_listener(parts: Parts, ready: Callable[[], bool]) -> Listener | None:
    """Return the listener, or None where `metrics.listen` is not given.

    `ready` is asked at each `/readyz`.
    """
    rule = parts.config.metrics
    if rule.listen is None:
        return None
    token = read_token(rule.token_file) if rule.token_file else None
    mounts = {
        "/metrics": parts.metrics.application(parts.health.read),
        "/healthz": parts.health.healthz(),
        "/readyz": readyz(ready),
    }
    return Listener(rule.listen, mounts, token)
