"""Every method and objective, through the packed engine, against its paper's algorithm box in NumPy and float64.

What stands here is written from the papers alone: the gradient of a bag of words by hand, SGD with momentum and weight
decay, each server's equations. Only who takes part and in which order a client visits its rows is the package's.
"""

import functools
import itertools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np
import optax
import pytest
import scipy.optimize
from packed import (
    CELLS,
    CLASSES,
    CLIENTS,
    EMBEDDINGS,
    LABELS,
    LENGTH,
    RANK,
    ROUNDS,
    SCALE,
    TOKENS,
    WIDTH,
    WORDS,
    Cell,
    is_adapter,
    rounds,
    run,
    shared_programs,  # noqa: F401
)

from fedjax_paradox.federated import methods, objectives, rules
from fedjax_paradox.federated.local import merged

pytestmark = pytest.mark.conformance

# Leaves change by about their own size. Float32 rounds each to 6e-8 of its size in every one of some ten steps of each
# of three rounds; momentum and repeated server steps multiply that by ten at most.
TOLERANCE = 1e-5
# d / (|d| + tau) magnifies the rounding of a small d, 6e-8 of a leaf, by 1 / tau = 1000.
ADAPTIVE = dict.fromkeys(("fedadagrad", "fedadam", "fedyogi"), 1e-4)


# ---- the clients


def flat(leaves: dict) -> np.ndarray:
    """A model as one vector: the table, then the matrix; or A, B, kernel and bias."""
    if "layer" in leaves:
        parts = [*(leaves["layer"][name] for name in ("lora_a", "lora_b", "base_kernel")), leaves["bias"]]
    else:
        parts = [leaves[name] for name in ("table", "matrix")]
    return np.concatenate([np.ravel(leaf) for leaf in parts]).astype(np.float64)


TABLE = np.arange(WORDS * WIDTH + WIDTH * CLASSES) < WORDS * WIDTH


