"""Tables of a report: one value for the page, for Markdown and for LaTeX."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa

from fedjax_paradox.report.statistics import SETTING, Estimate, Shares, interval, possible, variance_shares

MEASURES = {"average": "avg", "worst": "worst", "gap": "gap"}
NONE = "–"  # where no client has an accuracy
COLUMNS = {"corpus": "corpus", "model": "model", "rule": "rule", "alpha": "α", "num_clients": "K"}


class Table(NamedTuple):
    """Text all over: what is shown is what is stored."""

    name: str  # of the file, letters, digits and hyphens
    caption: str
    columns: Sequence[str]
    numeric: Sequence[bool]  # by column: right-aligned, sorted as numbers
    rows: Sequence[Sequence[str]]
    notes: Sequence[str] = ()


class Row(NamedTuple):
    """One setting under one protocol: means over its runs, in [0, 1]."""

    setting: dict[str, Any]  # the columns of SETTING
    estimates: dict[str, Estimate]  # measure -> mean and interval
    rounds: tuple[int, int]  # fewest and most rounds of its runs
    identical: bool  # in every run all clients were scored on the same rows
    gap: Shares  # what the gap's variance comes from


def summarised(picked: pa.Table) -> list[Row]:
    """One row per setting and protocol, sorted by setting.

    Args:
      picked: `statistics.pick`ed measures, a row per (run, protocol).
    """
    groups: dict[tuple, list[dict]] = {}
    for run in picked.to_pylist():
        groups.setdefault(tuple(run[name] for name in SETTING), []).append(run)
    return [_row(dict(zip(SETTING, key, strict=True)), groups[key]) for key in sorted(groups)]


def _row(setting: dict, runs: Sequence[dict]) -> Row:
    seeds = np.array([run["partition_seed"] for run in runs])
    rounds = [run["round"] for run in runs]
    estimates = {name: possible(interval(np.array([run[name] for run in runs]), seeds)) for name in MEASURES}
    shares = variance_shares(np.array([run["gap"] for run in runs]), seeds)
    return Row(setting, estimates, (min(rounds), max(rounds)), all(run["identical"] for run in runs), shares)


def accuracy(rows: Sequence[Row], protocol: str, when: str) -> Table:
    """Mean, worst and gap of every setting under one protocol, with 95 % intervals; when: words for the rounds."""
    rows = [row for row in rows if row.setting["protocol"] == protocol]
    shown = _shown(rows)
    lines = [_accuracy_line(row, shown) for row in rows]
    notes = [f"* {_CONSTRUCTION}"] if any(row.identical for row in rows) else []
    reasons = dict.fromkeys(row.estimates["gap"].reason for row in rows if row.estimates["gap"].reason)
    return Table(
        name="accuracy-" + "".join(letter if letter.isalnum() else "-" for letter in protocol),
        caption=f"Accuracy of the clients under {protocol} {when}: mean over clients and worst client "
        "in %, gap in percentage points, with 95 % intervals over partitions.",
        columns=[*(COLUMNS[name] for name in shown), "runs", "round", *MEASURES.values()],
        numeric=[*(name in ("alpha", "num_clients") for name in shown), True, True, *(True for _ in MEASURES)],
        rows=lines,
        notes=[*notes, *(f"No interval: {reason}." for reason in reasons)],
    )


def variances(rows: Sequence[Row]) -> Table | None:
    """What the gap's variance comes from, of the settings where that can be told; None where it can nowhere."""
    rows = [row for row in rows if not row.gap.reason]
    shown = [*_shown(rows), "protocol"]
    if not rows:
        return None
    return Table(
        name="variance",
        caption="Where the gap's variance comes from: its standard deviation between partitions and between training "
        "seeds of one partition, in percentage points, and their shares of the variance.",
        columns=[*(COLUMNS.get(name, name) for name in shown), "runs", *_SHARES],
        numeric=[*(name in ("alpha", "num_clients") for name in shown), True, *(True for _ in _SHARES)],
        rows=[_variance_line(row, shown) for row in rows],
        notes=["An estimate below zero counts as 0."] if any(row.gap.clipped for row in rows) else [],
    )


_SHARES = ("partition SD", "training SD", "partition share, %", "training share, %")


def _variance_line(row: Row, shown: Sequence[str]) -> list[str]:
    partition, training, *shares = row.gap[:4]
    deviations = [f"{100 * variance**0.5:.1f}" for variance in (partition, training)]
    runs = str(row.estimates["gap"].runs)
    return [*(number(row.setting[name]) for name in shown), runs, *deviations, *(f"{100 * s:.0f}" for s in shares)]


def _shown(rows: Sequence[Row]) -> list[str]:
    """The columns of a setting that a table shows."""
    return [name for name in COLUMNS if name != "corpus" or len({row.setting["corpus"] for row in rows}) > 1]


