"""A pytest plugin: tiers of tests, the programs they need, and what a run left out.

The tiers are markers. pyproject.toml leaves them out of a plain `pytest`;
`pytest -m ""` runs everything. A fixture can put its tests into a tier: see `FIXTURES`.
PYTEST_DONT_REWRITE: it asserts nothing.
"""

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

TIERS = ("slow", "system", "browser", "tools")

FIXTURES = {
    "browser": "browser",
    "crashes": "slow",
    "machine": "system",
    "mount": "system",
    "package": "tools",
}
"""The tier of every test that uses the fixture, also through other fixtures."""

ONE_WORKER = ("machine", "browser", "crashes", "seaweed")
"""Fixtures that are expensive. One process of pytest-xdist runs all their tests.

`crashes` starts the cases of all its tests at once, `seaweed` an S3 engine: two
processes would do both twice.
"""

PACKAGES = {
    "caddy": "caddy",
    "chromedriver": "chromium-driver",
    "chromium": "chromium",
    "debootstrap": "debootstrap",
    "dh": "debhelper",
    "fish": "fish",
    "git": "git",
    "ip": "iproute2",
    "jq": "jq",
    "journalctl": "systemd",
    "lintian": "lintian",
    "lnav": "lnav",
    "logrotate": "logrotate",
    "man": "man-db",
    "mandoc": "mandoc",
    "mkfs.ext4": "e2fsprogs",
    "nginx": "nginx",
    "nsenter": "util-linux",
    "openssl": "openssl",
    "prometheus": "prometheus",
    "promtool": "prometheus",
    "setpriv": "util-linux",
    "shellcheck": "shellcheck",
    "strace": "strace",
    "sysctl": "procps",
    "systemd-analyze": "systemd",
    "systemd-nspawn": "systemd-container",
    "unshare": "util-linux",
    "zsh": "zsh",
}
"""The Debian package of each program that a test may need."""


def missing(*programs: str) -> str | None:
    """Return the skip reason for the first program that is missing, or None.

    The part before the colon names the package: the closing lines group by it.
    """
    path = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin"
    for program in programs:
        if shutil.which(program, path=path) is None:
            return f"Debian package {PACKAGES[program]} is missing: {program}"
    return None


def need(*programs: str) -> None:
    """Skip the running test if one of these programs is missing."""
    if reason := missing(*programs):
        pytest.skip(reason)


def pytest_configure(config: pytest.Config) -> None:
    """Register the plugin that counts, one for each run."""
    config.pluginmanager.register(_LeftOut(config), "emitterd-left-out")


def pytest_itemcollected(item: pytest.Item) -> None:
    """Put each test into the tiers of its fixtures."""
    fixtures = getattr(item, "fixturenames", ())
    for fixture, tier in FIXTURES.items():
        if fixture in fixtures and item.get_closest_marker(tier) is None:
            item.add_marker(tier)
    for fixture in ONE_WORKER:
        if fixture in fixtures:
            item.add_marker(pytest.mark.xdist_group(fixture))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Undo pytest-randomly for the tests of a booted machine.

    A machine takes long to boot, so the tests of a module share one. Each test goes on
    from the state that the test before it in the file left.
    """
    indexes = [
        index for index, item in enumerate(items) if "machine" in getattr(item, "fixturenames", ())
    ]
    in_order = sorted(
        (items[index] for index in indexes),
        key=lambda item: (item.location[0], item.location[1] or 0),
    )
    for index, item in zip(indexes, in_order, strict=True):
        items[index] = item


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip a test marked `tools("program", ...)` if one of the programs is missing."""
    for marker in item.iter_markers("tools"):
        need(*marker.args)


class _LeftOut:
    """Counts the tests that the selection left out, and reports them with the skips.

    With pytest-xdist each worker process collects all tests. Each sends its count to
    the main process, which keeps one: they are equal.
    """

    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._tests = 0
        self._tiers: Counter[str] = Counter()

    def pytest_deselected(self, items: Sequence[pytest.Item]) -> None:
        """Count a test once, and once more for each of its tiers."""
        for item in items:
            self._tests += 1
            self._tiers.update(tier for tier in TIERS if item.get_closest_marker(tier) is not None)

    def pytest_sessionfinish(self) -> None:
        """Send the counts to the main process of pytest-xdist, if there is one."""
        output: dict[str, Any] | None = getattr(self._config, "workeroutput", None)
        if output is not None:
            output["left_out"] = (self._tests, dict(self._tiers))

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:  # noqa: ANN401  xdist has no types
        """Take over the counts of a worker process."""
        output: dict[str, Any] = getattr(node, "workeroutput", {})
        if "left_out" in output:
            self._tests, tiers = output["left_out"]
            self._tiers = Counter(tiers)

    @pytest.hookimpl(trylast=True)
    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the skipped tests by reason and the left-out tests by tier."""
        skipped = terminalreporter.stats.get("skipped", [])
        if skipped:
            terminalreporter.section("skipped on this machine")
            for line in _by_reason(skipped):
                terminalreporter.write_line(line)
        if self._tests:
            terminalreporter.section("not selected")
            terminalreporter.write_line(self._not_selected())

    def _not_selected(self) -> str:
        tiers = ", ".join(f"{tier} {self._tiers[tier]}" for tier in TIERS if self._tiers[tier])
        if not tiers:
            return f"{self._tests} tests"
        return (
            f"{self._tests} tests, by tier (a test can be in two): {tiers}.\n"
            'All tests: pytest -m "". One tier: pytest -m slow.'
        )


def _by_reason(reports: Sequence[pytest.TestReport]) -> Iterator[str]:
    """Yield a line for each reason, the most frequent first."""
    reasons = Counter(_reason(report) for report in reports)
    for reason, count in sorted(reasons.items(), key=lambda pair: (-pair[1], pair[0])):
        yield f"{count:5} {reason}"


def _reason(report: pytest.TestReport) -> str:
    """Return the reason for a skip, without the details behind a colon."""
    reason = report.longrepr
    text = reason[2] if isinstance(reason, tuple | list) else str(reason)
    return text.removeprefix("Skipped: ").partition(": ")[0].strip()
