"""Whose turn it is: a newcomer waits behind a turn, never behind a backlog."""

from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.journal.fair_queue import QUANTUM, FairQueue

BACKLOG = 100_000


class Ticket(NamedTuple):
    """An admitted file, in the order in which workers claim."""

    turn: int
    rank: int
    id: int


class Queue:
    """Tickets in memory: what the journal does with turns, without a database."""

    def __init__(self) -> None:
        self.turns = FairQueue()
        self.waiting: list[Ticket] = []
        self.admitted = 0

    def admit(self, flow: str, count: int = 1, *, rank: int = 0) -> list[Ticket]:
        """Admit so many files of a flow."""
        tickets = [
            Ticket(self.turns.assign(flow), rank, self.admitted + number) for number in range(count)
        ]
        self.admitted += count
        self.waiting = sorted(self.waiting + tickets)
        return tickets

    def claim(self, count: int = 1) -> list[Ticket]:
        """Claim so many tickets."""
        claimed, self.waiting = self.waiting[:count], self.waiting[count:]
        for ticket in claimed:
            self.turns.served(ticket.turn)
        return claimed


@pytest.mark.parametrize("served", [0, 1, 31, 32, 33, 5_000, 99_999])
def test_a_newcomer_is_claimed_within_a_quantum(served: int) -> None:
    """However long the backlog, at most one turn of it goes before a newcomer."""
    queue = Queue()
    queue.admit("backlog", BACKLOG, rank=0)
    queue.claim(served)

    newcomer = queue.admit("newcomer", rank=99)[0]

    assert queue.waiting.index(newcomer) <= QUANTUM


def test_a_newcomer_waits_for_one_quantum_of_each_flow() -> None:
    """With several backlogs it is one turn of each that goes before."""
    queue = Queue()
    for flow in ("a", "b", "c"):
        queue.admit(flow, 1_000)
    queue.claim(500)

    newcomer = queue.admit("newcomer", rank=99)[0]

    assert queue.waiting.index(newcomer) <= 3 * QUANTUM


def test_two_backlogs_advance_side_by_side() -> None:
    """Of each turn both flows get their quantum, in any order of arrival."""
    queue = Queue()
    queue.admit("first", 1_000)
    second = set(queue.admit("second", 1_000))

    claimed = queue.claim(10 * 2 * QUANTUM)

    assert sum(ticket in second for ticket in claimed) == 10 * QUANTUM


def test_within_a_turn_the_rank_decides() -> None:
    """The whole seed fits into one turn, so the catalogue's order holds in it."""
    queue = Queue()
    for rank in range(40, 0, -1):
        queue.admit(f"dataset {rank}", rank=rank)

    assert [ticket.rank for ticket in queue.claim(40)] == list(range(1, 41))


def test_within_a_rank_the_first_admitted_goes_first() -> None:
    """Files of one dataset leave in the order in which they came."""
    queue = Queue()
    tickets = queue.admit("pat", 3 * QUANTUM)

    assert queue.claim(3 * QUANTUM) == tickets


def test_a_quantum_is_what_a_turn_takes_of_a_flow() -> None:
    """After `QUANTUM` entries a flow goes on in the next turn."""
    turns = FairQueue()
    given_out = [turns.assign("pat") for _ in range(2 * QUANTUM + 1)]
    assert given_out == [0] * QUANTUM + [1] * QUANTUM + [2]


def test_a_flow_that_was_idle_joins_the_turn_being_served() -> None:
    """Turns that a flow let pass are not made up for."""
    turns = FairQueue()
    turns.assign("idle")
    turns.served(50)
    assert turns.assign("idle") == 50


def test_a_flow_that_was_idle_has_a_whole_quantum() -> None:
    """Entries of earlier turns do not count in the turn that it joins."""
    queue = FairQueue()
    queue.assign("pat")
    queue.served(5)

    turns = [queue.assign("pat") for _ in range(QUANTUM + 1)]
    assert turns == [5] * QUANTUM + [6]


def test_serving_an_old_entry_does_not_turn_back() -> None:
    """A deferred entry of an early turn leaves the current turn as it is."""
    turns = FairQueue()
    turns.served(50)
    turns.served(3)
    assert turns.current == 50


def test_a_resumed_flow_queues_behind_its_own_backlog() -> None:
    """After a restart a flow with a backlog goes on after its last turn."""
    turns = FairQueue()
    turns.resume(10, [("backlog", 3_000)])
    assert turns.assign("backlog") == 3_001


@pytest.mark.parametrize("flow", ["never seen", "long ago"])
def test_a_restart_keeps_newcomers_first(flow: str) -> None:
    """After a restart a flow without a backlog joins the turn being served."""
    turns = FairQueue()
    turns.resume(10, [("backlog", 3_000), ("long ago", 2)])
    assert turns.assign(flow) == 10


@given(st.lists(st.sampled_from(["a", "b", "c", "serve"]), max_size=300))
def test_no_turn_takes_more_than_a_quantum_of_a_flow(story: list[str]) -> None:
    """In any order of arrivals and departures, turns stay fair and never past."""
    turns, used, current = FairQueue(), dict[tuple[str, int], int](), 0
    for step in story:
        if step == "serve":
            current += 1
            turns.served(current)
            continue
        turn = turns.assign(step)
        used[step, turn] = used.get((step, turn), 0) + 1
        assert turn >= current

    assert all(count <= QUANTUM for count in used.values())
