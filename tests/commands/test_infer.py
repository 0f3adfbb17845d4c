"""cc-infer through files, pipes and shards, with one model and several, and what it refuses."""
import os
import subprocess
import sys

import numpy as np
import products
import pytest
import synthetic

from cannonkit import schema, stream
from cannonkit.bitmasks import FIT_STATUS, SPECTRUM_STATUS
from cannonkit.stages import infer

N = 300
COMPILE = 600        # seconds: a process of its own may find the kernels not compiled


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with a.model.fits (4 labels), b.model.fits (2 labels), spectra.fits; the model, flux, ivar, status."""
    folder = tmp_path_factory.mktemp("infer")
    rng = np.random.default_rng(11)
    model = synthetic.make_model(rng, n_pix=500, n_label=4)
    other = synthetic.make_model(rng, n_pix=500, n_label=2)
    other.name, other.scale_survey = "ACAA", "apogee"
    model.write(folder / "a.model.fits")
    other.write(folder / "b.model.fits")
    labels, flux, ivar = synthetic.draw(rng, model, N, rng.uniform(20, 200, N))
    status = np.zeros(N, np.int32)
    status[7], ivar[7] = SPECTRUM_STATUS.MISSING_FILE, 0
    status[8] = SPECTRUM_STATUS.MISSING_SEGMENT
    ivar[9], flux[10, 3], ivar[10, 4] = 0, np.nan, -1
    synthetic.write_spectra(folder / "spectra.fits", model, flux, ivar, status)
    return folder, model, other, labels, flux, ivar, status


def run(made, inside, out, *options, model="a.model.fits", spectra="spectra.fits"):
    folder = made[0]
    assert inside("infer", folder / spectra, "-m", folder / model, "-o", out, "--quiet", *options) == 0
    return products.read(out)


def refused(made, inside, capfd, *arguments):
    """(exit code, last line of standard error)."""
    capfd.readouterr()
    code = inside("infer", *arguments)
    return code, capfd.readouterr().err.strip().split("\n")[-1]


def test_rows(made, inside, tmp_path, capfd):
    """The columns of the labels product, row for row, equal to the stage's answer."""
    folder, model, _, labels, flux, ivar, status = made
    capfd.readouterr()
    assert inside("infer", folder / "spectra.fits", "-m", folder / "a.model.fits", "-o", tmp_path / "out.fits") == 0
    said = capfd.readouterr().err
    rows, source = products.read(tmp_path / "out.fits")
    expected = infer.fit(model, flux, ivar, spectrum_status=status)
    assert rows.dtype == schema.native(schema.labels_table(
        model.label_names, dict(zip(model.label_names, model.label_units, strict=True))).empty(0)).dtype
    for name in expected.dtype.names:
        np.testing.assert_array_equal(rows[name], expected[name], err_msg=name)
    assert list(rows["id"][:2]) == [b"star00000", b"star00001"] and (rows["snr_survey"] == 50).all()
    np.testing.assert_array_equal(rows["spectrum_status"], status)
    assert rows["status"][7] == FIT_STATUS.NO_SPECTRUM and np.isnan(rows["teff"][7])
    assert rows["status"][9] & FIT_STATUS.NO_SPECTRUM and rows["n_pix_bad"][10] == 2
    good = np.delete(np.arange(N), [7, 9])
    pull = (rows["teff"] - labels[:, 0])[good] / rows["e_teff"][good]
    assert np.abs(pull).max() < 6
    assert (source.header["MODEL"], source.header["SURVEY"], source.header["SCALE"]) == ("ACGS", "apogee", "galah")
    assert source.hdu.header["COVUNIT"] == "label" and source.hdu.header["STAT03"] == "AT_EDGE"
    assert source.end_header["NSTAT06"] == 2
    assert "300 spectra, 2 without labels" in said and "2 pixels left out" in said
    assert "2 NO_SPECTRUM: the input row has no usable spectrum" in said


