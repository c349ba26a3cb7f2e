"""The picture of the report: what a file costs as the journal grows."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median

from growth import CPU, PER_FILE

_ROWS = re.compile(r"^(?P<name>.+), (?P<rows>[\d,]+) rows$")
INCHES = (7.0, 3.6)


def draw(contestants: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Draw the contestants of `flat` into an SVG file: medians, and least to most."""
    import matplotlib as mpl  # noqa: PLC0415  a second, and only the plot needs it
    from matplotlib.figure import Figure  # noqa: PLC0415

    # The same figures give the same file.
    mpl.rcParams["svg.hashsalt"] = "emitterd"
    figure = Figure(figsize=INCHES, layout="constrained")
    axes = figure.subplots()
    for (name, metric), points in _curves(contestants).items():
        rows = sorted(points)
        middles = [median(points[row]) for row in rows]
        below = [a - min(points[item]) for a, item in zip(middles, rows, strict=True)]
        above = [max(points[item]) - a for a, item in zip(middles, rows, strict=True)]
        axes.errorbar(
            rows, middles, yerr=[below, above], marker="o", capsize=3,
            label=f"{name}: {metric}",
        )  # fmt: skip
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlabel("deliveries already in the journal")
    axes.set_ylabel("ms a file")
    axes.grid(visible=True, alpha=0.3)
    axes.legend()
    figure.savefig(path, format="svg", metadata={"Date": None})


def _curves(
    contestants: Mapping[str, Mapping[str, Sequence[float]]],
) -> dict[tuple[str, str], dict[int, Sequence[float]]]:
    curves: dict[tuple[str, str], dict[int, Sequence[float]]] = {}
    for label, figures in contestants.items():
        match = _ROWS.match(label)
        if match is None:
            raise ValueError(f"{label} does not say how many rows")
        rows = int(match["rows"].replace(",", ""))
        for metric in (PER_FILE, CPU):
            curve = curves.setdefault((match["name"], metric.label), {})
            curve[rows] = figures[metric.name]
    return curves
