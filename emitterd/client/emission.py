"""What a client of an emission API does, with each protocol.

Code above `client` uses this interface only. The two protocols are `presigned` and `ingestion`.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from typing import IO, TYPE_CHECKING, Protocol

from emitterd.client.body import MayFinish, OnSent
from emitterd.client.session import Credentials
from emitterd.errors import DeliveryError, Stage
from emitterd.model import Confirmation, Fingerprint, Grant, Receipt
from emitterd.text import masked, printable

if TYPE_CHECKING:
    from emitterd.client.server_reader import ServerReader

Digests = Callable[[], tuple[bytes, bytes]]
"""Reads the whole file and returns its MD5 and SHA-256."""


class NotConfirmed(Exception):
    """The server does not confirm the delivery; `confirmation` and `reason` say why."""

    def __init__(self, confirmation: Confirmation, reason: str) -> None:
        super().__init__(reason)
        self.confirmation = confirmation
        self.reason = printable(masked(reason))


class EmissionClient(Protocol):
    """An emission API. Thread-safe. One call is one attempt, within its time limits."""

    @property
    def steps(self) -> Mapping[Stage, str]:
        """What people call each stage of this protocol."""

    @property
    def reader(self) -> "ServerReader | None":
        """What reads later what became of files; None if a receipt says so already."""

    def apply_credentials(self, credentials: Credentials) -> bool:
        """Log in with these from now on; return whether they differ."""

    def close_thread(self) -> None:
        """Close the connections of this thread, which delivers no more."""

    def lockout(self, now: float) -> DeliveryError | None:
        """Return why emitterd does not log in now, where a login was refused before."""

    def login(self) -> float | None:
        """Log in if necessary, in a single try; return the token's lifetime.

        In seconds; None for a configured token, which needs no login. Raises `DeliveryError`.
        """

    def usable(self, grant: Grant, now: float) -> bool:
        """Return whether an attempt may use a pinned grant without a look-up before."""

    def exclusive(
        self, path: bytes, unconfirmed: Callable[[], Collection[bytes]]
    ) -> AbstractContextManager[None]:
        """Keep other attempts away that the server would mix up with one for this path.

        `unconfirmed` returns the other paths whose uploads may still be under way at the server.
        Entering raises `DeliveryError` if there is such an attempt.
        """

    def check_alone(
        self, grant: Grant, path: bytes, unconfirmed: Callable[[], Collection[bytes]]
    ) -> None:
        """Check, once `grant` is pinned, that no other host makes such an upload.

        Where several hosts share the journal, `exclusive` cannot know of an upload that begins
        after it has asked. A host that asks from now on sees the pinned grant. Raises
        `DeliveryError` if there is such an upload, or was one since the grant was given.
        """

    def grant(self, path: bytes) -> Grant:
        """Ask for what an upload of this path needs. Raises `DeliveryError`."""

    def deliver(
        self,
        grant: Grant,
        file: IO[bytes],
        fingerprint: Fingerprint,
        on_sent: OnSent | None = None,
        may_finish: MayFinish | None = None,
    ) -> Receipt:
        """Upload the file and return the receipt.

        `on_sent` is called with the size in bytes of each part that a socket took: of the file, and
        of the form around it. `may_finish` is asked directly before the last bytes of the body; if
        it says no, the attempt ends as INTERRUPT and the server stores nothing. Raises
        `DeliveryError`, and `FileError` if the file changed meanwhile.
        """

    def look_up(self, grant: Grant, path: bytes, size_bytes: int, digests: Digests) -> Receipt:
        """Return the receipt of an earlier attempt with this grant, whose answer was lost.

        Raises `NotConfirmed` if the server does not confirm it, `DeliveryError` if a later look-up
        may confirm it, and what `digests` raises.
        """
