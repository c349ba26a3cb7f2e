"""The rehearsal server's processing: picked up objects, counted rows, log summaries."""

import re
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from emitterd.datasets.catalogue import Dataset
from emitterd.datasets.sample import sample_csv
from emitterd.rehearsal.api import BUCKETS
from emitterd.rehearsal.server import FaultList, RehearsalServer
from support.zips import shipped, zip_bytes

KEY = "the-key"
HEADERS = {"Authorization": f"Bearer {KEY}"}
ROWS = 20
INDIA = timedelta(hours=5, minutes=30)
EXAM = "pat/periodic_exam_mst"


def dataset(title: str) -> Dataset:
    """Return a dataset of the catalogue."""
    (found,) = [item for item in shipped().datasets if item.title == title]
    return found


def good(title: str) -> list[str]:
    """Return a header and records that the server accepts."""
    return sample_csv(dataset(title), ROWS).splitlines()


class Client:
    """A client with an API key, as the tracking is one."""

    def __init__(self, http: httpx.Client, server: RehearsalServer) -> None:
        self.server = server
        self.http = http

    def api(self, endpoint: str, **arguments: str) -> httpx.Response:
        """POST these arguments to an endpoint of the API."""
        return self.http.post(f"{self.server.url}/{endpoint}", json=arguments, headers=HEADERS)

    def emit(self, title: str, lines: list[str] | bytes) -> str:
        """Deliver a zip of these lines, or these bytes, and return its key."""
        content = lines
        if isinstance(content, list):
            content = zip_bytes("\n".join(content).encode())
        grant = self.api("upload-url", filename=f"{title}.zip").json()
        answer = self.http.post(grant["url"], data=grant["fields"], files={"file": content})
        assert answer.status_code == 204
        key: str = grant["fields"]["key"]
        return key

    def fetch(self, key: str, bucket: str = "output", **headers: str) -> httpx.Response:
        """GET an object by a url that the API gives."""
        url = self.api("download_url", filename=key, bucket=BUCKETS[bucket]).text
        return self.http.get(url, headers=headers)

    def entries(self, summary: str) -> list[dict[str, Any]]:
        """Return the entries of a log summary, as they are fetched."""
        found: list[dict[str, Any]] = self.fetch(f"log_summary/log_summary_{summary}.json").json()
        return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[RehearsalServer]:
    """Yield a server that processes only on request."""
    with RehearsalServer(tmp_path, api_key=KEY) as server:
        yield server


@pytest.fixture(scope="module")
def http() -> Iterator[httpx.Client]:
    """Yield one client for all tests: its TLS context is dear to make."""
    with httpx.Client(timeout=30.0, trust_env=False) as client:
        yield client


@pytest.fixture
def client(http: httpx.Client, server: RehearsalServer) -> Client:
    """Return a client of the server."""
    return Client(http, server)


def test_a_processed_file_leaves_the_bucket_and_is_logged(
    client: Client, server: RehearsalServer
) -> None:
    """The entry has upstream's fields, the stamped name, Indian times and the counts."""
    key = client.emit(EXAM, good(EXAM))
    assert client.fetch("log_summary/log_summary_pat.json").status_code == 404
    path = server.objects[key].path
    server.process()

    assert server.objects == {}
    assert not path.exists()
    assert "Contents" not in client.api("list_s3_files", bucket=BUCKETS["emission"]).json()
    assert client.fetch(key, "emission").status_code == 404
    (entry,) = client.entries("pat")
    assert entry["filename"] == key.removeprefix("pat/")
    assert (entry["total_records"], entry["processed_records"]) == (ROWS, ROWS)
    assert (entry["blank_lines"], entry["duplicate_records"], entry["datatype_mismatch"]) == (
        0,
    ) * 3
    assert entry["records_with_null_value"]["exam_id"] == 0
    ended = datetime.fromisoformat(entry["process_end_time"])
    assert abs(datetime.now(UTC).replace(tzinfo=None) + INDIA - ended) < timedelta(minutes=1)


def test_the_log_counts_what_the_server_drops(client: Client, server: RehearsalServer) -> None:
    """Each reason has its count; a row with two empty values is subtracted twice."""
    header, *rows = good(EXAM)
    names = header.split("|")
    values = [row.split("|") for row in rows]
    values[1][names.index("standard")] = "III"
    values[2][names.index("exam_date")] = values[2][names.index("medium")] = ""
    values[3][names.index("exam_id")] = values[4][names.index("exam_id")]
    lines = [header, *("|".join(row) for row in values), rows[0], "|" * (len(names) - 1)]
    client.emit(EXAM, lines)
    server.process()

    (entry,) = client.entries("pat")
    assert entry["total_records"] == ROWS + 2
    assert entry["blank_lines"] == 1
    assert entry["datatype_mismatch"] == 1
    # One repeated row, and two with one key.
    assert entry["duplicate_records"] == 3
    nulls = {name: count for name, count in entry["records_with_null_value"].items() if count}
    assert nulls == {"exam_date": 1, "medium": 1}
    assert entry["processed_records"] == ROWS + 2 - 1 - 1 - 3 - 2


