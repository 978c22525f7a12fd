"""`python -m bench`: one markdown table of MySocket beside nc, socat and ncat, measured in one run on this machine.

`--only NAME` (repeatable) measures some rows; `--quick` takes less data: its figures are for development, not for the README.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from bench import comeback, durable, latency, memory, screen, senders, service, start, storm, throughput, transfer
from bench.run import BenchError, progress
from bench.tools import PEERS, US, Tool, machine, tools

MB = 1_000_000
KB = 1_000


@dataclass(frozen=True)
class Amounts:
    """How much is measured."""

    bytes_sent: int
    rounds: int
    lines_timed: int
    bytes_slow: int
    lines_each: int
    starts: int
    lines_published: int
    bytes_waiting: int
    seconds_idle: float
    seconds_typed: float
    herd: int
    coming_back: int


FULL = Amounts(1_000 * MB, 5, 1000, 10_000 * MB, 100, 10, 20_000, 5_000 * MB, 60.0, 20.0, 10_000, 300)
QUICK = Amounts(200 * MB, 3, 300, 600 * MB, 100, 5, 5_000, 600 * MB, 10.0, 5.0, 2_000, 100)

Row = tuple[str, dict[str, str], str, str]  # what; the figure of each tool; target; how it was met


def judge(met: bool, detail: str) -> str:
    """The last column."""
    return f"{'met' if met else '**missed**'}: {detail}"


def throughput_rows(each: list[Tool], amounts: Amounts) -> Iterator[Row]:
    """CPU and wall time for a gigabyte of lines."""
    result = throughput.measure(each, amounts.bytes_sent, amounts.rounds)
    for index, what, target, limit in ((0, "CPU of both processes", "≤ 0.9 × socat", 0.9), (1, "wall time", "≤ socat", 1.0)):
        for way, how in (("file", "file → /dev/null"), ("pipe", "`cat` → … → `wc`")):
            cells = {name: f"{figures[index]:.2f} s" for name, figures in result[way].items()}
            ours = result[way][US][index]
            ratios = {name: ours / figures[index] for name, figures in result[way].items() if name in ("socat", "nc")}
            detail = ", ".join(f"{ratio:.2f} × {name}" for name, ratio in ratios.items())
            verdict = judge(ratios["socat"] <= limit, detail) if "socat" in ratios else f"no socat here; {detail}"
            yield f"1 GB of 100-byte lines, {how}: {what}, less an empty run", cells, target, verdict


def latency_rows(each: list[Tool], amounts: Amounts) -> Iterator[Row]:
    """One line through both processes."""
    result = latency.measure(each, amounts.lines_timed, amounts.rounds)
    cells = {name: f"{p50 * 1e6:.0f} / {p99 * 1e6:.0f} µs" for name, (p50, p99) in result.items()}
    if "nc" in result:
        ratio = result[US][0] / result["nc"][0]
        verdict = judge(ratio <= 2, f"{ratio:.2f} × nc")
    else:
        verdict = "no nc here"
    yield "one line through both, latency p50 / p99", cells, "p50 ≤ 2 × nc", verdict


def memory_rows(each: list[Tool], amounts: Amounts) -> Iterator[Row]:
    """Resident memory with a slow reader."""
    result = memory.measure(each, amounts.bytes_slow)
    cells = {name: f"{sides['sender'][0] / MB:.1f} / {sides['receiver'][0] / MB:.1f} MB" for name, sides in result.items()}
    highest = max(high for high, _ in result[US].values())
    growth = max(growth for _, growth in result[US].values())
    verdict = judge(highest <= 80 * MB and growth <= 2 * MB, f"{highest / MB:.1f} MB at most, grows by {growth / MB:.1f} MB")
    what = f"resident memory, sender / receiver, {amounts.bytes_slow / 1000 / MB:g} GB to a reader of 20 MB/s"
    yield what, cells, "≤ 80 MB, flat", verdict


def senders_rows(each: list[Tool], amounts: Amounts) -> Iterator[Row]:
    """Many senders into one listener."""
    result = senders.measure(amounts.lines_each)
    few, many = result[0], result[-1]
    growth = many.cpu_per_line / few.cpu_per_line
    cell = "; ".join(f"{one.senders}: {one.bytes_each / KB:.0f} KB, {one.cpu_per_line * 1e6:.0f} µs" for one in result)
    met = many.bytes_each <= 40 * KB and growth <= 1.25
    verdict = judge(met, f"{many.bytes_each / KB:.0f} KB each; CPU a line {growth:.2f} × from {few.senders} to {many.senders}")
    if not senders.has_driver():
        verdict = f"not measured at 1,000: no bench.driver; {verdict}"
    what = f"so many senders into one listener, {amounts.lines_each} lines each: memory a connection, CPU a line"
    yield what, {US: cell}, "≤ 40 KB; CPU a line flat from 10 to 1,000", verdict


def start_rows(each: list[Tool], amounts: Amounts) -> Iterator[Row]:
    """Start until it listens."""
    ours, reactor = start.measure(amounts.starts)
    what = f"start until it listens (importing Twisted's reactor: {reactor:.2f} s)"
    yield what, {US: f"{ours:.2f} s"}, "≤ 1.5 × the import", judge(ours <= 1.5 * reactor, f"{ours / reactor:.2f} × the import")


def durable_rows(each: list[Tool], amounts: Amounts) -> Iterator[Row]:
    """Spool and fsync on both sides."""
    result = durable.throughput(amounts.bytes_sent, amounts.rounds)
    (cpu, wall), (memory_cpu, memory_wall) = result["durable"], result["memory"]
    speed = 1000 / wall
    cells = {US: f"{speed:.0f} MB/s (memory mode: {1000 / memory_wall:.0f})"}
    detail = ""
    if "socat" in result:
        cells["socat"] = f"{1000 / result['socat'][1]:.0f} MB/s, no promise"
        detail = f", {result['socat'][1] / wall:.2f} × socat"
    needed = min(200.0, 500 / result["socat"][1]) if "socat" in result else 200.0
    what = "1 GB of 100-byte lines, spool and fsync on both sides, to a file"
    yield what, cells, "≥ 200 MB/s or 0.5 × socat", judge(speed >= needed, f"{speed:.0f} MB/s{detail}")
    rate = durable.mosquitto(amounts.lines_published)
    if rate is not None:
        cells = {US: f"{speed * 10_000 / 1e6:.1f} million/s"}
        detail = f"{speed * 10_000 / rate:.0f} × mosquitto's {rate:.0f}/s"
        verdict = judge(speed * 10_000 >= 50 * rate, detail)
        yield "the same, in messages, beside mosquitto_pub -l -q 2 to mosquitto_sub -q 2", cells, "≥ 50 × mosquitto", verdict
    cells = {US: f"{cpu:.2f} s (memory mode: {memory_cpu:.2f} s)"}
    yield (
        f"{what}: CPU of both processes",
        cells,
        "≤ 2 × memory mode",
        judge(cpu <= 2 * memory_cpu, f"{cpu / memory_cpu:.2f} × memory mode"),
    )
    (p50, p99), (sync50, sync99) = durable.latency(3 * amounts.lines_timed, amounts.rounds)
    syncs = f"{sync50 * 1e3:.2f} / {sync99 * 1e3:.2f} ms"
    what = f"100-byte lines, 1,000 a second, from stdin to the file, p50 / p99 (one fdatasync: {syncs})"
    verdict = judge(p99 <= 6 * sync99, f"{p99 / sync99:.1f} × fdatasync")
    yield what, {US: f"{p50 * 1e3:.2f} / {p99 * 1e3:.2f} ms"}, "p99 ≤ 6 × fdatasync's", verdict


def backlog_rows(each: list[Tool], amounts: Amounts) -> Iterator[Row]:
    """A long outage."""
    size = amounts.bytes_waiting
    highest, full, empty, left = durable.backlog(size, amounts.rounds)
    text = f"{size / 1000 / MB:g} GB"
    verdict = judge(highest <= 100 * MB, f"{highest / MB:.0f} MB")
    yield f"memory besides the mapped file, {text} waiting", {US: f"{highest / MB:.0f} MB"}, "≤ 100 MB", verdict
    verdict = judge(full <= 1.5 * empty, f"{full / empty:.2f} × empty")
    cells = {US: f"{full:.2f} s (empty: {empty:.2f} s)"}
    yield f"restart until the first byte has arrived, {text} waiting", cells, "≤ 1.5 × with an empty spool", verdict
    what = f"the spool's file when {2 * size / 1000 / MB:g} GB that waited are delivered"
    yield what, {US: f"{left / MB:.2f} MB"}, "≤ 16 MB", judge(left <= 16 * MB, f"{left / MB:.2f} MB")


def service_rows(each: list[Tool], amounts: Amounts) -> Iterator[Row]:
    """A service and its clients."""
    with service.services() as pair:
        idle = service.idle(pair, amounts.seconds_idle)
        ours, bare = service.start(pair, 2 * amounts.starts)
        rates = service.singly(pair, amounts.lines_timed)
        stream = service.stream(pair, amounts.bytes_sent // 1000)
        consumed = service.consume(pair)
    cells = {US: f"{idle.cpu:.2%} of a core, {idle.memory / MB:.0f} MB"}
    verdict = judge(idle.cpu <= 0.002 and idle.memory <= 60 * MB, cells[US])
    yield "a linked service that has nothing to do", cells, "≤ 0.2 % of a core, ≤ 60 MB", verdict
    what = "`mysocket send` of one message, start to end, above `python -c pass`"
    yield what, {US: f"{(ours - bare) * 1e3:.0f} ms"}, "≤ 80 ms", judge(ours - bare <= 0.08, f"{ours * 1e3:.0f} ms in all")
    cells = {US: ", ".join(f"`{name}`: {rate:.0f}/s" for name, rate in rates.items())}
    send = rates["mysocket send"]
    verdict = judge(send >= 300, f"{send:.0f}/s by `mysocket send`")
    yield "messages handed to a service by a process each, on all cores", cells, "≥ 300/s", verdict
    what = "100-byte lines from one `mysocket send --delivered`"
    yield what, {US: f"{stream:.0f}/s"}, "≥ 100,000/s", judge(stream >= 100_000, f"{stream:.0f}/s")
    yield "the same out of the inbox, `mysocket attach --recv-only`", {US: f"{consumed:.0f}/s"}, "", ""


def transfer_rows(each: list[Tool], amounts: Amounts) -> Iterator[Row]:
    """A file as one transfer, beside the same file piped."""
    costs = transfer.measure(amounts.bytes_sent, amounts.rounds)
    piped = costs.pop("pipe")
    speeds = {name: amounts.bytes_sent / MB / cost.wall for name, cost in {"pipe": piped, **costs}.items()}
    what = f"a file of {amounts.bytes_sent / MB:.0f} MB as one transfer, from memory to memory"
    cells = {US: ", ".join(f"{name}: {speed:.0f} MB/s" for name, speed in speeds.items())}
    share = speeds["/send"] / speeds["pipe"]
    yield what, cells, "/send ≥ 0.5 × piping it", judge(share >= 0.5, f"{share:.2f} × piping it")
    cells = {US: ", ".join(f"{name}: {cost.cpu:.2f} s" for name, cost in {"pipe": piped, **costs}.items())}
    yield f"{what}: CPU of all processes", cells, "", ""


def screen_rows(each: list[Tool], amounts: Amounts) -> Iterator[Row]:
    """A person at a terminal."""
    ours, reactor = screen.prompt(amounts.starts)
    share, detail = ours / reactor, f"{ours:.2f} s, {ours / reactor:.2f} × the import of the reactor ({reactor:.2f} s)"
    yield "until the first prompt is drawn", {US: f"{ours:.2f} s"}, "≤ 2 × the import of the reactor", judge(share <= 2, detail)
    for rate in (0, 1_000, 10_000):
        found = screen.keys(rate, amounts.seconds_typed)
        cells = {US: f"p50 {found.p50 * 1e3:.1f} ms, p99 {found.p99 * 1e3:.1f} ms"}
        verdict = judge(found.p99 <= 0.02, f"p99 {found.p99 * 1e3:.1f} ms; {found.lines} lines arrived, whole and in order")
        yield (
            f"from a key to the screen while {rate:,} lines a second arrive",
            cells,
            "p99 ≤ 20 ms" if rate == 1_000 else "",
            verdict,
        )


def storm_rows(each: list[Tool], amounts: Amounts) -> Iterator[Row]:
    """A hub that comes back, and all its senders."""
    for name, story in storm.simulated(amounts.herd):
        times = ", ".join(f"{story.share_back(share):.1f}" for share in (0.5, 0.99, 1))
        cells = {US: f"half, 99 %, all are back after {times} s; {story.peak:,} attempts a second at most"}
        detail = f"{story.share_back(1):.0f} s; {story.busiest:.0%} of a core in the busiest second"
        what = f"{amounts.herd:,} senders on a turned clock; the hub: {name}"
        yield what, cells, "all back in a minute", judge(story.share_back(1) <= 60, detail)
    seen = comeback.measure(amounts.coming_back)
    cells = {US: f"half and all are back after {seen.half:.1f}, {seen.last:.1f} s; {seen.attempts} attempts"}
    detail = f"{seen.last:.1f} s; {seen.cpu / seen.senders * 1e6:.0f} µs of the hub's CPU each"
    what = f"{seen.senders} real senders, a real hub killed and started again after 2 s"
    yield what, cells, "all back in a minute", judge(seen.last <= 60, detail)


PARTS: dict[str, Callable[[list[Tool], Amounts], Iterator[Row]]] = {
    "throughput": throughput_rows,
    "latency": latency_rows,
    "memory": memory_rows,
    "senders": senders_rows,
    "start": start_rows,
    "durable": durable_rows,
    "backlog": backlog_rows,
    "service": service_rows,
    "transfer": transfer_rows,
    "screen": screen_rows,
    "storm": storm_rows,
}


def main() -> int:
    """Measure and print; 1 if something could not be measured (the table has the rest)."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__, allow_abbrev=False)
    parser.add_argument("--only", action="append", choices=list(PARTS), help="measure only this; may be given again")
    parser.add_argument("--quick", action="store_true", help="less data, fewer rounds")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(143))  # so that files and processes are cleaned up
    amounts = QUICK if options.quick else FULL
    each = tools()
    names = [US, *(tool.name for tool in PEERS)]
    rows: list[Row] = []
    failed = False
    for name, part in PARTS.items():
        if options.only and name not in options.only:
            continue
        try:
            rows.extend(part(each, amounts))
        except (BenchError, OSError) as error:  # OSError: a pipe whose other end has died
            failed = True
            progress(f"{name}: {error}")
            rows.append((name, {}, "", f"not measured: {' '.join(str(error).split())[:200]}"))
    print(f"Measured on {machine()}{' (--quick)' if options.quick else ''}.\n")
    print(f"| what | {' | '.join(names)} | target | |")
    print("|---" * (len(names) + 3) + "|")
    for what, cells, target, verdict in rows:
        print(f"| {what} | {' | '.join(cells.get(name, '-') for name in names)} | {target} | {verdict} |")
    return int(failed)


if __name__ == "__main__":
    raise SystemExit(main())
