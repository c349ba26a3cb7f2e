"""Builds the components of one installation, and connects them. Nothing runs yet.

`Components.__init__` shows all connections on one page. A component gets the others that it uses as
arguments, and uses no components of another one.
"""

import ssl
from collections.abc import Collection
from contextlib import suppress
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import structlog

from emitterd.client.emission import EmissionClient
from emitterd.client.http import HttpClient, tls_context
from emitterd.client.protocols import open_client
from emitterd.client.session import Credentials, LockoutStore
from emitterd.client.sockets import Trace, TransferLimits
from emitterd.codes import Code, load_texts
from emitterd.config.secrets import read_token
from emitterd.config.settings import Config
from emitterd.datasets.inspection import Inspector, load_inspector
from emitterd.delivery.attempt import UploadObserver
from emitterd.delivery.backoff import Backoff
from emitterd.delivery.destination import Destination
from emitterd.delivery.dispatch import Dispatcher, WakeUp
from emitterd.delivery.worker import Worker
from emitterd.errors import JournalError, JournalFull, JournalLost
from emitterd.housekeeping.disposal import Disposal, DisposalRule
from emitterd.housekeeping.retention import Retention
from emitterd.intake.candidates import SettleRule
from emitterd.intake.examine import Examiner, ExamineRules
from emitterd.intake.file_status import FileStatusReader, Latest
from emitterd.intake.loop import Intake, Sweep
from emitterd.journal.opening import open_journal
from emitterd.journal.operations import Operations
from emitterd.model import State, WireProtocol
from emitterd.monitoring.health import HealthMonitor
from emitterd.monitoring.uploads import UploadTracker
from emitterd.permissions import permission_command
from emitterd.shutdown import Shutdown
from emitterd.spool.folder import MARK, Spool
from emitterd.spool.selection import Selection
from emitterd.spool.watcher import WatchKeeper
from emitterd.text import display
from emitterd.tracking.tracker import ServerTracker

if TYPE_CHECKING:
    from emitterd.monitoring.metrics import Metrics
    from emitterd.web.access.users import UsersFile
    from emitterd.web.actions import Apply
    from emitterd.web.http_server import HttpServer

log = structlog.get_logger()

REFUSED = frozenset({Code.CREDENTIALS, Code.TOKEN_REFUSED})
"""Failures that other credentials may end."""

UNTRUSTED = frozenset({Code.TLS})
"""Failures that other certificates may end."""


