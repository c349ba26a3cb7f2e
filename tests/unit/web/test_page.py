"""The page: what it says, what it escapes, and what it costs."""

import re
import time
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from urllib.parse import urljoin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from emitterd.codes import Code
from emitterd.delivery.circuit_breaker import OpenCircuit
from emitterd.errors import Stage
from emitterd.journal.journal import Journal
from emitterd.journal.listing import SHORT
from emitterd.journal.reader import JournalReader
from emitterd.journal.work import Execute
from emitterd.model import ServerState, State
from emitterd.monitoring.alarms import Alarm, AlarmCode, Health
from emitterd.monitoring.status import read_queue
from emitterd.text import count, display, local_time, share
from emitterd.translation.languages import ENGLISH, LANGUAGES
from emitterd.translation.text import Text
from emitterd.web import overview
from emitterd.web.overview import Throughput, read_lists
from emitterd.web.rendering import POLICY, STATIC, phrase, prose
from support.journal import sqlite_reader
from support.page import HOSTILE, Desk, admission

NAME = b"school_master/school_mst.zip"
ENDURING = (State.QUEUED, State.DEFERRED, State.HELD, State.REJECTED, State.DELIVERED)
PAGES = ["/", "/explain?path=school_master/school_mst.zip", "/explain", "/nothing"]


@pytest.fixture
def desk(spool_root: Path, journal: Journal, tmp_path: Path) -> Desk:
    """Set up a page over an empty journal."""
    return Desk(spool_root, journal, tmp_path / "state" / "journal.db")


def alarm(cause: AlarmCode, words: str, hint: str = "look at `emitterd check`") -> Alarm:
    """Return an alarm that is ten minutes old."""
    return Alarm(cause, time.time() - 600, words, hint)


def test_a_fresh_installation_is_well(desk: Desk) -> None:
    """Without a file and without an alarm all is well, in words and in figures."""
    words = desk.ask().document.words

    assert "All is well" in words
    assert "Nothing has been delivered yet." in words
    assert "Destination Unknown not used yet" in words
    assert "Nothing waits." in words


def test_work_under_way_is_shown(desk: Desk) -> None:
    """The page shows what is sent, waits and was delivered, with sizes and the time left."""
    for number in range(SHORT + 5):
        desk.admit(b"sat/marks_%d.zip" % number, 1_000_000)
    desk.deliver()
    entry = desk.claim()
    desk.uploads.began(entry)
    desk.uploads.sent(250_000)
    document = desk.ask().document

    assert re.search(rf"Being sent 1 \d+\S* \wi?B a second Waiting {SHORT + 3} ", document.words)
    assert f"{SHORT + 3} files, the oldest since" in document.words
    assert re.search(r"At the current speed all are delivered in \d+s\.", document.words)
    assert "244 KiB of 977 KiB" in document.words
    [bar] = document.all("progress")
    assert (bar["value"], bar["max"]) == ("25", "100")
    assert bar["aria-label"] == "Sent of sat/marks_1.zip"
    assert "And 3 more files" in document.words
    assert {"href": "files?state=queued"} in document.all("a")
    assert "Delivered 1 1 in the last day" in document.words


def test_the_speed_of_the_last_ten_minutes_is_shown(desk: Desk) -> None:
    """The bytes of ten minutes are a sentence and a chart, also when no upload runs any more."""
    before = desk.ask().document.words
    desk.admit(NAME, 12_000_000)
    desk.uploads.began(desk.claim())
    desk.uploads.sent(12_000_000)
    desk.uploads.ended()
    # As if a minute had passed.
    desk.uploads._speeds._slot -= 6
    document = desk.ask().document

    assert "The last ten minutes" not in before
    assert "Nothing is being sent now." in document.words
    assert "The last ten minutes 11 MiB sent, 20 KiB a second on average." in document.words
    assert "Bars: the speed in each ten seconds, at most 1.1 MiB a second" in {
        image["aria-label"] for image in document.all("svg") if "aria-label" in image
    }


