"""The mock pipeline as array jobs on a real Slurm of two virtual nodes: `make slurm`.

All parts; one task killed with kill -9 and one cancelled, then the same submission again; a task that ends with 75
and is tried again; a node that stops and its task requeued. The result must be that of a single machine in every
data byte.
"""
import os
import signal
import subprocess
import sys
import time

import pytest

from cannonkit import stream

SETTINGS = """
train:
  label_names: [teff, logg, fe_h]
  order: 1
  cross_validate: 4
errors:
  smallest_bin: 5
"""
# Stands before the commands in PATH: says which process a task is, and is as slow as a real task.
WRAPPER = """#!/bin/bash
echo $$ > "$PIDS/$PRODUCT.${{SLURM_ARRAY_TASK_ID:-x}}.$SLURMD_NODENAME"
[ -e "$PIDS/trouble.$PRODUCT" ] && [ -z "${{SLURM_RESTART_COUNT:-}}" ] && exit 75
[ -e "$PIDS/slow.$PRODUCT" ] && sleep "$(cat "$PIDS/slow.$PRODUCT")"
exec {python} {command} "$@"
"""


@pytest.fixture(scope="module")
def cluster(shared):
    """The environment of a running Slurm; skips with slurm-up's own words where it cannot be had."""
    if not os.environ.get("CANNONKIT_SLURM"):
        pytest.skip("takes some minutes: make slurm runs it")
    tools = shared / "tools"
    if not (tools / "slurm-up").exists():
        pytest.skip(f"{tools}/slurm-up is not there")
    up = subprocess.run([tools / "slurm-up"], capture_output=True, text=True)
    if up.returncode == 69:
        pytest.skip(f"no Slurm here: {up.stderr.strip().splitlines()[-1]}")
    assert up.returncode == 0, up.stderr
    config = up.stdout.split("SLURM_CONF=")[1].strip()
    yield config
    subprocess.run([tools / "slurm-down"], env={**os.environ, "SLURM_CONF": config}, capture_output=True)


class Run:
    """A run directory on the cluster, and what is asked of Slurm."""

    def __init__(self, folder, root, config):
        self.folder, self.root, self.run = folder, root, folder / "run"
        self.run.mkdir()
        (folder / "pids").mkdir()
        wrappers = folder / "wrappers"
        wrappers.mkdir()
        for command in (root / "bin").iterdir():
            path = wrappers / command.name
            path.write_text(WRAPPER.format(python=sys.executable, command=command))
            path.chmod(0o755)
        (folder / "small.yaml").write_text(SETTINGS)
        env = {k: v for k, v in os.environ.items() if not k.endswith("_NUM_THREADS")}
        self.env = {**env, "SLURM_CONF": config, "PYTHONPATH": str(root), "PIDS": str(folder / "pids"),
                    "PATH": f"{wrappers}:{os.path.dirname(sys.executable)}:{os.environ['PATH']}",
                    "RUN": str(self.run), "CONFIG": str(folder / "small.yaml"), "PARTS": "2", "CPUS": "1",
                    "MODELS": "acgs gcgs", "SCALES": "galah_scaled", "SBATCH": "--time=15"}

    def tell(self, *words, check=True, **env):
        done = subprocess.run(words, env={**self.env, **env}, capture_output=True, text=True, timeout=1200)
        assert done.returncode == 0 or not check, (words, done.stdout, done.stderr)
        return done

    def submit(self, **env):
        """{name: job number} of one submission of everything."""
        lines = self.tell("bash", self.root / "configs" / "submit.sh", **env).stderr.splitlines()
        return {name: number for number, name in (line.split() for line in lines)}

    def state(self, job):
        """{task or job id: state} of a job, from the controller."""
        out = self.tell("scontrol", "-o", "show", "job", job, check=False).stdout
        found = {}
        for line in out.splitlines():
            words = dict(word.split("=", 1) for word in line.split() if "=" in word)
            found[words.get("ArrayTaskId", "-")] = words["JobState"]
        return found

    def until(self, what, true, seconds=300):
        deadline = time.monotonic() + seconds
        while not (value := true()):
            assert time.monotonic() < deadline, f"not in {seconds} s: {what}\n{self.queue()}"
            time.sleep(0.3)
        return value

    def queue(self):
        logs = "\n".join(f"{p.name}: {p.read_text()[-300:]}" for p in sorted((self.run / "logs").glob("*.log")))
        return self.tell("squeue", "-r", check=False).stdout[-3000:] + logs[-6000:]

    def ended(self, jobs, seconds=900):
        """Wait until none of these jobs waits or runs; {name: set of states}."""
        def states():
            found = {name: self.state(number) for name, number in jobs.items()}
            busy = {s for tasks in found.values() for s in tasks.values()} & {"PENDING", "RUNNING", "COMPLETING",
                                                                             "REQUEUED", "SUSPENDED"}
            return None if busy else {name: set(tasks.values()) for name, tasks in found.items()}
        return self.until("all jobs have ended", states, seconds)

    def process(self, product, task):
        """The process of a task as soon as it runs, and its node."""
        def find():
            for path in (self.folder / "pids").glob(f"{product}.{task}.*"):
                if path.read_text().strip():
                    return int(path.read_text()), path.name.rsplit(".", 1)[1]
            return None
        return self.until(f"{product} task {task} runs", find, 600)

    def slow(self, product, seconds):
        (self.folder / "pids" / f"slow.{product}").write_text(str(seconds))

    def fast(self, product):
        (self.folder / "pids" / f"slow.{product}").unlink()


