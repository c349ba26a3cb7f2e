"""The page with operators, served on a real socket, and browsers that keep cookies."""

import base64
import hashlib
import http.client
import os
import re
import socket
import ssl
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from pathlib import Path
from urllib.parse import quote, urlencode

from emitterd.web.access.users import Role, User, format_file
from emitterd.web.endpoint import Endpoint
from emitterd.web.http_server import FORM_TYPE
from support.page import Desk
from support.ports import free_port
from support.serving import DEADLINE_S, serving

PASSWORD = "three plain words"
OTHER_PASSWORD = "another long password"


def _cheap_hash(password: str) -> str:
    """Return a hash of the least cost: each login of a test takes no time."""
    key = hashlib.scrypt(password.encode(), salt=bytes(16), n=16, r=1, p=1, dklen=32)
    encoded = base64.b64encode(key).decode().rstrip("=")
    return f"$scrypt$ln=4,r=1,p=1${'A' * 22}${encoded}"


def make_user(name: str, role: Role = Role.OPERATOR, password: str = PASSWORD) -> User:
    """Return a user of the page."""
    return User(name, role, _cheap_hash(password))


def write_users(path: Path, *users: User) -> None:
    """Replace the operators file, as `emitterd operator` does."""
    part = path.with_name("operators.part")
    part.touch(0o600)
    part.write_text(format_file(users) + "\n")
    part.rename(path)


@dataclass
class Answer:
    """A response as a browser gets it."""

    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def location(self) -> str:
        """Where it leads."""
        return self.headers["Location"] or ""

    @property
    def token(self) -> str:
        """The token of the last form; the first one is that of the languages."""
        tokens: list[str] = re.findall(r'name="form_token" value="([^"]*)"', self.text)
        return tokens[-1] if tokens else ""

    @property
    def operations(self) -> set[str]:
        """The operations that the page offers."""
        return set(re.findall(r'name="operation" value="([^"]*)"', self.text))

    @property
    def title(self) -> str:
        """The heading of the page's content."""
        match = re.search(r"<h2[^>]*>(.*?)</h2>", self.text, re.DOTALL)
        return match[1] if match else self.text


@dataclass
class Visitor:
    """A browser at one address of the page. It sends its cookies and the headers of a browser."""

    port: int
    host: str
    scheme: str = "http"
    cookies: dict[str, str] = field(default_factory=dict)
    set_cookies: list[str] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    proxy: dict[str, str] = field(default_factory=dict)
    """Headers that a proxy adds."""

    def get(self, path: str, **headers: str) -> Answer:
        """Follow a link."""
        return self._send("GET", path, b"", headers)

    def post(self, path: str, fields: dict[str, str], **headers: str) -> Answer:
        """Send a form of a page of this site; a header given as "" is left out."""
        form = {"Content-Type": FORM_TYPE, "Origin": f"{self.scheme}://{self.host}"}
        body = urlencode(fields, errors="surrogateescape").encode()
        return self._send("POST", path, body, form | _names(headers))

    def log_in(
        self,
        name: str = "asha",
        password: str = PASSWORD,
        next: str = "",  # noqa: A002  the form's
    ) -> Answer:
        """Open the login form, fill it in, and send it."""
        token = self.get("/login").token
        fields = {"form_token": token, "name": name, "password": password, "next": next}
        return self.post("/login", fields)

    def act(self, operation: str, path: str | bytes, **fields: str) -> Answer:
        """Send the form of an operation as the file's page has it now."""
        shown = self.get(f"/explain?path={quote(path)}").text
        seen = re.search(r'name="seen" value="([^"]*)"', shown)
        form = {"form_token": self.get("/").token, "operation": operation, "path": quote(path)}
        form |= {"seen": seen[1] if seen else ""}
        return self.post("/act", form | fields)

    @property
    def user(self) -> str:
        """Who is logged in, as the page says it."""
        match = re.search(r"Logged in as ([^<]*)", self.get("/").text)
        return match[1] if match else ""

    def _connect(self) -> socket.socket:
        caller = socket.create_connection(("127.0.0.1", self.port), DEADLINE_S)
        name = self.host.partition(":")[0]
        return caller if self.tls is None else self.tls.wrap_socket(caller, server_hostname=name)

    def _send(self, method: str, path: str, body: bytes, headers: dict[str, str]) -> Answer:
        lines = {"Host": self.host, "Content-Length": str(len(body))} | _names(headers)
        lines |= self.proxy
        if self.cookies:
            lines.setdefault("Cookie", "; ".join(f"{k}={v}" for k, v in self.cookies.items()))
        head = "".join(f"{name}: {value}\r\n" for name, value in lines.items() if value)
        with self._connect() as caller:
            caller.sendall(f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode() + body)
            with closing(http.client.HTTPResponse(caller, method=method)) as answer:
                answer.begin()
                result = Answer(answer.status, answer.headers, answer.read().decode())
        for line in result.headers.get_all("Set-Cookie", []):
            self.set_cookies.append(line)
            for name, morsel in SimpleCookie(line).items():
                self.cookies[name] = morsel.value
                if morsel["max-age"] == "0":
                    del self.cookies[name]
        return result


def _names(headers: dict[str, str]) -> dict[str, str]:
    return {name.replace("_", "-"): value for name, value in headers.items()}


@dataclass
class ServedPage:
    """The page of a desk on a real socket."""

    desk: Desk
    operators: Path
    port: int

    @property
    def local(self) -> str:
        """The Host header of a browser on this machine."""
        return f"127.0.0.1:{self.port}"

    def browser(self, host: str = "", scheme: str = "http") -> Visitor:
        """Open a new browser, at this machine's own address or through a proxy."""
        return Visitor(self.port, host or self.local, scheme)

    def users(self) -> set[str]:
        """Return who is recorded as the user of any operation."""
        sql = "select distinct user from action"
        return {user for (user,) in self.desk.journal.read(sql)}


@contextmanager
def serve_page(desk: Desk) -> Iterator[ServedPage]:
    """Serve a desk's page until the end of the block."""
    site = ServedPage(desk, desk.operators or Path(os.devnull), free_port())
    endpoint = Endpoint("127.0.0.1", site.port)
    with serving(endpoint, desk.routes, public_host=desk.address.public_host):
        yield site
