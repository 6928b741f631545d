"""What the sections share: which cells are wanted, pairs of measurements in turn, what went wrong, and what was found."""

import contextlib
import csv
import dataclasses
import fnmatch
import json
import os
import sys
import time

import figures
from accounting import Vanished
from measure import Run, measure
from servers import Failed

# More of this for each core is other programs': what is measured here is about one and a half.
CROWDED = 3
# The generator's core and the server's, where both are pinned.
SERVER_CORE, CLIENT_CORE = (0,), (1,)


@dataclasses.dataclass
class Context:
    """One run of the harness."""

    tools: object
    only: list
    pairs: int
    seconds: float
    warm_up: float
    folder: object
    started: float = dataclasses.field(default_factory=time.monotonic)
    # Every measurement, as (cell, number of the pair, which of the pair, run).
    runs: list = dataclasses.field(default_factory=list)
    problems: list = dataclasses.field(default_factory=list)
    # Cells for which a server is too slow, with the reason.
    left_out: dict = dataclasses.field(default_factory=dict)
    # Of the section that compares no servers, by the number of images.
    serialisation: dict = dataclasses.field(default_factory=dict)

    def say(self, text):
        print(f"[{time.monotonic() - self.started:5.0f}s] {text}", file=sys.stderr, flush=True)

    def problem(self, text):
        self.problems.append(text)
        self.say(f"error: {text}")

    def wants(self, cell):
        """A cell's name is SECTION/…; a pattern stands for what begins with it, too."""
        return not self.only or any(
            fnmatch.fnmatch(cell, one) or fnmatch.fnmatch(cell, one + "/*") for one in self.only
        )

    def pair_up(self, cell, ours, peer, protocol, pace, seconds, **options):
        """Measures both in turn, so that the machine's drift meets both alike; who comes first changes from pair to pair."""
        if not self.wants(cell):
            return
        found = []
        for number in range(self.pairs):
            turn = [("ours", ours, peer), ("peer", peer, ours)]
            both = {}
            for which, server, other in turn if number % 2 == 0 else reversed(turn):
                run = self.measured(cell, server, protocol, pace, seconds, self.warm_up, other=other, **options)
                if run is None:
                    return
                both[which] = run
            found.append(both)
            self.say(
                f"{cell}: pair {number + 1} of {self.pairs}: {figures.number(both['peer'].rate)} a second for "
                f"{figures.number(both['peer'].cost * 1e6)} us each; Flotilla {figures.number(both['ours'].rate)} for "
                f"{figures.number(both['ours'].cost * 1e6)}"
            )
        # A cell counts when all of its pairs are there.
        self.runs += [(cell, number, which, run) for number, both in enumerate(found) for which, run in both.items()]

    def measured(self, cell, server, protocol, pace, seconds, warm_up, **options):
        """One measurement; None where it failed or an answer was wrong: that is an error, and said."""
        try:
            run = measure(server, protocol, pace, seconds, warm_up, self.tools, **options)
        except (Failed, Vanished, OSError, ValueError) as error:
            self.problem(f"{cell}: {server.name}: {error}")
            return None
        if run.errors or not run.answered:
            self.problem(f"{cell}: {server.name}: {run.errors or 'nothing was answered'}")
            return None
        return run

    @contextlib.contextmanager
    def running(self, server, cells):
        """The server while it runs; None where no cell is wanted, or where it can't be started: that is an error, and said."""
        if not any(self.wants(cell) for cell in cells):
            yield None
            return
        with contextlib.ExitStack() as stack:
            try:
                self.say(f"starting {server.name}")
                stack.enter_context(server)
            except (Failed, OSError) as error:
                self.problem(f"{server.name} can't be measured: {error}")
                server = None
            yield server

    def of(self, cell):
        """The pairs of a cell as (ours, peer)."""
        numbers = sorted({number for name, number, _, _ in self.runs if name == cell})
        get = {(number, which): run for name, number, which, run in self.runs if name == cell}
        return [(get[number, "ours"], get[number, "peer"]) for number in numbers]

    def cells(self, section):
        """Names of the cells of a section that were measured, in order."""
        return list(dict.fromkeys(name for name, _, _, _ in self.runs if name.startswith(section + "/")))

    def beside(self, section):
        """What a table says about how it was taken."""
        runs = [run for name, _, _, run in self.runs if name.startswith(section + "/")]
        if not runs:
            return ""
        loads, day = [run.load_average for run in runs], time.strftime("%d %B %Y", time.gmtime(runs[0].at)).lstrip("0")
        idle = max(run.idle_cpu_seconds / run.seconds for run in runs)
        seconds = figures.quantile(sorted(run.seconds for run in runs), 0.5)
        counts = [len(self.of(cell)) for cell in self.cells(section)] if not section.startswith("five-way") else []
        pairs = f"{min(counts)} to {max(counts)}" if len(set(counts)) > 1 else f"{max(counts, default=0)}"
        taken = f"{pairs} pairs" if counts else "single runs"
        return (
            f"\n{day}, {taken} of {figures.number(seconds)} s each; the load average was {min(loads):.1f} to {max(loads):.1f}"
            f"{' (other programs had most of the cores)' if min(loads) > CROWDED * os.cpu_count() else ''}"
            f"{f', and the other server of a pair ran up to {100 * idle:.1f} % of a core' if idle else ''}.\n"
        )

    def add(self, folder):
        """Puts an earlier run's measurements before this one's; a cell that was measured again is what it is now."""
        here = {cell for cell, _, _, _ in self.runs} | self.left_out.keys()
        types = {field.name: field.type for field in dataclasses.fields(Run)}
        with (folder / "runs.csv").open(newline="") as lines:
            earlier = [
                (
                    row["cell"],
                    int(row["pair"]),
                    row["which"],
                    Run(**{name: kind(row[name]) for name, kind in types.items()}),
                )
                for row in csv.DictReader(lines)
                if row["cell"] not in here
            ]
        self.runs = earlier + self.runs
        others, measured = json.loads((folder / "others.json").read_text()), {cell for cell, _, _, _ in self.runs}
        left_out = {cell: reason for cell, reason in others["leftOut"].items() if cell not in measured}
        self.left_out = left_out | self.left_out
        self.serialisation = {
            int(batch): found for batch, found in others["serialisation"].items()
        } | self.serialisation

    def save(self):
        """All measurements, as CSV, and beside it what is not a measurement of a server."""
        others = {"leftOut": self.left_out, "serialisation": self.serialisation}
        (self.folder / "others.json").write_text(json.dumps(others, indent=1))
        file = self.folder / "runs.csv"
        fields = [field.name for field in dataclasses.fields(Run)]
        with file.open("w", newline="") as out:
            writer = csv.writer(out)
            writer.writerow(["cell", "pair", "which", *fields])
            for cell, number, which, run in self.runs:
                writer.writerow([cell, number, which, *(getattr(run, field) for field in fields)])
        return file


def ratio_of(pairs, value):
    """Of a value of ours to the peer's, within pairs."""
    return figures.ratio([(value(ours), value(peer)) for ours, peer in pairs])


def median_of(pairs, index, value):
    return figures.quantile(sorted(value(pair[index]) for pair in pairs), 0.5)
