"""The bandwidth limit by the time of day: how it is written, and what holds when."""

from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emitterd.client.timetable import DAY_MIN, TimeSpan, Timetable
from emitterd.config import settings as config
from emitterd.config.fields import timetable
from emitterd.errors import ConfigError, Problem, ValueProblem
from emitterd.units import parse_rate

KIB, MIB = 1024, 1024**2
OFFICE = timetable(
    [
        {"from": "08:00", "to": "18:00", "limit": "2MiB/s"},
        {"from": "22:00", "to": "06:00", "limit": "off"},
        {"limit": "10MiB/s"},
    ]
)
KOLKATA = ZoneInfo("Asia/Kolkata")
BERLIN = ZoneInfo("Europe/Berlin")


def ranges(*lines: str) -> list[dict[str, str]]:
    """Return `08:00-18:00 2MiB/s` as an entry of the list in the file."""
    parts = [line.replace("-", " ").split() for line in lines]
    return [dict(zip(("from", "to", "limit"), part, strict=True)) for part in parts]


def at(text: str, zone: tzinfo = UTC) -> float:
    """Return the instant of a time on the wall, on a day without a change of clocks."""
    return datetime.fromisoformat(f"2026-11-24T{text}").replace(tzinfo=zone).timestamp()


@pytest.mark.parametrize(
    ("clock", "limit"),
    [
        ("00:00", None),
        ("05:59:59", None),
        ("06:00", 10 * MIB),
        ("07:59:59.9", 10 * MIB),
        ("08:00", 2 * MIB),
        ("17:59:59", 2 * MIB),
        ("18:00", 10 * MIB),
        ("22:00", None),
        ("23:59:59", None),
    ],
)
def test_what_holds_when(clock: str, limit: int | None) -> None:
    """A range begins with its first minute and ends before its last, over midnight."""
    now = at(clock, KOLKATA)

    assert OFFICE.limit(now, KOLKATA) == limit


def test_one_limit_holds_for_ever() -> None:
    """Without ranges there is no time at which another one holds."""
    always = timetable("10MiB/s")

    assert {always.limit(at(f"{hour:02}:00")) for hour in range(24)} == {10 * MIB}


@pytest.mark.parametrize(
    ("day", "hours"),
    [("2026-03-29", 3), ("2026-10-25", 5), ("2026-06-01", 4)],
    ids=["put forward", "put back", "left alone"],
)
def test_change_of_clocks(day: str, hours: int) -> None:
    """A range that the change lies in is an hour shorter or longer that day."""
    night = Timetable((TimeSpan(60, 300, MIB),))
    midnight = datetime.fromisoformat(day).replace(tzinfo=BERLIN).timestamp()

    limits = [night.limit(midnight + 60 * n, BERLIN) for n in range(20 * 60)]

    assert limits.count(1 * MIB) == hours * 60


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("2MiB/s", Timetable((), 2 * MIB)),
        ("off", Timetable()),
        (
            [{"from": "18:00", "to": "00:00", "limit": "1MiB/s"}],
            Timetable((TimeSpan(1080, DAY_MIN, MIB),)),
        ),
        (
            [{"from": "18:00", "to": "24:00", "limit": "1MiB/s"}],
            Timetable((TimeSpan(1080, DAY_MIN, MIB),)),
        ),
        (
            [{"from": "8:00", "to": "9:30", "limit": "512KiB/s"}, {"limit": "off"}],
            Timetable((TimeSpan(480, 570, 512 * KIB),)),
        ),
        (
            [{"from": "08:00", "to": "18:00", "limit": "2MiB/s"}],
            Timetable((TimeSpan(480, 1080, 2 * MIB),)),
        ),
        (
            [
                {"limit": "10MB/s"},
                {"from": "22:00", "to": "06:00", "limit": "off"},
                {"from": "06:00", "to": "22:00", "limit": "1MB/s"},
            ],
            Timetable((TimeSpan(1320, 360, None), TimeSpan(360, 1320, 10**6)), 10**7),
        ),
    ],
    ids=str,
)
def test_how_it_is_written(value: object, expected: Timetable) -> None:
    """One limit, or ranges that may meet, and one entry for the rest of the day."""
    assert timetable(value) == expected


def test_a_timetable_is_shown_on_one_line() -> None:
    """`check` prints it so."""
    shown = "08:00-18:00 2MiB/s, 22:00-06:00 off, else 10MiB/s"

    assert str(OFFICE) == shown
    assert str(Timetable((), 2 * MIB)) == "2MiB/s"
    assert str(Timetable()) == "off"


