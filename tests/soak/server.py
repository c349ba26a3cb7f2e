"""The far side of a soak: a rehearsal server as a process of its own.

It obeys JSON orders, one a line on standard input, and answers each with a line.
`Far` is the other end of that line.
"""

import hashlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from emitterd.rehearsal.server import RehearsalServer
from handle import Handle
from support.faults import fault_list

GRANT_LIFETIME_S = 60.0
"""Short, so that grants pinned to files that wait do expire in a soak."""


@dataclass(frozen=True, slots=True)
class Stored:
    """An object of the bucket: what its bytes are, and how often it was posted."""

    sha256: str
    bytes: int
    md5: str
    posts: int


class Far(Handle):
    """A rehearsal server in another process; also a context manager."""

    def __init__(self, directory: Path, *, seed: int) -> None:
        super().__init__([__file__, directory, str(seed)])
        self.url = str(self.ask({})["url"])

    def set(self, menu: str, *, down: bool, revoke: bool) -> None:
        """Set the faults from now on."""
        self.ask({"menu": menu, "down": down, "revoke": revoke})

    def take(self, keys: list[str]) -> dict[str, Stored]:
        """Take objects out of the bucket; return those that were there."""
        taken = self.ask({"take": keys})["taken"]
        return {key: Stored(**facts) for key, facts in taken.items()}

    def left(self) -> list[str]:
        """Return the keys of all objects that are in the bucket."""
        return list(self.ask({"keys": True})["keys"])

    def counts(self) -> tuple[int, dict[str, int]]:
        """Return how many requests came so far, and how often each fault fired."""
        answer = self.ask({})
        return answer["requests"], answer["fired"]


class Desk:
    """Obeys the orders."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._seed = seed
        self._requests = 0
        self._server = RehearsalServer(directory, grant_lifetime_s=GRANT_LIFETIME_S)
        self._server.start()
        self._down = False

    def obey(self, order: dict[str, Any]) -> dict[str, object]:
        """Carry out one order; return the answer."""
        if "menu" in order:
            self._set(order)
        answer: dict[str, object] = {"url": self._server.url}
        if "take" in order:
            answer["taken"] = self._take(order["take"])
        if "keys" in order:
            answer["keys"] = list(self._server.objects)
        # The notes are of no use here, and would grow for as long as this runs.
        seen = len(self._server.requests)
        del self._server.requests[:seen]
        self._requests += seen
        return answer | {"requests": self._requests, "fired": dict(self._server.fired)}

    def _set(self, order: dict[str, Any]) -> None:
        self._seed += 1
        self._server.faults = fault_list(order["menu"], seed=self._seed)
        if order["revoke"]:
            self._server.logins.tokens.clear()
        if order["down"] is not self._down:
            self._down = order["down"]
            (self._server.stop if self._down else self._server.start)()

    def _take(self, keys: list[str]) -> dict[str, dict[str, object]]:
        taken = {}
        for key in keys:
            found = self._server.objects.pop(key, None)
            if found is None:
                continue
            with found.path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found.path.unlink()
            found.path.with_suffix(".json").unlink()
            stored = Stored(digest, found.size_bytes, found.md5, found.posts)
            taken[key] = asdict(stored)
        return taken


def main() -> None:
    """Serve until standard input ends."""
    desk = Desk(Path(sys.argv[1]), int(sys.argv[2]))
    for line in sys.stdin:
        print(json.dumps(desk.obey(json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
