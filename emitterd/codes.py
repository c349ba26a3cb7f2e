"""The stable error codes: for each, what it means and what to do about it.

The same code is in the log, the journal, `status`, and `docs/errors.md`. The first digit says where
the error is: 1 this installation, 2 the file, 3 the network, 4 the emission API, 5 the bucket. E220
to E249 are findings of the inspection: what the server would not accept in a file that is whole.
The texts are in `error_codes.yaml`.
"""

from enum import StrEnum
from functools import cache
from typing import Any, cast

from emitterd.translation.text import Text


@cache
def load_texts() -> dict[str, Any]:
    """Return the content of error_codes.yaml."""
    # Imported here: most commands need no text, and the reader of YAML needs codes.
    from importlib.resources import files  # noqa: PLC0415

    from emitterd.yaml_reader import load_texts  # noqa: PLC0415

    text = files("emitterd").joinpath("error_codes.yaml").read_text("utf-8")
    return cast("dict[str, Any]", load_texts(text))


class Code(StrEnum):
    """A stable error code, with a `title` and a `remedy` for the operator."""

    @property
    def title(self) -> Text:  # type: ignore[override]  # takes the place of `str.title`
        """What the code means, in lower case and without a full stop."""
        return Text(load_texts()["codes"][self]["title"])

    @property
    def remedy(self) -> Text:
        """What the operator can do about it, in the same form."""
        return Text(load_texts()["codes"][self]["remedy"])

    CONFIG = "E101"
    JOURNAL = "E102"
    JOURNAL_LOCKED = "E103"
    JOURNAL_FULL = "E104"
    ROOT_LOST = "E105"
    INTERNAL = "E106"
    RECEIPT_LOST = "E107"
    JOURNAL_BUSY = "E108"
    JOURNAL_UNREACHABLE = "E109"
    HOST_FENCED = "E110"

    INCOMPLETE = "E201"
    TOO_LARGE = "E202"
    GONE = "E203"
    CHANGED = "E204"
    UNREADABLE = "E205"
    STILL_WRITTEN = "E206"
    NOT_REGULAR = "E207"
    PATH_FAILED = "E208"
    CATALOGUE = "E210"
    NOT_DISPOSED = "E211"

    WRONG_DEPTH = "E220"
    UNKNOWN_FOLDER = "E221"
    UNKNOWN_NAME = "E222"
    WRONG_ENDING = "E223"
    OTHER_VERSION = "E224"
    NO_FILE_IN_ZIP = "E225"
    SEVERAL_FILES = "E226"
    ENCRYPTED = "E227"
    UNREADABLE_ZIP = "E228"
    DAMAGED = "E229"
    NOT_UTF8 = "E230"
    BYTE_ORDER_MARK = "E231"
    WRONG_DELIMITER = "E232"
    WRONG_HEADER = "E233"
    NO_RECORDS = "E234"
    LONG_LINE = "E235"
    NOT_INSPECTED = "E236"
    QUOTES = "E237"
    CSV_NAME = "E238"
    TOO_LARGE_TO_UNPACK = "E239"
    UNEVEN_ROWS = "E240"
    BAD_DATE = "E241"
    MISSING_VALUE = "E242"
    BAD_ACADEMIC_YEAR = "E243"
    BAD_VALUE = "E244"
    DUPLICATE_KEY = "E245"

    DNS = "E301"
    REFUSED = "E302"
    TLS = "E303"
    CONNECT_TIMEOUT = "E304"
    CONNECTION_LOST = "E305"
    TOO_SLOW = "E306"
    ANSWER_LOST = "E307"
    PROXY = "E308"
    HOST_SHORTAGE = "E309"

    CREDENTIALS = "E401"
    TOKEN_REFUSED = "E402"  # noqa: S105  a code
    FORBIDDEN = "E403"
    NOT_AN_EMISSION_API = "E404"
    REQUEST_REFUSED = "E405"
    MALFORMED_ANSWER = "E406"
    HOSTILE_GRANT = "E407"
    API_TROUBLE = "E408"
    RATE_LIMITED = "E409"
    AZURE_STORAGE = "E410"
    LOCAL_STORAGE = "E411"
    UNKNOWN_PROGRAM = "E412"
    NOT_FINISHED = "E413"
    PROCESSING_FAILED = "E414"
    NOTHING_PROCESSED = "E415"

    BUCKET_TROUBLE = "E501"
    GRANT_EXPIRED = "E502"
    GRANT_REFUSED = "E503"
    NO_SUCH_BUCKET = "E504"
    BODY_REFUSED = "E505"
    REDIRECT_REFUSED = "E506"
    ETAG_MISMATCH = "E507"
    NOT_A_BUCKET = "E508"
    CLOCK_SKEW = "E509"
    FILE_REFUSED = "E510"
    KEY_REFUSED = "E511"
