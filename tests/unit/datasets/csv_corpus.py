"""CSVs as many programs and people write them: what the server does, and the verdict.

The server's part was read in commons-csv 1.8 and in the NiFi templates of cQube 1.12.1 and 3.7.
"""

import codecs
import csv
import io
from dataclasses import dataclass, replace
from typing import Literal

from emitterd.datasets.sample import sample_csv
from support.zips import shipped

DISTRICT = "district_master/district_mst"
BLOCK = "block_master/block_mst"
CLUSTER = "cluster_master/cluster_mst"
SCHOOL = "school_master/school_mst"
MANAGEMENT = "school_management/school_management_master"
ATTENDANCE = "student_attendance/student_attendance"
TEACHERS = "teacher_attendance/teacher_attendance"
INSPECTION = "inspection_master/inspection_master"
VISITS = "user_location_master/user_location_master"
EXAMS = "pat/periodic_exam_mst"
QUESTIONS = "pat/periodic_exam_qst_mst"
RESULTS = "pat/periodic_exam_result_trans"
SUBJECTS = "pat/periodic_exam_subject_details"
SEMESTER = "semester/semester"
TPD = "diksha/diksha_tpd"
PROFILE = "udise/tch_profile"
INFRA = "infra_trans/infra_trans"


@dataclass(frozen=True)
class Shape:
    """A form of CSV: who writes it, what the server does, and the findings as `code loss`."""

    name: str
    writer: str
    server: str
    content: bytes
    findings: str = ""
    dataset: str = DISTRICT
    version: str = ""

    @property
    def title(self) -> str:
        """The name of the test."""
        return f"{self.name} ({self.writer})"


def records(title: str, rows: int = 3) -> str:
    """Return a sample with the first of the headers."""
    dataset = shipped().dataset(f"{title}.zip".encode())
    assert dataset is not None
    return sample_csv(replace(dataset, headers=dataset.headers[:1]), rows)


def changed(dataset: str, column: str, *values: str, rows: int = 5) -> bytes:
    """Return sample records; the first of them have these values in a column."""
    delimiter = "," if dataset == TPD else "|"
    lines = [line.split(delimiter) for line in records(dataset, rows).split("\n")]
    for line, value in zip(lines[1:], values, strict=False):
        line[lines[0].index(column)] = value
    return "\n".join(map(delimiter.join, lines)).encode()


def headed(dataset: str, *columns: str, delimiter: str = "|") -> bytes:
    """Return records of a sample with these columns only, in this order."""
    lines = [line.split("|") for line in records(dataset).split("\n")[:-1]]
    places = [lines[0].index(column) for column in columns]
    rows = (delimiter.join(line[at] for at in places) for line in lines)
    return "\n".join(rows).encode()


def written(dataset: str, quoting: Literal[0, 1, 2, 3], end: str = "\n") -> bytes:
    """Return a sample as Python's csv module writes it."""
    target = io.StringIO()
    rows = list(csv.reader(io.StringIO(records(dataset)), delimiter="|"))
    writer = csv.writer(target, delimiter="|", quoting=quoting, lineterminator=end)
    writer.writerow(rows[0])
    writer.writerows([int(cell) if cell.isdigit() else cell for cell in row] for row in rows[1:])
    return target.getvalue().encode()


HEADER = "DistrictId|StateId|District|IsActive\n"
GOOD = f"{HEADER}1|24|Ahmadabad|1\n2|24|Valsad|1\n3|24|Surat|1\n"


def district(*rows: str) -> bytes:
    """Return a header and these records."""
    return (HEADER + "".join(f"{row}\n" for row in rows)).encode()


def named(name: str) -> bytes:
    """Return three districts, of which the second has this text as its name."""
    return district("1|24|Ahmadabad|1", f"2|24|{name}|1", "3|24|Surat|1")


def replaced(old: str, new: str, dataset: str = DISTRICT) -> bytes:
    """Return a sample in which a text is replaced."""
    text = GOOD if dataset == DISTRICT else records(dataset)
    assert old in text
    return text.replace(old, new).encode()


LOADS, DROPS, ROWS = "loads all rows", "drops the whole file", "drops the rows"
VALUES, REPLACES = "loads the rows with other values", "replaces the bytes"
IGNORES, JOINS = "ignores the values after the last column", "reads several rows as one value"

