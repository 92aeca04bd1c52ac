"""A person's own functions that do not fit: told with their name before anything trains, as `--dry-run` would."""

import pytest
import toy

from fedjax_paradox.errors import InputError
from fedjax_paradox.sweep.plan import plan

BAD = '''
import jax
import jax.numpy as jnp
import numpy as np
import optax

from fedjax_paradox.federated.rules import fedavg, weighted_mean
from fedjax_paradox.federated.types import Local, Rule
from fedjax_paradox.models.base import Model

SECRET = {"token": "hunter2"}


def fails(*_, **__):
    raise KeyError("no such thing")


def nothing(*_, **__):
    return None


def rule_of_another_tree():
    return Rule(lambda global_: (), lambda updates, state: ({"x": jnp.zeros(2)}, state, {}))


def rule_of_another_shape():
    grown = lambda tree: jax.tree.map(lambda leaf: leaf[None], tree)
    return Rule(lambda global_: (), lambda updates, state: (grown(updates.start), state, {}))


def rule_that_forgets_its_state():
    return Rule(lambda global_: jnp.zeros(3), lambda updates, state: (updates.start, (), {}))


def rule_that_returns_one_thing():
    return Rule(lambda global_: (), lambda updates, state: updates.start)


def rule_that_returns_two_things():
    return Rule(lambda global_: (), lambda updates, state: (updates.start, state))


def rule_with_a_diagnostic_of_leaves():
    return Rule(lambda global_: (), lambda updates, state: (updates.start, state, {"mean": jnp.zeros((2, 2))}))


def rule_that_fails_late():
    def aggregate(updates, state):
        return updates.start, updates.no_such_field, {}

    return Rule(lambda global_: (), aggregate)


def rule_without_weights():
    return fedavg()._replace(weights=None)


def rule_that_looks_ahead():
    return weighted_mean(lambda updates: updates.loss, ahead=True)


def weight_of_another_shape():
    return weighted_mean(lambda updates: updates.rows[:2])


def strict(exponent: float = 2.0):
    """A default counts as its number; rows ** 0 would be uniform."""
    return weighted_mean(lambda updates: updates.rows**exponent)


def vector_loss():
    return Local(loss=lambda logits, labels, client: jnp.zeros(3))


def whole_loss():
    return Local(loss=lambda logits, labels, client: labels)


def forgets_rows():
    return Local(reduce=lambda losses, mask, client: losses)


def loses_a_leaf():
    return Local(transform=lambda client: optax.stateless(lambda grads, params: {"head": grads["head"]}))


def rows_twice(labels, num_clients, **_):
    return [np.arange(len(labels))] * num_clients


def too_few_clients(labels, num_clients, **_):
    return [np.arange(len(labels))]


def rows_beyond(labels, num_clients, **_):
    return np.array_split(np.arange(len(labels)) + 1, num_clients)


def names_for_rows(labels, num_clients, **_):
    return [["a"]] * num_clients


def wrong_clients(view):
    return np.zeros(2), np.ones(2, np.int64)


def more_than_all(view):
    return np.full(len(view.train_rows), 9.0), np.ones(len(view.train_rows), np.int64)


def no_leaves(vocabulary_size, num_classes, width):
    def apply(trainable, frozen, tokens, key=None):
        return jnp.zeros((len(tokens), num_classes))

    return Model(lambda key: ({}, {}), apply, lambda path: False)


def one_class(vocabulary_size, num_classes, width):
    def apply(trainable, frozen, tokens, key=None):
        return trainable["w"][tokens].sum(axis=1)

    return Model(lambda key: ({"w": jnp.zeros((vocabulary_size, 1))}, {}), apply, lambda path: False)
'''

