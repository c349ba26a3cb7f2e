"""Checks the records of a CSV: their width, values, keys and quotes.

Most records are checked without a look at their values. A line has a shape: each digit becomes `0`
and each run of letters `a`. The lines of a file have few shapes, and most shapes show that every
value is right. Only other lines are split into values. Source: cQube's NiFi templates, and
"Emission process" (dates, academic years, keys).
"""

import csv
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from emitterd.codes import Code
from emitterd.datasets.catalogue import Dataset, Version
from emitterd.datasets.csv_text import BLANKS, server_rows
from emitterd.datasets.csv_values import ABSENT, Column, checked_columns
from emitterd.datasets.findings import Finding, Loss, finding, quoted
from emitterd.translation.text import Text

KEYS_MAX = 65_536
"""Keys that are remembered. Each row is compared with these, and with the rows of its block."""
_SHAPES_MAX_BYTES = 4 * 1024**2
_RIGHT_MAX, _RIGHT_MAX_BYTES = 8192, 40
"""Values of a column that are remembered as right, and how long they may be."""
_BREAKS_MAX = 10
"""Line breaks in one value from which it is surely not meant as one value."""
_LISTED_MAX = 5
_INNER_DELIMITER, _INNER_BREAK = "\x1f", "\x1e"
"""Stand for a delimiter and a line break in a value after its quotes are removed."""


@dataclass(slots=True)
class _Problem:
    """The rows with one kind of problem: their number, and the first of them."""

    count: int = 0
    columns: dict[str, int] = field(default_factory=dict)
    expected: str = ""
    first: str = ""

    def note(self, number: int, expected: str, first: str, columns: Iterable[str] = ()) -> None:
        self.count += 1
        for name in columns:
            self.columns[name] = self.columns.get(name, 0) + 1
        if not self.first:
            self.expected, self.first = expected, f"line {number}: {first}"

    def found(self, where: str) -> str:
        rows = f"1 row{where}, in" if self.count == 1 else f"{self.count} rows{where}, the first in"
        found = f"{rows} {self.first}"
        if len(self.columns) > 1:
            counts = [f"{name} {count}" for name, count in self.columns.items()]
            more = ", …" if len(counts) > _LISTED_MAX else ""
            found += f"; rows by column: {', '.join(counts[:_LISTED_MAX])}{more}"
        return found