TEXT = [
    Shape("LF", "a database export", LOADS, GOOD.encode()),
    Shape("CRLF", "Windows", LOADS, replaced("\n", "\r\n")),
    Shape("CR", "Excel for Mac 2011", LOADS, replaced("\n", "\r")),
    Shape("CR and LF mixed", "two joined files", LOADS, replaced("24|Valsad|1\n", "24|Valsad|1\r")),
    Shape("CR CR LF", "text mode twice", LOADS, replaced("\n", "\r\r\n")),
    Shape("no last line end", "a script", LOADS, GOOD.encode().rstrip()),
    Shape("blank lines at the end", "Excel", LOADS, GOOD.encode() + b"\n\n\n"),
    Shape("blank lines between", "awk", LOADS, replaced("\n", "\n\n")),
    Shape("blank line first", "a report", LOADS, b"\n" + GOOD.encode()),
    Shape(
        "blank line first, header checked",
        "a report",
        DROPS,
        b"\n" + records(ATTENDANCE).encode(),
        "E233 file",
        ATTENDANCE,
    ),
    Shape(
        "title above the header",
        "a report",
        DROPS,
        b"Districts\n" + GOOD.encode(),
        "E233 file, E240 value",
    ),
    Shape("mark", "Excel, CSV UTF-8", LOADS, codecs.BOM_UTF8 + GOOD.encode(), "E231 nothing"),
    Shape("UTF-16", "Notepad, Unicode", DROPS, GOOD.encode("utf-16"), "E230 file"),
    Shape("UTF-16 without mark", "bcp -w", DROPS, GOOD.encode("utf-16-le"), "E230 file"),
    Shape("UTF-16 big-endian", "Java", DROPS, GOOD.encode("utf-16-be"), "E230 file"),
    Shape(
        "Windows-1252",
        "Excel, CSV",
        REPLACES,
        named("Vals\xe4d").decode().encode("cp1252"),
        "E230 value",
    ),
    Shape(
        "UTF-8 cut in a letter",
        "a script",
        REPLACES,
        named("सू").replace("ू".encode(), b"\xe0\xa5"),
        "E230 value",
    ),
    Shape("Gujarati", "a database export", LOADS, named("સુરત")),
    Shape("NUL in a value", "a C program", DROPS, named("Val\0sad"), "E230 file"),
    Shape("NUL at the end", "a fixed buffer", DROPS, GOOD.encode() + b"\0", "E230 file"),
    Shape("workbook", "Excel, renamed", DROPS, b"PK\3\4" + bytes(100), "E230 file"),
    Shape(
        "old workbook", "Excel 97, renamed", DROPS, b"\xd0\xcf\x11\xe0" + bytes(100), "E230 file"
    ),
    Shape(
        "web page", "a portal that wants a login", DROPS, b"<html>\n<body>\n</html>\n", "E233 file"
    ),
    Shape("nothing", "a failed export", DROPS, b"", "E234 file"),
    Shape("header only", "an export of no rows", DROPS, HEADER.encode(), "E234 file"),
    Shape("line of 1 MiB", "a free text", LOADS, named("v" * 1_048_000)),
    Shape("line above 1 MiB", "a missing line end", DROPS, named("v" * 1_048_600), "E235 file"),
    Shape("end mark of DOS", "copy /a", LOADS, GOOD.encode() + b"\x1a\n"),
    Shape("sep= line", "Excel", DROPS, b"sep=|\n" + GOOD.encode(), "E233 file, E240 value"),
    Shape("bcp, no header", "SQL Server bcp", DROPS, GOOD.partition("\n")[2].encode(), "E233 file"),
    Shape(
        "rule under the header",
        "sqlcmd",
        ROWS,
        replaced("Active\n", "Active\n---|---|---|---\n"),
        "E244 row",
    ),
    Shape(
        "row count at the end",
        "sqlcmd, Oracle",
        ROWS,
        GOOD.encode() + b"(3 rows affected)\n",
        "E240 row, E244 row",
    ),
]

