"""Checks the records of a CSV: their width, and their dates, keys and academic years.

A block of text is parsed and checked at once, column by column, so that no function of ours runs
for each value. Correct data costs little more than the parsing. Source: cQube's NiFi templates
(`NULL` is no value), and "Emission process" (dates, academic years, keys).
"""

import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache, partial
from itertools import chain
from operator import itemgetter

from emitterd.codes import Code
from emitterd.datasets.catalogue import ACADEMIC_YEARS, Dataset
from emitterd.datasets.csv_text import VALUE_MAX, ServerCsvDialect
from emitterd.datasets.findings import Finding, finding, quoted

_VALUES_MAX = 100_000
"""A block holds more only if a line of nearly 1 MB is nothing but delimiters."""
_END = "\0"
"""Added after the last line: it is missing if a quote is never closed."""
_ABSENT = frozenset({"", "NULL"})
_DATE_MAX = 40
"""A longer value is no date, and is not cached."""
_YEAR = re.compile(r"[0-9]{4}-[0-9]{2}")
_EXAMPLE = datetime(2026, 1, 31, 13, 5, 59)  # noqa: DTZ001  a date, no instant
"""Shows the form of a date: its day can be no month."""
_Wrong = Callable[[Iterable[str]], set[str]]
"""Returns the values of a column that the server would not accept."""


@dataclass(frozen=True, slots=True)
class _Column:
    """A column whose values are checked."""

    at: int
    name: str
    expected: str
    wrong: _Wrong


@dataclass(slots=True)
class _RowProblem:
    """The rows with one kind of problem: their number, and the first of them."""

    code: Code
    columns: list[_Column] = field(default_factory=list)
    count: int = 0
    expected: str = ""
    first: str = ""

    def found(self, where: str) -> str:
        if self.count == 1:
            return f"1 row{where}, in {self.first}"
        return f"{self.count} rows{where}, the first in {self.first}"


class RowChecker:
    """Reads the records once; `findings` returns what is wrong with them."""

    def __init__(self, dataset: Dataset, columns: Sequence[str]) -> None:
        """`columns` are those of the file, in its order."""
        self.count = 0
        self.complete = False
        """Whether every record was read."""
        self._delimiter = dataset.delimiter
        self._width = len(columns)
        self._evenness = f"{self._width} columns in every row, as in the header"
        self._uneven = _RowProblem(Code.UNEVEN_ROWS)
        self._unclosed = _RowProblem(Code.LONG_LINE)
        self._problems = [self._unclosed, self._uneven, *_column_problems(dataset, columns)]
        self._batch: list[list[str]] = []
        self._line = 2
        """The line at which the first record of the batch begins."""
        self._blocks = 0

    def read(self, blocks: Iterable[str], whole: Callable[[], bool]) -> None:
        """Read the text after the header, from line 2 on.

        `whole` is called after the last block. It returns whether the blocks were the whole text.
        """
        lines = chain.from_iterable(self._lines(blocks))
        reader = csv.reader(lines, ServerCsvDialect, delimiter=self._delimiter)
        block = 0
        try:
            for row in reader:
                if self._blocks != block:
                    self._check()
                    self._line = 2 + reader.line_num - _height(row)
                    self._batch.clear()
                    block = self._blocks
                self._batch.append(row)
            ended = self._batch.pop() == [_END]
            self._check()
            self.complete = ended and whole()
            if whole() and not ended:
                value = "a value that never ends, by a quote or a backslash"
                self._note(self._uneven, 1, len(self._batch), self._evenness, value)
        except csv.Error as error:
            self._check()
            self._note_csv_error(str(error))

    def findings(self, where: str) -> list[Finding]:
        """Return one finding per kind of problem; `where`: how much was read, in words."""
        return [
            finding(problem.code, problem.expected, problem.found(where))
            for problem in self._problems
            if problem.count
        ]

    def _lines(self, blocks: Iterable[str]) -> Iterator[Iterable[str]]:
        for block in blocks:
            if block.count(self._delimiter) > _VALUES_MAX:
                raise csv.Error(f"more than {_VALUES_MAX:,} columns")
            self._blocks += 1
            yield io.StringIO(block, newline="\n")
        yield [_END]

    def _check(self) -> None:
        even = self._even()
        for problem in self._problems:
            wrong: dict[int, _Column] = {}
            for column in problem.columns:
                bad = column.wrong(map(itemgetter(column.at), even))
                for at in self._indices(column.at, bad) if bad else ():
                    wrong.setdefault(at, column)
            if wrong:
                at = min(wrong)
                column = wrong[at]
                value = f"{column.name} {quoted(self._batch[at][column.at])}"
                self._note(problem, len(wrong), at, column.expected, value)

    def _even(self) -> list[list[str]]:
        batch, width = self._batch, self._width
        if set(map(len, batch)) <= {width}:
            self.count += len(batch)
            return batch
        even = [row for row in batch if len(row) == width]
        uneven = [
            at
            for at, row in enumerate(batch)
            if row and len(row) != width and (len(row) > 1 or row[0].strip())
        ]
        self.count += len(even) + len(uneven)
        if uneven:
            value = f"{len(batch[uneven[0]])} columns"
            self._note(self._uneven, len(uneven), uneven[0], self._evenness, value)
        return even

    def _indices(self, column: int, values: set[str]) -> list[int]:
        return [
            at
            for at, row in enumerate(self._batch)
            if len(row) == self._width and row[column] in values
        ]

    def _note(self, problem: _RowProblem, count: int, at: int, expected: str, value: str) -> None:
        problem.count += count
        if not problem.first:
            line = self._line + sum(map(_height, self._batch[:at]))
            problem.expected, problem.first = expected, f"line {line}: {value}"

    def _note_csv_error(self, error: str) -> None:
        # The record that could not be read follows the batch.
        problem, expected, value = self._uneven, self._evenness, error
        if error.startswith("field larger"):
            problem, expected = self._unclosed, f"values below {VALUE_MAX:,} characters"
            value = "a quote that is not closed"
        elif error.startswith("new-line"):
            value = "a CR inside the line"
        self._note(problem, 1, len(self._batch), expected, value)


