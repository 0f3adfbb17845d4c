"""The kernel cache guard under every trouble of reliability row 25, on a package of two toy kernels."""
import ast
import os
import shutil
import sys

import pytest

OUTER = '''
from numba import njit
from cannonkit.kernels import inner

@njit(cache=True)
def twice(x):
    return 2 * inner.step(x)
'''
INNER = '''
from numba import njit

@njit(cache=True, no_cpython_wrapper=True, no_cfunc_wrapper=True)
def step(x):
    return x + 1
'''
RUN = '''
import os, sys
sys.path.insert(0, {package!r})
import warnings
warnings.showwarning = lambda message, *rest, **more: print("warning:", message, file=sys.stderr)
from cannonkit.kernels import cache, outer
print(outer.twice(4), sum(outer.twice.stats.cache_hits.values()), cache.directory())
'''


def make_package(folder, root):
    """A copy of the guard with two kernels, one calling the other from its own file."""
    kernels = folder / "cannonkit" / "kernels"
    kernels.mkdir(parents=True)
    (folder / "cannonkit" / "__init__.py").write_text("")
    for name in ("__init__.py", "blas.py", "cache.py"):
        shutil.copy(root / "cannonkit" / "kernels" / name, kernels)
    (kernels / "outer.py").write_text(OUTER)
    (kernels / "inner.py").write_text(INNER)
    return folder


@pytest.fixture(scope="module")
def package(tmp_path_factory, root):
    return make_package(tmp_path_factory.mktemp("install"), root)


@pytest.fixture(scope="module")
def run_kernel(start):
    """run_kernel(package, home, prefix) -> (value, from the cache?, directory, lines on stderr)."""

    def call(package, home, prefix=(), **env):
        env = {"HOME": home, "XDG_CACHE_HOME": None, "NUMBA_CACHE_DIR": None, "TMPDIR": None, **env}
        done = start([*prefix, sys.executable, "-c", RUN.format(package=str(package))], env=env)
        assert done.code == 0, done
        value, hits, directory = done.out.decode().split()
        return int(value), int(hits) > 0, directory, done.err.splitlines()

    return call


@pytest.fixture(scope="module")
def filled(package, run_kernel, tmp_path_factory):
    """A base directory with a cache that one run has filled; do not write there."""
    base = tmp_path_factory.mktemp("filled")
    assert run_kernel(package, base, NUMBA_CACHE_DIR=base)[:2] == (10, False)
    return base


@pytest.fixture
def play(package, run_kernel, tmp_path):
    home = tmp_path / "home"
    home.mkdir()

    def call(prefix=(), **env):
        return run_kernel(package, home, prefix, **env)

    return call


@pytest.fixture
def own(filled, tmp_path):
    """A NUMBA_CACHE_DIR of this test's own with a filled cache: (base, the directory in it)."""
    base = tmp_path / "own"
    shutil.copytree(filled, base)
    base.chmod(0o700)
    return base, next(base.iterdir())


def test_second_start_is_from_the_cache(play, tmp_path):
    value, hit, directory, lines = play()
    assert (value, hit, lines) == (10, False, [])
    assert directory.startswith(f"{tmp_path}/home/.cache/cannonkit/cannonkit-kernels-")
    assert os.stat(directory).st_mode & 0o777 == 0o700
    assert os.stat(os.path.dirname(directory)).st_mode & 0o777 == 0o700
    assert play() == (10, True, directory, [])


def test_a_kept_kernel_needs_no_compiler(package, filled, start):
    """Numba's tables of what it can compile (0.2 s to fill) and the rest of SciPy stay away."""
    code = RUN.format(package=str(package)) + "print(sorted({'numba.np.npyimpl', 'scipy.linalg'} & set(sys.modules)))"
    done = start([sys.executable, "-c", code], env={"NUMBA_CACHE_DIR": filled})
    assert done.code == 0 and done.out.decode().split()[1] == "1", done
    assert done.out.decode().splitlines()[-1] == "[]", done


def test_a_kept_kernel_is_taken_into_a_new_one(play, own):
    """Its bitcode, which is not parsed for calling it, is there when a kernel that calls it is compiled."""
    base, directory = own
    for path in directory.glob("outer-*/*"):
        path.unlink()
    kept = {path: path.stat().st_mtime_ns for path in directory.glob("inner-*/*")}
    assert len(kept) == 2
    value, hit, _, lines = play(NUMBA_CACHE_DIR=base)
    assert (value, hit, lines) == (10, False, [])
    assert kept == {path: path.stat().st_mtime_ns for path in directory.glob("inner-*/*")}