def sums(path):
    with stream.open_source(path, verify=True) as source:
        return source.datasums()


@pytest.fixture(scope="module")
def work(cluster, tmp_path_factory, root):
    """A Run with its mock made, and the same run by make on one machine (folder `single`)."""
    folder = tmp_path_factory.mktemp("slurm")
    run = Run(folder, root, cluster)
    run.tell("cc-mock", "-o", run.run / "mock", "--common", "40", "--apogee-only", "10", "--galah-only", "10",
             "--clusters", "0")
    single = folder / "single"
    single.mkdir()
    (single / "mock").symlink_to(run.run / "mock")
    run.tell("make", "-C", root, "-f", "configs/pipeline.mk", single / "galah_scaled.fits", single / "acgs.pulls.fits",
             RUN=str(single))
    return run


PRODUCTS = ("training", "apogee_spectra", "galah_repeat_spectra", "acgs.labels", "gcgs.repeats", "acgs.flagged",
            "gcgs.final", "acgs.pulls", "galah_scaled")


def test_killed_and_cancelled_tasks_then_all_again(work):
    work.slow("acgs.labels", 20)
    work.slow("gcgs.labels", 20)
    jobs = work.submit()
    pid, _ = work.process("acgs.labels", 1)
    os.kill(pid, signal.SIGKILL)
    work.process("gcgs.labels", 0)
    work.tell("scancel", f"{jobs['gcgs.labels']}_0")
    states = work.ended(jobs)
    print("first submission:", {n: sorted(s) for n, s in states.items() if s != {"COMPLETED"}})
    assert states["acgs.labels"] == {"FAILED", "COMPLETED"}, states
    assert states["gcgs.labels"] == {"CANCELLED", "COMPLETED"}, states
    # afterany: the merge runs, names the missing part and refuses; what depends on it never starts.
    assert states["acgs.labels-merge"] == {"FAILED"} and states["acgs.flagged"] == {"CANCELLED"}, states
    assert states["catalogue"] == {"CANCELLED"}, states
    log = work.run / "logs" / f"acgs.labels-merge-{jobs['acgs.labels-merge']}.log"
    said = work.until("the merge says what is missing", lambda: log.exists() and log.read_text(), 30)
    assert "error:" in said and "missing" in said and said.count("\n") == 1, said
    for name in ("acgs.labels", "gcgs.labels", "acgs.flagged", "gcgs.flagged", "galah_scaled"):
        assert not (work.run / f"{name}.fits").exists(), name
    parts = sorted(p.name for p in (work.run / "parts" / "acgs.labels").iterdir())
    assert parts == ["part-00000-of-00002.fits"], parts

    work.fast("acgs.labels")
    work.fast("gcgs.labels")
    kept = {p: p.stat().st_mtime_ns for p in (work.run / "parts").rglob("part-*.fits")}
    jobs = work.submit()
    states = work.ended(jobs)
    assert set().union(*states.values()) == {"COMPLETED"}, (states, work.queue())
    assert all(p.stat().st_mtime_ns == made for p, made in kept.items()), "a part that was there was made again"
    for name in PRODUCTS:
        assert sums(work.run / f"{name}.fits") == sums(work.folder / "single" / f"{name}.fits"), name
    print("second submission: all completed;", len(kept), "parts kept;", len(PRODUCTS), "products as on one machine")


