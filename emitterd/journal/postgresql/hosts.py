"""The rows of `host`: the life of a process begins, ends, and loses what it had claimed.

The claims of a host belong to its row. Once the row has ended, no commit of the host succeeds, and
any other host may take its claims back.
"""

import os
from pathlib import Path

from emitterd import __version__
from emitterd.errors import JournalLocked
from emitterd.journal.postgresql.connection import Connection

LEASE_S = 15.0
"""How long a host may work without an answer of the database."""

_END = """update host set ended_at = %(now)s where ended_at is null
    and (until_at < %(now)s or id = any (%(dead)s))"""

_BEGIN = """insert into host (name, boot_id, pid, version, begun_at, until_at)
    values (%s, %s, %s, %s, %s, %s) on conflict (name) where ended_at is null do nothing
    returning id"""

# Of any ended host: a claim that was committed late is found on the next pass. The ended process
# may have sent the whole body if it had a grant.
_TAKE_BACK = """update entry set state = 'queued', changed_at = %s, token = token + 1, host = null,
    ambiguous = ambiguous or "grant" is not null
    where state = 'delivering' and host in (select id from host where ended_at is not null)"""


def begin_life(connection: Connection, name: str, now: float) -> int:
    """Register this process as a host, in the transaction of `connection`; return its id.

    Lives that are over end. Raises `JournalLocked` if another living host has the name.
    """
    boot = _boot_id()
    mine = "select id, pid from host where ended_at is null and name = %s and boot_id = %s"
    lives = connection.execute(mine, (name, boot)).fetchall()
    # After a crash this machine knows at once that the process is gone.
    dead = [life for life, pid in lives if not _is_running(pid)]
    connection.execute(_END, {"now": now, "dead": dead})
    values = (name, boot, os.getpid(), __version__, now, now + LEASE_S)
    rows = connection.execute(_BEGIN, values).fetchall()
    if not rows:
        raise JournalLocked(
            f"another emitterd is running as host {name}",
            remedy="stop it, or give this one another name in journal.host",
        )
    return int(rows[0][0])


def end_life(connection: Connection, host: int, now: float) -> None:
    """Record that a host has ended. Any other life takes back what it had claimed."""
    sql = "update host set ended_at = %s where id = %s and ended_at is null"
    connection.execute(sql, (now, host))


def take_back(connection: Connection, now: float) -> int:
    """Put back into the queue what ended hosts had claimed; return how many entries."""
    return connection.execute(_TAKE_BACK, (now,)).rowcount


def _boot_id() -> str:
    """Return what tells this machine, and this name space of processes, from all others."""
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot}/{Path('/proc/self/ns/pid').stat().st_ino}"


def _is_running(pid: int) -> bool:
    # This process has the number if it is restarted alone in a container.
    return pid != os.getpid() and Path("/proc", str(pid)).exists()
