"""Which faults happen when: a cycle of phases, each with a menu of its own."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase. `share`: the part of it, from its beginning, that the faults last."""

    name: str
    menu: str = ""
    share: float = 1.0
    down: bool = False
    """Whether nothing listens."""
    revoke: bool = False
    """Whether all tokens end as the phase begins."""


CYCLE = (
    Phase("calm"),
    Phase("throttled", "503:0.15:2, 503:0.1"),
    Phase("answers lost", "lost-answer:0.15, truncated-answer:0.05, garbage:0.05"),
    Phase("connections reset", "reset:0.15, reset-connect:0.05"),
    Phase("tokens refused", "api-401:0.1", revoke=True),
    Phase("slow", "slow-reader:0.1:2000000, slow-answer:0.1:1, dribble:0.02:0.01"),
    Phase("API out", "api-503, auth-500", share=0.4, revoke=True),
    Phase("bucket out", "503", share=0.4),
    Phase("grants expired", "expired:0.3"),
    Phase("nothing listens", share=0.4, down=True),
    Phase("bucket errs", "500:0.1, request-timeout:0.1, wrong-etag:0.03, 429:0.05:1"),
    Phase(
        "everything",
        "reset-connect:0.02, api-401:0.05, api-500:0.05, reset:0.05, 503:0.05:1,"
        " expired:0.05, lost-answer:0.05, slow-answer:0.05:0.5",
        revoke=True,
    ),
)


class Plan:
    """The cycle over time; `phase_s`: how long each phase lasts, in seconds."""

    def __init__(self, phase_s: float) -> None:
        self.phase_s = phase_s
        self.cycle_s = phase_s * len(CYCLE)

    def at(self, at_s: float) -> tuple[int, Phase]:
        """Return the number and the kind of what holds at an instant.

        Another number is another step of the plan; between its faults a phase is calm.
        """
        number, within_s = divmod(at_s, self.phase_s)
        phase = CYCLE[int(number) % len(CYCLE)]
        over = within_s >= phase.share * self.phase_s
        return 2 * int(number) + over, CYCLE[0] if over else phase
