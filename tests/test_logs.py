"""How events are written: one JSON object a line, whatever a file is called."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import structlog

from emitterd import logs
from emitterd.codes import Code
from emitterd.entry import display


@pytest.fixture(autouse=True)
def _defaults() -> Iterator[None]:
    """Close the log and leave structlog as it was."""
    yield
    logs.close()
    structlog.reset_defaults()


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
def test_one_line_whatever_the_name(path: bytes, tmp_path: Path) -> None:
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
    for one in logs.LEVELS:
        getattr(log, one)("file.admitted")
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


def test_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    """Without a file the lines go to standard output, as JSON where it is no tty."""
    logs.configure("info")
    structlog.get_logger().info("daemon.ready", queued=1)
    out, err = capsys.readouterr()
    assert json.loads(out)["queued"] == 1
    assert err == ""


def test_file_that_cannot_be_opened(tmp_path: Path) -> None:
    """A log that cannot be written is told at once."""
    with pytest.raises(OSError, match="Is a directory"):
        logs.configure("info", tmp_path)


def test_full_disk_does_not_stop_the_work() -> None:
    """A line that cannot be written is lost; whoever logged it goes on."""
    logs.configure("info", Path("/dev/full"))
    logger = structlog.get_logger()

    for _ in range(1000):
        logger.info("file.delivered", path="x" * 100)

    with pytest.raises(OSError, match="No space left"):
        structlog.get_config()["logger_factory"]._stream.write("\n")


def test_silence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A command that tells all itself logs nothing, not even an error."""
    file = tmp_path / "log.jsonl"
    logs.configure("info", file)
    logs.silence()
    structlog.get_logger().error("auth.refused")

    assert lines(file) == []
    assert capsys.readouterr() == ("", "")


def test_reopened_under_load_no_line_is_lost(tmp_path: Path) -> None:
    """While threads write, the file is moved away and opened anew, again and again."""
    file = tmp_path / "log.jsonl"
    logs.configure("info", file)
    threads, each = 4, 2000

    def write(number: int) -> None:
        for line in range(each):
            structlog.get_logger().info("file.delivered", path=f"{number}-{line}")

    with ThreadPoolExecutor(threads) as pool:
        writing = [pool.submit(write, number) for number in range(threads)]
        moved = 0
        while not all(one.done() for one in writing):
            file.rename(tmp_path / f"log.{moved}.jsonl")
            logs.configure("info", file)
            moved += 1
        for one in writing:
            one.result()
    logs.close()

    paths = [line["path"] for one in tmp_path.glob("log*") for line in lines(one)]
    assert moved > 1
    assert len(paths) == len(set(paths)) == threads * each


def test_file_that_cannot_be_opened_anew(tmp_path: Path) -> None:
    """Where the new file cannot be had the old one goes on."""
    file = tmp_path / "log.jsonl"
    logs.configure("info", file)
    with pytest.raises(OSError, match="Is a directory"):
        logs.configure("info", tmp_path)
    structlog.get_logger().info("daemon.ready")

    assert len(lines(file)) == 1
