"""The loop that asks the server what became of delivered files.

One round looks at all files that are due: the names of the buckets (once a day), one list of the
emission bucket, at most 20 objects beyond that list, and at most 20 logs. It sends one request at a
time. Uploads go first: while files are queued or being sent, or the destination is down, a round
waits, but not longer than four times `tracking.poll_every`. A failure ends the round and changes
nothing.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from emitterd import heartbeat
from emitterd.client.server_reader import Buckets, ServerReader
from emitterd.codes import Code
from emitterd.datasets.catalogue import Dataset
from emitterd.errors import Decision, DeliveryError, JournalError, JournalMoved
from emitterd.journal.journal import Journal
from emitterd.model import ServerState, Tracked
from emitterd.shutdown import Shutdown
from emitterd.text import display, iso, printable
from emitterd.tracking.policy import TrackingRule
from emitterd.tracking.server_log import LogRecord, parse
from emitterd.units import DAY_S

FILES_MAX = 2000
"""A round looks at so many files; those that have waited longest go first."""

OPEN_MAX = 10_000
"""So many files are tracked at a time. Of a larger backlog the server lists only the beginning."""

LOOK_UPS_MAX = 20
LOGS_MAX = 20
URL_LIFETIME_S = 23 * 3600.0
"""The server signs a download url for 24 hours."""

BUSY_CHECK_S = 5.0
"""How often a round that waits for uploads looks whether they have ended."""

BUSY_ROUNDS = 4
"""After so many intervals a round no longer waits for uploads: a backlog may be permanent."""

ENDS = frozenset({Code.TOKEN_REFUSED, Code.NOT_AN_EMISSION_API})
"""The server has no such endpoints, or not for this user: cQube 1.0 to 1.6."""

_EVENTS = {
    ServerState.PICKED_UP: "file.picked_up",
    ServerState.PROCESSED: "file.processed",
    ServerState.STALLED: "file.stalled",
}
STALLED_HINT = "run `emitterd explain PATH`; have the file corrected, and drop it again"
ENDED_HINT = (
    "tracking needs an API key and cQube 1.7 to 4.1: see docs/tracking.md; restart emitterd when"
    " that has changed, or set tracking.enabled: false"
)

log = structlog.get_logger()


class _RoundOver(Exception):
    """The round ends early: uploads go first, or the daemon stops."""


@dataclass(slots=True)
class _Log:
    """What is known of a log of the server: its url, its ETag, and for which files it was read."""

    url: str = ""
    until: float = 0.0
    etag: str = ""
    files: frozenset[str] = frozenset()


class ServerTracker:
    """Asks the server about delivered files. `run` is its thread, `try_round` one pass."""

    def __init__(
        self,
        journal: Journal,
        reader: ServerReader,
        dataset: Callable[[bytes], Dataset | None],
        shutdown: Shutdown,
        *,
        busy: Callable[[], bool],
        rule: Callable[[], TrackingRule],
    ) -> None:
        """`busy` tells whether uploads go first; `rule` returns the settings now in force."""
        self._journal = journal
        self._reader = reader
        self._dataset = dataset
        self._shutdown = shutdown
        self._busy = busy
        self._rule = rule
        self._buckets: Buckets | None = None
        self._buckets_until = 0.0
        self._logs: dict[str, _Log] = {}
        self._tracked_at = 0.0
        self._forced = False
        self._failures: dict[str, str] = {}
        self.ended = False
        """Whether tracking has ended until the next start."""
        self.on_processed: Callable[[bytes, int], None] = lambda *_: None
        """Called with a path and how many of its rows the server dropped. Must not raise."""
        known = journal.read_fact("bucket_url")
        if reader.bucket_url is None and isinstance(known, dict):
            # After a change of `emission.url` it may be of the former server.
            reader.bucket_url = known.get(reader.api_url)

    def run(self) -> None:
        """Loop until the daemon drains, or the server refuses to be asked."""
        busy_since: float | None = None
        while not self._shutdown.draining:
            heartbeat.record()
            now, every_s = time.monotonic(), self._rule().poll_every_s
            self._forced = busy_since is not None and now - busy_since >= BUSY_ROUNDS * every_s
            done = self.try_round(self._journal.now())
            self._reader.close_thread()
            if self.ended:
                return
            if done:
                busy_since, wait_s = None, every_s
            else:
                busy_since = now if busy_since is None else busy_since
                wait_s = min(BUSY_CHECK_S, every_s)
            with heartbeat.silence(wait_s):
                self._shutdown.wait_for_drain(wait_s)

    def try_round(self, now: float) -> bool:
        """Do one round and report its failure; return False if uploads went first."""
        try:
            self._may_ask()
            # SQLite writes 15 digits into JSON: with more the receipt differs from the log by 1 ms.
            self._round(round(now, 3))
            self._failures.pop("", None)
        except _RoundOver:
            return False
        except JournalMoved:
            raise
        except (JournalError, DeliveryError) as error:
            # What a log said may not be saved: it must be read again, although it is as before.
            self._logs.clear()
            self._failed(error)
        except Exception:
            # Tracking must never stop the daemon.
            self.ended = True
            log.exception("tracking.ended", hint="please report this: it is a bug in emitterd")
        return True

    def _failed(self, error: JournalError | DeliveryError) -> None:
        reason = printable(str(error))
        if error.code in ENDS:
            self.ended = True
            log.warning("tracking.ended", error=error.code, reason=reason, hint=ENDED_HINT)
        elif not self._shutdown.now.is_set():
            self._warn("", error.code, reason)

    def _warn(self, key: str, code: str, reason: str) -> None:
        """Log a failure once; `key`: of the log that cannot be read, or empty for all."""
        if self._failures.get(key) != code:
            self._failures[key] = code
            fields = {"key": key} if key else {}
            log.warning("tracking.failed", error=code, reason=reason, **fields)

    def _round(self, now: float) -> None:
        """Look at every file that is due.

        Raises `DeliveryError` if the server does not answer, `JournalError`, and an exception of
        its own if uploads go first.
        """
        rule = self._rule()
        self._track_new(rule, now)
        due = self._journal.tracked_due(now, now + rule.wait_max_s + DAY_S, FILES_MAX)
        over = [file for file in due if rule.is_over(file, now)]
        self._save(over, [rule.given_up(file) for file in over])
        files = [file for file in due if not rule.is_over(file, now)]
        if not files:
            return
        buckets = self._bucket_names()
        waiting = [file for file in files if file.state is ServerState.WAITING]
        gone = self._look_at_bucket(rule, buckets.emission, waiting, now)
        known = [file for file in files if file.state is not ServerState.WAITING]
        self._read_logs(rule, buckets.output, [*known, *gone], now)
        place = {self._reader.api_url: self._reader.bucket_url}
        if place != self._journal.read_fact("bucket_url"):
            self._journal.save_fact("bucket_url", place)

    def _track_new(self, rule: TrackingRule, now: float) -> None:
        since = now - rule.give_up_after_s
        # All older ones are tracked already, unless the clock was set back by more than a day.
        if self._tracked_at <= now:
            since = max(since, self._tracked_at - DAY_S)
        self._journal.track(since, now, OPEN_MAX)
        self._tracked_at = now

    def _may_ask(self) -> None:
        """Raise `_RoundOver` if no request may be sent now."""
        heartbeat.record()
        goes_first = not self._forced and self._busy()
        if self._shutdown.draining or goes_first or not self._journal.is_sweeper():
            raise _RoundOver

    def _bucket_names(self) -> Buckets:
        now = time.monotonic()
        if self._buckets is None or now >= self._buckets_until:
            self._may_ask()
            self._buckets = self._reader.buckets()
            self._buckets_until = now + DAY_S
        return self._buckets

    def _look_at_bucket(
        self, rule: TrackingRule, bucket: str, files: list[Tracked], now: float
    ) -> list[Tracked]:
        """Look for the objects of these files; return those that the server has picked up."""
        if not files:
            return []
        self._may_ask()
        listing = self._reader.listing(bucket)
        looked = [rule.listed(file, listing, now) for file in files]
        saved = self._save(files, [after for after in looked if after is not None])
        undecided = [file for file, after in zip(files, looked, strict=True) if after is None]
        # The others come first in the next round, and make room for files that the list decides.
        later = undecided[LOOK_UPS_MAX:]
        self._save(later, [rule.postponed(file, now) for file in later])
        for file in undecided[:LOOK_UPS_MAX]:
            present = self._has_object(bucket, file.key)
            after = rule.looked_at(file, now)
            if present is not None:
                after = rule.looked_up(file, now, present=present)
            saved += self._save([file], [after])
        return [file for file in saved if file.state is ServerState.PICKED_UP]

    def _has_object(self, bucket: str, key: str) -> bool | None:
        """Return whether an object exists; None if that is not known."""
        self._may_ask()
        url = self._reader.download_url(bucket, key)
        self._may_ask()
        try:
            return self._reader.has_object(url)
        except DeliveryError as error:
            if error.decision is not Decision.DEFER:
                raise
            # One object must not hide the others.
            return None

    def _read_logs(self, rule: TrackingRule, bucket: str, files: list[Tracked], now: float) -> None:
        """Look what the server's logs say about these files."""
        by_log: dict[str, list[Tracked]] = {}
        for file in files:
            dataset = self._dataset(file.path)
            by_log.setdefault(dataset.log if dataset else "", []).append(file)
        unlogged = by_log.pop("", [])
        self._save(unlogged, [rule.without_log(file) for file in unlogged])
        for key, members in list(by_log.items())[:LOGS_MAX]:
            try:
                records = self._records(bucket, key, members)
                looked = [rule.logged(file, records, now) for file in members]
                self._failures.pop(key, None)
            except (DeliveryError, ValueError) as error:
                # The url may have expired.
                self._logs.pop(key)
                if isinstance(error, DeliveryError) and error.decision is not Decision.DEFER:
                    raise
                code = getattr(error, "code", Code.MALFORMED_ANSWER)
                self._warn(key, code, printable(str(error)))
                looked = [rule.looked_at(file, now) for file in members]
            self._save(members, looked)

    def _records(self, bucket: str, key: str, files: list[Tracked]) -> dict[str, LogRecord] | None:
        """Return what a log says about these files; None if it is as before."""
        names = frozenset(file.file_name for file in files)
        known = self._logs.setdefault(key, _Log())
        if time.monotonic() >= known.until:
            self._may_ask()
            known.url = self._reader.download_url(bucket, key)
            known.until = time.monotonic() + URL_LIFETIME_S
        self._may_ask()
        # The log as before may say something about a file that was not looked for then.
        answer = self._reader.log(known.url, known.etag if names <= known.files else "")
        if answer.content is None:
            return None
        records = parse(answer.content, names)
        known.etag, known.files = answer.etag, names
        return records

    def _save(self, before: list[Tracked], after: list[Tracked]) -> list[Tracked]:
        """Save files, and log what is new; return those that are still in the journal.

        `before`: the same files, and perhaps others, before the look.
        """
        states = {file.id: file.state for file in before}
        saved = self._journal.save_tracked(after)
        for file in saved:
            if file.state is not states[file.id] and file.state in _EVENTS:
                self._log(file)
        return saved

    def _log(self, file: Tracked) -> None:
        dropped = (file.rows or {}).get("dropped", 0)
        stalled = file.state is ServerState.STALLED
        write = log.warning if stalled or dropped else log.info
        fields: dict[str, object] = {"rows": file.rows} if file.rows else {}
        if file.state is ServerState.PICKED_UP:
            seen_at = file.seen_at if file.seen_at is not None else file.delivered_at
            fields = {"seen_at": iso(seen_at), "gone_at": iso(file.gone_at)}
        if stalled:
            fields["hint"] = STALLED_HINT
        write(_EVENTS[file.state], path=display(file.path), key=printable(file.key), **fields)
        if file.state is ServerState.PROCESSED:
            self.on_processed(file.path, dropped)
