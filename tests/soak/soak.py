"""A soak: the real daemon under mixed load and changing faults, measured over time.

    tests/soak/run-soak --minutes 60

The daemon, the rehearsal server and the producers are three processes. Every version
dropped must be delivered with its bytes, once; what the daemon holds must not grow.
Exit code 0 if both are so, 1 if not.
"""

import argparse
import json
import os
import platform
import random
import signal
import ssl
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from soak.daemon import Daemon, Killer
from soak.faults import Plan
from soak.gauges import GAUGES, Sample, grows, look, size_bytes, slopes
from soak.ledger import Ledger, Log
from soak.producer import Meddler, Producer
from soak.server import Far
from support.installation import Installation

TICK_S = 0.2
SAMPLE_S = 5.0
PHASE_S = 15.0
"""Twelve phases a cycle: three minutes, unless the whole run is short."""

SETTLE_S = 120.0
"""How long, after the load has ended, no file may be delivered before what is left is lost."""

WARM_UP_S = 600.0
WARM_UP_SHARE = 0.2
SLOPES_S = 1200.0
"""A shorter measurement says nothing of an hour: its slopes are shown, not judged."""

KINDS = ("lost", "doubled", "silent", "half_written", "misplaced", "wrong", "problems")
SHOWN = 20
"""So many troubles of a kind are printed; the JSON file has them all."""

SETTINGS = {
    "delivery_workers": "4",
    "delivery_backoff_initial": "500ms",
    "delivery_backoff_max": "10s",
    "spool_sweep_every": "10s",
}
ARCHIVE_FOLDER = "archive"
ARCHIVE = {
    "spool_after_delivery": "archive",
    # In the watched folder, where producers can put links.
    "spool_archive_directory": f"cqube_emission/{ARCHIVE_FOLDER}",
    "spool_exclude": f"{ARCHIVE_FOLDER}/",
}


class Soak:
    """One run."""

    def __init__(
        self,
        folder: Path,
        far: Far,
        seed: int,
        minutes: float,
        *,
        kills: int = 0,
        settings: dict[str, str] | None = None,
    ) -> None:
        self.load_s = minutes * 60 - min(60.0, minutes * 20)
        self.plan = Plan(min(PHASE_S, self.load_s / 12))
        self.far = far
        self.site = Installation(folder, far.url, **(SETTINGS | (settings or {})))
        self.log = Log()
        self.samples: list[Sample] = []
        self.fired: dict[str, int] = {}
        self.kills: Counter[str] = Counter()
        self.exit_code: int | None = None
        self._kills = kills
        self._dice = random.Random(seed)  # noqa: S311  a load, no secret
        archive = self.site.spool / ARCHIVE_FOLDER
        self.ledger = Ledger(self.site.journal, far, archive if kills else None)
        self.producer = (
            Meddler(self.site.spool, self.ledger, self._dice, archive)
            if kills
            else Producer(self.site.spool, self.ledger, self._dice)
        )
        self._began_at = 0.0

    def run(self, files_a_second: float) -> None:
        """Load, let settle, stop, judge."""
        with Daemon(self.site) as daemon:
            self.log = daemon.log
            self._began_at = time.monotonic()
            self._load(daemon, files_a_second)
            self.far.set("", down=False, revoke=False)
            self.producer.finish()
            self._settle(daemon)
        self.exit_code = daemon.exit_code
        self.ledger.audit()
        self.ledger.close()
        self.fired = self.far.counts()[1]

    def _load(self, daemon: Daemon, files_a_second: float) -> None:
        step, sample_at, left = -1, 0.0, self._kills
        killer = Killer(daemon, self._kills, self._dice)
        self.kills = killer.kinds
        # Once the daemon has ended there is nothing to load; the report says why.
        while (at_s := time.monotonic() - self._began_at) < self.load_s and daemon.alive:
            if self._kills and not killer.left:
                self.load_s = at_s
                break
            now, phase = self.plan.at(at_s)
            if now != step:
                step = now
                self.far.set(phase.menu, down=phase.down, revoke=phase.revoke)
                if now % 2 == 0:
                    self.producer.burst()
            self.producer.step(files_a_second * TICK_S)
            if at_s >= sample_at:
                sample_at = at_s + min(SAMPLE_S, self.plan.phase_s)
                self._sample(daemon.process.pid, at_s)
            killer.step(TICK_S)
            if self._kills and killer.left != left:
                left = killer.left
                print(f"{at_s / 60:.1f} minutes: {left} kills left", file=sys.stderr, flush=True)

    def _settle(self, daemon: Daemon) -> None:
        until, delivered = time.monotonic() + SETTLE_S, 0
        while time.monotonic() < until and not daemon.ends_within(TICK_S):
            self._sample(daemon.process.pid, time.monotonic() - self._began_at)
            if self.ledger.delivered > delivered:
                until, delivered = time.monotonic() + SETTLE_S, self.ledger.delivered
            if self._is_settled():
                return

    def _is_settled(self) -> bool:
        counts = self.site.counts()
        live = counts["queued"] + counts["delivering"] + counts["deferred"]
        return not (live or self.ledger.owing or self.ledger.unplaced)

    def _sample(self, pid: int, at_s: float) -> None:
        self.ledger.audit()
        process = look(pid)
        journal = self.site.journal
        self.samples.append(
            Sample(
                at_s=at_s,
                rss_bytes=process.rss_bytes,
                descriptors=process.descriptors,
                threads=process.threads,
                wal_bytes=size_bytes(journal.with_name(journal.name + "-wal")),
                journal_bytes=size_bytes(journal),
                cpu_s=process.cpu_s,
                delivered=self.ledger.delivered,
                requests=self.far.counts()[0],
                log_bytes=self.log.bytes,
            )
        )


