"""The text of a CSV, in blocks of whole lines, as the server reads it.

Only one chunk and one line are in memory. A line may be as long as the server reads. Source:
cQube's NiFi templates (lines over 1 MiB fail; CR, LF and CRLF end a line; bytes that are not UTF-8
are replaced).
"""

import codecs
import csv
import re
from collections.abc import Callable, Iterable, Iterator

from emitterd.codes import Code
from emitterd.datasets.findings import Finding, Loss, finding, quoted
from emitterd.translation.text import Text

LINE_MAX_BYTES = 1_048_576
CHUNK_BYTES = 64 * 1024
BLANKS = bytes(range(33))
"""What the server trims from both ends of a value; U+00A0 is not part of it."""

_UTF8 = "UTF-8"
_OPENINGS = {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"PK\x03\x04": Text("a zip or an Excel workbook (.xlsx), not a CSV"),
    b"\xd0\xcf\x11\xe0": Text("an Excel workbook (.xls), not a CSV"),
}
_OPENING_BYTES = 1000
_BEFORE_CHARACTERS = 20
"""How much of a line is shown before the byte that is wrong."""

VALUE_MAX = LINE_MAX_BYTES
"""The longest value. A quote that is never closed makes one value of the rest of the file. The
limit of the `csv` module is global, for all readers."""
csv.field_size_limit(VALUE_MAX)


class _ServerDialect(csv.Dialect):
    delimiter = "|"
    quotechar = '"'
    escapechar = "\\"
    doublequote = True
    skipinitialspace = False
    lineterminator = "\n"
    quoting = csv.QUOTE_MINIMAL
    strict = True


def server_rows(lines: Iterable[str], delimiter: str) -> Iterator[list[str]]:
    r"""Yield the records of lines as the server's CSV reader splits them; values are not trimmed.

    The server writes `"` for `\"` before it reads. A quote counts only at the beginning of a value.
    Raises `csv.Error` where the server's reader fails: for text after a closing quote, and for a
    quote that is never closed. Source: commons-csv 1.8, with the settings of cQube's templates.
    """
    mark = re.escape(delimiter)
    escape = re.compile(rf'\\([\\"\n]|{mark})|\\')
    blanks_after_quote = re.compile(rf'"[ \t\f\v]+(?={mark}|\n|$)')

    def prepared(line: str) -> str:
        if "\\" in line:
            line = line.replace('\\"', '"')
            # A backslash before any other character stays in the value, as in `\N`.
            line = escape.sub(lambda match: match[0] if match[1] else "\\\\", line)
        return blanks_after_quote.sub('"', line)

    return csv.reader(map(prepared, lines), _ServerDialect, delimiter=delimiter)


