"""The pages of docs/: every command and every block of code is run, or checked against what runs.

- `console`: `$` commands are run, and what they print is compared; `...` stands for anything.
- `bash`: bash reads it, with stand-ins for the commands; `fedjax-paradox` lines must be accepted by its parser, and
  their config and overrides by the package.
- `python` and `pycon`: run, one after the other; with a title it is a file that is written.
- `yaml`: with a title a file that is written and loaded; else keys of an experiment, or of its grid.
- `text`: shown, not checked.
"""

import contextlib
import doctest
import importlib.util
import inspect
import io
import json
import re
import runpy
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import toy
import typer
import yaml

import fedjax_paradox
from fedjax_paradox import cli
from fedjax_paradox.analysis import claims
from fedjax_paradox.config import load
from fedjax_paradox.federated.local import OPTIMIZERS
from fedjax_paradox.federated.methods import RULES
from fedjax_paradox.federated.objectives import OBJECTIVES

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(path.name for path in DOCS.glob("*.md"))
# Commands of the pages that are not this package's: bash is given stand-ins.
OTHERS = ("python3", "pip", ".venv/bin/pip", "experiments/paper/laptop.sh", "experiments/paper/eight.sh")
# One write a line: two commands may run side by side.
STAND_IN = '#!/bin/bash\nprintf "%s\\n" "$(printf "%q " "$@")" >> "$SEEN"\n'

pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Block(NamedTuple):
    language: str
    title: str
    text: str


def blocks(page: str) -> list[Block]:
    found = re.findall(r'^```(\w+)(?: title="([^"\n]+)")?\n(.*?)^```$', (DOCS / page).read_text("utf-8"), re.S | re.M)
    return [Block(*one) for one in found]


def test_no_block_escapes_the_checks():
    for page in PAGES:
        assert (DOCS / page).read_text("utf-8").count("```") == 2 * len(blocks(page)), page
        assert {block.language for block in blocks(page)} <= {"console", "bash", "python", "pycon", "yaml", "text"}, (
            page
        )


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Iterator[Path]:
    """A working directory like a checkout, with the files that the first page writes."""
    place = tmp_path_factory.mktemp("docs")
    for name in ("configs", "experiments"):
        (place / name).symlink_to(ROOT / name)
    with pytest.MonkeyPatch.context() as patch, toy.compilation_cached(place):
        patch.syspath_prepend(place)
        patch.setenv("FEDJAX_PARADOX_CACHE", str(place / "cache"))
        patch.chdir(place)
        patch.setattr(sys, "path", [*sys.path])
        follow("index.md", place)
        yield place


@pytest.mark.conformance
@pytest.mark.parametrize("page", [page for page in PAGES if page != "index.md"])
def test_the_blocks_of_a_page(page, folder, monkeypatch):
    """Those of the first page are run for all others."""
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", [*sys.path])
    follow(page, folder)


@pytest.mark.conformance
def test_the_cells_of_the_tour(tmp_path, monkeypatch):
    """Run one after the other, as in a notebook; what they show is a person's to look at."""
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.setenv("FEDJAX_PARADOX_CACHE", str(tmp_path))
    names: dict = {}
    cells = json.loads((DOCS / "tour.ipynb").read_text("utf-8"))["cells"]
    for cell in cells:
        if cell["cell_type"] == "code":
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)  # noqa: S102
    assert names["probabilities"].sum(axis=1) == pytest.approx(1.0, rel=1e-5)
    assert not any(output["output_type"] == "error" for cell in cells for output in cell.get("outputs", []))


def follow(page: str, folder: Path) -> None:
    """Does what the page says, in `folder`, which is the working directory."""
    names: dict = {}
    for block in blocks(page):
        if block.title:
            Path(block.title).write_text(block.text, encoding="utf-8")
        if block.language == "console":
            transcript(block.text)
        elif block.language == "bash":
            understood(block.text, folder)
        elif block.language == "pycon":
            examples(block.text, names, page)
        elif block.language == "python" and not block.title:
            exec(compile(block.text, page, "exec"), names)  # noqa: S102  (what the page tells a person to run)
        elif block.language == "yaml":
            settings(block)


def transcript(text: str) -> None:
    """Runs the `$` lines in this process and compares what they print with the lines below each."""
    for part in re.split(r"^\$ ", text, flags=re.M)[1:]:
        command, _, expected = part.partition("\n")
        printed = called(shlex.split(command))
        flags = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
        assert doctest.OutputChecker().check_output(expected, printed, flags), f"{command}\n{printed}"


def called(arguments: list[str]) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as told, contextlib.redirect_stderr(told):
        if arguments[0] == "python":
            runpy.run_path(arguments[1])
            return told.getvalue()
        assert arguments[0] == "fedjax-paradox"
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(SystemExit):
            patch.setattr(sys, "argv", arguments)
            cli.main()
        return told.getvalue()


