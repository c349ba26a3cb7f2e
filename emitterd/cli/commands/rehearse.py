"""`emitterd rehearse`: runs the rehearsal server in the foreground."""

from pathlib import Path
from typing import Any

import click

from emitterd.cli.output import DONE, console
from emitterd.cli.tables import TableColumn, print_table
from emitterd.rehearsal.faults import FAULTS
from emitterd.rehearsal.server import RehearsalServer
from emitterd.service.signals import Signals

SETTINGS = """\
emission:
  url: {url}
  {login}
  allow_insecure_http: true\
"""


def list_faults() -> int:
    """Print the faults that `--fault` takes."""
    rows = ((name, kind.effect, kind.parameter) for name, kind in FAULTS.items())
    print_table(
        rows,
        [TableColumn("fault"), TableColumn("what happens", cut="end"), TableColumn("parameter")],
    )
    return DONE


def serve(
    directory: Path,
    *,
    host: str,
    port: int,
    **options: Any,  # noqa: ANN401  as given
) -> int:
    """Serve until SIGTERM or SIGINT, with objects below `directory`.

    `options` are those of `RehearsalServer`.
    """
    login = f"username: {options['username']}\n  password_env: EMISSION_SECRET"
    if options["api_key"]:
        login = "api_key_env: EMISSION_SECRET"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        server = RehearsalServer(directory, host=host, port=port, **options)
        with Signals() as signals, server:
            write = console().print
            address = f"listening on {server.url}, objects in {directory}"
            write(f"{address}; for emitter.yaml:")
            write(SETTINGS.format(url=server.url, login=login))
            while not signals.stops:
                signals.wait(60.0)
            for name, count in sorted(server.fired.items()):
                write(f"fault {name} fired {count} times")
            write(f"{len(server.objects)} objects stored")
    except OSError as error:
        message = f"cannot listen on {host}:{port}: {error.strerror}"
        raise click.ClickException(message) from error
    return DONE