def test_a_task_that_ends_with_75(work):
    """A passing trouble in both tasks: Slurm tries them again; one processor each means one thread."""
    if not (work.run / "acgs.repeats.fits").exists():
        pytest.skip("the run before did not end")
    for path in (work.run / "parts" / "acgs.repeats").iterdir():
        path.unlink()
    (work.folder / "pids" / "trouble.acgs.repeats").write_text("")
    options = ("--array=0-1", "--requeue", "--cpus-per-task=1", "--open-mode=append",
               f"--output={work.run}/logs/again-%A_%a.log")
    job = work.tell("sbatch", "--parsable", *options, work.root / "configs" / "infer.sbatch", PRODUCT="acgs.repeats",
                    ).stdout.strip()
    for task in ("0", "1"):
        work.until(f"task {task} waits for its second try", lambda t=task: "Restarts=1 " in work.tell(
            "scontrol", "-o", "show", "job", f"{job}_{t}", check=False).stdout, 120)
        work.tell("scontrol", "update", f"JobId={job}_{task}", "StartTime=now")
    states = work.ended({"infer": job}, 300)
    assert states == {"infer": {"COMPLETED"}}, work.queue()
    for task in ("0", "1"):
        assert "on 1 thread\n" in (work.run / "logs" / f"again-{job}_{task}.log").read_text()
    work.tell("cc-merge", "shards", work.run / "parts" / "acgs.repeats", "-o", work.folder / "tried.fits")
    assert sums(work.folder / "tried.fits") == sums(work.folder / "single" / "acgs.repeats.fits")
    print("exit code 75: both tasks tried again on 1 thread each, completed, same bytes")


def test_a_node_stops(work):
    """slurmd of a node dies: the node is down, its task is requeued and ends on the other node; the labels are
    the same, although the first attempt runs on and writes the same part."""
    if not (work.run / "acgs.repeats.fits").exists():
        pytest.skip("the run before did not end")
    directory = os.path.dirname(work.env["SLURM_CONF"])
    for path in (work.run / "parts" / "acgs.repeats").iterdir():
        path.unlink()
    for path in (work.folder / "pids").glob("acgs.repeats.*"):
        path.unlink()
    work.slow("acgs.repeats", 90)       # longer than Slurm needs to notice (about 50 s)
    options = ("--array=0-1", "--requeue", "--cpus-per-task=2", f"--output={work.run}/logs/node-%A_%a.log")
    job = work.tell("sbatch", "--parsable", *options, work.root / "configs" / "infer.sbatch", PRODUCT="acgs.repeats",
                    ).stdout.strip()
    nodes = {work.process("acgs.repeats", task)[1]: task for task in (0, 1)}
    assert set(nodes) == {"n0", "n1"}, nodes
    with open(f"{directory}/slurmd.n1.pid") as file:
        os.kill(int(file.read()), signal.SIGKILL)
    task = nodes["n1"]
    work.until("the node is down and its task waits", lambda: work.state(job).get(str(task)) == "PENDING", 180)
    work.fast("acgs.repeats")
    work.tell("scontrol", "update", f"JobId={job}_{task}", "StartTime=now")
    states = work.ended({"infer": job}, 300)
    assert states == {"infer": {"COMPLETED"}}, work.queue()
    work.tell("cc-merge", "shards", work.run / "parts" / "acgs.repeats", "-o", work.folder / "again.fits")
    assert sums(work.folder / "again.fits") == sums(work.folder / "single" / "acgs.repeats.fits")
    print(f"node n1 stopped: task {task} requeued, {sorted(states['infer'])}, same bytes")
