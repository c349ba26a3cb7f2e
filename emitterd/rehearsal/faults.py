"""The faults of the rehearsal server, and the syntax of `--fault`.

A list of faults is a text of items, separated by commas:

    name                    every eligible request
    name:0.2                each eligible request with probability 0.2
    name:0.2:5              the same, with the fault's parameter (see `FAULTS`)
    name@3                  exactly the first three eligible requests
    name@3:5                the same, with the parameter

Items of one stage are drawn in the order of the text; one fault a stage. A request is eligible only
if it would succeed at that stage without the fault.
"""

import random
import re
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NoReturn, Self

from starlette.responses import Response

from emitterd.model import WireProtocol
from emitterd.rehearsal.exchange import Exchange, RequestRecord, ServiceDied
from emitterd.rehearsal.responses import (
    API_ERROR,
    API_UNAVAILABLE,
    BAD_TOKEN,
    CAPTIVE_PORTAL,
    NO_ROLE,
    NO_ROUTE,
    RATE_LIMIT,
    SLOW_DOWN,
    UNAUTHORIZED,
    with_headers,
)

REGIONAL_PATH = "/bucket-regional/"
"""The target of a redirected upload."""
UPLOAD_PATH = "/api/ingestion/national_programs"
"""Where cQube 5 takes files."""


_FREQUENCY = re.compile(
    r"(?:@(?P<count>[0-9]+)|:(?P<probability>[0-9]*\.?[0-9]+))?"
    r"(?::(?P<parameter>[0-9]*\.?[0-9]+))?"
)


class FaultStage(StrEnum):
    """The step of a request at which a fault happens."""

    CONNECT = "connect"
    """The connection is reset; the fault's action is not called."""
    LOGIN = "login"
    TOKEN = "token"  # noqa: S105  a stage, no secret
    """At cQube 5, when the token of a request is checked."""
    GRANT = "grant"
    ARRIVAL = "arrival"
    """At the bucket or national_programs, before the body is read."""
    BODY = "body"
    """At the bucket or national_programs, after each chunk of the body."""
    REDIRECT = "redirect"
    """At the bucket, after the body was read, but not at the regional address."""
    REFUSE = "refuse"
    """At the bucket or national_programs, after the body was read: nothing is stored."""
    ANSWER = "answer"
    """At the bucket or national_programs, after the file was stored."""
    READ = "read"
    """At the lists and at download_url, after the token was checked."""
    LIST = "list"
    DOWNLOAD = "download"
    OBJECT = "object"
    """At the bucket, when an object that is there is fetched."""
    PROCESS = "process"
    """When the server takes a file out of the bucket; the fault's action is not called."""
    INGEST = "ingest"
    """When cQube 5 processes an accepted file; the fault's action is not called."""
    STATUS = "status"
    """At file-status of cQube 5, after the token was checked."""


_ONLY_EMISSION = frozenset(
    {
        FaultStage.GRANT,
        FaultStage.REDIRECT,
        FaultStage.READ,
        FaultStage.LIST,
        FaultStage.DOWNLOAD,
        FaultStage.OBJECT,
        FaultStage.PROCESS,
    }
)
_ONLY_INGESTION = frozenset({FaultStage.TOKEN, FaultStage.INGEST, FaultStage.STATUS})


FaultAction = Callable[[Exchange, float | None, Response], Awaitable[Response | None]]
"""What a fault does. Arguments: the exchange, the fault's parameter, and the right response (an
empty one where there is none yet). It returns the response to send instead, or None if it has dealt
with the connection itself. At the stage BODY the result is ignored."""


@dataclass(frozen=True, slots=True)
class FaultKind:
    """One kind of fault: its stage, effect, action, and what its parameter means."""

    stage: FaultStage
    effect: str
    action: FaultAction
    parameter: str = ""
    default: float | None = None


def respond(response: Response) -> FaultAction:
    """Return an action that responds with this; a parameter becomes Retry-After."""

    async def action(_: Exchange, parameter: float | None, __: Response) -> Response:
        if parameter is None:
            return response
        return with_headers(response, {"Retry-After": f"{parameter:g}"})

    return action


async def delay(exchange: Exchange, seconds: float | None, response: Response) -> Response:
    """Respond right, but late."""
    await exchange.connection.wait(seconds or 0)
    return response


async def _black_hole(exchange: Exchange, seconds: float | None, _: Response) -> None:
    exchange.connection.pause_reading()
    await exchange.connection.wait(seconds or 0)
    exchange.reset()


