"""An office that uses the pages: an installation with a day behind it, and readers in a browser."""

import os
import random
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from emitterd.journal.opening import open_journal
from emitterd.journal.work import Execute
from emitterd.model import State
from emitterd.units import DAY_S
from emitterd.web.access.users import Role, User, format_file, hash_password
from support.browser import DESK, NAMED, PHONE, Browser
from support.installation import Installation
from support.page import admission
from support.ports import free_port, listens
from support.waiting import wait_until

DAY = 150
"""Files that were delivered in the last day."""

MONTH = {
    "student_attendance/student_attendance": [age for age in range(29, -1, -1) if age % 7 != 3],
    "teacher_attendance/teacher_attendance": [age for age in range(29, 5, -1) if age % 7 != 3],
    "pat/periodic_exam_mst": [26, 12],
}
"""How many days ago files of some datasets came."""

EXPECTED = "student_attendance:3d,teacher_attendance:3d,pat:35d"

_DELIVERED = """update entry set state = 'delivered', admitted_at = ?, changed_at = ?,
    delivered_at = ?, duration_s = 1, key = 'key' where path = ?"""
_ARRIVED = "update arrival set (admitted_at, delivered_at) = (?, ?) where dataset = ?"

OPERATOR = "asha"
OPERATOR_PASSWORD = "monsoon-over-the-hills"

SCREENSHOTS = "EMITTERD_SCREENSHOTS"
"""The variable with the folder of the pictures; without it none are made."""


class Office(Installation):
    """An installation with the pages switched on."""

    def __init__(self, folder: Path, url: str, **settings: str) -> None:
        self._port = free_port()
        super().__init__(
            folder,
            url,
            web_listen=f"127.0.0.1:{self._port}",
            spool_catalogue="enforce",
            delivery_backoff_max="2s",
            delivery_drain_timeout="1s",
            **settings,
        )

    def remember_a_day(self) -> None:
        """Put a day's deliveries into the journal, most of them in office hours."""
        chance = random.Random(7)  # noqa: S311  sizes and times, not secrets
        names = [b"diksha/diksha_%03d.zip" % number for number in range(DAY)]
        rows = [
            (time.time() - 90 - 3600 * min(23.0, abs(chance.gauss(4.0, 3.5))), name)
            for name in names
        ]
        with open_journal(self.journal) as journal:
            journal.admit([admission(name, chance.randrange(20_000, 3_000_000)) for name in names])
            journal.store.write(
                Execute(
                    """update entry set state = 'delivered', delivered_at = ?,
                       duration_s = 1, key = 'key' where path = ?""",
                    rows,
                )
            )

    def remember_a_month(self) -> None:
        """Put a month's deliveries of some datasets into the journal; one of them is overdue."""
        self.settings["EMITTERD_DATASETS_EXPECT"] = EXPECTED
        with open_journal(self.journal) as journal:
            for dataset, ages in MONTH.items():
                for age in ages:
                    path = f"{dataset}_{age}.zip".encode()
                    at = time.time() - age * DAY_S - 7200
                    journal.admit([replace(admission(path, 2_000_000), flow=dataset)])
                    journal.store.write(Execute(_DELIVERED, [(at, at, at + 60, path)]))
                    journal.store.write(Execute(_ARRIVED, [(at, at + 60, dataset)]))

    def add_operator(self) -> None:
        """Let an operator log in to the page."""
        file = self.folder / "operators"
        file.touch(0o600)
        user = User(OPERATOR, Role.OPERATOR, hash_password(OPERATOR_PASSWORD))
        file.write_text(format_file([user]) + "\n")
        self.settings["EMITTERD_WEB_OPERATORS_FILE"] = str(file)

    def log_in(self, browser: Browser) -> None:
        """Log in on the page, and see the overview."""
        browser.open(self.page("login"))
        browser.find("#name").send_keys(OPERATOR)
        browser.find("#password").send_keys(OPERATOR_PASSWORD)
        browser.follow(".login button")
        browser.wait_for(f"Logged in as {OPERATOR}")

    def states(self, state: str) -> list[str]:
        """Return the paths of the files in a state."""
        return [item["path"] for item in self.entries(State(state))]

    def page(self, path: str = "") -> str:
        """Return the address of a page."""
        return f"http://127.0.0.1:{self._port}/{path}"

    def answers(self) -> bool:
        """Return whether the server of the pages listens."""
        return listens(self._port)

    @contextmanager
    def visited(self, browser: Browser, path: str = "") -> Iterator[None]:
        """Run the daemon and open a page.

        The browser must report nothing, and ask no other host.
        """
        # The page of the test before still asks its server, which is gone.
        browser.open("about:blank")
        browser.reset()
        with self.running():
            browser.complaints()
            browser.requests()
            browser.size(*DESK)
            wait_until(self.answers, 20, "the page answers")
            browser.open(self.page(path))
            yield
            complaints = browser.complaints()
            assert complaints == [], complaints
            # The browser's own icon of a date field is a data: address.
            own = (self.page(), "data:")
            others = [item for item in browser.requests() if not item.startswith(own)]
            assert others == [], others


def look_at(browser: Browser, name: str = "") -> None:
    """Check what every reader needs, on a desk and on a phone. With a name, take pictures."""
    for kind, size in (("desk", DESK), ("phone", PHONE)):
        browser.size(*size)
        assert browser.overflow() <= 0, kind
        tree = browser.tree()
        assert [role for role, item in tree if role in NAMED and not item.strip()] == []
        roles = {role for role, _ in tree}
        assert {"banner", "main", "contentinfo", "navigation", "search"} <= roles
        if name:
            take_picture(browser, f"page-{kind}-{name}.png", 1000 if kind == "desk" else 1700)
    browser.size(*DESK)


def take_picture(browser: Browser, name: str, height_max: int = 1000) -> None:
    """Write a picture for the documents, if `EMITTERD_SCREENSHOTS` names their folder."""
    folder = os.environ.get(SCREENSHOTS)
    if folder:
        browser.run("window.scrollTo(0, 0)")
        browser.shoot(Path(folder, name), height_max)
