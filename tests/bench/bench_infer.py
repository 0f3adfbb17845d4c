"""cc-infer: made-up spectra of 8,575 pixels, 6 labels, quadratic, from the command line to the finished file.

Ratios are taken within one run. The yardstick is the larger of (time to read the file's bytes in chunks) and (time
of the bare float32 product with the same sums, on the same number of threads).

What is timed runs in processes of its own, with the matrix kernel that OpenBLAS chooses for the processor: where
the environment forces an older one (OPENBLAS_CORETYPE), that is taken out for them, the peer's process included.
"""
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from run import Entry, best, peer

HERE = Path(__file__).resolve().parent
BIN = HERE.parent.parent / "bin"
N_STAR = int(os.environ.get("CK_BENCH_INFER", "20000"))      # smaller for a quick look
PEER_STARS = 60
REFEREE_STARS = 2000


def plain_environment():
    """Without thread settings and without a forced matrix kernel."""
    return {k: v for k, v in os.environ.items()
            if not k.endswith("_NUM_THREADS") and k not in ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE")}


def command(*arguments):
    """Run cc-infer as a process of its own."""
    return subprocess.run([sys.executable, BIN / "cc-infer", *map(str, arguments)], check=True,
                          env=plain_environment(), capture_output=True, text=True)


def measured():
    """{'product', 'fit'}: seconds per spectrum of infer_case.measure."""
    environment = {**plain_environment(), "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent.parent)}
    done = subprocess.run([sys.executable, HERE / "infer_case.py", "measure"], check=True, env=environment,
                          capture_output=True, text=True)
    return json.loads(done.stdout)


def timed(*arguments, repeats=3):
    return best(lambda: command(*arguments, "--overwrite", "--quiet"), repeats)


def read_time(path, chunk):
    """Seconds to read a file's bytes in chunks into one buffer."""
    buffer = memoryview(bytearray(chunk))

    def read():
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass

    return best(read, 3)


def bench_speed():
    """20,000 spectra (1.4 GB) on disk: against the yardstick, annieslasso, and with two models; one spectrum."""
    from infer_case import make, write

    model, flux, ivar = make()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model.write(folder / "a.fits")
        make(seed=2, n_star=1)[0].write(folder / "b.fits")
        write(folder / "spectra.fits", model, flux, ivar, N_STAR)
        write(folder / "one.fits", model, flux, ivar, 1)
        one = ("-m", folder / "a.fits", "-o", folder / "a.out.fits")
        two = (*one, "-m", folder / "b.fits", "-o", folder / "b.out.fits")
        command(folder / "one.fits", *one, "--quiet", "--overwrite")              # fills the kernel cache
        start_one = timed(folder / "one.fits", *one, repeats=5)
        start_two = timed(folder / "one.fits", *two)
        total = timed(folder / "spectra.fits", *one)
        both = timed(folder / "spectra.fits", *two)
        read = read_time(folder / "spectra.fits", 512 * 68600)
        alone = {name: N_STAR * seconds for name, seconds in measured().items()}
    product, in_memory = alone["product"], alone["fit"]
    net, yardstick = total - start_one, max(read, product)
    yield Entry("cc-infer, one spectrum, start included", start_one, 2.5)
    yield Entry(f"cc-infer, {N_STAR} spectra, 8,575 pixels, 6 labels", total)
    yield Entry("cc-infer, the same, spectra per second", N_STAR / total, unit="1/s")
    yield Entry("  of it: start (one spectrum)", start_one)
    yield Entry("  reading the bytes alone", read)
    yield Entry("  the bare float32 products alone", product)
    yield Entry("  the fit of arrays in memory", in_memory)
    yield Entry("cc-infer without start, in units of the yardstick", net / yardstick, 3.0, "x")
    yield Entry("cc-infer, two models in one pass, in units of one", both / total, 1.7, "x")
    yield Entry("  the same without start", (both - start_two) / net, unit="x")
    yield from against_annieslasso(model, flux, ivar, total)


def against_annieslasso(model, flux, ivar, total):
    python = peer("annieslasso")
    if python is None:
        print("cc-infer against annieslasso: skipped, make bench PEERS=1 installs it")
        return
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "case.npz"
        np.savez(path, theta=model.theta, s2=model.s2, flux=flux[:PEER_STARS].astype(float),
                 ivar=ivar[:PEER_STARS].astype(float), low=model.low, pivot=model.pivot, high=model.high)
        done = subprocess.run([python, HERE / "peer_infer.py", path], capture_output=True, text=True, timeout=1800,
                              env={**plain_environment(), "OPENBLAS_NUM_THREADS": "1"})
    lines = [line for line in done.stdout.splitlines() if line.startswith("seconds ")]
    assert lines, done.stderr[-2000:]
    theirs = float(lines[0].split()[1])
    yield Entry(f"annieslasso 0.2.96, {PEER_STARS} spectra, per spectrum", 1e3 * theirs / PEER_STARS, unit="ms")
    yield Entry("cc-infer, times faster than annieslasso", theirs / PEER_STARS * N_STAR / total, 100.0, "x",
                smaller=False)


def bench_scaling():
    """The fit alone, arrays in memory: pixels, labels, threads, solver, starts."""
    import numba
    from infer_case import make, product_time

    from cannonkit.stages import infer

    for n_pix, n_label in ((8575, 3), (8575, 6), (8575, 10), (16384, 6)):
        model, flux, ivar = make(n_pix, n_label, n_star=512)
        fitter = infer.prepare(model)
        seconds = best(lambda f=fitter, x=flux, v=ivar: f.fit(x, v), 3)
        yield Entry(f"fit, {n_pix} pixels, {n_label} labels, per spectrum", 1e6 * seconds / len(flux), unit="us")
        yield Entry("  in units of the bare product", seconds / len(flux) / product_time(fitter), unit="x")
        if (n_pix, n_label) == (8575, 6):
            for threads in (1, numba.config.NUMBA_NUM_THREADS):
                numba.set_num_threads(threads)
                seconds = best(lambda f=fitter, x=flux, v=ivar: f.fit(x, v), 3)
                yield Entry(f"  on {threads} thread(s)", 1e6 * seconds / len(flux), unit="us")
            many = infer.prepare(model, starts=10)
            yield Entry("  with 10 more starts", 1e6 * best(lambda f=many, x=flux, v=ivar: f.fit(x, v), 3) / len(flux),
                        unit="us")
            slow = infer.prepare(model, solver="pixels")
            yield Entry("  by passes over the pixels", 1e6 * best(lambda f=slow, x=flux[:64], v=ivar[:64]: f.fit(x, v),
                                                                   2) / 64, unit="us")


def piped(folder, n_star, *options):
    """Feed n_star made-up spectra through a pipe: (seconds, largest memory of cc-infer in MB)."""
    measure = ("import json, resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdin=0); "
               "print(json.dumps(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss))")
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, HERE / "infer_case.py", str(n_star), folder / "a.fits"],
                          stdout=subprocess.PIPE) as source:
        done = subprocess.run([sys.executable, "-c", measure, sys.executable, BIN / "cc-infer", "-", "-m",
                               folder / "a.fits", "-o", folder / "out.fits", "--overwrite", *options],
                              stdin=source.stdout, stdout=subprocess.PIPE, text=True, check=True,
                              env=plain_environment())
    return time.perf_counter() - start, json.loads(done.stdout) / 1024


