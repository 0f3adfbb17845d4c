"""What a finished demo must show: python tests/check_demo.py build/demo. Prints a table; exit code 1 if a line fails.

Mock data: every number is about simulated stars.
"""
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

from cannonkit import model, schema, stream

if "HOME" not in os.environ:                     # gnuastro's programs do not run without it
    os.environ["HOME"] = tempfile.gettempdir()
MODELS = ("acgs", "gcgs", "gcaa", "acaa")


def rows_of(path):
    with stream.open_source(path, verify=True) as source:
        return source.read()


def half_range(x):
    return np.subtract(*np.percentile(x, [84, 16])) / 2


def trend(difference, teff, n_bin=8):
    """Standard deviation of the medians of the difference in bins of Teff with equal numbers of stars."""
    edges = np.quantile(teff, np.linspace(0, 1, n_bin + 1))
    index = np.clip(np.searchsorted(edges, teff, "right") - 1, 0, n_bin - 1)
    return np.std([np.median(difference[index == k]) for k in range(n_bin)])


class Report:
    failed = 0

    def line(self, what, value, bound, holds):
        self.failed += not holds
        print(f"{'ok ' if holds else 'BAD'} {what:<58} {value:>9.4g}  {bound}")


def cross_validation(run, report):
    for name in MODELS:
        fitted = model.read(run / f"{name}.model.fits")
        for label, bias, scatter in zip(fitted.label_names, fitted.bias, fitted.scatter, strict=True):
            ratio = abs(bias) / scatter
            report.line(f"mock {name} {label}: |cross-validation bias| / scatter", ratio, "<= 0.2", ratio <= 0.2)


def scales(run, report):
    """Differences of the two spectrographs' labels on one scale, against the surveys' own (Table 3, Table 1)."""
    training = rows_of(run / "training.fits")
    training = training[training["selected"] != 0]
    labels = {m: {r["id"]: r for r in rows_of(run / f"{m}.final.fits")} for m in MODELS}
    pairs = [(a, b) for a, b in zip(training["apogee_id"], training["galah_id"], strict=True)
             if all(i in labels[m] and labels[m][i]["status"] & 0b1000110 == 0
                    for i, m in ((a, "acgs"), (b, "gcgs"), (b, "gcaa"), (a, "acaa")))]
    kept = {(a, b) for a, b in pairs}
    training = training[[(a, b) in kept for a, b in zip(training["apogee_id"], training["galah_id"], strict=True)]]
    teff = training["galah_teff"]
    print(f"    {len(training)} mock training stars with labels in all four models")
    for label in schema.LABELS:
        survey = training[f"apogee_{label}"] - training[f"galah_{label}"]
        for first, second in (("acgs", "gcgs"), ("acaa", "gcaa")):
            found = np.array([labels[first][a][label] - labels[second][b][label] for a, b in
                              zip(training["apogee_id"], training["galah_id"], strict=True)])
            for what, measure in (("scatter", half_range), ("trend with Teff", lambda d: trend(d, teff))):
                value, before = measure(found), measure(survey)
                bound = label in ("fe_h", "alpha_fe")
                limit = f"{'< ' if bound else 'shown; '}{before:.4g} of apogee - galah"
                report.line(f"mock {first} - {second} {label}: {what}", value, limit, not bound or value < before)


def pulls(run, report):
    """Widths of pulls of repeats that the calibration has not seen: the paper's final errors are not too small."""
    for name in MODELS:
        table = rows_of(run / f"{name}.pulls.fits")
        for row in table[table["axis"] == b"all"]:
            limit = 1 + max(0.1, 3 * row["error"])
            report.line(f"mock {name} {row['label'].decode()}: width of unseen pulls, paper's errors", row["paper"],
                        f"<= {limit:.2f}; shown: formal {row['formal']:.2f}, factor {row['factor']:.2f}, full model "
                        f"{row['full']:.2f}, {row['n_pair']} pairs", row["paper"] <= limit)


def referees(run, report):
    products = sorted([*run.glob("*.fits")])
    for program, command, says in (("fitsverify", ["fitsverify", "-q"], "verification OK"),
                                   ("stilts", ["stilts", "tpipe", "omode=count"], "rows:"),
                                   ("asttable", ["asttable", "--information"], "")):
        if shutil.which(program) is None:
            print(f"    {program} is not installed: not asked")
            continue
        bad = []
        for path in products:
            with stream.open_source(path) as source:
                place = f"{path}#{source.hdu.index}" if program == "stilts" else str(path)
                extra = [f"-h{source.hdu.index}"] if program == "asttable" else []
            words = [*command, *extra, f"in={place}" if program == "stilts" else place]
            done = subprocess.run(words, capture_output=True, text=True)
            if done.returncode or says not in done.stdout:
                bad.append(path.name)
        report.line(f"products that {program} refuses, of {len(products)} {' '.join(bad)}", len(bad), "0", not bad)


def main(run):
    report, run = Report(), Path(run)
    cross_validation(run, report)
    scales(run, report)
    pulls(run, report)
    referees(run, report)
    print(f"{report.failed} lines fail" if report.failed else "every line holds")
    return int(report.failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
