"""The rehearsal server's menu of faults, parsed from text.

A menu is a list of items, separated by commas:

    name                    every eligible request
    name:0.2                each eligible request with probability 0.2
    name:0.2:5              the same, with the fault's parameter (`FAULTS` says which)
    name@3                  exactly the first three eligible requests
    name@3:5                the same, with the parameter

Items of one stage are drawn in the order of the text; one fault a stage. A request
is eligible only if it would succeed at that stage without the fault.
"""

import random
import threading
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import StrEnum
from typing import Self


class FaultStage(StrEnum):
    """Where on a request's way a fault strikes."""

    CONNECT = "connect"
    LOGIN = "login"
    GRANT = "grant"
    BODY = "body"
    """At the bucket, before or while the body is read."""
    REFUSE = "refuse"
    """At the bucket, after the body was read: nothing is stored."""
    ANSWER = "answer"
    """At the bucket, after the object was stored."""
    DOWNLOAD = "download"
    OBJECT = "object"
    """At the bucket, when an object that is there is fetched."""


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One fault on offer: its stage, what happens, and what its parameter means."""

    stage: FaultStage
    effect: str
    parameter: str = ""
    default: float | None = None


_RETRY_AFTER = "Retry-After in seconds"

FAULTS: dict[str, FaultKind] = {
    "reset-connect": FaultKind(
        FaultStage.CONNECT, "the connection is reset once accepted"
    ),
    "auth-error": FaultKind(FaultStage.LOGIN, "the login answers 200 with an error"),
    "auth-500": FaultKind(FaultStage.LOGIN, "the login answers 500"),
    "429": FaultKind(FaultStage.GRANT, "upload-url answers 429", _RETRY_AFTER, 1),
    "api-500": FaultKind(FaultStage.GRANT, "upload-url answers 500"),
    "api-503": FaultKind(FaultStage.GRANT, "upload-url answers 503", _RETRY_AFTER),
    "api-401": FaultKind(FaultStage.GRANT, "upload-url refuses a valid token"),
    "api-captive-portal": FaultKind(
        FaultStage.GRANT, "upload-url answers 200 with a web page"
    ),
    "slow-grant": FaultKind(FaultStage.GRANT, "upload-url answers late", "seconds", 1),
    "malformed-grant": FaultKind(FaultStage.GRANT, "the grant is not JSON"),
    "grant-missing-fields": FaultKind(
        FaultStage.GRANT, "the grant has a key and nothing else"
    ),
    "huge-grant": FaultKind(FaultStage.GRANT, "the grant is 10 MB of JSON"),
    "deep-grant": FaultKind(FaultStage.GRANT, "the grant is nested 100,000 deep"),
    "hostile-grant": FaultKind(
        FaultStage.GRANT, "the grant's url is file:///etc/passwd"
    ),
    "hostile-link-local": FaultKind(
        FaultStage.GRANT, "the grant's url is http://169.254.169.254/"
    ),
    "early-403": FaultKind(FaultStage.BODY, "403 before the body is read, and closed"),
    "reset": FaultKind(
        FaultStage.BODY,
        "the connection is reset in mid-body",
        "body bytes to read first (default: half of them)",
    ),
    "slow-reader": FaultKind(
        FaultStage.BODY, "the body is read slowly", "bytes a second", 10_240
    ),
    "black-hole": FaultKind(
        FaultStage.BODY,
        "the body is not read and no answer comes",
        "seconds until the connection is reset",
        600,
    ),
    "503": FaultKind(
        FaultStage.REFUSE, "the bucket answers 503 SlowDown", _RETRY_AFTER
    ),
    "500": FaultKind(FaultStage.REFUSE, "the bucket answers 500 InternalError"),
    "expired": FaultKind(FaultStage.REFUSE, "the bucket calls a valid policy expired"),
    "signature": FaultKind(
        FaultStage.REFUSE, "the bucket answers SignatureDoesNotMatch"
    ),
    "no-such-bucket": FaultKind(FaultStage.REFUSE, "the bucket answers NoSuchBucket"),
    "too-large": FaultKind(FaultStage.REFUSE, "the bucket answers EntityTooLarge"),
    "request-timeout": FaultKind(
        FaultStage.REFUSE, "the bucket answers RequestTimeout"
    ),
    "captive-portal": FaultKind(
        FaultStage.REFUSE, "a web page instead of the bucket's answer"
    ),
    "redirect": FaultKind(FaultStage.REFUSE, "307 to /bucket-regional/, which accepts"),
    "redirect-foreign": FaultKind(FaultStage.REFUSE, "307 to http://other.invalid/"),
    "lost-answer": FaultKind(
        FaultStage.ANSWER, "stored, then closed without an answer"
    ),
    "truncated-answer": FaultKind(FaultStage.ANSWER, "stored, then half an answer"),
    "garbage": FaultKind(FaultStage.ANSWER, "stored, then an answer that is not HTTP"),
    "wrong-etag": FaultKind(FaultStage.ANSWER, "stored, answered with another MD5"),
    "non-md5-etag": FaultKind(
        FaultStage.ANSWER, "stored, answered with an ETag of a multipart"
    ),
    "kms-etag": FaultKind(
        FaultStage.ANSWER, "stored, encrypted with a key of KMS: no MD5"
    ),
    "slow-answer": FaultKind(FaultStage.ANSWER, "stored, answered late", "seconds", 5),
    "dribble": FaultKind(
        FaultStage.ANSWER, "stored, answered byte by byte", "seconds a byte", 0.5
    ),
    "no-download": FaultKind(
        FaultStage.DOWNLOAD, "download_url has no route, as in cQube 1.0"
    ),
    "download-401": FaultKind(
        FaultStage.DOWNLOAD, "download_url refuses the user's role, as in 1.1 to 1.6"
    ),
    "download-503": FaultKind(
        FaultStage.DOWNLOAD, "download_url answers 503", _RETRY_AFTER
    ),
    "hostile-download": FaultKind(
        FaultStage.DOWNLOAD, "the download's url is http://169.254.169.254/"
    ),
    "object-403": FaultKind(
        FaultStage.OBJECT, "the bucket refuses the download: AccessDenied"
    ),
    "object-503": FaultKind(
        FaultStage.OBJECT, "the bucket answers the download with SlowDown", _RETRY_AFTER
    ),
}
"""All faults, by name. The command line and the documents list them from here."""


class FaultMenuError(ValueError):
    """The text of a fault menu is wrong; the message says where."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault that was drawn: it has to happen now. `parameter` as `FAULTS` says."""

    name: str
    parameter: float | None


