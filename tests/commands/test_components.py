"""Misfit components through the commands: a model with COMPONENTS from cc-train, used by cc-infer, run in any way."""
import numpy as np
import products
import pytest
from commands.test_train import NAMES, PIVOT, SCALE, write_spectra

from cannonkit import model as models
from cannonkit import schema, stream
from cannonkit.errors import DataError

COMPILE = 600        # seconds: a process of its own may find the kernels not compiled
N, N_PIX, N_COMPONENT = 260, 128, 2


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Folder with training.fits (one survey, with and without errors of the labels) and spectra.fits."""
    folder = tmp_path_factory.mktemp("components")
    rng = np.random.default_rng(4)
    x = np.clip(0.4 * rng.normal(size=(N, 3)), -1, 1)
    theta, u = 0.05 * rng.normal(size=(N_PIX, 3)), 0.03 * rng.normal(size=(N_PIX, N_COMPONENT))
    flux = 1 + x @ theta.T + rng.normal(size=(N, N_COMPONENT)) @ u.T + 0.01 * rng.normal(size=(N, N_PIX))
    ids = np.array([f"2M{i:04d}" for i in range(N)], "S")
    write_spectra(folder / "spectra.fits", flux.astype("f4"), np.full(flux.shape, 1e4, "f4"), ids)
    table = schema.training_table(("apogee",), NAMES)
    values = {f"apogee_{n}": (PIVOT + SCALE * x)[:, i] for i, n in enumerate(NAMES)}
    errors = {f"apogee_e_{n}": np.full(N, 1e-3 * SCALE[i]) for i, n in enumerate(NAMES)}
    for name, columns in (("training", values | errors), ("no_errors", values)):
        own = table.without([f"apogee_e_{n}" for n in NAMES] if name == "no_errors" else [])
        with stream.create(folder / f"{name}.fits", "training", own, N) as out:
            out.write(own.rows(N, apogee_id=ids, apogee_star_id=ids, selected=1, **columns))
    return folder


def train(made, inside, out, *options, training="training.fits"):
    return inside("train", made / "spectra.fits", "--training", made / training, "--order", "1", "--cross-validate",
                  "3", "-o", out, "--overwrite", *options)


@pytest.fixture(scope="module")
def model_file(made):
    """A model with components, trained in this process."""
    from cannonkit.commands import train as command

    path = made / "u.model.fits"
    if not path.exists():
        assert command.main([str(made / "spectra.fits"), "--training", str(made / "training.fits"), "--order", "1",
                             "--cross-validate", "3", "--components", "5", "-o", str(path), "--quiet"]) == 0
    return path


def test_the_model_file(made, model_file, inside, tmp_path, capfd):
    """COMPONENTS is there with K > 0 and not with K = 0; label errors come from the table, if it has some."""
    with stream.open_source(model_file, verify=True) as source:
        part = source.extensions["COMPONENTS"]
        assert len(part.data) == N_COMPONENT and part.data["loading"].shape == (N_COMPONENT, N_PIX)
        assert source.header["LABELERR"] == "known"
    assert models.read(model_file).n_component == N_COMPONENT
    assert train(made, inside, tmp_path / "none.fits", "--components", "5", training="no_errors.fits") == 0
    assert "no errors of the training labels are known" in capfd.readouterr().err
    assert train(made, inside, tmp_path / "exact.fits", "--components", "5", "--label-errors", "none") == 0
    assert models.read(tmp_path / "exact.fits").options["label_errors"] == "exact"
    assert train(made, inside, tmp_path / "classic.fits") == 0
    with stream.open_source(tmp_path / "classic.fits") as source:
        assert "COMPONENTS" not in source.extensions
        assert not [key for key in source.header if key.startswith(("LABELERR", "KTRY", "KCV"))]
    assert train(made, inside, tmp_path / "x.fits", "--components", "2.5") == 64
    assert "whole number" in capfd.readouterr().err


def test_the_number_is_chosen_and_recorded(made, inside, tmp_path):
    settings = tmp_path / "s.yaml"
    settings.write_text("train:\n  components: auto\n  components_grid: [1, 2, 4]\n")
    assert train(made, inside, tmp_path / "auto.fits", "--config", settings) == 0
    found = models.read(tmp_path / "auto.fits")
    curve = dict(found.options["components_curve"])
    assert found.n_component == N_COMPONENT and curve[2] < curve[1] < curve[0]
    assert list(curve) == [0, 1, N_COMPONENT]            # no more are above the noise


def test_labels_amplitudes_residuals_and_spectra(made, model_file, inside, tmp_path):
    out = [tmp_path / f"{n}.fits" for n in ("labels", "residuals", "spectra", "short")]
    assert inside("infer", made / "spectra.fits", "-m", model_file, "-o", out[0], "--amplitudes", "--residuals", out[1],
                  "--spectra", out[2], "--quiet") == 0
    rows = products.read(out[0])[0]
    assert rows["z"].shape == (N, N_COMPONENT) and 0.8 < np.std(rows["z"]) < 1.2
    assert np.mean(rows["r_chi2"]) == pytest.approx(1.0, abs=0.06)      # these stars trained the model
    model = models.read(model_file)
    flux = products.read(made / "spectra.fits")[0]["flux"]
    fitted = model.predict(schema.label_array(rows, NAMES), rows["z"])
    np.testing.assert_allclose(products.read(out[2])[0]["flux"], fitted, rtol=1e-6)
    width = products.read(out[1])[0]
    assert np.median(0.5 * (width["p84"] - width["p16"])) == pytest.approx(np.std(flux - fitted), rel=0.1)
    assert np.std(flux - fitted) < 0.0105
    assert inside("infer", made / "spectra.fits", "-m", model_file, "-o", out[3], "--quiet") == 0
    short = products.read(out[3])[0]
    assert "z" not in short.dtype.names and all((short[n] == rows[n]).all() for n in (*NAMES, "chi2"))


def test_shards_threads_pipes_and_two_models(made, model_file, inside, command, tmp_path):
    """The same bytes of every extension; a classic model beside it in one pass is not touched."""
    assert train(made, inside, tmp_path / "classic.model.fits") == 0
    whole = tmp_path / "whole.fits"
    assert inside("infer", made / "spectra.fits", "-m", model_file, "-o", whole, "--quiet", "--amplitudes") == 0
    expected = products.sums(whole)
    for threads in ("1", "2"):
        path = tmp_path / f"t{threads}.fits"
        assert command("infer", "-", "-m", model_file, "-o", path, "--threads", threads, "--amplitudes", "--chunk",
                       "64", stdin=(made / "spectra.fits").read_bytes(), timeout=COMPILE).code == 0
        assert products.sums(path) == expected
    parts = []
    for k in range(3):
        path = tmp_path / f"part{k}.fits"
        assert inside("infer", made / "spectra.fits", "-m", model_file, "-o", path, "--shard", f"{k}/3", "--amplitudes",
                      "--quiet") == 0
        parts.append(products.read(path)[0])
    assert np.concatenate(parts).tobytes() == products.read(whole)[0].tobytes()
    both = [tmp_path / "u.fits", tmp_path / "c.fits"]
    assert inside("infer", made / "spectra.fits", "-m", model_file, "-o", both[0], "-m",
                  tmp_path / "classic.model.fits", "-o", both[1], "--amplitudes", "--quiet") == 0
    alone = tmp_path / "alone.fits"
    assert inside("infer", made / "spectra.fits", "-m", tmp_path / "classic.model.fits", "-o", alone, "--quiet") == 0
    assert products.sums(both[0]) == expected and products.sums(both[1]) == products.sums(alone)


def test_same_model_for_any_threads(made, model_file, command, tmp_path):
    with stream.open_source(model_file) as source:
        expected = source.datasums()
    for threads in ("1", "2"):
        path = tmp_path / f"{threads}.fits"
        assert command("train", made / "spectra.fits", "--training", made / "training.fits", "--order", "1",
                       "--cross-validate", "3", "--components", "5", "--threads", threads, "-o", path,
                       timeout=COMPILE).code == 0
        with stream.open_source(path) as source:
            assert source.datasums() == expected


@pytest.mark.parametrize("change, message", [("shape", "of 129 numbers"), ("nan", "a loading is not finite")])
def test_damaged_components(model_file, tmp_path, change, message):
    model = models.read(model_file)
    if change == "nan":
        model.components[17, 1] = np.nan
        model.write(tmp_path / "bad.fits")
    else:
        part = stream.Extension("COMPONENTS", schema.model_components_table(N_PIX).rows(
            1, strength=1.0, loading=0.0), schema.model_components_table(N_PIX))
        with pytest.raises(DataError, match=message):
            models._components(part, "m", N_PIX + 1, model.s2)
        return
    with pytest.raises(DataError, match=message):
        models.read(tmp_path / "bad.fits")
