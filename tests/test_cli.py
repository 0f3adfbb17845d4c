"""What every command shares: exit codes, one-line errors, --help without libraries, threads, signals."""

import argparse
import dataclasses
import errno
import os
import re
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from cannonkit import cli, config, errors, process

TOY = '''
import os, sys, time
import dataclasses
from cannonkit import cli, config, errors

@config.section
class Toy:
    size: int = config.setting(3, "a size", low=1)

def run(args):
    kind, _, rest = args.input.partition(":")
    settings = config.resolve(Toy, args)
    if kind == "ok":
        cli.log(f"{settings.size} rows, {args.threads} threads")
        cli.warn("mind the gap")
    elif kind == "setting":
        raise errors.SettingError("size and shape do not go together", "size", "shape")
    elif kind == "error":
        raise getattr(errors, rest)("a.fits[X]: column 'y'\\nis not there")
    elif kind == "errno":
        raise OSError(int(rest), os.strerror(int(rest)), "some.fits")
    elif kind == "raise":
        raise {"value": ValueError("two\\nlines"), "memory": MemoryError(), "assert": AssertionError(),
               "recursion": RecursionError("deep"),
               "module": ModuleNotFoundError("no", name="matplotlib.pyplot")}[rest]
    elif kind == "warning":
        import warnings
        warnings.warn("first\\nsecond", RuntimeWarning)
    elif kind == "write":
        for _ in range(int(rest)):
            os.write(1, b"x" * 65536)
    elif kind == "print":
        print("x" * 100000)
    elif kind == "wait":
        with open(rest, "w") as file:
            file.write("half")
        try:
            print("ready", file=sys.stderr, flush=True)
            time.sleep(30)
        finally:
            os.unlink(rest)
    elif kind == "callback":
        import ctypes

        @ctypes.CFUNCTYPE(ctypes.c_int)
        def _raw_object_cache_getbuffer():
            os.kill(os.getpid(), int(rest))
            return sum(range(1000)) and 7
        cli.log(f"LLVM got {_raw_object_cache_getbuffer()}")
        time.sleep(10)
    elif kind == "open":
        first = open(__file__, "rb")
        os.write(1, b"FITS")
    elif kind == "progress":
        with cli.Progress(100, "spectra", args, interval=0.01) as progress:
            for _ in range(10):
                progress.advance(10)
                time.sleep(0.05)
    elif kind == "threads":
        import numba, numpy
        blas = [os.environ[f"{name}_NUM_THREADS"] for name in ("OPENBLAS", "MKL", "OMP")]
        cli.log(" ".join([str(numba.config.NUMBA_NUM_THREADS), *blas]))
    return None

def build_parser():
    parser = cli.new_parser("cc-toy", """A toy.

    Not shown.

    Examples:
      cc-toy ok -o out.fits
    """)
    cli.add_stream_options(parser, "WHAT")
    cli.add_shard_options(parser)
    cli.add_settings(parser, Toy)
    return parser

if __name__ == "__main__":
    sys.exit(cli.main(build_parser(), run))
'''


@pytest.fixture(scope="module")
def toy_path(tmp_path_factory):
    path = tmp_path_factory.mktemp("toy") / "cc-toy"
    path.write_text(TOY)
    return path


@pytest.fixture
def toy(toy_path, start):
    """toy("ok", "-o", "x", ...) -> Result of a process of its own."""

    def call(*arguments, **keywords):
        return start([sys.executable, toy_path, *arguments], **keywords)

    return call


# --- exit codes -----------------------------------------------------------------------------------

CODES = {
    "GateFailed": 1,
    "UsageError": 64,
    "DataError": 65,
    "NoInputError": 66,
    "UnavailableError": 69,
    "InternalError": 70,
    "CannotCreateError": 73,
    "TransferError": 74,
    "TryAgainError": 75,
    "ConfigError": 78,
    "SettingError": 78,
}


@pytest.mark.parametrize("name", [name for name in CODES if name != "SettingError"])
def test_our_errors(toy, name):
    done = toy(f"error:{name}", "-o", "x")
    assert done.code == CODES[name]
    assert done.err == "cc-toy: error: a.fits[X]: column 'y' is not there\n" and done.out == b""


