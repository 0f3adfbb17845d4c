"""cc-resample: the whole command against only reading the files with fitsio, and its arithmetic against specutils."""
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from run import ROOT, Entry, best, peer

SHARED = ROOT.parent / "shared" / "data"
GALAH_STARS = 2000
APSTAR_FILES = 5000

READ = """
import sys, time, fitsio
hdus = [int(k) for k in sys.argv[1].split(",")]
paths = sys.stdin.read().split("\\n")
start = time.perf_counter()
for path in paths:
    with fitsio.FITS(path) as file:
        for k in hdus:
            file[k].read()
print(time.perf_counter() - start)
"""


def seconds_of_reading(paths, hdus):
    """Seconds to open every file with fitsio and read these HDUs: the loop alone, without the imports."""
    done = subprocess.run([sys.executable, "-c", READ, hdus], input="\n".join(map(str, paths)), text=True,
                          capture_output=True, check=True)
    return float(done.stdout)


def seconds_of_command(table, recipe, root, out):
    """Wall seconds of cc-resample, start of the process to end, and its peak memory in MB."""
    command = [Path(sys.executable).parent / "cc-resample", table, "--recipe", recipe, "--root", root, "-o", out,
               "--overwrite", "--quiet"]
    start = time.perf_counter()
    process = subprocess.Popen(command)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, command
    return time.perf_counter() - start, usage.ru_maxrss / 1024


def write_table(path, files):
    lines = "".join(f"s{k},{file}\n" for k, file in enumerate(files))
    path.write_text(f"id,spectrum\n{lines}")


def compare(what, folder, table, recipe, files, hdus):
    """Both, alternately, best of 3 with a warm file cache."""
    seconds_of_reading(files, hdus)
    seconds_of_command(table, recipe, folder, folder / "out.fits")       # compiles, warms
    ours, theirs, peak = [], [], 0
    for _ in range(3):
        theirs.append(seconds_of_reading(files, hdus))
        seconds, memory = seconds_of_command(table, recipe, folder, folder / "out.fits")
        ours.append(seconds)
        peak = max(peak, memory)
    yield Entry(f"{what}: fitsio reads HDUs {hdus}", min(theirs), unit="s")
    yield Entry(f"{what}: cc-resample, whole command", min(ours), unit="s")
    yield Entry(f"{what}: cc-resample / fitsio", min(ours) / min(theirs), 1.5, "ratio")
    yield Entry(f"{what}: cc-resample, peak memory", peak, unit="MB")


def bench_galah():
    """2,000 GALAH DR3 stars of four cameras: the 35 whole real ones, repeated by links."""
    source = SHARED / "galah_dr3_spectra"
    if not source.is_dir():
        print(f"skipped: {source} is not there")
        return
    names = sorted({p.name[:15] for p in source.glob("1*.fits")} - {"181222001801157"})
    with tempfile.TemporaryDirectory() as folder:
        folder, files, stars = Path(folder), [], []
        for k in range(GALAH_STARS):
            for ccd in "1234":
                files.append(folder / f"{k:06d}{ccd}.fits")
                os.symlink(source / f"{names[k % len(names)]}{ccd}.fits", files[-1])
            stars.append(f"{k:06d}{{ccd}}.fits")
        write_table(folder / "table.csv", stars)
        yield from compare(f"{GALAH_STARS} GALAH stars", folder, folder / "table.csv", "galah_dr3", files, "1,4")


def bench_apstar():
    """5,000 apStar files in the layout of DR16 (made here: noise, 1 to 6 visits), 50 files repeated by links."""
    sys.path.insert(0, str(ROOT / "tests"))
    import survey_files

    rng = np.random.default_rng(1)
    with tempfile.TemporaryDirectory() as folder:
        folder, files = Path(folder), []
        for k in range(50):
            rows = (1, 5, 5, 4, 8)[k % 5]               # 1, 3, 3, 2 and 6 visits
            flux = 100 + rng.normal(size=(rows, 8575))
            survey_files.apstar(folder / f"made{k}.fits", flux, np.ones_like(flux), flux < 97, flat=rows == 1)
        for k in range(APSTAR_FILES):
            files.append(folder / f"{k:06d}.fits")
            os.symlink(f"made{k % 50}.fits", files[-1])
        write_table(folder / "table.csv", [f.name for f in files])
        yield from compare(f"{APSTAR_FILES} apStar files (made)", folder, folder / "table.csv", "apogee_dr16", files,
                           "1,2,3")


