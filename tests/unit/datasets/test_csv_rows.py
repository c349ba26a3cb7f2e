"""The records of a CSV, and why the server would drop them."""

import io
from collections.abc import Iterator
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.datasets.catalogue import (
    Dataset,
    DatasetKind,
    ValueKind,
    ValueRule,
    Version,
    VersionRange,
)
from emitterd.datasets.csv_rows import KEYS_MAX, RowChecker
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
    text: str,
    *,
    dataset: Dataset = VISITS,
    columns: tuple[str, ...] = COLUMNS,
    version: Version | None = None,
    whole: bool = True,
    cut: int = 0,
) -> RowChecker:
    """Return the rows of a text, fed in one block or in blocks of `cut` lines."""

    def blocks() -> Iterator[bytes]:
        lines = io.BytesIO(text.encode()).readlines()
        for at in range(0, len(lines), cut or len(lines) or 1):
            yield b"".join(lines[at : at + (cut or len(lines))])

    table = RowChecker(dataset, columns, version)
    table.read(blocks(), lambda: whole)
    return table


def summary(table: RowChecker, where: str = "") -> list[tuple[str, str, str, str]]:
    """Return code, loss, expected and found of each finding."""
    return [
        (finding.code.value, finding.loses.value, finding.expected, finding.found)
        for finding in table.findings(where)
    ]


UNEVEN = "4 columns in every row, as in the header"
DATE = "Visit like 2026-01-31"
FOUND = {
    "short": (
        "2|2021-03-31\n",
        ("E240", "value", UNEVEN, "1 row, in line 4: 2 columns; no value for AcademicYear, Note"),
    ),
    "long": (
        "2||||\n3|||| \n",
        (
            "E240",
            "nothing",
            UNEVEN,
            "2 rows, the first in line 4: 5 columns; the server ignores those after Note",
        ),
    ),
    "moved": (
        "2|||a|b\n",
        (
            "E240",
            "value",
            UNEVEN,
            (
                "1 row, in line 4: 5 columns; the server ignores those after Note. A delimiter"
                " inside a value moves the values after it"
            ),
        ),
    ),
    "date": ("2|31. 3.||\n", ("E241", "row", DATE, "1 row, in line 4: Visit '31. 3.'")),
    "no date": ("2|2021-02-30||\n", ("E241", "row", DATE, "1 row, in line 4: Visit '2021-02-30'")),
    "a day too long": (
        "2|2021-02-281||\n",
        ("E241", "row", DATE, "1 row, in line 4: Visit '2021-02-281'"),
    ),
    "Devanagari digits": (
        "2|२०२१-02-28||\n",
        ("E241", "row", DATE, "1 row, in line 4: Visit '२०२१-02-28'"),
    ),
    "empty key": (
        "|||\n",
        ("E242", "row", "a value for Id in every row", "1 row, in line 4: Id ''"),
    ),
    "NULL key": (
        " NULL |||\n" * 3,
        ("E242", "row", "a value for Id in every row", "3 rows, the first in line 4: Id 'NULL'"),
    ),
    "year": (
        "2||2020|\n",
        ("E243", "row", "AcademicYear like 2020-21", "1 row, in line 4: AcademicYear '2020'"),
    ),
    "long year": (
        "2||2020-2021|\n",
        ("E243", "row", "AcademicYear like 2020-21", "1 row, in line 4: AcademicYear '2020-2021'"),
    ),
    "open quote": (
        '2|||"never\nclosed\n',
        ("E237", "file", "a closing quote", "1 row, in line 4: a quote that is never closed"),
    ),
    "text after a quote": (
        '2|||"S.V." SCHOOL\n',
        (
            "E237",
            "file",
            "a delimiter after a closing quote",
            "1 row, in line 4: text after a closing quote",
        ),
    ),
    "escaped quote in quotes": (
        '2|||"a \\"b\\" c"\n',
        (
            "E237",
            "file",
            "a delimiter after a closing quote",
            "1 row, in line 4: text after a closing quote",
        ),
    ),
    "stray quotes": (
        '2|||"a\n3|||\n4|||b"\n',
        (
            "E237",
            "row",
            "each quote closed in its own value",
            "1 row, in line 4: a value with 2 line breaks; the rows in it become its text",
        ),
    ),
    "key with other values": (
        "1|2021-03-31|2020-21|other\n",
        (
            "E245",
            "row",
            "one row for each Id",
            "1 row, in line 4: Id '1', which an earlier row has with other values",
        ),
    ),
}


