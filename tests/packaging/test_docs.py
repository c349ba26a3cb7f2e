"""The documents against the code: what one names, the other has."""

import ast
import re
import runpy

import pytest

from support.documents import command_options
from support.paths import ROOT

EVENT = re.compile(
    r"(daemon|file|destination|auth|watch|sweep|journal|log|metrics|operator)\.[a-z_]+"
)
NO_EVENTS = {
    "journal.path",
    "journal.db",
    "file.zip",
    "log.file",
    "metrics.listen",
    "metrics.token_file",
}


def logged_events() -> set[str]:
    """Return every literal of the package that reads as an event name."""
    return {
        node.value
        for module in (ROOT / "emitterd").glob("*.py")
        for node in ast.walk(ast.parse(module.read_text()))
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
    assert logged_events() == set(table_column("docs/events.md"))


def test_every_command_is_in_the_readme() -> None:
    """The README's table has exactly the commands that exist."""
    readme = (ROOT / "README.md").read_text()
    table = readme[readme.index("## Commands") : readme.index("| exit code |")]
    rows = [row.split(" | ")[0] for row in table.splitlines() if row[:3] == "| `"]
    named = {
        command.removeprefix("emitterd ").split()[0]
        for row in rows
        for command in re.findall(r"`([^`]+)`", row)
    }
    assert set(command_options()) == named


def test_every_option_of_the_readme_exists() -> None:
    """The README's commands are shown with options that they have."""
    known = command_options()
    rows = re.findall(r"`emitterd ([a-z-]+)([^`]*)`", (ROOT / "README.md").read_text())

    assert len(rows) > 20
    for name, rest in rows:
        assert set(re.findall(r"--[a-z-]+", rest)) <= known[name], name


def test_ci_runs_what_the_readme_says() -> None:
    """.ci/run calls the script that takes the README's two commands from the README."""
    commands = re.findall(r"^\$ (.+)$", (ROOT / "README.md").read_text(), re.MULTILINE)
    script = runpy.run_path(str(ROOT / ".ci" / "fresh-debian"))
    read = [script["command_of"](section) for section in script["SECTIONS"].values()]

    assert read == commands
    assert "\n  DEBIAN=$suite .ci/fresh-debian\n" in (ROOT / ".ci" / "run").read_text()


DOCUMENTS = ["README.md", *(f"docs/{one.name}" for one in (ROOT / "docs").glob("*.md"))]


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """A relative link in a document names a file that exists."""
    place = ROOT / document
    for target in re.findall(r"\]\(([^)#:]+)\)", place.read_text()):
        assert (place.parent / target).exists(), target


def test_modules_named_in_the_design_exist() -> None:
    """Modules named in the design's layout are in the package."""
    text = (ROOT / "docs" / "design.md").read_text()
    layout = text[text.index("## Layout") :]
    names = {
        word
        for line in layout.splitlines()
        if line.startswith("    ")
        for word in re.split(r"  +|─", line.strip())[0].split()
    }

    assert names
    for name in names:
        assert (ROOT / "emitterd" / f"{name}.py").exists(), name