def test_several_models_in_one_pass(made, inside, tmp_path):
    folder = made[0]
    run(made, inside, tmp_path / "a.fits", "-m", folder / "b.model.fits", "-o", tmp_path / "b.fits", "--residuals",
        tmp_path / "ra.fits", "--residuals", tmp_path / "rb.fits")
    run(made, inside, tmp_path / "alone_a.fits", "--residuals", tmp_path / "alone_ra.fits")
    run(made, inside, tmp_path / "alone_b.fits", model="b.model.fits")
    for name in ("a.fits", "b.fits", "ra.fits"):
        assert products.sums(tmp_path / name) == products.sums(tmp_path / f"alone_{name}"), name
    assert products.sums(tmp_path / "ra.fits") != products.sums(tmp_path / "rb.fits")
    assert products.read(tmp_path / "b.fits")[1].header["SCALE"] == "apogee"


@pytest.mark.parametrize("options", [("--chunk", "1"), ("--chunk", "128"), ("--chunk", "4096")])
def test_chunks_change_nothing(made, inside, tmp_path, options):
    run(made, inside, tmp_path / "out.fits", *options)
    run(made, inside, tmp_path / "plain.fits")
    assert products.sums(tmp_path / "out.fits") == products.sums(tmp_path / "plain.fits")


def test_pipes_and_threads_change_nothing(made, inside, command, tmp_path):
    """1 and 2 threads, file, `< file`, pipe in and out: the same DATASUM of every extension."""
    folder = made[0]
    run(made, inside, tmp_path / "plain.fits")
    expected = products.sums(tmp_path / "plain.fits")
    arguments = ["-m", folder / "a.model.fits", "-o"]
    for threads in ("1", "2"):
        out = tmp_path / f"t{threads}.fits"
        assert command("infer", folder / "spectra.fits", *arguments, out, "--threads", threads,
                       timeout=COMPILE).code == 0
        assert products.sums(out) == expected
    with open(folder / "spectra.fits", "rb") as file:
        assert command("infer", "-", *arguments, tmp_path / "redirected.fits", stdin=file).code == 0
    assert products.sums(tmp_path / "redirected.fits") == expected
    piped = command("infer", "-", *arguments, "-", stdin=(folder / "spectra.fits").read_bytes())
    assert piped.code == 0
    (tmp_path / "piped.fits").write_bytes(piped.out)
    assert products.sums(tmp_path / "piped.fits") == expected
    both = command("infer", "-", *arguments, "-", "-m", folder / "b.model.fits", "-o", tmp_path / "b.fits",
                   stdin=(folder / "spectra.fits").read_bytes())
    (tmp_path / "both.fits").write_bytes(both.out)
    assert products.sums(tmp_path / "both.fits") == expected and (tmp_path / "b.fits").exists()


@pytest.mark.parametrize("count", [1, 3, 16])
def test_shards_join_to_the_whole(made, inside, tmp_path, count):
    whole = run(made, inside, tmp_path / "plain.fits")[0]
    parts = tmp_path / "parts"
    parts.mkdir()
    rows = []
    for k in range(count):                       # a directory as output, and a name of one's own
        name = f"part-{k:05d}-of-{count:05d}.fits" if k % 2 else f"own-{k}.fits"
        out = f"{parts}/" if k % 2 else parts / name
        assert inside("infer", made[0] / "spectra.fits", "-m", made[0] / "a.model.fits", "-o", out, "--quiet",
                      "--shard", f"{k}/{count}") == 0
        rows.append(products.read(parts / name)[0])
    assert np.concatenate(rows).tobytes() == whole.tobytes()


