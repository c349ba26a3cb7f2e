"""A first line compared with the headers of its dataset, and the finding."""

import csv
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.datasets.catalogue import Dataset, DatasetKind, HeaderMatch, Version, VersionRange
from emitterd.datasets.csv_header import COLUMNS_MAX, check_header
from support.zips import ATTENDANCE, COLUMNS, HEADER, header

EXPECTED = f"{HEADER} (5 columns, in this order)"


def summary(
    line: str,
    dataset: Dataset | None = ATTENDANCE,
    version: Version | None = None,
    variant: str = "",
) -> tuple[str, str, str] | None:
    """Return code, expected and found of a line, or None where it is right."""
    finding = check_header(line, dataset, version, variant).finding
    return (finding.code.value, finding.expected, finding.found) if finding else None


def of(*headers: str, match: HeaderMatch = HeaderMatch.SEQUENCE, required: str = "") -> Dataset:
    """Return a dataset with such headers, each written as a line."""
    known = (header(*item.split("|"), match=match, required=required) for item in headers)
    return replace(ATTENDANCE, headers=tuple(known))


RIGHT = {
    "as documented": HEADER,
    "upper case": HEADER.upper(),
    "lower case, CRLF": HEADER.lower() + "\r",
    "blanks at the ends": f" {HEADER} ",
    "more before": f"District|Block|{HEADER}",
    "more behind": f"{HEADER}|Remark 2|",
    "more around": f"StudentId|{HEADER}|StudentId",
    "commas in a name": f"{HEADER}|a, b, and c, d, e, f",
}


@pytest.mark.parametrize("line", RIGHT.values(), ids=RIGHT)
def test_what_the_server_takes_is_right(line: str) -> None:
    """The columns side by side, in any case, with more around them."""
    assert summary(line) is None


WRONG = {
    "misspelt": (HEADER.replace("SchoolId", "Scool_Id"), "'Scool_Id' in place of SchoolId"),
    "two misspelt": (
        HEADER.replace("SchoolId", "Scool_Id").replace("Month", "month."),
        "'Scool_Id' in place of SchoolId, 'month.' in place of Month",
    ),
    "missing": ("StudentId|SchoolId|Month|Remark", "no AcademicYear"),
    "misspelt and missing": (
        "StudentId|SchoolId|Monht|Remark",
        "'Monht' in place of Month; no AcademicYear",
    ),
    "swapped": (
        "StudentId|AcademicYear|SchoolId|Month|Remark",
        "another order: column 2 is 'AcademicYear', where SchoolId belongs",
    ),
    "swapped at the end": (
        "StudentId|SchoolId|AcademicYear|Remark|Month",
        "another order: column 4 is 'Remark', where Month belongs",
    ),
    "turned around": (
        "Remark|Month|AcademicYear|SchoolId|StudentId",
        "another order: column 1 is 'Remark', where StudentId belongs",
    ),
    "one between": (
        "x|StudentId|SchoolId|extra|AcademicYear|Month|Remark",
        "another order: column 4 is 'extra', where AcademicYear belongs",
    ),
    "twice": (
        "StudentId|StudentId|SchoolId|AcademicYear|Month|x|Remark",
        "another order: column 2 is 'StudentId', where SchoolId belongs",
    ),
    "other columns": ("a|b|c|d|e|f|g", "other columns: 'a', 'b', 'c', 'd', 'e' and 2 more"),
    "data": ("1001|24001|2020-21|7|x", "other columns: '1001', '24001', '2020-21', '7', 'x'"),
    "quoted": (
        '"' + HEADER.replace("|", '"|"') + '"',
        "quotes around the names; the server compares the line as it is",
    ),
    "spaces": (
        HEADER.replace("|", " | "),
        "blanks around the names; the server compares the line as it is",
    ),
    "a no-break space": (
        HEADER.replace("SchoolId", "SchoolId\xa0"),
        "'SchoolId\\xa0' in place of SchoolId",
    ),
    "a longer name at the end": (f"{HEADER}s", "'Remarks' in place of Remark"),
    "one column": ("StudentId", "no SchoolId, AcademicYear, Month, Remark"),
    "blank": ("\r", "a blank first line"),
    "wide": ("|" * COLUMNS_MAX, f"more than {COLUMNS_MAX} columns"),
    "long": ("y" * 1000 + "|z", f"other columns: '{'y' * 60}…', 'z'"),
}


@pytest.mark.parametrize(("line", "found"), WRONG.values(), ids=WRONG)
def test_a_wrong_header_is_reported_in_few_words(line: str, found: str) -> None:
    """The finding names misspelled, missing and misplaced columns."""
    assert summary(line) == ("E233", EXPECTED, found)


