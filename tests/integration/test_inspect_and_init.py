"""`inspect` and `init`, as typed by who makes the files and who sets up the office."""

import json
import os
import pty
import stat
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from conftest import NOBODY, Python
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.rehearsal.server import RehearsalServer
from support.command import emitterd
from support.installation import Installation
from support.paths import ROOT
from support.zips import sample
from unit.datasets.zip_corpus import SHAPES

PATH = "pat/periodic_exam_mst.zip"
DATASETS = [dataset for dataset in load_catalogue().datasets if dataset.name]
TITLES = [dataset.title for dataset in DATASETS]


def pack(target: Path, content: bytes, *others: str) -> Path:
    """Zip a CSV, as most programs do; `others` are files beside it in the zip."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(f"{target.stem}.csv", content)
        for name in others:
            archive.writestr(name, b"x")
    return target


def inspected(*arguments: str, cwd: Path) -> list[dict[str, Any]]:
    """Return what `inspect --json` prints."""
    done = emitterd("inspect", *arguments, "--json", cwd=cwd)
    assert done.returncode in {0, 1}, done.stderr
    records: list[dict[str, Any]] = json.loads(done.stdout)
    return records


def codes(record: dict[str, Any]) -> list[str]:
    """Return the codes of the findings."""
    return [finding["code"] for finding in record["findings"]]


@pytest.mark.slow
def test_every_dataset_has_a_sample_that_passes(tmp_path: Path) -> None:
    """What the catalogue describes is what the inspection accepts, for all datasets."""
    files = [pack(tmp_path / f"{title}.zip", sample(f"{title}.zip")) for title in TITLES]

    records = inspected(*map(str, files), cwd=tmp_path)

    assert [record["dataset"] for record in records] == TITLES
    assert {record["verdict"]: record["findings"] for record in records} == {"ok": []}
    assert {record["rows"] for record in records} == {3, None}
    assert [dataset.title for dataset in DATASETS if not dataset.headers] == [
        record["dataset"] for record in records if record["rows"] is None
    ]


HANDED_OVER = {
    "Python zipfile to a pipe, stored": ("error", "E228"),
    "7-Zip, Deflate64": ("ok", "E236"),
    "a gateway that adds CRLF": ("ok", ""),
    "a gap in front of the directory": ("error", "E228"),
    "Info-ZIP zip -A, self-extracting": ("error", "E228"),
    "a broken extra field in the directory": ("ok", ""),
    "a slash in one name, a backslash in the other": ("ok", ""),
    "a mixture of two versions": ("error", "E201"),
}


def test_zips_that_the_server_reads_or_not(tmp_path: Path) -> None:
    """The verdict on a zip is what the server does with it."""
    data = {shape.name: shape.data for shape in SHAPES}
    folder = tmp_path / "student_attendance"
    folder.mkdir()
    files = [folder / f"student_attendance_{number}.zip" for number in range(len(HANDED_OVER))]
    for file, name in zip(files, HANDED_OVER, strict=True):
        file.write_bytes(data[name])

    records = inspected(*map(str, files), cwd=tmp_path)

    verdicts = [
        (record["verdict"], record.get("error") or " ".join(codes(record))) for record in records
    ]
    assert dict(zip(HANDED_OVER, verdicts, strict=True)) == HANDED_OVER


@pytest.mark.slow
def test_good_and_bad_files_on_a_desk(tmp_path: Path) -> None:
    """Each file has its verdict; the exit code is that of the worst."""
    good = pack(tmp_path / PATH, sample(PATH))
    wrong = pack(tmp_path / "sat" / "semester_exam_mst.zip", sample(PATH))
    (tmp_path / "half.zip").write_bytes(good.read_bytes()[:-30])

    good_only = emitterd("inspect", PATH, cwd=tmp_path)
    every = emitterd("inspect", PATH, str(wrong), "half.zip", "gone.zip", cwd=tmp_path)
    records = inspected(PATH, str(wrong), "half.zip", "gone.zip", cwd=tmp_path)

    assert (good_only.returncode, every.returncode) == (0, 1)
    assert [record["verdict"] for record in records] == ["ok", "error", "error", "error"]
    assert codes(records[1]) == ["E233"]
    assert [record.get("error") for record in records] == [None, None, "E201", None]
    assert records[3]["reason"] == "there is no such file"
    assert f"{PATH}: ok" in every.stdout
    assert "E233 error: expected" in every.stdout


@pytest.mark.parametrize(
    ("where", "dataset", "note"),
    [
        (PATH, "pat/periodic_exam_mst", "by its folder"),
        ("periodic_exam_mst_2021.zip", "pat/periodic_exam_mst", "for the folder pat"),
        ("Desktop/periodic_exam_mst.zip", "pat/periodic_exam_mst", "by its name"),
        ("export.zip", None, "by its folder"),
        ("sat/periodic_exam_mst.zip", None, "by its folder"),
        ("pat_/periodic_exam_mst.zip", None, "by its folder"),
        ("periodic_exam_mst/periodic_exam_mst.zip", None, "by its folder"),
    ],
)
def test_dataset_is_recognised_by_folder_or_name(
    tmp_path: Path, where: str, dataset: str | None, note: str
) -> None:
    """A zip need not lie in the watched folder to be inspected as what it will be."""
    pack(tmp_path / where, sample(PATH))

    (record,) = inspected(where, cwd=tmp_path)

    assert record["dataset"] == dataset
    assert note in record["note"]
    assert bool(record["findings"]) == (dataset is None)


@pytest.mark.slow
def test_dataset_can_be_named(tmp_path: Path) -> None:
    """A file with any name is compared with the dataset that is named."""
    pack(tmp_path / "export.zip", sample(PATH))

    named = inspected("export.zip", "--dataset", PATH[:-4], cwd=tmp_path)
    other = inspected("export.zip", "--dataset", "sat/semester_exam_mst", cwd=tmp_path)
    typo = emitterd("inspect", "export.zip", "--dataset", "pat/exam_mst", cwd=tmp_path)

    assert named[0]["verdict"] == "ok"
    assert codes(other[0]) == ["E233"]
    assert typo.returncode == 2
    assert "did you mean" in typo.stderr


def test_mac_zip_is_recognised(tmp_path: Path) -> None:
    """What a Mac puts beside the CSV would be read as data: it is named."""
    pack(tmp_path / PATH, sample(PATH), "__MACOSX/._periodic_exam_mst.csv")

    (record,) = inspected(PATH, cwd=tmp_path)

    assert codes(record) == ["E226"]
    assert "__MACOSX" in record["findings"][0]["found"]


@pytest.mark.slow
def test_budget_and_full(tmp_path: Path) -> None:
    """Beyond the budget rows are not read, unless `--full` asks for all of them."""
    rows = 300_000
    text = sample(PATH, rows) + b"900000|two\n"
    assert len(text) > 8 * 2**20
    pack(tmp_path / PATH, text)

    (quick,) = inspected(PATH, cwd=tmp_path)
    (full,) = inspected(PATH, "--full", cwd=tmp_path)

    assert (quick["verdict"], quick["rows"], quick["whole"]) == ("ok", None, False)
    assert (full["verdict"], full["rows"]) == ("warning", rows + 1)
    assert codes(full) == ["E240"]


@pytest.mark.slow
def test_full_shows_its_progress_on_a_terminal(tmp_path: Path) -> None:
    """A bar on the terminal, and nothing but data on standard output."""
    text = sample(PATH)
    rows = b"\n".join(b"9%d|" % at + os.urandom(900).hex().encode() for at in range(6000))
    pack(tmp_path / PATH, text + rows)
    ours, theirs = pty.openpty()
    arguments = [sys.executable, "-m", "emitterd", "inspect", PATH, "--full", "--json"]
    child = subprocess.Popen(arguments, cwd=tmp_path, stdout=subprocess.PIPE, stderr=theirs)  # noqa: S603
    os.close(theirs)

    shown = b""
    with suppress(OSError):  # the terminal has no more writer
        while piece := os.read(ours, 65536):
            shown += piece
    (record,) = json.loads(child.communicate()[0])

    assert PATH in shown.decode()
    assert "MiB/s" in shown.decode()
    assert record["whole"]


def test_findings_count_rows_by_column(tmp_path: Path) -> None:
    """`--json` says for each column how many rows are wrong, and what the server loses."""
    text = sample(PATH, 4).replace(b"\n2|", b"\nII|").replace(b"\n3|3|3|", b"\n3||III|")
    pack(tmp_path / PATH, text)

    (record,) = inspected(PATH, cwd=tmp_path)

    assert [(item["code"], item["loses"]) for item in record["findings"]] == [
        ("E242", "row"),
        ("E244", "row"),
    ]
    assert [item["columns"] for item in record["findings"]] == [
        {"medium": 1},
        {"exam_id": 1, "standard": 1},
    ]
    assert record["verdict"] == "warning"


def test_configuration_is_used_where_there_is_one(site: Installation, tmp_path: Path) -> None:
    """The installation's own datasets and its server's version hold for `inspect`."""
    own = tmp_path / "own.yaml"
    own.write_text(
        "textbooks/textbooks:\n  kind: transactional\n  delimiter: ','\n"
        "  headers:\n    all:\n      columns: student_id | issued\n"
    )
    site.settings["EMITTERD_SPOOL_CATALOGUE_FILE"] = str(own)
    site.settings["EMITTERD_SPOOL_CQUBE_VERSION"] = "1.3"
    new = pack(site.spool / "textbooks/textbooks.zip", b"student_id,issued\n1,yes\n")
    late = pack(site.spool / "sat/semester_exam_mst.zip", sample(PATH))

    done = site.call("inspect", str(new), str(late), "--json")

    first, second = json.loads(done.stdout)
    assert (first["dataset"], first["verdict"]) == ("textbooks/textbooks", "ok")
    assert first["note"] == "by its place"
    assert "E224" in codes(second)


@pytest.mark.slow
def test_wrong_catalogue_is_a_wrong_configuration(site: Installation, tmp_path: Path) -> None:
    """All problems of the user's catalogue have their lines; exit code 78."""
    own = tmp_path / "own.yaml"
    own.write_text("textbooks/textbooks:\n  kind: mster\n  delimeter: ','\n")
    site.settings["EMITTERD_SPOOL_CATALOGUE_FILE"] = str(own)

    for command in ("run", "check", "once"):
        done = site.call(command)

        assert done.returncode == 78, command
        assert "2 problems" in done.stderr
        assert "did you mean master?" in done.stderr
        assert "Traceback" not in done.stderr


