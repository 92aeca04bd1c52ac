"""The command line: arguments, progress, tables, exit codes. A person's mistake exits with code 2."""

import logging
import os
import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console

import fedjax_paradox
from fedjax_paradox.analysis.opening import open_folder, runs_in
from fedjax_paradox.api import default_folder, open_model, open_results
from fedjax_paradox.cachefiles import cache_folder
from fedjax_paradox.config import Experiment, cells, load
from fedjax_paradox.config.examples import examples
from fedjax_paradox.errors import InputError, unwritable
from fedjax_paradox.text import printable

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False)


# Exit codes: a person's mistake or a full disk; a sweep of which a cell diverged, the others being finished; Ctrl-C.
MISTAKE, DIVERGED, STOPPED = 2, 3, 130

log = logging.getLogger(__name__)


class Tracker(StrEnum):
    """Where curves of a run can be looked at."""

    TENSORBOARD = "tensorboard"
    MLFLOW = "mlflow"
    WANDB = "wandb"
    TRACKIO = "trackio"


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


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"fedjax-paradox {fedjax_paradox.__version__}")
        raise typer.Exit


@app.callback()
def _describe(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say the version, and stop.")
    ] = False,
) -> None:
    """Federated text classification, measured by the client that a model leaves behind.

    Exit codes: 0; 2 for a mistake or a full disk; 3 where a cell of a run diverged; 130 after Ctrl-C.
    """


@app.command()
def run(
    config: Annotated[Path, typer.Argument(help="An experiment, e.g. configs/quickstart.yaml.", show_default=False)],
    overrides: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", show_default=False)] = None,
    out: Annotated[Path | None, typer.Option(help="Output folder; by default runs/NAME-HASH.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would run, and stop.")] = False,
    target: Annotated[
        str | None, typer.Option(help="With --dry-run: compile for an accelerator that is not here: v5e:2x2, h100:8.")
    ] = None,
    distributed: Annotated[bool, typer.Option("--distributed", help="One process of a Slurm job or TPU pod.")] = False,
    coordinator: Annotated[str | None, typer.Option(help="Elsewhere: HOST:PORT of process 0.")] = None,
    num_processes: Annotated[int | None, typer.Option(help="With --coordinator: how many processes.")] = None,
    process_id: Annotated[int | None, typer.Option(help="With --coordinator: which of them, from 0.")] = None,
    retry_diverged: Annotated[bool, typer.Option("--retry-diverged", help="Train diverged cells again.")] = False,
    track: Annotated[Tracker | None, typer.Option(help="Write curves for it, below the output folder.")] = None,
) -> None:
    """Run an experiment; the same command again goes on where it stopped."""
    experiment = load(config, overrides or [])
    # JAX takes seconds to import, and a mistake in the config should not wait for it.
    import jax

    from fedjax_paradox import tracking
    from fedjax_paradox.sweep import hosts
    from fedjax_paradox.sweep.plan import plan
    from fedjax_paradox.sweep.program import prepare
    from fedjax_paradox.sweep.run import Event, begin, train
    from fedjax_paradox.terminal import display
    from fedjax_paradox.terminal.runlog import logged

    if track:
        tracking.check(track)
    _check_target(target, dry_run)
    cache = cache_folder()
    if _writable(cache):
        jax.config.update("jax_compilation_cache_dir", str(cache / "xla"))
    processes = (coordinator, num_processes, process_id)
    if distributed or processes != (None, None, None):
        hosts.join(*processes)
    out, began = out or default_folder(experiment), time.monotonic()
    console = Console(highlight=False, soft_wrap=True, quiet=not hosts.is_writer())
    if not dry_run:
        console.print(f"Output: {printable(str(out))}", markup=False)
    programs = prepare(cells(experiment), cache, "accelerator" if target else None)
    plans = [plan(experiment, program) for program in programs]
    console.print(display.plans(programs, plans), markup=False)
    if dry_run:
        _compile_for(target, experiment, programs)
        return
    with (
        begin(experiment, programs, out, retry_diverged) as study,
        logged(out, hosts.is_writer() and bool(study.programs)) as log,
    ):
        log(display.plans(programs, plans))
        if already := display.standing(study.standing):
            console.print(f"{printable(str(out))}: {already}", markup=False)
        planned = {id(program): cost for program, cost in zip(programs, plans, strict=True)}
        left = [planned.get(id(program)) or plan(experiment, program) for program in study.programs]
        with display.progress(console, study.programs, left, log) as notify, _curves(study, track) as curves:

            def both(event: Event) -> None:
                notify(event)
                curves(event)

            try:
                ended = train(study, both)
            except KeyboardInterrupt as stopped:
                log(told := display.stopped(out))
                console.print(told, markup=False)
                raise typer.Exit(STOPPED) from stopped
    entries = [ended.entries[name] for name in ended.ranks]
    console.print(display.accuracies(ended.table, entries))
    where = printable(str(out / "clients.parquet"))
    console.print(f"{time.monotonic() - began:.0f} s. Results: {where}", markup=False)
    if told := display.divergences(entries):
        console.print(told, markup=False)
        raise typer.Exit(DIVERGED)


