"""What a run says of itself on a terminal: the plan, progress, and the table at the end."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from fedjax_paradox.evaluation.fairness import Summary, average, summarise
from fedjax_paradox.storage import results
from fedjax_paradox.storage.cells import DIVERGED, NOBODY, Entry
from fedjax_paradox.sweep.plan import Plan
from fedjax_paradox.sweep.program import Program
from fedjax_paradox.sweep.resume import Standing
from fedjax_paradox.sweep.rounds import scored_rounds
from fedjax_paradox.sweep.run import Diverged, Event, Started, Trained
from fedjax_paradox.sweep.target import Compiled
from fedjax_paradox.text import printable

SILENCE = 60.0  # seconds without a line in a log


def plans(programs: Sequence[Program], costs: Sequence[Plan]) -> str:
    """Every program: its cells, what they share, its work and its memory."""
    return "\n".join(
        f"program {number} of {len(programs)}: {_plan(program, cost)}"
        for number, (program, cost) in enumerate(zip(programs, costs, strict=True), 1)
    )


def _plan(program: Program, cost: Plan) -> str:
    first, corpus = program.cells[0], program.corpus
    fixed, lane = (number / 1024**3 for number in cost.memory)
    cells, lanes = _counted(len(program.cells), "cell"), _counted(cost.lanes, "lane")
    lines = [
        f"{cells}, {first.model} on {corpus.name} ({len(corpus.train_labels):,} train and "
        f"{len(corpus.test_labels):,} test rows), {first.rounds} rounds",
        f"a round: {cost.jobs} jobs, {cost.steps:,} steps of {first.local.batch_size} rows on {lanes}, "
        f"{cost.waste:.1%} of the computed steps wasted, {cost.padding:.0%} of their token places padding",
        f"memory, estimated: {fixed + cost.lanes * lane:.2f} GiB = {fixed:.2f} + {lane:.2f} a lane",
        "shared by the cells: one compiled program, tokens"
        + (", frozen weights" if "weights" in program.inputs else ""),
    ]
    for cell, clients in zip(program.cells, program.clients, strict=True):
        sizes = clients.class_counts.sum(axis=1)
        out = len(sizes) - len(clients.available)
        lines.append(
            f"cell {cell.name}: {len(sizes)} clients of {sizes.min():,} to {sizes.max():,} train rows"
            + (f"; {out} take no part, {(sizes == 0).sum()} of them empty" if out else "")
            + (f"; a draw of {len(clients.scored):,} is scored" if len(clients.scored) < len(sizes) else "")
        )
    lines += [
        f"cell {twin.cell.name}: the same run as {program.cells[twin.of].name} by construction, trained once"
        for twin in program.twins
    ]
    return "\n  ".join(lines)


def compiled(program: Program, found: Compiled) -> str:
    """A program on a target that is not here."""
    gib = [number / 1024**3 for number in (found.arguments, found.temporaries, found.results, found.memory)]
    products = ", ".join(f"{count} {kind}" for kind, count in sorted(found.products.items())) or "none"
    lines = [
        f"{program.cells[0].model} on {_counted(found.devices, 'device')}: {'fits' if found.fits else 'DOES NOT FIT'}, "
        f"{_counted(found.lanes, 'lane')}, compiled in {found.seconds:.0f} s",
        f"a device: {gib[0]:.2f} GiB of arguments, {gib[1]:.2f} of temporaries, {gib[2]:.2f} of results; "
        f"it has {gib[3]:.1f}",
        f"a step of its lanes: {found.flops / 1e9:.3g} GFLOP, {found.traffic / 1e9:.3g} GB read and written; "
        f"matrix products by result: {products}; {found.kernels} kernels in the program",
        f"a round takes at least {found.bound:.2g} s by its products, a bound by the device's published peak; "
        f"{found.by_traffic:.2g} s if all that is read and written went to memory",
    ]
    return "\n  ".join(lines)


@contextmanager
def progress(
    console: Console, programs: Sequence[Program], costs: Sequence[Plan], log: Callable[[str], object]
) -> Iterator[Callable[[Event], None]]:
    """A bar over all programs on a terminal, and a line a round everywhere, which `log` is told as well; where there
    is no terminal also one a minute.

    Work is counted in FLOPs, so that the time left holds across models of different cost.
    """
    cells = [program.cells[0] for program in programs]

    def work(number: int, round_: int) -> float:
        """FLOPs of a program up to a round."""
        cost, scored = costs[number], len(scored_rounds(cells[number], round_))
        return round_ * cost.rows * cost.train_flops + scored * cost.predicted * cost.predict_flops

    total = sum(work(number, cell.rounds) for number, cell in enumerate(cells))
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("compiling", total=total)
        began, done, rows, said = 0.0, 0.0, 0, time.monotonic()

        def say(line: str) -> None:
            log(line)
            console.print(line, markup=False)

        def notify(event: Event) -> None:
            nonlocal began, done, rows, said, total
            where = f"program {event.program + 1}/{len(programs)}, round {event.round}/{cells[event.program].rounds}"
            cost = costs[event.program]
            if isinstance(event, Started):
                total -= work(event.program, event.round)
                rows = 0
            elif isinstance(event, Trained):
                began = began or time.monotonic()  # the first chunk's compilation says nothing of the speed
                done += cost.train_flops * event.rows
                rows += event.rows
                if not console.is_terminal and time.monotonic() - said >= SILENCE:
                    said = time.monotonic()
                    console.print(f"{where}: {rows:,} of {cost.rows:,} rows trained")
            elif isinstance(event, Diverged):
                say(f"{where}: {diverged(event.cell, event.round, event.client)}")
            else:
                if event.round in scored_rounds(cells[event.program], event.round):
                    done += cost.predicted * cost.predict_flops
                left = (time.monotonic() - began) * max(total / done - 1, 0)
                speed = f"{rows / event.seconds:,.0f} rows/s, {event.waste:.1%} wasted, {event.padding:.0%} padding, "
                say(f"{where}: {speed}{_clock(left)} left; {headline(event.table)}")
                rows, said = 0, time.monotonic()
            bar.update(task, completed=done, total=total, description=where)

        yield notify


def diverged(cell: str, round_: int, client: int) -> str:
    """How a cell ended before its last round."""
    who = "the rule's result is" if client == NOBODY else f"the loss or a weight of client {client} is"
    return f"cell {cell} diverged in round {round_}: {who} not finite; it keeps its rounds before"


def stopped(out: Path) -> str:
    """Where a run stands that Ctrl-C has ended."""
    table = results.read(out)
    rounds = sorted(set(last_rounds(table)["round"].to_pylist()))
    reached = f"after round {' and '.join(map(str, rounds))}" if rounds else "in round 1"
    return f"stopped {reached}; the same command goes on from there"


def standing(found: Standing) -> str:
    """What a folder holds of the experiment already; empty for a new one."""
    lines = [f"{_counted(found.finished, 'cell')} finished before"] if found.finished else []
    behind = {part.done for part in found.parts if part.done}
    lines += [f"going on after round {done}" for done in sorted(behind)]
    return "; ".join(lines)


def headline(table: pa.Table) -> str:
    """One round in a few words: mean and worst accuracy over its cells, first protocol."""
    if not len(table):
        return "not scored"
    protocol = table["protocol"][0].as_py()
    spreads = [spread for (_, _, name), spread in summaries(table) if name == protocol]
    mean = average([spread.average for spread in spreads])
    return f"{printable(protocol)} avg {100 * mean:.1f}, worst {100 * min(each.worst for each in spreads):.1f}"


def accuracies(table: pa.Table, entries: Sequence[Entry]) -> Table:
    """Average, worst and gap of every cell's last round under every protocol, in per cent; cells in the order given."""
    view = Table(title="Accuracy of the clients after the last round, in % (client: the worst)")
    for name in ("cell", "protocol"):
        view.add_column(name, overflow="fold")
    for name in ("avg", "worst", "gap", "client"):
        view.add_column(name, justify="right", no_wrap=True)
    found: dict[str, list[tuple[str, Summary]]] = {}
    for (cell, _, protocol), summary in summaries(last_rounds(table)):
        found.setdefault(cell, []).append((protocol, summary))
    for entry in entries:
        view.add_section()
        first = printable(entry.cell + _note(entry))
        for protocol, summary in found.get(entry.cell, []):
            numbers = [f"{100 * value:.1f}" for value in (summary.average, summary.worst, summary.gap)]
            view.add_row(Text(first), Text(printable(protocol)), *numbers, str(summary.worst_client))
            first = ""
        if entry.cell not in found:  # diverged in round 1
            view.add_row(Text(first))
    return view


