"""Holds a file to the data contract: its path to the catalogue, its content to both."""

from dataclasses import replace
from typing import TYPE_CHECKING

from emitterd.datasets.catalogue import Catalogue, QueuePosition
from emitterd.datasets.catalogue_file import load_catalogue
from emitterd.datasets.dataset import Dataset, Version
from emitterd.datasets.inspection import Contract, Report, inspect
from emitterd.datasets.zip_integrity import ReadAt

if TYPE_CHECKING:
    from emitterd.config.settings import SpoolSettings


class Inspector:
    """The catalogue and what the installation says of its server."""

    def __init__(self, catalogue: Catalogue, contract: Contract) -> None:
        self.catalogue = catalogue
        self._contract = contract

    def place(self, path: bytes) -> QueuePosition:
        """Return rank and flow of a path."""
        return self.catalogue.place(path)

    def dataset(self, path: bytes) -> Dataset | None:
        """Return the dataset that this server takes a path for, or None."""
        return self.catalogue.dataset(path, self._contract.version)

    def report(self, path: bytes, read_at: ReadAt, size_bytes: int) -> Report:
        """Inspect a whole zip that lies, or is to lie, at this path.

        Raises nothing but what `read_at` does.
        """
        dataset = self.dataset(path)
        report = inspect(read_at, size_bytes, dataset, self._contract)
        named = self.catalogue.findings(path, self._contract.version)
        return replace(report, findings=(*named, *report.findings))


def load_inspector(rule: "SpoolSettings") -> Inspector:
    """Return the inspector that the configuration describes.

    Raises `ConfigError` where the user's catalogue is wrong.
    """
    contract = Contract(
        version=Version.parse(rule.cqube_version) if rule.cqube_version else None,
        variant=rule.static_datasource or "",
        budget_bytes=rule.inspection_budget_bytes,
    )
    return Inspector(load_catalogue(rule.catalogue_file), contract)
