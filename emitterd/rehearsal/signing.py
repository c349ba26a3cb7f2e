"""AWS signature version 4, only what an emission needs: POST policies, GET urls."""

import base64
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote, urlencode

from emitterd.rehearsal import responses
from emitterd.rehearsal.responses import RefusedError

_ALGORITHM = "AWS4-HMAC-SHA256"
_REGION = "ap-south-1"
_POLICY_TIME = "%Y-%m-%dT%H:%M:%SZ"
_STAMP = "%Y%m%dT%H%M%SZ"
_DENIED = "Invalid according to Policy: "
_OUTSIDE_THE_POLICY = frozenset({"policy", "x-amz-signature", "file"})


@dataclass(frozen=True, slots=True)
class Signer:
    """Signs for one bucket, and checks what it has signed. Instants: epoch seconds."""

    bucket: str
    access_key: str
    secret: str

    def grant(self, key: str, now_at: float, lifetime_s: float) -> dict[str, str]:
        """Return the form fields that let anyone POST one object under `key`."""
        stamp = _utc(now_at).strftime(_STAMP)
        fields = {
            "key": key,
            "x-amz-algorithm": _ALGORITHM,
            "x-amz-credential": self._credential(stamp),
            "x-amz-date": stamp,
        }
        policy = {
            "expiration": _utc(now_at + lifetime_s).strftime(_POLICY_TIME),
            "conditions": [
                {"bucket": self.bucket},
                *({name: value} for name, value in fields.items()),
            ],
        }
        encoded = base64.b64encode(json.dumps(policy).encode()).decode()
        fields["policy"] = encoded
        fields["x-amz-signature"] = self._sign(stamp, encoded)
        return dict(sorted(fields.items()))

    def check(self, fields: Mapping[str, str], now_at: float) -> None:
        """Raise `RefusedError` unless these form fields are a valid grant."""
        encoded = fields.get("policy")
        if encoded is None:
            raise RefusedError(responses.ACCESS_DENIED)
        for name in ("key", "x-amz-credential", "x-amz-date", "x-amz-signature"):
            if not fields.get(name):
                message = f"Bucket POST must contain a field named '{name}'."
                raise RefusedError(responses.s3_error(400, "InvalidArgument", message))
        self._check_signature(
            fields["x-amz-credential"], fields["x-amz-date"], encoded, fields["x-amz-signature"]
        )
        _check_policy(encoded, dict(fields) | {"bucket": self.bucket}, now_at)

    def presign(self, host: str, path: str, now_at: float, lifetime_s: float) -> dict[str, str]:
        """Return the query that lets anyone GET `path` from `host` (host:port)."""
        stamp = _utc(now_at).strftime(_STAMP)
        query = {
            "X-Amz-Algorithm": _ALGORITHM,
            "X-Amz-Credential": self._credential(stamp),
            "X-Amz-Date": stamp,
            "X-Amz-Expires": str(int(lifetime_s)),
            "X-Amz-SignedHeaders": "host",
        }
        text = _string_to_sign("GET", host, path, query)
        return query | {"X-Amz-Signature": self._sign(stamp, text)}

    def check_presigned(
        self, method: str, host: str, path: str, query: Mapping[str, str], now_at: float
    ) -> None:
        """Raise `RefusedError` unless `query` is a valid signature for this request."""
        signed = dict(query)
        signature = signed.pop("X-Amz-Signature", "")
        stamp = signed.get("X-Amz-Date", "")
        credential = signed.get("X-Amz-Credential", "")
        text = _string_to_sign(method, host, path, signed)
        self._check_signature(credential, stamp, text, signature)
        if now_at >= _instant(stamp, _STAMP) + int(signed["X-Amz-Expires"]):
            raise RefusedError(responses.s3_error(403, "AccessDenied", "Request has expired"))

    def _credential(self, stamp: str) -> str:
        return f"{self.access_key}/{stamp[:8]}/{_REGION}/s3/aws4_request"

    def _sign(self, stamp: str, text: str) -> str:
        key = f"AWS4{self.secret}".encode()
        for step in (stamp[:8], _REGION, "s3", "aws4_request"):
            key = hmac.digest(key, step.encode("utf-8", "replace"), "sha256")
        return hmac.digest(key, text.encode("utf-8", "replace"), "sha256").hex()

    def _check_signature(self, credential: str, stamp: str, text: str, signature: str) -> None:
        if not credential.startswith(f"{self.access_key}/"):
            message = "The AWS Access Key Id you provided does not exist in our records"
            raise RefusedError(responses.s3_error(403, "InvalidAccessKeyId", message))
        expected = self._sign(stamp, text).encode()
        given = signature.encode("utf-8", "replace")
        if not hmac.compare_digest(expected, given):
            raise RefusedError(responses.BAD_SIGNATURE)


def _utc(instant_at: float) -> datetime:
    return datetime.fromtimestamp(instant_at, UTC)


def _instant(text: str, time_format: str) -> float:
    return datetime.strptime(text, time_format).replace(tzinfo=UTC).timestamp()


def _string_to_sign(method: str, host: str, path: str, query: Mapping[str, str]) -> str:
    stamp = query.get("X-Amz-Date", "")
    request = "\n".join(
        [
            method,
            quote(path.encode("utf-8", "replace"), safe="/-_.~"),
            urlencode(sorted(query.items()), quote_via=quote, errors="replace"),
            f"host:{host}",
            "",
            "host",
            "UNSIGNED-PAYLOAD",
        ]
    )
    digest = hashlib.sha256(request.encode("utf-8", "replace")).hexdigest()
    scope = f"{stamp[:8]}/{_REGION}/s3/aws4_request"
    return f"{_ALGORITHM}\n{stamp}\n{scope}\n{digest}"


def _denied(message: str) -> RefusedError:
    return RefusedError(responses.s3_error(403, "AccessDenied", message))


def _check_policy(encoded: str, fields: Mapping[str, str], now_at: float) -> None:
    # Its signature is right, so it is JSON.
    policy = json.loads(base64.b64decode(encoded))
    if now_at >= _instant(policy["expiration"], _POLICY_TIME):
        raise RefusedError(responses.POLICY_EXPIRED)
    wanted = {k: v for condition in policy["conditions"] for k, v in condition.items()}
    for name, value in wanted.items():
        if fields.get(name) != value:
            rule = json.dumps(["eq", f"${name}", value])
            raise _denied(f"{_DENIED}Policy Condition failed: {rule}")
    checked = (name for name in fields if not name.startswith("x-ignore-"))
    extra = sorted(set(checked) - set(wanted) - _OUTSIDE_THE_POLICY)
    if extra:
        raise _denied(f"{_DENIED}Extra input fields: {', '.join(extra)}")
