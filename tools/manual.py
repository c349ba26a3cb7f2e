"""The manual pages, the completion scripts and the JSON Schema, made from the program itself.

`python -m tools.manual docs` writes them anew. Commands and options are those of
`cli`; keys are those of docs/configuration.md, and what all commands have in common
(signals, exit codes, files) stands in docs/service.md, so that a page and a document
say the same.
"""

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from emitterd import __version__
from emitterd.cli.completion import script
from emitterd.cli.main import command
from tools.roff import entry, escaped, inline, roff, sections, sentence, text
from tools.schema import schema

PROGRAM = "emitterd"
SHARED = 2
"""An option that so many commands have, in the same words, is described once."""

NAME = "deliver files dropped into a folder to cQube's emission bucket"

PLACES = {"bash": "emitterd.bash", "zsh": "_emitterd", "fish": "emitterd.fish"}
"""The completion's file for each shell."""

FROM_DOCUMENTS = {
    "States": "States of a file",
    "Signals": "Signals",
    "Exit codes": "Exit status",
    "Environment": "Environment",
    "Files": "Files",
    "Every day": "Examples",
}
"""Sections of docs/service.md and docs/operate.md that the page has, and their titles in it."""


@dataclass(frozen=True, slots=True)
class Option:
    """An option; without a `metavar` it is a flag."""

    names: tuple[str, ...]
    metavar: str
    help: str

    @property
    def usage(self) -> str:
        """The option as the synopsis of a command has it, in Markdown."""
        name = f"`{min(self.names, key=len)}`"
        return f"[{name} {self.metavar}]" if self.metavar else f"[{name}]"

    def entry(self) -> list[str]:
        """Return its description in man(7)."""
        names = ", ".join(f"`{name}`" for name in self.names)
        return entry(f"{names} {self.metavar}".rstrip(), self.help)


@dataclass(frozen=True, slots=True)
class Command:
    """A command, as the command line describes it."""

    name: str
    help: str
    arguments: tuple[tuple[str, str], ...]
    """Each with its help."""
    options: tuple[Option, ...]
    examples: tuple[str, ...]

    @property
    def usage(self) -> str:
        """Its synopsis, in Markdown."""
        words = [option.usage for option in self.options]
        words += [argument for argument, _ in self.arguments]
        return " ".join([f"`{PROGRAM} {self.name}`", *words])


def commands() -> list[Command]:
    """Return every command, in the order of `emitterd --help`."""
    known = getattr(command, "commands", {})
    return [_command(name, item) for name, item in known.items()]


def manual(service: str, daily: str, date: str) -> str:
    """Return emitterd(1), with the tables of docs/service.md and docs/operate.md."""
    common = _common()
    reported = sections(daily) | sections(service)
    parts = [
        _head(PROGRAM.upper(), 1, date),
        _section("Name", rf"{PROGRAM} \- {inline(NAME)}"),
        _section(
            "Synopsis",
            inline(f"`{PROGRAM}` COMMAND [OPTION]… [ARGUMENT]…"),
            ".br",
            inline(f"`{PROGRAM}` `--help` | `--version`"),
        ),
        _section("Description", roff(reported[""])),
        _section("Commands", *(line for item in commands() for line in _told(item))),
        _section("Options", *(line for item in common for line in item.entry())),
        *(_section(title, roff(reported[name])) for name, title in FROM_DOCUMENTS.items()),
        _section("See also", ".BR emitter.yaml (5),", ".BR systemctl (1),", ".BR journalctl (1)"),
    ]
    return "".join(parts)


def configuration(document: str, date: str) -> str:
    """Return emitter.yaml(5), which is docs/configuration.md."""
    reported = sections(document)
    parts = [
        _head("EMITTER.YAML", 5, date),
        _section("Name", rf"emitter.yaml \- configuration of {PROGRAM}"),
        _section("Description", roff(reported.pop(""))),
        *(_section(name, roff(words, _key)) for name, words in reported.items()),
        _section("See also", f".BR {PROGRAM} (1)"),
    ]
    return "".join(parts)


