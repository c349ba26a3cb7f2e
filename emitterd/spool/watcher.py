"""Events of the watched folder, as hints: "look at this path".

Nothing is concluded from the kind of an event, nor from its absence. inotify loses events: queue
overflow, folders that are made and filled at once, the watch limit. The sweep finds such files.
Where inotify cannot be used at all, emitterd reports it once and works by sweeps alone.
"""

import logging
import os
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog
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

from emitterd.codes import Code
from emitterd.spool.folder import Spool
from emitterd.spool.mounts import NETWORK, file_system

INOTIFY = Path("/proc/sys/fs/inotify")

RETRY_S = 60.0
"""How often emitterd tries again to start a watch that failed."""

_LIMIT_HINT = (
    "raise it with: sysctl fs.inotify.max_user_watches={wanted}"
    " (and fs.inotify.max_user_instances where there are many programs)"
)

_EVENTS: list[type[FileSystemEvent]] = [
    DirCreatedEvent,
    DirMovedEvent,
    FileAttribEvent,
    FileClosedEvent,
    FileCreatedEvent,
    FileModifiedEvent,
    FileMovedEvent,
]

OnHint = Callable[[bytes, bool], None]
"""Gets a path that changed, and whether it is a folder, in a thread of watchdog. It must return at
once: events that wait are lost when the kernel's queue is full."""

OnRescan = Callable[[], None]
"""Asks for a sweep, because events were lost or the root was replaced."""

log = structlog.get_logger()


class WatchKeeper:
    """Starts, checks and restarts the watch on the root. Main thread only."""

    def __init__(self, spool: Spool, kind: str, on_hint: OnHint, on_rescan: OnRescan) -> None:
        """`kind`: auto, inotify or polling; `on_hint` gets paths below the root."""
        self._spool = spool
        self._kind = kind
        self._on_hint = on_hint
        self._on_rescan = on_rescan
        self._watcher = Watcher(spool.root, self._hint, self._overflow)
        self.lost_since: float | None = None
        """Since when the root is gone; seconds since the epoch, as below."""
        self.degraded_since: float | None = None
        self.degraded = ""
        """Why not every folder is watched, where some are not."""
        self._retry_at: float | None = None
        """When to start a watch again that failed, in monotonic seconds."""
        self._root: tuple[int, int] | None = None
        """The identity of the root that is watched."""

    @property
    def polling(self) -> bool:
        """Whether sweeps alone find files: inotify misses changes by other hosts."""
        if self._kind == "auto":
            return file_system(self._spool.root) in NETWORK
        return self._kind == "polling"

    def start(self) -> None:
        """Begin to watch, or wait for the root. Failures are logged, not raised."""
        if self._spool.lost():
            self._report_lost()
        else:
            self._watch()

    def check(self) -> None:
        """Check root and watch, and restart the watch; called about once a second."""
        if self._spool.lost():
            if self.lost_since is None:
                self._report_lost()
        elif self.lost_since is not None or self._root_replaced():
            self.lost_since = None
            self._watcher.stop()
            self._watch()
            log.info("watch.root_back", path=str(self._spool.root))
            self._on_rescan()
        elif self._retry_at is not None and time.monotonic() >= self._retry_at:
            self._watch()

    def stop(self) -> None:
        """Stop watching."""
        self._watcher.stop()

    def _watch(self) -> None:
        if self.polling:
            log.info(
                "watch.started",
                watcher="polling",
                path=str(self._spool.root),
                reason=f"file system {file_system(self._spool.root)}",
            )
            return
        root, self._root = self._spool.identity(), None
        try:
            self._watcher.start()
        except OSError as error:
            if self._retry_at is None:
                reason = error.strerror or str(error)
                self._report_degraded(reason, folders_below(self._spool.root))
            self._retry_at = time.monotonic() + RETRY_S
            return
        # Gone in between: no identity equals (0, 0), so the next check starts again.
        self._root, self._retry_at = root or (0, 0), None
        self.degraded_since = None
        # watchdog 7.1 starts without a word when the kernel refuses a watch below the root:
        # measured, 49 of 100 folders watched.
        folders, watched = folders_below(self._spool.root), watches()
        if watched < folders:
            self._report_degraded(f"{watched} of {folders} folders are watched", folders)
        log.info("watch.started", watcher="inotify", path=str(self._spool.root))

    def _root_replaced(self) -> bool:
        """Tell whether the watched folder is no longer the root.

        A new folder may get the inode of the one that was removed (ext4). But the watch ends with
        its folder, so its threads are checked too.
        """
        replaced = self._spool.identity() != self._root or not self._watcher.alive
        return self._root is not None and replaced

    def _hint(self, path: bytes, is_folder: bool) -> None:  # noqa: FBT001
        relative = self._spool.relative(path)
        if relative is not None:
            self._on_hint(relative, is_folder)

    def _overflow(self) -> None:
        log.warning("watch.overflow", path=str(self._spool.root))
        self._on_rescan()

    def _report_lost(self) -> None:
        self.lost_since = time.time()
        self._watcher.stop()
        log.error(
            "watch.root_lost",
            path=str(self._spool.root),
            error=Code.ROOT_LOST,
            hint=Code.ROOT_LOST.remedy,
        )

    def _report_degraded(self, reason: str, folders: int) -> None:
        self.degraded_since, self.degraded = time.time(), reason
        log.warning(
            "watch.degraded",
            path=str(self._spool.root),
            reason=f"{reason}; new files are found by sweeps",
            hint=_LIMIT_HINT.format(wanted=max(2 * folders, 2 * (watch_limit() or 0))),
        )


