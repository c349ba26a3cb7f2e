"""The guide's nginx in front of the page: a login through it, and what it does not let through."""

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
from support.visitors import Visitor, make_user, serve_page, write_users
from support.waiting import wait_until
from tools.roff import sections

pytestmark = pytest.mark.tools("nginx")
HOST = "emitterd.office.example"
FILE = "pat/marks.zip"
TEMPORARY = "".join(
    f"{name}_temp_path temporary; " for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
)


def configuration(folder: Path, port: int, page_port: int) -> str:
    """Return the server of the guide, with the ports and the files of this test."""
    guide = (ROOT / "docs" / "operators.md").read_text("utf-8")
    part = sections(guide)["For an office: a web server with TLS"]
    server = re.search(r"```nginx\n(.*?)```", part, re.DOTALL)
    assert server is not None
    text = server[1]
    for former, now in {
        "listen 443 ssl": f"listen 127.0.0.1:{port} ssl",
        "/etc/ssl/emitterd.pem": str(folder / "proxy.crt"),
        "/etc/ssl/private/emitterd.key": str(folder / "proxy.key"),
        "allow 10.0.0.0/8": "allow 127.0.0.1",
        "127.0.0.1:9464": f"127.0.0.1:{page_port}",
        # As the guide says for another port than 443.
        "Host $host": "Host $host:$server_port",
    }.items():
        assert former in text
        text = text.replace(former, now)
    return (
        "pid nginx.pid; error_log error.log; events {}\n"
        f"http {{ access_log off; {TEMPORARY}\n{text} }}\n"
    )


@contextmanager
def nginx(folder: Path, text: str, port: int) -> Iterator[None]:
    """Run nginx until the end of the block."""
    folder.joinpath("nginx.conf").write_text(text)
    command = ["nginx", "-p", str(folder), "-c", "nginx.conf", "-e", "error.log"]
    settings = ["-g", "daemon off; master_process off;"]
    with subprocess.Popen([*command, *settings]) as process:  # noqa: S603
        try:
            wait_until(lambda: listens(port), DEADLINE_S, "nginx")
            yield
        finally:
            process.terminate()


def test_the_guide_s_nginx_lets_an_operator_act(
    spool_root: Path, journal: Journal, tmp_path: Path
) -> None:
    """By TLS, with cookies for TLS only. Without the Host header of the guide nobody can log in."""
    port, operators = free_port(), tmp_path / "operators"
    write_users(operators, make_user("asha"))
    identity = make_identity(tmp_path, "proxy", host=f"DNS:{HOST}")
    tls = ssl.create_default_context(cafile=identity.certificate)
    address = Address(local=True, public_url=f"https://{HOST}:{port}")
    place = tmp_path / "state" / "journal.db"
    desk = Desk(spool_root, journal, place, operators=operators, address=address)
    desk.admit(FILE.encode())
    with serve_page(desk) as site:
        text = configuration(tmp_path, port, site.port)
        with nginx(tmp_path, text, port):
            asha = Visitor(port, f"{HOST}:{port}", "https", tls=tls)
            assert asha.log_in().status == 303
            assert asha.user == "asha"
            assert set(asha.cookies) == {
                f"__Host-emitterd_{name}" for name in ("session", "visitor", "device")
            }
            assert asha.act("hold", FILE).status == 303
        without = re.sub("proxy_set_header.*", "", text)
        with nginx(tmp_path, without, port):
            asha.cookies.clear()
            assert asha.get("/").status == 200
            assert asha.log_in().title == "This form was not sent by this page"
    known = journal.latest(FILE.encode())
    assert known is not None
    assert known.state is State.HELD
