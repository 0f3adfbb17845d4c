"""The catalogue at the paper's size: 437,445 APOGEE and 576,390 GALAH rows."""
import os
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from run import ROOT, Entry, measured

sys.path.insert(0, str(ROOT / "tests"))
N_APOGEE, N_GALAH, N_COMMON, BLOCK = 437_445, 576_390, 14_406, 16384


def _repeat(path, product, table, n_row, header, row_header, fill):
    """A product of n_row rows made block by block: `fill(start, n)` gives structured rows."""
    from cannonkit import stream

    with stream.create(path, product, table, n_row, [], header, [], None, True, row_header) as out:
        for start in range(0, n_row, BLOCK):
            out.write(fill(start, min(BLOCK, n_row - start)))


def _inputs(folder):
    """Final labels and the selection of both surveys, with the widths that the pipeline writes."""
    import products

    from cannonkit import schema

    rng = np.random.default_rng(1)
    labels_table = schema.labels_table(products.LABELS).with_columns(
        (*schema.flag_columns(), *schema.error_columns(products.LABELS)))
    for survey, model, n, first in (("apogee", "ACGS", N_APOGEE, 0), ("galah", "GCGS", N_GALAH, N_APOGEE - N_COMMON)):
        prefix = "2M" if survey == "apogee" else ""
        base = labels_table.rows(BLOCK, products.label_rows(
            np.zeros(BLOCK, "S8"), np.zeros(BLOCK, "S8"), products.training_labels(rng, BLOCK),
            products.covariance(rng, BLOCK), rng.uniform(20, 200, BLOCK)))
        base["cov_final"], base["cannon_distance"] = 9 * base["cov"], rng.uniform(0, 10, BLOCK)
        for name in products.LABELS:
            base[f"err_{name}"] = 3 * base[f"e_{name}"]
        table = schema.training_table([survey], products.LABELS)
        of_survey = table.empty(BLOCK)
        for name in table.names:
            if of_survey[name].dtype.kind == "f":
                of_survey[name] = rng.uniform(1, 2, BLOCK)

        def names(start, n, prefix=prefix, first=first):
            return np.char.add(prefix.encode(), np.arange(first + start, first + start + n).astype("S12"))

        def labels(start, n, base=base, names=names):
            rows = base[:n]
            rows["id"] = rows["star_id"] = names(start, n)
            return rows

        def catalogue(start, n, of_survey=of_survey, names=names, survey=survey):
            rows = of_survey[:n]
            rows[f"{survey}_id"] = rows[f"{survey}_star_id"] = names(start, n)
            return rows
        _repeat(folder / f"{survey}.final.fits", "labels", labels_table, n,
                {"MODEL": model, "SURVEY": survey, "SCALE": "galah"}, {"SNRMIN": 25.0}, labels)
        _repeat(folder / f"{survey}.fits", "training", table, n, {"SURVEY": survey}, {}, catalogue)


def _plain_seconds(inputs, output, copy):
    """Reading the inputs' bytes and writing as many as the output has, in chunks of 16 MB, with fsync."""
    start = time.perf_counter()
    buffer = bytearray(16 << 20)
    for path in inputs:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    left = output.stat().st_size
    with open(copy, "wb", buffering=0) as file:
        while left > 0:
            left -= file.write(memoryview(buffer)[:min(left, len(buffer))])
        os.fsync(file.fileno())
    seconds = time.perf_counter() - start
    copy.unlink()
    return seconds


def bench_catalogue():
    """cc-merge catalogue as a process, from four files to one, 14,406 stars in both; the yardstick is measured
    in turn with it, and the quickest of each counts."""
    with tempfile.TemporaryDirectory(dir=os.environ.get("CANNONKIT_BENCH_DIR")) as name:
        folder = Path(name)
        _inputs(folder)
        inputs = [folder / f"{s}{kind}.fits" for s in ("apogee", "galah") for kind in (".final", "")]
        out = folder / "scaled.fits"
        command = [sys.executable, ROOT / "bin" / "cc-merge", "catalogue", inputs[0], inputs[2], "--survey", inputs[1],
                   "--recipe", "apogee_dr16", "--survey", inputs[3], "--recipe", "galah_dr3", "-o", out, "--quiet"]
        plain, seconds, peak = [], [], 0
        for _ in range(6):                      # in turn: memory that a host lends anew slows both, now and then
            took, memory = measured(command)
            seconds.append(took)
            peak = max(peak, memory)
            plain.append(_plain_seconds(inputs, out, folder / "copy"))
            out.unlink()                        # both write a new file
        yield Entry(f"cc-merge catalogue, {N_APOGEE + N_GALAH} rows", min(seconds))
        yield Entry("reading its inputs and writing its output's bytes", min(plain))
        yield Entry("cc-merge catalogue over that", min(seconds) / min(plain), 3.0, "x")
        yield Entry("cc-merge catalogue, peak memory", peak, 500.0, "MB")
