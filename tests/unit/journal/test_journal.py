"""Every durable change of state, on a real journal."""

import sqlite3
import time

import psycopg
import pytest

from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError
from emitterd.journal.fair_queue import QUANTUM
from emitterd.journal.journal import Journal
from emitterd.journal.opening import JournalLocation, open_journal
from emitterd.journal.rows import Admission
from emitterd.journal.work import Execute
from emitterd.model import ClaimOrder, Grant, State
from support.journal import (
    BROKE,
    LOST,
    NOW,
    PATH,
    admission,
    admit,
    counted,
    deliver,
    grant,
    receipt,
    row,
    seen,
    take,
)

REFUSED = DeliveryError(Decision.PAUSE, Code.CREDENTIALS, "refused")


def test_known_file_needs_no_second_entry(journal: Journal) -> None:
    """The same fingerprint is known, even within one batch; another is a new entry."""
    assert admit(journal, admission(), admission()) == ["admitted", "known"]
    assert admit(journal, admission()) == ["known"]
    assert journal.counts()[State.QUEUED] == 1


def test_replaced_before_it_was_sent(journal: Journal) -> None:
    """A new version withdraws the waiting one and says so."""
    admit(journal, admission())
    old = journal.latest(PATH)
    assert old is not None
    assert admit(journal, admission(version=2)) == ["admitted+"]
    assert row(journal, old.id, "state, error") == ("withdrawn", "E204")
    assert journal.counts()[State.QUEUED] == 1


@pytest.mark.parametrize("withdrawn", [False, True])
def test_a_lost_attempt_is_named_in_the_receipt_of_the_same_file(
    journal: Journal, *, withdrawn: bool
) -> None:
    """A file that is dropped again after a lost answer may be in the bucket already."""
    entry = take(journal)
    journal.pin(entry, grant("key-1"))
    if withdrawn:
        journal.defer(entry, LOST, 0.0, charge=True)
        lost = journal.claim(NOW)
        assert lost is not None
        journal.withdraw(lost, DeliveryError(Decision.WITHDRAW, Code.GONE, "gone"))
    else:
        journal.defer(entry, LOST, NOW + 60, charge=True)

    again = take(journal, version=2)
    journal.pin(again, grant("key-2"))

    assert again.ambiguous
    assert row(journal, again.id, "key, earlier_keys") == ("key-2", "key-1")


def test_a_lost_attempt_says_nothing_about_a_file_of_another_size(journal: Journal) -> None:
    """Other content is another file for the server."""
    entry = take(journal)
    journal.pin(entry, grant("key-1"))
    journal.defer(entry, LOST, NOW + 60, charge=True)
    journal.admit([Admission(PATH, seen(2, size=11), "pat", 0)])
    again = journal.claim(NOW)

    assert again is not None
    assert not again.ambiguous


def test_what_only_another_server_has_is_sent_to_this_one(journal: Journal) -> None:
    """The same content is unchanged only for the server that it was delivered to."""
    journal.deliver_to("https://former.test")
    deliver(journal, take(journal))
    entry = take(journal, version=2)
    assert journal.previous(entry) is not None

    journal.deliver_to("https://present.test")

    assert journal.previous(entry) is None


def test_probes_take_a_file_of_each_folder_in_turn(journal: Journal) -> None:
    """A folder full of files that fail does not provide every probe of the destination."""
    bad = [admission(b"pat/%d.zip" % number) for number in range(3)]
    good = [admission(b"crc/%d.zip" % number, flow="crc", rank=1) for number in range(2)]
    admit(journal, *bad, *good)

    probes = [journal.claim(NOW, ClaimOrder.FRESH_FIRST) for _ in range(5)]

    paths = [probe.path for probe in probes if probe is not None]
    assert paths == [b"pat/0.zip", b"crc/0.zip", b"pat/1.zip", b"crc/1.zip", b"pat/2.zip"]


def test_one_live_version_a_path(journal: Journal) -> None:
    """Even with a fault in the code, the journal takes no second live version."""
    admit(journal, admission())
    admit(journal, admission(version=2))

    with pytest.raises((sqlite3.IntegrityError, psycopg.IntegrityError), match=r"(?i)unique"):
        journal.store.write(Execute("update entry set state = 'queued'"))