async def _die(_: Exchange, down_s: float | None, __: Response) -> NoReturn:
    raise ServiceDied(down_s)


async def _die_in_body(exchange: Exchange, down_s: float | None, _: Response) -> None:
    if exchange.record.bytes >= (exchange.length_bytes or 0) // 2:
        raise ServiceDied(down_s)


async def _unavailable(
    exchange: Exchange, retry_after_s: float | None, _: Response
) -> Response | None:
    response = API_UNAVAILABLE if exchange.path == UPLOAD_PATH else SLOW_DOWN
    return await respond(response)(exchange, retry_after_s, response)


async def _close(exchange: Exchange, _: float | None, __: Response) -> None:
    exchange.connection.transport.close()


async def _never(_: Exchange, __: float | None, response: Response) -> Response:
    return response


async def _read_slowly(exchange: Exchange, bytes_s: float | None, _: Response) -> None:
    exchange.connection.pause_reading()
    await exchange.connection.wait(exchange.last_chunk_bytes / max(bytes_s or 0, 1))


async def _reset(exchange: Exchange, limit_bytes: float | None, _: Response) -> None:
    length_bytes = exchange.length_bytes or 0
    limit_bytes = length_bytes // 2 if limit_bytes is None else limit_bytes
    if exchange.record.bytes >= min(limit_bytes, length_bytes):
        exchange.reset()


RETRY_AFTER = "Retry-After in seconds"
_DOWN = "seconds until the service is up again"

FAULTS: dict[str, FaultKind] = {
    "reset-connect": FaultKind(FaultStage.CONNECT, "the connection is reset once accepted", _reset),
    "429": FaultKind(
        FaultStage.GRANT, "upload-url answers 429", respond(RATE_LIMIT), RETRY_AFTER, 1
    ),
    "api-503": FaultKind(
        FaultStage.GRANT, "upload-url answers 503", respond(API_UNAVAILABLE), RETRY_AFTER
    ),
    "reset": FaultKind(
        FaultStage.BODY,
        "the connection is reset in mid-body",
        _reset,
        "body bytes to read first (default: half of them)",
    ),
    "slow-reader": FaultKind(
        FaultStage.BODY, "the body is read slowly", _read_slowly, "bytes a second", 10_240
    ),
    "black-hole": FaultKind(
        FaultStage.ARRIVAL,
        "the body is not read and no answer comes",
        _black_hole,
        "seconds until the connection is reset",
        600,
    ),
    "503": FaultKind(
        FaultStage.REFUSE,
        "the upload is answered with 503; the bucket adds SlowDown",
        _unavailable,
        RETRY_AFTER,
    ),
    "captive-portal": FaultKind(
        FaultStage.REFUSE, "a web page instead of the upload's answer", respond(CAPTIVE_PORTAL)
    ),
    "lost-answer": FaultKind(FaultStage.ANSWER, "stored, then closed without an answer", _close),
    "slow-answer": FaultKind(FaultStage.ANSWER, "stored, answered late", delay, "seconds", 5),
    "no-role": FaultKind(
        FaultStage.READ,
        "lists and download_url refuse the user's role, as in cQube 1.3 to 1.6",
        respond(NO_ROLE),
    ),
    "no-lists": FaultKind(
        FaultStage.READ, "lists and download_url do not exist, as in cQube 1.0", respond(NO_ROUTE)
    ),
    "read-500": FaultKind(FaultStage.READ, "lists and download_url answer 500", respond(API_ERROR)),
    "drop-file": FaultKind(
        FaultStage.PROCESS, "the server drops the whole file and does not say why", _never
    ),
    "drop-rows": FaultKind(
        FaultStage.PROCESS, "the server drops rows as duplicates", _never, "number of rows", 1
    ),
    "no-log": FaultKind(
        FaultStage.PROCESS, "the file leaves the bucket, and no log mentions it", _never
    ),
    "no-login": FaultKind(FaultStage.LOGIN, "the login answers 401", respond(UNAUTHORIZED)),
    "bad-token": FaultKind(
        FaultStage.TOKEN, "the token of a request is refused with 401", respond(BAD_TOKEN)
    ),
    "die-upload": FaultKind(
        FaultStage.BODY, "the service stops after half of the body", _die_in_body, _DOWN
    ),
    "die-before-answer": FaultKind(
        FaultStage.ANSWER,
        "the file is stored, then the service stops without an answer",
        _die,
        _DOWN,
    ),
    "die-processing": FaultKind(
        FaultStage.INGEST, "the service stops after its answer, and the file is lost", _never, _DOWN
    ),
    "die-status": FaultKind(
        FaultStage.STATUS, "the service stops when file-status is requested", _die, _DOWN
    ),
    "status-503": FaultKind(
        FaultStage.STATUS, "file-status answers 503", respond(API_UNAVAILABLE), RETRY_AFTER
    ),
    "endless": FaultKind(FaultStage.INGEST, "processing never ends", _never),
    "status-error": FaultKind(FaultStage.INGEST, "processing ends with an error", _never),
    "error-rows": FaultKind(
        FaultStage.INGEST, "the service refuses rows", _never, "number of rows", 1
    ),
    "no-rows": FaultKind(
        FaultStage.INGEST, "processing ends well, and no row was processed", _never
    ),
}
"""The faults that an operator can order, by name. The command line lists them."""


