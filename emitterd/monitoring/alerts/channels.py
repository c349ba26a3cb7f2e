"""How each channel sends a message: Apprise in a child process, a command, a heartbeat request.

A channel is a service outside of this host: it may hang, or answer anything. Each try has a
deadline and a process group of its own. Urls are secrets: a child reads them from standard input,
never from its arguments or its environment, and what it prints is masked.
"""

import json
import os
import re
import select
import signal
import ssl
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import unquote

from emitterd.client.http import HttpClient, tls_context
from emitterd.client.responses import Stopped, TransportError
from emitterd.client.sockets import TransferLimits
from emitterd.interpreter import module_command
from emitterd.monitoring.alerts.message import Message
from emitterd.text import masked, printable

SEND_S = 60.0
"""How long one message may take. Apprise itself ends a silent connection after some 15 s."""

HEARTBEAT_LIMITS = TransferLimits(connect_s=10.0, stall_s=10.0, minimum_bytes_s=0)

POLL_S = 0.25
"""How often a try checks whether the daemon is stopping."""

OUTPUT_MAX_BYTES = 2000
"""How much of a child's output is kept."""

PIECE_MIN = 4
"""Shorter pieces of a url are too common to be masked."""

SENDER = module_command("emitterd.monitoring.alerts.sender")

PASSED_ON = re.compile(
    r"(?i)PATH|HOME|USER|LOGNAME|LANG|LC_\w+|TZ|TMPDIR|SSL_CERT_(?:FILE|DIR)|REQUESTS_CA_BUNDLE"
    r"|(?:https?|all|no)_proxy"
)
"""The variables that children get. Others may hold a secret, such as the password."""

Stopping = Callable[[], bool]
"""Returns whether the daemon stops, which ends a try at once."""


class Channel(Protocol):
    """One way to notify people. `key` names it in the journal, `name` for people."""

    @property
    def key(self) -> str: ...  # noqa: D102
    @property
    def name(self) -> str: ...  # noqa: D102

    def send(self, message: Message, stopping: Stopping) -> str:
        """Send it; return why that failed, or nothing."""


@dataclass(frozen=True, slots=True)
class AppriseChannel:
    """A service that Apprise knows. `proxy`: an http:// proxy for it, which may hold a password."""

    key: str
    name: str
    url: str = field(repr=False)
    proxy: str | None = field(default=None, repr=False)

    def send(self, message: Message, stopping: Stopping) -> str:
        """Send it in a child process; return why that failed, or nothing."""
        order = {
            "url": self.url,
            "title": message.title,
            "body": message.body,
            "level": message.level,
            "test": message.is_test,
            "proxy": self.proxy,
            "limit_s": SEND_S,
        }
        reason = run_child(SENDER, order, stopping).removeprefix("exit code 1: ")
        return masked(reason, *_pieces(self.url), *_pieces(self.proxy or ""))


@dataclass(frozen=True, slots=True)
class CommandChannel:
    """A program of the administrator, which gets the alert as JSON."""

    command: tuple[str, ...]
    key: str = "command"
    name: str = "command"

    def send(self, message: Message, stopping: Stopping) -> str:
        """Run it; return why that failed, or nothing if it exits with 0."""
        return run_child(self.command, message.record(), stopping)


@dataclass(frozen=True, slots=True)
class HeartbeatChannel:
    """A url that is requested while no alarm is critical.

    `open_client` returns an HTTP client for one request, and raises `OSError` if the certificates
    cannot be used.
    """

    url: str = field(repr=False)
    open_client: Callable[[], HttpClient] = field(repr=False)
    key: str = "heartbeat"
    name: str = "heartbeat"

    def send(self, stopping: Stopping) -> str:  # noqa: ARG002  `shutdown.now` ends a request
        """Request the url; return why that failed, or nothing."""
        try:
            with closing(self.open_client()) as client:
                status = client.request("GET", self.url, {}, limit_bytes=0).status
        except Stopped:
            return "emitterd is stopping"
        except (TransportError, OSError) as error:
            return masked(printable(f"{error}"), *_pieces(self.url))
        return "" if 200 <= status < 300 else f"it answered with status {status}"  # noqa: PLR2004


