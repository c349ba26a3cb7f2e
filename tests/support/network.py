"""A second network on this machine, whose cable can be pulled: a namespace and a pair of veth."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

import pytest

from support.tiers import missing


class Network:
    """A network namespace at the other end of a cable. `address` is where its programs listen."""

    def __init__(self, name: str, near: IPv4Address, far: IPv4Address) -> None:
        self.name = name
        self.near = str(near)
        self.address = str(far)

    def pull(self) -> None:
        """Pull the cable: nothing passes, and nobody is told."""
        self.command("ip", "link", "set", "far", "down")

    def plug(self) -> None:
        """Put the cable back."""
        self.command("ip", "link", "set", "far", "up")

    def command(self, *words: str) -> None:
        """Run a command in the network, and wait for its end."""
        _ip("netns", "exec", self.name, *words)

    def start(self, *words: str) -> "subprocess.Popen[str]":
        """Start a program in the network."""
        arguments = ["ip", "netns", "exec", self.name, *words]
        return subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True)  # noqa: S603  our own


@contextmanager
def other_network() -> Iterator[Network]:
    """Make a network for a test. Skips without root."""
    reason = missing("ip") or ("only root may make networks" if os.geteuid() else None)
    if reason:
        pytest.skip(reason)
    # One of the 2**14 networks of two addresses in a block for benchmarks (RFC 2544).
    number = os.getpid() % 2**14
    near = IPv4Address("198.18.0.0") + 4 * number + 1
    network = Network(f"emitterd-{number}", near, near + 1)
    cable = f"emitterd{number}"
    try:
        _ip("netns", "add", network.name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine allows no network namespace: {error.stderr}")
    try:
        _ip("link", "add", cable, "type", "veth", "peer", "far", "netns", network.name)
        _ip("addr", "add", f"{network.near}/30", "dev", cable)
        _ip("link", "set", cable, "up")
        network.command("ip", "addr", "add", f"{network.address}/30", "dev", "far")
        network.command("ip", "link", "set", "lo", "up")
        network.plug()
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
