"""DistilBERT's encoder (Sanh et al. 2019, arXiv:1910.01108) with LoRA on its query and value projections.

BERT checkpoints run on the same encoder once their constant token-type row is folded into the positions.
The type of the embedding tables is that of the activations and matrix products; layer norms, softmax and the
last layer compute in float32, and every leaf is cast where it is used. All but the attention itself works on
tokens side by side (`places`), in training on no more places than the caller asks for.

Axes: B rows, T token places of a row, N places that are computed, D width.
"""

from collections.abc import Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_paradox.models.base import Dropout, KeyPath, Model, Params, Rate, merge, split
from fedjax_paradox.models.lora import LoRADense, is_adapter
from fedjax_paradox.models.places import Places, first_of_rows, in_rows, places_of, side_by_side

HEAD = ("pre_classifier", "classifier")


class EncoderSizes(NamedTuple):
    """The shape of a checkpoint; the defaults are distilbert-base-uncased."""

    vocabulary_size: int = 30522
    positions: int = 512
    dim: int = 768
    layers: int = 6
    heads: int = 12
    hidden: int = 3072
    layer_norm_eps: float = 1e-12


class Rates(NamedTuple):
    """Dropout rates (0.0 is none): LoRA branch, embeddings and blocks, attention weights, head."""

    lora_dropout: Rate = 0.0
    dropout: Rate = 0.0
    attention_dropout: Rate = 0.0
    head_dropout: Rate = 0.0


EVALUATION = Rates()


def _frozen_dense(features: int, dtype: jnp.dtype, name: str) -> nn.Dense:
    # Zeros: a frozen weight is never initialised at random, its values come from a checkpoint.
    return nn.Dense(features, dtype=dtype, kernel_init=nn.initializers.zeros, name=name)


def _scaled(x: jax.Array, factors: jax.Array) -> jax.Array:
    """x[..., i] * factors[...]; as a product, so that its gradient is one too: XLA's CPU reduction of an
    elementwise product is four times slower, and made a tenth of a training step."""
    return jnp.einsum("...i,...->...i", x, factors)


