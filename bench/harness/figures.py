"""What is made of measurements: medians, ratios of pairs with their intervals, tables. Pure, and needs the standard library alone."""

import dataclasses
import random
import statistics

# Of the interval of a median: how often the pairs are drawn again.
RESAMPLES = 2000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A median, and between what values it lies with 95 % confidence, by the pairs drawn again."""

    median: float
    low: float
    high: float

    def __str__(self):
        return f"{number(self.median)} ({number(self.low)} to {number(self.high)})"


def ratio(pairs):
    """The ratios of pairs (of the first to the second) as an interval; None where there is no pair.

    The machine's speed drifts, so only what was measured in one pair is compared.
    """
    ratios = [first / second for first, second in pairs if second > 0]
    return interval(ratios) if ratios else None


def interval(values):
    """The percentile bootstrap of a median. The same values have the same interval."""
    values = sorted(values)
    drawn = random.Random(1)
    medians = sorted(statistics.median(drawn.choices(values, k=len(values))) for _ in range(RESAMPLES))
    return Interval(statistics.median(values), quantile(medians, 0.025), quantile(medians, 0.975))


def quantile(ordered, part):
    """The value of the nearest rank."""
    if not ordered:
        raise ValueError("there is no quantile of nothing")
    rank = -int(-part * len(ordered) // 1)  # upwards
    return ordered[min(max(rank, 1), len(ordered)) - 1]


def number(value):
    """Three digits that mean something, and no exponent."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    if abs(value) >= 10:
        return f"{value:.1f}"
    return f"{value:.2f}" if abs(value) >= 0.1 else f"{value:.4f}"


def table(head, rows):
    """Markdown. Cells are text or numbers; None is a dash."""
    widths = {len(row) for row in rows} - {len(head)}
    if widths:
        raise ValueError(f"a row has {widths.pop()} cells instead of {len(head)}")
    text = [
        [cell if isinstance(cell, str) else str(cell) if isinstance(cell, Interval) else number(cell) for cell in row]
        for row in rows
    ]
    lines = [head, ["---"] * len(head), *text]
    return "".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |\n" for line in lines)


def part(text, name, body):
    """The text with the part between its two marks of this name replaced; a text without them is an error, so that no table is lost."""
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    if text.count(begin) != 1 or text.count(end) != 1:
        raise ValueError(f"the page must have {begin.strip()} and {end.strip()} once each")
    before, rest = text.split(begin)
    _, after = rest.split(end)
    return before + begin + body + end + after
