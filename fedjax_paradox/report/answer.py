"""What a reader is told first: a title and a few sentences."""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from fedjax_paradox.analysis import verdicts
from fedjax_paradox.analysis.statistics import FEWEST
from fedjax_paradox.report.judged import with_data
from fedjax_paradox.report.tables import Row, is_reference, number, percent
from fedjax_paradox.report.view import View

_FIRST = 4  # names in a sentence before "and so many more"


def title(view: View, judged: Sequence[verdicts.Verdict]) -> str:
    """What the report is about."""
    models, corpora = (
        # Without the settings behind a name, of which there may be many.
        _listed(dict.fromkeys(value.partition(",")[0] for value in _values(view.rows, name)), 3)
        for name in ("model", "corpus")
    )
    if judged:
        shown = with_data(judged)
        kind = "published claim" if all(one.claim.is_published for one in shown) else "claim"
        claims = f"{len(shown)} {kind}s" if len(shown) > 1 else f"A {kind}"
        return f"{claims} about the worst client, tested with {models} on {corpora}"
    if len({row.setting["rule"] for row in view.rows}) > 1:
        return f"Which method serves the worst client best? {models} on {corpora}"
    return f"How the worst client fares: {models} on {corpora}"


def sentences(view: View, judged: Sequence[verdicts.Verdict]) -> list[str]:
    """At most five: what was run, and what came out."""
    return [_run(view), *(_on_claims(judged) if judged else _on_rows(view))]


def _run(view: View) -> str:
    partitions = sorted({row.estimates["gap"].partitions for row in view.rows})
    alphas = _listed(map(number, _values(view.rows, "alpha")), 6)
    clients = _listed(map(str, _values(view.rows, "num_clients")), 6)
    cells, most = len(set(view.measured["cell"].to_pylist())), partitions[-1]
    span = str(most) if len(partitions) == 1 else f"{partitions[0]} to {most}"
    return (
        f"{cells} runs of {_listed(_values(view.rows, 'model'))} on {_listed(_values(view.rows, 'corpus'))}, α = "
        f"{alphas}; {clients} clients; {span} partition{'' if most == 1 else 's'} of each setting; accuracies "
        f"{view.when}."
    )


def _on_claims(judged: Sequence[verdicts.Verdict]) -> Iterator[str]:
    """The first decided claim, or the first with data; the decided, the others, and what the protocols change."""
    first = min(judged, key=lambda one: (one.verdict in _OPEN, one.verdict == verdicts.NO_DATA))
    yield f"{first.claim.text.rstrip('.')}: {first.verdict}{_measured(first.matched.get(first.claim.matched[0]))}."
    groups: dict[str, list[str]] = {}
    for one in judged:
        groups.setdefault(one.verdict, []).append(one.claim.id)
    left = {verdict: groups.pop(verdict) for verdict in _OPEN if verdict in groups}
    decided = [f"{verdict}: {_listed(names)}" for verdict, names in groups.items()]
    yield f"Decided, with one protocol for both sides: {'; '.join(decided) or f'none of {len(judged)} claims'}."
    if left:
        told = [f"{len(names)} {_OPEN[kind]} ({_listed(names)})" for kind, names in left.items()]
        yield f"Not decided: {'; '.join(told)}."
    published = [one for one in with_data(judged) if one.claim.is_published]
    other = [f"{one.claim.id} ({one.mix.verdict})" for one in published if one.mix.verdict != one.verdict]
    if published:
        yield "As published, each side under its own protocol, " + (
            f"{len(other)} of {len(published)} verdicts would be different: {_listed(other)}."
            if other
            else "no verdict would be different."
        )


_OPEN = {
    verdicts.UNDECIDED: "undecided",
    verdicts.TOO_FEW: f"on fewer than the {FEWEST} partitions that a verdict needs",
    verdicts.NO_DATA: "without data",
}


def _measured(outcome: verdicts.Outcome | None) -> str:
    if outcome is None or outcome.floored is None:
        return ""
    a, b = outcome.selected
    sides = [", ".join(number(side[name]) for name in side if a[name] != b[name]) for side in (a, b)]
    told = f"{sides[0]} − {sides[1]} = {percent(outcome.floored, signed=True)} points under {outcome.protocols[0]}"
    published = "" if outcome.published != outcome.published else f"; published {100 * outcome.published:+.1f}"
    return f" ({told}{published})"


def _on_rows(view: View) -> Iterator[str]:
    """Without claims: the largest gap, what the protocol changes, and the method that serves the worst best."""
    rows = [row for row in view.rows if row.setting["protocol"] == view.protocol and not is_reference(row.setting)]
    known = [row for row in rows if row.estimates["gap"].value == row.estimates["gap"].value]
    if not known:
        return
    widest = max(known, key=lambda row: row.estimates["gap"].value)
    mean, worst, gap = (percent(widest.estimates[name]) for name in ("average", "worst", "gap"))
    yield (
        f"Under {view.protocol} the widest gap is that of {_setting(widest)}: {gap} points, the mean client at "
        f"{mean} %, the worst at {worst} %."
    )
    like = [row for row in view.rows if _differ(row, widest) <= {"protocol"} and row.setting["protocol"] != "global"]
    if len(like) > 1:
        gaps = [f"{row.setting['protocol']} {percent(row.estimates['gap'])}" for row in like]
        yield f"By protocol the gap of these predictions is, in points: {_listed(gaps, len(gaps))}."
    for column, name in (("model", "model"), ("rule", "method")):
        rivals = [row for row in view.rows if _differ(row, widest) <= {column}]
        if len(rivals) > 1:
            told = [f"{row.setting[column]} {percent(row.estimates['worst'])}" for row in _by_worst(rivals)]
            yield f"The worst client by {name}, in %: {_listed(told, 6)}."


def _by_worst(rows: Sequence[Row]) -> list[Row]:
    known = [row for row in rows if row.estimates["worst"].value == row.estimates["worst"].value]
    return sorted(known, key=lambda row: -row.estimates["worst"].value)


def _differ(row: Row, other: Row) -> set[str]:
    return {name for name, value in row.setting.items() if value != other.setting[name]}


def _setting(row: Row) -> str:
    own = row.setting
    return f"{own['model']} on {own['corpus']}, {own['rule']}, α = {number(own['alpha'])}, {own['num_clients']} clients"


def _values(rows: Sequence[Row], name: str) -> list[Any]:
    return sorted({row.setting[name] for row in rows})


def _listed(values: Iterable[str], most: int = _FIRST) -> str:
    names = [str(value) for value in values]
    more = [f"{len(names) - most + 1} more"] if len(names) > most else []
    names = names[: most - 1] + more if more else names
    return " and ".join(filter(None, [", ".join(names[:-1]), *names[-1:]]))
