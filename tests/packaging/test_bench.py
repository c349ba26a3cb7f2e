"""The benchmarks: what they conclude from figures, and that a lost file fails them."""

import http.client
import json
import re
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

import cargo
import report
import seed
from far import Far, Lost, compare
from hotspots import IMPORTS, WAITING, rooms, shares
from plot import draw
from run import BEGIN, DOCUMENT, SCENARIOS, write
from scenario import Bench, Case, Goal, Metric, Scenario, Sheet, play, ratio
from sequential import main as send_sequentially
from sink import SAMPLE_BYTES, SAMPLE_EVERY_BYTES, Digest
from soak.reliability import written
from startup import _rates
from subject import ROOT, Source

RATE = Metric("rate", "files a second", more=True)
TIME = Metric("time", "a file", "ms")


def scenario(*goals: Goal, main: str = "rate") -> Scenario:
    """Return a benchmark that measures nothing."""
    return Scenario(
        "none", "Nothing", "{files:,} files.", {"files": (5000, 5)},
        lambda *_: iter([[]]), (RATE, TIME), main, goals,
    )  # fmt: skip


def outcome(*goals: Goal, **figures: dict[str, list[float]]) -> report.Outcome:
    """Return what was measured; the first contestant is ours."""
    sheets = [
        Sheet(name, ours=number == 0, figures=found)
        for number, (name, found) in enumerate(figures.items())
    ]
    return report.Outcome(scenario(*goals), sheets, 3, 12.3, {"files": 5000})


@pytest.fixture(scope="module")
def far() -> Iterator[Far]:
    """Run the far side."""
    with Far() as far:
        yield far


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([], ""),
        ([1.23456], "1.23"),
        ([3, 1, 2], "2 (1 … 3)"),
        ([1234.5, 999.6, 1500], "1,234 (1,000 … 1,500)"),
    ],
    ids=["none", "one", "spread", "large"],
)
def test_cell_shows_median_and_range(values: list[float], shown: str) -> None:
    """One figure stands alone, several as median, least and most."""
    assert report.cell(values) == shown


def test_ratio_says_how_many_times_better() -> None:
    """Where more is better and where less is, round by round, 2 is twice as good."""
    assert ratio(RATE, [200, 400, 100], [100, 100, 50]) == 2
    assert ratio(TIME, [5, 1, 4], [10, 10, 8]) == 2


@pytest.mark.parametrize(
    ("goal", "reached"),
    [
        (Goal("rate", 150, "150 a second"), True),
        (Goal("rate", 250, "250 a second"), False),
        (Goal("time", 5, "5 ms"), True),
        (Goal("time", 4, "4 ms"), False),
        (Goal("rate", 2, "twice the peer", against="peer"), True),
        (Goal("rate", 3, "three times the peer", against="peer"), False),
        (Goal("time", 1.25, "the peer's", against="peer", at_most=True), True),
        (Goal("time", 0.4, "less", against="peer", at_most=True), False),
    ],
)
def test_goal_is_held_against_the_median(goal: Goal, *, reached: bool) -> None:
    """A goal is reached by the median, or by the ratio to the peer that it names."""
    found = outcome(
        goal,
        emitterd={"rate": [200.0, 100, 300], "time": [5.0, 5, 5]},
        peer={"rate": [100.0, 50, 150], "time": [10.0, 10, 10]},
    )

    assert report.judged(found, goal)["reached"] is reached


def test_section_has_a_row_for_each_contestant() -> None:
    """Columns that nobody filled are left out, and the sizes stand in the text."""
    found = outcome(emitterd={"rate": [200.0]}, peer={"rate": [100.0]})

    text = report.section(found)

    assert "3 rounds, 12 s. 5,000 files." in text
    assert "a file, ms" not in text
    assert "| emitterd | 200 | 1 |\n| peer | 100 | 2 |" in text


def test_one_contestant_stands_in_a_column() -> None:
    """Without peers each figure has a row."""
    found = outcome(emitterd={"rate": [200.0], "time": [5.0]})

    assert "| files a second | 200 |\n| a file, ms | 5 |" in report.section(found)


def test_contestants_take_turns(tmp_path: Path) -> None:
    """Each measures once a round, and another begins each time."""
    order: list[str] = []

    def case(name: str, numbers: Iterator[int]) -> Case:
        def measure() -> dict[str, float]:
            order.append(name)
            return {"rate": float(next(numbers))}

        return Case(name, measure)

    cases = [case("a", count(1)), case("b", count(10))]
    item = Scenario("x", "X", "", {}, lambda *_: iter([cases]), (RATE,), "rate")
    bench = Bench(tmp_path, [], quick=True)

    sheets = play(item, bench, 2, print)

    assert "".join(order) == "abba"
    assert [sheet.figures["rate"] for sheet in sheets] == [[1, 2], [10, 11]]


