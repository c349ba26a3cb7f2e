"""The one list of alarms: for `/healthz`, `status --check`, metrics and page.

Missing progress is an alarm too, because a queue that hangs logs nothing. A new alarm needs an
`AlarmCode` and a row in docs/monitoring.md. Does no I/O. Instants: epoch seconds; limits: seconds.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from emitterd.codes import Code
from emitterd.errors import Outage, Stage
from emitterd.intake.not_sent import NotSentSummary
from emitterd.journal.numbers import HostStatus
from emitterd.monitoring.arrivals import DatasetStatus, Expectation, expected_datasets
from emitterd.text import display, local_time
from emitterd.translation.text import Text, joined, plural
from emitterd.units import DAY_S, format_age, format_duration

if TYPE_CHECKING:
    from emitterd.monitoring.status import QueueStatus

SWEEP_FLOOR_S = 900.0
"""A sweep is overdue after this time at the earliest."""

SWEEPS = 3
"""A sweep is overdue after this many intervals, or this many durations of one."""


_OVERDUE_SHOWN = 5
"""Overdue datasets that the alarm names."""

FULL_BYTES = 64 * 1024
"""With less free space on its disk the journal cannot grow."""


class AlarmLevel(StrEnum):
    """The levels of monitoring plugins."""

    OK = "OK"
    WARNING = "WARNING"
    CRITICAL = "CRITICAL"


class AlarmCode(StrEnum):
    """The `code` of an alarm, and a label of the metrics."""

    DAEMON_ABSENT = "daemon_absent"
    DAEMON_SILENT = "daemon_silent"
    DESTINATION_DOWN = "destination_down"
    JOURNAL_BUSY = "journal_busy"
    JOURNAL_FULL = "journal_full"
    ROOT_LOST = "root_lost"
    NO_SUCCESS = "no_success"
    OLDEST_WAITING = "oldest_waiting"
    WATCH_DEGRADED = "watch_degraded"
    SWEEP_OVERDUE = "sweep_overdue"
    REJECTED = "rejected"
    NOT_SENT = "not_sent"
    RECEIPT_LOST = "receipt_lost"
    SERVER_DROPS = "server_drops"
    STALLED = "stalled"
    NOT_TAKEN = "not_taken"
    NOT_DISPOSED = "not_disposed"
    DAEMON_STOPPED = "daemon_stopped"
    FOLDER_SHARED = "folder_shared"
    ARRIVAL_OVERDUE = "arrival_overdue"
    HOST_LOST = "host_lost"
    JOURNAL_UNREACHABLE = "journal_unreachable"


WARNINGS = frozenset(
    {AlarmCode.WATCH_DEGRADED, AlarmCode.SWEEP_OVERDUE, AlarmCode.REJECTED, AlarmCode.NOT_SENT}
    | {AlarmCode.SERVER_DROPS, AlarmCode.DAEMON_STOPPED, AlarmCode.FOLDER_SHARED}
    | {AlarmCode.RECEIPT_LOST, AlarmCode.ARRIVAL_OVERDUE}
    | {AlarmCode.STALLED, AlarmCode.NOT_TAKEN, AlarmCode.NOT_DISPOSED}
    | {AlarmCode.HOST_LOST}
)
"""With these alarms deliveries go on. All others are critical."""


@dataclass(frozen=True, slots=True)
class Alarm:
    """One problem: since when, in words, and what to do about it.

    `words` and `hint` are translated where they are shown. `affected`: how many files or datasets
    it is about, if any. Alerts report its growth. `host`: which host has noted it, where several
    share the journal.
    """

    code: str
    since: float
    words: str
    hint: str
    affected: int = 0
    host: str = ""

    @property
    def level(self) -> AlarmLevel:
        """Warning or critical."""
        return AlarmLevel.WARNING if self.code in WARNINGS else AlarmLevel.CRITICAL


@dataclass(frozen=True, slots=True)
class Health:
    """All current alarms, the most critical first."""

    alarms: tuple[Alarm, ...] = ()

    @property
    def ok(self) -> bool:
        """Whether there is no alarm."""
        return not self.alarms

    @property
    def level(self) -> AlarmLevel:
        """The level of the worst alarm."""
        levels = {alarm.level for alarm in self.alarms}
        return max(levels, key=list(AlarmLevel).index, default=AlarmLevel.OK)


@dataclass(frozen=True, slots=True)
class AlarmLimits:
    """After which time missing progress, or a missing dataset, is an alarm."""

    oldest_waiting_s: float
    no_success_s: float
    expectations: tuple[Expectation, ...] = ()


@dataclass(frozen=True, slots=True)
class DaemonFacts:
    """What only the running daemon knows.

    `swept_at`: the end of the last whole sweep, or else the start of the daemon. `sweep_limit_s`:
    how long ago that may be. `degraded`: why not every folder is watched. `not_sent`: what lies in
    the folder and is not sent as it is.
    """

    swept_at: float
    sweep_limit_s: float
    root_lost_since: float | None = None
    degraded_since: float | None = None
    degraded: str = ""
    journal_full_since: float | None = None
    journal_busy_since: float | None = None
    not_sent: NotSentSummary | None = None
    shared_since: float | None = None
    journal_unreachable_since: float | None = None


def sweep_limit_s(every_s: float, took_s: float) -> float:
    """Return how long ago the last sweep, which took `took_s`, may be."""
    return max(SWEEP_FLOOR_S, SWEEPS * every_s, SWEEPS * took_s)


def judge(alarms: list[Alarm]) -> Health:
    """Sort alarms: the most critical first, and among equals the oldest."""
    rank = list(AlarmLevel).index
    ordered = sorted(alarms, key=lambda a: (-rank(a.level), a.since, a.code))
    return Health(tuple(ordered))


def queue_alarms(
    queue: "QueueStatus",
    outages: Sequence[Outage],
    limits: AlarmLimits,
    now: float,
    *,
    running: bool,
    start: str = "",
) -> list[Alarm]:
    """Return the alarms that the journal's numbers raise.

    `running`: a daemon runs. `start`: how to start it, if it does not run.
    """
    alarms = [*_file_alarms(queue), *_lost_hosts(queue.hosts, now)]
    if running and outages:
        alarms.append(_down(outages))
    expected = expected_datasets(limits.expectations, queue.arrivals, queue.expected_since, now)
    if late := [status for status in expected if status.overdue(now)]:
        alarms.append(_arrival_overdue(late))
    oldest_at = queue.oldest_waiting_at
    if oldest_at is None:
        return alarms
    if not running:
        words = Text("no daemon runs, and {files_wait}", files_wait=files_wait(queue.waiting))
        alarms.append(Alarm(AlarmCode.DAEMON_ABSENT, oldest_at, words, start))
    waited_s = now - oldest_at
    if waited_s > limits.oldest_waiting_s:
        alarms.append(_oldest(oldest_at, waited_s, limits))
    # Before the oldest waiting file came, no delivery was due.
    idle_since = max(oldest_at, queue.delivered_at or 0.0)
    if now - idle_since > limits.no_success_s:
        alarms.append(_no_success(idle_since, now - idle_since, limits))
    return alarms


def _file_alarms(queue: "QueueStatus") -> list[Alarm]:
    """Return the alarms of files that need an operator."""
    problems = (
        (_rejected, queue.rejected),
        (_receipt_lost, queue.uncertain),
        (_server_drops, queue.dropped),
        (_stalled, queue.stalled),
        (_not_taken, queue.not_taken),
        (_not_disposed, queue.not_disposed),
    )
    return [
        alarm(files, since, display(path or b""))
        for alarm, (files, since, path) in problems
        if since is not None
    ]


def _lost_hosts(hosts: Sequence[HostStatus], now: float) -> list[Alarm]:
    """Return an alarm for each host that was lost within a day and has not come back."""
    hint = Text(
        "see why it ended, or cannot reach the database: its own log; its files are sent by the"
        " others. A host that is gone for good is forgotten after a day"
    )
    return [
        Alarm(AlarmCode.HOST_LOST, host.until_at, Text("host {host} is lost", host=host.name), hint)
        for host in hosts
        if host.is_lost and now - host.until_at < DAY_S
    ]


def daemon_alarms(facts: DaemonFacts, now: float) -> list[Alarm]:
    """Return the alarms that only the running daemon can raise."""
    alarms = _journal_alarms(facts)
    if facts.root_lost_since is not None:
        code = Code.ROOT_LOST
        words = Text("{code} {title}: no file is found or sent", code=code, title=code.title)
        alarms.append(Alarm(AlarmCode.ROOT_LOST, facts.root_lost_since, words, code.remedy))
    elif now - facts.swept_at > facts.sweep_limit_s:
        alarms.append(_overdue(facts, now))
    if facts.shared_since is not None:
        words = Text("another emitterd delivers from the same folder: each file is sent twice")
        hint = Text("end the other one: systemctl list-units 'emitterd*'")
        alarms.append(Alarm(AlarmCode.FOLDER_SHARED, facts.shared_since, words, hint))
    if facts.not_sent is not None:
        alarms.append(_not_sent(facts.not_sent))
    if facts.degraded_since is not None:
        alarms.append(
            Alarm(
                AlarmCode.WATCH_DEGRADED,
                facts.degraded_since,
                Text(
                    "not every folder is watched: {reason}; new files are found by sweeps",
                    reason=facts.degraded,
                ),
                Text("raise fs.inotify.max_user_watches, as watch.degraded in the log says"),
            )
        )
    return alarms


def _journal_alarms(facts: DaemonFacts) -> list[Alarm]:
    """Return the alarms of a journal that cannot be written."""
    alarms = []
    if facts.journal_full_since is not None:
        alarms.append(_journal_full(facts.journal_full_since))
    if facts.journal_busy_since is not None:
        since = facts.journal_busy_since
        alarms.append(_blocked(AlarmCode.JOURNAL_BUSY, Code.JOURNAL_BUSY, since))
    if facts.journal_unreachable_since is not None:
        since, code = facts.journal_unreachable_since, Code.JOURNAL_UNREACHABLE
        alarms.append(_blocked(AlarmCode.JOURNAL_UNREACHABLE, code, since))
    return alarms


def unnoted_alarms(free_bytes: int, noted: Sequence[Alarm], now: float) -> list[Alarm]:
    """Return the alarm of a full disk that the running daemon could not note.

    For `status --check`, which reads the journal; `/healthz` asks the daemon itself. `free_bytes`:
    the free space of the journal's disk.
    """
    known = any(alarm.code == AlarmCode.JOURNAL_FULL for alarm in noted)
    # Other programs took even the disk reserve.
    return [_journal_full(now)] if free_bytes < FULL_BYTES and not known else []


def _journal_full(since: float) -> Alarm:
    """Return the alarm of a full disk; the journal may have no room to note it."""
    return _blocked(AlarmCode.JOURNAL_FULL, Code.JOURNAL_FULL, since)


def _blocked(alarm: AlarmCode, code: Code, since: float) -> Alarm:
    words = Text("{code} {title}: no file is admitted or sent", code=code, title=code.title)
    return Alarm(alarm, since, words, code.remedy)


def _rejected(files: int, since: float, path: str) -> Alarm:
    words = plural(
        "{number} file is rejected, and not replaced ({path})",
        "{number} files are rejected, and not replaced (for example {path})",
        number=files,
        path=path,
    )
    hint = Text(
        "see why with: emitterd list --state rejected; correct each file, or run:"
        " emitterd forget PATH"
    )
    return Alarm(AlarmCode.REJECTED, since, words, hint, affected=files)


def _receipt_lost(files: int, since: float, path: str) -> Alarm:
    code = Code.RECEIPT_LOST
    words = plural(
        "{number} file is held, because the journal was rebuilt ({path}): {code}",
        "{number} files are held, because the journal was rebuilt (for example {path}): {code}",
        number=files,
        path=path,
        code=code,
    )
    return Alarm(AlarmCode.RECEIPT_LOST, since, words, code.remedy, affected=files)


def _arrival_overdue(late: Sequence[DatasetStatus]) -> Alarm:
    parts = [_expected(status) for status in late[:_OVERDUE_SHOWN]]
    if more := len(late) - len(parts):
        parts.append(Text("{number} more", number=more))
    words = plural(
        "a dataset is overdue: {datasets}",
        "{number} datasets are overdue: {datasets}",
        number=len(late),
        datasets=joined(parts),
    )
    hint = Text(
        "ask the people who make the files; see all datasets with: emitterd status --datasets"
    )
    if any(status.undelivered_at for status in late):
        hint = Text(
            "see why a file that came is not delivered: emitterd list; see all datasets with:"
            " emitterd status --datasets"
        )
    since = min(status.due_at or 0.0 for status in late)
    return Alarm(AlarmCode.ARRIVAL_OVERDUE, since, words, hint, affected=len(late))


def _expected(status: DatasetStatus) -> Text:
    every = format_duration(status.expectation.every_s) if status.expectation else ""
    last_at, came_at = status.last.delivered_at, status.undelivered_at
    expected = Text(
        "{dataset}, expected every {interval} and {last}",
        dataset=status.dataset,
        interval=every,
        last=Text("never delivered")
        if last_at is None
        else Text("last delivered {time}", time=local_time(last_at)),
    )
    if came_at is None:
        return expected
    return Text("{expected} (a file came {time})", expected=expected, time=local_time(came_at))


_AGAIN = Text(
    "see why with: emitterd explain PATH; have the file made again, and drop it under the same name"
)


def _server_drops(files: int, since: float, path: str) -> Alarm:
    words = plural(
        "{number} file was delivered, but the server will drop it ({path})",
        "{number} files were delivered, but the server will drop them (for example {path})",
        number=files,
        path=path,
    )
    return Alarm(AlarmCode.SERVER_DROPS, since, words, _AGAIN, affected=files)


def _stalled(files: int, since: float, path: str) -> Alarm:
    words = plural(
        "the server began {number} file and did not end it ({path})",
        "the server began {number} files and did not end them (for example {path})",
        number=files,
        path=path,
    )
    return Alarm(AlarmCode.STALLED, since, words, _AGAIN, affected=files)


def _not_taken(files: int, since: float, path: str) -> Alarm:
    words = plural(
        "{number} file has been in the bucket for more than a day: nothing on the server takes this"
        " name ({path})",
        "{number} files have been in the bucket for more than a day: nothing on the server takes"
        " these names (for example {path})",
        number=files,
        path=path,
    )
    hint = Text(
        "check folder and name with: emitterd inspect FILE; ask the server's administrator whether"
        " the dataset is switched on"
    )
    return Alarm(AlarmCode.NOT_TAKEN, since, words, hint, affected=files)


def _not_disposed(files: int, since: float, path: str) -> Alarm:
    words = plural(
        "{number} delivered file cannot be archived or deleted ({path})",
        "{number} delivered files cannot be archived or deleted (for example {path})",
        number=files,
        path=path,
    )
    hint = Text("see why: emitterd explain {path}", path=path)
    return Alarm(AlarmCode.NOT_DISPOSED, since, words, hint, affected=files)


def stopped_alarm(path: bytes, now: float, start: str) -> Alarm:
    """Return the alarm of a file in the folder that no daemon has looked at.

    `start`: how to start it.
    """
    words = Text(
        "no daemon runs, and a file in the folder is not in the queue ({path})", path=display(path)
    )
    return Alarm(AlarmCode.DAEMON_STOPPED, now, words, start)


def silent_alarm(now: float) -> Alarm:
    """Return the alarm of a daemon that runs, but does not answer."""
    words = Text("the daemon runs, but it does not answer: it has stopped or hangs")
    return Alarm(AlarmCode.DAEMON_SILENT, now, words, Text("systemctl restart emitterd"))


_NOT_SENT = {
    Code.UNREADABLE: Text("cannot be read"),
    Code.NOT_REGULAR: Text("a link, or no regular file"),
    Code.WRONG_DEPTH: Text("at the top of the folder"),
    Code.WRONG_ENDING: Text("not ending in .zip in lower case"),
    Code.INCOMPLETE: Text("incomplete"),
    Code.STILL_WRITTEN: Text("open for writing"),
    Code.PATH_FAILED: Text("with an unexpected error"),
}


def _not_sent(summary: NotSentSummary) -> Alarm:
    total = sum(summary.counts.values())
    parts = []
    for code, number in sorted(summary.counts.items()):
        part = Text("{number} {why}", number=number, why=_NOT_SENT.get(code, code.title))
        example = summary.examples.get(code)
        if example is not None:
            part = Text("{files} ({path})", files=part, path=display(example))
        parts.append(part)
    words = plural(
        "{number} path in the folder is not sent: {parts}",
        "{number} paths in the folder are not sent: {parts}",
        number=total,
        parts=joined(parts),
    )
    hint = Text("see which, and why: emitterd list --skipped")
    return Alarm(AlarmCode.NOT_SENT, summary.since, words, hint, affected=total)


STAGE_NAMES: Mapping[str, Text] = {
    Stage.LOGIN: Text("login"),
    Stage.GRANT: Text("upload request"),
    Stage.BUCKET: Text("upload"),
}
"""What people call the stages of an upload, with both protocols."""

_AT_STAGE = {
    Stage.LOGIN: Text("at the login: {code} {reason}"),
    Stage.GRANT: Text("at the upload request: {code} {reason}"),
    Stage.BUCKET: Text("at the upload: {code} {reason}"),
}


def _down(outages: Sequence[Outage]) -> Alarm:
    code = outages[0].code
    known = Code(code) if code in set(Code) else Code.INTERNAL
    stages = (Text(_AT_STAGE[Stage(o.stage)], code=o.code, reason=o.reason) for o in outages)
    words = Text("the destination is down {stages}", stages=joined(stages))
    since = min(outage.since for outage in outages)
    return Alarm(AlarmCode.DESTINATION_DOWN, since, words, known.remedy)


def files_wait(waiting: int) -> Text:
    """Write how many files wait."""
    return plural("{number} file waits", "{number} files wait", number=waiting)


def _oldest(since: float, waited_s: float, limits: AlarmLimits) -> Alarm:
    words = Text(
        "a file has waited for {time}, longer than {limit} (alerts.oldest_waiting_max)",
        time=format_age(waited_s),
        limit=format_duration(limits.oldest_waiting_s),
    )
    hint = Text("see which, and why: emitterd list --state deferred, emitterd explain PATH")
    return Alarm(AlarmCode.OLDEST_WAITING, since, words, hint)


def _no_success(since: float, idle_s: float, limits: AlarmLimits) -> Alarm:
    words = Text(
        "nothing was delivered for {time} while files wait, longer than {limit}"
        " (alerts.no_success_max)",
        time=format_age(idle_s),
        limit=format_duration(limits.no_success_s),
    )
    hint = Text("see whether the server can be reached: emitterd check --online")
    return Alarm(AlarmCode.NO_SUCCESS, since, words, hint)


def _overdue(facts: DaemonFacts, now: float) -> Alarm:
    words = Text(
        "the last sweep of the whole folder ended {time} ago, or none has ended since the start",
        time=format_age(now - facts.swept_at),
    )
    hint = Text("check sweep.finished in the log, and the load of the folder's disk")
    return Alarm(AlarmCode.SWEEP_OVERDUE, facts.swept_at, words, hint)
