"""What a report reads, and what it says: folders, tables, figures, against the table and `fairness.summarise`."""

import itertools
import json
import os
import shutil
import subprocess
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import synthetic
from matplotlib.text import Text

from fedjax_paradox.analysis.folders import labelled, read_folders
from fedjax_paradox.analysis.runs import measures, pick
from fedjax_paradox.config import cells, load
from fedjax_paradox.errors import InputError
from fedjax_paradox.evaluation.fairness import summarise
from fedjax_paradox.report import drawing, markup, outline, tables
from fedjax_paradox.report.content import gather
from fedjax_paradox.report.findings import audit_folders, fixed
from fedjax_paradox.report.tables import REFERENCES, Table
from fedjax_paradox.storage import cells as stored
from fedjax_paradox.storage import results
from fedjax_paradox.sweep.audits import audit


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    synthetic.write_corpus(folder)
    return folder


@pytest.fixture(scope="module")
def full(place, tmp_path_factory):
    return synthetic.write_run(place, tmp_path_factory.mktemp("runs") / "full")


@pytest.fixture(scope="module")
def content(full, place):
    return gather([full], None, place / "cache")


@pytest.fixture
def copy(full, tmp_path):
    return shutil.copytree(full, tmp_path / "copy")


def drawn(content, name):
    return next(picture for picture in content.pictures if picture.name == name)


def small(place, out, *overrides, **more):
    """One cell, unless an override sweeps."""
    fixed = ("grid.model=null", "grid.alpha=null", "grid.rule=null", "grid.partition_seed=null", "rounds=2")
    return synthetic.write_run(place, out, *fixed, *overrides, **more)


# Folders


def test_a_folder_is_read_as_it_was_written(full):
    reading = read_folders([full, full])
    assert reading.left_out == reading.notes == []
    assert len(reading.folders) == 1
    key = [(name, "ascending") for name in ("cell", "round", "protocol", "client")]
    assert reading.table.sort_by(key).equals(results.read(full).sort_by(key))
    assert labelled(reading).equals(reading.table)  # nothing varies that has no column


def test_folders_of_other_seeds_are_merged(place, full, tmp_path):
    more = synthetic.write_run(place, tmp_path / "more", "grid.partition_seed=[7]")
    table = labelled(read_folders([full, more]))
    assert table.num_rows == results.read(full).num_rows + results.read(more).num_rows
    rows = tables.summarised(pick(measures(table), "last"))
    assert {row.estimates["gap"].runs for row in rows} == {4}


def test_settings_without_a_column_are_not_averaged_together(place, tmp_path):
    one = small(place, tmp_path / "one", "partition_seed=1")
    two = small(place, tmp_path / "two", "partition_seed=2", "local.objective=fedprox", "local.mu=0.01")
    reading = read_folders([one, two])
    rules = set(labelled(reading)["rule"].to_pylist())
    assert rules == {"fedavg", "fedavg, local.objective=fedprox, local.mu=0.01"}  # defaults are not named
    assert set(reading.table["rule"].to_pylist()) == {"fedavg"}
    assert len(set(reading.table["cell"].to_pylist())) == 2


def test_how_often_clients_are_scored_is_no_setting(place, tmp_path):
    runs = [small(place, tmp_path / "every", "partition_seed=1", "grid.rule=[fedavg, uniform]")]
    runs += [small(place, tmp_path / "second", "partition_seed=2", "grid.rule=[fedavg, uniform]", "evaluate_every=2")]
    labels = read_folders(runs).labels.values()
    assert {label["rule"] for label in labels} == {"fedavg", "uniform"}


def test_cells_of_one_name_stay_apart(place, tmp_path):
    reading = read_folders([small(place, tmp_path / f"{seed}", f"partition_seed={seed}") for seed in (1, 2)])
    assert sorted(reading.origin.values()) == [(0, "single"), (1, "single")]
    assert len(set(reading.table["cell"].to_pylist())) == 2


@pytest.mark.parametrize("swap", [False, True])
def test_the_same_run_twice_is_shown_once_and_longer(place, tmp_path, swap):
    short = small(place, tmp_path / "short", rounds=1)
    long = small(place, tmp_path / "long")
    reading = read_folders([long, short] if swap else [short, long])
    assert reading.table["round"].unique().to_pylist() == [1, 2]
    assert len(reading.notes) == 1
    assert "more rounds" in reading.notes[0]
    assert reading.origin.keys() == reading.labels.keys() == set(reading.table["cell"].to_pylist())


def test_an_unfinished_folder_says_how_far_it_is(place, tmp_path):
    reading = read_folders([synthetic.write_run(place, tmp_path / "half", rounds=3)])
    assert set(reading.folders[0].unfinished.values()) == {(3, 4)}


def test_a_cell_that_has_not_begun_is_at_round_0(copy):
    table = results.read(copy)
    first = table["cell"][0].as_py()
    results.write(copy, [table.filter(pa.array(table["cell"].to_numpy() != first))])
    assert read_folders([copy]).folders[0].unfinished == {first: (0, 4)}


def test_other_files_under_one_name_are_told(place, full, tmp_path):
    synthetic.write_corpus(tmp_path / "other")
    other = synthetic.write_run(tmp_path / "other", tmp_path / "run", "grid.partition_seed=[7]")
    notes = read_folders([full, other]).notes
    assert len(notes) == 1
    assert str(place) in notes[0]


def damage_parquet(folder):
    (folder / "clients.parquet").write_bytes(b"PAR1 and no more")


def drop_column(folder):
    pq.write_table(results.read(folder).drop_columns("train_rows"), folder / "clients.parquet")


def without_a_rule(folder):
    table = results.read(folder)
    place = table.schema.get_field_index("rule")
    return table.set_column(place, "rule", pa.array([None, *table["rule"].to_pylist()[1:]], pa.string()))


def rewrite(folder, name, change):
    table = results.read(folder)
    values = table[name].to_pylist()
    place = table.schema.get_field_index(name)
    results.write(
        folder, [table.set_column(place, results.SCHEMA.field(name), pa.array(change(values), table[name].type))]
    )


