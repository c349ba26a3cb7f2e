"""`emitterd demo`: the whole way in a temporary folder, in seconds.

A rehearsal server, the folder tree of cQube's emission process with sample zips, the
real daemon as a process of its own: half of the files lie there before it starts, half
are dropped while it runs. Nothing is simulated on the sending side.
"""

import os
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from emitterd.cli.output import DONE, WRONG, complain, console, print_receipts
from emitterd.datasets.catalogue import Dataset
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.sample import sample_csv
from emitterd.errors import JournalError
from emitterd.journal.reader import JournalReader
from emitterd.model import State
from emitterd.monitoring.status import status_record
from emitterd.rehearsal.server import RehearsalServer

MASTERS = (
    "block_master/block_mst",
    "cluster_master/cluster_mst",
    "district_master/district_mst",
    "school_master/school_mst",
    "pat/periodic_exam_mst",
    "pat/periodic_exam_qst_mst",
    "diksha/diksha_tpd_mapping",
    "diksha/diksha_api_progress_exhaust_batch_ids",
    "sat/semester_exam_mst",
    "sat/semester_exam_qst_mst",
    "sat/semester_exam_subject_details",
    "school_category/school_category_master",
    "school_management/school_management_master",
    "sat/semester_exam_grade_details",
    "pat/periodic_exam_subject_details",
    "pat/periodic_exam_grade_details",
)
TRANSACTIONAL = (
    "student_attendance/student_attendance",
    "teacher_attendance/teacher_attendance",
    "user_location_master/user_location_master",
    "inspection_master/inspection_master",
    "infra_trans/infra_trans",
    "diksha/diksha",
    "pat/periodic_exam_result_trans",
    "sat/semester_exam_result_trans",
)
"""The two trees of cQube's document "Emission Process"."""

ROWS = 2000
DEADLINE_S = 45.0

CONFIGURATION = """\
emission:
  url: {url}
  username: emission
  password_file: password
  allow_insecure_http: true
spool:
  directory: cqube_emission
journal:
  path: journal.db
log:
  file: emitterd.jsonl
"""


def show(keep: Path | None) -> int:
    """Go the whole way in a folder of its own; return the exit code."""
    try:
        with workplace(keep) as folder:
            receipts = Demo(folder).run(console().print)
    except (TimeoutError, FileExistsError) as error:
        complain(str(error))
        return WRONG
    print_receipts(receipts)
    console().print(f"{len(receipts)} files delivered, each whole and once")
    return DONE


class Demo:
    """One run of the demonstration in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.spool = folder / "cqube_emission"
        self.configuration = folder / "emitter.yaml"

    def run(self, say: Any) -> list[dict[str, Any]]:  # noqa: ANN401  print or alike
        """Do it all; return the receipts. `say` is told each step.

        Raises `TimeoutError` where not everything arrives in time.
        """
        with RehearsalServer(self.folder / "server", password="rehearsal") as server:  # noqa: S106
            self._configure(server.url)
            say(f"a rehearsal server listens on {server.url}")
            self._drop(MASTERS)
            say(f"{len(MASTERS)} master files lie in {self.spool}")
            with self._daemon():
                say("emitterd runs; its log is " + str(self.folder / "emitterd.jsonl"))
                self._await(len(MASTERS))
                self._drop(TRANSACTIONAL)
                say(f"{len(TRANSACTIONAL)} transactional files are dropped meanwhile")
                self._await(len(MASTERS) + len(TRANSACTIONAL))
            say(f"the bucket holds {len(server.objects)} objects")
        with JournalReader(self.folder / "journal.db") as records:
            return list(records.entries(State.DELIVERED))

    def _drop(self, titles: Iterable[str]) -> None:
        catalogue = load_catalogue()
        for dataset in catalogue.datasets:
            if dataset.title in titles:
                write_sample(self.spool, dataset)

    def _configure(self, url: str) -> None:
        password = self.folder / "password"
        password.touch(0o600)
        password.write_text("rehearsal\n")
        self.configuration.write_text(CONFIGURATION.format(url=url))
        self.spool.mkdir()

    @contextmanager
    def _daemon(self) -> Iterator[None]:
        # The operator's own settings must not reach into the demonstration.
        environment = {
            name: value
            for name, value in os.environ.items()
            if not name.startswith("EMITTERD_")
        }
        process = subprocess.Popen(  # noqa: S603  ourselves
            [sys.executable, "-m", "emitterd", "run", "-c", str(self.configuration)],
            env=environment,
        )
        try:
            yield
        finally:
            process.terminate()
            process.wait(DEADLINE_S)

    def _await(self, delivered: int) -> None:
        deadline = time.monotonic() + DEADLINE_S
        pause = threading.Event()
        while time.monotonic() < deadline:
            if self._delivered() >= delivered:
                return
            pause.wait(0.05)
        raise TimeoutError(
            f"not delivered within {DEADLINE_S:.0f} s: --keep leaves its log"
        )

    def _delivered(self) -> int:
        try:
            with JournalReader(self.folder / "journal.db") as records:
                return int(status_record(records)["counts"]["delivered"])
        except JournalError:
            # The daemon has not made it yet.
            return 0


@contextmanager
def workplace(keep: Path | None) -> Iterator[Path]:
    """Yield a folder for the demonstration: `keep`, or one that goes afterwards."""
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise FileExistsError(f"{keep} is not empty: name a new folder")
        yield keep
        return
    with tempfile.TemporaryDirectory(prefix="emitterd-demo-") as name:
        yield Path(name)


def write_sample(spool: Path, dataset: Dataset) -> Path:
    """Write a dataset's zip with one CSV, by rename as a careful producer does."""
    target = spool / dataset.folder / f"{dataset.name}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{dataset.name}.csv", sample_csv(dataset, ROWS))
    return part.rename(target)
