"""The guide's nginx and Caddy in front of the page: an operator logs in and acts through them."""

import os
import re
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from emitterd.journal.journal import Journal
from emitterd.model import State
from emitterd.web.access.sessions import Address
from support.client import make_identity
from support.page import Desk
from support.paths import ROOT
from support.ports import free_port, listens
from support.serving import DEADLINE_S
from support.visitors import ServedPage, Visitor, make_user, serve_page, write_users
from support.waiting import wait_until
from tools.roff import sections

HOST = "emitterd.office.example"
FILE = "pat/marks.zip"
TEMPORARY = "".join(
    f"{name}_temp_path temporary; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


def of_guide(fence: str, replaced: dict[str, str]) -> str:
    """Return the first block of the guide with this fence; its parts are replaced for a test."""
    guide = (ROOT / "docs" / "operators.md").read_text("utf-8")
    part = sections(guide)["For an office: a web server with TLS"]
    block = re.search(rf"^ *```{fence}\n(.*?)```", part, re.DOTALL | re.MULTILINE)
    assert block is not None
    text = block[1]
    for former, now in replaced.items():
        assert former in text
        text = text.replace(former, now)
    return text


def nginx_configuration(folder: Path, port: int, page_port: int) -> str:
    """Return the server of the guide, with the ports and the files of this test."""
    replaced = {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/emitterd.pem": str(folder / "proxy.crt"),
        "/etc/ssl/private/emitterd.key": str(folder / "proxy.key"),
        "allow 10.0.0.0/8": "allow 127.0.0.1",
        "127.0.0.1:9464": f"127.0.0.1:{page_port}",
        # As the guide says for another port than 443.
        "Host $host": "Host $host:$server_port",
    }
    return (
        "pid nginx.pid; error_log error.log; events {}\n"
        f"http {{ access_log off; {TEMPORARY}\n{of_guide('nginx', replaced)} }}\n"
    )


def caddy_configuration(folder: Path, port: int, page_port: int) -> str:
    """Return the Caddyfile of the guide, with the ports and a certificate of this test."""
    certificate = f"tls {folder / 'proxy.crt'} {folder / 'proxy.key'}\n bind 127.0.0.1"
    replaced = {
        f"{HOST} {{": f"https://{HOST}:{port} {{",
        "# Without a name in the public DNS: tls internal": certificate,
        "127.0.0.1:9464": f"127.0.0.1:{page_port}",
    }
    return "{\n admin off\n auto_https disable_redirects\n}\n" + of_guide("caddy", replaced)


@contextmanager
def nginx(folder: Path, text: str, port: int) -> Iterator[None]:
    """Run nginx until the end of the block."""
    folder.joinpath("nginx.conf").write_text(text)
    command = ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"]
    settings = ["-g", "daemon off; master_process off;"]
    with running([*command, *settings], folder, port):
        yield


@contextmanager
def caddy(folder: Path, text: str, port: int) -> Iterator[None]:
    """Run Caddy until the end of the block."""
    folder.joinpath("Caddyfile").write_text(text)
    command = ["caddy", "run", "--config", str(folder / "Caddyfile"), "--adapter", "caddyfile"]
    with running(command, folder, port):
        yield


@contextmanager
def running(command: list[str], folder: Path, port: int) -> Iterator[None]:
    """Run a server that writes below this folder, until the end of the block."""
    environment = os.environ | dict.fromkeys(
        ("HOME", "XDG_CONFIG_HOME", "XDG_DATA_HOME"), str(folder)
    )
    with (
        (folder / "output").open("wb") as output,
        subprocess.Popen(command, env=environment, stderr=output) as process,  # noqa: S603
    ):
        try:
            wait_until(lambda: listens(port), DEADLINE_S, command[0])
            yield
        finally:
            process.terminate()


@pytest.fixture
def client_header() -> str:
    """Name the header in which the proxy passes its client's address."""
    return "X-Real-IP"


@pytest.fixture
def site(
    spool_root: Path, journal: Journal, tmp_path: Path, client_header: str
) -> Iterator[tuple[ServedPage, int]]:
    """Serve the page with an operator and a file, and return the port of a proxy before it."""
    port, operators = free_port(), tmp_path / "operators"
    write_users(operators, make_user("asha"))
    address = Address(local=True, public_url=f"https://{HOST}:{port}", client_header=client_header)
    place = tmp_path / "state" / "journal.db"
    desk = Desk(spool_root, journal, place, operators=operators, address=address)
    desk.admit(FILE.encode())
    with serve_page(desk) as page:
        yield page, port


def hold_through(folder: Path, port: int) -> Visitor:
    """Return an operator who has logged in through a proxy, and has held the file."""
    tls = ssl.create_default_context(cafile=folder / "proxy.crt")
    asha = Visitor(port, f"{HOST}:{port}", "https", tls=tls)
    assert asha.log_in().status == 303
    assert asha.user == "asha"
    assert set(asha.cookies) == {
        f"__Host-emitterd_{name}" for name in ("session", "visitor", "device")
    }
    assert asha.act("hold", FILE).status == 303
    return asha


def log_in_beside_an_attacker(folder: Path, page: ServedPage, port: int, header: str) -> int:
    """Have somebody at another address try passwords; return the status of the operator's login.

    The operator's browser claims that address, too: the proxy must replace it.
    """
    attacker = page.browser(f"{HOST}:{port}", "https")
    attacker.proxy = {header: "10.0.0.66"}
    while attacker.log_in(password="wrong").status != 429:
        pass
    tls = ssl.create_default_context(cafile=folder / "proxy.crt")
    asha = Visitor(port, f"{HOST}:{port}", "https", tls=tls)
    asha.proxy = {header: "10.0.0.66"}
    return asha.log_in().status


def is_held(journal: Journal) -> bool:
    """Return whether the file is held."""
    known = journal.latest(FILE.encode())
    return known is not None and known.state is State.HELD


@pytest.mark.tools("nginx")
def test_the_guide_s_nginx_lets_an_operator_act(
    site: tuple[ServedPage, int], journal: Journal, tmp_path: Path
) -> None:
    """By TLS, with cookies for TLS only. Without the Host header of the guide nobody can log in."""
    page, port = site
    make_identity(tmp_path, "proxy", host=f"DNS:{HOST}")
    text = nginx_configuration(tmp_path, port, page.port)
    with nginx(tmp_path, text, port):
        asha = hold_through(tmp_path, port)
        assert log_in_beside_an_attacker(tmp_path, page, port, "X-Real-IP") == 303
    assert is_held(journal)
    without = re.sub("proxy_set_header.*", "", text)
    with nginx(tmp_path, without, port):
        asha.cookies.clear()
        assert asha.get("/").status == 200
        assert asha.log_in().title == "This form was not sent by this page"


@pytest.mark.tools("caddy")
@pytest.mark.parametrize("client_header", ["X-Forwarded-For"])
def test_the_guide_s_caddy_lets_an_operator_act(
    site: tuple[ServedPage, int], journal: Journal, tmp_path: Path, client_header: str
) -> None:
    """By TLS, with cookies for TLS only. Caddy passes on Host and address by itself."""
    page, port = site
    make_identity(tmp_path, "proxy", host=f"DNS:{HOST}")
    with caddy(tmp_path, caddy_configuration(tmp_path, port, page.port), port):
        hold_through(tmp_path, port)
        assert log_in_beside_an_attacker(tmp_path, page, port, client_header) == 303
    assert is_held(journal)
