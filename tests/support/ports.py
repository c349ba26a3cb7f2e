"""Ports of this machine: a free one, and whether something listens at one."""

import random
import socket
from pathlib import Path

EPHEMERAL = Path("/proc/sys/net/ipv4/ip_local_port_range")
LOWEST_PORT = 10_000

_dice = random.SystemRandom()
"""Not the global generator: pytest-randomly gives that the same seed in each test."""


def free_port() -> int:
    """Return a port of 127.0.0.1 that nobody listens at.

    The kernel gives the ports of the ephemeral range to other programs at any time,
    also between this call and the use of the port. So the port is below that range.
    """
    end = int(EPHEMERAL.read_text("ascii").split()[0])
    while True:
        port = _dice.randrange(min(LOWEST_PORT, end // 2), end)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port


def listens(port: int) -> bool:
    """Return whether a port of 127.0.0.1 can be connected to."""
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0
