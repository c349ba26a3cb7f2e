"""A login that was refused: how long the next one waits, and whose it was.

Upstream's Keycloak locks an account after five failures, so the wait outlasts the
process: neither a restart nor `once` from cron may begin anew.
"""

import hashlib
import hmac
import os
from dataclasses import asdict, dataclass
from typing import Self

from emitterd.codes import Code
from emitterd.errors import Decision, DeliveryError, Stage
from emitterd.model import iso

LOGIN_FLOOR_S = 60.0
LOGIN_CEILING_S = 900.0
"""A refused login waits the first of these, then ever longer, up to the second: as
long as upstream's Keycloak locks an account for."""


@dataclass(frozen=True, slots=True)
class LoginLockout:
    """How often in a row a login was refused, and when last, in seconds of the epoch.

    `mark` tells whether credentials are the same, and cannot be turned into them.
    """

    mark: str
    salt: str
    reason: str
    count: int
    at: float

    @classmethod
    def of(cls, account: bytes, reason: str, now: float, before: Self | None) -> Self:
        """Return one more refusal of an account; `before`: its last one."""
        if before is not None:
            return cls(before.mark, before.salt, reason, before.count + 1, now)
        salt = os.urandom(16)
        return cls(_mark(account, salt), salt.hex(), reason, 1, now)

    @classmethod
    def read(cls, fact: object) -> Self | None:
        """Return the refusal that `fact` returned, or None for anything else."""
        if not isinstance(fact, dict):
            return None
        try:
            return cls(**fact)
        except TypeError:
            return None

    def fact(self) -> dict[str, object]:
        """Return it as the journal keeps it."""
        return asdict(self)

    def concerns(self, account: bytes) -> bool:
        """Tell whether it was this account that was refused, with this password."""
        return hmac.compare_digest(_mark(account, bytes.fromhex(self.salt)), self.mark)

    def wait_s(self, now: float) -> float:
        """Return how long the next try must wait, in seconds; 0.0 where it is due."""
        longest_s = min(LOGIN_FLOOR_S * 2.0 ** min(self.count - 1, 8), LOGIN_CEILING_S)
        wait_s = self.at + longest_s - now
        # The clock was set back since: then one try comes too early.
        return wait_s if 0.0 < wait_s <= longest_s else 0.0

    def trouble(self, now: float, *, asked: bool) -> DeliveryError:
        """Return what it means for an attempt; `asked`: it is the server's answer."""
        wait_s = self.wait_s(now)
        reason = self.reason
        if not asked:
            until = iso(now + wait_s)
            reason += f"; not tried again before {until}, or with another password"
        return DeliveryError(
            Decision.PARK,
            Code.CREDENTIALS,
            reason,
            stage=Stage.LOGIN,
            retry_after_s=wait_s,
        )


def _mark(account: bytes, salt: bytes) -> str:
    # Slow on purpose: who reads the journal shall not try passwords out on it.
    return hashlib.scrypt(account, salt=salt, n=2**14, r=8, p=1, dklen=32).hex()
