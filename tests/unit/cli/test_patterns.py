"""PATTERN arguments: `list`, `list --skipped` and `mark-delivered` read them by one rule."""

from pathlib import Path

import pytest

from emitterd.cli.commands.entries import _matcher
from emitterd.cli.commands.mark import _Selected

ROOT = Path("/srv/cqube_emission")


@pytest.mark.parametrize(
    ("pattern", "path", "expected"),
    [
        ("*.zip", "pat/a.zip", True),
        ("*.zip", "pat/.hidden.zip", True),
        ("pat/*", "pat/~a.zip", True),
        ("**/*.zip", "pat/.cache/a.zip", True),
        ("pat/*.zip", "sat/a.zip", False),
        (f"{ROOT}/*.zip", "a.zip", True),
        (f"{ROOT}/*.zip", "pat/a.zip", False),
        ("a[1].zip", "pat/a1.zip", True),
    ],
)
def test_a_pattern_names_the_same_files_in_each_command(
    pattern: str, path: str, *, expected: bool
) -> None:
    """Hidden and temporary names too. An absolute pattern begins at the watched folder."""
    listed = _matcher([pattern], ROOT)
    below = pattern.removeprefix(f"{ROOT}/").encode()
    marked = _Selected({below: pattern}, ROOT)

    assert listed is not None
    assert listed(path.encode()) is expected
    assert marked.match(path.encode()) is expected
