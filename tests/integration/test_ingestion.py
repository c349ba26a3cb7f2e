"""cQube 5: each fault of the service, and what becomes of the file it strikes.

A worker meets the fault, on real sockets; then the fault is gone and the file is delivered, once
or with its doubt on record. emitterd never kills the service.
"""

import hashlib
import json
import os
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest

from emitterd.client.ingestion.client import IngestionClient, Waits
from emitterd.client.session import Credentials
from emitterd.client.sockets import IDLE_S
from emitterd.codes import Code
from emitterd.errors import DeliveryError
from emitterd.model import Fingerprint, State
from emitterd.rehearsal.faults import kinds_of
from emitterd.rehearsal.ingestion import KILLED, UPLOADED, TrackedFile
from emitterd.rehearsal.server import RehearsalServer
from emitterd.shutdown import Shutdown
from support.client import PATIENT, http_client
from support.faults import TEST_FAULTS, fault_list
from support.installation import Installation
from support.outcomes import BRISK, ENDINGS, LARGE_BYTES, LATE, Struck, fault_of, struck_by
from support.samples import PROGRAM_FOLDER, program_csv
from support.waiting import wait_until
from support.worker import LATER_S, Rig, rigged

pytestmark = pytest.mark.usefixtures("no_proxy_of_this_machine")

NAME = f"{PROGRAM_FOLDER}/diksha_etb_plays-per-capita.zip"
DEADLINE_S = 30.0
PROCESS_AFTER_S = 0.1


PATIENT_WAITS = Waits(first_s=0.01, longest_s=0.2, final_s=30.0, absent_s=1.0, abandoned_s=600.0)
NEVER_FINAL = Waits(first_s=0.01, longest_s=0.2, final_s=0.5, absent_s=1.0, abandoned_s=3.0)
"""For a status that stays as it is: a busy machine finishes other files in less than that."""


@dataclass(frozen=True, slots=True)
class StruckProgram(Struck):
    """The outcome for the file of a program. `uploads`: how many records the service has of it."""

    waits: Waits = PATIENT_WAITS
    frees: Callable[[Rig], None] | None = None
    """What happens at the server before the file can be delivered."""


def unfinished(*, uploads: int = 1, frees: Callable[[Rig], None] | None = None) -> StruckProgram:
    """Return an outcome of a file whose status stays as it is."""
    error = (Code.NOT_FINISHED,)
    return StruckProgram(error, ambiguous=True, uploads=uploads, waits=NEVER_FINAL, frees=frees)


def finish(rig: Rig) -> None:
    """Let the service process what it has."""
    rig.server.process()


ARRIVED = StruckProgram(state=State.DELIVERED)
MENU = {
    "reset-connect": StruckProgram.parked("E302", "E305"),
    "no-login": StruckProgram.parked("E401"),
    "bad-token@1": ARRIVED,
    "bad-token": StruckProgram.parked("E402"),
    "status-503@1": ARRIVED,
    "status-503": StruckProgram.parked("E408"),
    "status-503:1:1": StruckProgram.parked("E408"),
    "die-status@1:0": ARRIVED,
    "die-status:1:0": StruckProgram.parked("E305"),
    "black-hole": StruckProgram(("E306",), limits=LATE, large=True),
    "reset": StruckProgram(("E305",), large=True),
    "reset:1:0": StruckProgram(("E307",), ambiguous=True),
    "slow-reader:1:65536": StruckProgram(("E306",), limits=BRISK, large=True),
    "503": StruckProgram(("E501",)),
    "captive-portal": StruckProgram.parked("E406", ambiguous=True),
    "lost-answer": StruckProgram(("E307",), ambiguous=True),
    "slow-answer:1:60": StruckProgram(("E307",), ambiguous=True, limits=LATE),
    "die-upload:1:0": StruckProgram(("E305",), large=True),
    "die-before-answer:1:0": StruckProgram(("E307",), ambiguous=True, uploads=2, waits=NEVER_FINAL),
    "die-processing:1:0": unfinished(uploads=2),
    "endless": unfinished(frees=finish),
    "status-error": StruckProgram((Code.PROCESSING_FAILED,), uploads=2),
    "error-rows:1:1": ARRIVED,
    "no-rows": StruckProgram((Code.NOTHING_PROCESSED,), state=State.REJECTED),
}


def served(
    folder: Path,
    *,
    process_after_s: float = PROCESS_AFTER_S,
    waits: Waits = PATIENT_WAITS,
    **options: Any,  # noqa: ANN401  as `rigged` takes them
) -> AbstractContextManager[Rig]:
    """Set up a rig whose server is cQube 5."""
    return rigged(
        folder, protocol="ingestion", process_after_s=process_after_s, waits=waits, **options
    )


def drop(rig: Rig, *, large: bool = False) -> bytes:
    """Drop a file of the program; return its bytes."""
    path = rig.root / NAME
    path.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}.csv", program_csv(NAME))
        if large:
            # The service ignores it, and has no long work with it.
            archive.writestr("filler.bin", os.urandom(LARGE_BYTES))
    rig.admit(NAME)
    return path.read_bytes()


