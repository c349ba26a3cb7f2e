"""The list of files, the downloads, one file's history, and the files that are never sent."""

import csv
import io
import json
import re
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from urllib.parse import quote

import pytest

from emitterd.codes import Code
from emitterd.errors import JournalBusy
from emitterd.intake.file_status import FileStatus, FolderState
from emitterd.journal import listing
from emitterd.journal.journal import Journal
from emitterd.journal.listing import SHOWN
from emitterd.journal.reader import JournalReader
from emitterd.model import ServerState
from emitterd.web.downloads import AT_ONCE
from emitterd.web.files_page import SkippedFiles, SkippedReader
from support.page import HOSTILE, Answered, Desk
from support.waiting import wait_until
from support.zips import make_zip

DAY_S = 86400.0


@pytest.fixture
def desk(spool_root: Path, journal: Journal, tmp_path: Path) -> Desk:
    """Set up a page over an empty journal."""
    return Desk(spool_root, journal, tmp_path / "state" / "journal.db")


def names(answer: Answered) -> list[str]:
    """Return the files of a list."""
    return re.findall(r'class="name" href="[^"]*"><bdi>([^<]*)<', answer.text)


def link(answer: Answered, text: str) -> str:
    """Return where a link of the list leads."""
    found: list[str] = re.findall(rf'href="([^"]*)"[^>]*>{text}<', answer.text)
    return "/" + found[0].replace("&amp;", "&")


def table(answer: Answered) -> list[dict[str, str]]:
    """Return the rows of a download as a spreadsheet reads them."""
    text = answer.text.encode().decode("utf-8-sig")
    return list(csv.DictReader(io.StringIO(text)))


def test_the_list_goes_on_page_by_page(desk: Desk) -> None:
    """The links lead to the older files and back."""
    for number in range(SHOWN + 3):
        desk.admit(b"pat/exam_%03d.zip" % number)
    first = desk.ask("/files")
    second = desk.ask(link(first, "Older files"))

    assert first.document.wrong == second.document.wrong == []
    assert "50 of 53 files." in first.document.words
    assert names(first) + names(second) == [
        f"pat/exam_{number:03}.zip" for number in range(SHOWN + 2, -1, -1)
    ]
    for text in ("Newer files", "Newest files"):
        assert names(desk.ask(link(second, text))) == names(first)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", ["pat/bad.zip", "pat/sent.zip", "sat/old.zip"]),
        ("state=delivered", ["pat/sent.zip"]),
        ("state=waiting", ["sat/old.zip"]),
        ("dataset=sat", ["sat/old.zip"]),
        ("q=SENT", ["pat/sent.zip"]),
        ("state=rejected&q=sent", []),
        ("until={yesterday}", ["sat/old.zip"]),
        ("since={today}&until={today}", ["pat/bad.zip", "pat/sent.zip"]),
    ],
)
def test_the_filters_of_the_list(desk: Desk, query: str, expected: list[str]) -> None:
    """State, dataset, dates and text; the downloads have the same files."""
    desk.admit(b"pat/sent.zip")
    desk.deliver()
    desk.admit(b"sat/old.zip")
    desk.age(b"sat/old.zip", 2 * DAY_S)
    desk.reject(b"pat/bad.zip")
    query = query.format(yesterday=desk.day(-1), today=desk.day(0))
    answer = desk.ask(f"/files?{query}")

    assert names(answer) == expected
    assert link(answer, "JSON") == f"/files.json?{query}".rstrip("?")
    files = json.loads(desk.ask(f"/files.json?{query}").text)
    assert [file["path"] for file in files] == expected


@pytest.mark.parametrize("query", ["state=lost", "since=1.1.2026", "until=9999-12-31"])
def test_a_wrong_filter_is_named(desk: Desk, query: str) -> None:
    """The form stays as it was typed."""
    answer = desk.ask(f"/files?{query}")

    assert answer.status == 400
    assert len([item for _, item in answer.document.elements if item.get("role") == "alert"]) == 1
    assert desk.ask(f"/files.csv?{query}").status == 400


def test_a_key_that_was_cut_off_gives_the_newest_page(desk: Desk) -> None:
    """Addresses are copied by hand."""
    desk.admit(b"pat/exam.zip")
    assert names(desk.ask("/files?after=179")) == ["pat/exam.zip"]