def _curves(study: Any, track: Tracker | None) -> Any:
    """A context whose value is told of every event, and writes a tracker's curves where one is asked for."""
    from fedjax_paradox import tracking
    from fedjax_paradox.sweep import hosts

    if track is None or not hosts.is_writer():
        return nullcontext(lambda event: None)  # noqa: ARG005
    settings = {cell.name: cell.model_dump(mode="json") for cell in cells(study.experiment)}
    return tracking.curves(track, study.experiment.name, settings, study.out)


def _check_target(target: str | None, dry_run: bool) -> None:
    import jax

    from fedjax_paradox.sweep.target import check

    if target is None:
        return
    if not dry_run:
        raise InputError("--target compiles for a machine that is not here, and runs nothing; add --dry-run")
    check(target)
    jax.config.update("jax_platforms", "cpu")  # the compiler for TPUs makes JAX look for one
    jax.config.update("jax_enable_compilation_cache", False)  # from which no program for another machine can be read


def _compile_for(target: str | None, experiment: Experiment, programs: Sequence[Any]) -> None:
    from fedjax_paradox.sweep.target import compiled
    from fedjax_paradox.terminal import display

    for program in programs if target else ():
        _print(display.compiled(program, compiled(experiment, program, str(target))))


@app.command("list")
def list_(
    folder: Annotated[Path, typer.Argument(help="A folder of runs.")] = Path("runs"),
    as_json: Annotated[bool, typer.Option("--json", help="For machines.")] = False,
) -> None:
    """List the runs in a folder: cells, rounds, how they stand."""
    from fedjax_paradox.terminal import listing

    found = listing.runs(folder)
    _print(listing.as_json(found) if as_json else listing.as_table(found, folder))


@app.command()
def show(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of a run.", show_default=False)],
    as_json: Annotated[bool, typer.Option("--json", help="For machines: a record a cell and protocol.")] = False,
) -> None:
    """Show the table of a run again: every cell's clients after its last round."""
    from fedjax_paradox.terminal import display, listing

    opened = open_folder(folder)
    entries = list(opened.entries.values())
    _print(listing.accuracies_as_json(opened.table) if as_json else display.accuracies(opened.table, entries))


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The output folder of a run.", show_default=False)],
    out: Annotated[Path | None, typer.Argument(help="Where to write the model.", show_default=False)] = None,
    cell: Annotated[str | None, typer.Option(help="Which cell; needed where there are several.")] = None,
    round_: Annotated[int | None, typer.Option("--round", help="After which round; by default the last.")] = None,
    client: Annotated[int | None, typer.Option(help="Whose model, where the rule gives each its own.")] = None,
    merge: Annotated[bool, typer.Option("--merge", help="Adapters added to the weights: no PEFT needed.")] = False,
    own_code: Annotated[bool, typer.Option("--own-code", help="The folder's own functions may be called.")] = False,
    at_hand: Annotated[bool, typer.Option("--list", help="Say which cells and rounds are at hand, and stop.")] = False,
) -> None:
    """Write a trained model as other tools open it, with a card: PEFT, transformers, safetensors."""
    results = open_results(folder)
    if at_hand:
        from fedjax_paradox.terminal import listing

        _print(listing.models(results.folder, results.opened.entries))
        return
    if out is None:
        raise InputError("say where to write the model: fedjax-paradox export DIR OUT; --list shows what is at hand")
    results.export(out, cell, round_, client, merge=merge, own_code=own_code)
    _print(f"Model: {printable(str(out))}; README.md there says how to open it")


