"""Where metrics, health and page are served: `127.0.0.1:9464`, or `unix:/run/…`."""

import ipaddress
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Self

UNIX = "unix:"
UNIX_MAX_BYTES = 107
"""How long the path of a socket may be. Source: unix(7)."""

PORT_MAX = 65535
EXAMPLES = "write it like 127.0.0.1:9464, [::1]:9464 or unix:/run/emitterd/page.sock"


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A host and port, or the path of a socket."""

    host: str = ""
    port: int = 0
    path: Path | None = None

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what people write; raises `ValueError` with what is wrong."""
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
        """Whether nobody but this machine's users can reach it."""
        return self.path is not None or is_loopback(self.host)

    def resolve(self) -> tuple[socket.AddressFamily, object]:
        """Return family and address to bind. Raises `OSError`."""
        if self.path is not None:
            return socket.AF_UNIX, str(self.path)
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        return found[0][0], found[0][4]

    def __str__(self) -> str:
        if self.path is not None:
            return f"{UNIX}{self.path}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def is_loopback(host: str) -> bool:
    """Tell whether a host is this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"