def kinds_of(protocol: WireProtocol) -> dict[str, FaultKind]:
    """Return the faults that can happen with a protocol, by name."""
    absent = _ONLY_EMISSION if protocol == "ingestion" else _ONLY_INGESTION
    return {name: kind for name, kind in FAULTS.items() if kind.stage not in absent}


class FaultListError(ValueError):
    """The text of a list of faults is wrong; the message says where."""


@dataclass(slots=True)
class Fault:
    """A fault in a list; `parameter` as its kind says.

    It strikes with a probability, or the `left` next requests if that is a number.
    """

    name: str
    kind: FaultKind
    parameter: float | None
    probability: float = 1.0
    left: int | None = None


class FaultList:
    """Which faults happen, and how often. The server draws in its thread only."""

    def __init__(self, faults: Iterable[Fault] = (), *, seed: int | None = None) -> None:
        self._faults = list(faults)
        self._random = random.Random(seed)  # noqa: S311  faults, not secrets

    @classmethod
    def parse(
        cls, text: str, *, kinds: Mapping[str, FaultKind] = FAULTS, seed: int | None = None
    ) -> Self:
        """Read a list of these kinds; equal `seed` and requests give equal faults.

        Raises `FaultListError` naming the item that cannot be read.
        """
        parts = (part.strip() for part in text.split(","))
        return cls([_parse_item(part, kinds) for part in parts if part], seed=seed)

    def draw(self, stage: FaultStage) -> Fault | None:
        """Draw the fault, if any, for one request that is at `stage`."""
        for fault in self._faults:
            if fault.kind.stage is stage and self._strikes(fault):
                return fault
        return None

    def _strikes(self, fault: Fault) -> bool:
        if fault.left is None:
            return self._random.random() < fault.probability
        fault.left -= 1
        return fault.left >= 0


@dataclass(slots=True)
class FaultInjector:
    """Draws the faults of one server; `fired` counts those that happened.

    `fault_list` is called for each fault.
    """

    fault_list: Callable[[], FaultList]
    fired: Counter[str] = field(default_factory=Counter)

    def draw(self, record: RequestRecord | None, stage: FaultStage) -> Fault | None:
        """Return the fault of this request at this stage, and record it."""
        fault = self.fault_list().draw(stage)
        if fault is not None:
            if record is not None:
                record.fault = fault.name
            self.fired[fault.name] += 1
        return fault

    async def apply(
        self, exchange: Exchange, stage: FaultStage, response: Response
    ) -> Response | None:
        """Return the response, or what a fault of this stage makes of it."""
        fault = self.draw(exchange.record, stage)
        if fault is None:
            return response
        return await fault.kind.action(exchange, fault.parameter, response)


def _parse_item(text: str, kinds: Mapping[str, FaultKind]) -> Fault:
    name = re.split("[:@]", text, maxsplit=1)[0]
    kind = kinds.get(name)
    if kind is None:
        known = ", ".join(sorted(kinds))
        raise FaultListError(f"unknown fault {name!r}; the known ones are: {known}")
    match = _FREQUENCY.fullmatch(text.removeprefix(name))
    if match is None or float(match["probability"] or 1) > 1:
        raise FaultListError(
            f"{text!r} is not of the form NAME, NAME:PROBABILITY[:PARAMETER] or"
            " NAME@COUNT[:PARAMETER]; a probability is from 0 to 1"
        )
    return Fault(
        name,
        kind,
        float(match["parameter"]) if match["parameter"] else kind.default,
        float(match["probability"] or 1),
        int(match["count"]) if match["count"] else None,
    )
