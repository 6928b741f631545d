"""The parts of the harness that measure nothing."""

import dataclasses
import json
import pathlib
import subprocess
import sys
import time
import types

import accounting
import exchange
import figures
import measure
import pairs
import pytest
import sections
import servers


def test_a_ratio_compares_within_pairs_and_has_an_interval():
    # The machine halves its speed within the run; each pair is 1 to 2 all the same.
    ratio = figures.ratio([(10, 20), (20, 40), (5, 10)])
    assert ratio == figures.Interval(0.5, 0.5, 0.5)
    spread = figures.ratio([(1, 1), (2, 1), (3, 1), (4, 1), (5, 1)])
    assert spread.median == 3 and 1 <= spread.low < 3 < spread.high <= 5
    assert spread == figures.ratio([(5, 1), (4, 1), (3, 1), (2, 1), (1, 1)]), "the order of the pairs does not matter"
    assert figures.ratio([]) is None
    assert figures.ratio([(1, 0)]) is None, "nothing was answered in the second"


def test_a_quantile_is_a_value_that_was_measured():
    values = list(range(1, 101))
    assert [figures.quantile(values, part) for part in (0, 0.5, 0.9, 0.99, 1)] == [1, 50, 90, 99, 100]
    assert figures.quantile([7], 0.5) == 7
    with pytest.raises(ValueError, match="nothing"):
        figures.quantile([], 0.5)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (12345.6, "12,346"),
        (99.96, "100.0"),
        (12.34, "12.3"),
        (1.236, "1.24"),
        (0.01234, "0.0123"),
    ],
)
def test_numbers_have_three_digits(value, text):
    assert figures.number(value) == text


def test_a_table_is_markdown_and_every_row_is_whole():
    written = figures.table(["server", "rate"], [["a|b", 12.34], ["c", None]])
    assert written == "| server | rate |\n| --- | --- |\n| a\\|b | 12.3 |\n| c | - |\n"
    with pytest.raises(ValueError, match="1 cells instead of 2"):
        figures.table(["server", "rate"], [["a"]])


def test_a_part_of_a_page_is_replaced_and_doing_it_again_changes_nothing():
    page = "before\n<!-- x -->\nold\n<!-- end of x -->\nafter\n"
    once = figures.part(page, "x", "new\n")
    assert once == "before\n<!-- x -->\nnew\n<!-- end of x -->\nafter\n"
    assert figures.part(once, "x", "new\n") == once
    with pytest.raises(ValueError, match="once each"):
        figures.part(page, "y", "new\n")


def test_processor_time_counts_threads_and_processes_that_ended_meanwhile():
    before = {10: accounting.Process(ticks=1.00, threads=1.004), 11: accounting.Process(ticks=5.0, threads=5.001)}
    quiet = {10: accounting.Process(ticks=1.50, threads=1.5061), 11: accounting.Process(ticks=5.0, threads=5.001)}
    assert accounting.spent(before, quiet) == pytest.approx(0.5021), "to the nanosecond where no thread ended"
    ended = {10: accounting.Process(ticks=1.50, threads=1.1), 11: before[11]}
    assert accounting.spent(before, ended) == pytest.approx(0.5), "a thread's time is not lost with it"
    started = {**quiet, 12: accounting.Process(ticks=0.25, threads=0.2531)}
    assert accounting.spent(before, started) == pytest.approx(0.5021 + 0.2531)
    with pytest.raises(accounting.Vanished, match="11"):
        accounting.spent(before, {10: quiet[10]})


