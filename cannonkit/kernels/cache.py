"""Where compiled kernels are kept, and what happens when they cannot be.

Numba's cache keeps machine code as pickles beside the source. Left alone it fails at import where
nothing can be written, on every run after a file was damaged, at the call when the disk is full, and
it gives stale results when a function changes that a kernel in another file calls. So, for our kernels:

- the directory is named by a hash of the versions of Python, numba, llvmlite and numpy; in it, each
  module has one named by a hash of its source and of the kernel modules that it imports, directly
  or not: a change is a new directory for what depends on it, and equal installations share one;
- the first stands in NUMBA_CACHE_DIR, else $XDG_CACHE_HOME/cannonkit or ~/.cache/cannonkit, else
  cannonkit-<uid> in the directory for temporary files: the first that is ours and can be written;
- that one belongs to us with mode 0700, or it is not used (its files are executed);
- a file carries a digest; a damaged one is removed and its kernel compiled again;
- where nothing can be kept, kernels are compiled in memory.

Each trouble is one RuntimeWarning, at most one in a process, and never an error.
"""
import functools
import glob
import hashlib
import io
import os
import re
import stat
import sys
import tempfile
import warnings

import llvmlite
import numba
import numpy as np
from llvmlite import binding
from numba.core import caching, dispatcher, environment
from numba.core.runtime import rtsys

KEPT = 16  # directories of older versions, and of older sources of each module, that are left in place
_IMPORT = re.compile(rf"^\s*from {re.escape(__package__)}(?:\.(\w+))? import (.*)", re.MULTILINE)

_state = {"warned": False, "directory": None, "keys": {}}


def install():
    """Make the kernels of this package use the guarded cache. Called once, before any is defined."""
    _state["directory"] = choose(os.environ)
    original = dispatcher.Dispatcher.enable_caching

    def enable_caching(self):
        if not (self.py_func.__module__ or "").startswith(f"{__package__}."):
            original(self)
        elif _state["directory"] is not None:
            self._cache = _GuardedCache(self.py_func)

    dispatcher.Dispatcher.enable_caching = enable_caching


def directory():
    """The directory in use, or None where kernels are compiled in memory."""
    return _state["directory"]


def version_key():
    """A short hash of the versions that decide the machine code."""
    return _key(" ".join((sys.version, numba.__version__, llvmlite.__version__, np.__version__)).encode())


def module_key(path):
    """A short hash of the source in file `path` and of all kernel modules that it imports, directly or not."""
    folder = os.path.dirname(os.path.abspath(path))
    sources, found = {}, [os.path.basename(path)]
    while found:
        name = found.pop()
        if name not in sources:
            with open(os.path.join(folder, name), "rb") as file:
                sources[name] = file.read()
            found += [f"{word}.py" for word in imported(sources[name].decode())
                      if os.path.exists(os.path.join(folder, f"{word}.py"))]
    return _key(*(f"{name} {len(sources[name])} ".encode() + sources[name] for name in sorted(sources)))


def imported(source):
    """Names of the kernel modules that `source` imports; `from cannonkit.kernels import a, b` on one line."""
    names = []
    for module, rest in _IMPORT.findall(source):
        names += [module] if module else re.findall(r"(\w+)(?: as \w+)?", rest)
    return names


def _key(*parts):
    return hashlib.sha256(b"".join(parts)).hexdigest()[:16]


def choose(environ):
    """The first directory that is ours and can be written, made if need be; None if there is none.

    Only a NUMBA_CACHE_DIR that cannot be used, and the lack of any directory, are worth a warning.
    """
    name = f"cannonkit-kernels-{version_key()}"
    reasons = []
    for base, asked_for in _bases(environ):
        try:
            path = _prepare(base, name)
        except OSError as error:
            reason = f"{base}: {error.strerror or error}"
            reasons.append(reason)
            if asked_for:
                _warn(f"NUMBA_CACHE_DIR is not used for compiled kernels ({reason})")
            continue
        _forget_old(path, "cannonkit-kernels-*")
        return path
    _warn(f"compiled kernels cannot be kept, so every start compiles them ({'; '.join(reasons)})")
    return None


def _bases(environ):
    """(directory, whether the user named it), best first."""
    if environ.get("NUMBA_CACHE_DIR"):
        yield environ["NUMBA_CACHE_DIR"], True
    home = environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    if os.path.isabs(home):
        yield os.path.join(home, "cannonkit"), False
    yield os.path.join(tempfile.gettempdir(), f"cannonkit-{os.getuid()}"), False


