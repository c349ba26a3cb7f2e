"""The files that belong beside the program: units, manual pages, completions, alert rules.

In the repository they are links to the one source of each file. The wheel and the Debian package
hold the files.
"""

from importlib.resources import files
from pathlib import Path

UNITS = ("emitterd.service", "emitterd@.service")

LOGROTATE = Path("/etc/logrotate.d/emitterd")

EXAMPLES = "doc/emitterd/examples"

_MOVED = {
    "man/emitterd.1": "man/man1",
    "man/emitter.yaml.5": "man/man5",
    "completions/emitterd.bash": "bash-completion/completions/emitterd",
    "completions/emitterd.fish": "fish/vendor_completions.d",
    "emitter.yaml": EXAMPLES,
    "monitoring/emitterd.rules.yml": EXAMPLES,
    "monitoring/prometheus.yml": EXAMPLES,
    "monitoring/grafana.json": EXAMPLES,
    "monitoring/emitterd.lnav.json": EXAMPLES,
}
"""Each file, and its folder or its path below PREFIX/share."""


def shared(name: str) -> Path:
    """Return the path of a file of this package."""
    return Path(str(files("emitterd.share"))) / name


def places(prefix: Path) -> dict[str, Path]:
    """Return the place of each file but the units, for a program in /usr or /usr/local."""
    zsh = "site-functions" if prefix == Path("/usr/local") else "vendor-completions"
    moved = _MOVED | {"completions/_emitterd": f"zsh/{zsh}"}
    named = {name: prefix / "share" / place for name, place in moved.items()}
    return {
        name: path if path.name == "emitterd" else path / Path(name).name
        for name, path in named.items()
    } | {
        "monitoring/emitterd.catalog": prefix / "lib/systemd/catalog/emitterd.catalog",
        "systemd/emitterd.logrotate": LOGROTATE,
    }
