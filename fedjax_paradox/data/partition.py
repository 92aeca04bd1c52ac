"""Which client holds which train rows. Pure functions of labels and a seed; NumPy only.

Every partitioner returns a list of `num_clients` int64 arrays of row indices that are disjoint and
together hold every row exactly once. A client may be empty; `repair_minimum` removes that.
"""

from collections.abc import Callable, Sequence

import numpy as np

from fedjax_paradox.errors import InputError

Partition = list[np.ndarray]


def dirichlet_partition(labels: np.ndarray, num_clients: int, alpha: float, seed: int) -> Partition:
    """Label-skewed split of arXiv:2605.08992, bit for bit (Hsu et al., 2019, per class).

    The legacy NumPy generator is seeded once. For each class in ascending order its rows are shuffled
    and cut at floor(proportion * class size) with proportions from one symmetric Dirichlet(alpha);
    the last client takes the remainder. A client's rows are its class pieces in class order.

    Args:
      labels: i[N], class of every train row.
      num_clients: K >= 1.
      alpha: concentration > 0; small values give strong skew.
      seed: 0 <= seed < 2**32.

    Returns:
      K arrays of row indices, some possibly empty. Sizes depend on class sizes, not on row order.

    Raises:
      InputError: alpha <= 0 or so small that its draws underflow, no client, or more clients than rows.
    """
    _check(labels, num_clients)
    if not alpha > 0:
        raise InputError(f"alpha must be > 0, got {alpha}; published values are 0.1, 0.5, 1.0, 5.0")
    generator = np.random.RandomState(seed)
    pieces: list[list[np.ndarray]] = []
    for label in np.unique(labels):
        rows = np.flatnonzero(labels == label)
        generator.shuffle(rows)
        proportions = generator.dirichlet(np.full(num_clients, alpha))
        if not np.isfinite(proportions).all():
            raise InputError(f"alpha={alpha} is too small: every Dirichlet weight underflowed to 0; use alpha >= 0.01")
        counts = (proportions * len(rows)).astype(np.int64)
        pieces.append(np.split(rows, np.cumsum(counts[:-1])))
    return [np.concatenate(client) for client in zip(*pieces, strict=True)]


def iid_partition(labels: np.ndarray, num_clients: int, seed: int) -> Partition:
    """Rows shuffled and cut into K parts whose sizes differ by at most one.

    Args and errors as in `dirichlet_partition`.
    """
    _check(labels, num_clients)
    return list(np.array_split(np.random.default_rng(seed).permutation(len(labels)), num_clients))


def shard_partition(labels: np.ndarray, num_clients: int, shards_per_client: int, seed: int) -> Partition:
    """Rows sorted by class, cut into K * shards_per_client shards, dealt at random (McMahan et al., 2017).

    Every client holds exactly `shards_per_client` shards, so at most that many more classes than
    shards straddle a class border. Sizes differ by at most `shards_per_client`.

    Raises:
      InputError: no client, fewer than one shard a client, or more shards than rows.
    """
    _check(labels, num_clients)
    shards = num_clients * shards_per_client
    if not 0 < shards <= len(labels):
        raise InputError(
            f"num_clients * shards_per_client must lie in 1..{len(labels)} (the rows), got {shards}; "
            "lower num_clients or partition.shards_per_client"
        )
    generator = np.random.default_rng(seed)
    rows = generator.permutation(len(labels))
    pieces = np.array_split(rows[np.argsort(labels[rows], kind="stable")], shards)
    dealt = generator.permutation(shards).reshape(num_clients, shards_per_client)
    return [np.concatenate([pieces[shard] for shard in client]) for client in dealt]


def repair_minimum(partition: Partition, minimum: int, seed: int) -> Partition:
    """Moves rows from the currently largest client until every client holds at least `minimum` rows.

    Drawing again until all clients are large enough need not end; this takes at most
    K * minimum moves. Clients that already have `minimum` rows only ever lose rows, never below it.

    Raises:
      InputError: K * minimum exceeds the number of rows.
    """
    total = sum(map(len, partition))
    if minimum * len(partition) > total:
        raise InputError(
            f"partition.min_client_rows={minimum} needs {minimum * len(partition)} rows for "
            f"{len(partition)} clients, but there are {total}; use at most {total // len(partition)}"
        )
    generator = np.random.default_rng(seed)
    clients = list(partition)
    for poor in range(len(clients)):
        while (missing := minimum - len(clients[poor])) > 0:
            rich = int(np.argmax([len(rows) for rows in clients]))
            taken = min(missing, len(clients[rich]) - minimum)
            mixed = generator.permutation(clients[rich])
            clients[poor] = np.concatenate([clients[poor], mixed[:taken]])
            clients[rich] = mixed[taken:]
    return clients


def split_holdout(partition: Partition, fraction: float, seed: int) -> tuple[Partition, Partition]:
    """Keeps floor(fraction * rows) rows of every client out of training.

    Returns:
      (train rows, held-out rows), client by client; order within the train rows is kept, and a
      client with rows always keeps at least one for training.
    """
    train, held_out = [], []
    for client, rows in enumerate(partition):
        count = int(fraction * len(rows))
        if count == 0:  # of 100,000 clients the generators alone take seconds
            train.append(rows)
            held_out.append(rows[:0])
            continue
        out = np.random.default_rng([seed, client]).permutation(len(rows)) < count
        train.append(rows[~out])
        held_out.append(rows[out])
    return train, held_out


def class_counts(partition: Sequence[np.ndarray], labels: np.ndarray, num_classes: int) -> np.ndarray:
    """i64[K, C]: rows of each class that each client holds."""
    owners = np.repeat(np.arange(len(partition)), [len(rows) for rows in partition])
    held = labels[np.concatenate(partition)].astype(np.int64)
    return np.bincount(owners * num_classes + held, minlength=len(partition) * num_classes).reshape(-1, num_classes)


def _check(labels: np.ndarray, num_clients: int) -> None:
    if not 1 <= num_clients <= len(labels):
        raise InputError(
            f"num_clients must lie in 1..{len(labels)} (the number of train rows), got {num_clients}; "
            "use fewer clients or more rows"
        )


# Name in the config -> function of (labels, num_clients, alpha, seed, shards_per_client).
PARTITIONERS: dict[str, Callable[..., Partition]] = {
    "dirichlet": lambda labels, num_clients, alpha, seed, **_: dirichlet_partition(labels, num_clients, alpha, seed),
    "iid": lambda labels, num_clients, seed, **_: iid_partition(labels, num_clients, seed),
    "shards": lambda labels, num_clients, seed, shards_per_client, **_: shard_partition(
        labels, num_clients, shards_per_client, seed
    ),
}
