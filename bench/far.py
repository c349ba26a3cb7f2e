"""The handle of the far side: `sink` runs in another process, this gives it orders."""

from dataclasses import dataclass
from pathlib import Path

from handle import Handle
from sink import API_KEY

SHOWN = 3


class Lost(Exception):
    """What arrived is not what was sent: the benchmark proves nothing."""


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


class Far(Handle):
    """An emission API and a bucket in a process of their own; a context manager."""

    api_key = API_KEY

    def __init__(self) -> None:
        super().__init__([Path(__file__).with_name("sink.py")])
        self.url = str(self.ask({"reset": {}})["url"])

    def reset(self, **settings: object) -> None:
        """Forget all; behave so from now on. The names are those of `sink.Store`."""
        self.ask({"reset": settings})

    def arrived(self) -> Arrived:
        """Return what came since the last reset."""
        answer = self.ask({})
        del answer["url"]
        return Arrived(**answer)

    def stamps(self) -> dict[str, float]:
        """Return when the first byte of each file came, by the monotonic clock."""
        stamps: dict[str, float] = self.ask({"stamps": True})["stamps"]
        return stamps

    def check(self, digests: dict[str, str]) -> None:
        """Compare what is stored with what was sent, by name and digest.

        Raises `Lost`.
        """
        answer = self.ask({"objects": True})
        compare(digests, answer["objects"])
        if answer["doubled"] or answer["refused"]:
            raise Lost(f"{answer['doubled']} came twice, refused: {answer['refused']}")


def compare(wanted: dict[str, str], stored: dict[str, str]) -> None:
    """Raise `Lost` unless each name is there with its digest, and no other."""
    missing = sorted(wanted.keys() - stored.keys())
    strange = sorted(stored.keys() - wanted.keys())
    other = sorted(name for name in wanted.keys() & stored.keys() if wanted[name] != stored[name])
    if missing or strange or other:
        raise Lost(
            f"of {len(wanted)} files {len(missing)} are missing {missing[:SHOWN]},"
            f" {len(other)} differ {other[:SHOWN]}, {len(strange)} are strange"
            f" {strange[:SHOWN]}"
        )
