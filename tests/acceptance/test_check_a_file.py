"""The page "Check a file" in a real browser: dragged, chosen, by keyboard, without script."""

import base64
from pathlib import Path

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.waiting import wait_until
from support.zips import sample, zipped

pytest.importorskip("selenium", reason="extra browser is missing: selenium")

from selenium.webdriver.common.keys import Keys

from support.browser import DESK, PHONE, Browser
from support.office import Office, look_at

TITLE = "school_master/school_mst"
GOOD = "The server would accept this file."
WRONG = "The server would lose the whole file."

DROP = """
const transfer = new DataTransfer();
for (const [name, text] of arguments[0]) {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  transfer.items.add(new File([bytes], name));
}
for (const type of ["dragenter", "dragover", "drop"]) {
  const event = new DragEvent(type, { bubbles: true, cancelable: true, dataTransfer: transfer });
  document.querySelector("main").dispatchEvent(event);
}
"""


def make(folder: Path, name: str, content: bytes) -> Path:
    """Write a zip to hand in."""
    path = folder / name
    path.write_bytes(zipped({"data.csv": content}))
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Make a right file and a wrong one."""
    return [
        make(tmp_path, "school_mst.zip", sample(f"{TITLE}.zip")),
        make(tmp_path, "school_mst_2.zip", b"id|name\n1|one\n"),
    ]


def results(browser: Browser) -> list[str]:
    """Return the names of the files that have a result, the latest first."""
    script = (
        "return [...document.querySelectorAll('article:has(.state) h3')].map((h) => h.textContent)"
    )
    names: list[str] = browser.run(script)
    return names


def test_files_are_checked_where_they_are_dropped(
    office: Office, server: RehearsalServer, browser: Browser, files: list[Path]
) -> None:
    """Each dropped file has its result without a reload, and none is stored or sent."""
    before = {path.name for path in office.folder.rglob("*")}
    with office.visited(browser, "inspect"):
        texts = [[path.name, base64.b64encode(path.read_bytes()).decode()] for path in files]
        browser.run(DROP, texts)
        browser.wait_for(GOOD)
        browser.wait_for(WRONG)
        browser.wait_for("The header is not the header of the dataset. E233")
        assert results(browser) == ["school_mst_2.zip", "school_mst.zip"]
        said = browser.find("#inspect-status").text
        assert said == f"school_mst_2.zip: {WRONG}"
        look_at(browser, "inspect")
        for language in ("en", "hi"):
            browser.speak(language)
            browser.open(office.page("inspect"))
            browser.run(DROP, texts)
            wait_until(lambda: len(results(browser)) == len(files), 20, "all results")
            for size in (DESK, PHONE):
                browser.size(*size)
                assert browser.violations() == [], (language, size)
                assert browser.overflow() <= 0, (language, size)
        after = {path.name for path in office.folder.rglob("*")}
    assert not [name for name in after - before if name.endswith(".zip")]
    assert not server.objects


def test_a_file_is_checked_by_keyboard(
    office: Office, server: RehearsalServer, browser: Browser, files: list[Path]
) -> None:
    """From the field of the file to the result, the focus stays where the person works."""
    with office.visited(browser, "inspect"):
        browser.find("#file").send_keys("\n".join(map(str, files)))
        browser.run("document.querySelector('#dataset').focus()")
        browser.press(Keys.TAB)
        assert browser.focused() == "file"
        # Selenium takes keys for a file field as the name of a file.
        for kind in ("rawKeyDown", "keyUp"):
            browser._do("Input.dispatchKeyEvent", type=kind, key="Tab", windowsVirtualKeyCode=9)
        assert browser.focused() == "Check"
        browser.press(Keys.ENTER)
        browser.wait_for(GOOD)
        browser.wait_for(WRONG)
        assert browser.focused() == "Check"
        # The chosen dataset decides where another name belongs.
        browser.run("document.querySelector('#dataset').value = arguments[0]", TITLE)
        other = files[0].rename(files[0].with_name("export.zip"))
        browser.find("#file").send_keys(str(other))
        browser.find("#inspect button").send_keys(Keys.ENTER)
        browser.wait_for("Give the file the name above")
    assert not server.objects


def test_a_file_is_checked_without_script(
    office: Office, server: RehearsalServer, browser: Browser, files: list[Path]
) -> None:
    """The form alone is enough."""
    with office.visited(browser):
        browser.allow_script(on=False)
        browser.open(office.page("inspect"))
        browser.find("#file").send_keys(str(files[1]))
        browser.follow("#inspect button")
        assert WRONG in browser.find("#answers").text
        assert "E233" in browser.find("#answers").text
        browser.allow_script(on=True)
    assert not server.objects


def test_a_daemon_that_ends_is_reported(
    office: Office, server: RehearsalServer, browser: Browser, files: list[Path]
) -> None:
    """The file stays in the list, with what to do."""
    with office.visited(browser, "inspect"):
        browser.wait_for("Or drop zips here.")
        browser.find("#file").send_keys(str(files[0]))
    browser.find("#inspect button").click()
    browser.wait_for("The connection to emitterd has ended. Try again.")
    browser.complaints()
    assert not server.objects
