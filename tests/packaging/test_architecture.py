"""The rules of the code that no linter knows: levels, libraries, budgets, tests."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from support.paths import ROOT

MODULES = {path.stem: path for path in sorted((ROOT / "emitterd").glob("*.py"))}
TESTS = sorted((ROOT / "tests").glob("*.py"))

# From the bottom up. A module imports from lines above its own only; what stands on
# one line is independent of each other. A new module goes on the first line below
# all that it imports.
LEVELS = """
__init__ allowance arena bandwidth chart codes concurrency dataset dialect endpoint
    failpoints grouping hashing imports journald phrases pulse roff secret units
fingerprint meanings timetable
errors verdict eta throttle
complaints entry finding listener
admission backoff ballast catalogue classify container grant header
    ahead instruction lock members reader receipts refusal rows selection settle turns
    logs mounts notify relocation rendering signals uploads wake watcher yamlmarks
    rehearsal_faults
archive catalogue_file confirmation database gate multipart playbook sample spool
    transfer config_layers rehearsal_answers template
destination lines statements lookout sockets control
    config_timetable config_values search secrets_source rehearsal_signing
    supervision throughput waiting
history progress salvage wire handshake
door hand inspection metrics overview rebuild records session standing wording
inspector journal client_config headline
bulletin counted disposal emission explanation passage retention survey config_checks
    handover rehearsal_bucket
attempt config examination page rehearsal_api skeleton
change intake worker machine route rehearsal_exchange
health
assembly crew tables online rehearsal_desk
reload rehearsal serving terminal
checkup daemon demo inquiries rehearse queries acts producers primer
commands
cli
__main__ manual
"""

# Each library has one home, so that it can be replaced in one file; only the logger
# of structlog is for everybody.
LIBRARIES = {
    "click": "cli",
    "httpcore": "sockets",
    "httpx": "wire",
    "jinja2": "rendering",
    "pathspec": "selection",
    "prometheus_client": "metrics",
    "python_multipart": "rehearsal_bucket",
    "rich": "tables",
    "starlette": "rehearsal",
    "tenacity": "emission",
    "uvicorn": "rehearsal",
    "watchdog": "watcher",
    "yaml": "yamlmarks",
}
DISTRIBUTIONS = {
    "prometheus-client": "prometheus_client",
    "python-multipart": "python_multipart",
    "pyyaml": "yaml",
}

MODULE_MAX_LINES = 350
FUNCTION_MAX_LINES = 40
CATCH_ALL = {"crew": 1, "worker": 1}

every_module = pytest.mark.parametrize("module", MODULES)


@cache
def tree(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text("utf-8"))


@cache
def levels() -> dict[str, int]:
    """Return the level of each module of the table."""
    lines = LEVELS.strip().replace("\n    ", " ").split("\n")
    return {
        module: level for level, line in enumerate(lines) for module in line.split()
    }


def at_run_time(node: ast.AST) -> Iterator[ast.AST]:
    """Yield all nodes below one, without what stands under `if TYPE_CHECKING`."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
            continue
        yield child
        yield from at_run_time(child)


def imported(path: Path) -> set[str]:
    """Return the dotted names that a file imports, types only left out."""
    names: set[str] = set()
    for node in at_run_time(tree(path)):
        if isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            names |= {f"{node.module}.{one.name}" for one in node.names}
    return names


def own_imports(module: str) -> set[str]:
    """Return the modules of this package that a module imports."""
    names = [name.split(".") for name in imported(MODULES[module])]
    seconds = {parts[1] for parts in names if parts[0] == "emitterd" and parts[1:]}
    return {one if one in MODULES else "__init__" for one in seconds}


def libraries(module: str) -> set[str]:
    """Return the third-party libraries that a module imports."""
    tops = {name.split(".")[0] for name in imported(MODULES[module])}
    return tops - sys.stdlib_module_names - {"emitterd"}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_every_module_has_a_level() -> None:
    """The table names each module once, and no module that is not there."""
    words = LEVELS.split()

    assert sorted(words) == sorted(set(words))
    assert set(words) == set(MODULES)


@every_module
def test_imports_lead_downward(module: str) -> None:
    """A module imports from lower levels only, never from its own or above."""
    wrong = {
        one
        for one in own_imports(module)
        if levels().get(one, 0) >= levels().get(module, sys.maxsize)
    }
    assert not wrong


def test_no_module_imports_itself_in_a_circle() -> None:
    """The imports have an order, whatever the table says."""
    TopologicalSorter({module: own_imports(module) for module in MODULES}).prepare()


def test_each_library_has_one_home() -> None:
    """A third-party library is imported by the one module that knows it."""
    homes = {
        library: {module for module in MODULES if library in libraries(module)}
        for module in MODULES
        for library in libraries(module) - {"structlog"}
    }
    assert homes == {library: {module} for library, module in LIBRARIES.items()}


def test_structlog_is_a_logger_and_nothing_else() -> None:
    """Outside logs.py nothing but `get_logger` is taken of it."""
    for module in MODULES.keys() - {"logs"}:
        used = set(
            re.findall(r"\bstructlog\.(\w+)", MODULES[module].read_text("utf-8"))
        )
        assert used <= {"get_logger"}, module
        names = imported(MODULES[module])
        assert {one for one in names if one.startswith("structlog.")} == set(), module


def test_what_is_imported_is_declared() -> None:
    """The dependencies of the package are those that it imports, no more, no less."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    names = [re.split(r"[<>=~ ]", one)[0] for one in project["dependencies"]]
    declared = {DISTRIBUTIONS.get(name, name) for name in names}

    assert declared == {*LIBRARIES, "structlog"}


@every_module
def test_a_module_can_be_read_in_one_sitting(module: str) -> None:
    """A module that outgrows its budget is two modules."""
    lines = MODULES[module].read_text("utf-8").count("\n")
    assert lines <= MODULE_MAX_LINES


@every_module
def test_a_function_fits_on_a_screen(module: str) -> None:
    """Docstring included; how tangled it may be is ruff's."""
    lengths = {
        function.name: (function.end_lineno or 0) - function.lineno + 1
        for function in functions(MODULES[module])
    }
    assert {
        name: lines for name, lines in lengths.items() if lines > FUNCTION_MAX_LINES
    } == {}


@every_module
def test_only_the_two_loops_catch_everything(module: str) -> None:
    """A bug met by one file, or by one thread, must not end the daemon unseen."""
    caught = [
        node
        for node in ast.walk(tree(MODULES[module]))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or "Exception" in ast.unparse(node.type).split("."))
    ]
    assert len(caught) == CATCH_ALL.get(module, 0)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_no_test_sleeps(path: Path) -> None:
    """A test waits for what it expects, with a deadline, and never for time."""
    assert "time.sleep" not in imported(path)
    assert not [
        node.lineno
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute) and ast.unparse(node) == "time.sleep"
    ]


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_every_test_says_what_it_holds(path: Path) -> None:
    """Each test has a docstring whose first line is a sentence."""
    silent = [
        test.name
        for test in functions(path)
        if test.name.startswith("test_")
        and not (ast.get_docstring(test) or "").partition("\n")[0].endswith(".")
    ]
    assert silent == []
