"""The records of a CSV, and why the server would drop them."""

import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.datasets.catalogue import Dataset, DatasetKind
from emitterd.datasets.csv_rows import RowChecker
from support.zips import header

VISITS = Dataset(
    "inspection_master",
    "inspection_master",
    DatasetKind.TRANSACTIONAL,
    5,
    headers=(header("Id", "Visit", "AcademicYear", "Note"),),
    keys=("Id",),
    dates=(("Visit", "%Y-%m-%d"),),
)
COLUMNS = VISITS.headers[0].columns
GOOD = "1|2021-03-31|2020-21|fine\n"


def rows(
    text: str, *, whole: bool = True, cut: int = 0, columns: tuple[str, ...] = COLUMNS
) -> RowChecker:
    """Return the rows of a text, fed in one block or in blocks of `cut` lines."""

    def blocks() -> Iterator[str]:
        lines = io.StringIO(text, newline="\n").readlines()
        for at in range(0, len(lines), cut or len(lines) or 1):
            yield "".join(lines[at : at + (cut or len(lines))])

    table = RowChecker(VISITS, columns)
    table.read(blocks(), lambda: whole)
    return table


def summary(table: RowChecker, where: str = "") -> list[tuple[str, str, str]]:
    """Return code, expected and found of each finding."""
    return [
        (finding.code.value, finding.expected, finding.found) for finding in table.findings(where)
    ]


UNEVEN = "4 columns in every row, as in the header"
FOUND = {
    "short": ("1|2\n", "E240", UNEVEN, "1 row, in line 4: 2 columns"),
    "long": ("1||||\n" * 2, "E240", UNEVEN, "2 rows, the first in line 4: 5 columns"),
    "date": (
        "1|31/03/2021||\n",
        "E241",
        "Visit like 2026-01-31",
        "1 row, in line 4: Visit '31/03/2021'",
    ),
    "no date": (
        "1|2021-02-30||\n",
        "E241",
        "Visit like 2026-01-31",
        "1 row, in line 4: Visit '2021-02-30'",
    ),
    "date and time": (
        "1|2021-02-28 11:00||\n",
        "E241",
        "Visit like 2026-01-31",
        "1 row, in line 4: Visit '2021-02-28 11:00'",
    ),
    "Devanagari digits": (
        "1|२०२१-02-28||\n",
        "E241",
        "Visit like 2026-01-31",
        "1 row, in line 4: Visit '२०२१-02-28'",
    ),
    "a date and much more": (
        f"1|2021-02-28{' ' * 60}x||\n",
        "E241",
        "Visit like 2026-01-31",
        f"1 row, in line 4: Visit '2021-02-28{' ' * 50}…'",
    ),
    "empty key": ("|||\n", "E242", "a value for Id in every row", "1 row, in line 4: Id ''"),
    "NULL key": (
        " NULL |||\n" * 3,
        "E242",
        "a value for Id in every row",
        "3 rows, the first in line 4: Id 'NULL '",
    ),
    "year": (
        "1||2020|\n",
        "E243",
        "AcademicYear like 2020-21",
        "1 row, in line 4: AcademicYear '2020'",
    ),
    "long year": (
        "1||2020-2021|\n",
        "E243",
        "AcademicYear like 2020-21",
        "1 row, in line 4: AcademicYear '2020-2021'",
    ),
    "CR": ("1||a\rb|\n", "E240", UNEVEN, "1 row, in line 4: a CR inside the line"),
    "open quote": (
        '1|||"never\nclosed\n',
        "E240",
        UNEVEN,
        "1 row, in line 4: a value that never ends, by a quote or a backslash",
    ),
}


@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize(("text", "code", "expected", "found"), FOUND.values(), ids=FOUND)
def test_a_wrong_row_is_told_by_its_line(
    text: str, code: str, expected: str, found: str, cut: int
) -> None:
    """One finding per kind of problem, with the number of rows and the first line."""
    assert summary(rows(GOOD * 2 + text, cut=cut)) == [(code, expected, found)]


@pytest.mark.parametrize(
    "text",
    [
        GOOD.replace("\n", "\r\n") * 3,
        GOOD + "\n \n\r\n" + GOOD + "\n" + GOOD.strip(),
        '"1"|"2021-03-31"|"2020-21"|"one|two\nthree ""four"""\n' * 3,
        '1 | "2021-03-31" | "2020-21" | x \n' * 3,
        '1|2021-03-31|2020-21|a\\|b \\" c\n' * 3,
        "1|NULL|NULL|NULL\n1|||\n1| | |\n",
        "1|2021-1-5|2020-21|\0\n" * 3,
    ],
    ids=["CRLF", "blank", "quoted", "spaces", "escaped", "absent", "lenient"],
)
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_right_rows_are_counted(text: str, cut: int) -> None:
    """Quotes, escapes, spaces and absent values are read as the server reads them."""
    table = rows(text, cut=cut)

    assert summary(table) == []
    assert (table.count, table.complete) == (3, True)


