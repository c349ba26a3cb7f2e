"""Hears at once that another host has admitted files. Polling is the fallback."""

import threading
from collections.abc import Callable
from contextlib import suppress

import psycopg

from emitterd.errors import JournalError
from emitterd.journal.postgresql.connection import AGAIN_S, Connection, Connector, close

CHANNEL = "emitterd"

POLL_S = 5.0
"""A notification may be lost: with a connection, or where pgbouncer pools transactions."""


class Listener:
    """A thread that listens on a connection of its own."""

    def __init__(self, connector: Connector) -> None:
        self._connector = connector
        self.on_notified: Callable[[], None] = lambda: None
        """Called after a notification, and each `POLL_S` seconds. Must not raise."""
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        self._thread.join(POLL_S)

    def _run(self) -> None:
        while not self._closing.is_set():
            with suppress(JournalError, psycopg.Error, OSError):
                connection = self._connector.connect(read_only=True)
                try:
                    self._listen(connection)
                finally:
                    close(connection)
            self.on_notified()
            self._closing.wait(AGAIN_S)

    def _listen(self, connection: Connection) -> None:
        connection.execute(f"listen {CHANNEL}")
        waited_s = 0.0
        while not self._closing.is_set():
            # Short: the end of the process waits for it.
            heard = list(connection.notifies(timeout=AGAIN_S / 4, stop_after=1))
            waited_s += AGAIN_S / 4
            if heard or waited_s >= POLL_S:
                waited_s = 0.0
                self.on_notified()
