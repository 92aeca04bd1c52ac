"""The command as a person types it: what it says, what it leaves behind, and with which code it ends."""

import io
import json
import re
import shutil
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
import toy
from rich.console import Console

from fedjax_paradox import cli
from fedjax_paradox.config import cells, content_hash, load
from fedjax_paradox.evaluation.fairness import summarise
from fedjax_paradox.storage import folder, results
from fedjax_paradox.storage.cells import Entry
from fedjax_paradox.sweep.program import prepare
from fedjax_paradox.sweep.run import Finished, Started, Trained
from fedjax_paradox.terminal import display

# A read that Orbax gives up leaves coroutines behind, which complain when they are collected.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

BAG = ("model=bag", "rounds=2")


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    place = tmp_path_factory.mktemp("cli")
    with pytest.MonkeyPatch.context() as patch, toy.compilation_cached(tmp_path_factory.getbasetemp()):
        patch.syspath_prepend(place)
        patch.setenv("FEDJAX_PARADOX_CACHE", str(place / "cache"))
        yield toy.write(place)


@pytest.fixture
def call(config, tmp_path, monkeypatch, capfd):
    """call(argument, ...) -> (exit code, standard output, standard error), in an empty working directory."""
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    # The command makes the working directory importable, for itself alone.
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments, config=config):
        monkeypatch.setattr(sys, "argv", ["fedjax-paradox", "run", str(config), *map(str, arguments)])
        capfd.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main()
        return ended.value.code or 0, *capfd.readouterr()

    yield run
    assert list(work.iterdir()) == []  # nothing is left where nobody asked for it


@pytest.fixture(scope="module")
def finished(config):
    out = config.parent / "finished"
    toy.execute(config, out, *BAG)
    return out


@pytest.fixture
def copy(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "copy")


# What it says


def test_a_run_ends_with_its_table_and_again_with_the_same(call, tmp_path):
    out = tmp_path / "out"
    code, first, _ = call(*BAG, "--out", out)
    assert code == 0
    lines = first.splitlines()
    progress = [
        line
        for line in lines
        if re.match(r"program 1/1, round \d/2: [\d,]+ rows/s, [\d.]+% wasted, \d+% padding, \d+:\d\d left; ", line)
    ]
    assert [line.split(":")[0] for line in progress] == ["program 1/1, round 1/2", "program 1/1, round 2/2"]
    assert re.search(r"left; train_rows avg [\d.]+, worst [\d.]+$", progress[0])
    assert f"Results: {out / 'clients.parquet'}" in first
    before = toy.contents(out)
    code, second, _ = call(*BAG, "--out", out)
    assert code == 0
    assert toy.contents(out) == before
    table = [line for line in lines if "│" in line]
    assert table == [line for line in second.splitlines() if "│" in line]
    assert len(table) == 5  # protocols
    assert "rows/s" not in second


def test_the_default_folder_is_named_after_study_and_content(call, config, tmp_path):
    expected = tmp_path / "work" / "runs" / f"toy-{content_hash(load(config, BAG))[:8]}"
    code, _, _ = call(*BAG)
    assert code == 0
    assert (expected / "clients.parquet").exists()
    shutil.rmtree(tmp_path / "work" / "runs")