@pytest.mark.parametrize("cut", [0, 1, 3, 7])
def test_lines_are_counted_through_quotes_and_blanks(cut: int) -> None:
    """The line is the file's: quoted line breaks and blank lines count."""
    many = '1|||"a\nb\r\nc"\n\n' * 5
    assert summary(rows(many + "1|2\n" + many + "1|2|3\n", cut=cut)) == [
        ("E240", UNEVEN, "2 rows, the first in line 22: 2 columns")
    ]


def test_a_row_counts_once_in_a_kind() -> None:
    """Two wrong dates in one row are one row; the leftmost of the dataset is named."""
    dates = (("Visit", "%d/%m/%Y"), ("Note", "%H:%M:%S"))
    table = RowChecker(replace(VISITS, dates=dates), COLUMNS)
    table.read(["1|x||y\n2|1/1/2021||y\n"], lambda: True)
    assert summary(table) == [
        ("E241", "Visit like 31/01/2026", "2 rows, the first in line 2: Visit 'x'")
    ]


def test_columns_are_found_by_name() -> None:
    """Columns may come in any order and case; a missing column is not checked."""
    columns = ("more", "NOTE", "VISIT", "academicyear")
    assert summary(rows("||x|2020\n", columns=columns)) == [
        ("E241", "Visit like 2026-01-31", "1 row, in line 2: Visit 'x'"),
        ("E243", "AcademicYear like 2020-21", "1 row, in line 2: AcademicYear '2020'"),
    ]


@pytest.mark.parametrize(
    "name", ["ac_year", "AC_YEAR", "AcademicYear", "assessment_year", "academic_year"]
)
def test_academic_years_go_by_many_names(name: str) -> None:
    """Wherever a dataset's header has such a column, its form is checked."""
    dataset = Dataset("f", "n", DatasetKind.UDISE, 1, headers=(header("id", name),))
    table = RowChecker(dataset, ("id", name))
    table.read(["1|2020\n"], lambda: True)
    assert [finding.code for finding in table.findings("")] == ["E243"]


def test_a_year_that_no_header_documents_is_left_alone() -> None:
    """A column that the dataset does not document is not checked."""
    dataset = Dataset("f", "n", DatasetKind.UDISE, 1, headers=(header("id"),))
    table = RowChecker(dataset, ("id", "ac_year"))
    table.read(["1|2020\n"], lambda: True)
    assert summary(table) == []


def test_what_was_not_read_to_its_end_says_so() -> None:
    """Each finding says how far the file was read."""
    table = rows(GOOD + "1|2\n", whole=False)

    assert table.findings(" in the first 8MiB")[0].found == (
        "1 row in the first 8MiB, in line 3: 2 columns"
    )
    assert not table.complete


def test_a_record_that_the_end_cuts_is_not_judged() -> None:
    """An open quote at the read limit is not a finding."""
    table = rows(GOOD + '2|||"open\n', whole=False)
    assert (summary(table), table.count) == ([], 1)


def test_after_a_broken_record_the_count_is_not_complete() -> None:
    """Only the rows before the error are checked."""
    table = rows("1|2\n1||\r1|\n" + GOOD * 9)

    assert summary(table) == [("E240", UNEVEN, "2 rows, the first in line 2: 2 columns")]
    assert not table.complete


RECORDS = st.lists(st.lists(st.text('|"\n\r\\ é', max_size=6), min_size=4, max_size=4), max_size=30)


@given(RECORDS, st.integers(1, 5))
def test_what_is_quoted_well_is_even(records: list[list[str]], cut: int) -> None:
    """Any value, quoted and escaped, stays within its column."""

    def quoted(value: str) -> str:
        return '"{}"'.format(value.replace("\\", "\\\\").replace('"', '""'))

    text = "".join("|".join(map(quoted, ["1", *record[1:]])) + "\n" for record in records)
    dataset = replace(VISITS, dates=(), headers=(header("Id"),))
    table = RowChecker(dataset, COLUMNS)
    lines = io.StringIO(text, newline="\n").readlines()
    table.read(["".join(lines[at : at + cut]) for at in range(0, len(lines), cut)], lambda: True)

    assert summary(table) == []
    assert (table.count, table.complete) == (len(records), True)
