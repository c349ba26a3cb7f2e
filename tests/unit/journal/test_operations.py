"""The operator's hand on a real journal: what each act does, and the record of it."""

import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import SmallDisk
from emitterd.journal.journal import Journal
from emitterd.journal.opening import open_journal
from emitterd.journal.operations import (
    BATCH,
    SHOWN,
    MarkedFile,
    Operation,
    OperationReport,
    OperationRequest,
    OperationResult,
    Operations,
)
from emitterd.journal.reader import JournalReader
from emitterd.journal.rows import AdmissionResult
from emitterd.journal.work import Execute
from emitterd.model import LIVE, Fingerprint, State
from emitterd.monitoring.status import read_queue
from emitterd.shutdown import Shutdown
from support.journal import (
    BROKE,
    LOST,
    NOW,
    PATH,
    admission,
    admit,
    deliver,
    grant,
    row,
    seen,
    take,
)

USER = "asha"
SERVER = "https://cqube.example.org/data"
ON_PATHS = [operation for operation in Operation if operation is not Operation.MARK]


def hand_of(journal: Journal) -> Operations:
    """Return a hand on the journal."""
    return Operations(journal.store, Shutdown())


def act(journal: Journal, what: Operation, path: bytes = PATH) -> OperationResult:
    """Apply an act to one path."""
    reported: list[OperationResult] = []
    outcome = hand_of(journal).apply(OperationRequest(what, (path,)), USER, reported.append)
    (deed,) = outcome.results
    assert reported == [deed]
    assert outcome.done == (not deed.refusal)
    return deed


def put(journal: Journal, state: State) -> int:
    """Bring an entry into a state; return its id."""
    entry = take(journal)
    match state:
        case State.DELIVERED:
            deliver(journal, entry)
        case State.DEFERRED:
            journal.defer(entry, BROKE, NOW + 500, charge=True)
        case State.REJECTED:
            journal.reject(entry, BROKE)
        case State.WITHDRAWN:
            journal.withdraw(entry, BROKE)
        case State.QUEUED | State.HELD:
            journal.interrupt(entry)
            if state is State.HELD:
                act(journal, Operation.HOLD)
    return entry.id


def actions(journal: Journal) -> list[tuple[object, ...]]:
    """Return what was written down."""
    return journal.read('select path, act, state, "user" from action')


AFTER = {
    Operation.HOLD: {State.QUEUED: State.HELD, State.DEFERRED: State.HELD},
    Operation.RELEASE: {State.HELD: State.QUEUED},
    Operation.RETRY: {State.DEFERRED: State.QUEUED, State.REJECTED: State.WITHDRAWN},
    Operation.FORGET: {
        state: State.WITHDRAWN if state in LIVE else state
        for state in set(State) - {State.DELIVERING}
    },
}


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("what", ON_PATHS)
def test_each_act_in_each_state(journal: Journal, what: Operation, state: State) -> None:
    """An act changes the states it is for, and refuses the others with a reason."""
    entry_id = put(journal, state)
    written = len(actions(journal))

    deed = act(journal, what)

    after = AFTER[what].get(state)
    assert (deed.before, deed.after) == (state, after or state)
    assert row(journal, entry_id, "state") == (after or state,)
    assert bool(deed.refusal) == (after is None)
    words = "being uploaded" if state is State.DELIVERING else state
    assert words in deed.refusal or not deed.refusal
    new = actions(journal)[written:]
    assert new == ([(PATH, what, state, USER)] if after else [])


@pytest.mark.parametrize("what", ON_PATHS)
def test_unknown_path(journal: Journal, what: Operation) -> None:
    """What the journal has never seen is refused, and nothing is written down."""
    deed = act(journal, what, b"no/such.zip")

    assert (deed.before, deed.after) == (None, None)
    assert "does not know" in deed.refusal
    assert actions(journal) == []


def test_held_is_not_claimed_until_released(journal: Journal) -> None:
    """Workers pass a held entry over; released it is claimed as before."""
    put(journal, State.HELD)

    held = journal.claim(NOW)
    act(journal, Operation.RELEASE)

    assert held is None
    assert journal.claim(NOW) is not None


def test_retry_is_due_at_once_and_backs_off_anew(journal: Journal) -> None:
    """A deferred entry is tried now, and its failures are counted from nought."""
    put(journal, State.DEFERRED)
    assert journal.claim(NOW) is None

    act(journal, Operation.RETRY)
    entry = journal.claim(NOW)

    assert entry is not None
    assert entry.attempts == 0


