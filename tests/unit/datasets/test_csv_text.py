"""The text of a CSV: invalid UTF-8 and lines that are too long."""

import codecs
import io
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.datasets.csv_text import CHUNK_BYTES, LINE_MAX_BYTES, CsvTextReader
from emitterd.datasets.findings import Finding

TEXT = "school_id|name\n1001|राजकीय विद्यालय\n"


def summary(findings: list[Finding]) -> list[tuple[str, str]]:
    """Return code and what was found."""
    return [(finding.code.value, finding.found) for finding in findings]


def read(content: bytes, limit_bytes: int = 10**9) -> tuple[str, CsvTextReader]:
    """Return the valid text, and its reader."""
    lines = CsvTextReader(io.BytesIO(content).read, limit_bytes)
    return b"".join(lines.blocks()).decode(), lines


@pytest.mark.parametrize("times", [1, 5000])
@pytest.mark.parametrize("ending", ["\n", "", "\n\n"], ids=repr)
def test_sound_text_is_read_whole(times: int, ending: str) -> None:
    """Every character is read, wherever chunks end."""
    text = (TEXT * times).removesuffix("\n") + ending
    got, lines = read(text.encode())

    assert got == text
    assert lines.findings == []
    assert (lines.valid, lines.whole) == (True, True)
    assert lines.read_bytes == len(text.encode())


@given(st.text("a\n|\ré€😀", max_size=40), st.integers(1, 300))
def test_each_block_is_whole_lines(text: str, times: int) -> None:
    """A block ends with a line, except where the text does not."""
    content = (text * times * 40).encode()
    lines = CsvTextReader(io.BytesIO(content).read, 10**9)
    blocks = list(lines.blocks())

    assert b"".join(blocks) == re.sub(b"\r\n?", b"\n", content)
    assert all(block.endswith(b"\n") for block in blocks[:-1])


def test_the_limit_cuts_a_line_off() -> None:
    """A line that the limit cuts is left out."""
    content = b"x" * 99 + b"\n"
    got, lines = read(content * 10, 250)

    assert got.encode() == content * 2
    assert (lines.read_bytes, lines.valid, lines.whole) == (250, True, False)


def test_a_limit_at_the_very_end_is_the_whole() -> None:
    """A file of exactly the limit was read to its end."""
    got, lines = read(b"a\nb", 3)
    assert (got, lines.whole) == ("a\nb", True)


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (TEXT.encode("utf-16"), "UTF-16"),
        (codecs.BOM_UTF16_BE + TEXT.encode("utf-16-be"), "UTF-16"),
        (
            b"school_id|name\n".decode().encode("utf-16-le"),
            "zero bytes at its beginning: UTF-16, or no text at all",
        ),
        (b"PK\3\4rest", "a zip or an Excel workbook (.xlsx), not a CSV"),
        (b"\xd0\xcf\x11\xe0rest", "an Excel workbook (.xls), not a CSV"),
    ],
    ids=["UTF-16", "UTF-16 big-endian", "UTF-16 without mark", "xlsx", "xls"],
)
def test_what_is_no_text_ends_the_reading(content: bytes, found: str) -> None:
    """The finding names the kind of file."""
    _, lines = read(content)

    assert summary(lines.findings) == [("E230", found)]
    assert lines.findings[0].loses == "file"
    assert not lines.valid


REPLACED = {
    "Latin-1": (b"nom\nEcole Mod\xe8le\n", "byte E8 in line 2, after 'Ecole Mod'"),
    "several": (b"\xe9|\xe9\nb\n\xff\n", "2 lines, the first: byte E9 in line 1, after ''"),
    "last line": (b"a\nb\n\xff", "byte FF in line 3, after ''"),
    "cut off": (b"a\xc3", "byte C3 in line 1, after 'a'"),
    "second chunk": (
        b"\n" * 70_000 + b"x" * 30 + b"\xe9\n",
        "byte E9 in line 70001, after 'xxxxxxxxxxxxxxxxxxxx'",
    ),
}


@pytest.mark.parametrize(("content", "found"), REPLACED.values(), ids=REPLACED)
def test_bytes_that_are_not_utf8_are_replaced(content: bytes, found: str) -> None:
    """The server replaces them and keeps the row, so the reading goes on."""
    text, lines = read(content)

    assert text == content.decode(errors="replace")
    assert summary(lines.findings) == [("E230", found)]
    assert lines.findings[0].loses == "value"
    assert (lines.valid, lines.whole) == (True, True)


def test_a_zero_byte_is_found_in_any_line() -> None:
    """PostgreSQL refuses it. The finding names the line, and only the first one."""
    _, lines = read(b"a|b\n" * 30_000 + b"1|x\0y\n2|\0\n")

    assert summary(lines.findings) == [("E230", "a zero byte (NUL) in line 30001, after '1|x'")]
    assert lines.findings[0].loses == "file"
    assert lines.valid


@pytest.mark.parametrize("ending", ["\n", "\r", "\r\n"], ids=repr)
@pytest.mark.parametrize("length", [CHUNK_BYTES - 2, CHUNK_BYTES - 1, CHUNK_BYTES])
def test_every_line_end_is_one_line(ending: str, length: int) -> None:
    """CR, LF and CRLF end one line, also where a chunk ends between them."""
    text, _ = read(("x" * length + ending + "y" + ending).encode())
    assert text == "x" * length + "\ny\n"


def test_a_mark_is_noted_and_left_out() -> None:
    """A byte order mark is not part of the first column."""
    got, lines = read(codecs.BOM_UTF8 + b"a|b\n")

    assert got == "a|b\n"
    assert summary(lines.findings) == [("E231", "the mark EF BB BF before the first column")]
    assert lines.valid


@pytest.mark.parametrize("ending", [b"", b"\n", b"\nb\n"], ids=repr)
@pytest.mark.parametrize("before", [b"", b"a\nb\n"], ids=repr)
def test_a_line_over_1_mib_ends_the_text(before: bytes, ending: bytes) -> None:
    """The server reads lines of 1 MiB, and no longer ones."""
    longest = before + b"x" * LINE_MAX_BYTES + ending
    longer = before + b"x" * (LINE_MAX_BYTES + 1) + ending

    assert summary(read(longest)[1].findings) == []
    line = before.count(b"\n") + 1
    assert summary(read(longer)[1].findings) == [("E235", f"line {line} is longer")]


def test_a_line_without_end_is_given_up_at_1_mb() -> None:
    """A file of one long line is read only until the line is too long."""
    _, lines = read(b"x" * (8 * LINE_MAX_BYTES))

    assert summary(lines.findings) == [("E235", "line 1 is longer")]
    assert lines.read_bytes <= LINE_MAX_BYTES + CHUNK_BYTES
