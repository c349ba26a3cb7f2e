"""The pages in Hindi: no English sentence, and English parts are marked as such."""

import re
import time
from html.parser import HTMLParser
from http import HTTPStatus
from pathlib import Path
from typing import cast

import pytest

from emitterd.codes import Code
from emitterd.datasets.findings import LOSSES, Loss, consequence
from emitterd.errors import Outage, Stage
from emitterd.intake.not_sent import NotSentSummary
from emitterd.journal.journal import Journal
from emitterd.journal.numbers import AffectedFiles, HostStatus, Recent
from emitterd.journal.opening import start_remedy
from emitterd.journal.operations import Operation, OperationRequest, Operations
from emitterd.journal.work import Execute
from emitterd.model import State
from emitterd.monitoring.alarms import (
    Alarm,
    AlarmCode,
    AlarmLimits,
    DaemonFacts,
    daemon_alarms,
    judge,
    queue_alarms,
    silent_alarm,
    stopped_alarm,
)
from emitterd.monitoring.arrivals import Expectation
from emitterd.monitoring.status import QueueStatus
from emitterd.shutdown import Shutdown
from emitterd.translation.languages import LANGUAGES
from emitterd.web.http_server import Handler, Request
from emitterd.web.rendering import prose
from support.hindi import has_english
from support.page import Answered, Desk

PAGES = [
    "/",
    "/datasets",
    "/files",
    "/files?state=x",
    "/files?q=pat&state=rejected",
    "/skipped",
    "/inspect",
    "/login",
    "/nothing",
    "/explain",
    "/explain?path=../x",
    "/explain?path=pat/none.zip",
    "/explain?path=pat/rejected.zip",
    "/explain?path=pat/deferred.zip",
    "/explain?path=pat/delivered.zip",
    "/explain?path=pat/queued_3.zip",
]


class Shown(HTMLParser):
    """Collects what a page shows in its own language, labels included."""

    VOID = frozenset(["meta", "link", "input", "br", "rect", "path"])

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.texts: list[str] = []
        self._own: list[bool] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Leave out names, code and what is marked as English."""
        known = dict(attrs)
        own = tag not in {"bdi", "code", "script", "style", "option"}
        own = own and (tag == "html" or known.get("lang", "hi") == "hi")
        self.texts += [
            text
            for name, text in attrs
            if text and (name in {"aria-label", "title"} or name.startswith("data-"))
            if name != "data-etag"
        ]
        if tag not in self.VOID:
            self._own.append(own)

    def handle_endtag(self, tag: str) -> None:
        """Close an element."""
        if tag not in self.VOID:
            self._own.pop()

    def handle_data(self, data: str) -> None:
        """Keep the text of the page's own language."""
        if all(self._own):
            self.texts.append(data)


def english(answer: Answered) -> list[str]:
    """Return the English words that a page shows as if they were Hindi."""
    shown = Shown()
    shown.feed(answer.text)
    return [text for text in shown.texts if has_english(text)]


@pytest.fixture
def desk(spool_root: Path, journal: Journal, tmp_path: Path) -> Desk:
    """Set up an office with every state and every alarm."""
    desk = Desk(spool_root, journal, tmp_path / "state" / "journal.db")
    desk.journal.deliver_to("https://here.example.org/data")
    desk.admit(b"pat/delivered.zip")
    desk.deliver()
    desk.journal.track(0.0, 0.0, 10)
    desk.admit(b"pat/deferred.zip")
    desk.defer(Code.REFUSED, "connection refused by the peer")
    desk.admit(b"pat/sent.zip", 1_000_000)
    entry = desk.claim()
    desk.uploads.began(entry)
    desk.uploads.sent(250_000)
    for number in range(9):
        desk.admit(b"pat/queued_%d.zip" % number)
    desk.reject(b"pat/rejected.zip")
    return desk


def ask(desk: Desk, path: str) -> Answered:
    """Get a page as a browser that prefers Hindi does."""
    return desk.ask(path, accept_language="hi-IN,hi;q=0.9,en;q=0.8")


def test_the_history_of_a_rejection_is_in_hindi(desk: Desk) -> None:
    """Its versions name what the inspection found by the titles of the codes."""
    answer = ask(desk, "/explain?path=pat/rejected.zip")
    versions = answer.text.partition('id="versions-title"')[2]

    assert "शीर्ष पंक्ति इस डेटासेट की नहीं है" in versions
    assert "the header is not" not in versions


def every_alarm() -> list[Alarm]:
    """Return an alarm of each code."""
    now = time.time()
    files = AffectedFiles(2, now - 9, b"pat/b.zip")
    tally = dict.fromkeys(State, (0, 0)) | {State.QUEUED: (3, 0)}
    outages = tuple(Outage(stage, Code.REFUSED, "no answer", now) for stage in Stage)
    queue = QueueStatus(
        tally,
        now - 9000,
        None,
        files,
        Recent(0, 0, 0.0),
        outages,
        (),
        dropped=files,
        uncertain=files,
        stalled=files,
        not_taken=files,
        not_disposed=files,
        expected_since={"pat": now - 9e6},
        hosts=(HostStatus("h-2", now - 99, now - 9, now, "1.0", 0, sweeps=False),),
    )
    start = start_remedy(Path("/var/lib/emitterd/journal.db"))
    limits = AlarmLimits(3600.0, 1800.0, (Expectation("pat", 3024000.0),))
    not_sent = NotSentSummary(
        now, {Code.UNREADABLE: 2, Code.WRONG_DEPTH: 1}, {Code.UNREADABLE: b"a/b"}
    )
    facts = DaemonFacts(now - 9000, 900.0, None, now, "2 of 9", now, now, not_sent, now, now)
    lost = DaemonFacts(now, 900.0, root_lost_since=now)
    return [
        *queue_alarms(queue, outages, limits, now, running=True),
        *queue_alarms(queue, outages, limits, now, running=False, start=start),
        *daemon_alarms(facts, now),
        *daemon_alarms(lost, now),
        silent_alarm(now),
        stopped_alarm(b"pat/b.zip", now, start),
    ]


