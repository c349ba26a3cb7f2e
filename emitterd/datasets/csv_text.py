"""The text of a CSV, in blocks of whole lines, up to the first invalid UTF-8.

Only one chunk and one line are in memory. A line may be as long as the server reads. Source:
cQube's NiFi templates (lines over 1 MB fail).
"""

import codecs
import csv
from collections.abc import Callable, Iterator

from emitterd.codes import Code
from emitterd.datasets.findings import Finding, finding, quoted

LINE_MAX_BYTES = 1_000_000
CHUNK_BYTES = 64 * 1024

_UTF8 = "UTF-8"
_OPENINGS = {
    codecs.BOM_UTF16_LE: "UTF-16",
    codecs.BOM_UTF16_BE: "UTF-16",
    b"PK\x03\x04": "a zip or an Excel workbook (.xlsx), not a CSV",
    b"\xd0\xcf\x11\xe0": "an Excel workbook (.xls), not a CSV",
}
_BEFORE_CHARACTERS = 20
"""How much of a line is shown before the byte that is wrong."""


VALUE_MAX = 1_000_000
"""The longest value. A quote that is never closed makes one value of the rest of the file. The
limit of the `csv` module is global, for all readers."""
csv.field_size_limit(VALUE_MAX)


class ServerCsvDialect(csv.Dialect):
    r"""How the server's CSV readers split a line. Source: cQube's NiFi templates.

    Quote `"`, escape `\`, values trimmed. The reader sets the delimiter of its dataset.
    """

    delimiter = "|"
    quotechar = '"'
    escapechar = "\\"
    doublequote = True
    skipinitialspace = True
    lineterminator = "\n"
    quoting = csv.QUOTE_MINIMAL


class CsvTextReader:
    """Reads a CSV once; adds to `findings` on the way."""

    def __init__(self, read: Callable[[int], bytes], limit_bytes: int) -> None:
        """`read(count)` returns the next bytes, and none at the end of the CSV."""
        self.findings: list[Finding] = []
        self.read_bytes = 0
        self._read = read
        self._limit_bytes = limit_bytes
        self._line = 1
        self.valid = True
        """Whether the text has no error that it must end at."""
        self.whole = False
        """Whether the CSV was read to its end."""

    def blocks(self) -> Iterator[str]:
        """Yield the text, up to the limit or the first error.

        A last line that the limit cuts is left out. Raises `DamagedZip`.
        """
        rest = b""
        for chunk in self._chunks():
            end = chunk.rfind(b"\n") + 1
            if end:
                yield from self._decoded(rest + chunk[:end])
                rest = chunk[end:]
            else:
                rest += chunk
            if len(rest) > LINE_MAX_BYTES:
                self._report_length()
            if not self.valid:
                return
        if rest and self.whole:
            yield from self._decoded(rest)

    def _chunks(self) -> Iterator[bytes]:
        while True:
            count = min(CHUNK_BYTES, self._limit_bytes - self.read_bytes)
            # At the limit one more byte shows whether it is the end.
            chunk = self._read(count or 1)
            self.whole = not chunk
            if self.whole or not count:
                return
            first = self.read_bytes == 0
            self.read_bytes += len(chunk)
            yield self._without_mark(chunk) if first else chunk

    def _without_mark(self, chunk: bytes) -> bytes:
        """Check the first bytes; return them without a byte order mark."""
        for opening, kind in _OPENINGS.items():
            if chunk.startswith(opening):
                self._report(Code.NOT_UTF8, _UTF8, kind)
                return b""
        if b"\0" in chunk[:1000]:
            found = "zero bytes at its beginning: UTF-16, or no text at all"
            self._report(Code.NOT_UTF8, _UTF8, found)
            return b""
        if chunk.startswith(codecs.BOM_UTF8):
            found = "the mark EF BB BF before the first column"
            self.findings.append(finding(Code.BYTE_ORDER_MARK, "UTF-8 without a mark", found))
            return chunk[len(codecs.BOM_UTF8) :]
        return chunk

    def _decoded(self, block: bytes) -> Iterator[str]:
        # Only the first line of a block can be long: the others are within one chunk.
        if len(block) > LINE_MAX_BYTES and block.find(b"\n") > LINE_MAX_BYTES:
            self._report_length()
            return
        try:
            text = block.decode()
        except UnicodeDecodeError as error:
            start = block.rfind(b"\n", 0, error.start) + 1
            line = self._line + block.count(b"\n", 0, start)
            before = block[start : error.start].decode()[-_BEFORE_CHARACTERS:]
            byte = f"byte {block[error.start]:02X} in line {line}"
            self._report(Code.NOT_UTF8, _UTF8, f"{byte}, after {quoted(before)}")
            text = block[:start].decode()
        self._line += block.count(b"\n")
        if text:
            yield text

    def _report_length(self) -> None:
        expected = f"lines of at most {LINE_MAX_BYTES:,} bytes"
        self._report(Code.LONG_LINE, expected, f"line {self._line} is longer")

    def _report(self, code: Code, expected: str, found: str) -> None:
        self.valid = False
        self.findings.append(finding(code, expected, found))
