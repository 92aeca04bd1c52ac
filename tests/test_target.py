"""Programs compiled for accelerators that are not here."""

import re
import subprocess
import sys

import pytest
import toy

from fedjax_paradox.cli import main
from fedjax_paradox.sweep.target import CHIPS, Compiled, compiler, operations

no_libtpu = pytest.mark.skipif(not compiler(CHIPS["v5e"])[0], reason="libtpu is not installed (extra `tpu`)")
no_cuda = pytest.mark.skipif(not compiler(CHIPS["h100"])[0], reason="no compiler for GPUs here (extra `cuda13`)")

NUMBERS = {
    "bound": r"at least ([\d.e+-]+) s by its products",
    "gflop": r"lanes: ([\d.e+-]+) GFLOP",
    "steps": r"jobs, (\d+) steps",
    "lanes": r"fits, (\d+) lane",
}
TEXT = """\
HloModule jit_advance
%fused_computation.1 (p: f32[2]) -> f32[2] {
  %p = f32[2]{0} parameter(0)
  %d = bf16[4,8]{1,0} dot(%p, %p), lhs_contracting_dims={1}
  ROOT %t = f32[2]{0} transpose(%p), dimensions={0}
}

ENTRY %main (a: f32[2]) -> f32[2] {
  %a = f32[2]{0} parameter(0)
  %f = f32[2]{0} fusion(%a), kind=kLoop, calls=%fused_computation.1
  %c = f32[4,8]{1,0:T(8,128)} convolution(%f, %f), dim_labels=bf_io->bf
  %e = (f32[2]{0}, f32[2]{0}) custom-call(%c), custom_call_target="x"
  ROOT %g = f32[2]{0} get-tuple-element(%e), index=0
}
"""


def test_products_are_counted_everywhere_and_kernels_outside_of_fusions():
    found = operations(TEXT)
    assert found.products == {"bf16": 1, "f32": 1}
    assert found.kernels == 3  # fusion, convolution, custom-call
    assert found.written == 2 * 4 + 4 * 8 * 4 + 2 * (2 * 4)


def test_a_result_that_is_changed_in_place_is_not_written_whole():
    changed = TEXT.replace("ROOT %t = f32[2]{0} transpose(%p)", "ROOT %t = f32[2]{0} dynamic-update-slice(%p, %p)")
    assert operations(TEXT).written - operations(changed).written == 2 * 4


def test_a_call_of_cublas_is_a_product():
    line = '  %g = (bf16[4,8]{1,0}, s8[1024]{0}) custom-call(%a, %b), custom_call_target="__cublas$lt$matmul"\n'
    assert operations(line)[:2] == ({"bf16": 1}, 1)


def test_a_loop_counts_once_and_of_a_choice_the_largest():
    text = """\
%small (p: f32[2]) -> f32[2] {
  ROOT %a = (f32[2]{0}, s8[64]{0}) custom-call(%p), custom_call_target="__cublas$gemm"
}
%large (p: f32[2]) -> f32[2] {
  ROOT %b = f32[5]{0} copy(%p)
}
%body (p: f32[2]) -> f32[2] {
  %c = bf16[3]{0} copy(%p)
  ROOT %d = f32[2]{0} conditional(%c, %p, %p), branch_computations={%small, %large}
}
ENTRY %main (a: f32[2]) -> f32[2] {
  %e = pred[7]{0} copy(%a)
  ROOT %f = f32[2]{0} while(%e), condition=%small, body=%body
}
"""
    assert operations(text) == ({"f32": 1}, 4, 7 + 3 * 2 + 5 * 4)


@pytest.mark.parametrize(("results", "fits"), [(1, True), (2, False)])
def test_what_a_device_holds_is_arguments_temporaries_and_results(results, fits):
    found = Compiled(4, 4, 10, 5, results, 16, 1.0, 1.0, operations("").products, 0, 1.0, 1.0, 1.0)
    assert found.fits == fits


@pytest.fixture
def call(tmp_path, monkeypatch, capsys):
    config = toy.write(tmp_path)
    monkeypatch.setenv("FEDJAX_PARADOX_CACHE", str(tmp_path / "cache"))

    def call(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["fedjax-paradox", "run", str(config), "model=textcnn", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return ended.value.code, " ".join(capsys.readouterr().err.split())

    return call


@pytest.mark.parametrize(
    "name", ["b300", "h100:", "h100:2x2", "h100:0", "v5e", "v5e:", "v5e:2", "v5e:0x2", "v5e:2x2x2x2", "v9:2x2"]
)
def test_an_unknown_target_is_told_the_known_ones(call, name):
    code, told = call("--dry-run", "--target", name)
    assert code == 2
    assert f"a chip of {', '.join(CHIPS)}, with a topology such as v5e:2x2 or a number such as h100:8" in told
    assert f"got '{name}'" in told


def test_a_target_runs_nothing(call):
    assert call("--target", "v5e:2x2") == (
        2,
        "error: --target compiles for a machine that is not here, and runs nothing; add --dry-run",
    )


@pytest.mark.parametrize(("name", "extra"), [("v5e:2x2", "tpu"), ("h100", "cuda13")])
def test_without_the_compiler_one_line_says_what_to_install(call, name, extra):
    if compiler(CHIPS[name.partition(":")[0]])[0]:
        pytest.skip("it is installed")
    code, told = call("--dry-run", "--target", name)
    assert code == 2
    assert f"pip install 'fedjax-paradox[{extra}]'" in told


@pytest.mark.parametrize(
    ("name", "devices", "peak"),
    [
        pytest.param("v5e:2x2", 4, 197e12, marks=no_libtpu),
        pytest.param("v6e:1x1", 1, 918e12, marks=no_libtpu),
        pytest.param("h200", 1, 989e12, marks=no_cuda),
        pytest.param("a100:2", 2, 312e12, marks=no_cuda),
    ],
)
def test_a_small_program_is_compiled_for_a_machine_that_is_not_here(tmp_path, name, devices, peak):
    """In a process of its own: compiler and platform are chosen once."""
    config = toy.write(tmp_path)
    command = [sys.executable, "-m", "fedjax_paradox", "run", str(config), "model=textcnn", "--dry-run"]
    done = subprocess.run([*command, "--target", name], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert f"textcnn on {devices} device" in done.stdout
    assert "fits" in done.stdout
    # The last line from those above: the steps of the longest lane at the chip's peak. Three digits.
    number = {name: float(re.search(pattern, done.stdout)[1]) for name, pattern in NUMBERS.items()}
    steps = number["bound"] * peak / (number["gflop"] * 1e9)
    assert 0.9 * number["steps"] / number["lanes"] <= steps <= 1.1 * number["steps"]
    assert steps == pytest.approx(round(steps), rel=0.05)
    assert not (tmp_path / "runs").exists()
