"""Puts the parts of one installation together; nothing runs yet."""

import threading

from emitterd.backoff import Backoff
from emitterd.config import Config
from emitterd.destination import Destination
from emitterd.disposal import Disposal
from emitterd.emission import Emission
from emitterd.examination import Examiner
from emitterd.hand import Hand
from emitterd.inspector import load_inspector
from emitterd.intake import Intake
from emitterd.journal import Journal
from emitterd.lookout import Lookout
from emitterd.retention import Retention
from emitterd.route import open_emission, open_tls, open_wire
from emitterd.selection import Selection
from emitterd.settle import Settling, Tracker
from emitterd.spool import Spool
from emitterd.standing import Standings
from emitterd.wake import Wake
from emitterd.worker import Observer, Worker


class Parts:
    """What the daemon runs.

    `abort` ends every wait on the network and every pause; `wake` rings when there is
    something to claim.
    """

    def __init__(self, config: Config, observer: Observer) -> None:
        """Open the journal, and build everything that follows.

        Raises `JournalError` (`JournalLocked` where another instance runs), and
        `OSError` where a TLS file cannot be used.
        """
        self._config = config
        self._observer = observer
        self.abort = threading.Event()
        self.wake = Wake()
        self.spool = Spool(config.spool.directory)
        self.selection = Selection(config.spool.include, config.spool.exclude)
        self.wire = open_wire(config, open_tls(config), self.abort)
        delivery = config.delivery
        self._backoff = Backoff(delivery.backoff_initial_s, delivery.backoff_max_s)
        self.destination = Destination(self._backoff, streak=delivery.workers)
        self.journal = Journal(
            config.journal.path, backoff_max_s=delivery.backoff_max_s
        )
        self.hand = Hand(self.journal.database, self.abort)
        self.disposal = self._dispose()
        self.intake = self._intake()
        self.lookout = Lookout(
            self.spool, config.spool.watcher, self.intake.hint, self.intake.sweep_soon
        )
        self.intake.expects_events = not self.lookout.polling
        emission = open_emission(config, self.wire, self.abort)
        self.workers = [self._worker(emission) for _ in range(delivery.workers)]

    def standings(self) -> Standings:
        """Return who tells where a path stands."""
        settle_s = self._config.spool.settle_s
        return Standings(self.spool, self.selection, self.journal.latest, settle_s)

    def _dispose(self) -> Disposal:
        spool = self._config.spool
        archive = spool.after_delivery == "archive"
        return Disposal(
            self.spool,
            self.journal,
            archive=spool.archive_directory if archive else None,
            delete=spool.after_delivery == "delete",
            rejected=spool.rejected_directory,
        )

    def _intake(self) -> Intake:
        rule = self._config.spool
        settling = Settling(rule.settle_s, rule.sweep_every_s, rule.incomplete_after_s)
        examiner = Examiner(
            self.spool,
            self.selection,
            load_inspector(rule),
            Tracker(settling),
            self.journal,
            self.disposal,
            objections=rule.catalogue,
        )
        retention = Retention(self.journal, self.spool, self._config.journal.retain_s)

        def swept() -> None:
            retention.tick()
            self.disposal.resume()

        return Intake(
            self.spool,
            examiner,
            self.journal,
            sweep_every_s=rule.sweep_every_s,
            on_admitted=self.wake.ring,
            on_swept=swept,
        )

    def _worker(self, emission: Emission) -> Worker:
        return Worker(
            self.spool,
            self.journal,
            emission,
            self.destination,
            self.disposal,
            backoff=self._backoff,
            wake=self.wake,
            abort=self.abort,
            on_changed=self.intake.hint,
            observer=self._observer,
        )
