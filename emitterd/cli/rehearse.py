"""`emitterd rehearse`: runs the rehearsal server in the foreground."""

from pathlib import Path

from emitterd.cli.output import DONE, WRONG, complain, console, print_table
from emitterd.rehearsal.faults import FAULTS
from emitterd.rehearsal.server import FaultMenu, RehearsalServer
from emitterd.service.signals import Signals

SETTINGS = """\
emission:
  url: {url}
  {login}
  allow_insecure_http: true\
"""


parse_faults = FaultMenu.parse


def list_faults() -> int:
    """Print the faults that `--fault` takes."""
    rows = ((name, kind.effect, kind.parameter) for name, kind in FAULTS.items())
    print_table(rows, ("fault", "what happens", "parameter"))
    return DONE


def serve(
    directory: Path,
    *,
    address: tuple[str, int],
    login: tuple[str, str],
    api_key: str | None,
    faults: FaultMenu,
    latency_s: float,
) -> int:
    """Serve until SIGTERM or SIGINT, with objects below `directory`."""
    secret = f"username: {login[0]}\n  password_env: EMISSION_SECRET"
    if api_key:
        secret = "api_key_env: EMISSION_SECRET"  # noqa: S105  a variable's name
    try:
        directory.mkdir(parents=True, exist_ok=True)
        server = RehearsalServer(
            directory,
            host=address[0],
            port=address[1],
            username=login[0],
            password=login[1],
            api_key=api_key,
            faults=faults,
            latency_s=latency_s,
        )
        with Signals() as signals, server:
            write = console().print
            address_line = f"listening on {server.url}, objects in {directory}"
            write(f"{address_line}; for emitter.yaml:")
            write(SETTINGS.format(url=server.url, login=secret))
            while not signals.stops:
                signals.wait(60.0)
            for name, count in sorted(server.fired.items()):
                write(f"fault {name} fired {count} times")
            write(f"{len(server.objects)} objects stored")
    except OSError as error:
        complain(f"cannot listen on {address[0]}:{address[1]}: {error.strerror}")
        return WRONG
    return DONE