def _prepare(base, name):
    """Make base/name, check that it is safe and can be written; OSError says what is wrong."""
    os.makedirs(base, mode=0o700, exist_ok=True)
    outer = os.stat(base)
    if outer.st_mode & stat.S_IWOTH and not outer.st_mode & stat.S_ISVTX:
        raise OSError("everybody can write there")
    path = os.path.join(base, name)
    try:
        os.mkdir(path, 0o700)
    except FileExistsError:
        pass
    found = os.lstat(path)
    if not stat.S_ISDIR(found.st_mode):
        raise OSError(f"{name} is not a directory")
    if found.st_uid != os.geteuid():
        raise OSError(f"{name} belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise OSError(f"others can write into {name}")
    with tempfile.TemporaryFile(dir=path):
        pass
    return path


def _forget_old(used, pattern):
    """Keep the directory `used` and, of those beside it that match `pattern`, the KEPT used last."""
    try:
        os.utime(used)
        others = [path for path in glob.glob(os.path.join(glob.escape(os.path.dirname(used)), pattern)) if path != used]
        others.sort(key=os.path.getmtime, reverse=True)
    except OSError:
        return
    if len(others) > KEPT:
        import shutil

        for path in others[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)


def _warn(text):
    if not _state["warned"]:
        _state["warned"] = True
        warnings.warn(text, RuntimeWarning, stacklevel=3)


class _Locator(caching.UserProvidedCacheLocator):
    """A directory for each module and state of its sources, whatever the process's environment says."""

    def __init__(self, py_func, py_file):
        super().__init__(py_func, py_file)
        module = os.path.splitext(os.path.basename(py_file))[0]
        known = _state["keys"]
        if py_file not in known:
            known[py_file] = module_key(py_file)
            path = os.path.join(_state["directory"], f"{module}-{known[py_file]}")
            os.makedirs(path, mode=0o700, exist_ok=True)
            _forget_old(path, f"{module}-{'?' * len(known[py_file])}")
        self._key = known[py_file]
        self._cache_path = os.path.join(_state["directory"], f"{module}-{self._key}")

    def get_source_stamp(self):
        return self._key

    @classmethod
    def from_function(cls, py_func, py_file):
        self = cls(py_func, py_file)
        self.ensure_cache_path()
        return self


class _Files(caching.IndexDataCacheFile):
    """Numba's index and data files, the data behind a SHA-256 that is checked before they are used."""

    def _dump(self, obj):
        data = super()._dump(obj)
        return hashlib.sha256(data).digest() + data

    def _load_index(self):
        try:
            with open(self._index_path, "rb") as file:
                data = self._checked(file.read())
        except FileNotFoundError:
            return {}
        version, stamp, overloads = caching.pickle.loads(data)
        return overloads if (version, stamp) == (self._version, self._source_stamp) else {}

    def _save_index(self, overloads):
        with self._open_for_write(self._index_path) as file:
            file.write(self._dump((self._version, self._source_stamp, overloads)))

    def _load_data(self, name):
        with open(self._data_path(name), "rb") as file:
            return _Unpickler(io.BytesIO(self._checked(file.read()))).load()

    def _checked(self, data):
        if hashlib.sha256(data[32:]).digest() != data[:32]:
            raise ValueError("damaged")
        return data[32:]


class _Unpickler(caching.pickle.Unpickler):
    """Loads a kernel without the modules of Numba that parts of it were compiled from (0.05 s).

    Each such part has an environment: constants, which compiled code uses, and the globals of its module, which it
    does not.
    """

    def find_class(self, module, name):
        if (module, name) == ("numba.core.environment", "_rebuild_env"):
            return _environment
        return super().find_class(module, name)


def _environment(module, constants, name):
    known = environment.lookup_environment(name)
    if known is not None or not module.startswith("numba."):
        return known or environment._rebuild_env(module, constants, name)
    made = environment.Environment({"__name__": module})
    made.consts[:] = constants
    made.env_name = name
    environment.Environment._memo[name] = made
    return made


class _Implementation(caching.CompileResultCacheImpl):
    _locator_classes = [_Locator]

    def rebuild(self, target_context, payload):
        """A kept kernel. What other kernels take in of it, bitcode, is parsed when one is compiled that does: few ever
        are, and parsing takes four times as long as all else here."""
        (name, kind, (code, bitcode)), function, *rest = payload
        # What Numba looks up in the machine code; it knows from the bitcode whether it is there.
        target_context.codegen()._engine._defined_symbols |= {
            symbol for symbol in (function.llvm_func_name, function.llvm_cpython_wrapper_name)
            if b"\0" + symbol.encode() + b"\0" in code}
        result = super().rebuild(target_context, ((name, kind, (code, _no_bitcode())), function, *rest))
        library = result.library
        library._shared_module = None
        library._get_module_for_linking = functools.partial(_module_for_linking, library, bitcode)
        return result


@functools.cache
def _no_bitcode():
    return binding.parse_assembly("").as_bitcode()


def _module_for_linking(library, bitcode):
    if library._shared_module is None:
        library._shared_module = binding.parse_bitcode(bitcode)
        library.codegen._engine._load_defined_symbols(library._shared_module)
    return library._shared_module


class _GuardedCache(caching.FunctionCache):
    """FunctionCache whose troubles cost a compilation, not the run. Its place is looked up when a kernel is called:
    most functions are compiled into another one and have no file of their own to load."""

    def __init__(self, py_func):
        self._py_func = py_func
        self._name = repr(py_func)
        self._impl = self._cache_path = self._cache_file = None
        self.enable()

    def _find_place(self):
        if self._cache_file is None:
            self._impl = _Implementation(self._py_func)
            self._cache_path = self._impl.locator.get_cache_path()
            self._cache_file = _Files(cache_path=self._cache_path, filename_base=self._impl.filename_base,
                                      source_stamp=self._impl.locator.get_source_stamp())

    def load_overload(self, sig, target_context):
        """A kept kernel, or None. Numba's own version first fills its tables of all that it can compile (0.2 s,
        which the compiler does itself); machine code needs the memory functions only."""
        try:
            self._find_place()
            rtsys.initialize(target_context)
        except (OSError, RuntimeError) as error:
            self._no_place(error)
            return None
        try:
            return self._load_overload(sig, target_context)
        except MemoryError:
            raise
        except Exception as error:  # whatever a damaged pickle can raise
            _warn(f"a kept kernel is unusable and is compiled again ({type(error).__name__}: {error})")
            files = os.path.join(self._cache_path, self._impl.filename_base)
            for path in glob.glob(glob.escape(files) + ".*"):
                try:
                    os.unlink(path)
                except OSError:
                    self.disable()
            return None

    def save_overload(self, sig, data):
        try:
            super().save_overload(sig, data)
        except (OSError, RuntimeError) as error:
            self._no_place(error)

    def _no_place(self, error):
        _warn(f"compiled kernels cannot be kept ({error}); the next start compiles them again")
        self.disable()