def test_the_queue_is_shown_by_turn(desk: Desk) -> None:
    """The first rows of the queue are those that will be sent next, in that order."""
    for number in range(40):
        desk.admit(b"sat/marks_%02d.zip" % number)
    desk.admit(b"pat/exam.zip")
    words = desk.ask().document.words

    upcoming = re.findall(r"sat/marks_\d\d\.zip|pat/exam\.zip", words)
    due = [desk.claim().name for _ in range(SHORT)]
    assert upcoming[:SHORT] == due


def test_alarms_say_since_when_and_what_to_do(desk: Desk) -> None:
    """The most critical alarm is the headline; each has its beginning and its remedy."""
    desk.admit(NAME)
    now = time.time()
    desk.outage = OpenCircuit(Stage.LOGIN, Code.REFUSED, "refused", "hint", now, now + 60)
    desk.health = Health(
        (
            alarm(AlarmCode.DESTINATION_DOWN, "the destination is down at the login: E302 refused"),
            alarm(AlarmCode.WATCH_DEGRADED, "not every folder is watched: 3 of 9"),
        )
    )
    words = desk.ask().document.words

    down = "The destination is down at the login: E302 refused."
    assert f"{down} And 1 more alarm." in words
    assert "No file is lost. 1 file waits until this is fixed." in words
    assert "Not every folder is watched: 3 of 9. Since" in words
    assert "for 10m. What to do: Look at emitterd check ." in words
    assert "Destination Down at the login, tried again at" in words


def test_a_critical_alarm_is_marked(desk: Desk) -> None:
    """An alarm that stops deliveries has the tone of a failure."""
    words = "E104 the journal's disk is full: no file is admitted"
    desk.health = Health((alarm(AlarmCode.JOURNAL_FULL, words),))
    [top] = [item for item in desk.ask().document.all("section") if "class" in item]

    assert top["class"] == "bad"
    assert words in desk.ask().document.words


def test_a_rejected_file_has_its_findings_in_words(desk: Desk) -> None:
    """What was expected, what was found, what is lost and what to do."""
    desk.reject(NAME)
    words = desk.ask().document.words

    assert "The header is not the header of the dataset. E233 Expected school_id" in words
    assert "If it is sent The server deletes the object" in words
    assert "What to do Correct the first line as the finding says." in words


def test_a_rejection_that_was_corrected_is_history(desk: Desk) -> None:
    """Once a later version of the path is there the page asks nobody any more."""
    desk.reject(NAME, 1)
    before = desk.ask().document.words
    desk.admit(NAME, 1000, 2)
    after = desk.ask().document.words

    assert "Rejected: correct these files" in before
    assert "Rejected: correct these files" not in after


def test_a_delivered_file_says_what_the_server_made_of_it(desk: Desk) -> None:
    """A word in the list, the whole text on the file's own page, also of a hostile server."""
    desk.journal.deliver_to("https://here.example.org/data")
    for number, path in enumerate((b"pat/dropped.zip", b"pat/untracked.zip")):
        desk.admit(path, number=number)
        desk.deliver()
        if not number:
            desk.journal.track(0.0, 0.0, 10)
    rows = {"total": 9, "accepted": 2, "dropped": 7, "null_values": {"<b>\x1b": 7}}
    (file,) = desk.journal.tracked_due(1.0, 1e12, 10)
    done = replace(file, state=ServerState.PROCESSED, rows=rows, ended_at=0.0, gone_at=1.0)
    desk.journal.save_tracked([done])
    words = desk.ask().document.words
    assert words.count("At the server: processed, 7 rows dropped") == 1
    assert words.count("At the server") == 1
    explained = desk.explain(b"pat/dropped.zip")
    assert "It dropped 7 rows: 7 without a value for <b>\\x1b." in explained.document.words
    assert explained.document.wrong == []


def test_a_deferred_file_says_when_it_is_tried_again(desk: Desk) -> None:
    """The failure is put into words, with its code and the next attempt."""
    desk.admit(NAME)
    desk.defer(Code.CONNECTION_LOST, "it broke")
    words = desk.ask().document.words

    assert f"{NAME.decode()} again at" in words
    assert "The connection broke before the whole body was sent. E305" in words


