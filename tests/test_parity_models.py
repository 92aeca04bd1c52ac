"""Logits and gradients against PyTorch: Hugging Face's encoders, PEFT's adapters, a TextCNN written here.

Relative errors are ||ours - theirs|| / ||theirs|| in float32. Both sides compute the same formulas and differ
in the order of sums only, which is a few ulp (1e-7) a layer; a wrong epsilon, scale, mask or activation is
1e-4 or more.
"""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import random_config, random_tensors, write_checkpoint

from fedjax_paradox.errors import InputError
from fedjax_paradox.models.base import Model
from fedjax_paradox.models.distilbert import EncoderSizes, transformer
from fedjax_paradox.models.export import LoRA, base_of, write_adapter
from fedjax_paradox.models.pretrained import find_checkpoint, load_checkpoint
from fedjax_paradox.models.textcnn import textcnn

torch = pytest.importorskip("torch", reason="PyTorch is not installed (extra `parity`)")
transformers = pytest.importorskip("transformers", reason="transformers is not installed")
peft = pytest.importorskip("peft", reason="PEFT is not installed (extra `parity`)")

pytestmark = pytest.mark.parity

CLASSES = 4
LOGITS, GRADIENTS = 1e-5, 1e-5


def relative(ours: object, theirs: object) -> float:
    a, b = (np.asarray(x, np.float64) for x in (ours, theirs))
    assert a.shape == b.shape
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


def ragged_tokens(vocabulary: int = 60, batch: int = 6, length: int = 12) -> np.ndarray:
    """Texts of different lengths, padded with zeros; one has no padding."""
    rng = np.random.default_rng(0)
    tokens = rng.integers(1, vocabulary, (batch, length))
    lengths = np.linspace(2, length, batch).astype(int)
    return np.where(np.arange(length) < lengths[:, None], tokens, 0)


def as_torch(tokens: np.ndarray) -> dict[str, "torch.Tensor"]:
    ids = torch.from_numpy(tokens).long()
    return {"input_ids": ids, "attention_mask": (ids != 0).long()}


def labels(batch: int) -> np.ndarray:
    return np.arange(batch) % CLASSES


def cross_entropy(model: Model, trainable: dict, frozen: dict, tokens: np.ndarray) -> jax.Array:
    logits = model.apply(trainable, frozen, jnp.asarray(tokens, jnp.int32))
    return -jax.nn.log_softmax(logits)[jnp.arange(len(tokens)), labels(len(tokens))].mean()


def gradients(model: Model, trainable: dict, frozen: dict, tokens: np.ndarray) -> dict:
    return jax.jit(jax.grad(lambda leaves: cross_entropy(model, leaves, frozen, tokens)))(trainable)


def perturbed(trainable: dict) -> dict:
    """Every leaf moved at random: B and the biases start at zero and would hide mistakes."""
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda x: x + 0.1 * rng.standard_normal(x.shape).astype(np.float32), trainable)


# DistilBERT


