"""The inspection of a whole zip: its findings and its bounds."""

import errno
import os
import struct
import tracemalloc
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.datasets.findings import fatal
from emitterd.datasets.inspection import InspectionSettings, Report, inspect
from emitterd.datasets.zip_integrity import zip_flaw
from support.zip_writer import FOLLOWS, MARK, NAME, SIGNED, WRAP, end, write, zip64
from support.zips import (
    ATTENDANCE,
    COLUMNS,
    GOOD,
    HEADER,
    ROW,
    Counted,
    codes,
    inspected,
    inspected_csv,
    raw,
    repeated,
    words,
    zipped,
)

MIB = 1024**2
JUNK = b"\0\5\x16\7"


def test_a_good_file_has_no_findings() -> None:
    """The rows of a correct file are counted, and its checksum is compared."""
    report = inspected_csv(GOOD)
    assert report == Report((), NAME, COLUMNS, 2, read_bytes=len(GOOD), whole=True)


WELL_MADE = {
    "stored": lambda: zipped({NAME: GOOD}, zipfile.ZIP_STORED),
    "comment": lambda: zipped({NAME: GOOD}, comment=b"cQube emission"),
    "another name": lambda: zipped({"Export (1).CSV": GOOD}),
    "no ending": lambda: zipped({"data": GOOD}),
    "in a folder": lambda: zipped({"out/": b"", f"out/{NAME}": GOOD}),
    "in a folder of Windows": lambda: zipped({"out\\": b"", f"out\\{NAME}": GOOD}),
    "a Hindi name": lambda: zipped({"उपस्थिति.csv": GOOD}),
    "CRLF": lambda: zipped({NAME: GOOD.replace(b"\n", b"\r\n")}),
    "no last line break": lambda: zipped({NAME: GOOD[:-1]}),
    "blank lines": lambda: zipped({NAME: GOOD.replace(b"\n", b"\r\n\r\n")}),
    "lines of an old Mac": lambda: zipped({NAME: GOOD.replace(b"\n", b"\r")}),
    "other case": lambda: zipped({NAME: GOOD.replace(b"StudentId", b"STUDENTID")}),
    "a name that is not UTF-8": lambda: replace(raw(), flags=0x800, name=b"caf\xe9.csv").zip(),
    "sizes behind the data": lambda: replace(raw(), flags=FOLLOWS, descriptor=SIGNED).zip(),
    "zip64 sizes": lambda: replace(
        raw(), local={"packed": MARK, "size": MARK}, local_extra=zip64(len(GOOD), len(raw().packed))
    ).zip(),
    "bzip2": lambda: zipped({NAME: GOOD}, zipfile.ZIP_BZIP2),
}


@pytest.mark.parametrize("make", WELL_MADE.values(), ids=WELL_MADE)
def test_well_made_zips_have_no_findings(make: Callable[[], bytes]) -> None:
    """A file that the server accepts has no finding, from any program."""
    report = inspected(make())

    assert words(report) == []
    assert (report.rows, report.whole) == (2, True)


DAMAGED = {
    "checksum": (lambda: replace(raw(), crc=1).zip(), "content that does not match its checksum"),
    "stream": (
        lambda: replace(raw(), packed=b"\xff" * 60).zip(),
        (
            "compressed data that cannot be unpacked"
            " (Error -3 while decompressing data: invalid block type)"
        ),
    ),
    "broken off": (
        lambda: replace(raw(), packed=raw().packed[:-20]).zip(),
        "compressed data that ends too early",
    ),
    "size too small": (
        lambda: replace(raw(), size=len(GOOD) - 1).zip(),
        f"{len(GOOD)} bytes of content in place of {len(GOOD) - 1}",
    ),
    "size too large": (
        lambda: replace(raw(), size=len(GOOD) + 5).zip(),
        f"{len(GOOD)} bytes of content in place of {len(GOOD) + 5}",
    ),
    "beyond the end": (
        lambda: replace(raw(), packed_size=10**6).zip(),
        "a file that reaches beyond the beginning of the directory",
    ),
    "no header there": (
        lambda: replace(raw(), offset=7).zip(),
        "a directory that names a file where none begins",
    ),
    "header of another method": (
        lambda: replace(raw(), local={"method": 0}).zip(),
        "a file whose header contradicts the zip's directory",
    ),
    "header of another size": (
        lambda: replace(raw(), local={"size": 3}).zip(),
        "a file whose header contradicts the zip's directory",
    ),
    "stored in two sizes": (
        lambda: replace(raw(), method=0, packed=GOOD, packed_size=5).zip(),
        f"5 bytes of content in place of {len(GOOD)}",
    ),
}