def test_a_dry_run_says_what_would_run_and_writes_nothing(call, config, tmp_path):
    out = tmp_path / "out"
    code, said, _ = call("--dry-run", "grid.num_clients=[3, 5]", "lanes=2", "min_participant_rows=2", "--out", out)
    assert code == 0
    assert not out.exists()
    assert "program 1 of 1: 2 cells, textcnn on toy (60 train and 24 test rows), 3 rounds" in said
    assert "cell num_clients=5: 5 clients of 0 to 20 train rows; 2 take no part, 1 of them empty" in said
    assert re.search(r"cell num_clients=3: 3 clients of \d+ to \d+ train rows\n", said)
    assert re.search(r"memory, estimated: [\d.]+ GiB = [\d.]+ \+ [\d.]+ a lane", said)
    assert "shared by the cells: one compiled program, tokens\n" in said
    # Batch 8, two epochs, ragged batches dropped: a client of n rows takes 2 * max(1, n // 8) steps.
    [program] = prepare(cells(load(config, ("grid.num_clients=[3, 5]",))), tmp_path / "cache")
    sizes = [len(rows) for clients in program.clients for rows in clients.train if len(rows) >= 2]
    steps = sum(2 * max(1, size // 8) for size in sizes)
    assert f"a round: {len(sizes)} jobs, {steps} steps of 8 rows on 2 lanes, " in said


def test_programs_are_told_apart(call):
    code, said, _ = call("--dry-run", "grid.model=[bag, textcnn]")
    assert code == 0
    assert "program 1 of 2: 1 cell, bag on toy" in said
    assert "program 2 of 2: 1 cell, textcnn on toy" in said
    assert "rows on 1 lane, 0.0% of the computed steps wasted" in said  # on a CPU


def test_a_module_in_the_working_directory_is_found(call, monkeypatch):
    """As the installed command starts, the working directory is on no path."""
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = Path("yours.py").absolute()
    path.write_text("from fedjax_paradox.federated.rules import uniform as plain\n")
    code, said, complained = call("--dry-run", "rule=yours:plain")
    path.unlink()
    assert code == 0, complained
    assert "program 1 of 1" in said


# Bad input: code 2, a reason, nothing written

REFUSED = {
    "unknown key": (["local.lerning_rate=0.1"], ["unknown key", "lerning_rate", "did you mean", "learning_rate"]),
    "alpha is zero": (["alpha=0"], ["alpha", "greater than 0", "0"]),
    "alpha is negative": (["alpha=-0.5"], ["alpha", "greater than 0", "-0.5"]),
    "alpha underflows": (["alpha=1e-300"], ["alpha=1e-300", "too small", "use alpha >="]),
    "clients exceed rows": (["num_clients=61"], ["num_clients", "61", "1..60", "fewer clients or more rows"]),
    "unknown model": (["model=textcn"], ["model", "'textcn'", "one of textcnn, distilbert"]),
    "unknown rule": (["rule=fedavgg"], ["unknown rule 'fedavgg'", "did you mean 'fedavg'?", "module:function"]),
    "rule lacks its number": (["rule=fedavgw"], ["rule 'fedavgw' takes ['beta'], got []", "fedavgw(beta=0.5)"]),
    "rule has another number": (["rule=fedavgw(bta=1.0)"], ["takes ['beta'], got ['bta']", "fedavgw(beta=0.5)"]),
    "rule takes no number": (["rule=fedavg(beta=1.0)"], ["takes no numbers, got ['beta']", "write it as fedavg"]),
    "unknown protocol": (["protocols=[globl]"], ["protocols", "'globl'", "'global'"]),
    "unknown objective": (["local.objective=fedprx"], ["local.objective", "'fedprx'", "'fedprox'"]),
    "unknown partition": (["partition.kind=dirichlt"], ["partition.kind", "'dirichlt'", "'dirichlet'"]),
    "no such module": (
        ["rule=no_such:f"],
        ["'no_such:f' cannot be imported", "No module", "PYTHONPATH"],
    ),
    "no such function": (
        ["local.objective=mine:f"],
        ["local.objective 'mine:f' cannot", "attribute 'f'"],
    ),
    "no function": (["partition.kind=mine:NOT_A_FUNCTION"], ["partition.kind", "must be module:function"]),
    "holdout without rows": (
        ["partition.holdout_fraction=0"],
        ["partition.holdout_fraction above 0", "set it to 0.1"],
    ),
    "nobody takes part": (
        ["min_participant_rows=50"],
        ["min_participant_rows=50", "largest has 20", "lower it"],
    ),
    "minimum too high": (
        ["partition.min_client_rows=13"],
        ["min_client_rows=13", "65", "use at most 12"],
    ),
    "filter too wide": (["models.textcnn.widths=[2, 9]"], ["widths", "got 9", "max_length=8", "lower"]),
    "vocabulary too small": (["models.textcnn.vocabulary_size=2"], ["vocabulary", "2", "use 3 or more"]),
    "repeated cell": (["grid.alpha=[0.1, 0.1]"], ["'alpha=0.1'", "are the same run", "remove"]),
    "too many rows": (["corpus.train_rows=61"], ["corpus.train_rows", "1..60", "61"]),
    "label outside": (["corpus.classes=[apple, car]"], ["label outside the classes", "'sea'", "corpus.classes"]),
    "class without rows": (["corpus.classes=[apple, car, sea, sky]"], ["class with no rows", "sky"]),
    "missing text column": (["corpus.text_column=body"], ["no column 'body'", "corpus.text_column", "label"]),
    "missing label column": (["corpus.label_column=topic"], ["no column 'topic'", "corpus.label_column"]),
    "no such file": (["corpus.files.train=nowhere.csv"], ["no such file: nowhere.csv", "corpus.files.train"]),
    "one file of two": (["corpus.files.test=null"], ["corpus.files.train", "corpus.files.test"]),
    "not key=value": (["rounds"], ["key=value", "'rounds'"]),
}


def refusal(answer, words):
    """The message of a run that was refused, checked to hold `words` and no traceback."""
    code, said, complained = answer
    assert code == 2, said + complained
    assert complained.count("error: ") == 1
    message = complained[complained.index("error: ") :]
    for word in words:
        assert word in message
    assert "Traceback" not in complained
    return message


@pytest.mark.parametrize(("overrides", "words"), REFUSED.values(), ids=REFUSED)
def test_a_mistake_in_the_config_is_explained_and_leaves_nothing(call, tmp_path, overrides, words):
    refusal(call(*overrides, "--out", tmp_path / "out"), words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ["empty file", "train.csv", "needs rows"]),
        (b"text,label\n", ["train.csv", "rows"]),
        (b"text,label\nred tree,apple\n  ,car\n", ["empty text", "train.csv", "row(s)", "2", "remove the rows"]),
        (b"text,label\nred tree,apple\nfast car,\n", ["label missing", "2"]),
        (b"text,label\nred tree,apple\ncaf\xe9,car\n", ["UTF-8", "train.csv, line 3", "iconv"]),
        (b"text,label\nred tree,apple\ngreen tree,apple\n", ["two classes or more", "apple"]),
        (b"text,label\nred tree,0\nfast road,2\n", ["0..C-1", "0, 2", "corpus.classes=[0, 2]"]),
        (b"text,label\n1234,apple\n5678,car\n", ["must be strings", "'text'", "corpus.text_column"]),
    ],
    ids=["empty", "header only", "empty text", "no label", "latin-1", "one class", "gap", "numbers"],
)
def test_a_bad_corpus_is_explained_and_leaves_nothing(call, tmp_path, content, words):
    path = tmp_path / "train.csv"
    path.write_bytes(content)
    refusal(call(f"corpus.files.train={path}", "num_clients=1", "--out", tmp_path / "out"), words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (None, ["cannot read", "study.yaml"]),
        ("name: [", ["study.yaml is not valid YAML"]),
        ("alpha: 0.1\n", ["name", "required"]),
        ("name: a\nname: b\n", ["'name'", "twice"]),
        ("- name\n", ["key: value"]),
    ],
    ids=["missing", "not YAML", "no name", "twice", "list"],
)
def test_a_bad_file_is_explained(call, tmp_path, text, words):
    path = tmp_path / "study.yaml"
    if text is not None:
        path.write_text(text)
    refusal(call("--out", tmp_path / "out", config=path), words)
    assert not (tmp_path / "out").exists()


