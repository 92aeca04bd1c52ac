"""Weights and data sets of a hub on 127.0.0.1, through the clients that a person has."""

import hashlib
import io
import json
import time
from pathlib import Path

import checkpoints
import jax
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import toy
import yaml
from hub import MEMBER, Client, Hub, served
from safetensors.numpy import load_file

from fedjax_paradox.config import Cell, cells, content_hash, identity, structure, to_yaml
from fedjax_paradox.config.validation import validated
from fedjax_paradox.errors import InputError
from fedjax_paradox.models.pretrained import load_checkpoint
from fedjax_paradox.report.card import card
from fedjax_paradox.storage import results

PROGRAM = Path(__file__).with_name("hub_client.py")
INDEX = "model.safetensors.index.json"
TRAIN, TEST = (["a b", "c d", "e f"], [0, 1, 1]), (["g h", "i j"], [1, 0])


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("hub")


@pytest.fixture(scope="module")
def hub():
    with served(Hub()) as hub:
        yield hub


def started(place, hub, **environment):
    return Client(PROGRAM, place / "home", hub.endpoint, **environment)


@pytest.fixture(scope="module")
def client(place, hub):
    client = started(place, hub)
    yield client
    client.close()


@pytest.fixture(scope="module")
def offline(place, hub):
    """Over the same cache as `client`."""
    client = started(place, hub, HF_HUB_OFFLINE="1")
    yield client
    client.close()


@pytest.fixture
def cache(tmp_path):
    return str(tmp_path / "cache")


