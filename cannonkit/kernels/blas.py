"""SciPy's BLAS for compiled products, without the rest of SciPy.

Numba takes np.dot from the module scipy.linalg.cython_blas, and importing that imports the package scipy.linalg
first, with all that it needs: 0.15 s at every start. The module needs none of it, so it is loaded by itself here,
under its own name, before anybody asks. Where that fails it is left to Numba, which imports it the usual way.
"""
import importlib.util
import mmap
import os
import sys

NAME = "scipy.linalg.cython_blas"
LIBRARY = 80_000_000    # bytes of address space for loading it; 58 MB were measured
THREAD = 70_000_000     # and for a thread that makes products: 34 MB for OpenBLAS, the rest for the thread itself


def load():
    """Load SciPy's BLAS module unless it is there; call it once the number of BLAS threads is set.

    Raises MemoryError where there is no room for it.
    """
    if NAME in sys.modules:
        return
    _require(LIBRARY)
    scipy = importlib.util.find_spec("scipy")
    folders = [os.path.join(place, "linalg") for place in scipy.submodule_search_locations] if scipy else []
    spec = importlib.machinery.PathFinder.find_spec(NAME, folders)
    if spec is None:
        return
    try:
        module = importlib.util.module_from_spec(spec)
        sys.modules[NAME] = module
        spec.loader.exec_module(module)
    except ImportError:
        sys.modules.pop(NAME, None)


def require_room(n_thread):
    """Raise MemoryError where n_thread threads have no room: OpenBLAS asks for its memory for ever."""
    _require(n_thread * THREAD)


def _require(n_byte):
    try:
        mmap.mmap(-1, n_byte, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except OSError:
        raise MemoryError(f"{n_byte // 1_000_000} MB for BLAS are not there") from None