def forward(w: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(mean embeddings [B, E], logits [B, C])"""
    mean = w[TABLE].reshape(WORDS, WIDTH)[TOKENS[rows]].mean(axis=1)
    return mean, mean @ w[~TABLE].reshape(WIDTH, CLASSES)


def log_softmax(z: np.ndarray) -> np.ndarray:
    z = z - z.max(axis=1, keepdims=True)
    return z - np.log(np.exp(z).sum(axis=1, keepdims=True))


def target(labels: np.ndarray, smoothing: float) -> np.ndarray:
    return (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES


# An objective is here the derivative of the batch's loss by its logits: (z [B, C], labels, the client's class counts).


def cross_entropy(z, labels, counts, smoothing=0.0):  # noqa: ARG001
    return (np.exp(log_softmax(z)) - target(labels, smoothing)) / len(labels)


def logit_adjustment(z, labels, counts, tau, smoothing):
    """Menon et al., eq. 10, with counts of 1e-8 for classes that a client lacks."""
    prior = np.maximum(counts, 1e-8) / np.maximum(counts, 1e-8).sum()
    return cross_entropy(z + tau * np.log(prior), labels, counts, smoothing)


def fedlc(z, labels, counts, tau, smoothing):
    """Zhang et al.: margins tau n_c^(-1/4)."""
    return cross_entropy(z - tau / np.sqrt(np.sqrt(np.maximum(counts, 1e-8))), labels, counts, smoothing)


def fedrs(z, labels, counts, alpha, smoothing):
    """Li & Zhan, eq. 6."""
    scale = np.array([1.0 if held else alpha for held in counts > 0])
    return scale * cross_entropy(scale * z, labels, counts, smoothing)


def tilted(z, labels, counts, t, smoothing):
    """Li et al. (TERM), lemma 1: the gradient weighs rows by exp(t f_i), over their sum."""
    f = -(target(labels, smoothing) * log_softmax(z)).sum(axis=1)
    weights = np.exp(t * f) / np.exp(t * f).sum()
    return cross_entropy(z, labels, counts, smoothing) * len(labels) * weights[:, None]


class Trained(NamedTuple):
    """The participants of a round, in ascending order; [K, ...]."""

    client: np.ndarray
    n: np.ndarray
    w: np.ndarray
    steps: np.ndarray
    loss: np.ndarray  # of the incoming model


class Federation(NamedTuple):
    cell: Cell
    by_logits: Callable[..., np.ndarray] = cross_entropy
    mu: float = 0.0  # FedProx, eq. 2
    trained: Any = 1.0  # 0 at what is not

    @property
    def start(self) -> np.ndarray:
        return flat(self.cell.start())

    @property
    def rate(self) -> float:
        return self.cell.local[0]

    @property
    def momentum(self) -> float:
        return self.cell.local[1]

    def gradient(self, w: np.ndarray, rows: np.ndarray, client: int) -> np.ndarray:
        mean, z = forward(w, rows)
        by_z = self.by_logits(z, LABELS[rows], self.cell.class_counts[client].astype(np.float64))
        by_table = np.zeros((WORDS, WIDTH))
        np.add.at(by_table, TOKENS[rows], (by_z @ w[~TABLE].reshape(WIDTH, CLASSES).T)[:, None] / LENGTH)
        return np.concatenate([by_table.ravel(), (mean.T @ by_z).ravel()])

    def loss(self, w: np.ndarray, client: int) -> float:
        rows = self.cell.rows[client]
        return -np.mean(log_softmax(forward(w, rows)[1])[np.arange(len(rows)), LABELS[rows]])

    def train(
        self,
        x: np.ndarray,
        round_: int,
        correct: Callable = lambda g, w, client: g,  # noqa: ARG005
        start: np.ndarray | None = None,
    ) -> Trained:
        """Every participant's local update; `correct` changes a gradient at w; each begins at its `start` [N, ...]."""
        (rate, momentum, decay, _), clients, found = self.cell.local, self.cell.sampled(round_), []
        for client in clients:
            w, buffer = (x if start is None else start[client]).copy(), np.zeros_like(x)
            batches = self.cell.batches(round_, client)
            for batch in batches:
                g = self.gradient(w, batch[batch >= 0], client) + self.mu * (w - x)
                buffer = momentum * buffer + correct(g, w, client) + decay * w
                w = w - rate * buffer * self.trained
            found.append((client, self.cell.sizes[client], w, len(batches), self.loss(x, client)))
        return Trained(*map(np.array, zip(*found, strict=True)))


# Places of a kernel under a LoRA pair, and of a bias, in a vector.
A, B, KERNEL, BIAS = np.split(
    np.arange(WIDTH * RANK + RANK * CLASSES + WIDTH * CLASSES + CLASSES),
    np.cumsum([WIDTH * RANK, RANK * CLASSES, WIDTH * CLASSES]),
)


def without(*places: np.ndarray) -> np.ndarray:
    return (~np.isin(np.arange(BIAS[-1] + 1), np.concatenate(places))).astype(float)


def pair_of(w: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return w[A].reshape(WIDTH, RANK), w[B].reshape(RANK, CLASSES)


class Adapted(Federation):
    """Embeddings that are frozen, and the kernel W + s A B with a bias."""

    @property
    def start(self) -> np.ndarray:
        return flat(self.cell.start("lora"))

    def logits(self, w: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        (a, b), mean = pair_of(w), EMBEDDINGS[TOKENS[rows]].astype(np.float64).mean(axis=1)
        return mean, mean @ (w[KERNEL].reshape(WIDTH, CLASSES) + SCALE * a @ b) + w[BIAS]

    def gradient(self, w: np.ndarray, rows: np.ndarray, client: int) -> np.ndarray:
        (a, b), (mean, z) = pair_of(w), self.logits(w, rows)
        by_z = self.by_logits(z, LABELS[rows], self.cell.class_counts[client].astype(np.float64))
        by_kernel = mean.T @ by_z
        by_pair = (SCALE * by_kernel @ b.T, SCALE * a.T @ by_kernel)
        return np.concatenate([*(each.ravel() for each in (*by_pair, by_kernel)), by_z.sum(axis=0)])

    def loss(self, w: np.ndarray, client: int) -> float:
        rows = self.cell.rows[client]
        return -np.mean(log_softmax(self.logits(w, rows)[1])[np.arange(len(rows)), LABELS[rows]])


# ---- the servers: each yields the global model of every round, or that and what every client is served

Server = Iterator[Any]
EVERY = range(1, ROUNDS + 1)


def fedavg(fed: Federation) -> Server:
    x = fed.start
    for t in EVERY:
        k = fed.train(x, t)
        x = np.average(k.w, axis=0, weights=k.n)
        yield x


def uniform(fed: Federation) -> Server:
    x = fed.start
    for t in EVERY:
        x = fed.train(x, t).w.mean(axis=0)
        yield x


def adapters_by_inverse_size(k: Trained, beta: float) -> np.ndarray:
    by_inverse = np.average(k.w, axis=0, weights=(1 / k.n) ** beta)
    return np.where(TABLE, by_inverse, np.average(k.w, axis=0, weights=k.n))


def fedavgw(fed: Federation, beta: float) -> Server:
    x = fed.start
    for t in EVERY:
        x = adapters_by_inverse_size(fed.train(x, t), beta)
        yield x


def fedavgm(fed: Federation, lr: float, beta: float) -> Server:
    """Hsu et al., sec. 4.2: v = beta v + dw, w = w - v; with the server's rate of Reddi et al."""
    w, v = fed.start, 0.0
    for t in EVERY:
        k = fed.train(w, t)
        dw = np.average(w - k.w, axis=0, weights=k.n)
        v = beta * v + dw
        w = w - lr * v
        yield w


def fedopt(fed: Federation, second: Callable, lr: float, b1: float, tau: float) -> Server:
    """Reddi et al., alg. 2, with v = tau^2 at first; the mean is by rows, which the docstring says."""
    x, m, v = fed.start, 0.0, tau**2
    for t in EVERY:
        k = fed.train(x, t)
        delta = np.average(k.w - x, axis=0, weights=k.n)
        m = b1 * m + (1 - b1) * delta
        v = second(v, delta**2)
        x = x + lr * m / (np.sqrt(v) + tau)
        yield x


def fedadagrad(fed: Federation, lr: float, b1: float, tau: float) -> Server:
    return fedopt(fed, lambda v, d2: v + d2, lr, b1, tau)


def fedadam(fed: Federation, lr: float, b1: float, b2: float, tau: float) -> Server:
    return fedopt(fed, lambda v, d2: b2 * v + (1 - b2) * d2, lr, b1, tau)


def fedyogi(fed: Federation, lr: float, b1: float, b2: float, tau: float) -> Server:
    return fedopt(fed, lambda v, d2: v - (1 - b2) * d2 * np.sign(v - d2), lr, b1, tau)


def term(fed: Federation, t: float) -> Server:
    """Li et al. (TERM), eq. 4 with tau = 0: groups of n_k rows are weighted by n_k exp(t R_k)."""
    x = fed.start
    for round_ in EVERY:
        k = fed.train(x, round_)
        x = np.average(k.w, axis=0, weights=k.n * np.exp(t * k.loss))
        yield x


def onto_simplex(point: np.ndarray) -> np.ndarray:
    """The shift by which the positive parts sum to 1, by bisection."""
    low, high = point.min() - 1.0, point.max()
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if np.maximum(point - middle, 0).sum() > 1 else (low, middle)
    return np.maximum(point - low, 0)


def afl(fed: Federation, gamma: float) -> Server:
    """Mohri et al., alg. 1; a participant has a weight of 1e-6 at least, which the docstring says."""
    x, mixture = fed.start, np.full(CLIENTS, 1 / CLIENTS)
    for t in EVERY:
        k = fed.train(x, t)
        x = np.average(k.w, axis=0, weights=np.maximum(mixture[k.client], 1e-6))
        climbed = mixture.copy()
        climbed[k.client] += gamma * k.loss
        mixture = onto_simplex(climbed)
        yield x


def qfedavg(fed: Federation, q: float) -> Server:
    """Li et al. (q-FFL), alg. 2, L = 1 / learning rate."""
    w, L = fed.start, 1 / fed.rate
    for t in EVERY:
        k = fed.train(w, t)
        dw = L * (w - k.w)
        delta = k.loss[:, None] ** q * dw
        h = q * k.loss ** (q - 1) * (dw**2).sum(axis=1) + L * k.loss**q
        w = w - delta.sum(axis=0) / h.sum()
        yield w


def fednova(fed: Federation) -> Server:
    """Wang et al., eq. 8: d_k = G_k a_k / |a_k|_1, tau_eff = sum_k p_k |a_k|_1, a_k the powers of momentum summed."""
    x = fed.start
    for t in EVERY:
        k = fed.train(x, t)
        p = k.n / k.n.sum()
        # A gradient of step i goes into all later ones: a = (1 + rho + ... + rho^(steps - i)) for each.
        lengths = np.array([sum(fed.momentum**j for i in range(tau) for j in range(tau - i)) for tau in k.steps])
        d = (x - k.w) / (fed.rate * lengths[:, None])
        x = x - (p @ lengths) * fed.rate * (p @ d)
        yield x


def fedmgda(fed: Federation, lr: float, eps: float) -> Server:
    """Hu et al., alg. 1: the shortest combination of normalised changes, by a general solver of quadratic programs."""
    x = fed.start
    for t in EVERY:
        k = fed.train(x, t)
        d = (k.w - x) / np.linalg.norm(k.w - x, axis=1, keepdims=True)
        centre, gram = k.n / k.n.sum(), d @ d.T
        found = scipy.optimize.minimize(
            lambda w: w @ gram @ w,  # noqa: B023
            centre,
            jac=lambda w: 2 * gram @ w,  # noqa: B023
            bounds=[(max(c - eps, 0), min(c + eps, 1)) for c in centre],
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1, "jac": np.ones_like},
            method="SLSQP",
            options={"ftol": 1e-15, "maxiter": 1000},
        )
        x = x + lr * found.x @ d
        yield x


def median(fed: Federation) -> Server:
    x = fed.start
    for t in EVERY:
        x = np.median(fed.train(x, t).w, axis=0)
        yield x


def trimmed_mean(fed: Federation, trim: float) -> Server:
    """Yin et al., def. 2, of K participants the floor(trim K) lowest and highest left out."""
    x = fed.start
    for t in EVERY:
        rising = np.sort(fed.train(x, t).w, axis=0)
        cut = int(trim * len(rising) + 1e-9)
        x = rising[cut : len(rising) - cut].mean(axis=0)
        yield x


def scaffold(fed: Federation, lr: float) -> Server:
    """Karimireddy et al., alg. 1, option II; with momentum a step counts 1 / (1 - momentum), as the docstring says."""
    x, c, own = fed.start, np.zeros_like(fed.start), np.zeros((CLIENTS, len(fed.start)))
    for t in EVERY:
        k = fed.train(x, t, lambda g, y, client: g - own[client] + c)  # noqa: ARG005, B023
        step = fed.rate / (1 - fed.momentum)
        new = own[k.client] - c + (x - k.w) / (k.steps[:, None] * step)
        change = new - own[k.client]
        own[k.client] = new
        x = x + lr * (k.w - x).mean(axis=0)
        c = c + len(k.client) / CLIENTS * change.mean(axis=0)
        yield x


def scaffold_i(fed: Federation, lr: float) -> Server:
    """Karimireddy et al., alg. 1, option I: c_i+ is the gradient at x, with weight decay's; here the batches' mean."""
    x, c, own, decay = fed.start, np.zeros_like(fed.start), np.zeros((CLIENTS, len(fed.start))), fed.cell.local[2]
    for t in EVERY:
        k = fed.train(x, t, lambda g, y, client: g - own[client] + c)  # noqa: ARG005, B023
        batches = [[batch[batch >= 0] for batch in fed.cell.batches(t, client)] for client in k.client]
        gradients = [[fed.gradient(x, b, client) for b in each] for client, each in zip(k.client, batches, strict=True)]
        new = np.array([np.mean(each, axis=0) + decay * x for each in gradients])
        change = new - own[k.client]
        own[k.client] = new
        x = x + lr * (k.w - x).mean(axis=0)
        c = c + len(k.client) / CLIENTS * change.mean(axis=0)
        yield x


def feddyn(fed: Federation, alpha: float) -> Server:
    """Acar et al., alg. 1; the local minimum is approached by the local update."""
    x, h, own = fed.start, 0.0, np.zeros((CLIENTS, len(fed.start)))
    for t in EVERY:
        k = fed.train(x, t, lambda g, w, client: g - own[client] + alpha * (w - x))  # noqa: B023
        own[k.client] -= alpha * (k.w - x)
        h = h - alpha / CLIENTS * (k.w - x).sum(axis=0)
        x = k.w.mean(axis=0) - h / alpha
        yield x


def ditto(fed: Federation, lam: float) -> Server:
    """Li et al. (Ditto), alg. 1: v_k - eta (grad F_k(v_k) + lam (v_k - w)), beside FedAvg."""
    w, v = fed.start, np.tile(fed.start, (CLIENTS, 1))
    for t in EVERY:
        k, own = fed.train(w, t), fed.train(w, t, lambda g, y, client: g + lam * (y - w), v)  # noqa: ARG005, B023
        w, v[k.client] = np.average(k.w, axis=0, weights=k.n), own.w
        yield w, v.copy()


def local_only(fed: Federation) -> Server:
    v = np.tile(fed.start, (CLIENTS, 1))
    for t in EVERY:
        k = fed.train(fed.start, t, start=v)
        v[k.client] = k.w
        yield fed.start, v.copy()


def ffa_lora(fed: Federation) -> Server:
    """Sun et al.: A is not trained."""
    return fedavg(fed._replace(trained=without(A)))


def fedsa_lora(fed: Federation) -> Server:
    """Guo et al.: A (and what is no pair) is averaged, B stays with its client."""
    x, own = fed.start, np.tile(fed.start[B], (CLIENTS, 1))
    for t in EVERY:
        every = np.tile(x, (CLIENTS, 1))
        every[:, B] = own
        k = fed.train(x, t, start=every)
        own[k.client] = k.w[:, B]
        x = np.where(without(B) == 1, np.average(k.w, axis=0, weights=k.n), x)
        served = np.tile(x, (CLIENTS, 1))
        served[:, B] = own
        yield x, served


def mean_product(k: Trained) -> np.ndarray:
    return np.average([np.matmul(*pair_of(w)) for w in k.w], axis=0, weights=k.n)


def flexlora(fed: Federation) -> Server:
    """Bai et al.: the singular value decomposition of the mean product, cut at the rank, its roots on both sides."""
    x = fed.start
    for t in EVERY:
        k = fed.train(x, t)
        x = np.average(k.w, axis=0, weights=k.n)
        u, s, v = np.linalg.svd(mean_product(k), full_matrices=False)
        a, b = u[:, :RANK] * np.sqrt(s[:RANK]), np.sqrt(s[:RANK])[:, None] * v[:RANK]
        sign = np.sign([column[np.abs(column).argmax()] for column in a.T])  # which the docstring's code fixes
        x[A], x[B] = (a * sign).ravel(), (sign[:, None] * b).ravel()
        yield x


def fedex_lora(fed: Federation) -> Server:
    """Singhal et al., eq. 5: the residual of the mean product goes into the kernel."""
    fed = fed._replace(trained=without(KERNEL))
    x = fed.start
    for t in EVERY:
        k = fed.train(x, t)
        kernel, x = x[KERNEL], np.average(k.w, axis=0, weights=k.n)
        x[KERNEL] = kernel + SCALE * (mean_product(k) - np.matmul(*pair_of(x))).ravel()
        yield x


def flora(fed: Federation) -> Server:
    """Wang et al.: the stacked pairs go into the kernel; then fresh ones, drawn as the docstring says."""
    fed = fed._replace(trained=without(KERNEL))
    x = fed.start
    for t in EVERY:
        k = fed.train(x, t)
        kernel, x = x[KERNEL], np.average(k.w, axis=0, weights=k.n)
        x[KERNEL] = kernel + SCALE * mean_product(k).ravel()
        key = jax.random.split(jax.random.key(t - 1), 4)[0]  # the first of four leaves
        x[A] = np.asarray(jax.random.uniform(key, (WIDTH, RANK), minval=-(WIDTH**-0.5), maxval=WIDTH**-0.5)).ravel()
        x[B] = 0.0
        yield x


def adam_of_fedavgw(fed: Federation, lr: float, beta: float) -> Server:
    """Kingma & Ba, 2015, alg. 1, of x - (FedAvgW's mean); b1 = 0.9, b2 = 0.99, eps = 0.01."""
    x, m, v = fed.start, 0.0, 0.0
    for t in EVERY:
        g = x - adapters_by_inverse_size(fed.train(x, t), beta)
        m, v = 0.9 * m + 0.1 * g, 0.99 * v + 0.01 * g**2
        x = x - lr * (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.99**t)) + 0.01)
        yield x