def files_of(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def checkpoint_files(folder, seed=0, shards=0):
    """What a publisher uploads beside the weights, too."""
    checkpoints.random_checkpoint(folder, seed=seed)
    if shards:
        checkpoints.split_into_shards(folder, shards)
    checkpoints.write_vocabulary(folder, [word for words in toy.WORDS.values() for word in words])
    return files_of(folder) | {"README.md": b"# weights", "pytorch_model.bin": b"pickle", "onnx/model.onnx": b"onnx"}


def parquet(texts, labels):
    content = io.BytesIO()
    pq.write_table(pa.table({"text": texts, "label": labels}), content)
    return content.getvalue()


def csv(texts, labels):
    return "".join(
        f"{text},{label}\n" for text, label in [("text", "label"), *zip(texts, labels, strict=True)]
    ).encode()


def split_files(write, suffix, train=TRAIN, folder="data"):
    return {f"{folder}/train{suffix}": write(*train), f"{folder}/test{suffix}": write(*TEST)}


# ---- weights


def test_whole_weights_come_through_the_cdn_and_nothing_else_does(hub, client, cache, tmp_path):
    files = checkpoint_files(tmp_path / "made")
    commit = hub.add("models/some/whole", files | {INDEX: b"{}", "model-00001-of-00002.safetensors": b"other"})
    found = client("weights", name="some/whole", cache=cache)
    assert found["files"] == ["config.json", "model.safetensors", "vocab.txt"]
    assert files_of(Path(found["folder"])) == {name: files[name] for name in found["files"]}
    digest = hashlib.sha256(files["model.safetensors"]).hexdigest()
    assert (found["digest"], found["commit"]) == (digest, commit)
    assert hub.asked(f"/{digest}?signature")  # where the hub had redirected to
    assert not [path for _, path, _ in hub.log if "README" in path or ".bin" in path or "0000" in path or INDEX in path]
    count = len(hub.log)
    assert client("weights", name="some/whole", cache=cache) == found
    assert len(hub.log) == count


def test_shards_come_by_their_index_and_hold_the_same_weights(hub, client, cache, tmp_path):
    files = checkpoint_files(tmp_path / "made", shards=3)
    commit = hub.add("models/some/shards", files)
    found = client("weights", name="some/shards", cache=cache)
    shards = sorted(name for name in files if name.endswith(".safetensors"))
    assert found["files"] == sorted(["config.json", "vocab.txt", INDEX, *shards])
    assert found["commit"] == commit
    told = "\n".join(hashlib.sha256(files[name]).hexdigest() for name in shards)
    assert found["digest"] == hashlib.sha256(told.encode()).hexdigest()
    whole = load_checkpoint(checkpoints.random_checkpoint(tmp_path / "whole"))
    sharded = load_checkpoint(Path(found["folder"]))
    assert sharded[0] == whole[0]
    jax.tree.map(np.testing.assert_array_equal, sharded[1], whole[1])


def test_an_index_that_leaves_its_folder_is_refused_before_anything_is_fetched(hub, client, cache, tmp_path):
    files = checkpoint_files(tmp_path / "made", shards=2)
    index = json.loads(files[INDEX])
    index["weight_map"]["embeddings.LayerNorm.bias"] = "../../main/model.safetensors"
    hub.add("models/some/escape", files | {INDEX: json.dumps(index).encode()})
    assert "a shard must be a .safetensors file in the same folder" in client.refused(
        "weights", name="some/escape", cache=cache
    )
    assert not [path for _, path, _ in hub.asked("some/escape") if "0000" in path]


def test_a_download_that_breaks_off_goes_on_where_it_was(hub, client, cache):
    weights = bytes(range(256)) * (24 * 2**12)  # 24 MiB; the client writes 10 MiB at a time
    hub.add("models/some/broken", {"config.json": b"{}", "model.safetensors": weights})
    hub.cuts = 1
    found = client("weights", name="some/broken", cache=cache)
    assert found["digest"] == hashlib.sha256(weights).hexdigest()
    ranges = [asked for _, path, asked in hub.asked(f"/{found['digest']}")]
    assert [asked.partition("-")[0] for asked in ranges] == ["", f"bytes={10 * 2**20}"]


def test_a_name_that_has_moved_is_followed(hub, client, cache, tmp_path):
    commit = hub.add("models/new/home", checkpoint_files(tmp_path / "made", seed=2))
    hub.moved["old-name"] = "new/home"
    assert client("weights", name="old-name", cache=cache)["commit"] == commit


def test_a_revision_is_a_commit_a_branch_or_a_tag(hub, client, offline, cache, tmp_path):
    first = hub.add("models/some/revised", checkpoint_files(tmp_path / "first", seed=3), "v1.0", "fix/one")
    second = hub.add("models/some/revised", checkpoint_files(tmp_path / "second", seed=4))
    wanted = {None: second, "main": second, "v1.0": first, "fix/one": first, first: first}
    for revision, commit in wanted.items():
        assert client("weights", name="some/revised", cache=cache, revision=revision)["commit"] == commit, revision
    count = len(hub.log)
    for revision, commit in wanted.items():
        assert offline("weights", name="some/revised", cache=cache, revision=revision)["commit"] == commit, revision
    assert len(hub.log) == count
    told = client.refused("weights", name="some/revised", cache=cache, revision="v9")
    assert "models.<name>.revision must be a commit, branch or tag of some/revised" in told
    assert "got 'v9'" in told
    assert "at revision 'v9'" in offline.refused("weights", name="some/revised", cache=cache, revision="v9")


def test_a_revision_is_not_taken_from_the_package_index(client, cache):
    name = "sentence-transformers/all-MiniLM-L6-v2"
    told = client.refused("weights", name=name, cache=cache, revision="v1")
    assert "no package is known for this name and revision" in told


def test_a_gated_repository_says_how_to_be_let_in(hub, place, client, cache, tmp_path):
    commit = hub.add("models/some/gated", checkpoint_files(tmp_path / "made", seed=5), gated=True)
    told = client.refused("weights", name="some/gated", cache=cache)
    assert "\n" not in told
    assert f"accept its conditions at {hub.endpoint}/some/gated and log in with `hf auth login`" in told
    hub.add("datasets/some/gated", split_files(csv, ".csv"), gated=True)
    told = client.refused("texts", name="some/gated", cache=cache)
    assert f"accept its conditions at {hub.endpoint}/datasets/some/gated and log in with `hf auth login`" in told
    member = started(place, hub, HF_TOKEN=MEMBER)
    assert member("weights", name="some/gated", cache=cache)["commit"] == commit
    assert member("texts", name="some/gated", cache=cache)["train"] == TRAIN[0]
    member.close()


def test_a_name_that_the_hub_does_not_show_may_be_private(client, cache):
    told = client.refused("weights", name="some/private", cache=cache)
    assert "Hugging Face hub: no public repository has this name; correct it or log in with `hf auth login`" in told
    told = client.refused("texts", name="some/private", cache=cache)
    assert "no public data set 'some/private' on the Hugging Face Hub: correct corpus.name, log in with" in told
    assert "Repo id must" in client.refused("weights", name="no/such/folder", cache=cache)
    assert "no public data set 'a/b/c'" in client.refused("texts", name="a/b/c", cache=cache)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_changed_in_the_cache_is_refused(hub, client, cache, tmp_path, name):
    hub.add(f"models/some/changed-{name}", checkpoint_files(tmp_path / "made", seed=6))
    found = client("weights", name=f"some/changed-{name}", cache=cache)
    blob = (Path(found["folder"]) / name).resolve()
    content = blob.read_bytes()
    blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    told = client.refused("weights", name=f"some/changed-{name}", cache=cache)
    assert f"{name} must have the digest {blob.name}" in told
    assert f"Delete {blob} and run again" in told


# ---- data sets


@pytest.mark.parametrize(
    "files",
    [
        split_files(parquet, "-00000-of-00001.parquet"),
        split_files(csv, ".csv"),
        {"train.csv": csv(*TRAIN), "test.csv": csv(*TEST), "README.md": b"---\nlicense: mit\n---\n"},
    ],
    ids=["parquet", "csv", "flat"],
)
def test_a_data_set_is_read_and_found_again_without_network(hub, client, offline, cache, files, request):
    name = f"data/{request.node.callspec.id}"
    commit = hub.add(f"datasets/{name}", files)
    found = client("texts", name=name, cache=cache)
    assert (found["train"], found["labels"], found["test"]) == (TRAIN[0], TRAIN[1], TEST[0])
    assert found["commit"] == commit
    count = len(hub.log)
    assert offline("texts", name=name, cache=cache) == found
    assert len(hub.log) == count


CONFIGURED = b"""---
configs:
- config_name: long
  default: true
  data_files: [{split: train, path: long/train.csv}, {split: test, path: long/test.csv}]
- config_name: short
  data_files: [{split: train, path: short/train.csv}, {split: test, path: short/test.csv}]
---
"""


def test_configurations_are_subsets(hub, client, offline, cache):
    short = (["s t", "u v"], [1, 0])
    files = split_files(csv, ".csv", folder="long") | split_files(csv, ".csv", train=short, folder="short")
    hub.add("datasets/data/configured", files | {"README.md": CONFIGURED})
    options = {"name": "data/configured", "cache": cache}
    assert client("texts", subset="short", **options)["train"] == short[0]
    assert offline("texts", subset="short", **options)["train"] == short[0]
    assert "cache has no data/configured, subset long, but short" in offline.refused("texts", subset="long", **options)
    for subset in (None, "long"):
        assert client("texts", subset=subset, **options)["train"] == TRAIN[0]
    assert offline("texts", subset="long", **options)["train"] == TRAIN[0]
    assert "but long, short; set corpus.subset" in offline.refused("texts", **options)
    told = client.refused("texts", subset="broad", **options)
    assert "cannot read data/configured, subset broad, splits ('train', 'test')" in told
    told = client.refused("texts", splits=["train", "validation"], subset="long", **options)
    assert "splits ('train', 'validation')" in told
    assert "correct corpus.subset or corpus.splits" in told


def test_a_loading_script_is_read_from_the_parquet_conversion(hub, client, offline, cache):
    other = (["k l", "m n"], [4, 0])
    script = hub.add("datasets/stanfordnlp/sentiment140", {"sentiment140.py": b"raise SystemExit"})
    files = split_files(parquet, "/0000.parquet", folder="sentiment140") | {".gitattributes": b""}
    alone = hub.add("datasets/stanfordnlp/sentiment140", files, "refs/convert/parquet")
    options = {"name": "sentiment140", "cache": cache}
    found = client("texts", **options)
    assert (found["train"], found["commit"]) == (TRAIN[0], alone)
    assert offline("texts", **options) == found
    files |= split_files(parquet, "/0000.parquet", train=other, folder="other")
    both = hub.add("datasets/stanfordnlp/sentiment140", files, "refs/convert/parquet")
    assert "no subset None; choose one of ['other', 'sentiment140']" in client.refused("texts", **options)
    for wanted, texts in (("other", other), ("sentiment140", TRAIN)):
        expected = {"train": texts[0], "commit": both}
        labels = {"classes": [0, 4]} if wanted == "other" else {}
        if labels:  # the test split has other labels than these
            labels["splits"] = ["train", "train"]
        found = client("texts", subset=wanted, **labels, **options)
        assert {name: found[name] for name in expected} == expected
        assert offline("texts", subset=wanted, **labels, **options) == found
    # What a record names can be asked for again.
    assert client("texts", revision=alone, **options)["commit"] == alone
    assert client("texts", revision="refs/convert/parquet", subset="sentiment140", **options)["commit"] == both
    told = client.refused("texts", revision=script, **options)
    assert "is a script, which is not run: leave the revision out, or name refs/convert/parquet" in told


def test_a_data_set_has_revisions(hub, client, offline, cache):
    older = (["o p", "q r"], [0, 1])
    first = hub.add("datasets/data/revised", split_files(csv, ".csv", train=older), "v1.0")
    second = hub.add("datasets/data/revised", split_files(csv, ".csv"))
    options = {"name": "data/revised", "cache": cache}
    wanted = {"v1.0": (older, first), first: (older, first), None: (TRAIN, second), "main": (TRAIN, second)}
    for asked in (client, offline):
        for revision, (texts, commit) in wanted.items():
            found = asked("texts", revision=revision, **options)
            assert (found["train"], found["commit"]) == (texts[0], commit), revision
    count = len(hub.log)
    options["subset"] = "default"
    assert client("texts", revision=first, **options)["train"] == older[0]  # a commit in the cache cannot change
    assert len(hub.log) == count
    told = client.refused("texts", revision="v9", **options)
    assert "corpus.revision must be a commit, branch or tag of data/revised on the Hugging Face hub, got 'v9'" in told
    assert "has no data/revised at revision v9" in offline.refused("texts", revision="v9", **options)


def test_the_cache_does_not_stand_in_for_another_revision(hub, client, cache):
    """`datasets` falls back to the last that it read, of any revision."""
    hub.add("datasets/data/halfway", split_files(csv, ".csv"))
    hub.add("datasets/data/halfway", split_files(csv, ".csv", train=(["w", "x"], [0, 1])), "v2")
    options = {"name": "data/halfway", "cache": cache}
    commit = client("texts", **options)["commit"]
    hub.broken = True
    try:
        assert client("texts", **options)["commit"] == commit
        told = client.refused("texts", revision="v2", **options)
    finally:
        hub.broken = False
    assert f"the Hugging Face Hub gave nothing of data/halfway at revision v2, and its cache has {commit}" in told
    assert client("texts", revision="v2", **options)["train"] == ["w", "x"]


def test_slices_and_published_names_of_classes(hub, client, cache):
    rows = ([f"row {number}" for number in range(10)], [0, 1, 2, 3, 0, 1, 2, 3, 0, 1])
    hub.add("datasets/fancyzhx/ag_news", {"data/train.parquet": parquet(*rows)})
    found = client("texts", name="ag_news", splits=["train[:80%]", "train[80%:]"], cache=cache)
    assert (found["train"], found["test"]) == (rows[0][:8], rows[0][8:])
    assert found["classes"] == ["World", "Sports", "Business", "Sci/Tech"]


def test_a_cache_without_room_is_told(hub, client, cache, tmp_path):
    hub.add("datasets/data/roomy", split_files(csv, ".csv"))
    (tmp_path / "file").touch()
    before = client("keep_data_sets_in", folder=str(tmp_path / "file" / "datasets"))
    try:
        told = client.refused("texts", name="data/roomy", cache=cache)
    finally:
        client("keep_data_sets_in", folder=before)
    assert "data/roomy cannot be kept in the hub's cache" in told
    assert "HF_HOME" in told


# ---- no network


@pytest.fixture(scope="module")
def stranded(place):
    """A client of a hub of its own, with weights and texts in its cache; the hub can be taken away."""
    hub = Hub()
    with served(hub):
        hub.add("models/some/warm", checkpoint_files(place / "warm", seed=7))
        hub.add("datasets/data/warm", split_files(csv, ".csv"))
        client = Client(PROGRAM, place / "stranded", hub.endpoint)
        for kind, name in (("weights", "some/warm"), ("texts", "data/warm")):
            client(kind, name=name, cache=str(place / "cache"))
    yield hub, client
    client.close()


def test_a_hub_that_is_not_there_is_not_waited_for(stranded, cache):
    _, client = stranded
    began = time.monotonic()
    assert client("weights", name="some/warm", cache=cache)["commit"]
    assert client("texts", name="data/warm", cache=cache)["train"] == TRAIN[0]
    assert "looking for data/warm in its cache" in client.said()
    told = client.refused("texts", name="data/cold", cache=cache)
    assert "the Hugging Face Hub cannot be reached and its cache has no data/cold: give local files" in told
    assert "Hugging Face hub: " in client.refused("weights", name="some/cold", cache=cache)
    assert time.monotonic() - began < 60  # the client's own time-outs and retries, were they waited for


def test_a_silent_hub_is_given_up(stranded, cache):
    hub, client = stranded
    client("impatient", seconds=0.3)
    hub.silent.set()
    with served(hub):
        assert client("weights", name="some/warm", cache=cache)["commit"]
        assert client("texts", name="data/warm", cache=cache)["train"] == TRAIN[0]
        assert "does not answer (no answer within 0.3 s): looking for data/warm in its cache" in client.said()
        told = client.refused("weights", name="some/cold", cache=cache)
        assert "Hugging Face hub: no answer within 0.3 s" in told
        assert client.said().count("some/cold could not be had from the Hugging Face hub") >= 1


# ---- settings


def settings(**changed):
    corpus = {"name": "data/toy", **{key: changed[key] for key in changed if key == "revision"}}
    model = {"architecture": "transformer", "weights": "some/base", **changed}
    return validated({"name": "study", "corpus": corpus, "models": {"tiny": model}, "model": "tiny"}, "test")


def test_a_config_without_revisions_is_what_it_was_before_there_were_any():
    unset, null, set_ = settings(), settings(revision=None), settings(revision="v2")
    (cell,) = cells(unset)
    for written in (to_yaml(unset), to_yaml(null), cell.model_dump_json(), json.dumps(identity(cell))):
        assert "revision" not in written
    assert content_hash(unset) == content_hash(null) != content_hash(set_)
    assert structure(cell) == structure(cells(null)[0])
    assert Cell.model_validate(cell.model_dump(mode="json")) == cell


def test_a_revision_is_kept_and_is_not_what_decides_numbers():
    """Contents do; two revisions of one content are one run."""
    experiment = settings(revision="v2")
    (cell,) = cells(experiment)
    written = yaml.safe_load(to_yaml(experiment))
    assert (written["corpus"]["revision"], written["models"]["tiny"]["revision"]) == ("v2", "v2")
    assert Cell.model_validate(cell.model_dump(mode="json")) == cell
    assert identity(cell) == identity(cells(settings())[0])
    told = card(cell, results.SCHEMA.empty_table(), round_=1, client=None, classes=("a", "b"), kind="encoder adapter")
    assert "AutoModel.from_pretrained('some/base', revision='v2')" in told
    assert "| `corpus.revision` | v2 |" in told


@pytest.mark.parametrize("revision", ["main", "v1.0", "refs/convert/parquet", "refs/pr/3", "fix/one", "0" * 40, "α-1"])
def test_what_may_be_a_revision(revision):
    assert cells(settings(revision=revision))[0].corpus.revision == revision


NO_REVISIONS = (
    "",
    "a b",
    "../main",
    "a/../b",
    "/main",
    "main/",
    "a//b",
    ".git",
    "a/.b",
    "x.lock",
    "x.",
    "-f",
    "a~1",
    "a^",
)
NO_REVISIONS += ("a:b", "a?", "*", "[a", "a\\b", "a@{1}", "a\0b", "a\nb", "a" * 201, 1.0, 7)


@pytest.mark.parametrize("revision", NO_REVISIONS)
def test_what_may_be_none(revision):
    with pytest.raises(InputError, match=r"corpus\.revision: .*(commit, branch or tag|quotes|control|at most 200)"):
        settings(revision=revision)


# ---- a whole run

STUDY = """
name: study
corpus: {name: data/toy, revision: main}
models:
  tiny: {architecture: transformer, weights: some/base, revision: v2, max_length: 8, lora_rank: 2}
model: tiny
rounds: 1
num_clients: 2
alpha: 10.0
local: {optimizer: sgd, epochs: 1, learning_rate: 0.05}
"""


@pytest.fixture
def study(hub, tmp_path):
    """A config, and the commits of its corpus and its weights, which are in shards."""
    toy.write_corpus(tmp_path)
    weights = hub.add("models/some/base", checkpoint_files(tmp_path / "made", seed=8, shards=2), "v2")
    corpus = hub.add("datasets/data/toy", {f"{n}.csv": (tmp_path / f"{n}.csv").read_bytes() for n in ("train", "test")})
    (tmp_path / "study.yaml").write_text(STUDY)
    return tmp_path / "study.yaml", {"corpus": corpus, "weights": weights}


def test_commits_are_recorded_and_go_with_an_exported_model(study, client, tmp_path):
    config, commits = study
    exported = client("begun", config=str(config), out=str(tmp_path))
    assert json.loads((tmp_path / "run" / "experiment.json").read_text())["commits"] == [commits]
    adapter = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert (adapter["base_model_name_or_path"], adapter["revision"]) == ("some/base", commits["weights"])
    settings = json.loads((tmp_path / "adapter" / "fedjax_paradox.json").read_text())["cell"]
    assert (settings["corpus"]["revision"], settings["architecture"]["revision"]) == ("main", "v2")
    # Adapters start at 0, so that a merged model is its base, which came in two files.
    assert "model.safetensors" in exported["merged"]
    merged, made = load_file(tmp_path / "merged" / "model.safetensors"), checkpoints.random_tensors(seed=8)
    for name, tensor in made.items():
        np.testing.assert_array_equal(merged[f"distilbert.{name}"], tensor, err_msg=name)


@pytest.mark.conformance
def test_a_run_of_the_hub_comes_back_from_its_exports(study, client, tmp_path):
    differences = client("study", config=str(study[0]), out=str(tmp_path))
    # Merged kernels are rounded once more, in float32: a few ulp of probabilities below 1.
    assert max(differences.values()) < 1e-5
