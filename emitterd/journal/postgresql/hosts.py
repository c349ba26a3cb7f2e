"""The hosts that share a journal: one row of `host` for each life of a process.

The claims of a host belong to its row. A host renews its lease with each heartbeat. Once the lease
is over, and the grace too, any other host ends the row and takes the claims back; no commit of the
ended life succeeds. A host counts its own lease from before the heartbeat was sent, by a clock that
nobody can set: so it knows at least the grace earlier than any other host that it is over.
"""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from emitterd import __version__
from emitterd.errors import JournalError, JournalLocked
from emitterd.journal.postgresql.clock import DatabaseClock, boot_time
from emitterd.journal.postgresql.connection import AGAIN_S, Connection, Connector, close, translated
from emitterd.journal.postgresql.listening import CHANNEL
from emitterd.text import iso

CLOSE_WAIT_S = 5.0
"""How long the end waits for a heartbeat that is under way."""

_NOW = "extract(epoch from clock_timestamp())::double precision"

_RENEW = f"""update host set until_at = {_NOW} + %s where id = %s and ended_at is null"""  # noqa: S608

_END = f"""update host set ended_at = {_NOW} where ended_at is null
    and (until_at + %(grace_s)s < {_NOW} or id = any (%(dead)s))
    returning id, name, until_at"""  # noqa: S608  no input

# The id is the time in microseconds: also a failover that has lost the last ids gives none again.
_BEGIN = f"""insert into host (id, name, boot_id, pid, version, begun_at, until_at)
    values (({_NOW} * 1e6)::bigint, %s, %s, %s, %s, {_NOW}, {_NOW} + %s)
    on conflict (name) where ended_at is null do nothing returning id"""  # noqa: S608  no input

# Of any ended host: a claim that was committed late is found on the next pass. The ended process
# may have sent the whole body if it had a grant. A process that died before its lease was over has
# the grace from then on: its system may still be sending the end of a body.
_TAKE_BACK = f"""update entry set state = 'queued', changed_at = {_NOW}, token = token + 1,
    host = null, ambiguous = ambiguous or "grant" is not null
    where state = 'delivering' and host in (
        select id from host where ended_at is not null
            and least(until_at, ended_at) + %(grace_s)s < {_NOW})"""  # noqa: S608

_SWEEP = f"""update meta set sweeper = %(id)s, sweeper_until_at = {_NOW} + %(lease_s)s
    where sweeper is null or sweeper = %(id)s or sweeper_until_at + %(grace_s)s < {_NOW}
    or not exists (select 1 from host where id = sweeper and ended_at is null)"""  # noqa: S608

log = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Timing:
    """How long a host may work without an answer of the database, and what follows from it.

    `grace_s`: what a host has sent before the end of its lease has arrived after this time. The
    sockets of uploads give up within it. All three together: how long a dead host's files wait.
    """

    lease_s: float = 15.0
    heartbeat_s: float = 5.0
    grace_s: float = 5.0


class HostLease:
    """What a process knows of itself as a host: its life, and until when. Thread-safe."""

    def __init__(self, name: str, timing: Timing) -> None:
        self.name = name
        self.timing = timing
        self.id = 0
        """Its number in the table `host`. Another life has another one."""
        self._holds_until = 0.0
        self._sweeps_until = 0.0

    def holds_lease(self) -> bool:
        """Return whether its claims are still its own, by the boot-time clock and without I/O."""
        return boot_time() < self._holds_until

    def is_sweeper(self) -> bool:
        """Return whether this host sweeps the folder, prunes and tracks for all."""
        return boot_time() < min(self._sweeps_until, self._holds_until)

    def was_sweeper(self) -> bool:
        """Return whether it was the sweeper when the database last answered."""
        return self._sweeps_until > 0.0

    def begin(self, host: int, asked_at: float) -> None:
        """Begin a life that was registered by a statement sent at `asked_at` (boot time)."""
        self._sweeps_until = 0.0
        self.id = host
        self._holds_until = asked_at + self.timing.lease_s

    def renew(self, host: int, asked_at: float, *, sweeps: bool) -> None:
        """Extend the lease of a life, if that is still the one of this process."""
        if host == self.id and self._holds_until > 0.0:
            self._holds_until = asked_at + self.timing.lease_s
            self._sweeps_until = self._holds_until if sweeps else 0.0

    def end(self) -> None:
        """End this life: its claims are no longer its own."""
        self._holds_until = 0.0


