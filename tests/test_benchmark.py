"""The benchmark's arithmetic, its bars and its table; and that the rival's round is the same work as ours."""

import importlib
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import jax
import numpy as np
import pytest

from fedjax_paradox.storage import checkpoint
from fedjax_paradox.sweep.run import run

FOLDER = Path(__file__).parent.parent / "experiments" / "benchmark"


@pytest.fixture(autouse=True)
def _importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))


def module(name: str) -> ModuleType:
    found = importlib.import_module(name)
    assert Path(found.__file__ or "").parent == FOLDER
    return found


# FLOPs


def product(m: int, k: int, n: int) -> int:
    return 2 * m * k * n


def test_flops_are_those_of_the_products_written_out() -> None:
    flops = module("flops")
    tiny = flops.Encoder(dim=4, hidden=8, layers=2, heads=2)
    first = [
        *[product(3, 4, 4)] * 4,  # query, key, value, output projections of three tokens
        *[product(3, 2, 3), product(3, 3, 2)] * 2,  # scores and mixture of two heads
        *[product(3, 4, 8), product(3, 8, 4)],  # feed-forward
        *[product(3, 4, 1), product(3, 1, 4)] * 2,  # two adapters of rank one
        # Backward: feed-forward and output projection; then probabilities, values, queries; then the adapters.
        *[product(3, 8, 4), product(3, 4, 8), product(3, 4, 4)],
        *[product(3, 2, 3), product(3, 3, 2), product(3, 3, 2)] * 2,
        *[product(1, 3, 4), product(3, 4, 1), product(4, 3, 1)] * 2,
    ]
    last = [
        *[product(1, 4, 4)] * 2,  # query and output projection of the first token
        *[product(3, 4, 4)] * 2,  # key and value of all
        *[product(1, 2, 3), product(1, 3, 2)] * 2,
        *[product(1, 4, 8), product(1, 8, 4)],
        *[product(1, 4, 1), product(1, 1, 4), product(3, 4, 1), product(3, 1, 4)],
        # Backward, now down to the block's input: keys too, and through all four projections.
        *[product(1, 8, 4), product(1, 4, 8)],
        *[product(1, 4, 4)] * 2,
        *[product(3, 4, 4)] * 2,
        *[product(1, 2, 3), product(3, 1, 2), product(1, 3, 2), product(3, 1, 2)] * 2,
        *[product(1, 1, 4), product(1, 4, 1), product(4, 1, 1), product(1, 1, 4)],
        *[product(1, 3, 4), product(3, 4, 1), product(4, 3, 1), product(3, 1, 4)],
    ]
    head = [product(1, 4, 4)] * 3 + [product(1, 4, 2)] * 3  # forward, weights, inputs
    assert sum(first + last + head) == 3096
    assert flops.lora_row_flops(tiny, tokens=3, classes=2, rank=1) == 3096


def test_whole_last_block_costs_distilbert_a_sixth_more() -> None:
    flops = module("flops")
    sizes = (flops.ENCODERS["distilbert"], 64, 4, 8)
    # Six blocks of 24 T d^2 forward and as much backward, less 6 T d^2 in the first; the rest is under 3 %.
    rough = 64 * 768**2 * (6 * 48 - 6)
    assert rough < flops.full_row_flops(*sizes) < 1.03 * rough
    assert 1.15 < flops.full_row_flops(*sizes) / flops.lora_row_flops(*sizes) < 1.18


# Statistics


def test_median_spread_and_ratio() -> None:
    summary = module("summary")
    assert summary.spread([3.0, 1.0, 9.0]) == {"median": 3.0, "low": 1.0, "high": 9.0}
    assert summary.ratio([4.0, 2.0, 100.0], [1.0, 2.0, 3.0]) == 4.0


def test_a_ratio_does_not_see_that_both_become_slower() -> None:
    summary = module("summary")
    assert summary.ratio([2.0, 2.4, 6.0], [1.0, 1.2, 3.0]) == 2.0


def test_rows_a_second_relative_to_the_first_series() -> None:
    work = {"10": {"trained_rows": 100}, "1000": {"trained_rows": 50}}
    found = {"10": {"seconds": [2.0, 3.0, 2.0]}, "1000": {"seconds": [2.0, 3.0, 8.0]}}
    assert module("scaling").relative(work, found) == {"10": 1.0, "1000": 0.5}


