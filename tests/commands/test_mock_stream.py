"""cc-mock --layout spectra: the product of cc-resample without files, at any size, the same bytes for any threads."""

import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from cannonkit import model, schema, stream
from cannonkit.stages import vectorizer

SPECTRA = ("mock", "--layout", "spectra", "--quiet")


def rows_of(path, product):
    with stream.open_source(str(path), product, verify=True) as source:
        return source.header, source.read()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("stream")


@pytest.fixture(scope="module")
def mock(inside, folder):
    """A small mock with its spectra, and both catalogue selections."""
    assert inside("mock", "-o", folder / "mock", "--quiet", "--seed", "5", "--common", "30", "--apogee-only", "10",
                  "--galah-only", "10", "--apogee-repeats", "4", "--galah-repeats", "4", "--clusters", "0.02", "--odd",
                  "1") == 0
    for survey, table, recipe in (("apogee", "allStar-r12-mock", "apogee_dr16"),
                                  ("galah", "GALAH_DR3_main_allspec_mock", "galah_dr3")):
        for selection in ("catalogue", "repeats"):
            assert inside("crossmatch", folder / "mock" / survey / f"{table}.fits", "--recipe", recipe, "--select",
                          selection, "-o", folder / f"{survey}_{selection}.fits", "--quiet") == 0
    return folder / "mock"


@pytest.mark.parametrize("selection", ["catalogue", "repeats"])
@pytest.mark.parametrize("survey", ["apogee", "galah"])
def test_streamed_spectra_are_those_that_cc_resample_makes_of_the_files(mock, inside, folder, survey, selection):
    table, recipe = folder / f"{survey}_{selection}.fits", {"apogee": "apogee_dr16", "galah": "galah_dr3"}[survey]
    read, made = folder / f"{survey}_{selection}_read.fits", folder / f"{survey}_{selection}_made.fits"
    assert inside("resample", table, "--recipe", recipe, "--root", mock / survey / "spectra", "-o", read,
                  "--quiet") == 0
    assert inside(*SPECTRA, "--survey", survey, "--seed", "5", "--rows", table, "--from", mock / "truth.fits", "-o",
                  made) == 0
    (_, read), (header, made) = rows_of(read, "spectra"), rows_of(made, "spectra")
    assert header["MOCK"] is True and header["MOCKSEED"] == 5
    assert len(read) > 5
    for name in ("id", "star_id", "visit", "file", "snr_survey", "status"):
        assert_array_equal(read[name], made[name], err_msg=name)
    # The files hold float32, streams have the short cuts of kernels/mock_stream.py (noiseless flux within 2e-4): a
    # pixel at the edge of a mask (flux above 1.2, say) may fall on either side.
    same = (read["ivar"] > 0) == (made["ivar"] > 0)
    assert same.mean() > 1.0 - 1e-5
    use = (read["ivar"] > 0) & (made["ivar"] > 0)
    np.testing.assert_allclose(made["flux"][use], read["flux"][use], atol=3e-4)
    assert np.quantile(np.abs(made["flux"] - read["flux"])[use], 0.99) < 5e-5
    np.testing.assert_allclose(made["ivar"][use], read["ivar"][use], rtol=2e-3)


@pytest.mark.parametrize("survey", ["apogee", "galah"])
def test_same_bytes_for_any_threads_and_a_shorter_stream_is_the_start_of_a_longer(inside, command, folder, survey):
    one, two = folder / f"{survey}_1.fits", folder / f"{survey}_2.fits"
    assert inside(*SPECTRA, "--survey", survey, "--count", "150", "--truth", folder / f"{survey}_t1.fits", "-o",
                  one) == 0
    result = command(*SPECTRA, "--survey", survey, "--count", "70", "--threads", "1", "--truth",
                     folder / f"{survey}_t2.fits", "-o", two)
    assert result.code == 0, result.err
    (_, long), (_, short) = rows_of(one, "spectra"), rows_of(two, "spectra")
    assert long[:70].tobytes() == short.tobytes()
    (_, long), (header, truth) = rows_of(folder / f"{survey}_t1.fits", "truth"), rows_of(folder / f"{survey}_t2.fits",
                                                                                          "truth")
    assert long[:70].tobytes() == truth.tobytes() and header["MOCK"] is True
    assert_array_equal(short["id"], truth["id"])
    assert len(np.unique(long["id"])) == 150


