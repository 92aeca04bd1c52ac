"""Tables and text as Markdown and LaTeX, in which no letter of a name means anything."""

from collections.abc import Sequence

from fedjax_paradox.report.tables import Table
from fedjax_paradox.text import printable


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
        text = " & ".join(_escape(entry, _LATEX) for entry in entries) + r" \\"
        return f"{{}}{text}" if text[0] in "[*" else text  # or the line break before takes it for its own

    widest = [max(map(len, column), default=0) for column in zip(*table.rows, strict=True)] or [0] * len(table.columns)
    text = [r"p{0.35\linewidth}" if width > _WRAPPED else "l" for width in widest]
    columns = "".join("r" if numeric else kind for numeric, kind in zip(table.numeric, text, strict=True))
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


_WRAPPED = 60  # letters of a column that LaTeX breaks into lines
_MARKDOWN = {letter: f"\\{letter}" for letter in r"\`*_[]<>|#&~$@"}
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
}


def _escape(text: str, letters: dict[str, str]) -> str:
    escaped = "".join(letters.get(letter, letter) for letter in printable(text.replace("\n", " ")))
    if letters is _LATEX:  # a letter that a plain pdflatex has no glyph for would stop it
        return "".join(letter if letter.isascii() else f"[U+{ord(letter):04X}]" for letter in escaped)
    return escaped.replace("://", ":\\//").replace("www.", "www\\.")  # a viewer would make a link of it
