"""Telling systemd: READY, RELOADING, STOPPING, STATUS, WATCHDOG. Silent if not asked.

Source: sd_notify(3) and sd_watchdog_enabled(3); a datagram to the socket named in
$NOTIFY_SOCKET.
"""

import os
import socket
import time
from collections.abc import Mapping

SEND_S = 1.0
"""How long a manager may be too busy to listen: deliveries do not depend on it."""


def notify(*lines: str) -> bool:
    """Send lines such as `READY=1`; return whether there was anybody to tell."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(lines).encode("utf-8", "replace")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        out.settimeout(SEND_S)
        try:
            out.sendto(message, address)
        except OSError:
            # A manager that went away is no reason to stop delivering.
            return False
    return True


def reloading() -> str:
    """Return the lines that begin a reload; READY ends it.

    The instant lets `Type=notify-reload` (systemd 253) tell this from an older reload.
    """
    return f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}"


def extend_timeout(seconds: float) -> str:
    """Return the line that asks for so much time, whatever the unit allows."""
    return f"EXTEND_TIMEOUT_USEC={int(seconds * 1e6)}"


def watchdog_s(environ: Mapping[str, str], pid: int) -> float | None:
    """Return how often the watchdog of this process wants a sign, in seconds, or None.

    $WATCHDOG_PID says whose it is; without it $WATCHDOG_USEC is whoever's reads it.
    """
    if environ.get("WATCHDOG_PID", str(pid)) != str(pid):
        return None
    text = environ.get("WATCHDOG_USEC", "")
    if not (text.isascii() and text.isdecimal() and int(text)):
        return None
    return int(text) / 1e6
