"""systemd/emitterd.logrotate, carried out by logrotate itself."""

import grp
import gzip
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from support.paths import ROOT
from support.waiting import wait_until

SHIPPED = ROOT / "systemd" / "emitterd.logrotate"
ROTATIONS = 4

LOGGING = """
import signal, sys, threading
from pathlib import Path
import structlog
from emitterd.service import logging as logs
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP, signal.SIGTERM})
logs.configure("info", Path(sys.argv[1]))
stopping = threading.Event()
def work(name):
    number = 0
    while not stopping.is_set():
        structlog.get_logger().info("file.delivered", path=name, attempt=number)
        number += 1
    sys.stdout.write(f"{name} {number}\\n")
threads = [threading.Thread(target=work, args=(f"pat/{n}.zip",)) for n in range(4)]
for thread in threads:
    thread.start()
while signal.sigwait({signal.SIGHUP, signal.SIGTERM}) == signal.SIGHUP:
    logs.reopen()
stopping.set()
"""


Logrotate = Callable[..., str]


@pytest.fixture
def logrotate(tmp_path: Path) -> Logrotate:
    """Run logrotate, with a state of its own; return what it says."""
    path = "/usr/sbin:/sbin:" + os.environ["PATH"]
    program = str(shutil.which("logrotate", path=path))

    def run(*arguments: object) -> str:
        done = subprocess.run(  # noqa: S603  our own argument list
            [program, "--state", tmp_path / "state", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run


@pytest.fixture
def logging(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """Start a process that logs until SIGTERM, and opens its file again on SIGHUP."""
    with subprocess.Popen(  # noqa: S603  our own argument list
        [sys.executable, "-c", LOGGING, str(folder / "emitterd.jsonl")],
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        yield process
        process.kill()


def adapted(folder: Path, reload: str) -> Path:
    """Write the shipped file for this folder, user and reload; return its path."""
    user = pwd.getpwuid(os.getuid()).pw_name
    group = grp.getgrgid(os.getgid()).gr_name
    before, postrotate, after = SHIPPED.read_text().partition("\tpostrotate\n")
    after = after[after.index("\tendscript") :]
    text = before + postrotate + f"\t\t{reload}\n" + after
    for shipped, ours in [
        ("/var/log/emitterd", str(folder)),
        (" emitterd emitterd", f" {user} {group}"),
    ]:
        assert shipped in text
        text = text.replace(shipped, ours)
    file = folder.parent / "emitterd.logrotate"
    file.write_text(text)
    file.chmod(0o644)
    return file


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make the folder of the logs, as systemd does."""
    folder = tmp_path / "log"
    folder.mkdir(0o755)
    return folder


@pytest.mark.tools("logrotate")
def test_shipped_file_is_understood(folder: Path, logrotate: Logrotate) -> None:
    """What logrotate reads in it is what it is meant to say, and no fault."""
    (folder / "emitterd.jsonl").write_text("{}\n")
    output = logrotate("--debug", adapted(folder, "exit 1"))

    assert "error" not in output
    assert f"rotating pattern: {folder}/*.jsonl {folder}/*.log  after 1 days" in output
    assert "(30 rotations)" in output
    assert "empty log files are not rotated" in output
    assert f"considering log {folder}/emitterd.jsonl" in output


def test_shipped_reload() -> None:
    """The command after a rotation is whole, and starts no service that is at rest."""
    script = SHIPPED.read_text().partition("postrotate\n")[2].partition("\tendscript")[0]

    subprocess.run(["sh", "-n", "-c", script], check=True)  # noqa: S603, S607  as logrotate
    assert "systemctl try-reload-or-restart emitterd.service" in script


@pytest.mark.tools("logrotate")
def test_rotation_loses_no_line(
    folder: Path, logrotate: Logrotate, logging: subprocess.Popen[str]
) -> None:
    """Rotated again and again, a log misses no line, and has none torn or twice."""
    log = folder / "emitterd.jsonl"
    configuration = adapted(folder, f"kill -HUP {logging.pid}")
    for _ in range(ROTATIONS):
        # A file that logrotate has made is empty until it is opened again.
        wait_until(lambda: log.exists() and log.stat().st_size, 30, "lines in the log")
        logrotate("--force", configuration)
    wait_until(lambda: log.stat().st_size, 30, "lines in the last log")
    logging.send_signal(signal.SIGTERM)
    output, _ = logging.communicate(timeout=60)

    old = [f"emitterd.jsonl.{number}.gz" for number in range(ROTATIONS, 1, -1)]
    assert sorted(file.name for file in folder.iterdir()) == sorted(
        [*old, "emitterd.jsonl.1", "emitterd.jsonl"]
    )
    data = b"".join(gzip.decompress((folder / item).read_bytes()) for item in old)
    data += (folder / "emitterd.jsonl.1").read_bytes() + log.read_bytes()
    attempts: dict[str, list[int]] = {}
    for line in map(json.loads, data.splitlines()):
        attempts.setdefault(line["path"], []).append(line["attempt"])
    counted = dict(line.split() for line in output.splitlines())
    assert attempts == {name: list(range(int(n))) for name, n in counted.items()}
    assert log.stat().st_mode & 0o777 == 0o640