@pytest.mark.parametrize(("make", "found"), DAMAGED.values(), ids=DAMAGED)
def test_damage_is_reported(make: Callable[[], bytes], found: str) -> None:
    """A zip that contradicts itself or cannot be unpacked is damaged."""
    report = inspected(make())
    assert [word for word in words(report) if word[0] == "E229"] == [("E229", "a whole zip", found)]


def test_damage_hides_no_wrong_header() -> None:
    """A wrong header is reported even if the zip is damaged behind it."""
    report = inspected(repeated(b"a|b\n", b"1|2\n" * 10_000, 9))
    assert codes(report) == ["E229", "E233"]


SEVERAL = "E226"
ONE_FILE = "a CSV packed with deflate, in a zip that was not piped"
MEMBERS = {
    "nothing": ({}, [("E225", "one CSV", "no file")]),
    "folders only": ({"a/": b"", "a/b/": b""}, [("E225", "one CSV", "no file")]),
    "what a Mac adds only": (
        {"__MACOSX/._x.csv": JUNK},
        [("E225", "one CSV", "1 file: '__MACOSX/._x.csv' (which a Mac adds)")],
    ),
    "two files": (
        {"a.csv": GOOD, "b.csv": GOOD},
        [(SEVERAL, "one CSV", "2 files: 'a.csv', 'b.csv'")],
    ),
    "many files": (
        {f"{number}.csv": GOOD for number in range(9)},
        [(SEVERAL, "one CSV", "9 files: '0.csv', '1.csv', '2.csv', …")],
    ),
    "a zip of a Mac": (
        {NAME: GOOD, "__MACOSX/": b"", f"__MACOSX/._{NAME}": JUNK, ".DS_Store": JUNK},
        [
            (
                SEVERAL,
                "one CSV",
                (
                    f"3 files: '{NAME}', '__MACOSX/._{NAME}' (which a Mac adds),"
                    " '.DS_Store' (which a Mac adds)"
                ),
            )
        ],
    ),
}


@pytest.mark.parametrize(("members", "expected"), MEMBERS.values(), ids=MEMBERS)
def test_a_zip_holds_one_csv(
    members: dict[str, bytes], expected: list[tuple[str, str, str]]
) -> None:
    """A zip without a file, or with several, is reported with their names."""
    assert words(inspected(zipped(members))) == expected


@pytest.mark.parametrize("beside", [f"__MACOSX/._{NAME}", "notes.txt"])
def test_the_csv_is_inspected_beside_other_files(beside: str) -> None:
    """If it is clear which file is the data, its findings are reported too."""
    report = inspected(zipped({beside: JUNK, NAME: b"a|b\n1|2\n"}))

    assert codes(report) == ["E226", "E233"]
    assert report.member == NAME


def test_two_csvs_cannot_be_distinguished() -> None:
    """With two CSVs neither is inspected."""
    report = inspected(zipped({"a.csv": b"x", "b.csv": b"y"}))

    assert codes(report) == ["E226"]
    assert (report.member, report.columns, report.rows) == (None, (), None)


