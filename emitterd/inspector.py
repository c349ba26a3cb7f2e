"""Holds a file to the data contract: its path to the catalogue, its content to both."""

from dataclasses import replace

from emitterd.catalogue import Catalogue, Place
from emitterd.container import ReadAt
from emitterd.inspection import Contract, Report, inspect


class Inspector:
    """The catalogue and what the installation says of its server."""

    def __init__(self, catalogue: Catalogue, contract: Contract) -> None:
        self.catalogue = catalogue
        self._contract = contract

    def place(self, path: bytes) -> Place:
        """Return rank and flow of a path."""
        return self.catalogue.place(path)

    def report(self, path: bytes, read_at: ReadAt, size_bytes: int) -> Report:
        """Inspect a whole zip that lies, or is to lie, at this path.

        Raises nothing but what `read_at` does.
        """
        version = self._contract.version
        dataset = self.catalogue.dataset(path, version)
        report = inspect(read_at, size_bytes, dataset, self._contract)
        named = self.catalogue.findings(path, version)
        return replace(report, findings=(*named, *report.findings))