DAMAGE = {
    "no run": lambda folder: (folder / "experiment.json").unlink(),
    "no json": lambda folder: (folder / "experiment.json").write_text("{"),
    "no object": lambda folder: (folder / "experiment.json").write_text("[]"),
    "no config": lambda folder: (folder / "config.yaml").unlink(),
    "another config": lambda folder: (folder / "config.yaml").write_text("name: other\n"),
    "no table": lambda folder: (folder / "clients.parquet").unlink(),
    "damaged table": damage_parquet,
    "a column less": drop_column,
    "a value less": lambda folder: pq.write_table(without_a_rule(folder), folder / "clients.parquet"),
    "a client less": lambda folder: results.write(folder, [results.read(folder).slice(1)]),
    "a client twice": lambda folder: rewrite(folder, "client", lambda values: [values[1], *values[1:]]),
    "more than all": lambda folder: rewrite(folder, "correct", lambda values: [1e9, *values[1:]]),
    "not a number": lambda folder: rewrite(folder, "correct", lambda values: [float("nan"), *values[1:]]),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_a_damaged_folder_is_left_out_and_named(kind, copy, place, tmp_path):
    DAMAGE[kind](copy)
    with pytest.raises(InputError, match="no folder with results"):
        read_folders([copy])
    reading = read_folders([small(place, tmp_path / "good"), copy])
    assert "\\n" not in reading.left_out[0]
    assert len(reading.folders) == len(reading.left_out) == 1
    assert str(copy) in reading.left_out[0]


PAPER = Path(__file__).parent.parent / "experiments" / "paper" / "results" / "runs"


def test_folders_of_earlier_versions_are_read_as_before(place, tmp_path):
    run = small(place, tmp_path / "run", earlier=True)
    assert read_folders([run]).table.equals(results.read(run))
    reading = read_folders(sorted(PAPER.iterdir()))
    assert reading.left_out == []
    assert len(reading.folders) == len(list(PAPER.iterdir()))


def test_cells_that_the_config_no_longer_has_are_shown(place, tmp_path):
    run = small(place, tmp_path / "run", "grid.alpha=[0.1, 1.0]")
    other = small(place, tmp_path / "other", "grid.alpha=[1.0]")
    shutil.copy(other / "config.yaml", run)  # as the run of a smaller grid leaves it
    content = gather([run], None, place / "cache")
    assert {line[content.accuracy[0].columns.index("α")] for line in content.accuracy[0].rows} == {"0.1", "1"}
    assert content.runs[0].told == {"No longer in the config, with the settings that they had": ["alpha=0.1"]}
    assert dict(content.runs[0].facts)["alpha"] == "1, 0.1"
    assert content.no_audit == []


@pytest.mark.parametrize("name", ["experiment.json", "config.yaml", "cells.parquet"])
def test_no_flipped_bit_gives_other_facts(name, place, tmp_path):
    run = small(place, tmp_path / "run", "grid.alpha=[0.1, 1.0]")
    sound, good = read_folders([run]), (run / name).read_bytes()
    generator = np.random.default_rng(0)
    left_out = 0
    for place_, bit in zip(generator.integers(0, len(good), 60), generator.integers(0, 8, 60), strict=True):
        damaged = bytearray(good)
        damaged[place_] ^= 1 << bit
        (run / name).write_bytes(damaged)
        try:
            reading = read_folders([run])
        except InputError as error:
            left_out += str(run) in str(error)
        else:
            assert reading.table.equals(sound.table)
            assert reading.labels == sound.labels
            assert reading.folders[0]._replace(table=None) == sound.folders[0]._replace(table=None)
    assert left_out > 10


def relist(folder, change):
    stored.write(folder, change(list(stored.read(folder).values())))


CONTRADICTIONS = {
    "a cell that is not listed": lambda entries: entries[1:],
    "a cell listed twice": lambda entries: [*entries, entries[0]],
    "another cell's settings": lambda entries: [entries[0]._replace(settings=entries[1].settings), *entries[1:]],
    "no settings": lambda entries: [entries[0]._replace(settings="{}"), *entries[1:]],
    "more rounds than can be": lambda entries: [
        entries[0]._replace(settings=entries[0].settings.replace('"rounds":2', '"rounds":' + "9" * 30)),
        *entries[1:],
    ],
    "no such status": lambda entries: [entries[0]._replace(status="fine"), *entries[1:]],
    "rounds after its end": lambda entries: [
        entries[0]._replace(status="diverged", diverged_round=2),
        *entries[1:],
    ],
}


@pytest.mark.parametrize("kind", CONTRADICTIONS)
def test_a_list_of_cells_that_contradicts_the_rows_is_damage(kind, place, tmp_path):
    run = small(place, tmp_path / "run", "grid.alpha=[0.1, 1.0]")
    relist(run, CONTRADICTIONS[kind])
    with pytest.raises(InputError, match=r"cells\.parquet|clients\.parquet"):
        read_folders([run])


def test_rows_of_other_settings_than_their_cell_are_damage(place, tmp_path):
    run = small(place, tmp_path / "run")
    rewrite(run, "rule", lambda values: ["fedavgw(beta=0.5)"] * len(values))
    with pytest.raises(InputError, match="the rule of the cell 'single' is not that of its settings"):
        read_folders([run])


def test_a_lost_list_of_cells_is_named(place, tmp_path):
    run = small(place, tmp_path / "run")
    (run / "cells.parquet").unlink()
    with pytest.raises(InputError, match=r"has lost its cells\.parquet"):
        read_folders([run])


@pytest.mark.parametrize("name", ["experiment.json", "config.yaml", "cells.parquet", "clients.parquet"])
def test_a_pipe_in_a_folder_is_not_waited_for(name, place, tmp_path):
    run = small(place, tmp_path / "run")
    (run / name).unlink()
    os.mkfifo(run / name)
    with pytest.raises(InputError, match=str(run)):
        read_folders([run])


def test_a_config_that_is_a_link_is_not_quoted(place, tmp_path):
    run = small(place, tmp_path / "run", earlier=True)
    (tmp_path / "secret").write_text("hunter2", encoding="utf-8")
    (run / "config.yaml").unlink()
    (run / "config.yaml").symlink_to(tmp_path / "secret")
    with pytest.raises(InputError, match="no regular file") as error:
        read_folders([run])
    assert "hunter2" not in str(error.value)


def test_text_that_is_not_utf_8_is_damage(place, tmp_path):
    run = small(place, tmp_path / "run", earlier=True)
    table = results.read(run)
    bad = pa.array([b"\xff"] * table.num_rows, pa.binary()).view(pa.string())
    pq.write_table(table.set_column(table.schema.get_field_index("model"), "model", bad), run / "clients.parquet")
    with pytest.raises(InputError, match="UTF-8"):
        read_folders([run])


# Runs that diverged, and cells that are one run


@pytest.fixture(scope="module")
def eventful(place, tmp_path_factory):
    """Two rules that are one run, on six partitions; the fifth partition's runs diverge, the sixth's at once."""
    out = tmp_path_factory.mktemp("runs") / "eventful"
    rules, seeds = ("fedavg", "fedavgw(beta=0.5)"), (1, 2, 3, 4, 5, 6)
    name = "rule={},partition_seed={}".format
    ends = {5: (3, 2), 6: (1, 7)}
    return synthetic.write_run(
        place,
        out,
        *("grid.model=null", "grid.alpha=null", f"grid.partition_seed={list(seeds)}"),
        diverged={name(rule, seed): end for rule in rules for seed, end in ends.items()},
        same={name(rules[1], seed): name(rules[0], seed) for seed in seeds},
    )


@pytest.fixture(scope="module")
def events(eventful, place):
    return gather([eventful], None, place / "cache")


def test_a_diverged_run_is_told_and_counted(events):
    table = next(table for table in events.accuracy if table.name == "accuracy-label-matched")
    for line in table.rows:
        told = dict(zip(table.columns, line, strict=True))
        assert told["runs"] == "6 (2 diverged, 1 without a number)"
        assert told["round"] == "2 to 4"
        assert told["gap"] == tables.NONE
    assert any("last finite round" in note for note in table.notes)
    assert any("1 of 6 runs have no accuracy" in note for note in table.notes)
    assert any("diverged" in line for line in events.methods)
    told = events.runs[0].told
    assert "Unfinished, shown as far as they are" not in told
    assert len(told["Diverged"]) == 4
    assert any(
        line.startswith("rule=fedavg,partition_seed=5: status diverged, in round 3") for line in told["Diverged"]
    )
    assert all("client 2" in line or "client 7" in line for line in told["Diverged"])


def test_every_run_says_how_it_ended(events):
    table = events.every_run
    found = {}
    for line in table.rows:
        told = dict(zip(table.columns, line, strict=True))
        if told["cell"].startswith("rule=fedavg,") and told["protocol"] == "global":
            found[told["partition seed"]] = (told["round"], told["status"], told["avg"] == tables.NONE)
    assert found.pop("5") == ("2", "diverged in round 3 (client 2)", False)
    assert found.pop("6") == ("0", "diverged in round 1 (client 7)", True)
    assert set(found.values()) == {("4", "", False)}


def test_means_have_the_diverged_run_at_its_last_finite_round(place, tmp_path):
    grid = ("grid.partition_seed=[1, 2, 3]", "rounds=4")
    run = small(place, tmp_path / "run", *grid, diverged={"partition_seed=2": (3, 0)})
    content = gather([run], None, place / "cache", "round 4")
    table = next(table for table in content.accuracy if table.name == "accuracy-label-matched")
    gaps = []
    for seed, last in ((1, 4), (2, 2), (3, 4)):
        rows = [r for r in results.read(run).to_pylist() if r["partition_seed"] == seed and r["round"] == last]
        own = [r["correct"] / r["total"] for r in rows if r["protocol"] == "label_matched" and r["train_rows"]]
        gaps.append(np.mean(own) - min(own))
    told = dict(zip(table.columns, table.rows[0], strict=True))
    assert told["gap"].split(" ")[0] == f"{100 * np.mean(gaps):.1f}"
    assert told["runs"] == "3 (1 diverged)"
    picture = drawn(content, "learning-curves")
    assert "runs: 1 of 3 diverged" in picture.caption
    (axis,) = picture.figure.axes
    assert all(list(line.get_xdata()) == [1, 2, 3, 4] for line in axis.lines)  # the one that diverged goes on
    flat = [line.get_ydata() for line in axis.lines if len(set(line.get_ydata()[1:])) == 1]
    assert len(flat) == 1  # with its last finite value


def test_a_folder_in_which_everything_diverged_at_once(place, tmp_path):
    gone = small(place, tmp_path / "gone", "partition_seed=2", diverged={"single": (1, -1)})
    with pytest.raises(InputError, match="every cell diverged in round 1"):
        read_folders([gone])
    content = gather([small(place, tmp_path / "good", "partition_seed=1"), gone], None, place / "cache")
    table = content.accuracy[0]
    assert [line[table.columns.index("runs")] for line in table.rows] == ["2 (1 diverged, 1 without a number)"]
    assert "the rule's result was not finite" in content.runs[1].told["Diverged"][0]


def test_no_cell_but_the_first_kind_has_a_figure_without_numbers(place, tmp_path):
    """The commonest rule has no number at all: what shows single clients is left out, the rest is drawn."""
    run = small(
        place,
        tmp_path / "run",
        *("grid.partition_seed=[1, 2]", "grid.rule=[fedavg, fedavgw(beta=0.5)]"),
        diverged={f"rule=fedavg,partition_seed={seed}": (1, 0) for seed in (1, 2)},
    )
    pictures = gather([run], None, place / "cache").pictures
    (picture,) = pictures
    assert picture.name == "methods"
    assert "fedavg without a number" in picture.alt
    assert "2 of 4 runs diverged and count with their last finite round" in picture.caption
    assert "nan" not in " ".join(picture.alt for picture in pictures)
    assert all(drawing.save(picture.figure)["svg"] for picture in pictures)


def test_cells_that_are_one_run_are_said_to_be(events):
    sentence = next(note for note in events.notes if "by construction" in note)
    assert sentence.startswith(
        "textcnn, fedavgw(beta=0.5) is the same run as textcnn, fedavg by construction (6 cells)"
    )
    short = "The same run by construction, trained once: textcnn, fedavgw(beta=0.5) and textcnn, fedavg."
    assert all(short in table.notes for table in events.accuracy)
    same = events.runs[0].told["The same run by construction, trained once"]
    assert "rule=fedavgw(beta=0.5),partition_seed=1 is rule=fedavg,partition_seed=1" in same
    column = events.accuracy[0].columns.index("rule")
    lines = {line[column]: [*line[:column], *line[column + 1 :]] for line in events.accuracy[0].rows}
    assert lines["fedavg"] == lines["fedavgw(beta=0.5)"]


def test_a_claim_on_two_names_of_one_run(eventful, place, tmp_path):
    side = "{where: {rule: %s}, protocol: label_matched, round: 4, published: {gap: 1}}"
    sides = f"a: {side % 'fedavgw(beta=0.5)'}, b: {side % 'fedavg'}"
    (tmp_path / "claims.yaml").write_text(f"- {{id: one, text: t, source: s, where: {{}}, round: 4, {sides}}}")
    content = gather([eventful], tmp_path / "claims.yaml", place / "cache")
    (claim,) = content.claims
    for line in content.verdicts[1].rows:  # no 0.0 as if it had been measured
        told = dict(zip(content.verdicts[1].columns, line, strict=True))
        assert told["a − b"] == "equal"
        assert told["verdict"].startswith("false by construction (a: 2 of 6 diverged, 1 of them in round 1")
    assert claim.verdict == "false by construction"
    assert any("both sides are one run" in reason for reason in claim.reasons)


# What a report calls things


def test_files_without_a_name_are_not_the_built_in_corpus(place, tmp_path):
    run = small(place, tmp_path / "run", "corpus.name=docstrings")  # the default
    rewrite(run, "corpus", lambda values: [f"{place.name}/train.csv"] * len(values))  # as a run names it
    gone = small(place, tmp_path / "gone", "corpus.name=docstrings", "partition_seed=1", diverged={"single": (1, 0)})
    content = gather([run, gone], None, place / "cache")
    assert [dict(one.facts)["corpus"] for one in content.runs] == [f"{place.name}/train.csv"] * 2
    assert {line[0] for line in content.accuracy[0].rows} == {"textcnn"}  # one corpus, so that no column names it
    told = [content.title, *(note for note in content.notes), *(p.caption for p in content.pictures)]
    assert "docstrings" not in " ".join(told)


def test_a_caption_gives_each_model_its_own_last_round(place, tmp_path):
    one = small(place, tmp_path / "one", "model=textcnn")
    two = small(place, tmp_path / "two", "model=distilbert", rounds=1)
    for picture in gather([one, two], None, place / "cache").pictures:
        if picture.name == "worst-clients":
            assert "textcnn after round 2" in picture.caption
            assert "distilbert after round 1" in picture.caption


def test_a_folder_that_is_not_there_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="is no output folder"):
        read_folders([tmp_path / "nowhere"])