def test_a_file_with_a_wrong_header_is_started_and_never_ends(
    client: Client, server: RehearsalServer
) -> None:
    """The counts then claim that every row was processed."""
    title = "student_attendance/student_attendance"
    header, *rows = good(title)
    client.emit(title, [header.replace("|", "|x", 1), *rows])
    server.process()

    (entry,) = client.entries("student_attendance")
    assert (entry["total_records"], entry["processed_records"]) == (ROWS, ROWS)
    assert entry["process_start_time"]
    assert entry["process_end_time"] is None


@pytest.mark.parametrize(
    ("fault", "processed", "ends"), [("drop-file", ROWS, False), ("drop-rows@1:3", ROWS - 3, True)]
)
def test_a_fault_drops_a_good_file_or_some_of_its_rows(
    client: Client, server: RehearsalServer, fault: str, processed: int, *, ends: bool
) -> None:
    """The whole file is started only; of some rows the rest is processed."""
    server.faults = FaultList.parse(fault)
    client.emit(EXAM, good(EXAM))
    server.process()

    assert server.fired == {fault.partition("@")[0]: 1}
    (entry,) = client.entries("pat")
    assert (entry["total_records"], entry["processed_records"]) == (ROWS, processed)
    assert bool(entry["process_end_time"]) == ends


@pytest.mark.parametrize(
    ("title", "content", "fault"),
    [
        (EXAM, b"no zip", ""),
        ("pat/unknown_name", good(EXAM), ""),
        ("grade_details/grade_details", good("grade_details/grade_details"), ""),
        (EXAM, good(EXAM), "no-log"),
    ],
)
def test_some_files_leave_the_bucket_without_a_log(
    client: Client, server: RehearsalServer, title: str, content: list[str] | bytes, fault: str
) -> None:
    """A zip that cannot be read, an unknown name, a dataset without log summary, a fault."""
    server.faults = FaultList.parse(fault)
    client.emit(title, content)
    server.process()

    assert server.fired == ({fault: 1} if fault else {})
    assert server.objects == {}
    assert server.logs == {}


def test_nothing_takes_a_file_of_an_unknown_folder(client: Client, server: RehearsalServer) -> None:
    """It stays in the bucket."""
    key = client.emit("unknown/file", good(EXAM))
    server.process()

    assert list(server.objects) == [key]


@pytest.mark.parametrize(
    ("title", "key"),
    [
        ("district_master/district_mst", "static/log_summary_district"),
        ("school_management/school_management_master", "static/log_summary_school_management"),
        ("inspection_master/inspection_master", "log_summary_inspec"),
        ("user_location_master/user_location_master", "log_summary_crc_loc"),
        ("udise/sch_profile", "log_summary_udise"),
        ("diksha/diksha_tpd", "log_summary_diksha_tpd"),
        ("diksha/diksha_data_summary", "log_summary_diksha"),
    ],
)
def test_each_dataset_has_its_log_summary(
    client: Client, server: RehearsalServer, title: str, key: str
) -> None:
    """The keys are upstream's; two of the summaries have no type mismatches."""
    client.emit(title, good(title))
    server.process()

    assert list(server.logs) == [f"log_summary/{key}.json"]
    (entry,) = server.logs[f"log_summary/{key}.json"]
    assert ("datatype_mismatch" in entry) == (not re.search("crc_loc|udise", key))


def test_an_unchanged_log_is_not_sent_again(client: Client, server: RehearsalServer) -> None:
    """`If-None-Match` gets 304 until the log changes."""
    client.emit(EXAM, good(EXAM))
    server.process()
    key = "log_summary/log_summary_pat.json"
    etag = client.fetch(key).headers["etag"]

    unchanged = client.fetch(key, **{"If-None-Match": etag})
    assert (unchanged.status_code, unchanged.content) == (304, b"")
    server.logs[key] *= 2
    assert client.fetch(key, **{"If-None-Match": etag}).status_code == 200


def test_objects_are_processed_after_a_time(http: httpx.Client, tmp_path: Path) -> None:
    """With a time the next look of a client finds the object gone; a restart keeps the log."""
    with RehearsalServer(tmp_path, api_key=KEY, process_after_s=3600) as server:
        client = Client(http, server)
        key = client.emit(EXAM, good(EXAM))
        assert client.fetch(key, "emission").status_code == 200
        server.processing.process_due(time.time() + 3601)
        assert client.fetch(key, "emission").status_code == 404
    with RehearsalServer(tmp_path) as server:
        assert len(server.logs["log_summary/log_summary_pat.json"]) == 1
        assert server.objects == {}


@pytest.mark.parametrize(
    ("fault", "status", "expected"),
    [("no-role", 401, "Invalid user roles"), ("no-lists", 404, "no Route"), ("read-500", 500, "")],
)
def test_reading_is_refused_as_the_versions_refuse_it(
    client: Client, server: RehearsalServer, fault: str, status: int, expected: str
) -> None:
    """Lists and download_url are refused; uploads are not."""
    server.faults = FaultList.parse(fault)
    client.emit(EXAM, good(EXAM))
    answers = [
        client.http.get(f"{server.url}/list_s3_buckets", headers=HEADERS),
        client.api("list_s3_files", bucket=BUCKETS["emission"]),
        client.api("download_url", filename="x", bucket=BUCKETS["output"]),
    ]

    assert [answer.status_code for answer in answers] == [status] * 3
    assert all(expected in answer.text for answer in answers)
    assert server.fired == {fault: 3}