class Watcher(FileSystemEventHandler):
    """Watches a folder with inotify until it is stopped."""

    def __init__(self, root: Path, on_hint: OnHint, on_overflow: OnRescan) -> None:
        """Prepare; `on_hint` gets absolute paths."""
        self._root = root
        self._on_hint = on_hint
        self._overflow_handler = _OverflowHandler(on_overflow)
        self._observer: BaseObserver | None = None

    def start(self) -> None:
        """Begin to watch. Raises `OSError`: no root, no watch or instance left."""
        # A folder that is made and filled at once is registered twice, which watchdog 7.1 reports
        # as a RuntimeWarning with a page of text.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="watchdog")
        logger = logging.getLogger("watchdog")
        logger.addHandler(self._overflow_handler)
        logger.propagate = False
        observer = Observer()
        observer.schedule(
            self,
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

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Implement `FileSystemEventHandler`."""
        path = event.dest_path or event.src_path
        self._on_hint(os.fsencode(path), event.is_directory)

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
        # Last, or messages of watchdog during its stop would go to standard error.
        logging.getLogger("watchdog").removeHandler(self._overflow_handler)


class _OverflowHandler(logging.Handler):
    """Reads watchdog's log: watchdog logs an overflow, and raises nothing."""

    def __init__(self, on_overflow: OnRescan) -> None:
        super().__init__(logging.WARNING)
        self._on_overflow = on_overflow

    def emit(self, record: logging.LogRecord) -> None:
        # watchdog logs each overflow twice: for the descriptor, and for the new watch.
        if "events were lost" in record.getMessage():
            self._on_overflow()


def watch_limit(limits: Path = INOTIFY) -> int | None:
    """Return how many folders one user may watch, or None where unknown."""
    try:
        return int((limits / "max_user_watches").read_text())
    except (OSError, ValueError):
        return None


def folders_below(root: Path) -> int:
    """Return how many folders there are to watch, including the root."""
    count, folders = 0, [os.fspath(root)]
    while folders:
        # Not os.walk, which holds the names of all files of a folder.
        with suppress(OSError), os.scandir(folders.pop()) as entries:
            count += 1
            folders += [e.path for e in entries if e.is_dir(follow_symlinks=False)]
    return count


def watches(descriptors: Path = Path("/proc/self/fdinfo")) -> int:
    """Return how many folders this process watches. Source: proc_pid_fdinfo(5)."""
    count = 0
    for descriptor in descriptors.iterdir():
        # A descriptor may be closed since the listing.
        with suppress(OSError):
            count += descriptor.read_text().count("inotify wd:")
    return count