# Tables


def test_the_numbers_are_those_of_summarise(full, content):
    """Tables against a sum over rows that shares no code with `statistics`; equal to the last digit shown."""
    rows = results.read(full).to_pylist()
    last = max(row["round"] for row in rows)
    runs: dict[tuple, list] = {}
    for row in rows:
        if row["round"] == last and row["train_rows"] > 0:
            key = (row["protocol"], row["model"], row["rule"], row["alpha"], row["partition_seed"])
            runs.setdefault(key, []).append((row["correct"], row["total"], row["train_rows"]))
    wanted: dict[tuple, list] = {}
    for key, clients in runs.items():
        correct, total, trained = np.array(clients).T
        large = np.minimum(total, trained) >= 30
        every, floored = summarise(correct, total), summarise(correct[large], total[large])
        wanted.setdefault(key[:-1], []).append((every.average, every.worst, floored.gap, every.gap))
    shown = {}
    for table in content.accuracy:
        protocol = table.caption.split(" under ")[1].split(" after ")[0]
        for line in table.rows:
            told = dict(zip(table.columns, line, strict=True))
            numbers = [told[name].split(" ")[0].rstrip("*") for name in tables.MEASURES.values()]
            shown[protocol, told["model"], told["rule"], float(told["α"])] = (told["runs"], *numbers)
    expected = {
        key: (
            str(len(found)),
            *(f"{100 * mean:.1f}" if mean == mean else tables.NONE for mean in np.mean(found, axis=0)),
        )
        for key, found in wanted.items()
    }
    assert shown == expected