def test_every_error_class_is_in_the_table():
    classes = {
        c.__name__: c.code
        for c in vars(errors).values()
        if isinstance(c, type) and issubclass(c, errors.CannonkitError) and c is not errors.CannonkitError
    }
    assert classes == CODES


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (errno.ENOSPC, 74),
        (errno.EIO, 74),
        (errno.EFBIG, 74),
        (errno.ENOENT, 66),
        (errno.EACCES, 66),
        (errno.EISDIR, 66),
        (errno.EEXIST, 73),
        (errno.EROFS, 73),
        (errno.EDQUOT, 75),
        (errno.ESTALE, 75),
        (errno.ENOMEM, 69),
        (errno.EPROTO, 74),
    ],
)
def test_errors_of_the_system(number, code):
    error = OSError(number, os.strerror(number), "some.fits")
    assert process.meaning(error)[0] == code
    assert "some.fits: " in process.meaning(error)[1]
    assert process.meaning(OSError(number, os.strerror(number), b"some\xff.fits"))[0] == code


@pytest.mark.parametrize(
    ("what", "code", "words"),
    [
        ("raise:value", 70, "internal error, please report it: ValueError: two lines (--debug shows where)"),
        ("raise:recursion", 70, "RecursionError"),
        ("raise:assert", 70, "AssertionError"),
        ("raise:memory", 69, "not enough memory (try a smaller --chunk)"),
        ("raise:module", 69, "'matplotlib.pyplot' is not installed (pip install 'cannonkit[report]')"),
        (f"errno:{errno.ENOSPC}", 74, "some.fits: No space left on device"),
    ],
)
def test_other_exceptions_are_one_line(toy, what, code, words):
    done = toy(what, "-o", "x")
    assert done.code == code and words in done.err
    assert done.err.startswith("cc-toy: error: ") and done.err.count("\n") == 1
    shown = toy(what, "-o", "x", "--debug")
    assert shown.code == code and "Traceback" in shown.err and shown.err.splitlines()[-1] == done.err.strip()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "required: WHAT, -o/--output"),
        (["ok"], "required: -o/--output"),
        (["ok", "-o", "x", "--threds", "3"], "no such option: --threds (did you mean '--threads'?)"),
        (["ok", "-o", "x", "--thr", "3"], "no such option: --thr"),
        (["ok", "-o", "x", "--zzz=3"], "no such option: --zzz"),
        (["ok", "more", "-o", "x"], "unexpected argument 'more'"),
        (["ok", "-o", "x", "--threads", "0"], "above 0"),
        (["ok", "-o", "x", "--threads", "x" * 3], "found 'xxx'"),
        (["ok", "-o", "x", "--chunk", "-1"], "--chunk"),
        (["ok", "-o", "x", "--shard", "3/3"], "0 <= I < N"),
        (["ok", "-o", "x", "--shard", "a"], "I/N"),
        (["ok", "-o", "x", "--size", "0"], "--size: 0 is out of range"),
    ],
)
def test_usage_errors(toy, arguments, words):
    done = toy(*arguments)
    assert done.code == 64 and words in done.err, done
    assert done.err.startswith("cc-toy: error: ") and done.err.endswith("(see cc-toy --help)\n")
    assert done.err.count("\n") == 1 and done.out == b""


def test_configuration_errors(toy, tmp_path):
    path = tmp_path / "run.yaml"
    path.write_text("toy:\n  siz: 3\n")
    done = toy("ok", "-o", "x", "--config", path)
    assert (done.code, done.err.count("\n")) == (78, 1)
    assert "run.yaml, line 2: key 'toy': unknown key 'siz' (did you mean 'size'?" in done.err
    assert toy("ok", "-o", "x", "--config", tmp_path / "absent").code == 66


