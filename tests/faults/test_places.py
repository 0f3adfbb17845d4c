"""Rows 15 to 19 and 22: disks, failing system calls, limits, signals, places, names and races."""

import errno
import os
import random
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from cannonkit import errors, provenance, stream

TOOLS = ("crossmatch", "resample", "train", "infer", "flag", "calibrate", "apply", "merge")
FAILURES = {
    "write": (errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EINTR, 0),
    "pwrite": (errno.ENOSPC, errno.EIO, errno.EINTR, 0),
    "fsync": (errno.EIO, errno.ENOSPC, errno.EDQUOT),
    "link": (errno.EIO, errno.ENOSPC, errno.EPERM),
}


@pytest.mark.parametrize("name", TOOLS)
def test_every_call_fails_once(world, tools, tool, play, judge, many, name):
    """The n-th write, pwrite, fsync or link fails, for every n: 74 or 75 and no file; EINTR and a short write: done."""
    verdict = judge(15)
    line = tool(name, world[tools[name][1]])
    straight = play(*line, "-o", "straight.fits")
    verdict.done(name, straight)
    good = _sums(play.folder / "straight.fits")
    before = play.files()
    for call, numbers in FAILURES.items():
        n_call = straight.calls[call]
        assert n_call > 0, (call, straight.calls)
        places = range(1, n_call + 1)
        if many(0, 1) == 0:
            places = sorted({1, n_call})
            numbers = numbers[:1] + numbers[-1:] if name == "flag" else numbers[:1]
        for at in places:
            for number in numbers:
                answer = play(*line, "-o", "out.fits", fail=[call, at, number])
                what = f"{name}: {call} {at} of {n_call} fails with {errno.errorcode.get(number, 'a short write')}"
                if number in (0, errno.EINTR):
                    verdict.done(
                        what, answer, None if answer.code or _sums(play.folder / "out.fits") == good else "other data"
                    )
                    (play.folder / "out.fits").unlink(missing_ok=True)
                else:
                    code = 75 if number == errno.EDQUOT else 74
                    verdict.refused(what, answer, code, ["out.fits"], play, before)
    if name != "crossmatch" and name != "merge":
        n_call = play(*line, "-o", "-").calls["write"]
        for at in range(1, n_call + 1) if many(0, 1) else (1, n_call):
            verdict.refused(
                f"{name}: write {at} to a pipe",
                play(*line, "-o", "-", fail=["write", at, errno.EIO]),
                74,
                ["standard output"],
                play,
                before,
            )


@pytest.mark.parametrize("name", TOOLS)
def test_file_size_limit(world, tools, tool, play, judge, many, name):
    """RLIMIT_FSIZE at every size: 74 and no file."""
    verdict = judge(15)
    line = tool(name, world[tools[name][1]])
    play(*line, "-o", "straight.fits")
    size = (play.folder / "straight.fits").stat().st_size
    before = play.files()
    number = many(2, 24)
    for k in range(number):
        limit = 4096 + (size - 4096) * k // number  # 4096: the error line goes to a file too
        verdict.refused(
            f"{name}: files of {limit} bytes at most",
            play(*line, "-o", "out.fits", limits={"FSIZE": limit}),
            74,
            ["out.fits"],
            play,
            before,
        )


