"""The pages in Hindi, in a real browser over a real daemon: by preference, and by the switch."""

import pytest

from emitterd.rehearsal.server import RehearsalServer
from support.hindi import has_english

pytest.importorskip("selenium", reason="extra browser is missing: selenium")

from support.browser import Browser
from support.office import Office
from support.waiting import wait_until

WRONG = "school_master/school_mst.zip"
PAGES = ("", "datasets", "files", f"explain?path={WRONG}", "skipped", "inspect", "nothing")

TEXTS = """
const texts = [document.title];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const element = walker.currentNode.parentElement;
  if (!element.closest('[lang="en"], code, bdi, script, style, noscript, option')) {
    texts.push(walker.currentNode.data);
  }
}
return texts;
"""
"""All texts in the page's own language, in the page as scripts have made it."""


def english(browser: Browser) -> list[str]:
    """Return the English texts that the open page does not mark as such."""
    return [text for text in browser.run(TEXTS) if has_english(text)]


def test_an_office_that_prefers_hindi_reads_hindi(
    office: Office, server: RehearsalServer, browser: Browser
) -> None:
    """Also what the script changes later, and a rejected file with its remedy."""
    with office.visited(browser):
        browser.speak("hi-IN,hi;q=0.9,en;q=0.8")
        browser.open(office.page())
        browser.wait_for("सब ठीक है")
        assert browser.run("return document.documentElement.lang") == "hi"
        browser.wait_for("यह पृष्ठ अपने आप ताज़ा होता रहता है।")
        assert "समय क्षेत्र में है।" in browser.words()
        assert english(browser) == []
        office.drop(WRONG, b"id|name\n1|one\n")
        browser.wait_for("1 फ़ाइल अस्वीकृत है, और बदली नहीं गई")
        assert "क्या करें पहली पंक्ति को जाँच में बताए अनुसार ठीक करें।" in browser.words()
        assert english(browser) == []
        browser.open(office.page("skipped"))

        def rejection() -> bool:
            browser.reload()
            return "फ़ाइल डेटासेट के प्रारूप से मेल नहीं खाती" in browser.words()

        wait_until(rejection, 20, "the rejection by the title of its code")
        assert "The header is not" not in browser.words()
        for page in PAGES:
            browser.open(office.page(page))
            assert english(browser) == [], page
        # The page that does not exist is reported by the browser.
        assert all("404" in line for line in browser.complaints())
    assert not server.objects


@pytest.mark.parametrize("script", [True, False], ids=["script", "no-script"])
def test_the_switch_chooses_another_language(
    office: Office, server: RehearsalServer, browser: Browser, *, script: bool
) -> None:
    """It stays on the page, overrides the browser on all pages, and can be taken back."""
    with office.visited(browser, "skipped"):
        browser.allow_script(on=script)
        browser.follow(".languages [lang=hi]")
        assert "फ़ोल्डर की वे फ़ाइलें जो emitterd कभी नहीं भेजता" in browser.find("main").text
        browser.open(office.page())
        assert "सब ठीक है" in browser.find("main").text
        browser.follow(".languages [lang=en]")
        assert "All is well" in browser.find("main").text
    assert not server.objects
