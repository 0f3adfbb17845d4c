"""What a child of the zygote does: run a command with its streams, limits and failing system calls."""

import os
import resource
import signal
import sys


def load():
    """Import what commands use, once, in the zygote. No kernel may run here."""
    import importlib
    import pkgutil

    import fitsio  # noqa: F401
    import numba  # noqa: F401
    import scipy.linalg.cython_blas  # noqa: F401
    import scipy.optimize  # noqa: F401
    import scipy.spatial  # noqa: F401

    import cannonkit
    from cannonkit import commands, process, stages

    for package in (cannonkit, commands, stages):
        for found in pkgutil.iter_modules(package.__path__, package.__name__ + "."):
            if found.name.rsplit(".")[-1] not in ("plots", "figures", "importers", "warmup"):
                importlib.import_module(found.name)
    process.set_threads = lambda requested=None: 1  # numpy is loaded: it is set in the zygote's environment


def load_kernels():
    """Every kernel version that the cache has, into memory, none run; returns how many."""
    import importlib
    import pkgutil

    from numba.core.registry import CPUDispatcher

    from cannonkit import kernels

    n = 0
    for found in pkgutil.iter_modules(kernels.__path__, "cannonkit.kernels."):
        for kernel in vars(importlib.import_module(found.name)).values():
            if isinstance(kernel, CPUDispatcher) and kernel.py_func.__module__ == found.name:
                file = getattr(kernel._cache, "_cache_file", None)
                for signature, *_ in file._load_index() if file else ():
                    kernel.compile(signature)
                    n += 1
    return n