@pytest.mark.parametrize(
    ("delimiter", "word"),
    [(",", ", (comma)"), (";", "; (semicolon)"), ("\t", "a tab")],
    ids=["comma", "semicolon", "tab"],
)
@pytest.mark.parametrize(
    "line", [HEADER, HEADER.replace("Month", "Mon")], ids=["right", "misspelt"]
)
def test_a_wrong_delimiter_is_reported_alone(line: str, delimiter: str, word: str) -> None:
    """With another delimiter only the delimiter is reported, not the columns."""
    heading = check_header(line.replace("|", delimiter), ATTENDANCE, None, "")

    assert summary(line.replace("|", delimiter)) == ("E232", "| (pipe)", word)
    assert heading.columns == tuple(line.split("|"))


def test_the_commonest_of_other_delimiters_is_named() -> None:
    """A comma in a name does not make comma the delimiter."""
    assert summary("Student, Id;School;Year") == ("E232", "| (pipe)", "; (semicolon)")


def test_a_comma_file_with_pipes_is_reported() -> None:
    """Each dataset has a delimiter of its own."""
    diksha = replace(ATTENDANCE, delimiter=",")

    assert summary(HEADER.replace("|", ","), diksha) is None
    assert summary(HEADER, diksha) == ("E232", ", (comma)", "| (pipe)")


def test_a_right_delimiter_is_not_doubted_for_a_comma_in_a_name() -> None:
    """With two columns of its own delimiter, the header is what is wrong."""
    found = summary("Student, Id|School, Id, in, short")
    assert found is not None
    assert found[0] == "E233"


def test_a_dataset_of_one_column_has_no_wrong_delimiter() -> None:
    """A header of one column needs no delimiter."""
    batches = of("batchIdList")

    assert summary("batchidlist", batches) is None
    assert summary("1,2", batches) == ("E233", "batchIdList", "other columns: '1,2'")


def test_an_exact_header_is_exact_in_case() -> None:
    """The semester check of the server distinguishes Sem from SEM."""
    semester = of("DistrictId|Sem|PA_ES", match=HeaderMatch.EXACT)

    assert summary("x|DistrictId|Sem|PA_ES|y", semester) is None
    assert summary("DistrictId|SEM|PA_ES", semester) == (
        "E233",
        "DistrictId|Sem|PA_ES (3 columns, in this order and case)",
        "'SEM' in place of Sem",
    )
    assert summary("Sem|DistrictId|PA_ES", semester) == (
        "E233",
        "DistrictId|Sem|PA_ES (3 columns, in this order and case)",
        "another order: column 1 is 'Sem', where DistrictId belongs",
    )


def test_names_are_found_in_any_order() -> None:
    """Where the server selects by name, the required columns are enough."""
    infra = of("school_id|toilet|water", match=HeaderMatch.NAMES, required="school_id water")

    assert summary("WATER|x|School_Id", infra) is None
    assert summary("school_id|toilet|watter", infra) == (
        "E233",
        "columns named school_id, water",
        "'watter' in place of water",
    )
    assert summary("toilet|school_id", infra) == (
        "E233",
        "columns named school_id, water",
        "no water",
    )


WIDE = [f"c{number}_{'abcdefg'[number % 7]}" for number in range(172)]


def test_172_columns_are_reported_in_few_words() -> None:
    """The finding of the widest header stays short."""
    facility = of("|".join(WIDE))
    swapped = [*WIDE[:90], WIDE[91], WIDE[90], *WIDE[92:]]
    expected = "|".join(WIDE[:5]) + "|… (172 columns, in this order)"

    assert summary("|".join(WIDE).upper(), facility) is None
    assert summary("|".join(swapped), facility) == (
        "E233",
        expected,
        f"another order: column 91 is '{WIDE[91]}', where {WIDE[90]} belongs",
    )
    assert summary("|".join(WIDE[:100]), facility) == (
        "E233",
        expected,
        f"no {', '.join(WIDE[100:105])} and 67 more",
    )


STATE = header("DistrictId", "District", variant="state")
UDISE = header("district_name", "udise_district_code", variant="udise")
DISTRICTS = replace(ATTENDANCE, headers=(STATE, UDISE))


@pytest.mark.parametrize(
    ("line", "variant", "found"),
    [
        ("DistrictId|District", "state", None),
        ("DistrictId|District", "", None),
        ("district_name|udise_district_code", "udise", None),
        ("district_name|udise_district_code", "", None),
        ("district_name|udise_district_code", "state", "the udise header"),
        ("DistrictId|Distrikt", "", "'Distrikt' in place of District"),
        ("district_name|code", "", "no udise_district_code"),
    ],
)
def test_the_installation_decides_between_two_headers(
    line: str, variant: str, found: str | None
) -> None:
    """The variant's header is right; the other one is recognised."""
    wrong = summary(line, DISTRICTS, None, variant)
    assert (wrong and wrong[2]) == found


