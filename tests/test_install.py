"""`pip install .`: the wheel has ten commands and the recipes, and works where nobody can write."""
import shutil
import subprocess
import sys
import zipfile

import pytest


@pytest.fixture(scope="module")
def wheel(root, tmp_path_factory, start):
    """(wheel, source) of a copy of the files that git knows (or would), built by pip."""
    folder = tmp_path_factory.mktemp("wheel")
    try:
        list_files = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        known = subprocess.run(list_files, cwd=root, check=True, capture_output=True).stdout
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("not a git checkout, so the files of the package are not known")
    for name in filter(None, known.decode().split("\0")):
        if (root / name).exists():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, folder / "source" / name, follow_symlinks=False)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder]
    done = start([*pip, folder / "source"], timeout=300)
    if done.code and ("No matching distribution" in done.err or "Could not find a version" in done.err):
        pytest.skip("pip cannot get setuptools here (no network?), so no wheel can be built")
    assert done.code == 0, done
    return next(folder.glob("cannonkit-*.whl")), folder / "source"


def test_wheel_has_the_commands_and_the_recipes(wheel):
    wheel, source = wheel
    names = zipfile.ZipFile(wheel).namelist()
    scripts = {name.rsplit("/", 1)[1] for name in names if ".data/scripts/" in name}
    assert scripts == {path.name for path in (source / "bin").iterdir()}
    recipes = {path.name for path in (source / "configs").iterdir() if path.is_file()}
    assert recipes and recipes == {name.removeprefix("cannonkit/configs/") for name in names
                                   if name.startswith("cannonkit/configs/")}
    modules = {path.relative_to(source).as_posix() for path in (source / "cannonkit").rglob("*.py")}
    assert modules <= set(names)
    assert not [name for name in names if name.startswith(("tests", "build", "configs"))]


def test_wheel_works_read_only(wheel, tmp_path, start, without_write):
    """Unpacked where its user cannot write: a command answers, a recipe is found by name."""
    folder = tmp_path / "site"
    with zipfile.ZipFile(wheel[0]) as archive:
        archive.extractall(folder)
    prefix = without_write(folder)
    script = next(folder.glob("*.data/scripts/cc-check"))
    env = {"PYTHONPATH": folder, "PYTHONDONTWRITEBYTECODE": None}
    done = start([*prefix, sys.executable, script, "--help"], env=env)
    assert done.code == 0 and done.out.startswith(b"usage: cc-check"), done
    code = "from cannonkit import config; print(config.find('apogee_dr16'))"
    done = start([*prefix, sys.executable, "-c", code], env=env, cwd=tmp_path)
    assert done.out.decode().strip() == f"{folder}/cannonkit/configs/apogee_dr16.yaml"