def bench_memory():
    """Largest memory for 2,000 and 200,000 rows, from a pipe, without a file."""
    from infer_case import make

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make(n_star=1)[0].write(folder / "a.fits")
        few_seconds, small = piped(folder, 2000, "--quiet")
        many_seconds, large = piped(folder, 10 * N_STAR, "--quiet")
    yield Entry("cc-infer from a pipe, 2,000 rows, start included", 2000 / few_seconds, unit="1/s")
    yield Entry(f"cc-infer from a pipe, {10 * N_STAR} rows, start included", 10 * N_STAR / many_seconds, unit="1/s")
    yield Entry("cc-infer from a pipe, 2,000 rows: memory", small, 400.0, "MB")
    yield Entry(f"cc-infer from a pipe, {10 * N_STAR} rows: memory", large, 400.0, "MB")
    yield Entry("  grows by", large - small, 20.0, "MB")


def bench_accuracy():
    """2,000 made-up stars of 8,575 pixels against scipy: S/N 5, 20 to 300 and 2,000, half-masked, outside of the
    training set. Largest differences."""
    import synthetic
    from scipy import optimize

    from cannonkit.stages import infer, vectorizer

    rng = np.random.default_rng(4)
    n = min(REFEREE_STARS, N_STAR)
    model = synthetic.make_model(rng, n_pix=8575, n_label=6, n_train=2000)
    worst = np.zeros(3)
    outside = 0
    for at in range(0, n, 200):
        m = min(200, n - at)
        snr = np.r_[np.full(m // 4, 5.0), np.full(m // 4, 2000.0), rng.uniform(20, 300, m - 2 * (m // 4))]
        spread = np.where(np.arange(m) % 5 == 0, 2.5, 1.0)[:, None]
        labels = synthetic.CENTRE[:6] + spread * synthetic.SPREAD[:6] * rng.normal(size=(m, 6))
        _, flux, ivar = synthetic.draw(rng, model, m, snr, labels=labels)
        ivar[::3, ::2] = 0
        found = infer.fit(model, flux, ivar)
        outside += int((found["status"] >> 4 & 1).sum())
        for k in range(m):
            good = model.usable & (ivar[k] > 0)
            root = np.sqrt(1 / (1 / ivar[k][good].astype(float) + model.s2[good]))
            theta, data = root[:, None] * model.theta[good], root * flux[k][good]

            def residual(x, data=data, theta=theta):
                return data - theta @ vectorizer.design_matrix(x, model.powers)[0]

            def jacobian(x, theta=theta):
                return -theta @ vectorizer.gradient(x, model.powers)[0]

            own = model.scaled([found[name][k] for name in model.label_names])[0]
            exact = optimize.least_squares(residual, own, jacobian, method="lm", xtol=1e-15, ftol=1e-15, gtol=1e-15)
            cov = np.linalg.inv(jacobian(exact.x).T @ jacobian(exact.x))
            error = np.sqrt(np.diag(cov))
            scaled = found["cov"][k] / np.outer(model.scale, model.scale)
            worst = np.maximum(worst, [np.abs((own - exact.x) / error).max(),
                                       np.abs((scaled - cov) / np.outer(error, error)).max(),
                                       abs(found["chi2"][k] - 2 * exact.cost)])
    yield Entry(f"cc-infer against scipy, {n} stars ({outside} outside): labels", worst[0], 1e-3, "errors")
    yield Entry("  covariance, relative", worst[1], 1e-3, "")
    yield Entry("  chi2", worst[2], 0.1, "")


if __name__ == "__main__":          # the whole of APOGEE, piped: make bench-full
    sys.path.insert(0, str(HERE))
    from infer_case import make

    n_full = int(sys.argv[1]) if len(sys.argv) > 1 else 437445
    with tempfile.TemporaryDirectory() as name:
        make(n_star=1)[0].write(Path(name) / "a.fits")
        seconds, memory = piped(Path(name), n_full)
    print(f"{n_full} made-up spectra of 8,575 pixels piped into cc-infer: {seconds:.0f} s, {n_full / seconds:.0f} "
          f"spectra/s, {memory:.0f} MB")
