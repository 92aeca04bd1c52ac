"""What the sections share: experiments on random weights, our rounds one at a time, child processes."""

import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flops import ENCODERS, Encoder
from safetensors.numpy import save_file

from fedjax_paradox.config import Experiment, cells, load
from fedjax_paradox.data.corpus import load_texts
from fedjax_paradox.data.text import build_vocabulary
from fedjax_paradox.sweep.program import Program, prepare
from fedjax_paradox.sweep.rounds import plan_round
from fedjax_paradox.sweep.run import Finished, run

HERE = Path(__file__).parent
COMPILATION = "/jax/core/compile/backend_compile_duration"
TEST_SHARE = 16  # train rows a test row, as in AG News


class Settings(NamedTuple):
    """What the person chose."""

    train: str | None
    test: str | None
    cache: str
    rows: dict[str, int]
    repeats: int


class Study(NamedTuple):
    """An experiment of one program."""

    experiment: Experiment
    program: Program


def study(settings: Settings, model: str, rows: int, *overrides: str) -> Study:
    """The published setting on `rows` train rows, one warm-up round and `repeats` more, under overrides."""
    files = [f"corpus.files.train={settings.train}", f"corpus.files.test={settings.test}"] if settings.train else []
    sizes = [
        f"corpus.train_rows={rows}",
        f"corpus.test_rows={-(-rows // TEST_SHARE)}",
        f"rounds={settings.repeats + 1}",
    ]
    weights = [f"models.{model}.weights={checkpoint(settings, model)}"] if model in ENCODERS else []
    experiment = load(HERE / "study.yaml", [f"model={model}", *files, *sizes, *weights, *overrides])
    (program,) = prepare(cells(experiment), Path(settings.cache))
    return Study(experiment, program)


def work_of(program: Program) -> dict[str, float]:
    """Rows and steps of the first round. `fill`: share of the batches' places that hold a row."""
    jobs, _ = plan_round(program, 1)
    steps, batch = sum(len(job.steps) for job in jobs), jobs[0].steps.shape[1]
    trained = sum(int((job.steps >= 0).sum()) for job in jobs)
    return {
        "train_rows": len(program.corpus.train_labels),
        "trained_rows": trained,
        "predicted_rows": len(program.predicted) * len(program.cells),
        "jobs": len(jobs),
        "steps": steps,
        "batch": batch,
        "tokens": int(program.data.tokens.shape[1]),
        "fill": trained / (steps * batch),
    }


# ---- random weights


def checkpoint(settings: Settings, model: str) -> Path:
    """A folder of a DistilBERT-architecture encoder with random weights and the corpus's words as WordPiece."""
    folder = Path(settings.cache) / f"random-{model}"
    if not (folder / "vocab.txt").exists():
        folder.mkdir(parents=True, exist_ok=True)
        encoder = ENCODERS[model]
        (folder / "config.json").write_text(json.dumps(_configuration(encoder)))
        save_file(random_tensors(encoder), folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "vocab.txt").write_text("\n".join(_pieces(settings, encoder.vocabulary)), encoding="utf-8")
    return folder


def _configuration(encoder: Encoder) -> dict[str, Any]:
    sizes = {"dim": encoder.dim, "hidden_dim": encoder.hidden, "n_layers": encoder.layers, "n_heads": encoder.heads}
    shared = {"vocab_size": encoder.vocabulary, "max_position_embeddings": encoder.positions}
    return {"model_type": "distilbert", "activation": "gelu", "pad_token_id": 0, **sizes, **shared}


def random_tensors(encoder: Encoder) -> dict[str, np.ndarray]:
    """Every tensor by its Hugging Face name: matrices normal(0.02), scales 1, biases 0."""
    d, h = encoder.dim, encoder.hidden
    matrices = {"embeddings.word_embeddings": (encoder.vocabulary, d)}
    matrices["embeddings.position_embeddings"] = (encoder.positions, d)
    norms, linears = ["embeddings.LayerNorm"], {}
    for number in range(encoder.layers):
        layer = f"transformer.layer.{number}"
        linears |= {f"{layer}.attention.{name}_lin": (d, d) for name in ("q", "k", "v", "out")}
        linears |= {f"{layer}.ffn.lin1": (h, d), f"{layer}.ffn.lin2": (d, h)}
        norms += [f"{layer}.sa_layer_norm", f"{layer}.output_layer_norm"]
    generator = np.random.default_rng(0)
    tensors = {
        f"{name}.weight": generator.normal(0, 0.02, shape).astype(np.float32)
        for name, shape in (matrices | linears).items()
    }
    tensors |= {f"{name}.bias": np.zeros(shape[0], np.float32) for name, shape in linears.items()}
    tensors |= {f"{name}.weight": np.ones(d, np.float32) for name in norms}
    return tensors | {f"{name}.bias": np.zeros(d, np.float32) for name in norms}