@pytest.mark.parametrize(
    ("flags", "method"), [(1, 8), (1, 99), (0x41, 8)], ids=["zip", "AES", "strong"]
)
def test_an_encrypted_file_is_reported(flags: int, method: int) -> None:
    """What needs a password is not read."""
    report = inspected(replace(raw(), flags=flags, method=method).zip())

    assert words(report) == [("E227", "a zip without a password", "an encrypted file")]
    assert (report.member, report.read_bytes) == (NAME, 0)


@pytest.mark.parametrize(
    ("method", "found"),
    [(14, "LZMA"), (93, "Zstandard"), (95, "XZ"), (98, "PPMd"), (10, "method 10")],
)
def test_a_method_that_the_server_lacks_is_an_error(method: int, found: str) -> None:
    """The server has no program to unpack it."""
    report = inspected(replace(raw(), method=method).zip())

    assert words(report) == [("E228", ONE_FILE, found)]
    assert report.read_bytes == 0


@pytest.mark.parametrize(("method", "found"), [(9, "Deflate64"), (1, "Shrink"), (6, "Implode")])
def test_a_method_that_only_the_server_has_is_a_note(method: int, found: str) -> None:
    """The server unpacks it. The content is not inspected, and the file is sent."""
    report = inspected(replace(raw(), method=method).zip())

    assert codes(report) == ["E236"]
    assert report.findings[0].found == f"{found}, which emitterd cannot unpack"
    assert not fatal(report.findings)


RECORDS = "a header and at least one record"
BARE = {
    "nothing": (b"", "E234", RECORDS, "an empty file"),
    "blank lines": (b"\r\n \n\n", "E234", RECORDS, "blank lines"),
    "header": (f"{HEADER}".encode(), "E234", RECORDS, "a header only"),
    "header, blanks": (f"{HEADER}\r\n\r\n".encode(), "E234", RECORDS, "a header only"),
    "blank first line": (
        b"\n" + GOOD,
        "E233",
        f"{HEADER} (5 columns, in this order)",
        "a blank first line",
    ),
    "wrong quote in the header": (
        GOOD.replace(b"SchoolId", b'"School"Id'),
        "E237",
        "column names without quotes",
        "a wrong quote in the header, line 1",
    ),
    "another delimiter": (GOOD.replace(b"|", b","), "E232", "| (pipe)", ", (comma)"),
    "another delimiter, uneven": (
        GOOD.replace(b"|", b";") + b"1;2\n|\n",
        "E232",
        "| (pipe)",
        "; (semicolon)",
    ),
}


@pytest.mark.parametrize(("content", "code", "expected", "found"), BARE.values(), ids=BARE)
def test_a_missing_header_or_record_is_reported_once(
    content: bytes, code: str, expected: str, found: str
) -> None:
    """One error is one finding, without further findings that follow from it."""
    report = inspected_csv(content)

    assert words(report) == [(code, expected, found)]
    assert report.whole


def test_findings_come_in_the_order_of_mending() -> None:
    """First the zip, then the text, the header and the rows."""
    content = b"\xef\xbb\xbf" + GOOD.replace(b"Month", b"Mon") + b"1|2\n|3|2020|4|\n"
    report = inspected(zipped({NAME: content, ".DS_Store": JUNK}))
    assert codes(report) == ["E226", "E231", "E233", "E240", "E242", "E243"]


def test_without_a_dataset_what_holds_for_all_is_checked() -> None:
    """A file without a dataset is inspected by the rules for all files."""
    report = inspected_csv(b"a;b\n1;2;3\n", dataset=None)
    wrong = inspected_csv(b"\xef\xbb\xbfa;b\n", dataset=None)

    assert (words(report), report.columns) == ([], ("a", "b"))
    assert (report.rows, report.whole) == (None, True)
    assert codes(wrong) == ["E231", "E234"]


def test_a_dataset_without_headers_has_neither_header_nor_row_checks() -> None:
    """A dataset without one header for the whole file has no header finding."""
    report = inspected_csv(b"x\n1|2\n|\n", dataset=replace(ATTENDANCE, headers=()))
    assert (codes(report), report.rows) == ([], None)


