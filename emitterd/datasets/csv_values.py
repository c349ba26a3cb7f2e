"""The values that the server accepts in a column, and what people did to the wrong ones.

Source: the validations of cQube's NiFi templates 1.12.1 and 3.7, which agree on the types.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime

from emitterd.codes import Code
from emitterd.datasets.catalogue import ACADEMIC_YEARS, Dataset, ValueKind, Version
from emitterd.datasets.findings import quoted

ABSENT = frozenset({b"", b"NULL"})
"""What the server reads as no value."""

_EXAMPLE = datetime(2026, 1, 31, 13, 5, 59)  # noqa: DTZ001  a date, no instant
"""Shows the form of a date: its day can be no month."""
_REMAINS = "unconverted data remains: "

_LIMITS = {ValueKind.INT32: 2**31, ValueKind.INT64: 2**63}
_WHOLE = re.compile(rb"[+-]?[0-9]{1,40}")
_FORMS = {
    ValueKind.DECIMAL: re.compile(
        rb"[+-]?(?:NaN|Infinity|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?[fFdD]?)"
    ),
    ValueKind.BOOL: re.compile(rb"(?i:true|false|[10ynft])"),
    ValueKind.YEAR: re.compile(rb"[0-9]{4}-[0-9]{2}"),
    ValueKind.TEXT: re.compile(rb"(?s:.*)"),
}
_FORMS[ValueKind.COORDINATE] = _FORMS[ValueKind.DECIMAL]
_EXPECTED = {
    ValueKind.INT32: "{} as a whole number of digits, below 2,147,483,648",
    ValueKind.INT64: "{} as a whole number of digits",
    ValueKind.DECIMAL: "{} as a number like 12.5",
    ValueKind.COORDINATE: "{} as a number like 23.0225",
    ValueKind.BOOL: "{} as true or false",
    ValueKind.YEAR: "{} like 2020-21",
}
_CODES = {ValueKind.DATE: Code.BAD_DATE, ValueKind.YEAR: Code.BAD_ACADEMIC_YEAR}

# In a shape every digit is 0, every letter is a, and a NULL is N.
_SURE_SHAPES = {
    ValueKind.INT32: re.compile(rb"[+-]?0{1,9}"),
    ValueKind.INT64: re.compile(rb"[+-]?0{1,18}"),
    ValueKind.DECIMAL: re.compile(rb"[+-]?(?:0+\.?0*|\.0+)"),
    # With two digits it is not 0: nobody writes 00.0.
    ValueKind.COORDINATE: re.compile(rb"[+-]?0{2,3}\.?0*"),
    ValueKind.YEAR: re.compile(rb"0{4}-00"),
    ValueKind.TEXT: _FORMS[ValueKind.TEXT],
}

_NUMBERS = {*_LIMITS, ValueKind.DECIMAL, ValueKind.COORDINATE}
_ADVICE = (
    (
        _LIMITS,
        r"[0-9]+(?:[.,][0-9]+)?[eE]\+?[0-9]+",
        "Excel has changed the code; format the column as text, and enter the codes again",
    ),
    (_LIMITS, r"[+-]?[0-9]+\.0*", "a program wrote the code as a decimal number; remove the .0"),
    (ValueKind, r"#(?:N/A|REF!|VALUE!|NAME\?|DIV/0!|NUM!|NULL!)", "an error of an Excel formula"),
    (ValueKind, r"#+", "the column was too narrow in Excel; make it wider and export again"),
    (ValueKind, r'=?"+[^"]*"*', "quotes or a formula of Excel in the value; write the value alone"),
    (
        _NUMBERS,
        r"[+-]?[0-9]+(?:,[0-9]+)+(?:\.[0-9]+)?",
        "write the number with a decimal point and without commas",
    ),
    (
        ValueKind,
        r"(?i)\\N|N/?A|NULL|nil|none|nan|-+|\(null\)",
        "no value; leave it empty or write NULL",
    ),
    (_NUMBERS, r".*[\u0080-\uffff].*", "use the digits 0 to 9 and no special characters"),
    (
        (ValueKind.DATE,),
        r"[0-9]{1,2}[-/.][0-9A-Za-z]+[-/.][0-9]+|[0-9]{5}(?:\.[0-9]+)?",
        "Excel has changed the date; format the column as text, and enter the dates again",
    ),
)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a file and the values that the server accepts in it.

    `form`: the `strptime` format of a date. `needed`: the server drops a row without a value.
    """

    at: int
    name: str
    kind: ValueKind
    form: str = ""
    needed: bool = False

    def is_sure(self, shape: bytes) -> bool:
        """Tell whether every value of this shape is right."""
        shape = shape.strip()
        if shape in {b"", b"N"}:
            return not self.needed
        sure = _SURE_SHAPES.get(self.kind)
        return sure is not None and sure.fullmatch(shape) is not None

    def problem(self, value: bytes) -> Code | None:
        """Return the code of a value that costs the row, or None; the value is trimmed."""
        # A coordinate of 0 is no value.
        zero = self.kind is ValueKind.COORDINATE and not value.strip(b"+-0.")
        if zero or value in ABSENT:
            return Code.MISSING_VALUE if self.needed else None
        return None if self._is_right(value) else _CODES.get(self.kind, Code.BAD_VALUE)

    def _is_right(self, value: bytes) -> bool:
        if self.kind is ValueKind.DATE:
            return _is_date(self.form, value)
        if self.kind in _LIMITS:
            limit = _LIMITS[self.kind]
            return _WHOLE.fullmatch(value) is not None and -limit <= int(value) < limit
        return _FORMS[self.kind].fullmatch(value) is not None

    def described(self, value: bytes, *, missing: bool) -> tuple[str, str]:
        """Return what is expected, and the wrong value with its cause where that is known."""
        text = value.decode(errors="replace")
        found = f"{self.name} {quoted(text)}"
        if missing:
            return f"a value for {self.name} in every row", found
        for kinds, pattern, advice in _ADVICE:
            if self.kind in kinds and re.fullmatch(pattern, text[:100]):
                found += f" ({advice})"
                break
        if self.kind is ValueKind.DATE:
            return f"{self.name} like {_EXAMPLE.strftime(self.form)}", found
        return _EXPECTED[self.kind].format(self.name), found


