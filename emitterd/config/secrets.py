"""Secrets: where they come from, and how they are kept out of every text.

A secret is in a file, in a variable, in systemd's credentials, or in the configuration itself. No
message quotes a secret, nor the name given for one: people do write the password itself after
`password_file:`.
"""

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from emitterd.config.sources import Problems, variable
from emitterd.errors import ValueProblem
from emitterd.text import MASK
from emitterd.yaml_reader import read_text

if TYPE_CHECKING:
    from emitterd.config.settings import EmissionSettings, JournalSettings

# Python decodes a byte that is not UTF-8 to a lone surrogate.
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LARGEST_BYTES = 64 * 1024
_TOKEN_MIN = 16
_URLS_MAX = 10
"""Each URL may be sent to at once, by a process of some 45 MiB; the unit allows 1 GiB."""

_URL_PASSWORD = re.compile(r"(//[^/?#@:]*:)[^/?#@]+@")
_QUERY_PASSWORD = re.compile(r"(?i)([?&](?:ssl)?password=)[^&]+")
"""The parameters of libpq that are secrets."""
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]{0,31}(?=://)")


class Secret:
    """A password, a key, or a URL that holds one; masked in every repr and format."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one place that sends it."""
        return self._text

    def __str__(self) -> str:
        return MASK

    def __repr__(self) -> str:
        return f"Secret('{MASK}')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


class DatabaseUrl(Secret):
    """The URL of a PostgreSQL database. Every text shows it without the password in it."""

    __slots__ = ()

    @property
    def has_password(self) -> bool:
        """Whether the URL holds a password."""
        return str(self) != self._text

    def __str__(self) -> str:
        text = _URL_PASSWORD.sub(rf"\1{MASK}@", self._text)
        return _QUERY_PASSWORD.sub(rf"\1{MASK}", text)

    def __repr__(self) -> str:
        return f"DatabaseUrl({str(self)!r})"


@dataclass(frozen=True, slots=True)
class NotifyUrl:
    """A URL of `alerts.notify_file`, on this line of it."""

    line: int
    scheme: str
    url: Secret

    @property
    def name(self) -> str:
        """How messages name it, because the URL is a secret."""
        return f"{self.scheme} (line {self.line})"


@dataclass(frozen=True, slots=True)
class SecretReader:
    """Reads the secrets of a configuration, and reports what is wrong with them.

    `private`: only the owner may read the configuration file.
    """

    emission: "EmissionSettings"
    journal: "JournalSettings"
    problems: Problems
    environ: Mapping[str, str]
    private: bool

    def read(self) -> tuple[Secret | None, Secret | None]:
        """Return the password or the API key; two None if a problem is reported."""
        emission, problems = self.emission, self.problems
        self._check_urls()
        by_password, by_key = self._keys("password"), self._keys("api_key")
        if problems.given("emission.username"):
            by_password.insert(0, "emission.username")
        if emission.takes_programs:
            return None, self._optional_token(by_password, by_key)
        if by_key and by_password:
            problems.report(
                by_key[0],
                f"is given besides {by_password[0]}",
                "keep one: user name and password, or an API key",
            )
            return None, None
        if by_key or (not by_password and self._credential("api_key")):
            return None, self._resolve("api_key")
        if not by_password and not self._credential("password"):
            problems.report(
                "emission.username",
                "is missing, and so is an API key",
                "give username and password_file, or api_key_file",
            )
            return None, None
        if emission.username is None and problems.valid("emission.username"):
            problems.report(
                "emission.username",
                "is missing beside the password",
                "give the user name that the password belongs to",
            )
        return self._resolve("password"), None

    def _check_urls(self) -> None:
        proxy, database = self.emission.proxy, self.journal.url
        if proxy and "@" in proxy.reveal():
            self._refuse_public("emission.proxy")
        if database and database.has_password:
            self._refuse_public("journal.url")

    def _optional_token(self, by_password: list[str], by_key: list[str]) -> Secret | None:
        """Return the token for a gateway in front of cQube 5, which itself needs no secret."""
        for key in by_password:
            self.problems.report(
                key,
                "is given, and cQube 5 has no users",
                "remove it; if a gateway asks for a token, give api_key_file",
            )
        scheme = "emission.token_scheme"
        if self.problems.valid(scheme) and self.emission.token_scheme != "Bearer":  # noqa: S105
            self.problems.report(scheme, "must be Bearer for cQube 5", "remove it")
        return self._resolve("api_key") if by_key or self._credential("api_key") else None

    def _keys(self, name: str) -> list[str]:
        keys = (f"emission.{name}{ending}" for ending in ("", "_file", "_env"))
        return list(filter(self.problems.given, keys))

    def _resolve(self, name: str) -> Secret | None:
        keys = self._keys(name)
        if len(keys) > 1:
            message = f"is given besides {keys[0]}"
            self.problems.report(keys[1], message, "keep one of them")
        elif self.problems.valid(*keys):
            key = keys[0] if keys else f"emission.{name}"
            return self.problems.check(key, self._read, name)
        return None

    def _read(self, name: str) -> Secret:
        inline: Secret | None = getattr(self.emission, name)
        file: Path | None = getattr(self.emission, f"{name}_file")
        from_variable: str | None = getattr(self.emission, f"{name}_env")
        path = file or self._credential(name)
        if inline is not None:
            self._refuse_public(f"emission.{name}")
            text = inline.reveal()
        elif from_variable is not None:
            if from_variable not in self.environ:
                raise ValueProblem(
                    "names a variable that is not set",
                    "set it for the service, or use the key that ends in _file",
                )
            text = self.environ[from_variable]
        elif path is not None:
            command = f"emitterd set-{name.replace('_', '-')}"
            try:
                text = _from_file(path, self.environ.get("CREDENTIALS_DIRECTORY"))
            except ValueProblem as error:
                if isinstance(error.__context__, FileNotFoundError):
                    raise ValueProblem(str(error), f"store it with: {command}") from None
                raise
            if file and not text.strip():
                raise ValueProblem("holds an empty secret", f"store it with: {command}")
        else:
            remedy = f"give emission.{name}_file, the path of a file that holds it"
            raise ValueProblem("is missing", remedy)
        return Secret(clean(text, in_header=name == "api_key"))

    def _credential(self, name: str) -> Path | None:
        return _credential(name.replace("_", "-"), self.environ)

    def _refuse_public(self, key: str) -> None:
        """Report a secret that is in a configuration file that others may read."""
        if self.problems.in_file(key) and not self.private:
            section, name = key.split(".")
            files = {"proxy": "", "url": ", or use password_file"}
            others = files.get(name, f", or use {name}_file")
            self.problems.report(
                key,
                "holds a secret, and others may read this file",
                f"chmod 600 the configuration file{others}, or set {variable(section, name)}",
            )


def read_notify_urls(path: Path | None, environ: Mapping[str, str]) -> tuple[NotifyUrl, ...]:
    """Return the URLs of `alerts.notify_file`, or of systemd's credential `notify`.

    Blank lines and those that begin with # are ignored. Raises `ValueProblem` for the others.
    """
    file = path or _credential("notify", environ)
    if file is None:
        return ()
    urls, wrong = [], []
    lines = _from_file(file, environ.get("CREDENTIALS_DIRECTORY")).splitlines()
    for number, line in enumerate(lines, 1):
        url = line.strip()
        if not url or url.startswith("#"):
            continue
        scheme = _SCHEME.match(url)
        if scheme is None or _UNFIT.search(url):
            wrong.append(str(number))
        else:
            urls.append(NotifyUrl(number, scheme[0].lower(), Secret(url)))
    if wrong:
        raise ValueProblem(
            f"names a file that holds no URL on line {', '.join(wrong)}",
            "write one Apprise URL a line, such as mailto://…; a comment begins with #",
        )
    if not urls:
        raise ValueProblem("names a file without a URL", "write one there, or remove notify_file")
    if len(urls) > _URLS_MAX:
        raise ValueProblem(
            f"names a file with more than {_URLS_MAX} URLs",
            "name several receivers in one URL, as its service allows",
        )
    return tuple(urls)


def read_secret(path: Path) -> str:
    """Return the secret in a file; raises `ValueProblem` if there is none."""
    return clean(_from_file(path, None), in_header=False)


def read_token(path: Path) -> str:
    """Return the token in a file; raises `ValueProblem` if it is missing or weak."""
    token = clean(_from_file(path, None), in_header=True)
    if len(token) < _TOKEN_MIN:
        raise ValueProblem(
            f"holds a token of less than {_TOKEN_MIN} characters, which can be guessed",
            f"make one with: openssl rand -hex 32 > {path}",
        )
    return token


def clean(text: str, *, in_header: bool) -> str:
    """Return a secret without the line end that an editor adds.

    `in_header`: it must be ASCII. Raises `ValueProblem` if it cannot be a secret.
    """
    secret = text.rstrip("\r\n")
    if not secret.strip():
        raise ValueProblem("holds an empty secret", "put the secret there, on one line")
    if _UNFIT.search(secret):
        raise ValueProblem(
            "holds a line break, a control character, or broken UTF-8",
            "put nothing but the secret there, on one line",
        )
    if in_header and not secret.isascii():
        raise ValueProblem("holds more than ASCII", "put the API key there as it was issued")
    return secret


def _credential(name: str, environ: Mapping[str, str]) -> Path | None:
    """Return the path of systemd's credential, if it passes one.

    The unit passes a single line end if the file of a secret does not exist.
    """
    folder = environ.get("CREDENTIALS_DIRECTORY")
    if not folder:
        return None
    path = Path(folder, name)
    try:
        return path if path.lstat().st_size > 1 else None
    except OSError:
        return None


def _from_file(path: Path, credentials: str | None) -> str:
    text, mode = read_text(path, "the file that holds the secret", _LARGEST_BYTES)
    # systemd protects the files in its folder of credentials itself.
    if mode & stat.S_IROTH and not (credentials and path.parent == Path(credentials)):
        raise ValueProblem("names a file that everybody may read", f"chmod 600 {path}")
    return text