def softmax(x: jax.Array) -> jax.Array:
    """Softmax over the last axis."""
    exponentials = jnp.exp(x - jax.lax.stop_gradient(x.max(axis=-1, keepdims=True)))
    return _scaled(exponentials, 1.0 / exponentials.sum(axis=-1))


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) * scale + bias over the last axis, in float32; the type of x is kept."""

    eps: float

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        # Zeros, like every frozen weight: the values come from a checkpoint.
        scale = self.param("scale", nn.initializers.zeros, x.shape[-1:])
        bias = self.param("bias", nn.initializers.zeros, x.shape[-1:])
        dtype, x = x.dtype, x.astype(jnp.float32)
        centred = x - x.mean(axis=-1, keepdims=True)
        normal = _scaled(centred, jax.lax.rsqrt(jnp.square(centred).mean(axis=-1) + self.eps))
        return (normal * jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(bias, x.shape)).astype(dtype)


def _gelu(x: jax.Array) -> jax.Array:
    # jax.nn.gelu(approximate=False) goes through erfc, which is twice as slow on a CPU.
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


class Where(NamedTuple):
    """Where the tokens of a batch are."""

    mask: jax.Array  # bool[B, T]
    places: Places


def _in_rows(*arrays: jax.Array, places: Places) -> list[jax.Array]:
    """[N, D] each -> [B, T, D] each, in one look-up."""
    return jnp.split(in_rows(jnp.concatenate(arrays, axis=-1), places), len(arrays), axis=-1)


class Attention(nn.Module):
    """What the tokens `asking`, [N, D] or the first of every row, [B, D], find in all of theirs, x: [N, D]."""

    sizes: EncoderSizes
    rank: int
    alpha: float

    @nn.compact
    def __call__(self, asking: jax.Array, x: jax.Array, where: Where, rates: Rates) -> jax.Array:
        dim, heads = self.sizes.dim, self.sizes.heads
        q = LoRADense(dim, self.rank, self.alpha, name="q_lin")(asking, rates.lora_dropout)
        k = _frozen_dense(dim, x.dtype, "k_lin")(x)
        v = LoRADense(dim, self.rank, self.alpha, name="v_lin")(x, rates.lora_dropout)
        scaled, every = q * (dim // heads) ** -0.5, asking is x
        q, k, v = (
            _in_rows(scaled, k, v, places=where.places)
            if every
            else (scaled[:, None], *_in_rows(k, v, places=where.places))
        )
        q, k, v = (array.reshape(*array.shape[:-1], heads, dim // heads) for array in (q, k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k).astype(jnp.float32)
        scores = jnp.where(where.mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        weights = Dropout(quartered=0)(softmax(scores).astype(x.dtype), rates.attention_dropout)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(*q.shape[:2], dim)
        mixed = side_by_side(mixed, where.places) if every else mixed[:, 0]
        return _frozen_dense(dim, x.dtype, "out_lin")(mixed)


class Block(nn.Module):
    sizes: EncoderSizes
    rank: int
    alpha: float

    @nn.compact
    def __call__(self, asking: jax.Array, x: jax.Array, where: Where, rates: Rates) -> jax.Array:
        """The next states of the tokens `asking`, which attend to all of their row."""
        sizes = self.sizes
        attention = Attention(sizes, self.rank, self.alpha, name="attention")(asking, x, where, rates)
        x = LayerNorm(sizes.layer_norm_eps, name="sa_layer_norm")(attention + asking)
        hidden = _gelu(_frozen_dense(sizes.hidden, x.dtype, "lin1")(x))
        hidden = Dropout()(_frozen_dense(sizes.dim, x.dtype, "lin2")(hidden), rates.dropout)
        return LayerNorm(sizes.layer_norm_eps, name="output_layer_norm")(hidden + x)


class Embeddings(nn.Module):
    sizes: EncoderSizes

    @nn.compact
    def __call__(self, tokens: jax.Array, places: Places, dropout: Rate) -> jax.Array:
        """[N, D] of i32[B, T]"""
        sizes, zeros = self.sizes, nn.initializers.zeros
        of = jnp.arange(tokens.size) if places.of is None else places.of
        own = tokens.ravel().at[of].get(mode="fill", fill_value=0)
        words = nn.Embed(sizes.vocabulary_size, sizes.dim, embedding_init=zeros, name="word")(own)
        table = self.param("position", zeros, (sizes.positions, sizes.dim))
        x = words + table[of % tokens.shape[1]]
        return Dropout()(LayerNorm(sizes.layer_norm_eps, name="layer_norm")(x), dropout)


class Classifier(nn.Module):
    sizes: EncoderSizes
    num_classes: int
    rank: int
    alpha: float

    @nn.compact
    def __call__(self, tokens: jax.Array, rates: Rates = EVALUATION, number: int | None = None) -> jax.Array:
        mask = tokens != 0
        where = Where(mask, places_of(mask, number))
        x = Embeddings(self.sizes, name="embeddings")(tokens, where.places, rates.dropout)
        for layer in range(self.sizes.layers):
            # The head reads the first token alone, so the last block need not compute the others.
            asking = first_of_rows(x, where.places) if layer == self.sizes.layers - 1 else x
            x = Block(self.sizes, self.rank, self.alpha, name=f"layer_{layer}")(asking, x, where, rates)
        init = nn.initializers.normal(0.02)
        x = nn.Dense(self.sizes.dim, dtype=x.dtype, kernel_init=init, name="pre_classifier")(x)
        x = Dropout()(jax.nn.relu(x), rates.head_dropout)
        return nn.Dense(self.num_classes, dtype=jnp.float32, kernel_init=init, name="classifier")(x)


def is_trainable(path: KeyPath) -> bool:
    """LoRA factors and the classification head."""
    return is_adapter(path) or is_head(path)


def is_head(path: KeyPath) -> bool:
    return path[0].key in HEAD


def random_weights(key: jax.Array, sizes: EncoderSizes) -> Params:
    """An encoder as before pretraining (Devlin et al. 2019, section A.2 and code): matrices and tables normal(0.02),
    layer norms 1 and biases 0."""

    def leaf(path: KeyPath, key: jax.Array, shape: jax.ShapeDtypeStruct) -> jax.Array:
        if len(shape.shape) > 1:
            return 0.02 * jax.random.normal(key, shape.shape, jnp.float32)
        return jnp.full(shape.shape, float(path[-1].key == "scale"), jnp.float32)

    shapes = frozen_shapes(sizes)
    leaves, structure = jax.tree.flatten(shapes)
    keys = jax.tree.unflatten(structure, list(jax.random.split(key, len(leaves))))
    return jax.tree_util.tree_map_with_path(leaf, keys, shapes)


def frozen_shapes(sizes: EncoderSizes) -> Params:
    """The tree of `jax.ShapeDtypeStruct` that `transformer` takes as `frozen`; allocates nothing."""
    module = Classifier(sizes, num_classes=1, rank=1, alpha=1.0)
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    return split(variables["params"], is_trainable)[1]


def _matrices_in(dtype: jnp.dtype, frozen: Params) -> Params:
    """Kernels and embedding tables in `dtype`; those that are, and every vector, as they were."""
    return jax.tree.map(lambda x: x if x.ndim < 2 or x.dtype == dtype else x.astype(dtype), frozen)


def transformer(
    checkpoint_sizes: EncoderSizes,
    frozen: Params | None,
    num_classes: int,
    *,
    trains: str = "adapters",
    lora_rank: int = 8,
    lora_alpha: float = 16.0,
    lora_dropout: float = 0.1,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    head_dropout: float = 0.2,
    compute_dtype: str = "float32",
) -> Model:
    """DistilBERT for sequence classification on the weights of a checkpoint.

    `checkpoint_sizes` and `frozen` are what `pretrained.load_checkpoint` gives; None: random weights. `init` returns
    what is frozen, its matrices in `compute_dtype` (`float32` or `bfloat16`, the type of products and activations).
    Trainable, in float32: the head pre_classifier -> ReLU -> dropout -> classifier on the first token (normal(0.02),
    bias 0), and as `trains` says LoRA factors (`adapters`; B = 0), nothing more (`head`) or every weight (`all`).
    tokens: i32[B, T], 0 is padding and is masked, T <= positions.
    """
    adapts, dtype = trains == "adapters", jnp.dtype(compute_dtype)
    own = Rates(lora_dropout if adapts else 0.0, dropout, attention_dropout, head_dropout)
    module = Classifier(checkpoint_sizes, num_classes, lora_rank if adapts else 0, lora_alpha)

    def encoder(key: jax.Array) -> Params:
        return random_weights(key, checkpoint_sizes) if frozen is None else frozen

    # Frozen weights are shared by all cells, so that no seed of theirs decides them.
    held = {} if trains == "all" else _matrices_in(dtype, encoder(jax.random.key(0)))

    @jax.jit  # the zeros that stand for the frozen weights are dead code here, so none is allocated
    def init_trainable(key: jax.Array) -> Params:
        return split(module.init(key, jnp.zeros((1, 1), jnp.int32))["params"], is_trainable)[0]

    def init(key: jax.Array) -> tuple[Params, Params]:
        if trains != "all":
            return init_trainable(key), held
        return {**init_trainable(key), **encoder(jax.random.fold_in(key, 1))}, held

    def apply(
        trainable: Params,
        frozen: Params,
        tokens: jax.Array,
        key: jax.Array | None = None,
        rates: Mapping[str, Rate] | None = None,
        *,
        places: int | None = None,
    ) -> jax.Array:
        params = {"params": merge(_matrices_in(dtype, trainable) if trains == "all" else trainable, frozen)}
        if key is None:
            return module.apply(params, tokens, number=places)
        # Side by side even if all are computed: what dropout draws for a token is then the same for any number.
        number = tokens.size if places is None else places
        return module.apply(params, tokens, own._replace(**rates or {}), number, rngs={"dropout": key})

    rates_ = {name: rate for name, rate in own._asdict().items() if rate}
    return Model(init, apply, is_adapter, rates_, lora_scale=lora_alpha / lora_rank, trailing=0, packs=True)