@pytest.mark.parametrize("cut", [0, 1])
@pytest.mark.parametrize(("text", "expected"), FOUND.values(), ids=FOUND)
def test_a_wrong_row_is_reported_with_its_line(
    text: str, expected: tuple[str, str, str, str], cut: int
) -> None:
    """One finding per kind of problem, with the number of rows and the first line."""
    assert summary(rows(GOOD * 2 + text, cut=cut)) == [expected]


@pytest.mark.parametrize(
    "text",
    [
        GOOD + "\n \n\n" + GOOD + "\n" + GOOD.strip(),
        '"1"|"2021-03-31"|"2020-21"|"one|two\nthree ""four"""\n' * 3,
        '"1"|"2021-03-31"|"2020-21"|"a"\n' * 3,
        '1 |2021-03-31\t| 2020-21 | "x" \n' * 3,
        '1|2021-03-31|2020-21|"x" \t\n' * 3,
        '1|2021-03-31|2020-21|a\\|b \\" 5" c\n' * 3,
        "1|NULL|NULL|NULL\n2|||\n3| | |\n",
        "1|2021-1-5|2020-21|\0\n" * 3,
        "1|2021-02-28 11:00|2020-21|\n2|2021-02-28T11:00:00Z||\n3|2021-02-28,||\n",
    ],
    ids=[
        "blank",
        "quoted",
        "all quoted",
        "blanks",
        "blank after a quote",
        "escaped",
        "absent",
        "lenient",
        "time after a date",
    ],
)
@pytest.mark.parametrize("cut", [0, 1, 2])
def test_right_rows_are_counted(text: str, cut: int) -> None:
    """Quotes, escapes, blanks and absent values are read as the server reads them."""
    table = rows(text, cut=cut)

    assert summary(table) == []
    assert (table.count, table.complete) == (3, True)


@pytest.mark.parametrize("cut", [0, 1, 3, 7])
def test_lines_are_counted_through_quotes_and_blanks(cut: int) -> None:
    """The line is the file's: quoted line breaks and blank lines count."""
    many = '1|||"a\nb\nc"\n\n' * 5
    (finding,) = rows(many + "3|2021-01-01|\n" + many + "2|\n", cut=cut).findings("")
    assert finding.found.startswith("2 rows, the first in line 22: 3 columns; no value for Note")


def test_a_missing_value_that_is_needed_loses_the_row() -> None:
    """The finding says which missing columns must have a value."""
    dataset = replace(VISITS, keys=("Note",))

    assert summary(rows("1|2021-01-01\n", dataset=dataset)) == [
        (
            "E240",
            "row",
            UNEVEN,
            "1 row, in line 2: 2 columns; no value for AcademicYear, Note, and Note must have one",
        )
    ]


def test_a_row_counts_once_in_a_kind() -> None:
    """Two wrong dates in one row are one row; each column has its own count."""
    dates = (("Visit", "%d/%m/%Y"), ("Note", "%H:%M:%S"))
    table = rows("1|x||y\n2|1/1/2021||y\n", dataset=replace(VISITS, dates=dates))

    assert summary(table) == [
        (
            "E241",
            "row",
            "Visit like 31/01/2026",
            "2 rows, the first in line 2: Visit 'x'; rows by column: Visit 1, Note 2",
        )
    ]
    assert dict(table.findings("")[0].columns) == {"Visit": 1, "Note": 2}


def test_columns_are_found_by_name() -> None:
    """Columns may come in any order and case; a missing column is not checked."""
    columns = ("more", "NOTE", "VISIT", "academicyear")
    assert [item[0] for item in summary(rows("||x|2020\n", columns=columns))] == ["E241", "E243"]


@pytest.mark.parametrize(
    "name", ["ac_year", "AC_YEAR", "AcademicYear", "assessment_year", "academic_year"]
)
def test_academic_years_go_by_many_names(name: str) -> None:
    """Wherever a dataset's header has such a column, its form is checked."""
    dataset = Dataset("f", "n", DatasetKind.UDISE, 1, headers=(header("id", name),))
    table = rows("1|2020\n", dataset=dataset, columns=("id", name))
    assert [finding.code for finding in table.findings("")] == ["E243"]


def test_a_year_that_no_header_documents_is_left_alone() -> None:
    """A column that the dataset does not document is not checked."""
    dataset = Dataset("f", "n", DatasetKind.UDISE, 1, headers=(header("id"),))
    assert summary(rows("1|2020\n", dataset=dataset, columns=("id", "ac_year"))) == []


def test_what_was_not_read_to_its_end_says_so() -> None:
    """Each finding says how far the file was read."""
    table = rows(GOOD + "2|2021-01-01\n", whole=False)

    found = table.findings(" in the first 8 MiB")[0].found
    assert found.startswith("1 row in the first 8 MiB, in line 3: 2 columns")
    assert not table.complete


