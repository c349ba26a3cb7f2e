"""What monitoring needs: Prometheus's own tools, and a port of its own."""

import random
import shutil
import socket
from pathlib import Path

import pytest


def promtool() -> str:
    """Return the path of promtool; the test is skipped where there is none."""
    return _tool("promtool")


def prometheus() -> str:
    """Return the path of prometheus; the test is skipped where there is none."""
    return _tool("prometheus")


def _tool(name: str) -> str:
    path = shutil.which(name)
    if path is None:
        pytest.skip(f"no {name} here: install Debian's package prometheus")
    return path


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
