"""Rounds, medians and the table of results."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Optional

HEADS = ("what", "against", "baseline", "ours", "ratio", "target", "reached")


@dataclass(frozen=True)
class Row:
    """One line of the table. ``reached`` is None for what has no target."""

    what: str
    against: str
    baseline: str
    ours: str
    ratio: str
    target: str = ""
    reached: Optional[bool] = None

    def cells(self) -> tuple[str, ...]:
        """Return the line as text."""
        said = "-" if self.reached is None else "yes" if self.reached else "NO"
        return (self.what, self.against, self.baseline, self.ours, self.ratio, self.target or "-", said)


def timed(action: Callable[[], object]) -> float:
    """Return how many seconds an action takes."""
    start = time.monotonic()
    action()
    return time.monotonic() - start


def paired(rounds: int, cases: Mapping[str, Callable[[], float]], say: Callable[[str], None]) -> dict[str, float]:
    """Measure all cases once in each round, every second round in the opposite order; return the median of each.

    The machine's other work then slows both sides of a comparison alike.
    """
    found: dict[str, list[float]] = {name: [] for name in cases}
    for number in range(rounds):
        for name in list(cases) if number % 2 == 0 else reversed(list(cases)):
            found[name].append(cases[name]())
        say(f"round {number + 1} of {rounds}: " + ", ".join(f"{name} {seconds(times[-1])}" for name, times in found.items()))
    return {name: statistics.median(times) for name, times in found.items()}


def seconds(value: float) -> str:
    """Return a time in the unit that suits it."""
    if value < 0.001:
        return f"{value * 1e6:.0f} us"
    return f"{value * 1000:.1f} ms" if value < 0.1 else f"{value:.2f} s" if value < 10 else f"{value:.1f} s"


def size(value: float) -> str:
    """Return a number of bytes to read."""
    for unit, step in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if value >= step:
            return f"{value / step:.1f} {unit}"
    return f"{value:.0f} B"


def faster(what: str, against: str, baseline: float, ours: float, least: float = 0.0) -> Row:
    """Return the line of something that shall be at least so many times faster (0: no target)."""
    factor = baseline / ours
    target = f">= {least:g}x" if least else ""
    return Row(what, against, seconds(baseline), seconds(ours), f"{factor:.2f}x", target, factor >= least if least else None)


def share(what: str, against: str, baseline: float, ours: float, most: float = 0.0, form: Callable[[float], str] = seconds) -> Row:
    """Return the line of something that shall be at most that share of its baseline (0: no target)."""
    part = ours / baseline if baseline else float("inf")
    target = f"<= {most:g}" if most else ""
    return Row(what, against, form(baseline), form(ours), f"{part:.3f}", target, part <= most if most else None)


def below(what: str, against: str, baseline: str, ours: float, most: float, form: Callable[[float], str] = seconds) -> Row:
    """Return the line of something that has a limit of its own, whatever others need."""
    return Row(what, against, baseline, form(ours), "-", f"<= {form(most)}", ours <= most)


def table(rows: Sequence[Row]) -> str:
    """Return the lines as a table that Markdown shows too."""
    cells = [HEADS, *(row.cells() for row in rows)]
    widths = [max(len(line[place]) for line in cells) for place in range(len(HEADS))]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |" for line in cells]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])
