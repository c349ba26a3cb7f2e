"""Telling systemd: READY, STATUS, STOPPING. Silent where nobody asked.

Source: sd_notify(3); a datagram to the socket named in $NOTIFY_SOCKET.
"""

import os
import socket


def notify(*lines: str) -> bool:
    """Send lines such as `READY=1`; return whether there was anybody to tell."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address.startswith(("/", "@")):
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    message = "\n".join(lines).encode("utf-8", "replace")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as out:
        try:
            out.sendto(message, address)
        except OSError:
            # A manager that went away is no reason to stop delivering.
            return False
    return True
