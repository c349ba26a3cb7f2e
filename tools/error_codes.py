"""docs/errors.md, and the catalog for `journalctl --catalog`, made of the help on error codes.

`python -m tools.error_codes docs` writes both anew.
"""

import sys
from collections.abc import Iterator
from pathlib import Path

from emitterd.cli.commands.error_codes import CodeHelp, all_codes
from emitterd.codes import load_texts
from emitterd.service.journald import message_id

FINDINGS = "findings"
"""The section of the inspection's findings; other codes belong to their first digit."""


def document() -> str:
    """Return docs/errors.md."""
    texts, codes = load_texts(), all_codes()
    table = ["| code | what it means | what to do |", "|---|---|---|"]
    table += [
        f"| [`{item.code}`](#{item.code.lower()}) | {_escaped(item.title)} |"
        f" {_escaped(item.remedy)} |"
        for item in codes
    ]
    blocks = ["# Error codes", *texts["introduction"], "\n".join(table)]
    for name, section in texts["sections"].items():
        title, heading = section["title"], "###" if name == FINDINGS else "##"
        number = "" if name == FINDINGS else f"E{name}xx: "
        blocks += [f"{heading} {number}{title}", section["introduction"]]
        for item in codes:
            if (item.code[1] if item.consequence is None else FINDINGS) == name:
                blocks += _markdown(item, f"{heading}#")
    return "\n\n".join(blocks) + "\n"


def catalog() -> str:
    """Return the catalog; its format: systemd.io/CATALOG."""
    entries = ["# Generated from emitterd/error_codes.yaml by tools/error_codes.py.\n"]
    for item in all_codes():
        title, _, help_text = item.text().partition("\n\n")
        entries.append(
            f"-- {message_id(item.code)}\nSubject: {title}\nDefined-By: emitterd\n\n{help_text}\n"
        )
    return "\n".join(entries)


def _markdown(item: CodeHelp, heading: str) -> Iterator[str]:
    """Yield the paragraphs about one code below a heading like `###`."""
    yield f'<a id="{item.code.lower()}"></a>'
    yield f"{heading} {item.code}: {_escaped(item.title)}"
    yield f"**Meanwhile:** {item.meanwhile}"
    if item.consequence is not None:
        yield f"**If it is sent:** {item.consequence}."
    yield "**What to do:**"
    yield "\n".join(f"{number}. {step}" for number, step in enumerate(item.steps, 1))


def _escaped(text: str) -> str:
    # Markdown would take `<name>` for HTML.
    return text.replace("<", r"\<")


if __name__ == "__main__":
    if len(sys.argv) != 2:  # noqa: PLR2004  this program, and the folder
        sys.exit("usage: python -m tools.error_codes DIRECTORY (docs, in a clone)")
    folder = Path(sys.argv[1])
    (folder / "errors.md").write_text(document(), "utf-8")
    (folder / "monitoring" / "emitterd.catalog").write_text(catalog(), "utf-8")
