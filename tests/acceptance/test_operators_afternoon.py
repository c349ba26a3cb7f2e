"""An operator's afternoon: a wrong header, found, mended, dropped again, delivered."""

import json
from pathlib import Path

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.installation import DEADLINE_S, Installation
from support.waiting import wait_until
from support.zips import sample

NAME = "sat/semester_exam_mst.zip"
GOOD = sample(NAME)
WRONG = GOOD.replace(b"exam_code", b"examcode", 1)


@pytest.fixture
def office(tmp_path: Path, server: RehearsalServer) -> Installation:
    """Set up an office that rejects what the server would lose, and puts it aside."""
    return Installation(
        tmp_path,
        server.url,
        spool_catalogue="enforce",
        spool_rejected_directory=str(tmp_path / "rejected"),
    )


@pytest.mark.slow
def test_an_afternoon(office: Installation, server: RehearsalServer) -> None:
    """Each question gets an answer that leads to the next step, up to the receipt."""
    with office.running() as daemon:
        office.drop(NAME, WRONG)
        daemon.wait_for_event("file.rejected")
        daemon.wait_for_event("file.disposed")

        # What happened to my file?
        (entry,) = json.loads(office.call("list", "--state", "rejected", "--json").stdout)
        explained = office.call("explain", NAME)
        assert office.ask("status")["counts"]["rejected"] == 1
        assert entry["error"] == "E210"
        assert "E233 error" in explained.stdout
        assert "'examcode' in place of exam_code" in explained.stdout
        assert "the server deletes the object" in explained.stdout

        # Where is it, and what does the code say?
        (aside,) = (office.folder / "rejected").glob(f"*/{NAME}")
        reason = json.loads(Path(f"{aside}.reason.json").read_text())
        assert str(aside) in explained.stdout
        assert [finding["code"] for finding in reason["findings"]] == ["E233"]
        assert not (office.spool / NAME).exists()
        assert not server.objects

        # Mended, tried on the desk, and dropped again under the same name.
        mended = office.drop("../desk/semester_exam_mst.zip", GOOD)
        assert office.call("inspect", str(aside)).returncode == 1
        assert office.call("inspect", str(mended)).returncode == 0
        mended.rename(office.spool / NAME)
        office.wait_delivered(1)

    # The proof, and the history.
    (receipt,) = office.ask("receipts")
    explanation = office.ask("explain", NAME)
    assert receipt["path"] == NAME
    assert receipt["md5"] == receipt["etag"]
    assert [version["state"] for version in explanation["versions"]] == ["delivered", "rejected"]
    assert list(server.objects) == [receipt["key"]]


@pytest.mark.slow
def test_wrong_rule_is_mended_instead(office: Installation, server: RehearsalServer) -> None:
    """Where the catalogue was wrong and not the file, `retry` has it looked at anew."""
    del office.settings["EMITTERD_SPOOL_REJECTED_DIRECTORY"]
    office.drop(NAME, WRONG)
    with office.running() as daemon:
        daemon.wait_for_event("file.rejected")
        again = office.call("retry", NAME)
        wait_until(lambda: len(office.events("file.rejected")) == 2, DEADLINE_S, "looked at")

    own = office.folder / "own.yaml"
    own.write_text("sat/semester_exam_mst:\n  headers:\n    ours:\n      columns: examcode\n")
    office.settings["EMITTERD_SPOOL_CATALOGUE_FILE"] = str(own)
    with office.running():
        office.call("retry", "--all", "--state", "rejected")
        office.wait_delivered(1)

    assert again.returncode == 0
    assert "is examined again" in again.stdout
    assert len(server.objects) == 1


def test_warning_only_is_sent_and_said(tmp_path: Path, server: RehearsalServer) -> None:
    """Under `warn` the file goes, and log and `explain` say what the server will do."""
    office = Installation(tmp_path, server.url, spool_catalogue="warn")
    office.drop(NAME, WRONG)
    office.call("once")

    explanation = office.ask("explain", NAME)

    (delivered,) = explanation["versions"]
    assert delivered["state"] == "delivered"
    assert [finding["code"] for finding in delivered["findings"]] == ["E233"]
    assert len(server.objects) == 1
