"""One attempt to deliver one file: with its pinned grant, or with a new one.

A new grant gives a second object key, so it is the last resort: used once the pinned one has ended,
and after emitterd has looked up whether an earlier attempt stored the object under the first key.
"""

import os
from collections.abc import Callable
from functools import partial
from io import FileIO
from typing import Protocol

import structlog

from emitterd.client.emission import EmissionClient, NotConfirmed
from emitterd.client.responses import interrupted
from emitterd.codes import Code
from emitterd.delivery.dispatch import Dispatcher
from emitterd.errors import Decision, DeliveryError, FileError, KeyTaken, Stage
from emitterd.failpoints import Point, reach
from emitterd.journal.journal import Journal
from emitterd.model import Confirmation, Entry, Fingerprint, Grant, Receipt
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import digests

GRANT_SPACING_S = 1.05
"""The server stamps an object key with the second of the request. Two grants for one path within a
second would be one key for two versions."""

LOOK_UP_MAX_S = 6 * 3600.0
"""While the look-up fails, the file waits until its grant is this old. That is longer than most
outages. After it, the file is sent again under a new key."""

_ENDS_LOOK_UP = frozenset({Decision.INTERRUPT, Decision.REJECT})

log = structlog.get_logger()


class UploadObserver(Protocol):
    """Sees every upload; each worker's thread reports its own attempt."""

    def began(self, entry: Entry) -> None:
        """Record that an attempt began."""

    def sent(self, size_bytes: int) -> None:
        """Record that bytes of the file, or of the form around it, were sent."""

    def ended(self) -> None:
        """Record that an attempt ended, with success or not."""


HoldsClaim = Callable[[Entry], bool]
"""Tells, without a wait, whether this host still holds the claim of an entry that it uploads."""


class Attempter:
    """Runs the attempts of one worker."""

    def __init__(
        self,
        journal: Journal,
        emission: EmissionClient,
        shutdown: Shutdown,
        dispatcher: Dispatcher,
        observer: UploadObserver,
        holds_claim: HoldsClaim | None = None,
    ) -> None:
        """`shutdown.now` ends waits and reading.

        `holds_claim`: no upload is finished unless it says yes; None where no other host can take
        a claim over.
        """
        self._journal = journal
        self._emission = emission
        self._shutdown = shutdown
        self._dispatcher = dispatcher
        self._observer = observer
        self._holds_claim = holds_claim

    def run(self, entry: Entry, file: FileIO) -> Receipt:
        """Upload an entry's open file, unless the server proves to have it.

        Raises `DeliveryError`, and `FileError` if the file changed meanwhile.
        """
        unconfirmed = partial(self._journal.unconfirmed, entry)
        with self._emission.exclusive(entry.path, unconfirmed):
            return self._run(entry, file)

    def _run(self, entry: Entry, file: FileIO) -> Receipt:
        pinned = entry.grant
        if pinned is None or not self._emission.usable(pinned, self._journal.now()):
            result = self._look_up(entry, file)
            if isinstance(result, Receipt):
                return result
            pinned = self._new_grant(entry, result, first=entry.first)
        try:
            return self._post(entry, pinned, file)
        except DeliveryError as error:
            if error.decision is not Decision.RENEW_GRANT:
                raise
        # The bucket says that the grant has ended, and its clock decides. A grant of this attempt
        # has had no earlier attempt that could have stored an object.
        result = self._look_up(entry, file) if pinned is entry.grant else None
        if isinstance(result, Receipt):
            return result
        try:
            return self._post(entry, self._new_grant(entry, result), file)
        except DeliveryError as error:
            if error.decision is not Decision.RENEW_GRANT:
                raise
            # The bucket says that a grant of this second has expired.
            raise DeliveryError(Decision.PAUSE, Code.CLOCK_SKEW, error.reason) from error

    def check_shutdown(self) -> None:
        """Raise `DeliveryError` where attempts must end at once."""
        if self._shutdown.now.is_set():
            raise interrupted(ambiguous=False)

    def _look_up(self, entry: Entry, file: FileIO) -> Receipt | NotConfirmed | None:
        """Return a receipt for the object under the key of the ended grant.

        Return None if no earlier attempt can have stored one.
        """
        # Only a body that was sent to its end can have left an object.
        if entry.grant is None or not entry.ambiguous:
            return None
        try:
            return self._confirm(entry, entry.grant, file)
        except NotConfirmed as doubt:
            return doubt
        except DeliveryError as error:
            waited_s = self._journal.now() - entry.grant.granted_at
            # Below 0 the clock was set back. The wait must end all the same.
            if error.decision in _ENDS_LOOK_UP or 0 <= waited_s < LOOK_UP_MAX_S:
                raise
            return NotConfirmed(Confirmation.UNKNOWN, error.reason)

    def _confirm(self, entry: Entry, grant: Grant, file: FileIO) -> Receipt:
        expected = entry.fingerprint

        def read_digests() -> tuple[bytes, bytes]:
            read = digests(file, self.check_shutdown)
            if not expected.same_times(Fingerprint.of(os.fstat(file.fileno()))):
                raise FileError("the file changed while it was read", code=Code.CHANGED)
            return read

        receipt = self._emission.look_up(grant, entry.path, expected.size_bytes, read_digests)
        reach(Point.CONFIRMED)
        return receipt

    def _post(self, entry: Entry, grant: Grant, file: FileIO) -> Receipt:
        may_finish = partial(self._holds_claim, entry) if self._holds_claim else None
        return self._emission.deliver(
            grant, file, entry.fingerprint, self._observer.sent, may_finish
        )

    def _pin(self, entry: Entry, grant: Grant, confirmation: Confirmation | None) -> Grant:
        """Pin a grant, or a later one if another host was given its key; return the pinned one."""
        while True:
            try:
                self._journal.pin(entry, grant, confirmation)
            except KeyTaken:
                self._shutdown.now.wait(GRANT_SPACING_S)
                self.check_shutdown()
                grant = self._emission.grant(entry.path)
            else:
                return grant

    def _new_grant(self, entry: Entry, doubt: NotConfirmed | None, *, first: bool = False) -> Grant:
        """Ask for a grant and pin it; `first`: there was none for this path before."""
        if not first:
            self._wait_for_another_second(entry)
        reach(Point.GRANT_DUE)
        grant = self._emission.grant(entry.path)
        if not first and self._journal.has_key(entry, grant.key):
            # This host's clock or the server's was set meanwhile.
            self._shutdown.now.wait(GRANT_SPACING_S)
            grant = self._emission.grant(entry.path)
        self._dispatcher.record_answer(Stage.GRANT)
        reach(Point.GRANTED)
        confirmation = doubt.confirmation if doubt is not None else None
        # On disk before the first byte: a retry after a crash must use the same key.
        grant = self._pin(entry, grant, confirmation)
        reach(Point.PINNED)
        if doubt is not None and entry.grant is not None:
            log.warning(
                "file.unconfirmed",
                path=entry.name,
                key=entry.grant.key,
                confirmation=doubt.confirmation,
                reason=doubt.reason,
            )
        if self._holds_claim is not None:
            unconfirmed = partial(self._journal.unconfirmed, entry)
            self._emission.check_alone(grant, entry.path, unconfirmed)
        return grant

    def _wait_for_another_second(self, entry: Entry) -> None:
        spacing_s = self._journal.granted_at(entry.path) + GRANT_SPACING_S - self._journal.now()
        # A longer wait shows that the clock was set back; `has_key` notices the same key.
        if 0 < spacing_s <= GRANT_SPACING_S:
            self._shutdown.now.wait(spacing_s)