@pytest.mark.parametrize(
    ("value", "message", "remedy"),
    [
        ("10", "is not a speed", "512KiB/s"),
        (10_485_760, "is not a speed", "512KiB/s"),
        (True, "is not a speed", "512KiB/s"),
        ("fast", "is not a speed", "512KiB/s"),
        ("-1MiB/s", "is not a speed", "512KiB/s"),
        ("2MiB", "is a size, not a speed", "512KiB/s"),
        ("2mib/s", "is not a speed", "512KiB/s"),
        ("2 MiB/s", "is not a speed", "512KiB/s"),
        ("2MiB/m", "is a size, not a speed", "512KiB/s"),
        ("10Mbit/s", "is not a speed", "bytes per second"),
        ("8 Mbps", "is not a speed", "bytes per second"),
        (0, "is not a speed", "512KiB/s"),
        ("", "is not a speed", "512KiB/s"),
        ([], "is empty", "write off"),
        (["2MiB/s"], "entry 1 must have limit", "{from:"),
        ([{"from": "08:00", "to": "18:00"}], "entry 1 must have limit", "{from:"),
        ([{"limit": "off", "till": "9:00"}], "must have limit", "{from:"),
        ([{"from": "08:00", "limit": "off"}], "from and to or none", "{from:"),
        ([{"from": 800, "to": "9:00", "limit": "off"}], "a wrong time", "08:00"),
        (ranges("08:60-09:00 off"), "a wrong time", "08:00"),
        (ranges("24:00-09:00 off"), "a wrong time", "08:00"),
        (ranges("08:00-08:00 1MiB/s"), "ends when it begins", "remove from and to"),
        ([{"limit": "1MiB/s"}, {"limit": "off"}], "two limits without", "keep one"),
        (ranges("1:00-2:00 9MB/s", "3:00-4:00 x"), "entry 2 is not a speed", "512KiB/s"),
        ("08:00-18:00 2MiB/s, else 10MiB/s", "is not a speed", "512KiB/s"),
        (
            ranges("08:00-18:00 1MiB/s", "17:59-20:00 off"),
            "overlap: 08:00-18:00 and 17:59-20:00",
            "let one end where the next begins",
        ),
        (
            ranges("22:00-06:00 1MiB/s", "05:00-07:00 off"),
            "overlap: 22:00-06:00 and 05:00-07:00",
            "let one end where the next begins",
        ),
        (ranges("1:00-9:00 off", "1:00-9:00 off"), "overlap", "let one end"),
    ],
)
def test_what_is_refused(value: object, message: str, remedy: str) -> None:
    """Each mistake is named, by its entry, and what to write instead."""
    with pytest.raises(ValueProblem) as caught:
        timetable(value)

    assert message in str(caught.value)
    assert remedy in caught.value.remedy


SPANS = st.lists(
    st.builds(
        TimeSpan,
        st.integers(0, DAY_MIN - 1),
        st.integers(1, DAY_MIN),
        st.sampled_from([None, 1 * KIB, 3 * MIB]),
    ).filter(lambda value: value.begin_min != value.end_min),
    max_size=4,
)


@given(SPANS)
def test_overlap_is_a_minute_that_two_ranges_have(spans: list[TimeSpan]) -> None:
    """Exactly these ranges overlap."""
    minutes = [n for n in range(DAY_MIN) if sum(span.covers(n) for span in spans) > 1]

    assert (Timetable(tuple(spans)).overlap() is not None) == bool(minutes)


def test_rate_reads_what_size_reads() -> None:
    """The units are those of the rest of the configuration."""
    assert parse_rate("1.5KiB/s") == 1536
    assert parse_rate("10MB/s") == 10_000_000


Write = Callable[[str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a configuration with these lines in its section `delivery`."""
    (tmp_path / "drop").mkdir()

    def to_file(lines: str) -> Path:
        path = tmp_path / "emitter.yaml"
        path.write_text(
            "emission: {url: https://cqube.example.org/data, api_key_env: KEY}\n"
            f"spool: {{directory: drop}}\ndelivery:\n{lines}"
        )
        return path

    return to_file


def load(path: Path, **environ: str) -> config.Config:
    """Load it, with a secret."""
    return config.load(path, {"KEY": "secret"} | environ)


def only(path: Path) -> Problem:
    """Return the one problem of a configuration."""
    with pytest.raises(ConfigError) as caught:
        load(path)
    (problem,) = caught.value.problems
    return problem


LISTED = """\
  bandwidth:
    - {from: 08:00, to: "18:00", limit: 512KiB/s}
    - limit: 2MiB/s
"""


def test_in_the_file(write: Write) -> None:
    """A list of ranges is taken over, with and without quotes, and shown by `check`."""
    loaded = load(write(LISTED))

    assert loaded.delivery.bandwidth == Timetable((TimeSpan(480, 1080, 512 * KIB),), 2 * MIB)
    described = dict(config.describe(loaded))
    assert described["delivery.bandwidth"] == "08:00-18:00 512KiB/s, else 2MiB/s"


def test_in_the_environment(write: Write) -> None:
    """The variable replaces the file's list by one speed."""
    loaded = load(write(LISTED), EMITTERD_DELIVERY_BANDWIDTH="1MiB/s")

    assert loaded.delivery.bandwidth == Timetable((), 1 * MIB)


@pytest.mark.parametrize(
    ("lines", "line", "message"),
    [
        ("  bandwidth: 10\n", 4, "is not a speed"),
        ("  bandwidth: {limit: 2MiB/s}\n", 4, "must be a value, not a section"),
        (LISTED + "    - limit: off\n", 4, "has two limits without from and to"),
        ("  bandwidth:\n    - limit: off\n      limit: 1MiB/s\n", 6, "is given twice"),
        ("  bandwidth: 1023B/s\n  workers: 8\n", 4, "1023B/s is too little for 8 w"),
        ("  bandwidth: 0KiB/s\n", 4, "0B/s is too little for 64 workers"),
        ("  bandwidth: 2KiB/s\n", 4, "2KiB/s is too little for 64 workers"),
    ],
)
def test_wrong_in_the_file(write: Write, lines: str, line: int, message: str) -> None:
    """What is wrong is reported with its line."""
    problem = only(write(lines))

    assert message in problem.message
    assert problem.line == line
    assert problem.key.startswith("delivery.bandwidth")
