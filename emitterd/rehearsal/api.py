"""The rehearsal server's emission API, without the network: logins, names, listings."""

import hmac
import json
import secrets
import time
from collections.abc import Mapping
from email.utils import formatdate
from urllib.parse import parse_qsl

from emitterd.rehearsal.bucket import NAME, BucketObject

BUCKETS = {
    "input": "rehearsal-input",
    "output": "rehearsal-output",
    "emission": NAME,
}
_LISTED = 1000
_SCHEMES = frozenset({"bearer", "jwt"})


class Logins:
    """Who may use the API: a user name and password, an API key, or both.

    `password` None closes the login, as from cQube 1.7 on. `lifetime_s`: seconds
    that a token lives.
    """

    def __init__(
        self,
        username: str,
        password: str | None,
        api_key: str | None,
        lifetime_s: float,
    ) -> None:
        self._username = username
        self._password = password
        self._api_key = api_key
        self._lifetime_s = lifetime_s
        self._tokens: dict[str, float] = {}

    @property
    def has_login(self) -> bool:
        """Whether there is a login at all."""
        return self._password is not None

    def login(self, credentials: Mapping[str, str]) -> dict[str, object] | None:
        """Return a new token with its facts, or None for wrong credentials."""
        user_fits = _equal(credentials.get("username", ""), self._username)
        password_fits = _equal(credentials.get("password", ""), self._password or "")
        if not (user_fits and password_fits):
            return None
        token = secrets.token_urlsafe(24)
        self._tokens[token] = time.monotonic() + self._lifetime_s
        return {
            "access_token": token,
            "expires_in": self._lifetime_s,
            "token_type": "bearer",
        }

    def admits(self, authorization: str) -> bool:
        """Tell whether this `Authorization` header opens the API now."""
        scheme, _, token = authorization.partition(" ")
        if scheme.lower() not in _SCHEMES:
            return False
        if self._api_key is not None and _equal(token, self._api_key):
            return True
        return self._tokens.get(token, 0.0) > time.monotonic()

    def revoke(self) -> None:
        """Void all tokens; the API key stays valid."""
        self._tokens.clear()


def arguments(content_type: str, body: bytes, query: str) -> dict[str, str]:
    """Return the arguments of a request: from its query, its form, or its JSON.

    Raise ValueError where the JSON is malformed.
    """
    found = dict(parse_qsl(query))
    if content_type.startswith("application/json"):
        value = json.loads(body or b"{}")
        if not isinstance(value, dict):
            raise ValueError("not an object")
        found |= {name: str(one) for name, one in value.items()}
    else:
        found |= dict(parse_qsl(body.decode("utf-8", "replace")))
    return found


def emitted_key(filename: str, now_at: float) -> str:
    """Return the key of a file emitted at `now_at` (epoch seconds), in local time.

    The last dot of the whole string counts, even one in a folder's name: upstream's
    way, which a rehearsal must not improve.
    """
    stamp = time.strftime("_%Y%m%d%H%M%S", time.localtime(now_at))
    stem, dot, suffix = filename.rpartition(".")
    return f"{stem}{stamp}.{suffix}" if dot else f"{filename}{stamp}"


def listing(bucket: str, objects: Mapping[str, BucketObject]) -> dict[str, object]:
    """Return what `list_objects` says: the first 1000 keys, in lexical order."""
    found = sorted(objects.values(), key=lambda one: one.key) if bucket == NAME else []
    answer: dict[str, object] = {
        "ResponseMetadata": {"HTTPStatusCode": 200, "RetryAttempts": 0},
        "IsTruncated": len(found) > _LISTED,
        "Marker": "",
        "Name": bucket,
        "Prefix": "",
        "MaxKeys": _LISTED,
        "EncodingType": "url",
    }
    # boto3 leaves the key out for an empty bucket, and clients stumble over it.
    if found:
        answer["Contents"] = [_listed(one) for one in found[:_LISTED]]
    return answer


def _listed(one: BucketObject) -> dict[str, object]:
    return {
        "Key": one.key,
        "LastModified": formatdate(one.stored_at, usegmt=True),
        "ETag": f'"{one.md5}"',
        "Size": one.size_bytes,
        "StorageClass": "STANDARD",
        "Owner": {"ID": "rehearsal"},
    }


def _equal(given: str, right: str) -> bool:
    return hmac.compare_digest(
        given.encode("utf-8", "replace"), right.encode("utf-8", "replace")
    )