HEADERS = [
    Shape("comma", "Excel, English", DROPS, replaced("|", ","), "E232 file"),
    Shape("semicolon", "Excel, European", DROPS, replaced("|", ";"), "E232 file"),
    Shape("tab", "Excel, text", DROPS, replaced("|", "\t"), "E232 file"),
    Shape("upper case", "Oracle", LOADS, replaced(HEADER, HEADER.upper())),
    Shape("quoted header, by name", "pandas", LOADS, written(DISTRICT, csv.QUOTE_ALL)),
    Shape(
        "quoted header",
        "pandas",
        DROPS,
        written(ATTENDANCE, csv.QUOTE_ALL),
        "E233 file",
        ATTENDANCE,
    ),
    Shape(
        "quoted header",
        "pandas, cQube 3.7",
        LOADS,
        written(ATTENDANCE, csv.QUOTE_ALL),
        "",
        ATTENDANCE,
        "3.7",
    ),
    Shape(
        "blanks around names",
        "a script",
        DROPS,
        replaced("|Month|", "| Month |", ATTENDANCE),
        "E233 file",
        ATTENDANCE,
    ),
    Shape(
        "blanks around names, by name", "a script", LOADS, replaced("|District|", "| District |")
    ),
    Shape(
        "no-break space",
        "Excel, from the web",
        DROPS,
        replaced("|District|", "|District\xa0|"),
        "E233 file",
    ),
    Shape(
        "blank before a quote",
        "a script",
        DROPS,
        replaced("|District|", '| "District"|'),
        "E233 file",
    ),
    Shape(
        "text after a quote in the header",
        "a script",
        DROPS,
        replaced("|District|", '|"District"s|'),
        "E237 file",
    ),
    Shape("misspelt", "typed by hand", DROPS, replaced("District|", "Distrikt|"), "E233 file"),
    Shape(
        "other order, by name",
        "SQL",
        LOADS,
        headed(BLOCK, "Block", "DistrictId", "BlockId"),
        "",
        BLOCK,
    ),
    Shape(
        "no StateId and IsActive",
        "a state",
        LOADS,
        headed(BLOCK, "BlockId", "DistrictId", "Block"),
        "",
        BLOCK,
        "1.12",
    ),
    Shape(
        "no StateId and IsActive",
        "a state",
        LOADS,
        headed(CLUSTER, "ClusterId", "DistrictId", "BlockId", "Cluster"),
        "",
        CLUSTER,
        "3.7",
    ),
    Shape(
        "no StateId, header checked",
        "a state",
        DROPS,
        headed(BLOCK, "BlockId", "DistrictId", "Block"),
        "E233 file",
        BLOCK,
        "1.6",
    ),
    Shape(
        "1.7 selects by name",
        "a state",
        LOADS,
        headed(BLOCK, "Block", "DistrictId", "BlockId"),
        "",
        BLOCK,
        "1.7",
    ),
    Shape(
        "other order",
        "SQL",
        DROPS,
        headed(
            ATTENDANCE,
            "StudentId",
            "StudentAttendanceId",
            "SchoolId",
            "AadhaarUID",
            "AcademicYear",
            "Month",
            *map(str, range(1, 32)),
        ),
        "E233 file",
        ATTENDANCE,
        "2.0",
    ),
    Shape(
        "other order",
        "SQL, cQube 3.0",
        LOADS,
        headed(
            ATTENDANCE,
            "StudentId",
            "StudentAttendanceId",
            "SchoolId",
            "AcademicYear",
            "Month",
            *map(str, range(1, 32)),
        ),
        "",
        ATTENDANCE,
        "3.0",
    ),
    Shape(
        "column more",
        "a state",
        LOADS,
        replaced("|30|31\n", "|30|31|Remark\n", ATTENDANCE).replace(b"\n1|", b"\n1|"),
        "E240 value",
        ATTENDANCE,
    ),
    Shape(
        "column more",
        "a state",
        DROPS,
        replaced("|IsOffline\n", "|IsOffline|x\n", INSPECTION),
        "E233 file, E240 value",
        INSPECTION,
    ),
    Shape(
        "trailing delimiter", "a script", DROPS, replaced("\n", "|\n", VISITS), "E233 file", VISITS
    ),
    Shape(
        "other case",
        "a state",
        DROPS,
        replaced("|Sem|", "|SEM|", SEMESTER),
        "E233 file",
        SEMESTER,
        "1.10",
    ),
    Shape(
        "quoted",
        "Mock_Data",
        LOADS,
        b'"ManagementId"|"Management"|"default_option"\n1|Govt|1\n',
        "",
        MANAGEMENT,
    ),
    Shape(
        "udise header",
        "a district",
        DROPS,
        b"district_name|udise_district_code\nSurat|2422\n",
        "E233 file",
        DISTRICT,
        "1.5",
    ),
    Shape("udise header", "UDISE+", LOADS, b"district_name|udise_district_code\nSurat|2422\n"),
    Shape("names with blanks", "DIKSHA", LOADS, records(TPD).encode(), "", TPD),
    Shape("31 teachers", "UDISE+", LOADS, records(PROFILE).encode(), "", PROFILE),
]

