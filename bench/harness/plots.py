"""The tables as pictures, for the pages: SVG, the same bytes for the same values."""

import fnmatch

import matplotlib

matplotlib.use("svg")
import five_way
import matplotlib.pyplot as plt
from matplotlib import ticker
from pairs import ratio_of

matplotlib.rcParams.update(
    {
        "svg.hashsalt": "flotilla",
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)
OURS, PEERS, FASTAPI = "#0b6e4f", "#9aa5b1", "#d1495b"


def draw(context, folder):
    """Writes what there are measurements for; gives the files."""
    plots = {"serving-costs": costs(context), "serving-five-way": study(context)}
    written = []
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in plots.items():
        if figure:
            file = folder / f"{name}.svg"
            figure.savefig(file, metadata={"Date": None, "Creator": None}, bbox_inches="tight")
            plt.close(figure)
            file.write_text("\n".join(line.rstrip() for line in file.read_text().splitlines()) + "\n")
            written.append(file)
    return written


def costs(context):
    """Each peer's processor time as a multiple of ours, with its interval: CLIP of JPEG at 8, and a request without a model."""
    wanted = {
        "CLIP ViT-B/32, JPEG, 8 at a time\nCPU per image, times Flotilla's": "clip/jpeg/*/8",
        "A model of no cost, 500 requests/s\nCPU per request, times Flotilla's": "identity/*/paced/500",
    }
    measured = context.cells("clip") + context.cells("identity")
    panels = {title: found for title, pattern in wanted.items() if (found := fnmatch.filter(measured, pattern))}
    if not panels:
        return None
    figure, axes = plt.subplots(1, len(panels), figsize=(4.5 * len(panels), 3.4), squeeze=False)
    for axis, (title, cells) in zip(axes[0], panels.items()):
        labels = []
        for place, cell in enumerate(cells):
            parts = cell.split("/")
            name, protocol = (parts[2], parts[3]) if parts[0] == "clip" else (parts[1], parts[2])
            labels.append(name if protocol == "none" else f"{name}, {protocol}")
            ratio = ratio_of([(peer, ours) for ours, peer in context.of(cell)], lambda run: run.cost)
            axis.barh(place, ratio.median, color=PEERS)
            axis.plot([ratio.low, ratio.high], [place, place], color="#3d4852", linewidth=1.2)
        axis.axvline(1, color=OURS, linewidth=1.5)
        axis.set_yticks(range(len(labels)), labels)
        axis.invert_yaxis()
        axis.set_title(title, fontsize=9, loc="left")
    figure.tight_layout()
    return figure


def study(context):
    """The study's picture: images a second by the request's size, for each way in."""
    found = five_way.measured(context)
    models = [name for name in five_way.MODELS if any(key[0] == name for key in found)]
    if not models:
        return None
    figure, axes = plt.subplots(1, len(models), figsize=(4.5 * len(models), 3.4), squeeze=False)
    for axis, name in zip(axes[0], models):
        for way, peer, kind, protocol in five_way.WAYS:
            points = [
                (rows, found[name, way, f"b{rows}"].rate)
                for rows in five_way.BATCHES
                if (name, way, f"b{rows}") in found
            ]
            if points:
                colour = {"Flotilla": OURS, "FastAPI": FASTAPI}.get(peer.name, PEERS)
                style = {"Http1": "-", "Grpc": "--"}[protocol]
                axis.plot(
                    *zip(*points), style, marker="s" if kind == "jpeg" else "o", color=colour, label=way, markersize=4
                )
        axis.set_xscale("log", base=2)
        if name == "mean":
            axis.set_yscale("log")
            axis.yaxis.set_major_locator(ticker.LogLocator(subs=(1, 2, 5)))
            axis.yaxis.set_major_formatter("{x:g}")
            axis.yaxis.set_minor_locator(ticker.NullLocator())
        else:
            axis.set_ylim(bottom=0)
        axis.set_xticks(five_way.BATCHES, [str(rows) for rows in five_way.BATCHES])
        axis.set_xlabel("images in a request, one request after the other")
        axis.set_title(
            f"images/s, {'CLIP ViT-B/32' if name == 'clip' else 'a model of almost no cost'}", fontsize=9, loc="left"
        )
    axes[0][-1].legend(fontsize=7, frameon=False)
    figure.tight_layout()
    return figure
