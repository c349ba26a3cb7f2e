"""A real S3 engine on loopback, and an emission API whose grants boto3 signs for it.

`Seaweed` runs SeaweedFS (`weed mini`) in a process of its own; `BotoEmission` is the
upstream server in small: the same library signs the grants, so a test on these two
proves what a test on our own rehearsal server cannot. Name this module in
`pytest_plugins`; imported as a fixture in several modules it starts several engines.
PYTEST_DONT_REWRITE: it asserts nothing, and test modules may import it first.
"""

import contextlib
import json
import re
import secrets
import socket
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Generator, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NamedTuple, Self, TypeVar
from urllib.parse import parse_qsl, urlsplit

import boto3.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from support.waiting import wait_until

LOOPBACK = "127.0.0.1"
REGION = "ap-south-1"
START_DEADLINE_S = 30.0
STOP_DEADLINE_S = 15.0
LOG_TAIL = 8_000
HTTP_PORTS = ("master", "volume", "filer", "s3", "admin")
GRPC_OFFSET = 10_000  # what weed adds to each port; its admin worker insists on it

T = TypeVar("T")


class Seaweed:
    """One S3 engine with one bucket; stopped and started, it keeps ports and objects.

    `client` is a boto3 client for it, `url` its S3 address, `log` its output.
    """

    def __init__(self, directory: Path, bucket: str = "emission") -> None:
        self.directory = directory
        self.bucket = bucket
        self.access_key = "AKIAEMITTER"
        self.secret_key = secrets.token_hex(20)
        self.log = directory / "weed.log"
        self.ports: dict[str, int] = {}
        self.client: Any = None
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def url(self) -> str:
        """The S3 endpoint, without the bucket."""
        return f"http://{LOOPBACK}:{self.ports['s3']}"

    @property
    def pid(self) -> int:
        """The engine's process id; it must be running."""
        if self._process is None:
            raise RuntimeError("the engine is stopped")
        return self._process.pid

    def start(self) -> None:
        """Run the engine and return when the bucket takes objects."""
        for _ in range(1 if self.ports else 4):  # a port may be lost to another process
            if not self.ports:
                self.ports = free_ports()
            if self._launch():
                return
            self.stop()
            self._forget_ports()
        raise RuntimeError(f"weed does not start:\n{self.log_tail()}")

    def stop(self) -> None:
        """Terminate the engine, and kill it when it will not go."""
        process, self._process = self._process, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        remove_sockets(self.ports)

    def close(self) -> None:
        """Stop for good."""
        self.stop()
        self._forget_ports()

    def log_tail(self) -> str:
        """Return the end of the engine's log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return text[-LOG_TAIL:]

    def _forget_ports(self) -> None:
        if self.client is not None:
            self.client.close()
        self.client = None
        self.ports = {}

    def _launch(self) -> bool:
        """Start the process; False when it ended at once, as it does without a port."""
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603  our own argument list
                self._command(),
                cwd=self.directory,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        if self.client is None:
            self.client = s3_client(self)
        try:
            return wait_until(self._state, START_DEADLINE_S, "bucket") == "usable"
        except TimeoutError as error:
            self.stop()
            raise RuntimeError(f"{error}\n{self.log_tail()}") from error
        except BaseException:
            self.stop()
            raise

    def _state(self) -> str | None:
        if self._process is None or self._process.poll() is not None:
            return "ended"
        try:
            self.client.put_object(Bucket=self.bucket, Key=".ready", Body=b"?")
            self.client.delete_object(Bucket=self.bucket, Key=".ready")
        except (BotoCoreError, ClientError):
            return None
        return "usable"

    def _command(self) -> list[str]:
        """Put every port on loopback, and sockets where their paths are short."""
        return [
            str(Path(sysconfig.get_path("scripts"), "weed")),
            "mini",
            f"-dir={self.directory}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",  # the default is every address
            *(f"-{name}.port={port}" for name, port in self.ports.items()),
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            "-webdav=false",
            "-admin.ui=false",
            "-master.telemetry=false",  # the default reports to the makers
            "-volume.preStopSeconds=0",
            "-s3.localSocket=s3.sock",
            "-filer.localSocket=filer.sock",
        ]

    def _environment(self) -> dict[str, str]:
        """Nothing of the caller's: no profile, no proxy, no settings in HOME."""
        return {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "S3_BUCKET": self.bucket,
            "HOME": str(self.directory),
            "TMPDIR": str(self.directory),
        }


