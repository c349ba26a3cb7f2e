"""A grant: the answer to `POST /upload-url`, checked before emitterd sends a byte to its url.

The API's token is never sent to the bucket.
"""

import base64
import json
import re
import socket
from contextlib import suppress
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, Stage
from emitterd.model import Grant

GRANT_LIFETIME_S = 3600.0
"""What upstream's server gives (boto3 `ExpiresIn`), where the policy does not say."""

EXPIRY_MARGIN_S = 30.0
"""A grant this close to its end is not used. The bucket checks the policy when it begins to read,
which on a slow line is some time after the request began."""

KEY_MAX_BYTES = 1024
"""The longest key of S3."""

_AZURE = ".blob.core.windows.net"

_LOOKS_ESCAPED = re.compile("%[0-9A-Fa-f]{2}")
_PERCENT = {0xDC00 + byte: f"%{byte:02X}" for byte in range(0x80, 0x100)} | {
    byte: f"%{byte:02X}" for byte in (*range(0x20), 0x7F)
}


def remote_name(path: bytes) -> str:
    """Return the name for which emitterd asks the server for a grant.

    The path relative to the watched folder, with `/`: the server routes by it. JSON cannot hold
    bytes that are not UTF-8, and control characters would break lines wherever the key is listed:
    both are percent-encoded.
    """
    text = path.decode("utf-8", "surrogateescape")
    escaped = text.translate(_PERCENT)
    if escaped == text and not _LOOKS_ESCAPED.search(text):
        return text
    # Else `a<newline>.zip` and a file called `a%0A.zip` would share one object.
    return text.replace("%", "%25").translate(_PERCENT)


def parse(
    body: bytes, *, api_url: str, insecure: bool, now: float, served_at: float | None
) -> Grant:
    """Return the grant in an answer of the emission API.

    `served_at` is the answer's `Date` header in seconds since the epoch. The grant's end is counted
    from it, so a wrong clock here does not matter.

    Raises `DeliveryError`: PAUSE where this is no grant, or its url is not allowed; REJECT where no
    object can have its key.
    """
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise malformed("it is not JSON") from error
    if not isinstance(answer, dict):
        raise malformed("it is not a JSON object")
    url, fields = answer.get("url"), answer.get("fields")
    _check_storage(url, fields)
    if not isinstance(url, str) or not isinstance(fields, dict):
        raise malformed("it has no url and fields")
    if not all(_is_plain(name) and _is_plain(fields[name]) for name in fields):
        raise malformed("its fields are not plain strings")
    # Without a key nothing can be pinned; without a policy the bucket refuses it.
    for name in ("key", "policy"):
        if not fields.get(name):
            raise malformed(f"its fields hold no {name}")
    check_url(url, api_url=api_url, insecure=insecure)
    check_key(fields["key"])
    lifetime_s = _lifetime_s(fields["policy"], served_at or now)
    return Grant(url, fields, now, now + lifetime_s, api_url)


def _check_storage(url: object, fields: object) -> None:
    """Raise `DeliveryError` for an answer of cQube 4 that stores on Azure, or in a folder.

    Source: ingestion/views.py of cQube_Edu, 4.0 and 4.1.
    """
    if not isinstance(url, str):
        return
    with suppress(ValueError):
        parts = urlsplit(url)
        host = parts.hostname or ""
        if host.endswith(_AZURE) and isinstance(fields, dict) and "policy" not in fields:
            reason = f"the answer to upload-url is for Azure: {host}"
            raise DeliveryError(Decision.PAUSE, Code.AZURE_STORAGE, reason)
        if url.startswith("/") and not host and not fields:
            reason = f"the answer to upload-url is a folder of the server: {url}"
            raise DeliveryError(Decision.PAUSE, Code.LOCAL_STORAGE, reason)


def check_key(key: str) -> None:
    """Raise `DeliveryError` (REJECT) if no object can have this key, or part of a key."""
    problem, length_bytes = "", len(key.encode())
    if length_bytes > KEY_MAX_BYTES:
        problem = f"is {length_bytes:,} bytes long, S3 allows {KEY_MAX_BYTES:,}"
    # S3 puts the name of the uploaded file in the place of ${filename}.
    elif "${" in key:
        problem = "contains ${, which S3 replaces"
    if problem:
        reason = f"the object key {problem}"
        raise DeliveryError(Decision.REJECT, Code.KEY_REFUSED, reason, stage=Stage.GRANT)


def malformed(problem: str) -> DeliveryError:
    """Return the error for an answer to upload-url that is no grant."""
    reason = f"the answer to upload-url: {problem}"
    return DeliveryError(Decision.PAUSE, Code.MALFORMED_ANSWER, reason)


