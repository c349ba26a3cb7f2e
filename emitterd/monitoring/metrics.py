"""The metrics, as Prometheus reads them; the only module that knows its client.

What happens is counted in this process, from its start on: a counter never goes back
when the journal forgets. What stands is read from the journal when it is asked for.
Labels are bounded: datasets of the catalogue, codes, states.
"""

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
    make_wsgi_app,
)
from prometheus_client.core import GaugeMetricFamily, Metric

from emitterd import __version__
from emitterd.errors import Stage
from emitterd.model import State
from emitterd.monitoring.alarms import Alarm, AlarmCode, Health, Outage
from emitterd.monitoring.status import QueueReading, QueueStatus

if TYPE_CHECKING:
    from wsgiref.types import WSGIApplication

OTHER = "other"
"""The dataset of a path that is none of the catalogue's."""

DELIVERY_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
SWEEP_BUCKETS = (0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 1800)

# A counter's birth as a series of its own doubles what is scraped, and nobody asks.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it is not typed


class Metrics:
    """All counters of one daemon. Thread-safe."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._files = self._counter(
            "files", "Versions of files by how they ended.", "outcome", "dataset"
        )
        self._bytes = self._counter("file_bytes", "Their bytes.", "outcome", "dataset")
        self._attempts = self._counter(
            "attempts", "Attempts to deliver by error; empty: success.", "error"
        )
        self._missed = self._counter(
            "missed_files", "Files that a sweep found and no event had named."
        )
        self._delivery = Histogram(
            "emitterd_delivery_duration_seconds",
            "How long a successful attempt took.",
            buckets=DELIVERY_BUCKETS,
            registry=self._registry,
        )
        self._sweep = Histogram(
            "emitterd_sweep_duration_seconds",
            "How long a sweep of the whole folder took.",
            buckets=SWEEP_BUCKETS,
            registry=self._registry,
        )
        info = Info("emitterd_build", "What runs.", registry=self._registry)
        info.info({"version": __version__})
        ProcessCollector(registry=self._registry)
        self._attempts.labels("")

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"emitterd_{name}", words, labels, registry=self._registry)

    def ended(self, outcome: str, dataset: str, size_bytes: int) -> None:
        """Count a version that ended: delivered, rejected, withdrawn, unchanged."""
        self._files.labels(outcome, dataset).inc()
        self._bytes.labels(outcome, dataset).inc(size_bytes)

    def attempted(self, error: str = "") -> None:
        """Count an attempt; `error` is a code as in docs/errors.md."""
        self._attempts.labels(error).inc()

    def delivered(self, duration_s: float) -> None:
        """Note how long a delivery took."""
        self._delivery.observe(duration_s)

    def swept(self, duration_s: float, missed: int) -> None:
        """Note a whole sweep."""
        self._sweep.observe(duration_s)
        self._missed.inc(missed)

    def application(self, read: Callable[[], QueueReading]) -> "WSGIApplication":
        """Return what answers a scrape; `read` is called at each."""
        self._registry.register(_StateCollector(read))
        application: WSGIApplication = make_wsgi_app(self._registry)
        return application


class _StateCollector:
    """Collects what stands."""

    def __init__(self, read: Callable[[], QueueReading]) -> None:
        self._read = read

    def describe(self) -> list[Metric]:
        """Return nothing: so the journal is not read to be registered."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every gauge."""
        reading = self._read()
        yield from _entries(reading.progress)
        yield from _progress(reading)
        yield _stages(reading.outages)
        yield _alarms(reading.verdict)


def _entries(progress: QueueStatus) -> Iterator[Metric]:
    files = _family("entries", "Versions of files in the journal.", "state")
    sizes = _family("entry_bytes", "Their bytes.", "state")
    for state in State:
        entries, size_bytes = progress.tally[state]
        files.add_metric([state], entries)
        sizes.add_metric([state], size_bytes)
    yield files
    yield sizes


def _progress(reading: QueueReading) -> Iterator[Metric]:
    progress = reading.progress
    oldest_at = progress.oldest_waiting_at
    age_s = 0.0 if oldest_at is None else max(0.0, time.time() - oldest_at)
    values: dict[str, tuple[str, float | None]] = {
        "oldest_waiting_age_seconds": ("How long the oldest file has waited.", age_s),
        "last_success_timestamp_seconds": (
            "When a file was last delivered.",
            progress.delivered_at,
        ),
        "last_sweep_timestamp_seconds": (
            "When the whole folder was last looked through.",
            reading.swept_at,
        ),
        "rejected_files": (
            "Rejected versions, neither replaced nor forgotten.",
            progress.rejected,
        ),
        "eta_seconds": ("When nothing will wait, where known.", reading.eta_s),
    }
    for name, (words, value) in values.items():
        family = _family(name, words)
        if value is not None:
            family.add_metric([], value)
        yield family


def _stages(outages: tuple[Outage, ...]) -> Metric:
    family = _family("destination_up", "Whether a stage of the way is up.", "stage")
    down = {one.stage for one in outages}
    for stage in Stage:
        family.add_metric([stage], float(stage not in down))
    return family


def _alarms(verdict: Health) -> Metric:
    family = _family("alarm", "What is not well, as /healthz has it.", "code", "level")
    raised = {alarm.code for alarm in verdict.alarms}
    # One that answers is not absent: Prometheus knows that itself, as `up`.
    for cause in sorted(set(AlarmCode) - {AlarmCode.DAEMON_ABSENT}):
        level = Alarm(cause, 0.0, "", "").level.lower()
        family.add_metric([cause, level], float(cause in raised))
    return family


def _family(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"emitterd_{name}", words, labels=labels)