@pytest.mark.parametrize("path", PAGES)
def test_a_page_shows_no_english_as_hindi(desk: Desk, path: str) -> None:
    """All texts and labels are translated, but for names, code, and what is marked as English."""
    answer = ask(desk, path)

    assert english(answer) == []
    assert '<html lang="hi">' in answer.text


def test_every_alarm_is_in_hindi(desk: Desk) -> None:
    """Each code, with words and remedy."""
    desk.health = judge(every_alarm())
    answer = ask(desk, "/")

    assert {alarm.code for alarm in desk.health.alarms} == set(AlarmCode)
    assert english(answer) == []
    assert '<span lang="en">no answer</span>' in answer.text
    # The title has no elements.
    assert "<title>" in answer.text
    assert "<span" not in answer.text.partition("<title>")[2].partition("</title>")[0]


def test_a_rejected_file_says_in_hindi_what_to_do(desk: Desk) -> None:
    """Title, consequence and remedy are Hindi; what comes from the file is marked as English."""
    answer = ask(desk, "/explain?path=pat/rejected.zip")

    assert "शीर्ष पंक्ति इस डेटासेट की नहीं है।" in answer.document.words
    assert "क्या करें पहली पंक्ति को जाँच में बताए अनुसार ठीक करें।" in answer.document.words
    assert '<span lang="en">school_id | &lt;b&gt;name</span>' in answer.text


@pytest.mark.parametrize("state", State)
def test_a_refused_operation_says_the_state_in_hindi(desk: Desk, state: State) -> None:
    """Also that of a file which is being uploaded."""
    desk.admit(b"pat/marks.zip")
    sql = "update entry set state = ?"
    desk.journal.store.write(Execute(sql, [(state,)]))
    operations = Operations(desk.journal.store, Shutdown())
    refusals = set[str]()
    for operation in (Operation.HOLD, Operation.RELEASE, Operation.RETRY):
        request = OperationRequest(operation, (b"pat/marks.zip",))
        (result,) = operations.apply(request, "asha", lambda _: None).results
        refusals.add(result.refusal)
        desk.journal.store.write(Execute(sql, [(state,)]))

    assert refusals - {""}
    hindi = [re.sub("`[^`]*`", "", LANGUAGES["hi"].translate(text)) for text in refusals]
    assert not [text for text in hindi if has_english(text)]


def test_each_finding_has_a_consequence_in_hindi() -> None:
    """For each code, and for each loss."""
    hindi = LANGUAGES["hi"]
    texts = {consequence(code, loss) for code in LOSSES for loss in Loss}

    assert [text for text in texts if not hindi.pattern(text)] == []


def test_the_switch_overrides_the_browser_and_leads_back(desk: Desk) -> None:
    """The choice is a cookie; the way back is one of our pages, for any value in the form."""
    choose = next(route.handler for route in desk.routes if route.path == "/language")
    assert 'name="back" value="files?state=rejected"' in desk.ask("/files?state=rejected").text

    responses = {
        back: cast("Handler", choose)(form(language="hi", back=back))
        for back in ("", "files?state=rejected", "//evil.test", "https://evil.test/", "x\r\nA: b")
    }
    assert {response.status_code for response in responses.values()} == {HTTPStatus.SEE_OTHER}
    locations = [response.headers["Location"] for response in responses.values()]
    assert locations == ["./", "./files?state=rejected", "./", "./", "./"]
    kept = "emitterd_language=hi; HttpOnly; Max-Age=[0-9]+; Path=/; SameSite=strict"
    assert re.fullmatch(kept, responses[""].headers["Set-Cookie"])
    chosen = desk.ask("/", cookie="emitterd_language=hi", accept_language="en")
    assert '<html lang="hi">' in chosen.text
    assert '<html lang="en">' in desk.ask("/", cookie="emitterd_language=xx").text


def test_an_unknown_language_is_not_kept(desk: Desk) -> None:
    """The form of another program sets no cookie."""
    choose = next(route.handler for route in desk.routes if route.path == "/language")

    response = cast("Handler", choose)(form(language="<script>", back=""))

    assert "Set-Cookie" not in response.headers


def form(**fields: str) -> Request:
    """Return the request of a form."""
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/language",
        "query_string": b"",
        "headers": [(b"host", b"127.0.0.1"), (b"origin", b"http://127.0.0.1")],
        "state": {"form": fields},
    }
    return Request(scope)


def test_a_sentence_ends_as_the_language_does() -> None:
    """In Hindi with a danda; commands are code, and English keeps its own full stop."""
    hindi = LANGUAGES["hi"]

    assert prose(hindi, "the zip is encrypted") == "zip पर पासवर्ड लगा है।"
    assert prose(hindi, "Go back to the overview.") == "सारांश पर वापस जाएँ।"
    assert prose(hindi, "no `x`") == '<span lang="en">No <code>x</code>.</span>'
