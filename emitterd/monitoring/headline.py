"""What stands on top of the page: the verdict for who reads nothing else. Pure."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from emitterd.monitoring.alarms import Alarm, AlarmLevel, Health
from emitterd.monitoring.page_data import Overview
from emitterd.monitoring.uploads import UploadProgress
from emitterd.text import amount, count, sentence, share, span

_TONES = {AlarmLevel.OK: "well", AlarmLevel.WARNING: "look", AlarmLevel.CRITICAL: "bad"}

_CODE = re.compile(r"^E[0-9]{3} ")


@dataclass(frozen=True, slots=True)
class Notice:
    """One alarm, its gist apart from its detail; `since` is seconds since the epoch."""

    cause: str
    title: str
    detail: str
    since: float
    hint: str


@dataclass(frozen=True, slots=True)
class Summary:
    """The verdict in words; `tone` is well, look (somebody should) or bad."""

    tone: str
    title: str
    gist: str
    notices: tuple[Notice, ...]


@dataclass(frozen=True, slots=True)
class QueueProgress:
    """One upload under way, for a bar; `path` is as the board has it."""

    id: int
    path: bytes
    sent_bytes: int
    size_bytes: int
    percent: int
    said: str


def summary(
    verdict: Health, overview: Overview, sending: int, eta_s: float | None
) -> Summary:
    """Put the verdict into words."""
    notices = tuple(map(_notice, verdict.alarms))
    if not notices:
        return Summary("well", "All is well", _all_well(overview, sending, eta_s), ())
    title = notices[0].title
    if others := len(notices) - 1:
        title += f", and {count(others, 'more alarm')}"
    critical = verdict.level is AlarmLevel.CRITICAL
    gist = _in_trouble(overview) if critical else _all_well(overview, sending, eta_s)
    return Summary(_TONES[verdict.level], title, gist, notices)


def forecast(eta_s: float | None) -> str:
    """Say when the queue will be empty; nothing where that is not known."""
    if eta_s is None:
        return ""
    about = "" if eta_s < 60 else "about "  # noqa: PLR2004  a minute
    return f"Done in {about}{span(eta_s)} at the present speed."


def progress(upload: UploadProgress, now: float) -> QueueProgress:
    """Put an upload into numbers and words."""
    percent = share(upload.sent_bytes, upload.size_bytes)
    said = [f"{percent} %"]
    left_s = upload.eta_s(now)
    if left_s is not None:
        said += [f"{amount(upload.bytes_s(now))}/s", f"{span(left_s)} left"]
    if upload.attempt > 1:
        said.append(f"attempt {upload.attempt}")
    return QueueProgress(
        upload.id,
        upload.path,
        upload.sent_bytes,
        upload.size_bytes,
        percent,
        ", ".join(said),
    )


def rate(uploads: Sequence[UploadProgress], now: float) -> str:
    """Say how fast all uploads go together."""
    speed = sum(one.bytes_s(now) for one in uploads)
    return f"{amount(speed)}/s" if speed else "nothing at the moment"


def _notice(alarm: Alarm) -> Notice:
    title, _, detail = _CODE.sub("", alarm.words).partition(": ")
    capital = title[:1].upper() + title[1:]
    told = sentence(detail) if detail else ""
    return Notice(alarm.code, capital, told, alarm.since, alarm.hint)


def _all_well(overview: Overview, sending: int, eta_s: float | None) -> str:
    said = []
    if sending:
        verb = "is" if sending == 1 else "are"
        said.append(f"{count(sending, 'file')} {verb} being sent.")
    if overview.waiting:
        verb = "waits" if overview.waiting == 1 else "wait"
        said.append(f"{count(overview.waiting, 'file')} {verb}.")
        said.append(forecast(eta_s))
    if said:
        return " ".join(filter(None, said))
    if overview.progress.delivered_at is None:
        return "No file has come yet."
    return "Every file that was taken in has been dealt with; nothing waits."


def _in_trouble(overview: Overview) -> str:
    left = overview.progress.waiting
    if not left:
        return "No file waits for it at the moment."
    files = count(left, "file")
    verb = "waits, and goes" if left == 1 else "wait, and go"
    return f"No file is lost: {files} {verb} on as soon as this is mended."
