"""What the ingestion service says about the newest upload of a program: `file-status`.

The answer is not trusted: a count that is none counts as absent. Source: ingestion-ms 5.0.5.
"""

import json
from dataclasses import dataclass
from typing import Any

from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, Stage
from emitterd.text import printable

COUNT_MAX = 10**15
PID_MAX = 2**63 - 1
_UPLOADED = "Uploaded"
_FAILED = "Error"


def program_of(path: bytes) -> str:
    """Return the program of a path: the zip's name without `.zip`, in any folder."""
    base = path.rpartition(b"/")[2].decode("utf-8", "backslashreplace")
    return base.removesuffix(".zip")


@dataclass(frozen=True, slots=True)
class UploadStatus:
    """One upload: its pid, what became of it, and the counts of its rows, None where not given.

    A pid is higher than that of all earlier uploads.
    """

    pid: int
    state: str
    total: int | None
    processed: int | None
    failed: int | None

    @property
    def final(self) -> bool:
        """Whether the service has finished with it."""
        # The status comes with the counts. A count of 0 may be absent, but not all of them.
        counted = (self.total, self.processed, self.failed) != (None, None, None)
        return self.state.startswith(_FAILED) or (self.state == _UPLOADED and counted)

    @property
    def good(self) -> bool:
        """Whether the service has processed rows of it."""
        return self.final and self.state == _UPLOADED and bool(self.processed)

    def rows(self, program: str) -> dict[str, object]:
        """Return the counts as receipts have them."""
        accepted, dropped = self.processed or 0, self.failed or 0
        total = self.total if self.total is not None else accepted + dropped
        rows: dict[str, object] = {"total": total, "accepted": accepted, "dropped": dropped}
        return rows | {"errors_file": f"{program}_errors.csv"} if dropped else rows

    def error(self) -> DeliveryError:
        """Return what a final status without processed rows means."""
        total, processed, failed = (
            "none" if count is None else count
            for count in (self.total, self.processed, self.failed)
        )
        counts = f"total {total}, processed {processed}, errors {failed}"
        if self.state != _UPLOADED:
            reason = f"the file's status is {self.state}, {counts}"
            code, decision = Code.PROCESSING_FAILED, Decision.REFUSE
        else:
            reason = f"the server processed no row: {counts}"
            code, decision = Code.NOTHING_PROCESSED, Decision.REJECT
        return DeliveryError(decision, code, reason, stage=Stage.BUCKET)


def parse(body: bytes, program: str) -> UploadStatus:
    """Read an answer of `file-status` for a program. Raises `DeliveryError` if it is none."""
    record: Any = {}
    try:
        record = json.loads(body)["response"]
        pid, state = _pid(record["pid"]), record["file_status"]
        name = record.get("file_name", f"{program}.zip")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        pid = state = name = None
    if pid is None or not isinstance(state, str):
        reason = f"the answer to file-status about {program}.zip has no pid and file_status"
        raise DeliveryError(Decision.PAUSE, Code.MALFORMED_ANSWER, reason)
    if name != f"{program}.zip":
        reason = f"the answer to file-status about {program}.zip is about {name!s:.200}"
        raise DeliveryError(Decision.PAUSE, Code.MALFORMED_ANSWER, reason)
    names = ("total_data_count", "processed_data_count", "error_data_count")
    return UploadStatus(pid, printable(state)[:200], *(_count(record.get(name)) for name in names))


def _pid(value: object) -> int | None:
    """Return a number that the database of the service can have; None if it is none."""
    text = "" if isinstance(value, bool) or not isinstance(value, int | str) else str(value)
    is_number = text.isascii() and text.isdigit()
    return int(text) if is_number and 0 < int(text) <= PID_MAX else None


def _count(value: object) -> int | None:
    if isinstance(value, bool) or not isinstance(value, int | str):
        return None
    text = str(value).strip()
    return min(int(text[:16]), COUNT_MAX) if text.isascii() and text.isdigit() else None
