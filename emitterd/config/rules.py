"""The rules for values together, and for the files and folders that they name.

Each `_check_*` raises `ValueProblem`; `check_all` says which key is to blame.
"""

import os
import ssl
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from emitterd.client.timetable import Timetable, format_rate
from emitterd.config.secrets import read_token
from emitterd.config.sources import Problems
from emitterd.delivery.concurrency import MOST
from emitterd.errors import ValueProblem
from emitterd.monitoring.endpoint import Endpoint
from emitterd.spool.selection import Selection
from emitterd.text import shown

if TYPE_CHECKING:
    from emitterd.config.settings import Config, EmissionSettings, SpoolSettings

LEAST_BYTES_S = 128
"""The least bandwidth per worker: a slice every 12 s. Servers end an upload that is
silent for some 20 s."""

_ARCHIVE, _REJECTED = "spool.archive_directory", "spool.rejected_directory"
_BACKOFF = ("delivery.backoff_initial", "delivery.backoff_max")
_CERT, _KEY = "emission.client_cert", "emission.client_key"


def check_all(config: "Config", problems: Problems, *, awaits_folder: bool) -> None:
    """Report what is wrong with values together, and with the files they name.

    `awaits_folder`: the watched folder may be missing now and appear later.
    """
    _check_emission(config.emission, problems)
    _check_spool(config.spool, problems, awaits_folder=awaits_folder)
    check, journal, delivery = problems.check, config.journal.path, config.delivery
    check(
        "journal.path",
        _check_journal,
        journal,
        config.spool.directory,
        needs=("journal.path", "spool.directory"),
    )
    for key, path in {"journal.path": journal, "log.file": config.log.file}.items():
        check(key, _check_no_folder, path, needs=[key])
    blamed = next(filter(problems.given, _BACKOFF), _BACKOFF[0])
    waits = delivery.backoff_initial_s, delivery.backoff_max_s
    check(blamed, _check_backoff, *waits, needs=_BACKOFF)
    check(
        "delivery.bandwidth",
        _check_bandwidth,
        delivery.bandwidth,
        delivery.workers,
        needs=["delivery.workers"],
    )
    listen, token_file = config.metrics.listen, config.metrics.token_file
    if token_file is not None:
        check("metrics.token_file", read_token, token_file)
    else:
        check("metrics.listen", _check_listen, listen)


def _check_emission(emission: "EmissionSettings", problems: Problems) -> None:
    url, check = "emission.url", problems.check
    if not emission.allow_insecure_http:
        check(url, _check_encrypted, emission.url, needs=[url])
    ca_file = "emission.ca_file"
    files = {
        ca_file: emission.ca_file,
        _CERT: emission.client_cert,
        _KEY: emission.client_key,
    }
    for key, path in files.items():
        check(key, _check_file, path)
    if problems.given(_KEY) and not problems.given(_CERT):
        problems.report(
            _KEY,
            "is given without client_cert",
            "give client_cert, the certificate that the key belongs to",
        )
    check(ca_file, _check_ca_file, emission.ca_file, needs=[ca_file])
    pair = emission.client_cert, emission.client_key
    check(_CERT, _check_client_cert, *pair, needs=(_CERT, _KEY))


def _check_spool(
    spool: "SpoolSettings", problems: Problems, *, awaits_folder: bool
) -> None:
    root, check, directory = spool.directory, problems.check, "spool.directory"
    check("spool.catalogue_file", _check_file, spool.catalogue_file)
    # `os.path.exists` never raises: a path that fails now may be mounted later.
    if problems.sound(directory) and (not awaits_folder or os.path.exists(root)):  # noqa: PTH110
        check(directory, _check_root, root)
    if not problems.given(_ARCHIVE) and spool.after_delivery == "archive":
        problems.report(
            _ARCHIVE,
            "is missing, and after_delivery is archive",
            "give archive_directory, or write after_delivery: keep",
        )
    places = {_ARCHIVE: spool.archive_directory, _REJECTED: spool.rejected_directory}
    for key, place in places.items():
        check(key, _check_is_folder, place)
        check(key, _check_elsewhere, place, root, needs=[directory])
    if problems.sound("spool.include", "spool.exclude"):
        selection = Selection(spool.include, spool.exclude)
        for key, place in places.items():
            needs = (key, directory)
            check(key, _check_not_selected, place, root, selection, needs=needs)


