"""What a report says, before it becomes a page, Markdown or LaTeX."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from fedjax_paradox.analysis import claims, statistics, verdicts
from fedjax_paradox.analysis.folders import Reading, labelled, read_folders, same_runs
from fedjax_paradox.analysis.runs import FLOOR, measures, pick, spelled
from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.audit import Finding, with_observed
from fedjax_paradox.report import origin, tables
from fedjax_paradox.report.answer import sentences, title
from fedjax_paradox.report.findings import ANY, Audits, audit_folders, fixed, overview
from fedjax_paradox.report.judged import Judged, comparison_table, forest, in_words, verdict_table
from fedjax_paradox.report.picture import Picture
from fedjax_paradox.report.pictures import pictures
from fedjax_paradox.report.tables import Table, number
from fedjax_paradox.report.view import CellFacts, look
from fedjax_paradox.sweep.audits import Audit
from fedjax_paradox.text import printable

METHODS = (
    "Rounds are fixed beforehand and never the best ones: to choose a round by its test accuracy is to choose on the "
    "test set.",
    "Intervals end where accuracies, gaps and their differences do: at 0 and 100 %, or at 100 points to both sides.",
    "Every client counts once in a mean, whatever its number of rows. Clients without train rows, or without an "
    "accuracy under a protocol, are left out.",
    "A run that diverged stops before the round whose numbers are not finite. It stays in every mean, interval and "
    "paired comparison with its last finite round, carried forward as an intention-to-treat analysis does, and rows "
    "and verdicts say how many of their runs diverged. One that diverged in round 1 has no number: estimates over it "
    "have none, and in comparisons it counts with the least and with the greatest number that there could be.",
    "Cells that are the same run by construction (such as a rule for adapters on a model without them) are trained "
    "once. A comparison of the two is decided by construction, not by a measured difference of 0.",
    "Gap = mean of the clients' accuracies − accuracy of the worst client, in percentage points.",
    f"Values and {100 * statistics.LEVEL:.0f} % intervals are over partitions (partition seeds). Training seeds of one "
    f"partition are averaged first, since they are no independent partitions. From {statistics.FEWEST} partitions on: "
    "the typical partition (Hodges-Lehmann: the median of the means of all two partitions) with the exact signed-rank "
    "interval, which one partition in five with an all-wrong client does not upset. It covers no mean that a few such "
    "partitions make; where the mean lies outside, verdicts say so. With fewer: the mean, with Student's t interval.",
    "With one partition seed there is no interval: how much results vary from partition to partition is unknown. "
    "The point stays.",
    f"Verdicts go by the clients of at least {FLOOR} rows, to train on and to be scored on: the accuracy of a client "
    "of a few rows is 0 by chance now and then. The difference over all clients stands beside it. There is no verdict "
    f"below {statistics.FEWEST} partitions, and none by an interval of no width. Equivalent: the whole interval lies "
    "within a stated number of points of 0.",
    "p: exact two-sided test by flipping the signs of the partitions' ranked differences; p (Holm): adjusted for all "
    "claims that have a verdict by an interval under the same kind of comparison. Verdicts go by the interval of one "
    "claim alone.",
    "By construction: the audit of a partition says that all clients are scored alike, so that the gap is 0 whatever "
    "the model, or two cells are one run. Equal outcomes alone are none.",
    "All protocols score the same predictions of the same models.",
)

_PROTOCOLS = {
    "train_rows": "the client's own training rows",
    "label_filtered": "test rows of the classes that it holds",
    "label_matched": "test rows weighted to its classes",
    "holdout": "its own rows kept out of training",
    "global": "all test rows",
}


class Partition(NamedTuple):
    """One partition's findings."""

    title: str
    groups: dict[str, list[Finding]]  # protocol, or "any" -> findings


class Content(NamedTuple):
    """A whole report."""

    title: str
    sentences: list[str]  # the answer
    footnotes: list[str]  # of the answer: what intervals cover, what protocols are
    runs: list[origin.Run]
    left_out: list[str]  # folders that cannot be read, claims that cannot be judged
    notes: list[str]
    claims: list[Judged]  # none where no claims were asked about
    verdicts: list[Table]  # on every claim, and of every comparison
    accuracy: list[Table]
    every_run: Table
    pictures: list[Picture]
    audit: Table | None
    partitions: list[Partition]
    no_audit: list[str]
    methods: Sequence[str]


