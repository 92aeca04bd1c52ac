"""Curves, read back from where each tracker keeps them."""

import json
import sqlite3
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest
import toy

from fedjax_paradox import tracking
from fedjax_paradox.cli import main
from fedjax_paradox.storage import history, results

Curve = dict[int, float]


def read_tensorboard(out: Path, cell: str, tag: str) -> Curve:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util import tensor_util

    events = EventAccumulator(str(out / "tensorboard" / cell)).Reload().Tensors(tag)
    assert len({event.step for event in events}) == len(events)
    return {event.step: float(tensor_util.make_ndarray(event.tensor_proto)) for event in events}


def read_mlflow(out: Path, cell: str, tag: str) -> Curve:
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{out / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("toy")
    (run,) = [run for run in client.search_runs([experiment.experiment_id]) if run.info.run_name == cell]
    assert run.info.status == "FINISHED"
    assert run.data.params["local.learning_rate"] == "0.3"
    points = client.get_metric_history(run.info.run_id, tag)
    assert len({point.step for point in points}) == len(points)
    return {point.step: point.value for point in points}


def logged(content: bytes) -> Iterator[bytes]:
    """The records of a LevelDB log: blocks of 32 KiB, in which pieces have a checksum, a length and a kind."""
    place, record = 7, b""  # after the name of the format
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        _, length, kind = struct.unpack_from("<IHB", content, place)
        record += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last piece
            yield record
            record = b""


def read_wandb(out: Path, cell: str, tag: str) -> Curve:
    from wandb.proto.wandb_internal_pb2 import Record

    found: Curve = {}
    for file in sorted(out.glob("wandb/offline-run-*/*.wandb")):
        name = ""
        for data in logged(file.read_bytes()):
            record = Record()
            record.ParseFromString(data)
            name = record.run.display_name or name
            if name == cell and record.WhichOneof("record_type") == "history":
                values = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
                if tag in values:
                    assert record.history.step.num not in found
                    found[record.history.step.num] = float(json.loads(values[tag]))
    return found


def read_trackio(out: Path, cell: str, tag: str) -> Curve:
    (database,) = (out / "trackio").glob("*.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT step, metrics FROM metrics WHERE run_name = ?", [cell]).fetchall()
    found = [(step, json.loads(metrics)[tag]) for step, metrics in rows if tag in json.loads(metrics)]
    assert len(dict(found)) == len(found)
    return dict(found)


READ = {
    "tensorboard": read_tensorboard,
    "mlflow": read_mlflow,
    "wandb": read_wandb,
    "trackio": read_trackio,
}


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch, toy.compilation_cached(tmp_path_factory.getbasetemp()):
        patch.syspath_prepend(folder)
        patch.setenv("FEDJAX_PARADOX_CACHE", str(folder / "cache"))
        yield toy.write(folder)


# Trackers and what they are made of warn of each other.
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("tracker", READ)
def test_curves_are_the_stored_numbers_and_go_on(config, tmp_path, monkeypatch, tracker):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which it reads as it is imported
    pytest.importorskip(tracking.TRACKERS[tracker][0], reason=f"{tracker} is not installed (extra `{tracker}`)")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    for rounds in (2, 3):
        arguments = [str(config), "model=bag", "grid.rule=[fedavg, afl]", f"rounds={rounds}", "--track", tracker]
        monkeypatch.setattr("sys.argv", ["fedjax-paradox", "run", *arguments, "--out", str(tmp_path)])
        with pytest.raises(SystemExit):
            main()
    stored, rounds = results.read(tmp_path).to_pandas(), history.read(tmp_path).rounds.to_pandas()
    for cell in ("rule=fedavg", "rule=afl"):
        rows = stored.query("cell == @cell and protocol == 'label_matched' and total > 0 and train_rows > 0")
        expected = (rows["correct"] / rows["total"]).groupby(rows["round"]).min().to_dict()
        # float32
        assert READ[tracker](tmp_path, cell, "label_matched/worst") == pytest.approx(expected, rel=1e-6)
        expected = rounds.query("cell == @cell").set_index("round")["train_loss"].to_dict()
        assert sorted(expected) == [1, 2, 3]
        assert READ[tracker](tmp_path, cell, "train_loss") == pytest.approx(expected, rel=1e-6)
        assert READ[tracker](tmp_path, cell, "global/gap")


def test_settings_are_told_by_dotted_keys():
    nested = {"local": {"epochs": 2, "own": {}}, "grid": {"a": {"b": [1]}}, "name": "x"}
    expected = {"local.epochs": 2, "local.own": {}, "grid.a.b": [1], "name": "x"}
    assert dict(tracking.dotted(nested)) == expected


@pytest.mark.parametrize("tracker", READ)
def test_without_the_tracker_one_line_says_what_to_install(config, tmp_path, monkeypatch, capsys, tracker):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)  # noqa: ARG005
    arguments = [str(config), "model=bag", "rounds=1", "--track", tracker, "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["fedjax-paradox", "run", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert f"pip install 'fedjax-paradox[{tracker}]'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
