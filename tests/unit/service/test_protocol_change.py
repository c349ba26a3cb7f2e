"""After a change of `emission.protocol`, what waits is examined by the rules of the new server."""

from pathlib import Path

from structlog.testing import capture_logs

from emitterd.config.settings import load
from emitterd.journal.rows import Admission
from emitterd.model import Fingerprint, State
from emitterd.service.components import Components
from support.zips import make_zip

NAME = "programs/x.zip"


def components(folder: Path, emission: str) -> Components:
    """Build the components of an installation with these lines below `emission`."""
    (folder / "drop").mkdir(exist_ok=True)
    (folder / "emitter.yaml").write_text(
        f"emission:\n  url: https://cqube.test/api\n{emission}"
        "spool:\n  directory: drop\n  catalogue: off\njournal:\n  path: journal.db\n"
    )
    return Components(load(folder / "emitter.yaml", {"KEY": "rehearsal"}))


def close(parts: Components) -> None:
    """Close what was opened."""
    parts.http_client.close()
    parts.journal.close()


def states(parts: Components) -> list[tuple[str, str | None]]:
    """Return state and error of every version."""
    return [(row[0], row[1]) for row in parts.journal.read("select state, error from entry")]


def test_what_waits_is_examined_again(tmp_path: Path) -> None:
    """A file that was queued for cQube 4 is not sent unchecked: it would stop cQube 5's service."""
    parts = components(tmp_path, "  api_key_env: KEY\n")
    path = make_zip(tmp_path / "drop" / NAME)
    parts.journal.admit([Admission(NAME.encode(), Fingerprint.of(path.stat()), "/programs", 0)])
    assert states(parts) == [(State.QUEUED, None)]
    close(parts)

    with capture_logs() as events:
        parts = components(tmp_path, "  protocol: ingestion\n")
    assert states(parts) == [(State.WITHDRAWN, None)]
    assert [(item["event"], item["path"]) for item in events] == [("file.withdrawn", NAME)]
    parts.intake.sweep_soon()
    for moment in range(3):
        while not parts.intake.step(1000.0 + 10.0 * moment):
            pass
    assert states(parts) == [(State.WITHDRAWN, None), (State.REJECTED, "E222")]
    close(parts)

    parts = components(tmp_path, "  protocol: ingestion\n")
    assert len(states(parts)) == 2
    close(parts)
