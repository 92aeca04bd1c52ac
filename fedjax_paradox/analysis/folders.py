"""Output folders for a report: which can be read, and their tables as one."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from fedjax_paradox.analysis.opening import FACTS, Folder, open_folder
from fedjax_paradox.analysis.runs import Known, Size
from fedjax_paradox.config import Cell, Corpus, Local, Partition
from fedjax_paradox.errors import InputError
from fedjax_paradox.storage import results
from fedjax_paradox.storage.cells import Entry
from fedjax_paradox.text import printable

# Two cells that agree in these columns are one setting, or two seeds of it.
KEYS = ("corpus", *FACTS)
# What is in a column already, or says nothing about a run's numbers.
_NO_SETTING = {"name", "protocols", "model", "evaluate_every", *KEYS[2:]}


class Reading(NamedTuple):
    """All folders of a report, every cell with a name of its own."""

    folders: list[Folder]
    left_out: list[str]  # a sentence for every folder that cannot be read
    notes: list[str]  # what merging them did
    covered: list[str]  # of every corpus, what intervals over it cover
    table: pa.Table  # as in `results`
    labels: dict[str, dict[str, str]]  # cell -> corpus, model and rule with the settings that have no column
    origin: dict[str, tuple[int, str]]  # cell -> (index of its folder, its name there)
    known: dict[str, Known]  # cell -> what its folder says of it; not those of folders of earlier versions
    rules: dict[str, str]  # label of a rule -> the rule, without the settings that are written behind it


class _Owned(NamedTuple):
    """A cell of one of the folders."""

    folder: int
    cell: Cell
    corpus: str  # as its rows name it
    rows: pa.Table


def read_folders(paths: Sequence[Path]) -> Reading:
    """Reads what can be read of `paths` and merges it.

    Settings that differ and have no column (a learning rate, the number of rounds) become part of the cell's
    name and of its labels, so that a mean over seeds never mixes two of them.

    Raises:
      InputError: no folder can be read, or all runs in them diverged in round 1.
    """
    folders, left_out = [], []
    for path in dict.fromkeys(paths):
        try:
            folders.append(open_folder(path))
        except InputError as error:
            left_out.append(printable(" ".join(str(error).split())))
    if not any(folder.table.num_rows for folder in folders):
        left_out += [printable(f"{folder.path}: every cell diverged in round 1") for folder in folders]
        raise InputError(
            "no folder with results among those given; name output folders of `fedjax-paradox run`:\n  "
            + "\n  ".join(left_out)
        )
    return _merge(folders, left_out)


def _merge(folders: list[Folder], left_out: list[str]) -> Reading:
    owned = [one for index, folder in enumerate(folders) for one in _owned(index, folder)]
    notes = _different_files(owned)
    reading = Reading(folders, left_out, notes, _sampled(owned), pa.table({}), {}, {}, {}, {})
    shown: dict[tuple, tuple[str, _Owned]] = {}
    for one, extra in zip(owned, _extras(owned), strict=True):
        entries = folders[one.folder].entries
        if one.rows.num_rows == 0 and one.cell.name not in folders[one.folder].diverged():
            continue
        facts = {name: getattr(one.cell, name) for name in FACTS} | _facts(one.rows) | {"corpus": one.corpus}
        run = (*(facts[name] for name in KEYS), *extra.items())
        if run in shown:
            before, other = shown[run]
            places = f"folders {reading.origin[before][0] + 1} and {one.folder + 1}"
            reading.notes.append(f"{one.cell.name} is in {places}: the run with more rounds is shown, once")
            if _last(one.rows) <= _last(other.rows):
                continue
            for held in (reading.origin, reading.labels, reading.known):
                held.pop(before, None)
            del shown[run]
        name = _unique(one.cell.name, extra, one.folder, reading.origin)
        shown[run] = name, one
        reading.labels[name] = _label(one, extra)
        reading.origin[name] = one.folder, one.cell.name
        reading.rules[reading.labels[name]["rule"]] = one.cell.rule
        if entries:
            reading.known[name] = _known(one, entries, {**facts, **reading.labels[name], "cell": name})
    table = pa.concat_tables([results.copied(one.rows, {"cell": name}) for name, one in shown.values()])
    return reading._replace(table=table.combine_chunks())


def _owned(index: int, folder: Folder) -> Iterable[_Owned]:
    """The folder's cells; the corpus of one without rows is named as in the rows of another on the same texts."""
    names = folder.table["cell"].to_numpy()
    rows = {cell.name: folder.table.filter(pa.array(names == cell.name)) for cell in folder.cells}
    named = {cell.corpus: rows[cell.name]["corpus"][0].as_py() for cell in folder.cells if rows[cell.name].num_rows}
    for cell in folder.cells:
        yield _Owned(index, cell, named.get(cell.corpus) or _corpus(cell), rows[cell.name])


def _corpus(cell: Cell) -> str:
    """As `load_texts` names it: the default name would credit the built-in corpus with a person's files."""
    files = _files(cell)
    return "/".join(files[0].parts[-2:]) if files and cell.corpus.name == Corpus().name else cell.corpus.name


def _facts(rows: pa.Table) -> dict[str, Any]:
    return {name: rows[name][0].as_py() for name in FACTS} if rows.num_rows else {}


def _known(one: _Owned, entries: Mapping[str, Entry], facts: Mapping[str, Any]) -> Known:
    entry = entries[one.cell.name]
    trained = entries.get(entry.same_as, entry)
    ended = entry.diverged_round, entry.diverged_client
    size = Size(entry.trainable_parameters, entry.parameters, _start(one.cell))
    return Known(facts, one.cell.protocols, one.cell.rounds, trained.identity, *ended, size)