def test_resume_redoes_only_what_is_missing_or_damaged(made, inside, tmp_path, capfd):
    folder = made[0]
    arguments = [folder / "spectra.fits", "-m", folder / "a.model.fits", "-o", tmp_path / "a.fits",
                 "-m", folder / "b.model.fits", "-o", tmp_path / "b.fits", "--resume"]
    assert inside("infer", *arguments) == 0
    before = [os.stat(tmp_path / n).st_ino for n in ("a.fits", "b.fits")]
    sums = products.sums(tmp_path / "b.fits")
    capfd.readouterr()
    assert inside("infer", *arguments) == 0
    assert capfd.readouterr().err.count("nothing to do") == 2
    data = bytearray((tmp_path / "b.fits").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "b.fits").write_bytes(data)
    assert inside("infer", *arguments) == 0
    assert os.stat(tmp_path / "a.fits").st_ino == before[0] and products.sums(tmp_path / "b.fits") == sums
    assert capfd.readouterr().err.count("nothing to do") == 1
    assert inside("infer", *arguments, "--starts", "2") == 0           # other settings: done again
    assert os.stat(tmp_path / "a.fits").st_ino != before[0]


def test_fixed_labels_come_from_a_table(made, inside, tmp_path, capfd):
    folder, model, _, labels, flux, ivar, status = made
    first = run(made, inside, tmp_path / "first.fits")[0]
    rows = run(made, inside, tmp_path / "held.fits", "--fix", "logg,teff", "--values", tmp_path / "first.fits")[0]
    np.testing.assert_allclose(rows["teff"], first["teff"], rtol=1e-12)
    assert (rows["e_logg"][:7] == 0).all() and (rows["e_fe_h"] <= first["e_fe_h"])[:7].all()
    np.testing.assert_allclose(rows["fe_h"], first["fe_h"], atol=1e-3 * np.nanmin(first["e_fe_h"]))
    assert rows["status"][9] & FIT_STATUS.NO_SPECTRUM
    part = schema.labels_table(model.label_names)
    with stream.create(tmp_path / "part.fits", "labels", part, 250, [], {}, [], None, True) as out:
        out.write(first[:250][::-1])
    rows = run(made, inside, tmp_path / "some.fits", "--fix", "logg,teff", "--values", tmp_path / "part.fits")[0]
    assert (rows["status"][250:] == FIT_STATUS.NO_FIXED_VALUE).all() and np.isnan(rows["fe_h"][250:]).all()
    np.testing.assert_allclose(rows["teff"][:250], first["teff"][:250], rtol=1e-12)
    spectra = folder / "spectra.fits"
    base = [spectra, "-m", folder / "a.model.fits", "-o", tmp_path / "x.fits"]
    assert refused(made, inside, capfd, *base, "--fix", "teff")[0] == 64
    assert refused(made, inside, capfd, *base, "--fix", "teff", "--values", spectra)[0] == 65
    code, message = refused(made, inside, capfd, *base, "--fix", "tef", "--values", tmp_path / "first.fits")
    assert code == 65 and "'teff'" in message


def test_prior_from_a_file(made, inside, tmp_path, capfd):
    folder, model, _, _, flux, ivar, status = made
    (tmp_path / "prior.yaml").write_text("infer:\n  prior:\n    logg: [3.5, 0.01]\n")
    rows, source = run(made, inside, tmp_path / "out.fits", "--config", tmp_path / "prior.yaml")
    expected = infer.fit(model, flux, ivar, spectrum_status=status, prior={"logg": (3.5, 0.01)})
    np.testing.assert_array_equal(rows["logg"], expected["logg"])
    (tmp_path / "prior.yaml").write_text("infer:\n  prior:\n    lgg: [3.5, 0.01]\n")
    code, message = refused(made, inside, capfd, folder / "spectra.fits", "-m", folder / "a.model.fits", "-o",
                            tmp_path / "x.fits", "--config", tmp_path / "prior.yaml")
    assert code == 65 and "'logg'" in message


