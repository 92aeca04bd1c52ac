"""Several devices and several processes against one of each: child processes, since JAX counts its devices once."""

import json
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import chex
import pytest
import toy

from fedjax_paradox.storage import results
from fedjax_paradox.sweep.run import Finished, run

STUDY = ("grid.model=[textcnn, bag]", "rounds=2", "lanes=5")

# Runs the study like the command line does; with `stop` the process ends after that round.
CHILD = """
import json, os, sys
import jax
from fedjax_paradox.sweep import hosts
from fedjax_paradox.sweep.run import Finished, run
import toy

config, out, overrides, stop, processes = json.loads(sys.argv[1])
sys.path.append(os.path.dirname(config))
if processes:
    hosts.join(*processes)

def notify(event):
    if isinstance(event, Finished) and event.round == stop:
        os._exit(0)

from pathlib import Path
experiment, programs = toy.study(Path(config), *overrides)
run(experiment, programs, Path(out), notify)
print(len(jax.devices()), programs[0].engine.devices)
"""


def child(config: Path, out: Path, devices: int, stop: int = 0, processes=None) -> subprocess.Popen:
    given = json.dumps([str(config), str(out), STUDY, stop, processes])
    flags = f"--xla_force_host_platform_device_count={devices}"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(Path(__file__).parent)}
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, given], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def finish(*children: subprocess.Popen) -> list[str]:
    outputs = [one.communicate(timeout=240) for one in children]
    for one, (_, errors) in zip(children, outputs, strict=True):
        assert one.returncode == 0, errors[-2000:]
    return [out.strip().splitlines()[-1] if out else "" for out, _ in outputs]  # gloo speaks before us


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    """(config, out, programs) of the study on one device."""
    folder = tmp_path_factory.mktemp("devices")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        config = toy.write(folder)
        toy.execute(config, folder / "one", *STUDY)
        yield config, folder / "one", toy.study(config, *STUDY)[1]


def assert_same_study(out, one):
    """Float sums in another order: some 60 steps and 5 clients, relative 1e-4 as in test_engine. A row near the
    border of two classes may change sides; there is none in this study."""
    _, reference, programs = one
    assert results.read(out).equals(results.read(reference))
    for number in range(2):
        (round_, got), (_, expected) = (toy.stored(folder, programs, number) for folder in (out, reference))
        assert round_ == 2
        chex.assert_trees_all_close(got, expected, rtol=1e-4, atol=1e-5)


def test_eight_devices_equal_one(one, tmp_path):
    assert finish(child(one[0], tmp_path / "out", devices=8)) == ["8 8"]
    assert_same_study(tmp_path / "out", one)


@pytest.mark.conformance
def test_two_processes_equal_one(one, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        coordinator = f"127.0.0.1:{free.getsockname()[1]}"
    both = [child(one[0], tmp_path / "out", 2, processes=[coordinator, 2, number]) for number in range(2)]
    assert finish(*both) == ["4 4", "4 4"]
    assert_same_study(tmp_path / "out", one)


@pytest.mark.conformance
def test_a_run_resumes_on_more_devices(one, tmp_path):
    finish(child(one[0], tmp_path / "out", devices=1, stop=1))
    assert 0 < len(results.read(tmp_path / "out")) < len(results.read(one[1]))
    finish(child(one[0], tmp_path / "out", devices=3))
    assert_same_study(tmp_path / "out", one)


@pytest.mark.conformance
def test_resumed_with_other_lanes(one, tmp_path):
    """Lanes are no part of the experiment: the schedule is the same, the sums are in another order."""
    config = one[0]
    lanes = [toy.study(config, *STUDY[:2], f"lanes={number}") for number in (1, 4)]

    class Stop(Exception):  # noqa: N818
        pass

    def stop(event):
        if isinstance(event, Finished):
            raise Stop

    with pytest.raises(Stop):
        run(*lanes[0], tmp_path / "out", stop)
    run(*lanes[1], tmp_path / "out", lambda _: None)
    assert_same_study(tmp_path / "out", one)


@pytest.mark.slurm
def test_two_slurm_tasks_equal_one(one, tmp_path):
    srun, sinfo = shutil.which("srun"), shutil.which("sinfo")
    if srun is None or sinfo is None or subprocess.run([sinfo], capture_output=True).returncode:
        pytest.skip("no Slurm answers here: install slurm-wlm and munge, and start them")
    command = [sys.executable, "-m", "fedjax_paradox", "run", one[0], *STUDY, "--distributed"]
    environment = {**os.environ, "PYTHONPATH": str(one[0].parent)}
    subprocess.run([srun, "-n", "2", *command, "--out", tmp_path / "out"], env=environment, check=True)
    assert_same_study(tmp_path / "out", one)
