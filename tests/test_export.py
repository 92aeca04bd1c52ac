"""A trained model leaves the package and comes back; other tools open it as the card says."""

import json
from pathlib import Path

import checkpoints
import numpy as np
import pytest
import toy

import fedjax_paradox as fp
from fedjax_paradox.cli import main
from fedjax_paradox.errors import InputError

WORDS = [word for words in toy.WORDS.values() for word in words]
ENCODERS = ("distilbert", "bert", "roberta")
# Sums in another order, in float32: a few ulp a layer, relative to logits of about 1.
LOGITS = 1e-5


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FEDJAX_PARADOX_CACHE", str(folder / "cache"))
        patch.syspath_prepend(folder)
        yield toy.write(folder)


@pytest.fixture(scope="module")
def encoders(config):
    """Folders of random encoders that know the corpus's words."""
    for kind in ENCODERS[:2]:
        checkpoints.write_vocabulary(checkpoints.random_checkpoint(config.parent / kind, kind), WORDS)
    bytes_ = checkpoints.byte_level(WORDS)
    folder = checkpoints.random_checkpoint(config.parent / "roberta", "roberta", vocabulary=bytes_.get_vocab_size())
    bytes_.save(str(folder / "tokenizer.json"))
    return config.parent


def run(config: Path, name: str, *overrides: str) -> fp.Results:
    # Optax's Adam raises a Python float to an integer power, which strict types refuse.
    local = ("local.optimizer=sgd", "local.epochs=1", "local.learning_rate=0.05")
    return fp.run(fp.load(config, *local, *overrides), config.parent / "runs" / name)


def encoder(folder: Path, kind: str) -> str:
    return f"models.{kind}={{architecture: transformer, weights: {folder / kind}, max_length: 8}}"


@pytest.fixture(scope="module")
def words(config):
    return run(config, "words", "grid.model=[textcnn, bag]", "rounds=2")


@pytest.fixture(scope="module")
def adapted(config, encoders):
    """One cell for each encoder, under plain averaging."""
    models = [encoder(encoders, kind) for kind in ENCODERS]
    return run(config, "adapted", *models, f"grid.model=[{', '.join(ENCODERS)}]", "rounds=1")


@pytest.fixture(scope="module")
def owning(config, encoders):
    """A rule that changes the kernels under the adapters."""
    rule = ("model=distilbert", "rule=fedex_lora", "rounds=1")
    return run(config, "owning", encoder(encoders, "distilbert"), *rule)


TEXTS = ["red tree", "a road and a fast car", "salt waves of nowhere", "sweet"]


def test_a_model_of_words_comes_back(words, tmp_path):
    out = words.export(tmp_path / "out", "model=textcnn")
    assert {path.name for path in out.iterdir()} == {
        "README.md",
        "fedjax_paradox.json",
        "model.safetensors",
        "vocabulary.json",
    }
    expected = words.model("model=textcnn").predict(TEXTS)
    np.testing.assert_array_equal(fp.open_model(out).predict(TEXTS), expected)
    assert np.ptp(expected, axis=0).max() > 1e-3  # they differ from text to text


@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("kind", ENCODERS)
def test_an_encoder_comes_back(adapted, tmp_path, kind, merge):
    out = adapted.export(tmp_path / "out", f"model={kind}", merge=merge)
    expected = adapted.model(f"model={kind}").predict(TEXTS)
    np.testing.assert_allclose(fp.open_model(out).predict(TEXTS), expected, rtol=LOGITS, atol=LOGITS)
    assert (out / "adapter_config.json").exists() != merge


