"""cc-train: files in, a model out; joins, messages, pipes, identity."""
import numpy as np
import pytest

from cannonkit import model, schema, stream

NAMES = ("teff", "logg", "fe_h")
SCALE = np.array([1000.0, 2.0, 0.8])
PIVOT = np.array([5000.0, 3.0, -0.2])


def write_training(path, labels, ids, selected=None, names=NAMES, scales=("galah", "apogee"), drop=(), extra=None):
    table = schema.training_table(scales, names)
    if extra:
        table = table.with_columns([schema.Column("cluster", "S8", "", "cluster")])
    table = table.without(drop)
    values = {"selected": np.ones(len(ids), "u1") if selected is None else selected} | (extra or {})
    for scale in scales:
        values |= {f"{scale}_id": ids, f"{scale}_star_id": ids}
        values |= {f"{scale}_{n}": labels[:, i] for i, n in enumerate(names)}
    values = {k: v for k, v in values.items() if k in table.names}
    with stream.create(path, "training", table, len(ids), overwrite=True) as out:
        out.write(table.rows(len(ids), **values))


def write_spectra(path, flux, ivar, ids, survey="apogee", visit=0, status=0, wavelength=None):
    n_star, n_pix = flux.shape
    table = schema.spectra_table(n_pix, 4)
    wavelength = np.linspace(15000, 15100, n_pix) if wavelength is None else wavelength
    grid = stream.Extension("WAVELENGTH", schema.WAVELENGTH.rows(n_pix, wavelength=wavelength, segment=0),
                            schema.WAVELENGTH, {"MEDIUM": "vacuum", "SURVEY": survey})
    with stream.create(path, "spectra", table, n_star, [grid], {"SURVEY": survey}, overwrite=True) as out:
        out.write(table.rows(n_star, id=ids, star_id=ids, visit=visit, status=status, flux=flux, ivar=ivar, n_bad=0))


class Files:
    """A small mock: 120 stars with labels, 130 spectra in another order; ten of each lack the other."""

    def __init__(self, folder, rng):
        x = np.clip(0.4 * rng.normal(size=(130, 3)), -1, 1)
        powers = np.array([[0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]])
        theta = 0.05 * rng.normal(size=(96, 4))
        theta[:, 0] = 1
        self.labels = PIVOT + SCALE * x
        self.ids = np.array([f"2M{i:04d}" for i in range(130)], "S")
        clean = np.prod(x[:, None, :] ** powers[None], axis=2) @ theta.T
        self.flux = (clean + 0.01 * rng.normal(size=clean.shape)).astype("f4")
        self.ivar = np.full(clean.shape, 1e4, "f4")
        self.training, self.spectra = folder / "training.fits", folder / "spectra.fits"
        write_training(self.training, self.labels[:120], self.ids[:120])
        order = rng.permutation(np.arange(10, 130))
        write_spectra(self.spectra, self.flux[order], self.ivar[order], self.ids[order])

    def arguments(self, output, *more):
        return (self.spectra, "--training", self.training, "--order", "1", "--cross-validate", "5", "-o", output, *more)


@pytest.fixture
def files(tmp_path, rng):
    return Files(tmp_path, rng)


def test_trains_on_the_stars_that_both_files_have(files, tmp_path, inside, capfd):
    path = tmp_path / "acgs.model.fits"
    assert inside("train", *files.arguments(path, "--labels", "galah", "-v")) == 0
    err = capfd.readouterr().err
    assert "120 selected stars, 110 with a usable spectrum" in err
    assert "10 selected stars have no row in the spectra" in err and "'2M0009')" in err
    assert "10 other spectra are of no selected star" in err and "2M0125" in err
    assert "96 pixels fitted" in err and "teff: bias" in err
    made = model.read(path)
    assert made.label_names == NAMES and made.label_units == ("K", "dex", "dex")
    assert (made.name, made.survey, made.scale_survey, made.medium) == ("ACGS", "apogee", "galah", "vacuum")
    assert made.training["id"].tolist() == files.ids[10:120].tolist()          # in the order of the training table
    assert made.theta.shape == (96, 4) and (made.censor == 1).all() and made.options["n_fold"] == 5
    np.testing.assert_array_equal(made.training["teff"], files.labels[10:120, 0])
    assert np.all(made.scatter < 0.05 * made.scale) and np.all(made.rms > 0)
    assert np.std(files.flux[:120] - made.predict(files.labels[:120])) == pytest.approx(0.01, rel=0.05)
    np.testing.assert_allclose(made.crossval_rms(["logg", "fe_h"]), made.rms[1:])


