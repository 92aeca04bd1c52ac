"""A share of the fault campaign (experiments/faults): no silent difference, no hang, no traceback."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

RUN = Path(__file__).parents[1] / "experiments" / "faults" / "run.py"
SECTIONS = ("kills", "bit flips", "disk", "cache", "temporary files", "surroundings", "run checkpoints", "encoders")
SECTIONS += ("configs", "corpora")
SHARE = 0.12  # some five minutes on two fast cores

pytestmark = [
    pytest.mark.campaign,
    pytest.mark.skipif(shutil.which(os.environ.get("CC", "cc")) is None, reason="the campaign needs a C compiler"),
]


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What the command writes; its exit code says whether all bars are met."""
    out = tmp_path_factory.mktemp("campaign")
    command = [sys.executable, str(RUN), str(out), "--share", str(SHARE)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=1800, check=False)
    assert (out / "faults.json").exists(), ended.stderr
    told = json.loads((out / "faults.json").read_text())
    assert ended.returncode == (not all(told["bars"].values())), ended.stderr
    return told


@pytest.mark.parametrize("section", SECTIONS)
def test_no_case_ends_in_another_number_a_hang_or_a_traceback(told, section):
    results = told["results"][section]
    assert results
    assert [result for result in results if result[1] not in ("identical", "refused", "repaired")] == []


@pytest.mark.parametrize("section", ["kills", "cache"])
def test_where_nothing_is_damaged_the_end_is_the_undisturbed_one(told, section):
    assert [result for result in told["results"][section] if result[1] != "identical"] == []
