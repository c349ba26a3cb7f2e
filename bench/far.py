"""The handle of the far side: `sink` runs in another process, this gives it orders."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from sink import API_KEY

SHOWN = 3


class Lost(Exception):
    """What arrived is not what was to arrive: the benchmark says nothing."""


@dataclass(frozen=True, slots=True)
class Arrived:
    """What came so far. Instants: seconds since the epoch."""

    requests: int
    granted: int
    stored: int
    doubled: int
    refused: list[str]
    first_at: float
    posted_at: float
    last_at: float


class Far:
    """An emission API and a bucket in a process of their own; a context manager."""

    api_key = API_KEY

    def __init__(self) -> None:
        self._process = subprocess.Popen(  # noqa: S603  our own command line
            [sys.executable, Path(__file__).with_name("sink.py")],
            env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.url = str(self._ask({"reset": {}})["url"])

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        problem: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Its standard input ends, and so does it.
        self._process.communicate()

    def reset(self, **settings: object) -> None:
        """Forget all; behave so from now on. The names are those of `sink.Store`."""
        self._ask({"reset": settings})

    def arrived(self) -> Arrived:
        """Return what came since the last reset."""
        answer = self._ask({})
        del answer["url"]
        return Arrived(**answer)

    def stamps(self) -> dict[str, float]:
        """Return when the first byte of each file came, by the monotonic clock."""
        stamps: dict[str, float] = self._ask({"stamps": True})["stamps"]
        return stamps

    def check(self, digests: dict[str, str]) -> None:
        """Hold what is stored against what was to come, by name and digest.

        Raises `Lost`.
        """
        answer = self._ask({"objects": True})
        compare(digests, answer["objects"])
        if answer["doubled"] or answer["refused"]:
            raise Lost(f"{answer['doubled']} came twice, refused: {answer['refused']}")

    def _ask(self, order: dict[str, object]) -> dict[str, Any]:
        if self._process.stdin is None or self._process.stdout is None:
            raise RuntimeError("the far side's lines are not open")
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the far side ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def compare(wanted: dict[str, str], stored: dict[str, str]) -> None:
    """Raise `Lost` unless each name is there with its digest, and no other."""
    missing = sorted(wanted.keys() - stored.keys())
    strange = sorted(stored.keys() - wanted.keys())
    other = sorted(
        name for name in wanted.keys() & stored.keys() if wanted[name] != stored[name]
    )
    if missing or strange or other:
        raise Lost(
            f"of {len(wanted)} files {len(missing)} are missing {missing[:SHOWN]},"
            f" {len(other)} differ {other[:SHOWN]}, {len(strange)} are strange"
            f" {strange[:SHOWN]}"
        )
