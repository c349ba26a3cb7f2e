"""What a scrape has: counted after the commit, read from the journal, known to all."""

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from emitterd.codes import Code
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.findings import finding
from emitterd.errors import Decision, DeliveryError, Outage, Stage
from emitterd.journal.opening import open_journal
from emitterd.journal.rows import Admission
from emitterd.monitoring.alarms import Alarm, AlarmCode, judge
from emitterd.monitoring.metrics import Metrics
from emitterd.monitoring.status import QueueReading, read_queue
from emitterd.monitoring.uploads import UploadTracker
from support.journal import BROKE, NOW, admission, deliver, receipt, seen, take

REFUSED = DeliveryError(Decision.REJECT, Code.TOO_LARGE, "too large")
GONE = DeliveryError(Decision.WITHDRAW, Code.GONE, "gone")

Samples = dict[tuple[str, str], float]


class Scraped:
    """A journal that is counted, and its scrapes."""

    def __init__(self, folder: Path) -> None:
        self.metrics = Metrics(load_catalogue().dataset)
        self.journal = open_journal(folder / "journal.db")
        self.journal.on_ended = self.metrics.ended
        self.journal.on_attempt = self.metrics.attempted
        self.journal.on_findings = self.metrics.inspected
        self.alarms: list[Alarm] = []
        self.outages: list[Outage] = []
        self.swept_at: float | None = None
        self._scrape = self.metrics.scraper(self._read)

    def _read(self) -> QueueReading:
        queue = read_queue(self.journal.read, NOW)
        eta_s = queue.eta_s(moving=True)
        outages, alarms = tuple(self.outages), judge(self.alarms)
        return QueueReading(queue, alarms, outages, eta_s, self.swept_at)

    def text(self) -> str:
        """Return the answer to a scrape."""
        return self._scrape("")[0].decode()

    def samples(self) -> Samples:
        """Return every sample by name and the values of its labels."""
        return {
            (sample.name, " ".join(sample.labels.values())): sample.value
            for family in text_string_to_metric_families(self.text())
            for sample in family.samples
        }


@pytest.fixture
def scraped(tmp_path: Path) -> Iterator[Scraped]:
    """Open a journal that is counted."""
    scraped = Scraped(tmp_path)
    with scraped.journal:
        yield scraped


def test_every_end_is_counted_by_dataset(scraped: Scraped) -> None:
    """Delivered, rejected, withdrawn: files and bytes, each once."""
    journal = scraped.journal
    known = b"school_master/school_mst.zip"
    deliver(journal, take(journal, 1, known))
    journal.reject(take(journal, 1, b"x/rejected.zip"), REFUSED)
    journal.withdraw(take(journal, 1, b"x/gone.zip"), GONE)
    samples = scraped.samples()

    dataset = load_catalogue().dataset(known)
    assert dataset is not None
    assert samples["emitterd_files_total", f"{dataset.title} delivered"] == 1
    assert samples["emitterd_file_bytes_total", f"{dataset.title} delivered"] == 10
    assert samples["emitterd_files_total", "other rejected"] == 1
    assert samples["emitterd_files_total", "other withdrawn"] == 1
    assert samples["emitterd_file_bytes_total", "other withdrawn"] == 10


def test_what_is_known_is_counted_as_unchanged(scraped: Scraped) -> None:
    """It ends without a row, and is counted all the same."""
    journal = scraped.journal
    deliver(journal, take(journal, 1))
    entry = take(journal, 2)
    previous = journal.previous(entry)
    assert previous is not None
    journal.merge_unchanged(entry, previous[0], dispose=False)

    assert scraped.samples()["emitterd_files_total", "other unchanged"] == 1


def test_what_is_replaced_or_refused_at_the_door_is_counted(scraped: Scraped) -> None:
    """The version that was replaced counts with its own size."""
    journal = scraped.journal
    journal.admit([admission()])
    journal.admit([admission(version=2)])
    journal.admit([Admission(b"big.zip", seen(1, 99), "", 0, error=REFUSED)])
    samples = scraped.samples()

    assert samples["emitterd_files_total", "other withdrawn"] == 1
    assert samples["emitterd_file_bytes_total", "other withdrawn"] == 10
    assert samples["emitterd_files_total", "other rejected"] == 1
    assert samples["emitterd_file_bytes_total", "other rejected"] == 99


