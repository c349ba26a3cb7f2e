"""One attempt at one file: by the pinned grant, and by another one if that is spent.

The second key that another grant gives is the last resort. What an earlier attempt
may have stored under the first is looked for before.
"""

import os
import time
from collections.abc import Callable
from functools import partial
from io import FileIO

import structlog

from emitterd.client.api import EmissionClient
from emitterd.client.grant import remote_name
from emitterd.client.lookup import NotConfirmed
from emitterd.client.responses import interrupted
from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, FileError
from emitterd.failpoints import Point, reach
from emitterd.journal.journal import Journal
from emitterd.model import Confirmation, Entry, Fingerprint, Grant, Receipt
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import digests

GRANT_SPACING_S = 1.05
"""The server stamps an object key with the second of the request: two grants for one
path within a second would be one key for two versions."""

PATIENCE_S = 6 * 3600.0
"""Trouble that keeps the bucket from being asked is waited out until a grant is this
old: longer than most outages, and it must not keep the file from being sent for ever.
"""

log = structlog.get_logger()


class Attempter:
    """Makes attempts. Thread-safe."""

    def __init__(
        self,
        journal: Journal,
        emission: EmissionClient,
        shutdown: Shutdown,
        *,
        on_granted: Callable[[], None],
        on_sent: Callable[[Entry, int], None],
    ) -> None:
        """`shutdown.now` ends waits and reading.

        `on_granted` is called when the API has given a grant, `on_sent` with the bytes
        that went out.
        """
        self._journal = journal
        self._emission = emission
        self._shutdown = shutdown
        self._on_granted = on_granted
        self._on_sent = on_sent

    def make(self, entry: Entry, file: FileIO) -> Receipt:
        """Bring an entry's open file into the bucket.

        Raises `DeliveryError`, and `FileError` where the file changed meanwhile.
        """
        pinned = entry.grant
        if pinned is None or not self._emission.usable(pinned, time.time()):
            found = self._look_up(entry, file)
            if isinstance(found, Receipt):
                return found
            pinned = self._new_grant(entry, found, first=entry.first)
        try:
            return self._post(entry, pinned, file)
        except DeliveryError as trouble:
            if trouble.decision is not Decision.RENEW_GRANT:
                raise
        found = self._look_up(entry, file) if pinned is entry.grant else None
        if isinstance(found, Receipt):
            return found
        return self._post_renewed(entry, found, file)

    def check_abort(self) -> None:
        """Raise `DeliveryError` where the daemon waits for no attempt any more."""
        if self._shutdown.now.is_set():
            raise interrupted(ambiguous=False)

    def _look_up(self, entry: Entry, file: FileIO) -> Receipt | NotConfirmed | None:
        """Return a receipt for what lies under the key of the spent grant.

        None where nothing can lie there.
        """
        if entry.grant is None or not entry.ambiguous:
            return None
        try:
            return self._confirm(entry, entry.grant, file)
        except NotConfirmed as doubt:
            return doubt
        except DeliveryError as trouble:
            waited_s = time.time() - entry.grant.granted_at
            if trouble.decision is Decision.INTERRUPT or 0 <= waited_s < PATIENCE_S:
                raise
            return NotConfirmed(Confirmation.UNKNOWN, trouble.reason)

    def _confirm(self, entry: Entry, grant: Grant, file: FileIO) -> Receipt:
        shown = self._emission.look_up(grant)
        expected = entry.fingerprint
        shown.check_size(expected.size_bytes)
        md5, sha256 = digests(file, self.check_abort)
        stat = os.fstat(file.fileno())
        if not expected.same_bytes(Fingerprint.of(stat), stat.st_nlink):
            raise FileError("the file changed while it was read", code=Code.CHANGED)
        shared_key = grant.key == remote_name(entry.path)
        verified = shown.verify(md5, shared_key=shared_key)
        reach(Point.CONFIRMED)
        return Receipt(
            key=grant.key,
            etag=shown.etag,
            size_bytes=expected.size_bytes,
            md5=md5,
            sha256=sha256,
            verified=verified,
            confirmed=True,
        )

    def _post_renewed(
        self, entry: Entry, doubt: NotConfirmed | None, file: FileIO
    ) -> Receipt:
        try:
            return self._post(entry, self._new_grant(entry, doubt), file)
        except DeliveryError as trouble:
            if trouble.decision is not Decision.RENEW_GRANT:
                raise
            raise DeliveryError(
                Decision.PAUSE, Code.CLOCK_SKEW, trouble.reason
            ) from trouble

    def _post(self, entry: Entry, grant: Grant, file: FileIO) -> Receipt:
        return self._emission.deliver(
            grant, file, entry.fingerprint, partial(self._on_sent, entry)
        )

    def _new_grant(
        self, entry: Entry, doubt: NotConfirmed | None, *, first: bool = False
    ) -> Grant:
        """Ask for a grant and pin it; `first`: there was none for this path before."""
        if not first:
            self._keep_apart(entry)
        reach(Point.GRANT_DUE)
        grant = self._emission.grant(entry.path)
        if not first and self._journal.has_key(entry, grant.key):
            # A clock was set meanwhile, this host's or the server's.
            self._shutdown.now.wait(GRANT_SPACING_S)
            grant = self._emission.grant(entry.path)
        self._on_granted()
        reach(Point.GRANTED)
        confirmation = doubt.confirmation if doubt is not None else None
        self._journal.pin(entry, grant, confirmation)
        reach(Point.PINNED)
        if doubt is not None and entry.grant is not None:
            log.warning(
                "file.unconfirmed",
                path=entry.name,
                key=entry.grant.key,
                confirmation=doubt.confirmation,
                reason=doubt.reason,
            )
        return grant

    def _keep_apart(self, entry: Entry) -> None:
        spacing_s = self._journal.granted_at(entry.path) + GRANT_SPACING_S - time.time()
        if 0 < spacing_s <= GRANT_SPACING_S:
            self._shutdown.now.wait(spacing_s)
