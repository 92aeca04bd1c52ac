"""Random encoders on disk, named as Hugging Face names them; no PyTorch needed to write them."""

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

BERT = {
    "q_lin": "attention.self.query",
    "k_lin": "attention.self.key",
    "v_lin": "attention.self.value",
    "out_lin": "attention.output.dense",
    "sa_layer_norm": "attention.output.LayerNorm",
    "lin1": "intermediate.dense",
    "lin2": "output.dense",
    "output_layer_norm": "output.LayerNorm",
}
DISTILBERT = {name: f"attention.{name}" for name in ("q_lin", "k_lin", "v_lin", "out_lin")} | {
    "sa_layer_norm": "sa_layer_norm",
    "lin1": "ffn.lin1",
    "lin2": "ffn.lin2",
    "output_layer_norm": "output_layer_norm",
}

TYPES = {"bert": 2, "roberta": 1, "xlm-roberta": 1}


def random_tensors(
    model_type: str = "distilbert",
    *,
    layers: int = 2,
    dim: int = 32,
    hidden: int = 64,
    vocabulary: int = 60,
    positions: int = 16,
    seed: int = 0,
) -> dict[str, np.ndarray]:
    """Every tensor of the encoder, without prefix: biases and scales are random too, so that none is idle."""
    rng = np.random.default_rng(seed)

    def normal(*shape: int, scale: float, centre: float = 0.0) -> np.ndarray:
        return (centre + scale * rng.standard_normal(shape)).astype(np.float32)

    def norm(name: str) -> dict[str, np.ndarray]:
        return {f"{name}.weight": normal(dim, scale=0.2, centre=1.0), f"{name}.bias": normal(dim, scale=0.2)}

    def linear(name: str, rows: int, columns: int) -> dict[str, np.ndarray]:
        return {
            f"{name}.weight": normal(rows, columns, scale=columns**-0.5),
            f"{name}.bias": normal(rows, scale=0.2),
        }

    stem, names = ("transformer.layer", DISTILBERT) if model_type == "distilbert" else ("encoder.layer", BERT)
    tensors = {
        "embeddings.word_embeddings.weight": normal(vocabulary, dim, scale=1.0),
        "embeddings.position_embeddings.weight": normal(positions, dim, scale=1.0),
    } | norm("embeddings.LayerNorm")
    if model_type != "distilbert":
        tensors["embeddings.token_type_embeddings.weight"] = normal(TYPES[model_type], dim, scale=1.0)
    for layer in range(layers):
        for name, target in names.items():
            full = f"{stem}.{layer}.{target}"
            if name.endswith("norm"):
                tensors |= norm(full)
            else:
                tensors |= linear(full, hidden if name == "lin1" else dim, hidden if name == "lin2" else dim)
    return tensors


def random_config(
    model_type: str = "distilbert",
    *,
    layers: int = 2,
    dim: int = 32,
    heads: int = 4,
    hidden: int = 64,
    vocabulary: int = 60,
    positions: int = 16,
) -> dict[str, object]:
    common = {"model_type": model_type, "vocab_size": vocabulary, "max_position_embeddings": positions}
    if model_type != "distilbert":
        return common | {
            "hidden_size": dim,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "intermediate_size": hidden,
            "hidden_act": "gelu",
            "layer_norm_eps": 1e-12,
            "pad_token_id": 0 if model_type == "bert" else 1,
            "type_vocab_size": TYPES[model_type],
        }
    return common | {
        "dim": dim,
        "n_layers": layers,
        "n_heads": heads,
        "hidden_dim": hidden,
        "activation": "gelu",
        "pad_token_id": 0,
    }


def write_checkpoint(folder: Path, config: dict[str, object], tensors: dict[str, np.ndarray]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def split_into_shards(folder: Path, count: int = 2) -> list[str]:
    """Puts shards and their index in the place of model.safetensors; returns their names."""
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    names = [f"model-{number + 1:05}-of-{count:05}.safetensors" for number in range(count)]
    places = {tensor: names[place % count] for place, tensor in enumerate(sorted(tensors))}
    for name in names:
        held = {tensor: value for tensor, value in tensors.items() if places[tensor] == name}
        save_file(held, folder / name, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(value.nbytes for value in tensors.values())}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return names


def random_checkpoint(folder: Path, model_type: str = "distilbert", seed: int = 0, vocabulary: int = 60) -> Path:
    """The default tiny encoder: 2 layers, width 32, 4 heads, 60 words, 16 positions."""
    tensors = random_tensors(model_type, seed=seed, vocabulary=vocabulary)
    return write_checkpoint(folder, random_config(model_type, vocabulary=vocabulary), tensors)


def write_vocabulary(folder: Path, words: Iterable[str], size: int = 60) -> None:
    """vocab.txt of an uncased WordPiece tokenizer that knows the words whole."""
    pieces = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    pieces += [f"[unused{number}]" for number in range(size - len(pieces))]
    (folder / "vocab.txt").write_text("\n".join(pieces) + "\n")


def byte_level(words: Iterable[str], size: int = 320) -> Tokenizer:
    """A byte-level BPE tokenizer in the form of RoBERTa's, trained on the words."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(words, trainer)
    tokenizer.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    return tokenizer


def unigram(words: Iterable[str], size: int = 200) -> Tokenizer:
    """A SentencePiece-like tokenizer in the form of XLM-R's, trained on the words."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    trainer = trainers.UnigramTrainer(vocab_size=size, special_tokens=special, unk_token="<unk>", show_progress=False)  # noqa: S106
    tokenizer.train_from_iterator(words, trainer)
    frame = [("<s>", 0), ("</s>", 2)]
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=frame)
    return tokenizer
