"""Peak memory of the commands that stream, for few rows and for many: it must not grow by more than a chunk.

cc-infer at full width, 2,000 and 200,000 rows, is in bench_infer.py; `make bench-full` feeds it 437,445.
"""
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from run import ROOT, Entry, measured

sys.path.insert(0, str(ROOT / "tests"))
FEW, MANY, FEW_FILES, MANY_FILES = 1000, 1_000_000, 100, 10_000
BLOCK = 8192
GROWTH = 40.0                                           # MB: a chunk is 16,384 rows of cc-flag's


def _grows(what, few, many):
    yield Entry(f"{what}, few: memory", few, None, "MB")
    yield Entry(f"{what}, many: memory", many, None, "MB")
    yield Entry("  grows by", many - few, GROWTH, "MB")


def _labels(path, n, rng, first=0):
    """A labels product of n rows: one block of them under new names, written block by block."""
    import products

    from cannonkit import schema, stream

    table = schema.labels_table(products.LABELS)
    base = table.rows(BLOCK, products.label_rows(
        products.star_names(BLOCK), products.star_names(BLOCK), products.training_labels(rng, BLOCK),
        products.covariance(rng, BLOCK), rng.uniform(20, 200, BLOCK)))
    header = {"MODEL": "ACGS", "SURVEY": "apogee", "SCALE": "galah"}
    with stream.create(path, "labels", table, n, [], header, [], None, True) as out:
        for start in range(0, n, BLOCK):
            rows = base[:min(BLOCK, n - start)]
            rows["id"] = rows["star_id"] = products.star_names(len(rows), "s", first + start)
            out.write(rows)
    return path


def bench_rows():
    """cc-flag, cc-errors apply and cc-merge shards, 10^3 and 10^6 rows of six labels, file to file; cc-infer on
    spectra of 60 pixels, the same numbers."""
    import products
    from infer_case import make, write

    binary = ROOT / "bin"
    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory(dir=os.environ.get("CANNONKIT_BENCH_DIR")) as name:
        folder = Path(name)
        model, _ = products.write_model(folder / "m.fits", rng)
        repeats = products.label_rows(products.star_names(600, "r"), np.repeat(products.star_names(300), 2),
                                      products.training_labels(rng, 600), products.covariance(rng, 600),
                                      rng.uniform(20, 200, 600))
        products.write_labels(folder / "repeats.fits", repeats)
        measured([sys.executable, binary / "cc-errors", "calibrate", folder / "repeats.fits", "-o",
                  folder / "e.fits", "--quiet"])
        small, flux, ivar = make(n_pix=60, n_star=1024)
        small.write(folder / "small.fits")
        memory = {}
        for n in (FEW, MANY):
            labels = _labels(folder / "labels.fits", n, rng)
            options = ["-o", folder / "out.fits", "--overwrite", "--quiet"]
            memory["cc-flag", n] = measured([sys.executable, binary / "cc-flag", labels, "-m", model, *options])[1]
            memory["cc-errors apply", n] = measured([sys.executable, binary / "cc-errors", "apply",
                                                     folder / "out.fits", "--errors", folder / "e.fits", "-o",
                                                     folder / "final.fits", "--overwrite", "--quiet"])[1]
            (folder / "final.fits").unlink()
            parts = []
            for k in range(4):
                part = folder / f"part-{k:05d}-of-00004.fits"
                measured([sys.executable, binary / "cc-flag", labels, "-m", model, "--shard", f"{k}/4", "-o", part,
                          "--overwrite", "--quiet"])
                parts.append(part)
            labels.unlink()
            memory["cc-merge shards", n] = measured([sys.executable, binary / "cc-merge", "shards", *parts,
                                                     *options])[1]
            for path in (*parts, folder / "out.fits"):
                path.unlink()
            write(folder / "spectra.fits", small, flux, ivar, n)
            memory["cc-infer (60 pixels)", n] = measured([sys.executable, binary / "cc-infer", folder / "spectra.fits",
                                                          "-m", folder / "small.fits", *options])[1]
            (folder / "spectra.fits").unlink()
            (folder / "out.fits").unlink()
    for what in dict.fromkeys(key[0] for key in memory):
        yield from _grows(f"{what}, {FEW} and {MANY} rows", memory[what, FEW], memory[what, MANY])


def bench_files():
    """cc-resample on 100 and 10,000 apStar files (made here; links to 50 of them), to standard output."""
    import survey_files

    rng = np.random.default_rng(1)
    memory = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for k in range(50):
            flux = 100 + rng.normal(size=(1, 8575))
            survey_files.apstar(folder / f"made{k}.fits", flux, np.ones_like(flux), flux < 97, flat=True)
        for n in (FEW_FILES, MANY_FILES):
            for k in range(n):
                if not (folder / f"{k}.fits").is_symlink():
                    os.symlink(f"made{k % 50}.fits", folder / f"{k}.fits")
            (folder / "table.csv").write_text("id,spectrum\n" + "".join(f"s{k},{k}.fits\n" for k in range(n)))
            memory.append(measured([sys.executable, ROOT / "bin" / "cc-resample", folder / "table.csv", "--recipe",
                                    "apogee_dr16", "--root", folder, "-o", "-", "--quiet"])[1])
    yield from _grows(f"cc-resample, {FEW_FILES} and {MANY_FILES} files", *memory)