# Name -> (its server here, its numbers in the three cells: the paper's, others, and those of an identity where it has
# one, which tests/test_identities.py looks at).
METHODS: dict[str, tuple[Callable[..., Server], dict[str, tuple[float, ...]]]] = {
    "fedavg": (fedavg, {}),
    "uniform": (uniform, {}),
    "fedavgw": (fedavgw, {"beta": (0.5, 1.0, 0.0)}),
    "fedavgm": (fedavgm, {"lr": (1.0, 0.5, 1.0), "beta": (0.9, 0.3, 0.0)}),
    "fedadagrad": (fedadagrad, {"lr": (0.1, 0.3, 1.0), "b1": (0.0, 0.9, 0.5), "tau": (1e-3, 0.1, 0.01)}),
    "fedadam": (
        fedadam,
        {"lr": (0.1, 0.3, 1.0), "b1": (0.9, 0.0, 0.5), "b2": (0.99, 0.9, 0.5), "tau": (1e-3, 0.1, 0.01)},
    ),
    "fedyogi": (
        fedyogi,
        {"lr": (0.1, 0.3, 1.0), "b1": (0.9, 0.0, 0.5), "b2": (0.99, 0.9, 0.5), "tau": (1e-3, 0.1, 0.01)},
    ),
    "term": (term, {"t": (1.0, 5.0, 0.0)}),
    "afl": (afl, {"gamma": (0.1, 2.0, 0.0)}),
    "qfedavg": (qfedavg, {"q": (1.0, 0.5, 0.0)}),
    "fednova": (fednova, {}),
    "fedmgda": (fedmgda, {"lr": (1.0, 0.5, 1.0), "eps": (1.0, 0.1, 0.0)}),
    "median": (median, {}),
    "trimmed_mean": (trimmed_mean, {"trim": (0.2, 0.4, 0.0)}),
    "scaffold": (scaffold, {"lr": (1.0, 0.5, 1.0)}),
    "scaffold_i": (scaffold_i, {"lr": (1.0, 0.5, 1.0)}),
    "feddyn": (feddyn, {"alpha": (0.01, 0.1, 1.0)}),
    "ditto": (ditto, {"lam": (0.1, 1.0, 0.0)}),
    "local_only": (local_only, {}),
    "ffa_lora": (ffa_lora, {}),
    "fedsa_lora": (fedsa_lora, {}),
    "flexlora": (flexlora, {}),
    "fedex_lora": (fedex_lora, {}),
    "flora": (flora, {}),
}
# Those that speak of LoRA pairs.
PAIRED = ("ffa_lora", "fedsa_lora", "flexlora", "fedex_lora", "flora")

