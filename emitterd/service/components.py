"""Puts the parts of one installation together; nothing runs yet."""

import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from emitterd.client.api import EmissionClient
from emitterd.client.http import HttpClient, Response, tls_context
from emitterd.client.session import Credentials, LockoutStore
from emitterd.client.sockets import TransferLimits
from emitterd.codes import Code
from emitterd.config.secrets import read_token
from emitterd.config.settings import Config
from emitterd.datasets.catalogue import Dataset
from emitterd.datasets.inspection import Inspector, load_inspector
from emitterd.delivery.attempt import UploadObserver
from emitterd.delivery.backoff import Backoff
from emitterd.delivery.destination import Destination
from emitterd.delivery.dispatch import Dispatcher, WakeUp
from emitterd.delivery.worker import Worker
from emitterd.errors import JournalFull
from emitterd.housekeeping.disposal import Disposal, Rule
from emitterd.housekeeping.retention import Retention
from emitterd.intake.examine import Examiner, ExamineRules
from emitterd.intake.file_status import FileStatuses, Latest
from emitterd.intake.loop import Intake, Sweep
from emitterd.intake.settle import Settling
from emitterd.journal.journal import Journal
from emitterd.journal.operations import Operations
from emitterd.monitoring.health import HealthMonitor
from emitterd.monitoring.uploads import UploadTracker
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import Spool
from emitterd.spool.selection import Selection
from emitterd.spool.watcher import WatchKeeper

if TYPE_CHECKING:
    from emitterd.monitoring.http_server import Handler, HttpServer
    from emitterd.monitoring.metrics import Metrics


# The way to the emission API and its bucket, as the configuration describes it.


def open_tls(config: Config) -> ssl.SSLContext:
    """Return the context of every connection.

    Raises `OSError` where a TLS file cannot be used.
    """
    emission = config.emission
    return tls_context(
        *(
            str(file) if file else None
            for file in (emission.ca_file, emission.client_cert, emission.client_key)
        )
    )


def open_http_client(
    config: Config,
    tls: ssl.SSLContext,
    shutdown: Shutdown,
    on_answer: Callable[[Response], None] | None = None,
) -> HttpClient:
    """Return the client that all workers share; `shutdown`: see `HttpClient`."""
    proxy = config.emission.proxy
    http_client = HttpClient(
        limits(config),
        tls=tls,
        proxy=proxy.reveal() if proxy else None,
        shutdown=shutdown,
        on_answer=on_answer,
    )
    http_client.throttle.apply_timetable(config.delivery.bandwidth)
    return http_client


def limits(config: Config) -> TransferLimits:
    """Return the limits of each request."""
    emission = config.emission
    return TransferLimits(
        emission.connect_timeout_s,
        emission.stall_timeout_s,
        emission.minimum_speed_bytes,
    )


def credentials(config: Config) -> Credentials:
    """Return how to log in."""
    emission = config.emission
    secret = emission.password if emission.username else emission.api_key
    assert secret is not None  # noqa: S101  the configuration demands one
    return Credentials(emission.username, secret.reveal, emission.token_scheme)


def open_emission(
    config: Config,
    http_client: HttpClient,
    shutdown: Shutdown,
    lockouts: LockoutStore | None = None,
) -> EmissionClient:
    """Return the emission API over this http_client, not logged in yet."""
    return EmissionClient(
        http_client,
        config.emission.url,
        credentials(config),
        insecure=config.emission.allow_insecure_http,
        shutdown=shutdown,
        lockouts=lockouts,
    )


REFUSED = frozenset({Code.CREDENTIALS, Code.TOKEN_REFUSED})
"""Trouble that other credentials may end."""