def understood(text: str, folder: Path) -> None:
    """bash reads the lines, and each command of this package is one that it would take."""
    stand_ins, seen = folder / "bin", folder / "seen"
    stand_ins.mkdir(exist_ok=True)
    seen.unlink(missing_ok=True)
    (stand_ins / "fedjax-paradox").write_text(STAND_IN)
    (stand_ins / "fedjax-paradox").chmod(stat.S_IRWXU)
    given = [f"{name}() {{ :; }}" for name in OTHERS]
    given += ['source() { :; }; srun() { "$@"; }; sbatch() { test -f "$1" && fedjax-paradox run "${@:2}"; }']
    given += ["set -euo pipefail", text, "wait"]
    environment = {"PATH": str(stand_ins), "SEEN": str(seen), "HOME": str(folder)}
    subprocess.run(["/bin/bash", "-c", "\n".join(given)], check=True, env=environment, cwd=folder)
    for line in seen.read_text().splitlines() if seen.exists() else ():
        accepted(shlex.split(line))


def accepted(arguments: list[str]) -> None:
    name, *rest = arguments
    context = typer.main.get_command(cli.app).commands[name].make_context(name, rest)
    if name in ("run", "audit"):
        load(context.params["config"], context.params["overrides"] or [])


def examples(text: str, names: dict, page: str) -> None:
    test = doctest.DocTestParser().get_doctest(text, names, page, page, 0)
    told: list[str] = []
    runner = doctest.DocTestRunner()
    runner.run(test, out=told.append, clear_globs=False)
    names.update(test.globs)
    assert not runner.failures, "".join(told)


def settings(block: Block) -> None:
    if "claims" in block.title:
        assert claims.load(block.title)
    elif block.title:
        load(block.title)
    else:
        fedjax_paradox.load({"name": "part", **yaml.safe_load(block.text)})


# What is listed is what there is


def test_the_command_line_is_that_of_the_code():
    spec = importlib.util.spec_from_file_location("write_cli", DOCS / "write_cli.py")
    write_cli = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(write_cli)
    text = (DOCS / "cli.md").read_text("utf-8")
    assert text == write_cli.page(), "write it anew: python docs/write_cli.py > docs/cli.md"
    sections = dict(re.findall(r"^## `fedjax-paradox (\w+).*?`\n(.*?)(?=^## |\Z)", text, re.S | re.M))
    commands = typer.main.get_command(cli.app).commands
    assert sections.keys() == commands.keys()
    for name, command in commands.items():
        options = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
        assert set(re.findall(r"^\| `(--[a-z-]+)", sections[name], re.M)) == options - {"--help"}, name


def directives(page: str) -> set[str]:
    return set(re.findall(r"^::: (\S+)$", (DOCS / page).read_text("utf-8"), re.M))


def place(function: object) -> str:
    return f"{function.__module__}.{function.__qualname__}"


def test_every_method_has_its_place():
    listed = directives("methods.md")
    named = {place(function) for table in (RULES, OBJECTIVES, OPTIMIZERS) for function in table.values()}
    assert named <= listed
    assert listed - named == {"fedjax_paradox.federated.methods.server"}


def test_every_public_name_has_its_place():
    text, listed = (DOCS / "api.md").read_text("utf-8"), directives("api.md") | directives("methods.md")
    for name in fedjax_paradox.__all__:
        public = getattr(fedjax_paradox, name)
        if callable(public):
            assert place(public) in listed, name
            assert f"fp.{name}" in text, name
        elif name != "__version__":
            assert f"`fp.{name}`" in text


def test_what_is_documented_exists_and_says_what_it_is():
    for page in PAGES:
        for path in directives(page):
            module, _, name = path.rpartition(".")
            documented = getattr(importlib.import_module(module), name)
            assert inspect.getdoc(documented), path


def test_every_finding_of_an_audit_is_explained():
    sources = "".join((ROOT / "fedjax_paradox" / "evaluation" / "audit.py").read_text("utf-8").split("\n"))
    codes = set(re.findall(r'Finding\(\s*"([a-z-]+)"', sources))
    assert len(codes) > 10
    assert codes == set(re.findall(r"`([a-z]+(?:-[a-z]+)+)`(?=[^|\n]*\|)", table("protocols.md", "| finding |")))


def table(page: str, head: str) -> str:
    text = (DOCS / page).read_text("utf-8")
    return text[text.index(head) :].split("\n\n")[0]


def test_pages_speak_of_files_that_exist():
    for page in PAGES:
        for path in re.findall(r"`((?:configs|experiments|tests|docs)/[\w./-]+)`", (DOCS / page).read_text("utf-8")):
            assert (ROOT / path).exists(), f"{page}: {path}"


def test_rules_that_keep_no_leaves_are_those_that_the_page_names():
    """`questions.md` says whose weights are known before training."""
    given = {"num_clients": 3, "is_adapter": lambda path: False, "lora_scale": 1.0, "beta": 1.0}  # noqa: ARG005
    ahead = set()
    for name, build in RULES.items():
        taken = {key: value for key, value in given.items() if key in inspect.signature(build).parameters}
        ahead |= {name} if build(**taken).ahead else set()
    servers = {"fedavgm", "fedadagrad", "fedadam", "fedyogi"}
    assert ahead - servers - {"centralised", "ffa_lora"} == {"fedavg", "uniform", "fedavgw", "term", "afl"}
    assert servers <= ahead