def test_retry_lets_a_rejected_file_pass_the_door_again(journal: Journal) -> None:
    """The same file, unchanged, is admitted as a new entry after a retry only."""
    put(journal, State.REJECTED)
    before = admit(journal, admission())
    act(journal, Operation.RETRY)

    after = admit(journal, admission())

    assert (before, after) == (["known"], ["admitted"])


def test_forgotten_delivery_is_sent_again_and_stays_a_receipt(journal: Journal) -> None:
    """The file counts as new, even with the same content; its proof is kept."""
    first = put(journal, State.DELIVERED)
    act(journal, Operation.FORGET)

    answer = journal.admit([admission()])
    entry = journal.claim(NOW)

    assert answer[0].result is AdmissionResult.ADMITTED
    assert entry is not None
    assert journal.previous(entry) is None
    assert row(journal, first, "state, etag") == (State.DELIVERED, "e" * 32)


def test_forgotten_waiting_entry_leaves_the_queue(journal: Journal) -> None:
    """Nothing is claimed of it any more, and the counts follow."""
    put(journal, State.QUEUED)

    act(journal, Operation.FORGET)

    assert journal.claim(NOW) is None
    assert journal.latest(PATH) is None
    assert journal.counts()[State.QUEUED] == 0


def test_act_is_on_the_latest_version(journal: Journal) -> None:
    """Of a path with a history only the last version is touched."""
    first = put(journal, State.DELIVERED)
    admit(journal, admission(version=2))

    deed = act(journal, Operation.HOLD)

    assert deed.before is State.QUEUED
    assert row(journal, first, "state") == (State.DELIVERED,)


def test_whole_state(journal: Journal) -> None:
    """An act on a state reaches every path in it, in several commits, reported once."""
    count = max(BATCH, SHOWN) + 7
    admit(journal, *(admission(b"pat/%d.zip" % number) for number in range(count)))
    take(journal, path=b"pat/busy.zip")
    reported: list[OperationResult] = []

    outcome = hand_of(journal).apply(
        OperationRequest(Operation.HOLD, state=State.QUEUED), USER, reported.append
    )

    assert outcome.done == len(reported) >= count
    assert len(outcome.results) == SHOWN
    assert journal.counts()[State.HELD] == outcome.done
    assert journal.counts()[State.QUEUED] == 0


def test_whole_state_takes_latest_versions_only(journal: Journal) -> None:
    """A version that a later one replaced is history, in every state."""
    put(journal, State.REJECTED)
    deliver(journal, take(journal, version=2))

    outcome = hand_of(journal).apply(
        OperationRequest(Operation.RETRY, state=State.REJECTED), USER, lambda _: None
    )

    assert outcome == OperationReport(0, ())


def test_whole_state_does_not_chase_what_comes_in(journal: Journal) -> None:
    """What is re-admitted because it was forgotten is not forgotten again."""
    paths = [b"pat/%d.zip" % number for number in range(BATCH + 7)]
    admit(journal, *map(admission, paths))

    def come_back(deed: OperationResult) -> None:
        journal.admit([admission(deed.path)])

    outcome = hand_of(journal).apply(
        OperationRequest(Operation.FORGET, state=State.QUEUED), USER, come_back
    )

    assert outcome.done == len(paths)
    assert journal.counts()[State.QUEUED] == len(paths)


def test_forget_is_of_all_versions(journal: Journal) -> None:
    """No older version makes known content of what is dropped afterwards."""
    deliver(journal, take(journal, version=1))
    deliver(journal, take(journal, version=2))

    act(journal, Operation.FORGET)
    entry = take(journal, version=3)

    assert journal.previous(entry) is None
    assert act(journal, Operation.HOLD, b"other").refusal
    (forgotten,) = journal.read("select count(*) from entry where forgotten_at is not null")
    assert forgotten == (2,)


def test_forgotten_attempt_is_named_in_the_next_receipt(journal: Journal) -> None:
    """The object that a lost answer may have left stays on record, by its key."""
    entry = take(journal)
    journal.pin(entry, grant("key-1"))
    journal.defer(entry, LOST, NOW, charge=True)
    act(journal, Operation.FORGET)

    again = take(journal)
    journal.pin(again, grant("key-2"))

    assert again.ambiguous
    assert row(journal, again.id, "key, earlier_keys") == ("key-2", "key-1")