class Components:
    """What the daemon runs.

    `wake_up` is notified when there is something to claim.
    """

    def __init__(self, config: Config, observer: UploadObserver) -> None:
        """Open the journal, and build everything that follows.

        Raises `JournalError` (`JournalLocked` where another instance runs), and
        `OSError` where a TLS file cannot be used.
        """
        self.config = config
        self._observer = observer
        self.shutdown = Shutdown()
        self.wake_up = WakeUp()
        self.spool = Spool(config.spool.directory)
        self.http_client = open_http_client(config, open_tls(config), self.shutdown)
        self.destination = Destination(_backoff(config), workers=_workers(config))
        self.metrics: Metrics | None = None
        """Counted only where they are served."""
        self._inspector = load_inspector(config.spool)
        self.journal = self._open_journal()
        self.hand = Operations(self.journal.database, self.shutdown)
        self._retention = Retention(self.journal, self.spool, config.journal.retain_s)
        rules = _rules(config, self._inspector)
        self.disposal = Disposal(self.spool, self.journal, rules.disposal)
        self.intake = Intake(
            self.spool,
            Examiner(self.spool, self.journal, self.disposal, rules),
            self.journal,
            on_admitted=self.wake_up.notify,
            on_swept=self._swept,
        )
        self.watch_keeper = WatchKeeper(
            self.spool, config.spool.watcher, self.intake.hint, self._rescan
        )
        self.intake.expects_events = not self.watch_keeper.polling
        self._emission = open_emission(
            config, self.http_client, self.shutdown, self.journal
        )
        self.health = self._health()

    def adopt(self, config: Config, inspector: Inspector) -> None:
        """Go by another configuration; what is under way ends by the former.

        Each part takes its own in one assignment, and the intake at its next turn.
        """
        delivery = config.delivery
        self.http_client.apply_limits(limits(config))
        self.http_client.throttle.apply_timetable(delivery.bandwidth)
        self.journal.apply_settings(delivery.backoff_max_s)
        self.destination.apply_settings(_backoff(config), workers=_workers(config))
        self._retention.apply_settings(config.journal.retain_s)
        self._inspector = inspector
        self.intake.apply_settings(_rules(config, inspector))
        if self._emission.apply_credentials(credentials(config)):
            self._probe()
        self.config = config

    def recall(self) -> None:
        """Take up what a former run knew of the destination: a refused login."""
        # All else may have passed since, and to try it does no harm.
        self.journal.save_fact("destination", None)
        trouble = self._emission.lockout(time.time())
        if trouble is None:
            # With other credentials, what the former ones were refused for is due.
            self.journal.make_due({Code.CREDENTIALS})
            return
        usable = self._emission.usable
        Dispatcher(self.journal, self.destination, usable, self.wake_up).restore_outage(
            trouble
        )

    def _rescan(self) -> None:
        # What has been mounted since may be another file system.
        self.intake.expects_events = not self.watch_keeper.polling
        self.intake.sweep_soon()

    def _probe(self) -> None:
        """Try at once what the former credentials were refused for."""
        if self.destination.probe_now(REFUSED, time.time()):
            # Without room in the journal it is tried when it would have been.
            with suppress(JournalFull):
                self.journal.make_due(REFUSED)
            self.wake_up.notify()

    def file_statuses(self, latest: Latest | None = None) -> FileStatuses:
        """Return who tells where a path stands; `latest`: by another reader."""
        rule = self.config.spool
        selection = Selection(rule.include, rule.exclude)
        asked = latest or self.journal.latest
        return FileStatuses(self.spool, selection, asked, rule.settle_s)

    def _open_journal(self) -> Journal:
        path, delivery = self.config.journal.path, self.config.delivery
        if self.config.metrics.listen is None:
            return Journal(path, backoff_max_s=delivery.backoff_max_s)
        from emitterd.monitoring.metrics import CountedJournal, Metrics

        def dataset(path: bytes) -> Dataset | None:
            # That of today's catalogue: a reload may bring another.
            return self._inspector.dataset(path)

        self.metrics = Metrics()
        return CountedJournal(
            path,
            backoff_max_s=delivery.backoff_max_s,
            metrics=self.metrics,
            dataset=dataset,
        )

    def _swept(self, sweep: Sweep) -> None:
        if self.metrics is not None:
            self.metrics.swept(sweep.duration_s, len(sweep.missed))
        self._retention.tick()
        self.disposal.resume()

    def _health(self) -> HealthMonitor:
        return HealthMonitor(
            self.journal,
            self.intake,
            self.watch_keeper,
            self.destination,
            lambda: (self.config.metrics.limits, self.config.spool.sweep_every_s),
        )

    def worker(self) -> Worker:
        """Return one more worker."""
        return Worker(
            self.spool,
            self.journal,
            self._emission,
            self.destination,
            self.disposal,
            wake_up=self.wake_up,
            shutdown=self.shutdown,
            on_changed=self.intake.hint,
            observer=self._observer,
        )


def _backoff(config: Config) -> Backoff:
    return Backoff(config.delivery.backoff_initial_s, config.delivery.backoff_max_s)


def _workers(config: Config) -> int | None:
    wanted = config.delivery.workers
    return None if wanted == "auto" else wanted


def _rules(config: Config, inspector: Inspector) -> ExamineRules:
    spool = config.spool
    archive = spool.archive_directory if spool.after_delivery == "archive" else None
    return ExamineRules(
        Selection(spool.include, spool.exclude),
        inspector,
        spool.catalogue,
        Settling(spool.settle_s, spool.sweep_every_s, spool.incomplete_after_s),
        Rule(
            archive,
            delete=spool.after_delivery == "delete",
            rejected=spool.rejected_directory,
        ),
        spool.sweep_every_s,
    )


# What the listener serves: the page for people, metrics, and health.


def open_listener(
    parts: Components, uploads: UploadTracker, ready: Callable[[], bool]
) -> "HttpServer | None":
    """Return the HTTP server, or None where `metrics.listen` is not given.

    `ready` is asked at each `/readyz`.
    """
    rule, metrics = parts.config.metrics, parts.metrics
    if rule.listen is None or metrics is None:
        return None
    from emitterd.monitoring.http_server import HttpServer, healthz, readyz
    from emitterd.monitoring.page import Page, PageSources
    from emitterd.monitoring.page_data import Throughput

    sources = PageSources(
        parts.config.journal.path,
        uploads,
        Throughput(),
        parts.file_statuses,
        parts.health.health,
        lambda: parts.destination.down,
        lambda: urlsplit(parts.config.emission.url).hostname or "",
    )
    handlers: dict[str, Handler] = {
        "/": Page(sources),
        "/metrics": metrics.handler(parts.health.read),
        "/healthz": healthz(parts.health.health),
        "/readyz": readyz(ready),
    }
    token = read_token(rule.token_file) if rule.token_file else None
    return HttpServer(rule.listen, handlers, token)
