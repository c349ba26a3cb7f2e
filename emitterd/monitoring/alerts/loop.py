"""The thread that looks at the alarms and notifies the channels.

Each try has a thread of its own, so that a channel that hangs delays nothing else. A notification
is in the journal as soon as a channel has taken it: a kill repeats at most the message that was
just being sent. A journal that cannot be written delays no alert: then memory holds the state.
"""

import queue
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial

import structlog

from emitterd.errors import JournalError
from emitterd.journal.journal import Journal
from emitterd.monitoring.alarms import Alarm, AlarmLevel, Health
from emitterd.monitoring.alerts.channels import Channel, HeartbeatChannel, Stopping
from emitterd.monitoring.alerts.incidents import (
    AlertState,
    ChannelRecord,
    Notification,
    NotificationKind,
    due_notifications,
    observe,
    shrink,
    without_finished,
)
from emitterd.monitoring.alerts.message import Message, Place, compose
from emitterd.shutdown import Shutdown
from emitterd.translation.languages import ENGLISH, Language

LOOK_S = 5.0
"""How often the loop looks at the alarms."""

FACT = "alerts"
"""The journal's fact with the state."""

LOG = "log"
"""The key of the log, which is notified of incidents like a channel."""

FIRST_HEARTBEAT_S = 60.0
"""A daemon that dies again and again before that must not seem well."""

HEARTBEAT_RETRY_S = 60.0

JOIN_S = 1.0
"""How long a stop waits until the children are killed."""

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class AlertRules:
    """Which channels to notify, how often, and in which language."""

    channels: Sequence[Channel] = ()
    heartbeat: HeartbeatChannel | None = None
    heartbeat_every_s: float = 300.0
    repeat_s: float = 86400.0
    language: Language = ENGLISH


@dataclass(frozen=True, slots=True)
class _Result:
    """The end of a try: its notifications, and why it failed, if it did."""

    channel: Channel | HeartbeatChannel
    notifications: Sequence[Notification]
    reason: str


