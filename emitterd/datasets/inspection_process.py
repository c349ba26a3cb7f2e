"""Inspects a zip that arrives piece by piece, in a child process with limits.

`ReceivedZip` keeps in memory what an inspection reads, and no file. `InspectionProcess` runs
`python -m emitterd.datasets.inspection_process`: if a zip breaks the inspection, only the child
fails. The child has no environment, and writes nothing but its report.
"""

import json
import os
import pickle
import resource
import subprocess
import sys
from contextlib import suppress
from typing import Any, Self

from emitterd.codes import Code
from emitterd.datasets.inspection import Inspector, Report
from emitterd.datasets.zip_integrity import zip_flaw
from emitterd.interpreter import module_command
from emitterd.translation.text import text_from_record, text_record

BUDGET_MAX_BYTES = 16 * 1024**2
"""The largest budget of an inspection here, because each zip is kept in memory. A larger
`spool.inspection_budget` does not count."""

_TAIL_BYTES = 2 * 1024**2
"""Kept of the end: the zip's directory, and the small files in front of it."""

_HEAD_EXTRA_BYTES = 4 * 1024**2
"""Kept of the beginning beside the packed CSV: local headers, and what is read ahead."""

MEMORY_BYTES = 512 * 1024**2
"""Address space of the child. A usual inspection takes 60 MiB of it."""

CPU_S = 60
"""Processor time of the child. The kernel ends it after that, also if the daemon is gone."""


class ReceivedZip:
    """The first and the last bytes of a zip: what an inspection reads of it.

    They are in an anonymous file in memory, which is gone when the last process closes it, also
    after a crash. The middle of a large zip is not kept.
    """

    def __init__(self, budget_bytes: int) -> None:
        """`budget_bytes`: how much of the unpacked CSV will be read."""
        # What `zip_members.Content` reads of packed data that hardly unpacks to anything.
        self._head_bytes = 2 * budget_bytes + _HEAD_EXTRA_BYTES
        self._file = os.fdopen(os.memfd_create("zip"), "w+b")
        self._tail = bytearray()
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, chunk: bytes | memoryview) -> None:
        """Take the next bytes."""
        head = max(0, self._head_bytes - self.size_bytes)
        self._file.write(chunk[:head])
        self._tail += chunk[head:]
        if len(self._tail) > 2 * _TAIL_BYTES:
            del self._tail[:-_TAIL_BYTES]
        self.size_bytes += len(chunk)

    def finish(self) -> tuple[int, range]:
        """Put the last bytes in their place; return the descriptor, and what is missing."""
        tail_at = max(self.size_bytes - len(self._tail), 0)
        self._file.seek(tail_at)
        self._file.write(self._tail)
        self._file.flush()
        self._tail.clear()
        return self._file.fileno(), range(min(self._head_bytes, tail_at), tail_at)


class InspectionProcess:
    """A child that inspects a received zip; a context manager that ends it."""

    def __init__(
        self, inspector: Inspector, path: bytes, received: ReceivedZip, memory_bytes: int
    ) -> None:
        """Start the child. `path`: where the zip would be dropped. Raises `OSError`."""
        descriptor, missing = received.finish()
        order = (inspector, path, descriptor, received.size_bytes, missing, memory_bytes)
        # A file in memory: the child may not read it, and a pipe would make this wait.
        with os.fdopen(os.memfd_create("order"), "w+b") as stdin:
            pickle.dump(order, stdin)
            stdin.seek(0)
            self._process = subprocess.Popen(  # noqa: S603  our own command
                module_command(__name__),
                stdin=stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env={},
                cwd="/",
                pass_fds=(descriptor,),
            )
        assert self._process.stdout is not None  # noqa: S101  it is a pipe
        self.output = self._process.stdout
        """Has the report as JSON, and ends with the child. See `inspect_received`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.output.close()
        self._process.kill()
        self._process.wait()


class _MissingError(Exception):
    """The inspection reads what was not kept of the zip."""


def inspect_received(
    inspector: Inspector, path: bytes, descriptor: int, size_bytes: int, missing: range
) -> dict[str, Any]:
    """Return what the server would do with a zip at this path, ready for JSON.

    `verdict` is ok, warning or error; it is unknown if the inspection reads what is missing.
    `error`, `reason` and `hint`: why it is no whole zip. The other fields are as in `emitterd
    inspect --json`, with the number of columns in place of their names.
    """

    def read_at(offset: int, count: int) -> bytes:
        if offset < missing.stop and offset + count > missing.start and missing:
            raise _MissingError
        return os.pread(descriptor, count, offset)

    verdict, flaw, report = "error", None, Report()
    try:
        flaw = zip_flaw(read_at, size_bytes)
        if flaw is None:
            report = inspector.report(path, read_at, size_bytes)
            verdict = report.verdict
    except _MissingError:
        verdict = "unknown"
    dataset = inspector.dataset(path)
    return {
        "verdict": verdict,
        "dataset": dataset.title if dataset else None,
        "error": Code.INCOMPLETE if flaw else None,
        "reason": text_record(flaw or ""),
        "hint": text_record(Code.INCOMPLETE.remedy if flaw else ""),
        "csv": report.member,
        "columns": len(report.columns),
        "rows": report.rows,
        "whole": report.whole,
        "read_bytes": report.read_bytes,
        "findings": [
            {name: text_record(value) for name, value in finding.record().items()}
            for finding in report.findings
        ],
    }


def read_report(text: bytes) -> dict[str, Any]:
    """Return what `inspect_received` has returned, from the output of the child.

    Raises `ValueError` if the child has not come to its end.
    """
    record: dict[str, Any] = json.loads(text)
    record |= {name: text_from_record(record[name]) for name in ("reason", "hint")}
    for finding in record["findings"]:
        texts = finding.keys() - {"columns"}
        finding |= {name: text_from_record(finding[name]) for name in texts}
    return record


def _limit_resources() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    # The service's filter of system calls may forbid it: then one child has one core at most.
    with suppress(OSError):
        os.nice(19)


def main() -> int:
    """Inspect the zip that standard input names; print the report."""
    _limit_resources()
    # It comes from the daemon, not from the visitor.
    *order, memory_bytes = pickle.load(sys.stdin.buffer)  # noqa: S301
    resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, memory_bytes))
    sys.stdout.write(json.dumps(inspect_received(*order)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
