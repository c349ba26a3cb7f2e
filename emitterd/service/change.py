"""What differs between two configurations, and what of it a running daemon can take."""

from dataclasses import dataclass, replace
from typing import Any

from emitterd.config.settings import SECTIONS, Config, every_key

FIXED = frozenset(
    {
        "emission.allow_insecure_http",
        "emission.ca_file",
        "emission.client_cert",
        "emission.client_key",
        "emission.proxy",
        "emission.url",
        "journal.path",
        "metrics.listen",
        "metrics.token_file",
        "spool.directory",
        "spool.watcher",
    }
)
"""Keys that hold from start to stop: what is open, watched, or connected by them."""

ANCHORS = {"emission": "emission.url", "spool": "spool.directory"}
"""While one of these waits for a restart, so does its section: a password is meant for
its server, and an archive was checked against its folder."""


@dataclass(frozen=True, slots=True)
class Change:
    """What a new configuration changes; `waiting` are keys that need a restart."""

    effective: Config
    """The new configuration, but with the old values of what waits."""
    changed: tuple[str, ...]
    waiting: tuple[str, ...]


def change(old: Config, new: Config) -> Change:
    """Compare what is in effect with what was read."""
    paths = {f"{section}.{key}": (section, name) for section, key, name in every_key()}
    differing = [
        path
        for path, (section, name) in paths.items()
        if getattr(getattr(old, section), name) != getattr(getattr(new, section), name)
    ]
    moved = {section for section, path in ANCHORS.items() if path in differing}
    waiting = [
        path for path in differing if path in FIXED or path.partition(".")[0] in moved
    ]
    kept: dict[str, dict[str, Any]] = {section: {} for section in SECTIONS}
    for section, name in map(paths.__getitem__, waiting):
        kept[section][name] = getattr(getattr(old, section), name)
    effective = replace(
        new,
        **{
            section: replace(getattr(new, section), **values)
            for section, values in kept.items()
        },
    )
    changed = tuple(path for path in differing if path not in waiting)
    return Change(effective, changed, tuple(waiting))