def test_busy_while_an_older_version_is_sent(journal: Journal) -> None:
    """A path that is being delivered takes no second entry before that ends."""
    entry = take(journal)
    both = admit(journal, admission(version=2), admission(b"other"))
    assert both == ["busy", "admitted"]
    deliver(journal, entry)
    assert admit(journal, admission(version=2)) == ["admitted"]


def test_rejected_at_the_door(journal: Journal) -> None:
    """A hopeless file is on record with its reason, and is not taken up again."""
    trouble = DeliveryError(Decision.REJECT, Code.TOO_LARGE, "it has many bytes")
    hopeless = Admission(PATH, seen(), "pat", 0, trouble)
    assert admit(journal, hopeless) == ["admitted"]
    assert admit(journal, hopeless) == ["known"]
    known = journal.latest(PATH)
    assert known is not None
    assert known.state is State.REJECTED
    assert row(journal, known.id, "error, reason") == ("E202", "it has many bytes")
    assert journal.claim(NOW) is None
    assert admit(journal, admission(version=2)) == ["admitted"]


def test_withdrawn_file_that_comes_back(journal: Journal) -> None:
    """A file that went and returned as it was is sent after all."""
    gone = DeliveryError(Decision.WITHDRAW, Code.GONE, "gone")
    journal.withdraw(take(journal), gone)
    assert admit(journal, admission()) == ["admitted"]


def test_unknown(journal: Journal) -> None:
    """Of what was never seen there is nothing."""
    assert journal.latest(PATH) is None
    assert journal.claim(NOW) is None
    assert journal.next_due_at() is None
    assert journal.granted_at(PATH) == 0.0
    assert set(journal.counts().values()) == {0}


def paths(journal: Journal) -> list[bytes]:
    """Claim all that is due; return the paths in order."""
    found = []
    while (entry := journal.claim(NOW)) is not None:
        found.append(entry.path)
    return found


def test_order_is_turn_then_rank_then_id(journal: Journal) -> None:
    """Within a turn the catalogue's order holds, and among equals the older first."""
    many = [admission(b"a/%03d" % n, flow="a", rank=5) for n in range(QUANTUM + 2)]
    admit(journal, *many, admission(b"b/0", flow="b", rank=9))
    admit(journal, admission(b"c/0", flow="c", rank=1))
    first = [b"a/%03d" % n for n in range(QUANTUM)]
    rest = [b"a/%03d" % n for n in range(QUANTUM, QUANTUM + 2)]
    assert paths(journal) == [b"c/0", *first, b"b/0", *rest]


def test_newcomer_does_not_wait_behind_a_backlog(journal: Journal) -> None:
    """One file of another flow comes within the turn that is being served."""
    admit(journal, *(admission(b"a/%03d" % n, flow="a") for n in range(4 * QUANTUM)))
    for _ in range(QUANTUM + 3):
        journal.claim(NOW)
    admit(journal, admission(b"b/0", flow="b", rank=9))
    assert paths(journal).index(b"b/0") < QUANTUM


def test_restart_keeps_the_turns(place: JournalLocation) -> None:
    """After a restart a backlog still does not go before a newcomer."""
    with open_journal(place) as journal:
        batch = [admission(b"a/%03d" % n, flow="a") for n in range(3 * QUANTUM)]
        admit(journal, *batch)
        for _ in range(QUANTUM):
            entry = journal.claim(NOW)
            assert entry is not None
            deliver(journal, entry)
    with open_journal(place) as journal:
        admit(journal, admission(b"a/999", flow="a"))
        admit(journal, admission(b"b/0", flow="b", rank=9))
        order = paths(journal)
    assert order.index(b"b/0") == QUANTUM
    assert order[-1] == b"a/999"