def test_only_selected_rows_and_good_spectra(files, tmp_path, inside, capfd):
    selected = np.ones(120, "u1")
    selected[50:70] = 0
    write_training(files.training, files.labels[:120], files.ids[:120], selected)
    files.ivar[100] = 0
    status = np.zeros(130, "i4")
    status[101] = 1
    write_spectra(files.spectra, files.flux, files.ivar, files.ids, status=status)
    path = tmp_path / "m.fits"
    assert inside("train", *files.arguments(path, "--labels", "apogee")) == 0
    assert "2 selected stars have a spectrum without usable data ('2M0100', '2M0101')" in capfd.readouterr().err
    assert len(model.read(path).training) == 98


def test_same_model_from_a_pipe_any_chunk_and_threads(files, tmp_path, command):
    sums = []
    for k, (spectra, stdin, more) in enumerate([
            (files.spectra, None, ("--threads", "1")), ("-", files.spectra.read_bytes(), ("--threads", "2")),
            (files.spectra, None, ("--chunk", "64", "--threads", "2"))]):
        path = tmp_path / f"{k}.fits"
        result = command("train", spectra, "--training", files.training, "--labels", "galah", "--order", "1", *more,
                         "--cross-validate", "5", "-o", path, stdin=stdin, timeout=600)
        assert result.code == 0, result
        with stream.open_source(path, verify=True) as made:
            sums.append(made.datasums())
    assert sums[0] == sums[1] == sums[2]


def test_labels_by_any_name_from_one_survey(files, tmp_path, inside, capfd):
    write_training(files.training, files.labels[:120], files.ids[:120], names=("mass", "age", "spin"),
                   scales=("lick",))
    path = tmp_path / "m.fits"
    assert inside("train", *files.arguments(path, "--label-names", "age,mass", "--id", "lick_id")) == 0
    assert model.read(path).label_names == ("age", "mass")
    assert inside("train", *files.arguments(tmp_path / "n.fits", "--id", "lick_id")) == 65
    assert "none of the labels teff, logg" in capfd.readouterr().err


def test_scatter_from_a_model(files, tmp_path, inside, capfd):
    first, second = tmp_path / "a.fits", tmp_path / "b.fits"
    assert inside("train", *files.arguments(first, "--labels", "galah")) == 0
    assert inside("train", *files.arguments(second, "--labels", "apogee", "--scatter-from", first)) == 0
    assert (model.read(second).s2 == model.read(first).s2).all()
    write_spectra(files.spectra, files.flux, files.ivar, files.ids, wavelength=np.linspace(15001, 15100, 96))
    assert inside("train", *files.arguments(tmp_path / "c.fits", "--labels", "galah", "--scatter-from", first)) == 65
    assert "its grid (96 pixels, vacuum) is not that of" in capfd.readouterr().err


def test_censoring_from_settings(files, tmp_path, inside, capfd):
    mask = tmp_path / "lines.csv"
    mask.write_text("element,wave_lo,wave_hi,medium,weight\nSi,15020,15030,vacuum,1\n")
    settings = tmp_path / "settings.yaml"
    settings.write_text("train:\n  censor: {fe_h: [Si]}\n  line_masks: {apogee: lines.csv}\n")
    path = tmp_path / "m.fits"
    assert inside("train", *files.arguments(path, "--labels", "galah", "--config", settings)) == 0
    made = model.read(path)
    on = (made.wavelength >= 15020) & (made.wavelength <= 15030)
    assert (made.censor[:, 2] == on).all() and (made.theta[~on, 3] == 0).all() and (made.theta[on, 3] != 0).all()
    assert f"fe_h acts in {on.sum()} of 96 pixels" in capfd.readouterr().err
    settings.write_text("train:\n  censor: {fe_h: [Si]}\n")
    assert inside("train", *files.arguments(tmp_path / "n.fits", "--labels", "galah", "--config", settings)) == 78
    assert "no line mask for spectra of survey 'apogee'" in capfd.readouterr().err
    assert inside("train", *files.arguments(tmp_path / "n.fits", "--labels", "galah", "--config", settings,
                                            "--line-mask", mask)) == 0


