"""The command line as declared: help, completion, and the answers to wrong usage."""

import shlex
from pathlib import Path

import click
import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner, Result

from emitterd import __version__
from emitterd.cli.main import GROUPS, _Command, command
from emitterd.codes import Code
from support.paths import ROOT

COMMANDS: dict[str, click.Command] = getattr(command, "commands", {})
MINIMAL = "emission: {url: 'https://h'}\nspool: {directory: drop}\n"


def call(*arguments: str) -> Result:
    """Run a command line within this process."""
    return CliRunner().invoke(command, arguments, prog_name="emitterd")


def completed(*words: str) -> list[str]:
    """Return what a shell offers for the last of these words."""
    shell = ShellComplete(command, {}, "emitterd", "_EMITTERD_COMPLETE")
    return [item.value for item in shell.get_completions(list(words[:-1]), words[-1])]


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_a_group_and_examples_that_can_be_run(name: str) -> None:
    """`--help` shows them, and the command line accepts them."""
    entry = COMMANDS[name]
    assert isinstance(entry, _Command)
    assert entry.group in GROUPS
    assert entry.examples
    shown = call(name, "--help").output
    for example in entry.examples:
        assert f"\n  {example}\n" in shown
        program, called, *arguments = shlex.split(example.partition(" > ")[0])
        assert (program, called) == ("emitterd", name)
        entry.make_context(name, arguments)


def test_help_lists_all_commands_in_groups() -> None:
    """Each group has a heading, and each command stands in one of them."""
    text = call("--help").output
    places = [text.index(f"\n{heading}:\n") for heading in GROUPS.values()]
    assert places == sorted(places)
    for name in COMMANDS:
        assert text.count(f"\n  {name} ") == 1


def test_the_version_has_a_short_option() -> None:
    """`-V` prints what `--version` prints."""
    assert call("-V").output == call("--version").output == f"emitterd {__version__}\n"


@pytest.mark.parametrize(
    ("line", "suggestion"),
    [
        ("lsit", "Did you mean 'list'?"),
        ("list --stat queued", "'--state'"),
        ("list --state queue", "'queued'"),
        ("retry --all rejected", "emitterd retry --all --state rejected"),
        ("hold --all", "emitterd hold --all --state STATE"),
        ("forget --state delivered", "emitterd forget --all --state STATE"),
        ("hold --all --state queued a.zip", "emitterd hold --all --state STATE"),
    ],
)
def test_a_typing_error_is_answered_with_the_right_command(line: str, suggestion: str) -> None:
    """Exit code 2, and the near command, option, value or form."""
    done = call(*line.split())

    assert done.exit_code == 2
    assert suggestion in done.output


@pytest.mark.parametrize("faults", [("503@1", "nonsense"), ("nonsense", "503@1")])
def test_each_fault_of_the_rehearsal_counts(faults: tuple[str, str]) -> None:
    """`--fault` can be repeated; none is dropped."""
    done = call("rehearse", *(word for fault in faults for word in ("--fault", fault)))

    assert done.exit_code == 2
    assert "unknown fault 'nonsense'" in done.output


@pytest.mark.parametrize(
    ("shell", "file"), [("bash", "emitterd.bash"), ("zsh", "_emitterd"), ("fish", "emitterd.fish")]
)
def test_completion_prints_the_shipped_script(shell: str, file: str) -> None:
    """A user without the package's files has the same completion."""
    assert call("completion", shell).output == (ROOT / "docs" / "completions" / file).read_text()


def test_schema_prints_the_shipped_schema() -> None:
    """An installation without its documents has it too."""
    assert call("schema").output == (ROOT / "docs" / "emitter.schema.json").read_text()


def test_codes_datasets_and_states_are_completed() -> None:
    """A part of a value is enough, and case does not matter in a code."""
    assert completed("explain-error", "") == list(Code)
    assert completed("explain-error", "e21") == ["E210", "E211"]
    assert completed("inspect", "--dataset", "pat/periodic_exam_m") == ["pat/periodic_exam_mst"]
    assert completed("retry", "--all", "--state", "def") == ["deferred"]


def test_paths_in_the_watched_folder_are_completed(tmp_path: Path) -> None:
    """A level at a time; a folder without a rival is entered."""
    (tmp_path / "emitter.yaml").write_text(MINIMAL)
    for name in ("pat/a.zip", "pat/b.zip", "udise/c.zip", "pupils.zip"):
        (tmp_path / "drop" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "drop" / name).touch()
    config = ("--config", str(tmp_path / "emitter.yaml"))

    assert set(completed("hold", *config, "p")) == {"pat/", "pupils.zip"}
    assert set(completed("explain", *config, "pa")) == {"pat/a.zip", "pat/b.zip"}
    assert completed("explain", *config, "pat/a") == ["pat/a.zip"]
    assert completed("explain", *config, "x/") == []
    assert completed("explain", "--config", "absent.yaml", "p") == []