def test_a_gap_that_is_zero_by_construction_is_marked(content):
    table = next(table for table in content.accuracy if table.name == "accuracy-global")
    assert {line[-1] for line in table.rows} == {"0.0 [0.0, 0.0]*"}
    assert "whatever the model" in table.notes[0]
    matched = next(table for table in content.accuracy if table.name == "accuracy-label-matched")
    assert not any("*" in line[-1] for line in matched.rows)


def test_what_the_partition_fixes_is_found_in_the_numbers_of_rows_too(full, place):
    """Where the corpus is gone, as where it is there; what was right does not matter, all being wrong included."""
    reading = read_folders([full])
    audited = fixed(reading, audit_folders(reading, place / "cache").by_cell)
    alike = {cell: names - {"label_matched"} for cell, names in audited.items()}
    assert {frozenset(names) for names in alike.values()} == {
        frozenset({"global"}),
        frozenset({"global", "label_filtered"}),
    }
    assert fixed(reading, {}) == alike
    wrong = reading.table.set_column(
        reading.table.schema.get_field_index("correct"), "correct", pa.array(np.zeros(reading.table.num_rows))
    )
    assert fixed(reading._replace(table=wrong), {}) == alike


@pytest.mark.parametrize("rule", ["local_only", "nobody:knows", "of_another_version"])
def test_nothing_is_fixed_where_clients_may_have_models_of_their_own(full, place, rule):
    reading = read_folders([full])
    audits = audit_folders(reading, place / "cache").by_cell
    (folder,) = reading.folders
    cells = [cell.model_copy(update={"rule": rule}) for cell in folder.cells]
    assert fixed(reading._replace(folders=[folder._replace(cells=cells)]), audits) == {}


def test_one_partition_gives_a_point_and_the_reason_for_no_interval(place, tmp_path):
    content = gather([small(place, tmp_path / "one")], None, place / "cache")
    table = content.accuracy[0]
    assert all("[" not in entry for line in table.rows for entry in line)
    assert "one partition seed" in " ".join(table.notes)


def test_another_round_is_shown_throughout(place, tmp_path):
    run = small(place, tmp_path / "one")
    content = gather([run], None, place / "cache", "round 1")
    first = {"label_matched": [], "global": []}
    for row in results.read(run).to_pylist():
        if row["round"] == 1 and row["protocol"] in first and row["train_rows"]:
            first[row["protocol"]].append(row["correct"] / row["total"])
    for name, accuracies in first.items():
        (table,) = [table for table in content.accuracy if f" {name} after round 1:" in table.caption]
        assert table.rows[0][table.columns.index("avg")] == f"{100 * np.mean(accuracies):.1f}"
    assert all("last round" not in picture.caption for picture in content.pictures)


TROUBLE = r"a_b & 50% #1 {x} ~^\ <i>|α – é 中"