def begin_life(connection: Connection, lease: HostLease) -> int:
    """Register this process as a host, in the transaction of `connection`.

    Return how many claims of ended hosts were taken back. Raises `JournalLocked` if another living
    host has the name.
    """
    boot, asked_at = _boot_id(), boot_time()
    mine = "select id, pid from host where ended_at is null and name = %s and boot_id = %s"
    lives = connection.execute(mine, (lease.name, boot)).fetchall()
    # After a crash this machine knows at once that the process is gone.
    dead = [life for life, pid in lives if not _is_running(pid)]
    taken = end_lost(connection, lease.timing, dead)
    values = (lease.name, boot, os.getpid(), __version__, lease.timing.lease_s)
    rows = connection.execute(_BEGIN, values).fetchall()
    if not rows:
        raise JournalLocked(
            f"another emitterd is running as host {lease.name}",
            remedy="stop it, or give this one another name in journal.host",
        )
    lease.begin(int(rows[0][0]), asked_at)
    return taken


def end_life(connection: Connection, lease: HostLease) -> None:
    """Record that this host has ended, and sends nothing any more: its claims are free at once."""
    lease.end()
    sql = f"""update host set ended_at = {_NOW}, until_at = least(until_at, {_NOW} - %s)
        where id = %s and ended_at is null"""  # noqa: S608  no input
    # Less than any rounding more than the grace.
    connection.execute(sql, (lease.timing.grace_s + 0.001, lease.id))


def end_lost(connection: Connection, timing: Timing, dead: list[int] | None = None) -> int:
    """End all hosts whose lease is over, and `dead`; return how many claims were taken back."""
    values = {"grace_s": timing.grace_s, "dead": dead or []}
    lost = connection.execute(_END, values).fetchall()
    taken = connection.execute(_TAKE_BACK, values).rowcount
    for _, name, until_at in lost:
        log.warning("host.lost", host=name, since=iso(until_at), reclaimed=taken)
    return taken


class HostHeartbeat:
    """A thread that renews the lease, and looks for hosts that are lost."""

    def __init__(
        self,
        connector: Connector,
        lease: HostLease,
        clock: DatabaseClock,
        rejoin: Callable[[], None],
        on_taken: Callable[[], None],
    ) -> None:
        """`rejoin` begins another life if this one was ended. `on_taken`: there is work.

        Raises what connecting raises.
        """
        self._connector = connector
        self._lease = lease
        self._clock = clock
        self._rejoin = rejoin
        self._on_taken = on_taken
        self._closing = threading.Event()
        self._connection: Connection | None = connector.connect()
        self._beat(self._connection)
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; it may be waiting for the database."""
        self._closing.set()
        self._thread.join(CLOSE_WAIT_S)
        if self._connection is not None:
            close(self._connection)

    def _run(self) -> None:
        wait_s = self._lease.timing.heartbeat_s
        while not self._closing.wait(wait_s):
            try:
                if self._connection is None:
                    self._connection = self._connector.connect()
                    # First: another server may lack what this life has claimed.
                    self._rejoin()
                with translated(self._connector.address):
                    self._beat(self._connection)
                wait_s = self._lease.timing.heartbeat_s
            except JournalError:
                # The connector has said why.
                if self._connection is not None:
                    close(self._connection)
                    self._connection = None
                wait_s = min(AGAIN_S, self._lease.timing.heartbeat_s)

    def _beat(self, connection: Connection) -> None:
        lease, timing, asked_at = self._lease, self._lease.timing, boot_time()
        host = lease.id
        if connection.execute(_RENEW, (timing.lease_s, host)).rowcount != 1:
            lease.end()
            self._rejoin()
            return
        values = {"id": host, "lease_s": timing.lease_s, "grace_s": timing.grace_s}
        sweeps = connection.execute(_SWEEP, values).rowcount == 1
        lease.renew(host, asked_at, sweeps=sweeps)
        self._clock.measure(connection)
        with connection.transaction():
            taken = end_lost(connection, timing)
            if taken:
                connection.execute(f"notify {CHANNEL}")
        if taken:
            self._on_taken()


def _boot_id() -> str:
    """Return what tells this machine, and this name space of processes, from all others."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"


def _is_running(pid: int) -> bool:
    # This process has the number if it is restarted alone in a container.
    return pid != os.getpid() and Path("/proc", str(pid)).exists()
