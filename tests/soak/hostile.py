"""A hostile producer in one folder, well-behaved ones in the others.

    tests/soak/run-hostile --minutes 60

Every file of the well-behaved producers must be delivered within five seconds of its rename, by
the `delivered_at` of its receipt. Exit code 0 if all were, 1 if one was late or lost, or if the
daemon ended.
"""

import json
import math
import random
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from soak.attacks import Attacker
from soak.daemon import Daemon
from soak.ledger import Ledger
from soak.producer import Producer
from soak.server import Far
from soak.soak import (
    ARCHIVE,
    ARCHIVE_FOLDER,
    SHOWN,
    TICK_S,
    Soak,
    command_line,
    finish,
    report,
    server,
    troubles,
)

LIMIT_S = 5.0
HOSTILE = "diksha"
SIZES_BYTES = (1000, 2_000_000)
SAMPLE_S = 30.0
HOSTILE_SETTINGS = {
    "spool_rejected_directory": "rejected",
    "spool_catalogue": "warn",
    "spool_incomplete_after": "10s",
}


class Neighbour(Producer):
    """A producer that drops each file once, by a rename, and leaves it alone."""

    def _chances(self) -> dict[Callable[[], None], int]:
        return {self._drop: 1}

    def _drop(self) -> None:
        low, high = map(math.log, SIZES_BYTES)
        size_bytes = int(math.exp(self._dice.uniform(low, high)))
        self._place(self._path(), self._content(size_bytes))


class HostileRun(Soak):
    """One run. `alarms`: how many looks at the status found each alarm."""

    def __init__(self, folder: Path, far: Far, seed: int, minutes: float) -> None:
        super().__init__(folder, far, seed, minutes, settings=ARCHIVE | HOSTILE_SETTINGS)
        archive = self.site.spool / ARCHIVE_FOLDER
        self.ledger = Ledger(self.site.journal, far, archive, HOSTILE)
        self.producer = Neighbour(self.site.spool, self.ledger, self._dice)
        self.attacker = Attacker(self.site.spool / HOSTILE, random.Random(seed))  # noqa: S311
        self.alarms: Counter[str] = Counter()

    def _load(self, daemon: Daemon, files_a_second: float) -> None:
        last_s = sample_at = 0.0
        with self.attacker:
            while (at_s := time.monotonic() - self._began_at) < self.load_s and daemon.alive:
                self.producer.step(files_a_second * (at_s - last_s))
                last_s = at_s
                if at_s >= sample_at:
                    sample_at = at_s + min(SAMPLE_S, self.load_s / 10)
                    self._sample(daemon.process.pid, at_s)
                    self._look_at_alarms()
                    self._print_progress(at_s)
                daemon.ends_within(TICK_S)

    def _is_settled(self) -> bool:
        return not (self.ledger.owing or self.ledger.unplaced)

    def _look_at_alarms(self) -> None:
        health = json.loads(self.site.call("status", "--check", "--json").stdout)
        self.alarms.update(alarm["code"] for alarm in health["alarms"])

    def _print_progress(self, at_s: float) -> None:
        delays_s = self.ledger.delays_s
        print(
            f"{at_s / 60:.1f} minutes: {len(delays_s)} files, {max(delays_s, default=0):.2f} s"
            f" at most, {sum(self.attacker.acts.values())} hostile acts",
            file=sys.stderr,
            flush=True,
        )


def judge(run: HostileRun, seed: int) -> dict[str, Any]:
    """Return what was found, as the JSON file holds it."""
    found = report(run, seed)
    delays_s = sorted(run.ledger.delays_s)
    late = [delay_s for delay_s in delays_s if delay_s > LIMIT_S]
    found |= {
        "outages": run.log.outages,
        "delays_s": delays_s,
        "late": len(late),
        "hostile": dict(run.attacker.acts),
        "not_allowed": dict(run.attacker.failures),
        "alarms": dict(run.alarms),
    }
    # Whether memory grows with what was dropped is the soak's question.
    found["good"] = bool(delays_s) and not (late or any(troubles(found).values()))
    return found


def text(found: dict[str, Any]) -> str:
    """Return the report."""
    delays_s, samples = found["delays_s"] or [math.inf], found["samples"]
    percentile_s = delays_s[math.ceil(0.99 * len(delays_s)) - 1]
    memory = [sample["rss_bytes"] / 2**20 for sample in samples]
    middle_s = delays_s[len(delays_s) // 2]
    acts = sorted(found["hostile"].items())
    lines = [
        f"{found['minutes']} minutes, seed {found['seed']}, {found['machine']}.",
        (
            f"Well-behaved: {len(found['delays_s'])} files delivered, {found['late']} late (more"
            f" than {LIMIT_S:g} s). From rename to delivery: median {middle_s:.2f} s, 99th"
            f" percentile {percentile_s:.2f} s, maximum {delays_s[-1]:.2f} s."
        ),
        (
            f"Hostile: {sum(found['hostile'].values())} acts, of which emitterd delivered"
            f" {found['counts'].get('hostile files delivered', 0)} files:"
        ),
        *(f"* {count} times {act}" for act, count in acts),
        f"Not possible here: {found['not_allowed'] or 'nothing'}.",
        f"Alarms, in how many of the looks: {found['alarms'] or 'none'}.",
        (
            f"Resident memory: {memory[0]:.1f} MiB at the start, {memory[-1]:.1f} MiB at the end,"
            f" {max(memory):.1f} MiB at most; {found['cpu_s']:.0f} s of CPU."
        ),
        f"Log: {found['events']}",
        *found["outages"][:SHOWN],
    ]
    for kind, cases in troubles(found).items():
        lines += [f"{kind}: {case}" for case in cases]
    counts = ", ".join(f"{len(cases)} {kind}" for kind, cases in troubles(found).items())
    verdict = "good" if found["good"] else "BAD"
    return "\n".join([*lines, f"Verdict: {verdict}: {found['late']} late, {counts}."])


def remove(folder: Path) -> None:
    """Remove a folder that is too deep for `shutil`, and closed in parts."""
    subprocess.run(["chmod", "-R", "u+rwx", "--", folder], check=False)  # noqa: S603, S607
    subprocess.run(["rm", "-rf", "--", folder], check=False)  # noqa: S603, S607


def main() -> int:
    """Run as the command line says."""
    options = command_line(__doc__ or "", rate=1.5).parse_args()
    with server(options, "hostile-") as (folder, far):
        try:
            run = HostileRun(folder, far, options.seed, options.minutes)
            run.run(options.rate)
        finally:
            for item in folder.iterdir():
                remove(item)
        found = judge(run, options.seed)
    return finish(options, found, text(found))


if __name__ == "__main__":
    sys.exit(main())