@pytest.mark.parametrize(("options", "code", "words"), [
    ([], 64, "cc-toy: error: size and shape do not go together (see cc-toy --help)"),
    (["--config", "run.yaml"], 78, "cc-toy: error: run.yaml: size and shape do not go together"),
    (["--config", "run.yaml", "--size", "3"], 64, "cc-toy: error: size"),
    (["--config", "run.yaml", "--set", "size=3"], 64, "cc-toy: error: size"),
    (["--config", "run.yaml", "--set", "shape=3"], 64, "cc-toy: error: --set shape=3: key 'toy': unknown key 'shape'"),
])
def test_settings_that_do_not_go_together(toy, tmp_path, options, code, words):
    """Wrong on the command line 64, in a file 78; which one is known only when they are used."""
    (tmp_path / "run.yaml").write_text("toy:\n  size: 4\n")
    done = toy("setting", "-o", "x", *options, cwd=tmp_path)
    assert done.code == code and done.err.startswith(words) and done.err.count("\n") == 1, done


def test_messages_are_safe_for_a_terminal(toy):
    done = toy("ok", "-o", "x", "--\x1b[31mred\n")
    assert done.code == 64 and "\x1b" not in done.err and done.err.count("\n") == 1
    assert cli.one_line("columns   keep their\n  places") == "columns   keep their places"
    assert cli.one_line("a\nb\tc\x00\x1b\u202e") == "a b c\\x00\\x1b\\u202e"
    assert len(cli.one_line("x" * 10000)) == 2000


# --- messages -------------------------------------------------------------------------------------


def test_log_and_quiet(toy):
    done = toy("ok", "-o", "x", "--threads", "1")
    lines = done.err.splitlines()
    assert done.code == 0 and lines[:2] == ["cc-toy: 3 rows, 1 threads", "cc-toy: warning: mind the gap"]
    assert len(lines) == 3 and re.fullmatch(r"cc-toy: done in \d+\.\d s on 1 thread", lines[2])
    assert toy("ok", "-o", "x", "--quiet").err == "cc-toy: warning: mind the gap\n"
    assert toy("warning:", "-o", "x", "--quiet").err == "cc-toy: warning: first second\n"


def test_progress_off_a_terminal(toy):
    lines = toy("progress:", "-o", "x").err.splitlines()[:-1]
    assert 5 <= len(lines) <= 10
    assert all(
        re.fullmatch(r"cc-toy: \d+/100 spectra, \d+ %, [\d.e+]+/s, \d:\d\d:\d\d left", line) for line in lines
    )
    assert toy("progress:", "-o", "x", "--quiet").err == ""


def test_progress_on_a_terminal(toy_path):
    import pty

    master, slave = pty.openpty()
    with subprocess.Popen([sys.executable, toy_path, "progress:", "-o", "x"], stderr=slave) as child:
        os.close(slave)
        text = b""
        while True:
            try:
                piece = os.read(master, 65536)
            except OSError:
                break
            if not piece:
                break
            text += piece
    os.close(master)
    assert child.returncode == 0
    bar, _, last = text.rpartition(b"\r\x1b[K")
    assert b"\r" in bar and b"[#" in bar and b"\n" not in bar and last.startswith(b"cc-toy: done in")


@pytest.mark.parametrize("options, fate", [
    ({}, "there: refused without --overwrite"), ({"overwrite": True}, "there: replaced"),
    ({"resume": True}, "there, but not whole or not of these inputs and settings: made again")])
def test_dry_run_tells_what_becomes_of_an_output(tmp_path, capsys, options, fate):
    path = tmp_path / "b.fits"
    path.touch()
    args = argparse.Namespace(**{"dry_run": True, "output": [str(path), "-"], "overwrite": False, **options})
    cli.dry_run(args)
    assert capsys.readouterr().err.splitlines() == [f"cannonkit: would do: output {path} ({fate})",
                                                    "cannonkit: would do: output - (standard output)"]


def test_dry_run(toy_path, capsys):
    args = argparse.Namespace(dry_run=True, input="a.fits", output="b.fits")
    assert cli.dry_run(args, rows=1200, memory=79.6e6, solver=None) is True
    assert capsys.readouterr().err.splitlines() == [
        "cannonkit: would do: input a.fits",
        "cannonkit: would do: rows 1200",
        "cannonkit: would do: memory 80 MB besides the program",
        "cannonkit: would do: output b.fits (new)",
    ]
    args.dry_run = False
    assert cli.dry_run(args) is False and capsys.readouterr().err == ""


# --- help, version, print-config ------------------------------------------------------------------


def commands():
    folder = os.path.join(os.path.dirname(__file__), "..", "cannonkit", "commands")
    return sorted(name[:-3] for name in os.listdir(folder) if name.endswith(".py") and name != "__init__.py")