CONFIG_PY = """\
access_token="{key}"   #API Key
file_path="{folder}/"      #'/home/ubuntu/cqube_emission/'
emission_url="{url}/"   #http://ip:5000/
"""


@pytest.mark.slow
def test_taken_over_and_delivered(tmp_path: Path) -> None:
    """From upstream's config.py to a delivered file, by the printed steps."""
    key = "eyJh.key.mark"
    with RehearsalServer(tmp_path / "server", api_key=key) as server:
        old = tmp_path / "config.py"
        old.write_text(CONFIG_PY.format(key=key, folder=tmp_path / "drop", url=server.url))
        made = emitterd(
            *("init", "drop", "--from-client", "config.py", "--output", "emitter.yaml"),
            cwd=tmp_path,
        )
        check = emitterd("check", cwd=tmp_path)
        pack(tmp_path / "drop" / PATH, sample(PATH))
        once = emitterd("once", cwd=tmp_path)

        assert (made.returncode, check.returncode, once.returncode) == (0, 0, 0)
        assert len(server.objects) == 1
    assert key not in made.stdout + made.stderr + check.stdout + once.stdout
    assert (tmp_path / "api-key").stat().st_mode & 0o777 == 0o600
    assert {path.name for path in (tmp_path / "drop").iterdir()} >= {"pat", "udise"}
    assert "emitterd check" in made.stdout


