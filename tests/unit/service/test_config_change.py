"""Two configurations compared: what is taken over, and what waits for a restart."""

from collections.abc import Callable
from pathlib import Path

import pytest

from emitterd.config.settings import Config, every_key, load
from emitterd.service.reload import FIXED, change

Read = Callable[..., Config]

OTHERS = {
    "emission.username": "asha",
    "emission.password_file": "other",
    "emission.token_scheme": "JWT",
    "emission.allow_insecure_http": "true",
    "emission.connect_timeout": "3s",
    "emission.stall_timeout": "3s",
    "emission.minimum_speed": "3KiB",
    "emission.proxy": "http://proxy.test:3128",
    "spool.include": "pat/*.zip",
    "spool.exclude": "old/",
    "spool.settle": "7s",
    "spool.sweep_every": "7s",
    "spool.incomplete_after": "7s",
    "spool.watcher": "polling",
    "spool.catalogue": "enforce",
    "spool.cqube_version": "4.0",
    "spool.static_datasource": "udise",
    "spool.inspection_budget": "1MiB",
    "spool.after_delivery": "delete",
    "spool.rejected_directory": "aside",
    "journal.path": "other.db",
    "journal.retain": "7d",
    "delivery.workers": "3",
    "delivery.backoff_initial": "3s",
    "delivery.backoff_max": "3m",
    "delivery.drain_timeout": "3s",
    "log.level": "debug",
    "log.file": "log.jsonl",
    "web.listen": "127.0.0.1:9464",
    "web.token_file": "token",
    "alerts.oldest_waiting_max": "3h",
    "alerts.no_success_max": "3h",
}


@pytest.fixture
def read(tmp_path: Path) -> Read:
    """Read one configuration, with other values by key path."""
    (tmp_path / "drop").mkdir()
    (tmp_path / "drop2").mkdir()
    for name, secret in (("password", "one"), ("other", "two"), ("token", "x" * 32)):
        (tmp_path / name).touch(0o600)
        (tmp_path / name).write_text(secret)
    file = tmp_path / "emitter.yaml"
    file.write_text(
        "emission:\n  url: https://cqube.test/data\n  username: emission\n"
        "  password_file: password\nspool:\n  directory: drop\n"
    )

    def read(**others: str) -> Config:
        names = {key: f"EMITTERD_{key}".replace(".", "_").upper() for key in others}
        return load(file, {names[key]: value for key, value in others.items()})

    return read


def value(config: Config, path: str) -> object:
    """Return the value of a key path."""
    section, key = path.split(".")
    [name] = [name for of, known, name in every_key() if (of, known) == (section, key)]
    return getattr(getattr(config, section), name)


def test_the_same_is_no_change(read: Read) -> None:
    """Read again, nothing differs, secrets included."""
    found = change(read(), read())

    assert (found.changed, found.waiting) == ((), ())
    assert found.effective == read()


@pytest.mark.parametrize("path", OTHERS)
def test_each_key_by_itself(read: Read, path: str) -> None:
    """A key is taken over, or waits and keeps its old value; it is named either way."""
    old, new = read(), read(**{path: OTHERS[path]})
    found = change(old, new)

    assert value(old, path) != value(new, path)
    waits = path in FIXED
    assert path in (found.waiting if waits else found.changed)
    assert value(found.effective, path) == value(old if waits else new, path)
    assert (found.effective == old) is waits


def test_another_server_keeps_its_credentials_waiting(read: Read) -> None:
    """No secret meant for one server is used at another; other sections go on."""
    new = read(
        **{
            "emission.url": "https://other.test/data",
            "emission.password_file": "other",
            "emission.stall_timeout": "3s",
            "delivery.workers": "3",
        }
    )
    found = change(read(), new)

    assert found.waiting == (
        "emission.url",
        "emission.password_file",
        "emission.password",
        "emission.stall_timeout",
    )
    assert found.changed == ("delivery.workers",)
    assert found.effective.emission == read().emission


def test_another_folder_keeps_its_rules_waiting(read: Read, tmp_path: Path) -> None:
    """An archive that was checked against the new folder may lie in the old one."""
    new = read(
        **{
            "spool.directory": "drop2",
            "spool.after_delivery": "archive",
            "spool.archive_directory": "drop/archive",
        }
    )
    found = change(read(), new)

    assert found.changed == ()
    assert found.effective.spool == read().spool
    assert found.effective.spool.directory == tmp_path / "drop"


def test_what_waits_is_named_until_the_restart(read: Read) -> None:
    """The next comparison is with what is in effect."""
    new = read(**{"journal.path": "other.db"})
    effective = change(read(), new).effective

    assert change(effective, new).waiting == ("journal.path",)
    assert change(effective, read()).waiting == ()


def test_every_fixed_key_exists() -> None:
    """The table names no key that is not there."""
    assert {f"{section}.{key}" for section, key, _ in every_key()} >= FIXED