class Components:
    """Every component of the daemon. `wake_up` notifies workers that a file is due."""

    users: "UsersFile | None" = None
    """The users of the page, if it is served."""

    def __init__(self, config: Config, observer: UploadObserver | None = None) -> None:
        """Open the journal, and build everything else.

        `observer` follows the uploads in place of `uploads`. Raises `JournalError` (`JournalLocked`
        if another instance runs), and `OSError` if a TLS file cannot be used.
        """
        # Later there may be no free descriptor for this file, and a failure must be reported.
        load_texts()
        self.config = config
        self.shutdown = Shutdown()
        self.wake_up = WakeUp()
        self.uploads = UploadTracker()
        self._observer = observer or self.uploads
        self.inspector = load_inspector(config.spool, programs=config.emission.takes_programs)
        self.spool = _open_spool(config)
        self.http_client = open_http_client(config, self.shutdown)
        self.destination = Destination(_backoff(config), workers=_workers(config))
        self.journal = open_journal(config.journal.location, config.delivery.backoff_max_s)
        self._join_hosts()
        self.former_deliveries = self.journal.deliver_to(config.emission.url)
        """How many files were delivered to the server of a former configuration only."""
        self.metrics = None if config.web.listen is None else self._count_results()
        self.operations = Operations(self.journal.store, self.shutdown)
        self._emission = open_emission(config, self.http_client, self.shutdown, self.journal)
        self._examine_again_for(config.emission.protocol)
        self._retention = Retention(self.journal, self.spool, config.journal.retain_s)
        rules = _rules(config, self.inspector)
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
        self.health = self._health_monitor()

    def _join_hosts(self) -> None:
        """Hear of the work of other hosts, and look that this one sees the folder that they share.

        Raises `JournalLost` if the folder belongs to another journal, and this one is new.
        """
        if self.journal.store.host is None:
            return
        self.journal.store.on_work(self.wake_up.notify)
        mark, is_new = self.journal.folder_mark()
        found = self.spool.read_mark()
        if is_new and found and found != mark:
            raise JournalLost(
                f"{self.spool.root} belongs to another journal than that of journal.url",
                remedy=f"restore the database; without it remove {self.spool.root / MARK}:"
                " emitterd then sends every file again",
            )
        if is_new and self.spool.identity() is None:
            # It is not mounted yet: a later start marks it.
            return
        self.spool.mark = mark
        if is_new and not found:
            try:
                self.spool.write_mark()
            except OSError as error:
                raise JournalError(
                    f"{self.spool.root} cannot be marked: {error.strerror}",
                    remedy=permission_command(self.spool.root, "wx"),
                ) from error

    def _examine_again_for(self, protocol: WireProtocol) -> None:
        """Examine what waits again if it was admitted for a server of another protocol."""
        former = self.journal.read_fact("protocol") or "emission"
        if former == protocol:
            return
        reason = f"emission.protocol is {protocol} now: the file is checked again"
        for path in self.journal.withdraw_waiting(reason):
            log.info("file.withdrawn", path=display(path), reason=reason)
        self.journal.save_fact("protocol", protocol)

    def _health_monitor(self) -> HealthMonitor:
        return HealthMonitor(
            self.journal,
            self.intake,
            self.watch_keeper,
            self.destination,
            self.uploads,
            lambda: (self.config.alarm_limits, self.config.spool.sweep_every_s),
        )

    def tracker(self) -> ServerTracker | None:
        """Return what asks the server about delivered files; None if receipts say so already."""
        reader = self._emission.reader
        if reader is None:
            return None
        tracker = ServerTracker(
            self.journal,
            reader,
            # Not the inspector's own method: a reload may bring another catalogue.
            lambda path: self.inspector.dataset(path),  # noqa: PLW0108
            self.shutdown,
            busy=self._uploads_go_on,
            rule=lambda: self.config.tracking.rule,
        )
        if self.metrics is not None:
            tracker.on_processed = self.metrics.processed
        return tracker

    def _uploads_go_on(self) -> bool:
        counts = self.journal.counts()
        return bool(
            counts[State.QUEUED] or counts[State.DELIVERING] or self.destination.down is not None
        )

    def worker(self) -> Worker:
        """Return a new worker. Each has a thread of its own."""
        return Worker(
            self.spool,
            self.journal,
            self._emission,
            self.destination,
            self.disposal,
            wake_up=self.wake_up,
            shutdown=self.shutdown,
            on_changed=self.intake.changed,
            observer=self._observer,
            holds_claim=None if self.journal.store.host is None else self.journal.holds_claim,
        )

    def status_reader(self, latest: Latest | None = None) -> FileStatusReader:
        """Return a reader of file statuses. `latest` reads another journal."""
        settings = self.config.spool
        return FileStatusReader(
            self.spool,
            Selection(settings.include, settings.exclude),
            latest or self.journal.latest,
            settings.settle_s,
            lambda: self.inspector.catalogue,
        )

    def datasets(self) -> list[str]:
        """Return the titles of all datasets of the catalogue in use, in its order."""
        return [dataset.title for dataset in self.inspector.catalogue.datasets]

    def apply_settings(self, config: Config, inspector: Inspector, tls: ssl.SSLContext) -> None:
        """Use another configuration. Uploads under way end by the former one."""
        self.http_client.apply_tls(tls)
        self.http_client.apply_settings(limits(config), config.delivery.bandwidth)
        self.journal.apply_settings(config.delivery.backoff_max_s)
        self.destination.apply_settings(_backoff(config), workers=_workers(config))
        self._retention.apply_settings(config.journal.retain_s)
        self.inspector = inspector
        self.spool.trusts_leases = config.spool.completion == "auto"
        self.intake.apply_settings(_rules(config, inspector))
        if self._emission.apply_credentials(credentials(config)):
            self._retry(REFUSED)
        self._retry(UNTRUSTED)
        self.config = config
        if self.users is not None:
            self.users.reload()
        self.note_expectations()

    def note_expectations(self) -> None:
        """Note since when files are expected: one that never comes is overdue after its time."""
        # With a full journal the time counts from a later start.
        with suppress(JournalFull):
            self.journal.expect([item.dataset for item in self.config.datasets.expect])

    def restore_destination(self) -> None:
        """Restore what a former run knew of the destination: a refused login."""
        # All other failures may have ended since, and a retry does no harm.
        self.journal.save_fact("destination", None)
        self.journal.save_fact("answered_at", None)
        failure = self._emission.lockout(self.journal.now())
        if failure is None:
            # The credentials have changed: the entries that failed with the former ones are due.
            self.journal.make_due({Code.CREDENTIALS})
            return
        usable = self._emission.usable
        dispatcher = Dispatcher(self.journal, self.destination, usable, self.wake_up)
        dispatcher.restore_outage(failure)

    def _retry(self, codes: Collection[Code]) -> None:
        """Retry at once what failed with these codes: a reload may have removed the cause."""
        if self.destination.probe_now(codes, self.journal.now()):
            # With a full journal the entries keep their due times.
            with suppress(JournalFull):
                self.journal.make_due(codes)
            self.wake_up.notify()

    def _rescan(self) -> None:
        # A mount may have put the folder on another file system.
        self.intake.expects_events = not self.watch_keeper.polling
        self.intake.sweep_soon()

    def _swept(self, sweep: Sweep) -> None:
        if self.metrics is not None:
            self.metrics.swept(sweep.duration_s, sweep.missed)
        self.watch_keeper.folders_swept = sweep.folders
        self._retention.tick()
        self.disposal.resume_soon()

    def _count_results(self) -> "Metrics":
        from emitterd.monitoring.metrics import Metrics

        # Not the inspector's own method: a reload may bring another catalogue.
        metrics = Metrics(lambda path: self.inspector.dataset(path))  # noqa: PLW0108
        self.journal.on_ended = metrics.ended
        self.journal.on_attempt = metrics.attempted
        self.journal.on_processed = metrics.processed
        self.journal.on_findings = metrics.inspected
        self.uploads.on_sent = metrics.sent
        return metrics