def uploads(rig: Rig, content: bytes) -> list[TrackedFile]:
    """Return the service's records of these bytes."""
    md5 = hashlib.md5(content, usedforsecurity=False).hexdigest()
    return [item for item in rig.server.ingestion.files if item.md5 == md5]


def killed(rig: Rig) -> list[str]:
    """Return how emitterd has killed the service; it never may."""
    return [cause for cause in KILLED if rig.server.fired[cause]]


def arrives(rig: Rig, content: bytes, count: int = 1) -> None:
    """Deliver the file now that nothing is wrong; the receipt is that of the last upload."""

    def delivered() -> bool:
        if rig.state(NAME) is not State.DELIVERED:
            rig.later()
        return rig.state(NAME) is State.DELIVERED

    wait_until(delivered, DEADLINE_S, "delivered")
    row, records = rig.row(NAME), uploads(rig, content)

    assert row["state"] == State.DELIVERED, row
    assert row["sha256"] == hashlib.sha256(content).digest()
    assert len(records) == count
    assert records[-1].file_status == UPLOADED
    assert str(records[-1].pid) in row["key"]
    assert sum(len(rig.logged(name, NAME)) for name in ENDINGS) == 1
    assert len(rig.logged("destination.up")) == len(rig.logged("destination.down"))
    assert rig.destination.down is None
    assert not killed(rig)


@pytest.mark.parametrize(("menu", "expected"), MENU.items(), ids=list(MENU))
def test_each_fault_of_the_service(tmp_path: Path, menu: str, expected: StruckProgram) -> None:
    """What a fault does to one attempt, and that the file is delivered after it."""
    with served(tmp_path, limits=expected.limits, waits=expected.waits) as rig:
        content = drop(rig, large=expected.large)
        rig.faults(menu)
        rig.step()

        assert rig.server.fired[fault_of(menu)]
        struck_by(rig, NAME, expected)
        assert not killed(rig)
        if expected.state is State.REJECTED:
            return
        rig.faults("")
        rig.limit(PATIENT)
        if "E401" in expected.error:
            # A refused login is not asked again for half a minute.
            rig.send_to(rig.server.url)
        if expected.frees is not None:
            expected.frees(rig)
        arrives(rig, content, expected.uploads)


def test_every_fault_of_the_protocol_is_tried() -> None:
    """A new fault of cQube 5 needs a line in the table."""
    tried = {fault_of(item) for item in MENU}

    assert tried == kinds_of("ingestion").keys() - TEST_FAULTS.keys()


def test_a_lost_answer_is_not_a_second_upload(tmp_path: Path) -> None:
    """The status proves the delivery, and the receipt says how it is known."""
    with served(tmp_path) as rig:
        content = drop(rig)
        rig.faults("lost-answer@1")
        rig.step()
        arrives(rig, content)

        assert rig.row(NAME)["confirmation"] == "found"
        assert rig.reached("national_programs") == 1


def test_a_lost_answer_after_a_pause_is_not_sent_again_at_once(tmp_path: Path) -> None:
    """The connection was idle before the upload: its loss does not prove that nothing arrived."""
    path = tmp_path / Path(NAME).name
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{path.stem}.csv", program_csv(NAME))
    with (
        RehearsalServer(tmp_path / "server", protocol="ingestion") as server,
        http_client() as http,
        path.open("rb") as file,
    ):
        nobody = Credentials(None, str, "Bearer")
        client = IngestionClient(http, server.url, nobody, shutdown=Shutdown(), waits=PATIENT_WAITS)
        grant = client.grant(NAME.encode())
        idle_since = time.monotonic()
        wait_until(lambda: time.monotonic() > idle_since + 2 * IDLE_S, DEADLINE_S, "an idle line")
        server.faults = fault_list("lost-answer@1")
        with pytest.raises(DeliveryError) as raised:
            client.deliver(grant, file, Fingerprint.of(path.stat()))

    assert server.fired == {"lost-answer": 1}
    assert (raised.value.code, raised.value.ambiguous) == (Code.ANSWER_LOST, True)
    assert len(server.ingestion.files) == 1


def test_one_program_in_two_folders_is_one_name(tmp_path: Path) -> None:
    """Workers that meet the same name in several folders send one after the other."""
    folders = [f"folder_{number}" for number in range(4)]
    with served(tmp_path) as rig:
        names = []
        for folder in folders:
            path = rig.root / folder / Path(NAME).name
            path.parent.mkdir()
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr(f"{path.stem}.csv", program_csv(NAME))
            names.append(f"{folder}/{path.name}")
            rig.admit(names[-1])
        workers = [rig.another_worker() for _ in names]

        def delivered() -> bool:
            now = time.time() + LATER_S
            with ThreadPoolExecutor(len(names)) as pool:
                list(pool.map(methodcaller("step", now), workers))
            return {rig.state(name) for name in names} == {State.DELIVERED}

        wait_until(delivered, DEADLINE_S, "all delivered")
        assert {rig.state(name) for name in names} == {State.DELIVERED}
        assert [item.file_status for item in rig.server.ingestion.files] == [UPLOADED] * 4
        assert {rig.row(name)["attempts"] for name in names} == {0}
        assert not killed(rig)