def test_an_architecture_of_ones_own_can_read_the_tokens_of_a_pretrained_encoder(config, encoders, tmp_path):
    results = run(config, "subwords", "model=bag", f"models.bag.tokenizer={encoders / 'roberta'}", "rounds=1")
    trained = results.model(own_code=True)
    ids = checkpoints.byte_level(WORDS).encode(TEXTS[0]).ids[:8]
    np.testing.assert_array_equal(trained.vocabulary.encode(TEXTS[:1])[0, : len(ids)], [1, *ids[1:]])  # <s>, by 0
    out = results.export(tmp_path / "out", own_code=True)
    assert (out / "tokenizer.json").exists()
    expected = trained.predict(TEXTS)
    np.testing.assert_array_equal(fp.open_model(out, own_code=True).predict(TEXTS), expected)
    assert np.ptp(expected, axis=0).max() > 1e-3


@pytest.mark.conformance
@pytest.mark.parametrize("how", ["pretrained: false", "trains: head", "trains: all", "trains: all, pretrained: false"])
def test_an_encoder_that_trains_more_or_less_than_adapters_learns_and_comes_back(config, encoders, tmp_path, how):
    model = encoder(encoders, "bert").replace("max_length", f"{how}, max_length")
    name = "".join(filter(str.isalpha, how))
    results = run(config, name, model, "model=bert", "rounds=6", "protocols=[train_rows]")
    losses = results.rounds["train_loss"].tolist()
    assert losses[-1] < losses[0]  # by 0.008, where a round without dropout is off by 0.001 from a line
    out = results.export(tmp_path / "out")
    assert "config.json" in {path.name for path in out.iterdir()}
    before, after = results.model().predict(TEXTS), fp.open_model(out).predict(TEXTS)
    np.testing.assert_allclose(after, before, rtol=LOGITS, atol=LOGITS)


@pytest.mark.conformance
def test_kernels_that_a_rule_changed_are_merged_or_refused(owning, tmp_path):
    with pytest.raises(InputError, match=r"changed the kernels under the adapters.*merge them"):
        owning.export(tmp_path / "adapter")
    out = owning.export(tmp_path / "merged", merge=True)
    expected = owning.model().predict(TEXTS)
    np.testing.assert_allclose(fp.open_model(out).predict(TEXTS), expected, rtol=LOGITS, atol=LOGITS)


def test_what_cannot_be_exported_is_told(words, tmp_path):
    with pytest.raises(InputError, match="has no adapters to merge; leave out --merge"):
        words.export(tmp_path / "out", "model=textcnn", merge=True)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    with pytest.raises(InputError, match="is not empty; export to another folder"):
        words.export(tmp_path / "full", "model=textcnn")
    with pytest.raises(InputError, match="is no exported model"):
        fp.open_model(tmp_path / "full")


def test_an_export_that_names_code_is_not_run_unasked(words, tmp_path):
    out = words.export(tmp_path / "out", "model=bag", own_code=True)
    with pytest.raises(InputError, match="calls mine:bag"):
        fp.open_model(out)
    expected = words.model("model=bag", own_code=True).predict(TEXTS)
    np.testing.assert_array_equal(fp.open_model(out, own_code=True).predict(TEXTS), expected)


def test_a_damaged_export_is_refused(words, tmp_path):
    out = words.export(tmp_path / "out", "model=textcnn")
    vocabulary = json.loads((out / "vocabulary.json").read_text())
    (out / "vocabulary.json").write_text(json.dumps(vocabulary[:-1]))
    with pytest.raises(InputError, match="does not hold embedding of shape"):
        fp.open_model(out)


def test_the_card_says_whom_the_model_serves(words, tmp_path):
    text = (words.export(tmp_path / "out", "model=textcnn", 1) / "README.md").read_text()
    rows = words.clients.query("cell == 'model=textcnn' and protocol == 'label_matched' and round == 1 and total > 0")
    accuracies = 100 * rows["correct"] / rows["total"]
    worst = rows["client"][accuracies.idxmin()]
    numbers = f"{accuracies.mean():.1f} | {accuracies.min():.1f} | {accuracies.mean() - accuracies.min():.1f}"
    assert f"| `label_matched` | {numbers} | {worst} |" in text
    assert "after round 1 of 2, 5 clients, alpha 0.1" in text


