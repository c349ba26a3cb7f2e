"""The way to the emission API and its bucket, as the configuration describes it."""

import ssl
import threading
from collections.abc import Callable

from emitterd.client.api import EmissionClient
from emitterd.client.http import HttpClient, Response, tls_context
from emitterd.client.session import Credentials, LockoutStore
from emitterd.client.transfer import TransferLimits
from emitterd.config.settings import Config


def open_tls(config: Config) -> ssl.SSLContext:
    """Return the context of every connection.

    Raises `OSError` where a TLS file cannot be used.
    """
    emission = config.emission
    return tls_context(
        *(
            str(file) if file else None
            for file in (emission.ca_file, emission.client_cert, emission.client_key)
        )
    )


def open_wire(
    config: Config,
    tls: ssl.SSLContext,
    stop: threading.Event,
    on_answer: Callable[[Response], None] | None = None,
) -> HttpClient:
    """Return the client that all workers share; `stop`: see `HttpClient`."""
    proxy = config.emission.proxy
    wire = HttpClient(
        limits(config),
        tls=tls,
        proxy=proxy.reveal() if proxy else None,
        stop=stop,
        on_answer=on_answer,
    )
    wire.throttle.adopt(config.delivery.bandwidth)
    return wire


def limits(config: Config) -> TransferLimits:
    """Return how long the wire waits for whom."""
    emission = config.emission
    return TransferLimits(
        emission.connect_timeout_s,
        emission.stall_timeout_s,
        emission.minimum_speed_bytes,
    )


def credentials(config: Config) -> Credentials:
    """Return how to log in."""
    emission = config.emission
    secret = emission.password if emission.username else emission.api_key
    assert secret is not None  # noqa: S101  the configuration demands one
    return Credentials(emission.username, secret.reveal, emission.token_scheme)


def open_emission(
    config: Config,
    wire: HttpClient,
    stop: threading.Event,
    memory: LockoutStore | None = None,
) -> EmissionClient:
    """Return the emission API over this wire, not logged in yet."""
    return EmissionClient(
        wire,
        config.emission.url,
        credentials(config),
        insecure=config.emission.allow_insecure_http,
        stop=stop,
        memory=memory,
    )
