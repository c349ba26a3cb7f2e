"""What `POST /upload-url` answered, checked before a byte is sent to where it says."""

import base64
import json
import re
import socket
from datetime import datetime
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import Any
from urllib.parse import SplitResult, urljoin, urlsplit

from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.model import Grant

GRANT_LIFETIME_S = 3600.0
"""What upstream's server gives (boto3 `ExpiresIn`), where the policy does not say."""

EXPIRY_MARGIN_S = 30.0
"""A grant this close to its end is not used: the policy is tested when the bucket
begins to read, which on a slow line is a while after the request began."""

ANSWER_MAX_BYTES = 256 * 1024


def remote_name(path: bytes) -> str:
    """Return the name under which the server is asked for a grant.

    The path relative to the watched folder, with `/`: the server routes by it. Bytes
    that are not UTF-8 cannot stand in JSON, and control characters would break lines
    wherever the key is listed: both are percent-encoded.
    """
    text = path.decode("utf-8", "surrogateescape")
    escaped = text.translate(_PERCENT)
    if escaped == text and not _LOOKS_ESCAPED.search(text):
        return text
    # Else `a<newline>.zip` and a file called `a%0A.zip` would share one object.
    return text.replace("%", "%25").translate(_PERCENT)


_LOOKS_ESCAPED = re.compile("%[0-9A-Fa-f]{2}")
_PERCENT = {0xDC00 + byte: f"%{byte:02X}" for byte in range(0x80, 0x100)} | {
    byte: f"%{byte:02X}" for byte in (*range(0x20), 0x7F)
}


def parse(
    body: bytes, *, api_url: str, insecure: bool, now: float, served_at: float | None
) -> Grant:
    """Return the grant in an answer of the emission API.

    `served_at` is the answer's `Date` header in seconds since the epoch: the grant's
    end is reckoned by the server's clock, so a wrong clock here does not matter.

    Raises `DeliveryError` (PARK) where this is no grant, or its url is not allowed.
    """
    answer = _json(body)
    url, fields = answer.get("url"), answer.get("fields")
    if not isinstance(url, str) or not isinstance(fields, dict):
        raise _malformed("it has no url and fields")
    if not all(_plain(name) and _plain(value) for name, value in fields.items()):
        raise _malformed("its fields are not plain strings")
    if not fields.get("key"):
        raise _malformed("its fields hold no key")
    if not fields.get("policy"):
        raise _malformed("its fields hold no policy")
    check_url(url, api_url=api_url, insecure=insecure)
    lifetime_s = _lifetime_s(fields.get("policy", ""), served_at or now)
    return Grant(url, dict(fields), now, now + lifetime_s, api_url)


def check_url(
    url: str, *, api_url: str, insecure: bool, code: Code = Code.HOSTILE_GRANT
) -> None:
    """Raise `DeliveryError` where nothing is to be sent to `url`.

    Refused: other schemes than http(s), http where the API itself is https, and the
    addresses of this host and of its link (cloud metadata) for an API elsewhere.
    """
    place, api = _split(url, code), _split(api_url, code)
    if place.scheme not in {"http", "https"} or not place.hostname:
        raise DeliveryError(Decision.PAUSE, code, "its url is not http(s)")
    if place.scheme == "http" and api.scheme == "https" and not insecure:
        raise DeliveryError(Decision.PAUSE, code, "its url is http, the API's is https")
    here, there = _address(api.hostname or ""), _address(place.hostname)
    linked = there is not None and (there.is_link_local or there.is_unspecified)
    if linked and there != here:
        raise DeliveryError(Decision.PAUSE, code, "its url is an address of the link")
    if _inward(place.hostname) and not _inward(api.hostname or ""):
        raise DeliveryError(
            Decision.PAUSE, code, "its url leads back to this host or link"
        )


def _split(url: str, code: Code) -> SplitResult:
    try:
        place = urlsplit(url)
        sound = url.isprintable() and url.isascii() and place.port != 0
    except ValueError as error:
        raise DeliveryError(
            Decision.PAUSE, code, f"its url is none: {error}"
        ) from error
    if not sound:
        raise DeliveryError(Decision.PAUSE, code, "its url is none")
    return place


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


def _inward(host: str) -> bool:
    host = host.lower().rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and (
        address.is_loopback or address.is_link_local or address.is_unspecified
    )


def _json(body: bytes) -> dict[str, object]:
    try:
        answer = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise _malformed("it is not JSON") from error
    if not isinstance(answer, dict):
        raise _malformed("it is not a JSON object")
    return answer


def _plain(value: object) -> bool:
    if not isinstance(value, str) or any(c in value for c in "\r\n\0"):
        return False
    # JSON can hold half a surrogate pair, UTF-8 cannot.
    return not any("\ud800" <= c <= "\udfff" for c in value)


def _malformed(reason: str) -> DeliveryError:
    return DeliveryError(
        Decision.PAUSE, Code.MALFORMED_ANSWER, f"the answer to upload-url: {reason}"
    )


def _lifetime_s(policy: str, served_at: float) -> float:
    """Return how long the policy holds, in seconds from the moment it was served."""
    try:
        ends_at = datetime.fromisoformat(_policy(policy)["expiration"]).timestamp()
    except (ValueError, LookupError, TypeError, OverflowError):
        return GRANT_LIFETIME_S
    return ends_at - served_at


def _policy(encoded: str) -> dict[str, Any]:
    """Return what a policy says; empty where it cannot be read."""
    try:
        policy = json.loads(base64.b64decode(encoded))
    except (ValueError, RecursionError):
        return {}
    return policy if isinstance(policy, dict) else {}


def refuse_redirect(location: str, *, url: str, api_url: str, insecure: bool) -> None:
    """Raise `DeliveryError` where a redirected body is not to follow.

    Followed: the same host, or https within the same registered domain. A new
    bucket's global host answers 307 to its regional host until DNS has settled; the
    host is no part of the signed policy.
    """
    check_url(location, api_url=api_url, insecure=insecure, code=Code.REDIRECT_REFUSED)
    if not related(location, url):
        there = urlsplit(location)
        raise DeliveryError(
            Decision.PAUSE,
            Code.REDIRECT_REFUSED,
            f"redirected to another place: {there.scheme}://{there.hostname}",
        )


def joined(url: str, location: str) -> str:
    """Return where a redirect leads; as it stands where it is no url at all."""
    try:
        return urljoin(url, location)
    except ValueError:
        return location


def related(url: str, other: str) -> bool:
    """Tell whether two sound urls lead to one place.

    The same host, or `url` is https and their registered domain the same.
    """
    there, here = urlsplit(url), urlsplit(other)
    if there.hostname == here.hostname:
        return True
    same_domain = _domain(there.hostname) == _domain(here.hostname)
    return there.scheme == "https" and same_domain


def bucket(grant: Grant) -> str | None:
    """Return the name of the bucket that a grant is for; None where it is not told.

    The policy names it: boto3 signs the bucket as a condition of its own.
    """
    conditions = _policy(grant.fields.get("policy", "")).get("conditions")
    for one in conditions if isinstance(conditions, list) else ():
        if isinstance(one, dict) and isinstance(one.get("bucket"), str):
            return str(one["bucket"])
    return None


def _domain(host: str | None) -> list[str]:
    if _address(host or "") is not None:
        return [host or ""]
    labels = (host or "").lower().split(".")
    # Names are registered below co.in or gov.in, not below in.
    second_level = len(labels[-1]) == 2 and len(labels[-2:][0]) <= 3  # noqa: PLR2004
    return labels[-3:] if second_level else labels[-2:]