@app.command()
def predict(
    model: Annotated[Path, typer.Argument(help="An exported model, or the output folder of a run.")],
    file: Annotated[Path, typer.Argument(help="Texts: parquet, csv, tsv or jsonl.")],
    text_column: Annotated[str, typer.Option(help="Which column holds them.")] = "text",
    out: Annotated[Path | None, typer.Option(help="A csv file to write; by default it is printed.")] = None,
    cell: Annotated[str | None, typer.Option(help="Of a run: which cell.")] = None,
    round_: Annotated[int | None, typer.Option("--round", help="Of a run: after which round.")] = None,
    client: Annotated[int | None, typer.Option(help="Of a run: whose model.")] = None,
    own_code: Annotated[bool, typer.Option("--own-code", help="The folder's own functions may be called.")] = False,
) -> None:
    """Classify the texts of a file: the class, and the probability of each."""
    from fedjax_paradox.data.sources import read_text_column
    from fedjax_paradox.terminal.listing import predictions

    texts = read_text_column(file, text_column)
    if (model / "experiment.json").exists():
        trained = open_results(model).model(cell, round_, client, own_code=own_code)
    else:
        trained = open_model(model, own_code)
    text = predictions(trained.classes, trained.predict(texts))
    if out is None:
        typer.echo(text, nl=False)
    else:
        out.write_text(text, encoding="utf-8")


def _print(what: Any) -> None:
    Console(highlight=False, soft_wrap=True).print(what, markup=False)


@app.command()
def init(
    name: Annotated[str, typer.Argument(help="Which example; --list names them.")] = "quickstart",
    out: Annotated[Path | None, typer.Option(help="The file to write; by default NAME.yaml.")] = None,
    names: Annotated[bool, typer.Option("--list", help="Name the examples, and stop.")] = False,
) -> None:
    """Write a commented config to start from."""
    found = examples()
    if names:
        typer.echo("\n".join(found))
        return
    if name not in found:
        raise InputError(f"no example is called {name!r}; there are {', '.join(found)}")
    out = out or Path(f"{name}.yaml")
    if out.exists():
        raise InputError(f"{out} is there already and stays as it is; name another file with --out")
    out.write_text(found[name], encoding="utf-8")
    typer.echo(f"{printable(str(out))}: change it, then `fedjax-paradox run {printable(str(out))}`")


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="A table of all keys, for people.")] = False,
) -> None:
    """Print the JSON Schema of a config, for editors."""
    from fedjax_paradox.config import reference

    typer.echo(reference.markdown() if markdown else reference.json_schema(), nl=False)


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
        list[Path], typer.Argument(metavar="DIR...", help="Output folders, or folders of them.", show_default=False)
    ],
    out: Annotated[Path | None, typer.Option(help="Where to write it; by default DIR/report.")] = None,
    claims: Annotated[Path | None, typer.Option(help="Claims to judge, e.g. experiments/paper/claims.yaml.")] = None,
    rounds: Annotated[
        str | None,
        typer.Option(help="'last', 'round N' or 'mean of last N'; by default last, and in claims the published ones."),
    ] = None,
) -> None:
    """Write a page, Markdown, LaTeX tables and figures of one or several output folders."""
    folders = [run for folder in folders for run in runs_in(folder)]
    if out is None and len(folders) > 1:
        raise InputError(f"a report of {len(folders)} folders needs a place of its own; add --out FOLDER")
    from fedjax_paradox.report import page

    out = out or folders[0] / "report"
    content = page.write(folders, out, claims, cache_folder(), rounds)
    console = Console(highlight=False, soft_wrap=True)
    for line in (*content.left_out, *content.no_audit):
        console.print(f"note: {line}", markup=False)
    console.print(f"Report: {printable(str(out / page.PAGE))}", markup=False)


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
