"""A proxy before PostgreSQL that loses a commit, or its answer."""

import select
import socket
import threading
from contextlib import suppress
from enum import StrEnum
from typing import Self

DEADLINE_S = 30.0


class Cut(StrEnum):
    """What happens to the connection of the next commit."""

    BEFORE = "before"
    """The server does not receive it."""
    AFTER = "after"
    """The server commits, and its answer is lost."""


class CuttingProxy:
    """Forwards connections from a port of 127.0.0.1 to a Unix socket."""

    def __init__(self, socket_path: str) -> None:
        self._socket_path = socket_path
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._cut: Cut | None = None
        self._closes = False
        self.is_open = True
        """Whether connections are accepted."""
        self._clients: set[socket.socket] = set()
        self._threads = [threading.Thread(target=self._accept)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        # It wakes up `accept`.
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.close_all()
        for thread in self._threads:
            thread.join(DEADLINE_S)

    def lose(self, cut: Cut, *, closes: bool = False) -> None:
        """Lose the next commit. `closes`: end all connections with it, and accept no more."""
        self._cut, self._closes = cut, closes

    def has_lost(self) -> bool:
        """Tell whether the commit has come."""
        return self._cut is None

    def close_all(self) -> None:
        """Accept no connection, and end those that there are."""
        self.is_open = False
        for client in [*self._clients]:
            with suppress(OSError):
                client.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                if not self.is_open:
                    client.close()
                    continue
                self._clients.add(client)
                thread = threading.Thread(target=self._serve, args=(client,))
                self._threads.append(thread)
                thread.start()

    def _serve(self, client: socket.socket) -> None:
        with client, socket.socket(socket.AF_UNIX) as server, suppress(OSError):
            server.connect(self._socket_path)
            while self._forward(client, server):
                pass
        self._clients.discard(client)

    def _forward(self, client: socket.socket, server: socket.socket) -> bool:
        """Forward what comes; False at the end of one of them, and at the commit."""
        readable, _, _ = select.select([client, server], [], [])
        for source in readable:
            data = source.recv(65536)
            is_commit = self._cut is not None and data.lower().find(b"commit\0") >= 0
            if is_commit and self._cut is (Cut.BEFORE if source is client else Cut.AFTER):
                self._cut = None
                if self._closes:
                    self.close_all()
                return False
            if not data:
                return False
            (server if source is client else client).sendall(data)
        return True
