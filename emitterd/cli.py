"""The command line: arguments in, exit codes out; the work is done below.

Exit codes: 0 done; 1 it ran and something is undelivered or wrong; 2 usage; 70
internal; 75 another instance holds the journal; 78 configuration.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.main import get_command

from emitterd import __version__
from emitterd.entry import State
from emitterd.errors import (
    ConfigError,
    IllegalTransition,
    JournalError,
    JournalFull,
    JournalLocked,
)

if TYPE_CHECKING:
    from emitterd.config import Config

DONE, WRONG, INTERNAL, LOCKED, CONFIGURATION = 0, 1, 70, 75, 78
ONCE_WAIT = "20s"
"""So that, with the time to stop, a dead destination ends `once` within 30 s."""

app = typer.Typer(
    help="Deliver every zip dropped into the watched folder to the emission bucket.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigOption = Annotated[
    Path | None,
    typer.Option(
        "--config",
        "-c",
        help="The configuration; without it $EMITTERD_CONFIG, ./emitter.yaml,"
        " /etc/emitterd/emitter.yaml.",
    ),
]
ObjectsOption = Annotated[Path, typer.Option(help="Where objects are kept.")]
HostOption = Annotated[str, typer.Option(help="Address to listen on.")]
PortOption = Annotated[
    int, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.")
]
UserOption = Annotated[str, typer.Option(help="The user who may log in.")]
PasswordOption = Annotated[str, typer.Option(help="That user's password.")]
KeyOption = Annotated[str | None, typer.Option(help="An API key instead of a login.")]
FaultOption = Annotated[
    str, typer.Option(help="Faults: name[:probability[:parameter]] or name@count, …")
]
LatencyOption = Annotated[str, typer.Option(help="Wait before each answer: 50ms.")]
FaultsOption = Annotated[bool, typer.Option("--faults", help="List the faults.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Data instead of a table.")]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print it.")] = False,
) -> None:
    if version:
        print(f"emitterd {__version__}")
        raise typer.Exit


@app.command()
def run(config: ConfigOption = None) -> None:
    """Watch and deliver until SIGTERM or SIGINT."""
    with _reported():
        from emitterd.daemon import Daemon

        settings = _load(config)
        _configure_log(settings)
        raise typer.Exit(Daemon(settings).run())


@app.command()
def once(
    config: ConfigOption = None,
    wait: Annotated[
        str, typer.Option(help="How long nothing may move before it gives up.")
    ] = ONCE_WAIT,
) -> None:
    """Deliver what is complete now, then exit: 0 if nothing is left, else 1."""
    with _reported():
        from emitterd.daemon import Daemon
        from emitterd.tables import Bars, print_undelivered

        settings = _load(config)
        wait_s = _duration(wait)
        people = sys.stdout.isatty() and sys.stderr.isatty()
        # Bars and lines of single files would spoil each other.
        _configure_log(settings, quiet=people)
        if people:
            with Bars() as bars:
                code, left = Daemon(settings, bars).once(wait_s)
        else:
            code, left = Daemon(settings).once(wait_s)
        if left:
            print_undelivered(left)
        raise typer.Exit(code)


@app.command()
def check(config: ConfigOption = None) -> None:
    """Check the configuration and this machine."""
    with _reported():
        from emitterd.config import describe
        from emitterd.machine import diagnoses
        from emitterd.tables import print_diagnoses, print_settings

        settings = _load(config)
        print_settings(describe(settings))
        found = diagnoses(settings)
        print_diagnoses(found)
        wrong = any(one.level == "error" for one in found)
        raise typer.Exit(WRONG if wrong else DONE)


@app.command()
def status(config: ConfigOption = None, as_json: JsonOption = False) -> None:
    """Show counts, the oldest waiting file and the destination."""
    with _reported():
        from emitterd.records import Records
        from emitterd.tables import print_status

        with Records(_journal(config)) as records:
            said = records.status()
        if as_json:
            print(json.dumps(said, indent=2))
        else:
            print_status(said)


@app.command(name="list")
def list_entries(
    config: ConfigOption = None,
    state: Annotated[
        State | None, typer.Option(help="Only entries in this state.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List the versions of files that the journal knows."""
    with _reported():
        from emitterd.records import Records
        from emitterd.tables import print_entries

        with Records(_journal(config)) as records:
            entries = records.entries(state)
            if as_json:
                _print_array(entries)
            else:
                print_entries(entries)


