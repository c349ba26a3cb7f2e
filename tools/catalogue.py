"""The table of docs/catalogue.md: for each dataset and version, what emitterd checks.

`python -m tools.catalogue docs/catalogue.md` writes the new table.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from emitterd.datasets.catalogue import Dataset, Header, HeaderMatch, VersionRange
from emitterd.datasets.catalogue_file import load_catalogue

MARK = "<!-- made by `python -m tools.catalogue` -->\n"
_MATCHES = {
    HeaderMatch.NAMES: "the required columns, in any order",
    HeaderMatch.SEQUENCE: "all columns in order",
    HeaderMatch.ONLY: "all columns in order, and no others",
    HeaderMatch.EXACT: "all columns in order and case",
}


def table() -> str:
    """Return the table in Markdown."""
    lines = ["| dataset | cQube | header | key | types | must have a value |", "|" + "---|" * 6]
    for dataset in load_catalogue().datasets:
        cells = (
            dataset.title,
            _span(dataset.span),
            "; ".join(_header(header) for header in dataset.headers) or "not checked",
            ", ".join(dataset.keys),
            "; ".join(_types(dataset)),
            ", ".join(_needed(dataset)),
        )
        lines.append("| " + " | ".join(cell.replace("|", "\\|") or "-" for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def document(text: str) -> str:
    """Return the text of docs/catalogue.md with a new table at its end."""
    before, _, _ = text.partition(MARK)
    return f"{before}{MARK}\n{table()}"


def _span(span: VersionRange) -> str:
    if span.since is None and span.until is None:
        return "all"
    if span.until is None:
        return f"{span.since} and later"
    return f"{span.since} to {span.until}" if span.since else f"up to {span.until}"


def _header(header: Header) -> str:
    variant = f"{header.variant}, " if header.variant else ""
    return f"{variant}{_span(header.span)}: {_MATCHES[header.match]} ({len(header.required)})"


def _types(dataset: Dataset) -> Iterator[str]:
    if dataset.dates:
        yield f"date {', '.join(name for name, _ in dataset.dates)}"
    for kind in dict.fromkeys(rule.kind for rule in dataset.values):
        names = [rule.name for rule in dataset.values if rule.kind is kind]
        if kind != "text":
            yield f"{kind} {', '.join(names)}".replace(", ".join(map(str, range(1, 32))), "1 to 31")


def _needed(dataset: Dataset) -> Iterator[str]:
    marked = {rule.name for rule in dataset.values if rule.needed is not None}
    yield from (key for key in dataset.keys if key not in marked)
    for rule in dataset.values:
        if rule.needed is not None:
            since = f" ({_span(rule.needed)})" if rule.needed.since else ""
            yield f"{rule.name}{since}"


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(document(path.read_text("utf-8")), "utf-8")
