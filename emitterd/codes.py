"""The stable error codes: for each, what it means and what to do about it.

The same code is in the log, the journal, `status`, and `docs/errors.md`. The first
digit says where the error is: 1 this installation, 2 the file, 3 the network, 4 the
emission API, 5 the bucket. E220 to E249 are findings of the inspection: what the
server would not accept in a file that is whole.
"""

from enum import StrEnum
from typing import Self


class Code(StrEnum):
    """A stable error code, with a `title` and a `remedy` for the operator."""

    title: str  # type: ignore[assignment]  # takes the place of `str.title`
    remedy: str

    def __new__(cls, value: str, title: str = "", remedy: str = "") -> Self:
        """Create a member whose text is the code alone."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.title = title
        member.remedy = remedy
        return member

    CONFIG = (
        "E101",
        "the configuration is wrong",
        "correct the settings that the message names, then run `emitterd check`",
    )
    JOURNAL = (
        "E102",
        "the journal cannot be used",
        "see the reason; nothing was changed and nothing was sent",
    )
    JOURNAL_LOCKED = (
        "E103",
        "another emitterd holds the journal",
        "stop the other instance, or give this one a journal.path of its own",
    )
    JOURNAL_FULL = (
        "E104",
        "the journal's disk is full",
        "free disk space for journal.path; emitterd then continues by itself",
    )
    ROOT_LOST = (
        "E105",
        "the watched folder is gone",
        "mount or create spool.directory again; the queue is kept",
    )
    INTERNAL = (
        "E106",
        "a bug in emitterd",
        "report the log line with its traceback; emitterd tries the file again",
    )
    RECEIPT_LOST = (
        "E107",
        "the journal was rebuilt, and a receipt of the file may be lost",
        "ask the server's administrator for the file; `emitterd release` sends it",
    )

    INCOMPLETE = (
        "E201",
        "the file is cut off, or is not a zip",
        "copy the whole file again, under the same name",
    )
    TOO_LARGE = (
        "E202",
        "the file is larger than one upload can be (5 GiB)",
        "split the data into several zips",
    )
    GONE = (
        "E203",
        "the file was removed before it was sent",
        "copy it into the folder again if it must be sent",
    )
    CHANGED = (
        "E204",
        "the file changed before all of it was sent",
        "nothing to do: emitterd sends the new content as a new version",
    )
    UNREADABLE = (
        "E205",
        "the file or folder cannot be read",
        "give the daemon's user read permission; each sweep tries again",
    )
    STILL_WRITTEN = (
        "E206",
        "a program still has the file open for writing",
        "wait until the copy ends, or close the program that holds it",
    )
    NOT_REGULAR = (
        "E207",
        "not a regular file (symbolic link, FIFO, socket or device)",
        "put the file itself into the folder; emitterd does not follow links",
    )
    CATALOGUE = (
        "E210",
        "the file does not match the dataset schema, and spool.catalogue is enforce",
        "correct what the findings say, and copy the file again under the same name",
    )
    NOT_DISPOSED = (
        "E211",
        "a file cannot be archived, deleted or moved to the rejected folder",
        "give the daemon's user write permission on both folders; each sweep retries",
    )
    WRONG_DEPTH = (
        "E220",
        "the file is not in a dataset folder of the watched folder",
        "move it to <dataset>/<name>.zip, one folder deep",
    )
    UNKNOWN_FOLDER = (
        "E221",
        "the server knows no dataset folder of this name",
        "correct the folder's name, or describe the dataset in spool.catalogue_file",
    )
    UNKNOWN_NAME = (
        "E222",
        "the server knows no file of this name in this folder",
        "rename the file: its name must begin with a name that the finding lists",
    )
    WRONG_ENDING = (
        "E223",
        "the name does not end in .zip, in lower case",
        "rename the file so that it ends in .zip",
    )
    OTHER_VERSION = (
        "E224",
        "the server's version does not read this dataset",
        "correct spool.cqube_version, or remove the file from the folder",
    )
    NO_FILE_IN_ZIP = (
        "E225",
        "the zip holds no file",
        "zip the CSV itself, and copy the zip again",
    )
    SEVERAL_FILES = (
        "E226",
        "the zip holds more than the one CSV",
        "zip the CSV alone; on a Mac: `zip -X name.zip name.csv` adds no __MACOSX",
    )
    ENCRYPTED = ("E227", "the zip is encrypted", "create the zip without a password")
    COMPRESSION = (
        "E228",
        "the zip is compressed in a way that the server cannot unpack",
        "create the zip with the usual method (deflate), not Deflate64, LZMA or bzip2",
    )
    DAMAGED = (
        "E229",
        "the zip's content is damaged",
        "create the zip again from the CSV",
    )
    NOT_UTF8 = (
        "E230",
        "the CSV is not UTF-8",
        "export it as UTF-8 (in Excel: CSV UTF-8)",
    )
    BYTE_ORDER_MARK = (
        "E231",
        "the CSV begins with a byte order mark",
        "export it as UTF-8 without BOM if the server does not know its first column",
    )
    WRONG_DELIMITER = (
        "E232",
        "the column separator is not the one that the server expects",
        "export with the delimiter that the finding names",
    )
    WRONG_HEADER = (
        "E233",
        "the header is not the header of the dataset",
        "correct the first line as the finding says",
    )
    NO_RECORDS = (
        "E234",
        "the CSV has no records",
        "export the data, not only its header",
    )
    LONG_LINE = (
        "E235",
        "a line is longer than the server reads (1 MB)",
        "look for a missing line break or a quote that is never closed",
    )
    UNEVEN_ROWS = (
        "E240",
        "rows have more or fewer columns than the header",
        "look at the line that the finding names: a delimiter or a quote in the data",
    )
    BAD_DATE = (
        "E241",
        "dates are not in the format that the server reads",
        "write them in the format that the finding names",
    )
    EMPTY_KEY = (
        "E242",
        "rows have no value in a column that identifies them",
        "fill the column that the finding names",
    )
    BAD_ACADEMIC_YEAR = (
        "E243",
        "academic years are not in the format that the server reads",
        "write them like 2020-21",
    )

    DNS = (
        "E301",
        "the server's name cannot be resolved",
        "check the host name in the configuration and this machine's DNS",
    )
    REFUSED = (
        "E302",
        "the connection is refused or unreachable",
        "check that the server is up and that the firewall lets this host out",
    )
    TLS = (
        "E303",
        "the TLS handshake fails",
        "check the certificate, this host's clock, emission.ca_file and client_cert",
    )
    CONNECT_TIMEOUT = (
        "E304",
        "no connection within emission.connect_timeout",
        "check the network and the firewall; raise the limit on a slow line",
    )
    CONNECTION_LOST = (
        "E305",
        "the connection broke before the whole body was sent",
        "nothing to do: emitterd sends it again from the start, under the same key",
    )
    TOO_SLOW = (
        "E306",
        "the transfer stalled or fell below emission.minimum_speed",
        "nothing to do if it happens once; lower the limit on a very slow line",
    )
    ANSWER_LOST = (
        "E307",
        "emitterd sent the whole file but received no answer",
        "nothing to do: emitterd uploads it again to the same object key",
    )
    PROXY = (
        "E308",
        "the proxy refuses the connection",
        "check emission.proxy, or HTTPS_PROXY and NO_PROXY of the service",
    )

    CREDENTIALS = (
        "E401",
        "the server refuses the user name and password",
        "correct emission.username or the password file (emitterd retries slowly)",
    )
    TOKEN_REFUSED = (
        "E402",
        "the server refuses the API key, or a token it has just issued",
        "check the API key and emission.token_scheme, and the server's clock",
    )
    FORBIDDEN = (
        "E403",
        "this user has no permission to upload",
        "ask the cQube administrator for the emission role",
    )
    NOT_AN_EMISSION_API = (
        "E404",
        "emission.url is not the address of an emission API",
        "check the path (it usually ends in /data); after cQube 1.7 use an API key",
    )
    REQUEST_REFUSED = (
        "E405",
        "the server refuses this file's name",
        "rename the file to plain letters, digits, _ and -, ending in .zip",
    )
    MALFORMED_ANSWER = (
        "E406",
        "the answer is not one of an emission API",
        "look for a captive portal or a wrong emission.url",
    )
    HOSTILE_GRANT = (
        "E407",
        "the grant names an address that emitterd does not send to",
        "tell the server's administrator: emitterd refuses the url of the grant",
    )
    API_TROUBLE = (
        "E408",
        "the emission API has an internal error",
        "nothing to do here; if it lasts, tell the server's administrator",
    )
    RATE_LIMITED = (
        "E409",
        "the server asks for fewer requests",
        "nothing to do: emitterd waits as long as the server asks",
    )

    BUCKET_TROUBLE = (
        "E501",
        "the bucket has an internal error",
        "nothing to do: emitterd retries and waits longer each time",
    )
    GRANT_EXPIRED = (
        "E502",
        "the grant expired before the upload began",
        "nothing to do: emitterd requests a new one",
    )
    GRANT_REFUSED = (
        "E503",
        "the bucket refuses the grant",
        "check the server's AWS keys and its clock",
    )
    NO_SUCH_BUCKET = (
        "E504",
        "the emission bucket does not exist",
        "tell the server's administrator",
    )
    BODY_REFUSED = (
        "E505",
        "the bucket refuses a body of this size or form",
        "check the file's size against the server's limit",
    )
    REDIRECT_REFUSED = (
        "E506",
        "the bucket redirects to an address that emitterd does not send to",
        "tell the server's administrator: only https to the same domain is followed",
    )
    ETAG_MISMATCH = (
        "E507",
        "the bucket stored different bytes from those that were sent",
        "emitterd sends it again; if it lasts, check for a proxy before the bucket",
    )
    NOT_A_BUCKET = (
        "E508",
        "the answer to the upload is not from a bucket",
        "look for a captive portal or a proxy that answers in place of the bucket",
    )
    CLOCK_SKEW = (
        "E509",
        "this host's or the server's clock is wrong",
        "run an NTP service on both",
    )