QUOTES = [
    Shape("all quoted", "bcp, pandas", LOADS, written(SCHOOL, csv.QUOTE_ALL), "", SCHOOL),
    Shape("text quoted", "pandas, R", LOADS, written(SCHOOL, csv.QUOTE_NONNUMERIC), "", SCHOOL),
    Shape("CRLF, quoted", "Python", LOADS, written(DISTRICT, csv.QUOTE_ALL, "\r\n"), ""),
    Shape("delimiter in quotes", "MySQL", LOADS, named('"A|B"')),
    Shape("line break in quotes", "Excel, Alt-Enter", LOADS, named('"A\nB"')),
    Shape("two quotes", "Excel", LOADS, named('"S.V. ""HIGH"" SCHOOL"')),
    Shape("quote inside", "typed by hand", LOADS, named('S.V. "HIGH" SCHOOL')),
    Shape("inches", "typed by hand", LOADS, named('Pipe 5"')),
    Shape("blank after a quote", "a script", LOADS, named('"Valsad" ')),
    Shape("text after a quote", "typed by hand", DROPS, named('"S.V." HIGH SCHOOL'), "E237 file"),
    Shape("JSON", "a web form", DROPS, named('"{"a":1}"'), "E237 file"),
    Shape(
        "escaped quotes in quotes",
        "MySQL OUTFILE",
        DROPS,
        named('"S.V. \\"HIGH\\" SCHOOL"'),
        "E237 file",
    ),
    Shape("escaped quotes", "MySQL OUTFILE", LOADS, named('S.V. \\"HIGH\\" SCHOOL')),
    Shape("escaped delimiter", "MySQL OUTFILE", LOADS, named("A\\|B")),
    Shape("backslashes", "a path of Windows", LOADS, named("C:\\new\\table")),
    Shape("backslash before a closing quote", "a path of Windows", LOADS, named('"C:\\"')),
    Shape("open quote", "typed by hand", DROPS, named('"Valsad'), "E237 file"),
    Shape("open quote at the end", "a cut export", DROPS, GOOD.encode() + b'4|24|"Da', "E237 file"),
    Shape(
        "backslash at a line end",
        "a path of Windows",
        VALUES,
        district("1|24|Surat|1", "2|24|Dang|C:\\", "3|24|Tapi|1"),
        "E240 value",
    ),
    Shape(
        "two stray quotes",
        "typed by hand",
        JOINS,
        district("1|24|Surat|1", '2|24|"Dang|1', "3|24|Surat|1", '4|24|Tapi"|1', "5|24|Navsari|1"),
        "E237 row",
    ),
]

