"""What the tests of the pages in Hindi share: which texts are English."""

import re

NAMES = re.compile(
    r"emitterd(?: [a-z][a-z-]*(?: --?[a-z]+)*(?: (?:rejected|deferred|PATH|FILE))?)?"
    r"|systemctl [a-z-]+(?: '?emitterd\*?'?)?|journalctl -u emitterd -p err"
    r"|[a-z_]+\.[a-z_.]+|[\w./-]*/[\w./*-]*|\{\w+\}|E\d{3}|[KMG]?i?B|CSV|JSON|zip|Zip|UTC|ETag|MD5|SHA-256|UTF-8"
    r"|English|[ap]m|Excel|BOM|UTF-16|API|key|AWS|NTP|https?|URL|DNS|TLS|cQube|client_cert|NO_PROXY"
    r"|HTTPS_PROXY|LimitNOFILE|FIFO|traceback|emission|deflate|Mac|reason|enforce|lease|datasets?|pat,"
)
"""Names, codes and commands, which stay as they are."""


def has_english(text: str) -> bool:
    """Return whether a text has an English word that is no name."""
    return re.search("[A-Za-z]{2,}", NAMES.sub(" ", text)) is not None