def test_products_do_not_load_all_of_scipy(start):
    """Numba finds SciPy's BLAS module by its name, and the package can still be imported after it."""
    code = ("import sys, numpy as np; from numba import njit; from cannonkit.kernels import blas\n"
            "assert blas.NAME in sys.modules and 'scipy.linalg' not in sys.modules\n"
            "a = np.arange(12.0).reshape(3, 4)\n"
            "print(np.abs(njit(lambda a: np.dot(a, a.T))(a) - a @ a.T).max())\n"
            "import scipy.linalg, scipy.optimize; from scipy.linalg import cython_blas\n"
            "assert cython_blas is sys.modules[blas.NAME]\n"
            "print(np.abs(scipy.linalg.solve(np.eye(3) * 2, np.ones(3)) - 0.5).max())")
    done = start([sys.executable, "-c", code])
    assert (done.code, done.out.decode().split()) == (0, ["0.0", "0.0"]), done


def test_a_change_in_a_called_module_is_seen(run_kernel, tmp_path, root):
    """Numba alone would answer 10 again: its own check looks only at the caller's file."""
    package = make_package(tmp_path / "install", root)
    first = run_kernel(package, tmp_path)
    (package / "cannonkit" / "kernels" / "inner.py").write_text(INNER.replace("x + 1", "x + 1000"))
    second = run_kernel(package, tmp_path)
    assert (first[0], second[0], second[1]) == (10, 2008, False) and first[2] == second[2]


def test_equal_installations_share_their_kernels(run_kernel, tmp_path, root):
    """Another clone, or a file that only looks newer, starts with what is there; an unrelated module too."""
    assert run_kernel(make_package(tmp_path / "first", root), tmp_path)[1] is False
    other = make_package(tmp_path / "second", root)
    (other / "cannonkit" / "kernels" / "unrelated.py").write_text("x = 1\n")
    assert run_kernel(other, tmp_path)[:2] == (10, True)


def test_the_key_of_a_module_covers_all_that_it_imports(root):
    """The quick reading of imports finds what Python's own parser finds, and kernels import no other room."""
    from cannonkit.kernels import cache

    for path in sorted((root / "cannonkit" / "kernels").glob("*.py")):
        found = set()
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom) and node.module == "cannonkit.kernels":
                found |= set(names)
            elif isinstance(node, ast.ImportFrom) and node.module.startswith("cannonkit"):
                assert node.module.startswith("cannonkit.kernels."), (path, node.module)
                found.add(node.module.split(".")[2])
            else:
                assert not [name for name in names if name.startswith("cannonkit")], (path, names)
        assert set(cache.imported(path.read_text())) == found, path


def test_order_of_directories(play, tmp_path):
    xdg = tmp_path / "xdg"
    assert play(XDG_CACHE_HOME=xdg)[2].startswith(f"{xdg}/cannonkit/")
    assert play(NUMBA_CACHE_DIR=tmp_path / "own", XDG_CACHE_HOME=xdg)[2].startswith(f"{tmp_path}/own/")


def test_no_home(play, tmp_path):
    """No home directory that can be used: the directory for temporary files serves."""
    (tmp_path / "tmp").mkdir()
    value, _, directory, lines = play(HOME="/proc/none", TMPDIR=tmp_path / "tmp")
    assert (value, lines) == (10, [])
    assert directory.startswith(f"{tmp_path}/tmp/cannonkit-{os.getuid()}/")
    assert play(HOME="not/absolute", TMPDIR=tmp_path / "tmp")[1:] == (True, directory, [])


def test_read_only_install_and_home(run_kernel, tmp_path, root, without_write):
    """Numba alone fails here at import: no locator available."""
    package, closed, tmp = make_package(tmp_path / "install", root), tmp_path / "closed", tmp_path / "tmp"
    closed.mkdir()
    tmp.mkdir()
    prefix = without_write(package)
    without_write(closed)
    value, _, directory, lines = run_kernel(package, closed, prefix, TMPDIR=tmp)
    assert (value, lines) == (10, []) and directory.startswith(str(tmp))
    value, _, _, lines = run_kernel(package, closed, prefix, TMPDIR=tmp, NUMBA_CACHE_DIR=closed)
    assert value == 10 and len(lines) == 1 and "NUMBA_CACHE_DIR is not used" in lines[0]