def is_running(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def test_a_server_is_ended_with_what_it_started():
    # The child has a session of its own, and does not listen when it is asked to end.
    child = "import os, signal, time; os.setsid(); signal.signal(signal.SIGTERM, signal.SIG_IGN); print(os.getpid(), flush=True); time.sleep(600)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    process = subprocess.Popen(
        [sys.executable, "-c", parent], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    pid = int(process.stdout.readline())
    assert accounting.tree(process.pid) == {process.pid, pid}
    assert accounting.snapshot(process.pid).keys() == {process.pid, pid}
    servers.stop(process)
    assert process.poll() is not None and accounting.tree(process.pid) == set()
    # It was killed; on a busy machine it takes a moment to be dead.
    for _ in range(1000):
        if not is_running(pid):
            break
        time.sleep(0.01)
    assert not is_running(pid)
    servers.stop(process)  # again: there is nothing to end


def test_v2_bodies_are_as_the_protocol_says():
    body, headers = exchange.v2_binary("input", "FP32", [1, 2], bytes(8))
    length = int(headers["Inference-Header-Content-Length"])
    assert body[length:] == bytes(8)
    assert b'"binary_data_size": 8' in body[:length] and b'"binary_data_output": true' in body[:length]
    assert exchange.bytes_tensor([b"abc", b""]) == b"\x03\x00\x00\x00abc\x00\x00\x00\x00"


def test_bodies_of_different_sizes_share_one_header():
    samples = [types.SimpleNamespace(images=[b"x" * size]) for size in (9, 10, 12345)]
    asked = exchange.v2(types.SimpleNamespace(samples=lambda kind: samples), "jpeg", "Http1", "input", [1, 1])
    length = int(asked.headers["Inference-Header-Content-Length"])
    for body, sample in zip(asked.bodies, samples):
        (tensor,) = json.loads(body[:length])["inputs"]
        assert tensor["shape"] == [1, 1] and tensor["parameters"]["binary_data_size"] == len(body) - length
        assert body[length:] == exchange.bytes_tensor(sample.images)


def context(*only, folder=None):
    return pairs.Context(tools=None, only=list(only), pairs=3, seconds=1, warm_up=1, folder=folder)


def test_a_pattern_stands_for_a_cell_and_for_what_begins_with_it():
    assert context().wants("clip/jpeg/FastAPI/HTTP/8"), "without a pattern all are wanted"
    some = context("clip/jpeg", "identity/*/HTTP/most/32")
    assert some.wants("clip/jpeg/FastAPI/HTTP/8") and some.wants("identity/mosec/HTTP/most/32")
    assert not some.wants("clip/tensor/FastAPI/HTTP/8") and not some.wants("identity/mosec/HTTP/most/1")


def test_names_of_cells_are_unique_and_each_essential_pattern_has_some():
    names = sections.cells()
    assert len(names) == len(set(names))
    for pattern in sections.ESSENTIAL:
        assert any(context(pattern).wants(name) for name in names), pattern
    assert {name.split("/")[0] for name in names} == set(sections.SECTIONS)


def test_an_earlier_run_is_added_and_a_cell_measured_again_is_what_it_is_now(tmp_path):
    run = measure.Run("FastAPI", "HTTP", "8 at a time", answered=10, rows=10, seconds=2.0, cpu_seconds=0.5, errors="")
    earlier = context(folder=tmp_path)
    earlier.runs = [(cell, 0, which, run) for cell in ("clip/a", "clip/b") for which in ("ours", "peer")]
    earlier.left_out = {"identity/x": "too slow"}
    earlier.serialisation = {4: {"bytes": [1, 2]}}
    earlier.save()
    now = context(folder=tmp_path)
    again = dataclasses.replace(run, answered=20)
    now.runs = [("clip/b", 0, which, again) for which in ("ours", "peer")]
    now.add(tmp_path)
    assert now.cells("clip") == ["clip/a", "clip/b"]
    assert now.of("clip/a") == [(run, run)] and now.of("clip/b") == [(again, again)]
    assert now.left_out == earlier.left_out and now.serialisation == earlier.serialisation
    now.save()
    once = (tmp_path / "runs.csv").read_text()
    now.add(tmp_path)
    now.save()
    assert (tmp_path / "runs.csv").read_text() == once