def test_an_instant_in_a_sentence_is_marked() -> None:
    """The page's script writes it in the reader's time zone."""
    due_at = local_time("2026-11-30T17:43:27.500Z")
    sentence = prose(ENGLISH, Text("the next is due at {time}", time=due_at))
    marked = re.fullmatch('The next is due at <time datetime="(.*)">(.*)</time>[.]', sentence)

    assert marked is not None
    assert datetime.fromisoformat(marked[1]) == due_at.at
    assert marked[2] == due_at


@pytest.mark.parametrize(
    ("doubted", "expected"),
    [
        (True, "E107 What to do: Ask whether the server has"),
        (False, "An operator holds this file."),
    ],
    ids=["a rebuild", "the operator"],
)
def test_a_held_file_says_for_whom_it_waits(desk: Desk, *, doubted: bool, expected: str) -> None:
    """What a rebuilt journal doubts is no act of the operator's."""
    if doubted:
        desk.journal.save_fact("rebuilt_at", time.time())
    desk.admit(NAME)
    if not doubted:
        desk.journal.store.write(Execute("update entry set state = 'held'"))
    words = desk.ask().document.words

    assert f"Held {NAME.decode()} since" in words
    assert expected in words


@pytest.mark.parametrize("path", [*PAGES, f"/explain?path={'%3Cb%3E' * 9}"])
def test_every_page_is_sound(desk: Desk, path: str) -> None:
    """Elements are closed, ids are single, references lead somewhere, all is named."""
    desk.admit(NAME)
    desk.reject(HOSTILE)
    document = desk.ask(path).document

    assert document.wrong == []
    ids = [element["id"] for _, element in document.elements if "id" in element]
    assert len(ids) == len(set(ids))
    for tag, element in document.elements:
        for reference in ("aria-labelledby", "for"):
            assert element.get(reference, ids[0]) in ids, tag
        assert not {name for name in element if name.startswith("on")}
        assert "style" not in element
    assert len(document.all("h1")) == 1
    assert len(document.all("main")) == 1


@pytest.mark.parametrize("path", PAGES)
def test_nothing_comes_from_elsewhere(desk: Desk, path: str) -> None:
    """The policy allows the page's own style and script, and no page names a host."""
    answer = desk.ask(path)

    assert answer.headers["content-security-policy"] == POLICY
    assert POLICY.startswith("default-src 'none'; ")
    assert "unsafe" not in POLICY
    assert f"<style>{STATIC['page.css']}</style>" in answer.text
    assert f"<script>{STATIC['page.js']}</script>" in answer.text
    places = [
        element[name]
        for _, element in answer.document.elements
        for name in ("href", "src", "action")
        if name in element
    ]
    assert [place for place in places if "//" in place] == []


def hostile_everywhere(desk: Desk) -> None:
    """Have a file of a hostile name in every list."""
    desk.admit(HOSTILE + b"1")
    desk.deliver()
    desk.admit(HOSTILE + b"2")
    desk.uploads.began(desk.claim())
    desk.admit(HOSTILE + b"3")
    desk.defer(Code.REFUSED, "<b>\x1b[1m")
    desk.admit(HOSTILE + b"4")
    desk.reject(HOSTILE + b"5")


def test_no_name_is_markup(desk: Desk) -> None:
    """A name with tags, quotes, a colour and a right-to-left override is only text."""
    hostile_everywhere(desk)
    shown = display(HOSTILE)
    for answer in (desk.ask(), desk.explain(HOSTILE + b"1"), desk.explain(HOSTILE)):
        assert "<script>alert" not in answer.text
        assert shown in answer.document.words
        assert answer.text.isprintable() or not re.search(
            "[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", answer.text
        )
        assert len(answer.document.all("script")) == 1

    assert desk.ask().document.words.count(shown) >= 5


def test_links_lead_to_the_file_they_name(desk: Desk) -> None:
    """For any bytes of a name, its link explains that very file."""
    desk.admit(HOSTILE)
    link = next(
        item["href"] for item in desk.ask().document.all("a") if item["href"].startswith("explain?")
    )
    answer = desk.ask(f"/{link}")

    assert answer.status == 200
    assert f"{display(HOSTILE)} queued" in answer.document.words


