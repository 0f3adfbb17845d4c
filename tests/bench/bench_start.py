"""How soon the commands answer."""
import subprocess
import sys
from pathlib import Path

from run import ROOT, Entry, best

BOUND = 0.15  # s; reliability.md 5


def bench_help():
    """`cc-x --help` of every command as a user starts it: the whole process, best of 5."""
    folder = Path(sys.executable).parent
    for script in sorted((ROOT / "bin").glob("cc-*")):
        command = [folder / script.name, "--help"]
        seconds = best(lambda command=command: subprocess.run(command, stdout=subprocess.DEVNULL, check=True))
        yield Entry(f"{script.name} --help", seconds, BOUND)