def gather(paths: Sequence[Path], claims_file: Path | None, cache_folder: Path, when: str | None = None) -> Content:
    """Reads the folders and works out everything that a report shows.

    Args:
      when: "last", "round N" or "mean of last N"; by default the last round, and the published ones in claims.

    Raises:
      InputError: no folder can be read, the claims file cannot, or a run lacks the rounds.
    """
    told = spelled(when or "last")
    asked = claims.load(claims_file) if claims_file else ()
    reading = read_folders(paths)
    table = labelled(reading)
    audits = audit_folders(reading, cache_folder)
    measured = measures(table, reading.known, fixed(reading, audits.by_cell))
    picked = pick(measured, when or "last")
    rows = tables.summarised(picked)
    same = same_runs(reading)
    facts = CellFacts(audits.by_cell, reading.known, reading.rules)
    view = look(table, measured, picked, rows=rows, facts=facts, when=told)
    names = {row.setting["protocol"] for row in rows}
    judged, unjudged = _judge(asked, measured, when)
    words = [in_words(verdict) for verdict in judged]
    return Content(
        title=title(view, judged),
        sentences=sentences(view, judged),
        footnotes=[*(f"{line[0].upper()}{line[1:]}." for line in reading.covered), *_drawn(reading), _scored(names)],
        runs=origin.runs(reading),
        left_out=[*reading.left_out, *unjudged],
        notes=[*reading.notes, *_same(same)],
        claims=words,
        verdicts=[verdict_table(judged), comparison_table(judged)] if judged else [],
        accuracy=[
            tables.accuracy(rows, name, told, same) for name in sorted(names, key=lambda n: (n != view.protocol, n))
        ],
        every_run=tables.runs(picked, told, reading.known),
        pictures=[*forest(judged), *pictures(view)],
        **_audited(reading, audits, picked),
        methods=METHODS,
    )


def _drawn(reading: Reading) -> list[str]:
    cells = (cell for folder in reading.folders for cell in folder.cells)
    some = dict.fromkeys(
        str(cell.evaluate_clients)
        for cell in cells
        if cell.evaluate_clients and cell.evaluate_clients < cell.num_clients
    )
    return [f"Scored: a draw of {' or '.join(some)} clients, of those with rows first."] if some else []


def _scored(names: Collection[str]) -> str:
    told = "; ".join(f"{name}, {words}" for name, words in _PROTOCOLS.items() if name in names)
    return f"A client's accuracy is taken over: {told}." if told else ""


def _same(pairs: Mapping[tuple[str, str], int]) -> list[str]:
    return [
        f"{one} is the same run as {other} by construction ({count} {'cell' if count == 1 else 'cells'}): trained "
        "once, and equal without being measured to be."
        for (one, other), count in pairs.items()
    ]


def _audited(reading: Reading, audits: Audits, picked: pa.Table) -> dict[str, Any]:
    """The sections of a report on its partitions; picked: `runs.pick`ed measures."""
    found = list({id(one): one for one in audits.by_cell.values()}.values())
    names = {id(one): [name for name, other in audits.by_cell.items() if other is one] for one in found}
    table = reading.table.group_by(["cell", "corpus", "alpha", "num_clients", "partition_seed"], use_threads=False)
    conditions = {row["cell"]: row for row in table.aggregate([]).to_pylist()}
    chosen = [(conditions[names[id(one)][0]], one) for one in found]
    partitions: dict[str, list[tuple[Partition, str]]] = {}
    for told, one in chosen:
        own = picked.filter(pc.is_in(picked["cell"], pa.array(names[id(one)])))
        partition = _partition(told, one, own)
        alike = partitions.setdefault(partition.title, [])
        if partition not in [other for other, _ in alike]:  # folders may share partitions
            alike.append((partition, "; ".join(_values(own, name) for name in ("model", "rule"))))
    return {
        "audit": overview(chosen) if chosen else None,
        "partitions": [
            partition._replace(title=f"{title}: {runs}") if len(alike) > 1 else partition
            for title, alike in partitions.items()
            for partition, runs in alike
        ],
        "no_audit": list(map(printable, audits.missing)),
    }


def _values(table: pa.Table, name: str) -> str:
    return ", ".join(sorted(table[name].unique().to_pylist()))


def _partition(told: Mapping[str, Any], one: Audit, picked: pa.Table) -> Partition:
    title = (
        f"{told['corpus']}, α = {number(told['alpha'])}, {told['num_clients']} clients, partition seed "
        f"{told['partition_seed']}"
    )
    groups = {ANY: one.partition}
    for protocol, findings in one.protocols.items():
        observed = pc.mean(picked.filter(pc.equal(picked["protocol"], protocol))["average"]).as_py()
        known = observed is not None and observed == observed
        groups[protocol] = with_observed(findings, protocol, one.setting, observed) if known else findings
    return Partition(title, {name: findings for name, findings in groups.items() if findings})


def _judge(
    asked: Sequence[claims.Claim], measured: pa.Table, when: str | None
) -> tuple[list[verdicts.Verdict], list[str]]:
    """The verdicts under the protocols at hand, and why there is none for some claim: the runs may not fit it."""
    judged, problems = [], []
    known = measured["protocol"].unique().to_pylist()
    for claim in asked:
        try:
            (verdict,) = verdicts.judge([claim], measured, when)
        except InputError as error:
            problems.append(printable(f"The claim {claim.id} cannot be judged on these runs: {error}"))
        else:
            matched = {name: outcome for name, outcome in verdict.matched.items() if name in known}
            judged.append(verdict._replace(matched=matched))
    return verdicts.adjusted(judged), problems