def test_attempts_are_counted_by_error(scraped: Scraped) -> None:
    """A success has the error `none`; a failure has its code."""
    journal = scraped.journal
    entry = take(journal, 1)
    journal.defer(entry, BROKE, NOW - 1, charge=True)
    again = journal.claim(NOW)
    assert again is not None
    journal.deliver(again, receipt(), duration_s=0.3, dispose=False)
    samples = scraped.samples()

    assert samples["emitterd_attempts_total", BROKE.code] == 1
    assert samples["emitterd_attempts_total", "none"] == 1
    assert samples["emitterd_delivery_duration_seconds_count", ""] == 1
    assert samples["emitterd_delivery_duration_seconds_sum", ""] == pytest.approx(0.3)


def test_what_did_not_become_durable_is_not_counted(scraped: Scraped) -> None:
    """An illegal change counts nothing."""
    entry = take(scraped.journal, 1)
    deliver(scraped.journal, entry)
    with pytest.raises(Exception, match="deliver"):
        deliver(scraped.journal, entry)

    assert scraped.samples()["emitterd_attempts_total", "none"] == 1


def test_counters_do_not_go_back_with_the_journal(scraped: Scraped) -> None:
    """What retention forgets stays counted, and is no entry any more."""
    entry = take(scraped.journal, 1)
    deliver(scraped.journal, entry)
    scraped.journal.prune([entry.id])
    samples = scraped.samples()

    assert samples["emitterd_files_total", "other delivered"] == 1
    assert samples["emitterd_entries", "delivered"] == 0


def test_what_stands_is_read(scraped: Scraped) -> None:
    """Gauges: states, the oldest file, current rejections, the last success."""
    journal = scraped.journal
    before = scraped.samples()
    deliver(journal, take(journal, 1, b"a.zip"))
    journal.reject(take(journal, 1, b"b.zip"), REFUSED)
    journal.reject(take(journal, 1, b"c.zip"), REFUSED)
    journal.admit([admission(b"c.zip", 2), admission(b"d.zip")])
    scraped.swept_at = NOW
    samples = scraped.samples()

    assert ("emitterd_oldest_waiting_timestamp_seconds", "") not in before
    assert before["emitterd_eta_seconds", ""] == 0
    assert ("emitterd_last_success_timestamp_seconds", "") not in before
    assert ("emitterd_last_sweep_timestamp_seconds", "") not in before
    assert samples["emitterd_entries", "queued"] == 2
    assert samples["emitterd_entry_bytes", "queued"] == 20
    assert samples["emitterd_rejected_files", ""] == 1
    assert samples["emitterd_last_success_timestamp_seconds", ""] >= NOW
    assert samples["emitterd_oldest_waiting_timestamp_seconds", ""] >= NOW
    assert samples["emitterd_last_sweep_timestamp_seconds", ""] == NOW
    assert samples["emitterd_destination_up", "bucket"] == 1


def test_each_stage_is_up_or_down(scraped: Scraped) -> None:
    """The metric shows which stage is down: login, grant or bucket."""
    scraped.outages = [Outage(Stage.GRANT, Code.DNS, "no such host", NOW)]
    samples = scraped.samples()

    assert [samples["emitterd_destination_up", stage] for stage in Stage] == [1, 0, 1]


def test_alarms_are_the_verdicts(scraped: Scraped) -> None:
    """Each is there at any time, and 1 while it is raised."""
    scraped.alarms = [Alarm(AlarmCode.NO_SUCCESS, NOW, "", "")]
    samples = scraped.samples()
    raised = {
        labels for (name, labels), value in samples.items() if name == "emitterd_alarm" if value
    }

    assert raised == {"no_success critical"}
    assert samples["emitterd_alarm", "rejected warning"] == 0