def _pieces(settings: Settings, size: int) -> list[str]:
    files = (Path(settings.train), Path(settings.test)) if settings.train and settings.test else None
    texts = load_texts("docstrings", files=files, cache=Path(settings.cache)).train_texts
    characters = [chr(code) for code in range(33, 127)]
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *characters, *(f"##{c}" for c in characters)]
    words = list(build_vocabulary(texts, size))[2:]
    return list(dict.fromkeys(special + words))[:size]


# ---- rounds


def our_rounds(study: Study) -> Iterator[Finished]:
    """The experiment's rounds; it stands still between one and the request for the next."""

    def work(tell: Callable[[Finished], None]) -> None:
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder) / "run"
            run(study.experiment, [study.program], out, lambda e: tell(e) if isinstance(e, Finished) else None)

    return lockstep(work)


def lockstep(work: Callable[[Callable[[Any], None]], None]) -> Iterator[Any]:
    """Whatever `work(tell)` tells, as an iterator; `tell` returns when the next thing is asked for."""
    told: queue.SimpleQueue = queue.SimpleQueue()
    asked = threading.Semaphore(0)

    def tell(thing: Any) -> None:
        told.put(("thing", thing))
        asked.acquire()

    def body() -> None:
        asked.acquire()
        try:
            work(tell)
        except BaseException as error:  # raised again where the results are asked for
            told.put(("error", error))
        else:
            told.put(("end", None))

    # Daemon: where another contender fails, this one would wait for ever.
    threading.Thread(target=body, daemon=True).start()
    while True:
        asked.release()
        kind, thing = told.get()
        if kind == "error":
            raise thing
        if kind == "end":
            return
        yield thing


def interleaved(contenders: Mapping[str, Iterator[Any]], repeats: int) -> dict[str, list[Any]]:
    """What each contender gives in its warm-up round and in `repeats` more, taken in turn."""
    found: dict[str, list[Any]] = {name: [] for name in contenders}
    for number in range(repeats + 1):
        for name, rounds in contenders.items():
            began = time.monotonic()
            found[name].append(next(rounds))
            say(f"    {number}/{repeats} {name}: {time.monotonic() - began:.1f} s")
    for rounds in contenders.values():
        assert next(rounds, None) is None  # noqa: S101  (lets ours leave its folder)
    return found


def say(text: str) -> None:
    """Progress, for the person who waits."""
    print(text, file=sys.stderr, flush=True)


def recorded(rounds: Sequence[Finished]) -> dict[str, Any]:
    """The raw numbers of our rounds: {"warm_up": seconds, "seconds": [repeats], "phases": [repeats]}."""
    return timed([one.seconds for one in rounds]) | {"phases": [one.phases for one in rounds[1:]]}


def timed(seconds: Sequence[float]) -> dict[str, Any]:
    """{"warm_up": seconds of the first round, "seconds": of the others}."""
    return {"warm_up": seconds[0], "seconds": list(seconds[1:])}


# ---- child processes


class Child(NamedTuple):
    """A study to be run alone in a process of its own."""

    settings: Settings
    model: str
    rows: int
    overrides: Sequence[str]


def in_child(child: Child, environment: Mapping[str, str]) -> dict[str, Any]:
    """`alone(child)` in a new process with these environment variables; RuntimeError with its errors."""
    command = [sys.executable, str(HERE / "run.py"), "--child", json.dumps(child)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the child process for {child} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


def alone(child: Child) -> dict[str, Any]:
    """Every round of a child's study, and what was compiled for it: (function, seconds) in and after round 1."""
    compiled: list[tuple[str, float]] = []
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **facts: (
            compiled.append((str(facts.get("fun_name", "")), seconds)) if event == COMPILATION else None
        )
    )
    one = study(child.settings, child.model, child.rows, *child.overrides)
    rounds, in_first = [], 0
    for finished in our_rounds(one):
        rounds.append(finished)
        in_first = in_first or len(compiled)
    return recorded(rounds) | {
        "work": work_of(one.program),
        "devices": jax.local_device_count(),
        "compiled_first": compiled[:in_first],
        "compiled_later": compiled[in_first:],
    }
