"""The command line: arguments in, exit codes out. Other modules do the work.

Exit codes: 0 done; 1 it ran and something is undelivered or wrong; 2 usage; 70 internal; 75 another
instance uses the journal; 78 configuration.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar, get_args

import click
from click.shell_completion import CompletionItem

from emitterd import __version__
from emitterd.model import State, WireProtocol
from emitterd.service.signals import hold_hangup
from emitterd.units import parse_duration, parse_instant

if TYPE_CHECKING:
    from emitterd.journal.reader import EntryQuery

T = TypeVar("T")

ONCE_WAIT = "20s"
"""So that, with the time to stop, a dead destination ends `once` within 30 s."""

SORT_COLUMNS = ("path", "state", "size", "time", "attempts", "error")
"""The keys of `journal.reader.SORT_KEYS`, which `--help` does not load."""

PATH = click.Path(path_type=Path)

_protocol = click.option(
    "--protocol",
    type=click.Choice(get_args(WireProtocol)),
    default="emission",
    show_default=True,
    help="The protocol of the server: emission for cQube 1.0 to 4.1, ingestion for cQube 5.",
)

_config = click.option(
    "--config",
    "-c",
    type=PATH,
    help="The configuration file. Default: $EMITTERD_CONFIG, ./emitter.yaml,"
    " /etc/emitterd/emitter.yaml.",
)
_state = click.option(
    "--state",
    type=click.Choice([str(state) for state in State]),
    callback=lambda _context, _parameter, state: state and State(state),
    help="Only entries in this state.",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


GROUPS = {
    "deliver": "Deliver files",
    "look": "Show what happened",
    "act": "Act on files",
    "set up": "Set up",
    "learn": "Learn",
}
"""The groups of commands, in the order of `--help`, with their headings."""


class _Command(click.Command):
    """A command whose function returns the exit code.

    `group`: one of `GROUPS`. `examples`: command lines without the program.
    """

    def __init__(
        self,
        *args: Any,  # noqa: ANN401  click's
        group: str = "set up",
        examples: Sequence[str] = (),
        **options: Any,  # noqa: ANN401  click's
    ) -> None:
        super().__init__(*args, **options)
        self.group = group
        self.examples = [f"emitterd {line}" for line in examples]

    def format_epilog(
        self,
        ctx: click.Context,  # noqa: ARG002  click's
        formatter: click.HelpFormatter,
    ) -> None:
        with formatter.section("Examples"):
            formatter.write("".join(f"  {line}\n" for line in self.examples))

    def invoke(self, ctx: click.Context) -> NoReturn:
        """Run the command and exit; known errors become messages."""
        from emitterd.cli.output import report_errors

        ctx.exit(report_errors(lambda: super(_Command, self).invoke(ctx)))


class _Commands(click.Group):
    """All commands, listed in groups, each in a whole sentence."""

    command_class = _Command

    def format_commands(
        self,
        ctx: click.Context,  # noqa: ARG002  click's
        formatter: click.HelpFormatter,
    ) -> None:
        entries = self.commands.values()
        for group, heading in GROUPS.items():
            members = [entry for entry in entries if getattr(entry, "group", "") == group]
            with formatter.section(heading):
                formatter.write_dl([(entry.name or "", entry.help or "") for entry in members])


def _complete(kind: str) -> Callable[..., list[CompletionItem]]:
    """Return the completion of a path, code or dataset."""

    def complete(ctx: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from emitterd.cli import completion

        return completion.complete(kind, ctx.params.get("config"), incomplete)

    return complete


@click.group(
    cls=_Commands, context_settings={"help_option_names": ["-h", "--help"], "show_default": True}
)
@click.version_option(
    __version__, "-V", "--version", message="%(prog)s %(version)s", help="Show the version."
)
def command() -> None:
    """Deliver every zip in the watched folder to the cQube server."""


@command.command(group="deliver", examples=["run", "run --config /etc/emitterd/second.yaml"])
@_config
def run(config: Path | None) -> int:
    """Run the daemon until SIGTERM or SIGINT; SIGHUP reloads the configuration."""
    hold_hangup()
    from emitterd.cli.commands import run as commands

    return commands.run(config)


@command.command(group="deliver", examples=["once", "once --wait 2m"])
@_config
@click.option("--wait", default=ONCE_WAIT, help="Stop after this time without progress.")
def once(config: Path | None, wait: str) -> int:
    """Deliver every complete file, then exit: 0 if nothing is left, 1 if not."""
    hold_hangup()
    from emitterd.cli.commands import run as commands

    wait_s = _quantity(parse_duration, wait, "--wait")
    return commands.once(config, wait_s)


@command.command(group="look", examples=["status", "status --datasets", "status --check"])
@_config
@_json
@click.option("--check", is_flag=True, help="Print one line for a monitoring system.")
@click.option("--datasets", is_flag=True, help="Show when files of each dataset last came.")
def status(config: Path | None, *, as_json: bool, check: bool, datasets: bool) -> int:
    """Show the health, what waits, and the destination."""
    from emitterd.cli.commands import status as commands

    if check and datasets:
        raise click.BadParameter("give --check or --datasets, not both")
    if datasets:
        return commands.datasets(config, as_json=as_json)
    if check:
        return commands.check_status(config, as_json=as_json)
    return commands.status(config, as_json=as_json)


def _choosing(function: Callable[..., int]) -> Callable[..., int]:
    """Add the options by which `list` and `receipts` choose entries."""
    options = (
        click.argument(
            "patterns",
            nargs=-1,
            metavar="PATTERN...",
            help="Only these files: a path, a folder, or a pattern as in .gitignore.",
            shell_complete=_complete("path"),
        ),
        _config,
        click.option(
            "--since",
            help="Only changes of state since this time: 2026-11-24, 2026-11-24T06:00 or 24h.",
        ),
        click.option("--until", help="Only changes of state before this time."),
        click.option(
            "--sort",
            type=click.Choice([*SORT_COLUMNS, *(f"-{name}" for name in SORT_COLUMNS)]),
            metavar="COLUMN",
            help=f"The order: {', '.join(SORT_COLUMNS)}; -time for the latest first.",
        ),
        click.option("--limit", type=click.IntRange(1), help="Print at most this number of lines."),
        click.option("--wide", is_flag=True, help="Print all columns, with keys and digests."),
        _json,
    )
    for option in reversed(options):
        function = option(function)
    return function


def _query(options: Mapping[str, Any], state: State | None) -> "EntryQuery":
    from emitterd.journal.reader import EntryQuery

    since, until = (_instant(options[name], f"--{name}") for name in ("since", "until"))
    return EntryQuery(state, since, until, sort=options["sort"] or "", limit=options["limit"])


@command.command(
    name="list",
    group="look",
    examples=[
        "list",
        "list --state rejected --since 24h",
        "list pat/ --sort=-size --limit 10",
        "list --skipped",
    ],
)
@_choosing
@_state
@click.option("--skipped", is_flag=True, help="List the files that emitterd does not send.")
def list_entries(
    patterns: tuple[str, ...],
    config: Path | None,
    state: State | None,
    *,
    skipped: bool,
    **options: Any,  # noqa: ANN401  those of `_choosing`
) -> int:
    """List the entries of the journal, or the files that emitterd skips."""
    from emitterd.cli.commands import entries

    as_json, wide = options["as_json"], options["wide"]
    if not skipped:
        query = _query(options, state)
        return entries.list_entries(config, query, patterns, as_json=as_json, wide=wide)
    if state or any(options[name] for name in ("since", "until", "sort", "wide")):
        raise click.UsageError(
            "--skipped lists files of the folder, which are not in the journal: it goes with"
            " PATTERN, --limit and --json only"
        )
    return entries.list_skipped(config, patterns, options["limit"], as_json=as_json)


@command.command(
    group="look", examples=["explain pat/periodic_exam_mst.zip", "explain periodic_exam_mst.zip"]
)
@click.argument(
    "path",
    help="The path as in the log, an absolute path, or a file name.",
    shell_complete=_complete("path"),
)
@_config
@_json
def explain(path: str, config: Path | None, *, as_json: bool) -> int:
    """Explain why a file is, or is not, delivered."""
    from emitterd.cli.commands import explain as commands

    return commands.explain_path(config, path, as_json=as_json)


@command.command(
    group="look", examples=["receipts --since 24h", "receipts pat/ --sort=-time", "receipts --csv"]
)
@_choosing
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
def receipts(
    patterns: tuple[str, ...],
    config: Path | None,
    *,
    as_csv: bool,
    **options: Any,  # noqa: ANN401  those of `_choosing`
) -> int:
    """Print the receipts, the proof of delivery."""
    from emitterd.cli.commands import entries

    asked = {"csv": as_csv, "json": options["as_json"], "wide": options["wide"]}
    forms = [form for form, is_asked in asked.items() if is_asked]
    if len(forms) > 1:
        raise click.UsageError("give one of --json, --csv and --wide")
    query = _query(options, None)
    return entries.receipts(config, query, patterns, *forms)


@command.command(group="look", examples=["hosts"])
@_config
@_json
def hosts(config: Path | None, *, as_json: bool) -> int:
    """List the hosts that share the journal; exit with 1 if one is lost."""
    from emitterd.cli.commands import status as commands

    return commands.hosts(config, as_json=as_json)


_paths = partial(
    click.argument, "paths", nargs=-1, metavar="PATH...", shell_complete=_complete("path")
)


def _operator_command(name: str) -> Callable[..., int]:
    @_paths(help="As in the log, or absolute.")
    @_config
    @click.option("--all", "every", is_flag=True, help="All files in the state of --state.")
    @_state
    def run_operation(
        paths: tuple[str, ...], config: Path | None, state: State | None, *, every: bool
    ) -> int:
        from emitterd.cli.commands import operate
        from emitterd.journal.operations import Operation

        if every and (state is None or paths):
            example = next((path for path in paths if path in set(State)), "STATE")
            raise click.UsageError(
                f"--all needs a state, and no PATH: emitterd {name} --all --state {example}"
            )
        if not every and (state is not None or not paths):
            raise click.UsageError(f"give a PATH, or: emitterd {name} --all --state STATE")
        return operate.operate(config, Operation(name), paths, state)

    return run_operation


_STATES = {"retry": "rejected", "hold": "queued", "release": "held", "forget": "delivered"}
"""For the examples: the state of the entries that each command is for."""

for _name, _help in {
    "retry": "Try deferred files now; examine rejected files again.",
    "hold": "Hold waiting files: emitterd sends neither them nor their new versions.",
    "release": "Allow held files to be sent.",
    "forget": "Mark files for re-upload: emitterd sends them again.",
}.items():
    _examples = [f"{_name} pat/periodic_exam_mst.zip", f"{_name} --all --state {_STATES[_name]}"]
    command.command(name=_name, help=_help, group="act", examples=_examples)(
        _operator_command(_name)
    )


@command.command(
    name="mark-delivered",
    group="act",
    examples=["mark-delivered --all --before 2026-11-24", "mark-delivered pat '*/*_2020*.zip'"],
)
@_paths(help="A file, a folder or a pattern.")
@_config
@click.option("--all", "every", is_flag=True, help="All files of the watched folder.")
@click.option("--before", help="Only files last modified before this time, such as 2026-11-24.")
def mark_delivered(
    paths: tuple[str, ...], config: Path | None, before: str | None, *, every: bool
) -> int:
    """Treat files of the folder as delivered, and do not send them."""
    from emitterd.cli.commands import mark

    if every == bool(paths):
        raise click.UsageError("give a PATH or --all: emitterd mark-delivered --all")
    limit = _instant(before, "--before")
    return mark.mark_delivered(config, paths, every=every, before=limit)


@command.command(name="set-password", group="set up", examples=["set-password"])
@_config
def set_password(config: Path | None) -> int:
    """Store the password, without showing it; from a pipe, its first line."""
    from emitterd.cli.setup import secrets

    return secrets.set_secret(config, "password")


@command.command(name="set-api-key", group="set up", examples=["set-api-key"])
@_config
def set_api_key(config: Path | None) -> int:
    """Store the API key, without showing it; from a pipe, its first line."""
    from emitterd.cli.setup import secrets

    return secrets.set_secret(config, "api_key")


@command.command(group="act", examples=["rebuild"])
@_config
def rebuild(config: Path | None) -> int:
    """Build a new journal from all readable entries of a damaged one."""
    from emitterd.cli.commands import operate

    return operate.rebuild(config)


@command.command(
    group="look",
    examples=[
        "inspect pat/periodic_exam_mst.zip",
        "inspect --dataset pat/periodic_exam_mst --full marks.zip",
    ],
)
@click.argument("files", type=PATH, nargs=-1, required=True, metavar="FILE...")
@_config
@click.option(
    "--dataset",
    help="The dataset of the files, such as pat/periodic_exam_mst.",
    shell_complete=_complete("dataset"),
)
@click.option("--full", is_flag=True, help="Check every row.")
@_json
def inspect(
    files: tuple[Path, ...], config: Path | None, dataset: str | None, *, full: bool, as_json: bool
) -> int:
    """Check zips, in any folder, against what the server accepts."""
    from emitterd.cli.commands import inspect as producers

    return producers.inspect_files(files, config, dataset, full=full, as_json=as_json)


@command.command(
    group="set up", examples=["init /srv/cqube_emission", "init --from-client config.py"]
)
@click.argument(
    "directory", type=PATH, required=False, help="The folder to watch. Default: that of client.py."
)
@click.option("--from-client", type=PATH, help="Read the config.py of cQube's client.py.")
@click.option(
    "--output",
    type=PATH,
    help="The configuration file to write. Default: emitter.yaml here; with --from-client that"
    " of the service, if it is installed.",
)
@click.option(
    "--sent",
    help="What client.py has sent already: all, none, a time such as 2026-11-24 (files last"
    " changed before it), or a pattern. Default: ask.",
)
@_protocol
def init(
    directory: Path | None,
    from_client: Path | None,
    output: Path | None,
    sent: str | None,
    protocol: WireProtocol,
) -> int:
    """Create the watched folder, its dataset folders and a configuration."""
    programs = protocol == "ingestion"
    if from_client is not None:
        if programs:
            raise click.UsageError("client.py cannot send to cQube 5: leave --from-client out")
        from emitterd.cli.setup import migration

        return migration.init_from_client(directory, output, from_client, sent)
    from emitterd.cli.setup import init as installation
    from emitterd.config.upstream_config import UpstreamConfig

    if directory is None or sent is not None:
        raise click.UsageError("give the folder to watch: emitterd init /srv/cqube_emission")
    client = UpstreamConfig()
    output = output or Path("emitter.yaml")
    return installation.init(directory, output, client, programs=programs)


@command.command(group="set up", examples=["check", "check --online"])
@_config
@click.option("--online", is_flag=True, help="Also connect and log in; upload nothing.")
@click.option("--verbose", "-v", is_flag=True, help="Also print the settings in effect.")
@_json
def check(config: Path | None, *, online: bool, verbose: bool, as_json: bool) -> int:
    """Check the configuration and this machine; with --online the server too."""
    from emitterd.cli.commands import check as checkup

    return checkup.check(config, online=online, verbose=verbose, as_json=as_json)


@command.command(
    group="set up",
    examples=["operator add asha", "operator add school-7 --role producer", "operator remove asha"],
)
@click.argument(
    "action",
    type=click.Choice(["add", "remove", "list"]),
    help="add: store a user and ask for the password, also to change it. remove: end the user's"
    " sessions too. list: print names and roles.",
)
@click.argument("name", required=False, help="The name of the user.")
@click.option(
    "--role",
    type=click.Choice(["operator", "producer"]),
    help="operator: may act on files. producer: may inspect files. Default: operator.",
)
@_config
def operator(config: Path | None, action: str, name: str | None, role: str | None) -> int:
    """Manage the users who may log in to the page."""
    from emitterd.cli.setup import operators

    return operators.change(config, action, name, role)


@command.command(name="notify-test", group="set up", examples=["notify-test"])
@_config
def notify_test(config: Path | None) -> int:
    """Send a test alert by every channel; exit with 1 if one fails."""
    from emitterd.cli.commands import operate

    return operate.notify_test(config)


@command.command(examples=["service install", "service setup", "service uninstall"])
@click.argument(
    "action",
    type=click.Choice(["install", "setup", "uninstall"]),
    help="install: this program as a service, also to upgrade it. setup: create what"
    " /etc/emitterd/*.yaml need. uninstall: remove the service, keep all data.",
)
def service(action: str) -> int:
    """Install, prepare or remove the systemd service."""
    from emitterd.cli.setup import machine, service

    actions = {"install": service.install, "setup": machine.setup, "uninstall": service.uninstall}
    return actions[action]()


@command.command(
    name="explain-error", group="learn", examples=["explain-error E210", "explain-error"]
)
@click.argument(
    "code",
    required=False,
    help="The code, such as E210. Default: list all codes.",
    shell_complete=_complete("code"),
)
@_json
def explain_error(code: str | None, *, as_json: bool) -> int:
    """Explain what an error code means, and what to do."""
    from emitterd.cli.commands import error_codes

    return error_codes.explain_error(code, as_json=as_json)


@command.command(
    group="learn",
    examples=[
        "rehearse",
        "rehearse --fault 503:0.1 --fault lost-answer@2 --latency 50ms",
        "rehearse --faults",
        "rehearse --protocol ingestion",
    ],
)
@_protocol
@click.option("--directory", type=PATH, default="rehearsal", help="The folder for objects.")
@click.option("--host", default="127.0.0.1", help="The address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8642, help="The port; 0 selects a free one."
)
@click.option("--username", default="emission", help="The user of the login.")
@click.option("--password", default="rehearsal", help="The password of the login.")
@click.option("--api-key", help="An API key instead of a login.")
@click.option(
    "--fault",
    multiple=True,
    help="A fault, as name[:probability[:parameter]] or name@count. Can be repeated.",
)
@click.option("--latency", default="0s", help="The wait before each answer, such as 50ms.")
@click.option(
    "--process-after",
    help="Process files after this time as cQube does. Default: never; 500ms for cQube 5.",
)
@click.option("--faults", is_flag=True, help="List the faults.")
def rehearse(
    *,
    protocol: WireProtocol,
    fault: tuple[str, ...],
    latency: str,
    process_after: str | None,
    faults: bool,
    **options: Any,  # noqa: ANN401  as given
) -> int:
    """Run a practice server on this machine, with faults on request."""
    from emitterd.cli.commands import rehearse
    from emitterd.rehearsal.faults import FaultList, kinds_of

    if faults:
        return rehearse.list_faults(protocol)
    parse = partial(FaultList.parse, kinds=kinds_of(protocol))
    options["faults"] = _quantity(parse, ",".join(fault), "--fault")
    options["latency_s"] = _quantity(parse_duration, latency, "--latency")
    if process_after is None and protocol == "ingestion":
        process_after = "500ms"
    if process_after is not None:
        after_s = _quantity(parse_duration, process_after, "--process-after")
        options["process_after_s"] = after_s
    return rehearse.serve(protocol=protocol, **options)


@command.command(
    group="learn", examples=["demo", "demo --keep demo-files", "demo --protocol ingestion"]
)
@click.option("--keep", type=PATH, help="Use this folder instead, and keep it.")
@_protocol
def demo(keep: Path | None, protocol: WireProtocol) -> int:
    """Deliver sample files in a temporary folder and print the receipts."""
    from emitterd.cli.commands import demo

    return demo.show(keep, protocol)


@command.command(
    group="set up",
    examples=[
        "completion bash > ~/.local/share/bash-completion/completions/emitterd",
        "completion zsh > ~/.zfunc/_emitterd",
        "completion fish > ~/.config/fish/completions/emitterd.fish",
    ],
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]), help="The shell.")
def completion(shell: str) -> int:
    """Print the completion script for bash, zsh or fish."""
    from emitterd.cli.completion import script

    click.echo(script(shell, command))
    return 0


@command.command(group="set up", examples=["schema", "schema > emitter.schema.json"])
def schema() -> int:
    """Print the JSON Schema of emitter.yaml, for editors."""
    from importlib.resources import files

    click.echo((files("emitterd.config") / "emitter.schema.json").read_text("utf-8"), nl=False)
    return 0


def _instant(text: str | None, option: str) -> float | None:
    now = time.time()
    return None if text is None else _quantity(partial(parse_instant, now=now), text, option)


def _quantity(parse: Callable[[str], T], text: str, option: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        remedy = getattr(error, "remedy", "")
        message = f"{error}: {remedy}" if remedy else str(error)
        raise click.BadParameter(message, param_hint=option) from error
