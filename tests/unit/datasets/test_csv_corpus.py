"""The verdict on CSVs as many programs and people write them."""

from dataclasses import replace

import pytest

from emitterd.datasets.catalogue import Dataset, Version
from emitterd.datasets.findings import fatal
from emitterd.datasets.inspection import InspectionSettings
from emitterd.datasets.sample import sample_csv
from support.zips import inspected_csv, shipped
from unit.datasets.csv_corpus import DROPS, SHAPES, Shape

EACH = pytest.mark.parametrize("shape", SHAPES, ids=[shape.title for shape in SHAPES])


@EACH
def test_each_csv_has_its_verdict(shape: Shape) -> None:
    """The findings have the codes of the table, and lose what the server loses."""
    version = Version.parse(shape.version) if shape.version else None
    dataset = shipped().dataset(f"{shape.dataset}.zip".encode(), version)
    report = inspected_csv(shape.content, dataset, InspectionSettings(version))

    found = [f"{finding.code.value} {finding.loses.value}" for finding in report.findings]
    assert ", ".join(found) == shape.findings
    assert fatal(report.findings) == (shape.server == DROPS)


def test_the_table_is_large() -> None:
    """It has at least 80 different CSVs."""
    assert len({(shape.content, shape.version, shape.dataset) for shape in SHAPES}) >= 80


VERSIONS = [None, Version(1, 12), Version(2, 0)]
VERSIONS += [Version(3, minor) for minor in range(8)] + [Version(4, 0), Version(4, 1)]


@pytest.mark.parametrize("dataset", shipped().datasets, ids=lambda dataset: dataset.title)
def test_the_documented_shapes_have_no_findings(dataset: Dataset) -> None:
    """The samples pass for every version that reads them, also with `udise` headers."""
    for version in VERSIONS:
        for header in dataset.headers:
            variant = header.variant or "udise"
            if dataset.span.holds(version) and header.applies(version, variant):
                content = sample_csv(replace(dataset, headers=(header,)), 3).encode()
                for settings in (InspectionSettings(version, variant), InspectionSettings(version)):
                    assert inspected_csv(content, dataset, settings).findings == ()
