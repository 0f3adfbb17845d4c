"""The fault table of the project: each row tried on every command that it can hit.

`make test` runs small counts; `make faults` (CANNONKIT_FAULTS=full) the full ones and prints the table. Every
case is judged in one place (`Judge`): the documented exit code, one line on standard error that names the
place, no new file in the directory, never a signal, a hang or a traceback.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

HERE = Path(__file__).resolve().parent
FULL = os.environ.get("CANNONKIT_FAULTS") == "full"

ROWS = {
    1: "truncated, file and pipe",
    2: "a flipped data byte",
    3: "header bytes changed",
    4: "not FITS, or two of it",
    5: "NaN, inf and odd ivar",
    6: "stars without pixels",
    7: "training that cannot work",
    8: "identifiers",
    9: "units and medium",
    10: "other grids",
    11: "columns missing or of another type",
    12: "odd FITS tables",
    13: "0 rows, many columns, lies",
    14: "gz, fz, fits-plus, other HDU",
    15: "full disk, failing calls, limits",
    16: "standard output",
    17: "killed, then --resume",
    18: "places that cannot be written",
    19: "races, merges",
    20: "YAML, options and settings",
    21: "models",
    22: "file names",
    23: "odd header text",
    24: "the same bytes",
    25: "kernel cache",
    26: "Slurm",
    27: "sky positions",
}
# Rows whose cases are tests of their own elsewhere; `make faults` runs those files too.
ELSEWHERE = {
    "tests/test_config.py": 20,
    "tests/test_cache.py": 25,
    "tests/stages/test_crossmatch.py": 27,
    "tests/test_slurm.py": 26,
    "tests/test_stream.py": 1,
    "tests/test_cli.py": 16,
}


def count(small, full):
    """How many cases to try."""
    return full if FULL else small


@pytest.fixture(scope="session")
def many():
    """many(small, full) -> the number of cases of this run."""
    return count


class Zygote:
    """Commands and probes, each in a forked child (zygote.py)."""

    def __init__(self, folder):
        env = {k: v for k, v in os.environ.items() if not k.startswith("SLURM_")}
        env.update(
            NUMBA_NUM_THREADS="1",
            NUMBA_THREADING_LAYER="workqueue",
            OPENBLAS_NUM_THREADS="1",
            PYTHONPATH=str(HERE.parent.parent),
            SOURCE_DATE_EPOCH="0",
        )
        self.log = folder / "zygote.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [sys.executable, HERE / "zygote.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=env
            )

    def ask(self, function, timeout=60, **arguments):
        task = {"function": function, "arguments": arguments, "timeout": timeout}
        self.process.stdin.write(json.dumps(task, default=os.fspath).encode() + b"\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the zygote ended: {self.log.read_text()[-3000:]}"
        return json.loads(line)

    def close(self):
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(30)


class Answer:
    """How a command ended: code (999: not in time), out (bytes), err (text), calls, memory, seconds."""

    def __init__(self, answer, out, err):
        self.code, self.memory, self.seconds = answer["code"], answer["memory"], answer["seconds"]
        value = answer["value"] or {}
        self.calls, self.out, self.err = value.get("calls", {}), out, err + value.get("traceback", "")

    def __repr__(self):
        return f"code {self.code}, {self.seconds:.1f} s, stderr {self.err[-1500:]!r}"


@pytest.fixture(scope="session")
def zygote(tmp_path_factory):
    zygote = Zygote(tmp_path_factory.mktemp("zygote"))
    yield zygote
    zygote.close()


@pytest.fixture
def new_zygote(tmp_path_factory):
    """new_zygote() -> one more, for races."""
    made = []

    def new():
        made.append(Zygote(tmp_path_factory.mktemp("zygote")))
        return made[-1]

    yield new
    for one in made:
        one.close()


class Play:
    """Runs commands in the zygote, in a folder of the test's own (also the temporary directory)."""

    def __init__(self, zygote, folder):
        self.zygote, self.folder, self.scratch = zygote, folder, folder / ".scratch"
        self.scratch.mkdir()

    def __call__(self, name, *arguments, stdin=None, stdout=None, env=None, timeout=60, quiet=True, **keywords):
        out, err = self.scratch / "out", self.scratch / "err"
        out.unlink(missing_ok=True)
        err.unlink(missing_ok=True)
        arguments = [os.fsdecode(os.fspath(a)) if not isinstance(a, int) else str(a) for a in arguments]
        if isinstance(stdin, os.PathLike):
            stdin = {"pipe": os.fspath(stdin)}
        answer = self.zygote.ask(
            "command",
            timeout,
            name=name,
            arguments=[*arguments, *["--quiet"] * quiet],
            stdin=stdin,
            stdout=stdout or str(out),
            stderr=str(err),
            cwd=str(self.folder),
            env={"TMPDIR": str(self.folder / ".scratch"), **(env or {})},
            **keywords,
        )
        return Answer(
            answer, out.read_bytes() if out.exists() else b"", err.read_text(errors="replace") if err.exists() else ""
        )

    def files(self):
        return sorted(
            str(p.relative_to(self.folder))
            for p in self.folder.rglob("*")
            if ".scratch" not in p.parts[len(self.folder.parts) :]
        )