def test_the_card_of_a_client_s_own_model_says_how_it_serves_that_client(config, tmp_path):
    results = run(config, "own", "model=textcnn", "rule=ditto", "rounds=1", "num_clients=9", "evaluate_clients=3")
    rows = results.clients.query("protocol == 'label_matched' and total > 0").set_index("client")
    accuracies = 100 * rows["correct"] / rows["total"]
    others = f"{accuracies.mean():.1f} | {accuracies.min():.1f} | {accuracies.mean() - accuracies.min():.1f}"
    scored, unscored = rows.index[0], min(set(range(9)) - set(rows.index))
    for client, own in ((scored, f"{accuracies[scored]:.1f}"), (unscored, "–")):
        text = (results.export(tmp_path / str(client), client=int(client)) / "README.md").read_text()
        assert f"| `label_matched` | {own} | {others} | {accuracies.idxmin()} |" in text
        assert f"this one serves client {client} alone" in text
        assert "Scored: a draw of 3 clients." in text
        assert "worst client (label_matched)" not in text  # the header's numbers are the model's own
        assert (f"value: {accuracies[scored] / 100:.4f}".rstrip("0") in text) == (client == scored)


def test_a_round_that_was_not_scored_is_exported_and_says_so(config, tmp_path):
    results = run(config, "unscored", "model=textcnn", "rounds=2", "evaluate_every=2")
    text = (results.export(tmp_path / "out", round=1) / "README.md").read_text()
    assert "The clients were not scored after this round." in text
    np.testing.assert_array_equal(fp.open_model(tmp_path / "out").predict(TEXTS), results.model(round=1).predict(TEXTS))


def test_the_command_line_lists_exports_and_predicts(words, tmp_path, capsys, monkeypatch):
    def call(*arguments: object) -> str:
        monkeypatch.setattr("sys.argv", ["fedjax-paradox", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        assert ended.value.code in (0, None)
        return capsys.readouterr().out

    assert "model=textcnn │ 1, 2" in call("export", words.folder, "--list")
    out = tmp_path / "out"
    assert "README.md there says how to open it" in call("export", words.folder, out, "--cell", "model=textcnn")
    file = tmp_path / "texts.csv"
    file.write_text("text\n" + "\n".join(TEXTS) + "\n")
    printed = call("predict", out, file)
    expected = words.model("model=textcnn").predict(TEXTS)
    lines = [line.split(",") for line in printed.splitlines()]
    assert lines[0] == ["class", "apple", "car", "sea"]
    np.testing.assert_allclose([list(map(float, line[1:])) for line in lines[1:]], expected, atol=5e-7)  # six digits
    assert [line[0] for line in lines[1:]] == [lines[0][1 + row.argmax()] for row in expected]
    assert call("predict", words.folder, file, "--cell", "model=textcnn") == printed


def code_of(card: str) -> str:
    return card.split("```python\n")[1].split("```")[0]


@pytest.mark.parity
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.parametrize("merge", [False, True])
@pytest.mark.parametrize("kind", ENCODERS)
def test_other_tools_open_it_as_the_card_says(adapted, tmp_path, monkeypatch, kind, merge):
    """The card's own lines, run in the exported folder, give the logits of the trained model."""
    for package in ("torch", "peft", "transformers"):
        pytest.importorskip(package, reason=f"{package} is not installed (extra `parity`)")
    import torch

    out = adapted.export(tmp_path / "out", f"model={kind}", merge=merge)
    code = code_of((out / "README.md").read_text()).replace("['...']", repr(TEXTS))
    monkeypatch.chdir(out)
    found: dict = {}
    with torch.no_grad():
        exec(compile(code, "README.md", "exec"), found)  # noqa: S102  (what the card tells a person to run)
    theirs = torch.softmax(found["logits"], dim=-1).detach().numpy()
    np.testing.assert_allclose(adapted.model(f"model={kind}").predict(TEXTS), theirs, rtol=LOGITS, atol=LOGITS)