def test_latex_and_markdown_hold_any_text():
    table = Table("t", TROUBLE, [TROUBLE, "n"], [False, True], [[TROUBLE, "1"]], [TROUBLE])
    latex = markup.latex(table)
    assert r"a\_b \& 50\% \#1 \{x\} \textasciitilde{}\textasciicircum{}\textbackslash{}" in latex
    assert latex.isascii()
    line = markup.markdown(table).splitlines()[4]
    assert line.replace(r"\|", "").count("|") == 3
    assert r"\<i\>" in line


def test_latex_compiles(content, tmp_path):
    if not (pdflatex := shutil.which("pdflatex")):
        pytest.skip("no pdflatex on this machine")
    odd = Table("t", TROUBLE, [TROUBLE, "n"], [False, True], [[TROUBLE, "1"]], [TROUBLE])
    body = "\n".join(map(markup.latex, [*content.accuracy, odd]))
    (tmp_path / "a.tex").write_text(rf"\documentclass{{article}}\begin{{document}}{body}\end{{document}}")
    command = [pdflatex, "-interaction=nonstopmode", "-halt-on-error", "a.tex"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:]


# Audit


def test_audits_of_one_partition_say_whose_they_are(place, tmp_path):
    """A rule that gives every client its own model has findings of its own."""
    run = small(place, tmp_path / "run", "grid.rule=[fedavg, local_only]", "grid.partition_seed=[1, 2]")
    titles = [one.title for one in gather([run], None, place / "cache").partitions]
    assert [title.rpartition("; ")[2] for title in titles] == ["fedavg", "local_only"] * 2
    alone = small(place, tmp_path / "alone", "grid.rule=[fedavg, uniform]")
    (one,) = gather([alone], None, place / "cache").partitions
    assert one.title.endswith("partition seed 42")


def test_the_audit_counts_partitions(content):
    told = {tuple(line[:2]): line[2:] for line in content.audit.rows}
    assert told["global", "gap-zero-by-construction"] == ["3 of 3", "3 of 3"]
    assert len(content.partitions) == 6
    assert content.no_audit == []


def test_a_corpus_that_changed_is_not_audited(place, tmp_path):
    shutil.copytree(place, tmp_path / "corpus")
    run = small(tmp_path / "corpus", tmp_path / "run")
    synthetic.write_corpus(tmp_path / "corpus", rows=2400)
    content = gather([run], None, tmp_path / "cache")
    assert content.audit is None
    assert "has changed since" in content.no_audit[0]
    assert "could not be read again" in drawn(content, "worst-clients").caption


def test_a_corpus_that_is_gone_is_one_line(place, tmp_path):
    shutil.copytree(place, tmp_path / "corpus")
    run = small(tmp_path / "corpus", tmp_path / "run")
    shutil.rmtree(tmp_path / "corpus")
    content = gather([run], None, tmp_path / "cache")
    assert content.audit is None
    assert len(content.no_audit) == 1
    assert "cannot be read" in content.no_audit[0]
    assert content.accuracy


PARTITIONS = "grid.partition_seed,seed,corpus.seed=[[1, 1, 1], [2, 2, 2], [3, 3, 3]]"


def test_samples_that_vary_with_the_partition_are_no_corpora_of_their_own(place, tmp_path):
    """One sample a partition: one row with intervals over both. Two samples of one partition: two corpora."""
    crossed = ["grid.partition_seed=[1, 2]", "grid.corpus.seed=[1, 2]"]
    for name, axes, corpora in (("joined", [PARTITIONS], 1), ("crossed", crossed, 2)):
        run = small(place, tmp_path / name, *axes)
        table = gather([run], None, tmp_path / "cache").accuracy[0]
        assert len(table.rows) == corpora
        assert all("[" in row[-1] for row in table.rows)


@pytest.mark.parametrize(
    ("axes", "told"),
    [
        ([PARTITIONS], "partitions and training seeds, and the sample of rows, of which every partition has its own"),
        (["grid.partition_seed,seed=[[1, 1], [2, 2]]"], "partitions and training seeds, not the sample of rows"),
        (["grid.partition_seed=[1, 2]"], "partitions, not training seeds (seed is 42 for all), not the sample of rows"),
        (["grid.partition_seed=[1, 2]", "corpus.train_rows=null"], "seed is 42 for all); the corpus is taken whole"),
    ],
)
def test_what_intervals_cover_is_told(place, tmp_path, axes, told):
    rows = [] if "corpus.train_rows=null" in axes else ["corpus.train_rows=1000"]
    (line,) = read_folders([small(place, tmp_path / "run", *rows, *axes)]).covered
    assert told in line


def test_lines_to_compare_with_come_last_and_are_no_candidates(place, tmp_path):
    rules = "grid.rule=[centralised, fedavg, local_only, uniform]"
    run = small(place, tmp_path / "run", rules, PARTITIONS)
    content = gather([run], None, tmp_path / "cache")
    table = content.accuracy[0]
    place_of_rule = list(table.columns).index("rule")
    assert [row[place_of_rule] for row in table.rows] == ["fedavg", "uniform", "centralised", "local_only"]
    assert "Lines to compare with, not federated: centralised, local_only." in table.notes
    assert "centralised" not in drawn(content, "methods").alt
    for axis, column in zip(drawn(content, "methods").figure.axes, ("worst", "gap"), strict=True):
        shown = list(table.columns).index(column)
        means = [float(row[shown].partition(" ")[0]) for row in table.rows if row[place_of_rule] in REFERENCES]
        lines = [line.get_xdata()[0] for line in axis.lines if line.get_linestyle() != "None"]
        assert sorted(lines) == pytest.approx(sorted(means), abs=0.05)  # as printed
    worst = list(table.columns).index("worst")
    ordered = sorted(table.rows[:2], key=lambda row: -float(row[worst].partition(" ")[0]))
    labels = [label.get_text() for label in drawn(content, "methods").figure.axes[0].get_yticklabels()]
    assert labels == [row[place_of_rule] for row in ordered]  # the best first


# Figures


def test_every_figure_where_there_are_data_for_it(content):
    names = [picture.name for picture in content.pictures]
    assert names == ["gap-and-worst", "learning-curves", "worst-clients", "methods"]
    assert all(picture.alt and picture.caption for picture in content.pictures)


def test_no_figure_without_data_for_it(place, tmp_path):
    content = gather([small(place, tmp_path / "one", "rounds=1", "protocols=[global]")], None, place / "cache")
    assert [picture.name for picture in content.pictures] == ["worst-clients"]


