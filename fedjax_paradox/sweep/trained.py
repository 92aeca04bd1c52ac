"""A model as a finished round left it: from the checkpoint of an output folder to predictions of texts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from fedjax_paradox.config import Cell, Transformer
from fedjax_paradox.data.corpus import Texts
from fedjax_paradox.data.subwords import encode_subwords, load_tokenizer
from fedjax_paradox.data.text import build_vocabulary, encode_words
from fedjax_paradox.errors import InputError
from fedjax_paradox.federated.types import Tree
from fedjax_paradox.models.base import Model, Params
from fedjax_paradox.models.download import find_checkpoint
from fedjax_paradox.storage import checkpoint
from fedjax_paradox.storage.cells import Entry
from fedjax_paradox.sweep.architectures import tokenizer_folder
from fedjax_paradox.sweep.clients import read_texts
from fedjax_paradox.sweep.identities import own_names
from fedjax_paradox.sweep.program import Program, prepare

BATCH = 32


class Vocabulary(NamedTuple):
    """How texts become tokens: words and their ids, or the folder that holds a tokenizer."""

    length: int
    words: dict[str, int] | None = None
    folder: Path | None = None

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """tokens: i32[N, length]"""
        if self.words is not None:
            return encode_words(texts, self.words, self.length)
        return encode_subwords(texts, load_tokenizer(self.folder or Path()), self.length)

    def size(self) -> int:
        """How many ids there are."""
        return len(self.words) if self.words is not None else load_tokenizer(self.folder or Path()).get_vocab_size()


class Trained(NamedTuple):
    """One trained classifier."""

    cell: Cell
    round: int
    client: int | None  # whose own model it is, under a rule that gives each client one
    classes: tuple[str, ...]
    model: Model
    trainable: Params
    frozen: Params
    vocabulary: Vocabulary

    def predict(self, texts: Sequence[str]) -> np.ndarray:
        """f32[N, C], the probability of every class, in the order of `classes`; dropout is off."""
        return probabilities(self.model.apply, (self.trainable, self.frozen), self.vocabulary.encode(texts))


def probabilities(apply: Callable[..., jax.Array], leaves: tuple[Params, Params], tokens: np.ndarray) -> np.ndarray:
    """f32[N, C] of tokens i32[N, T], batch by batch."""
    rows = len(tokens)
    padded = np.zeros((-(-rows // BATCH) * BATCH, tokens.shape[1]), np.int32)
    padded[:rows] = tokens
    found = [np.asarray(_of_batch(apply, leaves, batch)) for batch in padded.reshape(-1, BATCH, tokens.shape[1])]
    return np.concatenate(found)[:rows] if found else np.zeros((0, 0), np.float32)


@partial(jax.jit, static_argnums=0)  # one compilation for all calls of one model
def _of_batch(apply: Callable[..., jax.Array], leaves: tuple[Params, Params], tokens: jax.Array) -> jax.Array:
    return jax.nn.softmax(apply(*leaves, tokens).astype(jnp.float32))


def rounds_at_hand(folder: Path, entries: Mapping[str, Entry], cell: str) -> dict[int, Path]:
    """Round -> checkpoint of a cell of an output folder, ascending; InputError where there is no such cell."""
    if cell not in entries:
        raise InputError(f"{folder} has no cell {cell!r}; it has {'; '.join(sorted(entries))}")
    entry = entries[cell]
    return checkpoint.rounds_at_hand(folder / "checkpoints", entries.get(entry.same_as, entry).identity)


def check_trusted(cell: Cell, own_code: bool) -> None:
    """InputError where a folder's cell names a `module:function` and nobody said that it may be called."""
    if not own_code and (names := own_names(cell)):
        raise InputError(
            f"cell {cell.name} calls {', '.join(names)}, code that the folder names; if you trust it, say --own-code"
        )


def open_trained(
    folder: Path,
    entries: Mapping[str, Entry],
    cell: Cell,
    cache: Path,
    *,
    round_: int | None = None,
    client: int | None = None,
    own_code: bool = False,
) -> Trained:
    """The model of a cell after a round, the last at hand by default.

    The cell's texts and weights are read again, from where its settings say.

    Args:
      entries: the cells of the folder; client: whose model, under a rule that gives each client its own; own_code:
        whether the `module:function` that the cell names may be called.

    Raises:
      InputError: the round is not at hand, texts or weights are no longer those of the run, `client` does not fit, or
        the cell names functions that may not be called.
    """
    check_trusted(cell, own_code)
    at_hand = rounds_at_hand(folder, entries, cell.name)
    chosen = max(at_hand, default=0) if round_ is None else round_
    if chosen not in at_hand:
        told = ", ".join(map(str, at_hand)) or "none"
        raise InputError(
            f"no checkpoint of {cell.name} after round {chosen} is at hand, but of rounds {told}; "
            "checkpoints_kept in the config says how many a run keeps"
        )
    entry = entries.get(entries[cell.name].same_as, entries[cell.name])
    (program,) = prepare([cell], cache)
    _check_same(program, entries[cell.name])
    stored = checkpoint.read(at_hand[chosen], entry.identity)
    trainable, frozen = _leaves(program, stored, client)
    texts, classes = read_texts(cache, cell.corpus), program.corpus.classes
    return Trained(cell, chosen, client, classes, program.model, trainable, frozen, vocabulary_of(cell, texts, cache))


def vocabulary_of(cell: Cell, texts: Texts, cache: Path) -> Vocabulary:
    """As `architectures.corpus_and_model` tokenises."""
    spec = cell.architecture
    if isinstance(spec, Transformer):
        return Vocabulary(spec.max_length, folder=find_checkpoint(spec.weights, cache, spec.revision))
    tokenizer = tokenizer_folder(spec, cache)
    words = build_vocabulary(texts.train_texts, spec.vocabulary_size) if tokenizer is None else None
    return Vocabulary(spec.max_length, words, tokenizer)


def _check_same(program: Program, entry: Entry) -> None:
    if program.identities[0] != entry.identity.partition("-")[0]:
        raise InputError(
            f"the texts, weights or own functions of cell {entry.cell} are no longer those that it was trained with; "
            "put back those that its settings name"
        )


def _leaves(program: Program, stored: checkpoint.Stored, client: int | None) -> tuple[Params, Params]:
    """(trainable, frozen) of the model that everybody is served, or `client` is."""
    cell, engine = program.cells[0], program.engine
    shapes, _ = jax.eval_shape(program.initial)
    globals_ = checkpoint.stacked([stored.leaves], {"globals": shapes})["globals"]
    _, frozen = program.model.init(jax.random.key(0))
    if (engine.serve is None) != (client is None):
        remedy = "leave out the client" if engine.serve is None else f"say whose: 0 to {cell.num_clients - 1}"
        kind = "one model for all clients" if engine.serve is None else "every client a model of its own"
        raise InputError(f"rule {cell.rule} gives {kind}; {remedy}")
    if engine.serve is None or client is None:
        return _row(globals_, 0), frozen
    if not 0 <= client < cell.num_clients:
        raise InputError(f"clients are numbered 0 to {cell.num_clients - 1}, got {client}")
    (states,) = jax.eval_shape(engine.init_rules, shapes)
    served = engine.serve(globals_, (checkpoint.stacked([stored.leaves], {"rule": states})["rule"],))
    return _row(served, client), frozen


def _row(leaves: Tree, place: int) -> Params:
    return jax.tree.map(lambda leaf: np.asarray(leaf[place]), leaves)
