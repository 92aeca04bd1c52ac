"""What class counts alone say about a (partition, protocol, rule), before any training. NumPy only.

Each finding is a fact or an expectation that no training run can change: equal accuracies, accuracies that are
one class's recall, the gap that sampling noise makes, and whom a rule's weights favour.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from fedjax_paradox.evaluation.mixtures import (
    EVALUATIONS,
    Evaluation,
    Setting,
    defined,
    effective_rows,
    equal_accuracy,
    equal_rows,
    evaluated,
    noise_gap,
)

FEW_ROWS = 30  # with fewer, an accuracy of 1/2 has a standard error above 9 points
# Codes of findings that hold for one model of all clients.
SHARED_MODEL = ("gap-zero-by-construction", "shared-evaluation-rows")
FAVOURED = 1.01  # weight over data share; float32 weights of FedAvg stay well below


class Finding(NamedTuple):
    """`code` is stable and for programs, `sentence` for people, `numbers` what it rests on."""

    code: str
    sentence: str
    numbers: dict[str, Any]


Weights = Mapping[str, np.ndarray]  # leaf group -> f[K], a rule's weights, summing to 1


def audit_partition(setting: Setting, classes: Sequence[str], rules: Mapping[str, Weights | None]) -> list[Finding]:
    """Findings that hold under any protocol.

    Args:
      classes: C names.
      rules: name -> the rule's weights, or None where they are not known before training.
    """
    return [
        *_empty_clients(setting),
        *_one_test_class(setting, classes),
        *_unknown_weights(rules),
    ]


def audit_protocol(
    protocol: str, setting: Setting, classes: Sequence[str], rules: Mapping[str, Weights | None]
) -> list[Finding]:
    """Findings under one protocol; arguments as in `audit_partition`."""
    if protocol not in EVALUATIONS:
        sentence = f"{protocol} is no protocol of this package; which rows it scores is not known here."
        return [Finding("protocol-unknown", sentence, {"protocol": protocol})]
    evaluation = evaluated(protocol, setting)
    groups = equal_accuracy(evaluation)
    return [
        *_trained_rows(protocol, evaluation),
        *_undefined(setting, evaluation),
        *(_zero_gap(evaluation, groups) if len(groups) == 1 else []),
        *(_shared_rows(evaluation) if len(groups) > 1 else []),
        *_single_class(setting, evaluation, classes),
        *_few_rows(evaluation),
        *(_noise(evaluation) if len(groups) > 1 else []),
        *_rules(setting, evaluation, classes, rules),
    ]


def with_own_models(findings: Sequence[Finding]) -> list[Finding]:
    """Findings under one protocol where every client is scored with a model of its own: those that assume one shared
    model step aside."""
    shared = [f for f in findings if f.code in SHARED_MODEL and len(f.numbers["clients"]) > 1]
    sentence = (
        "each client is scored with a model of its own: clients with the same evaluation rows need not be equal, and "
        "no gap is 0 by construction."
    )
    return [f for f in findings if f not in shared] + ([Finding("own-models", sentence, {})] if shared else [])


def _empty_clients(setting: Setting) -> list[Finding]:
    rows = setting.train.sum(axis=1)
    empty, idle = np.flatnonzero(rows == 0), np.flatnonzero((rows > 0) & ~setting.available)
    findings = []
    if len(empty):
        sentence = f"no train rows: {_clients(empty)}; left out of training and of every average."
        findings.append(Finding("empty-client", sentence, {"clients": empty.tolist()}))
    if len(idle):
        sentence = f"fewer train rows than min_participant_rows: {_clients(idle)}; never trained on, yet scored."
        findings.append(Finding("scored-but-not-trained", sentence, {"clients": idle.tolist()}))
    return findings


def _one_test_class(setting: Setting, classes: Sequence[str]) -> list[Finding]:
    present = np.flatnonzero(setting.test)
    if len(present) != 1:
        return []
    rows, name = int(setting.test[present[0]]), classes[present[0]]
    sentence = f"all {rows:,} test rows are of class {name}: every accuracy on them is the recall of that class."
    return [Finding("test-split-one-class", sentence, {"class": name, "rows": rows})]


def _unknown_weights(rules: Mapping[str, Weights | None]) -> list[Finding]:
    return [
        Finding("rule-weights-unknown", f"the weights of {rule} are not known before training.", {"rule": rule})
        for rule, weights in rules.items()
        if weights is None
    ]


def _trained_rows(protocol: str, evaluation: Evaluation) -> list[Finding]:
    if protocol != "train_rows":
        return []
    rows = int(evaluation.rows.sum())
    sentence = f"all {rows:,} evaluation rows were trained on: this measures fit, not accuracy on new rows."
    return [Finding("train-rows-not-held-out", sentence, {"rows": rows})]


def _undefined(setting: Setting, evaluation: Evaluation) -> list[Finding]:
    clients = np.flatnonzero(setting.scored & setting.train.any(axis=1) & ~defined(evaluation))
    if len(clients) == 0:
        return []
    sentence = (
        f"train rows but no evaluation rows: {_clients(clients)}; such an accuracy is undefined and left out "
        "of the gap (counted as 0, it would be the worst)."
    )
    return [Finding("undefined-accuracy", sentence, {"clients": clients.tolist()})]


def _zero_gap(evaluation: Evaluation, groups: Sequence[np.ndarray]) -> list[Finding]:
    clients, rows = groups[0], int(evaluation.rows[groups[0][0]].sum())
    if len(clients) == 1:
        sentence = f"only {_clients(clients)} has an accuracy: worst = average and gap = 0 whatever the model."
    else:
        sentence = (
            f"all {len(clients)} clients that have an accuracy are scored on the same {rows:,} rows: worst = "
            "average and gap = 0 whatever the model."
        )
    return [Finding("gap-zero-by-construction", sentence, {"clients": clients.tolist(), "rows": rows})]


def _shared_rows(evaluation: Evaluation) -> list[Finding]:
    findings = []
    for clients in equal_rows(evaluation):
        if len(clients) == 1:
            continue
        rows, count = int(evaluation.rows[clients[0]].sum()), int(defined(evaluation).sum())
        equal = bool((evaluation.mixture[clients] == evaluation.mixture[clients[0]]).all())
        end = "equal accuracies" if equal else "accuracies that differ only in the weights of the classes"
        sentence = f"scored on the same {rows:,} rows: {_clients(clients)} of {count}; {end}, whatever the model."
        numbers = {"clients": clients.tolist(), "rows": rows, "equal": equal}
        findings.append(Finding("shared-evaluation-rows", sentence, numbers))
    return findings


def _single_class(setting: Setting, evaluation: Evaluation, classes: Sequence[str]) -> list[Finding]:
    single = _scored_on_one_class(setting, evaluation)
    if not single:
        return []
    told = ", ".join(f"client {client} ({classes[label]})" for client, label in single.items())
    sentence = f"the accuracy is the recall of a single class: {told}."
    return [Finding("single-class-recall", sentence, {"classes": {k: classes[c] for k, c in single.items()}})]


def _few_rows(evaluation: Evaluation) -> list[Finding]:
    rows = effective_rows(evaluation).round(6)  # 30 rows must not come out as 29.999...
    clients = np.flatnonzero((rows > 0) & (rows < FEW_ROWS))
    if len(clients) == 0:
        return []
    fewest = float(rows[clients].min())
    sentence = (
        f"scored on the worth of fewer than {FEW_ROWS} rows (fewest {fewest:.3g}): {_clients(clients)}; the "
        f"standard error is above {int(50 / FEW_ROWS**0.5)} points at an accuracy of 50 %."
    )
    numbers = {"effective_rows": {int(k): float(rows[k]) for k in clients}, "threshold": FEW_ROWS}
    return [Finding("few-evaluation-rows", sentence, numbers)]


def with_observed(findings: Sequence[Finding], protocol: str, setting: Setting, accuracy: float) -> list[Finding]:
    """The same, the gap that noise makes being that at the clients' mean accuracy as a run observed it."""
    if protocol not in EVALUATIONS:
        return list(findings)
    (noise,) = _noise(evaluated(protocol, setting), accuracy, observed=True)
    return [noise if finding.code == noise.code else finding for finding in findings]


