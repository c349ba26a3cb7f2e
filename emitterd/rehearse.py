"""`emitterd rehearse`: the rehearsal server in the foreground."""

from collections.abc import Callable
from pathlib import Path

from emitterd.rehearsal import FaultMenu, Rehearsal
from emitterd.signals import Signals

STANZA = """\
emission:
  url: {url}
  {login}
  allow_insecure_http: true\
"""


def serve(  # noqa: PLR0913  each is an option of the command
    directory: Path,
    *,
    address: tuple[str, int],
    login: tuple[str, str],
    api_key: str | None,
    faults: FaultMenu,
    latency_s: float,
    say: Callable[[str], None],
) -> None:
    """Serve until SIGTERM or SIGINT, with objects below `directory`.

    Raises `OSError` where the address cannot be listened on.
    """
    directory.mkdir(parents=True, exist_ok=True)
    server = Rehearsal(
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
        named = "api_key_env: EMISSION_SECRET"
        if api_key is None:
            named = f"username: {login[0]}\n  password_env: EMISSION_SECRET"
        say(f"listening on {server.url}, objects in {directory}; for emitter.yaml:")
        say(STANZA.format(url=server.url, login=named))
        while not signals.stops:
            signals.wait(60.0)
        for name, count in sorted(server.fired.items()):
            say(f"fault {name} fired {count} times")
        say(f"{len(server.objects)} objects stored")
