"""One connection step by step: the address, and the reason of a failure."""

import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import Python
from emitterd.cli.check_online import Address, Unreachable, connect, secure
from emitterd.codes import Code
from support.client import LOOPBACK, PLAIN_TLS, Listener, silent_port

LIMIT_S = 10.0
LOOKING_UP = """
from emitterd.cli.check_online import Unreachable, resolve
try:
    resolve("cqube.example.org", 443, 0.5)
except Unreachable as error:
    print(error.code, error, error.remedy)
"""


@pytest.fixture
def listening() -> Iterator[Address]:
    """Yield an address that takes connections."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        yield Address(socket.AF_INET, listener.getsockname())


def closed() -> Address:
    """Return an address where nobody listens."""
    with socket.create_server((LOOPBACK, 0)) as listener:
        return Address(socket.AF_INET, listener.getsockname())


def test_an_address_that_refuses_is_passed_over(listening: Address) -> None:
    """The next address is tried."""
    with connect([closed(), listening], LIMIT_S) as line:
        assert line.getpeername() == listening.sockaddr


def test_an_address_that_is_silent_leaves_time_for_others(listening: Address) -> None:
    """The limit is shared, so that one dead address does not hide a good one."""
    with silent_port() as port:
        silent = Address(socket.AF_INET, (LOOPBACK, port))
        began = time.monotonic()
        with connect([silent, listening], 6.0) as line:
            assert line.getpeername() == listening.sockaddr

        assert time.monotonic() - began < 6.0


def test_an_address_of_a_family_that_this_machine_has_not(listening: Address) -> None:
    """A family that was switched off, as IPv6 often is, refuses."""
    foreign = Address(9999, ("::1", listening.sockaddr[1]))
    with connect([foreign, listening], LIMIT_S) as line:
        assert line.getpeername() == listening.sockaddr


def test_every_address_that_failed_is_told() -> None:
    """The message names the first addresses with their reasons."""
    port = closed().sockaddr[1]
    addresses = [
        Address(socket.AF_INET, (f"127.0.0.{last}", port)) for last in range(1, 6)
    ]
    with pytest.raises(Unreachable) as failed:
        connect(addresses, LIMIT_S)

    assert failed.value.code is Code.REFUSED
    assert str(failed.value) == (
        f"no connection to port {port} of 127.0.0.1 (Connection refused),"
        " 127.0.0.2 (Connection refused), 127.0.0.3 (Connection refused) and 2 more"
    )


def test_one_that_was_silent_is_a_timeout() -> None:
    """A firewall that drops is worth more than a refusal beside it."""
    with silent_port() as port, pytest.raises(Unreachable) as failed:
        connect([Address(socket.AF_INET, (LOOPBACK, port)), closed()], 0.4)

    assert failed.value.code is Code.CONNECT_TIMEOUT


@pytest.mark.system
def test_a_machine_without_a_line_finds_no_name(python: Python, tmp_path: Path) -> None:
    """Where no DNS server can be asked, the name is not the one to blame."""
    said = python(LOOKING_UP, before='unshare --net --map-root-user "$@"', cwd=tmp_path)

    assert said.startswith("E301 cqube.example.org has no address: Temporary failure")
    assert "/etc/resolv.conf" in said


@pytest.mark.system
def test_a_dns_server_that_is_silent_is_given_up(
    python: Python, tmp_path: Path
) -> None:
    """The resolver's own patience is not waited out, nor does it hold the exit up."""
    resolvers = tmp_path / "resolv.conf"
    resolvers.write_text(f"nameserver {LOOPBACK}\noptions timeout:30\n")
    said = python(
        f"import socket\nserver = socket.socket(type=socket.SOCK_DGRAM)\n"
        f"server.bind(({LOOPBACK!r}, 53))\n{LOOKING_UP}",
        before=f"unshare --net --mount --map-root-user sh -ec 'ip link set lo up;"
        f' mount --bind {resolvers} /etc/resolv.conf; exec "$@"\' sh "$@"',
        cwd=tmp_path,
    )

    assert said.startswith("E301 cqube.example.org: the DNS does not answer within 0.")
    assert "/etc/resolv.conf" in said


OLD_HELLO = bytes(32) + b"\0" + b"\0\x2f" + b"\0"
"""The rest of a ServerHello: random, no session, a cipher, no compression."""


@pytest.mark.parametrize(
    ("answer", "reason", "remedy"),
    [
        (
            b"\x15\x03\x01\0\x02\x02\x28",
            "sslv3 alert handshake failure",
            "emission.client_cert",
        ),
        (b"\x15\x03\x01\0\x02\x02\x46", "tlsv1 alert protocol version", "TLS 1.2"),
        (
            b"\x16\x03\x01\0\x2a\x02\0\0\x26\x03\x01" + OLD_HELLO,
            "unsupported protocol",
            "TLS 1.2",
        ),
        (
            b"\x16\x03\x03\0\x2a\x02\0\0\x26\x03\x03"
            + OLD_HELLO.replace(b"\0\x2f", b"\xc0\x2f"),
            "unsafe legacy renegotiation disabled",
            "TLS library",
        ),
        (
            b"\x15\x03\x03\0\x02\x02\x30",
            "tlsv1 alert unknown ca",
            "emission.client_cert",
        ),
        (
            b"\x15\x03\x03\0\x02\x02\x2a",
            "sslv3 alert bad certificate",
            "emission.client_cert",
        ),
        (b"\x15\x03\x03\0\x02\x02\x50", "tlsv1 alert internal error", ""),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "wrong version number", "does not speak TLS"),
        (b"", "is cut in the handshake", "firewall"),
    ],
    ids=[
        *("handshake failure", "protocol version", "TLS 1.0", "TLS 1.2 of 2008"),
        *("unknown CA", "bad certificate", "internal error", "SSH", "cut"),
    ],
)
def test_why_a_handshake_fails(answer: bytes, reason: str, remedy: str) -> None:
    """The message has OpenSSL's reason, and the remedy says what to do."""

    def serve(server: Listener, connection: socket.socket) -> None:
        del server
        connection.recv(65536)
        connection.sendall(answer)

    with Listener(serve) as server:
        line = connect([Address(socket.AF_INET, (LOOPBACK, server.port))], LIMIT_S)
        with pytest.raises(Unreachable) as failed:
            secure(line, "cqube.example.org", PLAIN_TLS)

    assert failed.value.code is Code.TLS
    assert "cqube.example.org" in str(failed.value)
    assert str(failed.value).endswith(reason)
    assert remedy in failed.value.remedy
    assert failed.value.remedy