@pytest.mark.parametrize("name", ["crossmatch", "resample", "calibrate", "apply", "merge"])
def test_memory_limit(world, tools, tool, play, judge, many, name):
    """RLIMIT_AS a little above what is in use: done, or 69 in one line; never a traceback or half a file.

    Where the loader, OpenMP or LLVM gets no memory they end the process (127, 134) in words of their own;
    no program can catch that.
    """
    verdict = judge(15)
    line = tool(name, world[tools[name][1]])
    play(*line, "-o", "straight.fits")
    good = _sums(play.folder / "straight.fits")
    for megabytes in (2, 64) if many(0, 1) == 0 else (0, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256):
        answer = play(*line, "-o", "out.fits", limits={"AS": megabytes << 20})
        what = f"{name}: {megabytes} MB of memory"
        out = play.folder / "out.fits"
        if answer.code == 0:
            verdict.done(what, answer, None if _sums(out) == good else "other data")
            out.unlink()
        elif (
            answer.code in (127, 134)
            and re.search("emory|bad_alloc", answer.err)
            and play.files() == ["straight.fits"]
        ):
            verdict.counts[0] += 1
            verdict.counts[1] += 1
        else:
            verdict.refused(what, answer, 69, ["memory"], play, ["straight.fits"])


@pytest.mark.parametrize("name", ["flag", "infer", "train"])
def test_memory_limit_of_a_process(world, tools, tool, play, judge, many, start, name):
    """The same with kernels, in processes of their own (Numba's pool here waits for ever for a thread).

    Done, or 69; or OpenBLAS (1), the loader (127) or LLVM (134) end the process with a line of their own.
    """
    if name != "flag" and not many(0, 1):
        pytest.skip("make faults only")
    verdict = judge(15)
    line = tool(name, world[tools[name][1]])
    for megabytes in (*range(60, 800, 20), 1000, 2500) if many(0, 1) else (400,):
        done = start(
            [
                "bash",
                "-c",
                f'ulimit -v {megabytes << 10}; exec "$@"',
                "bash",
                sys.executable,
                _program(line[0]),
                *line[1:],
                "-o",
                "out.fits",
                "--quiet",
                "--threads",
                "1",
            ],
            cwd=play.folder,
        )
        out = play.folder / "out.fits"
        right = (
            out.exists()
            if done.code == 0
            else play.files() == []
            and "Traceback" not in done.err
            and (
                done.code == 69
                and len(done.err.splitlines()) == 1
                or done.code in (1, 127, 134)
                and "emory" in done.err
            )
        )
        verdict.check(f"{name}: {megabytes} MB", right, repr(done))
        out.unlink(missing_ok=True)


def test_full_disk(world, tools, tool, play, judge, many, small_disk, start):
    """A disk of some kilobytes for the output, and for the temporary files of a foreign pipe: 74, and nothing there."""
    verdict = judge(15)
    disk = play.folder / "disk"
    disk.mkdir()
    for name in TOOLS if many(0, 1) else ("flag",):
        line = tool(name, world[tools[name][1]])
        sizes = ("16k", "64k", "128k") if many(0, 1) else ("16k",)
        play(*line, "-o", "straight.fits")
        whole = (play.folder / "straight.fits").stat().st_size
        (play.folder / "straight.fits").unlink()
        for size in sizes:
            if int(size[:-1]) * 1024 > whole:
                continue
            script = 'code=0; "$@" || code=$?; ls -A disk | sed "s/^/left: /" >&2; exit $code'
            done = start(
                [
                    *small_disk("disk", size),
                    "bash",
                    "-c",
                    script,
                    "bash",
                    sys.executable,
                    _program(line[0]),
                    *line[1:],
                    "-o",
                    "disk/out.fits",
                    "--quiet",
                ],
                cwd=play.folder,
            )
            verdict.check(
                f"{name}: disk of {size}",
                done.code == 74 and "out.fits" in done.err and len(done.err.splitlines()) == 1,
                repr(done),
            )
    with open(world["toy"], "rb") as file:
        piped = subprocess.Popen(["cat"], stdin=file, stdout=subprocess.PIPE)
        line = tool("crossmatch", "-")
        done = start(
            [*small_disk("disk", "8k"), sys.executable, _program(line[0]), *line[1:], "-o", "out.fits", "--quiet"],
            cwd=play.folder,
            stdin=piped.stdout,
            env={"TMPDIR": "disk"},
        )
        piped.stdout.close()
        piped.wait()
    verdict.check(
        "crossmatch: a full temporary directory",
        done.code == 74
        and "standard input" in done.err
        and len(done.err.splitlines()) == 1
        and not (play.folder / "out.fits").exists(),
        repr(done),
    )


