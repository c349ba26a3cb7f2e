"""The rehearsal server as cQube 5: the protocol, the counts, and the four ways to kill it."""

import io
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest

from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.rehearsal import ingestion
from emitterd.rehearsal.faults import FAULTS, kinds_of
from emitterd.rehearsal.ingestion import IN_PROGRESS, KILLED, PROGRAMS, UPLOADED
from emitterd.rehearsal.server import RehearsalServer
from support.faults import fault_list
from support.waiting import wait_until

NAME = "diksha_etb_plays-per-capita"
HEADER = "state_name,state_code,plays_per_capita,latitude,longitude"
ROW = "Kerala,32,1.5,10.85,76.27"
RESTART_S = 0.2
Serve = Callable[..., "Sender"]


def zipped(*lines: str, inner: str = f"{NAME}.csv") -> bytes:
    """Return a zip with one CSV of these lines."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(inner, "\n".join(lines) + "\n")
    return buffer.getvalue()


GOOD = zipped(HEADER, ROW, ROW, ROW)


class Sender:
    """A client of one running server, with a token."""

    def __init__(self, client: httpx.Client, server: RehearsalServer) -> None:
        self.client = client
        self.server = server
        self.headers = {"Authorization": f"Bearer {self.token()}"}

    def token(self) -> str:
        """Ask for a token."""
        return self.client.get(f"{self.server.url}/generatejwt").text

    def send(
        self,
        body: bytes = GOOD,
        name: str = f"{NAME}.zip",
        *,
        kind: str = "application/zip",
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        """Send one file."""
        files = {"file": (name, io.BytesIO(body), kind)}
        headers = self.headers if headers is None else headers
        return self.client.post(
            f"{self.server.url}/national_programs", files=files, headers=headers
        )

    def ask(self, filename: str = f"{NAME}.zip", **changes: str) -> httpx.Response:
        """Ask for the status of a file."""
        query = {"filename": filename, "ingestion_type": "event", "ingestion_name": NAME}
        return self.client.get(
            f"{self.server.url}/file-status", params=query | changes, headers=self.headers
        )

    def status(self) -> dict[str, Any]:
        """Return the status of the newest upload."""
        status: dict[str, Any] = self.ask().json()["response"]
        return status

    def counts(self) -> tuple[str, str | None, str | None, str | None]:
        """Return the newest upload's status and its three counts."""
        status = self.status()
        return (
            status["file_status"],
            status["total_data_count"],
            status["processed_data_count"],
            status["error_data_count"],
        )

    def is_up(self) -> bool:
        """Tell whether the service answers."""
        with suppress(httpx.TransportError):
            return self.client.get(f"{self.server.url}/generatejwt").status_code == 200
        return False

    def wait_up(self) -> None:
        """Wait until the service is up again."""
        wait_until(self.is_up, 30, "the service is up again")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    """Yield one client for all tests."""
    with httpx.Client(timeout=30, trust_env=False) as client:
        yield client


@pytest.fixture
def serve(tmp_path: Path, client: httpx.Client) -> Iterator[Serve]:
    """Return a function that starts a server and returns a client of it."""
    servers: list[RehearsalServer] = []

    def start(faults: str = "", **options: Any) -> Sender:  # noqa: ANN401  as the server takes them
        server = RehearsalServer(
            tmp_path,
            protocol="ingestion",
            faults=fault_list(faults),
            restart_s=RESTART_S,
            **options,
        )
        servers.append(server)
        server.start()
        return Sender(client, server)

    yield start
    for server in servers:
        server.stop()


def test_a_file_is_accepted_and_processed_later(serve: Serve) -> None:
    """The answer is acceptance; the counts come with the processing, as texts or null."""
    sender = serve()

    answer = sender.send()
    before = sender.counts()
    sender.server.process()

    assert (answer.status_code, answer.json()) == (200, {"message": "File is being processed"})
    assert before == (IN_PROGRESS, None, None, None)
    assert sender.counts() == (UPLOADED, "3", "3", None)
    assert sender.status()["file_name"] == f"{NAME}.zip"
    assert sender.status()["pid"] == 1


