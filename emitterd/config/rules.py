"""Rules for combinations of values, and for the files and folders that they name."""

import os
import ssl
from pathlib import Path
from typing import TYPE_CHECKING

from emitterd.client.timetable import format_rate
from emitterd.config.secrets import read_secret, read_token
from emitterd.config.sources import Problems
from emitterd.datasets.catalogue import near
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.delivery.concurrency import MOST
from emitterd.errors import ConfigError, ValueProblem
from emitterd.journal.opening import check_library
from emitterd.spool.selection import Selection
from emitterd.text import shown

if TYPE_CHECKING:
    from emitterd.config.settings import (
        Config,
        DeliverySettings,
        EmissionSettings,
        JournalSettings,
        SpoolSettings,
    )

LEAST_BYTES_S = 128
"""The least bandwidth per worker: a slice every 12 s. Servers end an upload that is silent for some
20 s."""

_BACKOFF = ("delivery.backoff_initial", "delivery.backoff_max")
_CERT, _KEY = "emission.client_cert", "emission.client_key"
_OF_DATABASE = ("journal.password_file", "journal.host", "journal.state_directory")
_ROOT = "spool.directory"


def check_all(config: "Config", problems: Problems, *, awaits_folder: bool) -> None:
    """Report what is wrong with values together, and with the files they name.

    A value that has a problem of its own is None. `awaits_folder`: the watched folder may be
    missing now and appear later.
    """
    _check_emission(config.emission, problems)
    _check_spool(config.spool, problems, awaits_folder=awaits_folder)
    _check_journal(config, problems)
    for key, path in {"journal.path": config.journal.path, "log.file": config.log.file}.items():
        if path and problems.valid(key) and os.path.isdir(path):  # noqa: PTH112  the method raises
            problems.report(key, f"{shown(path)} is a folder", "name a file in it")
    _check_delivery(config.delivery, problems)
    if config.datasets.expect and problems.valid("spool.catalogue_file"):
        _check_expectations(config, problems)
    if config.alerts.command is not None:
        problems.check("alerts.command", _check_program, Path(config.alerts.command[0]))
    _check_web(config, problems)


def _check_journal(config: "Config", problems: Problems) -> None:
    journal = config.journal
    places = {"journal.path": journal.path, "journal.state_directory": journal.state_directory}
    for key, place in places.items():
        # A producer of files could remove it there.
        if place and problems.valid(key, _ROOT) and inside(place, config.spool.directory):
            remedy = "name a place of its own, such as /var/lib/emitterd/journal.db"
            problems.report(key, "is in the watched folder", remedy)
    if problems.given("journal.url"):
        _check_database(journal, problems)
        return
    for key in filter(problems.given, _OF_DATABASE):
        problems.report(key, "is given without url", "add url, or remove it")


def _check_database(journal: "JournalSettings", problems: Problems) -> None:
    if problems.given("journal.path"):
        remedy = "keep path for one host, or url for several"
        problems.report("journal.path", "is given besides url", remedy)
    if journal.url is not None:
        problems.check("journal.url", check_library)
    if journal.password_file is not None:
        if journal.url is not None and journal.url.has_password:
            message = "is given besides a password in url"
            problems.report("journal.password_file", message, "remove the password from url")
        problems.check("journal.password_file", read_secret, journal.password_file)


def _check_web(config: "Config", problems: Problems) -> None:
    operators = config.web.operators_file
    # A producer of files could replace it there.
    if operators and problems.valid(_ROOT) and inside(operators, config.spool.directory):
        remedy = "name a file beside the configuration"
        problems.report("web.operators_file", "is in the watched folder", remedy)
    if config.web.client_address_header and not config.web.public_url:
        remedy = "add public_url, the address of the proxy that sends the header"
        problems.report("web.client_address_header", "is for a proxy, and none is named", remedy)
    listen, token_file = config.web.listen, config.web.token_file
    if token_file is not None:
        problems.check("web.token_file", read_token, token_file)
    elif listen is not None and not listen.local:
        problems.report(
            "web.listen",
            "can be reached from other machines, and no token guards it",
            f"give token_file, or listen at 127.0.0.1:{listen.port}",
        )


def _check_emission(emission: "EmissionSettings", problems: Problems) -> None:
    url, cert, ca_file = emission.url, emission.client_cert, emission.ca_file
    if url and url.startswith("http:") and not emission.allow_insecure_http:
        problems.report(
            "emission.url",
            "is http://: password and data would go unencrypted",
            "use https://, or write allow_insecure_http: true",
        )
    if problems.given(_KEY) and not problems.given(_CERT):
        problems.report(
            _KEY,
            "is given without client_cert",
            "give client_cert, the certificate that the key belongs to",
        )
    files = {"emission.ca_file": ca_file, _CERT: cert, _KEY: emission.client_key}
    _check_files(files, problems)
    if not problems.valid(*files):
        return
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    key = "emission.ca_file"
    try:
        if ca_file:
            context.load_verify_locations(ca_file)
        key = _CERT
        if cert:
            # The callback stops OpenSSL from asking for a passphrase on the terminal.
            context.load_cert_chain(cert, emission.client_key, lambda: "")
    except OSError as error:
        problems.report(
            key,
            f"cannot be used: {error.strerror or error}",
            "name files in PEM form, and a certificate's own key without passphrase",
        )