def test_a_restart_asks_for_the_upload_before_it(tmp_path: Path) -> None:
    """A daemon that died after the whole body finds its upload, and sends nothing."""
    with served(tmp_path) as rig:
        content = drop(rig)
        rig.faults("lost-answer@1")
        rig.step()
        assert rig.row(NAME)["ambiguous"]
        port, records = rig.server.port, rig.server.ingestion.files
        wait_until(lambda: records[0].file_status == UPLOADED, 30, "processed")
    with served(tmp_path, port=port) as rig:
        assert [item.pid for item in rig.server.ingestion.files] == [records[0].pid]
        arrives(rig, content)


def test_a_service_that_dies_is_down_for_a_while(tmp_path: Path) -> None:
    """While the container restarts, nothing is charged to the files that wait."""
    with served(tmp_path) as rig:
        content = drop(rig)
        rig.faults("die-upload@1:600")
        rig.step()
        assert rig.server.fired["die-upload"] == 1
        attempts = rig.row(NAME)["attempts"]
        rig.later()
        assert rig.row(NAME)["attempts"] == attempts
        assert rig.destination.down is not None
        rig.server.stop()
        rig.server.start()
        arrives(rig, content)


def test_once_delivers_and_says_what_it_did_not_send(tmp_path: Path) -> None:
    """`once` delivers with the service's counts, and never sends what would kill it."""
    folder = f"{PROGRAM_FOLDER}/"
    names = ["nas_all-dashboard", "vsk_diksha_etb_qr-coverage", "vsk_diksha_etb_coverage-status"]
    with RehearsalServer(tmp_path / "server", protocol="ingestion", process_after_s=0.2) as server:
        site = Installation(tmp_path, server.url, protocol="ingestion")
        for name in names:
            site.drop(f"{folder}{name}.zip", program_csv(name))
        good = site.drop(NAME, program_csv(NAME))
        short = f"{folder}diksha_nishtha_program-started.zip"
        site.drop(short, b"state_name,state_code\nGoa,30\n")
        other = site.spool / f"{folder}pm-poshan_access-across-india.zip"
        with zipfile.ZipFile(other, "w") as archive:
            archive.writestr("poshan.csv", program_csv(other.name))
        done = site.call("once")
        receipts = {item["path"]: item for item in site.ask("receipts")}
        entries = {item["path"]: item["state"] for item in site.ask("list")}

    assert done.returncode == 1
    assert receipts.keys() == {NAME, *(f"{folder}{name}.zip" for name in names)}
    rows = receipts[NAME]["server_side"]["rows"]
    assert rows["total"] == rows["accepted"] == len(program_rows(good))
    assert (entries[short], entries[f"{folder}{other.name}"]) == ("rejected", "rejected")
    assert {item.file_name for item in server.ingestion.files} == {
        Path(path).name for path in [*receipts, short]
    }
    assert not [cause for cause in KILLED if server.fired[cause]]


@pytest.mark.parametrize("catalogue", ["off", "warn", "enforce"])
def test_a_file_that_would_kill_the_service_is_never_sent(tmp_path: Path, catalogue: str) -> None:
    """With any `spool.catalogue`, such a file stays here, and is reported."""
    text = program_csv(NAME)
    with RehearsalServer(tmp_path / "server", protocol="ingestion", process_after_s=0.1) as server:
        site = Installation(tmp_path, server.url, protocol="ingestion", spool_catalogue=catalogue)
        other = site.drop(f"{PROGRAM_FOLDER}/nas_program-started.zip", text)
        with zipfile.ZipFile(other, "w") as archive:
            archive.writestr("nas_program-started/nas_program-started.csv", text)
        cut = site.drop(f"{PROGRAM_FOLDER}/pgi_all-dashboard.zip", text)
        cut.write_bytes(cut.read_bytes()[:-30])
        no_zip = cut.with_name("udise_program-started.zip")
        no_zip.write_bytes(text)
        done = site.call("once", timeout_s=120)
        listed = json.loads(site.call("list", "--skipped", "--json").stdout)

    assert done.returncode == 1
    assert server.ingestion.files == []
    unsent = {f"{PROGRAM_FOLDER}/{path.name}" for path in (other, cut, no_zip)}
    assert {item["path"] for item in listed} >= unsent


def program_rows(path: Path) -> list[bytes]:
    """Return the rows of a zip's CSV, without the header."""
    with zipfile.ZipFile(path) as archive:
        return archive.read(f"{path.stem}.csv").splitlines()[1:]
