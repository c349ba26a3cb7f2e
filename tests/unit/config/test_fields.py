"""Each kind of value by itself."""

from pathlib import Path

import pytest

from emitterd.config.fields import emission_url, http_token, path, proxy, value_for_people
from emitterd.errors import ValueProblem

SECRET = "correct-horse-battery"


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "is not a plain URL"),
        ("cqube.example.org/data", "is not a plain URL"),
        ("cqube.example.org:80/data", "is not a plain URL"),
        ("ftp://cqube.example.org", "must begin with https://"),
        ("https://", "is not a plain URL"),
        ("https://:443/data", "is not a plain URL"),
        ("https://host:port/", "is not a plain URL"),
        ("https://[::1/data", "is not a plain URL"),
        (f"https://u:{SECRET}@host/data", "must not carry a user name"),
        (f"https://{SECRET}@host/data", "must not carry a user name"),
        (f"https://host/data?key={SECRET}", "is not a plain URL"),
        ("https://host/data#", "is not a plain URL"),
        ("https://host/da ta", "is not a plain URL"),
        ("https://host/\n", "is not a plain URL"),
        ("https://h\xf6st/", "is not a plain URL"),
        ("https://[fe80::1%25eth0]/data", "has an IPv6 zone"),
        ("https://[fe80::1%eth0]/data", "has an IPv6 zone"),
        ("https://ho%73t/data", "has an IPv6 zone"),
    ],
)
def test_a_wrong_url_is_refused_without_quoting_it(url: str, message: str) -> None:
    """The URL needs a scheme and a host, and must not have a secret or a query."""
    with pytest.raises(ValueProblem) as caught:
        emission_url(url)
    assert message in str(caught.value)
    assert SECRET not in str(caught.value) + caught.value.remedy


@pytest.mark.parametrize(
    ("url", "normalised"),
    [
        ("https://host", "https://host"),
        ("HTTPS://host:8443/data//", "https://host:8443/data"),
        ("http://[::1]:80/", "http://[::1]:80"),
    ],
)
def test_a_url_is_normalised(url: str, normalised: str) -> None:
    """Slashes at the end are removed, and the scheme becomes lower-case."""
    assert emission_url(url) == normalised


@pytest.mark.parametrize(
    "url", ["https://proxy", "proxy:3128", "http://proxy/path", "http://[fe80::1%25eth0]:3128"]
)
def test_a_proxy_is_a_plain_http_url(url: str) -> None:
    """Another scheme, none, or a path is refused."""
    with pytest.raises(ValueProblem):
        proxy(url)


def test_a_proxy_keeps_its_user_and_password() -> None:
    """The whole URL is a secret."""
    assert proxy("http://u:p@proxy:3128/").reveal() == "http://u:p@proxy:3128"


@pytest.mark.parametrize("text", ["", "a\0b", "\ud800"])
def test_a_text_that_cannot_be_a_path_is_refused(text: str) -> None:
    """Empty text, NUL and lone surrogates never reach the file system."""
    with pytest.raises(ValueProblem):
        path(text)


@pytest.mark.parametrize("word", ["", "two words", "Bearer:", "J\nT"])
def test_a_token_scheme_is_one_word(word: str) -> None:
    """A word that an HTTP header cannot hold before a token is refused."""
    with pytest.raises(ValueProblem):
        http_token(word)


def test_no_value_can_forge_a_line() -> None:
    """Control characters are escaped when a value is shown."""
    assert value_for_people("directory", Path("/a\nb")) == "/a\\nb"