def test_every_corpus_has_figures_of_its_own_and_global_has_no_panel(place, tmp_path):
    grid = ("grid.alpha=[0.1, 1.0]",)
    runs = [small(place, tmp_path / name, *grid, f"corpus.name={name}") for name in ("news", "tweets/b")]
    content = gather(runs, None, place / "cache")
    found = {picture.name: picture for picture in content.pictures}
    kinds = ("gap-and-worst", "learning-curves", "worst-clients")
    assert len(found) == 6
    assert {name for name in found if name.endswith("-news")} == {f"{kind}-news" for kind in kinds}
    protocols = [axis.get_title(loc="left") for axis in found["gap-and-worst-news"].figure.axes[::2]]
    assert protocols == ["label_matched", "holdout", "label_filtered", "train_rows"]


def test_rules_are_compared_where_there_are_several(place, tmp_path):
    one = small(place, tmp_path / "one", "grid.alpha=[0.1, 1.0]")
    two = small(place, tmp_path / "two", "alpha=0.1", "rule=fedavgw(beta=0.5)")
    picture = drawn(gather([one, two], None, place / "cache"), "methods")
    assert [axis.get_title(loc="left") for axis in picture.figure.axes] == ["α = 0.1", ""]


def test_models_are_compared_by_their_sizes_where_three_are_known(place, tmp_path):
    sizes = {"textcnn": (2_000_000, 2_000_000), "distilbert": (700_000, 67_000_000), "wide": (9_000_000, 9_000_000)}
    grid = ("models.wide={architecture: textcnn, filters: 200}", "alpha=0.1", "grid.model=[textcnn, distilbert, wide]")
    run = small(place, tmp_path / "run", *grid, PARTITIONS, "protocols=[label_matched, holdout]", sizes=sizes)
    content = gather([run], None, place / "cache")
    picture, table = drawn(content, "sizes"), content.accuracy[0]
    assert picture in outline.first(content).pictures
    told = {row[table.columns.index("model")]: row for row in table.rows}
    for axis, (measure, kind) in zip(picture.figure.axes, itertools.product(("worst", "gap"), (0, 1)), strict=True):
        marks = [line.lines[0] for line in axis.containers]
        found = {f"{mark.get_ydata()[0]:.1f}": (mark.get_xdata()[0], mark.get_fillstyle()) for mark in marks}
        for model, size in sizes.items():
            x, fill = found.pop(told[model][table.columns.index(measure)].partition(" ")[0])
            assert x == pytest.approx(size[kind], rel=0.1)  # marks stand a little beside each other
            assert fill == ("full" if model == "distilbert" else "none")  # the one that starts from pretrained weights
        assert not found
    assert "700,000 of 67,000,000" in picture.alt
    worst = {model: row[table.columns.index("worst")] for model, row in told.items()}
    ordered = sorted(worst.items(), key=lambda item: -float(item[1].partition(" ")[0]))
    sentence = "{} {}, {} {} and {} {}".format(*itertools.chain(*ordered))
    assert f"The worst client by model, in %: {sentence}." in content.sentences
    (told,) = content.runs
    assert "distilbert 700,000 of 67,000,000" in told.facts["parameters trained"]
    two = small(place, tmp_path / "two", *grid[:2], "grid.model=[textcnn, wide]", sizes=sizes)
    assert "sizes" not in [picture.name for picture in gather([two], None, place / "cache").pictures]


def test_a_title_names_models_without_their_settings(place, tmp_path):
    widths = ("textcnn, filters=50", "textcnn, filters=100", "textcnn, filters=200")
    runs = [
        small(place, tmp_path / name, "model=textcnn", f"models.textcnn.filters={name.partition('=')[2]}")
        for name in widths
    ]
    content = gather(runs, None, place / "cache")
    assert {row[0] for row in content.accuracy[0].rows} == set(widths)
    assert content.title == "How the worst client fares: textcnn on news"


def test_the_gap_against_the_number_of_clients(place, tmp_path):
    run = small(place, tmp_path / "run", "grid.num_clients=[5, 20]", "protocols=[label_matched]")
    content = gather([run], None, place / "cache")
    picture, table = drawn(content, "number-of-clients"), content.accuracy[0]
    for axis, name in zip(picture.figure.axes, ("gap", "worst"), strict=True):
        told = {row[table.columns.index("K")]: row[table.columns.index(name)] for row in table.rows}
        (line,) = axis.containers
        assert line.lines[0].get_xdata().tolist() == [5, 20]
        assert [f"{value:.1f}" for value in line.lines[0].get_ydata()] == [told["5"], told["20"]]
    assert f"num clients 5 {dict(zip(table.columns, table.rows[0], strict=True))['gap']}" in picture.alt


def test_no_gap_or_interval_is_cut_off(content):
    """A gap and an accuracy end at 0 and 100 %, and so do their intervals."""
    for axis in drawn(content, "gap-and-worst").figure.axes:
        low, high = axis.get_ylim()
        for container in axis.containers:
            ends = np.concatenate([bar.get_segments() for bar in container.lines[2]])[..., 1]
            everything = np.concatenate([container.lines[0].get_ydata(), ends[np.isfinite(ends)].ravel()])
            assert low < everything.min() <= everything.max() < high


def test_every_letter_is_legible_in_a_column(content, judged):
    """7 points at 3.3 inches, the width of a column of a two-column paper: none smaller, none beyond the edge."""
    for picture in [*content.pictures, *judged.pictures]:
        assert picture.figure.get_figwidth() == 3.3
        drawing.save(picture.figure)  # lays it out
        box = picture.figure.get_tightbbox()  # inches
        assert -0.01 < box.x0 < box.x1 < 3.31, (picture.name, box)  # a hundredth: no letter is that narrow
        texts = picture.figure.findobj(Text)
        assert min(text.get_fontsize() for text in texts if text.get_text()) >= 7.0


def test_learning_curves_are_means_over_runs(place, tmp_path):
    run = small(place, tmp_path / "run", PARTITIONS, "protocols=[label_matched]")
    (axis,) = drawn(gather([run], None, place / "cache"), "learning-curves").figure.axes
    rounds: dict[int, dict[int, list]] = {1: {}, 2: {}}
    for row in results.read(run).to_pylist():
        if row["train_rows"]:
            rounds[row["round"]].setdefault(row["partition_seed"], []).append(row["correct"] / row["total"])
    means = [100 * np.mean([np.mean(found) for found in each.values()]) for each in rounds.values()]
    worst = [100 * np.mean([min(found) for found in each.values()]) for each in rounds.values()]
    of_each = [[100 * min(each[seed]) for each in rounds.values()] for seed in (1, 2, 3)]
    curves = [line.get_ydata().tolist() for line in axis.lines]
    assert curves[-2:] == [pytest.approx(means), pytest.approx(worst)]
    assert sorted(curves[:-2]) == [pytest.approx(curve) for curve in sorted(of_each)]