class Alerts:
    """Notifies the channels of incidents. One thread uses it; `apply_rules` may be called by any.

    A test calls `step` and `collect` itself.
    """

    def __init__(
        self,
        health: Callable[[], Health],
        journal: Journal,
        place: Place,
        rules: AlertRules,
        shutdown: Shutdown,
    ) -> None:
        """`health` returns the current alarms, and raises `JournalError` if they are not known."""
        self._health = health
        self._journal = journal
        self._place = place
        self._rules = rules
        self._changed = threading.Event()
        self._shutdown = shutdown
        self._results: queue.SimpleQueue[_Result | None] = queue.SimpleQueue()
        self._trying: dict[str, threading.Thread] = {}
        self._failed: set[str] = set()
        """The channels whose failure is logged."""
        # The first heartbeat is requested soon after the start, however long the interval is.
        self._heartbeat_at = time.time() + FIRST_HEARTBEAT_S
        self._state = AlertState()
        with suppress(JournalError):
            self._state = AlertState.unpack(journal.read_fact(FACT))
        self._saved = _essence(self._state)

    def apply_rules(self, rules: AlertRules) -> None:
        """Use other channels from now on; what failed before is tried at once."""
        self._rules = rules
        self._changed.set()
        self._results.put(None)

    def run(self) -> None:
        """Look at the alarms until the daemon drains. The stop itself is no alarm."""
        self._shutdown.on_drain(lambda: self._results.put(None))
        while not self._shutdown.draining:
            try:
                self.step(time.time())
                self.collect(LOOK_S)
            except Exception:
                # Files are delivered also while a bug keeps the alerts from being sent.
                log.exception("alert.failed", channel="all", reason="a bug in emitterd")
                self._shutdown.wait_for_drain(FIRST_HEARTBEAT_S)
        for thread in list(self._trying.values()):
            thread.join(JOIN_S)
        # What was sent just before the stop must not be sent again.
        while not self._results.empty():
            self.collect(0.0)

    def step(self, now: float) -> None:
        """Look at the alarms, and begin to notify each channel of what it does not know."""
        if not self._journal.alerts():
            # Another host does, for all of them.
            return
        try:
            health = self._health()
        except JournalError:
            # The main thread reports it, and no heartbeat says that all is well.
            return
        changed = self._changed.is_set()
        self._changed.clear()
        if changed:
            self._failed.clear()
        self._observe(health.alarms, now)
        for channel in self._rules.channels:
            record = self._record(channel.key)
            if channel.key not in self._trying and (changed or not record.waits(now)):
                notifications = self._notifications(record, now)
                if notifications:
                    self._try(
                        channel, partial(channel.send, self._compose(notifications)), notifications
                    )
        if health.level is not AlarmLevel.CRITICAL:
            self._request_heartbeat(now)
        self._save()

    def collect(self, timeout_s: float) -> bool:
        """Take the result of one try, or none within `timeout_s`; return whether there was one."""
        try:
            result = self._results.get(timeout=timeout_s)
        except queue.Empty:
            return False
        if result is None:
            return False
        channel, now = result.channel, time.time()
        self._trying.pop(channel.key).join()
        former = channel not in (*self._rules.channels, self._rules.heartbeat)
        if result.reason and (former or self._shutdown.draining):
            # A failure before a reload says nothing about the channels of now.
            return True
        if isinstance(channel, HeartbeatChannel):
            wait_s = self._rules.heartbeat_every_s
            self._heartbeat_at = now + (min(HEARTBEAT_RETRY_S, wait_s) if result.reason else wait_s)
        else:
            self._note(result, now)
        self._report(result)
        return True

    def _observe(self, alarms: Iterable[Alarm], now: float) -> None:
        """Take the alarms in, and log what began and ended."""
        incidents = observe(self._state.incidents, alarms, now)
        known = {LOG, *(channel.key for channel in self._rules.channels)}
        records = {
            key: shrink(record, incidents)
            for key, record in self._state.records.items()
            if key in known
        }
        self._state = AlertState(incidents, records)
        # The log needs no reminders.
        record = self._record(LOG)
        notifications = due_notifications(incidents, record.notified, float("inf"), now)
        for item in notifications:
            _log(item)
        records[LOG] = record.succeeded(notifications, now)
        channels = [self._record(key) for key in known]
        self._state = AlertState(without_finished(incidents, channels, now), records)

    def _notifications(self, record: ChannelRecord, now: float) -> list[Notification]:
        return due_notifications(self._state.incidents, record.notified, self._rules.repeat_s, now)

    def _compose(self, notifications: Sequence[Notification]) -> Message:
        incidents = self._state.incidents.values()
        present = sum(incident.ended_at is None for incident in incidents)
        return compose(notifications, present, self._place, self._rules.language)

    def _request_heartbeat(self, now: float) -> None:
        heartbeat, every_s = self._rules.heartbeat, self._rules.heartbeat_every_s
        # A clock that was set back must not silence it.
        due = not now < self._heartbeat_at <= now + max(every_s, FIRST_HEARTBEAT_S)
        if heartbeat is not None and due and heartbeat.key not in self._trying:
            self._try(heartbeat, heartbeat.send, ())

    def _try(
        self,
        channel: Channel | HeartbeatChannel,
        send: Callable[[Stopping], str],
        notifications: Sequence[Notification],
    ) -> None:
        def attempt() -> None:
            reason = "a bug in emitterd"
            try:
                reason = send(lambda: self._shutdown.draining)
            finally:
                self._results.put(_Result(channel, notifications, reason))

        thread = threading.Thread(target=attempt, name=f"alert {channel.key}", daemon=True)
        # At the limit of threads the next look tries again.
        with suppress(RuntimeError):
            thread.start()
            self._trying[channel.key] = thread

    def _note(self, result: _Result, now: float) -> None:
        """Note in the journal what was sent, or that it must be tried again."""
        key = result.channel.key
        record = self._record(key)
        end = record.failed if result.reason else record.succeeded
        self._state = replace(
            self._state, records={**self._state.records, key: end(result.notifications, now)}
        )
        self._save()

    def _report(self, result: _Result) -> None:
        channel = result.channel
        if not result.reason:
            self._failed.discard(channel.key)
            if result.notifications:
                codes = [str(item.code) for item in result.notifications]
                log.info("alert.sent", channel=channel.name, alarms=codes)
        elif channel.key not in self._failed:
            self._failed.add(channel.key)
            hint = "emitterd tries again; test the channel with: emitterd notify-test"
            log.error("alert.failed", channel=channel.name, reason=result.reason, hint=hint)

    def _record(self, key: str) -> ChannelRecord:
        return self._state.records.get(key, ChannelRecord())

    def _save(self) -> None:
        essence = _essence(self._state)
        if essence == self._saved:
            return
        # On a full disk it is saved as soon as there is room.
        with suppress(JournalError):
            self._journal.save_fact(FACT, self._state.record())
            self._saved = essence


def _essence(state: AlertState) -> tuple[object, Mapping[str, ChannelRecord]]:
    """Return the state without the words of the alarms, which change with each minute."""
    incidents = {
        code: (incident.began_at, incident.ended_at) for code, incident in state.incidents.items()
    }
    return incidents, dict(state.records)


def _log(item: Notification) -> None:
    alarm = item.incident.alarm
    if item.kind is NotificationKind.ENDED:
        lasted_s = round(item.at - item.incident.since, 3)
        log.info("alert.cleared", alarm=str(alarm.code), reason=alarm.words, duration_s=lasted_s)
        return
    report = log.error if alarm.level is AlarmLevel.CRITICAL else log.warning
    report("alert.raised", alarm=str(alarm.code), reason=alarm.words, hint=alarm.hint)
