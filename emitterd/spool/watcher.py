"""Events of the watched folder, as hints: "look at this path".

Nothing is concluded from the kind of an event, nor from its absence. inotify loses events: queue
overflow, folders that are made and filled at once, the watch limit. The sweep finds such files.
Where inotify cannot be used at all, emitterd reports it once and works by sweeps alone.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
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
from watchdog.observers.api import BaseObserver
from watchdog.observers.inotify import InotifyEmitter, InotifyWatchGroup
from watchdog.observers.inotify_c import InotifyConstants, InotifyEvent, InotifyFD, Mask

from emitterd.codes import Code
from emitterd.spool.folder import Spool
from emitterd.spool.mounts import NETWORK, file_system

INOTIFY = Path("/proc/sys/fs/inotify")

RETRY_FIRST_S, RETRY_S = 1.0, 60.0
"""When emitterd first restarts a watch that failed; the wait then doubles to the second value."""

RECURSION_LIMIT = 10_000
"""watchdog calls `os.walk`, which is recursive in Python 3.11. A path has up to 2,048 folders."""

_LIMIT_HINT = (
    "raise it with: sysctl fs.inotify.max_user_watches={wanted}"
    " (and fs.inotify.max_user_instances where there are many programs)"
)

# Not the events of opening and of closing unwritten files: emitterd's own reading causes them.
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
        self.folders_swept = 0
        """How many folders the last sweep found; any thread may set it."""
        self._folders_checked = 0
        self._retry_at: float | None = None
        """When to start a watch again that failed, in monotonic seconds."""
        self._retry_s = RETRY_FIRST_S
        self._started_at = 0.0
        self._root: tuple[int, int] | None = None
        """The identity of the root that is watched."""

    @property
    def shared_since(self) -> float | None:
        """Since when another process is known to deliver from the same folder."""
        return self._spool.shared_since

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
        if self._spool.shared_since is not None:
            self._spool.claim()
        if self._spool.lost():
            if self.lost_since is None:
                self._report_lost()
        elif self.lost_since is not None or self._root_replaced():
            self.lost_since = None
            self._watcher.stop()
            self._watch()
            log.info("watch.root_back", path=str(self._spool.root))
            # Once the watch runs: files that came between sweep and watch would be missed.
            self._on_rescan()
        elif self._retry_at is not None:
            if time.monotonic() >= self._retry_at:
                self._watch()
                self._on_rescan()
        elif self._root is not None:
            self._check_watch()

    def _check_watch(self) -> None:
        if not self._watcher.alive:
            self._watcher.stop()
            self._root = None
            # A watch that ran for a while has not failed at its start, so the waits begin again.
            if time.monotonic() > self._started_at + RETRY_S:
                self._retry_s = RETRY_FIRST_S
            self._retry("the watch has ended for an unknown reason, and is started again")
        elif self.folders_swept != self._folders_checked:
            # Without a free descriptor the watches cannot be counted: the next check tries again.
            with suppress(OSError):
                # Only then worth a look at every folder.
                if watches() <= self.folders_swept or self.degraded_since is not None:
                    self._check_coverage()
                self._folders_checked = self.folders_swept

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
        except Exception as error:  # noqa: BLE001  sweeps find files without a watch
            reason = getattr(error, "strerror", None) or str(error) or repr(error)
            self._retry(reason)
            return
        # Gone in between: no identity equals (0, 0), so the next check starts again.
        self._root, self._retry_at = root or (0, 0), None
        self._started_at, self.degraded_since = time.monotonic(), None
        with suppress(OSError):
            self._check_coverage()
        log.info("watch.started", watcher="inotify", path=str(self._spool.root))

    def _check_coverage(self) -> None:
        """Report whether every folder is watched, if that has changed.

        watchdog 7.1 says nothing when the kernel refuses a watch below the root: measured, 49 of
        100 folders watched.
        """
        folders, watched = folders_below(self._spool.root), watches()
        if watched >= folders:
            self.degraded_since = None
        elif self.degraded_since is None:
            self._report_degraded(f"{watched} of {folders} folders are watched", folders)

    def _retry(self, reason: str) -> None:
        """Report a watch that cannot be started, or has failed, and schedule a restart."""
        if self._retry_at is None:
            self._report_degraded(reason, folders_below(self._spool.root))
        self._retry_at = time.monotonic() + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_S)

    def _root_replaced(self) -> bool:
        """Tell whether the watched folder is no longer the root.

        A new folder may get the inode of the one that was removed (ext4). But the watch ends with
        its folder.
        """
        replaced = self._spool.identity() != self._root or self._watcher.ended
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


class _Emitter(InotifyEmitter):
    """Drops the events that watchdog makes up for each file of a folder that was moved.

    The folder itself is a hint, and is listed. A large folder that is renamed again and again would
    delay the events of all others.
    """

    def queue_event(self, event: FileSystemEvent) -> None:
        if not event.is_synthetic:
            super().queue_event(event)

    def on_thread_start(self) -> None:
        """Watch with a group that walks through each new folder once."""
        mask = self.get_event_mask_from_filter()
        path = os.fsencode(self.watch.path)
        self._inotify = WatchGroup(self._inotify_fd, path, is_recursive=True, event_mask=mask)


class Watcher(FileSystemEventHandler):
    """Watches a folder with inotify until it is stopped."""

    def __init__(self, root: Path, on_hint: OnHint, on_overflow: OnRescan) -> None:
        """Prepare; `on_hint` gets absolute paths."""
        self._root = root
        self._on_hint = on_hint
        self._overflow_handler = _OverflowHandler(on_overflow)
        self._observer: BaseObserver | None = None
        self._reader: InotifyFD | None = None

    def start(self) -> None:
        """Begin to watch. Raises `OSError` (no root, no watch or instance left), and others."""
        sys.setrecursionlimit(max(sys.getrecursionlimit(), RECURSION_LIMIT))
        # A folder that is made and filled at once is registered twice, which watchdog 7.1 reports
        # as a RuntimeWarning with a page of text.
        warnings.filterwarnings("ignore", category=RuntimeWarning, module="watchdog")
        logger = logging.getLogger("watchdog")
        logger.addHandler(self._overflow_handler)
        logger.propagate = False
        # Not watchdog's `Observer`, which does not show whether its reader still runs.
        self._reader = InotifyFD()
        self._observer = observer = BaseObserver(_Emitter, inotify_fd=self._reader)
        observer.schedule(
            self,
            os.fsencode(self._root),  # type: ignore[arg-type]  # bytes stay bytes
            recursive=True,
            event_filter=_EVENTS,
        )
        try:
            self._reader.start()
            observer.start()
        except BaseException:
            self.stop()
            raise

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Implement `FileSystemEventHandler`."""
        # Of a move only the new name is a hint; the sweep finds that the old one is gone.
        path = event.dest_path or event.src_path
        self._on_hint(os.fsencode(path), event.is_directory)

    @property
    def ended(self) -> bool:
        """Whether the watch has ended because its folder was removed."""
        emitters = self._observer.emitters if self._observer is not None else ()
        return any(not emitter.should_keep_running() for emitter in emitters)

    @property
    def alive(self) -> bool:
        """Whether all threads of watchdog run: the reader of events, and those behind it."""
        if self._observer is None or self._reader is None:
            return False
        threads = (self._observer, self._reader, *self._observer.emitters)
        return all(thread.is_alive() for thread in threads)

    def stop(self) -> None:
        """Stop watching; idempotent."""
        for thread in (self._observer, self._reader):
            if thread is not None:
                thread.stop()
                if thread.is_alive():
                    thread.join()
        self._observer = self._reader = None
        # Last, or messages of watchdog during its stop would go to standard error.
        logging.getLogger("watchdog").removeHandler(self._overflow_handler)


