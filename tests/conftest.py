"""Fixtures that all tests share."""
import importlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

# As in a command's process: one BLAS thread, set before numpy loads; enough Numba threads to
# compare 1, 2 and 4. Commands that the tests start choose their own (see `command`).
for _name in ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ[_name] = "1"
os.environ["NUMBA_NUM_THREADS"] = "4"

# A job that a script starts with & ignores SIGINT, and so would all that the tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# gnuastro's programs do not run without HOME; ours do (test_cache.py, test_no_home).
if "HOME" not in os.environ:
    os.environ["HOME"] = tempfile.mkdtemp()

ROOT = Path(__file__).resolve().parent.parent
SHARED = ROOT.parent / "shared"


class Result:
    """How a command ended: code as a shell shows it (128 + n for signal n), out (bytes), err (text)."""

    def __init__(self, code, out, err):
        self.code, self.out, self.err = code if code >= 0 else 128 - code, out, err

    def __repr__(self):
        return f"Result(code={self.code}, out={self.out[:200]!r}, err={self.err[-2000:]!r})"


@pytest.fixture(scope="session")
def root():
    """The checkout."""
    return ROOT


@pytest.fixture(scope="session")
def shared():
    """The folder with real survey data beside the checkout; skips where it is absent."""
    if not (SHARED / "data").is_dir():
        pytest.skip(f"no real survey data: {SHARED / 'data'} is not there")
    return SHARED


@pytest.fixture(scope="session")
def program():
    """program("stilts") -> its path; skips where it is not installed."""

    def find(name):
        path = shutil.which(name)
        if path is None:
            pytest.skip(f"{name} is not installed")
        return path

    return find


@pytest.fixture
def rng():
    """A seeded generator; the same numbers in every run and for every test."""
    import numpy as np

    return np.random.default_rng(20220611)


def clean_environment(changes=None):
    """The environment for a command: no thread settings of ours, no Slurm; `changes`: None removes."""
    env = {key: value for key, value in os.environ.items()
           if not key.startswith("SLURM_") and not key.endswith("_NUM_THREADS")}
    for key, value in (changes or {}).items():
        env.pop(key, None)
        if value is not None:
            env[key] = str(value)
    return env


def run(arguments, stdin=None, env=None, cwd=None, timeout=120, **keywords):
    """Run a program to its end; stdin: bytes, an open file or None (/dev/null)."""
    if isinstance(stdin, bytes):
        keywords["input"] = stdin
    else:
        keywords["stdin"] = subprocess.DEVNULL if stdin is None else stdin
    keywords.setdefault("stdout", subprocess.PIPE)
    done = subprocess.run([os.fspath(a) for a in arguments], stderr=subprocess.PIPE, cwd=cwd,
                          env=clean_environment(env), timeout=timeout, **keywords)
    return Result(done.returncode, done.stdout or b"", done.stderr.decode("utf-8", "replace"))


@pytest.fixture(scope="session")
def start():
    """start([program, argument, ...], stdin=, env=, cwd=, timeout=) -> Result; see `run`."""
    return run


@pytest.fixture(scope="session")
def command():
    """command("flag", "in.fits", "-o", "out.fits", stdin=, env=, cwd=) -> Result, as a process of its own."""

    def call(name, *arguments, **keywords):
        return run([sys.executable, ROOT / "bin" / f"cc-{name}", *arguments], **keywords)

    return call


@pytest.fixture(scope="session")
def inside():
    """inside("flag", "in.fits", "-o", "out.fits") -> exit code, in this process (quick; see capfd)."""

    def call(name, *arguments):
        module = importlib.import_module(f"cannonkit.commands.{name}")
        return module.main([os.fspath(a) for a in arguments])

    return call


@pytest.fixture(scope="session")
def without_write(tmp_path_factory):
    """without_write(folder) -> a command prefix under which nothing can be written into the folder.

    Takes the folder's write permission away, and root's power to ignore that (setpriv); a probe
    write must fail, or the test skips. Everything under the prefix runs with the same user.
    """

    def close(folder):
        for path in (folder, *folder.rglob("*")):
            if path.is_dir() and not path.is_symlink():
                path.chmod(0o555)
        prefix = []
        if os.geteuid() == 0:
            if shutil.which("setpriv") is None:
                pytest.skip("running as root, and setpriv is not there to give up root's file powers")
            prefix = ["setpriv", "--inh-caps=-all",
                      "--bounding-set=-dac_override,-dac_read_search,-fowner"]
        probe = run([*prefix, sys.executable, "-c", "import sys; open(sys.argv[1], 'w')", folder / "probe"])
        if probe.code == 0 or (folder / "probe").exists():
            (folder / "probe").unlink(missing_ok=True)
            pytest.skip(f"a probe write into a read-only folder succeeded ({prefix})")
        assert "PermissionError" in probe.err, probe
        return prefix

    return close


@pytest.fixture(scope="session")
def small_disk(tmp_path_factory):
    """small_disk(folder, "64k") -> a command prefix under which the folder is an empty disk of that size.

    A tmpfs in a mount namespace of its own; skips where that is not allowed.
    """

    def mount(folder, size):
        script = ('mount -t tmpfs -o "size=$1" tmpfs "$2" && shift 2 && exec "$@"')
        user = [] if os.geteuid() == 0 else ["--map-root-user"]
        return ["unshare", *user, "--mount", "sh", "-c", script, "sh", size, folder]

    if shutil.which("unshare") is None or run([*mount(tmp_path_factory.mktemp("disk"), "8k"), "true"]).code != 0:
        pytest.skip("a small disk cannot be made here (no mount namespaces)")
    return mount
