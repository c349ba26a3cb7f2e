"""Hears at once that another host has admitted files. Polling is the fallback."""

import os
import select
import threading
from collections.abc import Callable
from contextlib import suppress

import psycopg

from emitterd.errors import JournalError
from emitterd.journal.postgresql.connection import AGAIN_S, Connection, Connector, close

CHANNEL = "emitterd"

POLL_S = 5.0
"""A notification may be lost: with a connection, or where pgbouncer pools transactions."""

CLOSE_WAIT_S = 5.0
"""How long the end waits for the thread: it may be connecting."""


class Listener:
    """A thread that listens on a connection of its own."""

    def __init__(self, connector: Connector, call: Callable[[], None]) -> None:
        """`call` after a notification, and each `POLL_S` seconds. It must not raise."""
        self._connector = connector
        self._call = call
        self._closing = threading.Event()
        self._wake_up = os.eventfd(0)
        self._thread = threading.Thread(target=self._run, name="listener", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closing.set()
        os.eventfd_write(self._wake_up, 1)
        self._thread.join()
        os.close(self._wake_up)

    def _run(self) -> None:
        while not self._closing.is_set():
            with suppress(JournalError, psycopg.Error, OSError):
                connection = self._connector.connect(read_only=True)
                try:
                    self._listen(connection)
                finally:
                    close(connection)
            self._call()
            self._closing.wait(AGAIN_S)

    def _listen(self, connection: Connection) -> None:
        connection.execute(f"listen {CHANNEL}")
        # Not select(2), which takes no descriptor above 1,023.
        poll = select.poll()
        poll.register(connection.fileno(), select.POLLIN)
        poll.register(self._wake_up, select.POLLIN)
        while not self._closing.is_set():
            # Not psycopg's own wait: nothing could end it, and in psycopg 3.1 it never ends.
            poll.poll(POLL_S * 1000)
            connection.pgconn.consume_input()
            while connection.pgconn.notifies() is not None:
                pass
            self._call()