def test_quarters_of_a_run() -> None:
    """The rate of each quarter of the time, and the slowest of them of the mean."""
    counts = [(float(at), 100 * at if at <= 30 else 1500 + 50 * at) for at in range(41)]

    found = _rates(counts)

    assert [found[f"rate_{n}"] for n in range(1, 5)] == [100, 100, 100, 50]
    assert found["steady"] == pytest.approx(50 / 87.5)


def test_sequential_client_delivers(tmp_path: Path, far: Far) -> None:
    """The peer's files arrive by name and digest, and in the count that was asked."""
    files = cargo.fill(tmp_path, 12, 8192)
    first = dict(sorted(files.items())[:5])

    far.reset()
    send_sequentially(far.url, far.api_key, str(tmp_path))
    far.check(files)
    far.reset()
    send_sequentially(far.url, far.api_key, str(tmp_path), "5")
    far.check(first)

    assert far.arrived().requests == 10
    with pytest.raises(Lost, match="7 are missing"):
        far.check(files)


@pytest.mark.parametrize(
    ("stored", "says"),
    [
        ({"a": "1"}, "1 are missing"),
        ({"a": "1", "b": "3"}, "1 differ"),
        ({"a": "1", "b": "2", "c": "3"}, "1 are strange"),
    ],
    ids=["missing", "other bytes", "strange"],
)
def test_what_arrived_is_compared(stored: dict[str, str], says: str) -> None:
    """A file that is missing, different or unknown makes the benchmark fail."""
    with pytest.raises(Lost, match=says):
        compare({"a": "1", "b": "2"}, stored)


def test_far_side_takes_nothing_that_was_not_granted(far: Far) -> None:
    """A body under a key of its own making is refused, and fails the benchmark."""
    far.reset()
    body = b'--x\r\nContent-Disposition: form-data; name="key"\r\n\r\na.zip\r\n'
    body += b'--x\r\nContent-Disposition: form-data; name="file"\r\n\r\nabc\r\n--x--\r\n'
    connection = http.client.HTTPConnection(urlsplit(far.url).netloc)
    connection.request(
        "POST", "/emission", body, {"Content-Type": "multipart/form-data; boundary=x"}
    )
    status = connection.getresponse().status
    connection.close()

    assert status == 403
    with pytest.raises(Lost, match=r"not granted: a\.zip"):
        far.check({})


def test_far_side_sees_a_file_that_comes_twice(tmp_path: Path, far: Far) -> None:
    """Sent again under another grant, a file fails the benchmark."""
    files = cargo.fill(tmp_path, 1, 1024)

    far.reset()
    send_sequentially(far.url, far.api_key, str(tmp_path))
    send_sequentially(far.url, far.api_key, str(tmp_path))

    with pytest.raises(Lost, match="1 came twice"):
        far.check(files)


@pytest.mark.parametrize("chunk_bytes", [1000, 4096, SAMPLE_EVERY_BYTES, 3_000_000])
def test_samples_do_not_depend_on_the_chunks(chunk_bytes: int) -> None:
    """However a file comes in, the same bytes of it are looked at."""
    content = bytes(range(256)) * 12_000
    at_once, by_chunks, other = (Digest(sampled=True) for _ in range(3))
    at_once.update(memoryview(content))
    for begin in range(0, len(content), chunk_bytes):
        by_chunks.update(memoryview(content[begin : begin + chunk_bytes]))
    spoilt = bytearray(content)
    spoilt[2 * SAMPLE_EVERY_BYTES + SAMPLE_BYTES - 1] ^= 1
    other.update(memoryview(spoilt))

    assert by_chunks.hex() == at_once.hex()
    assert other.hex() != at_once.hex()


@pytest.mark.slow
def test_past_is_known_to_emitterd(tmp_path: Path, far: Far) -> None:
    """Over a journal with copied deliveries nothing of them is sent again."""
    spool = tmp_path / "spool"
    bench = Bench(tmp_path, [Source.at(ROOT, "emitterd")], quick=True)
    sent = cargo.fill(spool, 1, 1024, start=100)
    subject = bench.subject(bench.sources[0], spool, far.url)
    far.reset()
    subject.once()
    cargo.flood(spool, 20)
    known = (row for row in seed.of_folder(spool) if row[1] not in sent)
    seed.deliveries(subject.journal, known)
    fresh = cargo.fill(spool, 1, 1024, start=200)

    far.reset()
    subject.once()
    bench.close()

    far.check(fresh)