def command(
    name,
    arguments,
    stdin=None,
    stdout=None,
    stderr=None,
    cwd=None,
    env=None,
    limits=None,
    fail=None,
    slow=0.0,
    interrupt=None,
):
    """Run cc-NAME as a process of its own; returns {code, calls}.

    stdin    None (/dev/null), {"file": path}, {"pipe": path, "size": bytes or None}, or "closed"
    stdout   a path, or "closed", "full", "head" (a reader that goes away after 10 bytes)
    limits   {"AS": bytes above what is in use, "FSIZE": bytes}
    fail     [call, n, errno]: the n-th os.CALL (from 1) fails; errno 0: a write that is short
    slow     seconds to sleep in every write, for those who want to interrupt
    interrupt  [signal, seconds]: sent to the command after that time
    calls    how often each of the watched calls was made
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)        # as cli does in a command's own process
    helpers = _streams(stdin, stdout, stderr)
    if cwd:
        os.chdir(cwd)
    for key, value in (env or {}).items():
        if value is None:
            os.environ.pop(key, None)
        else:
            os.environ[key] = value
    calls = _watch(fail, slow)
    for key, size in (limits or {}).items():
        if key == "AS":
            with open("/proc/self/statm") as file:
                size += int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(getattr(resource, f"RLIMIT_{key}"), (size, size))
    if interrupt:
        helpers.append(_interrupter(os.getpid(), *interrupt))
    import importlib

    from cannonkit import process

    process.finish = lambda code: None          # this process has a report to make
    sys.argv = [f"cc-{name}", *arguments]
    code = importlib.import_module(f"cannonkit.commands.{name}").main()
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        pass
    for helper in helpers:
        os.kill(helper, signal.SIGKILL)
    return {"code": code, "calls": calls}


def _interrupter(process, number, seconds):
    import time

    helper = os.fork()
    if helper == 0:
        time.sleep(seconds)
        os.kill(process, number)
        os._exit(0)
    return helper


def _streams(stdin, stdout, stderr):
    helpers = []
    if stdin == "closed":
        os.close(0)
    elif isinstance(stdin, dict) and "pipe" in stdin:
        read, write = os.pipe()
        helper = os.fork()
        if helper == 0:
            os.close(read)
            try:
                with open(stdin["pipe"], "rb") as file:
                    data = file.read() if stdin.get("size") is None else file.read(stdin["size"])
                while data:
                    data = data[os.write(write, data[:65536]) :]
            finally:
                os._exit(0)
        os.close(write)
        os.dup2(read, 0)
        os.close(read)
    elif stdin is not None:
        _put(os.open(stdin["file"], os.O_RDONLY), 0)
    if stdout == "closed":
        os.close(1)
    elif stdout == "full":
        _put(os.open("/dev/full", os.O_WRONLY), 1)
    elif stdout == "head":
        read, write = os.pipe()
        helper = os.fork()
        if helper == 0:
            os.close(write)
            os.read(read, 10)
            os._exit(0)
        os.close(read)
        _put(write, 1)
    elif stdout is not None:
        _put(os.open(stdout, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 1)
    else:
        _put(os.open(os.devnull, os.O_WRONLY), 1)
    _put(os.open(stderr or os.devnull, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666), 2)
    sys.stdin = open(0, closefd=False) if stdin != "closed" else None
    sys.stdout = open(1, "w", closefd=False) if stdout != "closed" else None
    sys.stderr = open(2, "w", closefd=False, buffering=1)
    return helpers


def _put(fd, number):
    if fd != number:
        os.dup2(fd, number)
        os.close(fd)


WATCHED = ("write", "pwrite", "fsync", "link", "rename", "ftruncate", "sendfile", "posix_fallocate")


def _watch(fail, slow):
    import errno
    import time

    calls = dict.fromkeys(WATCHED, 0)

    def watched(name, real):
        def call(*args, **keywords):
            if name == "write" and args[0] == 2:
                return real(*args, **keywords)
            calls[name] += 1
            if slow:
                time.sleep(slow)
            if fail and fail[0] == name and calls[name] == fail[1]:
                number = fail[2]
                if number == 0:  # a short write, as a signal or a full pipe makes them
                    return real(args[0], memoryview(args[1]).cast("B")[:1], *args[2:])
                if number == errno.EINTR:
                    raise InterruptedError(number, os.strerror(number))
                raise OSError(number, os.strerror(number))
            return real(*args, **keywords)

        return call

    for name in WATCHED:
        setattr(os, name, watched(name, getattr(os, name)))
    return calls


def read_table(path, rows=None):
    """Open any FITS file through our door and read its row table and small extensions.

    Returns {refused: message} or {digest: of the data, product}.
    """
    import hashlib

    import numpy as np

    from cannonkit import errors, stream

    resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
    digest = hashlib.sha256()
    try:
        with stream.open_source(path) as source:
            for extension in source.extensions.values():
                digest.update(np.ascontiguousarray(extension.data).tobytes())
            for name in source.columns:
                digest.update(np.ascontiguousarray(source.read([name])[name]).tobytes())
            return {"digest": digest.hexdigest(), "product": source.product, "columns": list(source.columns)}
    except errors.CannonkitError as error:
        return {"refused": str(error), "class": error.code}


def mutate(path, seed, count, aimed, folder):
    """`count` files like `path` with 1 to 4 bytes of a header changed, each read by a child of its own.

    aimed  only in the values of NAXISn, TFORMn, TDIMn, PCOUNT, TFIELDS, TZEROn, TSCALn
    Returns [[kind, detail], ...]: kind is refused, same, different, or what went wrong.
    """
    import json
    import random
    import re

    from zygote import run

    with open(path, "rb") as file:
        good = file.read()
    whole = read_in_child(run, path)["value"]
    from cannonkit import fits

    fd = os.open(path, os.O_RDONLY)
    places, start = [], 0
    for hdu in fits.walk(fd, path):
        for card in range(start, hdu.data_start, 80):
            if not aimed:
                places += range(card, card + 80)
            elif re.match(rb"(NAXIS|TFORM|TDIM|PCOUNT|TFIELDS|TZERO|TSCAL|BITPIX|GCOUNT)", good[card : card + 8]):
                places += range(card + 8, card + 34)
        start = hdu.data_start + hdu.padded_size
    os.close(fd)
    chosen = random.Random(seed)
    found = []
    for _ in range(count):
        bad = bytearray(good)
        for at in chosen.sample(places, chosen.randint(1, 4)):
            bad[at] = (
                chosen.choice(b"0123456789ABCDEIJKLMPQX-+. '()")
                if aimed or chosen.random() < 0.5
                else chosen.randrange(32, 127)
            )
        if bad == good:
            continue
        name = os.path.join(folder, "mutated.fits")
        with open(name, "wb") as file:
            file.write(bad)
        answer = read_in_child(run, name)
        value = answer["value"] or {}
        if answer["code"] != 0 or "traceback" in value:
            kind = f"code {answer['code']}: {json.dumps(value)[-600:]}"
        elif answer["seconds"] > 10 or answer["memory"] > 4 << 30:
            kind = f"{answer['seconds']:.0f} s, {answer['memory'] >> 20} MB"
        elif "refused" in value:
            kind = "refused" if "\n" not in value["refused"] and name in value["refused"] else value["refused"]
        else:
            kind = "same" if value["digest"] == whole["digest"] else "different"
            if kind == "different":
                found.append(
                    [
                        kind,
                        [
                            bad[i : i + 80].decode("latin-1")
                            for i in range(0, len(bad) - 79, 80)
                            if bad[i : i + 80] != good[i : i + 80]
                        ],
                    ]
                )
                continue
        found.append([kind, ""])
    return found


def read_in_child(run, path):
    return run({"function": "read_table", "arguments": {"path": path}, "timeout": 20}, ())