@dataclass(slots=True)
class _Item:
    fault: Fault
    stage: FaultStage
    probability: float
    left: int | None


class FaultMenu:
    """Which faults happen, and how often; safe to draw from in several threads."""

    def __init__(self, items: Iterable[_Item] = (), *, seed: int | None = None) -> None:
        self._items = list(items)
        self._random = random.Random(seed)  # noqa: S311  faults, not secrets
        self._lock = threading.Lock()

    @classmethod
    def parse(cls, text: str, *, seed: int | None = None) -> Self:
        """Read a menu; the same `seed` and requests give the same faults.

        Raise `FaultMenuError` naming the item that cannot be read.
        """
        parts = (part.strip() for part in text.split(","))
        return cls([_parse_item(part) for part in parts if part], seed=seed)

    def draw(self, stage: FaultStage, *, but: Collection[str] = ()) -> Fault | None:
        """Draw for one request that is at `stage`; never one of the names in `but`."""
        with self._lock:
            for item in self._items:
                eligible = item.stage is stage and item.fault.name not in but
                if eligible and self._strikes(item):
                    return item.fault
        return None

    def _strikes(self, item: _Item) -> bool:
        if item.left is None:
            return self._random.random() < item.probability
        item.left -= 1
        return item.left >= 0


def _parse_item(text: str) -> _Item:
    head, *rest = text.split(":")
    name, counted, count = head.partition("@")
    kind = FAULTS.get(name)
    if kind is None:
        known = ", ".join(sorted(FAULTS))
        raise FaultMenuError(f"unknown fault {name!r}; the known ones are: {known}")
    chance = "1" if counted or not rest else rest.pop(0)
    if len(rest) > 1:
        raise FaultMenuError(f"{text!r}: too many colons")
    probability = _number(text, "probability", chance)
    if probability > 1:
        raise FaultMenuError(f"{text!r}: the probability must be between 0 and 1")
    parameter = _number(text, "parameter", rest[0]) if rest else kind.default
    left = _count(text, count) if counted else None
    return _Item(Fault(name, parameter), kind.stage, probability, left)


def _number(item: str, what: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number < float("inf"):
        raise FaultMenuError(f"{item!r}: the {what} {text!r} is not a number from 0 up")
    return number


def _count(item: str, text: str) -> int:
    if not (text.isascii() and text.isdecimal()):
        raise FaultMenuError(f"{item!r}: {text!r} after @ is not a whole number")
    return int(text)
