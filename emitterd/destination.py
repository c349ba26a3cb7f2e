"""Whether the destination is up: trouble of its own parks everything behind a probe.

Pure but for its lock: `now` is passed in. While it is down one worker at a time may
try one entry; that attempt is the probe, and its outcome opens the gate or sets the
next probe's time.
"""

import threading
from collections.abc import Collection
from dataclasses import dataclass, replace
from enum import StrEnum

from emitterd.backoff import RETRY_AFTER_CAP_S, Backoff
from emitterd.codes import Code
from emitterd.errors import Trouble

LOGIN_FLOOR_S = 60.0
LOGIN_CEILING_S = 900.0
"""A refused login is probed this slowly: upstream's Keycloak locks an account after
five failures, for 60 s growing to 900 s."""

STREAK = 4
"""This many passing failures in a row are trouble of the destination."""


class Leave(StrEnum):
    """What a worker may do now."""

    GO = "go"
    PROBE = "probe"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Down:
    """Why, since when, and until when the destination is parked."""

    code: Code
    reason: str
    hint: str
    since: float
    probe_at: float


class Destination:
    """The gate before every claim. Thread-safe."""

    def __init__(self, backoff: Backoff, *, streak: int = STREAK) -> None:
        """`streak`: at least the number of workers, or one bad moment parks all."""
        self._lock = threading.Lock()
        self.telling = threading.Lock()
        """Held around a change and the line that tells of it: lines keep the order."""
        self._down: Down | None = None
        self._probing = False
        self._probes = 0
        self._streak = 0
        self.adopt(backoff, streak=streak)

    def adopt(self, backoff: Backoff, *, streak: int) -> None:
        """Go by another rule from now on; a probe that is due already stays so."""
        with self._lock:
            self._backoff = backoff
            self._longest_s = RETRY_AFTER_CAP_S + max(backoff.max_s, LOGIN_CEILING_S)
            self._streak_max = max(streak, STREAK)

    @property
    def backoff(self) -> Backoff:
        """The rule by which what fails is put off."""
        return self._backoff

    @property
    def down(self) -> Down | None:
        """The trouble, or None while the destination is up."""
        return self._down

    def hasten(self, codes: Collection[Code], now: float) -> bool:
        """Have it probed now if it is down for one of these; return whether it is."""
        with self._lock:
            if self._down is None or self._down.code not in codes:
                return False
            self._down = replace(self._down, probe_at=now)
            return True

    def ask(self, now: float) -> tuple[Leave, float]:
        """Return what a worker may do, and for WAIT how long, in seconds."""
        with self._lock:
            if self._down is None:
                return Leave.GO, 0.0
            wait_s = self._down.probe_at - now
            if wait_s > self._longest_s:
                # The clock was set back since: nothing waits longer than that.
                wait_s = 0.0
            if self._probing:
                return Leave.WAIT, max(wait_s, 1.0)
            if wait_s > 0:
                return Leave.WAIT, wait_s
            self._probing = True
            return Leave.PROBE, 0.0

    def passed(self) -> None:
        """Note an attempt, or a look, that says nothing about the destination."""
        with self._lock:
            self._probing = False

    def answered(self) -> Down | None:
        """Note a definite answer; return the trouble that it ends, if any."""
        with self._lock:
            ended, self._down = self._down, None
            self._probing, self._probes, self._streak = False, 0, 0
            return ended

    def deferred(self, trouble: Trouble, now: float) -> Down | None:
        """Note a passing failure; a streak of them parks. Return a change, if any."""
        with self._lock:
            self._streak += 1
            if self._streak < self._streak_max and self._down is None:
                return None
            return self._park(trouble, now)

    def parked(self, trouble: Trouble, now: float) -> Down | None:
        """Note trouble of the destination; return it if that is news."""
        with self._lock:
            return self._park(trouble, now)

    def _park(self, trouble: Trouble, now: float) -> Down | None:
        # A worker that was under way when another parked brings no news, and must
        # not lengthen the wait.
        late = self._down is not None and not self._probing
        # The first digit says where the trouble lies; a line that breaks in another
        # way at each probe is one outage.
        news = self._down is None or self._down.code[:2] != trouble.code[:2]
        since = self._down.since if self._down is not None else now
        if late and self._down is not None:
            return None
        self._probes += 1
        self._probing = False
        self._down = Down(
            trouble.code,
            trouble.reason,
            trouble.hint,
            since,
            self._probe_at(trouble, now),
        )
        return self._down if news else None

    def _probe_at(self, trouble: Trouble, now: float) -> float:
        due_at = self._backoff.due_at(now, self._probes, trouble.retry_after_s)
        if trouble.code is Code.CREDENTIALS:
            floor_s = LOGIN_FLOOR_S * 2.0 ** min(self._probes - 1, 8)
            due_at = max(due_at, now + min(floor_s, LOGIN_CEILING_S))
        return due_at