_CONSTRUCTION = "Every client is scored on the same rows, so that the gap is 0 whatever the model."


def _accuracy_line(row: Row, shown: Sequence[str]) -> list[str]:
    low, high = row.rounds
    return [
        *(number(row.setting[name]) for name in shown),
        str(row.estimates["gap"].runs),
        str(high) if low == high else f"{low} to {high}",
        *(percent(row.estimates[name]) + ("*" if row.identical and name == "gap" else "") for name in MEASURES),
    ]


def runs(picked: pa.Table, when: str) -> Table:
    """Every run under every protocol, with all measures of spread."""
    percents = ("average", "worst", "gap", "best_minus_worst", "std", "bottom_10")
    plain = ("gini", "jain")
    lines = [
        [
            *(str(run[name]) for name in ("cell", "partition_seed", "seed", "round", "protocol")),
            *(_decimal(100 * run[name], "{:.1f}") for name in percents),
            *(_decimal(run[name], "{:.3f}") for name in plain),
            str(run["worst_client"]) if run["clients"] else NONE,
        ]
        for run in picked.to_pylist()
    ]
    spread = ("avg", "worst", "gap", "best − worst", "std", "lowest 10 %", "Gini", "Jain", "worst client")
    return Table(
        name="runs",
        caption=f"Every run {when}: accuracies in %, their spread in percentage points; "
        "Gini (0 = equal) and Jain (1 = equal) have no unit.",
        columns=["cell", "partition seed", "seed", "round", "protocol", *spread],
        numeric=[False, True, True, True, False, *(True for _ in spread)],
        rows=lines,
    )


def percent(estimate: Estimate, signed: bool = False) -> str:
    """`32.2 [30.1, 34.3]`, or `32.2` without an interval; in per cent or percentage points."""
    if np.isnan(estimate.mean):
        return NONE
    sign = "+" if signed else ""
    mean = f"{100 * estimate.mean:{sign}.1f}"
    if np.isnan(estimate.low):
        return mean
    return f"{mean} [{100 * estimate.low:{sign}.1f}, {100 * estimate.high:{sign}.1f}]"


def _decimal(value: float, form: str) -> str:
    return NONE if np.isnan(value) else form.format(value)


def number(value: str | float | int) -> str:
    """Text as it is, numbers in their shortest form."""
    return value if isinstance(value, str) else f"{value:g}"


def markdown(table: Table) -> str:
    """A pipe table with its caption above and its notes below."""

    def line(entries: Sequence[str]) -> str:
        return "| " + " | ".join(plain(entry) for entry in entries) + " |"

    rule = "|" + "|".join("--:" if numeric else ":--" for numeric in table.numeric) + "|"
    body = "\n".join([line(table.columns), rule, *map(line, table.rows)])
    text = [plain(part) for part in (table.caption, *table.notes)]
    return "\n\n".join([f"**{text[0]}**", body, *text[1:]]) + "\n"


def plain(text: str) -> str:
    """Text whose letters mean nothing to Markdown."""
    return _escape(text, _MARKDOWN)


def latex(table: Table) -> str:
    r"""A `table` with `\hline`s that needs no package."""

    def line(entries: Sequence[str]) -> str:
        return " & ".join(_escape(entry, _LATEX) for entry in entries) + r" \\"

    columns = "".join("r" if numeric else "l" for numeric in table.numeric)
    body = [line(table.columns), r"\hline", *map(line, table.rows)]
    notes = [rf"\par\smallskip\footnotesize {_escape(note, _LATEX)}" for note in table.notes]
    return "\n".join(
        [
            r"\begin{table}[t]",
            r"\centering\footnotesize\setlength{\tabcolsep}{4pt}",
            rf"\caption{{{_escape(table.caption, _LATEX)}}}",
            rf"\label{{tab:{table.name}}}",
            rf"\begin{{tabular}}{{{columns}}}",
            r"\hline",
            *body,
            r"\hline",
            r"\end{tabular}",
            *notes,
            r"\end{table}",
            "",
        ]
    )


_MARKDOWN = {letter: f"\\{letter}" for letter in r"\`*_[]<>|#"} | {"\n": " "}
_LATEX = {letter: f"\\{letter}" for letter in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\(<\)",
    ">": r"\(>\)",
    "|": r"\(|\)",
    "α": r"\(\alpha\)",
    "−": r"\(-\)",
    "–": "--",
    "\n": " ",
}


def _escape(text: str, letters: dict[str, str]) -> str:
    escaped = "".join(letters.get(letter, letter) for letter in text)
    if letters is _LATEX:  # a letter that a plain pdflatex has no glyph for would stop it
        return "".join(letter if letter.isascii() else f"[U+{ord(letter):04X}]" for letter in escaped)
    return escaped