def test_shares_are_taken_round_by_round() -> None:
    summary = module("summary")
    names = ("schedule", "training", "aggregation", "prediction", "checkpoint")
    phases = [
        dict(zip(names, numbers, strict=True))
        for numbers in ((0.1, 7.0, 0.1, 2.0, 0.8), (0.0, 1.5, 0.1, 0.3, 0.1), (0.2, 16.0, 0.0, 3.6, 0.2))
    ]
    seconds = [10.0, 2.0, 20.0]
    assert summary.shares(phases, seconds)["training"] == pytest.approx(0.75)
    # 10 %, 10 %, 2 %
    assert summary.bookkeeping(phases, seconds) == pytest.approx(0.1)


# Bars and the page


def results(distilbert: float, waste: float) -> dict:
    one = {"seconds": [1.0, 2.0, 3.0]}
    rival = {"seconds": [distilbert, 2 * distilbert, 3 * distilbert]}
    work = {"train_rows": 1_000, "trained_rows": 5_000}
    lanes = {"lanes": {"1": 0.0, "64": 0.5}, "chosen_lanes": 2}
    return {
        "commands": {"rounds": "2026-01-02 03:04 UTC: python run.py"},
        "machine": {"processor": "Some CPU", "cores": 2, "memory_gib": 24.0, "devices": ["cpu"]},
        "rounds": {
            "distilbert": {
                "work": work,
                "contenders": {"ours float32": one, "PyTorch float32": rival},
                "ratios": {"PyTorch float32 / ours float32": distilbert},
            }
        },
        "waste": {"alpha 0.1": {"textcnn": lanes, "transformer": lanes, "chosen": waste}},
        "scaling": {"programs": {"training": 1}},
    }


def judged(measured: dict) -> dict[str, dict]:
    return {bar["figure"]: bar for bar in module("summary").bars(measured)}


DISTILBERT = "DistilBERT-sized round, PyTorch float32 / ours float32"


def test_bars_are_met_missed_or_not_measured() -> None:
    good, bad = judged(results(2.5, 0.03)), judged(results(2.49, 0.031))
    for found, verdict in ((good, True), (bad, False)):
        assert found[DISTILBERT]["met"] is verdict
        assert found["waste on the published partition at alpha 0.1"]["met"] is verdict
        assert found["training programs compiled for a 16-cell grid"]["met"] is True
    assert bad[DISTILBERT]["measured"] == 2.49
    assert bad[DISTILBERT]["bar"] == ">= 2.5"
    missing = good["TextCNN round, PyTorch float32 / ours float32"]
    assert (missing["measured"], missing["met"]) == (None, None)


def test_every_bar_of_the_issue_is_there_once() -> None:
    bounds = sorted((bar.sign, bar.bound) for bar in module("summary").BARS)
    least = [(">=", bound) for bound in (0.8, 0.8, 0.9, 1.0, 2.5, 2.5, 2.5, 3.0, 3.0)]
    assert bounds == sorted([("<=", 0.02), ("<=", 0.03), ("<=", 0.03), ("<=", 1.05), ("==", 1), *least])


def test_the_page_says_what_was_met_and_shows_the_sections_that_ran() -> None:
    summary = module("summary")
    measured = results(1.49, 0.03)
    del measured["scaling"]
    page = summary.markdown(measured | {"bars": summary.bars(measured)})
    lines = page.splitlines()
    assert f"| {DISTILBERT} | >= 2.5 | 1.49 | **not met** |" in lines
    assert "| waste on the published partition at alpha 0.1 | <= 0.03 | 0.03 | met |" in lines
    assert sum(line.endswith("| not measured |") for line in lines) == len(summary.BARS) - 2
    # 5,000 rows in a median of 2 s; the rival's median is 1.49 times as long.
    assert "| distilbert | ours float32 | 1,000 | 2 (1 to 3) | 2,500 | 1 |" in lines
    assert "| distilbert | PyTorch float32 | 1,000 | 2.98 (1.49 to 4.47) | 1,678 | 1.49 |" in lines
    assert [line for line in lines if line.startswith("#")] == ["### Bars", "### Rounds", "### Waste"]


def test_machines_stand_side_by_side() -> None:
    here, there = results(2.5, 0.02), results(1.2, 0.03)
    here["corpus"], there["corpus"] = "data/ag_news/train.parquet", "docstrings"
    there["matrix"] = {"XLA float32": [100.0, 300.0, 200.0]}
    lines = module("summary").machines({"one": here, "two": there}).splitlines()
    assert lines[0] == "|  | bar | one | two |"
    assert "| corpus |  | ag_news | docstrings |" in lines
    assert "| matrix products, XLA float32, GFLOP/s |  | – | 200 |" in lines
    assert f"| {DISTILBERT} | >= 2.5 | 2.5 | 1.2 |" in lines


