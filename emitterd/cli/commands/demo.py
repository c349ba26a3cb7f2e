"""`emitterd demo`: delivers sample files end to end in a temporary folder, in seconds.

It runs a rehearsal server and the real daemon as a process. Sample zips of cQube's master data are
in the watched folder before the daemon starts. Those of transactional data are dropped while it
runs. One file has rows that the server drops, and the server drops another one whole: the receipts
show it.

With cQube 5 it is the same with the programs of the starter pack. The receipts have the server's
counts, and emitterd rejects the file that the server cannot use.
"""

import contextlib
import os
import subprocess
import tempfile
import time
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import click

from emitterd.cli.commands.entries import print_receipts
from emitterd.cli.output import DONE, console
from emitterd.datasets.catalogue import DatasetKind
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.sample import sample_csv
from emitterd.errors import JournalError
from emitterd.interpreter import module_command
from emitterd.journal.reader import EntryQuery, JournalReader
from emitterd.model import ServerState, State, WireProtocol
from emitterd.monitoring.status import status_record
from emitterd.rehearsal.server import RehearsalServer
from emitterd.tracking.texts import word

ROWS = 2000
DEADLINE_S = 45.0

CONFIGURATION = """\
emission:
  url: {url}
  {login}
  allow_insecure_http: true
spool:
  directory: cqube_emission
journal:
  path: journal.db
log:
  file: emitterd.jsonl
"""
TRACKING = """\
tracking:
  enabled: true
  poll_every: 500ms
"""
API_KEY = "rehearsal"
PROCESS_AFTER_S = 0.5
"""When cQube 5 processes a file, as the real one does."""
PROGRAMS_FOLDER = "programs"
"""The folder that `emitterd init` creates for them."""

WRONG_DATES = "pat/periodic_exam_mst"
"""The server drops three rows of this dataset: their dates are wrong."""

WRONG_HEADER = "student_attendance/student_attendance"
"""The first file of this dataset has a wrong header, so the server drops it whole."""

EMPTY_VALUES = "nas_all-dashboard"
"""cQube 5 drops three rows of this program: they have a column without a value."""

WRONG_COLUMN = "vsk_diksha_etb_coverage-status"
"""The file of this program has a wrong header, so cQube 5 processes no row of it."""


def show(keep: Path | None, protocol: WireProtocol = "emission") -> int:
    """Deliver the sample files, and print the receipts; return the exit code.

    `keep`: a new or empty folder to work in. None takes a temporary one. `protocol`: that of the
    server.
    """
    deliver = _deliver_programs if protocol == "ingestion" else _deliver_samples
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise click.ClickException(f"{keep} is not empty: name a new folder")
    try:
        if keep is not None:
            receipts = deliver(keep)
        else:
            with tempfile.TemporaryDirectory(prefix="emitterd-demo-") as folder:
                receipts = deliver(Path(folder))
    except TimeoutError as error:
        raise click.ClickException(str(error)) from error
    print_receipts(receipts)
    console().print(f"{len(receipts)} files delivered, each whole and once")
    states = Counter(word(receipt["server_side"]) for receipt in receipts)
    ranked = sorted(states.items(), key=lambda item: (-item[1], item[0]))
    counts = "; ".join(f"{number} {state}" for state, number in ranked)
    console().print(f"at the server: {counts}")
    return DONE


def _deliver_samples(folder: Path) -> list[dict[str, Any]]:
    """Deliver all files, print each step, and return the receipts.

    Raises `TimeoutError` if not everything is delivered and processed in time.
    """
    write = console().print
    spool, journal = folder / "cqube_emission", folder / "journal.db"
    with RehearsalServer(folder / "server", api_key=API_KEY) as server:
        api_key = folder / "api-key"
        api_key.touch(0o600)
        api_key.write_text(f"{API_KEY}\n")
        configuration = folder / "emitter.yaml"
        text = CONFIGURATION.format(url=server.url, login="api_key_file: api-key")
        configuration.write_text(text + TRACKING)
        spool.mkdir()
        write(f"a practice server listens on {server.url}")
        masters = _drop(spool, DatasetKind.MASTER) + _drop_wrong(spool)
        write(f"{masters} files are in {spool}: master data, and one with a wrong header")
        with _daemon(configuration):
            write(f"emitterd runs; its log is {folder / 'emitterd.jsonl'}")
            _wait(lambda: _delivered(journal) == masters)
            write(f"the server processes these {masters} files, as cQube does once a day")
            server.process()
            processed_at = time.time()
            others = _drop(spool, DatasetKind.TRANSACTIONAL)
            write(f"{others} transactional files are dropped meanwhile")
            # The times in the server's log have whole seconds, and show the order of its runs.
            _wait(
                lambda: _delivered(journal) == masters + others and time.time() > processed_at + 1.0
            )
            write(f"the server processes these {others} files too")
            server.process()
            _wait(lambda: _is_tracked(journal))
    with JournalReader(journal) as reader:
        return list(reader.receipts())


