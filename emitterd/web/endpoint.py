"""Where page, metrics and health are served: `127.0.0.1:9464`, or `unix:/run/…`."""

import ipaddress
import os
import socket
import stat
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Self

UNIX = "unix:"
UNIX_MAX_BYTES = 107
"""The longest path of a socket. Source: unix(7)."""

PORT_MAX = 65535
BACKLOG = 64
SOCKET_MODE = 0o660
CONNECT_S = 1.0
EXAMPLES = "write it like 127.0.0.1:9464, [::1]:9464 or unix:/run/emitterd/page.sock"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and port, or the path of a socket."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse a value of the configuration; raises `ValueError` with the problem."""
        if text.startswith(UNIX):
            path = Path(text.removeprefix(UNIX))
            if not path.is_absolute():
                raise ValueError("must give the whole path of the socket")
            if len(os.fsencode(path)) > UNIX_MAX_BYTES:
                raise ValueError(f"is longer than {UNIX_MAX_BYTES} bytes")
            return cls(path=path)
        host, _, port = text.rpartition(":")
        if host.startswith("[") and host.endswith("]"):
            host = host[1:-1]
        elif not host or ":" in host:
            raise ValueError("is no host and port")
        if not (port.isascii() and port.isdigit() and 1 <= int(port) <= PORT_MAX):
            raise ValueError("has no port from 1 to 65535")
        return cls(host, int(port))

    @property
    def local(self) -> bool:
        """Whether only users of this machine can reach it."""
        return self.path is not None or is_loopback(self.host)

    def listen(self) -> socket.socket:
        """Return a listening socket. Raises `OSError` if the address is taken."""
        if self.path is not None:
            return _listen_at(self.path)
        info = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        family, _, _, _, address = info[0]
        listener = socket.create_server(address, family=family, backlog=BACKLOG)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return listener

    def close(self, listener: socket.socket) -> None:
        """Close what `listen` returned."""
        listener.close()
        if self.path is not None:
            self.path.unlink(missing_ok=True)

    def probe(self) -> None:
        """Listen for a moment. Raises `OSError` if the address is taken."""
        self.close(self.listen())

    def __str__(self) -> str:
        if self.path is not None:
            return f"{UNIX}{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Return whether a host name or address leads to this machine only."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _listen_at(path: Path) -> socket.socket:
    _remove_stale(path)
    listener = socket.socket(socket.AF_UNIX)
    try:
        listener.bind(str(path))
        path.chmod(SOCKET_MODE)
        listener.listen(BACKLOG)
    except OSError:
        listener.close()
        raise
    return listener


def _remove_stale(path: Path) -> None:
    """Remove the socket of a dead process; keep that of a living one."""
    with suppress(FileNotFoundError):
        if not stat.S_ISSOCK(os.lstat(path).st_mode):
            return
        with socket.socket(socket.AF_UNIX) as client:
            client.settimeout(CONNECT_S)
            try:
                client.connect(str(path))
            except ConnectionRefusedError:
                path.unlink()
