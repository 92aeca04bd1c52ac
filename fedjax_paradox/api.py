"""The package as a library: what the command line does, as functions. JAX is imported where it is needed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fedjax_paradox.analysis.opening import Folder, open_folder
from fedjax_paradox.cachefiles import cache_folder
from fedjax_paradox.config import Experiment, cells, content_hash, experiment_of
from fedjax_paradox.config import load as load_file
from fedjax_paradox.errors import InputError
from fedjax_paradox.storage.cells import Entry, flattened
from fedjax_paradox.storage.history import read

if TYPE_CHECKING:
    import pandas as pd

    from fedjax_paradox.sweep.audits import Audit
    from fedjax_paradox.sweep.run import Event
    from fedjax_paradox.sweep.trained import Trained


def load(config: str | Path | Mapping[str, Any], *overrides: str) -> Experiment:
    """A YAML file, or a mapping of the same keys, under `key=value` overrides; every cell of the grid is checked.

    Raises:
      InputError: names every key that is wrong.
    """
    if isinstance(config, Mapping):
        return experiment_of(config, overrides)
    return load_file(config, overrides)


def default_folder(experiment: Experiment) -> Path:
    """runs/NAME-HASH: the same experiment has the same folder, and goes on in it."""
    return Path("runs") / f"{experiment.name}-{content_hash(experiment)[:8]}"


def run(
    experiment: Experiment, out: str | Path | None = None, on_event: "Callable[[Event], None] | None" = None
) -> "Results":
    """Runs an experiment, or goes on with it where `out` holds a part of it.

    Args:
      out: the output folder, `default_folder(experiment)` by default.
      on_event: told of every chunk and round; see `fedjax_paradox.sweep.run.Event`.

    Raises:
      InputError: anything wrong with data, weights, names or the folder. Rounds that were finished before stay.
    """
    from fedjax_paradox.sweep.program import prepare
    from fedjax_paradox.sweep.run import run as run_programs

    folder = default_folder(experiment) if out is None else Path(out)
    programs = prepare(cells(experiment), cache_folder())
    run_programs(experiment, programs, folder, on_event or (lambda event: None))  # noqa: ARG005
    return open_results(folder)


def open_results(folder: str | Path) -> "Results":
    """What a run has stored so far; InputError where `folder` is no output folder, or is damaged."""
    return Results(open_folder(Path(folder)))


def open_model(folder: str | Path, own_code: bool = False) -> "Trained":
    """The model that `Results.export` or `fedjax-paradox export` wrote; its `predict(texts)` gives probabilities.

    Args:
      own_code: whether the `module:function` that the folder names may be called.
    """
    from fedjax_paradox.sweep.exported import open_exported

    return open_exported(Path(folder), cache_folder(), own_code)


@dataclass(frozen=True)
class Results:
    """An output folder, as it was when it was opened."""

    opened: Folder

    @property
    def folder(self) -> Path:
        return self.opened.path

    @property
    def clients(self) -> "pd.DataFrame":
        """One row a cell, round, protocol and client: `correct` of `total` rows."""
        return self.opened.table.to_pandas()

    @property
    def rounds(self) -> "pd.DataFrame":
        """One row a cell and round: loss, seconds, diagnostics of the rule."""
        return read(self.folder).rounds.to_pandas()

    @property
    def participants(self) -> "pd.DataFrame":
        """One row a cell, round and client that took part."""
        return read(self.folder).participants.to_pandas()

    @property
    def cells(self) -> "pd.DataFrame":
        """One row a cell: how it ended, and every setting in a column of its own."""
        unlisted = [Entry(cell.name, "", cell.model_dump_json(), "{}") for cell in self.opened.cells]  # by old versions
        return flattened(self.opened.entries.values() or unlisted).to_pandas()

    def model(
        self, cell: str | None = None, round: int | None = None, client: int | None = None, *, own_code: bool = False
    ) -> "Trained":
        """A trained model; its `predict(texts)` gives probabilities f32[N, C] in the order of its `classes`.

        Args:
          cell: by name, needed where there are several; round: by default the last at hand; client: whose, where the
            rule gives each client its own; own_code: whether a `module:function` that the cell names may be called.

        Raises:
          InputError: there is no such cell, round or client, or what the cell was trained on is no longer there.
        """
        from fedjax_paradox.sweep.trained import open_trained

        return open_trained(
            self.folder,
            self.opened.entries,
            self.opened.cell(self.cell_name(cell)),
            cache_folder(),
            round_=round,
            client=client,
            own_code=own_code,
        )

    def cell_name(self, cell: str | None) -> str:
        """The cell meant, the only one by default."""
        names = list(self.opened.entries)
        if cell is None and len(names) == 1:
            return names[0]
        if cell in names:
            return str(cell)
        problem = "say which cell" if cell is None else f"{self.folder} has no cell {cell!r}"
        raise InputError(f"{problem}; it has " + "; ".join(names))

    def export(
        self,
        out: str | Path,
        cell: str | None = None,
        round: int | None = None,
        client: int | None = None,
        *,
        merge: bool = False,
        own_code: bool = False,
    ) -> Path:
        """Writes a trained model with its card: a PEFT adapter, with `merge` a plain `transformers` folder, or
        safetensors with vocabulary and config of a model from scratch. Arguments as of `model`; returns `out`.

        Raises:
          InputError: as `model`, or `out` is not empty.
        """
        from fedjax_paradox.report.card import card
        from fedjax_paradox.sweep.exported import write

        folder, trained = Path(out), self.model(cell, round, client, own_code=own_code)
        kind = write(trained, folder, cache_folder(), merge)
        text = card(
            trained.cell,
            self.opened.table,
            round_=trained.round,
            client=trained.client,
            classes=trained.classes,
            kind=kind,
        )
        (folder / "README.md").write_text(text, encoding="utf-8")
        return folder

    def audit(self) -> "list[Audit]":
        """What partitions, protocols and rules decide before any training, for cells that share a partition. None of
        the folder's own functions is called."""
        from fedjax_paradox.sweep.audits import audit

        return audit(self.opened.cells, cache_folder(), own_code=False)

    def report(
        self, out: str | Path | None = None, claims: str | Path | None = None, rounds: str | None = None
    ) -> Path:
        """Writes page, Markdown, tables and figures, by default into `folder/report`; returns the page.

        Args:
          claims: a file of claims to judge; rounds: "last", "round N" or "mean of last N".
        """
        from fedjax_paradox.report import page

        target = Path(out) if out is not None else self.folder / "report"
        page.write([self.folder], target, Path(claims) if claims is not None else None, cache_folder(), rounds)
        return target / page.PAGE