def _program(name):
    return os.path.join(os.path.dirname(__file__), "..", "..", "bin", f"cc-{name}")


@pytest.mark.parametrize("name", TOOLS)
def test_standard_output(world, tools, tool, play, judge, name):
    """/dev/full 74, closed 74, appended to a file 0, a reader that goes away 141."""
    verdict = judge(16)
    line = tool(name, world[tools[name][1]])
    before = play.files()
    for stdout, code in (("full", 74), ("closed", 74), ("head", 141)):
        answer = play(*line, "-o", "-", stdout=stdout)
        if stdout == "head" and answer.code == 0:  # all of it fitted into the pipe before the reader went
            verdict.done(f"{name}: head, small output", answer)
            continue
        verdict.refused(f"{name} to {stdout}", answer, code, ["standard output"] if code == 74 else [], play, before)
    first = play(*line, "-o", "-")
    verdict.done(f"{name} >> file", first, None if first.out.startswith(b"SIMPLE") else "no FITS on standard output")
    (play.folder / "appended.fits").write_bytes(first.out)
    with stream.open_source(play.folder / "appended.fits", verify=True) as source:
        verdict.check(f"{name}: what went out is whole", source.product is not None)


# --- killed -----------------------------------------------------------------------------------------

RESUMABLE = ("resample", "infer", "flag", "apply")


@pytest.mark.parametrize("name", RESUMABLE)
def test_killed_then_resumed(world, tools, tool, play, judge, many, name):
    """Killed by TERM, INT or KILL at a random moment: no file, or the whole one; --resume makes the rest."""
    verdict = judge(17)
    line = [*tool(name, world[tools[name][1]]), "-o", "out.fits"]
    straight = play(*line, slow=0.01)
    good = _sums(play.folder / "out.fits")
    (play.folder / "out.fits").unlink()
    chosen = random.Random(name)
    for _ in range(many(2, 20)):
        for number in (9, 15, 2) if many(0, 1) else (chosen.choice((9, 15, 2)),):
            answer = play(*line, slow=0.01, interrupt=[number, chosen.uniform(0, 1.1 * straight.seconds)])
            what = f"{name}: signal {number}"
            left = play.files()
            if left == ["out.fits"] or answer.code == 0:
                verdict.done(
                    what + " too late", None, None if _sums(play.folder / "out.fits") == good else "half a file"
                )
            else:
                verdict.refused(what, answer, 128 + number, [], play, [])
            verdict.done(
                what + ", then --resume",
                play(*line, "--resume"),
                None if _sums(play.folder / "out.fits") == good else "other data",
            )
            again = play(*line, "--resume", quiet=False)
            verdict.done(
                what + ", --resume again",
                again,
                None if "nothing to do" in again.err and not again.calls.get("link") else "was made again",
            )
            (play.folder / "out.fits").unlink(missing_ok=True)


def test_resume_does_not_trust_another_file(world, tools, tool, play, judge):
    """--resume redoes a part that is damaged, or made from other settings, another shard or other input."""
    verdict = judge(17)
    line = [*tool("apply", world["flagged"]), "-o", "out.fits", "--resume", "--overwrite"]
    verdict.done("first", play(*line))
    play("flag", world["part0"], "-m", world["model"], "-o", "half.fits")
    good, whole = _sums(play.folder / "out.fits"), (play.folder / "out.fits").read_bytes()
    for what, spoil in (
        ("damaged", lambda: _flip(play.folder / "out.fits")),
        ("cut", lambda: (play.folder / "out.fits").write_bytes(whole[:-2880])),
        ("other settings", lambda: play(*line, "--factor", "standard")),
        ("other shard", lambda: play(*line, "--shard", "0/2")),
        ("other input", lambda: play(*tool("apply", "half.fits"), *line[-4:])),
    ):
        spoil()
        answer = play(*line, quiet=False)
        verdict.done(
            what,
            answer,
            None
            if "nothing to do" not in answer.err and _sums(play.folder / "out.fits") == good
            else "was taken as done",
        )