# Likewise; the third cell's is cross-entropy.
SMOOTHING = {"smoothing": (0.0, 0.1, 0.0)}
OBJECTIVES: dict[str, tuple[Callable[..., np.ndarray], dict[str, tuple[float, ...]]]] = {
    "cross_entropy": (cross_entropy, {"smoothing": (0.1, 0.3, 0.0)}),
    "fedprox": (cross_entropy, {"mu": (0.1, 1.0, 0.0), **SMOOTHING}),
    "logit_adjustment": (logit_adjustment, {"tau": (1.0, 0.5, 0.0), **SMOOTHING}),
    "fedlc": (fedlc, {"tau": (1.0, 0.01, 0.0), **SMOOTHING}),
    "fedrs": (fedrs, {"alpha": (0.5, 0.9, 1.0), **SMOOTHING}),
    "tilted": (tilted, {"t": (1.0, 3.0, 0.0), **SMOOTHING}),
}


def hashable(numbers: dict[str, tuple[float, ...]]) -> tuple:
    return tuple(sorted(numbers.items()))


def of_cell(numbers: dict[str, tuple[float, ...]], index: int) -> dict[str, float]:
    return {name: values[index] for name, values in numbers.items()}


def federation(objective: str, index: int) -> Federation:
    derivative, table = OBJECTIVES[objective]
    numbers = of_cell(table, index)
    mu = numbers.pop("mu", 0.0)
    return Federation(CELLS[index], functools.partial(derivative, **numbers), mu)


