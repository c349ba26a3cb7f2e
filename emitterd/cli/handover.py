"""From `client.py` to emitterd: what the one did, and what changes with the other."""

import os
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

from emitterd.config.client_config import ClientConfig
from emitterd.config.fields import shown

KEYS = "<dataset>/<name>.zip"
"""The form of the object keys that the server looks for."""


@dataclass(frozen=True, slots=True)
class SentFiles:
    """What `client.py` made of its `file_path`.

    `folder` is the one that the dataset folders lie in; `keys` the form of the object
    keys asked for, right if it equals `KEYS`; `dataset` the only one sent, or None.
    """

    folder: Path
    keys: str = KEYS
    dataset: str | None = None


def sent(file_path: str, datasets: Collection[str]) -> SentFiles:
    """Tell what `client.py` sent; `datasets` are the names of the dataset folders.

    Its keys start at `os.path.split(file_path)[0]`: at `file_path` itself only where
    that ends with a slash, else at the folder above. On Windows it puts backslashes
    into them, which the server does not take for folders.
    """
    place = Path(file_path)
    if not place.is_absolute():
        return SentFiles(place, KEYS.replace("/", "\\"))
    if place.suffix.lower() == ".zip" or os.path.isfile(place):  # noqa: PTH113  raises
        known = place.parent.name in datasets
        return SentFiles(place.parent.parent if known else place.parent, "<name>.zip")
    slash = file_path.endswith("/")
    if place.name in datasets:
        return SentFiles(place.parent, "<name>.zip" if slash else KEYS, place.name)
    return (
        SentFiles(place) if slash else SentFiles(place, f"{shown(place.name)}/{KEYS}")
    )


def notices(
    client: ClientConfig, directory: Path, datasets: Collection[str]
) -> Iterator[str]:
    """Yield what should be known of a client that is taken over, a line each."""
    login = client.username or client.password
    if client.url and client.url.startswith("http:"):
        yield (
            "emission_url is http://: what is sent goes unencrypted, the password or"
            " API key too; allow_insecure_http: true permits it until the server has"
            " https://"
        )
    if client.api_key and login:
        yield (
            "access_token is given besides username and password: the token is taken,"
            " which is right for cQube 1.7 and later"
        )
    if not client.api_key and not client.password:
        yield "neither access_token nor password has a value"
    if client.file_path:
        yield from _changes(client.file_path, directory, datasets)


def _changes(
    file_path: str, directory: Path, datasets: Collection[str]
) -> Iterator[str]:
    was = sent(file_path, datasets)
    if was.keys != KEYS:
        yield (
            f"client.py sent {shown(file_path)} under keys like {was.keys}, but the"
            f" server looks for {KEYS}, as emitterd sends it: what was sent has hardly"
            " ever been processed, whatever client.py said"
        )
    if was.dataset:
        yield (
            f"client.py sent no dataset but {shown(was.dataset)}; emitterd sends all"
            f" that lie in {shown(directory)}"
        )
    if os.path.realpath(was.folder) != os.path.realpath(directory):
        yield (
            f"client.py had its dataset folders in {shown(was.folder)}, emitterd has"
            f" them in {shown(directory)}: move what is still to be sent, and tell"
            " those who drop files"
        )