def test_a_record_that_the_end_cuts_is_not_judged() -> None:
    """An open quote at the read limit is not a finding."""
    table = rows(GOOD + '2|||"open\n', whole=False)
    assert (summary(table), table.count) == ([], 1)


def test_after_a_wrong_quote_nothing_is_counted() -> None:
    """The server loses the file there, and only the rows before are checked."""
    table = rows('1||2020|\n2||"x"y|\n' + GOOD * 9)

    assert [item[0] for item in summary(table)] == ["E243", "E237"]
    assert (table.count, table.complete) == (1, False)


def test_keys_are_remembered_up_to_a_limit() -> None:
    """Memory is bounded: a row is compared with the first keys, however long the file is."""
    count = KEYS_MAX + 2000
    text = "".join(f"{number}|||\n" for number in range(count))
    table = rows(text + f"5|||other\n{count - 1}|||other\n", cut=1000)

    assert [finding.found for finding in table.findings("")] == [
        f"1 row, in line {count + 2}: Id '5', which an earlier row has with other values"
    ]


def test_a_key_of_two_columns_is_one_key() -> None:
    """Rows differ if one of the columns does; rows without a key are not compared."""
    dataset = replace(VISITS, keys=("Note", "Id"))
    text = "1|||a\n2|||a\n1|||b\n|||\n||2020-21|\n1||2020-21|b\n1|x\n"

    assert summary(rows(text, dataset=dataset))[-1] == (
        "E245",
        "row",
        "one row for each Note, Id",
        "1 row, in line 7: Note 'b', Id '1', which an earlier row has with other values",
    )


KINDS = [kind for kind in ValueKind if kind is not ValueKind.DATE]
RIGHT = {
    ValueKind.INT32: "0 -5 +7 2147483647 -2147483648 007",
    ValueKind.INT64: "24010100101 9223372036854775807 -9223372036854775808",
    ValueKind.DECIMAL: "5 -5.5 .5 5. 1e3 2.4E+10 NaN 0",
    ValueKind.COORDINATE: "23.02 -7 0.5 00.5 1e-3",
    ValueKind.BOOL: "true FALSE 1 0 y N t f",
    ValueKind.TEXT: "anything 5",
    ValueKind.YEAR: "2020-21",
}
WRONG = {
    ValueKind.INT32: "2147483648 9999999999 5.0 2.4E+4 III P 1,000 ५ 1_0 0x1 - +",
    ValueKind.INT64: "2.4E+10 24010100100.0 9223372036854775808 #N/A maybe \\N",
    ValueKind.DECIMAL: "23,1 1e abc . - 5.5.5 #### inf 1_0",
    ValueKind.COORDINATE: "23,1 N23",
    ValueKind.BOOL: "maybe 2 yes",
    ValueKind.TEXT: "",
    ValueKind.YEAR: "2020 2020-2021 2020/21 20-21",
}


def typed(kind: ValueKind, needed: VersionRange | None = None) -> Dataset:
    """Return a dataset with a column `Value` of a kind."""
    rules = (ValueRule("Value", kind, needed),)
    headers = (header("Value", "Note"),)
    return Dataset("f", "n", DatasetKind.MASTER, 1, headers=headers, values=rules)


@pytest.mark.parametrize("kind", KINDS[:-1])
def test_values_are_of_their_type(kind: ValueKind) -> None:
    """Each value that the server parses is right, and each other is counted."""
    right, wrong = RIGHT[kind].split(), WRONG[kind].split()
    text = "".join(f"{value}|x\n {value} |\n" for value in [*right, *wrong, "", "NULL"])
    table = rows(text, dataset=typed(kind), columns=("Value", "Note"))
    findings = table.findings("")

    assert [(finding.code, finding.loses) for finding in findings] == [("E244", "row")][
        : len(wrong)
    ]
    assert [dict(finding.columns) for finding in findings] == [{"Value": 2 * len(wrong)}][
        : len(wrong)
    ]
    for value in wrong:
        (finding,) = rows(f"{value}|\n", dataset=typed(kind), columns=("Value", "N")).findings("")
        assert finding.found.startswith(f"1 row, in line 2: Value '{value}'")


