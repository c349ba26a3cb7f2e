"""Where a secret comes from: a file, a variable, systemd's credentials, or inline.

No message made here quotes a secret, nor a name given in place of one: people do
write the password itself after `password_file:`.
"""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from emitterd.config.sources import Problems, ValueProblem, variable

# A lone surrogate is what Python makes of a byte that is not UTF-8.
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")
_LARGEST_BYTES = 64 * 1024
_TOKEN_MIN = 16


@dataclass(frozen=True, slots=True)
class SecretSource:
    """What the configuration gives for one secret.

    `key` is its key path, `credential` its name among systemd's credentials;
    `in_header` says that it travels in an HTTP header as it is.
    """

    key: str
    credential: str
    in_header: bool
    inline: str | None = field(repr=False)
    file: Path | None = field(repr=False)
    name: str | None = field(repr=False)

    def keys(self, findings: Problems) -> list[str]:
        """Return the key paths that give this secret."""
        every = (self.key, f"{self.key}_file", f"{self.key}_env")
        return [key for key in every if findings.given(key)]


class SecretReader:
    """Resolves what is offered, and reports what is wrong with it."""

    def __init__(
        self, findings: Problems, environ: Mapping[str, str], *, private: bool
    ) -> None:
        self._findings = findings
        self._environ = environ
        self._private = private

    def refuse_public(self, key: str) -> None:
        """Report a secret that stands in a file which others may read."""
        if self._findings.in_file(key) and not self._private:
            section, name = key.split(".")
            instead = variable(section, name)
            others = "" if name == "proxy" else f", or use {name}_file"
            self._findings.report(
                key,
                "holds a secret, and others may read this file",
                f"chmod 600 the configuration file{others}, or set {instead}",
            )

    def choose(
        self, username: str | None, password: SecretSource, api_key: SecretSource
    ) -> tuple[str | None, str | None]:
        """Return the password and the API key: one of them, or neither if reported."""
        findings = self._findings
        by_password = password.keys(findings)
        by_key = api_key.keys(findings)
        if findings.given("emission.username"):
            by_password.insert(0, "emission.username")
        if by_key and by_password:
            findings.report(
                by_key[0],
                f"is given besides {by_password[0]}",
                "keep one: user name and password, or an API key",
            )
            return None, None
        if by_key or (not by_password and self._credential(api_key)):
            return None, self._resolve(api_key)
        if by_password == [] and not self._credential(password):
            findings.report(
                "emission.username",
                "is missing, and so is an API key",
                "give username and password_file, or api_key_file",
            )
            return None, None
        if username is None and findings.sound("emission.username"):
            findings.report(
                "emission.username",
                "is missing beside the password",
                "give the user name that the password belongs to",
            )
        return self._resolve(password), None

    def _resolve(self, offer: SecretSource) -> str | None:
        keys = offer.keys(self._findings)
        if len(keys) > 1:
            message = f"is given besides {keys[0]}"
            self._findings.report(keys[1], message, "keep one of them")
            return None
        if not self._findings.sound(*keys):
            return None
        key = keys[0] if keys else offer.key
        try:
            return clean(self._read(offer), in_header=offer.in_header)
        except ValueProblem as error:
            self._findings.report(key, str(error), error.remedy)
            return None

    def _read(self, offer: SecretSource) -> str:
        if offer.inline is not None:
            self.refuse_public(offer.key)
            return offer.inline
        if offer.name is not None:
            return _from_variable(offer.name, self._environ)
        if offer.file is not None:
            return _from_file(offer.file, self._credentials())
        path = self._credential(offer)
        if path is None:
            raise ValueProblem(
                "is missing", f"give {offer.key}_file, the path of a file that holds it"
            )
        return _from_file(path, path.parent)

    def _credentials(self) -> Path | None:
        directory = self._environ.get("CREDENTIALS_DIRECTORY")
        return Path(directory) if directory else None

    def _credential(self, offer: SecretSource) -> Path | None:
        directory = self._credentials()
        path = directory / offer.credential if directory else None
        return path if path and _given(path) else None


def _given(credential: Path) -> bool:
    """Tell whether systemd passed it: a lone line end is the unit's word for none."""
    try:
        return credential.lstat().st_size > 1
    except OSError:
        return False


def _from_variable(name: str, environ: Mapping[str, str]) -> str:
    if name not in environ:
        raise ValueProblem(
            "names a variable that is not set",
            "set it for the service, or use the key that ends in _file",
        )
    return environ[name]


def _from_file(path: Path, credentials: Path | None) -> str:
    """Read a secret file; raises `ValueProblem`.

    systemd guards its credentials itself.
    """
    try:
        # Not to hang on a FIFO that nobody writes.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            mode = os.fstat(descriptor).st_mode
            content = (
                os.read(descriptor, _LARGEST_BYTES) if stat.S_ISREG(mode) else None
            )
        finally:
            os.close(descriptor)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or "not a path"
        raise ValueProblem(
            f"cannot be read: {reason}",
            "create the file, or correct the path; a relative one starts at the folder"
            " of the configuration file",
        ) from None
    if content is None:
        raise ValueProblem(
            "is not a regular file", "name the file that holds the secret"
        )
    if mode & stat.S_IROTH and path.parent != credentials:
        raise ValueProblem("names a file that everybody may read", f"chmod 600 {path}")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueProblem("is not UTF-8 text", "write the secret as UTF-8") from None


def read_secret(path: Path) -> str:
    """Return the secret in a file; raises `ValueProblem` where there is none."""
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
    """Strip the line end an editor leaves; raises `ValueProblem` on what is no secret.

    `in_header` says that it travels in an HTTP header as it is.
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


# A text that nothing shows unless it is asked to.


class Secret:
    """A password, a key, or a URL with one in it; masked in every repr and format."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return it, for the one place that sends it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret('********')"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)