def _noise(evaluation: Evaluation, accuracy: float = 0.9, observed: bool = False) -> list[Finding]:
    mean, bound = noise_gap(evaluation, accuracy)
    told = f"as was observed, {100 * accuracy:.1f} % on average" if observed else f"accuracy {100 * accuracy:.0f} %"
    sentence = (
        f"if all clients were served equally well ({told}), sampling alone would give a gap of {100 * mean:.1f} points "
        f"on average, above {100 * bound:.1f} in 5 % of samples."
    )
    return [Finding("noise-gap", sentence, {"mean": mean, "bound_95": bound, "accuracy": accuracy})]


def _rules(
    setting: Setting, evaluation: Evaluation, classes: Sequence[str], rules: Mapping[str, Weights | None]
) -> list[Finding]:
    """Whom the rules favour: weight over share of the train rows of all clients that take part."""
    rows = setting.train.sum(axis=1) * setting.available
    findings = []
    for rule, weights in rules.items():
        for leaves, weight in (weights or {}).items():
            lift = np.divide(weight * rows.sum(), rows, out=np.zeros(len(rows)), where=rows > 0)
            facts = {"rule": rule, "leaves": leaves, "weight_over_share": lift.tolist()}
            findings += _favoured(setting, evaluation, lift, facts)
            findings += _neglected(setting, evaluation, lift, facts, classes)
    return findings