def free_ports() -> dict[str, int]:
    """Return a free block, below the range the kernel hands out to everybody."""
    for _ in range(200):
        base = 10_000 + secrets.randbelow(12_000)
        ports = {name: base + n for n, name in enumerate(HTTP_PORTS)}
        wanted = [port + o for port in ports.values() for o in (0, GRPC_OFFSET)]
        if all(is_free(port) for port in wanted):
            return ports
    raise RuntimeError("no free block of ports on loopback")


def is_free(port: int) -> bool:
    """Whether nobody listens on this loopback port."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
    return True


def remove_sockets(ports: dict[str, int]) -> None:
    """Unlink the gRPC sockets that weed forgets in the temporary folder."""
    for name, port in ports.items():
        socket_name = f"seaweedfs-{name}-grpc-{port + GRPC_OFFSET}.sock"
        Path(tempfile.gettempdir(), socket_name).unlink(missing_ok=True)


def listening(pid: int) -> set[str]:
    """Return the `address:port` (hex, as in /proc) of each TCP socket `pid` opened."""
    inodes = set()
    for fd in Path("/proc", str(pid), "fd").iterdir():
        with contextlib.suppress(OSError):
            inodes |= set(re.findall(r"socket:\[(\d+)\]", str(fd.readlink())))
    addresses = set()
    for table in ("tcp", "tcp6", "udp", "udp6"):
        for line in Path("/proc/net", table).read_text().splitlines()[1:]:
            cells = line.split()
            if cells[9] in inodes and (cells[3] == "0A" or table.startswith("udp")):
                addresses.add(cells[1])
    return addresses


def s3_client(seaweed: Seaweed) -> Any:  # noqa: ANN401  boto3 has no types
    """Return a boto3 client for the engine: v4, the bucket in the path, no retries."""
    return boto3.session.Session().client(
        "s3",
        endpoint_url=seaweed.url,
        aws_access_key_id=seaweed.access_key,
        aws_secret_access_key=seaweed.secret_key,
        region_name=REGION,
        config=Config(
            signature_version="s3v4",
            s3={"addressing_style": "path"},
            retries={"total_max_attempts": 1},
            connect_timeout=5,
            read_timeout=30,
            proxies={},
        ),
    )


def objects(seaweed: Seaweed, prefix: str = "", page_size: int = 1000) -> dict[str, str]:
    """Return key and ETag, without its quotes, of every object in the bucket."""
    pages = seaweed.client.get_paginator("list_objects_v2").paginate(
        Bucket=seaweed.bucket, Prefix=prefix, PaginationConfig={"PageSize": page_size}
    )
    return {
        str(entry["Key"]): str(entry["ETag"]).strip('"')
        for page in pages
        for entry in page.get("Contents", [])
    }


def read(seaweed: Seaweed, key: str) -> bytes:
    """Return the object's bytes."""
    answer = seaweed.client.get_object(Bucket=seaweed.bucket, Key=key)
    with contextlib.closing(answer["Body"]) as body:
        return bytes(body.read())


def empty(seaweed: Seaweed) -> None:
    """Delete every object of the bucket."""
    for key in objects(seaweed):
        seaweed.client.delete_object(Bucket=seaweed.bucket, Key=key)


class Answer(NamedTuple):
    """A status and a body: JSON, or upstream's HTML when it is text."""

    status: int
    body: dict[str, Any] | str


