"""The process around a command: signals, standard streams, threads, and what an exception means.

Imported when a command runs; imports no numpy or numba, because the number of threads has to be
known before they load.
"""
import errno
import gc
import os
import signal
import sys

from cannonkit import cli, errors

BLAS_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "OMP_NUM_THREADS", "BLIS_NUM_THREADS",
                "VECLIB_MAXIMUM_THREADS")

_DISK = (errno.ENOSPC, errno.EIO, errno.EFBIG, errno.EPIPE, errno.EBADF)
_AGAIN = (errno.EDQUOT, errno.ESTALE, errno.EAGAIN, errno.ENOLCK, errno.ETIMEDOUT, errno.EMFILE, errno.ENFILE)
_INPUT = (errno.ENOENT, errno.EACCES, errno.EPERM, errno.EISDIR, errno.ENOTDIR, errno.ELOOP,
          errno.ENAMETOOLONG, errno.ENXIO, errno.ENODEV)
_OUTPUT = (errno.EEXIST, errno.EROFS)


# What the interpreter and the loader say instead of MemoryError.
_NO_MEMORY = ("can't start new thread", "failed to map segment", "cannot allocate memory", "Cannot allocate memory")


class Terminated(BaseException):
    """SIGTERM arrived; raised in the main thread so that temporary files are removed."""


def start():
    """Signals and standard streams of a command's own process."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            # A closed stream's number would be given to the next file that is opened, and FITS for
            # standard output would go into it. So fill the place with one that fails when it is used.
            null = os.open(os.devnull, os.O_WRONLY if number == 0 else os.O_RDONLY)
            if null != number:
                os.dup2(null, number)
                os.close(null)
            if number == 1 and sys.stdout is None:      # what is printed there is lost: 74, not silence
                sys.stdout = open(1, "w", closefd=False)
    if signal.getsignal(signal.SIGINT) in (signal.SIG_DFL, signal.default_int_handler):
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # a reader that goes away ends us quietly (141)
    if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
        signal.signal(signal.SIGTERM, _terminate)
    _one_line_warnings()
    gc.set_threshold(100_000, 20, 20)  # imports make 200,000 objects that stay; looking through them takes time


def finish(code):
    """End a process whose outputs are whole and flushed, at once: taking Python apart takes 0.1 s."""
    try:
        sys.stderr.flush()
    except (OSError, ValueError, AttributeError):
        pass
    os._exit(code)


def _terminate(number, frame):
    if _put_off(number, frame):
        return
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second one ends us at once
    raise Terminated


def _interrupt(number, frame):
    if not _put_off(number, frame):
        raise KeyboardInterrupt


def _put_off(number, frame):
    """Whether LLVM has called what is running: it would lose an exception, and crash. The signal then comes again."""
    while frame is not None:
        if frame.f_code.co_name.startswith("_raw_object_cache"):       # llvmlite's callbacks
            import threading

            threading.Timer(0.02, os.kill, (os.getpid(), number)).start()
            return True
        frame = frame.f_back
    return False


def _one_line_warnings():
    import warnings

    def show(message, category, filename, lineno, file=None, line=None):
        cli.warn(str(message))

    warnings.showwarning = show


# --- threads --------------------------------------------------------------------------------------

def set_threads(requested=None):
    """Fix the number of Numba threads, and one BLAS thread, for this process; return the former.

    The first of --threads, NUMBA_NUM_THREADS, SLURM_CPUS_PER_TASK and the processors that this
    process may use. BLAS gets one thread whatever the environment says: the parallelism is in
    the kernels, and the last bits of a product depend on the number of BLAS threads (design.md 4).
    """
    if "numpy" in sys.modules or "numba" in sys.modules:
        raise errors.InternalError("numpy or numba was imported before the number of threads was set")
    threads = n_threads(requested, os.environ, len(os.sched_getaffinity(0)))
    os.environ["NUMBA_NUM_THREADS"] = str(threads)
    for name in BLAS_THREADS:
        os.environ[name] = "1"
    return threads


def n_threads(requested, environ, n_processor):
    """The number of threads from an option, an environment and a number of processors."""
    if requested:
        return requested
    for name in ("NUMBA_NUM_THREADS", "SLURM_CPUS_PER_TASK"):
        text = environ.get(name, "").strip()
        if text:
            if not (text.isascii() and text.isdigit() and 0 < int(text) < 100000):
                raise errors.ConfigError(f"environment: {name}={text!r}: expected a whole number above 0")
            return int(text)
    return n_processor


# --- failures -------------------------------------------------------------------------------------

def failure(error, debug, own):
    """Print one line for an exception and return the exit code; a signal ends the process by itself.

    own  the process is a command's own: after SIGINT and SIGTERM it dies of that signal, so that
         shells, make and Slurm see what happened (130, 143).
    """
    if isinstance(error, (KeyboardInterrupt, Terminated)):
        number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else signal.SIGTERM
        if own:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        return 128 + number
    if not isinstance(error, Exception):
        raise error
    if debug:
        import traceback

        traceback.print_exception(error)
    code, message = meaning(error)
    cli._say(f"error: {message}")
    if isinstance(error, OSError) or code == errors.TransferError.code:
        _drop_stdout()
    return code


def meaning(error):
    """(exit code, message) of an exception."""
    if isinstance(error, errors.CannonkitError):
        return error.code, str(error)
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError | ImportError)
                                          and any(words in str(error) for words in _NO_MEMORY)):
        detail = f": {error}" if str(error) else ""
        return errors.UnavailableError.code, f"not enough memory{detail} (try a smaller --chunk)"
    if isinstance(error, OSError) and "libllvmlite" in str(error):
        return errors.UnavailableError.code, "libllvmlite cannot be loaded: not enough memory, or Numba is not whole"
    if isinstance(error, ModuleNotFoundError) and error.name and error.name.split(".")[0] != "cannonkit":
        extra = {"matplotlib": " (pip install 'cannonkit[report]')"}.get(error.name.split(".")[0], "")
        return errors.UnavailableError.code, f"the Python package {error.name!r} is not installed{extra}"
    if isinstance(error, OSError) and error.errno is not None:
        return _meaning_of_errno(error)
    kind = type(error).__name__
    return errors.InternalError.code, (f"internal error, please report it: {kind}: "
                                       f"{cli.one_line(error, 300)} (--debug shows where)")


def _meaning_of_errno(error):
    name = error.filename.decode(errors="replace") if isinstance(error.filename, bytes) else error.filename
    message = f"{name}: {error.strerror}" if name is not None else str(error.strerror)
    if error.errno in _AGAIN:
        return errors.TryAgainError.code, message
    if error.errno in _INPUT:
        return errors.NoInputError.code, message
    if error.errno in _OUTPUT:
        return errors.CannotCreateError.code, message
    if error.errno == errno.ENOMEM:
        return errors.UnavailableError.code, f"not enough memory: {message}"
    if name is None and error.errno in _DISK:
        message = f"reading or writing failed: {message}"
    return errors.TransferError.code, message


def _drop_stdout():
    """Forget buffered text, or Python would try to write it again at exit and complain."""
    try:
        sys.stdout.flush()
    except (OSError, ValueError, AttributeError):
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        except OSError:
            pass
