"""Events of the watched folder, as hints: "look at this path".

Nothing is concluded from an event's kind, and nothing from its absence: inotify loses
events (queue overflow, folders made and filled at once, the watch limit), which the
sweep finds. What is lost openly is told: overflow, and a root that went away.
"""

import logging
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver

INOTIFY = Path("/proc/sys/fs/inotify")

_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]


class Watcher:
    """Watches a folder with inotify until it is stopped."""

    def __init__(
        self,
        root: Path,
        on_hint: Callable[[bytes, bool], None],
        on_overflow: Callable[[], None],
    ) -> None:
        """Prepare; `on_hint` gets an absolute path and whether it is a folder.

        Both are called in the watcher's own threads and must return at once.
        """
        self._root = root
        self._handler = _EventHandler(on_hint)
        self._alarm = _Alarm(on_overflow)
        self._observer: BaseObserver | None = None

    def start(self) -> None:
        """Begin to watch. Raises `OSError`: no root, no watch or instance left."""
        # A folder that is made and filled at once is registered twice, which
        # watchdog 7.1 reports as a RuntimeWarning with a page of text.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="watchdog")
        logger = logging.getLogger("watchdog")
        logger.addHandler(self._alarm)
        logger.propagate = False
        observer = Observer()
        observer.schedule(
            self._handler,
            os.fsencode(self._root),  # type: ignore[arg-type]  # bytes stay bytes
            recursive=True,
            event_filter=_EVENTS,
        )
        try:
            observer.start()
        except OSError:
            self._remove(observer)
            raise
        self._observer = observer

    @property
    def alive(self) -> bool:
        """Whether the threads run; they end when the root is removed."""
        return self._observer is not None and all(
            emitter.is_alive() for emitter in self._observer.emitters
        )

    def stop(self) -> None:
        """Stop watching; idempotent."""
        if self._observer is not None:
            self._remove(self._observer)
            self._observer = None

    def _remove(self, observer: BaseObserver) -> None:
        observer.stop()
        if observer.is_alive():
            observer.join()
        # Last: what watchdog says while it stops would go to standard error.
        logging.getLogger("watchdog").removeHandler(self._alarm)


class _EventHandler(FileSystemEventHandler):
    def __init__(self, on_hint: Callable[[bytes, bool], None]) -> None:
        self._on_hint = on_hint

    def on_any_event(self, event: FileSystemEvent) -> None:
        path = event.dest_path or event.src_path
        self._on_hint(os.fsencode(path), event.is_directory)


class _Alarm(logging.Handler):
    """Hears watchdog's own warnings: an overflow is only logged, never raised."""

    def __init__(self, on_overflow: Callable[[], None]) -> None:
        super().__init__(logging.WARNING)
        self._on_overflow = on_overflow

    def emit(self, record: logging.LogRecord) -> None:
        # One overflow is told twice: by the descriptor, and by the watch that re-arms.
        if "events were lost" in record.getMessage():
            self._on_overflow()


def watch_limit(limits: Path = INOTIFY) -> int | None:
    """Return how many folders one user may watch, or None where unknown."""
    try:
        return int((limits / "max_user_watches").read_text())
    except (OSError, ValueError):
        return None


def folders_below(root: Path) -> int:
    """Return how many folders there are to watch, the root among them."""
    count, folders = 0, [os.fspath(root)]
    while folders:
        # Not os.walk, which holds the names of all files of a folder.
        with suppress(OSError), os.scandir(folders.pop()) as names:
            count += 1
            folders += [one.path for one in names if one.is_dir(follow_symlinks=False)]
    return count


def watches(descriptors: Path = Path("/proc/self/fdinfo")) -> int:
    """Return how many folders this process watches. Source: proc_pid_fdinfo(5)."""
    count = 0
    for descriptor in descriptors.iterdir():
        try:
            count += descriptor.read_text().count("inotify wd:")
        except OSError:
            # It was closed since the listing.
            continue
    return count