def assert_conforms(got: list[dict], expected: Callable[[int], Server], change: float = TOLERANCE) -> None:
    """Each leaf of each round, relative to itself by `TOLERANCE` and relative to what training changed by `change`."""
    for index in range(len(CELLS)):
        wanted, start = list(expected(index)), flat(jax.tree.map(lambda leaf, i=index: leaf[i], got[0]))
        ours = [flat(jax.tree.map(lambda leaf, i=index: leaf[i], each)) for each in got[1:]]
        parts = (TABLE, ~TABLE) if len(start) == len(TABLE) else (A, B, KERNEL, BIAS)
        for (a, b), leaf in itertools.product(zip(ours, wanted, strict=True), parts):
            error, size, moved = (np.linalg.norm(x[leaf]) for x in (a - b, b, b - start))
            assert error <= min(TOLERANCE * size, change * moved), (index, error / size, error / moved)


def test_every_name_of_the_config_has_a_reference() -> None:
    # One model on the rows of all clients is no matter of clients and servers: tests/test_methods.py.
    assert METHODS.keys() == methods.RULES.keys() - {"centralised"}
    assert OBJECTIVES.keys() == objectives.OBJECTIVES.keys()


@pytest.mark.parametrize("name", METHODS)
def test_method(name: str) -> None:
    server, numbers = METHODS[name]
    clients, model = (Adapted, "lora") if name in PAIRED else (Federation, "bag")
    seen = rounds(name, hashable(numbers), model=model)
    expected = [list(server(clients(cell), **of_cell(numbers, index))) for index, cell in enumerate(CELLS)]
    if isinstance(expected[0][0], tuple):
        for index, each in enumerate(expected):
            for ours, (_, served) in zip(seen, each, strict=True):
                own = [flat(jax.tree.map(lambda leaf, i=index, n=n: leaf[i, n], ours.served)) for n in range(CLIENTS)]
                np.testing.assert_allclose(own, served, rtol=TOLERANCE, atol=TOLERANCE * np.abs(served).max())
        expected = [[x for x, _ in each] for each in expected]
    got = [seen[0].before, *(each.after for each in seen)]
    assert_conforms(got, expected.__getitem__, ADAPTIVE.get(name, TOLERANCE))


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objective(name: str) -> None:
    got = run("fedavg", (), name, hashable(OBJECTIVES[name][1]))
    assert_conforms(got, lambda index: fedavg(federation(name, index)))


