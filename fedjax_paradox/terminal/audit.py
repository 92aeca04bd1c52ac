"""Audits as plain text of at most 80 columns, a weight table and the findings below each partition."""

import textwrap
from collections.abc import Iterator, Sequence

import numpy as np

from fedjax_paradox.evaluation.audit import Finding
from fedjax_paradox.evaluation.mixtures import effective_classes
from fedjax_paradox.sweep.audits import Audit
from fedjax_paradox.text import printable

WIDTH = 80
_NAME = 12  # letters of a class name in a table's header

Column = tuple[str, list[str]]


def report(audits: Sequence[Audit]) -> str:
    """Every partition: its cells, its clients by class, and what follows under each protocol."""
    parts = [_partition(f"partition {i} of {len(audits)}", audit) for i, audit in enumerate(audits, 1)]
    return "\n\n".join(parts)


def _partition(title: str, audit: Audit) -> str:
    train, test = audit.setting.train, audit.setting.test
    sizes = f"{train.sum():,} train and {test.sum():,} test rows, {len(train)} clients"
    lines = [
        *_wrap(f"{title}: {'; '.join(audit.cells)}", "  "),
        *_wrap(f"  {audit.corpus}, {sizes}", "  "),
        "",
        *_table(audit),
        "",
        *_findings(audit.partition),
    ]
    for protocol, findings in audit.protocols.items():
        lines += [printable(f"under protocol {protocol}"), *_findings(findings)]
    return "\n".join(lines)


def _table(audit: Audit) -> Iterator[str]:
    """Train rows by client and class, then rows, effective classes, and shares and weights in per cent."""
    setting = audit.setting
    rows = setting.train.sum(axis=1)
    columns: list[Column] = [
        (printable(name)[:_NAME], [f"{count:,}" for count in (*setting.train[:, c], setting.test[c])])
        for c, name in enumerate(audit.classes)
    ]
    columns.append(("rows", [f"{count:,}" for count in (*rows, setting.test.sum())]))
    kinds = effective_classes(np.vstack([setting.train, setting.test]))
    columns.append(("kinds", [f"{number:.1f}" for number in kinds]))
    columns.append(("share", _percent(rows / rows.sum())))
    named = [(rule, leaves, w) for rule, ws in audit.weights.items() for leaves, w in (ws or {}).items()]
    columns += [(f"w{i}", _percent(weight)) for i, (_, _, weight) in enumerate(named, 1)]
    names: Column = ("client", [*map(str, range(len(rows))), "test"])
    yield from _blocks(names, columns)
    yield "kinds: effective number of classes, exp(entropy)"
    yield "share: of all train rows, %" + ("; weights of the rules, %:" if named else "")
    for i, (rule, leaves, _) in enumerate(named, 1):
        yield printable(f"  w{i}: {rule}, {leaves}")


def _blocks(names: Column, columns: Sequence[Column]) -> Iterator[str]:
    """The columns side by side, in as many blocks as the width asks for, each beginning with the names."""
    block, used = [names], _width(names)
    for column in columns:
        if used + 2 + _width(column) > WIDTH:
            yield from (*_lines(block), "")
            block, used = [names], _width(names)
        block.append(column)
        used += 2 + _width(column)
    yield from _lines(block)


def _lines(block: Sequence[Column]) -> Iterator[str]:
    for cells in zip(*([head, *entries] for head, entries in block), strict=True):
        yield "  ".join(cell.rjust(_width(column)) for cell, column in zip(cells, block, strict=True)).rstrip()


def _width(column: Column) -> int:
    return max(map(len, [column[0], *column[1]]))


def _percent(shares: np.ndarray) -> list[str]:
    return [f"{100 * share:.1f}" for share in shares] + [""]


def _findings(findings: Sequence[Finding]) -> list[str]:
    return [line for one in findings for line in _wrap(f"  {one.code}: {one.sentence}", "    ")]


def _wrap(text: str, indent: str) -> list[str]:
    return textwrap.wrap(printable(text), WIDTH, subsequent_indent=indent, break_on_hyphens=False)
