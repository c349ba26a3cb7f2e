"""Receivers of alerts: a mail server, a web server for hooks and heartbeats, and a command."""

import email
import email.policy
import json
import socket
import threading
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP, Envelope, Session

if TYPE_CHECKING:
    from email.message import EmailMessage

HOST = "127.0.0.1"


class Receivers:
    """Keeps what reaches each of them, message by message."""

    def __init__(self, folder: Path) -> None:
        self.mails: list[EmailMessage] = []
        self.hooks: list[dict[str, Any]] = []
        self.beats: list[str] = []
        self.status = 200
        """What the web server answers."""
        self._alerts = folder / "alerts"
        self._alerts.mkdir(parents=True)
        self.command = folder / "alert"
        self.command.write_text(f"#!/bin/sh\ncat > $(mktemp {self._alerts}/XXXXXXXX)\n")
        self.command.chmod(0o755)
        self._notify_file = folder / "notify"
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        mail = Controller(self, hostname=HOST, port=0)
        # aiosmtpd connects to the port that it was given, to see whether it answers.
        with socket.create_server((HOST, 0)) as free:
            mail.port = self.mail_port = free.getsockname()[1]
        mail.start()
        self._stack.callback(mail.stop)
        web = ThreadingHTTPServer((HOST, 0), self._web_handler())
        self._stack.callback(web.server_close)
        self._stack.callback(web.shutdown)
        threading.Thread(target=web.serve_forever, args=(0.05,), daemon=True).start()
        self.web_port = web.server_address[1]
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def mail_url(self) -> str:
        """The mail server, with a password that no text may show."""
        return f"mailto://{HOST}:{self.mail_port}?from=emitterd@example.org&to=deo@example.org"

    @property
    def hook_url(self) -> str:
        """The webhook, with a token that no text may show."""
        return f"json://{HOST}:{self.web_port}/hook/secret-token"

    @property
    def heartbeat_url(self) -> str:
        """What is requested while all is well."""
        return f"http://{HOST}:{self.web_port}/beat/secret-token?status=up"

    def settings(self, *urls: str, heartbeat: bool = True, **more: str) -> dict[str, str]:
        """Return the settings of an installation that alerts all of them, or these urls."""
        self._notify_file.touch(0o600)
        lines = urls or (self.mail_url, self.hook_url)
        self._notify_file.write_text("# the receivers\n\n" + "\n".join(lines) + "\n")
        chosen = {
            "alerts_notify_file": str(self._notify_file),
            "alerts_command": str(self.command),
        } | more
        return chosen | ({"alerts_heartbeat_url": self.heartbeat_url} if heartbeat else {})

    def received(self) -> list[dict[str, Any]]:
        """Return what the command got, in order."""
        files = sorted(self._alerts.iterdir(), key=lambda file: file.stat().st_mtime_ns)
        return [json.loads(file.read_text()) for file in files]

    def titles(self) -> dict[str, list[str]]:
        """Return the titles of all messages, by receiver."""
        return {
            "mail": [str(mail["Subject"]) for mail in self.mails],
            "hook": [hook["title"] for hook in self.hooks],
            "command": [alert["title"] for alert in self.received()],
        }

    async def handle_DATA(  # noqa: N802  aiosmtpd's
        self, _server: SMTP, _session: Session, envelope: Envelope
    ) -> str:
        """Take a mail."""
        content = envelope.content
        assert isinstance(content, bytes)
        self.mails.append(email.message_from_bytes(content, policy=email.policy.default))
        return "250 OK"

    def _web_handler(self) -> type[BaseHTTPRequestHandler]:
        receivers = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer()
                if receivers.status < 300:
                    receivers.beats.append(self.path)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receivers.status < 300:
                    receivers.hooks.append(json.loads(body))
                self._answer()

            def _answer(self) -> None:
                self.send_response(receivers.status)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        return Handler