def test_groups_stay_together(files, tmp_path, inside):
    cluster = np.array([f"c{i % 11}" for i in range(120)], "S")
    write_training(files.training, files.labels[:120], files.ids[:120], extra={"cluster": cluster})
    path = tmp_path / "m.fits"
    more = ("--labels", "galah", "--group", "cluster", "--leave-one-group-out")
    assert inside("train", *files.arguments(path, *more)) == 0
    fold = model.read(path).training["fold"]
    assert fold.max() == 10 and all(len(set(fold[cluster[10:] == c])) == 1 for c in set(cluster))


@pytest.mark.parametrize("change, options, code, message", [
    (None, ("--labels", "gaia"), 65, "no labels of survey 'gaia' (did you mean"),
    (None, (), 64, "has labels of galah and apogee: say whose with --labels"),
    (None, ("--labels", "galah", "--id", "sobject"), 65, "sobject"),
    (None, ("--labels", "galah", "--label-names", "teff,mass"), 65, "galah_mass"),
    (None, ("--labels", "galah", "--group", "cluster"), 65, "cluster"),
    (None, ("--labels", "galah", "--strict"), 65, "10 selected stars have no row in the spectra"),
    (None, ("--labels", "galah", "--order", "4"), 64, "--order"),
    (None, ("--labels", "galah", "--terms", "teff,teff"), 65, "given twice"),
    ("nothing selected", ("--labels", "galah"), 65, "no row is selected"),
    ("other ids", ("--labels", "galah"), 65, "no selected star of"),
    ("twice", ("--labels", "galah"), 65, "stands in two selected rows"),
    ("spectra twice", ("--labels", "galah"), 65, "stands there twice"),
    ("constant", ("--labels", "galah"), 65, "label 'logg' is constant"),
    ("few", ("--labels", "galah"), 65, "3 stars are too few for 4 terms"),
    ("masked", ("--labels", "galah"), 65, "has a usable spectrum there"),
    ("labels as spectra", ("--labels", "galah"), 65, "expected spectra"),
])
def test_one_line_for_what_is_wrong(files, tmp_path, inside, capfd, change, options, code, message):
    labels, ids = files.labels[:120].copy(), files.ids[:120].copy()
    if change == "nothing selected":
        write_training(files.training, labels, ids, np.zeros(120, "u1"))
    elif change == "other ids":
        write_training(files.training, labels, np.char.add(b"x", ids))
    elif change == "twice":
        ids[1] = ids[0]
        write_training(files.training, labels, ids)
    elif change == "spectra twice":
        files.ids[60] = files.ids[61]
        write_spectra(files.spectra, files.flux, files.ivar, files.ids)
    elif change == "constant":
        labels[:, 1] = 4.5
        write_training(files.training, labels, ids)
    elif change == "few":
        write_training(files.training, labels[10:13], ids[10:13])
    elif change == "masked":
        write_spectra(files.spectra, files.flux, 0 * files.ivar, files.ids)
    elif change == "labels as spectra":
        files.spectra = files.training
    path = tmp_path / "m.fits"
    assert inside("train", *files.arguments(path, *options)) == code
    err = capfd.readouterr().err
    assert message in err.replace("\n", " ") and "Traceback" not in err
    assert len([line for line in err.splitlines() if "error:" in line]) == 1
    assert not path.exists()


def test_missing_labels_are_counted_or_refused(files, tmp_path, inside, capfd):
    labels = files.labels[:120].copy()
    labels[30:34, 2] = np.nan
    write_training(files.training, labels, files.ids[:120])
    path = tmp_path / "m.fits"
    assert inside("train", *files.arguments(path, "--labels", "galah")) == 0
    assert "4 of 110 stars have a missing label and are not used (fe_h 4)" in capfd.readouterr().err
    assert model.read(path).training["used"].sum() == 106
    write_spectra(files.spectra, files.flux, files.ivar, files.ids)
    assert inside("train", *files.arguments(tmp_path / "n.fits", "--labels", "galah", "--strict")) == 65
    assert "4 selected stars have a missing label" in capfd.readouterr().err


def test_dry_run_writes_nothing(files, tmp_path, inside, capfd):
    path = tmp_path / "m.fits"
    assert inside("train", *files.arguments(path, "--labels", "galah", "--dry-run")) == 0
    assert "stars 120" in capfd.readouterr().err and not path.exists()
