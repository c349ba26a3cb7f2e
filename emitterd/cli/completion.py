"""Completion in shells: the script, and the values of arguments."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem, get_completion_class

from emitterd.codes import Code
from emitterd.config.settings import load_part
from emitterd.config.sources import find
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.errors import ConfigError
from emitterd.text import shown

if TYPE_CHECKING:
    from collections.abc import Iterable


def script(shell: str, command: click.Command) -> str:
    """Return the completion script of bash, zsh or fish."""
    kind = get_completion_class(shell)
    if kind is None:
        raise LookupError(shell)
    source = kind(command, {}, "emitterd", "_EMITTERD_COMPLETE")
    # Not `source()`: it runs bash to learn its version.
    return (source.source_template % source.source_vars()).strip()


def complete(kind: str, config: Path | None, incomplete: str) -> list[CompletionItem]:
    """Return the values that begin with `incomplete`; `kind` is path, code or dataset."""
    if kind == "path" and incomplete.startswith("/"):
        return [CompletionItem(incomplete, type="file")]
    values: Iterable[str] = Code
    if kind == "path":
        values = _paths(config, incomplete)
    elif kind == "dataset":
        values = (dataset.title for dataset in load_catalogue().datasets)
    elif incomplete:
        incomplete = f"E{incomplete.upper().removeprefix('E')}"
    return [CompletionItem(value) for value in values if value.startswith(incomplete)]


def _paths(config: Path | None, incomplete: str) -> list[str]:
    """Return the paths in the watched folder that begin so.

    Only those of one level, as a shell does; of a folder without a rival, those in it, because the
    shell would add a space after its name.
    """
    try:
        root = load_part(find(config, os.environ), os.environ, "spool").spool.directory
        with os.scandir(root / incomplete.rpartition("/")[0]) as entries:
            paths = [
                shown(Path(entry.path).relative_to(root)) + ("/" if entry.is_dir() else "")
                for entry in entries
            ]
    except (ConfigError, OSError):
        # Without a configuration that this user may read there is nothing to offer.
        return []
    paths = [path for path in paths if path.startswith(incomplete)]
    if len(paths) == 1 and paths[0].endswith("/"):
        return _paths(config, paths[0])
    return paths