def _flip(path):
    data = bytearray(path.read_bytes())
    with stream.open_source(path) as source:
        data[source.hdu.data_start + 5] ^= 1
    path.write_bytes(data)


# --- places -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TOOLS)
def test_targets(world, tools, tool, play, judge, name):
    """An output that is there, is a folder, an input, a dangling link, or has no folder: 73."""
    verdict = judge(18)
    source = play.folder / "in.fits"
    source.write_bytes(world[tools[name][1]].read_bytes())
    line = tool(name, source)
    (play.folder / "there.fits").write_bytes(b"precious")
    (play.folder / "folder").mkdir()
    (play.folder / "dangling.fits").symlink_to("nowhere")
    (play.folder / "link.fits").symlink_to("there.fits")
    before = play.files()
    for target in ("there.fits", "folder", "dangling.fits", "link.fits", "no/out.fits", "in.fits", "there.fits/x.fits"):
        verdict.refused(f"{name} -o {target}", play(*line, "-o", target), 73, [target.split("/")[0]], play, before)
    verdict.refused(
        f"{name} --overwrite its input", play(*line, "-o", "in.fits", "--overwrite"), 73, ["in.fits"], play, before
    )
    assert (play.folder / "there.fits").read_bytes() == b"precious"
    assert source.read_bytes() == world[tools[name][1]].read_bytes()


def test_read_only_folder(world, tools, tool, play, judge, without_write, start):
    verdict = judge(18)
    closed = play.folder / "closed"
    closed.mkdir()
    prefix = without_write(closed)
    for name in ("flag",):
        line = tool(name, world[tools[name][1]])
        done = start([*prefix, sys.executable, _program(line[0]), *line[1:], "-o", closed / "out.fits", "--quiet"])
        verdict.check(
            f"{name} into a read-only folder",
            done.code == 73 and len(done.err.splitlines()) == 1 and "closed/out.fits" in done.err,
            repr(done),
        )
    closed.chmod(0o755)


def test_names_are_plain(world, tools, tool, play, judge):
    """CFITSIO's file name syntax, URLs, newlines, options and bytes that are no UTF-8 are plain names."""
    verdict = judge(22)
    (play.folder / "a.fits").write_bytes(world["flagged"].read_bytes())
    (play.folder / "b.fits.gz").write_bytes(b"")
    before = play.files()
    for name in (
        "a.fits(copy.fits)",
        "!a.fits",
        "a.fits[1]",
        "a.fits[LABELS][teff>0]",
        "http://127.0.0.1:9/a.fits",
        "ftp://127.0.0.1:9/a.fits",
        "mem://",
        "a.fits\nb",
        "b.fits",
        b"a\xff.fits",
        "file://a.fits",
    ):
        verdict.refused(
            f"input {name!r}", play(*tool("apply", os.fsdecode(name)), "-o", "out.fits"), 66, [], play, before
        )
    for name in ("!out.fits", "out.fits[x]", "o\nut.fits", b"o\xff.fits", "out.fits(x)", "http:x"):
        name = os.fsdecode(name)
        answer = play(*tool("apply", "a.fits"), f"--output={name}")
        verdict.done(f"output {name!r}", answer, None if os.listdir(play.folder).count(name) == 1 else "another name")
        again = play(*tool("apply", "a.fits"), f"--output={name}")
        verdict.refused(f"output {name!r} again", again, 73, [])
        (play.folder / name).unlink(missing_ok=True)
    (play.folder / "-x.fits").write_bytes(world["labels"].read_bytes())
    verdict.done(
        "input -x.fits after --",
        play("flag", "-m", str(world["model"]), "-o", "out.fits", "--quiet", "--", "-x.fits", quiet=False),
    )


