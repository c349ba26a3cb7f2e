"""What values must be together, and what the files they name must be."""

import os
import ssl
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from emitterd.client.timetable import Timetable, format_rate
from emitterd.config.fields import shown
from emitterd.config.secrets import read_token
from emitterd.config.sources import Problems, ValueProblem
from emitterd.delivery.concurrency import MOST
from emitterd.monitoring.endpoint import Endpoint
from emitterd.spool.selection import Selection

if TYPE_CHECKING:
    from emitterd.config.settings import Config

LEAST_BYTES_S = 128
"""A worker's share of the bandwidth: a slice every 12 s. Servers end an upload that is
silent for some 20 s."""

ARCHIVE, REJECTED = "spool.archive_directory", "spool.rejected_directory"


def check_all(config: "Config", findings: Problems, *, awaits_folder: bool) -> None:
    """Report what is wrong with values together, and with the files they name.

    `awaits_folder`: the watched folder may come later.
    """
    emission, spool, delivery = config.emission, config.spool, config.delivery
    check_scheme(findings, emission.url, insecure=emission.allow_insecure_http)
    check_files(
        findings,
        {
            "emission.ca_file": emission.ca_file,
            "emission.client_cert": emission.client_cert,
            "emission.client_key": emission.client_key,
            "spool.catalogue_file": spool.catalogue_file,
        },
    )
    check_client_key(findings)
    check_tls(findings, emission.ca_file, emission.client_cert, emission.client_key)
    check_spool(findings, spool.directory, awaited=awaits_folder)
    check_archive_given(findings, spool.after_delivery)
    places = {ARCHIVE: spool.archive_directory, REJECTED: spool.rejected_directory}
    for key, place in places.items():
        check_put_away(findings, key, place, spool.directory)
    if findings.sound("spool.include", "spool.exclude"):
        selection = Selection(spool.include, spool.exclude)
        for key, place in places.items():
            check_ignored(findings, key, place, spool.directory, selection)
    check_journal(findings, config.journal.path, spool.directory)
    check_no_folder(findings, "journal.path", config.journal.path)
    check_no_folder(findings, "log.file", config.log.file)
    check_backoff(findings, delivery.backoff_initial_s, delivery.backoff_max_s)
    check_bandwidth(findings, delivery.bandwidth, delivery.workers)
    check_metrics(findings, config.metrics.listen, config.metrics.token_file)


def check_scheme(findings: Problems, url: str, *, insecure: bool) -> None:
    """Report an http:// URL that is not allowed on purpose."""
    if findings.sound("emission.url") and url.startswith("http:") and not insecure:
        findings.report(
            "emission.url",
            "is http://: password and data would go unencrypted",
            "use https://, or write allow_insecure_http: true",
        )


def check_files(findings: Problems, files: Mapping[str, Path | None]) -> None:
    """Report the files that are to be read and cannot be."""
    for key, place in files.items():
        if place is None:
            continue
        mode = _mode(findings, key, place, "correct the path, or create the file")
        if mode is None:
            continue
        if not stat.S_ISREG(mode):
            findings.report(key, f"{shown(place)} is not a regular file", "name a file")
        elif not os.access(place, os.R_OK):
            findings.report(
                key,
                f"{shown(place)} cannot be read",
                "give the user of emitterd permission to read it",
            )


def check_tls(
    findings: Problems, ca_file: Path | None, cert: Path | None, key: Path | None
) -> None:
    """Report certificates and keys that OpenSSL cannot use."""
    if ca_file and findings.sound("emission.ca_file"):
        try:
            ssl.create_default_context(cafile=ca_file)
        except (ssl.SSLError, OSError):
            findings.report(
                "emission.ca_file",
                f"{shown(ca_file)} holds no certificate",
                "name a file of certificates in PEM form",
            )
    if cert and findings.sound("emission.client_cert", "emission.client_key"):
        try:
            # A callback, lest OpenSSL ask for a passphrase on the terminal.
            ssl.create_default_context().load_cert_chain(cert, key, lambda: "")
        except (ssl.SSLError, OSError):
            findings.report(
                "emission.client_cert",
                f"{shown(cert)} and its key cannot be used together",
                "name a certificate and its own key, in PEM form, without passphrase",
            )


def check_client_key(findings: Problems) -> None:
    """Report a client key without the certificate it belongs to."""
    if findings.given("emission.client_key") > findings.given("emission.client_cert"):
        findings.report(
            "emission.client_key",
            "is given without client_cert",
            "give client_cert, the certificate that the key belongs to",
        )


def check_no_folder(findings: Problems, key: str, place: Path | None) -> None:
    """Report a folder where a file is to be written."""
    if findings.sound(key) and place and os.path.isdir(place):  # noqa: PTH112  raises
        findings.report(key, f"{shown(place)} is a folder", "name a file in it")


