"""The report of a run: figures become medians, spreads, ratios and tables."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from scenario import Goal, Scenario, Sheet, ratio

MISSED = "**missed**"
PROFILED = (
    '`bench/run --profile`: samples of a `once` by py-spy, without its start. "Python" is the'
    ' time of the thread that holds the interpreter\'s lock. "all threads" adds the work of the'
    " other threads, but no waiting for a lock.\n\n"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a benchmark showed."""

    scenario: Scenario
    sheets: list[Sheet]
    rounds: int
    took_s: float
    sizes: dict[str, int]

    @property
    def first(self) -> Sheet:
        """The emitterd that the others are compared with."""
        return next(sheet for sheet in self.sheets if sheet.ours)


def number(value: float) -> str:
    """Return a figure with three digits that count, or as a whole number."""
    if abs(value) >= 100:  # noqa: PLR2004  three digits
        return f"{value:,.0f}"
    return f"{value:.3g}"


def cell(values: Sequence[float]) -> str:
    """Return the median, and the range in brackets where it says more."""
    if not values:
        return ""
    middle, least, most = (number(item(values)) for item in (median, min, max))
    return middle if least == most else f"{middle} ({least} … {most})"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table in Markdown; all but the first column hold numbers."""
    rule = ["---", *("--:" for _ in header[1:])]
    lines = [header, rule, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def section(outcome: Outcome) -> str:
    """Return the part of a benchmark: what was done, and who took how long."""
    scenario = outcome.scenario
    used = {name for sheet in outcome.sheets for name in sheet.figures}
    metrics = [metric for metric in scenario.metrics if metric.name in used]
    header = [
        "",
        *(f"{metric.label}, {metric.unit}" if metric.unit else metric.label for metric in metrics),
    ]
    peers = len(outcome.sheets) > 1
    lines = [header + ["emitterd against it, times"] * peers]
    for sheet in outcome.sheets:
        cells = [cell(sheet.figures.get(metric.name, [])) for metric in metrics]
        lines.append([sheet.name, *cells, *([_against(outcome, sheet)] * peers)])
    if not peers:
        lines = [list(column) for column in zip(*lines, strict=True)]
    rounds = f"{outcome.rounds} round{'s' * (outcome.rounds != 1)}"
    return (
        f"### {scenario.title}\n\n`bench/run {scenario.name}`, {rounds},"
        f" {outcome.took_s:.0f} s."
        f" {scenario.says.format(**outcome.sizes)}\n\n" + table(lines[0], lines[1:])
    )


def _against(outcome: Outcome, sheet: Sheet) -> str:
    first, name = outcome.first, outcome.scenario.main
    if sheet is first or not (first.figures.get(name) and sheet.figures.get(name)):
        return "1" if sheet is first else ""
    metric = next(metric for metric in outcome.scenario.metrics if metric.name == name)
    return number(ratio(metric, first.figures[name], sheet.figures[name]))


def goals(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return for each goal what was measured, and whether it was reached."""
    return [
        judged(outcome, goal)
        for outcome in outcomes
        for goal in outcome.scenario.goals
        # Of several sources none may have the peer's name.
        if not goal.against or goal.against in {sheet.name for sheet in outcome.sheets}
    ]


def judged(outcome: Outcome, goal: Goal) -> dict[str, Any]:
    """Compare the median of the first emitterd with a goal."""
    metric = next(metric for metric in outcome.scenario.metrics if metric.name == goal.metric)
    figures = outcome.first.figures[goal.metric]
    if goal.against:
        peer = next(sheet for sheet in outcome.sheets if sheet.name == goal.against)
        figure, unit = ratio(metric, figures, peer.figures[goal.metric]), "times"
        figure, more = (1 / figure, False) if goal.at_most else (figure, True)
    else:
        figure, more, unit = median(figures), metric.more, metric.unit
    return {
        "scenario": outcome.scenario.name,
        "title": outcome.scenario.title,
        "goal": goal.text,
        "measured": figure,
        "unit": unit,
        "reached": figure >= goal.limit if more else figure <= goal.limit,
    }


def goals_table(judgements: Sequence[dict[str, Any]]) -> str:
    """Return the table of the goals."""
    rows = [
        [
            judgement["title"],
            judgement["goal"],
            f"{number(judgement['measured'])} {judgement['unit']}".strip(),
            "reached" if judgement["reached"] else MISSED,
        ]
        for judgement in judgements
    ]
    return table(["", "goal", "measured", ""], rows)


def profiles(shares: dict[str, dict[str, dict[str, float]]]) -> str:
    """Return where the time goes, case by case."""
    parts = []
    for name, halves in shares.items():
        interpreter, threads = halves["interpreter"], halves["threads"]
        rows = [
            [room, percent(interpreter.get(room)), percent(threads.get(room))]
            for room in [*interpreter, *(threads.keys() - interpreter.keys())]
        ]
        header = [name, "of Python's own time", "of all threads' time"]
        parts.append(table(header, rows))
    return "\n".join(parts)


def percent(share: float | None) -> str:
    """Return a share as a whole number of percents."""
    return "" if share is None else f"{100 * share:.0f} %"


def as_json(outcomes: Sequence[Outcome]) -> list[dict[str, Any]]:
    """Return all figures, round by round."""
    return [
        {
            "scenario": outcome.scenario.name,
            "rounds": outcome.rounds,
            "sizes": outcome.sizes,
            "took_s": round(outcome.took_s, 1),
            "metrics": {
                metric.name: {
                    "label": metric.label,
                    "unit": metric.unit,
                    "more_is_better": metric.more,
                }
                for metric in outcome.scenario.metrics
            },
            "contestants": {sheet.name: sheet.figures for sheet in outcome.sheets},
        }
        for outcome in outcomes
    ]


def markdown(results: dict[str, Any], outcomes: Sequence[Outcome]) -> str:
    """Return the whole report. `found`: as the JSON file holds it."""
    facts = "".join(f"- {name}: {fact}\n" for name, fact in results["machine"].items())
    sources = ", ".join(f"{name} {commit}" for name, commit in results["sources"].items())
    head = f"`{results['command']}`, {results['date']}; {sources}.\n\n{facts}"
    parts = [head]
    if results["goals"] and not results["quick"]:
        parts.append("### Goals\n\n" + goals_table(results["goals"]))
    parts += [section(outcome) for outcome in outcomes]
    if results.get("profiles"):
        parts.append("### Where the time goes\n\n" + PROFILED + profiles(results["profiles"]))
    return "\n".join(parts)
