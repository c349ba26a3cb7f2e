"""`emitterd rehearse`: the rehearsal server in the foreground."""

from pathlib import Path

from emitterd.cli.output import DONE, WRONG, complain, console, print_faults
from emitterd.rehearsal.faults import FAULTS
from emitterd.rehearsal.server import FaultMenu, RehearsalServer
from emitterd.service.signals import Signals

STANZA = """\
emission:
  url: {url}
  {login}
  allow_insecure_http: true\
"""


def list_faults() -> int:
    """Print the menu of faults."""
    print_faults((name, kind.effect, kind.parameter) for name, kind in FAULTS.items())
    return DONE


def parse_faults(text: str) -> FaultMenu:
    """Read a menu of faults; raises `ValueError`."""
    return FaultMenu.parse(text)


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
        return _serve(server, directory, None if api_key else login[0])
    except OSError as error:
        complain(f"cannot listen on {address[0]}:{address[1]}: {error.strerror}")
        return WRONG


def _serve(server: RehearsalServer, directory: Path, username: str | None) -> int:
    say = console().print
    with Signals() as signals, server:
        named = "api_key_env: EMISSION_SECRET"
        if username is not None:
            named = f"username: {username}\n  password_env: EMISSION_SECRET"
        say(f"listening on {server.url}, objects in {directory}; for emitter.yaml:")
        say(STANZA.format(url=server.url, login=named))
        while not signals.stops:
            signals.wait(60.0)
        for name, count in sorted(server.fired.items()):
            say(f"fault {name} fired {count} times")
        say(f"{len(server.objects)} objects stored")
    return DONE