class RowChecker:
    """Reads the records once; `findings` returns what is wrong with them."""

    def __init__(
        self,
        dataset: Dataset,
        columns: Sequence[str],
        version: Version | None = None,
        first_line: int = 2,
    ) -> None:
        """`columns` are those of the file, in its order; `first_line` is that of the records."""
        self.count = 0
        self.complete = False
        """Whether every record was read."""
        self._columns = columns
        self._checked = list(checked_columns(dataset, columns, version))
        self._delimiter = dataset.delimiter
        self._mark = dataset.delimiter.encode()
        self._problems: dict[tuple[Code, Loss], _Problem] = {}
        self._shape_of = _shape_function(self._mark)
        self._sure: set[bytes] = set()
        self._unsure: dict[bytes, tuple[Column, ...]] = {}
        self._shapes_bytes = 0
        self._right: dict[int, set[bytes]] = {column.at: set() for column in self._checked}
        places = {name.lower(): at for at, name in enumerate(columns)}
        keys = [places[name.lower()] for name in dataset.keys if name.lower() in places]
        self._keys = keys
        self._seen: dict[int, int] = {}
        self._line = first_line
        """The line at which the next record begins."""
        self._rest: Iterator[bytes] = iter(())

    def read(self, blocks: Iterable[bytes], whole: Callable[[], bool]) -> None:
        """Read the text after the header.

        `whole` is called after the last block. It returns whether the blocks were the whole text.
        """
        blocks = iter(blocks)
        for block in blocks:
            text = self._without_quotes(block)
            if text is not None:
                lines = _lines(text)
                self._check(text, lines, range(self._line, self._line + len(lines)))
                self._line += len(lines)
                continue
            lines, numbers, error = self._records(_lines(block), blocks)
            self._check(b"\n".join(lines), lines, numbers)
            if error is not None:
                self._note_quotes(error, whole=whole())
                return
        self.complete = whole()

    def findings(self, where: str) -> list[Finding]:
        """Return one finding per kind of problem; `where`: how much was read, in words."""
        return [
            finding(code, problem.expected, problem.found(where), loses, problem.columns.items())
            for (code, loses), problem in self._problems.items()
        ]

    def _without_quotes(self, block: bytes) -> bytes | None:
        """Return a block without its quotes if no value needs them, else None."""
        if b"\\" in block:
            return None
        if b'"' not in block:
            return block
        # Each value begins and ends with a quote, none is a quote alone, and there are no others.
        between = b'"' + self._mark + b'"'
        text = block.replace(between, self._mark)
        lines = block.count(b"\n")
        needless = (
            len(block) - len(text) == 2 * block.count(self._mark)
            and text.count(b'"') == 2 * lines
            and text.count(b'\n"') == lines - 1
            and text.count(b'"\n') == lines
            and text.startswith(b'"')
            and b'\n"\n' not in b"\n" + text
        )
        return text.replace(b'"', b"") if needless else None

    def _records(
        self, lines: list[bytes], blocks: Iterator[bytes]
    ) -> tuple[list[bytes], Sequence[int], csv.Error | None]:
        """Return one line for each record, its number, and the error that ends the file."""
        special = [at for at, line in enumerate(lines) if b'"' in line or b"\\" in line]
        try:
            rows = list(server_rows((lines[at].decode() for at in special), self._delimiter))
        except csv.Error:
            rows = []
        # A backslash at the end of a line takes the next line into the record.
        if len(rows) == len(special) and not any(lines[at].endswith(b"\\") for at in special):
            for at, row in zip(special, rows, strict=True):
                lines[at] = self._joined(row)
            numbers = range(self._line, self._line + len(lines))
            self._line += len(lines)
            return lines, numbers, None
        return self._long_records(lines, blocks)

    def _long_records(
        self, lines: list[bytes], blocks: Iterator[bytes]
    ) -> tuple[list[bytes], list[int], csv.Error | None]:
        """Return the records of lines, of which some have line breaks or a wrong quote."""
        records: list[bytes] = []
        numbers: list[int] = []
        self._rest = iter(lines)
        for line in iter(lambda: next(self._rest, None), None):
            number = self._line
            self._line += 1
            try:
                special = b'"' in line or b"\\" in line
                record = self._record(line, blocks) if special else line
            except csv.Error as error:
                self._line = number
                return records, numbers, error
            records.append(record)
            numbers.append(number)
        return records, numbers, None

    def _record(self, line: bytes, blocks: Iterator[bytes]) -> bytes:
        """Return the record that begins with a line, as one line without quotes."""
        number = self._line - 1

        def lines() -> Iterator[str]:
            yield line.decode() + "\n"
            while True:
                for more in self._rest:
                    self._line += 1
                    yield more.decode() + "\n"
                block = next(blocks, None)
                if block is None:
                    return
                self._rest = iter(_lines(block))

        values = next(server_rows(lines(), self._delimiter))
        if any("\n" in value for value in values):
            self._note_breaks(number, values)
        return self._joined(values)

    def _joined(self, values: list[str]) -> bytes:
        """Return the values as one line without quotes."""
        text = self._delimiter.join(values)
        if text.count(self._delimiter) >= len(values) or "\n" in text:
            text = self._delimiter.join(
                value.replace(self._delimiter, _INNER_DELIMITER).replace("\n", _INNER_BREAK)
                for value in values
            )
        return text.encode()

    def _note_breaks(self, number: int, values: list[str]) -> None:
        """Note a value that holds rows: two stray quotes are far apart."""
        for value in values:
            breaks = value.count("\n")
            inner = value.count(self._delimiter)
            if breaks > _BREAKS_MAX or 2 * inner > breaks * (len(self._columns) - 1) > 0:
                found = f"a value with {breaks} line breaks; the rows in it become its text"
                expected = Text("each quote closed in its own value")
                self._problem(Code.QUOTES, Loss.ROW).note(number, expected, found)

    def _note_quotes(self, error: csv.Error, *, whole: bool) -> None:
        text = str(error)
        if "expected after" in text:
            expected, found = (
                Text("a delimiter after a closing quote"),
                Text("text after a closing quote"),
            )
        elif whole or "field larger" in text:
            expected, found = Text("a closing quote"), Text("a quote that is never closed")
        else:
            return
        self._problem(Code.QUOTES, Loss.FILE).note(self._line, expected, found)

    def _problem(self, code: Code, loses: Loss) -> _Problem:
        return self._problems.setdefault((code, loses), _Problem())

    def _check(self, block: bytes, lines: list[bytes], numbers: Sequence[int]) -> None:
        self.count += len(lines)
        whole = self._shape_of(block)
        first = whole[: whole.find(b"\n") + 1]
        if first[:-1] not in self._sure or not (first * len(lines)).startswith(whole):
            # Not all lines have the same shape.
            shapes = whole.split(b"\n")[: len(lines)]
            if not self._sure.issuperset(shapes):
                for line, shape, number in zip(lines, shapes, numbers, strict=True):
                    if shape not in self._sure:
                        self._check_line(line, shape, number)
        if self._keys:
            self._check_keys(lines, numbers)

    def _check_line(self, line: bytes, shape: bytes, number: int) -> None:
        columns = self._unsure.get(shape)
        if columns is None:
            if not shape.strip():
                self.count -= 1
                return
            columns = self._unsure_columns(shape)
            self._remember(shape, columns)
        row = line.split(self._mark, len(self._columns))
        if len(row) != len(self._columns):
            self._note_width(row, number)
        if columns:
            self._check_values(row, columns, number)

    def _check_values(self, row: list[bytes], columns: tuple[Column, ...], number: int) -> None:
        wrong: dict[Code, list[tuple[Column, bytes]]] = {}
        for column in columns:
            right = self._right[column.at]
            if row[column.at] in right:
                continue
            value = row[column.at].strip(BLANKS)
            code = column.problem(value)
            if code is not None:
                wrong.setdefault(code, []).append((column, value))
            elif len(right) < _RIGHT_MAX and len(value) <= _RIGHT_MAX_BYTES:
                right.add(row[column.at])
        for code, values in wrong.items():
            column, value = values[0]
            problem = self._problem(code, Loss.ROW)
            expected = found = ""
            if not problem.first:
                expected, found = column.described(value, missing=code is Code.MISSING_VALUE)
            problem.note(number, expected, found, [item.name for item, _ in values])

    def _unsure_columns(self, shape: bytes) -> tuple[Column, ...]:
        """Return the columns whose values a line of this shape must be split for."""
        parts = shape.split(self._mark, len(self._columns))
        return tuple(
            column
            for column in self._checked
            if column.at < len(parts) and not column.is_sure(parts[column.at])
        )

    def _remember(self, shape: bytes, columns: tuple[Column, ...]) -> None:
        self._shapes_bytes += len(shape)
        if self._shapes_bytes > _SHAPES_MAX_BYTES:
            self._sure.clear()
            self._unsure.clear()
            self._shapes_bytes = len(shape)
        if not columns and shape.count(self._mark) == len(self._columns) - 1:
            self._sure.add(shape)
        else:
            self._unsure[shape] = columns

    def _note_width(self, row: list[bytes], number: int) -> None:
        width = len(self._columns)
        expected = f"{width} columns in every row, as in the header"
        if len(row) < width:
            missing = self._columns[len(row) :]
            needed = [column.name for column in self._checked if column.needed]
            lost = [name for name in missing if name in needed]
            found = f"{len(row)} columns; no value for {_listed(missing)}"
            if lost:
                found += f", and {_listed(lost)} must have one"
            self._problem(Code.UNEVEN_ROWS, Loss.ROW if lost else Loss.VALUE).note(
                number, expected, found
            )
            return
        extra = row[-1].split(self._mark, _LISTED_MAX)
        found = f"{width + row[-1].count(self._mark) + 1} columns; the server ignores those after"
        found += f" {self._columns[-1]}"
        loses = Loss.NOTHING
        if any(value.strip(BLANKS) for value in extra):
            loses = Loss.VALUE
            found += ". A delimiter inside a value moves the values after it"
        self._problem(Code.UNEVEN_ROWS, loses).note(number, expected, found)

    def _check_keys(self, lines: list[bytes], numbers: Sequence[int]) -> None:
        keys = self._keys_of(lines)
        if len(keys) < len(lines):
            delimiters = max(self._keys)
            long = [at for at, line in enumerate(lines) if line.count(self._mark) >= delimiters]
            lines, numbers = [lines[at] for at in long], [numbers[at] for at in long]
            keys = self._keys_of(lines)
        contents = list(map(hash, lines))
        first = self._seen.setdefault if len(self._seen) < KEYS_MAX else self._seen.get
        known = list(map(first, map(hash, keys), contents))
        if known != contents:
            for at, content in enumerate(contents):
                if known[at] != content:
                    self._note_duplicate(keys[at], numbers[at])

    def _keys_of(self, lines: list[bytes]) -> list[bytes] | list[tuple[bytes, ...]]:
        """Return the key of each line; fewer if a line has too few columns."""
        if self._keys == [0]:
            return [line.partition(self._mark)[0] for line in lines]
        last = max(self._keys)
        rows = [line.split(self._mark, last + 1) for line in lines]
        return [tuple([row[at] for at in self._keys]) for row in rows if len(row) > last]

    def _note_duplicate(self, key: bytes | tuple[bytes, ...], number: int) -> None:
        """Note a row whose key an earlier row has with other values."""
        values = [part.strip(BLANKS) for part in (key if isinstance(key, tuple) else (key,))]
        if not ABSENT.isdisjoint(values):
            return
        names = [self._columns[at] for at in self._keys]
        parts = zip(names, (value.decode(errors="replace") for value in values), strict=True)
        found = ", ".join(f"{name} {quoted(text)}" for name, text in parts)
        found += ", which an earlier row has with other values"
        expected = f"one row for each {', '.join(names)}"
        self._problem(Code.DUPLICATE_KEY, Loss.ROW).note(number, expected, found, names[:1])


def _lines(block: bytes) -> list[bytes]:
    lines = block.split(b"\n")
    if not lines[-1]:
        lines.pop()
    return lines


@lru_cache(maxsize=8)
def _shape_function(mark: bytes) -> Callable[[bytes], bytes]:
    """Return a function that returns the shape of a block."""
    table = bytearray(b"a" * 256)
    table[:33] = b" " * 33
    for byte in b"0123456789":
        table[byte] = ord("0")
    for byte in b"\n.+-" + mark:
        table[byte] = byte
    table[1] = ord("N")
    shapes = bytes(table)

    def shape_of(block: bytes) -> bytes:
        if b"NULL" in block:
            block = block.replace(b"NULL", b"\1")
        block = block.translate(shapes)
        if b"aa" in block:
            block = block.replace(b"aaaaaaaa", b"a").replace(b"aa", b"a")
        return block

    return shape_of


def _listed(names: Sequence[str]) -> str:
    more = len(names) - _LISTED_MAX
    shown = ", ".join(names[:_LISTED_MAX])
    return f"{shown} and {more} more" if more > 0 else shown