class WatchGroup(InotifyWatchGroup):
    """watchdog's group of watches, with one walk through each new folder.

    watchdog walks through all folders below for each event of a new folder. Measured: while a tree
    nested 1,000 deep is made, no event of another folder is read for half a minute.
    """

    _walked = b""
    """The folder of the current event, if it was walked through before."""

    def __repr__(self) -> str:
        # watchdog's own text names every watch, and is made for each folder that is registered
        # twice. Measured: that took most of the time for 1,000 new folders.
        return f"{type(self).__name__}({self.path!r})"

    def _add_all_callbacks(self, path: bytes) -> None:
        before = self._active_callbacks_by_path.get(path)
        self._add_callback(path)
        # The kernel gives one folder one number. What came after its watch has events of its own.
        known = before is not None and before == self._active_callbacks_by_path.get(path)
        self._walked = path if known else b""
        if known:
            return
        # Each folder is watched before it is listed.
        for top, folders, _ in self._walk(path):
            for name in folders:
                self._add_callback(top + b"/" + name)

    def _recursive_simulate(self, src_path: bytes) -> list[InotifyEvent]:
        events: list[InotifyEvent] = []
        if src_path == self._walked:
            return events
        file = Mask(InotifyConstants.IN_CREATE)
        folder = Mask(InotifyConstants.IN_CREATE | InotifyConstants.IN_ISDIR)
        for top, folders, files in self._walk(src_path):
            wd = self._active_callbacks_by_path.get(top)
            # Without a watch, its own event is still to come.
            if wd is not None:
                events += [InotifyEvent(wd, folder, 0, name) for name in folders]
                events += [InotifyEvent(wd, file, 0, name) for name in files]
        return events

    @staticmethod
    def _walk(top: bytes) -> Iterator[tuple[bytes, list[bytes], list[bytes]]]:
        """Yield each folder, with the names of the folders and of the other files in it.

        As `os.walk`, which is recursive in Python 3.11: each folder would cost its depth.
        """
        left = [top]
        while left:
            folder, folders, files = left.pop(), list[bytes](), list[bytes]()
            with suppress(OSError), os.scandir(folder) as scan:
                for entry in scan:
                    (folders if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
                yield folder, folders, files
                left += [folder + b"/" + name for name in folders]


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
