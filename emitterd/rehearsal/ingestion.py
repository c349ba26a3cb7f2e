"""cQube 5's ingestion service, without the network: it accepts zips, and processes them later.

Four kinds of upload kill the real service, and this one as well. The service tracks a file before
it unpacks it. So the file that killed it, and every file it had not processed yet, stay
`Upload_in_progress`. Source: ingestion-ms 5.0.5, run and read.
"""

import base64
import csv
import hashlib
import hmac
import io
import json
import re
import secrets
import shutil
import threading
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO

from emitterd.rehearsal.exchange import ServiceDied
from emitterd.rehearsal.faults import Fault, FaultStage
from emitterd.rehearsal.responses import UNKNOWN_PROGRAM, RefusedError

KILLED_NO_ZIP = "killed-by-no-zip"
KILLED_CUT_OFF_ZIP = "killed-by-cut-off-zip"
KILLED_OTHER_CSV = "killed-by-csv-of-another-name"
KILLED_TWO_UPLOADS = "killed-by-two-uploads"
KILLED = (KILLED_NO_ZIP, KILLED_CUT_OFF_ZIP, KILLED_OTHER_CSV, KILLED_TWO_UPLOADS)
"""The ways in which an upload kills the service, as `RehearsalServer.fired` counts them."""

IN_PROGRESS = "Upload_in_progress"
UPLOADED = "Uploaded"
_BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, OSError, EOFError, RuntimeError, NotImplementedError)

PROGRAMS: dict[str, tuple[str, ...]] = {
    name: tuple(columns.split(",")) if columns else ()
    for name, columns in {
        "diksha_etb_learning-session": "state_name,state_code,board,subject,content_name,"
        "mime_type,total_no_of_plays(App and Portal),total_play_time(App and Portal),grade,medium,"
        "category",
        "diksha_etb_plays-per-capita": "state_name,state_code,plays_per_capita,latitude,longitude",
        "diksha_nishtha_consumption-by-course": "state_name,state_code,published_by,user_state,"
        "course_name,program,enrollments,completion,certification,latitude,longitude",
        "diksha_nishtha_consumption-by-district": "state_name,state_code,district_name,"
        "district_code,program,total_enrollments,total_completion,total_certifications,"
        "certification%,latitude,longitude",
        "diksha_nishtha_percentage-enrollment-certification": "",
        "diksha_nishtha_program-started": "state_name,state_code,program,started,latitude,"
        "longitude",
        "diksha_nishtha_tot-courses-medium": "program_name,state_name,total_courses,total_medium,"
        "state_code,latitude,longitude",
        "nas_all-dashboard": "state_name,state_code,district_name,district_code,number_of_schools,"
        "number_of_teachers,students_surveyed,learning_outcome_code,performance,subject,grade,"
        "learning_outcome,latitude,longitude",
        "nas_program-started": "",
        "pgi_all-dashboard": "",
        "pm-poshan_access-across-india": "state_name,state_code,district_name,district_code,"
        "latitude,longitude,enrolled,meal_served,total_schools",
        "udise-all-dashboard": "",
        "udise_program-started": "",
        "vsk_diksha_etb_coverage-status": "textbook_id,medium,grade,subject,linked_qr_count,"
        "resource_count",
        "vsk_diksha_etb_qr-coverage": "textbook_id,textbook_name,medium,grade,subject,"
        "day_of_created_on,qr_coverage,qr_codes_linked_to_content,total_qr_codes",
    }.items()
}
"""The programs of the starter pack and their columns; empty where the service takes any header.

Source: upstream's own test files.
"""
_NUMBERS = frozenset({"latitude", "longitude"})
_NUMBER = re.compile(r"-?[0-9]+(\.[0-9]*)?")


@dataclass(slots=True)
class TrackedFile:
    """One upload as the service tracks it; the counts are texts or None, as it writes them.

    `accepted`: whether it was answered with 200. `md5` and `size_bytes` are those of the zip.
    """

    pid: int
    file_name: str
    file_status: str
    created_at: str
    size_bytes: int
    md5: str
    accepted: bool = False
    total_data_count: str | None = None
    processed_data_count: str | None = None
    error_data_count: str | None = None

    @property
    def name(self) -> str:
        """The program: the file's name up to the first `.zip`."""
        return self.file_name.split(".zip")[0]

    def status(self) -> dict[str, object]:
        """Return what `file-status` says about it."""
        record = asdict(self)
        for name in ("size_bytes", "md5", "accepted"):
            del record[name]
        return record


