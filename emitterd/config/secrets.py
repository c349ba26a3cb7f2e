"""Secrets: where they come from, and how they are kept out of every text.

A secret is in a file, in a variable, in systemd's credentials, or in the configuration
itself. No message quotes a secret, nor the name given for one: people do write the
password itself after `password_file:`.
"""

import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from emitterd.config.sources import Problems
from emitterd.config.sources import variable as variable_of
from emitterd.errors import ValueProblem
from emitterd.yaml_reader import read_text

# Python decodes a byte that is not UTF-8 to a lone surrogate.
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LARGEST_BYTES = 64 * 1024
_TOKEN_MIN = 16


class Secret:
    """A password, a key, or a URL that holds one; masked in every repr and format."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one place that sends it."""
        return self._text

    def __str__(self) -> str:
        return "********"

    def __repr__(self) -> str:
        return "Secret('********')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


@dataclass(frozen=True, slots=True)
class SecretSource:
    """The ways in which the configuration gives one secret.

    `key` is its key path, `credential` its name among systemd's credentials.
    `in_header`: the secret is sent in an HTTP header, so it must be ASCII.
    """

    key: str
    credential: str
    in_header: bool
    inline: Secret | None
    file: Path | None = field(repr=False)
    variable: str | None = field(repr=False)

    def keys(self, problems: Problems) -> list[str]:
        """Return the key paths that give this secret."""
        every = (self.key, f"{self.key}_file", f"{self.key}_env")
        return [key for key in every if problems.given(key)]


class SecretReader:
    """Reads the secrets of a configuration, and reports what is wrong with them.

    `private`: only the owner may read the configuration file.
    """

    def __init__(
        self, problems: Problems, environ: Mapping[str, str], *, private: bool
    ) -> None:
        self._problems = problems
        self._environ = environ
        self._private = private
        credentials = environ.get("CREDENTIALS_DIRECTORY")
        self._credentials = Path(credentials) if credentials else None

    def refuse_public(self, key: str) -> None:
        """Report a secret that is in a configuration file that others may read."""
        if self._problems.in_file(key) and not self._private:
            section, name = key.split(".")
            others = "" if name == "proxy" else f", or use {name}_file"
            self._problems.report(
                key,
                "holds a secret, and others may read this file",
                f"chmod 600 the configuration file{others}, or set"
                f" {variable_of(section, name)}",
            )

    def choose(
        self, username: str | None, password: SecretSource, api_key: SecretSource
    ) -> tuple[str | None, str | None]:
        """Return the password or the API key; two None if a problem is reported."""
        problems = self._problems
        by_password = password.keys(problems)
        by_key = api_key.keys(problems)
        if problems.given("emission.username"):
            by_password.insert(0, "emission.username")
        if by_key and by_password:
            problems.report(
                by_key[0],
                f"is given besides {by_password[0]}",
                "keep one: user name and password, or an API key",
            )
            return None, None
        if by_key or (not by_password and self._credential(api_key)):
            return None, self._resolve(api_key)
        if not by_password and not self._credential(password):
            problems.report(
                "emission.username",
                "is missing, and so is an API key",
                "give username and password_file, or api_key_file",
            )
            return None, None
        if username is None and problems.sound("emission.username"):
            problems.report(
                "emission.username",
                "is missing beside the password",
                "give the user name that the password belongs to",
            )
        return self._resolve(password), None

    def _resolve(self, source: SecretSource) -> str | None:
        keys = source.keys(self._problems)
        if len(keys) > 1:
            message = f"is given besides {keys[0]}"
            self._problems.report(keys[1], message, "keep one of them")
        elif self._problems.sound(*keys):
            try:
                return clean(self._read(source), in_header=source.in_header)
            except ValueProblem as error:
                key = keys[0] if keys else source.key
                self._problems.report(key, str(error), error.remedy)
        return None

    def _read(self, source: SecretSource) -> str:
        if source.inline is not None:
            self.refuse_public(source.key)
            return source.inline.reveal()
        if source.variable is not None:
            if source.variable not in self._environ:
                raise ValueProblem(
                    "names a variable that is not set",
                    "set it for the service, or use the key that ends in _file",
                )
            return self._environ[source.variable]
        path = source.file or self._credential(source)
        if path is None:
            remedy = f"give {source.key}_file, the path of a file that holds it"
            raise ValueProblem("is missing", remedy)
        return _from_file(path, self._credentials)

    def _credential(self, source: SecretSource) -> Path | None:
        """Return the path of systemd's credential, if it passes one.

        The unit passes a single line end if the file of a secret does not exist.
        """
        try:
            path = self._credentials and self._credentials / source.credential
            return path if path and path.lstat().st_size > 1 else None
        except OSError:
            return None


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
        raise ValueProblem(
            "holds more than ASCII", "put the API key there as it was issued"
        )
    return secret


def _from_file(path: Path, credentials: Path | None) -> str:
    text, mode = read_text(path, "the file that holds the secret", _LARGEST_BYTES)
    # systemd protects the files in its folder of credentials itself.
    if mode & stat.S_IROTH and path.parent != credentials:
        raise ValueProblem("names a file that everybody may read", f"chmod 600 {path}")
    return text
