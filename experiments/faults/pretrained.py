"""Folders of pretrained weights that are not what they should be: refused, or harmless with the same numbers."""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import batches
import jax
import numpy as np
import server
import study
from outcomes import IDENTICAL, REFUSED, SILENT, Case, Lab, Result, judged
from safetensors.numpy import load_file, save_file

SIZES = {"vocab_size": 24, "max_position_embeddings": 12, "dim": 8, "n_layers": 1, "n_heads": 2, "hidden_dim": 16}
CONFIG = {"model_type": "distilbert", "activation": "gelu", "pad_token_id": 0, **SIZES}
MODEL = "{architecture: transformer, weights: ./encoder, max_length: 8, lora_rank: 2}"
OVERRIDES = (f"models.own={MODEL}", "model=own", "rounds=1", "rule=fedavg", "local.learning_rate=0.01")
WORD = "embeddings.word_embeddings.weight"
WEIGHTS, SETTINGS, TOKENS = "model.safetensors", "config.json", "vocab.txt"

BATCH = 20
TEXTS = {
    **{"empty": "", "null": "null", "list": "[]", "string": '"a"', "number": "3", "half": '{"model_type": "dist'},
    **{
        "nested": "[" * 100_000,
        "nested maps": '{"a":' * 100_000,
        "NUL": "\0",
        "twice": "{}{}",
        "large": "[" + "1," * 10**6 + "1]",
    },
    **{
        "empty object": "{}",
        "other type": '{"model_type": "gpt2"}',
        "odd type": '{"model_type": ["bert"]}',
        "bert": '{"model_type": "bert"}',
    },
}
TOKENIZERS = {
    **TEXTS,
    **{
        f"model {value}": f'{{"model": {value}}}'
        for value in ("null", "3", "[]", "{}", '{"type": "BPE"}', '{"type": 3}')
    },
    "no vocabulary": '{"model": {"type": "WordPiece"}}',
    "odd vocabulary": '{"version": "1.0", "model": {"type": "WordPiece", "vocab": 3, "unk_token": "[UNK]"}}',
    "empty vocabulary": '{"version": "1.0", "added_tokens": [], "model": {"type": "WordPiece", "unk_token": "[UNK]", '
    '"continuing_subword_prefix": "##", "max_input_chars_per_word": 100, "vocab": {}}}',
}


def write(folder: Path) -> None:
    """A DistilBERT of one layer with random weights, and the study's words as its vocabulary."""
    folder.mkdir()
    (folder / SETTINGS).write_text(json.dumps(CONFIG))
    save_file(tensors(), folder / WEIGHTS)
    words = [word for group in study.WORDS.values() for word in group]
    (folder / TOKENS).write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]) + "\n")


def tensors() -> dict[str, np.ndarray]:
    generator, d, h = np.random.default_rng(0), SIZES["dim"], SIZES["hidden_dim"]
    layer = "transformer.layer.0"
    shapes = {WORD: (SIZES["vocab_size"], d), "embeddings.position_embeddings.weight": (12, d)}
    linears = {f"{layer}.attention.{name}_lin": (d, d) for name in ("q", "k", "v", "out")}
    linears |= {f"{layer}.ffn.lin1": (h, d), f"{layer}.ffn.lin2": (d, h)}
    linears |= dict.fromkeys(("embeddings.LayerNorm", f"{layer}.sa_layer_norm", f"{layer}.output_layer_norm"), (d,))
    for name, shape in linears.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    return {name: generator.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}


def cases(lab: Lab) -> Iterator[Case]:
    """Files that are wrong, by the functions that read them; folders that are, by whole runs."""
    import encoders as generated

    place = lab.work / "encoder"
    ended = _run(lab, place, lambda _: None)
    if ended.code != 0:
        raise RuntimeError(f"an undisturbed run with an encoder fails: {ended.errors}")
    lab.truth["encoder"] = ended.value
    good = {path.name: path.read_bytes() for path in (place / "encoder").iterdir()}
    every = list(generated.cases(good, 0))
    for first in range(0, len(every), BATCH):
        yield Case(f"encoders {first}", read, (every[first : first + BATCH],))
    yield from (Case(name, changed, (name,)) for name in CHANGES)


def read(lab: Lab, scratch: Path, some: Sequence[tuple[str, dict[str, bytes]]]) -> Iterator[Result]:
    yield from batches.played(lab, scratch, [(name, (files,)) for name, files in some], _read)


def _read(lab: Lab, scratch: Path, files: dict[str, bytes]) -> tuple[str, str]:
    """Refused, or the weights of the good one."""
    from fedjax_paradox.data.subwords import load_tokenizer
    from fedjax_paradox.errors import InputError
    from fedjax_paradox.models.pretrained import load_checkpoint

    for name, content in files.items():
        (scratch / name).write_bytes(content)
    try:
        load_tokenizer(scratch)
        sizes, weights = load_checkpoint(scratch)
    except InputError as error:
        return REFUSED, str(error)
    good, original = load_checkpoint(lab.work / "encoder" / "encoder")
    if (sizes, _content(weights)) == (good, _content(original)):
        return IDENTICAL, ""
    return SILENT, f"other weights, or sizes: {sizes} instead of {good}"