class BotoEmission:
    """The emission API of cQube 1.7 to 4.1, with the login of 1.1 to 1.6 in addition.

    `grants` and `tokens` hold all that was issued; `api_key` is a token that never
    ends. `grant_lifetime_s` and `tamper` (one letter of the signature is changed) take
    effect at the next grant. It grants while the engine is stopped, too.
    """

    username = "emission"
    password = "correct horse"
    token_lifetime_s = 1800

    def __init__(self, seaweed: Seaweed, grant_lifetime_s: int = 3600) -> None:
        self.seaweed = seaweed
        self.grant_lifetime_s = grant_lifetime_s
        self.tamper = False
        self.api_key = secrets.token_urlsafe(16)
        self.tokens: list[str] = []
        self.grants: list[dict[str, Any]] = []
        self._server = _Server((LOOPBACK, 0), _Handler)
        self._server.emission = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def url(self) -> str:
        """The value of `emission.url` in the configuration."""
        return f"http://{LOOPBACK}:{self._server.server_address[1]}/data"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def answer(self, path: str, fields: dict[str, str], authorization: str) -> Answer:
        """Answer one POST as upstream, or Kong before it, does."""
        if path == "/data/auth":
            return self._login(fields)
        if path not in {"/data/upload-url", "/data/download_url"}:
            return Answer(404, {"message": "no Route matched with those values"})
        scheme, _, token = authorization.partition(" ")
        if scheme != "Bearer":
            return Answer(401, {"message": "Unauthorized"})
        if token not in (self.api_key, *self.tokens):
            return Answer(401, {"message": "Invalid signature"})
        filename = fields.get("filename")
        if not filename:
            return Answer(400, "Bad request, validate the payload")
        download = path == "/data/download_url"
        return Answer(200, self._download(filename, fields) if download else self._grant(filename))

    def _login(self, fields: dict[str, str]) -> Answer:
        """Keycloak answers with 200 in any case."""
        if (fields.get("username"), fields.get("password")) != (self.username, self.password):
            return Answer(200, {"error": "invalid_grant"})
        token = secrets.token_urlsafe(16)
        self.tokens.append(token)
        return Answer(200, {"access_token": token, "expires_in": self.token_lifetime_s})

    def _download(self, filename: str, fields: dict[str, str]) -> str:
        """Return the bare url, whether the object is there or not."""
        url: str = self.seaweed.client.generate_presigned_url(
            "get_object", Params={"Bucket": fields["bucket"], "Key": filename}, ExpiresIn=86_400
        )
        return url

    def _grant(self, filename: str) -> dict[str, Any]:
        grant: dict[str, Any] = self.seaweed.client.generate_presigned_post(
            self.seaweed.bucket,
            stamped(filename, time.strftime("%Y%m%d%H%M%S")),
            ExpiresIn=self.grant_lifetime_s,
        )
        if self.tamper:
            signature = grant["fields"]["x-amz-signature"]
            digit = "1" if signature[0] == "0" else "0"
            grant["fields"]["x-amz-signature"] = digit + signature[1:]
        self.grants.append(grant)
        return grant


def stamped(filename: str, stamp: str) -> str:
    """Return the key that upstream makes: the stamp is before the last dot."""
    stem, dot, suffix = filename.rpartition(".")
    return f"{stem}_{stamp}.{suffix}" if dot else f"{filename}_{stamp}"


class _Server(ThreadingHTTPServer):
    """Closes the connections that clients keep alive, then joins their threads."""

    daemon_threads = False
    emission: BotoEmission

    def __init__(self, *args: Any) -> None:  # noqa: ANN401  handed on as they are
        self._live: set[socket.socket] = set()
        super().__init__(*args)

    def process_request(self, request: Any, client_address: Any) -> None:  # noqa: ANN401
        self._live.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:  # noqa: ANN401
        self._live.discard(request)
        super().shutdown_request(request)

    def server_close(self) -> None:
        for connection in list(self._live):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        super().server_close()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        target = urlsplit(self.path)
        try:
            fields = dict(parse_qsl(target.query)) | self._fields(body)
        except ValueError:
            self._send(Answer(400, "Bad Request"))
            return
        authorization = self.headers.get("Authorization", "")
        self._send(self.server.emission.answer(target.path, fields, authorization))

    def do_GET(self) -> None:
        self._send(Answer(405, "Method Not Allowed"))

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing; the grants show what happened."""

    def _fields(self, body: bytes) -> dict[str, str]:
        """Upstream's reqparse takes JSON and form alike."""
        if self.headers.get_content_type() == "application/json":
            loaded = json.loads(body)
            return loaded if isinstance(loaded, dict) else {}
        return dict(parse_qsl(body.decode()))

    def _send(self, answer: Answer) -> None:
        is_text = isinstance(answer.body, str)
        content = answer.body if is_text else json.dumps(answer.body, sort_keys=True)
        payload = str(content).encode()
        self.send_response(answer.status)
        self.send_header("Content-Type", "text/html" if is_text else "application/json")
        self.send_header("Content-Length", str(len(payload)))
        self.end_headers()
        self.wfile.write(payload)


@pytest.fixture(scope="session")
def seaweed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    """One S3 engine for the whole session."""
    with Seaweed(tmp_path_factory.mktemp("seaweed")) as engine:
        yield engine


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show the engine's log with each failure of a test that used it."""
    report = yield
    engine = getattr(item, "funcargs", {}).get("seaweed")
    if report.failed and isinstance(engine, Seaweed):
        report.sections.append(("seaweed log", engine.log_tail()))
    return report