def test_a_sweep_is_counted_with_what_it_found(scraped: Scraped) -> None:
    """The metrics have its duration and the files that no event had named."""
    scraped.metrics.swept(0.2, 3)
    samples = scraped.samples()

    assert samples["emitterd_missed_files_total", ""] == 3
    assert samples["emitterd_sweep_duration_seconds_count", ""] == 1


def test_labels_are_bounded(scraped: Scraped) -> None:
    """Folders that no catalogue has are one dataset, however many there are."""
    for number in range(50):
        path = f"folder{number}/x.zip".encode()
        deliver(scraped.journal, take(scraped.journal, 1, path))
    names = [name for name, _ in scraped.samples() if name == "emitterd_files_total"]

    assert len(names) == 1


def test_files_are_counted_by_the_code_of_a_finding(scraped: Scraped) -> None:
    """A file counts once for each code, also a rejected one; each code is there at 0."""
    twice = finding(Code.BAD_DATE, "a date", "x"), finding(Code.BAD_DATE, "a date", "y")
    header = finding(Code.WRONG_HEADER, "a header", "another")
    scraped.journal.admit(
        [
            replace(admission(b"a.zip"), findings=(*twice, header)),
            replace(admission(b"b.zip"), findings=(header,), error=REFUSED),
            admission(b"c.zip"),
        ]
    )
    samples = scraped.samples()

    assert samples["emitterd_findings_total", Code.BAD_DATE] == 1
    assert samples["emitterd_findings_total", Code.WRONG_HEADER] == 2
    assert samples["emitterd_findings_total", Code.ENCRYPTED] == 0


def test_each_dataset_has_its_last_arrival_and_its_last_success(scraped: Scraped) -> None:
    """A dataset of which nothing was delivered has no last success."""
    dataset = "school_master/school_mst"
    path = f"{dataset}.zip".encode()
    scraped.journal.admit([replace(admission(path), flow=dataset)])
    arrived = scraped.samples()
    entry = scraped.journal.claim(NOW)
    assert entry is not None
    deliver(scraped.journal, entry)
    delivered = scraped.samples()

    assert arrived["emitterd_dataset_last_arrival_timestamp_seconds", dataset] >= NOW
    assert ("emitterd_dataset_last_success_timestamp_seconds", dataset) not in arrived
    assert delivered["emitterd_dataset_last_success_timestamp_seconds", dataset] >= NOW


def test_sent_bytes_are_counted_during_the_upload(scraped: Scraped) -> None:
    """The counter has the bytes of an upload that has not ended."""
    uploads = UploadTracker()
    uploads.on_sent = scraped.metrics.sent
    uploads.began(take(scraped.journal, 1))
    before = scraped.samples()
    uploads.sent(7)

    assert before["emitterd_sent_bytes_total", ""] == 0
    assert scraped.samples()["emitterd_sent_bytes_total", ""] == 7


@pytest.mark.tools("promtool")
def test_promtool_finds_nothing_wrong(scraped: Scraped) -> None:
    """Names, units and types are as Prometheus recommends."""
    deliver(scraped.journal, take(scraped.journal, 1))
    done = subprocess.run(
        ["promtool", "check", "metrics"],  # noqa: S607
        input=scraped.text(),
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_what_the_server_made_of_files_is_counted(scraped: Scraped) -> None:
    """Files by state from the journal; dropped rows by dataset, since the start."""
    journal, known = scraped.journal, b"school_master/school_mst.zip"
    journal.deliver_to("https://here.example.org/data")
    deliver(journal, take(journal, 1, known))
    journal.track(0.0, NOW, 10)
    scraped.metrics.processed(known, 7)
    scraped.metrics.processed(b"unknown/x.zip", 1)
    samples = scraped.samples()
    assert samples["emitterd_tracked_files", "waiting"] == 1
    assert samples["emitterd_tracked_files", "stalled"] == 0
    assert samples["emitterd_rows_dropped_total", "school_master/school_mst"] == 7
    assert samples["emitterd_rows_dropped_total", "other"] == 1
