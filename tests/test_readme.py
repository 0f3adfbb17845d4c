"""The command lines of README run as printed, one after the other, in an empty directory."""
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"```sh\n(.*?)```", TEXT, re.DOTALL)
LINES = [line for block in BLOCKS for line in block.splitlines() if line.strip()]


@pytest.fixture(scope="module")
def scratch(tmp_path_factory):
    return tmp_path_factory.mktemp("readme")


def shell(line, where):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environment.pop("NUMBA_NUM_THREADS", None)
    return subprocess.run(["bash", "-c", f"set -eu -o pipefail; {line}"], cwd=where, env=environment,
                          capture_output=True, text=True)


def test_there_are_lines():
    assert len(LINES) >= 10 and {shlex.split(line)[0] for line in LINES} <= {
        f"cc-{x}" for x in ("mock", "crossmatch", "resample", "train", "infer", "flag", "errors", "merge", "check")}


@pytest.mark.parametrize("number", range(len(LINES)))
def test_line_runs(scratch, number):
    done = shell(LINES[number], scratch)
    assert done.returncode == 0, f"{LINES[number]}\n{done.stderr}"
    assert "Traceback" not in done.stderr


def test_pipe_and_files_give_the_same_data(scratch):
    """README says so of its own pipe; here with the whole chain through files."""
    from cannonkit import stream
    done = shell("cc-flag acgs.labels.fits -m acgs.model.fits -o stepwise.fits", scratch)
    assert done.returncode == 0, done.stderr
    sums = []
    for name in ("piped.fits", "stepwise.fits"):
        with stream.open_source(scratch / name, "labels", verify=True) as source:
            sums.append((source.datasums(), source.n_row))
    assert sums[0] == sums[1] and sums[0][1] > 100


def test_own_files_line_is_a_valid_make_command(tmp_path):
    """The make command for one's own files: a dry run with empty stand-ins names every product."""
    block = re.search(r"    (make -f configs/pipeline.mk RUN=run.*?)\n\n", TEXT, re.DOTALL)[1]
    command = " ".join(line.strip().rstrip("\\") for line in block.splitlines())
    for word in shlex.split(command):
        if word.endswith(".fits"):
            (tmp_path / word.partition("=")[2]).touch()
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    done = shell(command.replace("make ", "make -n ", 1), tmp_path)
    assert done.returncode == 0, done.stderr
    for name in ("training.fits", "gcaa.model.fits", "acgs.final.fits", "galah_scaled.fits", "report"):
        assert f"run/{name}" in done.stdout
    assert "GALAH_DR3_main_allspec_v2.fits" in done.stdout and "dr16/apogee" in done.stdout
