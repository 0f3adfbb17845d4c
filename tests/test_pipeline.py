"""configs/pipeline.mk by dry runs: what is made again when something changed."""
import fnmatch
import os
import re
import subprocess
from pathlib import Path

import pytest

from cannonkit import run_directory

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of empty files, each older than what is made from it."""
    folder = tmp_path_factory.mktemp("pipeline")
    inputs = {"CONFIG": folder / "cannon.yaml", "GALAH_ALLSPEC": folder / "allspec.fits",
              **{name: folder / f"{name.lower()}.fits" for name in ("APOGEE", "GALAH", "GAIA", "DISTANCES")}}
    command = ["make", "-n", "--no-print-directory", "-f", str(ROOT / "configs" / "pipeline.mk"),
               f"RUN={folder / 'run'}", *(f"{name}={path}" for name, path in inputs.items())]
    (folder / "run" / "mock").mkdir(parents=True)
    for path in (*inputs.values(), *(folder / "run" / name for name in (
            "mock/truth.fits", "mock/clusters_open.fits", "clusters.fits", "truth.fits"))):
        path.touch()
    lines = shell(command)
    made = [Path(p) for line in lines for p in re.findall(r" -o (\S+)", line)]
    newest = max(p.stat().st_mtime for p in (*(ROOT / "configs").iterdir(), folder / "run" / "truth.fits")) + 10
    for k, path in enumerate((*inputs.values(), *made)):
        path = path / "index.html" if path.name == "report" else path
        path.parent.mkdir(exist_ok=True)
        path.touch()
        os.utime(path, (newest + k, newest + k))

    def remade(*changed, **variables):
        """Commands that run when these files of the run are newer than all others."""
        kept = {p: p.stat() for p in changed}
        for p in changed:
            os.utime(p, (newest + 1000, newest + 1000))
        try:
            return shell([*command, *(f"{k}={v}" for k, v in variables.items())])
        finally:
            for p, stat in kept.items():
                os.utime(p, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    remade.folder, remade.made, remade.first, remade.command = folder / "run", made, lines, command
    return remade


def shell(command):
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "MAKEFLAGS": ""})
    assert done.returncode == 0, done.stderr
    return done.stdout.replace("\\\n", " ").splitlines()


def test_a_finished_run_is_left_alone(run):
    assert [line.split()[:2] for line in run()] == [["cc-report", "summary"]]


def test_the_report_is_made_again_for_everything_that_it_draws(run):
    patterns = [p for part in run_directory.PARTS.values() for p in part.patterns]
    drawn = [p for p in run.folder.rglob("*.fits")
             if any(fnmatch.fnmatch(str(p.relative_to(run.folder)), pattern) for pattern in patterns)]
    assert len(drawn) > 40
    for path in drawn:
        if path.name.endswith((".labels.fits", ".flagged.fits")):   # the final labels have all that these have
            continue
        assert any(line.startswith("cc-report page") for line in run(path)), path


def test_repeats_kept_aside_are_validated(run):
    for model in ("acgs", "gcgs", "gcaa", "acaa"):
        line, = [line for line in run.first if f"{model}.pulls.fits" in line and "validate" in line]
        assert "--across 5" in line and "--error-model full" in line and "--errors" not in line
        # the errors of the catalogue are calibrated on all repeats
        assert not any("--holdout" in line for line in run.first if f"{model}.errors.fits" in line)
    without = run(run.folder / "acgs.repeats.fits", FOLDS="")
    assert not any("validate" in line for line in without) and any("calibrate" in line for line in without)


def test_settings_reach_every_command(run):
    commands = [line for line in run.first if line.startswith("cc-") and "summary" not in line]
    assert len(commands) == 36
    assert all(f"--config {run.folder.parent / 'cannon.yaml'}" in line for line in commands)
    again = {line.split()[0] for line in run(run.folder.parent / "cannon.yaml")}
    assert again == {"cc-train", "cc-infer", "cc-flag", "cc-errors", "cc-merge", "cc-report"}   # not cc-resample


RECIPES = {"APOGEE_RECIPE": "apogee_dr16", "GALAH_RECIPE": "galah_dr3", "PAIR_RECIPE": "apogee_galah",
           "APOGEE_GAIA_RECIPE": "gaia_edr3_sky", "GALAH_GAIA_RECIPE": "gaia_edr3", "DISTANCES_RECIPE": "distances_geo"}


STUB = """#!/bin/bash
while (($#)); do [ "$1" = -o ] && { echo "$2" >> "$MADE"; touch -d "@$WHEN" "$2"; }; shift; done
"""


def test_a_change_makes_what_depends_on_it_and_nothing_else(run, tmp_path):
    """Referee: the commands themselves. One runs if a file in its line changed, or what that is made from, else not.

    A real make with commands that only touch their outputs: of targets made together `make -n` follows one.
    """
    for name in {line.split()[0] for line in run.first if line.startswith("cc-")}:
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)
    recipes = {variable: tmp_path / f"{name}.yaml" for variable, name in RECIPES.items()}
    for path in recipes.values():
        path.write_text("")
        os.utime(path, (1e9, 1e9))
    commands = []
    for line in run.first:
        if line.startswith("cc-") and not line.startswith("cc-report"):
            for path in recipes.values():
                line = re.sub(rf"\S*/configs/{path.name}", str(path), line)
            made = set(re.findall(r" -o (\S+)", line))
            needed = set(line.split()) - made
            if str(recipes["PAIR_RECIPE"]) in needed:       # it names these two
                needed |= {str(recipes["APOGEE_RECIPE"]), str(recipes["GALAH_RECIPE"])}
            commands.append((needed, made))
    made = [p for p in run.made if p.suffix == ".fits"]
    before = {p: p.stat() for p in made}
    last = max(stat.st_mtime for stat in before.values())
    changes = [*recipes.values(), *(run.folder.parent / f"{n}.fits" for n in ("apogee", "galah", "gaia", "allspec")),
               *(p for p in made if p.name.endswith(("model.fits", "errors.fits", "training.fits", "a_spectra.fits")))]
    assert len(changes) == 19 and len(commands) == 35
    for changed in changes:
        stale = {str(changed)}
        for needed, outputs in commands:        # in the order in which they are made
            if needed & stale:
                stale |= outputs
        (tmp_path / "made").write_text("")
        kept = changed.stat()
        os.utime(changed, (last + 1000, last + 1000))
        command = [*(w for w in run.command if w != "-n"), "--silent", "-j4", *(f"{k}={v}" for k, v in recipes.items())]
        env = {**os.environ, "MAKEFLAGS": "", "PATH": f"{tmp_path}:{os.environ['PATH']}",
               "MADE": str(tmp_path / "made"), "WHEN": str(int(last + 2000))}
        done = subprocess.run([*command, *map(str, made)], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        found = set((tmp_path / "made").read_text().split())
        for path, stat in {**before, changed: kept}.items():
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        assert found == stale - {str(changed)}, (changed.name, sorted(found ^ stale))


def test_the_report_is_told_of_other_recipes(run):
    assert not any("--recipes" in line for line in run.first)
    lines = run(run.folder / "training.fits", APOGEE_RECIPE=ROOT / "configs" / "sky.yaml")
    assert any(f"--recipes {ROOT}/configs/sky.yaml,{ROOT}/configs/galah_dr3.yaml" in line for line in lines)