def test_a_file_is_processed_by_itself(serve: Serve) -> None:
    """With `process_after_s` nobody has to ask for the processing."""
    sender = serve(process_after_s=0.05)
    sender.send()

    wait_until(lambda: sender.counts()[0] == UPLOADED, 30, "the file is processed")


def test_the_status_is_that_of_the_newest_upload(serve: Serve) -> None:
    """A second upload of one name gets a newer pid, and only that is shown."""
    sender = serve()
    sender.send()
    sender.server.process()
    sender.send(zipped(HEADER, ROW))

    assert sender.status()["pid"] == 2
    assert sender.counts()[0] == IN_PROGRESS


def test_the_status_of_an_unknown_file_is_an_error(serve: Serve) -> None:
    """No record, another type and a missing argument are each a 400."""
    sender = serve()
    sender.send()

    for answer in (
        sender.ask("other.zip"),
        sender.ask(f"{NAME}.csv"),
        sender.ask(ingestion_type="dimension"),
    ):
        assert (answer.status_code, answer.json()) == (400, {"message": "No records found"})
    incomplete = sender.ask(ingestion_name="")
    assert incomplete.status_code == 400
    assert "ingestion_name" in incomplete.json()["message"][0]["message"]


@pytest.mark.parametrize(
    ("authorization", "status"), [("", 403), ("Bearer wrong", 401), ("Basic abc", 500)]
)
def test_a_request_without_a_right_token_is_refused(
    serve: Serve, authorization: str, status: int
) -> None:
    """No token, a bad token and another scheme have three different answers."""
    sender = serve()
    headers = {"Authorization": authorization} if authorization else {}

    assert sender.send(headers=headers).status_code == status
    assert sender.server.ingestion.files == []


def test_a_token_outlives_a_restart(serve: Serve, tmp_path: Path) -> None:
    """Tokens do not expire, and a restarted service accepts them."""
    sender = serve()
    sender.server.stop()
    sender.server.start()

    assert sender.send().status_code == 200
    assert (tmp_path / "file-tracker.json").exists()


def test_a_gateway_accepts_its_key_only(serve: Serve) -> None:
    """With an API key, generatejwt is refused, and the key is the token."""
    sender = serve(api_key="gateway")

    refused = sender.client.get(f"{sender.server.url}/generatejwt")
    answer = sender.send(headers={"Authorization": "Bearer gateway"})

    assert (refused.status_code, answer.status_code) == (401, 200)


def test_what_is_no_zip_by_its_type_is_refused(serve: Serve) -> None:
    """The part's content type must name a zip; a body without a file is refused as well."""
    sender = serve()

    answer = sender.send(kind="application/octet-stream")
    no_file = sender.client.post(
        f"{sender.server.url}/national_programs", data={"a": "b"}, headers=sender.headers
    )

    assert answer.status_code == 400
    assert "expected type is zip" in answer.json()["message"]
    assert (no_file.status_code, no_file.json()["message"]) == (400, "File is required")


def test_an_unknown_program_is_refused(serve: Serve) -> None:
    """A stamped name is no program; the service tracks it with an error."""
    sender = serve()
    stamped = f"{NAME}_20260101"

    answer = sender.send(name=f"{stamped}.zip")

    assert answer.status_code == 400
    assert answer.json() == {"message": "Schema doesn't exists for this program"}
    status = sender.ask(f"{stamped}.zip", ingestion_name=stamped).json()["response"]
    assert status["file_status"] == "Error ->No event found"


@pytest.mark.parametrize(
    ("lines", "counts"),
    [
        ((HEADER, ROW, "Goa,30,2,x,74.1", "Assam,18,,26.2,92.9"), ("3", "1", "2")),
        ((HEADER.replace("state_code", "code"), ROW), ("1", None, "1")),
        ((HEADER.replace(",", "|"), ROW.replace(",", "|")), ("1", None, "1")),
        ((HEADER,), ("0", None, None)),
    ],
)
def test_rows_are_counted_from_the_csv(
    serve: Serve, lines: tuple[str, ...], counts: tuple[str | None, ...]
) -> None:
    """Wrong rows, a wrong header, another delimiter and no row are all `Uploaded`."""
    sender = serve()
    sender.send(zipped(*lines))
    sender.server.process()

    assert sender.counts() == (UPLOADED, *counts)


