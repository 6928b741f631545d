"""Processor time of a process and all that it started, by the kernel's accounting."""

import dataclasses
import os
import pathlib

TICKS = os.sysconf("SC_CLK_TCK")


class Vanished(Exception):
    """A process ended while it was measured, and its time with it."""


@dataclasses.dataclass(frozen=True)
class Process:
    """Seconds that a process has run: to the hundredth with all threads that it ever had, and precisely of those that it has."""

    ticks: float
    threads: float


def tree(root):
    """The process, its descendants, and who else is in its session."""
    parents, sessions = {}, {}
    for folder in pathlib.Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                # The name is in brackets and may hold anything.
                fields = (folder / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if fields[0] != "Z":
                parents[int(folder.name)], sessions[int(folder.name)] = int(fields[1]), int(fields[3])
    found = {pid for pid, session in sessions.items() if session == root or pid == root}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def read(pid):
    folder = pathlib.Path(f"/proc/{pid}")
    fields = (folder / "stat").read_text().rpartition(")")[2].split()
    threads = 0
    for task in (folder / "task").iterdir():
        try:
            threads += int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue  # it ended just now; the ticks have it
    return Process(ticks=(int(fields[11]) + int(fields[12])) / TICKS, threads=threads / 1e9)


def snapshot(root):
    """Of every process of the tree."""
    found = {}
    for pid in tree(root):
        try:
            found[pid] = read(pid)
        except OSError:
            continue
    return found


def spent(before, after):
    """Seconds between two snapshots. Where threads ended, the precise sum lacks their time and the coarse one counts."""
    missing = before.keys() - after.keys()
    if missing:
        raise Vanished(f"processes {sorted(missing)} ended while they were measured")
    total, nothing = 0.0, Process(0.0, 0.0)
    for pid, now in after.items():
        then = before.get(pid, nothing)
        ticks, threads = now.ticks - then.ticks, now.threads - then.threads
        total += ticks if ticks - threads > 0.025 else threads
    return total