# --- races ------------------------------------------------------------------------------------------


def test_race(world, tools, tool, play, judge, many, new_zygote):
    """Eight writers of one file: one 0, seven 73, a whole file, no litter; with --overwrite eight times 0."""
    verdict = judge(19)
    zygotes = [new_zygote() for _ in range(many(3, 8))]
    for overwrite in (False, True):
        for round_ in range(many(1, 5)):
            line = tool("apply", world["flagged"])
            with ThreadPoolExecutor(len(zygotes)) as pool:
                answers = list(pool.map(lambda z, o=overwrite, a=line: _racer(z, a, play, o), zygotes))
            codes = sorted(a["code"] for a in answers)
            wanted = [0] * len(zygotes) if overwrite else [0] + [73] * (len(zygotes) - 1)
            verdict.check(f"race {round_}, overwrite {overwrite}", codes == wanted, f"codes {codes}")
            verdict.check("one file, no litter", play.files() == ["race.fits"], str(play.files()))
            with stream.open_source(play.folder / "race.fits", verify=True) as source:
                verdict.check("the winner is whole", len(source.read()) == source.n_row)
            (play.folder / "race.fits").unlink()


def _racer(zygote, line, play, overwrite):
    arguments = [*line[1:], "-o", "race.fits", "--quiet", *["--overwrite"] * overwrite]
    return zygote.ask("command", 60, name=line[0], arguments=arguments, cwd=str(play.folder), slow=0.005)


def test_shards_that_do_not_fit(world, tool, play, judge):
    """cc-merge shards: lost, doubled, foreign, stale, mixed-settings and damaged parts; in any order done."""
    verdict = judge(19)
    part = [world["part0"], world["part1"]]
    infer = ["infer", str(world["spectra"]), "-m", str(world["model"])]
    for name, more in (
        ("third.fits", ["--shard", "0/3"]),
        ("set.fits", ["--shard", "1/2", "--set", "max_iter=7"]),
        ("whole.fits", []),
    ):
        play(*infer, *more, "-o", name)
    play("infer", str(world["repeat_spectra"]), "-m", str(world["model"]), "--shard", "1/2", "-o", "foreign.fits")
    damaged = play.folder / "damaged.fits"
    damaged.write_bytes(part[1].read_bytes())
    _flip(damaged)
    before = play.files()
    cases = {
        "lost": [part[0]],
        "doubled": [part[0], part[0]],
        "doubled and whole": [*part, part[1]],
        "another cut": [part[0], "third.fits"],
        "foreign": [part[0], "foreign.fits"],
        "damaged": [part[0], "damaged.fits"],
        "not a shard": [part[0], "whole.fits"],
        "another product": [part[0], world["spectra"]],
    }
    if "set.fits" in before:
        cases["other settings"] = [part[0], "set.fits"]
    for what, files in cases.items():
        verdict.refused(f"merge: {what}", play("merge", "shards", *files, "-o", "out.fits"), 65, [], play, before)
    whole = _sums(play.folder / "whole.fits")
    for what, files in (("in order", part), ("in the other order", part[::-1])):
        answer = play("merge", "shards", *files, "-o", "out.fits", "--overwrite")
        verdict.done(f"merge: {what}", answer, None if _sums(play.folder / "out.fits") == whole else "other data")


def _sums(path):
    with stream.open_source(path, verify=True) as source:
        assert provenance.from_header(source.header)
        return source.datasums()


def test_interrupted_by_the_system():
    """Trouble that passes is 75, so that Slurm tries again."""
    for number in (errno.EDQUOT, errno.ESTALE, errno.ETIMEDOUT):
        assert isinstance(stream._transfer_error("x", OSError(number, "y")), errors.TryAgainError)
