"""What becomes of a file whose attempt meets a fault, with each protocol."""

from dataclasses import dataclass
from typing import Self

from emitterd.client.sockets import TransferLimits
from emitterd.model import State
from support.client import PATIENT
from support.worker import Rig

MIB = 1024 * 1024
LARGE_BYTES = 48 * MIB
"""Half of it is more than the buffers of both ends take, though they grow with use."""

LATE = TransferLimits(connect_s=10.0, stall_s=1.5, minimum_bytes_s=1)
BRISK = TransferLimits(connect_s=10.0, stall_s=1.5, minimum_bytes_s=100 * MIB)
ENDINGS = ("file.delivered", "file.rejected", "file.withdrawn")


@dataclass(frozen=True, slots=True)
class Struck:
    """The outcome of an attempt that meets the fault, and the uploads until delivery.

    `error`: one of these codes. `uploads`: how often the server has stored the file in the end.
    `parks`: the destination is to blame, and nothing is charged to the file.
    """

    error: tuple[str | None, ...] = (None,)
    parks: bool = False
    ambiguous: bool = False
    uploads: int = 1
    limits: TransferLimits = PATIENT
    large: bool = False
    state: State = State.DEFERRED

    @classmethod
    def parked(cls, *error: str, ambiguous: bool = False) -> Self:
        """Return an outcome that concerns the destination."""
        return cls(error, parks=True, ambiguous=ambiguous)


def struck_by(rig: Rig, name: str, expected: Struck) -> None:
    """Check what the journal has of a file after an attempt that met a fault."""
    row = rig.row(name)
    assert row["state"] == expected.state
    assert row["error"] in expected.error
    charged = expected.state is State.DEFERRED and not expected.parks
    assert row["attempts"] == charged
    assert bool(row["ambiguous"]) == expected.ambiguous
    assert len(rig.logged("destination.down")) == expected.parks
    assert (rig.destination.down is not None) == expected.parks
    if expected.state is not State.DELIVERED:
        assert not rig.logged("file.delivered")


def fault_of(menu: str) -> str:
    """Return the name of the fault in `name@count:share:parameter`."""
    return menu.partition("@")[0].partition(":")[0]