def test_a_row_with_too_many_values_is_an_error(serve: Serve) -> None:
    """The service stops at such a row: the status is an error without counts."""
    sender = serve()
    sender.send(zipped(HEADER, ROW, f"{ROW},more"))
    sender.server.process()

    assert sender.counts() == ("Error", None, None, None)


@pytest.mark.parametrize(
    ("body", "cause"),
    [(b"no zip at all", ingestion.KILLED_NO_ZIP), (GOOD[:-30], ingestion.KILLED_CUT_OFF_ZIP)],
    ids=["no zip", "cut off"],
)
def test_a_broken_zip_kills_the_service(serve: Serve, body: bytes, cause: str) -> None:
    """There is no answer, the service is down for a while, and the record stays as it is."""
    sender = serve()

    with pytest.raises(httpx.TransportError):
        sender.send(body)

    assert not sender.is_up()
    sender.wait_up()
    assert sender.server.fired == {cause: 1}
    assert sender.counts()[0] == IN_PROGRESS


def test_a_csv_of_another_name_kills_the_service_after_its_answer(serve: Serve) -> None:
    """The upload is accepted, and the processing kills the service."""
    sender = serve()

    answer = sender.send(zipped(HEADER, ROW, inner="other.csv"))
    sender.server.process()

    assert answer.status_code == 200
    sender.wait_up()
    assert sender.server.fired == {ingestion.KILLED_OTHER_CSV: 1}
    assert sender.counts()[0] == IN_PROGRESS


def test_two_uploads_of_one_name_kill_the_service(serve: Serve) -> None:
    """A second upload of a file that is not final yet kills it, and the first one is lost."""
    sender = serve()
    sender.send()

    with pytest.raises(httpx.TransportError):
        sender.send()

    sender.wait_up()
    sender.server.process()
    assert sender.server.fired == {ingestion.KILLED_TWO_UPLOADS: 1}
    assert [item.file_status for item in sender.server.ingestion.files] == [IN_PROGRESS] * 2


def test_two_uploads_that_overlap_kill_the_service(serve: Serve) -> None:
    """It is enough that one arrives while the other one is still being sent."""
    sender = serve("slow-reader@1:400", process_after_s=0)
    with ThreadPoolExecutor(1) as pool:
        slow = pool.submit(sender.send)
        wait_until(lambda: sender.server.fired["slow-reader"] == 1, 30, "the first one is read")
        sender.send()
        with pytest.raises(httpx.TransportError):
            slow.result()

    assert sender.server.fired[ingestion.KILLED_TWO_UPLOADS] == 1


def test_files_of_other_names_may_overlap(serve: Serve) -> None:
    """Each program is a name of its own."""
    sender = serve()
    other = "nas_program-started"
    sender.send()

    answer = sender.send(zipped("a,b", "1,2", inner=f"{other}.csv"), f"{other}.zip")
    sender.server.process()

    assert answer.status_code == 200
    assert [item.file_status for item in sender.server.ingestion.files] == [UPLOADED] * 2
    assert not sender.server.fired


@pytest.mark.parametrize("fault", ["die-upload", "die-before-answer", "lost-answer"])
def test_an_upload_without_an_answer(serve: Serve, fault: str) -> None:
    """The faults differ in what the service has of the file: nothing, a record, or all."""
    sender = serve(f"{fault}@1")

    with pytest.raises(httpx.TransportError):
        sender.send()
    sender.wait_up()
    sender.server.process()

    statuses = [item.file_status for item in sender.server.ingestion.files]
    expected = {"die-upload": [], "die-before-answer": [IN_PROGRESS], "lost-answer": [UPLOADED]}
    assert statuses == expected[fault]
    assert sender.server.fired == {fault: 1}


