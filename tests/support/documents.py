"""Helpers that several tests share."""

from emitterd.cli.main import command


def command_options() -> dict[str, set[str]]:
    """Return every command that exists, and its options."""
    commands = getattr(command, "commands", {})
    return {
        name: {option for one in known.params for option in one.opts}
        for name, known in commands.items()
    }