def inside(place: Path, folder: Path) -> Path | None:
    """Return the path of `place` relative to `folder`; None if it lies elsewhere.

    Follows symbolic links.
    """
    real, root = Path(os.path.realpath(place)), Path(os.path.realpath(folder))
    return real.relative_to(root) if real.is_relative_to(root) else None


def _check_encrypted(url: str) -> None:
    if url.startswith("http:"):
        raise ValueProblem(
            "is http://: password and data would go unencrypted",
            "use https://, or write allow_insecure_http: true",
        )


def _check_file(path: Path | None) -> None:
    if path is None:
        return
    if not stat.S_ISREG(_mode(path, "correct the path, or create the file")):
        raise ValueProblem(f"{shown(path)} is not a regular file", "name a file")
    if not os.access(path, os.R_OK):
        raise ValueProblem(
            f"{shown(path)} cannot be read",
            "give the user of emitterd permission to read it",
        )


def _check_ca_file(ca_file: Path | None) -> None:
    try:
        if ca_file:
            ssl.create_default_context(cafile=ca_file)
    except (ssl.SSLError, OSError):
        raise ValueProblem(
            f"{shown(ca_file)} holds no certificate",
            "name a file of certificates in PEM form",
        ) from None


def _check_client_cert(cert: Path | None, key: Path | None) -> None:
    try:
        if cert:
            # The callback stops OpenSSL from asking for a passphrase on the terminal.
            ssl.create_default_context().load_cert_chain(cert, key, lambda: "")
    except (ssl.SSLError, OSError):
        raise ValueProblem(
            f"{shown(cert)} and its key cannot be used together",
            "name a certificate and its own key, in PEM form, without passphrase",
        ) from None


def _check_root(root: Path) -> None:
    if not stat.S_ISDIR(_mode(root, f"create it with: mkdir -p {shown(root)}")):
        raise ValueProblem(f"{shown(root)} is not a folder", "name a folder")


def _check_no_folder(path: Path | None) -> None:
    if path and os.path.isdir(path):  # noqa: PTH112  the method raises
        raise ValueProblem(f"{shown(path)} is a folder", "name a file in it")


def _check_is_folder(place: Path | None) -> None:
    if place and os.path.lexists(place) and not os.path.isdir(place):  # noqa: PTH112
        raise ValueProblem(f"{shown(place)} is not a folder", "name a folder")


def _check_elsewhere(place: Path | None, root: Path) -> None:
    if place and inside(place, root) == Path():
        raise ValueProblem("is the watched folder itself", "name a folder elsewhere")


def _check_not_selected(place: Path | None, root: Path, selection: Selection) -> None:
    below = inside(place, root) if place else None
    if below and not selection.ignored(os.fsencode(below / "dataset" / "name.zip")):
        raise ValueProblem(
            "lies in the watched folder: emitterd would send its files again",
            f'add "/{shown(below)}/**" to spool.exclude, or name a folder elsewhere',
        )


def _check_journal(journal: Path, root: Path) -> None:
    # Whoever drops files could remove it there.
    if inside(journal, root) is not None:
        raise ValueProblem(
            "lies in the watched folder",
            "name a place of its own, such as /var/lib/emitterd/journal.db",
        )


def _check_backoff(initial_s: float, longest_s: float) -> None:
    if initial_s > longest_s:
        raise ValueProblem(
            "backoff_initial is longer than backoff_max",
            "make it the shorter one, or equal",
        )


def _check_bandwidth(bandwidth: Timetable | None, workers: int | str) -> None:
    most = workers if isinstance(workers, int) else MOST
    least, lowest = most * LEAST_BYTES_S, bandwidth.lowest if bandwidth else None
    if lowest is not None and lowest < least:
        raise ValueProblem(
            f"{format_rate(lowest)} is too little for {most} workers",
            f"write {format_rate(least)} or more, or fewer workers",
        )


def _check_listen(listen: Endpoint | None) -> None:
    if listen is not None and not listen.local:
        raise ValueProblem(
            "can be reached from other machines, and no token guards it",
            f"give token_file, or listen at 127.0.0.1:{listen.port}",
        )


def _mode(path: Path, remedy: str) -> int:
    try:
        return path.stat().st_mode
    except FileNotFoundError:
        raise ValueProblem(f"{shown(path)} does not exist", remedy) from None
    except OSError as error:
        message = f"{shown(path)} cannot be reached: {error.strerror}"
        raise ValueProblem(message, remedy) from None