ROWS_ = [
    Shape(
        "trailing delimiter in rows",
        "SQL Server bcp",
        IGNORES,
        replaced("|1\n", "|1|\n"),
        "E240 nothing",
    ),
    Shape("empty columns", "Excel", IGNORES, replaced("|1\n", "|1||||\n"), "E240 nothing"),
    Shape("delimiter in a value", "typed by hand", VALUES, named("A|B"), "E240 value"),
    Shape("short row", "a script", VALUES, district("1|24|Surat|1", "2|24|Dang"), "E240 value"),
    Shape("short row, no name", "a script", ROWS, district("1|24|Surat|1", "2|24"), "E240 row"),
    Shape("total at the end", "a report", ROWS, GOOD.encode() + b"Total|3\n", "E240 row, E244 row"),
    Shape("blanks around values", "Oracle, padded", LOADS, replaced("|24|", "| 24 |")),
    Shape("row of delimiters", "Excel", ROWS, GOOD.encode() + b"|||\n", "E242 row"),
    Shape("empty name", "a database", ROWS, named(""), "E242 row"),
    Shape("NULL name", "Oracle", ROWS, named("NULL"), "E242 row"),
    Shape("equal rows", "a join", LOADS, district(*["1|24|Surat|1"] * 3)),
    Shape(
        "one key, two names",
        "a correction",
        ROWS,
        district("1|24|Surat|1", "1|24|SURAT|1"),
        "E245 row",
    ),
    Shape(
        "one subject in two grades",
        "a state",
        LOADS,
        b"subject_id|subject|grade\n1|Maths|1\n1|Maths|2\n",
        "",
        SUBJECTS,
    ),
]