@pytest.mark.parametrize("some", [[], ["num_clients=9", "evaluate_clients=4"]], ids=["all", "a draw"])
def test_the_worst_client_of_every_run_is_ringed_and_its_class_named(place, tmp_path, some):
    run = small(place, tmp_path / "run", PARTITIONS, "alpha=0.1", *some)
    content = gather([run], None, place / "cache")
    assert ("Scored: a draw of 4 clients, of those with rows first." in content.footnotes) == bool(some)
    picture = drawn(content, "worst-clients")
    rows = [row for row in results.read(run).to_pylist() if row["round"] == 2 and row["protocol"] == "label_matched"]
    settings = {
        name: one.setting for one in audit(cells(load(run / "config.yaml")), place / "cache") for name in one.cells
    }
    worst, held = [], Counter()
    for cell, setting in settings.items():
        scored = [row for row in rows if row["cell"] == cell and row["train_rows"]]
        lowest = min(scored, key=lambda row: row["correct"] / row["total"])
        worst.append((lowest["train_rows"], 100 * lowest["correct"] / lowest["total"]))
        held[sorted(synthetic.CLASSES)[setting.train[lowest["client"]].argmax()]] += 1
    (axis,) = picture.figure.axes
    ring = axis.lines[-1]
    assert sorted(zip(ring.get_xdata(), ring.get_ydata(), strict=True)) == [pytest.approx(one) for one in sorted(worst)]
    ((name, count),) = held.most_common(1)
    assert f"holds mostly {name} in {count} of 3 runs" in picture.alt
    legend = {text.get_text() for text in picture.figure.legends[0].get_texts()}
    assert legend == {*synthetic.CLASSES, "worst of its run"}


# The forest plot


@pytest.fixture(scope="module")
def six(place, tmp_path_factory):
    """Two models on six partitions, so that there are verdicts."""
    seeds = [[seed] * 2 for seed in range(1, 7)]
    grid = f"grid.partition_seed,seed={seeds}", "grid.model=[textcnn, distilbert]"
    return small(place, tmp_path_factory.mktemp("six") / "run", *grid)


@pytest.fixture(scope="module")
def judged(six, place, tmp_path_factory):
    """One claim that these runs support, one that they contradict."""
    folder = tmp_path_factory.mktemp("judged")
    side = "{{where: {{model: {}}}, protocol: label_filtered, round: 2, published: {{gap: {}}}}}".format
    one, other = side("distilbert", 50), side("textcnn", 32)
    claims = [f"- {{id: wider, text: Wider., source: s, where: {{}}, round: 2, a: {one}, b: {other}}}"]
    claims += [f"- {{id: narrower, text: No., source: s, where: {{}}, round: 2, a: {other}, b: {one}}}"]
    (folder / "claims.yaml").write_text("\n".join(claims), encoding="utf-8")
    return gather([six], folder / "claims.yaml", place / "cache")


def test_a_row_of_the_forest_for_every_claim_and_protocol(judged):
    first, table = judged.verdicts
    assert [row[1] for row in first.rows] == ["supported", "contradicted"]
    axis = drawn(judged, "forest").figure.axes[0]
    labels = [label.get_text() for label in axis.get_yticklabels()]
    protocols = ["label_matched", "label_filtered", "train_rows", "holdout"]
    assert labels == ["wider", *protocols, "narrower", *protocols]  # a claim's name: as published
    heights = dict(zip(axis.get_yticks(), labels, strict=True))
    rows = [row for row in table.rows if row[3] != tables.NONE]
    marks = [line for line in axis.lines if line.get_marker() not in ("None", "x", "<", ">")]
    published = [line.get_xdata()[0] for line in axis.lines if line.get_marker() == "x"]
    assert [heights[line.get_ydata()[0]] for line in marks] == labels
    assert [f"{line.get_xdata()[0]:+.1f}" for line in marks] == [row[3].partition(" ")[0] for row in rows]
    assert published == pytest.approx([18.0] * 5 + [-18.0] * 5)


def test_claims_without_data_are_counted_and_not_shown_first(place, tmp_path):
    run = small(place, tmp_path / "run", "grid.model=[textcnn, distilbert]")
    side = "{{where: {{model: {}}}, protocol: label_filtered, round: 2, published: {{gap: 1}}}}".format
    claim = "- {{id: {}, text: t, source: s, where: {{}}, round: 2, a: {}, b: {}}}".format
    claims = [claim("here", side("textcnn"), side("distilbert")), claim("gone", side("minilm"), side("distilbert"))]
    (tmp_path / "claims.yaml").write_text("\n".join(claims), encoding="utf-8")
    content = gather([run], tmp_path / "claims.yaml", place / "cache")
    first, every = content.verdicts
    assert [row[0] for row in first.rows] == ["here: t"]
    assert "1 of the claims" in first.notes[-1]
    assert {row[0] for row in every.rows} == {"here", "gone"}
    assert content.title.startswith("A published claim")
    assert "1 without data (gone)" in " ".join(content.sentences)


def test_the_first_sentences_hold_the_verdicts(judged):
    assert judged.title == "2 published claims about the worst client, tested with distilbert and textcnn on news"
    assert len(judged.sentences) <= 5
    run, first, decided, *_ = judged.sentences
    assert run.startswith(
        "12 runs of distilbert and textcnn on news, α = 0.1; 10 clients; 6 partitions of each setting"
    )
    assert first.startswith("Wider: supported (distilbert − textcnn = +")
    assert first.endswith("points under label_matched; published +18.0).")
    assert decided == "Decided, with one protocol for both sides: supported: wider; contradicted: narrower."