RULES = {
    "fails": "KeyError: 'no such thing'",
    "nothing": "must return a Rule, not NoneType",
    "rule_of_another_tree": "the global leaves and the next globals are trees of another structure",
    "rule_of_another_shape": r"the next globals differ at .*bias.*: float32\[3\] and float32\[1, 3\]",
    "rule_that_forgets_its_state": "init of the state and the next state are trees of another structure",
    "rule_that_returns_one_thing": "aggregate must return",
    "rule_that_returns_two_things": "aggregate must return .next globals, next state, diagnostics., {} where there",
    "rule_with_a_diagnostic_of_leaves": "diagnostic 'mean' must be",
    "rule_that_fails_late": "no attribute 'no_such_field'",
    "rule_without_weights": "`ahead` must have `weights`",
    "rule_that_looks_ahead": "object has no attribute 'loss'",
    "weight_of_another_shape": "Incompatible shapes",
}
OTHERS = {
    "local.objective=bad:fails": "local.objective 'bad:fails' does not fit the model: KeyError",
    "local.objective=bad:nothing": "local.objective 'bad:nothing' does not fit",
    "local.objective=bad:vector_loss": r"losses f32\[B\] and what `loss` returns differ.*float32\[3\]",
    "local.objective=bad:whole_loss": r"differ.*int32\[2\]",
    "local.objective=bad:forgets_rows": r"a loss f32\[\] and what `reduce` returns differ.*float32\[2\]",
    "local.objective=bad:loses_a_leaf": "different numbers of pytree children",
    "partition.kind=bad:fails": "partition.kind 'bad:fails' must return.*KeyError",
    "partition.kind=bad:nothing": "partition.kind 'bad:nothing' must return num_clients=5 integer arrays",
    "partition.kind=bad:rows_twice": "a row is there twice",
    "partition.kind=bad:too_few_clients": "must return num_clients=5",
    "partition.kind=bad:rows_beyond": "not among the train rows",
    "partition.kind=bad:names_for_rows": "another length or type",
    "protocols=[bad:fails]": "protocol 'bad:fails' does not fit: KeyError",
    "protocols=[bad:nothing]": "protocol 'bad:nothing' does not fit",
    "protocols=[bad:wrong_clients]": r"it must return \(correct f64\[5\], total i64\[5\]\)",
    "protocols=[bad:more_than_all]": "more than all rows correct",
    "models.bag.architecture=bad:fails": "architecture 'bad:fails' does not fit: KeyError",
    "models.bag.architecture=bad:nothing": "must return a Model, not NoneType",
    "models.bag.architecture=bad:no_leaves": "one of the first at least",
    "models.bag.architecture=bad:one_class": r"float32\[2, 3\] and float32\[2, 1\]",
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        path = toy.write(folder)
        (folder / "bad.py").write_text(BAD)
        yield path


@pytest.mark.parametrize(("name", "told"), RULES.items(), ids=RULES)
def test_a_rule_that_does_not_fit(config, name, told):
    with pytest.raises(InputError, match=rf"rule 'bad:{name}' does not fit the model: .*{told}.*; correct"):
        toy.study(config, f"rule=bad:{name}")


@pytest.mark.parametrize(("setting", "told"), OTHERS.items(), ids=OTHERS)
def test_another_function_that_does_not_fit(config, setting, told):
    with pytest.raises(InputError, match=f"{told}.*correct") as caught:
        toy.study(config, "model=bag", "partition.holdout_fraction=0.0", "protocols=[global]", setting)
    assert "\n" not in str(caught.value)


def test_no_message_prints_a_value(config):
    with pytest.raises(InputError, match="SECRET is of type dict") as caught:
        toy.study(config, "rule=bad:SECRET")
    assert "hunter2" not in str(caught.value)


def test_defaults_of_a_rule_count(config):
    """Named or left out, the number is the same, and so is the run."""
    _, (program,) = toy.study(config, "model=bag", "grid.rule=['bad:strict', 'bad:strict(exponent=2.0)', fedavg]")
    assert [cell.rule for cell in program.cells] == ["bad:strict", "fedavg"]
    assert [twin.cell.rule for twin in program.twins] == ["bad:strict(exponent=2.0)"]


SIZES = {
    "local.batch_size=65536": None,
    "models.textcnn.embedding_size=65536 models.textcnn.vocabulary_size=10000000": None,  # as many as there are words
    "models.textcnn.embedding_size=65536 models.textcnn.filters=65536": "need .* GiB on each device",
    f"local.epochs=10000 local.batch_size=65536 grid.seed={[*range(20)]}".replace(
        ", ", ","
    ): "whose numbers alone take more than",
    "model=bag models.bag.options.width=2000000000": "need .* GiB on each device",
}


@pytest.mark.parametrize(("settings", "told"), SIZES.items(), ids=SIZES)
def test_sizes_are_refused_before_anything_of_them_is_allocated(config, settings, told):
    experiment, programs = toy.study(config, *settings.split())
    if told is None:
        assert all(plan(experiment, program).lanes == 1 for program in programs)
        return
    with pytest.raises(InputError, match=told):
        plan(experiment, programs[0])


def test_a_local_update_has_an_end(config, monkeypatch):
    """Steps are counted in 24 bits, beyond which the embedding table would be wrong without a word."""
    from fedjax_paradox.sweep import plan as planning

    experiment, programs = toy.study(config, "local.batch_size=1", "local.epochs=10000")
    assert planning.plan(experiment, programs[0]).steps == 10_000 * 50
    monkeypatch.setattr(planning, "job_lengths", lambda program: [2**24])  # noqa: ARG005
    with pytest.raises(InputError, match="at most 16,777,215 steps, the longest of textcnn would have 16,777,216"):
        planning.plan(experiment, programs[0])
