"""Measures flotilla-server beside other model servers; bench/servers makes the environments and starts this."""

import argparse
import dataclasses
import os
import pathlib
import signal
import sys
import time

import figures
import plots
from pairs import Context
from sections import ESSENTIAL, SECTIONS, cells, wanted

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
PAGE = ROOT / "docs" / "serving-comparison.md"


@dataclasses.dataclass(frozen=True)
class Tools:
    """What bench/servers has made."""

    flotilla: str
    load: str
    library: str
    triton: str
    environments: pathlib.Path

    def python(self, name):
        return str((self.environments / name).resolve() / "bin" / "python")


def main():
    parser = argparse.ArgumentParser(prog="bench/servers", description=__doc__)
    parser.add_argument(
        "--only",
        action="append",
        default=[],
        metavar="PATTERN",
        help="cells to measure, as clip/jpeg/FastAPI/HTTP/8 or identity/*/HTTP; again for more",
    )
    parser.add_argument("--essential", action="store_true", help="the most important cells alone, about 25 minutes")
    parser.add_argument(
        "--quick",
        action="store_true",
        help="every cell once and shortly, with CLIP in 1 MB, to see that all of it works",
    )
    parser.add_argument("--pairs", type=int, default=5, help="pairs of measurements for each cell (default 5)")
    parser.add_argument("--seconds", type=float, default=6, help="of each measurement (default 6)")
    parser.add_argument("--warm-up", type=float, default=1, help="seconds before each (default 1)")
    parser.add_argument("--docs", action="store_true", help="put the tables and pictures into docs/, too")
    parser.add_argument(
        "--with",
        dest="earlier",
        type=pathlib.Path,
        metavar="FOLDER",
        help="an earlier run's results, for the cells that this one lacks",
    )
    parser.add_argument("--list", action="store_true", help="print the names of all cells, and measure nothing")
    arguments = parser.parse_args()
    if arguments.list:
        print("\n".join(cells()))
        return 0
    if arguments.earlier and not (arguments.earlier / "others.json").exists():
        parser.error(f"{arguments.earlier} holds no results of an earlier run")
    if arguments.quick and arguments.docs:
        parser.error("what --quick measures means nothing, so --docs does not go with it")
    if arguments.quick:
        arguments.pairs, arguments.seconds, arguments.warm_up = 1, 1, 0.3
    if not 1 <= arguments.pairs <= 100 or not 0.1 <= arguments.seconds <= 120 or not 0 < arguments.warm_up <= 60:
        parser.error("--pairs is 1 to 100, --seconds 0.1 to 120, --warm-up above 0 to 60")

    # Servers are ended on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    cache = pathlib.Path(os.environ["FLOTILLA_CACHE"])
    here = cache / "bench-servers"
    folder = here / "results" / time.strftime("%Y%m%dT%H%M%S", time.gmtime())
    folder.mkdir(parents=True)
    tools = Tools(
        *(os.environ[f"BENCH_{name}"] for name in ("FLOTILLA", "LOAD", "ORT_LIBRARY", "TRITON")), here / "environments"
    )
    only = arguments.only + (ESSENTIAL if arguments.essential else [])
    context = Context(tools, only, arguments.pairs, arguments.seconds, arguments.warm_up, folder)
    tower = "clip-tiny" if arguments.quick else "clip-vit-b32"
    models = {"identity": here / "identity", "mean": here / "mean", "clip": cache / "models" / tower}
    try:
        for name, section in SECTIONS.items():
            if wanted(context, name):
                section.run(context, models)
    finally:
        written = finish(context, arguments.docs, arguments.earlier)
    for file in written:
        print(file)
    if context.problems:
        print(f"\n{len(context.problems)} errors:", *context.problems, sep="\n  ", file=sys.stderr)
        return 1
    return 0


def finish(context, docs, earlier):
    """Writes what was measured, however far it came."""
    if earlier:
        context.add(earlier)
    written = [context.save()]
    tables = {name: text for section in SECTIONS.values() for name, text in section.tables(context).items()}
    page = context.folder / "tables.md"
    page.write_text("\n".join(f"<!-- {name} -->\n{text}<!-- end of {name} -->\n" for name, text in tables.items()))
    written += [page, *plots.draw(context, context.folder)]
    if docs:
        text = PAGE.read_text()
        for name, table in tables.items():
            text = figures.part(text, name, table)
        PAGE.write_text(text)
        written += [PAGE, *plots.draw(context, ROOT / "docs" / "images")]
    return written


sys.exit(main())