def test_a_budget_of_nothing_reads_header_and_first_record() -> None:
    """A budget of zero reads only the header and the first record."""
    data = repeated(b"a|b\n", b"1|2|3\n" * 10_000, 100)
    report = inspected(data, settings=InspectionSettings(budget_bytes=0))
    small = inspected_csv(GOOD + b"1|2\n", settings=InspectionSettings(budget_bytes=0))

    assert codes(report) == ["E233"]
    assert (report.rows, report.whole) == (None, False)
    assert report.read_bytes <= 64 * 1024
    assert (codes(small), small.rows) == ([], None)


def test_twenty_million_rows_are_read_to_the_budget_only() -> None:
    """A large file costs no more than the budget, in bytes read and unpacked."""
    row = b"1001|24001|2020-21|7|\n"
    data = repeated(f"{HEADER}\n".encode(), row * 20_000, 1000)
    read_at = Counted(data)
    report = inspected(data, read_at=read_at)

    assert codes(report) == []
    assert (report.rows, report.whole) == (None, False)
    assert report.read_bytes == 8 * MIB
    assert read_at.asked_bytes < MIB


def test_a_large_file_is_counted_to_its_end_within_the_budget() -> None:
    """With budget enough, all records are counted and the checksum is compared."""
    head, chunk = f"{HEADER}\n".encode(), f"{ROW}\n".encode() * 10_000
    data = repeated(head, chunk, 30, crc=True)
    report = inspected(data, settings=InspectionSettings(budget_bytes=64 * MIB))

    assert codes(report) == []
    assert (report.rows, report.whole) == (300_000, True)
    assert report.read_bytes == len(head) + 30 * len(chunk)


