"""English texts that can be translated later: a message of the catalogue, and its values.

A `Text` is its English text, so code that knows nothing of languages uses it like any other. What
is made of it with `+`, slices or an f-string is no longer one: a text that is part of another one
is a value of it.
"""

from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from functools import reduce
from typing import Any, Self


class Text(str):
    """A message in English, with its values filled in: `Text("the journal is at {path}", path=…)`.

    A value is a text of its own, a number, or a name that is never translated. Without values the
    message is taken as it is, braces too. tools/translations.py finds messages only where they are
    literals.
    """

    __slots__ = ("message", "plural", "values")
    message: str
    plural: str
    values: Mapping[str, Any]

    def __new__(cls, message: str, /, **values: object) -> Self:
        """Fill in the values."""
        return cls._make(message, "", values)

    @classmethod
    def _make(cls, message: str, plural: str, values: Mapping[str, object]) -> Self:
        pattern = plural if plural and values["number"] != 1 else message
        text = super().__new__(cls, fill(pattern, values, _english))
        text.message, text.plural, text.values = str(message), str(plural), values
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._make, (self.message, self.plural, self.values)


def plural(one: str, many: str, /, *, number: int, **values: object) -> Text:
    """Return a text about a number of things: `plural("{number} file", "{number} files", …)`."""
    return Text._make(one, many, {"number": number, **values})


def joined(texts: Iterable[str]) -> str:
    """Return one list of several texts; at least one."""
    return reduce(lambda first, rest: Text("{first}; {rest}", first=first, rest=rest), texts)


class Instant(str):
    """A time of this machine's zone; in English it is ISO 8601 with a space."""

    __slots__ = ("at",)
    at: datetime

    def __new__(cls, at: datetime) -> Self:
        """Write it to the second."""
        text = super().__new__(cls, at.isoformat(" ", "seconds"))
        text.at = at
        return text

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.at,)


def text_record(value: object) -> Any:  # noqa: ANN401  JSON
    """Return a text as JSON, or a value of one."""
    if isinstance(value, Instant):
        return {"at": value.at.isoformat()}
    if not isinstance(value, Text):
        return value
    values = {name: text_record(value) for name, value in value.values.items()}
    return {"message": value.message, "plural": value.plural, "values": values}


def text_from_record(record: Any) -> Any:  # noqa: ANN401  JSON
    """Return what gave a record. Raises `KeyError` or `TypeError` for another form."""
    if not isinstance(record, dict):
        return record
    if "at" in record:
        return Instant(datetime.fromisoformat(record["at"]))
    values = {name: text_from_record(value) for name, value in record["values"].items()}
    return Text._make(record["message"], record["plural"], values)


def fill(pattern: str, values: Mapping[str, object], show: Callable[[object], str]) -> str:
    """Return the pattern with its values, each as `show` writes it."""
    if not values:
        return str(pattern)
    return str(pattern).format_map({name: show(value) for name, value in values.items()})


def _english(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)