def test_a_search_that_did_not_reach_the_end_says_so(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The link goes on where it ended; a name that begins with the text is found at once."""
    monkeypatch.setattr(listing, "SEARCHED", 5)
    for number in range(12):
        desk.admit(b"pat/exam_%02d.zip" % number)
    missing = desk.ask("/files?q=am_03")
    begins = desk.ask("/files?q=pat/exam_03")

    assert names(missing) == []
    assert "there are more" in missing.document.words
    found = desk.ask(link(missing, "Search older files"))
    assert names(found) == ["pat/exam_03.zip"]
    assert "Older files whose name begins like this" in begins.document.words
    assert names(begins) == ["pat/exam_03.zip"]


def test_a_hostile_name_is_text_everywhere(desk: Desk) -> None:
    """In the list, in the filter, in the links, in CSV and in JSON."""
    desk.admit(HOSTILE)
    hostile = (f"?q={quote(HOSTILE)}", "?q=%00%ff&dataset=%ff", "?dataset=<b>", "?since=<b>%ff")
    for query in ("", *hostile):
        answer = desk.ask(f"/files{query}")
        assert "<script>alert" not in answer.text
        assert answer.document.wrong == []
    assert len(names(desk.ask(f"/files?q={quote(HOSTILE)}"))) == 1
    assert "\x1b" not in desk.ask("/files.csv").text


def test_a_download_of_receipts_is_that_of_the_command(desk: Desk) -> None:
    """The columns of `receipts --csv`, the records of `receipts --json`."""
    desk.admit(b"pat/sent.zip")
    desk.deliver()
    desk.admit(b"pat/waits.zip")
    sheet = desk.ask("/receipts.csv")
    (line,) = table(sheet)
    with JournalReader(desk.place) as reader:
        (receipt,) = reader.receipts()

    assert sheet.headers["content-type"].startswith("text/csv")
    assert re.fullmatch(
        r'attachment; filename="emitterd-receipts-[0-9-]{10}\.csv"',
        sheet.headers["content-disposition"],
    )
    assert {name: line[name] for name in ("path", "sha256", "key")} == {
        name: receipt[name] for name in ("path", "sha256", "key")
    }
    assert json.loads(desk.ask("/receipts.json").text) == [receipt]
    rows = table(desk.ask("/files.csv"))
    assert [(row["path"], row["state"]) for row in rows] == [
        ("pat/waits.zip", "queued"),
        ("pat/sent.zip", "delivered"),
    ]


def test_a_spreadsheet_shows_hindi(desk: Desk) -> None:
    """Excel needs the byte order mark to take a CSV file for UTF-8; JSON has none."""
    desk.admit("pat/परीक्षा.zip".encode())
    for name in ("files", "receipts"):
        assert desk.ask(f"/{name}.csv").text.startswith("\ufeffpath,")
        assert desk.ask(f"/{name}.json").text.startswith("[")
    assert [row["path"] for row in table(desk.ask("/files.csv"))] == ["pat/परीक्षा.zip"]


def test_no_cell_is_a_formula(desk: Desk) -> None:
    """A spreadsheet must not run what a producer names a file."""
    desk.admit(b"=HYPERLINK(1)/@a.zip")
    (row,) = table(desk.ask("/files.csv"))

    assert row["path"] == "'=HYPERLINK(1)/@a.zip"


def test_a_long_download_comes_in_chunks(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """No chunk holds more than a batch, and no row is missing."""
    monkeypatch.setattr(listing, "BATCH", 4)
    monkeypatch.setattr("emitterd.web.downloads.BATCH", 4)
    for number in range(10):
        desk.admit(b"pat/exam_%02d.zip" % number)
    chunks = desk.chunks("/files.csv")

    assert [chunk.count(b"\r\n") for chunk in chunks] == [3, 4, 4]


def test_few_downloads_run_at_the_same_time(desk: Desk) -> None:
    """Others are refused until one has ended, or its client is gone."""
    desk.admit(b"pat/exam.zip")
    running = [desk.respond("/files.csv") for _ in range(AT_ONCE)]
    assert desk.ask("/receipts.json").status == 503
    del running[0]
    assert desk.ask("/receipts.json").status == 200
    assert desk.ask("/files.csv").status == 200


def test_the_history_of_a_file_has_the_servers_side(desk: Desk) -> None:
    """Of each version: what the server made of it, its receipt and its findings."""
    desk.journal.deliver_to("https://here.example.org/data")
    path = b"pat/exam.zip"
    desk.admit(path, 1000, 1)
    desk.deliver()
    desk.journal.track(0.0, 0.0, 10)
    (file,) = desk.journal.tracked_due(1.0, 1e12, 10)
    rows = {"total": 9, "accepted": 2, "dropped": 7}
    desk.journal.save_tracked(
        [replace(file, state=ServerState.PROCESSED, rows=rows, ended_at=0.0, gone_at=1.0)]
    )
    desk.reject(path, 2)
    desk.admit(path, 1001, 3)
    words = desk.explain(path).document.words

    assert "At the server: processed at" in words
    assert "It dropped 7 rows." in words
    assert "ETag " + "e" * 32 in words
    assert "Server https://here.example.org/data" in words
    assert "What the inspection found The header is not the header" in words


def test_a_long_history_leads_to_the_list(desk: Desk) -> None:
    """All versions are there, page by page."""
    for number in range(8):
        desk.admit(b"pat/exam.zip", 1000 + number, number)
    answer = desk.explain(b"pat/exam.zip")

    assert len(names(desk.ask(link(answer, "See all versions in the list of files")))) == 8


def test_files_that_are_never_sent_have_their_reason(desk: Desk) -> None:
    """Those with a problem first, with what to do; the others by their rule."""
    make_zip(desk.root / "pat" / "exam.zip")
    (desk.root / "pat" / "notes.txt").write_text("notes")
    (desk.root / "pat" / "half.zip").write_bytes(b"PK\x03\x04half")
    desk.reject(b"pat/none.zip")
    answer = desk.ask("/skipped")
    while "reads the folder" in answer.document.words:
        answer = desk.ask("/skipped")

    assert answer.document.wrong == []
    assert names(answer) == ["pat/half.zip", "pat/notes.txt"]
    assert Code.INCOMPLETE in answer.document.words


def test_a_large_folder_is_read_in_the_background() -> None:
    """The page waits for nobody: it has the last result, and reads the folder once at a time."""
    gate, readings = threading.Event(), list[float]()

    def survey() -> Iterator[FileStatus]:
        readings.append(time.time())
        gate.wait(30)
        yield FileStatus(b"pat/notes.txt", FolderState.IGNORED, reason="no zip")

    reader, now = SkippedReader(survey), time.time()
    assert reader.latest(now) == reader.latest(now) == SkippedFiles(reading=True)
    gate.set()
    later = now + SkippedReader.FRESH_S / 2
    wait_until(lambda: not reader.latest(later).reading, 30, "the folder is read")
    found = reader.latest(later)
    assert [file["path"] for file in found.files] == ["pat/notes.txt"]
    assert len(readings) == 1
    assert reader.latest(now + 60).files == found.files
    assert len(readings) == 2


def test_an_error_of_the_journal_is_reported_once() -> None:
    """The next visitor has the folder read again."""
    problems = [JournalBusy("locked")]

    def survey() -> Iterator[FileStatus]:
        if problems:
            raise problems.pop()
        yield from ()

    reader = SkippedReader(survey)
    with pytest.raises(JournalBusy):
        wait_until(lambda: reader.latest(0.0).read_at is not None, 30, "an error")
    wait_until(lambda: reader.latest(0.0).read_at is not None, 30, "the folder is read")


def test_a_path_keeps_its_spaces(desk: Desk) -> None:
    """A name may begin with one; a space that was copied with a path does no harm."""
    desk.admit(b" a.zip")
    desk.admit(b"pat/b.zip", number=2)
    assert desk.ask("/explain?path=%20a.zip").status == 200
    assert desk.ask("/explain?path=%20pat/b.zip%20%0a").status == 200
    assert desk.ask("/explain?path=%20pat/b.zip&exact=1").status == 404
    assert desk.ask("/explain?path=a.zip").status == 404
    assert "No path is given." in desk.ask("/explain?path=%20").document.words
    assert names(desk.ask("/files?q=%20b.zip%20")) == ["pat/b.zip"]


def test_a_folder_that_begins_with_a_space_can_be_chosen(desk: Desk) -> None:
    """The filter takes the value of its list as it is."""
    desk.admit(b" pat/a.zip")
    assert names(desk.ask("/files?dataset=%20pat")) == [" pat/a.zip"]
