"""How events are written: one JSON object a line, for any name of a file."""

import json
import os
import threading
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import structlog

from conftest import SmallDisk
from emitterd.codes import Code
from emitterd.service import logging as logs
from emitterd.text import display


def lines(file: Path) -> list[dict[str, Any]]:
    """Return all lines of a log, parsed."""
    return [json.loads(line) for line in file.read_bytes().splitlines()]


@pytest.mark.parametrize(
    "path",
    [
        b"plain.zip",
        "परीक्षा/उपस्थिति.zip".encode(),
        b"caf\xe9.zip",
        b'a\n{"event": "forged"}.zip',
        b'quote" back\\slash.zip',
        b"\x1b[31mred.zip",
        "\u202egnp.zip".encode(),
        b"\xed\xa0\x80.zip",
    ],
)
def test_one_line_for_every_name(path: bytes, tmp_path: Path) -> None:
    """Each event is one line of valid JSON, ASCII only, and forges nothing."""
    file = tmp_path / "log.jsonl"
    logs.configure("info", file)
    structlog.get_logger().info("file.admitted", path=display(path), bytes=3)
    (line,) = lines(file)
    assert line["event"] == "file.admitted"
    assert line["path"] == display(path)
    assert line["path"].isprintable()
    assert file.read_bytes().isascii()


def test_value_that_is_not_utf_8_is_still_a_line(tmp_path: Path) -> None:
    """A folder name with surrogates, which `str(path)` gives, does not end the log."""
    file = tmp_path / "log.jsonl"
    logs.configure("info", file)
    structlog.get_logger().info("watch.started", path=str(Path("/srv/caf\udce9")))
    assert lines(file)[0]["path"] == "/srv/caf\udce9"


def test_fields(tmp_path: Path) -> None:
    """Level, time in UTC, codes as text; no field without a value."""
    file = tmp_path / "log.jsonl"
    logs.configure("info", file)
    structlog.get_logger().error(
        "file.rejected", error=Code.TOO_LARGE, finding=None, duration_s=1.23456789
    )
    (line,) = lines(file)
    assert line.pop("timestamp").endswith("Z")
    assert line == {
        "event": "file.rejected",
        "level": "error",
        "error": "E202",
        "duration_s": 1.234568,
    }


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("error", ["error"]),
    ],
)
def test_level(level: str, written: list[str], tmp_path: Path) -> None:
    """What is below the level is not written."""
    file = tmp_path / "log.jsonl"
    logs.configure(level, file)
    log = structlog.get_logger()
    for name in ("debug", "info", "warning", "error"):
        getattr(log, name)("file.admitted")
    assert [line["level"] for line in lines(file)] == written


def test_traceback_is_inside_the_line(tmp_path: Path) -> None:
    """An exception is a field, not lines of its own."""
    file = tmp_path / "log.jsonl"
    logs.configure("info", file)
    try:
        int("two\nlines")
    except ValueError:
        structlog.get_logger().exception("file.deferred")
    (line,) = lines(file)
    assert "ValueError: invalid literal" in line["exception"]


def test_file_is_appended_to_and_its_folder_made(tmp_path: Path) -> None:
    """A restart goes on in the same file, and each line is out at once."""
    file = tmp_path / "var" / "log" / "log.jsonl"
    for event in ("daemon.started", "daemon.stopped"):
        logs.configure("info", file)
        structlog.get_logger().info(event)
        assert lines(file)[-1]["event"] == event
    assert len(lines(file)) == 2


def test_standard_output(capfd: pytest.CaptureFixture[str]) -> None:
    """Without a file the lines go to standard output, as JSON where it is no tty."""
    logs.configure("info")
    structlog.get_logger().info("daemon.ready", queued=1)
    out, err = capfd.readouterr()
    assert json.loads(out)["queued"] == 1
    assert err == ""