@pytest.fixture
def play(zygote, tmp_path):
    """play("flag", "in.fits", "-o", "out.fits", stdin=path, limits=..., fail=...) -> Answer; play.files()."""
    zygote.ask("load_kernels")           # those that an earlier test had to compile
    folder = tmp_path / "here"
    folder.mkdir()
    return Play(zygote, folder)


# --- judging ----------------------------------------------------------------------------------------


class Judge:
    """Counts and judges the cases of one row of the table; at the end of the test none may be wrong."""

    def __init__(self, tally, row):
        self.counts, self.wrong = tally.setdefault(row, [0, 0, 0, 0]), []

    def _add(self, place, what, problems):
        self.counts[0] += 1
        if problems:
            self.counts[3] += 1
            self.wrong.append(f"{what}: {'; '.join(problems)}")
        else:
            self.counts[place] += 1

    def refused(self, what, answer, code=65, words=(), play=None, before=None):
        """The command must have ended with `code` and one line that has all `words`, leaving nothing."""
        codes = (code,) if isinstance(code, int) else code
        problems = []
        if answer.code not in codes:
            problems.append(f"code {answer.code}, expected {code}")
        lines = [line for line in answer.err.splitlines() if ": warning: " not in line]
        silent = answer.code in (130, 137, 141, 143)
        if len(lines) != (0 if silent else 1) or not (silent or ": error: " in lines[0]):
            problems.append("not one error line")
        problems += [f"no {word!r} in it" for word in words if not silent and word not in answer.err]
        if "Traceback" in answer.err or "internal error" in answer.err:
            problems.append("traceback or internal error")
        if answer.seconds > 30:
            problems.append(f"{answer.seconds:.0f} s")
        if play is not None and play.files() != before:
            problems.append(f"files changed: {sorted(set(play.files()) ^ set(before))}")
        self._add(1, what, problems + [repr(answer)] * bool(problems))

    def done(self, what, answer, problem=None):
        """The command must have succeeded; `problem`: what else is wrong with it, or None."""
        problems = [f"code {answer.code}"] if answer is not None and answer.code != 0 else []
        problems += [problem] if problem else []
        if answer is not None and ("Traceback" in answer.err or "internal error" in answer.err):
            problems.append("traceback")
        self._add(2, what, problems + [repr(answer)] * bool(problems and answer is not None))

    def check(self, what, good, detail=""):
        """A case that is neither a refusal nor a run: `good` must be true."""
        self._add(2, what, [] if good else [detail or "wrong"])

    def end(self):
        assert not self.wrong, f"{len(self.wrong)} wrong:\n" + "\n".join(self.wrong[:20])


@pytest.fixture
def judge(request):
    """judge(row) -> Judge; at the end of the test all of its cases must have been right."""
    tally = request.config.__dict__.setdefault("fault_tally", {})
    given = []

    def new(row):
        given.append(Judge(tally, row))
        return given[-1]

    yield new
    for one in given:
        one.end()


