"""The metrics for Prometheus. Only this module uses prometheus_client.

Counters count in this process, from its start on: they do not go back when the journal deletes old
versions. Gauges are read from the journal at each scrape. Labels are bounded: datasets of the
catalogue, codes, states.
"""

from collections.abc import Callable, Collection, Iterator, Mapping

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    Info,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from emitterd import __version__
from emitterd.codes import Code
from emitterd.datasets.catalogue import Dataset
from emitterd.datasets.findings import LOSSES
from emitterd.errors import Outage, Stage
from emitterd.model import ServerState, State
from emitterd.monitoring.alarms import Alarm, AlarmCode, Health
from emitterd.monitoring.status import QueueReading, QueueStatus

OTHER = "other"
"""The dataset of a path outside the catalogue."""

NONE = "none"
"""The error of a successful attempt. Prometheus takes an empty label for no label."""

DELIVERY_BUCKETS = (0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600)
SWEEP_BUCKETS = (0.01, 0.05, 0.25, 1, 5, 15, 60, 300, 1800)

# The time of each counter's creation would double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]  # it is not typed


class Metrics:
    """All counters of one daemon. Thread-safe.

    `dataset` returns the dataset of a path.
    """

    def __init__(self, dataset: Callable[[bytes], Dataset | None]) -> None:
        self._dataset = dataset
        self._registry = CollectorRegistry()
        self._files = self._counter(
            "files", "Versions of files by how they ended.", "outcome", "dataset"
        )
        self._bytes = self._counter("file_bytes", "Their bytes.", "outcome", "dataset")
        self._attempts = self._counter(
            "attempts", f"Attempts to deliver by error; {NONE}: success.", "error"
        )
        self._sent = self._counter("sent_bytes", "Bytes of uploads, also those under way.")
        self._findings = self._counter(
            "findings", "Admitted and rejected files by the code of a finding.", "error"
        )
        self._missed = self._counter(
            "missed_files", "Files that a sweep found and no event had named."
        )
        self._dropped = self._counter(
            "rows_dropped", "Rows that the server dropped, by its own logs.", "dataset"
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
        # `increase` sees the first of a code only if its counter begins at 0.
        self._attempts.labels(NONE)
        for code in LOSSES:
            self._findings.labels(code)

    def _counter(self, name: str, words: str, *labels: str) -> Counter:
        return Counter(f"emitterd_{name}", words, labels, registry=self._registry)

    def ended(self, outcome: str, path: bytes, size_bytes: int) -> None:
        """Count a version that ended: delivered, rejected, withdrawn, unchanged."""
        dataset = self._dataset(path)
        title = dataset.title if dataset else OTHER
        self._files.labels(outcome, title).inc()
        self._bytes.labels(outcome, title).inc(size_bytes)

    def attempted(self, error: str, duration_s: float | None) -> None:
        """Count an attempt. It succeeded if it has a duration, else `error` says why.

        `error` is a code as in docs/errors.md.
        """
        self._attempts.labels(error or NONE).inc()
        if duration_s is not None:
            self._delivery.observe(duration_s)

    def sent(self, size_bytes: int) -> None:
        """Count bytes of an upload under way."""
        self._sent.inc(size_bytes)

    def inspected(self, codes: Collection[Code]) -> None:
        """Count a file with findings: once for each of their codes."""
        for code in codes:
            self._findings.labels(code).inc()

    def processed(self, path: bytes, dropped: int) -> None:
        """Count the rows of a file that the server dropped."""
        dataset = self._dataset(path)
        self._dropped.labels(dataset.title if dataset else OTHER).inc(dropped)

    def swept(self, duration_s: float, missed: int) -> None:
        """Add a whole sweep; `missed`: files that no event had named."""
        self._sweep.observe(duration_s)
        self._missed.inc(missed)

    def scraper(self, read: Callable[[], QueueReading]) -> Callable[[str], tuple[bytes, str]]:
        """Return what a scrape calls with its Accept header: it returns a text and its type.

        `read` is called for each scrape.
        """
        self._read = read
        self._registry.register(self)

        def scrape(accept: str) -> tuple[bytes, str]:
            encode, content_type = choose_encoder(accept)
            return encode(self._registry), content_type

        return scrape

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering does not read the journal."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield every gauge, for the registry."""
        reading = self._read()
        yield from _entries(reading.queue)
        yield from _gauges(reading)
        yield _stages(reading.outages)
        yield _alarms(reading.health)
        yield _not_sent(reading.not_sent)
        yield from _arrivals(reading.queue)
        yield _tracked(reading.queue.tracked)


def _entries(queue: QueueStatus) -> Iterator[Metric]:
    files = _family("entries", "Versions of files in the journal.", "state")
    sizes = _family("entry_bytes", "Their bytes.", "state")
    for state in State:
        entries, size_bytes = queue.tally[state]
        files.add_metric([state], entries)
        sizes.add_metric([state], size_bytes)
    yield files
    yield sizes


def _gauges(reading: QueueReading) -> Iterator[Metric]:
    queue = reading.queue
    values: dict[str, tuple[str, float | None]] = {
        "oldest_waiting_timestamp_seconds": (
            "When the oldest waiting file was admitted.",
            queue.oldest_waiting_at,
        ),
        "last_success_timestamp_seconds": ("When a file was last delivered.", queue.delivered_at),
        "last_sweep_timestamp_seconds": (
            "When the last sweep of the whole folder ended.",
            reading.swept_at,
        ),
        "rejected_files": (
            "Rejected versions, neither replaced nor forgotten.",
            queue.rejected.files,
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
    down = {outage.stage for outage in outages}
    for stage in Stage:
        family.add_metric([stage], float(stage not in down))
    return family


def _not_sent(counts: Mapping[Code, int]) -> Metric:
    family = _family("not_sent_paths", "Paths in the folder that are not sent, by error.", "error")
    for code, number in sorted(counts.items()):
        family.add_metric([code], number)
    return family


def _arrivals(queue: QueueStatus) -> Iterator[Metric]:
    words = "When a file of a dataset was last"
    admitted = _family("dataset_last_arrival_timestamp_seconds", f"{words} admitted.", "dataset")
    delivered = _family("dataset_last_success_timestamp_seconds", f"{words} delivered.", "dataset")
    for dataset, arrival in queue.arrivals.items():
        if arrival.admitted_at is not None:
            admitted.add_metric([dataset], arrival.admitted_at)
        if arrival.delivered_at is not None:
            delivered.add_metric([dataset], arrival.delivered_at)
    yield admitted
    yield delivered


def _tracked(counts: Mapping[str, int]) -> Metric:
    family = _family("tracked_files", "Delivered files by what the server made of them.", "state")
    for state in ServerState:
        family.add_metric([state], counts[state])
    return family


def _alarms(health: Health) -> Metric:
    family = _family("alarm", "What is not well, as /healthz has it.", "code", "level")
    raised = {alarm.code for alarm in health.alarms}
    # Prometheus itself knows a daemon that is absent or does not answer, as `up`.
    for code in sorted(set(AlarmCode) - {AlarmCode.DAEMON_ABSENT, AlarmCode.DAEMON_SILENT}):
        level = Alarm(code, 0.0, "", "").level.lower()
        family.add_metric([code, level], float(code in raised))
    return family


def _family(name: str, words: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"emitterd_{name}", words, labels=labels)