def check_url(url: str, *, api_url: str, insecure: bool, code: Code = Code.HOSTILE_GRANT) -> None:
    """Raise `DeliveryError` if nothing must be sent to `url`.

    Refused: schemes other than http(s); http where the API itself is https; and the addresses of
    this host and of its link (cloud metadata) for an API elsewhere.
    """
    target, api = _split(url, code), _split(api_url, code)
    if target.scheme not in {"http", "https"} or not target.hostname:
        raise DeliveryError(Decision.PAUSE, code, "its url is not http(s)")
    # The form holds a signature, which nobody on the way may read.
    if target.scheme == "http" and api.scheme == "https" and not insecure:
        raise DeliveryError(Decision.PAUSE, code, "its url is http, the API's is https")
    api_host, address = api.hostname or "", _address(target.hostname)
    of_link = address is not None and (address.is_link_local or address.is_unspecified)
    if (of_link and address != _address(api_host)) or (
        _is_inward(target.hostname) and not _is_inward(api_host)
    ):
        raise DeliveryError(Decision.PAUSE, code, "its url leads back to this host or link")


def _split(url: str, code: Code) -> SplitResult:
    try:
        # `urlsplit` drops tabs and line breaks, so it may see another host than the HTTP client.
        parts = urlsplit(url)
        valid = url.isprintable() and url.isascii() and parts.port != 0
        # An IPv6 zone means a link of this host.
        valid = valid and "%" not in (parts.hostname or "")
    except ValueError as error:
        raise DeliveryError(Decision.PAUSE, code, f"its url is none: {error}") from error
    if not valid:
        raise DeliveryError(Decision.PAUSE, code, "its url is none")
    return parts


def _address(host: str) -> IPv4Address | IPv6Address | None:
    """Return the IP address that a host names in any of its spellings, or None."""
    try:
        # The resolver's own short forms: 127.1, 2130706433, 0x7f.0.0.1.
        return IPv4Address(socket.inet_aton(host))
    except OSError:
        pass
    try:
        address = ip_address(host.partition("%")[0])
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return mapped or address


def _is_inward(host: str) -> bool:
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and (
        address.is_loopback or address.is_link_local or address.is_unspecified
    )


def _is_plain(value: object) -> bool:
    if not isinstance(value, str) or any(c in value for c in "\r\n\0"):
        return False
    # JSON can hold half a surrogate pair, UTF-8 cannot.
    return not any("\ud800" <= c <= "\udfff" for c in value)


def _lifetime_s(policy: str, served_at: float) -> float:
    try:
        ends_at = datetime.fromisoformat(_policy(policy)["expiration"]).timestamp()
    except (ValueError, LookupError, TypeError, OverflowError):
        return GRANT_LIFETIME_S
    return ends_at - served_at


def _policy(encoded: str) -> dict[str, Any]:
    try:
        policy = json.loads(base64.b64decode(encoded))
    except (ValueError, RecursionError):
        return {}
    return policy if isinstance(policy, dict) else {}


def redirected(url: str, location: str, *, api_url: str, insecure: bool) -> str:
    """Return the url that a redirect of `url` to `location` leads to.

    Raises `DeliveryError` if the body must not follow. Followed: the same host, or https within
    the same registered domain. The global host of a new bucket answers 307 to its regional host
    until DNS has settled; the signed policy does not contain the host.
    """
    # A `location` that is no url fails the check.
    with suppress(ValueError):
        location = urljoin(url, location)
    check_url(location, api_url=api_url, insecure=insecure, code=Code.REDIRECT_REFUSED)
    if not related(location, url):
        parts = urlsplit(location)
        raise DeliveryError(
            Decision.PAUSE,
            Code.REDIRECT_REFUSED,
            f"redirected to another place: {parts.scheme}://{parts.hostname}",
        )
    return location


def related(url: str, other: str) -> bool:
    """Return whether two valid urls lead to one place.

    That is the same host; or the same registered domain, where `url` is https.
    """
    parts, other_parts = urlsplit(url), urlsplit(other)
    if parts.hostname == other_parts.hostname:
        return True
    same_domain = _domain(parts.hostname) == _domain(other_parts.hostname)
    return parts.scheme == "https" and same_domain


def download_url(body: bytes, *, near: str | None, api_url: str, insecure: bool) -> str:
    """Return the url in an answer to download_url.

    Raises `DeliveryError` if nothing must be requested there. `near`: a url of the bucket to whose
    place it must lead. The API must not make this host fetch a url of the local network.
    """
    # The whole answer is the url; upstream labels it as HTML.
    url = body.decode("ascii", "replace").strip()
    check_url(url, api_url=api_url, insecure=insecure)
    if near is not None and not related(url, near):
        problem = "its url leads to another place than the uploads"
        raise DeliveryError(Decision.PAUSE, Code.HOSTILE_GRANT, problem)
    return url


def bucket(grant: Grant) -> str | None:
    """Return the name of a grant's bucket; None if the policy does not name it.

    boto3 signs the bucket as a condition of the policy.
    """
    conditions = _policy(grant.fields.get("policy", "")).get("conditions")
    for condition in conditions if isinstance(conditions, list) else ():
        if isinstance(condition, dict) and isinstance(condition.get("bucket"), str):
            return str(condition["bucket"])
    return None


def _domain(host: str | None) -> list[str]:
    if _address(host or "") is not None:
        return [host or ""]
    labels = (host or "").lower().split(".")
    # Names are registered below co.in or gov.in, not below in.
    second_level = len(labels[-1]) == 2 and len(labels[-2:][0]) <= 3  # noqa: PLR2004
    return labels[-3:] if second_level else labels[-2:]
