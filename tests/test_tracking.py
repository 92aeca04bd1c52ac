"""Curves, read back by TensorBoard itself."""

import pytest
import toy

from fedjax_paradox import tracking
from fedjax_paradox.cli import main
from fedjax_paradox.storage import history, results

pytest.importorskip("tensorboard", reason="TensorBoard is not installed (extra `tensorboard`)")

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tracking")
    with pytest.MonkeyPatch.context() as patch, toy.compilation_cached(tmp_path_factory.getbasetemp()):
        patch.syspath_prepend(folder)
        patch.setenv("FEDJAX_PARADOX_CACHE", str(folder / "cache"))
        yield toy.write(folder)


def curve(curves: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, float(tensor_util.make_ndarray(event.tensor_proto))) for event in curves.Tensors(tag)]


def test_curves_are_the_stored_numbers_and_go_on(config, tmp_path, monkeypatch):
    for rounds in (2, 3):
        arguments = [str(config), "model=bag", "grid.rule=[fedavg, afl]", f"rounds={rounds}", "--track", "tensorboard"]
        monkeypatch.setattr("sys.argv", ["fedjax-paradox", "run", *arguments, "--out", str(tmp_path)])
        with pytest.raises(SystemExit):
            main()
    stored, rounds = results.read(tmp_path).to_pandas(), history.read(tmp_path).rounds.to_pandas()
    for cell in ("rule=fedavg", "rule=afl"):
        curves = EventAccumulator(str(tmp_path / "tensorboard" / cell)).Reload()
        worst = curve(curves, "label_matched/worst")
        rows = stored.query("cell == @cell and protocol == 'label_matched' and total > 0 and train_rows > 0")
        expected = (rows["correct"] / rows["total"]).groupby(rows["round"]).min()
        assert worst == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected.items()]  # float32
        loss = curve(curves, "train_loss")
        expected = rounds.query("cell == @cell").set_index("round")["train_loss"]
        assert loss == [(step, pytest.approx(value, rel=1e-6)) for step, value in expected.items()]
        assert "global/gap" in curves.Tags()["tensors"]


def test_without_tensorboard_one_line_says_what_to_install(config, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(tracking, "find_spec", lambda name: None)  # noqa: ARG005
    arguments = [str(config), "model=bag", "rounds=1", "--track", "tensorboard", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["fedjax-paradox", "run", *arguments])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "pip install 'fedjax-paradox[tensorboard]'" in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()
