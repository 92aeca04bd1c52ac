"""What `hub.Client` calls, in a process of its own: this package over the real clients of the hub."""

from pathlib import Path
from typing import Any

import datasets

import fedjax_paradox as fp
from fedjax_paradox import hub
from fedjax_paradox.cachefiles import cache_folder
from fedjax_paradox.config import cells
from fedjax_paradox.data.corpus import load_texts
from fedjax_paradox.models.download import commit_of, find_checkpoint, weights_digest


def weights(name: str, cache: str, revision: str | None = None) -> dict[str, Any]:
    folder = find_checkpoint(name, Path(cache), revision)
    files = sorted(path.name for path in folder.iterdir())
    return {"folder": str(folder), "files": files, "digest": weights_digest(folder), "commit": commit_of(name, folder)}


def texts(name: str, cache: str, **options: Any) -> dict[str, Any]:
    found = load_texts(name, cache=Path(cache), **options)
    return {
        "train": found.train_texts,
        "labels": found.train_labels.tolist(),
        "test": found.test_texts,
        "classes": list(found.classes),
        "commit": found.commit,
        "fingerprint": found.fingerprint,
    }


def impatient(seconds: float) -> None:
    hub.SECONDS = seconds


def keep_data_sets_in(folder: str) -> str:
    """Returns the folder of before."""
    before = str(datasets.config.HF_DATASETS_CACHE)
    datasets.config.HF_DATASETS_CACHE = folder
    return before


def begun(config: str, out: str) -> dict[str, list[str]]:
    """Claims a folder for an experiment, and exports the model that it would start from."""
    import jax  # here, since it takes seconds in every process

    from fedjax_paradox.sweep.clients import read_texts
    from fedjax_paradox.sweep.exported import write
    from fedjax_paradox.sweep.program import prepare
    from fedjax_paradox.sweep.run import begin
    from fedjax_paradox.sweep.trained import Trained, vocabulary_of

    experiment = fp.load(config)
    cache = cache_folder()
    (program,) = prepare(cells(experiment), cache)
    with begin(experiment, [program], Path(out) / "run"):
        pass
    cell, classes = program.cells[0], program.corpus.classes
    leaves, frozen = jax.tree.map(lambda leaf: leaf[0], program.initial()[0]), program.initial()[1]
    vocabulary = vocabulary_of(cell, read_texts(cache, cell.corpus), cache)
    trained = Trained(cell, 0, None, classes, program.model, leaves, frozen, vocabulary)
    exported = {}
    for kind in ("adapter", "merged"):
        write(trained, Path(out) / kind, cache, merge=kind == "merged")
        exported[kind] = sorted(path.name for path in (Path(out) / kind).iterdir())
    return exported


def study(config: str, out: str) -> dict[str, float]:
    """Runs an experiment, exports its model and opens it again; by how much predictions then differ."""
    results = fp.run(fp.load(config), Path(out) / "run")
    texts = ["red tree", "a fast car"]
    expected, differences = results.model().predict(texts), {}
    for kind in ("adapter", "merged"):
        folder = results.export(Path(out) / kind, merge=kind == "merged")
        differences[kind] = float(abs(fp.open_model(folder).predict(texts) - expected).max())
    return differences
