"""The one place that knows both protocols."""

from emitterd.client.emission import EmissionClient
from emitterd.client.http import HttpClient
from emitterd.client.ingestion.client import IngestionClient
from emitterd.client.presigned.client import PresignedClient
from emitterd.client.session import Credentials, LockoutStore
from emitterd.model import WireProtocol
from emitterd.shutdown import Shutdown


def open_client(  # noqa: PLR0913  what both clients need
    protocol: WireProtocol,
    http: HttpClient,
    url: str,
    credentials: Credentials,
    *,
    insecure: bool,
    shutdown: Shutdown,
    lockouts: LockoutStore | None = None,
) -> EmissionClient:
    """Return the client of an emission API, which has not logged in yet.

    `insecure` allows uploads over http from an API over https. `lockouts` keeps refused logins from
    run to run, so that a restart does not try them again.
    """
    if protocol == "ingestion":
        return IngestionClient(http, url, credentials, shutdown=shutdown, lockouts=lockouts)
    return PresignedClient(
        http, url, credentials, insecure=insecure, shutdown=shutdown, lockouts=lockouts
    )
