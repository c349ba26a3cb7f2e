"""`emitterd demo`: delivers sample files end to end in a temporary folder, in seconds.

It runs a rehearsal server and the real daemon as a process. Sample zips of cQube's master data are
in the watched folder before the daemon starts. Those of transactional data are dropped while it
runs.
"""

import contextlib
import os
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from emitterd.cli.output import DONE, console, print_receipts
from emitterd.datasets.catalogue import Dataset, DatasetKind
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.sample import sample_csv
from emitterd.errors import JournalError
from emitterd.journal.reader import JournalReader
from emitterd.model import State
from emitterd.monitoring.status import status_record
from emitterd.rehearsal.server import RehearsalServer

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
    """Deliver the sample files, and print the receipts; return the exit code.

    `keep`: a new or empty folder to work in. None takes a temporary one.
    """
    if keep is not None:
        keep.mkdir(parents=True, exist_ok=True)
        if any(keep.iterdir()):
            raise click.ClickException(f"{keep} is not empty: name a new folder")
    try:
        if keep is not None:
            receipts = _deliver_samples(keep)
        else:
            with tempfile.TemporaryDirectory(prefix="emitterd-demo-") as folder:
                receipts = _deliver_samples(Path(folder))
    except TimeoutError as error:
        raise click.ClickException(str(error)) from error
    print_receipts(receipts)
    console().print(f"{len(receipts)} files delivered, each whole and once")
    return DONE


def _deliver_samples(folder: Path) -> list[dict[str, Any]]:
    """Deliver all files, print each step, and return the receipts.

    Raises `TimeoutError` if not everything is delivered in time.
    """
    write = console().print
    spool, journal = folder / "cqube_emission", folder / "journal.db"
    with RehearsalServer(folder / "server", password="rehearsal") as server:  # noqa: S106
        password = folder / "password"
        password.touch(0o600)
        password.write_text("rehearsal\n")
        configuration = folder / "emitter.yaml"
        configuration.write_text(CONFIGURATION.format(url=server.url))
        spool.mkdir()
        write(f"a rehearsal server listens on {server.url}")
        masters = _drop(spool, DatasetKind.MASTER)
        write(f"{masters} master files are in {spool}")
        with _daemon(configuration):
            write(f"emitterd runs; its log is {folder / 'emitterd.jsonl'}")
            _wait_delivered(journal, masters)
            others = _drop(spool, DatasetKind.TRANSACTIONAL)
            write(f"{others} transactional files are dropped meanwhile")
            _wait_delivered(journal, masters + others)
        write(f"the bucket holds {len(server.objects)} objects")
    with JournalReader(journal) as reader:
        return list(reader.entries(State.DELIVERED))


def _drop(spool: Path, kind: DatasetKind) -> int:
    """Write a sample of each dataset of a kind, and return how many there are."""
    datasets = [
        dataset
        for dataset in load_catalogue().datasets
        # `configure_datasource/` takes files of any name.
        if dataset.kind is kind and dataset.name
    ]
    for dataset in datasets:
        _write_sample(spool, dataset)
    return len(datasets)


@contextlib.contextmanager
def _daemon(configuration: Path) -> Iterator[None]:
    # The settings of the operator's own environment must not reach the daemon.
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("EMITTERD_")
    }
    process = subprocess.Popen(  # noqa: S603  ourselves
        [sys.executable, "-m", "emitterd", "run", "-c", str(configuration)], env=environment
    )
    try:
        yield
    finally:
        process.terminate()
        process.wait(DEADLINE_S)


def _wait_delivered(journal: Path, count: int) -> None:
    ends = time.monotonic() + DEADLINE_S
    while _delivered(journal) < count:
        if time.monotonic() >= ends:
            raise TimeoutError(f"not delivered within {DEADLINE_S:.0f} s: --keep leaves its log")
        time.sleep(0.05)


def _delivered(journal: Path) -> int:
    try:
        with JournalReader(journal) as reader:
            return int(status_record(reader)["counts"]["delivered"])
    except JournalError:
        # The daemon has not created it yet.
        return 0


def _write_sample(spool: Path, dataset: Dataset) -> None:
    target = spool / dataset.folder / f"{dataset.name}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    with zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{dataset.name}.csv", sample_csv(dataset, ROWS))
    part.rename(target)