SLOW = {"numpy", "numba", "scipy", "fitsio", "yaml", "matplotlib", "astropy"}


@pytest.mark.parametrize("option", ["--help", "--version", "--no-such-option"])
@pytest.mark.parametrize("name", commands())
def test_answers_import_no_library(start, root, name, option):
    probe = (
        f"import sys\nsys.argv = ['cc-{name}', {option!r}]\nfrom cannonkit.commands.{name} import main\n"
        f"code = main()\nprint(sorted({SLOW!r} & set(sys.modules)), file=sys.stderr)\nsys.exit(code)"
    )
    done = start([sys.executable, "-c", probe])
    assert done.err.splitlines()[-1] == "[]"
    if option == "--no-such-option":
        assert done.code == 64 and done.out == b""
    else:
        text = done.out.decode()
        assert done.code == 0 and len(done.err.splitlines()) == 1
        if option == "--help":
            assert text.startswith(f"usage: cc-{name}") and "Examples:" in text
            examples = text[text.index("Examples:") :]
            assert len(re.findall(rf"^ +.*\bcc-{name}\b", examples, re.MULTILINE)) >= 3, (
                "three examples, please"
            )
            # an example is one line that runs as it stands, so it may be longer
            assert max(len(line) for line in text.splitlines() if not line.startswith("  cc-")) <= 120
        else:
            assert re.match(rf"cc-{name} \(cannonkit\) \d+\.\d+\.\d+\nPython 3\.", text)
            assert re.search(r"^numba \d", text, re.MULTILINE)


def test_help_comes_from_the_docstring(toy):
    text = toy("--help").out.decode()
    assert "A toy." in text and "Not shown" not in text
    assert text.rstrip().endswith("cc-toy ok -o out.fits")
    assert "a size (default: 3)" in text


def test_print_config_needs_no_input_and_comes_back(toy, tmp_path):
    done = toy("--print-config", "--size", "7")
    assert done.code == 0 and done.err == "" and done.out == b"toy:\n  # a size\n  size: 7\n"
    path = tmp_path / "run.yaml"
    path.write_bytes(done.out)
    assert toy("--print-config", "--config", path).out == done.out
    assert toy("--print-config", "--size", "0").code == 64


# --- streams and signals --------------------------------------------------------------------------


def shell(start, toy_path, line, **keywords):
    return start(["bash", "-c", f'toy() {{ {sys.executable} {toy_path} "$@"; }}; {line}'], **keywords)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("toy write:1 -o - > /dev/full", 74),
        ("toy write:1 -o - >&-", 74),
        ("toy print: -o x > /dev/full", 74),
        ("toy print: -o x >&-", 74),
        ("toy --help > /dev/full", 74),
        ("toy --help >&-", 74),
        ("toy write:100 -o - | head -c 10 > /dev/null; exit ${PIPESTATUS[0]}", 141),
        ("toy write:100 -o - | true; exit ${PIPESTATUS[0]}", 141),
        ("toy ok -o x 2>&-", 0),
        ("toy error:DataError -o x 2>&-", 65),
        ("toy ok -o x 2> /dev/full", 0),
        ("toy ok -o x <&-", 0),
    ],
)
def test_streams_that_cannot_be_used(start, toy_path, line, code):
    done = shell(start, toy_path, line)
    assert done.code == code and "Traceback" not in done.err and "Exception ignored" not in done.err, done
    if "--help" not in line or code:  # help goes to standard error where there is no standard output
        lines = [text for text in done.err.splitlines() if "cc-toy: done in" not in text]
        assert len(lines) == (1 if code == 74 else 2 if "toy ok -o x <" in line else 0), done


def test_a_closed_stdout_never_receives_a_file(start, toy_path, tmp_path):
    """With fd 1 closed, the next file that is opened would get its number, and our FITS."""
    before = toy_path.read_bytes()
    done = shell(start, toy_path, "toy open: -o - >&-")
    assert done.code == 74 and toy_path.read_bytes() == before