@pytest.fixture(scope="module")
def distilbert_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As save_pretrained writes it: prefixed, with a classification head."""
    rng = np.random.default_rng(7)
    tensors = {f"distilbert.{name}": tensor for name, tensor in random_tensors().items()}
    for name, rows in (("pre_classifier", 32), ("classifier", CLASSES)):
        tensors[f"{name}.weight"] = (0.3 * rng.standard_normal((rows, 32))).astype(np.float32)
        tensors[f"{name}.bias"] = rng.standard_normal(rows).astype(np.float32)
    return write_checkpoint(tmp_path_factory.mktemp("distilbert"), random_config(), tensors)


def hf_classifier(folder: Path) -> "transformers.PreTrainedModel":
    auto = transformers.DistilBertForSequenceClassification
    return auto.from_pretrained(folder, num_labels=CLASSES, attn_implementation="eager").eval()


def test_distilbert_logits(distilbert_folder: Path) -> None:
    theirs = hf_classifier(distilbert_folder)
    sizes, frozen = load_checkpoint(distilbert_folder)
    model = transformer(sizes, frozen, CLASSES)
    trainable, _ = model.init(jax.random.key(0))
    for name in ("pre_classifier", "classifier"):
        layer = getattr(theirs, name)
        trainable[name] = {"kernel": layer.weight.detach().numpy().T, "bias": layer.bias.detach().numpy()}
    tokens = ragged_tokens()
    with torch.no_grad():
        expected = theirs(**as_torch(tokens)).logits
    assert relative(model.apply(trainable, frozen, jnp.asarray(tokens, jnp.int32)), expected) < LOGITS


def our_names(name: str) -> tuple[str, ...]:
    """PEFT's parameter name -> our path, written apart from the package's own export."""
    lora = re.fullmatch(r".*\.layer\.(\d+)\.attention\.([qv]_lin)\.lora_([AB])\.default\.weight", name)
    if lora:
        return f"layer_{lora[1]}", "attention", lora[2], f"lora_{lora[3].lower()}"
    head = re.fullmatch(r".*\.(\w+)\.modules_to_save\.default\.(weight|bias)", name)
    assert head, name
    return head[1], {"weight": "kernel", "bias": "bias"}[head[2]]


# PEFT 0.21 asks transformers 5.23 for a property that the latter has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_peft_loads_the_exported_adapter_with_equal_logits_and_gradients(
    distilbert_folder: Path, tmp_path: Path
) -> None:
    sizes, frozen = load_checkpoint(distilbert_folder)
    model = transformer(sizes, frozen, CLASSES, lora_rank=3, lora_alpha=5.0)
    trainable = perturbed(model.init(jax.random.key(0))[0])
    write_adapter(trainable, base_of(str(distilbert_folder), distilbert_folder), LoRA(5.0, 3, 0.1), tmp_path)
    base = hf_classifier(distilbert_folder)
    theirs = peft.PeftModel.from_pretrained(base, tmp_path, is_trainable=True).eval()
    tokens = ragged_tokens()
    logits = theirs(**as_torch(tokens)).logits
    assert relative(model.apply(trainable, frozen, jnp.asarray(tokens, jnp.int32)), logits.detach()) < LOGITS

    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels(len(tokens)))).backward()
    ours = gradients(model, trainable, frozen, tokens)
    expected = {our_names(n): p.grad.numpy().T for n, p in theirs.named_parameters() if p.requires_grad}
    assert len(expected) == len(jax.tree.leaves(ours))
    for names, gradient in expected.items():
        leaf = ours
        for name in names:
            leaf = leaf[name]
        assert relative(leaf, gradient) < GRADIENTS, names


# BERT


def first_hidden_state(folder: Path, tokens: np.ndarray) -> jax.Array:
    """The encoder's output for the first token, read off through heads of +identity and -identity."""
    sizes, frozen = load_checkpoint(folder)
    model = transformer(sizes, frozen, num_classes=sizes.dim)
    trainable, _ = model.init(jax.random.key(0))
    eye, zero = jnp.eye(sizes.dim), jnp.zeros(sizes.dim)
    apply = jax.jit(model.apply)

    def positive_part(sign: float) -> jax.Array:
        heads = {
            "pre_classifier": {"kernel": sign * eye, "bias": zero},
            "classifier": {"kernel": eye, "bias": zero},
        }
        return apply(trainable | heads, frozen, jnp.asarray(tokens, jnp.int32))

    return positive_part(1.0) - positive_part(-1.0)


def hf_first_hidden_state(folder: Path, tokens: np.ndarray) -> "torch.Tensor":
    theirs = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        return theirs(**as_torch(tokens)).last_hidden_state[:, 0]


@pytest.mark.parametrize("eps", [1e-12, 0.1])
def test_bert_hidden_state_with_token_types_folded(tmp_path: Path, eps: float) -> None:
    tensors = random_tensors("bert") | {
        "pooler.dense.weight": np.eye(32, dtype=np.float32),
        "pooler.dense.bias": np.zeros(32, np.float32),
    }
    folder = write_checkpoint(tmp_path, random_config("bert") | {"layer_norm_eps": eps}, tensors)
    tokens = ragged_tokens()
    assert relative(first_hidden_state(folder, tokens), hf_first_hidden_state(folder, tokens)) < LOGITS