def trusted_authorities(ca_file: str | None) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, and those of `emission.ca_file`.

    A heartbeat goes to a public service, or to a host of the same network as the server. Raises
    `OSError` if the file cannot be used.
    """
    context = tls_context(None, None, None)
    if ca_file is not None:
        context.load_verify_locations(ca_file)
    return context


def run_child(command: Sequence[str], order: object, stopping: Stopping) -> str:
    """Run a program with JSON on its standard input.

    Return nothing if it exits with 0, or else why not: what it printed, or its exit code. It is
    killed with its process group after `SEND_S`, and at once if the daemon stops.
    """
    try:
        code, output = _run(command, order, stopping)
    except OSError as error:
        return f"it cannot be run: {error.strerror}"
    if code == 0:
        return ""
    # The last lines of a program say why it failed.
    text = " ".join(output[-OUTPUT_MAX_BYTES:].decode("utf-8", "replace").split())
    ended = f"exit code {code}" if code is not None else f"no result within {SEND_S:.0f} s"
    return masked(printable(f"{ended}: {text}" if text else ended))


def judge(urls: Sequence[str]) -> list[str]:
    """Ask Apprise about these urls, in a child process; return what is wrong with each, if it is.

    Raises `OSError` if there is no answer.
    """
    code, output = _run(SENDER, {"judge": list(urls), "limit_s": SEND_S}, lambda: False)
    try:
        answers: Any = json.loads(output.splitlines()[-1])
    except (IndexError, ValueError):
        answers = None
    if code != 0 or not isinstance(answers, list) or len(answers) != len(urls):
        last = output.decode("utf-8", "replace").split("\n")[-2:]
        secrets = (piece for url in urls for piece in _pieces(url))
        raise OSError(masked(printable(" ".join(last)), *secrets) or f"exit code {code}")
    return [str(answer) for answer in answers]


def _run(command: Sequence[str], order: object, stopping: Stopping) -> tuple[int | None, bytes]:
    """Return exit code and output; the code is None if the child was killed.

    Raises `OSError` if it cannot be started.
    """
    # A file in memory: the child may not read it, and a pipe would make this wait.
    with os.fdopen(os.memfd_create("alert"), "w+b") as stdin:
        stdin.write(json.dumps(order).encode())
        stdin.seek(0)
        child = subprocess.Popen(  # noqa: S603  the administrator's command, or our own
            command,
            stdin=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            cwd="/",
            start_new_session=True,
        )
    assert child.stdout is not None  # noqa: S101  it is a pipe
    with child.stdout:
        output = _read_to_end(child, child.stdout.fileno(), stopping)
        killed = child.poll() is None
        if killed:
            # Not reaped yet, so the number is still that of its group.
            with suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
        code = child.wait()
    return None if killed else code, output


def _read_to_end(child: "subprocess.Popen[bytes]", pipe: int, stopping: Stopping) -> bytes:
    """Read the output until the child ends, is too late, or the daemon stops."""
    deadline, output, is_open = time.monotonic() + SEND_S, b"", True
    while time.monotonic() < deadline and not stopping():
        # What it started in the background may keep the pipe open, and write to it.
        ended = child.poll() is not None
        if ended:
            deadline = min(deadline, time.monotonic() + POLL_S)
        ready = is_open and select.select([pipe], [], [], 0.0 if ended else POLL_S)[0]
        if ready:
            chunk = os.read(pipe, 65536)
            is_open = bool(chunk)
            output = (output + chunk)[-2 * OUTPUT_MAX_BYTES :]
        elif ended:
            break
        elif not is_open:
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S)
    return output


def _environment() -> dict[str, str]:
    environment = {name: text for name, text in os.environ.items() if PASSED_ON.fullmatch(name)}
    bundle = ssl.get_default_verify_paths().cafile
    if bundle is not None:
        # Apprise would trust a list of its own, without the authorities of this organisation.
        environment.setdefault("REQUESTS_CA_BUNDLE", bundle)
    return environment


def _pieces(url: str) -> list[str]:
    """Return the parts of a url that a service may quote: each may be a token."""
    pieces = [part for part in re.split(r"[/:@?&=,#]+", url) if part]
    pieces += [unquote(part) for part in pieces]
    return [part for part in (url, *pieces) if len(part) >= PIECE_MIN]