@pytest.mark.slow
@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(min_size=1, max_size=40) | st.text(max_size=40).map(str.encode))
def test_every_request_is_answered(desk: Desk, expected: bytes) -> None:
    """No search ends in a failure, and none breaks the page it is answered by."""
    answer = desk.explain(expected)

    assert answer.status in {200, 400, 404}
    assert answer.document.wrong == []
    assert len(answer.document.all("script")) == 1


@pytest.mark.parametrize(
    ("expected", "status", "words"),
    [
        ("", 404, "No path is given."),
        ("a\0b", 404, "Not in the folder"),
        ("y" * 5000, 200, "File name too long"),
        ("y" * 300 + ".zip", 200, "File name too long"),
        ("../../etc/passwd", 404, "lies outside the watched folder"),
        ("/etc/passwd", 404, "lies outside the watched folder"),
        ("pat/none.zip", 404, "There is no such file"),
    ],
    ids=["nothing", "nul", "endless", "long", "up", "absolute", "unknown"],
)
def test_a_search_in_vain_says_why(desk: Desk, expected: str, status: int, words: str) -> None:
    """What cannot be a file, or is none, gets a sentence."""
    answer = desk.explain(expected)

    assert answer.status == status
    assert words in answer.document.words


@pytest.mark.parametrize(("path", "address"), [("/", "./"), ("/inspect", "inspect")])
def test_the_navigation_marks_the_page(desk: Desk, path: str, address: str) -> None:
    """Of the links to the pages, one is that of the page itself."""
    links = [item for item in desk.ask(path).document.all("a") if "aria-current" in item]

    assert [item["href"] for item in links] == [address]


def test_each_link_of_the_navigation_leads_to_a_page(desk: Desk) -> None:
    """No link between the pages is dead."""
    links = {item["href"] for item in desk.ask("/nothing").document.all("a")}
    places = {link for link in links if re.fullmatch(r"\./|[a-z]+", link)}

    assert {"./", "inspect"} <= places
    assert {place: desk.ask(f"/{place.removeprefix('./')}").status for place in places} == (
        dict.fromkeys(places, 200)
    )


def test_the_icon_is_served(desk: Desk) -> None:
    """Every page names the icon, and the server has it."""
    [link] = desk.ask().document.all("link")
    icon = desk.ask(f"/{link['href']}")

    assert icon.status == 200
    assert icon.headers["content-type"].startswith("image/svg+xml")
    assert icon.text.startswith("<svg")