def pytest_terminal_summary(terminalreporter, config):
    tally = {row: list(counts) for row, counts in config.__dict__.get("fault_tally", {}).items()}
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, ()):
            row = ELSEWHERE.get(report.nodeid.partition("::")[0])
            if row and getattr(report, "when", "") == "call" and FULL:
                counts = tally.setdefault(row, [0, 0, 0, 0])
                counts[0] += 1
                counts[2 if outcome == "passed" else 3] += 1
    if not tally or not (FULL or config.option.verbose > 0):
        return
    terminalreporter.write_line("")
    terminalreporter.write_line(f"{'fault':<42}{'tried':>8}{'refused rightly':>17}{'done rightly':>14}{'wrong':>7}")
    for row in sorted(tally):
        tried, refused, done, wrong = tally[row]
        terminalreporter.write_line(f"{row:>2} {ROWS[row]:<39}{tried:>8}{refused:>17}{done:>14}{wrong:>7}")
    total = np.sum(list(tally.values()), axis=0)
    terminalreporter.write_line(f"{'all':<42}{total[0]:>8}{total[1]:>17}{total[2]:>14}{total[3]:>7}")
    missing = sorted(set(ROWS) - set(tally))
    if missing:
        terminalreporter.write_line("not run: " + ", ".join(f"{row} {ROWS[row]}" for row in missing))


# --- the shared world -------------------------------------------------------------------------------

N_STAR, N_REPEAT, N_PIX = 160, 60, 40
LABELS = ("teff", "logg", "fe_h")