def check_spool(findings: Problems, spool: Path, *, awaited: bool) -> None:
    """Report a watched folder that is no folder or, unless `awaited`, missing."""
    key = "spool.directory"
    if not findings.sound(key):
        return
    # Never raises, unlike the method: what cannot be reached may be mounted later.
    if awaited and not os.path.exists(spool):  # noqa: PTH110
        return
    mode = _mode(findings, key, spool, f"create it with: mkdir -p {shown(spool)}")
    if mode is not None and not stat.S_ISDIR(mode):
        findings.report(key, f"{shown(spool)} is not a folder", "name a folder")


def check_archive_given(findings: Problems, after_delivery: str) -> None:
    """Report an archive that is missing where files are to be archived."""
    if not findings.given(ARCHIVE) and after_delivery == "archive":
        findings.report(
            ARCHIVE,
            "is missing, and after_delivery is archive",
            "give archive_directory, or write after_delivery: keep",
        )


def check_put_away(
    findings: Problems, key: str, place: Path | None, spool: Path
) -> None:
    """Report a place for files that is no folder, or the watched folder itself."""
    if place is None:
        return
    if os.path.lexists(place) and not os.path.isdir(place):  # noqa: PTH112
        findings.report(key, f"{shown(place)} is not a folder", "name a folder")
    if findings.sound("spool.directory") and inside(place, spool) == Path():
        findings.report(key, "is the watched folder itself", "name a folder elsewhere")


def check_ignored(
    findings: Problems, key: str, place: Path | None, spool: Path, selection: Selection
) -> None:
    """Report a place whose files would be taken for new ones."""
    if place is None or not findings.sound(key, "spool.directory"):
        return
    below = inside(place, spool)
    if below and not selection.ignored(os.fsencode(below / "dataset" / "name.zip")):
        findings.report(
            key,
            "lies in the watched folder, and what is put there would be sent again",
            f'add "/{shown(below)}/**" to spool.exclude, or name a folder elsewhere',
        )


def check_journal(findings: Problems, journal: Path, spool: Path) -> None:
    """Report a journal in the watched folder, where producers could remove it."""
    known = findings.sound("journal.path", "spool.directory")
    if known and inside(journal, spool) is not None:
        findings.report(
            "journal.path",
            "lies in the watched folder",
            "name a place of its own, such as /var/lib/emitterd/journal.db",
        )


def check_backoff(findings: Problems, initial_s: float, longest_s: float) -> None:
    """Report a first wait above the longest, at the line that was given."""
    keys = ("delivery.backoff_initial", "delivery.backoff_max")
    if findings.sound(*keys) and initial_s > longest_s:
        blamed = next((key for key in keys if findings.given(key)), keys[0])
        findings.report(
            blamed,
            "backoff_initial is longer than backoff_max",
            "make it the shorter one, or equal",
        )


def check_bandwidth(
    findings: Problems, bandwidth: Timetable | None, workers: int | str
) -> None:
    """Report a limit that leaves each worker so little that servers give it up."""
    if bandwidth is None or not findings.sound("delivery.workers"):
        return
    most = workers if isinstance(workers, int) else MOST
    least, lowest = most * LEAST_BYTES_S, bandwidth.lowest
    if lowest is not None and lowest < least:
        findings.report(
            "delivery.bandwidth",
            f"{format_rate(lowest)} is too little for {most} workers",
            f"write {format_rate(least)} or more, or fewer workers",
        )


def check_metrics(
    findings: Problems, listen: Endpoint | None, token_file: Path | None
) -> None:
    """Report an address that others can reach without a token, and a bad token."""
    if token_file is not None and findings.sound("metrics.token_file"):
        try:
            read_token(token_file)
        except ValueProblem as error:
            findings.report("metrics.token_file", str(error), error.remedy)
    elif listen is not None and not listen.local and token_file is None:
        findings.report(
            "metrics.listen",
            "can be reached from other machines, and no token guards it",
            f"give token_file, or listen at 127.0.0.1:{listen.port}",
        )


def _mode(findings: Problems, key: str, place: Path, remedy: str) -> int | None:
    try:
        return place.stat().st_mode
    except FileNotFoundError:
        findings.report(key, f"{shown(place)} does not exist", remedy)
    except OSError as error:
        findings.report(
            key, f"{shown(place)} cannot be reached: {error.strerror}", remedy
        )
    return None


def inside(place: Path, folder: Path) -> Path | None:
    """Return where `place` lies in `folder`, links followed, or None if it does not."""
    real, root = Path(os.path.realpath(place)), Path(os.path.realpath(folder))
    return real.relative_to(root) if real.is_relative_to(root) else None