def _deliver_programs(folder: Path) -> list[dict[str, Any]]:
    """Deliver a file of each program to cQube 5, print each step, and return the receipts.

    Raises `TimeoutError` if not everything is delivered in time.
    """
    write = console().print
    spool, journal = folder / "cqube_emission", folder / "journal.db"
    with RehearsalServer(
        folder / "server", protocol="ingestion", process_after_s=PROCESS_AFTER_S
    ) as server:
        configuration = folder / "emitter.yaml"
        text = CONFIGURATION.format(url=server.url, login="protocol: ingestion")
        configuration.write_text(text)
        (spool / PROGRAMS_FOLDER).mkdir(parents=True)
        write(f"a practice server listens on {server.url}")
        names = list(server.ingestion.programs)
        first, others = names[::2], names[1::2]
        _drop_programs(spool, server, first)
        write(f"{len(first)} files are in {spool}, each with the name of its program")
        with _daemon(configuration):
            write(f"emitterd runs; its log is {folder / 'emitterd.jsonl'}")
            _wait(lambda: _ended(journal) == len(first))
            write("the server has processed these files: emitterd waits for that")
            _drop_programs(spool, server, others)
            write(f"{len(others)} more files are dropped meanwhile")
            _wait(lambda: _ended(journal) == len(names))
    with JournalReader(journal) as reader:
        for entry in reader.entries(EntryQuery(State.REJECTED)):
            write(f"{entry['path']} is rejected: {entry['error']} {entry['reason']}")
        return list(reader.receipts())


def _drop_programs(spool: Path, server: RehearsalServer, names: Sequence[str]) -> None:
    """Write a sample file of each of these programs."""
    for name in names:
        columns = server.ingestion.programs[name] or ("state_name", "state_code")
        rows = [[f"{row % 90}" for _ in columns] for row in range(1, ROWS + 1)]
        if name == EMPTY_VALUES:
            for row in rows[:3]:
                row[-1] = ""
        header = ",".join(columns)
        if name == WRONG_COLUMN:
            header = header.replace("medium", "language")
        text = "\n".join([header, *(",".join(row) for row in rows)])
        _write_sample(spool / PROGRAMS_FOLDER / f"{name}.zip", f"{text}\n")


def _drop(spool: Path, kind: DatasetKind) -> int:
    """Write a sample of each dataset of a kind, and return how many there are."""
    datasets = [
        dataset
        for dataset in load_catalogue().datasets
        # `configure_datasource/` takes files of any name.
        if dataset.kind is kind and dataset.name
    ]
    for dataset in datasets:
        text = sample_csv(dataset, ROWS)
        if dataset.title == WRONG_DATES:
            text = text.replace("|2021-01-05|", "|05-01-2021|", 3)
        _write_sample(spool / f"{dataset.title}.zip", text)
    return len(datasets)


def _drop_wrong(spool: Path) -> int:
    """Write one file with a wrong header; return the number of files."""
    (dataset,) = (item for item in load_catalogue().datasets if item.title == WRONG_HEADER)
    text = sample_csv(dataset, ROWS).replace("SchoolId", "School", 1)
    _write_sample(spool / f"{WRONG_HEADER}_2020.zip", text)
    return 1


@contextlib.contextmanager
def _daemon(configuration: Path) -> Iterator[None]:
    # The settings of the operator's own environment must not reach the daemon.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("EMITTERD_")
    }
    process = subprocess.Popen(  # noqa: S603  ourselves
        [*module_command("emitterd"), "run", "-c", str(configuration)], env=environment
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def _wait(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + DEADLINE_S
    while not condition():
        if time.monotonic() >= ends:
            raise TimeoutError(f"not done within {DEADLINE_S:.0f} s: --keep leaves the log")
        time.sleep(0.05)


def _is_tracked(journal: Path) -> bool:
    """Tell whether all is known of each file: it is stalled, or needs no further look."""
    with JournalReader(journal) as reader:
        sides = [receipt.get("server_side") for receipt in reader.receipts()]
    return all(
        side and (side["state"] == ServerState.STALLED or "next_look_at" not in side)
        for side in sides
    )


def _ended(journal: Path) -> int:
    """Return how many files are delivered or rejected."""
    return _delivered(journal) + _count(journal, State.REJECTED)


def _delivered(journal: Path) -> int:
    return _count(journal, State.DELIVERED)


def _count(journal: Path, state: State) -> int:
    try:
        with JournalReader(journal) as reader:
            return int(status_record(reader)["counts"][state])
    except JournalError:
        # The daemon has not created it yet.
        return 0


def _write_sample(target: Path, text: str) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{target.stem}.csv", text)
    part.rename(target)
