"""The journal, with every end of a version and every failed attempt counted."""

from collections.abc import Callable
from pathlib import Path

from emitterd.datasets.dataset import Dataset
from emitterd.errors import DeliveryError
from emitterd.journal.journal import Journal
from emitterd.journal.rows import Admission, AdmissionResult, Admitted
from emitterd.model import Entry, Receipt, State
from emitterd.monitoring.metrics import OTHER, Metrics

UNCHANGED = "unchanged"
"""What is known content ends so: it leaves no row, and no state has its name."""


class CountedJournal(Journal):
    """Counts what has become durable, and not what was only meant to."""

    def __init__(
        self,
        path: Path,
        *,
        backoff_max_s: float,
        metrics: Metrics,
        dataset: Callable[[bytes], Dataset | None],
    ) -> None:
        """`dataset` is asked for the dataset of a path. Raises what `Journal` does."""
        super().__init__(path, backoff_max_s=backoff_max_s)
        self._metrics = metrics
        self._dataset = dataset

    def admit(self, batch: list[Admission]) -> list[Admitted]:
        """Enter complete files; some replace others, some are rejected at once."""
        answers = super().admit(batch)
        for one, answer in zip(batch, answers, strict=True):
            if answer.admittance is not AdmissionResult.ADMITTED:
                continue
            if answer.replaced:
                self._ended(State.WITHDRAWN, one.path, answer.replaced_bytes)
            if one.trouble is not None:
                self._ended(State.REJECTED, one.path, one.fingerprint.size_bytes)
        return answers

    def deliver(
        self, entry: Entry, receipt: Receipt, *, duration_s: float, dispose: bool
    ) -> None:
        """Record the delivery."""
        super().deliver(entry, receipt, duration_s=duration_s, dispose=dispose)
        self._ended(State.DELIVERED, entry.path, receipt.size_bytes)
        self._metrics.attempted()
        self._metrics.delivered(duration_s)

    def defer(
        self, entry: Entry, trouble: DeliveryError, due_at: float, *, charge: bool
    ) -> None:
        """Put off the next attempt."""
        super().defer(entry, trouble, due_at, charge=charge)
        self._metrics.attempted(trouble.code)

    def reject(
        self, entry: Entry, trouble: DeliveryError, *, dispose: bool = False
    ) -> None:
        """Record that this version can never be accepted."""
        super().reject(entry, trouble, dispose=dispose)
        self._ended(State.REJECTED, entry.path, entry.fingerprint.size_bytes)
        self._metrics.attempted(trouble.code)

    def withdraw(self, entry: Entry, trouble: DeliveryError) -> None:
        """Record that this version went or changed before it was sent."""
        super().withdraw(entry, trouble)
        self._ended(State.WITHDRAWN, entry.path, entry.fingerprint.size_bytes)

    def unchanged(self, entry: Entry, previous_id: int, *, dispose: bool) -> None:
        """Fold an entry of known content into the version that was delivered."""
        super().unchanged(entry, previous_id, dispose=dispose)
        self._ended(UNCHANGED, entry.path, entry.fingerprint.size_bytes)

    def _ended(self, outcome: str, path: bytes, size_bytes: int) -> None:
        dataset = self._dataset(path)
        self._metrics.ended(outcome, dataset.title if dataset else OTHER, size_bytes)
