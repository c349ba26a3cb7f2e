"""Sample data for demonstrations: a CSV that the server accepts for a dataset."""

from datetime import date, timedelta

from emitterd.datasets.catalogue import ACADEMIC_YEARS, Dataset, ValueKind

_FIRST_DAY = date(2021, 1, 4)


def sample_csv(dataset: Dataset, rows: int) -> str:
    """Return a header and `rows` records for the latest version of the server."""
    columns = dataset.headers[-1].columns if dataset.headers else ("id", "name")
    dates = {column.lower(): form for column, form in dataset.dates}
    flags = {rule.name.lower() for rule in dataset.values if rule.kind is ValueKind.BOOL}
    lines = [dataset.delimiter.join(columns)]
    for number in range(1, rows + 1):
        values = (_value(column.lower(), number, dates, flags) for column in columns)
        lines.append(dataset.delimiter.join(values))
    return "\n".join(lines) + "\n"


def _value(column: str, number: int, dates: dict[str, str], flags: set[str]) -> str:
    if column in dates:
        return (_FIRST_DAY + timedelta(days=number % 300)).strftime(dates[column])
    if column in flags:
        return str(number % 2)
    return "2020-21" if column in ACADEMIC_YEARS else str(number)
