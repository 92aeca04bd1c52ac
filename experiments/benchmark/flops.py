"""The arithmetic that a step needs, counted from the architecture: matrix products only, 2 m n k each."""

from typing import NamedTuple


class Encoder(NamedTuple):
    """Sizes of a DistilBERT-architecture encoder."""

    dim: int
    hidden: int
    layers: int = 6
    heads: int = 12
    vocabulary: int = 30_522
    positions: int = 512


ENCODERS = {"minilm": Encoder(384, 1536), "distilbert": Encoder(768, 3072)}


def lora_row_flops(encoder: Encoder, tokens: int, classes: int, rank: int) -> int:
    """FLOPs that the gradient of one row needs: LoRA on the query and value projections, a trained head.

    Counted are the products of the forward pass and those of the backward pass that some trainable leaf
    depends on. Not counted: gradients of frozen weights; in the first block whatever leads only to the
    block's input, below which nothing is trained; in the last block queries, output projection and
    feed-forward of all tokens but the first, since the head reads that one alone. Every one of the `tokens`
    positions counts, padding included. Elementwise work counts as nothing.

    Args:
      tokens: T of the padded batch; classes: outputs of the head; rank: of the LoRA factors.
    """
    queries = [tokens] * (encoder.layers - 1) + [1]
    blocks = sum(block_flops(encoder, tokens, rank, q, first=number == 0) for number, q in enumerate(queries))
    # Forward, gradient of the weights, gradient of the inputs.
    head = 3 * 2 * (encoder.dim**2 + encoder.dim * classes)
    return blocks + head


def full_row_flops(encoder: Encoder, tokens: int, classes: int, rank: int) -> int:
    """As `lora_row_flops`, but with the last block on all tokens, as the reference implementations compute it."""
    blocks = [block_flops(encoder, tokens, rank, tokens, first=number == 0) for number in range(encoder.layers)]
    return sum(blocks) + 3 * 2 * (encoder.dim**2 + encoder.dim * classes)


def block_flops(encoder: Encoder, tokens: int, rank: int, queries: int, first: bool) -> int:
    """Forward and backward FLOPs of one block on one row whose output is read at `queries` of its `tokens`."""
    d, h, t, q = encoder.dim, encoder.hidden, tokens, queries
    query_and_output, key_and_value = 2 * (2 * q * d * d), 2 * (2 * t * d * d)
    attention_product, feed_forward = 2 * q * t * d, 2 * (2 * q * d * h)
    adapter = 2 * d * rank * (q + t)  # one of the two thin products, on the query and on the value path
    forward = query_and_output + key_and_value + 2 * attention_product + feed_forward + 2 * adapter
    if first:
        # Down to the query and value adapters: gradients of probabilities, values and queries, none of keys;
        # of the thin products the gradients of both factors and of what lies between them.
        return forward + feed_forward + query_and_output // 2 + 3 * attention_product + 3 * adapter
    return forward + feed_forward + query_and_output + key_and_value + 4 * attention_product + 4 * adapter
