"""SciPy's BLAS for compiled products, without the rest of SciPy.

Numba takes np.dot from the module scipy.linalg.cython_blas, and importing that imports the package scipy.linalg
first, with all that it needs: 0.15 s at every start. The module needs none of it, so it is loaded by itself here,
under its own name, before anybody asks. Where that fails it is left to Numba, which imports it the usual way.
"""
import importlib.util
import os
import sys

NAME = "scipy.linalg.cython_blas"


def load():
    """Load SciPy's BLAS module unless it is there; call it once the number of BLAS threads is set."""
    if NAME in sys.modules:
        return
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
