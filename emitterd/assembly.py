"""Puts the parts of one installation together; nothing runs yet."""

import threading
from dataclasses import dataclass
from importlib.resources import files

from emitterd.backoff import Backoff
from emitterd.catalogue import Catalogue
from emitterd.config import Config
from emitterd.config import Emission as EmissionConfig
from emitterd.destination import Destination
from emitterd.disposal import Disposal
from emitterd.emission import Credentials, Emission
from emitterd.examination import Examiner
from emitterd.intake import Intake
from emitterd.journal import Journal
from emitterd.lookout import Lookout
from emitterd.retention import Retention
from emitterd.selection import Selection
from emitterd.settle import Settling, Tracker
from emitterd.sockets import Limits
from emitterd.spool import Spool
from emitterd.wake import Wake
from emitterd.wire import Wire, tls_context
from emitterd.worker import Observer, Worker
from emitterd.yamlmarks import load_data


@dataclass(frozen=True, slots=True)
class Parts:
    """What the daemon runs. `abort` ends every wait on the network and every pause."""

    abort: threading.Event
    wake: Wake
    spool: Spool
    selection: Selection
    journal: Journal
    wire: Wire
    destination: Destination
    lookout: Lookout
    intake: Intake
    workers: list[Worker]


def assemble(config: Config, observer: Observer) -> Parts:
    """Open the journal and build everything.

    Raises `JournalError` (`JournalLocked` where another instance runs), and `OSError`
    where a TLS file cannot be used.
    """
    abort, wake = threading.Event(), Wake()
    spool = Spool(config.spool.directory)
    selection = Selection(config.spool.include, config.spool.exclude)
    wire = _wire(config, abort)
    emission = _emission(config.emission, wire, abort)
    backoff = Backoff(config.delivery.backoff_initial_s, config.delivery.backoff_max_s)
    destination = Destination(backoff)
    journal = Journal(config.journal.path, backoff_max_s=backoff.max_s)
    disposal = _disposal(config, spool, journal)
    intake = Intake(
        spool,
        _examiner(config, spool, selection, journal, disposal),
        journal,
        sweep_every_s=config.spool.sweep_every_s,
        on_admitted=wake.ring,
        on_swept=Retention(journal, spool, config.journal.retain_s).tick,
    )
    lookout = Lookout(spool, config.spool.watcher, intake.hint, intake.sweep_soon)
    intake.expects_events = not lookout.polling
    workers = [
        Worker(
            spool,
            journal,
            emission,
            destination,
            disposal,
            backoff=backoff,
            wake=wake,
            abort=abort,
            on_changed=intake.hint,
            observer=observer,
        )
        for _ in range(config.delivery.workers)
    ]
    return Parts(
        abort,
        wake,
        spool,
        selection,
        journal,
        wire,
        destination,
        lookout,
        intake,
        workers,
    )


def load_catalogue() -> Catalogue:
    """Return the catalogue that the package ships."""
    text = files("emitterd").joinpath("catalogue.yaml").read_text("utf-8")
    rows = load_data(text)
    assert isinstance(rows, list)  # noqa: S101  our own file
    return Catalogue(rows)


def _wire(config: Config, abort: threading.Event) -> Wire:
    emission = config.emission
    authority, certificate, key = (
        str(file) if file else None
        for file in (emission.ca_file, emission.client_cert, emission.client_key)
    )
    return Wire(
        Limits(
            emission.connect_timeout_s,
            emission.stall_timeout_s,
            emission.minimum_speed_bytes,
        ),
        tls=tls_context(authority, certificate, key),
        proxy=emission.proxy.get_secret_value() if emission.proxy else None,
        connections=2 * config.delivery.workers,
        stop=abort,
    )


def _emission(config: EmissionConfig, wire: Wire, abort: threading.Event) -> Emission:
    secret = config.password if config.username else config.api_key
    assert secret is not None  # noqa: S101  the configuration demands one
    return Emission(
        wire,
        config.url,
        Credentials(config.username, secret.get_secret_value, config.token_scheme),
        insecure=config.allow_insecure_http,
        stop=abort,
    )


def _disposal(config: Config, spool: Spool, journal: Journal) -> Disposal:
    archive = config.spool.after_delivery == "archive"
    return Disposal(
        spool,
        journal,
        archive=config.spool.archive_directory if archive else None,
        delete=config.spool.after_delivery == "delete",
    )


def _examiner(
    config: Config,
    spool: Spool,
    selection: Selection,
    journal: Journal,
    disposal: Disposal,
) -> Examiner:
    rule = config.spool
    settling = Settling(rule.settle_s, rule.sweep_every_s, rule.incomplete_after_s)
    return Examiner(
        spool,
        selection,
        load_catalogue(),
        Tracker(settling),
        journal,
        disposal,
        objections=rule.catalogue,
    )