def _height(row: Iterable[str]) -> int:
    """Return the number of lines of a record: a quoted value may have line breaks."""
    return 1 + sum(value.count("\n") for value in row)


def _column_problems(dataset: Dataset, columns: Sequence[str]) -> Iterator[_RowProblem]:
    positions = {name.lower(): at for at, name in enumerate(columns)}

    def column(name: str, expected: str, wrong: _Wrong) -> list[_Column]:
        at = positions.get(name.lower())
        return [] if at is None else [_Column(at, name, expected, wrong)]

    dates, keys, years = (
        _RowProblem(code) for code in (Code.BAD_DATE, Code.EMPTY_KEY, Code.BAD_ACADEMIC_YEAR)
    )
    for name, form in dataset.dates:
        expected = f"{name} like {_EXAMPLE.strftime(form)}"
        dates.columns += column(name, expected, partial(_no_dates, form))
    for name in dataset.keys:
        keys.columns += column(name, f"a value for {name} in every row", _absent)
    documented = {name for header in dataset.headers for name in header.columns}
    for name in sorted(documented):
        if name.lower() in ACADEMIC_YEARS:
            years.columns += column(name, f"{name} like 2020-21", _no_academic_years)
    yield from (dates, keys, years)


def _absent(values: Iterable[str]) -> set[str]:
    return {value for value in values if value.strip() in _ABSENT}


def _no_dates(form: str, values: Iterable[str]) -> set[str]:
    return {
        value
        for value in set(values)
        if len(date := value.strip()) > _DATE_MAX or not _is_date(form, date)
    }


@lru_cache(maxsize=4096)
def _is_date(form: str, value: str) -> bool:
    # Cached: a file has few different dates, and `strptime` is slow.
    if value in _ABSENT:
        return True
    try:
        datetime.strptime(value, form)  # noqa: DTZ007  a date of the file, no instant
    except ValueError:
        return False
    # Devanagari digits are digits to `strptime`, but not to the server.
    return value.isascii()


def _no_academic_years(values: Iterable[str]) -> set[str]:
    return {
        value
        for value in set(values)
        if value.strip() not in _ABSENT and not _YEAR.fullmatch(value.strip())
    }