def bench_apstar_real():
    """The same with the one real apStar file (DR17: float64, 5 rows), 5,000 links to it."""
    source = SHARED / "apogee_spectra" / "apStar-dr17-2M17335483-2753043.fits"
    if not source.is_file():
        print(f"skipped: {source} is not there")
        return
    with tempfile.TemporaryDirectory() as folder:
        folder = Path(folder)
        files = [folder / f"{k:06d}.fits" for k in range(APSTAR_FILES)]
        for file in files:
            os.symlink(source, file)
        write_table(folder / "table.csv", [f.name for f in files])
        yield from compare(f"{APSTAR_FILES} apStar files (real)", folder, folder / "table.csv", "apogee_dr16", files,
                           "1,2,3")


SPECUTILS = """
import sys, time, warnings
import numpy as np
warnings.simplefilter("ignore")
from astropy import units
from astropy.nddata import StdDevUncertainty
from specutils import Spectrum
from specutils.manipulation import FluxConservingResampler
data = np.load(sys.argv[1])
resampler, best = FluxConservingResampler(), []
for _ in range(3):
    seconds = 0.0
    for k in range(4):
        spectrum = Spectrum(flux=data[f"flux{k}"] * units.one, spectral_axis=data[f"wave{k}"] * units.AA,
                            uncertainty=StdDevUncertainty(data[f"sigma{k}"]))
        target = data[f"out{k}"] * units.AA
        start = time.perf_counter()
        result = resampler(spectrum, target)
        seconds += time.perf_counter() - start
    best.append(seconds)
np.savez(sys.argv[2], seconds=min(best), flux=result.flux.value)
"""


def bench_arithmetic():
    """Four cameras onto the 14,304 pixels, arrays in memory: ours on one thread, flux-conserving, with ivar."""
    import numba

    from cannonkit import readers, recipe
    from cannonkit.stages import resample

    spectra = recipe.load_survey("galah_dr3").spectra
    plan = resample.prepare(spectra)
    rng = np.random.default_rng(2)
    stars = []
    for _ in range(32):
        inputs = [readers.Input(rng.uniform(0.5, 1, 4096), np.full(4096, 0.02), "linear", start, step)
                  for start, step in ((4713.0, 0.046), (5648.0, 0.0547), (6478.0, 0.0631), (7585.0, 0.0735))]
        stars.append(readers.Star(inputs))
    batch = resample.gather(plan, stars)
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        resample.resample(plan, batch)
        ours = best(lambda: resample.resample(plan, batch), 10) / len(stars)
    finally:
        numba.set_num_threads(threads)
    yield Entry("resampling one GALAH star, one thread", 1e3 * ours, unit="ms")
    python = peer("specutils")
    if python is None:
        print("skipped: specutils is not installed (make bench PEERS=1)")
        return
    with tempfile.TemporaryDirectory() as folder:
        arrays = {}
        for k, spectrum in enumerate(stars[0].inputs):
            first, stop = plan.grid.pieces[k]
            wave = spectrum.start + spectrum.step * np.arange(4096)
            out = plan.grid.wavelength[first:stop]
            arrays |= {f"flux{k}": spectrum.flux, f"wave{k}": wave, f"sigma{k}": spectrum.flux * spectrum.error,
                       f"out{k}": out}
        np.savez(Path(folder) / "in.npz", **arrays)
        subprocess.run([python, "-c", SPECUTILS, Path(folder) / "in.npz", Path(folder) / "out.npz"], check=True)
        theirs = np.load(Path(folder) / "out.npz")
        result = resample.resample(plan, resample.gather(plan, stars[:1]))
        first, stop = plan.grid.pieces[3]
        good = result.ivar[0, first:stop] > 0
        difference = np.abs(result.flux[0, first:stop] - theirs["flux"])[good][5:-5].max()
        yield Entry("largest difference from specutils", difference, 1e-5, "flux")
        yield Entry("the same star by specutils", 1e3 * float(theirs["seconds"]), unit="ms")
        yield Entry("specutils / ours", float(theirs["seconds"]) / ours, 100, "ratio", smaller=False)
