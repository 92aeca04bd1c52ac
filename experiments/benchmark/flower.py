"""The same rounds in Flower's simulation: its Ray backend, FedAvg, the PyTorch TextCNN of `rival.py`.

Every client is a task of a worker process with one core, as many at once as there are cores. It trains the very batches
of our schedule; the server predicts the same rows after each round on all cores.
"""

import os
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import rival
import torch
from work import lockstep

from fedjax_paradox.sweep.program import Program
from fedjax_paradox.sweep.rounds import plan_round


class Settings(NamedTuple):
    """What a worker needs to build the model and its optimizer."""

    vocabulary: int
    classes: int
    spec: Any
    optimizer: dict[str, float]


def rounds(program: Program) -> Iterator[float]:
    """Trains and predicts every round of the program's only cell; yields each round's seconds."""
    return lockstep(partial(_simulate, program))


def _simulate(program: Program, tell: Callable[[float], None]) -> None:
    os.environ["FLWR_TELEMETRY_ENABLED"] = "0"
    os.environ["PYTHONPATH"] = os.pathsep.join((str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")))
    from flwr.simulation import run_simulation  # reads the environment

    cell = program.cells[0]
    local = cell.local
    numbers = {"lr": local.learning_rate, "momentum": local.momentum, "weight_decay": local.weight_decay}
    settings = Settings(program.corpus.vocabulary_size, len(program.corpus.classes), cell.architecture, numbers)
    with tempfile.TemporaryDirectory() as folder:
        _write(program, Path(folder))
        run_simulation(
            server_app=_server(program, settings, tell),
            client_app=_client(settings, Path(folder)),
            num_supernodes=cell.num_clients,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )


def _write(program: Program, folder: Path) -> None:
    """Tokens and labels, and the batches of every client in every round, for the workers to read."""
    for name, array in zip(("tokens", "labels"), program.data, strict=True):
        np.save(folder / f"{name}.npy", np.asarray(array, np.int64))
    for number in range(1, program.cells[0].rounds + 1):
        for job in plan_round(program, number)[0]:
            np.save(folder / f"{number}-{job.client}.npy", job.steps.astype(np.int64))


def _client(settings: Settings, folder: Path) -> Any:
    from flwr.clientapp import ClientApp

    app = ClientApp()
    app.train()(partial(local_update, settings, folder))
    return app


def local_update(settings: Settings, folder: Path, message: Any, context: Any) -> Any:
    """One client's round, in a worker; what it needs of this module is imported there."""
    from flwr.app import ArrayRecord, Message, MetricRecord, RecordDict

    module = rival.TextCNN(settings.vocabulary, settings.classes, settings.spec)
    module.load_state_dict(message.content["arrays"].to_torch_state_dict())
    held = folder / f"{message.content['config']['server-round']}-{context.node_config['partition-id']}.npy"
    tokens, labels = (torch.from_numpy(np.load(folder / f"{each}.npy")) for each in ("tokens", "labels"))
    steps = np.load(held) if held.exists() else np.zeros((0, 1), np.int64)
    batches = [torch.from_numpy(step[step >= 0]) for step in steps]
    optimizer = torch.optim.SGD(module.parameters(), fused=True, **settings.optimizer)
    rival.local_update(module, batches, (tokens, labels), optimizer)
    rows = len(np.unique(steps[steps >= 0]))
    content = {"arrays": ArrayRecord(module.state_dict()), "metrics": MetricRecord({"num-examples": rows})}
    return Message(content=RecordDict(content), reply_to=message)


def _server(program: Program, settings: Settings, tell: Callable[[float], None]) -> Any:
    from flwr.app import ArrayRecord, Context, MetricRecord
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg

    app = ServerApp()
    module = rival.TextCNN(settings.vocabulary, settings.classes, settings.spec)
    tokens = torch.tensor(np.asarray(program.data.tokens), dtype=torch.long)
    batches = torch.tensor(program.predicted, dtype=torch.long).split(program.engine.predict_batch)
    began = time.monotonic()

    def evaluate(number: int, arrays: ArrayRecord) -> MetricRecord:
        nonlocal began
        if number > 0:
            module.load_state_dict(arrays.to_torch_state_dict())
            rival.predict(module, tokens, batches)
            tell(time.monotonic() - began)
        began = time.monotonic()
        return MetricRecord({})

    @app.main()
    def main(grid: Grid, context: Context) -> None:  # noqa: ARG001
        strategy = FedAvg(fraction_train=1.0, fraction_evaluate=0.0)
        strategy.start(
            grid,
            initial_arrays=ArrayRecord(module.state_dict()),
            num_rounds=program.cells[0].rounds,
            evaluate_fn=evaluate,
        )

    return app