# Rounds in turn


def test_lockstep_lets_work_go_on_only_when_asked() -> None:
    done = []

    def work(tell: Callable[[int], None]) -> None:
        for number in range(3):
            done.append(number)
            tell(number)

    numbers = module("work").lockstep(work)
    assert (next(numbers), done) == (0, [0])
    assert (next(numbers), done) == (1, [0, 1])
    assert list(numbers) == [2]


def test_lockstep_raises_what_work_raises() -> None:
    def work(tell: Callable[[int], None]) -> None:
        tell(1)
        raise RuntimeError("no more")

    numbers = module("work").lockstep(work)
    next(numbers)
    with pytest.raises(RuntimeError, match="no more"):
        next(numbers)


def test_contenders_take_turns() -> None:
    order = []

    def contender(name: str) -> Iterator[float]:
        for number in range(3):
            order.append(name)
            yield float(number)

    found = module("work").interleaved({"a": contender("a"), "b": contender("b")}, 2)
    assert order == ["a", "b"] * 3
    assert found == {"a": [0.0, 1.0, 2.0], "b": [0.0, 1.0, 2.0]}
    assert module("work").timed(found["a"]) == {"warm_up": 0.0, "seconds": [1.0, 2.0]}


# The rival


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    folder = tmp_path_factory.mktemp("rows")
    rng = np.random.default_rng(0)
    words = np.array(["sun", "rain", "snow", "wind", "fog", "ice"])
    for name, rows in (("train", 200), ("test", 40)):
        lines = [f"{' '.join(words[rng.integers(0, 6, 9)])},{row % 2}" for row in range(rows)]
        (folder / f"{name}.csv").write_text("\n".join(["text,label", *lines]))
    return str(folder / "train.csv"), str(folder / "test.csv")


@pytest.mark.parity
def test_the_rivals_round_is_ours(files: tuple[str, str], tmp_path: Path) -> None:
    torch = pytest.importorskip("torch", reason="the rival needs the extra `parity`")
    pytest.importorskip("peft")
    rival, work = module("rival"), module("work")
    settings = work.Settings(*files, str(tmp_path), {}, repeats=0)
    small = "{max_length: 8, vocabulary_size: 20, embedding_size: 6, filters: 5, dropout: 0.0}"
    one = work.study(settings, "textcnn", 160, f"models.textcnn={small}", "num_clients=3", "alpha=1.0")
    program = one.program
    start = program.initial()[0]
    run(one.experiment, [program], tmp_path / "run", lambda event: None)  # noqa: ARG005
    (stored,) = checkpoint.restore(tmp_path / "run" / "checkpoints", program.identities, tmp_path).values()
    leaves = checkpoint.stacked([stored.leaves], {"globals": start})["globals"]

    cnn = rival.build(program)
    begin = {name: torch.tensor(leaf) for name, leaf in in_pytorch(start).items()}
    cnn.load_state_dict(begin)
    people = rival.clients(program, 1, "cpu")
    data = tuple(torch.tensor(np.asarray(array), dtype=torch.long) for array in program.data)
    exact = partial(torch.autocast, "cpu", enabled=False)
    weights = rival.train(cnn, begin, people, data, rival.optimizer(program), exact)
    expected = in_pytorch(leaves)
    assert weights.keys() == expected.keys()
    for name, leaf in expected.items():
        change = np.linalg.norm(leaf - begin[name].numpy())
        # Float32 keeps a leaf to 6e-8 of its size, and each leaf changes by more than a hundredth of it.
        assert np.linalg.norm(weights[name].numpy() - leaf) < 1e-4 * change, name


def in_pytorch(globals_: dict) -> dict[str, np.ndarray]:
    """The only cell's leaves by the rival's names."""
    leaves = jax.tree.map(lambda leaf: np.asarray(leaf[0]), globals_)
    named = {"embedding.weight": leaves["embedding"]}
    for number, width in enumerate((3, 4, 5)):
        named[f"convolutions.{number}.weight"] = leaves[f"conv_{width}"]["kernel"].transpose(2, 1, 0)
        named[f"convolutions.{number}.bias"] = leaves[f"conv_{width}"]["bias"]
    return named | {
        "classifier.weight": leaves["classifier"]["kernel"].T,
        "classifier.bias": leaves["classifier"]["bias"],
    }
