"""What mkdocs does with the pages of docs/: a hook of mkdocs.yml.

The pages are also read on GitHub. There a link such as `../emitter.yaml` leads to a file of the
repository; on the site it becomes the address of that file.
"""

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HOMEPAGE: str = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["urls"][
    "Homepage"
]

_OUTSIDE = re.compile(r"(?<=\]\()\.\./(?=[^)]+\))")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page whose links to files outside docs/ are absolute."""
    return _OUTSIDE.sub(f"{HOMEPAGE}/blob/main/", markdown)