class CsvTextReader:
    """Reads a CSV once; `findings` has what was found on the way."""

    def __init__(self, read: Callable[[int], bytes], limit_bytes: int) -> None:
        """`read(count)` returns the next bytes, and none at the end of the CSV."""
        self.read_bytes = 0
        self._read = read
        self._limit_bytes = limit_bytes
        self._line = 1
        self._findings: list[Finding] = []
        self._replaced_lines = 0
        self._first_replaced = ""
        self._has_nul = False
        self.valid = True
        """Whether the text has no error that it must end at."""
        self.whole = False
        """Whether the CSV was read to its end."""

    @property
    def findings(self) -> list[Finding]:
        """What was found in the text so far."""
        if not self._replaced_lines:
            return self._findings
        count = self._replaced_lines
        lines = f"{count} lines, the first: " if count > 1 else ""
        found = f"{lines}{self._first_replaced}"
        return [*self._findings, finding(Code.NOT_UTF8, _UTF8, found, Loss.VALUE)]

    def blocks(self) -> Iterator[bytes]:
        r"""Yield the text, up to the limit or the first error, with `\n` after each line.

        It is valid UTF-8. A last line that the limit cuts is left out. Raises `DamagedZip`.
        """
        rest = b""
        for chunk in self._chunks():
            end = chunk.rfind(b"\n") + 1
            if end:
                yield from self._checked(rest + chunk[:end])
                rest = chunk[end:]
            else:
                rest += chunk
            if len(rest) > LINE_MAX_BYTES:
                self._report_length()
            if not self.valid:
                return
        if rest and self.whole:
            yield from self._checked(rest)

    def _chunks(self) -> Iterator[bytes]:
        ended_in_cr = False
        while True:
            count = min(CHUNK_BYTES, self._limit_bytes - self.read_bytes)
            # At the limit one more byte shows whether it is the end.
            chunk = self._read(count or 1)
            self.whole = not chunk
            if self.whole or not count:
                return
            first = self.read_bytes == 0
            self.read_bytes += len(chunk)
            if first:
                chunk = self._without_mark(chunk)
            if ended_in_cr and chunk.startswith(b"\n"):
                chunk = chunk[1:]
            ended_in_cr = chunk.endswith(b"\r")
            if b"\r" in chunk:
                chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
            yield chunk

    def _without_mark(self, chunk: bytes) -> bytes:
        """Check the first bytes; return them without a byte order mark."""
        for opening, kind in _OPENINGS.items():
            if chunk.startswith(opening):
                self._report(Code.NOT_UTF8, _UTF8, kind)
                return b""
        opening = chunk[:_OPENING_BYTES]
        if opening.count(b"\0") > len(opening) // 4:
            found = Text("zero bytes at its beginning: UTF-16, or no text at all")
            self._report(Code.NOT_UTF8, _UTF8, found)
            return b""
        if chunk.startswith(codecs.BOM_UTF8):
            found = Text("the mark EF BB BF before the first column")
            self._findings.append(
                finding(Code.BYTE_ORDER_MARK, Text("UTF-8 without a mark"), found)
            )
            return chunk[len(codecs.BOM_UTF8) :]
        return chunk

    def _checked(self, block: bytes) -> Iterator[bytes]:
        # Only the first line of a block can be long: the others are within one chunk.
        if len(block) > LINE_MAX_BYTES and block.find(b"\n") not in range(LINE_MAX_BYTES + 1):
            self._report_length()
            return
        if b"\0" in block and not self._has_nul:
            self._has_nul = True
            place = self._place(block, block.index(b"\0"), "a zero byte (NUL)")
            expected = Text("text, in which PostgreSQL allows no zero byte")
            self._findings.append(finding(Code.NOT_UTF8, expected, place))
        if not block.isascii():
            block = self._decodable(block)
        self._line += block.count(b"\n")
        yield block

    def _decodable(self, block: bytes) -> bytes:
        """Return a block in which the bytes that are not UTF-8 are replaced."""
        try:
            block.decode()
        except UnicodeDecodeError as error:
            if not self._replaced_lines:
                byte = f"byte {block[error.start]:02X}"
                self._first_replaced = self._place(block, error.start, byte)
            replaced = block.decode(errors="replace").encode()
            lines = zip(block.split(b"\n"), replaced.split(b"\n"), strict=True)
            self._replaced_lines += sum(line != new for line, new in lines)
            return replaced
        return block

    def _place(self, block: bytes, at: int, thing: str) -> str:
        start = block.rfind(b"\n", 0, at) + 1
        before = block[start:at].decode(errors="replace")[-_BEFORE_CHARACTERS:]
        line = self._line + block.count(b"\n", 0, start)
        return f"{thing} in line {line}, after {quoted(before)}"

    def _report_length(self) -> None:
        expected = f"lines of at most {LINE_MAX_BYTES:,} bytes"
        self._report(Code.LONG_LINE, expected, f"line {self._line} is longer")

    def _report(self, code: Code, expected: str, found: str) -> None:
        self.valid = False
        self._findings.append(finding(code, expected, found))