def test_readers_share_a_fragment(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Within a second the journal is read once for all readers; a page that is loaded is new."""
    monkeypatch.setattr(overview, "SHARED_S", 3600.0)
    first = desk.ask("/overview")
    desk.admit(NAME)
    loaded, second = desk.ask("/"), desk.ask("/overview")
    monkeypatch.setattr(overview, "SHARED_S", 0.0)
    third = desk.ask("/overview")

    assert second.text == first.text
    assert NAME.decode() in loaded.text
    assert NAME.decode() in third.text


def test_an_unchanged_page_is_not_sent_again(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """The part that lives has an ETag, which is that of the page it stands in."""
    monkeypatch.setattr(overview, "SHARED_S", 0.0)
    desk.admit(NAME)
    first = desk.ask("/overview")
    [live] = [item for item in desk.ask().document.all("div") if item.get("id") == "live"]
    again = desk.ask("/overview", if_none_match=first.headers["etag"])
    desk.deliver()
    later = desk.ask("/overview", if_none_match=first.headers["etag"])

    assert live["data-etag"] == first.headers["etag"]
    assert (again.status, again.text) == (304, "")
    assert later.status == 200
    assert "Nothing waits." in later.document.words


def test_a_journal_that_cannot_be_read_is_reported(desk: Desk) -> None:
    """Instead of a failure there is a page with the reason."""
    desk.place.rename(desk.place.with_name("elsewhere.db"))
    answer = desk.ask()

    assert answer.status == 503
    assert "The journal cannot be read" in answer.document.words


def steps(desk: Desk) -> tuple[int, int]:
    """Return what a look costs: SQLite's steps, and rows."""
    counted = [0, 0]

    def step() -> int:
        counted[0] += 1
        return 0

    through = Throughput()
    with JournalReader(desk.place) as records:

        def read(sql: str, parameters: object = ()) -> list[tuple[object, ...]]:
            assert isinstance(parameters, tuple)
            rows = records.read(sql, parameters)
            counted[1] += len(rows)
            return rows

        sqlite_reader(records)._connection.set_progress_handler(step, 1)
        now = time.time()
        through.day(read, now)
        read_lists(read)
        read_queue(read, now)
    return counted[0], counted[1]


def fill(desk: Desk, state: State, number: int) -> None:
    """Have so many more files in a state, delivered ones longer ago than a day."""
    begun = desk.journal.counts()[state]
    paths = [b"%s/%d.zip" % (state.encode(), begun + item) for item in range(number)]
    desk.journal.admit([admission(path) for path in paths])
    desk.journal.store.write(
        Execute(
            """update entry set state = ?, due_at = admitted_at, error = 'E305',
               delivered_at = admitted_at - 100000 where state = 'queued'
               and path >= ? and path < ?""",
            [(state, state.encode() + b"/", state.encode() + b"0")],
        )
    )


@pytest.mark.slow
def test_a_long_queue_costs_what_a_short_one_does(desk: Desk) -> None:
    """With 10,000 files in the queue SQLite goes the steps that it goes with 100."""
    for state in ENDURING:
        fill(desk, state, 100)
    few = steps(desk)
    fill(desk, State.QUEUED, 9_900)
    for state in set(ENDURING) - {State.REJECTED}:
        fill(desk, state, 1_000)
    many = steps(desk)

    assert desk.journal.counts()[State.QUEUED] >= 10_000
    assert many[1] == few[1]
    assert many[0] < 1.05 * few[0]


@pytest.mark.parametrize(
    ("path", "up"), [("/nothing", ""), ("/a/b", "../"), ("/a/", "../"), ("/a/b/c.zip", "../../")]
)
def test_a_page_that_is_absent_leads_to_the_others(desk: Desk, path: str, up: str) -> None:
    """Each of its links, from any depth."""
    answer = desk.ask(path)
    links = {item["href"] for item in answer.document.all("a")} - {"#content"}
    forms = {item["action"] for item in answer.document.all("form")}

    assert answer.status == 404
    assert {urljoin(f"http://x{path}", link) for link in links} == {
        f"http://x/{name}" for name in ("", "datasets", "files", "inspect")
    }
    assert forms == {f"{up}explain", f"{up}language"}


@pytest.mark.parametrize(("path", "is_said"), [("/", True), ("/files", True), ("/inspect", False)])
def test_a_page_with_a_form_is_not_called_read_only(
    desk: Desk,
    path: str,
    is_said: bool,  # noqa: FBT001  a column of the table
) -> None:
    """The footer says it of the others."""
    assert ("This page is read-only." in desk.ask(path).document.words) is is_said


@pytest.mark.parametrize("path", ["/datasets", "/files", "/skipped", "/explain?path=a/b.zip"])
def test_a_page_that_does_not_update_itself_says_so(desk: Desk, path: str) -> None:
    """Also with JavaScript: after an action its reader would wait for the result in vain."""
    text = re.sub(r"<noscript>.*?</noscript>", "", desk.ask(path).text, flags=re.DOTALL)
    assert "Reload the page to update it." in text


def test_files_that_were_only_marked_are_not_denied(desk: Desk) -> None:
    """The figures count them, and the list says why it has none."""
    desk.admit(NAME)
    desk.deliver()
    assert "Delivered last" in desk.ask("/").document.words
    sql = "update entry set delivered_at = null, confirmation = 'marked'"
    desk.journal.store.write(Execute(sql))
    words = desk.ask("/").document.words
    assert "emitterd has sent no file yet. Operators have marked files as delivered:" in words
    assert "Nothing has been delivered yet." not in words


def test_phrases() -> None:
    """Counts agree with their noun, shares are never over the whole."""
    assert [count(item, "file") for item in (0, 1, 12_000)] == ["0 files", "1 file", "12,000 files"]
    assert [share(1, 3), share(3, 3), share(9, 3), share(0, 0)] == [33, 100, 100, 100]
    phrases = [prose(ENGLISH, item) for item in ("it broke", "Done.")]
    assert phrases == ["It broke.", "Done."]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (
            Text("{path} lies outside", path=display(b"pat/marks.zip")),
            "pat/marks.zip lies outside.",
        ),
        (Text("{path} lies outside", path=display(b"marks")), "marks lies outside."),
        (
            Text("{reason}: {remedy}", reason=Text("it broke"), remedy="correct it"),
            "It broke: correct it.",
        ),
        (Text("{one}; {two}", one=Text("{path} went", path=display(b"a")), two="b"), "a went; b."),
        (Text("{number} files", number=3), "3 files."),
        ("pat/marks.zip is not there", "pat/marks.zip is not there."),
        ("marks.zip is not there", "marks.zip is not there."),
        ("school_master is not there", "school_master is not there."),
        ("cqube.example.org refuses it", "cqube.example.org refuses it."),
        ("emitterd is stopping", "emitterd is stopping."),
        ("rejected: it broke", "Rejected: it broke."),
        ("it's done, as expected", "It&#39;s done, as expected."),
    ],
)
def test_a_sentence_begins_with_a_capital_letter_but_a_name_keeps_its_own(
    text: str, sentence: str
) -> None:
    """A path is copied into a command, where another letter is another file."""
    assert prose(ENGLISH, text) == sentence