def test_blocks_of_drawn_stars_join(inside, folder):
    path = folder / "long_truth.fits"
    assert inside(*SPECTRA, "--count", "1030", "--truth", path, "-o", folder / "long.fits") == 0
    _, truth = rows_of(path, "truth")
    assert_array_equal(truth["number"], np.arange(1030))
    assert truth["teff"][1024] != truth["teff"][0]
    _, rows = rows_of(folder / "long.fits", "spectra")
    assert np.median(rows["snr"] / truth["snr"]) == pytest.approx(1.0, abs=0.1)
    assert (rows["status"] == 0).mean() > 0.95


def test_a_pipe_has_all_rows_and_little_memory(command, start, root, folder):
    """The second run is measured, by a process of its own: the first may compile."""
    options = ["mock", "--layout", "spectra", "--quiet", "-o", "-", "--count"]
    assert command(*options, "10").code == 0
    measure = ("import resource, subprocess, sys; done = subprocess.run(sys.argv[1:]); "
               "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr); "
               "sys.exit(done.returncode)")
    result = start([sys.executable, "-c", measure, sys.executable, root / "bin" / "cc-mock", *options[1:], "2000"])
    assert result.code == 0 and len(result.out) > 2000 * 8575 * 8
    assert int(result.err.split()[-1]) < 450_000           # kB; the 2,000 spectra alone are 137 MB


# --- draws from a model ------------------------------------------------------------------------------


