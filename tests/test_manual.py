"""Man pages and completion come from the parsers, whole, and cost nothing at run time."""
import shutil
import subprocess
import sys

import pytest

from cannonkit import manual


@pytest.fixture(scope="module")
def found():
    return manual.parsers()


def test_every_option_is_in_its_page(found):
    assert len(found) == 10
    for name, parser in found.items():
        page = manual.man_page(name, parser)
        for one in (parser, *manual.subparsers(parser).values()):
            for action in one._actions:
                for option in action.option_strings:
                    assert option.replace("-", "\\-") in page, (name, option)
        assert ".SH NAME" in page and ".SH EXIT STATUS" in page and "Examples" in page


def test_man_reads_the_pages(found, tmp_path, program):
    groff = program("groff")
    for name, parser in found.items():
        (tmp_path / f"{name}.1").write_text(manual.man_page(name, parser))
        done = subprocess.run([groff, "-man", "-Tutf8", "-ww", tmp_path / f"{name}.1"], capture_output=True, text=True)
        assert done.returncode == 0 and name in done.stdout, done.stderr


def complete(script, shell, *words):
    """What completion offers for a command line whose last word is unfinished."""
    # bashcompinit runs completions under emulate -L sh with KSH_ARRAYS.
    ready = "autoload -U +X bashcompinit; bashcompinit; compdef() { :; }; emulate -L sh; setopt kshglob " \
            "noshglob braceexpand ksharrays; " if shell == "zsh" else ""
    line = (f"{ready}source {script}; COMP_WORDS=({' '.join(repr(w) for w in words)}); COMP_CWORD={len(words) - 1}; "
            "_cannonkit; printf '%s\\n' \"${COMPREPLY[@]}\"")
    done = subprocess.run([shell, "-c", line], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == "", done
    return done.stdout.split()


@pytest.mark.parametrize("words, has, lacks", [
    (("cc-flag", "--me"), "--metric", "--model"), (("cc-flag", "--metric", ""), "squared", "--metric"),
    (("cc-errors", "cal"), "calibrate", "apply"), (("cc-errors", "apply", "--err"), "--errors", "--bins"),
    (("/usr/bin/cc-resample", "x.fits", "--recipe", "gal"), "galah_dr3", "apogee_dr16")])
@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_completion(found, tmp_path, shell, words, has, lacks):
    if not shutil.which(shell):
        pytest.skip(f"{shell} is not installed")
    script = tmp_path / "cannonkit.bash"
    script.write_text(manual.completion(found))
    offered = complete(script, shell, *words)
    assert has in offered and (lacks not in offered or shell == "zsh")     # zsh itself leaves out what does not fit


def test_files_are_offered(found, tmp_path, monkeypatch):
    script = tmp_path / "cannonkit.bash"
    script.write_text(manual.completion(found))
    (tmp_path / "spectra.fits").touch()
    monkeypatch.chdir(tmp_path)
    assert complete(script, "bash", "cc-infer", "spec") == ["spectra.fits"]
    assert complete(script, "bash", "cc-infer", "-o", "spec") == ["spectra.fits"]


def test_as_a_program(tmp_path):
    for words, name in (((), "cc-flag.1"), (("--completion",), "cannonkit.bash")):
        subprocess.run([sys.executable, "-m", "cannonkit.manual", *words, tmp_path], check=True)
        assert (tmp_path / name).stat().st_size > 1000
    if shutil.which("zsh"):
        line = f"autoload -U +X compinit bashcompinit; compinit -D; bashcompinit; source {tmp_path}/cannonkit.bash"
        assert subprocess.run(["zsh", "-c", line], capture_output=True).returncode == 0
