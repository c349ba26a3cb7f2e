"""Start-time fair queueing between flows: the order is fixed at admission.

Each entry gets a turn when it is admitted; workers claim by (turn, rank, id). A flow puts `QUANTUM`
entries into a turn and then moves to the next. So a backlog spreads over later turns, and the first
file of another flow joins the current turn. Within a turn the order of the catalogue holds. Source:
Goyal, Vin, Cheng: Start-time Fair Queueing (SIGCOMM 1996).
"""

from collections.abc import Iterable

QUANTUM = 32
"""Entries of one flow in one turn: the number of files of the largest dataset."""


class FairQueue:
    """Assigns turns. Not thread-safe: only transactions of the journal call it."""

    def __init__(self) -> None:
        self.current = 0
        self.last: dict[str, tuple[int, int]] = {}
        """The last turn of each flow, and how many of its entries are in it."""
        self.probed: list[str] = []
        """The flows that probes were of: a folder of bad files must not give every probe."""

    def resume(self, current: int, flows: Iterable[tuple[str, int]]) -> None:
        """Restore the current turn, and the last turn of each flow, after a restart."""
        self.current = current
        # The places used are not stored: each flow goes on in the turn after its last one.
        self.last = {flow: (turn, QUANTUM) for flow, turn in flows}

    def assign(self, flow: str) -> int:
        """Return the turn of the flow's next entry."""
        turn, used = self.last.get(flow, (self.current, 0))
        # A flow that had nothing to send gets no credit for the turns that have passed.
        if turn < self.current:
            turn, used = self.current, 0
        elif used >= QUANTUM:
            turn, used = turn + 1, 0
        # A rollback does not undo this: the flow loses one place, and the order holds.
        self.last[flow] = (turn, used + 1)
        return turn

    def served(self, turn: int) -> None:
        """Record that an entry of this turn was claimed."""
        # A retried entry has kept its old turn, which must not set the queue back.
        self.current = max(self.current, turn)

    def probe(self, flow: str) -> None:
        """Record that a probe was of this flow."""
        # After the last flow the first one follows again.
        self.probed = [flow] if flow in self.probed else [*self.probed, flow]
