"""A reload also reads the certificates and the time zone again."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from emitterd.client.responses import TransportError
from emitterd.codes import Code, load_texts
from emitterd.config.settings import load
from emitterd.errors import Decision, DeliveryError
from emitterd.service.components import Components
from emitterd.service.reload import reload
from support.client import Listener, answering, make_identity, post

NOON_UTC = 1_700_049_600.0
"""2023-11-15, 12:00 UTC."""

TOKEN = b'HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{"access_token":"x"}'


@contextmanager
def installed(folder: Path, url: str, more: str = "") -> Iterator[Components]:
    """Build the components of an installation, which are not started."""
    (folder / "drop").mkdir()
    (folder / "password").touch(0o600)
    (folder / "password").write_text("rehearsal")
    (folder / "emitter.yaml").write_text(
        f"emission:\n  url: {url}data\n  username: emission\n  password_file: password\n"
        f"{more}spool:\n  directory: drop\njournal:\n  path: journal.db\n"
    )
    components = Components(load(folder / "emitter.yaml", {}))
    try:
        yield components
    finally:
        components.http_client.close()
        components.journal.close()


def login_fails(components: Components) -> Code | None:
    """Return the code of a login that fails, or None."""
    try:
        post(components.http_client, f"{components.config.emission.url}/auth")
    except TransportError as error:
        return error.code
    return None


@pytest.mark.usefixtures("no_proxy_of_this_machine")
def test_an_authority_that_was_renewed_in_place_is_loaded(tmp_path: Path) -> None:
    """The file of the same name holds another certificate, and the next request trusts that."""
    former, present = (make_identity(tmp_path, name) for name in ("former", "present"))
    authority = tmp_path / "ca.pem"
    authority.write_text(Path(former.certificate).read_text())
    with (
        Listener(answering(TOKEN), present.server_context()) as server,
        installed(tmp_path, server.url, f"  ca_file: {authority}\n") as components,
    ):
        assert login_fails(components) is Code.TLS
        failure = DeliveryError(Decision.PAUSE, Code.TLS, "the certificate is unknown")
        components.destination.record_failure({}, failure, NOON_UTC, entry=1, again=False)
        assert not isinstance(components.destination.acquire(NOON_UTC), dict)
        authority.write_text(Path(present.certificate).read_text())
        reload(components)

        assert login_fails(components) is None
        # The next attempt is the probe; it does not wait for its time.
        assert isinstance(components.destination.acquire(time.time()), dict)


@pytest.fixture
def in_zone(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Return a function that sets the time zone for a process that starts now."""
    with ExitStack() as stack:
        stack.callback(time.tzset)
        stack.enter_context(monkeypatch.context()).setenv("TZ", "UTC")
        time.tzset()
        yield lambda zone: monkeypatch.setenv("TZ", zone)


def test_the_time_zone_is_read_again(tmp_path: Path, in_zone: Callable[[str], None]) -> None:
    """A machine that was moved to its zone keeps the timetable by that zone."""
    table = "delivery:\n  bandwidth:\n    - {from: 12:00, to: 13:00, limit: 1MiB/s}\n"
    with installed(tmp_path, "https://cqube.test/") as components:
        (tmp_path / "emitter.yaml").write_text((tmp_path / "emitter.yaml").read_text() + table)
        reload(components)
        bandwidth = components.config.delivery.bandwidth
        assert bandwidth is not None
        assert bandwidth.limit(NOON_UTC) == 1024**2
        in_zone("Asia/Kolkata")
        assert bandwidth.limit(NOON_UTC) == 1024**2
        reload(components)

        assert bandwidth.limit(NOON_UTC) is None


def test_the_texts_of_errors_are_read_at_the_start(tmp_path: Path) -> None:
    """A failure is reported although no descriptor is free: its text was read before."""
    load_texts.cache_clear()
    with installed(tmp_path, "https://127.0.0.1:9/"):
        assert load_texts.cache_info().currsize == 1


def test_expected_files_apply_at_once(tmp_path: Path) -> None:
    """A reload notes since when a file is expected, and the alarms count from there."""
    with installed(tmp_path, "https://cqube.test/") as components:
        (tmp_path / "emitter.yaml").write_text(
            (tmp_path / "emitter.yaml").read_text() + "datasets:\n  expect: {pat: 1ms}\n"
        )
        assert components.health.read().queue.expected_since == {}
        reload(components)
        since_at = components.journal.read_fact("expected")

        assert isinstance(since_at, dict)
        assert since_at["pat"] <= time.time()
        assert [str(item) for item in components.config.alarm_limits.expectations] == ["pat: 1ms"]