def _favoured(setting: Setting, evaluation: Evaluation, lift: np.ndarray, facts: Mapping[str, Any]) -> list[Finding]:
    average, top = _scored_like_average(setting, evaluation), int(np.argmax(lift))
    if lift[top] < FAVOURED or not average[top] or not (defined(evaluation) & ~average).any():
        return []
    sentence = (
        f"{facts['rule']} on {facts['leaves']} favours client {top} most, with {lift[top]:.3g} times its share of "
        "the rows, but that client is scored like the average."
    )
    return [Finding("rule-favours-average-client", sentence, {**facts, "client": top})]


def _neglected(
    setting: Setting,
    evaluation: Evaluation,
    lift: np.ndarray,
    facts: Mapping[str, Any],
    classes: Sequence[str],
) -> list[Finding]:
    """Clients scored on one class alone are the ones that a model poor at that class makes the worst."""
    single = _scored_on_one_class(setting, evaluation)
    light = {k: c for k, c in single.items() if setting.available[k] and lift[k] < 1 / FAVOURED}
    if not light:
        return []
    told = ", ".join(f"client {k} ({classes[c]}) {lift[k]:.2g} times" for k, c in light.items())
    sentence = (
        f"{facts['rule']} on {facts['leaves']} gives less than their share of the rows to clients scored on one "
        f"class: {told}."
    )
    return [Finding("rule-neglects-single-class", sentence, {**facts, "clients": list(light)})]


def _scored_like_average(setting: Setting, evaluation: Evaluation) -> np.ndarray:
    """bool[K]: scored on all test rows alike, or like more than half of the clients."""
    average = np.zeros(len(evaluation.rows), bool)
    if not evaluation.common:
        return average
    average[:] = (evaluation.mixture == setting.test / setting.test.sum()).all(axis=1)
    for clients in equal_accuracy(evaluation)[:1]:
        average[clients] |= 2 * len(clients) > defined(evaluation).sum()
    return average


def _scored_on_one_class(setting: Setting, evaluation: Evaluation) -> dict[int, int]:
    """Client -> the only class it is scored on; none where the test split itself has one, which is said once."""
    if evaluation.common and np.count_nonzero(setting.test) == 1:
        return {}
    clients = np.flatnonzero(np.count_nonzero(evaluation.mixture, axis=1) == 1)
    return {int(k): int(np.argmax(evaluation.mixture[k])) for k in clients}


def _clients(numbers: Iterable[int]) -> str:
    """`client 3` or `clients 0-2, 5`."""
    runs: list[list[int]] = []
    for number in map(int, numbers):
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    told = ", ".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
    return f"client {told}" if sum(map(len, runs)) == 1 else f"clients {told}"