def _content(tree: Any) -> list[bytes]:
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(tree)]


def changed(lab: Lab, scratch: Path, name: str) -> Iterator[Result]:
    yield Result(name, *judged(_run(lab, scratch / "run", CHANGES[name]), lab.truth["encoder"]))


def _run(lab: Lab, place: Path, change: Callable[[Path], Any]) -> server.Ended:
    study.write(place)
    write(place / "encoder")
    change(place / "encoder")
    environment = {"FEDJAX_PARADOX_CACHE": str(lab.cache)}
    return server.call(_rows, str(place / "out"), cwd=place, environment=environment)


def _rows(out: str) -> tuple[int, Any]:
    """The rows alone: a harmless change of a file is another identity."""
    code, found = study.run(out, *OVERRIDES)
    return code, found and found["clients.parquet"]


# What is changed


def _text(file: str, text: str) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_text(text)


def _bytes(file: str, change: Callable[[bytes], bytes]) -> Callable[[Path], Any]:
    return lambda folder: (folder / file).write_bytes(change((folder / file).read_bytes()))


def _tensors(change: Callable[[dict[str, np.ndarray]], Any]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        held = load_file(folder / WEIGHTS)
        change(held)
        save_file(held, folder / WEIGHTS)

    return apply


def _replaced(file: str, make: Callable[[Path], Any]) -> Callable[[Path], Any]:
    def apply(folder: Path) -> None:
        (folder / file).unlink()
        make(folder / file)

    return apply


def _filled(name: str, value: float) -> Callable[[dict[str, np.ndarray]], Any]:
    def apply(held: dict[str, np.ndarray]) -> None:
        held[name] = held[name].copy()
        held[name].flat[0] = value

    return apply


def _all_changes() -> Iterator[tuple[str, Callable[[Path], Any]]]:
    yield from ((f"config.json: {name}", _text(SETTINGS, text)) for name, text in TEXTS.items())
    yield from ((f"tokenizer.json: {name}", _text("tokenizer.json", text)) for name, text in TOKENIZERS.items())
    for name in tensors():
        yield f"{name} lost", _tensors(lambda held, name=name: held.pop(name))
        yield f"{name} NaN", _tensors(_filled(name, np.nan))
        yield f"{name} infinite", _tensors(_filled(name, np.inf))
    yield "a tensor nobody knows", _tensors(lambda held: held.update(x=np.zeros(3, np.float32)))
    yield "a tensor twice", _tensors(lambda held: held.update({f"distilbert.{WORD}": held[WORD]}))
    yield "a pooler", _tensors(lambda held: held.update({"pooler.x": np.zeros(3, np.float32)}))
    yield "weights longer", _bytes(WEIGHTS, lambda old: old + b"\0" * 64)
    yield "weights are pickled", _bytes(WEIGHTS, lambda _: b"\x80\x04\x95\x0b\0\0\0\0\0\0\0}\x94.")
    for name, text in {
        "empty": "",
        "one line": "[PAD]\n",
        "binary": "\0\1\2\n",
        "shuffled": "a\n[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\n",
    }.items():
        yield f"vocab.txt: {name}", _text(TOKENS, text)
    yield (
        "vocab.txt: longer than the table",
        _bytes(TOKENS, lambda old: old.replace(b"red\n", b"") + b"x\n" * 20 + b"red\n"),
    )
    yield "vocab.txt: a word twice", _bytes(TOKENS, lambda old: old + b"[PAD]\n")
    yield "vocab.txt: no UTF-8", _bytes(TOKENS, lambda old: old + b"\xff\xfe\n")
    yield "vocab.txt: no special tokens", _bytes(TOKENS, lambda old: old.replace(b"[CLS]", b"x"))
    for file in (SETTINGS, WEIGHTS, TOKENS):
        yield f"{file} lost", _replaced(file, lambda _: None)
        yield f"{file} a folder", _replaced(file, Path.mkdir)
        yield f"{file} a link to nothing", _replaced(file, lambda path: path.symlink_to("nothing"))
        yield f"{file} a link to itself", _replaced(file, lambda path: path.symlink_to(path.name))
        yield f"{file} a pipe", _replaced(file, lambda path: os.mkfifo(path))
        yield f"{file} a device", _replaced(file, lambda path: path.symlink_to("/dev/zero"))
    yield "sharded", lambda folder: (folder / WEIGHTS).rename(folder / "model-00001-of-00002.safetensors")
    yield "no folder", shutil.rmtree
    yield "a file", lambda folder: (shutil.rmtree(folder), folder.write_text("x"))


CHANGES = dict(_all_changes())
