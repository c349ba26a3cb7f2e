"""The rehearsal server's bucket: objects on disk, and uploads streamed into them.

A key never becomes a file name, so `../x` stays inside: the object's file is named by the key's
SHA-256, and a JSON file with it holds the key. An object appears by rename once its whole body
was received, and not before.
"""

import hashlib
import json
import secrets
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.responses import Response

from emitterd.rehearsal import responses
from emitterd.rehearsal.responses import RefusedError
from emitterd.rehearsal.signing import Signer

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

NAME = "rehearsal-emission"
_LIMIT_BYTES = 5 * 1024**3
_FIELDS_LIMIT_BYTES = 64 * 1024
_SLACK_BYTES = 1024**2


@dataclass(frozen=True, slots=True)
class BucketObject:
    """One object. `posts`: how often its key was written; `stored_at`: last time."""

    key: str
    path: Path
    size_bytes: int
    md5: str
    posts: int
    stored_at: float


class Bucket:
    """The objects of one directory. `limit_bytes`: the largest object taken."""

    def __init__(self, directory: Path, *, limit_bytes: int = _LIMIT_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.objects: dict[str, BucketObject] = {}
        self._objects = directory / "objects"
        self._incoming = directory / "incoming"
        self._secret = directory / "secret"

    def open(self) -> None:
        """Make the directory ready and find the objects of a former run in it."""
        self._objects.mkdir(parents=True, exist_ok=True)
        self._incoming.mkdir(exist_ok=True)
        for leftover in self._incoming.iterdir():
            leftover.unlink()
        self.objects.clear()
        for sidecar in sorted(self._objects.glob("*.json")):
            facts = json.loads(sidecar.read_bytes())
            stored = BucketObject(path=sidecar.with_suffix(".bin"), **facts)
            if stored.path.exists():
                self.objects[stored.key] = stored
        self.signer = Signer(NAME, "REHEARSAL", self._read_secret())

    def _read_secret(self) -> str:
        # Kept, so that grants live on over a restart as they do with S3.
        if not self._secret.exists():
            self._secret.touch(mode=0o600)
            self._secret.write_text(secrets.token_hex(20))
        return self._secret.read_text()

    def upload(self, content_type: str, now_at: float) -> "ObjectUpload":
        """Take in one POST body that began at `now_at`, in epoch seconds."""
        return ObjectUpload(self, content_type, now_at, self._incoming / secrets.token_hex(8))

    def length_problem(self, length_bytes: int | None) -> Response | None:
        """Return the response to a body without a length, or with a wrong one."""
        if length_bytes is None:
            return responses.NO_LENGTH
        too_large = length_bytes > self.limit_bytes + _SLACK_BYTES
        return responses.TOO_LARGE if too_large else None

    def keep(self, key: str, path: Path, size_bytes: int, md5: str) -> BucketObject:
        """Make the file at `path` the object of this key."""
        name = hashlib.sha256(key.encode("utf-8", "surrogatepass")).hexdigest()
        former = self.objects.get(key)
        kept = BucketObject(
            key=key,
            path=self._objects / f"{name}.bin",
            size_bytes=size_bytes,
            md5=md5,
            posts=1 if former is None else former.posts + 1,
            stored_at=time.time(),
        )
        facts = asdict(kept)
        del facts["path"]
        sidecar = self._incoming / f"{name}.json"
        sidecar.write_text(json.dumps(facts))
        path.replace(kept.path)
        sidecar.replace(kept.path.with_suffix(".json"))
        self.objects[key] = kept
        return kept


class ObjectUpload:
    """One multipart body on its way to disk; a context manager that cleans up.

    A body that is refused is still read to its end, and thrown away: a client that only looks for
    the answer after its last byte sees it, too.
    """

    def __init__(self, bucket: Bucket, content_type: str, now_at: float, path: Path) -> None:
        self.fields: dict[str, str] = {}
        self.refusal: RefusedError | None = None
        self._bucket = bucket
        self._now_at = now_at
        self._path = path
        self._stack = ExitStack()
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._size_bytes = 0
        self._fields_bytes = 0
        self._seen_file = False
        self._ended = False
        self._name = ""
        """The name of the part being parsed, from Content-Disposition."""
        self._value = bytearray()
        self._header_name, self._header_value = bytearray(), bytearray()
        self._parser = self._make_parser(content_type)

    def __enter__(self) -> Self:
        self._stack.callback(self._path.unlink, missing_ok=True)
        self._file = self._stack.enter_context(self._path.open("xb", buffering=0))
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def key(self) -> str:
        """The key asked for; empty as long as it is not known."""
        return self.fields.get("key", "")

    def feed(self, chunk: bytes) -> None:
        """Take the next bytes of the body."""
        if self.refusal is not None or self._parser is None:
            return
        try:
            self._parser.write(chunk)
        except RefusedError as refusal:
            self.refusal = refusal
        except FormParserError:
            self.refusal = RefusedError(responses.MALFORMED_FORM)

    def finish(self) -> None:
        """Note that the body has ended; `refusal` is final afterwards."""
        if self.refusal is None and not self._ended:
            self.refusal = RefusedError(responses.MALFORMED_FORM)
        if self.refusal is None and not self._seen_file:
            self.refusal = RefusedError(responses.NOT_ONE_FILE)

    def keep(self) -> BucketObject:
        """Store the object. Only after `finish`, and only without a `refusal`."""
        return self._bucket.keep(self.key, self._path, self._size_bytes, self._md5.hexdigest())

    def _make_parser(self, content_type: str) -> MultipartParser | None:
        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary")
        if kind != b"multipart/form-data" or not boundary:
            self.refusal = RefusedError(responses.NO_FORM)
            return None
        callbacks: MultipartCallbacks = {
            "on_part_begin": self._on_part_begin,
            "on_header_field": self._on_header_field,
            "on_header_value": self._on_header_value,
            "on_header_end": self._on_header_end,
            "on_headers_finished": self._on_headers_finished,
            "on_part_data": self._on_part_data,
            "on_part_end": self._on_part_end,
            "on_end": self._on_end,
        }
        try:
            return MultipartParser(boundary, callbacks)
        except FormParserError:
            self.refusal = RefusedError(responses.MALFORMED_FORM)
            return None

    def _on_part_begin(self) -> None:
        if self._seen_file:
            raise RefusedError(responses.NOT_ONE_FILE)
        self._name = ""
        self._value.clear()

    def _on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def _on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]

    def _on_header_end(self) -> None:
        if self._header_name.lower() == b"content-disposition":
            _, options = parse_options_header(self._header_value.decode("latin-1"))
            self._name = options.get(b"name", b"").decode("utf-8", "replace").lower()
        self._header_name.clear()
        self._header_value.clear()

    def _on_headers_finished(self) -> None:
        if self._name == "file":
            self._seen_file = True
            self._bucket.signer.check(self.fields, self._now_at)

    def _on_part_data(self, data: bytes, start: int, end: int) -> None:
        if not self._seen_file:
            self._fields_bytes += end - start
            if self._fields_bytes > _FIELDS_LIMIT_BYTES:
                raise RefusedError(responses.FIELDS_TOO_LARGE)
            self._value += data[start:end]
            return
        self._size_bytes += end - start
        if self._size_bytes > self._bucket.limit_bytes:
            raise RefusedError(responses.TOO_LARGE)
        with memoryview(data)[start:end] as view:
            self._md5.update(view)
            done = 0
            # An unbuffered file may take less than it is given.
            while done < len(view):
                done += self._file.write(view[done:])

    def _on_part_end(self) -> None:
        if not self._seen_file:
            self.fields[self._name] = self._value.decode("utf-8", "replace")

    def _on_end(self) -> None:
        self._ended = True