# --out


def test_the_folder_of_another_experiment_is_left_alone(call, copy):
    before = toy.contents(copy)
    words = ["holds another run under the name 'single'", "alpha was 0.1, is 0.5", str(copy), "choose another --out"]
    refusal(call(*BAG, "alpha=0.5", "--out", copy), words)
    assert toy.contents(copy) == before


def test_changed_rows_under_the_same_config_are_noticed(call, config, tmp_path):
    changed = tmp_path / "train.csv"
    changed.write_text((config.parent / "train.csv").read_text().replace("wave", "tide"))
    overrides = (*BAG, f"corpus.files.train={changed}")
    out = tmp_path / "out"
    assert call(*overrides, "--out", out)[0] == 0
    before = toy.contents(out)
    digests = [program.inputs["corpus"] for program in toy.study(config, *overrides)[1]]
    changed.write_text(changed.read_text().replace("fish", "crab"))
    digests += [program.inputs["corpus"] for program in toy.study(config, *overrides)[1]]
    assert len(set(digests)) == 2
    refusal(call(*overrides, "--out", out), [*(digest[:50] for digest in digests), str(out), "corpus was"])
    assert toy.contents(out) == before


def test_other_files_are_left_alone(call, tmp_path):
    out = tmp_path / "thesis"
    out.mkdir()
    (out / "thesis.tex").write_text("years of work")
    refusal(call(*BAG, "--out", out), [str(out), "thesis.tex", "choose another"])
    assert toy.contents(out) == {"thesis.tex": b"years of work"}


