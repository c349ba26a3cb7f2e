"""The stable error codes, by name; `meanings` says what each means and what to do.

The same code stands in the log, the journal, `status`, and `docs/errors.md`.
First digit: 1 this installation, 2 the file, 3 the line, 4 the emission API,
5 the bucket. E220 to E249 are findings of the inspection: what the server would
object to in a file that is whole.
"""

from dataclasses import dataclass
from enum import StrEnum


class Code(StrEnum):
    """A stable error code. First digit: where; `meanings` says what and the remedy."""

    CONFIG = "E101"
    JOURNAL = "E102"
    JOURNAL_LOCKED = "E103"
    JOURNAL_FULL = "E104"
    ROOT_LOST = "E105"
    INTERNAL = "E106"
    RECEIPT_LOST = "E107"

    INCOMPLETE = "E201"
    TOO_LARGE = "E202"
    GONE = "E203"
    CHANGED = "E204"
    UNREADABLE = "E205"
    STILL_WRITTEN = "E206"
    NOT_REGULAR = "E207"
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
    COMPRESSION = "E228"
    DAMAGED = "E229"
    NOT_UTF8 = "E230"
    BYTE_ORDER_MARK = "E231"
    WRONG_DELIMITER = "E232"
    WRONG_HEADER = "E233"
    NO_RECORDS = "E234"
    LONG_LINE = "E235"
    NO_MANIFEST = "E236"
    UNEVEN_ROWS = "E240"
    BAD_DATE = "E241"
    EMPTY_KEY = "E242"
    BAD_ACADEMIC_YEAR = "E243"

    DNS = "E301"
    REFUSED = "E302"
    TLS = "E303"
    CONNECT_TIMEOUT = "E304"
    CONNECTION_LOST = "E305"
    TOO_SLOW = "E306"
    ANSWER_LOST = "E307"
    PROXY = "E308"

    CREDENTIALS = "E401"
    TOKEN_REFUSED = "E402"  # noqa: S105  a code, not a token
    FORBIDDEN = "E403"
    NOT_AN_EMISSION_API = "E404"
    REQUEST_REFUSED = "E405"
    MALFORMED_ANSWER = "E406"
    HOSTILE_GRANT = "E407"
    API_TROUBLE = "E408"
    RATE_LIMITED = "E409"

    BUCKET_TROUBLE = "E501"
    GRANT_EXPIRED = "E502"
    GRANT_REFUSED = "E503"
    NO_SUCH_BUCKET = "E504"
    BODY_REFUSED = "E505"
    REDIRECT_REFUSED = "E506"
    ETAG_MISMATCH = "E507"
    NOT_A_BUCKET = "E508"
    CLOCK_SKEW = "E509"