def test_a_service_that_dies_after_its_answer_loses_the_file(serve: Serve) -> None:
    """The record never becomes final, and the name is free for another upload."""
    sender = serve("die-processing@1")
    sender.send()
    sender.server.process()
    sender.wait_up()
    lost = sender.counts()[0]
    sender.send()
    sender.server.process()

    assert lost == IN_PROGRESS
    assert sender.counts()[0] == UPLOADED
    assert sender.server.fired == {"die-processing": 1}


def test_a_service_can_die_while_the_status_is_requested(serve: Serve) -> None:
    """The request gets no answer, and the work in process is lost."""
    sender = serve("die-status@1")
    sender.send()

    with pytest.raises(httpx.TransportError):
        sender.ask()
    sender.wait_up()
    sender.server.process()

    assert sender.counts()[0] == IN_PROGRESS


@pytest.mark.parametrize(
    ("fault", "counts"),
    [
        ("endless", (IN_PROGRESS, None, None, None)),
        ("status-error", ("Error ->Internal error", None, None, None)),
        ("error-rows@1:2", (UPLOADED, "3", "1", "2")),
        ("no-rows", (UPLOADED, "0", None, None)),
    ],
)
def test_the_end_of_a_processing_can_be_ordered(
    serve: Serve, fault: str, counts: tuple[str | None, ...]
) -> None:
    """Each of these faults changes what file-status says in the end."""
    sender = serve(fault)
    sender.send()
    sender.server.process()

    assert sender.counts() == counts
    assert sender.server.fired.total() == 1


@pytest.mark.parametrize(
    ("fault", "status"), [("503@1", 503), ("bad-token@1", 401), ("captive-portal@1", 200)]
)
def test_an_upload_can_be_refused(serve: Serve, fault: str, status: int) -> None:
    """A refused upload leaves no record."""
    sender = serve(fault)

    answer = sender.send()

    assert answer.status_code == status
    assert sender.server.ingestion.files == []
    assert sender.server.fired.total() == 1


def test_the_status_can_be_unavailable(serve: Serve) -> None:
    """The status is a 503 with the wait that is asked for, and right the next time."""
    sender = serve("status-503@1:7")
    sender.send()

    answer = sender.ask()

    assert (answer.status_code, answer.headers["retry-after"]) == (503, "7")
    assert sender.counts()[0] == IN_PROGRESS


def test_a_login_can_be_refused(serve: Serve) -> None:
    """The first login gets no token."""
    sender = serve("no-login@1")

    assert "Unauthorized" in sender.headers["Authorization"]
    assert sender.token().count(".") == 2


def test_a_file_survives_a_restart_as_far_as_it_was_processed(serve: Serve) -> None:
    """A new server on the same folder has the records; what was in process is lost."""
    sender = serve()
    sender.send()
    sender.server.process()
    sender.send()
    sender.server.stop()

    again = serve()
    again.server.process()

    assert [item.file_status for item in again.server.ingestion.files] == [UPLOADED, IN_PROGRESS]


def test_unknown_routes_are_those_of_its_framework(serve: Serve) -> None:
    """GET on the upload's route is a 404 of its own wording."""
    sender = serve()
    answer = sender.client.get(f"{sender.server.url}/national_programs")

    assert (answer.status_code, answer.json()["message"]) == (404, "Cannot GET /national_programs")


def test_the_programs_are_those_of_the_catalogue() -> None:
    """The practice server knows the programs that emitterd knows, and no other ones."""
    catalogue = load_catalogue(programs=True)

    assert PROGRAMS.keys() == {dataset.name for dataset in catalogue.datasets}


def test_each_protocol_has_its_faults() -> None:
    """A fault that cannot happen with a protocol cannot be ordered for it."""
    emission, five = kinds_of("emission"), kinds_of("ingestion")

    assert "die-processing" in five.keys() - emission.keys()
    assert "api-503" in emission.keys() - five.keys()
    assert emission.keys() | five.keys() == FAULTS.keys()
    assert not set(KILLED) & FAULTS.keys()