def test_a_path_below_a_file_is_refused(call, tmp_path):
    (tmp_path / "file").write_text("x")
    refusal(call(*BAG, "--out", tmp_path / "file" / "out"), [str(tmp_path / "file" / "out"), "cannot be written"])


def test_a_second_run_into_the_same_folder_is_refused(call, copy):
    with folder.claim(copy):
        before = toy.contents(copy)
        refusal(call(*BAG, "--out", copy), [str(copy), "in use by a run that has not ended"])
        assert toy.contents(copy) == before
    assert call(*BAG, "--out", copy)[0] == 0


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("clients.parquet", ["clients.parquet is not a readable results table", "restore it"]),
        ("cells.parquet", ["cells.parquet is not a readable results table", "restore it"]),
    ],
)
def test_a_damaged_folder_is_explained_and_left_alone(call, copy, file, words):
    path = copy / file
    path.write_bytes(path.read_bytes()[:50])
    before = toy.contents(copy)
    refusal(call(*BAG, "--out", copy), [*words, str(copy)])
    assert toy.contents(copy) == before


def test_a_damaged_checkpoint_is_named_and_the_round_before_taken(call, copy, finished, caplog):
    newest = toy.checkpoints(copy) / "2"
    (newest / "state" / "_METADATA").write_bytes(b"")
    code, said, _ = call(*BAG, "--out", copy)
    assert code == 0
    assert f"checkpoint {newest} is damaged" in caplog.text
    assert f"moved to {copy / 'damaged'}" in caplog.text
    assert "going on after round 1" in said
    assert results.read(copy).equals(results.read(finished))


def test_a_sweep_with_a_diverging_cell_ends_with_code_3_and_a_line(call, tmp_path):
    study = ("model=bag", "local.weight_decay=101.0", "grid.local.learning_rate=[0.01, 1.0]", "rounds=9")
    code, said, complained = call(*study, "--out", tmp_path / "out")
    assert code == 3, complained
    found = re.search(
        r"cell local.learning_rate=1.0 diverged in round (\d): the loss or a weight of client \d is", said
    )
    round_ = int(found[1])
    told = f"1 cell of 2 diverged (local.learning_rate=1.0 in round {round_}) and kept the rounds before; --retry-div"
    assert told in said.splitlines()[-1]
    assert re.search(rf"│ local.learning_rate=1.0,\s+│ train_rows .*\n│ diverged in round {round_}\s+│", said)
    code, again, _ = call(*study, "--out", tmp_path / "out")
    assert code == 3
    assert told in again
    assert "rows/s" not in again
    code, retried, _ = call(*study, "--out", tmp_path / "out", "--retry-diverged")
    assert code == 3
    assert f"program 1/1, round {round_}/9: cell local.learning_rate=1.0 diverged" in retried


def test_a_sweep_of_which_every_cell_diverges_at_once_has_an_end(call, tmp_path):
    study = ("model=bag", "local.objective=mine:frozen_head", "local.learning_rate=1e12", "rounds=2")
    code, said, complained = call(*study, "--out", tmp_path / "out")
    assert code == 3, complained
    assert "single, diverged in round 1" in said
    assert "1 cell of 1 diverged (single in round 1)" in said.splitlines()[-1]


# The numbers on the screen


