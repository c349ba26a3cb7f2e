r"""How the server's CSV readers take a line apart, whatever the delimiter.

Source: cQube's NiFi templates: quote `"`, escape `\`, values trimmed.
"""

import csv

VALUE_MAX = 1_000_000
"""A quote that is never closed makes one value of the rest of the file: at so many
characters it is given up. The `csv` module has one such limit, for all its readers."""
csv.field_size_limit(VALUE_MAX)


class ServerDialect(csv.Dialect):
    """The dialect; a reader names the delimiter of its dataset on top."""

    delimiter = "|"
    quotechar = '"'
    escapechar = "\\"
    doublequote = True
    skipinitialspace = True
    lineterminator = "\n"
    quoting = csv.QUOTE_MINIMAL