class World:
    """A small survey taken through the whole pipeline once: world["labels"] is the path of a product.

    toy (catalogue), repeat_table, spectra_file, recipe, stars and repeats (selections), spectra,
    repeat_spectra, model, labels, repeat_labels, flagged, errors, final, parts (a folder with two parts of
    labels).
    """

    def __init__(self, folder, zygote):
        self.folder, self.paths = folder, {}
        self.play = Play(zygote, folder)
        zygote.ask("load_kernels")
        rng = np.random.default_rng(8)
        self._survey(rng)
        shutil.copy(HERE / "toy.yaml", folder / "toy.yaml")
        self.paths["recipe"] = folder / "toy.yaml"
        self._run("stars", "crossmatch", "toy.fits", "--recipe", "toy.yaml")
        self._run("repeats", "crossmatch", "toy_repeats.fits", "--recipe", "toy.yaml")
        self._run("spectra", "resample", "stars.fits", "--recipe", "toy.yaml", "--root", ".")
        self._run("repeat_spectra", "resample", "repeats.fits", "--recipe", "toy_repeats.yaml", "--root", ".")
        self._run("model", *self.train("spectra.fits", "stars.fits"))
        self._run("labels", "infer", "spectra.fits", "-m", "model.fits")
        self._run("repeat_labels", "infer", "repeat_spectra.fits", "-m", "model.fits")
        self._run("flagged", "flag", "labels.fits", "-m", "model.fits")
        self._run("errors", "errors", "calibrate", "repeat_labels.fits", "--set", "smallest_bin=5")
        self._run("final", "errors", "apply", "flagged.fits", "--errors", "errors.fits")
        (folder / "parts").mkdir()
        for k in range(2):
            self._run(
                f"part{k}",
                "infer",
                "spectra.fits",
                "-m",
                "model.fits",
                "--shard",
                f"{k}/2",
                output=f"parts/part-{k:05d}-of-00002.fits",
            )
        zygote.ask("load_kernels")

    @staticmethod
    def train(spectra, training, *more):
        return (
            "train",
            spectra,
            "--training",
            training,
            "--labels",
            "toy",
            "--set",
            "label_names=[teff, logg, fe_h]",
            "--cross-validate",
            "4",
            *more,
        )

    def _run(self, product, name, *arguments, output=None):
        output = output or f"{product}.fits"
        answer = self.play(name, *arguments, "-o", output, timeout=600)  # kernels may have to be compiled
        assert answer.code == 0, (name, arguments, answer)
        self.paths[product] = self.folder / output

    def __getitem__(self, name):
        return self.paths[name]

    def _survey(self, rng):
        from astropy.io import fits

        n = N_STAR + N_REPEAT
        star = np.r_[np.arange(N_STAR), np.repeat(np.arange(N_REPEAT // 2), 2)]
        labels = np.stack(
            [rng.uniform(4200, 6200, N_STAR), rng.uniform(1.5, 4.5, N_STAR), rng.uniform(-1, 0.4, N_STAR)], 1
        )[star]
        x = (labels - [5200, 3, -0.3]) / [2000, 3, 1.4]
        theta = np.r_[np.ones((1, N_PIX)), 0.15 * rng.normal(size=(3, N_PIX)), 0.03 * rng.normal(size=(6, N_PIX))]
        terms = [np.ones(n), *x.T, *[x[:, i] * x[:, j] for i in range(3) for j in range(i, 3)]]
        snr = rng.uniform(60, 150, n)
        sigma = np.repeat(1 / snr[:, None], N_PIX, 1)
        flux = np.stack(terms, 1) @ theta + sigma * rng.normal(size=(n, N_PIX))
        columns = {
            "toy_id": np.array([f"T{k:04d}" for k in range(n)]),
            "star": np.array([f"S{k:04d}" for k in star]),
            "ra": rng.uniform(0, 360, n),
            "dec": rng.uniform(-90, 90, n),
            "snr": snr,
        }
        for k, (name, e) in enumerate(zip(LABELS, (50.0, 0.1, 0.05), strict=True)):
            columns[name], columns[f"e_{name}"] = labels[:, k], np.full(n, e)
        for name, rows in (("toy", slice(0, N_STAR)), ("toy_repeats", slice(N_STAR, n))):
            cols = [fits.Column(c, "8A" if v.dtype.kind == "U" else "D", array=v[rows]) for c, v in columns.items()]
            fits.BinTableHDU.from_columns(cols, name="TOY").writeto(self.folder / f"{name}.fits")
            fits.HDUList(
                [fits.PrimaryHDU(), fits.ImageHDU(flux[rows], name="FLUX"), fits.ImageHDU(sigma[rows], name="SIGMA")]
            ).writeto(self.folder / f"{name}_spectra.fits")
        text = (HERE / "toy.yaml").read_text().replace("toy_spectra.fits", "toy_repeats_spectra.fits")
        (self.folder / "toy_repeats.yaml").write_text(text)
        self.paths.update(
            toy=self.folder / "toy.fits",
            repeat_table=self.folder / "toy_repeats.fits",
            spectra_file=self.folder / "toy_spectra.fits",
        )


@pytest.fixture(scope="session")
def world(tmp_path_factory, zygote):
    return World(tmp_path_factory.mktemp("world"), zygote)


@pytest.fixture(scope="session")
def tools(world):
    """{tool: (arguments before -o, the product it reads as INPUT)}: every command that reads and writes FITS.

    INPUT stands for the input; the other files are the world's.
    """
    recipe, root, model, errors = (str(world[k]) for k in ("recipe", "toy", "model", "errors"))
    root = os.path.dirname(root)
    return {
        "crossmatch": (["crossmatch", "INPUT", "--recipe", recipe], "toy"),
        "resample": (["resample", "INPUT", "--recipe", recipe, "--root", root], "stars"),
        "train": ([*World.train("INPUT", str(world["stars"]))], "spectra"),
        "infer": (["infer", "INPUT", "-m", model], "spectra"),
        "flag": (["flag", "INPUT", "-m", model], "labels"),
        "calibrate": (["errors", "calibrate", "INPUT", "--set", "smallest_bin=5"], "repeat_labels"),
        "apply": (["errors", "apply", "INPUT", "--errors", errors], "flagged"),
        "merge": (["merge", "shards", "INPUT", str(world["part1"])], "part0"),
    }


@pytest.fixture(scope="session")
def tool(tools):
    """tool("flag", path) -> command line with that input (default: the world's), without -o."""

    def line(name, path):
        return [str(path) if a == "INPUT" else a for a in tools[name][0]]

    return line