def test_file_that_was_moved_is_not_retried(journal: Journal) -> None:
    """A rejected file that was put aside has to be put back; the place is reported."""
    entry_id = put(journal, State.REJECTED)
    journal.dispose(entry_id, b"/srv/rejected/x.zip")

    deed = act(journal, Operation.RETRY)

    assert "/srv/rejected/x.zip" in deed.refusal
    assert row(journal, entry_id, "state") == (State.REJECTED,)


def test_damaged_journal_is_said(journal: Journal) -> None:
    """Each error of the journal is reported to the client, and no thread ends."""
    journal.store.write(Execute("drop table action"))
    admit(journal, admission())

    outcome = hand_of(journal).apply(
        OperationRequest(Operation.HOLD, (PATH,)), USER, lambda _: None
    )

    assert outcome.done == 0
    assert "E102" in outcome.trouble


def test_stop_ends_a_whole_state(journal: Journal) -> None:
    """A stopping daemon does not wait for the end of it, and says so."""
    shutdown = Shutdown()
    shutdown.now.set()
    admit(journal, admission())

    outcome = Operations(journal.store, shutdown).apply(
        OperationRequest(Operation.HOLD, state=State.QUEUED), USER, lambda _: None
    )

    assert (outcome.done, outcome.trouble) == (0, "emitterd is stopping")


def test_full_journal_is_said(small_disk: SmallDisk) -> None:
    """Nothing is done on a full disk, and the outcome names the remedy."""
    paths = tuple(b"pat/%d.zip" % number for number in range(BATCH))
    with open_journal(small_disk.root / "journal.db") as journal:
        admit(journal, *map(admission, paths))
        small_disk.fill()
        outcome = hand_of(journal).apply(
            OperationRequest(Operation.HOLD, paths), USER, lambda _: None
        )
        small_disk.free()

        assert outcome.done == 0
        assert "E104" in outcome.trouble
        assert journal.counts()[State.HELD] == 0


def test_old_actions_are_pruned(journal: Journal) -> None:
    """Retention forgets what was done before its limit, and no more."""
    put(journal, State.HELD)
    journal.prune_actions(NOW - 1000)
    kept = len(actions(journal))
    journal.prune_actions(time.time() + 1000)

    assert (kept, actions(journal)) == (1, [])


PATHS = st.binary(min_size=1, max_size=20).filter(lambda path: b"\0" not in path)
FILES = st.builds(
    MarkedFile,
    PATHS,
    st.builds(Fingerprint, *[st.integers(0, 2**63 - 1)] * 5),
    st.text(),
    st.integers(),
    st.binary(min_size=16, max_size=16),
    st.binary(min_size=32, max_size=32),
)
STATES = st.sampled_from(list(State))


@pytest.mark.slow
@given(
    st.builds(
        OperationRequest,
        st.sampled_from(list(Operation)),
        st.lists(PATHS, max_size=4).map(tuple),
        st.none() | STATES,
        st.text(),
        st.lists(FILES, max_size=4).map(tuple),
        st.text(),
    )
)
def test_instruction_survives_the_wire(instruction: OperationRequest) -> None:
    """Any path, even one that is not UTF-8, arrives byte for byte, in one line."""
    line = instruction.pack()

    assert line.count(b"\n") == 1
    assert OperationRequest.unpack(line) == instruction


@pytest.mark.slow
@given(
    st.builds(
        OperationReport,
        st.integers(0, 10**6),
        st.lists(
            st.builds(OperationResult, PATHS, st.none() | STATES, st.none() | STATES, st.text()),
            max_size=4,
        ).map(tuple),
        st.text(),
    )
)
def test_outcome_survives_the_wire(outcome: OperationReport) -> None:
    """What became of each path arrives as it was sent."""
    line = outcome.pack()

    assert line.count(b"\n") == 1
    assert OperationReport.unpack(line) == outcome


@pytest.mark.slow
@given(st.binary(max_size=60) | st.text(max_size=60).map(str.encode))
def test_nonsense_is_no_instruction(line: bytes) -> None:
    """Every line of the socket is a request or a ValueError."""
    for kind in (OperationRequest, OperationReport):
        with pytest.raises(ValueError):  # noqa: PT011  any of them
            kind.unpack(line)