class IngestionService:
    """The files of one service.

    `files` are all uploads, the oldest first. `programs` has the columns of each known program;
    it may be changed. `draw` draws the fault of a file that is processed. `on_death` is called when
    the service dies while it processes.
    """

    def __init__(
        self,
        directory: Path,
        draw: Callable[[FaultStage], Fault | None],
        on_death: Callable[[ServiceDied], None],
        process_after_s: float | None,
    ) -> None:
        """`process_after_s`: seconds from the answer to the processing; None: see `process`."""
        self.files: list[TrackedFile] = []
        self.programs: dict[str, tuple[str, ...]] = dict(PROGRAMS)
        self.process_after_s = process_after_s
        self._directory = directory
        self._received = directory / "temp-files"
        self._tracker = directory / "file-tracker.json"
        self._secret = directory / "secret"
        self._draw = draw
        self._on_death = on_death
        self._in_process: dict[int, Path] = {}
        self._final_at: dict[int, float] = {}
        # The server's thread accepts, and the owner's thread may call `process`.
        self._lock = threading.RLock()

    def open(self) -> None:
        """Read the tracked files of a former run. Its work in process is lost."""
        self._received.mkdir(parents=True, exist_ok=True)
        if not self._secret.exists():
            self._secret.touch(mode=0o600)
            self._secret.write_text(secrets.token_hex(20))
        self.lose_work()
        if not self.files and self._tracker.exists():
            self.files += [TrackedFile(**row) for row in json.loads(self._tracker.read_bytes())]

    def token(self) -> str:
        """Return a new token. It does not expire, and a restart does not end it."""
        header = _base64(json.dumps({"alg": "HS256", "typ": "JWT"}).encode())
        payload = _base64(json.dumps({"time": time.ctime(), "iat": int(time.time())}).encode())
        return f"{header}.{payload}.{self._signature(f'{header}.{payload}')}"

    def accepts(self, token: str) -> bool:
        """Tell whether this service made the token."""
        signed, _, signature = token.rpartition(".")
        right = self._signature(signed).encode()
        return hmac.compare_digest(signature.encode("utf-8", "replace"), right)

    def receive(self, file_name: str, content: IO[bytes], began_at: float) -> TrackedFile:
        """Track an upload whose body began at `began_at` (monotonic), and accept it.

        Raises `RefusedError` for an unknown program, and `ServiceDied` for an upload that kills the
        service.
        """
        with self._lock:
            tracked = self._track(file_name, content)
            path = self._received / f"{tracked.pid}.zip"
            others = [item for item in self.files if item.file_name == file_name][:-1]
            if any(self._is_busy(item.pid, began_at) for item in others):
                raise ServiceDied(cause=KILLED_TWO_UPLOADS)
            if problem := _zip_problem(path):
                raise ServiceDied(cause=problem)
            if tracked.name not in self.programs:
                self._finish(tracked, "Error ->No event found")
                raise RefusedError(UNKNOWN_PROGRAM)
            tracked.accepted = True
            self._in_process[tracked.pid] = path
            self._save()
            return tracked

    def newest(self, file_name: str, name: str) -> TrackedFile | None:
        """Return the newest upload of this file name and program, or None."""
        with self._lock:
            matching = (
                item for item in self.files if (item.file_name, item.name) == (file_name, name)
            )
            return max(matching, key=lambda item: item.pid, default=None)

    def process(self) -> None:
        """Process all accepted files now, the oldest first."""
        for pid in sorted(self._in_process):
            self.process_file(pid)

    def process_file(self, pid: int) -> None:
        """Process one accepted file, unless the service has died since."""
        with self._lock:
            path = self._in_process.get(pid)
            if path is None:
                return
            tracked = next(item for item in self.files if item.pid == pid)
            try:
                self._process(tracked, path)
            except ServiceDied as death:
                self._on_death(death)

    def lose_work(self) -> None:
        """Forget the files in process; their records stay as they are."""
        with self._lock:
            self._in_process.clear()
            for path in self._received.glob("*"):
                path.unlink()

    def _track(self, file_name: str, content: IO[bytes]) -> TrackedFile:
        pid = len(self.files) + 1
        path = self._received / f"{pid}.zip"
        with path.open("xb") as target:
            shutil.copyfileobj(content, target)
        with path.open("rb") as source:
            md5 = hashlib.file_digest(
                source, lambda: hashlib.md5(usedforsecurity=False)
            ).hexdigest()
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        tracked = TrackedFile(pid, file_name, IN_PROGRESS, now, path.stat().st_size, md5)
        self.files.append(tracked)
        self._save()
        return tracked

    def _is_busy(self, pid: int, since: float) -> bool:
        """Tell whether an upload was not final all the time since then."""
        return pid in self._in_process or self._final_at.get(pid, since) > since

    def _process(self, tracked: TrackedFile, path: Path) -> None:
        fault = self._draw(FaultStage.INGEST)
        name = fault.name if fault else ""
        parameter = fault.parameter if fault else None
        if name == "die-processing":
            raise ServiceDied(parameter)
        if name == "endless":
            return
        if name == "status-error":
            self._finish(tracked, "Error ->Internal error")
            return
        if name == "no-rows":
            tracked.total_data_count = "0"
            self._finish(tracked, UPLOADED)
            return
        refused = int(parameter or 1) if name == "error-rows" else 0
        try:
            good, bad = self._split_rows(tracked.name, path, refused)
        except csv.Error:
            self._finish(tracked, "Error")
            return
        tracked.total_data_count = str(good + bad)
        # The real service writes a count only if it is not 0.
        tracked.processed_data_count = str(good) if good else None
        tracked.error_data_count = str(bad) if bad else None
        self._finish(tracked, UPLOADED)

    def _split_rows(self, name: str, path: Path, refused: int) -> tuple[int, int]:
        """Write the good and the bad rows of a zip into files, and return how many there are.

        The service refuses the first `refused` good rows too. Raises `csv.Error` for a row with
        more values than the header, and `ServiceDied` if there is no CSV of this name.
        """
        day = time.strftime("%d-%b-%Y")
        targets = (
            self._directory / "emission" / day / f"{name}.csv",
            self._directory / "emission-error" / day / f"{name}_errors.csv",
        )
        counts = [0, 0]
        with ExitStack() as stack:
            lines = _csv_lines(stack, path, f"{name}.csv")
            header = next(lines, [])
            columns = self.programs[name] or tuple(header)
            parts = [self._received / target.name for target in targets]
            writers = [
                csv.writer(stack.enter_context(part.open("w", newline=""))) for part in parts
            ]
            for writer in writers:
                writer.writerow(header)
            for values in lines:
                is_bad = not _is_good(header, values, columns) or counts[1] < refused
                writers[is_bad].writerow(values)
                counts[is_bad] += 1
        for part, target, count in zip(parts, targets, counts, strict=True):
            if count:
                target.parent.mkdir(parents=True, exist_ok=True)
                part.replace(target)
            part.unlink(missing_ok=True)
        return counts[0], counts[1]

    def _finish(self, tracked: TrackedFile, status: str) -> None:
        tracked.file_status = status
        self._final_at[tracked.pid] = time.monotonic()
        self._in_process.pop(tracked.pid, None)
        (self._received / f"{tracked.pid}.zip").unlink(missing_ok=True)
        self._save()

    def _save(self) -> None:
        part = self._tracker.with_suffix(".part")
        part.write_text(json.dumps([asdict(item) for item in self.files]))
        part.replace(self._tracker)

    def _signature(self, signed: str) -> str:
        secret = self._secret.read_bytes()
        return _base64(hmac.digest(secret, signed.encode("utf-8", "replace"), "sha256"))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def _zip_problem(path: Path) -> str:
    """Return how this file kills the service when it is unpacked; empty for a whole zip."""
    with path.open("rb") as file:
        is_zip = file.read(2) == b"PK"
    if not is_zip:
        return KILLED_NO_ZIP
    try:
        with zipfile.ZipFile(path) as archive:
            return KILLED_CUT_OFF_ZIP if archive.testzip() else ""
    except _BROKEN_ZIP:
        return KILLED_CUT_OFF_ZIP


def _csv_lines(stack: ExitStack, path: Path, name: str) -> Iterator[list[str]]:
    """Return the lines of the CSV of this name in a zip, the header first.

    Raises `ServiceDied` if there is none.
    """
    archive = stack.enter_context(zipfile.ZipFile(path))
    if name not in archive.namelist():
        raise ServiceDied(cause=KILLED_OTHER_CSV)
    member = stack.enter_context(archive.open(name))
    text = stack.enter_context(io.TextIOWrapper(member, "utf-8", "replace", newline=""))
    return (values for values in csv.reader(text) if values)


def _is_good(header: list[str], values: list[str], columns: tuple[str, ...]) -> bool:
    """Tell whether a row has a value for each column, and numbers where they are needed.

    Raises `csv.Error` if it has more values than the header.
    """
    if len(values) > len(header):
        raise csv.Error("a row has more values than the header")
    row = dict(zip(header, values, strict=False))
    return all(
        _NUMBER.fullmatch(row.get(name, "")) if name in _NUMBERS else row.get(name)
        for name in columns
    )
