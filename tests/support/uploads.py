"""Helpers that several tests share."""

from emitterd.model import Entry, Fingerprint


def entry(number: int, size_bytes: int = 1000, attempts: int = 0) -> Entry:
    """Return an entry as a worker holds it."""
    seen = Fingerprint(1, number, size_bytes, 1, 1)
    return Entry(number, b"pat/%d.zip" % number, seen, attempts, None, None, False)  # noqa: FBT003
