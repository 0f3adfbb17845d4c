"""Who may import whom (style.md, "Layers"), read from the source."""
import ast
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parent.parent / "cannonkit"
MODULES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py")
                 if not path.is_relative_to(PACKAGE / "configs"))

FITS_READERS = {"fits", "stream", "readers", "provenance", "surveys", "model"}
QUICK = {"__init__", "cli", "config", "errors", "process", "typed", "strict_yaml"}  # before the parsing
MADE_OF_STAGES = {"model", "importers", "surveys", "joining", "attach", "readers", "targets", "plots", "survey_rows"}


def imports(path):
    """(module names imported at the top level, those imported inside functions) of a file."""
    tree = ast.parse((PACKAGE / path).read_text())
    inner = {node for function in ast.walk(tree) if isinstance(function, (ast.FunctionDef, ast.Lambda))
             for node in ast.walk(function)}
    top, late = set(), set()
    for node in ast.walk(tree):
        found = late if node in inner else top
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            if node.module in ("cannonkit", "cannonkit.stages", "cannonkit.kernels", "cannonkit.commands"):
                found.update(f"{node.module}.{alias.name}" for alias in node.names)
            else:
                found.add(node.module)
    return top, late


def outer(names):
    """Names of top-level packages outside the standard library and this package."""
    roots = {name.split(".")[0] for name in names}
    return roots - set(sys.stdlib_module_names) - {"cannonkit"}


def own(names):
    """Names inside the package, without its own name: {"schema", "kernels.infer"}."""
    return {name.removeprefix("cannonkit.") for name in names if name.startswith("cannonkit.")}


def layer(path):
    return path.parts[0] if len(path.parts) > 1 else ""


def in_layer(name):
    return [path for path in MODULES if layer(path) == name and path.name != "__init__.py"]


def calls(path):
    """Names of the plain functions that a file calls or decorates with."""
    tree = ast.parse((PACKAGE / path).read_text())
    return {node.func.id for node in ast.walk(tree)
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)} \
        | {node.id for function in ast.walk(tree) if isinstance(function, ast.FunctionDef)
           for decorator in function.decorator_list for node in ast.walk(decorator)
           if isinstance(node, ast.Name)}


def test_there_is_something_to_look_at():
    assert in_layer("kernels") and in_layer("stages") and in_layer("commands")
    top, late = imports(Path("cli.py"))
    assert "argparse" in top and "cannonkit.process" in late and "cannonkit.config" in top


@pytest.mark.parametrize("path", in_layer("kernels"), ids=str)
def test_kernels_import_numpy_numba_and_kernels(path):
    top, late = imports(path)
    names = top | late
    allowed = {"cache": {"numpy", "numba", "llvmlite"}, "blas": set()}.get(path.stem, {"numpy", "numba"})
    assert outer(names) <= allowed
    assert all(name.startswith("kernels.") for name in own(names)), own(names)
    if path.stem not in ("cache", "blas"):
        assert {name.split(".")[0] for name in names} - {"cannonkit", "numpy", "numba"} <= {"math", "typing"}
        assert not calls(path) & {"open", "print"}


@pytest.mark.parametrize("path", in_layer("stages"), ids=str)
def test_stages_know_no_files_and_no_options(path):
    top, late = imports(path)
    names = top | late
    assert outer(names) <= {"numpy", "scipy", "numba"}
    assert not calls(path) & {"njit", "jit"}, "compiled loops live in kernels/"  # numba: the thread count
    allowed = {"schema", "bitmasks", "errors", "model"}
    strangers = {name for name in own(names) if name.split(".")[0] not in ("kernels", "stages")
                 and name not in allowed and not name.startswith("recipe")}
    assert not strangers
    files = {"argparse", "sys", "os", "pathlib", "io", "subprocess", "tempfile", "shutil"}
    assert not {name.split(".")[0] for name in names} & files
    assert not calls(path) & {"open", "print", "input"}


@pytest.mark.parametrize("path", in_layer("commands"), ids=str)
def test_commands_import_cli_and_config_only_at_the_top(path):
    top, _ = imports(path)
    assert not outer(top)
    assert own(top) <= {"cli", "config", "errors"}, "import it inside run()"


@pytest.mark.parametrize("path", [p for p in MODULES if layer(p) == ""], ids=str)
def test_rooms_know_no_stage(path):
    """Only rooms made of stages (a model predicts, a catalogue is selected from) may know stages."""
    top, late = imports(path)
    upper = {name.split(".")[0] for name in own(top | late)} & {"stages", "kernels", "commands"}
    assert upper <= ({"stages", "kernels"} if path.stem in MADE_OF_STAGES else set())
    if path.stem in QUICK:
        assert not outer(top), "imported before the command line is parsed"


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_each_library_has_its_room(path):
    top, late = imports(path)
    names = outer(top | late)
    if "fitsio" in names:
        assert layer(path) == "" and path.stem in FITS_READERS
    if "yaml" in names:
        assert path.stem == "strict_yaml"
    if "matplotlib" in names:
        assert path.stem == "plots"
    assert not names & {"astropy", "pandas", "pickle", "h5py"}
    assert "pickle" not in top | late and not calls(path) & {"eval", "exec"}


def constants(tree):
    """Module-level names that are bound to a literal."""
    found = {}
    for node in tree.body:
        if isinstance(node, ast.Assign) and len(node.targets) == 1 and isinstance(node.targets[0], ast.Name):
            try:
                found[node.targets[0].id] = ast.literal_eval(node.value)
            except ValueError:
                pass
    return found


def test_jit_options_are_constants():
    """An option that depends on the run would be answered from the cache of the other version."""
    n_found = 0
    for path in in_layer("kernels"):
        tree = ast.parse((PACKAGE / path).read_text())
        known = constants(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "njit":
                n_found += 1
                for keyword in node.keywords:
                    where = f"{path}: {keyword.arg}"
                    if isinstance(keyword.value, ast.Name):
                        assert keyword.value.id in known, where
                        value = known[keyword.value.id]
                    else:
                        value = ast.literal_eval(keyword.value)
                    if keyword.arg == "fastmath":  # NaN and infinity have meaning
                        assert value is False or not {"fast", "nnan", "ninf"} & set(value), where
    assert n_found
