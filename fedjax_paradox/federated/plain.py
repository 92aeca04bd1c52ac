"""What a round is: clients vmapped over a local update, then the rule's aggregation, a weighted tree_map by default.

The packed engine computes the same for many cells at once, and tests hold it to this. Axes: K client slots.
"""

from functools import partial

import jax

from fedjax_paradox.federated.local import Learner, local_update
from fedjax_paradox.federated.rules import combine, for_each
from fedjax_paradox.federated.types import Client, Diagnostics, Hyper, Participants, Rule, Tree, Updates


def plain_round(
    learner: Learner, rule: Rule, before: tuple[Tree, Tree], people: Participants, batches: tuple, *, hyper: Hyper
) -> tuple[Tree, Tree, Diagnostics]:
    """One round of one cell.

    Args:
      learner: with the client half of `rule` merged into its own; see `local.merged`.
      before: (global leaves, the rule's state).
      people: who takes part, [K] each.
      batches: tokens i32[K, S, B, T], labels i32[K, S, B], mask bool[K, S, B], keys [K]; see `local.local_update`.

    Returns:
      (next globals, next state, diagnostics).
    """
    globals_, state = before
    *each, keys = batches
    message = () if rule.send is None else rule.send(globals_, state, people)
    start = for_each(globals_, len(keys)) if rule.start is None else rule.start(globals_, state, people)

    clients = Client(people.rows, people.steps, people.class_counts, start, message, for_each(hyper, len(keys)))
    leaves, loss = jax.vmap(partial(local_update, learner))(tuple(each), keys, clients)
    known = {name: value for name, value in people._asdict().items() if name != "device"}
    return combine(rule, Updates(**known, start=globals_, leaves=leaves, weighted=None, loss=loss, hyper=hyper), state)