def test_logit_adjustment_under_fedavgm() -> None:
    server, numbers = METHODS["fedavgm"]
    got = run("fedavgm", hashable(numbers), "logit_adjustment", hashable(OBJECTIVES["logit_adjustment"][1]))
    assert_conforms(got, lambda index: server(federation("logit_adjustment", index), **of_cell(numbers, index)))


def test_ffa_lora_under_scaffold() -> None:
    def rule(lr: Any) -> rules.Rule:
        server = methods.scaffold(CLIENTS, lr)
        return server._replace(local=merged(server.local, methods.ffa_lora().local))

    numbers = {"lr": (1.0, 0.5, 1.0)}
    seen = rounds(rule, hashable(numbers), model="lora")
    clients = [Adapted(cell, trained=without(A)) for cell in CELLS]
    got = [seen[0].before, *(each.after for each in seen)]
    assert_conforms(got, lambda index: scaffold(clients[index], **of_cell(numbers, index)))


def test_fedavgws_weights_under_adam() -> None:
    def rule(lr: Any, beta: Any) -> rules.Rule:
        return methods.server(optax.adam(lr, b1=0.9, b2=0.99, eps=0.01), rules.fedavgw(beta, is_adapter))

    numbers = {"lr": (0.1, 0.3, 0.5), "beta": (0.5, 1.0, 0.0)}
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam raises a Python float to an integer power
        got = run(rule, hashable(numbers))
    assert_conforms(got, lambda index: adam_of_fedavgw(Federation(CELLS[index]), **of_cell(numbers, index)))