def files(docs: Path) -> dict[str, str]:
    """Return what is to stand below the folder of the documents, by its path there."""
    service = (docs / "service.md").read_text("utf-8")
    daily = (docs / "operate.md").read_text("utf-8")
    reference = (docs / "configuration.md").read_text("utf-8")
    date = released((docs.parent / "CHANGELOG.md").read_text("utf-8"))
    return {
        "man/emitterd.1": manual(service, daily, date),
        "man/emitter.yaml.5": configuration(reference, date),
        "emitter.schema.json": schema(reference),
    } | {f"completions/{place}": f"{script(shell, command)}\n" for shell, place in PLACES.items()}


def _common() -> list[Option]:
    """Return the options that are described once: the program's own, and shared."""
    every = [option for item in commands() for option in item.options]
    shared = [fromkey for fromkey in dict.fromkeys(every) if every.count(fromkey) >= SHARED]
    names = tuple(command.context_settings["help_option_names"])
    own = Option(names, "", "Say how the program, or a command, is used.")
    return [*_options(command), own, *shared]


def _command(name: str, known: object) -> Command:
    arguments = tuple(
        (_argument(item), getattr(item, "help", None) or "")
        for item in getattr(known, "params", ())
        if item.param_type_name == "argument"
    )
    examples = tuple(getattr(known, "examples", ()))
    return Command(name, getattr(known, "help", ""), arguments, _options(known), examples)


def _argument(known: object) -> str:
    name = getattr(known, "metavar", None) or getattr(known, "name", "").upper()
    reported = name.replace("...", "…")
    return reported if getattr(known, "required", False) else f"[{reported}]"


def _options(known: object) -> tuple[Option, ...]:
    return tuple(
        Option(
            tuple(item.opts),
            "" if item.is_flag else item.opts[0].lstrip("-").upper(),
            _help(item.help or "", None if item.is_flag else item.to_info_dict()["default"]),
        )
        for item in getattr(known, "params", ())
        if item.param_type_name == "option"
    )


def _help(message: str, default: object) -> str:
    words = sentence(message)
    return words if default in {None, "", ()} else f"{words} Default: `{default}`."


def _told(item: Command) -> Iterator[str]:
    common = _common()
    yield from (f".SS {escaped(item.name)}", *text(item.usage), ".PP", *text(item.help))
    for argument, message in item.arguments:
        if message:
            yield from entry(argument, sentence(message))
    for option in item.options:
        if option not in common:
            yield from option.entry()
    yield from (".PP", ".RS 4", ".nf", escaped("\n".join(item.examples)), ".fi", ".RE")


def _key(cells: list[str]) -> tuple[str, str]:
    """Tell a row of docs/configuration.md."""
    key, kind, default, meaning, variable = cells
    value = default if default in {"required", "not set"} else f"default {default}"
    return f"{key} ({kind}; {value})", f"{sentence(meaning)} Environment: {variable}."


def released(changelog: str) -> str:
    """Return the date of the newest release; nothing before the first one."""
    dates = re.findall(r"^## .* (\d{4}-\d\d-\d\d)$", changelog, re.MULTILINE)
    return max(dates, default="")


def _head(title: str, number: int, date: str) -> str:
    reported = f'"{PROGRAM} {__version__}" "{PROGRAM}"'
    warning = r".\" Made by `python -m tools.manual docs`: change its sources."
    # No hyphen in what is copied.
    return f'{warning}\n.TH {title} {number} "{date}" {reported}\n.nh\n.ad l\n'


def _section(title: str, *lines: str) -> str:
    return "\n".join([f".SH {escaped(title.upper())}", *lines, ""])


def _main(docs: Path) -> None:
    for place, content in files(docs).items():
        (docs / place).parent.mkdir(exist_ok=True)
        (docs / place).write_text(content, "utf-8")


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004  this program, and the folder
        sys.exit(f"usage: python -m {PROGRAM}.manual DIRECTORY (docs, in a clone)")
    _main(Path(sys.argv[1]))