def test_deferred_waits_for_its_time(journal: Journal) -> None:
    """A deferred entry is claimed once it is due, with its attempts and error."""
    journal.defer(take(journal), BROKE, NOW + 30, charge=True)
    assert journal.next_due_at() == NOW + 30
    assert journal.claim(NOW + 29) is None
    entry = journal.claim(NOW + 30)
    assert entry is not None
    assert (entry.attempts, entry.error, entry.ambiguous) == (1, "E305", False)
    assert journal.next_due_at() is None


def test_parked_attempt_costs_nothing(journal: Journal) -> None:
    """Trouble of the destination is not counted against the file."""
    journal.defer(take(journal), BROKE, NOW, charge=False)
    entry = journal.claim(NOW)
    assert entry is not None
    assert entry.attempts == 0


def test_clock_set_back(journal: Journal) -> None:
    """A due time that no backoff can have given does not bury the file."""
    journal.defer(take(journal), BROKE, NOW + 600, charge=True)
    assert journal.claim(NOW) is None
    assert journal.claim(NOW - 86_400) is not None


@pytest.mark.parametrize("ambiguous", [False, True])
def test_former_key_is_kept_where_its_object_may_exist(
    journal: Journal, *, ambiguous: bool
) -> None:
    """After a lost answer each former key stays on record, once; else none does."""
    entry = take(journal)
    journal.pin(entry, grant("key-1"))
    journal.defer(entry, LOST if ambiguous else BROKE, NOW, charge=True)
    entry = journal.claim(NOW) or entry
    for key in ("key-1", "key-2", "key-2", "key-3"):
        journal.pin(entry, grant(key))
    kept = "key-1\nkey-2" if ambiguous else None
    assert row(journal, entry.id, "key, earlier_keys") == ("key-3", kept)
    assert journal.granted_at(PATH) == NOW


def test_refused_grant_is_dropped_whole(journal: Journal) -> None:
    """Where nothing can have been stored only the key stays on record."""
    entry = take(journal)
    journal.pin(entry, grant())
    journal.drop_grant(entry)

    assert row(journal, entry.id, '"grant", key') == (None, "key-1")


def test_grant_is_pinned_for_the_next_attempt(journal: Journal) -> None:
    """The next attempt gets the very grant; of a refused one the secret is erased."""
    entry = take(journal)
    journal.pin(entry, grant())
    journal.defer(entry, LOST, NOW, charge=True)
    entry = journal.claim(NOW) or entry
    assert entry.grant == grant()
    assert entry.ambiguous
    assert "5ec2e7" not in repr(entry)
    journal.drop_grant(entry)
    packed, key = row(journal, entry.id, '"grant", key')
    spent = Grant.unpack(packed)
    assert key == spent.key == "key-1"
    assert (spent.expires_at, "5ec2e7" in str(spent.fields)) == (0.0, False)


def test_receipt(journal: Journal) -> None:
    """A delivery leaves the proof, and erases the grant, the error and the due time."""
    entry = take(journal)
    journal.pin(entry, grant())
    journal.defer(entry, BROKE, NOW, charge=True)
    entry = journal.claim(NOW) or entry
    journal.deliver(entry, receipt(), duration_s=2.5, dispose=True)
    proof = row(journal, entry.id, "key, etag, sha256, md5, verified, duration_s")
    assert proof == ("key-1", "e" * 32, b"s" * 32, b"m" * 16, 1, 2.5)
    erased = row(journal, entry.id, '"grant", error, reason, due_at, disposal, attempts')
    assert erased == (None, None, None, None, "due", 1)
    journal.dispose(entry.id, None)
    assert row(journal, entry.id, "disposal") == ("done",)


@pytest.mark.parametrize("how", ["reject", "withdraw"])
def test_ended_entry_keeps_no_secret(how: str, journal: Journal) -> None:
    """Rejected and withdrawn entries have their reason, and no grant any more."""
    entry = take(journal)
    journal.pin(entry, grant())
    getattr(journal, how)(entry, BROKE)
    assert row(journal, entry.id, '"grant", error, reason') == (None, "E305", "broke")


