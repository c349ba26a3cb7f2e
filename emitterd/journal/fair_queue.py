"""Whose turn it is: start-time fair queueing between flows, fixed at admission.

Each entry gets a turn when it is admitted; workers claim by (turn, rank, id). A flow
puts `QUANTUM` entries into a turn and then moves to the next, so a backlog spreads
over later turns while a newcomer's first file joins the turn being served now. Within
a turn the catalogue's order holds: the whole seed fits into one.
Source: Goyal, Vin, Cheng: Start-time Fair Queueing (SIGCOMM 1996).
"""

from collections.abc import Iterable

QUANTUM = 32
"""Entries of one flow in one turn: as many as the largest dataset folder has."""


class FairQueue:
    """Gives out turns. Not thread-safe: the journal's transactions guard it."""

    def __init__(self) -> None:
        self.current = 0
        self._last: dict[str, tuple[int, int]] = {}

    def resume(self, current: int, flows: Iterable[tuple[str, int]]) -> None:
        """Take up after a restart: the turn served now, and each flow's last turn."""
        self.current = current
        self._last = {flow: (turn, QUANTUM) for flow, turn in flows}

    def assign(self, flow: str) -> int:
        """Return the turn of the flow's next entry."""
        turn, used = self._last.get(flow, (self.current, 0))
        if turn < self.current:
            turn, used = self.current, 0
        elif used >= QUANTUM:
            turn, used = turn + 1, 0
        self._last[flow] = (turn, used + 1)
        return turn

    def served(self, turn: int) -> None:
        """Note that an entry of this turn was claimed."""
        self.current = max(self.current, turn)
