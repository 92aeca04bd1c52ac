"""The parts of a report in their order, the same for the page and for Markdown."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from fedjax_paradox.evaluation.audit import Finding
from fedjax_paradox.report.content import Content
from fedjax_paradox.report.origin import Run
from fedjax_paradox.report.picture import CLIENTS, METHODS, ROUNDS, SIZES, SKEW, VERDICTS, WORST, Picture
from fedjax_paradox.report.tables import Table


class Part(NamedTuple):
    """What stands under one heading, in this order."""

    title: str
    name: str = ""  # anchor
    warnings: Sequence[str] = ()
    lines: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    notes: Sequence[str] = ()
    facts: Mapping[str, Sequence[str]] = {}
    code: str = ""
    folded: Sequence["Part"] = ()


_TITLES = {
    SKEW: "With more or less label skew",
    CLIENTS: "With more clients",
    SIZES: "Parameters or pretraining",
    ROUNDS: "Round by round",
    WORST: "Who is worst",
    METHODS: "Methods compared",
}


def first(content: Content) -> Part:
    """The first screen, under the report's title, with the figures that answer what was asked."""
    drawn = _drawn(content, _lead(content))
    tables, notes = content.verdicts[:1], [" ".join(content.footnotes)]
    missing = [f"Left out: {line}" for line in content.left_out]
    return Part(content.title, "answer", missing, content.sentences, drawn, tables, notes)


def _lead(content: Content) -> str:
    there = {picture.part for picture in content.pictures}
    leads = (VERDICTS, METHODS, SKEW, SIZES)
    return next((name for name in leads if name in there), "")


def _drawn(content: Content, part: str) -> list[Picture]:
    return [picture for picture in content.pictures if picture.part == part]


def parts(content: Content) -> list[Part]:
    """Everything after the first screen; details are folded."""
    later = {name: _drawn(content, name) for name in _TITLES if name != _lead(content)}
    details = [
        *_claims(content),
        Part("Every mean, protocol by protocol", "accuracy", tables=content.accuracy),
        Part("Every run", "every", tables=[content.every_run]),
        _audit(content),
        Part("What was run", "run", lines=content.notes, folded=[*map(_run, content.runs)]),
        Part("How it was computed", "computed", lines=content.methods),
    ]
    shown = [Part(_TITLES[name], name, pictures=drawn) for name, drawn in later.items() if drawn]
    return [*shown, Part("In detail", "detail", folded=details)]


def _claims(content: Content) -> list[Part]:
    reasons = {f"{one.name}: {one.verdict}": [f"{one.text} ({one.source})", *one.reasons] for one in content.claims}
    comparisons = content.verdicts[1:]
    return [Part("Every comparison of the claims, and why", "claims-why", tables=comparisons, facts=reasons)] * bool(
        reasons
    )


def _audit(content: Content) -> Part:
    found = [Part(one.title, facts=_findings(one.groups)) for one in content.partitions]
    tables = [content.audit] if content.audit else []
    return Part("Audit: what the partitions alone decide", "audit", content.no_audit, tables=tables, folded=found)


def _findings(groups: Mapping[str, Sequence[Finding]]) -> dict[str, list[str]]:
    return {protocol: [f"{one.sentence} ({one.code})" for one in findings] for protocol, findings in groups.items()}


def _run(run: Run) -> Part:
    told = [f"{heading}: {line}" for heading, lines in run.told.items() for line in lines]
    return Part(run.title, warnings=told, facts={name: [value] for name, value in run.facts.items()}, code=run.config)