ADVICE = {
    "2.4E+10": "Excel has changed the code; format the column as text, and enter the codes again",
    "2,4E10": "Excel has changed the code; format the column as text, and enter the codes again",
    "24010100100.0": "a program wrote the code as a decimal number; remove the .0",
    "#N/A": "an error of an Excel formula",
    "####": "the column was too narrow in Excel; make it wider and export again",
    '="24010100100"': "quotes or a formula of Excel in the value; write the value alone",
    "1,234,567": "write the number with a decimal point and without commas",
    "\\N": "no value; leave it empty or write NULL",
    "२४": "use the digits 0 to 9 and no special characters",
    "24010100100\xa0": "use the digits 0 to 9 and no special characters",
}


@pytest.mark.parametrize(("value", "advice"), ADVICE.items(), ids=ascii)
def test_a_wrong_value_says_what_changed_it(value: str, advice: str) -> None:
    """Where Excel or a program is the cause, the finding says what to do there."""
    dataset = typed(ValueKind.INT64)
    (finding,) = rows(f"{value}|\n", dataset=dataset, columns=("Value", "Note")).findings("")

    assert finding.expected == "Value as a whole number of digits"
    assert advice in finding.found


def test_a_date_that_excel_changed_says_so() -> None:
    """Excel writes dates in the form of the country, or as a number of days."""
    for value in ("31-03-2021", "31/3/21", "31-Mar-21", "44286"):
        (finding,) = rows(f"1|{value}||\n").findings("")
        assert "Excel has changed the date" in finding.found


@pytest.mark.parametrize("value", ["", "NULL", " ", "0", "0.000", "+0.0"])
def test_a_coordinate_of_zero_is_no_value(value: str) -> None:
    """The server drops a school without a place."""
    dataset = typed(ValueKind.COORDINATE, VersionRange())
    (finding,) = rows(f"{value}|\n", dataset=dataset, columns=("Value", "Note")).findings("")
    assert finding.code == "E242"


def test_a_value_may_be_needed_from_a_version_on() -> None:
    """Older servers load the row; an unknown server may drop it."""
    dataset = replace(typed(ValueKind.INT64, VersionRange(Version(3, 0))), keys=("Value",))
    found = {
        version: [
            finding.code
            for finding in rows(
                "|\n", dataset=dataset, columns=("Value", "Note"), version=version
            ).findings("")
        ]
        for version in (None, Version(2, 0), Version(3, 7))
    }
    # The line is blank but for its delimiter.
    assert found == {None: ["E242"], Version(2, 0): [], Version(3, 7): ["E242"]}


def test_many_shapes_of_lines_take_bounded_time() -> None:
    """Lines that are all different are checked value by value, and all are counted."""
    dataset = typed(ValueKind.INT64)
    lines = [
        "x" * (number % 7) + "1" * (number % 300) + ".a" * (number % 5) for number in range(30_000)
    ]
    table = rows("".join(f"5|{line}\n" for line in lines), dataset=dataset, columns=("Value", "N"))
    assert (summary(table), table.count) == ([], 30_000)


RECORDS = st.lists(st.lists(st.text('|"\n é', max_size=6), min_size=4, max_size=4), max_size=30)


@given(RECORDS, st.integers(1, 5))
def test_what_is_quoted_well_is_even(records: list[list[str]], cut: int) -> None:
    """Any value, with its quotes doubled, stays within its column."""

    def quoted(value: str) -> str:
        return '"{}"'.format(value.replace('"', '""'))

    text = "".join(
        "|".join(map(quoted, [str(number), *record[1:]])) + "\n"
        for number, record in enumerate(records)
    )
    dataset = replace(VISITS, dates=(), headers=(header("Id"),))
    table = rows(text, dataset=dataset, cut=cut)

    assert {item[:2] for item in summary(table)} <= {("E237", "row")}
    assert (table.count, table.complete) == (len(records), True)


VALUES = st.sampled_from(
    [
        "",
        "NULL",
        " 5 ",
        "5",
        "2.4E+10",
        "5.0",
        '"5"',
        '""',
        "a",
        "é ",
        "2020-21",
        "2020",
        "\\N",
        "|",
    ]
)


@given(st.lists(st.lists(VALUES, min_size=1, max_size=5), max_size=40))
def test_the_cuts_between_blocks_do_not_matter(records: list[list[str]]) -> None:
    """The counts of the findings are the same, however the lines are cut into blocks."""
    lines = ["|".join(record) + "\n" for record in records]
    dataset = replace(
        VISITS,
        keys=(),
        values=(ValueRule("Id", ValueKind.INT64), ValueRule("Note", ValueKind.INT32)),
    )

    def counts(cut: int) -> object:
        table = rows("".join(lines), dataset=dataset, cut=cut)
        found = {(f.code, f.loses): (f.found.split()[0], f.columns) for f in table.findings("")}
        return found, table.count, table.complete

    assert counts(0) == counts(1) == counts(3)
