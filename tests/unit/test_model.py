"""The journal's vocabulary: states, verbs, grants, and names that forge nothing."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.model import LIVE, TRANSITIONS, Entry, Fingerprint, Grant, State, Verb
from emitterd.text import display

ENDINGS = {State.DELIVERED, State.REJECTED, State.WITHDRAWN}
GRANT = Grant(
    "https://b.s3.amazonaws.com/",
    {"key": "pat/x.zip", "policy": "secret-policy", "x-amz-signature": "secret-mark"},
    1_700_000_000.25,
    1_700_003_600.25,
)


def after(*starts: State) -> set[State]:
    """Return every state that some verbs lead to from the starts."""
    reached = set(starts)
    for _ in State:
        for sources, target in TRANSITIONS.values():
            if sources & reached:
                reached.add(target)
    return reached


def test_every_verb_is_in_the_table() -> None:
    """A verb without a transition could never be applied."""
    assert set(TRANSITIONS) == set(Verb)


def test_every_state_is_reached_from_the_queue() -> None:
    """No state is there in name only."""
    assert after(State.QUEUED) == set(State)


@pytest.mark.parametrize("state", sorted(LIVE))
def test_every_live_entry_can_be_delivered(state: State) -> None:
    """From each live state there is a way to the bucket: nothing is stuck."""
    assert State.DELIVERED in after(state)


@pytest.mark.parametrize("state", [State.DELIVERED, State.WITHDRAWN])
def test_what_is_delivered_or_withdrawn_stays_so(state: State) -> None:
    """No verb applies to a version that has ended for good."""
    assert after(state) == {state}


def test_a_rejection_is_undone_by_reopening_only() -> None:
    """Only the operator brings a rejected file back, and through the door."""
    verbs = [verb for verb, (sources, _) in TRANSITIONS.items() if "rejected" in sources]
    assert verbs == [Verb.REOPEN]


def test_live_is_what_has_not_ended() -> None:
    """Each state is either live or an ending."""
    assert set(State) - ENDINGS == LIVE


@pytest.mark.parametrize(
    ("verb", "sources", "target"),
    [
        ("claim", "queued deferred", "delivering"),
        ("deliver", "delivering", "delivered"),
        ("defer", "delivering", "deferred"),
        ("interrupt", "delivering", "queued"),
        ("reclaim", "delivering", "queued"),
        ("reject", "delivering", "rejected"),
        ("withdraw", "queued delivering deferred held", "withdrawn"),
        ("hold", "queued deferred", "held"),
        ("release", "held", "queued"),
        ("retry", "deferred", "queued"),
        ("reopen", "rejected", "withdrawn"),
    ],
)
def test_the_state_machine(verb: str, sources: str, target: str) -> None:
    """The table is the one that users and the journal rely on."""
    assert TRANSITIONS[Verb(verb)] == (frozenset(map(State, sources.split())), State(target))


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (b"pat/x.zip", "pat/x.zip"),
        (b"pat/a b.zip", "pat/a b.zip"),
        ("données/च.zip".encode(), "données/च.zip"),
        ("\N{GRINNING FACE}.zip".encode(), "\N{GRINNING FACE}.zip"),
        (b"caf\xe9.zip", r"caf\xe9.zip"),
        (b"\xed\xa0\x80.zip", r"\xed\xa0\x80.zip"),
        (b"a\nb\r.zip", r"a\nb\r.zip"),
        (b"\x1b[31mred.zip", r"\x1b[31mred.zip"),
        (b"\0\x7f.zip", r"\x00\x7f.zip"),
        ("\x9b31m.zip".encode(), r"\x9b31m.zip"),
        ("gpj\N{RIGHT-TO-LEFT OVERRIDE}.zip".encode(), r"gpj\u202e.zip"),
        ("a\N{LINE SEPARATOR}b.zip".encode(), r"a\u2028b.zip"),
        ("\N{ZERO WIDTH SPACE}.zip".encode(), r"\u200b.zip"),
        (b"", ""),
    ],
)
def test_a_path_for_people(path: bytes, shown: str) -> None:
    """What can be read is shown as it is, the rest escaped."""
    assert display(path) == shown


@given(st.binary())
def test_no_path_forges_a_line(path: bytes) -> None:
    """With any bytes, a displayed path is printable and can be encoded."""
    shown = display(path)

    assert shown.isprintable()
    assert json.loads(json.dumps(shown).encode()) == shown


def test_the_name_of_an_entry_is_its_path_for_people() -> None:
    """What is logged about an entry is escaped."""
    entry = Entry(1, b"a\n.zip", Fingerprint(1, 2, 3, 4, 5), 0, None, None, False)  # noqa: FBT003
    assert entry.name == r"a\n.zip"


def test_a_grant_comes_out_of_the_journal_as_it_went_in() -> None:
    """Every retry uses the very grant that was pinned."""
    assert Grant.unpack(GRANT.pack()) == GRANT


@given(
    st.text(),
    st.dictionaries(st.text(max_size=9), st.text()),
    st.floats(allow_nan=False, allow_infinity=False),
)
def test_any_grant_survives_packing(url: str, fields: dict[str, str], expires_at: float) -> None:
    """All that a server puts into its fields is kept exactly."""
    grant = Grant(url, fields, 0.0, expires_at)
    assert Grant.unpack(grant.pack()) == grant


@pytest.mark.parametrize("secret", ["secret-policy", "secret-mark"])
def test_the_secrets_of_a_grant_are_not_shown(secret: str) -> None:
    """Policy and signature stand in no repr and in no legible column."""
    entry = Entry(1, b"x.zip", Fingerprint(1, 2, 3, 4, 5), 0, None, GRANT, False)  # noqa: FBT003

    for text in (repr(GRANT), str(GRANT), f"{GRANT}", repr(entry), repr([GRANT])):
        assert secret not in text
    assert secret.encode() not in GRANT.pack()


def test_a_grant_is_known_by_its_key() -> None:
    """The key may be shown: the repr names it."""
    assert GRANT.key == "pat/x.zip"
    assert "pat/x.zip" in repr(GRANT)