def _start(cell: Cell) -> str:
    if cell.architecture.architecture == "custom":
        return "own function"
    return "pretrained" if getattr(cell.architecture, "pretrained", False) else "random weights"


def same_runs(reading: Reading) -> dict[tuple[str, str], int]:
    """Pairs of settings (or cells, where settings are alike) that are one run by construction -> how many cells."""
    names = {place: name for name, place in reading.origin.items()}
    pairs: Counter[tuple[str, str]] = Counter()
    for name, (index, cell) in reading.origin.items():
        entry = reading.folders[index].entries.get(cell)
        other = names.get((index, entry.same_as)) if entry and entry.same_as else None
        if other is not None:
            told = [", ".join(reading.labels[one][column] for column in ("model", "rule")) for one in (name, other)]
            pairs[(told[0], told[1]) if told[0] != told[1] else (name, other)] += 1
    return dict(pairs)


def _unique(name: str, extra: Mapping[str, str], index: int, taken: Collection[str]) -> str:
    """Names the settings as the grid of one config would have."""
    told = [f"{key}={value}" for key, value in extra.items() if f",{key}=" not in f",{name}"]
    name = ",".join([name, *told])
    return f"{name},folder={index + 1}" if name in taken else name


def labelled(reading: Reading) -> pa.Table:
    """The table with its labels in the columns corpus, model and rule."""
    names = reading.table["cell"].to_pylist()
    table = reading.table
    for column in ("corpus", "model", "rule"):
        values = pa.array([reading.labels[name][column] for name in names], pa.string())
        table = table.set_column(table.schema.get_field_index(column), column, values)
    return table


def _last(table: pa.Table) -> int:
    return int(table["round"].to_numpy().max(initial=0))


SAMPLE = "corpus.seed"  # which rows of a corpus are drawn


def _extras(owned: Sequence[_Owned]) -> list[dict[str, str]]:
    """For every cell its settings without a column that differ among the cells of its corpus and model.

    A sample of the corpus that every partition has one of its own is none: it varies with the partition, as do clients.
    """
    settings = [_settings(one.cell) for one in owned]
    groups: dict[tuple[str, str], dict[str, set]] = {}
    samples: dict[tuple[str, str], dict[int, set]] = {}
    for one, own in zip(owned, settings, strict=True):
        group = one.corpus, one.cell.model
        found = groups.setdefault(group, {})
        for key, value in own.items():
            found.setdefault(key, set()).add(value)
        samples.setdefault(group, {}).setdefault(one.cell.partition_seed, set()).add(own[SAMPLE])
    for group, found in groups.items():
        if all(len(seeds) == 1 for seeds in samples[group].values()):
            found[SAMPLE] = set()
    return [
        {key: value for key, value in own.items() if len(groups[one.corpus, one.cell.model][key]) > 1}
        for one, own in zip(owned, settings, strict=True)
    ]


def _sampled(owned: Sequence[_Owned]) -> list[str]:
    """Says of every corpus what its intervals cover: what varies from partition to partition."""
    cells: dict[str, list[Cell]] = {}
    for one, extra in zip(owned, _extras(owned), strict=True):
        if SAMPLE not in extra:
            cells.setdefault(one.corpus, []).append(one.cell)
    return [f"intervals over {name} cover partitions{_varying(found)}" for name, found in cells.items()]


def _varying(cells: Sequence[Cell]) -> str:
    seeds, samples = {cell.seed for cell in cells}, {cell.corpus.seed for cell in cells}
    training = " and training seeds" if len(seeds) > 1 else f", not training seeds (seed is {min(seeds)} for all)"
    if all(cell.corpus.train_rows is None and cell.corpus.test_rows is None for cell in cells):
        return f"{training}; the corpus is taken whole"
    if len(samples) > 1:
        return f"{training}, and the sample of rows, of which every partition has its own"
    return f"{training}, not the sample of rows (corpus.seed is {min(samples)} for all)"


def _label(one: _Owned, extra: Mapping[str, str]) -> dict[str, str]:
    label = {"corpus": one.corpus, "model": one.cell.model, "rule": one.cell.rule}
    defaults = dict(_flat({"local": Local().model_dump(), "partition": Partition().model_dump()}, ""))
    for key, value in extra.items():
        if defaults.get(key) != value:
            label[_column(key)] += f", {key.removeprefix('architecture.')}={value}"
    return label


def _column(key: str) -> str:
    return {"corpus": "corpus", "architecture": "model"}.get(key.split(".")[0], "rule")


def _settings(cell: Cell) -> dict[str, str]:
    data = cell.model_dump(mode="json", exclude={*_NO_SETTING, "corpus"})
    data["corpus"] = cell.corpus.model_dump(mode="json", exclude={"name", "files"})
    # Another path is not another corpus, another file name is.
    data["corpus"]["files"] = [file.name for file in _files(cell)]
    return dict(_flat(data, ""))


def _flat(data: Any, prefix: str) -> Iterable[tuple[str, str]]:
    if not isinstance(data, Mapping):
        return [(prefix, str(data))]
    return [leaf for key, value in data.items() for leaf in _flat(value, f"{prefix}.{key}".lstrip("."))]


def _files(cell: Cell) -> list[Path]:
    return [file for file in (cell.corpus.files.train, cell.corpus.files.test) if file]


def _different_files(owned: Sequence[_Owned]) -> list[str]:
    places: dict[str, dict[str, None]] = {}
    for one in owned:
        places.setdefault(one.corpus, {})[", ".join(map(str, _files(one.cell)))] = None
    return [
        f"{name} was read from {len(found)} places, taken as the same rows where the file names are: "
        + "; ".join(place or "by its name" for place in found)
        for name, found in places.items()
        if len(found) > 1
    ]