def test_a_finding_says_how_far_was_read() -> None:
    """The finding says that the budget ended the count."""
    chunk = (f"{ROW}\n" * 999 + "1|2\n").encode()
    data = repeated(f"{HEADER}\n".encode(), chunk, 1000)
    report = inspected(data, settings=InspectionSettings(budget_bytes=2 * MIB))
    assert words(report) == [
        (
            "E240",
            "5 columns in every row, as in the header",
            (
                "72 rows in the first 2 MiB, the first in line 1001: 2 columns;"
                " no value for AcademicYear, Month, Remark"
            ),
        )
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("piece", "expected"),
    [
        (b"a" * MIB, ["E235"]),
        (b"\n" * MIB, []),
        (b"|" * MIB, ["E235"]),
        (b'"' * MIB, ["E235"]),
        (b"\0" * MIB, ["E230"]),
        (b"1|2|3|4|5\n" * 100_000, ["E233"]),
        (b'"\n' * (MIB // 2), ["E237"]),
        (b"||||||||\n" * 100_000, ["E233"]),
        ((b"x|" * 400_000 + b"\n"), ["E233"]),
    ],
    ids=[
        "one line",
        "blank lines",
        "delimiters",
        "quotes",
        "zeros",
        "rows",
        "quotes and lines",
        "empty values",
        "wide rows",
    ],
)
def test_a_bomb_of_a_gibibyte_is_read_to_the_budget_only(piece: bytes, expected: list[str]) -> None:
    """Bytes read, bytes unpacked and memory stay small for any zip bomb."""
    data = repeated(b"", piece, 1024**3 // len(piece))
    read_at = Counted(data)
    tracemalloc.start()
    try:
        report = inspected(data, read_at=read_at, settings=InspectionSettings(budget_bytes=2 * MIB))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert codes(report) == expected
    assert report.read_bytes <= 2 * MIB
    assert not report.whole
    assert read_at.asked_bytes <= MIB
    assert peak <= 12 * MIB


@pytest.mark.slow
def test_wide_rows_and_long_values_take_little_memory() -> None:
    """A line of delimiters and a quote without end are given up early."""
    head = f"{HEADER}\n".encode()
    wide = repeated(head, b"1|2||" + b"ab|" * 330_000 + b"\n", 100)
    endless = repeated(head + b'"', b"ab|cd\n" * 100_000, 200)
    peaks = []
    found = []
    for data in (wide, endless):
        tracemalloc.start()
        report = inspected(data, settings=InspectionSettings(budget_bytes=8 * MIB))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        found += words(report)

    assert found == [
        (
            "E240",
            "5 columns in every row, as in the header",
            (
                "8 rows in the first 8 MiB, the first in line 2: 330004 columns; the server"
                " ignores those after Remark. A delimiter inside a value moves the values after it"
            ),
        ),
        (
            "E237",
            "a closing quote",
            "1 row in the first 8 MiB, in line 2: a quote that is never closed",
        ),
    ]
    assert max(peaks) <= 12 * MIB


def test_a_stream_of_nothing_ends_with_the_budget() -> None:
    """Compressed data that unpacks to nothing is read only up to a limit."""
    empty_block = b"\0\0\0\xff\xff"
    packed = empty_block * (40 * MIB // 5)
    data = replace(raw(), packed=packed).zip()
    read_at = Counted(data)
    report = inspected(data, read_at=read_at)

    assert words(report) == [("E229", "a whole zip", "far more to read than it can hold")]
    assert read_at.asked_bytes <= 20 * MIB


def test_sizes_modulo_4_gib_are_read() -> None:
    """Archive Utility of macOS writes sizes and offsets modulo 4 GiB, and no zip64 records."""
    content = GOOD + f"{ROW}\n".encode() * 100_000
    packed_bytes, size_bytes = 5 * 1024**3, 40 * 1024**3
    file = replace(raw(content), flags=FOLLOWS, size=size_bytes, packed_size=packed_bytes)
    header = replace(file, packed=b"").body()
    sizes = struct.pack("<2L", packed_bytes % WRAP, size_bytes % WRAP)
    directory, at = file.entry(0), len(header) + packed_bytes + 16
    tail = b"PK\7\x08" + struct.pack("<L", file.crc) + sizes
    tail += directory + end(1, len(directory), at % WRAP)
    start, tail_at = header + file.packed, len(header) + packed_bytes
    asked: list[int] = []

    def read_at(offset: int, count: int) -> bytes:
        asked.append(count)
        if offset < tail_at:
            return start[offset : offset + count]
        return tail[offset - tail_at :][:count]

    total = tail_at + len(tail)
    flaw, few = zip_flaw(read_at, total), sum(asked)
    report = inspect(read_at, total, ATTENDANCE, InspectionSettings(budget_bytes=MIB))

    assert (flaw, words(report), report.whole) == (None, [], False)
    assert few < 4096
    assert sum(asked) < MIB


def test_ten_million_entries_are_not_read() -> None:
    """A directory that is too large is reported from its end record alone."""
    entries, entry_bytes = 10_000_000, 47
    at, size = 100, entries * entry_bytes
    wide = struct.pack("<4sQ2H2L4Q", b"PK\6\6", 44, 45, 45, 0, 0, entries, entries, size, at)
    locator = struct.pack("<4sLQL", b"PK\6\7", 0, at + size, 1)
    tail = wide + locator + end(0xFFFF, 0xFFFF_FFFF, 0xFFFF_FFFF)
    total = at + size + len(tail)
    asked: list[int] = []

    def read_at(offset: int, count: int) -> bytes:
        asked.append(count)
        start = offset - (total - len(tail))
        return tail[start : start + count] if start >= 0 else bytes(count)

    report = inspect(read_at, total, ATTENDANCE, InspectionSettings())

    assert words(report) == [("E226", "one CSV", f"a directory of {entries} entries, {size} bytes")]
    assert sum(asked) < 1000


def test_entries_beyond_measure_are_several_files() -> None:
    """A thousand files are listed, more are counted by the end record."""
    few = zipped({str(number): b"" for number in range(1000)})
    many = zipped({str(number): b"" for number in range(1001)})

    assert words(inspected(few)) == [("E226", "one CSV", "1000 files: '0', '1', '2', …")]
    assert codes(inspected(many)) == ["E226"]


@pytest.mark.parametrize(("flags", "byte"), [(0, b"\xff"), (0, b"n"), (0x800, b"\x1b")], ids=repr)
def test_a_name_of_64_kib_is_cut_and_forges_nothing(flags: int, byte: bytes) -> None:
    """The longest name neither fills a log nor colours a terminal."""
    name = (byte + b"\n|") * 21_845
    report = inspected(replace(raw(b"x\n"), name=name[:65_535], flags=flags).zip())

    assert report.member is not None
    assert report.member.isprintable()
    assert len(report.member) <= 1000
    assert "E233" in codes(report)


def test_long_names_that_the_directory_lacks_take_little_memory() -> None:
    """A walk over the local headers ends when they have more than 1 MiB."""
    long = replace(raw(), name=b"n" * 65_000, named=False)
    data = write(raw(), *[long] * 90)
    tracemalloc.start()
    report = inspected(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert words(report) == [("E226", "one CSV", "more than 17 files")]
    assert peak <= 4 * MIB


def test_trouble_with_the_disk_is_no_damage() -> None:
    """A read error is raised to the caller, and is not a finding."""
    data = zipped({NAME: GOOD})
    reads = Counted(data)
    count = 0

    def total(offset: int, size: int) -> bytes:
        nonlocal count
        count += 1
        return reads(offset, size)

    inspected(data, read_at=total)
    for failing in range(count):
        left = failing

        def read_at(offset: int, size: int) -> bytes:
            nonlocal left
            left -= 1
            if left < 0:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return reads(offset, size)

        with pytest.raises(OSError, match="Input/output error"):
            inspected(data, read_at=read_at)


def check_report(report: Report) -> None:
    """Assert what is true for every report."""
    assert all(finding.expected.isprintable() for finding in report.findings)
    assert all(finding.found.isprintable() for finding in report.findings)
    assert all(len(finding.found) < 2000 for finding in report.findings)
    assert report.member is None or report.member.isprintable()
    assert all(map(str.isprintable, report.columns))
    assert codes(report) == sorted(codes(report))
    assert report.rows is None or report.whole


SOUND = [
    zipped({NAME: GOOD}),
    zipped({NAME: GOOD}, zipfile.ZIP_STORED, comment=b"comment"),
    zipped({"a/": b"", "a/b.csv": GOOD, "__MACOSX/x": JUNK}),
    replace(raw(), flags=FOLLOWS, descriptor=SIGNED).zip(),
    replace(raw(), extra=struct.pack("<2HQQ", 1, 16, 1, 1)).zip(),
]
EDITS = st.lists(
    st.tuples(st.integers(0, 10_000), st.binary(max_size=4), st.integers(0, 4)),
    min_size=1,
    max_size=6,
)


@given(st.sampled_from(SOUND), EDITS)
def test_any_mutation_of_a_zip_gives_a_report(
    data: bytes, edits: list[tuple[int, bytes, int]]
) -> None:
    """Nothing that is changed, added or cut raises anything."""
    for at, piece, cut in edits:
        place = at % (len(data) + 1)
        data = data[:place] + piece + data[place + cut :]
    check_report(inspected(data))


@given(st.binary(max_size=400) | st.text("|\n\"\\\r,é ab\0'", max_size=60).map(str.encode))
def test_any_content_gives_a_report(content: bytes) -> None:
    """Any text, and any bytes, can be inspected."""
    for dataset in (ATTENDANCE, None):
        check_report(inspected_csv(content, dataset))
        check_report(inspected_csv(f"{HEADER}\n".encode() + content, dataset))


@given(st.binary(max_size=200))
def test_any_stream_gives_a_report(packed: bytes) -> None:
    """Data that claims to be compressed is unpacked or reported, without a crash."""
    data = replace(raw(), packed=packed, crc=zlib.crc32(packed)).zip()
    check_report(inspected(data))
