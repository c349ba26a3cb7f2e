"""The state machine: each verb in each state, and random walks against a model."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from emitterd.errors import IllegalTransition
from emitterd.journal.journal import Journal
from emitterd.journal.opening import JournalLocation, open_journal
from emitterd.journal.work import Execute
from emitterd.model import LIVE, TRANSITIONS, Entry, Grant, State, Verb
from support.journal import BROKE, LOST, NOW, admission, admit, counted, deliver, grant, row, take


def verbs() -> dict[Verb, Callable[[Journal, Entry], None]]:
    """Return the verbs that workers apply to an entry they hold."""
    return {
        Verb.DELIVER: deliver,
        Verb.DEFER: lambda j, entry: j.defer(entry, BROKE, NOW, charge=True),
        Verb.INTERRUPT: lambda j, entry: j.interrupt(entry),
        Verb.REJECT: lambda j, entry: j.reject(entry, BROKE),
        Verb.WITHDRAW: lambda j, entry: j.withdraw(entry, BROKE),
    }


def put_into(journal: Journal, state: State) -> None:
    """Bring the one entry into a state, as another thread or an operator would."""
    if state is not State.DELIVERING:
        sql = "update entry set state = ?, token = token + 1"
        journal.store.write(Execute(sql, [(state.value,)]))


@pytest.mark.parametrize("state", State)
@pytest.mark.parametrize("verb", verbs())
def test_each_verb_in_each_state(verb: Verb, state: State, journal: Journal) -> None:
    """A worker's verb changes the entry that it claimed, and nothing after another change."""
    entry = take(journal)
    put_into(journal, state)
    _, target = TRANSITIONS[verb]
    if state is State.DELIVERING:
        verbs()[verb](journal, entry)
        assert row(journal, entry.id, "state") == (target,)
    else:
        with pytest.raises(IllegalTransition, match=f"{verb}: entry {entry.id}"):
            verbs()[verb](journal, entry)
        assert row(journal, entry.id, "state, error") == (state, None)
    assert journal.counts() == counted(journal)


@pytest.mark.parametrize("state", sorted(set(State) - {State.DELIVERING}))
def test_no_grant_for_what_is_not_delivering(state: State, journal: Journal) -> None:
    """A grant is pinned to a claimed entry only."""
    entry = take(journal)
    put_into(journal, state)
    with pytest.raises(IllegalTransition):
        journal.pin(entry, grant())
    assert row(journal, entry.id, "key") == (None,)


@pytest.mark.parametrize("pinned", [False, True])
def test_reopened_takes_back_what_was_claimed(place: JournalLocation, *, pinned: bool) -> None:
    """A claimed entry is queued again; with a grant it may have been sent whole."""
    with open_journal(place) as journal:
        entry = take(journal)
        if pinned:
            journal.pin(entry, grant())
    with open_journal(place) as journal:
        assert journal.store.reclaimed == 1
        again = journal.claim(NOW)
        assert again is not None
        assert (again.id, again.attempts) == (entry.id, 0)
        assert again.ambiguous == pinned
        assert again.grant == (grant() if pinned else None)


@pytest.mark.parametrize("ambiguous", [False, True])
def test_interrupted_goes_back_at_no_cost(journal: Journal, *, ambiguous: bool) -> None:
    """A stop costs no attempt, and a lost answer is remembered."""
    journal.interrupt(take(journal), ambiguous=ambiguous)
    entry = journal.claim(NOW)
    assert entry is not None
    assert (entry.attempts, entry.ambiguous) == (0, ambiguous)


def test_tally_equals_counting(journal: Journal) -> None:
    """After any change of entries, the state counts are right."""
    chance = random.Random(7)  # noqa: S311  a fixed sequence
    for version in range(1, 150):
        admit(journal, admission(b"%d" % chance.randrange(9), version))
        if (entry := journal.claim(NOW)) is not None:
            chance.choice(list(verbs().values()))(journal, entry)
        if version % 25 == 0:
            ended = journal.ended_before(NOW + 60, 0, 5)
            journal.prune([item[0] for item in ended])
        assert journal.counts() == counted(journal)
    sizes = "select coalesce(sum(bytes), 0) from {}"
    assert journal.read(sizes.format("tally")) == journal.read(sizes.format("entry"))