def test_model_spectra(made, inside, tmp_path, capfd):
    _, model, _, _, flux, ivar, status = made
    rows = run(made, inside, tmp_path / "out.fits", "--spectra", tmp_path / "all.fits")[0]
    every, source = products.read(tmp_path / "all.fits")
    labels = schema.label_array(rows, model.label_names)
    expected = model.predict(labels)
    known = np.isfinite(expected)
    np.testing.assert_allclose(every["flux"], np.where(known, expected, 1.0), rtol=1e-6)
    np.testing.assert_array_equal(every["ivar"], known)
    assert source.product == "spectra" and (every["id"] == rows["id"]).all() and not known[7].any()
    np.testing.assert_allclose(source.extensions["WAVELENGTH"].data["wavelength"], model.wavelength)
    (tmp_path / "ids").write_text("star00150\nstar00003\n\n")
    for chosen in ("star00003,star00150", f"@{tmp_path / 'ids'}"):
        run(made, inside, tmp_path / "out.fits", "--overwrite", "--spectra", tmp_path / "some.fits", "--spectra-of",
            chosen)
        some = products.read(tmp_path / "some.fits")[0]
        assert some.tobytes() == every[[3, 150]].tobytes()
    capfd.readouterr()
    run(made, inside, tmp_path / "out.fits", "--overwrite", "--spectra", tmp_path / "some.fits", "--spectra-of", "x")
    assert "1 ids" in capfd.readouterr().err and len(products.read(tmp_path / "some.fits")[0]) == 0


def test_residuals(made, inside, tmp_path):
    _, model, _, _, flux, ivar, status = made
    rows = run(made, inside, tmp_path / "out.fits", "--residuals", tmp_path / "r.fits")[0]
    found, source = products.read(tmp_path / "r.fits")
    assert source.product == "residuals" and len(found) == model.n_pix
    observed = np.where(ivar > 0, flux, np.nan) - model.predict(schema.label_array(rows, model.label_names))
    use = model.usable
    np.testing.assert_array_equal(found["n_star"][use], np.isfinite(observed[:, use]).sum(axis=0))
    exact = np.nanmedian(observed[:, use], axis=0)
    width = found["p84"][use] - found["p16"][use]
    assert (np.abs(found["median"][use] - exact) < 0.1 * width).all()


def test_no_rows(made, inside, tmp_path):
    _, model, *_ = made
    empty = np.empty((0, model.n_pix), np.float32)
    synthetic.write_spectra(tmp_path / "empty.fits", model, empty, empty)
    rows = run(made, inside, tmp_path / "out.fits", "--residuals", tmp_path / "r.fits", spectra=tmp_path / "empty.fits")
    assert len(rows[0]) == 0 and (products.read(tmp_path / "r.fits")[0]["n_star"] == 0).all()


# --- what is refused ------------------------------------------------------------------------------

def test_other_grid(made, inside, tmp_path, capfd):
    folder, model, _, _, flux, ivar, _ = made
    for name, grid, medium in (("shift", model.wavelength + 0.1, "vacuum"), ("air", model.wavelength, "air")):
        path = synthetic.write_spectra(tmp_path / f"{name}.fits", model, flux[:3], ivar[:3], wavelength=grid,
                                       medium=medium)
        code, message = refused(made, inside, capfd, path, "-m", folder / "a.model.fits", "-o", tmp_path / "x.fits")
        assert code == 65 and "500 pixels from 15100.0000 to 15199.8000 Angstrom in vacuum, first step 0.2" in message
        assert not (tmp_path / "x.fits").exists()
    path = synthetic.write_spectra(tmp_path / "short.fits", model, flux[:3, 1:], ivar[:3, 1:],
                                   wavelength=model.wavelength[1:])
    assert refused(made, inside, capfd, path, "-m", folder / "a.model.fits", "-o", tmp_path / "x.fits")[0] == 65


def test_other_survey_warns(made, inside, tmp_path, capfd):
    folder, model, _, _, flux, ivar, _ = made
    path = synthetic.write_spectra(tmp_path / "s.fits", model, flux[:3], ivar[:3], survey="lamost")
    capfd.readouterr()
    run(made, inside, tmp_path / "out.fits", spectra=path)
    assert "'lamost'" in capfd.readouterr().err