def small_model(path, n_pix=800):
    rng = np.random.default_rng(7)
    names = ("teff", "logg", "fe_h")
    low, pivot, high = np.array([4000.0, 1.0, -1.0]), np.array([5000.0, 3.0, -0.2]), np.array([6000.0, 4.8, 0.4])
    powers = vectorizer.powers_of(3, 2)
    theta = rng.normal(0.0, 0.02, (n_pix, len(powers)))
    theta[:, 0] = 1.0 - np.abs(rng.normal(0.0, 0.15, n_pix))
    s2 = np.full(n_pix, 1e-6)
    s2[::50] = np.inf
    labels = rng.uniform(low, high, (400, 3))
    training = schema.native(schema.model_training_table(names).rows(
        400, used=1, **dict(zip(names, labels.T, strict=True))))
    nothing = np.full(3, np.nan)
    fitted = model.Model(
        wavelength=10 ** (4.179 + 6e-6 * np.arange(n_pix)), segment=np.repeat([0, 1], n_pix // 2).astype(np.int16),
        medium="vacuum", theta=theta, s2=s2, pixel_status=np.where(np.isinf(s2), 4, 0).astype(np.int32),
        n_good=np.full(n_pix, 400, np.int32), ivar_scale=np.ones(n_pix), censor=np.ones((n_pix, 3), np.uint8),
        powers=powers, label_names=names, label_units=("K", "dex", "dex"), low=low, pivot=pivot, high=high,
        bias=nothing, scatter=nothing, rms=nothing, training=training, survey="apogee")
    fitted.write(path, overwrite=True)
    return fitted


def drawn(inside, folder, name, *options):
    out, truth = folder / f"{name}.fits", folder / f"{name}_truth.fits"
    assert inside(*SPECTRA, "--generator", "model", "--model", folder / "m.model.fits", "--count", "500", "--truth",
                  truth, "-o", out, *options) == 0
    return rows_of(out, "spectra")[1], rows_of(truth, "truth")[1]


PLAIN = ("--set", "wiggles=false", "--set", "hidden=false", "--set", "lsf_variation=false", "--set", "junk=false",
         "--set", "label_noise=false")


def pulls(fitted, rows, truth):
    """Residuals from the model's prediction at the true labels over the noise and scatter, usable pixels only."""
    clean = fitted.predict(schema.label_array(truth, fitted.label_names))
    with np.errstate(divide="ignore"):
        sigma = np.sqrt(1.0 / rows["ivar"] + fitted.s2)
    return np.where(rows["ivar"] > 0, (rows["flux"] - clean) / sigma, np.nan)


def test_model_spectra_are_the_models_with_its_noise(inside, folder):
    fitted = small_model(folder / "m.model.fits")
    rows, truth = drawn(inside, folder, "plain", *PLAIN)
    assert np.all(rows["ivar"][:, ::50] == 0) and np.all(rows["flux"][:, ::50] == 1)
    z = pulls(fitted, rows, truth)
    z = z[np.isfinite(z)]
    assert z.size == 500 * 784
    # 392,000 independent numbers: five standard errors of mean and width.
    assert abs(z.mean()) < 0.008 and abs(z.std() - 1.0) < 0.006
    assert_array_equal(truth["survey_teff"], truth["teff"])
    low, high = fitted.training_labels.min(axis=0), fitted.training_labels.max(axis=0)
    labels = schema.label_array(truth, fitted.label_names)
    assert np.all(labels > low - 0.25 * (high - low)) and np.all(labels < high + 0.25 * (high - low))


@pytest.mark.parametrize("switch", ["growth=1.0", "wiggles=true", "hidden=true", "lsf_variation=true"])
def test_each_switch_makes_the_model_wrong(inside, folder, switch):
    fitted = small_model(folder / "m.model.fits")
    rows, truth = drawn(inside, folder, switch, *PLAIN, "--set", switch)
    z = pulls(fitted, rows, truth)
    assert np.nanstd(z) > 1.02             # without the switch: 1.000 +- 0.001


def test_junk_masks_pixels_and_label_noise_moves_labels(inside, folder):
    small_model(folder / "m.model.fits")
    rows, truth = drawn(inside, folder, "junk", *PLAIN, "--set", "junk=true", "--set", "label_noise=true")
    usable = np.ones(800, bool)
    usable[::50] = False
    assert (rows["ivar"][:, usable] == 0).mean() == pytest.approx(0.006, rel=0.1)
    assert_array_equal(rows["n_bad"], (rows["ivar"][:, usable] == 0).sum(axis=1))
    assert 25.0 < (truth["survey_teff"] - truth["teff"]).std() < 45.0      # APOGEE: 30 K giants, 40 K dwarfs


def test_real_coefficients_through_the_importer(inside, folder, shared):
    data = shared / "data"
    assert inside(*SPECTRA, "--generator", "model", "--model", data / "models" / "bovy_cannon_apogee_dr12_giants.fits",
                  "--model-labels", data / "labels" / "bovy_cannon_training_labels.ecsv", "--count", "64", "-o",
                  folder / "real.fits", "--truth", folder / "real_truth.fits") == 0
    _, rows = rows_of(folder / "real.fits", "spectra")
    _, truth = rows_of(folder / "real_truth.fits", "truth")
    good = rows["ivar"] > 0
    assert 6800 < good.sum(axis=1).min() and np.median(rows["flux"][good]) == pytest.approx(0.96, abs=0.04)
    assert truth["teff"].min() > 3500 and truth["teff"].max() < 5400


# --- conduct -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("options", "code", "says"), [
    ((), 64, "--count N or --rows"),
    (("--count", "0"), 64, "at least 1"),
    (("--rows", "x.fits"), 64, "--from"),
    (("--count", "3", "--generator", "model"), 64, "--model"),
    (("--count", "3", "--model", "m.fits"), 64, "--generator model"),
    (("--count", "3", "--generator", "model", "--model", "not_there.fits"), 66, "not_there.fits"),
    (("--count", "3", "--recipe", "galah_dr3"), 78, "galah_dr3"),
])
def test_wrong_options_are_named(inside, folder, capfd, options, code, says):
    assert inside(*SPECTRA, "-o", folder / "never.fits", *options) == code
    assert says in capfd.readouterr().err
    assert not (folder / "never.fits").exists()


def test_options_of_the_stream_are_refused_elsewhere(inside, folder, capfd):
    assert inside("mock", "-o", folder / "m", "--count", "3", "--quiet") == 64
    assert "--count" in capfd.readouterr().err


def test_a_row_of_another_mock_is_refused(mock, inside, folder, capfd):
    assert inside("mock", "-o", folder / "other", "--layout", "catalogues", "--quiet", "--seed", "6", "--common", "9",
                  "--apogee-only", "0", "--galah-only", "0", "--apogee-repeats", "0", "--galah-repeats", "0",
                  "--clusters", "0") == 0
    assert not (folder / "other" / "apogee" / "spectra").exists()
    table = folder / "apogee_catalogue.fits"
    assert inside(*SPECTRA, "--seed", "6", "--rows", table, "--from", folder / "other" / "truth.fits", "-o",
                  folder / "no.fits") == 65
    assert "no spectrum of" in capfd.readouterr().err
    assert inside(*SPECTRA, "--seed", "7", "--rows", table, "--from", folder / "other" / "truth.fits", "-o",
                  folder / "no.fits") == 65
    assert "seed" in capfd.readouterr().err