BLOCKS = replace(
    ATTENDANCE,
    headers=(
        replace(
            header("BlockId", "Block", "BCode"), span=VersionRange(Version(1, 1), Version(1, 1))
        ),
        replace(header("BlockId", "IsActive"), span=VersionRange(Version(1, 2), None)),
    ),
)


def test_the_version_decides_which_header_applies() -> None:
    """Another version's header is wrong, and named."""
    old, new = "BlockId|Block|BCode", "BlockId|IsActive"

    assert summary(old, BLOCKS, Version(1, 1)) is None
    assert summary(new, BLOCKS, Version(3, 7)) is None
    assert summary(old, BLOCKS, None) is None
    assert summary(old, BLOCKS, Version(3, 7)) == (
        "E233",
        "BlockId|IsActive (2 columns, in this order)",
        "the header of cQube 1.1 to 1.1",
    )
    assert summary("x|y", BLOCKS, Version(1, 0)) is None


@pytest.mark.parametrize("delimiter", ["|", ",", ";", "\t"])
def test_without_a_dataset_the_likeliest_delimiter_parts(delimiter: str) -> None:
    """Without a dataset the columns are returned without a finding."""
    heading = check_header(f"a{delimiter}b{delimiter}c", None, None, "")
    assert (heading.columns, heading.finding) == (("a", "b", "c"), None)


@pytest.mark.parametrize("line", ['a|"b" c', 'a|"b', 'a|"b \\"c\\""'])
def test_a_wrong_quote_is_an_error(line: str) -> None:
    """The server loses the file, with any names."""
    with pytest.raises(csv.Error):
        check_header(line, ATTENDANCE, None, "")


ALONE = of("InspectionId|SchoolId|Score", match=HeaderMatch.ONLY)


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("InspectionId|SchoolId|Score", None),
        ("inspectionid|schoolid|SCORE", None),
        ("InspectionId|SchoolId|Score|", "4 columns, 1 too many: ''"),
        ("Remark|InspectionId|SchoolId|Score", "4 columns, 1 too many: 'Remark'"),
        ("InspectionId|Score", "no SchoolId"),
    ],
)
def test_no_other_column_is_accepted(line: str, found: str | None) -> None:
    """Where the server counts the columns, one more loses the file."""
    wrong = summary(line, ALONE)
    expected = "InspectionId|SchoolId|Score (3 columns, in this order and no others)"
    assert wrong == (found and ("E233", expected, found))


BY_NAME = replace(
    ATTENDANCE,
    headers=(
        replace(ATTENDANCE.headers[0], span=VersionRange(None, Version(2, 9))),
        replace(
            header(*COLUMNS, match=HeaderMatch.NAMES, required=" ".join(COLUMNS)),
            span=VersionRange(Version(3, 0)),
            assumed=False,
        ),
    ),
)


def test_a_header_may_need_a_known_version() -> None:
    """If the version is not known, the stricter check holds, and the finding says so."""
    swapped = "SchoolId|StudentId|AcademicYear|Month|Remark"
    wrong = summary(swapped, BY_NAME)

    assert summary(swapped, BY_NAME, Version(3, 0)) is None
    assert summary(swapped, BY_NAME, Version(2, 0)) is not None
    assert wrong is not None
    assert wrong[2] == (
        "another order: column 1 is 'SchoolId', where StudentId belongs"
        " (cQube 3.0 to the latest accepts it: set spool.cqube_version if that is yours)"
    )


def test_an_empty_line_before_the_header_is_skipped_where_names_are_selected() -> None:
    """A comparison of the raw first line sees the empty line."""
    named = of(HEADER, match=HeaderMatch.NAMES, required=" ".join(COLUMNS))

    assert check_header(HEADER, named, None, "", first=False).finding is None
    finding = check_header(HEADER, ATTENDANCE, None, "", first=False).finding
    assert finding is not None
    assert finding.found == "a blank first line"


NAMES = st.text('abcS"|, é\\', max_size=5) | st.sampled_from(COLUMNS)


@given(st.lists(NAMES, max_size=9), st.sampled_from(list(HeaderMatch)))
def test_any_line_is_judged(names: list[str], match: HeaderMatch) -> None:
    """No line raises another error, and a correct header is accepted."""
    known = (header(*COLUMNS, match=match, required=" ".join(COLUMNS[:2])),)
    dataset = Dataset("f", "n", DatasetKind.MASTER, 1, headers=known)
    line = "|".join(names)
    right = all(column in names for column in COLUMNS[:2])
    try:
        found = summary(line, dataset)
    except csv.Error:
        assert '"' in line or "\\" in line
        return

    assert found is None or found[0] in {"E232", "E233"}
    if match is HeaderMatch.NAMES and right and not set('"\\') & set(line):
        assert found is None
