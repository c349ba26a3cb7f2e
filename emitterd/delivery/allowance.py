"""How many attempts may be under way at once: one after an outage, then ever more.

A server that has just come back would fall over again under all that waited for it.
Pure, and not thread-safe.
"""


class SlowStart:
    """Doubled by a success up to the most there may be, halved by a failure."""

    def __init__(self, most: int) -> None:
        """`most`: the number of workers."""
        self._most = self._limit = most
        self._under_way = 0

    @property
    def limited(self) -> bool:
        """Whether fewer may be under way than there may be at the most."""
        return self._limit < self._most

    def adopt(self, most: int) -> None:
        """Go by another number of workers; what was unlimited stays so."""
        full = not self.limited
        self._most = most
        self._limit = most if full else min(self._limit, most)

    def room(self) -> bool:
        """Tell whether one more may begin."""
        return self._under_way < self._limit

    def enter(self) -> None:
        """Note that an attempt begins."""
        self._under_way += 1

    def leave(self) -> None:
        """Note that an attempt ends, however."""
        self._under_way -= 1

    def restart(self) -> None:
        """Begin with one."""
        self._limit = 1

    def grow(self) -> None:
        """Note a success."""
        self._limit = min(2 * self._limit, self._most)

    def shrink(self) -> None:
        """Note a failure that may be one of overload."""
        self._limit = max(1, self._limit // 2)