def test_samples_are_folded_into_rooms() -> None:
    """A thread's line decides, then its module; shares are of work only."""
    lines = {1: "self._md5.update(chunk)", 2: "with self._lock:", 3: "x = 1"}
    raw = (
        "run (/x/emitterd/worker.py:9);__iter__ (/x/emitterd/multipart.py:1) 6\n"
        "run (/x/emitterd/worker.py:9);write (/x/emitterd/database.py:2) 2\n"
        "step (/x/emitterd/worker.py:3) 1\n"
        "send (/y/lib/python3.11/site-packages/httpcore/_sync/x.py:3) 1\n"
        "_load (<frozen importlib._bootstrap>:5);f (/x/emitterd/cli.py:3) 90\n"
    )

    found = rooms(raw, lambda _, number: lines.get(number, ""))

    assert found == {"hashing": 6, WAITING: 2, "emitterd.worker": 1, "httpcore": 1, IMPORTS: 90}
    assert shares(found)["hashing"] == 0.75


@pytest.mark.slow
def test_growth_is_drawn(tmp_path: Path) -> None:
    """The same figures give the same picture, with a curve for each metric."""
    pytest.importorskip("matplotlib", reason="extra bench is missing: matplotlib")
    found = {
        f"emitterd, {rows:,} rows": {"per_file_ms": [3.0, 4.0], "cpu_ms": [2.0, 2.5]}
        for rows in (1000, 10_000)
    }

    draw(found, tmp_path / "one.svg")
    draw(found, tmp_path / "two.svg")

    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "two.svg").read_bytes()
    assert b"emitterd: CPU a file" in drawn


@pytest.mark.slow
def test_report_is_written_into_the_document(tmp_path: Path) -> None:
    """It replaces the former one, and what it links to stands beside it."""
    pytest.importorskip("matplotlib", reason="extra bench is missing: matplotlib")
    document = tmp_path / DOCUMENT.name
    document.write_text(written(DOCUMENT.read_text("utf-8"), "the former", BEGIN))
    flat = {"emitterd, 1,000 rows": {"per_file_ms": [3.0], "cpu_ms": [2.0]}}
    found = {"scenarios": [{"scenario": "flat", "contestants": flat}]}

    write(found, "the latter", document)

    text = document.read_text("utf-8")
    assert "the latter" in text
    assert "the former" not in text
    assert json.loads((tmp_path / "performance.json").read_text()) == found
    links = re.findall(r"\]\((performance[^)]+)\)", text)
    assert len(links) == 2
    assert all((tmp_path / link).exists() for link in links)


def test_names_are_those_of_the_command() -> None:
    """Each benchmark is found by its name, and its goals by their metrics."""
    for name, item in SCENARIOS.items():
        metrics = {metric.name for metric in item.metrics}

        assert item.name == name
        assert {goal.metric for goal in item.goals} | {item.main} <= metrics


@pytest.mark.slow
def test_quick_run_of_one(tmp_path: Path) -> None:
    """`bench/run --quick small` measures, and writes its figures as JSON."""
    figures = tmp_path / "figures.json"
    done = subprocess.run(  # noqa: S603  our own command line
        [ROOT / "bench" / "run", "small", "--quick", "--json", figures],
        capture_output=True,
        text=True,
        check=False,
    )
    found = json.loads(figures.read_text())

    assert done.returncode == 0, done.stderr
    (small,) = found["scenarios"]
    rates = {name: item["rate"] for name, item in small["contestants"].items()}
    assert rates.keys() >= {"emitterd", "sequential client"}
    assert all(len(rate) == 1 and rate[0] > 0 for rate in rates.values())
    assert "### Small files over a fast line" in done.stdout


@pytest.mark.slow
def test_what_failed_is_named_and_the_rest_measured(tmp_path: Path) -> None:
    """A source that does not run ends the command with 1, after all other figures."""
    (tmp_path / "emitterd").mkdir()
    (tmp_path / "emitterd" / "__init__.py").touch()
    (tmp_path / "emitterd" / "__main__.py").write_text("raise SystemExit(3)\n")
    done = subprocess.run(  # noqa: S603  our own command line
        [ROOT / "bench" / "run", "latency", "status", "--quick", "--source", tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 1
    assert re.findall(r"^(\w+): .* ended with 3", done.stderr, re.MULTILINE)[-2:] == [
        "latency",
        "status",
    ]