def report(soak: Soak, seed: int) -> dict[str, Any]:
    """Return what was found, as the JSON file holds it."""
    loaded = [sample for sample in soak.samples if sample.at_s <= soak.load_s]
    warm_at_s = min(WARM_UP_S, soak.load_s * WARM_UP_SHARE)
    warm = [item for item in loaded if item.at_s >= warm_at_s]
    found = slopes(warm, soak.plan.cycle_s)
    # A process that was just started says nothing about growth.
    judged = soak.load_s - warm_at_s >= SLOPES_S and not soak.kills
    verdicts = soak.ledger.verdicts
    problems = soak.log.problems[:]
    if soak.exit_code != 0:
        problems.append(f"the daemon ended with {soak.exit_code}: {soak.log.last!r}")
    silent = verdicts.silent + soak.log.unlogged(soak.ledger.receipts.values())
    if isinstance(soak.producer, Meddler):
        problems += [f"behind a link: {path}" for path in soak.producer.strays()]
    growing = [name for name, item in found.items() if judged and grows(name, item)]
    return {
        "minutes": round(loaded[-1].at_s / 60, 1),
        "warm_up_minutes": round(warm_at_s / 60, 1),
        "seed": seed,
        "machine": f"{os.cpu_count()} CPUs, {platform.system()} {platform.release()},"
        f" Python {platform.python_version()}, {ssl.OPENSSL_VERSION}",
        "delivered": soak.ledger.delivered,
        "delivered_bytes": soak.ledger.delivered_bytes,
        "requests": soak.samples[-1].requests,
        "cpu_s": soak.samples[-1].cpu_s,
        "counts": dict(soak.ledger.counts),
        "events": dict(soak.log.events),
        "fired": soak.fired,
        "kills": dict(soak.kills),
        "acts": dict(soak.producer.acts) if isinstance(soak.producer, Meddler) else {},
        "slopes": {name: item._asdict() for name, item in found.items()},
        "slopes_judged": judged,
        "growing": growing,
        "lost": verdicts.lost,
        "doubled": verdicts.doubled,
        "silent": silent,
        "half_written": verdicts.half_written,
        "misplaced": verdicts.misplaced,
        "wrong": verdicts.wrong,
        "problems": problems,
        "samples": [asdict(sample) for sample in soak.samples],
        "good": not (verdicts or silent or problems or growing),
    }


