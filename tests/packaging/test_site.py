"""The documentation site and the files of the project: links, navigation, addresses."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from emitterd.model import State, Verb
from support.paths import ROOT

DOCS = ROOT / "docs"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
HOMEPAGE = PROJECT["urls"]["Homepage"]
FILES = f"{HOMEPAGE}/blob/main/"
PICTURES = HOMEPAGE.replace("github.com", "raw.githubusercontent.com") + "/main/"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
DOCUMENTS = [*sorted(path.name for path in ROOT.glob("*.md")), *(f"docs/{name}" for name in PAGES)]
FENCE = re.compile(r"^ *```\w*\n.*?^ *```$", re.MULTILINE | re.DOTALL)
HOST = re.compile(r"<(?:script|img|link|iframe)\b[^>]*(?:src|href)=\"(?:https?:)?//[^>]*>")


def text_of(document: Path) -> str:
    """Return a document without its examples."""
    return FENCE.sub("", document.read_text("utf-8"))


def anchors(document: Path) -> set[str]:
    """Return the names that a link into the document can have: headings, and `<a id>`."""
    headings = re.findall(r"^#+ (.+)$", text_of(document), re.MULTILINE)
    slugs = {re.sub(r"[^\w -]", "", name.lower()).strip().replace(" ", "-") for name in headings}
    return slugs | set(re.findall(r'<a id="([^"]+)">', document.read_text("utf-8")))


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_lead_somewhere(document: str) -> None:
    """A link to a file of the repository names a file that exists, and a heading in it."""
    path = ROOT / document
    for link in re.findall(r"\]\(([^)\s]+)\)", text_of(path)):
        target, _, anchor = link.partition("#")
        base = path.parent
        if target.startswith((FILES, PICTURES)):
            target, base = target.removeprefix(FILES).removeprefix(PICTURES), ROOT
        elif "://" in target:
            continue
        file = base / target if target else path

        assert file.exists(), link
        assert not anchor or anchor in anchors(file), link


def test_links_of_the_readme_are_absolute() -> None:
    """PyPI shows the README without the repository, so a relative link leads nowhere there."""
    links = re.findall(r"\]\(([^)]+)\)", text_of(ROOT / "README.md"))
    assert links
    assert [link for link in links if not link.startswith(("https://", "#"))] == []


def test_every_page_is_in_the_navigation() -> None:
    """mkdocs.yml names each page of docs/ once."""
    nav = yaml.safe_load((ROOT / "mkdocs.yml").read_text("utf-8"))["nav"]
    named = re.findall(r"[\w-]+\.md", str(nav))
    assert sorted(named) == PAGES


def test_the_project_has_one_address() -> None:
    """Each address of the project begins with the homepage of pyproject.toml."""
    folders = (ROOT / name for name in ("debian", "docs", "emitterd", "systemd", "tools"))
    files = [*ROOT.glob("*.*"), *(file for folder in folders for file in folder.rglob("*.*"))]
    for file in files:
        if file.suffix in {".md", ".yml", ".toml", ".py", ".service", ".5", ".1"}:
            text = file.read_text("utf-8")
            for address in re.findall(r"https://[\w.]*github\w*\.com/\w+/emitterd", text):
                assert address in {HOMEPAGE, PICTURES.removesuffix("/main/")}, file


def test_the_package_has_the_same_maintainer() -> None:
    """The Debian package and the metadata for PyPI name the same people."""
    (author,) = PROJECT["authors"]
    control = next(ROOT.glob("**/debian/control")).read_text("utf-8")
    assert f"Maintainer: {author['name']} <{author['email']}>" in control


def test_commit_hooks_are_local() -> None:
    """The hooks run the tools of .venv: a commit needs no network."""
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text("utf-8"))
    entries = [hook["entry"] for repo in config["repos"] for hook in repo["hooks"]]
    assert [repo["repo"] for repo in config["repos"]] == ["local"]
    assert all(entry.startswith(".venv/bin/") for entry in entries)


def test_the_picture_of_the_states_is_complete() -> None:
    """docs/states.svg has each state, and each verb but the two that it explains in words."""
    words = set(
        re.findall(
            r"\w+", " ".join(re.findall(r">([^<]+)</text>", (DOCS / "states.svg").read_text()))
        )
    )
    assert set(State) <= words
    assert set(Verb) - {Verb.WITHDRAW, Verb.REOPEN} <= words


@pytest.mark.slow
def test_the_site_loads_nothing_from_other_hosts(tmp_path: Path) -> None:
    """The site is built without a warning, and its pages need no network."""
    pytest.importorskip("material", reason="the extra docs is missing")
    done = subprocess.run(  # noqa: S603  our own argument list
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    pages = [path.read_text("utf-8") for path in tmp_path.glob("*.html")]

    assert done.returncode == 0, done.stderr
    assert len(pages) > len(PAGES)
    assert [found for page in pages for found in HOST.findall(page)] == []
