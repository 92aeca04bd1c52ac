"""DistilBERT's encoder (Sanh et al. 2019, arXiv:1910.01108) with LoRA on its query and value projections.

BERT checkpoints run on the same encoder once their constant token-type row is folded into the positions.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import linen as nn

from fedjax_paradox.models.base import Dropout, KeyPath, Model, Params, merge, split
from fedjax_paradox.models.lora import LoRADense, is_adapter

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
    """Dropout rates (zero is none): LoRA branch, embeddings and blocks, attention weights, head."""

    lora: float
    block: float
    attention: float
    head: float


def _frozen_dense(features: int, name: str) -> nn.Dense:
    # Zeros: a frozen weight is never initialised at random, its values come from a checkpoint.
    return nn.Dense(features, kernel_init=nn.initializers.zeros, name=name)


def _layer_norm(eps: float, name: str) -> nn.LayerNorm:
    return nn.LayerNorm(epsilon=eps, use_fast_variance=False, scale_init=nn.initializers.zeros, name=name)


def _gelu(x: jax.Array) -> jax.Array:
    # jax.nn.gelu(approximate=False) goes through erfc, which is twice as slow on a CPU.
    return 0.5 * x * (1.0 + jax.lax.erf(x * 0.5**0.5))


class Attention(nn.Module):
    sizes: EncoderSizes
    rank: int
    alpha: float
    rates: Rates

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, deterministic: bool) -> jax.Array:
        dim, heads = self.sizes.dim, self.sizes.heads
        split_heads = (*x.shape[:-1], heads, dim // heads)
        q = LoRADense(dim, self.rank, self.alpha, self.rates.lora, name="q_lin")(x, deterministic)
        k = _frozen_dense(dim, "k_lin")(x)
        v = LoRADense(dim, self.rank, self.alpha, self.rates.lora, name="v_lin")(x, deterministic)
        q, k, v = (array.reshape(split_heads) for array in (q * (dim // heads) ** -0.5, k, v))
        scores = jnp.einsum("bqhd,bkhd->bhqk", q, k)
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(scores.dtype).min)
        weights = Dropout(self.rates.attention)(jax.nn.softmax(scores, axis=-1), deterministic)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, v).reshape(x.shape)
        return _frozen_dense(dim, "out_lin")(mixed)


class Block(nn.Module):
    sizes: EncoderSizes
    rank: int
    alpha: float
    rates: Rates

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array, deterministic: bool) -> jax.Array:
        sizes = self.sizes
        attention = Attention(sizes, self.rank, self.alpha, self.rates, name="attention")
        x = _layer_norm(sizes.layer_norm_eps, "sa_layer_norm")(attention(x, mask, deterministic) + x)
        hidden = _gelu(_frozen_dense(sizes.hidden, "lin1")(x))
        hidden = Dropout(self.rates.block)(_frozen_dense(sizes.dim, "lin2")(hidden), deterministic)
        return _layer_norm(sizes.layer_norm_eps, "output_layer_norm")(hidden + x)


class Embeddings(nn.Module):
    sizes: EncoderSizes
    rate: float

    @nn.compact
    def __call__(self, tokens: jax.Array, deterministic: bool) -> jax.Array:
        sizes, zeros = self.sizes, nn.initializers.zeros
        words = nn.Embed(sizes.vocabulary_size, sizes.dim, embedding_init=zeros, name="word")(tokens)
        table = self.param("position", zeros, (sizes.positions, sizes.dim))
        x = words + table[None, : tokens.shape[1]]
        return Dropout(self.rate)(_layer_norm(sizes.layer_norm_eps, "layer_norm")(x), deterministic)


class Classifier(nn.Module):
    sizes: EncoderSizes
    num_classes: int
    rank: int
    alpha: float
    rates: Rates

    @nn.compact
    def __call__(self, tokens: jax.Array, deterministic: bool = True) -> jax.Array:
        mask = tokens != 0
        x = Embeddings(self.sizes, self.rates.block, name="embeddings")(tokens, deterministic)
        for layer in range(self.sizes.layers):
            block = Block(self.sizes, self.rank, self.alpha, self.rates, name=f"layer_{layer}")
            x = block(x, mask, deterministic)
        init = nn.initializers.normal(0.02)
        x = nn.Dense(self.sizes.dim, kernel_init=init, name="pre_classifier")(x[:, 0])
        x = Dropout(self.rates.head)(jax.nn.relu(x), deterministic)
        return nn.Dense(self.num_classes, kernel_init=init, name="classifier")(x)


def is_trainable(path: KeyPath) -> bool:
    """LoRA factors and the classification head."""
    return is_adapter(path) or path[0].key in HEAD


def frozen_shapes(sizes: EncoderSizes) -> Params:
    """The tree of `jax.ShapeDtypeStruct` that `transformer` takes as `frozen`; allocates nothing."""
    module = Classifier(sizes, num_classes=1, rank=1, alpha=1.0, rates=Rates(0.0, 0.0, 0.0, 0.0))
    variables = jax.eval_shape(module.init, jax.random.key(0), jnp.zeros((1, 1), jnp.int32))
    return split(variables["params"], is_trainable)[1]


def transformer(
    checkpoint_sizes: EncoderSizes,
    frozen: Params,
    num_classes: int,
    lora_rank: int = 8,
    lora_alpha: float = 16.0,
    lora_dropout: float = 0.1,
    dropout: float = 0.1,
    attention_dropout: float = 0.1,
    head_dropout: float = 0.2,
) -> Model:
    """DistilBERT for sequence classification on the frozen weights of a checkpoint.

    `checkpoint_sizes` and `frozen` are what `pretrained.load_checkpoint` gives; `init` returns that `frozen`.
    Trainable: LoRA factors (B = 0) and the head pre_classifier -> ReLU -> dropout -> classifier on the first
    token (normal(0.02), bias 0). tokens: i32[B, T], 0 is padding and is masked, T <= positions.
    """
    rates = Rates(lora_dropout, dropout, attention_dropout, head_dropout)
    module = Classifier(checkpoint_sizes, num_classes, lora_rank, lora_alpha, rates)

    @jax.jit  # the zeros that stand for the frozen weights are dead code here, so none is allocated
    def init_trainable(key: jax.Array) -> Params:
        return split(module.init(key, jnp.zeros((1, 1), jnp.int32))["params"], is_trainable)[0]

    def init(key: jax.Array) -> tuple[Params, Params]:
        return init_trainable(key), frozen

    def apply(trainable: Params, frozen: Params, tokens: jax.Array, key: jax.Array | None = None) -> jax.Array:
        rngs = None if key is None else {"dropout": key}
        return module.apply({"params": merge(trainable, frozen)}, tokens, key is None, rngs=rngs)

    return Model(init, apply, is_adapter)