def hand_made():
    """Two cells and two rounds; client 2 of each has no train rows, so that it does not count."""
    made = {
        ("b", 1): [(0, 5), (5, 5), (5, 5)],
        ("a", 1): [(1, 4), (2, 4), (0, 4)],
        ("b", 2): [(4, 8), (7, 8), (0, 8)],
        ("a", 2): [(3, 4), (1, 4), (4, 4)],
    }
    facts = {"corpus": "toy", "model": "m", "rule": "fedavg", "alpha": 0.1, "num_clients": 3, "partition_seed": 1}
    tables = []
    for (cell, round_), pairs in made.items():
        correct, total = np.array(pairs).T
        counts = {"train_rows": (correct.astype(float), total * [1, 1, 0]), "global": (correct + 0.5, total)}
        tables.append(results.records({**facts, "cell": cell, "seed": 1, "round": round_}, np.array([9, 1, 0]), counts))
    return pa.concat_tables(tables), made


def test_the_closing_table_shows_what_fairness_computes():
    table, made = hand_made()
    screen = io.StringIO()
    Console(file=screen, width=150).print(display.accuracies(table, [Entry(name, "", "", "") for name in ("b", "a")]))
    rows = [[part.strip() for part in line.split("│")[1:-1]] for line in screen.getvalue().splitlines() if "│" in line]
    expected = []
    for cell in ("b", "a"):
        correct, total = np.array(made[cell, 2])[:2].T
        for protocol, more in (("train_rows", 0.0), ("global", 0.5)):
            found = summarise(correct + more, total)
            first = protocol == "train_rows"
            numbers = [f"{100 * x:.1f}" for x in (found.average, found.worst, found.gap)]
            expected.append([cell * first, protocol, *numbers, str(found.worst_client)])
    assert rows == expected
    assert rows[0][2:] == ["68.8", "50.0", "18.8", "0"]  # (4/8 + 7/8) / 2, by hand


def test_the_headline_is_of_the_first_protocol_over_all_cells():
    table, _ = hand_made()
    last = table.filter(pa.compute.equal(table["round"], 2))
    # Cell b: 50.0 and 87.5; cell a: 75.0 and 25.0.
    assert display.headline(last) == "train_rows avg 59.4, worst 25.0"


def test_progress_counts_rows_and_the_time_left(monkeypatch):
    """Two programs of 2 rounds; a row of the second costs three times as much, and it is scored at the end alone."""
    now = [100.0]
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now[0]))
    programs = [SimpleNamespace(cells=[SimpleNamespace(rounds=2, evaluate_every=every)]) for every in (1, 2)]
    costs = [SimpleNamespace(train_flops=3 * flops, predict_flops=flops, rows=40, predicted=30) for flops in (1.0, 3.0)]
    table, _ = hand_made()
    screen, said = io.StringIO(), []
    # A round costs flops * 3 * 40, and its scores flops * 30: 150 and 150, 360 and 450.
    with display.progress(Console(file=screen, width=150), programs, costs, said.append) as notify:
        notify(Started(0, 1))  # one round is found finished, 150 + 360 + 450 are left
        notify(Trained(0, 2, 0))  # compiled
        now[0] += 10.0
        notify(Trained(0, 2, 40))
        notify(Finished(0, 2, table, 20.0, {}, 0.02, 0.04, table))
        notify(Started(1, 0))
        notify(Trained(1, 1, 0))
        now[0] += 41.0
        notify(Trained(1, 1, 30))
        notify(Trained(1, 1, 10))
        notify(Finished(1, 1, table, 10.0, {}, 0.0, 0.0, table))
    first, second = screen.getvalue().splitlines()
    assert said == [first, second]
    # 150 of 960 took 10 s, so 810 take 54 s; then 510 took 51 s, so 450 take 45 s.
    assert first.startswith("program 1/2, round 2/2: 2 rows/s, 2.0% wasted, 4% padding, 0:54 left; train_rows avg")
    assert second.startswith("program 2/2, round 1/2: 4 rows/s, 0.0% wasted, 0% padding, 0:45 left; train_rows avg")


