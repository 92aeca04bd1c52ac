"""The report's files: one page that needs no network, Markdown, LaTeX tables and the figures."""

from base64 import b64encode
from collections.abc import Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedjax_paradox.report import drawing, files, markup
from fedjax_paradox.report.content import Content, gather
from fedjax_paradox.report.tables import Table
from fedjax_paradox.text import printable

PAGE, TEXT = "report.html", "report.md"


def write(
    paths: Sequence[Path], out: Path, claims_file: Path | None, cache_folder: Path, when: str | None = None
) -> Content:
    """Writes `report.html`, `report.md`, `tables/*.tex` and `figures/*.svg`, `*.pdf` of output folders to `out`.

    Equal input gives equal bytes. What cannot be read is named in the report and left out. Figures and tables that
    an earlier report left there unchanged and that are no longer made are removed.

    Args:
      when: as in `gather`.

    Raises:
      InputError: nothing can be read, the claims file is wrong, a run lacks the rounds, or `out` cannot be written.
    """
    content = gather(paths, claims_file, cache_folder, when)
    drawn = {picture.name: drawing.save(picture.figure) for picture in content.pictures}
    parts = {f"tables/{table.name}.tex": markup.latex(table).encode() for table in _tables(content)}
    parts |= {f"figures/{name}.{kind}": data for name, kinds in drawn.items() for kind, data in kinds.items()}
    page = html(content, {name: kinds["svg"] for name, kinds in drawn.items()})
    files.put(out, {**parts, TEXT: markdown(content).encode(), PAGE: page.encode()})
    return content


def html(content: Content, drawings: Mapping[str, bytes]) -> str:
    """The page; drawings: figure -> SVG, put into it as images, so that what is in them cannot act on the page."""
    environment = Environment(
        loader=PackageLoader("fedjax_paradox", "report"),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_inert,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    images = {name: f"data:image/svg+xml;base64,{b64encode(data).decode()}" for name, data in drawings.items()}
    return environment.get_template("page.html.jinja").render(content=content, images=images)


def _inert(value: object) -> object:
    """Text whose control and bidirectional characters are shown and do nothing; lines stay lines."""
    if not isinstance(value, str) or hasattr(value, "__html__"):  # markup, which comes from the template itself
        return value
    return "\n".join(map(printable, value.split("\n")))


def markdown(content: Content) -> str:
    """The same report as text, with its figures beside it."""
    parts = [f"# {markup.plain(content.title)}", _list(content.left_out, "Left out: "), _list(content.notes)]
    parts += ["## Audit", *([markup.markdown(content.audit)] if content.audit else []), _list(content.no_audit)]
    if content.claims is not None and content.verdicts is not None:
        parts.append("## Claims")
        for claim in content.claims:
            verdict = _list([f"{claim.name}: {claim.verdict}. {claim.text} ({claim.source})"])
            parts.append(f"{verdict}\n{_list(claim.reasons, indent='  ')}")
        parts.append(markup.markdown(content.verdicts))
    parts += ["## Accuracy", *map(markup.markdown, content.accuracy), "## Figures"]
    for picture in content.pictures:
        parts.append(f"![{markup.plain(picture.alt)}](figures/{picture.name}.svg)\n\n{markup.plain(picture.caption)}")
    parts.append("## What was run")
    for run in content.runs:
        parts += [f"### {markup.plain(run.title)}", _list([f"{fact.name}: {fact.value}" for fact in run.facts])]
        for heading, lines in run.told.items():
            parts += [f"{heading}:", _list(lines)]
    parts += ["## Methods", _list(content.methods), "## Every finding of the audit"]
    for partition in content.partitions:
        told = [f"{name}: {f.code}: {f.sentence}" for name, group in partition.groups.items() for f in group]
        parts += [f"### {markup.plain(partition.title)}", _list(told)]
    parts += ["## Every run", markup.markdown(content.every_run)]
    return "\n\n".join(part.strip() for part in parts if part) + "\n"


def _list(lines: Sequence[str], prefix: str = "", indent: str = "") -> str:
    return "\n".join(f"{indent}- {prefix}{markup.plain(line)}" for line in lines)


def _tables(content: Content) -> list[Table]:
    optional = [table for table in (content.verdicts, content.audit) if table is not None]
    return [*content.accuracy, *optional]