def test_an_undecided_claim_is_not_told_first(six, judged, place, tmp_path):
    difference = judged.sentences[1].partition(" = +")[2].partition(" ")[0]
    claim = "- {{id: {}, text: {}, source: s, where: {{}}, round: 2, margin: {}, a: {}, b: {}}}".format
    sides = "{where: {model: distilbert}}", "{where: {model: textcnn}}"
    claims = [claim("open", "Just so.", difference, *sides), claim("wider", "Wider.", 0, *sides)]
    (tmp_path / "claims.yaml").write_text("\n".join(claims), encoding="utf-8")
    content = gather([six], tmp_path / "claims.yaml", place / "cache")
    assert [row[1] for row in content.verdicts[0].rows] == ["undecided", "supported"]
    assert content.sentences[1].startswith("Wider: supported")
    assert "Not decided: 1 undecided (open)." in content.sentences


def test_the_first_sentences_without_claims_hold_the_widest_gap(content):
    table = content.accuracy[0]
    gaps = {float(row[-1].partition(" ")[0]): row for row in table.rows}
    widest = dict(zip(table.columns, gaps[max(gaps)], strict=True))
    assert content.title == "Which method serves the worst client best? distilbert and textcnn on news"
    assert len(content.sentences) <= 5
    assert (
        f"{widest['model']} on news, {widest['rule']}, α = {widest['α']}, 10 clients: {widest['gap']}"
        in (content.sentences[1])
    )


# Claims and what was run


def test_a_claim_of_ones_own_has_no_row_as_published(place, tmp_path):
    run = small(place, tmp_path / "run", "grid.partition_seed=[1, 2]", "grid.model=[textcnn, distilbert]")
    sides = "a: {where: {model: distilbert}}, b: {where: {model: textcnn}}"
    path = tmp_path / "claims.yaml"
    path.write_text(f"- {{id: mine, text: Mine., source: s, where: {{}}, round: 2, {sides}}}", encoding="utf-8")
    content = gather([run], path, place / "cache")
    first, table = content.verdicts
    assert content.title == "A claim about the worst client, tested with distilbert and textcnn on news"
    assert first.columns == ["claim", "verdict", "a − b"]
    protocols = ["label_matched", "label_filtered", "train_rows", "holdout"]
    assert [row[1] for row in table.rows] == [f"both {name}" for name in protocols]
    axis = drawn(content, "forest").figure.axes[0]
    assert [label.get_text() for label in axis.get_yticklabels()] == ["mine", *protocols[1:]]
    told = " ".join([first.caption, table.caption, drawn(content, "forest").caption, *content.sentences])
    assert "published" not in told.lower()
    assert "The row with a claim's name has both sides under label_matched" in drawn(content, "forest").caption


def test_claims_are_judged_on_the_runs(place, tmp_path):
    claims = Path(__file__).parent.parent / "experiments" / "paper" / "claims.yaml"
    content = gather([small(place, tmp_path / "one")], claims, place / "cache")
    assert {claim.verdict for claim in content.claims} == {"no data"}
    without = gather(
        [small(place, tmp_path / "two", "protocols=[global, label_matched]", "partition.holdout_fraction=0.0")],
        claims,
        place / "cache",
    )
    table = without.verdicts[1]
    assert {line[1] for line in table.rows if line[1].startswith("both")} == {"both label_matched"}
    assert len(content.verdicts[1].rows) == sum(len(claim.reasons) for claim in content.claims)


def test_claims_are_judged_at_the_rounds_asked_for(place, tmp_path):
    side = "{where: {model: %s}, protocol: label_matched, round: 50, published: {gap: 1}}"
    sides = f"a: {side % 'distilbert'}, b: {side % 'textcnn'}"
    claim = f"- {{id: one, text: t, source: s, where: {{}}, round: 50, {sides}}}"
    (tmp_path / "claims.yaml").write_text(claim, encoding="utf-8")
    run = small(place, tmp_path / "two", "grid.model=[distilbert, textcnn]")
    found = [gather([run], tmp_path / "claims.yaml", place / "cache", when).claims for when in (None, "last")]
    assert [claims[0].verdict for claims in found] == ["no data", "too few partitions"]


def test_sides_of_other_rounds_are_told(place, tmp_path):
    sides = "a: {where: {model: distilbert}}, b: {where: {model: textcnn}}"
    path = tmp_path / "claims.yaml"
    path.write_text(f"- {{id: mine, text: Mine., source: s, where: {{}}, round: 2, {sides}}}", encoding="utf-8")
    runs = [
        small(place, tmp_path / model, f"model={model}", f"rounds={n}")
        for model, n in (("distilbert", 1), ("textcnn", 2))
    ]
    told = "Sides of other rounds, after round 1 of a and 2 of b: mine."
    assert told in gather(runs, path, place / "cache", "last").verdicts[0].notes
    assert not gather(runs, path, place / "cache", "round 1").verdicts[0].notes


def test_a_claim_that_cannot_be_judged_is_named_on_the_first_screen(place, tmp_path):
    side = "{{where: {{model: {}}}, protocol: label_matched, round: 2, published: {{gap: 1}}}}".format
    sides = f"a: {side('textcnn')}, b: {side('distilbert')}"
    (tmp_path / "claims.yaml").write_text(f"- {{id: one, text: t, source: s, where: {{}}, round: 2, {sides}}}")
    apart = {"textcnn": 0.1, "distilbert": 1.0}
    runs = [small(place, tmp_path / model, f"model={model}", f"alpha={a}") for model, a in apart.items()]
    content = gather(runs, tmp_path / "claims.yaml", place / "cache")
    assert content.claims == content.verdicts == []
    (warning,) = outline.first(content).warnings
    assert warning.startswith("Left out: The claim one cannot be judged on these runs: ")
    assert "alpha" in warning
    axes = drawn(content, "learning-curves").figure.axes
    assert [axis.axison for axis in axes] == [
        True,
        False,
        False,
        True,
    ]  # each model at the one alpha that it was run at


def test_what_was_run_is_told(full, content):
    facts = dict(content.runs[0].facts)
    assert facts["partition seed"] == "42, 43, 44"
    first = [row for row in results.read(full).to_pylist() if row["round"] == 1 and row["protocol"] == "global"]
    cells = {row["cell"] for row in first}
    rows = [sum(row["train_rows"] for row in first if row["cell"] == cell) for cell in cells]
    assert facts["train rows"] == f"{min(rows):,} to {max(rows):,}"  # the held-out tenth is rounded client by client
    assert facts["config hash"] == json.loads((full / "experiment.json").read_text())["hash"]
    assert "jax 0.10.2" in facts["versions"]
    (full.parent / "again.yaml").write_text(content.runs[0].config)
    assert load(full.parent / "again.yaml") == load(full / "config.yaml")
