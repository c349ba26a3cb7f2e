"""`emitterd rehearse`: runs the rehearsal server in the foreground."""

import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from emitterd.cli.output import DONE, say
from emitterd.cli.setup.init import replace_file
from emitterd.cli.tables import TableColumn, print_table
from emitterd.model import WireProtocol
from emitterd.rehearsal.faults import kinds_of
from emitterd.rehearsal.server import RehearsalServer
from emitterd.service.signals import Signals
from emitterd.text import shown

INTRODUCTION = """\
The practice server listens on {url}.
Its files are in {folder}.
Put these lines instead of the section emission in emitter.yaml:
"""


def list_faults(protocol: WireProtocol) -> int:
    """Print the faults that `--fault` takes with this protocol."""
    kinds = kinds_of(protocol)
    rows = ((name, kind.effect, kind.parameter) for name, kind in kinds.items())
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
    try:
        directory.mkdir(parents=True, exist_ok=True)
        server = RehearsalServer(directory, host=host, port=port, **options)
        with Signals() as signals, server:
            say(INTRODUCTION.format(url=server.url, folder=shown(directory)))
            login = _store_login(directory.absolute(), options)
            lines = [f"url: {server.url}", *login, "allow_insecure_http: true"]
            say("emission:", *(f"  {line}" for line in lines), "")
            sys.stdout.flush()
            while not signals.stops:
                signals.wait(60.0)
            for name, fired in sorted(server.fired.items()):
                say(f"fault {name} fired {fired} times")
            stored = sum(item.accepted for item in server.ingestion.files) + len(server.objects)
            say(f"{stored} objects stored")
    except OSError as error:
        message = f"cannot listen on {host}:{port}: {error.strerror}"
        raise click.ClickException(message) from error
    return DONE


def _store_login(folder: Path, options: Mapping[str, Any]) -> list[str]:
    """Write the secret into a file, as a configuration needs it; return its lines for the login."""
    protocol = ["protocol: ingestion"] if options["protocol"] == "ingestion" else []
    if protocol and not options["api_key"]:
        return protocol
    name = "api_key" if options["api_key"] else "password"
    file = folder / name.replace("_", "-")
    replace_file(file, f"{options[name]}\n", 0o600, (os.geteuid(), os.getegid()))
    # YAML reads JSON's texts.
    line = f"{name}_file: {json.dumps(str(file))}"
    user = f"username: {json.dumps(options['username'])}"
    return [*protocol, line] if options["api_key"] else [user, line]