def test_a_path_is_a_name_in_every_language() -> None:
    """Also one that is like a word of the catalogue, or has spaces."""
    for name in ("new", "a b.zip"):
        path = display(name.encode())
        text = Text("{path} lies outside the watched folder {folder}", path=path, folder="x")
        assert phrase(LANGUAGES["hi"], text).startswith(f"{name} ")


def test_an_upload_shows_its_speed_and_attempt(desk: Desk) -> None:
    """An upload under way has its share, speed, time left and attempt."""
    desk.admit(NAME, 120_000_000)
    desk.defer(Code.CONNECTION_LOST, "it broke", due_s=-1)
    entry = desk.claim()
    desk.uploads.began(entry)
    (upload,) = desk.uploads._uploads.values()
    upload.marks = (upload.started_at - 40, 0), upload.marks[1]
    desk.uploads.sent(40_200_000)

    progress = r"33 %, 9\d\d KiB/s, \d\ds left, attempt 2"
    assert re.search(progress, desk.ask().document.words)


def ratio(text: str, other: str) -> float:
    """Return the contrast of two colours. Source: WCAG 2.1, "relative luminance"."""

    def luminance(colour: str) -> float:
        parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
        linear = [
            part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts
        ]
        return sum(
            weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), linear, strict=True)
        )

    low, high = sorted((luminance(text), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("scheme", [0, 1, 2], ids=["light", "dark", "print"])
def test_text_can_be_read(scheme: int) -> None:
    """Every colour of text has a contrast of 4.5 on every ground it stands on."""
    palette = dict(
        re.findall(r"--([a-z-]+): (#[0-9a-f]{6})", STATIC["page.css"].split(":root")[1 + scheme])
    )
    on = {
        "ink": "ground sheet well-wash look-wash bad-wash",
        "quiet": "ground sheet well-wash look-wash bad-wash",
        "link": "ground sheet well-wash look-wash bad-wash",
        "well": "sheet well-wash",
        "look": "sheet look-wash",
        "bad": "ground sheet bad-wash",
        # On buttons and signs it is the sheet that is written with.
        "sheet": "link well look bad",
    }
    poor = {
        (text, ground): round(ratio(palette[text], palette[ground]), 2)
        for text, grounds in on.items()
        for ground in grounds.split()
        if ratio(palette[text], palette[ground]) < 4.5
    }
    assert poor == {}
    assert ratio(palette["bar"], palette["track"]) >= 3
