"""A model of no cost: what a request costs each server, how long it takes, and how many there can be. The server has one core and the
load the other."""

import figures
import materials
import recipes
from measure import Pace
from pairs import CLIENT_CORE, SERVER_CORE, median_of, ratio_of
from servers import Server, Setting

RATES = (500, 1000, 2000)
AT_ONCE = (1, 32)
# Connections at a rate.
CONNECTIONS = 16
# Of the seconds that a measurement has: there are hundreds of requests in each.
SHARE = 0.5
# What a peer has to be able to do more than a rate, to be measured at it.
HEADROOM = 1.1
# What it has to answer of it, not to be called late.
KEPT_UP = 0.97


def run(context, folders):
    model = materials.identity(folders["identity"])
    single = Setting("tensor", threads=1, max_batch=1, cores=SERVER_CORE)
    batched = Setting("tensor", threads=1, max_batch=8, cores=SERVER_CORE)
    ours = Server(recipes.FLOTILLA, model, batched, context.tools)
    with context.running(ours, [cell for peer in recipes.OF_NO_COST for cell in cells(peer)]) as ours:
        for peer in recipes.OF_NO_COST if ours else []:
            setting = batched if peer.name in recipes.BATCHED else single
            with context.running(Server(peer, model, setting, context.tools), cells(peer)) as other:
                if other:
                    one_peer(context, ours, other)


def protocols(peer):
    return ["HTTP", "gRPC"] if peer.grpc else ["HTTP"]


def cells(peer):
    kinds = [*(f"most/{count}" for count in AT_ONCE), *(f"paced/{rate}" for rate in RATES)]
    return [f"identity/{peer.name}/{protocol}/{kind}" for protocol in protocols(peer) for kind in kinds]


def one_peer(context, ours, other):
    for protocol in protocols(other.peer):
        name, spoken = f"identity/{other.name}/{protocol}", "Grpc" if protocol == "gRPC" else "Http1"
        seconds = SHARE * context.seconds
        for count in AT_ONCE:
            context.pair_up(f"{name}/most/{count}", ours, other, spoken, Pace(count), seconds, cores=CLIENT_CORE)
        reached = [peer.rate for _, peer in context.of(f"{name}/most/32")]
        for rate in RATES:
            cell = f"{name}/paced/{rate}"
            if reached and max(reached) < HEADROOM * rate:
                # It would only be late, and later.
                if context.wants(cell):
                    context.left_out[cell] = f"{other.name} reaches {figures.number(max(reached))}"
                continue
            context.pair_up(cell, ours, other, spoken, Pace(CONNECTIONS, rate), seconds, cores=CLIENT_CORE)


def tables(context):
    rows, most = [], []
    measured = [*context.cells("identity"), *context.left_out]
    for cell in [cell for peer in recipes.OF_NO_COST for cell in cells(peer) if cell in measured]:
        _, name, protocol, kind, count = cell.split("/")
        pairs = context.of(cell)
        if cell in context.left_out:
            rows.append([name, protocol, count, context.left_out[cell], *[None] * 7])
        elif kind == "paced":
            # Who is late from the beginning answers fewer than are due.
            answered = median_of(pairs, 1, lambda run: run.rate)
            late = f", {name} answered {figures.number(answered)}" if answered < KEPT_UP * int(count) else ""
            rows.append(
                [
                    name,
                    protocol,
                    count + late,
                    median_of(pairs, 1, lambda run: run.cost * 1e6),
                    median_of(pairs, 0, lambda run: run.cost * 1e6),
                    ratio_of(pairs, lambda run: run.cost),
                    median_of(pairs, 1, lambda run: run.p50),
                    median_of(pairs, 0, lambda run: run.p50),
                    median_of(pairs, 1, lambda run: run.p99),
                    median_of(pairs, 0, lambda run: run.p99),
                    ratio_of(pairs, lambda run: run.p99),
                ]
            )
        else:
            ratio = ratio_of(pairs, lambda run: run.rate)
            rates = [median_of(pairs, which, lambda run: run.rate) for which in (1, 0)]
            p50 = [median_of(pairs, which, lambda run: run.p50) for which in (1, 0)]
            load = [100 * median_of(pairs, which, lambda run: run.load_share) for which in (1, 0)]
            most.append([name, protocol, count, *rates, ratio, *p50, *load])
    found = {}
    if rows:
        head = [
            "peer",
            "over",
            "requests/s",
            "CPU us/request",
            "Flotilla",
            "Flotilla/peer",
            "p50 ms",
            "Flotilla",
            "p99 ms",
            "Flotilla",
            "Flotilla/peer",
        ]
        found["identity-paced"] = figures.table(head, rows) + context.beside("identity")
    if most:
        head = [
            "peer",
            "over",
            "at a time",
            "requests/s",
            "Flotilla",
            "Flotilla/peer",
            "p50 ms",
            "Flotilla",
            "load's core, %",
            "Flotilla",
        ]
        found["identity-most"] = figures.table(head, most) + context.beside("identity")
    return found