def _note(entry: Entry) -> str:
    ended = f", diverged in round {entry.diverged_round}" if entry.status == DIVERGED else ""
    return ended + (f", the same run as {entry.same_as}" if entry.same_as else "")


def divergences(entries: Sequence[Entry]) -> str:
    """The one line at the end of a sweep of which cells diverged; empty where none did."""
    ended = [entry for entry in entries if entry.status == DIVERGED]
    if not ended:
        return ""
    names = ", ".join(f"{entry.cell} in round {entry.diverged_round}" for entry in ended[:3])
    more = ", ..." if len(ended) > 3 else ""
    return printable(
        f"{_counted(len(ended), 'cell')} of {len(entries)} diverged ({names}{more}) and kept the rounds before; "
        "--retry-diverged trains them again"
    )


def last_rounds(table: pa.Table) -> pa.Table:
    """The rows of every cell's last round, in the table's order (which a join does not promise)."""
    cells, rounds = table["cell"].to_pylist(), table["round"].to_pylist()
    last = dict(sorted(zip(cells, rounds, strict=True)))
    return table.filter(
        pa.array([round_ == last[cell] for cell, round_ in zip(cells, rounds, strict=True)], pa.bool_())
    )


def summaries(table: pa.Table) -> Iterator[tuple[tuple[str, int, str], Summary]]:
    """((cell, round, protocol), spread over the clients that hold train rows), in the table's order."""
    for key, correct, total in results.counts(table, ["cell", "round", "protocol"]):
        yield (key["cell"], key["round"], key["protocol"]), summarise(correct, total)


def _counted(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
