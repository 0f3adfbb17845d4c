"""bin/, setup.cfg, commands/, the README's table and the recipes agree."""
import configparser
import os
import re

import pytest

from cannonkit import config

# In the order in which data flow.
COMMANDS = ("mock", "crossmatch", "resample", "train", "infer", "flag", "errors", "merge", "report", "check")


def test_one_script_per_command(root):
    scripts = sorted(path.name for path in (root / "bin").iterdir())
    assert scripts == sorted(f"cc-{name}" for name in COMMANDS)
    for name in COMMANDS:
        path = root / "bin" / f"cc-{name}"
        assert os.access(path, os.X_OK)
        lines = path.read_text().splitlines()
        assert len(lines) == 7 and lines[0] == "#!/usr/bin/env python3"
        assert lines[4:] == [f"from cannonkit.commands.{name} import main", "", "sys.exit(main())"]


def test_setup_cfg_names_the_scripts(root):
    setup = configparser.ConfigParser()
    setup.read(root / "setup.cfg")
    scripts = setup["options"]["scripts"].split()
    assert scripts == [f"bin/cc-{name}" for name in COMMANDS]


def test_one_module_per_command(root):
    modules = sorted(path.stem for path in (root / "cannonkit" / "commands").glob("*.py"))
    assert modules == sorted(["__init__", *COMMANDS])


def test_readme_lists_the_commands_in_the_order_data_flows(root):
    text = (root / "README.md").read_text()
    rows = re.findall(r"^\| *`?(cc-[a-z]+)`? *\|", text, re.MULTILINE)
    assert [row for n, row in enumerate(rows) if row not in rows[:n]] == [f"cc-{name}" for name in COMMANDS]


@pytest.mark.parametrize("folder", ["kernels", "stages"])
def test_sections_of_tests_mirror_the_package(root, folder):
    assert list((root / "tests" / folder).glob("test_*.py"))


def test_recipes_are_where_the_package_looks(root):
    assert os.path.realpath(config.recipe_folder()) == os.path.realpath(root / "configs")


def test_sections_belong_to_commands():
    assert set(config.SECTIONS) <= set(COMMANDS)
