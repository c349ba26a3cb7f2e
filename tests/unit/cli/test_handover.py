"""What client.py sent, compared with the keys that its own code computes."""

import os
from pathlib import Path

import pytest

from emitterd.cli.init import KEYS, notices, sent
from emitterd.config.upstream_config import UpstreamConfig

DATASETS = ["block_master", "pat"]


def keys_of(file_path: str) -> set[str]:
    """Return the keys that client.py asks for, computed as it does."""
    if Path(file_path).is_file():
        return {Path(file_path).name}
    start = os.path.split(file_path)[0]
    return {
        os.path.relpath(f"{root}/{name}", start)
        for root, _, names in os.walk(file_path)
        for name in names
    }


@pytest.mark.parametrize(
    ("path", "folder", "keys", "dataset"),
    [
        ("cqube_emission/", "cqube_emission", KEYS, ""),
        ("cqube_emission", "cqube_emission", f"cqube_emission/{KEYS}", ""),
        ("cqube_emission/pat", "cqube_emission", KEYS, "pat"),
        ("cqube_emission/pat/", "cqube_emission", "<name>.zip", "pat"),
        ("cqube_emission/pat/mst.zip", "cqube_emission", "<name>.zip", ""),
        ("cqube_emission/loose.zip", "cqube_emission", "<name>.zip", ""),
        ("cqube_emission/pat/noted", "cqube_emission", "<name>.zip", ""),
    ],
)
def test_the_slash_decides_the_keys(
    tmp_path: Path, path: str, folder: str, keys: str, dataset: str
) -> None:
    """Keys start at the path if it ends with a slash, else at the folder above."""
    for name in ("pat/mst.zip", "pat/noted", "loose.zip"):
        file = tmp_path / "cqube_emission" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    file_path = f"{tmp_path}/{path}"

    assert sent(file_path, DATASETS) == (tmp_path / folder, keys, dataset)
    example = keys.replace("<dataset>", "pat").replace("<name>.zip", "mst.zip")
    name = path.rpartition("/")[2]
    assert keys_of(file_path) & {example, name}


def test_a_missing_file_is_recognised_by_its_extension() -> None:
    """A single zip may have been moved away since it was sent."""
    assert sent("/x/e/pat/mst.ZIP", DATASETS) == (Path("/x/e"), "<name>.zip", "")


@pytest.mark.parametrize("path", ["C:\\cqube_emission\\", "D:/e/", "\\\\nas\\e"])
def test_keys_of_windows_are_wrong(path: str) -> None:
    """The server does not read a backslash as a folder."""
    assert sent(path, DATASETS)[1] == "<dataset>\\<name>.zip"


def notices_of(directory: Path, **given: str) -> str:
    """Return the notices about a client of `directory`, as one text."""
    return "\n".join(notices(UpstreamConfig(**given), directory, DATASETS))


def test_a_correct_client_has_no_notices(tmp_path: Path) -> None:
    """The same files get the same keys, encrypted."""
    link = tmp_path / "link"
    link.symlink_to(tmp_path)
    good = {"url": "https://h/data", "api_key": "k", "file_path": f"{link}/"}

    assert notices_of(tmp_path, **good) == ""


def test_every_change_has_a_notice(tmp_path: Path) -> None:
    """Another folder, one dataset only, and keys that the server does not read."""
    here = str(tmp_path)

    assert f"had its dataset folders in {here}/old, " in notices_of(
        tmp_path, file_path=f"{here}/old/"
    )
    assert "no dataset but pat;" in notices_of(tmp_path, file_path=f"{here}/pat")
    loose = notices_of(tmp_path, file_path=here)
    assert f"under keys like {tmp_path.name}/{KEYS}, but the server" in loose
    assert "had its dataset folders" not in loose
    assert "<dataset>\\<name>.zip" in notices_of(tmp_path, file_path="C:\\e\\")


def test_http_and_wrong_secrets_have_notices(tmp_path: Path) -> None:
    """An http:// URL, two secrets, no secret."""
    assert "goes unencrypted" in notices_of(tmp_path, url="http://h", api_key="k")
    both = notices_of(
        tmp_path, api_key="one-key", username="u", password="one-password"
    )
    assert "emitterd uses the token" in both
    assert "one-" not in both
    assert "has a value" in notices_of(tmp_path, username="u")


def test_no_file_path_forges_a_line(tmp_path: Path) -> None:
    """Values of config.py are escaped."""
    for path in ("/x\n/e\x1b[31m", "/x/e\x1b\n/", "C:\\\x1b\n"):
        text = notices_of(tmp_path, api_key="k", file_path=path)
        assert text.replace("\n", "").isprintable()
        assert all(line.startswith("client.py ") for line in text.splitlines())
