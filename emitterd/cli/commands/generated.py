"""`completion` and `schema`: print what shells and editors read."""

from importlib.resources import files

import click
from click.shell_completion import get_completion_class

from emitterd.cli.output import DONE, say


def completion(shell: str, command: click.Command) -> int:
    """Print the completion script of a shell."""
    say(completion_script(shell, command))
    return DONE


def completion_script(shell: str, command: click.Command) -> str:
    """Return the completion script of bash, zsh or fish."""
    kind = get_completion_class(shell)
    if kind is None:
        raise LookupError(shell)
    script = kind(command, {}, "emitterd", "_EMITTERD_COMPLETE")
    # Not `source()`, which runs bash to learn its version.
    return (script.source_template % script.source_vars()).strip()


def schema() -> int:
    """Print the JSON Schema of emitter.yaml."""
    say((files("emitterd.config") / "emitter.schema.json").read_text("utf-8").rstrip())
    return DONE