@pytest.mark.parametrize("kind", ["roberta", "xlm-roberta"])
def test_roberta_hidden_state_with_padding_and_positions_of_its_own(tmp_path: Path, kind: str) -> None:
    """Its texts are padded with 1, and 0 is a token among others, the first of each text."""
    unused = {"lm_head.bias": np.zeros(60, np.float32), "lm_head.dense.weight": np.eye(32, dtype=np.float32)}
    tensors = {f"roberta.{name}": tensor for name, tensor in random_tensors(kind).items()} | unused
    folder = write_checkpoint(tmp_path, random_config(kind), tensors)
    assert load_checkpoint(folder)[0].positions == 14  # of 16, two before the first that a text has
    tokens = np.pad(ragged_tokens(), ((0, 0), (1, 0)), constant_values=1)[:, :14]
    theirs = np.select([tokens == 0, tokens == 1], [1, 0], tokens)
    ids = torch.from_numpy(theirs).long()
    encoder = transformers.AutoModel.from_pretrained(folder, attn_implementation="eager").eval()
    with torch.no_grad():
        expected = encoder(input_ids=ids, attention_mask=(ids != 1).long()).last_hidden_state[:, 0]
    assert relative(first_hidden_state(folder, tokens), expected) < LOGITS


def test_the_published_minilm_weights(tmp_path: Path) -> None:
    try:
        folder = find_checkpoint("sentence-transformers/all-MiniLM-L6-v2", tmp_path)
    except InputError as error:
        pytest.skip(f"the MiniLM weights cannot be had here: {error}")
    tokens = ragged_tokens(vocabulary=30_000, batch=4, length=24)
    ours = first_hidden_state(folder, tokens)
    assert load_checkpoint(folder)[0] == EncoderSizes(30_522, 512, 384, 6, 12, 1536)
    assert relative(ours, hf_first_hidden_state(folder, tokens)) < LOGITS


# TextCNN


class TorchTextCNN(torch.nn.Module):
    """Kim (2014) in PyTorch's own layers: 60 words, embedding 8, 6 filters of each width."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(60, 8, padding_idx=0)
        self.convs = torch.nn.ModuleList(torch.nn.Conv1d(8, 6, width) for width in (3, 4, 5))
        self.classifier = torch.nn.Linear(18, CLASSES)

    def forward(self, tokens: "torch.Tensor") -> "torch.Tensor":
        x = self.embedding(tokens).transpose(1, 2)
        return self.classifier(torch.cat([torch.relu(conv(x)).amax(2) for conv in self.convs], dim=1))

    def as_tree(self, of: str) -> dict:
        """The parameters (`data`) or their gradients (`grad`) in the layout of `textcnn`."""
        get = lambda tensor: jnp.asarray(getattr(tensor, of).numpy())  # noqa: E731
        tree = {
            f"conv_{conv.kernel_size[0]}": {"kernel": get(conv.weight).transpose(2, 1, 0), "bias": get(conv.bias)}
            for conv in self.convs
        }
        head = {"kernel": get(self.classifier.weight).T, "bias": get(self.classifier.bias)}
        return tree | {"embedding": get(self.embedding.weight), "classifier": head}


def test_textcnn_logits_and_gradients() -> None:
    torch.manual_seed(0)
    theirs = TorchTextCNN()
    model = textcnn(60, CLASSES, embedding_size=8, filters=6)
    trainable = theirs.as_tree("data")
    assert jax.tree.map(jnp.shape, trainable) == jax.tree.map(jnp.shape, model.init(jax.random.key(0))[0])
    tokens = ragged_tokens(batch=8)
    logits = theirs(torch.from_numpy(tokens))
    assert relative(model.apply(trainable, {}, jnp.asarray(tokens, jnp.int32)), logits.detach()) < LOGITS
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(labels(8))).backward()
    errors = jax.tree.map(relative, gradients(model, trainable, {}, tokens), theirs.as_tree("grad"))
    assert max(jax.tree.leaves(errors)) < GRADIENTS, errors