def test_usage(made, inside, tmp_path, capfd):
    folder = made[0]
    spectra, a, b, out = folder / "spectra.fits", folder / "a.model.fits", folder / "b.model.fits", tmp_path / "o.fits"
    for code, arguments in (
            (64, (spectra, "-m", a, "-m", b, "-o", out)),
            (64, (spectra, "-m", a, "-o", out, "-m", b, "-o", out)),
            (64, (spectra, "-m", a, "-o", "-", "-m", b, "-o", "-")),
            (64, (spectra, "-m", "-", "-o", out)),
            (64, (spectra, "-m", a, "-o", out, "--spectra-of", "x")),
            (64, (spectra, "-m", a, "-m", b, "-o", out, "-o", tmp_path / "p.fits", "--residuals", tmp_path / "r.fits")),
            (64, (spectra, "-o", out)),
            (64, (spectra, "-m", a, "-o", out, "--solver", "best")),
            (65, (a, "-m", a, "-o", out)),
            (65, (spectra, "-m", spectra, "-o", out)),
            (66, (folder / "none.fits", "-m", a, "-o", out)),
            (66, (spectra, "-m", folder / "none.fits", "-o", out)),
            (66, (spectra, "-m", a, "-o", out, "--spectra", tmp_path / "s.fits", "--spectra-of", "@nothing")),
            (73, (spectra, "-m", a, "-o", tmp_path / "no" / "o.fits")),
            (73, (spectra, "-m", a, "-o", spectra)),
            (73, (spectra, "-m", a, "-o", out, "--residuals", spectra))):
        assert refused(made, inside, capfd, *arguments)[0] == code, arguments
    assert os.listdir(tmp_path) == []


def test_gate(made, inside, tmp_path, capfd):
    folder = made[0]
    base = [folder / "spectra.fits", "-m", folder / "a.model.fits", "--quiet", "-o"]
    assert inside("infer", *base, tmp_path / "a.fits", "--max-failed", "2") == 0
    assert inside("infer", *base, tmp_path / "b.fits", "--max-failed", "1") == 1
    assert products.sums(tmp_path / "a.fits") == products.sums(tmp_path / "b.fits")


def test_dry_run(made, inside, tmp_path, capfd):
    folder = made[0]
    assert inside("infer", folder / "spectra.fits", "-m", folder / "a.model.fits", "-o", tmp_path / "a.fits",
                  "--dry-run") == 0
    said = capfd.readouterr().err
    assert "rows 300" in said and "solver sums" in said and os.listdir(tmp_path) == []


@pytest.mark.parametrize("cut", [0.4, 0.9])
def test_a_cut_stream_leaves_nothing(made, command, tmp_path, cut):
    folder = made[0]
    data = (folder / "spectra.fits").read_bytes()
    out = [tmp_path / n for n in ("a.fits", "r.fits", "s.fits")]
    result = command("infer", "-", "-m", folder / "a.model.fits", "-o", out[0], "--residuals", out[1], "--spectra",
                     out[2], stdin=data[:int(cut * len(data))], timeout=COMPILE)
    assert result.code == 65 and "too early" in result.err and result.err.count("\n") == 1
    assert os.listdir(tmp_path) == []


MEASURE = ("import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdin=0); "
           "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)")


def test_memory_does_not_grow_with_rows(made, root, tmp_path):
    """From a pipe, without a file: 1,200 and 8,100 rows of 500 pixels (28 MB more) within 8 MB."""
    folder, model, _, _, flux, ivar, _ = made
    peaks = []
    for repeats in (4, 27):
        path = synthetic.write_spectra(tmp_path / f"{repeats}.fits", model, np.tile(flux, (repeats, 1)),
                                       np.tile(ivar, (repeats, 1)), ids=np.full(N * repeats, b"star"))
        infer_it = [sys.executable, root / "bin" / "cc-infer", "-", "-m", folder / "a.model.fits", "-o",
                    tmp_path / f"{repeats}.out.fits", "--quiet"]
        with subprocess.Popen(["cat", path], stdout=subprocess.PIPE) as cat:
            done = subprocess.run([sys.executable, "-c", MEASURE, *infer_it], stdin=cat.stdout, capture_output=True,
                                  text=True, check=True)
        peaks.append(int(done.stdout) / 1024)
    assert peaks[1] - peaks[0] < 8, peaks