PATHS = [b"a/1.zip", b"a/2.zip", b"b/caf\xe9.zip"]


@dataclass
class Model:
    """What the journal must hold of one entry."""

    path: bytes
    version: int
    state: State = State.QUEUED
    attempts: int = 0
    ambiguous: bool = False
    grant: Grant | None = None
    due_at: float = 0.0
    earlier: list[str] = field(default_factory=list)
    """The keys of a lost attempt for the version before."""
    own: list[str] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        """All keys under which an object may exist."""
        return [*self.earlier, *self.own]

    def end(self, state: State) -> None:
        """End; the secret goes."""
        self.state, self.grant = state, None


class Walk(RuleBasedStateMachine):
    """Any order of what intake and workers do, and of restarts."""

    def __init__(self, place: JournalLocation) -> None:
        super().__init__()
        self.place = place
        self.journal = open_journal(place)
        self.model: dict[int, Model] = {}
        self.held: dict[int, Entry] = {}

    def teardown(self) -> None:
        """Close."""
        self.journal.close()

    def pick(self, data: st.DataObject) -> tuple[Entry, Model]:
        """Choose one of the entries that workers hold, and let go of it."""
        entry_id = data.draw(st.sampled_from(sorted(self.held)))
        return self.held.pop(entry_id), self.model[entry_id]

    @rule(path=st.sampled_from(PATHS), version=st.integers(1, 3))
    def admit(self, path: bytes, version: int) -> None:
        """Hand in a version of a path."""
        ids = [item for item, model in self.model.items() if model.path == path]
        last = self.model[max(ids)] if ids else None
        answer = admit(self.journal, admission(path, version))[0]
        if last and last.state is not State.WITHDRAWN and last.version == version:
            assert answer == "known"
        elif last and last.state is State.DELIVERING:
            assert answer == "busy"
        else:
            assert answer == "admitted" + "+" * bool(last and last.state in LIVE)
            if last and last.state in LIVE:
                last.end(State.WITHDRAWN)
            known = self.journal.latest(path)
            assert known is not None
            assert known.id not in self.model
            lost = last is not None and last.ambiguous and last.state is not State.DELIVERED
            earlier = last.keys if last is not None and lost else []
            self.model[known.id] = Model(path, version, ambiguous=bool(earlier), earlier=earlier)

    @rule()
    def claim(self) -> None:
        """Claim what is next; it is due, nobody's, and has all it had."""
        due = {
            item
            for item, model in self.model.items()
            if model.state is State.QUEUED
            or (model.state is State.DEFERRED and model.due_at <= NOW)
        }
        entry = self.journal.claim(NOW)
        if entry is None:
            assert not due
            return
        assert entry.id in due
        assert entry.id not in self.held
        model = self.model[entry.id]
        assert (entry.path, entry.attempts) == (model.path, model.attempts)
        assert (entry.ambiguous, entry.grant) == (model.ambiguous, model.grant)
        model.state = State.DELIVERING
        self.held[entry.id] = entry

    @precondition(lambda self: self.held)
    @rule(data=st.data(), key=st.sampled_from(["k1", "k2", "k3"]))
    def pin(self, data: st.DataObject, key: str) -> None:
        """Pin a grant, and go on holding the entry."""
        entry, model = self.pick(data)
        key = f"{key}-{entry.id}"
        self.held[entry.id] = entry
        if model.ambiguous and model.own and model.own[-1] != key:
            model.own.append(key)
        else:
            model.own = [*model.own[:-1], key]
        model.grant = grant(key)
        self.journal.pin(entry, model.grant)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def deliver(self, data: st.DataObject) -> None:
        """Deliver."""
        entry, model = self.pick(data)
        deliver(self.journal, entry)
        model.end(State.DELIVERED)
        model.own = [*model.own[:-1], f"key-{entry.id}"]

    @precondition(lambda self: self.held)
    @rule(data=st.data(), lost=st.booleans(), later=st.booleans(), charge=st.booleans())
    def defer(self, data: st.DataObject, *, lost: bool, later: bool, charge: bool) -> None:
        """Defer, until now or a while, at a cost or none."""
        entry, model = self.pick(data)
        model.due_at = NOW + 60 * later
        trouble = LOST if lost else BROKE
        self.journal.defer(entry, trouble, model.due_at, charge=charge)
        model.state = State.DEFERRED
        model.attempts += charge
        model.ambiguous |= lost

    @precondition(lambda self: self.held)
    @rule(data=st.data(), lost=st.booleans())
    def interrupt(self, data: st.DataObject, *, lost: bool) -> None:
        """Give an entry back."""
        entry, model = self.pick(data)
        self.journal.interrupt(entry, ambiguous=lost)
        model.state = State.QUEUED
        model.ambiguous |= lost

    @precondition(lambda self: self.held)
    @rule(data=st.data(), gone=st.booleans())
    def end(self, data: st.DataObject, *, gone: bool) -> None:
        """Reject or withdraw."""
        entry, model = self.pick(data)
        (self.journal.withdraw if gone else self.journal.reject)(entry, BROKE)
        model.end(State.WITHDRAWN if gone else State.REJECTED)

    @rule()
    def reopen(self) -> None:
        """Die and start again."""
        self.journal.close()
        self.journal = open_journal(self.place)
        assert self.journal.store.reclaimed == len(self.held)
        for entry_id in self.held:
            model = self.model[entry_id]
            model.state = State.QUEUED
            model.ambiguous |= model.grant is not None
        self.held.clear()

    @invariant()
    def nothing_is_lost(self) -> None:
        """Find each entry in the journal, in the state of the model."""
        rows = self.journal.read(
            """select id, path, state, attempts, ambiguous, "grant" is not null,
               trim(coalesce(earlier_keys, '') || '\n' || coalesce(key, ''), '\n')
               from entry"""
        )
        assert {item[0]: item[1:5] for item in rows} == {
            item: (model.path, model.state, model.attempts, model.ambiguous)
            for item, model in self.model.items()
        }
        for item in rows:
            model = self.model[item[0]]
            assert item[6] == "\n".join(model.keys)
            assert item[5] == (model.grant is not None)

    @invariant()
    def one_live_entry_a_path(self) -> None:
        """See that no path is sent twice at once."""
        live = [item.path for item in self.model.values() if item.state in LIVE]
        assert len(live) == len(set(live))

    @invariant()
    def tally_is_right(self) -> None:
        """Compare the counts with the rows."""
        assert self.journal.counts() == counted(self.journal)


def test_walk(new_place: Callable[[], JournalLocation]) -> None:
    """After any order of steps the journal holds what the model says."""
    limits = settings(
        max_examples=40,
        stateful_step_count=25,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow],
    )

    class WalkHere(Walk):
        def __init__(self) -> None:
            super().__init__(new_place())

    run_state_machine_as_test(WalkHere, settings=limits)


def test_a_late_answer_of_a_former_claim_changes_nothing(journal: Journal) -> None:
    """A worker whose claim was taken back cannot end the claim of another one."""
    former = take(journal)
    journal.interrupt(former)
    later = journal.claim(NOW)

    assert later is not None
    assert later.id == former.id
    assert later.token >= former.token + 2
    for late in (
        *(partial(verb, journal, former) for verb in verbs().values()),
        partial(journal.pin, former, grant()),
        partial(journal.drop_grant, former),
        partial(journal.merge_unchanged, former, former.id, dispose=False),
    ):
        with pytest.raises(IllegalTransition):
            late()
    assert row(journal, later.id, "state, token, key") == (State.DELIVERING, later.token, None)