def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A log that cannot be written is reported at once."""
    with pytest.raises(OSError, match="Is a directory"):
        logs.configure("info", tmp_path)


def test_full_disk_does_not_stop_the_work() -> None:
    """A line that cannot be written is lost; the thread that logged it goes on."""
    logs.configure("info", Path("/dev/full"))
    logger = structlog.get_logger()

    for _ in range(1000):
        logger.info("file.delivered", path="x" * 100)

    assert logs._sink._lost == 1000


def test_lost_lines_are_logged_when_the_disk_has_room(small_disk: SmallDisk) -> None:
    """What a full disk cost is in the log, and half a line spoils no other."""
    file = small_disk.root / "log.jsonl"
    logs.configure("info", file)
    logger = structlog.get_logger()
    numbers = range(100)
    logger.info("file.delivered", path="x" * 100, attempt=numbers[0])
    # What is left is the rest of the page that the first line is on.
    small_disk.fill()
    for number in numbers[1:]:
        logger.info("file.delivered", path="x" * 100, attempt=number)
    small_disk.free()
    logger.info("daemon.stopped")

    *some, torn, stopped, reported = file.read_bytes().splitlines()
    written = [json.loads(line)["attempt"] for line in some]
    assert written == list(numbers[: len(written)])
    with pytest.raises(json.JSONDecodeError):
        json.loads(torn)
    assert json.loads(stopped)["event"] == "daemon.stopped"
    loss = json.loads(reported)
    assert (loss["event"], loss["level"]) == ("log.lost", "error")
    assert loss["count"] == len(numbers) - len(written)


def test_a_reader_that_stands_still_costs_lines_and_no_work() -> None:
    """Lines are lost and counted while the pipe is full, and are written again once it is read."""
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    stream = logs.LogStream(write_end)
    logs.configure("info", Path("/dev/null"))
    logs._sink.write_to(stream)
    logger = structlog.get_logger()
    for _ in range(2000):
        logger.info("file.delivered", path="x" * 100)
    lost = logs._sink._lost
    assert 0 < lost < 2000

    written = b""
    with suppress(BlockingIOError):
        while chunk := os.read(read_end, 65536):
            written += chunk
    logger.info("daemon.stopped")
    written = written[written.rfind(b"\n") + 1 :] + os.read(read_end, 65536)
    *_, stopped, reported = written.splitlines()
    assert json.loads(stopped)["event"] == "daemon.stopped"
    assert json.loads(reported)["count"] == lost
    logs.close()
    os.close(read_end)
    os.close(write_end)


def test_a_named_pipe_without_a_reader_is_an_error(tmp_path: Path) -> None:
    """Opening it does not wait for a reader."""
    os.mkfifo(tmp_path / "log")
    with pytest.raises(OSError, match="No such device"):
        logs.configure("info", tmp_path / "log")


def numbered(threads: int, lines_each: int) -> list[threading.Thread]:
    """Start threads that log `attempt` 0, 1, 2 … each, with their own path."""

    def work(name: str) -> None:
        for number in range(lines_each):
            structlog.get_logger().info("file.delivered", path=name, attempt=number)

    started = [
        threading.Thread(target=work, args=(f"pat/{thread}.zip",)) for thread in range(threads)
    ]
    for thread in started:
        thread.start()
    return started


def attempts(written: Iterable[dict[str, Any]]) -> dict[str, list[int]]:
    """Return the numbers of each thread, in the order of the lines."""
    found: dict[str, list[int]] = {}
    for line in written:
        found.setdefault(line["path"], []).append(line["attempt"])
    return found


@pytest.mark.parametrize("again", ["reopen", "configure"])
def test_rotation_under_load(again: str, tmp_path: Path) -> None:
    """Renamed and opened again while threads log, no line is lost, torn or doubled."""
    file = tmp_path / "log.jsonl"
    logs.configure("info", file)
    threads = numbered(4, 3000)
    rotated: list[Path] = []
    while any(thread.is_alive() for thread in threads):
        rotated.append(file.rename(tmp_path / f"log.jsonl.{len(rotated)}"))
        if again == "reopen":
            logs.reopen()
        else:
            logs.configure("info", file)
    for thread in threads:
        thread.join()

    files = [*rotated, file]
    assert sum(1 for file in files if file.stat().st_size) > 2
    assert attempts(line for file in files for line in lines(file)) == {
        f"pat/{thread}.zip": list(range(3000)) for thread in range(4)
    }


def test_file_that_cannot_be_opened_again(tmp_path: Path) -> None:
    """A reopening that fails says so, and the log goes on where it was."""
    file = tmp_path / "log.jsonl"
    logs.configure("info", file)
    rotated = file.rename(tmp_path / "log.jsonl.1")
    file.mkdir()

    with pytest.raises(IsADirectoryError):
        logs.reopen()
    structlog.get_logger().info("daemon.ready")
    assert [line["event"] for line in lines(rotated)] == ["daemon.ready"]


def test_standard_output_has_nothing_to_reopen(capfd: pytest.CaptureFixture[str]) -> None:
    """Where the log is no file, reopening changes nothing."""
    logs.reopen()
    logs.configure("info")
    logs.reopen()
    structlog.get_logger().info("daemon.ready")
    assert json.loads(capfd.readouterr().out)["event"] == "daemon.ready"


def test_silence(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A command that prints all itself logs nothing, not even an error."""
    file = tmp_path / "log.jsonl"
    logs.configure("info", file)
    logs.silence()
    structlog.get_logger().error("auth.refused")

    assert lines(file) == []
    assert capfd.readouterr() == ("", "")


def test_file_that_cannot_be_opened_anew(tmp_path: Path) -> None:
    """Where the new file cannot be had the old one goes on."""
    file = tmp_path / "log.jsonl"
    logs.configure("info", file)
    with pytest.raises(OSError, match="Is a directory"):
        logs.configure("info", tmp_path)
    structlog.get_logger().info("daemon.ready")

    assert len(lines(file)) == 1
