"""The command line: arguments, progress, tables, exit codes. A person's mistake exits with code 2."""

import logging
import os
import sys
import time
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from fedjax_paradox.config import cells, content_hash, load
from fedjax_paradox.errors import InputError, unwritable
from fedjax_paradox.text import printable

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)


# Exit codes: a person's mistake or a full disk; a sweep of which a cell diverged, the others being finished.
MISTAKE, DIVERGED = 2, 3

log = logging.getLogger(__name__)


def main() -> None:
    """Entry point of `fedjax-paradox`."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("fedjax_paradox").setLevel(logging.INFO)
    if sys.stdout is None:  # started with a closed one
        sys.stdout = Path(os.devnull).open("w")  # noqa: SIM115  (for as long as the process lives)
    _hear_once()
    try:
        # A person's own `module:function` lies beside them; last, so that it hides nothing.
        sys.path.append(str(_working_directory()))
        app()
    except InputError as error:
        _end(str(error))
    except OSError as error:
        _end(str(unwritable(error.filename or "the output", error)))
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):  # of which typer makes an exit without a word
            _end("nobody reads the output any more; the same command goes on after the last finished round")
        raise


def _hear_once() -> None:
    """What Orbax and TensorStore print page after page of a full disk is raised as well, and said once."""
    logging.getLogger("absl").setLevel(logging.CRITICAL)
    usual = sys.unraisablehook

    def hook(ignored: "sys.UnraisableHookArgs") -> None:
        if str(ignored.exc_value) != "Event loop is closed":
            usual(ignored)

    sys.unraisablehook = hook


def _end(message: str) -> NoReturn:
    told = "\n".join(map(printable, message.splitlines()))
    Console(stderr=True, highlight=False, soft_wrap=True).print(f"error: {told}", style="red", markup=False)
    sys.exit(MISTAKE)


def _working_directory() -> Path:
    try:
        return Path.cwd()
    except FileNotFoundError as error:
        raise InputError("the working directory no longer exists; change to another one") from error


@app.callback()
def _describe() -> None:
    """Federated text classification, measured by the client that a model leaves behind."""


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="An experiment, e.g. configs/quickstart.yaml.", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; by default runs/NAME-HASH.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and stop.")] = False,
    distributed: Annotated[bool, typer.Option("--distributed", help="One process of a Slurm job or TPU pod.")] = False,
    coordinator: Annotated[str | None, typer.Option(help="Elsewhere: HOST:PORT of process 0.")] = None,
    num_processes: Annotated[int | None, typer.Option(help="With --coordinator: how many processes.")] = None,
    process_id: Annotated[int | None, typer.Option(help="With --coordinator: which of them, from 0.")] = None,
    retry_diverged: Annotated[bool, typer.Option("--retry-diverged", help="Train diverged cells again.")] = False,
) -> None:
    """Run an experiment; the same command again goes on where it stopped."""
    experiment = load(config, overrides or [])
    # JAX takes seconds to import, and a mistake in the config should not wait for it.
    import jax

    from fedjax_paradox.sweep import hosts
    from fedjax_paradox.sweep.plan import plan
    from fedjax_paradox.sweep.program import prepare
    from fedjax_paradox.sweep.run import begin, train
    from fedjax_paradox.terminal import display

    cache = cache_folder()
    if _writable(cache):
        jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    processes = (coordinator, num_processes, process_id)
    if distributed or processes != (None, None, None):
        hosts.join(*processes)
    programs = prepare(cells(experiment), cache)
    plans = [plan(experiment, program) for program in programs]
    console = Console(highlight=False, soft_wrap=True, quiet=not hosts.is_writer())
    console.print(display.plans(programs, plans), markup=False)
    if dry_run:
        return
    out = out or Path("runs") / f"{experiment.name}-{content_hash(experiment)[:8]}"
    began = time.monotonic()
    with begin(experiment, programs, out, retry_diverged) as study:
        if already := display.standing(study.standing):
            console.print(f"{printable(str(out))}: {already}", markup=False)
        planned = {id(program): cost for program, cost in zip(programs, plans, strict=True)}
        left = [planned.get(id(program)) or plan(experiment, program) for program in study.programs]
        with display.progress(console, study.programs, left) as notify:
            ended = train(study, notify)
    entries = [ended.entries[name] for name in ended.ranks]
    console.print(display.accuracies(ended.table, entries))
    where = printable(str(out / "clients.parquet"))
    console.print(f"{time.monotonic() - began:.0f} s. Results: {where}", markup=False)
    if told := display.divergences(entries):
        console.print(told, markup=False)
        raise typer.Exit(DIVERGED)


@app.command()
def audit(
    config: Annotated[Path, typer.Argument(help="An experiment, e.g. configs/quickstart.yaml.", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)] = None,
) -> None:
    """Say what partitions, protocols and rules decide before any training: equal scores, noise, weights."""
    experiment = load(config, overrides or [])
    from fedjax_paradox.sweep import audits
    from fedjax_paradox.terminal import audit as audit_text

    every, theirs = cells(experiment), audits.in_output_folder(config)
    for line in audits.not_run(every) if theirs else ():
        typer.echo(f"note: {printable(line)}", err=True)
    typer.echo(audit_text.report(audits.audit(every, cache_folder(), own_code=not theirs)))


@app.command()
def report(
    folders: Annotated[
        list[Path], typer.Argument(metavar="DIR...", help="Output folders of runs.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Where to write it; by default DIR/report.")] = None,
    claims: Annotated[Path | None, typer.Option(help="Claims to judge, e.g. experiments/paper/claims.yaml.")] = None,
    rounds: Annotated[
        str | None,
        typer.Option(help="'last', 'round N' or 'mean of last N'; by default last, and in claims the published ones."),
    ] = None,
) -> None:
    """Write a page, Markdown, LaTeX tables and figures of one or several output folders."""
    if out is None and len(folders) > 1:
        raise InputError(f"a report of {len(folders)} folders needs a place of its own; add --out FOLDER")
    from fedjax_paradox.report import page

    out = out or folders[0] / "report"
    content = page.write(folders, out, claims, cache_folder(), rounds)
    console = Console(highlight=False, soft_wrap=True)
    for line in (*content.left_out, *content.no_audit):
        console.print(f"note: {line}", markup=False)
    console.print(f"Report: {printable(str(out / page.PAGE))}", markup=False)


def cache_folder() -> Path:
    """Where tokenised corpora, fetched weights and compiled programs stay; FEDJAX_PARADOX_CACHE overrides it."""
    if given := os.environ.get("FEDJAX_PARADOX_CACHE"):
        return Path(given)
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "fedjax_paradox"
    try:
        return Path.home() / ".cache" / "fedjax_paradox"
    except RuntimeError as error:
        raise InputError("there is no home folder to keep a cache in; set FEDJAX_PARADOX_CACHE to a folder") from error


def _writable(folder: Path) -> bool:
    """Whether programs can be kept there; else a line says that they are not."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.write_bytes(bytes(1))
        probe.unlink()
    except OSError as error:
        log.warning("the cache %s cannot be written (%s): nothing is kept there", folder, error.strerror)
        return False
    return True
