"""The command line: arguments in, exit codes out; the work is done below.

Exit codes: 0 done; 1 it ran and something is undelivered or wrong; 2 usage; 70
internal; 75 another instance holds the journal; 78 configuration.
"""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated, NoReturn, TypeVar

import typer
from typer.main import get_command

from emitterd import __version__
from emitterd.entry import State
from emitterd.imports import unused_left_out
from emitterd.instruction import Act
from emitterd.signals import hold_hangup
from emitterd.units import parse_duration, parse_since

T = TypeVar("T")

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
PathsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="PATH...", help="As in the log, or absolute."),
]
AllOption = Annotated[bool, typer.Option("--all", help="All files in the state given.")]
StateOption = Annotated[State | None, typer.Option(help="Only entries in this state.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Data instead of a table.")]
CheckOption = Annotated[bool, typer.Option("--check", help="One line: is all well?")]


@app.callback(invoke_without_command=True)
def _main(
    version: Annotated[bool, typer.Option("--version", help="Print it.")] = False,
) -> None:
    if version:
        print(f"emitterd {__version__}")
        raise typer.Exit


@app.command()
def run(config: ConfigOption = None) -> None:
    """Watch and deliver until SIGTERM or SIGINT; SIGHUP rereads the configuration."""
    hold_hangup()
    with unused_left_out():
        from emitterd import commands

    _end(lambda: commands.run(config))


@app.command()
def once(
    config: ConfigOption = None,
    wait: Annotated[
        str, typer.Option(help="How long nothing may move before it gives up.")
    ] = ONCE_WAIT,
) -> None:
    """Deliver what is complete now, then exit: 0 if nothing is left, else 1."""
    hold_hangup()
    with unused_left_out():
        from emitterd import commands

    wait_s = _quantity(parse_duration, wait, "--wait")
    _end(lambda: commands.once(config, wait_s))


@app.command()
def check(
    config: ConfigOption = None,
    online: Annotated[
        bool, typer.Option("--online", help="Ask the server too: login and grant.")
    ] = False,
) -> None:
    """Check the configuration and this machine; with --online the server too."""
    from emitterd import checkup

    _end(lambda: checkup.check(config, online=online))


@app.command()
def status(
    config: ConfigOption = None, as_json: JsonOption = False, check: CheckOption = False
) -> None:
    """Show counts, the oldest waiting file and the destination; or --check them."""
    from emitterd import queries

    look = queries.check_status if check else queries.status
    _end(lambda: look(config, as_json=as_json))


