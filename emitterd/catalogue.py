"""The datasets that the server knows: their order, and whether a path is one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dataset:
    """One dataset: `<folder>/<name…>.zip`. `rank` is its place in the order."""

    folder: str
    name: str
    kind: str
    rank: int

    @property
    def title(self) -> str:
        """The dataset as people write it."""
        return f"{self.folder}/{self.name}"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a path stands: its rank among the datasets, and whose backlog it joins."""

    rank: int
    flow: str


class Catalogue:
    """All datasets, looked up by path."""

    def __init__(self, rows: Iterable[Mapping[str, str]]) -> None:
        self.datasets = [
            Dataset(row["folder"], row["name"], row["kind"], rank)
            for rank, row in enumerate(rows)
        ]
        self._by_folder: dict[str, list[Dataset]] = {}
        for dataset in self.datasets:
            self._by_folder.setdefault(dataset.folder, []).append(dataset)

    def dataset(self, path: bytes) -> Dataset | None:
        """Return the dataset that the server would take the path for, or None."""
        folder, _, base = path.decode("utf-8", "replace").partition("/")
        if "/" in base:
            return None
        fitting = [
            dataset
            for dataset in self._by_folder.get(folder, [])
            if base.startswith(dataset.name)
        ]
        return max(fitting, key=lambda dataset: len(dataset.name), default=None)

    def place(self, path: bytes) -> Place:
        """Return rank and flow; unknown datasets go last, each folder a flow."""
        dataset = self.dataset(path)
        if dataset is not None:
            return Place(dataset.rank, dataset.title)
        folder = path.rpartition(b"/")[0].decode("utf-8", "backslashreplace")
        return Place(len(self.datasets), folder)

    def finding(self, path: bytes) -> str | None:
        """Return why the server would never process the path, or None.

        The rules are those of the server's routes: `<folder>/<name…>.zip`, one
        level deep; anything else stays in the bucket unread.
        """
        depth = path.count(b"/")
        folder, _, base = path.decode("utf-8", "replace").rpartition("/")
        if depth != 1:
            return (
                f"it lies {depth} folders deep; the server reads <dataset>/<name>.zip"
            )
        known = self._by_folder.get(folder)
        if known is None:
            return f"the server knows no dataset folder {folder!r}"
        if self.dataset(path) is None:
            names = ", ".join(f"{dataset.name}….zip" for dataset in known[:5])
            return f"{base!r} is no file of {folder!r}; the server knows {names}"
        return None