def test_replaced_entry_keeps_no_secret(journal: Journal) -> None:
    """A version withdrawn at the door, by the next one, has no grant any more."""
    entry = take(journal)
    journal.pin(entry, grant())
    journal.defer(entry, BROKE, NOW, charge=True)
    assert admit(journal, admission(version=2)) == ["admitted+"]
    assert row(journal, entry.id, '"grant"') == (None,)


def test_reason_that_cannot_be_encoded(journal: Journal) -> None:
    r"""A server's `"\ud800"` in a JSON answer does not end the worker's thread."""
    trouble = DeliveryError(Decision.DEFER, Code.API_TROUBLE, "the login says: \ud800")
    journal.defer(take(journal), trouble, NOW, charge=True)
    assert journal.counts()[State.DEFERRED] == 1


def test_unchanged_folds_into_the_delivered_version(journal: Journal) -> None:
    """Known content leaves one row: the old receipt with the new fingerprint."""
    first = take(journal, 1)
    deliver(journal, first)
    second = take(journal, 2)
    journal.merge_unchanged(second, first.id, dispose=False)
    known = journal.latest(PATH)
    assert known is not None
    assert (known.id, known.state) == (second.id, State.DELIVERED)
    assert known.fingerprint == seen(2)
    assert journal.counts() == counted(journal)
    assert admit(journal, admission(version=2)) == ["known"]


@pytest.mark.parametrize(
    ("history", "known"),
    [
        ("", None),
        ("delivered", 1),
        ("delivered delivered", 2),
        ("rejected", None),
        ("delivered rejected", 1),
        ("delivered replaced", 1),
        ("delivered lost", None),
        ("delivered lost delivered", 3),
        ("lost", None),
        ("delivered lost rejected", None),
    ],
)
def test_what_the_server_is_known_to_have(
    history: str, known: int | None, journal: Journal
) -> None:
    """The last delivery counts, unless a later version may have come through."""
    for version, outcome in enumerate(history.split(), start=1):
        entry = take(journal, version)
        match outcome:
            case "delivered":
                deliver(journal, entry)
            case "rejected":
                journal.reject(entry, BROKE)
            case "lost":
                journal.defer(entry, LOST, NOW, charge=True)
            case "replaced":
                journal.interrupt(entry)
    previous = journal.previous(take(journal, 9))
    assert previous == (None if known is None else (known, 10, b"s" * 32))


@pytest.mark.parametrize(
    "path", [b"caf\xe9.zip", b"new\nline.zip", b"\x00\xff.zip", "दो/é.zip".encode()]
)
def test_paths_are_bytes(path: bytes, place: JournalLocation) -> None:
    """Any name comes back as it was, from disk too."""
    with open_journal(place) as journal:
        admit(journal, admission(path))
    with open_journal(place) as journal:
        entry = journal.claim(NOW)
        assert entry is not None
        assert entry.path == path
        assert "\n" not in entry.name


def test_facts(journal: Journal) -> None:
    """A fact is JSON under a name, and the last one holds."""
    journal.save_fact("destination", {"code": "E301"})
    journal.save_fact("destination", None)
    assert journal.read("select name, value from fact") == [("destination", "null")]


def test_make_due_concerns_only_the_codes_that_are_named(journal: Journal) -> None:
    """What was deferred for another reason stays deferred."""
    later = time.time() + 3000.0
    journal.defer(take(journal, 1, b"refused"), REFUSED, later, charge=False)
    journal.defer(take(journal, 1, b"broke"), BROKE, later, charge=True)
    journal.make_due({Code.CREDENTIALS, Code.TOKEN_REFUSED})

    entry = journal.claim(time.time())
    assert entry is not None
    assert entry.path == b"refused"
    assert journal.claim(time.time()) is None


def test_deliveries_belong_to_a_server(journal: Journal) -> None:
    """Counted are the files that a former server got, and not the present one since."""
    assert journal.deliver_to("https://first/data") == 0
    for number in range(3):
        path = b"pat/%d.zip" % number
        deliver(journal, take(journal, path=path))
    assert journal.deliver_to("https://second/data") == 3
    deliver(journal, take(journal, 2, b"pat/0.zip"))

    assert journal.deliver_to("https://second/data") == 2
    assert journal.deliver_to("https://first/data") == 1
