"""The documents and the code: each name in one exists in the other."""

import ast
import fnmatch
import re
import runpy

import pytest

from support.command import command_options
from support.paths import ROOT

EVENT = re.compile(
    r"(daemon|file|path|destination|auth|watch|sweep|journal|host|log|web|operator|alert|tracking)"
    r"\.[a-z_]+"
)
NO_EVENTS = {
    "journal.host",
    "journal.password_file",
    "journal.path",
    "journal.state_directory",
    "journal.url",
    "journal.db",
    "file.zip",
    "log.file",
    "web.client_address_header",
    "web.listen",
    "web.operators_file",
    "web.public_url",
    "web.token_file",
} | {"tracking.enabled"}
PACKAGE = ROOT / "emitterd"
README = (ROOT / "README.md").read_text("utf-8")


def logged_events() -> set[str]:
    """Return every literal of the package that reads as an event name."""
    return {
        node.value
        for module in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(module.read_text("utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and EVENT.fullmatch(node.value)
        and node.value not in NO_EVENTS
    }


def table_column(document: str) -> list[str]:
    """Return the names in code style that begin a table's rows."""
    return re.findall(r"^\| `([^`|]+)`", (ROOT / document).read_text(), re.MULTILINE)


def test_every_event_is_documented() -> None:
    """docs/events.md has exactly the events that the code logs."""
    documented = {name for name in table_column("docs/events.md") if "." in name}
    assert logged_events() == documented


def test_every_command_is_in_the_reference() -> None:
    """The table of docs/commands.md has exactly the commands that exist."""
    table = (ROOT / "docs" / "commands.md").read_text("utf-8")
    rows = [row.split(" | ")[0] for row in table.splitlines() if row[:3] == "| `"]
    named = {
        command.removeprefix("emitterd ").split()[0]
        for row in rows
        for command in re.findall(r"`([^`]+)`", row)
    }
    assert set(command_options()) == named


@pytest.mark.parametrize("document", ["docs/commands.md", "docs/troubleshooting.md"])
def test_every_option_in_a_document_exists(document: str) -> None:
    """The documents show commands with options that they have."""
    known = command_options()
    text = (ROOT / document).read_text("utf-8")
    commands = re.findall(r"`emitterd ([a-z-]+)([^`]*)`", text)

    assert len(commands) >= 20
    for name, rest in commands:
        assert set(re.findall(r"--[a-z-]+", rest)) <= known[name], name


def test_ci_runs_what_the_readme_says() -> None:
    """.ci/run calls the script that takes the README's two commands from the README."""
    commands = re.findall(r"^\$ (.+)$", README, re.MULTILINE)
    script = runpy.run_path(str(ROOT / ".ci" / "fresh-debian"))
    read = [script["command_of"](section) for section in script["SECTIONS"].values()]

    assert read == commands
    assert "\n  DEBIAN=$suite .ci/fresh-debian\n" in (ROOT / ".ci" / "run").read_text()


def test_the_list_of_attacks_names_tests_that_exist() -> None:
    """docs/security.md names each test, or the number of those that begin alike."""
    text = (ROOT / "docs" / "security.md").read_text("utf-8")
    tests = {
        name
        for path in (ROOT / "tests" / "unit").rglob("test_*.py")
        for name in re.findall(r"^def (test_\w+)", path.read_text("utf-8"), re.MULTILINE)
    }
    named = re.findall(r"`(test_[\w*]+)`(?: \((\d)\))?", text)

    assert len(named) >= 15
    for pattern, number in named:
        assert len(fnmatch.filter(tests, pattern)) == int(number or 1), pattern


def test_packages_and_files_named_in_the_design_exist() -> None:
    """CONTRIBUTING names every package in its layers; the design names files that exist."""
    text = (ROOT / "docs" / "design.md").read_text("utf-8")
    layers = (ROOT / "CONTRIBUTING.md").read_text("utf-8")
    packages = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}

    assert set(re.findall(r"`([a-z]+)`: ", layers)) == packages
    for file in re.findall(r"`((?:emitterd|tests)/[\w/.]+)`", text):
        assert (ROOT / file).exists(), file
