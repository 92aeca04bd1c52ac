"""The report's files: one page that needs no network, Markdown, LaTeX tables and the figures."""

from base64 import b64encode
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined

from fedjax_paradox.report import drawing, files, markup, outline
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
    template = environment.get_template("page.html.jinja")
    return template.render(first=outline.first(content), parts=outline.parts(content), images=images)


def _inert(value: object) -> object:
    """Text whose control and bidirectional characters are shown and do nothing; lines stay lines."""
    if not isinstance(value, str) or hasattr(value, "__html__"):  # markup, which comes from the template itself
        return value
    return "\n".join(map(printable, value.split("\n")))


def markdown(content: Content) -> str:
    """The same report as text, with its figures beside it; configurations are those of the folders."""
    parts = [*_markdown(outline.first(content), 1)]
    for part in outline.parts(content):
        parts += _markdown(part, 2)
    return "\n\n".join(text.strip() for text in parts if text) + "\n"


def _markdown(part: outline.Part, level: int) -> Iterator[str]:
    """A part under a heading, what is folded in it as HTML's details."""
    if level:
        yield f"{'#' * level} {markup.plain(part.title)}"
    yield _list(part.warnings)
    yield "\n\n".join(map(markup.plain, part.lines)) if level == 1 else _list(part.lines)
    for picture in part.pictures:
        yield f"![{markup.plain(picture.alt)}](figures/{picture.name}.svg)\n\n{markup.plain(picture.caption)}"
    yield from map(markup.markdown, part.tables)
    yield from map(markup.plain, part.notes)
    for name, lines in part.facts.items():
        yield f"**{markup.plain(name)}**\n{_list(lines)}" if len(lines) > 1 else _list([f"{name}: {lines[0]}"])
    for folded in part.folded:
        yield f"<details><summary>{markup.plain(folded.title)}</summary>"
        yield from _markdown(folded, 0)
        yield "</details>"


def _list(lines: Sequence[str]) -> str:
    return "\n".join(f"- {markup.plain(line)}" for line in lines)


def _tables(content: Content) -> list[Table]:
    return [*content.verdicts, *content.accuracy, *([content.audit] if content.audit else [])]
