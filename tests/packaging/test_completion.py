"""Completion in real shells: a TAB, and what stands on the line then."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from support.keyboard import Terminal
from support.paths import ROOT

COMPLETIONS = ROOT / "docs" / "completions"
TYPED = [
    ("emitterd li", "emitterd list "),
    ("emitterd explain-", "emitterd explain-error "),
    ("emitterd list --sk", "emitterd list --skipped "),
    ("emitterd hold --all --state w", "emitterd hold --all --state withdrawn "),
]
typed = pytest.mark.parametrize(("keys", "line"), TYPED, ids=[item for item, _ in TYPED])


def environment(home: Path) -> dict[str, str]:
    """Return an environment in which the command of this installation is found."""
    place = str(Path(sys.executable).parent)
    if not Path(place, "emitterd").exists():
        pytest.skip("the command emitterd is not installed beside this interpreter")
    return {
        "PATH": f"{place}:{os.environ['PATH']}",
        "HOME": str(home),
        "TERM": "dumb",
        "PS1": "ready> ",
    }


@contextmanager
def shell(home: Path, *command: str) -> Iterator[Terminal]:
    """Run a shell until the end of the test."""
    terminal = Terminal(*command, env=environment(home))
    try:
        terminal.type("", "ready> ")
        yield terminal
    finally:
        terminal.close()


@typed
def test_bash(tmp_path: Path, keys: str, line: str) -> None:
    """Bash completes commands, options and their values at a TAB."""
    with shell(tmp_path, "bash", "--norc", "-i") as terminal:
        terminal.type(f". {COMPLETIONS}/emitterd.bash && echo lo''aded\n", "loaded")
        terminal.type(f"{keys}\t", line)


@pytest.mark.tools("zsh")
@typed
def test_zsh(tmp_path: Path, keys: str, line: str) -> None:
    """Zsh does so at the first TAB, which loads the file."""
    with shell(tmp_path, "zsh", "-f", "-i") as terminal:
        terminal.type(
            f"fpath=({COMPLETIONS} $fpath); autoload -Uz compinit && compinit -u -D"
            " && echo lo''aded\n",
            "loaded",
        )
        terminal.type(f"{keys}\t", line)


@pytest.mark.tools("fish")
@typed
def test_fish(tmp_path: Path, keys: str, line: str) -> None:
    """Fish has the one candidate that each of these lines can have."""
    script = f"source {COMPLETIONS}/emitterd.fish; complete -C $argv[1]"
    done = subprocess.run(  # noqa: S603  our own argument list
        ["fish", "-c", script, keys],  # noqa: S607  wherever it is
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        check=False,
    )

    candidates = [splitline.split("\t")[0] for splitline in done.stdout.splitlines()]
    assert candidates == [line.rsplit(maxsplit=1)[-1]]


def test_completing_needs_no_daemon() -> None:
    """A TAB waits for the command line alone: no configuration, network or journal."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "emitterd"],
        env=os.environ
        | {"_EMITTERD_COMPLETE": "bash_complete", "COMP_WORDS": "emitterd li", "COMP_CWORD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    loaded = {splitline.rpartition("|")[2].strip() for splitline in done.stderr.splitlines()}
    assert done.stdout.split() == ["plain,list"]
    assert "emitterd.cli" in loaded
    assert not loaded & {"emitterd.daemon", "emitterd.config", "httpx", "sqlite3"}
