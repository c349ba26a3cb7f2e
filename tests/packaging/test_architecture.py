"""The rules of the code that no linter knows; import-linter holds the layers."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from support.paths import ROOT

PACKAGE = ROOT / "emitterd"
MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TESTS = sorted(path for path in (ROOT / "tests").rglob("*.py") if path.parent.name != "soak")

# Each library has one home, so that it can be replaced in one file. `get_logger` of
# structlog is for every module; each command reports wrong usage with click. Daemon and
# rehearsal server each have a web server.
WEB_HOMES = {"web.http_server", "rehearsal"}
LIBRARIES: dict[str, str | set[str]] = {
    "apprise": "monitoring.alerts.sender",
    "click": "cli",
    "httpcore": "client.sockets",
    "httpx": "client.http",
    "jinja2": "web.rendering",
    "markupsafe": "web.rendering",
    "pathspec": "spool.selection",
    "prometheus_client": "monitoring.metrics",
    "psycopg": "journal.postgresql",
    "python_multipart": {"rehearsal.bucket", "web.inspection_page"},
    "rich": "cli.output",
    "starlette": WEB_HOMES,
    "tenacity": "client.api",
    "uvicorn": WEB_HOMES,
    "watchdog": "spool.watcher",
    "yaml": "yaml_reader",
}
DISTRIBUTIONS = {
    "prometheus-client": "prometheus_client",
    "python-multipart": "python_multipart",
    "pyyaml": "yaml",
}

MODULE_MAX_LINES = 700
PACKAGE_MAX_MODULES = 12
FUNCTION_MAX_LINES = 40
CATCH_ALL = {
    "service.threads": 1,
    "delivery.worker": 1,
    # Each is a fence around one path, or the watch.
    "intake.file_status": 1,
    "intake.examine": 1,
    "intake.loop": 3,
    "spool.watcher": 1,
    "housekeeping.disposal": 1,
    "monitoring.alerts.loop": 1,
    "tracking.tracker": 1,
}


@cache
def tree(path: Path) -> ast.Module:
    """Return a file's syntax tree."""
    return ast.parse(path.read_text("utf-8"))


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
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path.name}: a relative import"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def libraries(module: str) -> set[str]:
    """Return the third-party libraries that a module imports."""
    tops = {name.split(".")[0] for name in imported(MODULES[module])}
    return tops - sys.stdlib_module_names - {"emitterd"}


def functions(path: Path) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    """Yield every function and method of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node


def test_packages_lie_in_layers() -> None:
    """import-linter finds no import that leads upward."""
    done = subprocess.run(  # noqa: S603  our own argument list
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


def test_a_package_has_few_modules() -> None:
    """A package with more modules is two packages."""
    modules = Counter(
        package
        for package, _, module in (name.rpartition(".") for name in MODULES)
        if package and module != "__init__"
    )
    assert {name: n for name, n in modules.items() if n > PACKAGE_MAX_MODULES} == {}


def test_no_two_classes_share_a_name() -> None:
    """One name means one thing in the whole package."""
    classes = Counter(
        node.name
        for path in MODULES.values()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ClassDef)
    )
    assert [name for name, count in classes.items() if count > 1] == []


def test_each_library_has_one_home() -> None:
    """No module outside its home imports a third-party library."""
    expected = {
        library: {home} if isinstance(home, str) else home for library, home in LIBRARIES.items()
    }
    homes: dict[str, set[str]] = {}
    for module in MODULES:
        for library in libraries(module) - {"structlog"}:
            packages = [home for home in expected.get(library, ()) if module.startswith(f"{home}.")]
            homes.setdefault(library, set()).update(packages or [module])
    assert homes == expected


@pytest.mark.slow
def test_structlog_is_a_logger_and_nothing_else() -> None:
    """Outside `service.logging` only `get_logger` is used."""
    for module in MODULES.keys() - {"service.logging"}:
        used = set(re.findall(r"\bstructlog\.(\w+)", MODULES[module].read_text("utf-8")))
        assert used <= {"get_logger"}, module
        names = imported(MODULES[module])
        assert not any(name.startswith("structlog.") for name in names), module


def test_what_is_imported_is_declared() -> None:
    """The dependencies of the package are those that it imports, no more, no less."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = [*project["dependencies"], *project["optional-dependencies"]["postgresql"]]
    names = [re.split(r"[\[<>=~ ]", line)[0] for line in lines]
    declared = {DISTRIBUTIONS.get(name, name) for name in names}

    assert declared == {*LIBRARIES, "structlog"}


def test_only_the_journal_has_sql() -> None:
    """A statement of SQL stands in the package `journal`, so that a store can be replaced there."""
    statement = re.compile(
        r"^\s*\(?(select\s.+\sfrom\s|insert into |update \w+ set|delete from |with \w+ as|pragma )",
        re.IGNORECASE | re.DOTALL,
    )
    found = {
        name
        for name, path in MODULES.items()
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and statement.match(node.value)
    }
    assert "journal.numbers" in found
    assert {name for name in found if not name.startswith("journal.")} == set()


def test_a_module_can_be_read_in_one_sitting() -> None:
    """A module that outgrows its budget holds more than one concept."""
    lines = {module: path.read_text("utf-8").count("\n") for module, path in MODULES.items()}
    assert [module for module, count in lines.items() if count > MODULE_MAX_LINES] == []


def test_a_function_fits_on_a_screen() -> None:
    """A function has at most 40 lines, docstring included."""
    lengths = {
        f"{module}.{function.name}": (function.end_lineno or 0) - function.lineno + 1
        for module, path in MODULES.items()
        for function in functions(path)
    }
    assert {name: lines for name, lines in lengths.items() if lines > FUNCTION_MAX_LINES} == {}


def test_only_the_two_loops_catch_everything() -> None:
    """An unexpected error reaches one of the few places that report it."""
    caught = Counter(
        module
        for module, path in MODULES.items()
        for node in ast.walk(tree(path))
        if isinstance(node, ast.ExceptHandler)
        and (node.type is None or "Exception" in ast.unparse(node.type).split("."))
    )
    assert caught == CATCH_ALL


def test_no_test_sleeps() -> None:
    """A test waits for what it expects, with a deadline, and never for time."""
    assert [path.name for path in TESTS if "time.sleep" in imported(path)] == []
    assert [
        f"{path.name}:{node.lineno}"
        for path in TESTS
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Attribute)
        and node.attr == "sleep"
        and ast.unparse(node) == "time.sleep"
    ] == []


def test_every_test_says_what_it_holds() -> None:
    """Each test has a docstring whose first line is a sentence."""
    silent = [
        f"{path.name}: {test.name}"
        for path in TESTS
        for test in functions(path)
        if test.name.startswith("test_")
        and not (ast.get_docstring(test) or "").partition("\n")[0].endswith(".")
    ]
    assert silent == []
