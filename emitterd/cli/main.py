"""The command line: arguments in, exit codes out. Other modules do the work.

Exit codes: 0 done; 1 it ran and something is undelivered or wrong; 2 usage; 70 internal; 75 another
instance uses the journal; 78 configuration.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
from click.shell_completion import CompletionItem

from emitterd import __version__
from emitterd.model import State
from emitterd.service.signals import hold_hangup
from emitterd.units import parse_duration, parse_instant

T = TypeVar("T")

ONCE_WAIT = "20s"
"""So that, with the time to stop, a dead destination ends `once` within 30 s."""

PATH = click.Path(path_type=Path)

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
    """Deliver every zip in the watched folder to the emission bucket."""


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


@command.command(group="set up", examples=["check", "check --online"])
@_config
@click.option("--online", is_flag=True, help="Also connect, log in and request a grant.")
def check(config: Path | None, *, online: bool) -> int:
    """Check the configuration and this machine; with --online the server too."""
    from emitterd.cli.commands import check as checkup

    return checkup.check(config, online=online)


@command.command(group="look", examples=["status", "status --datasets", "status --check"])
@_config
@_json
@click.option("--check", is_flag=True, help="Print one line for a monitoring system.")
@click.option("--datasets", is_flag=True, help="Show when files of each dataset last came.")
def status(config: Path | None, *, as_json: bool, check: bool, datasets: bool) -> int:
    """Show counts, the oldest waiting file and the destination."""
    from emitterd.cli.commands import show

    if check and datasets:
        raise click.BadParameter("give --check or --datasets, not both")
    if datasets:
        return show.datasets(config, as_json=as_json)
    if check:
        return show.check_status(config, as_json=as_json)
    return show.status(config, as_json=as_json)


@command.command(
    name="list", group="look", examples=["list", "list --state deferred", "list --skipped --json"]
)
@_config
@_state
@click.option("--skipped", is_flag=True, help="List the files that emitterd does not send.")
@_json
def list_entries(config: Path | None, state: State | None, *, skipped: bool, as_json: bool) -> int:
    """List the entries of the journal, or the files that emitterd skips."""
    if skipped and state is not None:
        raise click.BadParameter("--skipped lists files of the folder: no --state")
    from emitterd.cli.commands import show

    if skipped:
        return show.list_skipped(config, as_json=as_json)
    return show.list_entries(config, state, as_json=as_json)


@command.command(group="look", examples=["explain pat/periodic_exam_mst.zip"])
@click.argument(
    "path", help="The path as in the log, or an absolute path.", shell_complete=_complete("path")
)
@_config
@_json
def explain(path: str, config: Path | None, *, as_json: bool) -> int:
    """Explain why a file is, or is not, delivered."""
    from emitterd.cli.commands import show

    return show.explain_path(config, path, as_json=as_json)


@command.command(
    group="look", examples=["receipts --since 24h", "receipts --since 2026-11-01 --csv"]
)
@_config
@click.option("--since", help="The first time: 2026-11-24, 2026-11-24T06:00+05:30, or 24h.")
@_json
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV.")
def receipts(config: Path | None, since: str | None, *, as_json: bool, as_csv: bool) -> int:
    """Print the receipts, the proof of delivery."""
    from emitterd.cli.commands import show

    if as_json and as_csv:
        raise click.BadParameter("give --json or --csv, not both")
    form = "csv" if as_csv else "json" if as_json else "table"
    instant = partial(parse_instant, now=time.time())
    begin = 0.0 if since is None else _quantity(instant, since, "--since")
    return show.receipts(config, begin, form)


def _operator_command(name: str) -> Callable[..., int]:
    @click.argument(
        "paths",
        nargs=-1,
        metavar="PATH...",
        help="As in the log, or absolute.",
        shell_complete=_complete("path"),
    )
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
@click.argument(
    "paths",
    nargs=-1,
    metavar="PATH...",
    help="A file, a folder or a pattern.",
    shell_complete=_complete("path"),
)
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
    instant = partial(parse_instant, now=time.time())
    limit = None if before is None else _quantity(instant, before, "--before")
    return mark.mark_delivered(config, paths, every=every, before=limit)


@command.command(name="notify-test", group="set up", examples=["notify-test"])
@_config
def notify_test(config: Path | None) -> int:
    """Send a test alert by every channel; exit with 1 if one fails."""
    from emitterd.cli.commands import operate

    return operate.notify_test(config)


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
    group="set up",
    examples=["init /srv/cqube_emission", "init /srv/cqube_emission --from-client config.py"],
)
@click.argument("directory", type=PATH, help="The folder to watch.")
@click.option("--from-client", type=PATH, help="Read the config.py of cQube's client.py.")
@click.option(
    "--output", type=PATH, default="emitter.yaml", help="The configuration file to write."
)
def init(directory: Path, from_client: Path | None, output: Path) -> int:
    """Create the watched folder, its dataset folders and a configuration."""
    from emitterd.cli.setup import init as installation

    return installation.init(directory, output, from_client)


@command.command(examples=["service install", "service setup", "service uninstall"])
@click.argument(
    "action",
    type=click.Choice(["install", "setup", "uninstall"]),
    help="install: this program as a service, also to upgrade it. setup: create what"
    " /etc/emitterd/*.yaml need. uninstall: remove the service, keep all data.",
)
def service(action: str) -> int:
    """Install, prepare or remove the service of systemd."""
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
        "rehearse --fault 503:0.1 --fault expire@2 --latency 50ms",
        "rehearse --faults",
    ],
)
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
    "--process-after", help="Process objects after this time as cQube does. Default: never."
)
@click.option("--faults", is_flag=True, help="List the faults.")
def rehearse(
    *,
    fault: tuple[str, ...],
    latency: str,
    process_after: str | None,
    faults: bool,
    **options: Any,  # noqa: ANN401  as given
) -> int:
    """Run a local emission server for practice, with faults on request."""
    from emitterd.cli.commands import rehearse
    from emitterd.rehearsal.server import FaultList

    if faults:
        return rehearse.list_faults()
    options["faults"] = _quantity(FaultList.parse, ",".join(fault), "--fault")
    options["latency_s"] = _quantity(parse_duration, latency, "--latency")
    if process_after is not None:
        after_s = _quantity(parse_duration, process_after, "--process-after")
        options["process_after_s"] = after_s
    return rehearse.serve(**options)


@command.command(group="learn", examples=["demo", "demo --keep demo-files"])
@click.option("--keep", type=PATH, help="Use this folder instead, and keep it.")
def demo(keep: Path | None) -> int:
    """Deliver sample files in a temporary folder and print the receipts."""
    from emitterd.cli.commands import demo

    return demo.show(keep)


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


def _quantity(parse: Callable[[str], T], text: str, option: str) -> T:
    try:
        return parse(text)
    except ValueError as error:
        remedy = getattr(error, "remedy", "")
        message = f"{error}: {remedy}" if remedy else str(error)
        raise click.BadParameter(message, param_hint=option) from error