# What each error code means, and what to do about it: the playbook.


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code says, and what the operator should do about it."""

    title: str
    remedy: str


MEANING: dict[Code, Meaning] = {
    Code.CONFIG: Meaning(
        "the configuration is wrong",
        "mend the lines named, then run `emitterd check`",
    ),
    Code.JOURNAL: Meaning(
        "the journal cannot be used",
        "see the reason; nothing was changed and nothing was sent",
    ),
    Code.JOURNAL_LOCKED: Meaning(
        "another emitterd holds the journal",
        "stop the other instance, or give this one a journal.path of its own",
    ),
    Code.JOURNAL_FULL: Meaning(
        "the journal's disk is full",
        "free space on the file system of journal.path; the daemon goes on by itself",
    ),
    Code.ROOT_LOST: Meaning(
        "the watched folder is gone",
        "mount or create spool.directory again; the queue is kept",
    ),
    Code.INTERNAL: Meaning(
        "a bug in emitterd",
        "keep the log line with its traceback and report it; the file is tried again",
    ),
    Code.RECEIPT_LOST: Meaning(
        "the journal was rebuilt, and a receipt of the file may be lost",
        "ask who runs the server whether it has the file; `emitterd release` sends it",
    ),
    Code.INCOMPLETE: Meaning(
        "the file does not end as a zip must",
        "it was cut off or is no zip: copy it again, under the same name",
    ),
    Code.TOO_LARGE: Meaning(
        "the file is larger than one upload can be (5 GiB)",
        "split the data into several zips",
    ),
    Code.GONE: Meaning(
        "the file went away before it was sent",
        "drop it again if it was meant to be sent",
    ),
    Code.CHANGED: Meaning(
        "the file changed before it was sent whole",
        "nothing to do: the new content is sent as a version of its own",
    ),
    Code.UNREADABLE: Meaning(
        "the file or folder cannot be read",
        "give the daemon's user read permission; it is tried again at each sweep",
    ),
    Code.STILL_WRITTEN: Meaning(
        "a program still has the file open for writing",
        "wait until the copy ends, or close the program that holds it",
    ),
    Code.NOT_REGULAR: Meaning(
        "not a regular file (symbolic link, FIFO, socket or device)",
        "put the file itself into the folder; links are not followed",
    ),
    Code.CATALOGUE: Meaning(
        "the file breaks the data contract, and spool.catalogue is enforce",
        "mend what the findings say, and drop the file again under the same name",
    ),
    Code.NOT_DISPOSED: Meaning(
        "a file cannot be archived, deleted or put aside",
        "give the daemon's user write permission on its folder and on the place it goes"
        " to; each sweep tries again",
    ),
    Code.WRONG_DEPTH: Meaning(
        "the file does not lie in a dataset folder of the watched folder",
        "move it to <dataset>/<name>.zip, one folder deep",
    ),
    Code.UNKNOWN_FOLDER: Meaning(
        "the server knows no dataset folder of this name",
        "move the file to the dataset's folder, or describe a dataset that the"
        " administrator added in spool.catalogue_file",
    ),
    Code.UNKNOWN_NAME: Meaning(
        "the server knows no file of this name in this folder",
        "rename the file: its name must begin with a name that the finding lists",
    ),
    Code.WRONG_ENDING: Meaning(
        "the name does not end in .zip, in lower case",
        "rename the file so that it ends in .zip",
    ),
    Code.OTHER_VERSION: Meaning(
        "the server's version does not read this dataset",
        "correct spool.cqube_version, or keep the file back",
    ),
    Code.NO_FILE_IN_ZIP: Meaning(
        "the zip holds no file",
        "zip the CSV itself, and drop it again",
    ),
    Code.SEVERAL_FILES: Meaning(
        "the zip holds more than the one CSV",
        "zip the CSV alone; on a Mac with `zip -X name.zip name.csv`, which adds"
        " no __MACOSX",
    ),
    Code.ENCRYPTED: Meaning(
        "the zip is encrypted",
        "make it without a password",
    ),
    Code.COMPRESSION: Meaning(
        "the zip is compressed in a way that the server cannot unpack",
        "make it with the ordinary method (deflate), not Deflate64, LZMA or bzip2",
    ),
    Code.DAMAGED: Meaning(
        "the zip's content is damaged",
        "make the zip anew from the CSV",
    ),
    Code.NOT_UTF8: Meaning(
        "the CSV is not UTF-8",
        "export it as UTF-8 (in Excel: CSV UTF-8)",
    ),
    Code.BYTE_ORDER_MARK: Meaning(
        "the CSV begins with a byte order mark",
        "export it as UTF-8 without BOM if the server does not know its first column",
    ),
    Code.WRONG_DELIMITER: Meaning(
        "the columns are separated by another character than the server expects",
        "export with the delimiter that the finding names",
    ),
    Code.WRONG_HEADER: Meaning(
        "the header is not that of the dataset",
        "correct the first line as the finding says",
    ),
    Code.NO_RECORDS: Meaning(
        "the CSV has no records",
        "export the data, not only its header",
    ),
    Code.LONG_LINE: Meaning(
        "a line is longer than the server reads (1 MB)",
        "look for a missing line break or a quote that is never closed",
    ),
    Code.NO_MANIFEST: Meaning(
        "the zip lacks the manifest that cQube 1.1 and 1.2 wait for",
        "add manifest_datasource_<name>.csv, or correct spool.cqube_version",
    ),
    Code.UNEVEN_ROWS: Meaning(
        "rows have more or fewer columns than the header",
        "look at the line that the finding names: a delimiter or a quote in the data",
    ),
    Code.BAD_DATE: Meaning(
        "dates are not written as the server reads them",
        "write them in the form that the finding names",
    ),
    Code.EMPTY_KEY: Meaning(
        "rows lack a value that the server identifies them by",
        "fill the column that the finding names",
    ),
    Code.BAD_ACADEMIC_YEAR: Meaning(
        "academic years are not written as the server reads them",
        "write them like 2020-21",
    ),
    Code.DNS: Meaning(
        "the server's name cannot be resolved",
        "check the host name in the configuration and this machine's DNS",
    ),
    Code.REFUSED: Meaning(
        "the connection is refused or unreachable",
        "check that the server is up and that the firewall lets this host out",
    ),
    Code.TLS: Meaning(
        "the TLS handshake fails",
        "check the server's certificate, this host's clock, emission.ca_file and"
        " client_cert",
    ),
    Code.CONNECT_TIMEOUT: Meaning(
        "no connection within emission.connect_timeout",
        "check the line and the firewall; raise the limit on a slow line",
    ),
    Code.CONNECTION_LOST: Meaning(
        "the connection broke before the whole body was sent",
        "nothing to do: it is sent again from the start, under the same key",
    ),
    Code.TOO_SLOW: Meaning(
        "the transfer stalled or fell below emission.minimum_speed",
        "nothing to do if it passes; lower the limit on a very thin line",
    ),
    Code.ANSWER_LOST: Meaning(
        "the whole body was sent, but the answer was lost",
        "nothing to do: it is sent again under the same key, which overwrites",
    ),
    Code.PROXY: Meaning(
        "the proxy refuses the connection",
        "check emission.proxy, or HTTPS_PROXY and NO_PROXY of the service",
    ),
    Code.CREDENTIALS: Meaning(
        "the server refuses the user name and password",
        "correct emission.username or the password file; probing is slow meanwhile,"
        " because the server locks accounts after five failures",
    ),
    Code.TOKEN_REFUSED: Meaning(
        "the server refuses the API key, or a token it has just issued",
        "check the API key and emission.token_scheme, and the server's clock",
    ),
    Code.FORBIDDEN: Meaning(
        "this user may not emit",
        "ask the cQube administrator for the emission role",
    ),
    Code.NOT_AN_EMISSION_API: Meaning(
        "emission.url does not lead to an emission API",
        "check the path (it usually ends in /data); after cQube 1.7 use an API key",
    ),
    Code.REQUEST_REFUSED: Meaning(
        "the server refuses this file's name",
        "rename the file to plain letters, digits, _ and -, ending in .zip",
    ),
    Code.MALFORMED_ANSWER: Meaning(
        "the answer is not what an emission API says",
        "look for a captive portal or a wrong emission.url",
    ),
    Code.HOSTILE_GRANT: Meaning(
        "the grant names a place that nothing is sent to",
        "tell the server's administrator: the grant's url is refused",
    ),
    Code.API_TROUBLE: Meaning(
        "the emission API has trouble of its own",
        "nothing to do here; if it lasts, tell the server's administrator",
    ),
    Code.RATE_LIMITED: Meaning(
        "the server asks for fewer requests",
        "nothing to do: the wait it asks for is kept",
    ),
    Code.BUCKET_TROUBLE: Meaning(
        "the bucket has trouble of its own",
        "nothing to do: it is tried again with growing waits",
    ),
    Code.GRANT_EXPIRED: Meaning(
        "the grant expired before the upload began",
        "nothing to do: a new one is asked",
    ),
    Code.GRANT_REFUSED: Meaning(
        "the bucket refuses the grant",
        "check the server's AWS keys and its clock",
    ),
    Code.NO_SUCH_BUCKET: Meaning(
        "the emission bucket does not exist",
        "tell the server's administrator",
    ),
    Code.BODY_REFUSED: Meaning(
        "the bucket refuses a body of this size or form",
        "check the file's size against the server's limit",
    ),
    Code.REDIRECT_REFUSED: Meaning(
        "the bucket redirects to a place that nothing is sent to",
        "tell the server's administrator: only https of the same domain is followed",
    ),
    Code.ETAG_MISMATCH: Meaning(
        "the bucket stored other bytes than were sent",
        "it is sent again; if it lasts, suspect a proxy between here and the bucket",
    ),
    Code.NOT_A_BUCKET: Meaning(
        "the answer to the upload is not a bucket's",
        "look for a captive portal or a proxy that answers for the bucket",
    ),
    Code.CLOCK_SKEW: Meaning(
        "this host's or the server's clock is wrong",
        "run an NTP service on both",
    ),
}