def test_init_overwrites_nothing(tmp_path: Path) -> None:
    """A configuration that is there stays as it is; exit code 78 and the remedy."""
    (tmp_path / "emitter.yaml").write_text("mine\n")

    done = emitterd("init", "drop", cwd=tmp_path)
    elsewhere = emitterd("init", "drop", "--output", "other.yaml", cwd=tmp_path)

    assert done.returncode == 78
    assert "never overwritten" in done.stderr
    assert (tmp_path / "emitter.yaml").read_text() == "mine\n"
    assert elsewhere.returncode == 0
    assert (tmp_path / "other.yaml").is_file()


@pytest.fixture
def public() -> Iterator[Path]:
    """Make a folder that every user may go into."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def test_producer_may_not_read_the_configuration(public: Path, python: Python) -> None:
    """Who makes files needs nothing of the service: the shipped catalogue holds."""
    if not all(folder.stat().st_mode & stat.S_IXOTH for folder in ROOT.parents):
        pytest.skip("other users may not read the checkout")
    pack(public / PATH, sample(PATH))
    (public / "emitter.yaml").write_text("spool: {directory: /}\n")
    (public / "emitter.yaml").chmod(0o600)
    script = f"""
from functools import partial
from pathlib import Path
from emitterd.cli.commands.inspect import inspect_files
look = partial(inspect_files, [Path({PATH!r})], None, None, full=False, as_json=True)
# Once as root: what Python loads by and by lies where nobody may not read.
look()
{NOBODY}
assert look() == 0
"""

    as_root, as_nobody = python(script, cwd=public).split("]\n[")

    assert json.loads(as_root + "]") != json.loads("[" + as_nobody)
    assert '"verdict": "ok", "dataset": "pat/periodic_exam_mst"' in as_nobody