@app.command()
def rehearse(  # noqa: PLR0913, PLR0917  each is an option
    directory: ObjectsOption = Path("rehearsal"),
    host: HostOption = "127.0.0.1",
    port: PortOption = 8642,
    username: UserOption = "emission",
    password: PasswordOption = "rehearsal",  # noqa: S107  of a rehearsal server only
    api_key: KeyOption = None,
    fault: FaultOption = "",
    latency: LatencyOption = "",
    faults: FaultsOption = False,
) -> None:
    """Run a local emission server with a menu of faults, to try an installation."""
    with _reported():
        from emitterd.rehearsal import FaultMenu, FaultMenuError
        from emitterd.rehearse import serve
        from emitterd.tables import console, print_faults

        if faults:
            print_faults()
            return
        try:
            menu = FaultMenu.parse(fault)
        except FaultMenuError as error:
            raise typer.BadParameter(str(error)) from error
        try:
            serve(
                directory,
                address=(host, port),
                login=(username, password),
                api_key=api_key,
                faults=menu,
                latency_s=_duration(latency) if latency else 0.0,
                say=console().print,
            )
        except OSError as error:
            _complain(f"cannot listen on {host}:{port}: {error.strerror}")
            raise typer.Exit(WRONG) from error


@app.command()
def demo(
    keep: Annotated[
        Path | None, typer.Option(help="Work in this folder and leave it.")
    ] = None,
) -> None:
    """Go the whole way in a temporary folder and print the receipts."""
    with _reported():
        from emitterd.demo import Demo, workplace
        from emitterd.tables import console, print_receipts

        try:
            with workplace(keep) as folder:
                receipts = Demo(folder).run(console().print)
        except (TimeoutError, FileExistsError) as error:
            _complain(str(error))
            raise typer.Exit(WRONG) from error
        print_receipts(receipts)
        console().print(f"{len(receipts)} files delivered, each whole and once")


def _load(path: Path | None) -> "Config":
    from emitterd.config import load
    from emitterd.config_layers import find

    return load(find(path, os.environ), os.environ)


def _journal(path: Path | None) -> Path:
    from emitterd.config import load_part
    from emitterd.config_layers import find

    return load_part(find(path, os.environ), os.environ, "journal").journal.path


def _configure_log(settings: "Config", *, quiet: bool = False) -> None:
    from emitterd.logs import configure

    level = settings.log.level
    if quiet and settings.log.file is None and level in {"debug", "info"}:
        level = "warning"
    try:
        configure(level, settings.log.file)
    except OSError as error:
        _complain(f"cannot open {settings.log.file}: {error.strerror}")
        raise typer.Exit(CONFIGURATION) from error


def _duration(text: str) -> float:
    from emitterd.units import UnitError, parse_duration

    try:
        return parse_duration(text)
    except UnitError as error:
        raise typer.BadParameter(str(error)) from error


@contextmanager
def _reported() -> Iterator[None]:
    """Turn what emitterd itself reports into a line or two and an exit code."""
    try:
        yield
    except ConfigError as error:
        from emitterd.tables import print_problems

        print_problems(error)
        raise typer.Exit(CONFIGURATION) from error
    except JournalError as error:
        _complain(f"{error.code} {error}")
        _complain(f"  {error.hint}")
        raise typer.Exit(_exit_code(error)) from error


def _exit_code(error: JournalError) -> int:
    match error:
        case JournalLocked():
            return LOCKED
        case IllegalTransition():
            return INTERNAL
        case JournalFull():
            # It passes: systemd is to start the daemon again, which 78 forbids.
            return WRONG
        case _:
            return CONFIGURATION


def _complain(line: str) -> None:
    print(line, file=sys.stderr)


def _print_array(rows: Iterable[dict[str, Any]]) -> None:
    """Print a JSON array row by row: a million rows need no memory."""
    separator = "[\n"
    for row in rows:
        sys.stdout.write(separator + json.dumps(row))
        separator = ",\n"
    sys.stdout.write("[]\n" if separator == "[\n" else "\n]\n")


command = get_command(app)
"""All of it as one command, which leaves the process's excepthook alone."""
