"""What monitoring needs: Prometheus's own tools, and a port of its own."""

import shutil
import socket

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


def free_port() -> int:
    """Return a port that nobody listens at."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