def checked_columns(
    dataset: Dataset, columns: Sequence[str], version: Version | None
) -> Iterator[Column]:
    """Yield the columns of a file that have rules; `columns` are in the order of the file."""
    documented = {name.lower() for header in dataset.headers for name in header.columns}
    kinds = dict.fromkeys(ACADEMIC_YEARS & documented, ValueKind.YEAR)
    kinds |= {rule.name.lower(): rule.kind for rule in dataset.values if rule.kind != "text"}
    forms = {name.lower(): form for name, form in dataset.dates}
    needed = {name.lower() for name in dataset.keys}
    for rule in dataset.values:
        if rule.needed is not None:
            held = rule.needed.holds(version)
            (needed.add if held else needed.discard)(rule.name.lower())
    names: set[str] = set()
    for at, name in enumerate(map(str.lower, columns)):
        if name in names:
            continue
        names.add(name)
        kind = ValueKind.DATE if name in forms else kinds.get(name, ValueKind.TEXT)
        if kind is not ValueKind.TEXT or name in needed:
            yield Column(at, columns[at], kind, forms.get(name, ""), name in needed)


def _is_date(form: str, value: bytes) -> bool:
    """Tell whether a value begins with a date; the server ignores what follows."""
    # Devanagari digits are digits to `strptime`, but not to the server.
    if not value.isascii():
        return False
    try:
        datetime.strptime(value.decode(), form)  # noqa: DTZ007  a date of the file, no instant
    except ValueError as error:
        before, found, rest = str(error).partition(_REMAINS)
        return bool(found) and not before and not rest[:1].isdigit()
    return True