TYPES = [
    Shape(
        "scientific code",
        "Excel",
        ROWS,
        changed(ATTENDANCE, "SchoolId", *["2.4E+10"] * 5),
        "E244 row",
        ATTENDANCE,
    ),
    Shape(
        "code with .0",
        "pandas",
        ROWS,
        changed(SCHOOL, "SchoolId", "24010100100.0"),
        "E244 row",
        SCHOOL,
    ),
    Shape(
        "code as formula",
        "Excel",
        ROWS,
        changed(SCHOOL, "SchoolId", '="24010100100"'),
        "E244 row",
        SCHOOL,
    ),
    Shape(
        "error of a formula",
        "Excel",
        ROWS,
        changed(SCHOOL, "ClusterId", "#N/A", "#REF!"),
        "E244 row",
        SCHOOL,
    ),
    Shape(
        "narrow column", "LibreOffice", ROWS, changed(SCHOOL, "SchoolId", "###"), "E244 row", SCHOOL
    ),
    Shape(
        "thousands",
        "Excel",
        ROWS,
        changed(SCHOOL, "SchoolId", "24,010,100,100"),
        "E244 row",
        SCHOOL,
    ),
    Shape(
        "leading zeros", "a state", LOADS, changed(SCHOOL, "SchoolId", "02401010010"), "", SCHOOL
    ),
    Shape(
        "code with an apostrophe",
        "Excel",
        ROWS,
        changed(SCHOOL, "SchoolId", "'24010100100"),
        "E244 row",
        SCHOOL,
    ),
    Shape(
        "Roman grade", "typed by hand", ROWS, changed(SCHOOL, "lowclass", "III"), "E244 row", SCHOOL
    ),
    Shape(
        "P for present",
        "typed by hand",
        ROWS,
        changed(ATTENDANCE, "5", "P", "A"),
        "E244 row",
        ATTENDANCE,
    ),
    Shape("no days", "a database", LOADS, changed(ATTENDANCE, "5", "", "NULL"), "", ATTENDANCE),
    Shape("\\N", "MySQL OUTFILE", ROWS, changed(ATTENDANCE, "5", "\\N"), "E244 row", ATTENDANCE),
    Shape(
        "null in lower case",
        "a script",
        ROWS,
        changed(ATTENDANCE, "5", "null"),
        "E244 row",
        ATTENDANCE,
    ),
    Shape("nan", "pandas", ROWS, changed(ATTENDANCE, "5", "nan"), "E244 row", ATTENDANCE),
    Shape(
        "too large for int32",
        "a state",
        ROWS,
        changed(ATTENDANCE, "5", "2147483648"),
        "E244 row",
        ATTENDANCE,
    ),
    Shape(
        "Devanagari digits",
        "a Hindi keyboard",
        ROWS,
        changed(ATTENDANCE, "5", "१"),
        "E244 row",
        ATTENDANCE,
    ),
    Shape(
        "no-break space in a number",
        "the web",
        ROWS,
        changed(ATTENDANCE, "5", "1\xa0"),
        "E244 row",
        ATTENDANCE,
    ),
    Shape(
        "no Aadhaar numbers",
        "a careful office",
        LOADS,
        changed(ATTENDANCE, "AadhaarUID", *[""] * 5),
        "",
        ATTENDANCE,
    ),
    Shape(
        "no student",
        "a database",
        ROWS,
        changed(ATTENDANCE, "StudentId", ""),
        "E242 row",
        ATTENDANCE,
    ),
    Shape(
        "year of one number",
        "typed by hand",
        ROWS,
        changed(ATTENDANCE, "AcademicYear", "2020"),
        "E243 row",
        ATTENDANCE,
    ),
    Shape(
        "year as a date",
        "Excel",
        ROWS,
        changed(ATTENDANCE, "AcademicYear", "Jan-20"),
        "E243 row",
        ATTENDANCE,
    ),
    Shape(
        "decimal comma",
        "Excel, European",
        ROWS,
        changed(SCHOOL, "Latitude", "23,1"),
        "E244 row",
        SCHOOL,
    ),
    Shape(
        "no place",
        "a state",
        ROWS,
        changed(SCHOOL, "Latitude", "", "0", "0.000"),
        "E242 row",
        SCHOOL,
    ),
    Shape("degrees", "a map", ROWS, changed(SCHOOL, "Latitude", "23°1'"), "E244 row", SCHOOL),
    Shape(
        "yes for true",
        "typed by hand",
        ROWS,
        changed(INSPECTION, "IsOffline", "maybe", "yes"),
        "E244 row",
        INSPECTION,
    ),
    Shape(
        "TRUE", "Excel", LOADS, changed(INSPECTION, "IsOffline", "TRUE", "FALSE"), "", INSPECTION
    ),
    Shape(
        "date and time",
        "SQL Server",
        LOADS,
        changed(INSPECTION, "VisitDate", "2021-01-31 11:00:00.000"),
        "",
        INSPECTION,
    ),
    Shape(
        "ISO time",
        "Java",
        LOADS,
        changed(INSPECTION, "VisitDate", "2021-01-31T11:00:00Z"),
        "",
        INSPECTION,
    ),
    Shape(
        "day first",
        "Excel, India",
        ROWS,
        changed(INSPECTION, "VisitDate", "31-01-2021"),
        "E241 row",
        INSPECTION,
    ),
    Shape("number of days", "Excel", ROWS, changed(EXAMS, "exam_date", "44227"), "E241 row", EXAMS),
    Shape("no date", "a database", ROWS, changed(EXAMS, "exam_date", ""), "E242 row", EXAMS),
    Shape(
        "day first, as the server",
        "DIKSHA",
        LOADS,
        changed(TPD, "Enrolment Date", "31/01/2021"),
        "",
        TPD,
    ),
    Shape(
        "no observer",
        "a state",
        LOADS,
        changed(INSPECTION, "ObserverId", ""),
        "",
        INSPECTION,
        "1.12",
    ),
    Shape(
        "no observer",
        "a state",
        ROWS,
        changed(INSPECTION, "ObserverId", ""),
        "E242 row",
        INSPECTION,
        "3.7",
    ),
    Shape(
        "no visit",
        "a state",
        LOADS,
        changed(VISITS, "UserLocationMasterId", ""),
        "",
        VISITS,
        "1.12",
    ),
    Shape(
        "half marks",
        "a school",
        LOADS,
        changed(RESULTS, "obtained_marks", "2.5", ".5"),
        "",
        RESULTS,
    ),
    Shape(
        "absent", "a school", ROWS, changed(RESULTS, "obtained_marks", "AB"), "E244 row", RESULTS
    ),
    Shape(
        "no indicator",
        "a school",
        LOADS,
        changed(QUESTIONS, "indicator_id", "", "NULL"),
        "",
        QUESTIONS,
    ),
    Shape("no subject", "a state", ROWS, changed(SUBJECTS, "subject", ""), "E242 row", SUBJECTS),
    Shape(
        "month as a word",
        "typed by hand",
        ROWS,
        changed(TEACHERS, "MONTH", "July"),
        "E244 row",
        TEACHERS,
    ),
    Shape(
        "date and time",
        "a database",
        LOADS,
        changed(INFRA, "CreatedOn", "2021-01-31 00:00"),
        "",
        INFRA,
    ),
]

SHAPES = [*TEXT, *HEADERS, *QUOTES, *ROWS_, *TYPES]