def test_a_log_hears_of_a_long_round_every_minute(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(display, "time", SimpleNamespace(monotonic=lambda: now[0]))
    program = SimpleNamespace(cells=[SimpleNamespace(rounds=1, evaluate_every=1)])
    screen, said = io.StringIO(), []
    costs = [SimpleNamespace(train_flops=3.0, predict_flops=1.0, rows=4000, predicted=30)]
    with display.progress(Console(file=screen, width=150), [program], costs, said.append) as notify:
        for _ in range(10):
            now[0] += 25.0
            notify(Trained(0, 1, 400))
    expected = [f"program 1/1, round 1/1: {rows} of 4,000 rows trained" for rows in ("1,200", "2,400", "3,600")]
    assert screen.getvalue().splitlines() == expected
    assert said == []  # run.log has the rounds


def command(capfd, monkeypatch, *arguments):
    """(exit code, standard output, standard error) of `fedjax-paradox ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["fedjax-paradox", *map(str, arguments)])
    monkeypatch.setattr(sys, "path", [*sys.path])
    capfd.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    return ended.value.code or 0, *capfd.readouterr()


def test_the_output_folder_is_said_first_and_the_log_keeps_what_was_said(call, tmp_path):
    out = tmp_path / "out"
    _, first, _ = call(*BAG, "--out", out)
    assert first.splitlines()[0] == f"Output: {out}"
    call("model=bag", "rounds=3", "--out", out)
    lines = [line.partition(" ")[2] for line in (out / "run.log").read_text().splitlines()]
    started = [line for line in lines if line.startswith("started: ")]
    assert [line.endswith(f"--out {out}") for line in started] == [True, True]
    assert lines.count("ended") == 2
    rounds = [line.split(":")[0] for line in lines if "rows/s" in line]
    assert rounds == [f"program 1/1, round {number}/{of}" for number, of in ((1, 2), (2, 2), (3, 3))]
    assert all(line in lines for line in first.splitlines() if "rows/s" in line)


def test_ctrl_c_says_where_it_stopped_and_the_same_command_goes_on(call, tmp_path, monkeypatch):
    from fedjax_paradox.sweep import run as loop

    def interrupting(study, notify):
        def until_the_first_round(event):
            notify(event)
            if isinstance(event, Finished):
                raise KeyboardInterrupt

        return train(study, until_the_first_round)

    train, out = loop.train, tmp_path / "out"
    monkeypatch.setattr(loop, "train", interrupting)
    code, said, _ = call(*BAG, "--out", out)
    monkeypatch.undo()
    assert code == 130
    assert said.splitlines()[-1] == "stopped after round 1; the same command goes on from there"
    assert (out / "run.log").read_text().splitlines()[-1].partition(" ")[2].startswith("stopped")


def test_runs_are_listed_and_shown(call, tmp_path, capfd, monkeypatch):
    _, table, _ = call(*BAG, "--out", tmp_path / "runs" / "one")
    code, listed, _ = command(capfd, monkeypatch, "list", tmp_path / "runs", "--json")
    (run,) = json.loads(listed)
    expected = {
        "folder": str(tmp_path / "runs" / "one"),
        "name": "toy",
        "status": "finished",
        "cells": 1,
        "finished": 1,
    }
    assert code == 0
    assert {name: run[name] for name in expected} == expected
    assert run["rounds"] == "2/2"
    _, shown, _ = command(capfd, monkeypatch, "list", tmp_path / "runs")
    assert all(word in shown for word in ("one", "toy", "finished", "2/2"))
    assert str(tmp_path / "runs" / "one") not in shown  # the title says below what
    _, again, _ = command(capfd, monkeypatch, "show", tmp_path / "runs" / "one")
    assert again.splitlines() == table.splitlines()[-len(again.splitlines()) - 1 : -1]  # but for the last line
    _, records, _ = command(capfd, monkeypatch, "show", tmp_path / "runs" / "one", "--json")
    rows = {row["protocol"]: row for row in json.loads(records)}
    stored = results.read(tmp_path / "runs" / "one").to_pandas().query("round == 2 and protocol == 'label_matched'")
    stored = stored[stored["total"] > 0]
    assert rows["label_matched"]["worst"] == (stored["correct"] / stored["total"]).min()


def test_a_folder_without_runs_is_told(tmp_path, capfd, monkeypatch):
    code, _, error = command(capfd, monkeypatch, "list", tmp_path)
    assert (code, error.splitlines()[0]) == (
        2,
        f"error: no run lies in {tmp_path}; name the folder that `fedjax-paradox run` wrote to",
    )