def open_http_server(components: Components, apply: "Apply") -> "HttpServer | None":
    """Return what serves page, metrics and health, or None without `web.listen`.

    `apply` applies an operator's request under the name of a user.
    """
    settings, metrics = components.config.web, components.metrics
    if settings.listen is None or metrics is None:
        return None
    # Not at the top: an installation without them needs no memory for their libraries.
    from emitterd.web.access.sessions import Address
    from emitterd.web.access.users import UsersFile
    from emitterd.web.http_server import HttpServer
    from emitterd.web.site import Sources, routes

    components.users = UsersFile(lambda: components.config.web.operators_file)
    components.users.reload()
    address = Address(settings.listen.local, settings.public_url, settings.client_address_header)
    health, destination = components.health, components.destination
    sources = Sources(
        journal=components.config.journal.location,
        uploads=components.uploads,
        status_reader=components.status_reader,
        datasets=components.datasets,
        expectations=lambda: components.config.datasets.expect,
        health=health.health,
        outage=lambda: destination.down,
        host=lambda: urlsplit(components.config.emission.url).hostname or "",
        ready=lambda: not components.shutdown.draining,
        scrape=metrics.scraper(health.read),
        inspector=lambda: components.inspector,
        enforces=lambda: components.config.spool.catalogue == "enforce",
        users=components.users,
        address=address,
        server=lambda: components.config.emission.url,
        apply=apply,
    )
    token = read_token(settings.token_file) if settings.token_file else None
    return HttpServer(settings.listen, routes(sources), token, address.public_host)


def open_http_client(config: Config, shutdown: Shutdown, trace: Trace | None = None) -> HttpClient:
    """Return the HTTP client that all workers share. `trace` gets its steps.

    Raises `OSError` if a TLS file cannot be used.
    """
    emission = config.emission
    return HttpClient(
        limits(config),
        tls=load_tls(config),
        proxy=emission.proxy_url,
        shutdown=shutdown,
        bandwidth=config.delivery.bandwidth,
        trace=trace,
    )


def load_tls(config: Config) -> ssl.SSLContext:
    """Read the certificates. Raises `OSError` if a file cannot be used."""
    emission = config.emission
    files = (emission.ca_file, emission.client_cert, emission.client_key)
    return tls_context(*(str(file) if file else None for file in files))


def open_emission(
    config: Config,
    http_client: HttpClient,
    shutdown: Shutdown,
    lockouts: LockoutStore | None = None,
) -> EmissionClient:
    """Return the client of the emission API, which has not logged in yet."""
    return open_client(
        config.emission.protocol,
        http_client,
        config.emission.url,
        credentials(config),
        insecure=config.emission.allow_insecure_http,
        shutdown=shutdown,
        lockouts=lockouts,
    )


def limits(config: Config) -> TransferLimits:
    """Return the timeouts and the minimum speed of a transfer."""
    emission = config.emission
    return TransferLimits(
        emission.connect_timeout_s, emission.stall_timeout_s, emission.minimum_speed_bytes
    )


def credentials(config: Config) -> Credentials:
    """Return what to log in with."""
    emission = config.emission
    secret = emission.password if emission.username else emission.api_key
    # Without one, the server makes a token for anybody (cQube 5).
    reveal = secret.reveal if secret is not None else str
    return Credentials(emission.username, reveal, emission.token_scheme)


def _open_spool(config: Config) -> Spool:
    spool = Spool(config.spool.directory)
    spool.trusts_leases = config.spool.completion == "auto"
    return spool


def _backoff(config: Config) -> Backoff:
    return Backoff(config.delivery.backoff_initial_s, config.delivery.backoff_max_s)


def _workers(config: Config) -> int | None:
    workers = config.delivery.workers
    return None if workers == "auto" else workers


def _rules(config: Config, inspector: Inspector) -> ExamineRules:
    spool = config.spool
    archive = spool.archive_directory if spool.after_delivery == "archive" else None
    return ExamineRules(
        Selection(spool.include, spool.exclude),
        inspector,
        spool.catalogue,
        SettleRule(spool.settle_s, spool.sweep_every_s, spool.incomplete_after_s),
        DisposalRule(
            archive, delete=spool.after_delivery == "delete", rejected=spool.rejected_directory
        ),
        spool.sweep_every_s,
    )