def test_nowhere_to_write(play, package, tmp_path, start, without_write):
    closed = tmp_path / "closed"
    closed.mkdir()
    prefix = without_write(closed)
    blocked = RUN.replace("import warnings", f"import warnings, tempfile; tempfile.tempdir = {str(closed)!r}")
    done = start([*prefix, sys.executable, "-c", blocked.format(package=str(package))],
                 env={"HOME": closed, "XDG_CACHE_HOME": None, "NUMBA_CACHE_DIR": None})
    assert done.code == 0 and done.out == b"10 0 None\n", done
    assert len(done.err.splitlines()) == 1 and "every start compiles them" in done.err


@pytest.mark.parametrize("damage", ["cut data", "flipped data", "empty index", "junk index"])
def test_damaged_files_are_replaced(play, own, damage):
    base, directory = own
    files = list(directory.rglob("*.nbi" if "index" in damage else "*.nbc"))
    assert len(files) == 2
    for path in files:
        data = bytearray(path.read_bytes())
        flipped = bytearray(data)
        flipped[len(data) // 2] ^= 1
        path.write_bytes({"cut data": data[:len(data) // 2], "flipped data": flipped, "empty index": b"",
                          "junk index": b"junk" * 20}[damage])
    value, hit, _, lines = play(NUMBA_CACHE_DIR=base)
    assert (value, hit, len(lines)) == (10, False, 1) and "compiled again" in lines[0]
    if damage == "cut data":
        assert play(NUMBA_CACHE_DIR=base) == (10, True, str(directory), [])


def test_a_pickle_in_place_of_a_kernel_is_not_executed(play, own, tmp_path):
    base, directory = own
    evil = b"cos\nmkdir\n(S'" + str(tmp_path / "executed").encode() + b"'\ntR."
    files = [path for path in directory.rglob("*") if path.is_file()]
    assert len(files) == 4
    for path in files:
        path.write_bytes(evil)
    assert play(NUMBA_CACHE_DIR=base)[0] == 10 and not (tmp_path / "executed").exists()


def test_full_disk(play, tmp_path, small_disk):
    place = tmp_path / "small"
    place.mkdir()
    value, hit, _, lines = play(small_disk(place, "8k"), NUMBA_CACHE_DIR=place)
    assert value == 10 and len(lines) == 1, lines


@pytest.mark.parametrize("mode", [0o702, 0o770])
def test_a_directory_that_others_can_write_is_refused(play, own, tmp_path, mode):
    base, directory = own
    directory.chmod(mode)
    value, _, other, lines = play(NUMBA_CACHE_DIR=base)
    assert value == 10 and len(lines) == 1 and "others can write" in lines[0]
    assert other.startswith(f"{tmp_path}/home/")


def test_an_open_base_is_refused_unless_sticky(play, own):
    base, directory = own
    base.chmod(0o777)
    assert "everybody can write there" in play(NUMBA_CACHE_DIR=base)[3][0]
    base.chmod(0o1777)
    assert play(NUMBA_CACHE_DIR=base) == (10, True, str(directory), [])


def test_a_foreign_owner_is_refused(play, own):
    base, directory = own
    if os.geteuid() != 0:
        pytest.skip("only root can give a directory away")
    os.chown(directory, 65534, 65534)
    assert "belongs to another user" in play(NUMBA_CACHE_DIR=base)[3][0]


def test_a_link_is_refused(play, own, tmp_path):
    base, directory = own
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    assert "is not a directory" in play(NUMBA_CACHE_DIR=base)[3][0]


def test_old_directories_go(play, tmp_path):
    base = tmp_path / "home" / ".cache" / "cannonkit"
    base.mkdir(parents=True)
    for n in range(30):
        path = base / f"cannonkit-kernels-{n:016x}"
        path.mkdir()
        os.utime(path, (1e9 + n, 1e9 + n))
    (base / "something else").mkdir()
    directory = play()[2]
    left = sorted(path.name for path in base.iterdir())
    assert len(left) == 16 + 1 + 1 and os.path.basename(directory) in left and "something else" in left
    assert f"cannonkit-kernels-{29:016x}" in left and f"cannonkit-kernels-{13:016x}" not in left


def test_real_kernels_are_guarded():
    from cannonkit.kernels import cache, neighbours

    assert isinstance(neighbours.mean_nearest_distance._cache, cache._GuardedCache)
    assert cache.directory() is not None and cache.version_key() in cache.directory()
    assert os.path.isdir(os.path.join(cache.directory(), f"neighbours-{cache.module_key(neighbours.__file__)}"))