@pytest.mark.parametrize(
    "line",
    [
        b"{}",
        b"[]",
        b"null",
        b'{"operation": "sell", "paths": [], "state": null, "caller": ""}',
        b'{"operation": "hold", "paths": [1], "state": null, "caller": ""}',
        b'{"operation": "hold", "paths": 3, "state": null, "caller": ""}',
        b'{"operation": "hold", "paths": [], "state": "gone", "caller": ""}',
        b'{"operation": "hold", "paths": [], "state": null, "caller": "", "files": [{}]}',
        b"[" * 100_000,
    ],
)
def test_wrong_shape_is_no_instruction(line: bytes) -> None:
    """JSON of another shape is refused like anything else."""
    with pytest.raises(ValueError):  # noqa: PT011  any of them
        OperationRequest.unpack(line)


def marked(version: int = 1) -> MarkedFile:
    """Return a file as the caller of `mark-delivered` has read it."""
    return MarkedFile(PATH, seen(version), "pat/periodic_exam_mst", 3, b"m" * 16, b"s" * 32)


def mark(journal: Journal, file: MarkedFile) -> OperationResult:
    """Mark a file as delivered."""
    request = OperationRequest(Operation.MARK, files=(file,), server=SERVER)
    (result,) = hand_of(journal).apply(request, USER, lambda _: None).results
    return result


@pytest.mark.parametrize("state", [None, *State])
def test_a_file_in_each_state_is_marked_but_under_upload(
    journal: Journal, state: State | None
) -> None:
    """What waits is withdrawn. An upload under way is refused, and so is a delivery."""
    entry_id = put(journal, state) if state is not None else 0
    written = len(actions(journal))

    result = mark(journal, marked())

    if state in {State.DELIVERING, State.DELIVERED}:
        assert (result.after, len(actions(journal))) == (state, written)
        assert result.refusal
        return
    assert (result.before, result.after, result.refusal) == (state, State.DELIVERED, "")
    assert actions(journal)[-1] == (PATH, "mark-delivered", state or "new", USER)
    if state in LIVE:
        assert row(journal, entry_id, "state") == (State.WITHDRAWN,)
    assert admit(journal, admission()) == [AdmissionResult.KNOWN]
    assert journal.claim(time.time()) is None


def test_a_mark_is_a_receipt_and_no_success_of_the_destination(
    journal: Journal, reader: JournalReader
) -> None:
    """It names who says so; last success, speed, arrivals and tracking do not count it."""
    mark(journal, marked())

    (receipt,) = reader.receipts()
    queue = read_queue(reader.read, time.time())
    assert receipt["confirmation"] == "marked"
    assert receipt["reason"] == "marked as delivered by asha, not sent"
    assert (receipt["sha256"], receipt["md5"]) == ("73" * 32, "6d" * 16)
    assert (receipt["server"], receipt["attempts"]) == (SERVER, 0)
    assert "delivered_at" not in receipt
    assert (queue.delivered_at, queue.recent.files, queue.arrivals) == (None, 0, {})
    assert queue.counts[State.DELIVERED] == 1
    journal.deliver_to(SERVER)
    journal.track(0.0, time.time(), 10)
    assert journal.read("select count(*) from tracked") == [(0,)]


def test_a_marked_file_that_is_touched_is_not_sent_and_a_new_version_is(journal: Journal) -> None:
    """The digest of the mark is compared as that of a delivery."""
    mark(journal, marked())
    journal.deliver_to(SERVER)

    touched = take(journal, version=2)
    assert journal.previous(touched) == (1, 10, b"s" * 32)
    journal.merge_unchanged(touched, 1, dispose=False)
    assert take(journal, version=3).attempts == 0


def test_forget_undoes_a_mark(journal: Journal) -> None:
    """The file is sent, and its receipt is that of a delivery."""
    mark(journal, marked())
    assert not act(journal, Operation.FORGET).refusal

    entry = take(journal)
    assert journal.previous(entry) is None


def test_hold_outlives_a_broken_copy(journal: Journal) -> None:
    """A copy that is refused at the door does not let the next one through."""
    admit(journal, admission(b"a"))
    act(journal, Operation.HOLD, b"a")
    admit(journal, replace(admission(b"a", 2), error=BROKE))
    admit(journal, admission(b"a", 3))
    held = journal.latest(b"a")
    act(journal, Operation.RELEASE, b"a")
    admit(journal, replace(admission(b"a", 4), error=BROKE))
    admit(journal, admission(b"a", 5))
    free = journal.latest(b"a")

    assert held is not None
    assert free is not None
    assert (held.state, free.state) == (State.HELD, State.QUEUED)
