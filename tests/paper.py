"""The paper at its own scale on a mock: python tests/paper.py build/paper [--scale 0.01]. Everything here is simulated.

14,406 common stars, 437,445 + 576,390 spectra, 35,862 + 89,852 repeats, four models, flags, errors, both catalogues and
the report. Spectra of the catalogues and the repeats are streamed (cc-mock piped into cc-infer); only those of the
common stars are on disk, for training. A step whose outputs are there is not done again. Prints for each step wall
time, spectra per second, processor time and the largest memory of a process; build/paper/steps.md has the table.
"""
import argparse
import json
import os
import shlex
import subprocess
import sys
import time
from pathlib import Path

from cannonkit import stream
from cannonkit.stages import mock_stars

COMMON, APOGEE, GALAH, APOGEE_REPEATS, GALAH_REPEATS = 14_406, 437_445, 576_390, 35_862, 89_852
RECIPES = {"apogee": "apogee_dr16", "galah": "galah_dr3"}
MODELS = {"acgs": ("apogee", "galah"), "acaa": ("apogee", "apogee"), "gcgs": ("galah", "galah"),
          "gcaa": ("galah", "apogee")}
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def sizes(scale):
    """Settings of cc-mock: the cluster members count among the stars of their surveys."""
    share = min(1.0, max(0.15, 10.0 * scale))
    counts = [[int(-(-share * n // 1)) for n in cluster[9:11]] for cluster in mock_stars.CLUSTERS]
    both = sum(min(pair) // 3 for pair in counts)
    galah, apogee = (sum(pair[k] for pair in counts) for k in (0, 1))
    common = round(COMMON * scale)
    return {"common": common - both, "apogee_only": round(APOGEE * scale) - common - apogee + both,
            "galah_only": round(GALAH * scale) - common - galah + both, "apogee_repeats": round(APOGEE_REPEATS * scale),
            "galah_repeats": round(GALAH_REPEATS * scale), "clusters": share, "flag_rate": 1.0, "odd": 0.1,
            "missing_cameras": 0.0}


class Steps:
    """Runs commands, a list of lists for a pipe, and keeps what they cost."""

    def __init__(self, run):
        self.run, self.file = run, run / "steps.json"
        self.done = json.loads(self.file.read_text()) if self.file.is_file() else []

    def step(self, name, commands, outputs, spectra=0):
        if all((self.run / output).exists() for output in outputs):
            return
        print(f"--- mock: {name}", flush=True)
        print("    " + " | ".join(shlex.join(words) for words in commands), flush=True)
        start, before, processes = time.perf_counter(), None, []
        for k, words in enumerate(commands):
            last = k == len(commands) - 1
            process = subprocess.Popen(words, cwd=self.run, stdin=before, stdout=None if last else subprocess.PIPE)
            if before is not None:
                before.close()
            before = process.stdout
            processes.append(process)
        memory, busy, bad = 0, 0.0, []
        for words, process in zip(commands, processes, strict=True):
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
            memory, busy = max(memory, usage.ru_maxrss), busy + usage.ru_utime + usage.ru_stime
            bad += [f"{words[0]} ended with {process.returncode}"] if process.returncode else []
        if bad:
            sys.exit(f"mock: {name}: {'; '.join(bad)}")
        one = {"step": name, "seconds": time.perf_counter() - start, "processor": busy, "memory": memory / 1024.0,
               "spectra": spectra}
        self.done = [old for old in self.done if old["step"] != name] + [one]     # done again: the last time counts
        self.file.write_text(json.dumps(self.done))
        print("    " + self.words(one), flush=True)

    @staticmethod
    def words(one):
        rate = f"{one['spectra'] / one['seconds']:,.0f} spectra/s, " if one["spectra"] else ""
        return f"{one['seconds']:.1f} s, {rate}processor {one['processor']:.0f} s, memory {one['memory']:.0f} MB"

    def table(self, scale):
        cores = len(os.sched_getaffinity(0))
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
        lines = [f"Mock data at {scale:g} of the paper's scale, {cores} cores, {memory:.0f} GB of memory.", "",
                 "| step | wall time | spectra/s | processor time | largest process |", "|---|---|---|---|---|"]
        for one in self.done:
            rate = f"{one['spectra'] / one['seconds']:,.0f}" if one["spectra"] else ""
            lines.append(f"| {one['step']} | {one['seconds']:.0f} s | {rate} | {one['processor']:.0f} s | "
                         f"{one['memory']:.0f} MB |")
        total = sum(one["seconds"] for one in self.done)
        lines.append(f"| all | {total:.0f} s | | {sum(one['processor'] for one in self.done):.0f} s | "
                     f"{max(one['memory'] for one in self.done):.0f} MB |")
        return "\n".join(lines) + "\n"


def rows_in(path):
    with stream.open_source(str(path)) as source:
        return source.n_row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--scale", type=float, default=1.0)
    args = parser.parse_args()
    args.run.mkdir(parents=True, exist_ok=True)
    steps, scale = Steps(args.run), args.scale
    quiet = ["--quiet", "--overwrite"]
    settings = [word for key, value in sizes(scale).items() for word in ("--set", f"{key}={value}")]
    tables = {"apogee": "mock/apogee/allStar-r12-mock.fits", "galah": "mock/galah/GALAH_DR3_main_allstar_mock.fits"}
    every = {**tables, "galah": "mock/galah/GALAH_DR3_main_allspec_mock.fits"}
    gaia = {"apogee": "gaia_edr3_sky.yaml", "galah": "gaia_edr3.yaml"}

    def streamed(survey, table):
        return ["cc-mock", "--layout", "spectra", "--survey", survey, "--rows", table, "--from", "mock/truth.fits",
                *settings, "--quiet"]

    def matched(name, words, output):
        steps.step(name, [["cc-crossmatch", *words, "-o", output, *quiet]], [output])

    steps.step("catalogues of the mock", [["cc-mock", "--layout", "catalogues", "-o", "mock", *settings, *quiet]],
               ["mock/truth.fits"])
    matched("cross-match", [tables["apogee"], tables["galah"], "--recipe", "apogee_galah"], "training.fits")
    for survey, recipe in RECIPES.items():
        attach = ["--attach", "mock/gaia_edr3_mock.fits", str(CONFIGS / gaia[survey]),
                  "--attach", "mock/distances_mock.fits", str(CONFIGS / "distances_geo.yaml")]
        matched(f"select {survey}", [tables[survey], "--recipe", recipe, "--select", "catalogue", *attach],
                f"{survey}_catalogue.fits")
        matched(f"select repeats, {survey}", [every[survey], "--recipe", recipe, "--select", "repeats"],
                f"{survey}_repeats.fits")
    n_common = rows_in(args.run / "training.fits")
    for survey in RECIPES:
        output = f"{survey}_spectra.fits"
        steps.step(f"spectra of common stars, {survey}",
                   [[*streamed(survey, "training.fits"), "-o", output, "--overwrite"]], [output], n_common)
    # The exact likelihood of thousands of stars; the restricted one of hundreds.
    scatter = "ml" if n_common > 4000 else "reml"
    for name, (survey, labels) in MODELS.items():
        steps.step(f"train {name}", [["cc-train", f"{survey}_spectra.fits", "--training", "training.fits", "--labels",
                                      labels, "--config", str(CONFIGS / "cannon.yaml"), "--scatter", scatter, "-o",
                                      f"{name}.model.fits", *quiet]], [f"{name}.model.fits"])
    (args.run / "vmicro").mkdir(exist_ok=True)
    matched("cross-match for figure A3", [tables["apogee"], tables["galah"], "--recipe", "apogee_galah_vmicro"],
            "vmicro/training.fits")
    steps.step("train for figure A3", [["cc-train", "apogee_spectra.fits", "--training", "vmicro/training.fits",
                                        "--labels", "apogee", "--config", str(CONFIGS / "cannon.yaml"), "--scatter",
                                        scatter, "-o", "vmicro/acaa.model.fits", *quiet]], ["vmicro/acaa.model.fits"])
    for kind, product, what in (("catalogue", "labels", "labels"), ("repeats", "repeats", "labels of repeats")):
        for survey in RECIPES:
            table = f"{survey}_{kind}.fits"
            mine = [name for name, (own, _) in MODELS.items() if own == survey]
            infer = [word for name in mine for word in ("-m", f"{name}.model.fits", "-o", f"{name}.{product}.fits")]
            steps.step(f"{what}, {survey}: cc-mock piped into cc-infer, two models",
                       [[*streamed(survey, table), "-o", "-"], ["cc-infer", "-", *infer, *quiet]],
                       [f"{name}.{product}.fits" for name in mine], rows_in(args.run / table))
    for name, (survey, _) in MODELS.items():
        steps.step(f"flag {name}", [["cc-flag", f"{name}.labels.fits", "-m", f"{name}.model.fits", "--survey",
                                     f"{survey}_catalogue.fits", "--recipe", RECIPES[survey], "-o",
                                     f"{name}.flagged.fits", *quiet]], [f"{name}.flagged.fits"])
        steps.step(f"calibrate errors, {name}", [["cc-errors", "calibrate", f"{name}.repeats.fits", "-o",
                                                  f"{name}.errors.fits", *quiet]], [f"{name}.errors.fits"])
        steps.step(f"pulls of unseen repeats, {name}",
                   [["cc-errors", "validate", f"{name}.repeats.fits", "--across", "5", "--error-model", "full", "-o",
                     f"{name}.pulls.fits", *quiet]], [f"{name}.pulls.fits"])
        steps.step(f"apply errors, {name}", [["cc-errors", "apply", f"{name}.flagged.fits", "--errors",
                                              f"{name}.errors.fits", "-o", f"{name}.final.fits", *quiet]],
                   [f"{name}.final.fits"])
    surveys = [word for survey, recipe in RECIPES.items()
               for word in ("--survey", f"{survey}_catalogue.fits", "--recipe", recipe)]
    expected = round(APOGEE * scale) + round(GALAH * scale)
    for scaled, parts in (("galah_scaled.fits", ("acgs", "gcgs")), ("apogee_scaled.fits", ("acaa", "gcaa"))):
        steps.step(f"catalogue {scaled}", [["cc-merge", "catalogue", *(f"{p}.final.fits" for p in parts), *surveys,
                                            "-o", scaled, *quiet]], [scaled])
        found = rows_in(args.run / scaled)
        print(f"mock: {scaled}: {found:,} rows, expected {expected:,}")
        if found != expected:
            sys.exit("mock: another number of rows than the scale says")
    steps.step("report", [["cc-report", "page", ".", "-o", "report", "--pair-template",
                            "mock/nitrogen_template.csv", *quiet]], ["report/index.html"])
    table = steps.table(scale)
    (args.run / "steps.md").write_text(table)
    print(table)
    subprocess.run(["cc-report", "summary", args.run], check=True)


if __name__ == "__main__":
    main()