def troubles(found: dict[str, Any]) -> dict[str, list[str]]:
    """Return what went wrong, in words, by kind."""
    return {kind.replace("_", " "): found[kind] for kind in KINDS}


def table(found: dict[str, Any]) -> str:
    """Return the report in Markdown."""
    lines = [_summary(found), "", "| | mean | slope an hour | ± | |", "|---|---|---|---|---|"]
    for name, gauge in GAUGES.items():
        if one := found["slopes"].get(name):
            numbers = (
                f"{one[field]:.4g} {gauge.unit}".strip() for field in ("mean", "rise", "margin")
            )
            word = "grows" if name in found["growing"] else "flat"
            word = word if found["slopes_judged"] else "not judged"
            lines.append(f"| {gauge.name} | {' | '.join(numbers)} | {word} |")
    for kind, cases in troubles(found).items():
        lines += [f"\n{kind}: {case}" for case in cases[:SHOWN]]
    counts = ", ".join(f"{len(cases)} {kind}" for kind, cases in troubles(found).items())
    growth = "too short for slopes"
    if found["slopes_judged"]:
        growth = f"{len(found['growing'])} growing"
    verdict = "good" if found["good"] else "BAD"
    lines += ["", f"Verdict: {verdict}: {counts}, {growth}."]
    return "\n".join(lines)


def _summary(found: dict[str, Any]) -> str:
    return (
        f"{found['minutes']} minutes of load (warm-up {found['warm_up_minutes']}), seed"
        f" {found['seed']}, {found['machine']}: {found['delivered']} versions delivered"
        f" ({found['delivered_bytes'] / 1e9:.1f} GB), {found['requests']} requests,"
        f" {sum(found['fired'].values())} faults of {len(found['fired'])} kinds,"
        f" {found['counts'].get('ambiguous', 0)} receipts ambiguous,"
        f" {found['cpu_s']:.0f} s of CPU."
        f"{_listed('kills', found['kills'])}{_listed('acts', found['acts'])}"
    )


def _listed(name: str, counts: dict[str, int]) -> str:
    numbers = ", ".join(f"{count} {kind}" for kind, count in counts.items())
    return f" {sum(counts.values())} {name}: {numbers}." if counts else ""


def command_line(description: str, rate: float) -> argparse.ArgumentParser:
    """Return the options that all runs have; `rate`: how many files a second by default."""
    parser = argparse.ArgumentParser(description=description.partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rate", type=float, default=rate, help="files a second")
    parser.add_argument("--json", type=Path, help="write all figures to this file")
    parser.add_argument("--directory", type=Path, help="work below this directory")
    return parser


@contextmanager
def server(options: argparse.Namespace, prefix: str) -> Iterator[tuple[Path, Far]]:
    """Yield the folder of a run, and the server in it; SIGTERM removes both too."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    with (
        tempfile.TemporaryDirectory(dir=options.directory, prefix=prefix) as folder,
        Far(Path(folder, "server"), seed=options.seed) as far,
    ):
        yield Path(folder), far


def finish(options: argparse.Namespace, found: dict[str, Any], text: str) -> int:
    """Write the figures, print the report, and return the exit code."""
    if options.json is not None:
        options.json.write_text(json.dumps(found, indent=1))
    print(text)
    return 0 if found["good"] else 1


def main() -> int:
    """Run as the command line says."""
    parser = command_line(__doc__ or "", rate=5.0)
    parser.add_argument("--kills", type=int, default=0, help="end after this number of SIGKILLs")
    options = parser.parse_args()
    with server(options, "soak-") as (folder, far):
        kills, settings = options.kills, ARCHIVE if options.kills else None
        soak = Soak(folder, far, options.seed, options.minutes, kills=kills, settings=settings)
        soak.run(options.rate)
        found = report(soak, options.seed)
    return finish(options, found, table(found))


if __name__ == "__main__":
    sys.exit(main())
