"""A second network on this machine, which can be cut off: a namespace and a pair of veth."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest

from support.tiers import missing

_COUNT = itertools.count()


class Network:
    """A network namespace at the other end of a cable. `address` is where its programs listen."""

    def __init__(self, name: str, near: IPv4Address, far: IPv4Address) -> None:
        self.name = name
        self.near = str(near)
        self.address = str(far)

    def pull(self) -> None:
        """Drop all packets into the network, as a router does that fails: nobody is told."""
        # Not a link that is down: this system would know, and keep packets back until it is up.
        self.ip("rule", "add", "pref", "1", "iif", "far", "blackhole")

    def plug(self) -> None:
        """Let packets pass again."""
        self.ip("rule", "del", "pref", "1")

    def ip(self, *words: str) -> None:
        """Change something of the network."""
        _ip("-n", self.name, *words)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start a program in the network."""
        arguments = ["ip", "netns", "exec", self.name, *words]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)  # noqa: S603  our own


@contextmanager
def other_network() -> Iterator[Network]:
    """Make a network for a test. Skips without root."""
    reason = missing("ip", "sysctl") or ("only root may make networks" if os.geteuid() else None)
    if reason:
        pytest.skip(reason)
    # One of the 2**14 networks of two addresses in a block for benchmarks (RFC 2544).
    count = next(_COUNT)
    near = IPv4Address("198.18.0.0") + 4 * ((8 * os.getpid() + count) % 2**14) + 1
    # Another name each time: the system removes the last one a moment after the test.
    cable = f"em{os.getpid()}-{count}"
    network = Network(f"{cable}-net", near, near + 1)
    try:
        _ip("netns", "add", network.name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine allows no network namespace: {error.stderr}")
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "far", "netns", network.name)
        _ip("addr", "add", f"{network.near}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        network.ip("addr", "add", f"{network.address}/30", "dev", "far")
        network.ip("link", "set", "far", "up")
        # Rules apply to packets of known connections too, and come before the local table.
        _ip("netns", "exec", network.name, "sysctl", "-qw", "net.ipv4.ip_early_demux=0")
        network.ip("rule", "add", "pref", "2", "lookup", "local")
        network.ip("rule", "del", "pref", "0")
        yield network
    finally:
        # The cable goes with it.
        _ip("netns", "del", network.name)


def _ip(*words: str) -> None:
    subprocess.run(  # noqa: S603  our own argument list
        ["ip", *words],  # noqa: S607  found by its name on each distribution
        check=True,
        capture_output=True,
        text=True,
    )