@app.command(name="list")
def list_entries(
    config: ConfigOption = None,
    state: StateOption = None,
    skipped: Annotated[
        bool,
        typer.Option("--skipped", help="What will never be sent as it is, and why."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the versions of files that the journal knows, or what is skipped."""
    if skipped and state is not None:
        raise typer.BadParameter("--skipped lists files of the folder: no --state")
    if skipped:
        from emitterd import inquiries

        _end(lambda: inquiries.list_skipped(config, as_json=as_json))
    from emitterd import queries

    _end(lambda: queries.list_entries(config, state, as_json=as_json))


@app.command()
def explain(
    path: Annotated[str, typer.Argument(help="As in the log, or absolute.")],
    config: ConfigOption = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a file is, or is not, delivered."""
    from emitterd import inquiries

    _end(lambda: inquiries.explain_path(config, path, as_json=as_json))


@app.command()
def receipts(
    config: ConfigOption = None,
    since: Annotated[
        str | None, typer.Option(help="2026-11-24, 2026-11-24T06:00+05:30, or 24h.")
    ] = None,
    as_json: JsonOption = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="For a spreadsheet.")] = False,
) -> None:
    """Print the proof of what was delivered."""
    from emitterd import queries

    if as_json and as_csv:
        raise typer.BadParameter("give --json or --csv, not both")
    form = "csv" if as_csv else "json" if as_json else "table"
    instant = partial(parse_since, now=time.time())
    begin = 0.0 if since is None else _quantity(instant, since, "--since")
    _end(lambda: queries.receipts(config, begin, form))


def _acting(act: Act) -> Callable[..., None]:
    def command(
        paths: PathsArgument = None,
        config: ConfigOption = None,
        every: AllOption = False,
        state: StateOption = None,
    ) -> None:
        _act(act, paths, config, every=every, state=state)

    return command


for _one, _help in {
    Act.RETRY: "Try deferred files now; have rejected ones looked at again.",
    Act.HOLD: "Keep waiting files back, whatever is dropped under their names.",
    Act.RELEASE: "Let held files go.",
    Act.FORGET: "Take files for new: what lies in the folder is sent, even again.",
}.items():
    app.command(name=_one, help=_help)(_acting(_one))


@app.command()
def rebuild(
    config: ConfigOption = None,
    receipts: Annotated[
        list[Path] | None,
        typer.Option(help="A log, or what `receipts --json` printed; may be repeated."),
    ] = None,
) -> None:
    """Save what can be read of a damaged journal; nothing is sent twice unasked."""
    from emitterd import acts

    _end(lambda: acts.rebuild(config, receipts or []))


@app.command()
def inspect(
    files: Annotated[list[Path], typer.Argument(metavar="FILE...")],
    config: ConfigOption = None,
    dataset: Annotated[
        str | None, typer.Option(help="What it is to be: pat/periodic_exam_mst.")
    ] = None,
    full: Annotated[bool, typer.Option("--full", help="Every row.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check zips, wherever they lie, against what the server will accept."""
    from emitterd import producers

    _end(
        lambda: producers.inspect_files(
            files, config, dataset, full=full, as_json=as_json
        )
    )


@app.command()
def init(
    directory: Annotated[Path, typer.Argument(help="The folder to be watched.")],
    from_client: Annotated[
        Path | None, typer.Option(help="Take over upstream's config.py.")
    ] = None,
    output: Annotated[Path, typer.Option(help="The configuration to write.")] = Path(
        "emitter.yaml"
    ),
) -> None:
    """Make the folder, its dataset folders and a commented configuration."""
    from emitterd import primer

    _end(lambda: primer.init(directory, output, from_client))


@app.command(name="explain-error")
def explain_error(
    code: Annotated[
        str | None, typer.Argument(help="Such as E210; without, all.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say what an error code means, and what to do."""
    from emitterd import primer

    _end(lambda: primer.explain_error(code, as_json=as_json))


@app.command()
def rehearse(  # noqa: PLR0913, PLR0917  each is an option
    directory: ObjectsOption = Path("rehearsal"),
    host: HostOption = "127.0.0.1",
    port: PortOption = 8642,
    username: UserOption = "emission",
    password: PasswordOption = "rehearsal",  # noqa: S107  of a rehearsal server only
    api_key: KeyOption = None,
    fault: FaultOption = "",
    latency: LatencyOption = "0s",
    faults: FaultsOption = False,
) -> None:
    """Run a local emission server with a menu of faults, to try an installation."""
    from emitterd import rehearse

    if faults:
        _end(rehearse.list_faults)
    menu = _quantity(rehearse.parse_faults, fault, "--fault")
    latency_s = _quantity(parse_duration, latency, "--latency")
    _end(
        lambda: rehearse.serve(
            directory,
            address=(host, port),
            login=(username, password),
            api_key=api_key,
            faults=menu,
            latency_s=latency_s,
        )
    )


@app.command()
def demo(
    keep: Annotated[
        Path | None, typer.Option(help="Work in this folder and leave it.")
    ] = None,
) -> None:
    """Go the whole way in a temporary folder and print the receipts."""
    from emitterd import demo

    _end(lambda: demo.show(keep))


def _act(
    act: Act,
    paths: list[str] | None,
    config: Path | None,
    *,
    every: bool,
    state: State | None,
) -> None:
    from emitterd import acts

    said = paths or []
    if every and state is None and len(said) == 1 and said[0] in set(State):
        # `retry --all rejected` says the same as `retry --all --state rejected`.
        state, said = State(said[0]), []
    if every and (state is None or said):
        raise typer.BadParameter("--all goes with --state, and with no PATH")
    if not every and (state is not None or not said):
        raise typer.BadParameter("give a PATH, or --all with --state")
    _end(lambda: acts.act(config, act, said, state))


def _end(work: Callable[[], int]) -> NoReturn:
    """Do a command's work and exit with its code."""
    from emitterd.terminal import reported

    raise typer.Exit(reported(work))


def _quantity(parse: Callable[[str], T], text: str, option: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        remedy = getattr(error, "remedy", "")
        said = f"{error}: {remedy}" if remedy else str(error)
        raise typer.BadParameter(said, param_hint=option) from error


command = get_command(app)
"""All of it as one command, which leaves the process's excepthook alone."""