def _check_files(files: dict[str, Path | None], problems: Problems) -> None:
    for key, path in files.items():
        # To read a FIFO could wait without end.
        if path and not os.path.isfile(path):  # noqa: PTH113  the method raises
            message = f"{shown(path)} is not a file"
            problems.report(key, message, "correct the path, or create the file")


def _check_spool(spool: "SpoolSettings", problems: Problems, *, awaits_folder: bool) -> None:
    root = spool.directory
    _check_files({"spool.catalogue_file": spool.catalogue_file}, problems)
    # These functions never raise: a path that fails now may be mounted later.
    usable = not problems.valid(_ROOT) or os.path.isdir(root)  # noqa: PTH112
    if not usable and (not awaits_folder or os.path.exists(root)):  # noqa: PTH110
        message = f"{shown(root)} is not a folder"
        problems.report(_ROOT, message, f"create it with: mkdir -p {shown(root)}")
    archive = "spool.archive_directory"
    if not problems.given(archive) and spool.after_delivery == "archive":
        problems.report(
            archive,
            "is missing, and after_delivery is archive",
            "give archive_directory, or write after_delivery: keep",
        )
    selection = None
    if problems.valid("spool.include", "spool.exclude"):
        selection = Selection(spool.include, spool.exclude)
    places = {
        archive: spool.archive_directory,
        "spool.rejected_directory": spool.rejected_directory,
    }
    for key, place in places.items():
        if place and os.path.lexists(place) and not os.path.isdir(place):  # noqa: PTH112
            problems.report(key, f"{shown(place)} is not a folder", "name a folder")
        elif place and problems.valid(_ROOT):
            problems.check(key, _check_place, place, root, selection)


def _check_place(place: Path, root: Path, selection: Selection | None) -> None:
    below = inside(place, root)
    if below == Path():
        raise ValueProblem("is the watched folder itself", "name a folder elsewhere")
    sample = os.fsencode(below / "dataset" / "name.zip") if below else b""
    if below and selection and not selection.ignored(sample):
        raise ValueProblem(
            "is in the watched folder: emitterd would send its files again",
            f'add "/{shown(below)}/**" to spool.exclude, or name a folder elsewhere',
        )


def _check_delivery(delivery: "DeliverySettings", problems: Problems) -> None:
    if problems.valid(*_BACKOFF) and delivery.backoff_initial_s > delivery.backoff_max_s:
        problems.report(
            next(filter(problems.given, _BACKOFF), _BACKOFF[0]),
            "backoff_initial is longer than backoff_max",
            "make it the shorter one, or equal",
        )
    lowest = delivery.bandwidth.lowest if delivery.bandwidth else None
    most = delivery.workers if isinstance(delivery.workers, int) else MOST
    least = most * LEAST_BYTES_S
    if lowest is not None and lowest < least and problems.valid("delivery.workers"):
        problems.report(
            "delivery.bandwidth",
            f"{format_rate(lowest)} is too little for {most} workers",
            f"write {format_rate(least)} or more, or fewer workers",
        )


def _check_expectations(config: "Config", problems: Problems) -> None:
    try:
        names = load_catalogue(
            config.spool.catalogue_file, programs=config.emission.takes_programs
        ).names
    except ConfigError:
        # The start and `check` report it, with the lines of that file.
        return
    for expectation in config.datasets.expect:
        name = expectation.dataset
        if name not in names:
            meant = near(name, names)
            remedy = f"did you mean {meant}?" if meant else "write one of docs/catalogue.md"
            message = "the catalogue has no such dataset or folder"
            problems.report(f"datasets.expect.{name}", message, remedy)


def _check_program(program: Path) -> None:
    if not program.is_absolute():
        raise ValueProblem("does not begin with an absolute path", "write the program's whole path")
    if not os.path.isfile(program) or not os.access(program, os.X_OK):  # noqa: PTH113
        message = f"{shown(program)} is not there, or cannot be executed"
        raise ValueProblem(message, f"correct the path, or run: chmod 755 {shown(program)}")


def inside(place: Path, folder: Path) -> Path | None:
    """Return the path of `place` relative to `folder`; None if it is elsewhere.

    Follows symbolic links.
    """
    real, root = Path(os.path.realpath(place)), Path(os.path.realpath(folder))
    return real.relative_to(root) if real.is_relative_to(root) else None