def test_fits_is_not_written_to_a_terminal(toy_path):
    import pty

    master, slave = pty.openpty()
    done = subprocess.run(
        [sys.executable, toy_path, "write:1", "-o", "-"], stdout=slave, stderr=subprocess.PIPE, timeout=60
    )
    os.close(slave)
    os.close(master)
    assert done.returncode == 64 and b"not written to a terminal" in done.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_clean_up_and_are_passed_on(toy_path, tmp_path, number):
    path = tmp_path / "half"
    with subprocess.Popen(
        [sys.executable, toy_path, f"wait:{path}", "-o", "x"], stderr=subprocess.PIPE
    ) as child:
        assert child.stderr.readline() == b"ready\n" and path.exists()
        child.send_signal(number)
        child.wait(timeout=20)
        assert child.returncode == -number and child.stderr.read() == b"" and not path.exists()


@pytest.mark.parametrize("handler, code", [("SIG_DFL", 130), ("SIG_IGN", 0)])
def test_interrupted_before_main_is_ready(start, toy_path, handler, code):
    """Ctrl-C between the first import and `main`: no traceback; ignored where the shell says so (a job in a script)."""
    text = "import os, signal\n" + toy_path.read_text().replace(
        'if __name__ == "__main__":\n', 'if __name__ == "__main__":\n    os.kill(os.getpid(), signal.SIGINT)\n')
    path = toy_path.parent / "early" / "cc-toy"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    run = "import os, signal, sys; signal.signal(signal.SIGINT, signal.{}); os.execv(sys.executable, sys.argv[1:])"
    done = start([sys.executable, "-c", run.format(handler), sys.executable, path, "ok", "-o", "x", "--quiet"])
    assert done.code == code and "Traceback" not in done.err, done


@pytest.mark.parametrize("number", [2, 15])
def test_a_signal_within_a_callback_of_llvm_waits(toy, number):
    """An exception there would be lost, and LLVM go on with nothing (a segmentation fault)."""
    done = toy(f"callback:{number}", "-o", "x")
    assert done.code == 128 + number and done.err == "cc-toy: LLVM got 7\n", done


def test_main_leaves_this_process_alone(capsys):
    handlers = [signal.getsignal(n) for n in (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT)]
    environment = dict(os.environ)
    parser = cli.new_parser("cc-inner", "Inner.")
    assert cli.main(parser, lambda args: 3, []) == 3
    assert cli.main(cli.new_parser("cc-inner", "Inner."), lambda args: None, ["--nope"]) == 64
    assert capsys.readouterr().err == "cc-inner: error: no such option: --nope (see cc-inner --help)\n"
    assert handlers == [signal.getsignal(n) for n in (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT)]
    assert environment == dict(os.environ) and cli._state["name"] == "cannonkit"


# --- threads --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("requested", "environ", "expected"),
    [
        (None, {}, 5),
        (3, {"NUMBA_NUM_THREADS": "2"}, 3),
        (None, {"NUMBA_NUM_THREADS": "2", "SLURM_CPUS_PER_TASK": "7"}, 2),
        (None, {"SLURM_CPUS_PER_TASK": "7"}, 7),
        (None, {"SLURM_CPUS_PER_TASK": ""}, 5),
    ],
)
def test_number_of_threads(requested, environ, expected):
    assert process.n_threads(requested, environ, 5) == expected


@pytest.mark.parametrize("text", ["0", "two", "-1", "1.5", "\u0663"])
def test_a_wrong_number_of_threads_in_the_environment(text):
    with pytest.raises(errors.ConfigError, match="SLURM_CPUS_PER_TASK"):
        process.n_threads(None, {"SLURM_CPUS_PER_TASK": text}, 5)


def test_threads_are_set_before_the_libraries_load(toy):
    done = toy("threads:", "-o", "x", env={"SLURM_CPUS_PER_TASK": "1", "OPENBLAS_NUM_THREADS": "8"})
    assert done.err.splitlines()[0] == "cc-toy: 1 1 1 1"
    assert toy("threads:", "-o", "x", "--threads", "3").err.splitlines()[0] == "cc-toy: 3 1 1 1"


