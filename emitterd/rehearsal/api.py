"""The rehearsal server's emission API, without the network: logins, names, listings."""

import hmac
import json
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import formatdate
from urllib.parse import parse_qsl

from emitterd.rehearsal.bucket import NAME, BucketObject

BUCKETS = {"input": "rehearsal-input", "output": "rehearsal-output", "emission": NAME}
_LISTED = 1000
_SCHEMES = frozenset({"bearer", "jwt"})


@dataclass(slots=True)
class Logins:
    """Who may use the API: a user name and password, an API key, or both.

    `password` None closes the login, as from cQube 1.7 on. `lifetime_s`: seconds that a token
    lives.
    """

    username: str
    password: str | None
    api_key: str | None
    lifetime_s: float
    tokens: dict[str, float] = field(default_factory=dict)

    @property
    def enabled(self) -> bool:
        """Whether there is a login at all."""
        return self.password is not None

    def login(self, credentials: Mapping[str, str]) -> dict[str, object] | None:
        """Return a new token with its facts, or None for wrong credentials."""
        name, password = (credentials.get("username", ""), credentials.get("password", ""))
        right_name = _equal(name, self.username)
        if not (_equal(password, self.password or "") and right_name):
            return None
        token = secrets.token_urlsafe(24)
        self.tokens[token] = time.monotonic() + self.lifetime_s
        return {"access_token": token, "expires_in": self.lifetime_s, "token_type": "bearer"}

    def accepts(self, authorization: str) -> bool:
        """Return whether this `Authorization` header opens the API now."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() not in _SCHEMES:
            return False
        if self.api_key is not None and _equal(token, self.api_key):
            return True
        return self.tokens.get(token, 0.0) > time.monotonic()


def arguments(content_type: str, body: bytes, query: str) -> dict[str, str]:
    """Return the arguments of a request: from its query, and its form or JSON.

    Raises `ValueError` if the JSON is malformed.
    """
    values = dict(parse_qsl(query))
    if not content_type.startswith("application/json"):
        return values | dict(parse_qsl(body.decode("utf-8", "replace")))
    document = json.loads(body or b"{}")
    if not isinstance(document, dict):
        raise ValueError("not an object")  # noqa: TRY004  as malformed JSON
    return values | {name: str(value) for name, value in document.items()}


def emitted_key(filename: str, now_at: float) -> str:
    """Return the key of a file emitted at `now_at` (epoch seconds), in local time.

    The time goes before the last dot, even one in a folder's name: cQube does it so.
    """
    stamp = time.strftime("_%Y%m%d%H%M%S", time.localtime(now_at))
    stem, dot, suffix = filename.rpartition(".")
    return f"{stem}{stamp}.{suffix}" if dot else f"{filename}{stamp}"


def listing(bucket: str, objects: Mapping[str, BucketObject]) -> dict[str, object]:
    """Return boto3's `list_objects`: the first 1000 keys, in the order of their bytes."""
    # A copy: the owner of the server may take objects out meanwhile.
    stored = [*objects.values()]
    stored.sort(key=lambda item: item.key)
    if bucket != NAME:
        stored = []
    listed: dict[str, object] = {
        "ResponseMetadata": {"HTTPStatusCode": 200, "RetryAttempts": 0},
        "IsTruncated": len(stored) > _LISTED,
        "Marker": "",
        "Name": bucket,
        "Prefix": "",
        "MaxKeys": _LISTED,
        "EncodingType": "url",
    }
    # boto3 leaves the key out for an empty bucket, and clients stumble over it.
    if stored:
        listed["Contents"] = [
            {
                "Key": item.key,
                "LastModified": formatdate(item.stored_at, usegmt=True),
                "ETag": f'"{item.md5}"',
                "Size": item.size_bytes,
                "StorageClass": "STANDARD",
                "Owner": {"ID": "rehearsal"},
            }
            for item in stored[:_LISTED]
        ]
    return listed


def _equal(given: str, right: str) -> bool:
    # compare_digest takes text only if it is ASCII.
    return hmac.compare_digest(given.encode("utf-8", "replace"), right.encode("utf-8", "replace"))
