"""Requests to an emission API: with the session's token, and again if they fail briefly.

What both protocols share. A failure raises `DeliveryError`, which says what happens to the entry.
"""

from collections.abc import Callable

from tenacity import (
    Retrying,
    retry_if_exception,
    stop_after_attempt,
    stop_any,
    stop_when_event_set,
    wait_random_exponential,
)
from tenacity.nap import sleep_using_event

from emitterd.client.http import HttpClient, Response
from emitterd.client.responses import RequestKind, api_error
from emitterd.client.session import ANSWER_MAX_BYTES, Credentials, Session, send_json
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.shutdown import Shutdown

TRIES = 3
"""How often one request to the API is sent, within seconds, where it fails briefly."""

_BRIEF = frozenset({Code.API_TROUBLE, Code.CONNECTION_LOST})


class ApiClient:
    """An API and the session with it. Thread-safe."""

    def __init__(self, http: HttpClient, url: str, session: Session, shutdown: Shutdown) -> None:
        """Send nothing yet."""
        self._http = http
        self._url = url
        self._session = session
        self._retrying = Retrying(
            # Both for `shutdown.now`: once it is set, `sleep_using_event` waits no more, and
            # without the stop all tries would follow at once.
            stop=stop_any(stop_after_attempt(TRIES), stop_when_event_set(shutdown.now)),
            wait=wait_random_exponential(multiplier=0.2, max=2),
            retry=retry_if_exception(_is_brief),
            sleep=sleep_using_event(shutdown.now),
            reraise=True,
        )

    def apply_credentials(self, credentials: Credentials) -> bool:
        """Log in with these from now on; return whether they differ."""
        return self._session.apply_credentials(credentials)

    def close_thread(self) -> None:
        """Close the connections of this thread, which delivers no more."""
        self._http.close_thread()

    def lockout(self, now: float) -> DeliveryError | None:
        """Return why emitterd does not log in now, where a login was refused before."""
        return self._session.lockout(now)

    def login(self) -> float | None:
        """Log in if necessary, in a single try; return the token's lifetime.

        In seconds; None for a configured token, which needs no login. Raises `DeliveryError`.
        """
        self._session.authorization()
        return self._session.lifetime_s

    def _ask(self, request: RequestKind, body: dict[str, str] | None, query: str = "") -> Response:
        """Ask the API; retry brief failures. Raises `DeliveryError`."""
        return self._retrying.copy()(self._ask_once, request, body, query=query)

    def _ask_once(
        self,
        request: RequestKind,
        body: dict[str, str] | None,
        limit_bytes: int = ANSWER_MAX_BYTES,
        *,
        query: str = "",
    ) -> Response:
        url = f"{self._url}/{request}{query}"

        def send(headers: dict[str, str]) -> Response:
            return send_json(self._http, request, url, body, headers, limit_bytes)

        return self._authorized(request, send)

    def _authorized(
        self,
        request: RequestKind,
        send: Callable[[dict[str, str]], Response],
        *,
        renew: bool = True,
    ) -> Response:
        """Send with the session's token, once more with another one if that has ended."""
        authorization = self._session.authorization()
        answer = send({"Authorization": authorization})
        error = self._error(request, answer)
        if error is None:
            return answer
        if error.decision is not Decision.RENEW_TOKEN:
            raise error
        self._session.expire(authorization)
        # A token may end early, as when the server restarts: log in again, once.
        if renew and self._session.renewable:
            return self._authorized(request, send, renew=False)
        raise DeliveryError(Decision.PAUSE, Code.TOKEN_REFUSED, error.reason, stage=request.stage)

    def _error(self, request: RequestKind, answer: Response) -> DeliveryError | None:
        """Return what an answer means, or None for a success."""
        return api_error(request, answer.status, answer.headers, answer.body)


def _is_brief(error: BaseException) -> bool:
    # A server that names a time in `Retry-After` does not want a retry in seconds.
    return isinstance(error, DeliveryError) and error.code in _BRIEF and error.retry_after_s is None