def test_both_blas_libraries_have_one_thread(start):
    """NumPy and SciPy (whose BLAS Numba calls) bring an OpenBLAS each, with its own pool."""
    script = textwrap.dedent("""
        import ctypes, os, re
        from cannonkit import process
        process.set_threads(None)
        import numpy, scipy.linalg.cython_blas
        a = numpy.ones((300, 300)); a @ a
        found = sorted({line.split()[-1] for line in open("/proc/self/maps") if "openblas" in line.lower()})
        numbers = []
        for path in found:
            library = ctypes.CDLL(path)
            for name in ("scipy_openblas_get_num_threads64_", "scipy_openblas_get_num_threads",
                         "openblas_get_num_threads64_", "openblas_get_num_threads"):
                if hasattr(library, name):
                    numbers.append(getattr(library, name)())
                    break
        print(numbers)
        """)
    done = start([sys.executable, "-c", script])
    if done.out == b"[]\n":
        pytest.skip("no OpenBLAS in these builds of NumPy and SciPy")
    assert done.out in (b"[1]\n", b"[1, 1]\n"), done


# --- shards and chunks ----------------------------------------------------------------------------


@pytest.mark.parametrize("n_row", [0, 1, 63, 64, 65, 1000, 100003])
@pytest.mark.parametrize("count", [1, 2, 3, 16])
def test_shards_cover_every_row_once(n_row, count):
    cuts = [cli.shard_rows((index, count), n_row) for index in range(count)]
    assert cuts[0][0] == 0 and cuts[-1][1] == n_row
    assert all(before[1] == after[0] for before, after in zip(cuts, cuts[1:], strict=False))
    assert all(first % 64 == 0 or first == n_row for first, _ in cuts)
    assert max(stop - first for first, stop in cuts) <= -(-n_row // 64 // count) * 64 + 64
    assert cli.shard_rows(None, n_row) == (0, n_row)


def slurm(monkeypatch, **values):
    for key in list(os.environ):
        if key.startswith("SLURM_"):
            monkeypatch.delenv(key)
    for key, value in values.items():
        monkeypatch.setenv(f"SLURM_ARRAY_TASK_{key}", str(value))
    return cli._slurm_shard()


def test_shards_of_a_slurm_array(monkeypatch):
    assert slurm(monkeypatch) is None
    assert slurm(monkeypatch, ID=3, MIN=0, MAX=7, COUNT=8, STEP=1) == (3, 8)
    assert slurm(monkeypatch, ID=5, MIN=5, MAX=8, COUNT=4) == (0, 4)
    for wrong in (
        {"ID": 4, "MIN": 0, "MAX": 8, "COUNT": 5, "STEP": 2},
        {"ID": 4, "MIN": 0, "MAX": 8, "COUNT": 4},
        {"ID": 9, "MIN": 0, "COUNT": 4},
        {"ID": "x", "COUNT": 4},
        {"ID": 1},
    ):
        with pytest.raises(errors.UsageError):
            slurm(monkeypatch, **wrong)


def test_a_folder_gets_the_part(monkeypatch, tmp_path):
    seen = []

    def parser():
        inner = cli.new_parser("cc-inner", "Inner.")
        cli.add_stream_options(inner, chunk=128)
        cli.add_shard_options(inner)
        return inner

    for arguments in (["-o", str(tmp_path)], ["-o", "new/", "--chunk", "65"], ["-o", "-"], ["-o", "x.fits"]):
        cli.main(parser(), seen.append, ["in", *arguments, "--shard", "3/16"])
    assert [args.output for args in seen] == [
        f"{tmp_path}/part-00003-of-00016.fits",
        "new/part-00003-of-00016.fits",
        "-",
        "x.fits",
    ]
    assert [args.chunk for args in seen] == [128, 128, 128, 128] and seen[0].shard == (3, 16)


# --- the record -----------------------------------------------------------------------------------


def test_record():
    @dataclasses.dataclass(frozen=True)
    class Inner:
        a: float = 1.5
        b: tuple[str, ...] = ("x",)

    args = argparse.Namespace(command_name="cc-x", arguments=["-o", "y"], shard=(1, 4))
    record = cli.record(args, Inner())
    assert record["command"] == "cc-x" and record["settings"] == {"a": 1.5, "b": ["x"]}
    assert record["shard"] == [1, 4] and record["arguments"] == ["-o", "y"]
    assert record["config_digest"] == cli.record(args, Inner(a=1.5))["config_digest"]
    assert record["config_digest"] != cli.record(args, Inner(a=1.25))["config_digest"]


def test_subcommands(capsys):
    def parser():
        outer = cli.new_parser("cc-outer", "Outer.\n\nExamples:\n  cc-outer one\n")
        group = cli.add_subcommands(outer)
        inner = cli.add_subcommand(group, "one", "First.\n\nExamples:\n  cc-outer one in -o out\n")
        cli.add_stream_options(inner)
        cli.add_settings(inner, config.section_for_test)
        cli.add_subcommand(group, "two", "Second.")
        return outer

    @dataclasses.dataclass(frozen=True)
    class Part:
        """Settings of one."""

        width: int = config.setting(2, "a width")

    config.section_for_test = Part
    try:
        seen = []
        assert cli.main(parser(), seen.append, ["--quiet", "one", "in", "-o", "out", "--width", "4"]) == 0
        assert cli.main(parser(), seen.append, ["one", "in", "-o", "out", "--quiet"]) == 0
        assert [args.quiet for args in seen] == [True, True] and seen[0].subcommand == "one"
        assert config.resolve(Part, seen[0]).width == 4
        assert cli.main(parser(), seen.append, ["one", "in", "-o", "out", "--widht", "4"]) == 64
        assert "did you mean '--width'?" in capsys.readouterr().err
        assert cli.main(parser(), seen.append, ["one", "--print-config"]) == 0
        assert capsys.readouterr().out == "part:\n  # a width\n  width: 2\n"
        assert cli.main(parser(), seen.append, []) == 64
        assert cli.main(parser(), seen.append, ["tow"]) == 64
        assert cli.main(parser(), seen.append, ["one", "--help"]) == 0
        assert "cc-outer one in -o out" in capsys.readouterr().out
    finally:
        del config.section_for_test


def test_start_is_quick(toy):
    """A loose bound, for noisy machines; the real one (0.15 s) is a benchmark."""
    best = 9.0
    for _ in range(3):
        before = time.perf_counter()
        toy("--help")
        best = min(best, time.perf_counter() - before)
    assert best < 0.5


def test_report_for_scripts(command, tmp_path, rng):
    """--report json: on standard output, or standard error where FITS goes there; failures too."""
    import json

    import products

    labels = products.training_labels(rng, 70)
    rows = products.label_rows(products.star_names(70), products.star_names(70), labels, products.covariance(rng, 70),
                               rng.uniform(30, 90, 70))
    products.write_labels(tmp_path / "l.fits", rows)
    products.write_model(tmp_path / "m.fits", rng)
    line = ["flag", tmp_path / "l.fits", "-m", tmp_path / "m.fits", "--quiet", "--report", "json", "-o"]
    done = command(*line, tmp_path / "f.fits")
    report = json.loads(done.out)
    assert (report["code"], report["error"], done.err) == (0, None, "")
    assert report["outputs"][0]["file"] == str(tmp_path / "f.fits") and report["outputs"][0]["rows"] == 70
    assert report["outputs"][0]["counts"]["stars with flag_cannon_dist"] >= 0 and report["seconds"] > 0
    done = command(*line, "-")
    assert done.out.startswith(b"SIMPLE") and json.loads(done.err)["outputs"][0]["file"] == "-"
    done = command(*line, tmp_path / "f.fits")
    report = json.loads(done.out)
    assert report["code"] == done.code == 73 and report["outputs"] == [] and report["error"] in done.err


def test_import_ahead(tmp_path, monkeypatch):
    """The module, or what went wrong with it; never half of it (a failing import leaves that to one who waits)."""
    (tmp_path / "slow_module.py").write_text("import time\ntime.sleep(0.05)\nvalue = 3\n")
    (tmp_path / "bad_module.py").write_text("import time\ntime.sleep(0.05)\nraise MemoryError('bad')\nvalue = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    interval = sys.getswitchinterval()
    for name in ("slow_module", "slow_module"):
        assert cli.import_ahead(name)().value == 3
    bad = cli.import_ahead("bad_module")
    for _ in range(2):
        with pytest.raises(MemoryError, match="bad"):
            bad()
    assert "bad_module" not in sys.modules and sys.getswitchinterval() == interval
