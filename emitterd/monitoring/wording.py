"""How a verdict is written: the line of `status --check`, and JSON. Pure."""

from emitterd.errors import printable
from emitterd.model import iso
from emitterd.monitoring.alarms import AlarmLimits, Health, files_wait
from emitterd.monitoring.status import QueueStatus


def check_line(
    judged: Health,
    progress: QueueStatus,
    limits: AlarmLimits,
    *,
    running: bool,
    now: float,
) -> str:
    """Return level, words, and after a bar the numbers with their limits.

    Source: Monitoring Plugins Development Guidelines, "Plugin Output".
    """
    waiting = files_wait(progress.waiting) if progress.waiting else "nothing waits"
    words = "; ".join(alarm.words for alarm in judged.alarms) or waiting
    if not running and judged.ok:
        words += "; no daemon runs"
    # A bar in them would begin the numbers.
    words = printable(words).replace("|", "/")
    return f"{judged.level} - {words} | {' '.join(_numbers(progress, limits, now))}"


def _numbers(progress: QueueStatus, limits: AlarmLimits, now: float) -> list[str]:
    """Return each as `label=value;warning;critical;minimum`."""
    oldest_at = progress.oldest_waiting_at
    oldest_s = max(0.0, now - oldest_at) if oldest_at is not None else 0.0
    return [
        f"waiting={progress.waiting};;;0",
        f"waiting_bytes={progress.waiting_bytes}B;;;0",
        f"oldest={oldest_s:.0f}s;;{limits.oldest_waiting_s:.0f};0",
        f"rejected={progress.rejected};0;;0",
    ]


def record(judged: Health) -> dict[str, object]:
    """Return a verdict as JSON has it."""
    return {
        "level": judged.level,
        "alarms": [
            {
                "code": alarm.code,
                "level": alarm.level,
                "since": iso(alarm.since),
                "words": alarm.words,
                "hint": alarm.hint,
            }
            for alarm in judged.alarms
        ],
    }
