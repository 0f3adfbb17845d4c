"""Foreign models: the same predictions as the formula of their own convention; misfits are named."""
import numpy as np
import pytest

from cannonkit import errors, fits, importers

GRID = 10 ** (4.179 + 6e-6 * np.arange(300))
LABELS = np.random.default_rng(4).normal([4500, 2.0], [200, 0.5], (500, 2))


def quadratic_file(path, rng, wavelength=GRID[40:240]):
    theta = rng.normal(0, 0.01, (6, len(wavelength)))
    theta[1::3] *= 1e-3
    scatter = np.full(len(wavelength), 0.004)
    scatter[7] = 1e-250
    images = {"THETA": theta, "SCATTER": scatter, "BASELINE": np.array([4500.0, 2.0]), "WAVE_VAC": wavelength}
    path.write_bytes(fits.primary_hdu({"LABELS": "TEFF,LOGG"})
                     + b"".join(fits.image_hdu(n, x) for n, x in images.items()))
    return theta, scatter


def test_quadratic_without_scaling(tmp_path, rng):
    theta, scatter = quadratic_file(tmp_path / "m.fits", rng)
    model = importers.polynomial(tmp_path / "m.fits", "apogee", GRID, "vacuum", LABELS)
    d = np.array([4650.0, 1.3]) - [4500.0, 2.0]
    expected = theta.T @ [1, *d, d[0] ** 2, d[0] * d[1], d[1] ** 2]
    expected[7] = np.nan                                    # collapsed pixel
    predicted = model.predict([4650.0, 1.3])[0]
    np.testing.assert_allclose(predicted[40:240], expected, rtol=1e-12)
    assert np.isnan(predicted[:40]).all() and np.isnan(predicted[240:]).all()
    assert np.allclose(model.s2[40:47], 0.004 ** 2) and np.isinf(model.s2[47])
    assert model.label_names == ("teff", "logg")


def test_what_does_not_fit_is_named(tmp_path, rng):
    quadratic_file(tmp_path / "m.fits", rng)
    with pytest.raises(errors.DataError, match="vacuum, the grid in air"):
        importers.polynomial(tmp_path / "m.fits", "galah", GRID, "air", LABELS)
    with pytest.raises(errors.DataError, match="expected \\(n_star, 2\\)"):
        importers.polynomial(tmp_path / "m.fits", "apogee", GRID, "vacuum", LABELS[:, :1])
    with pytest.raises(errors.DataError, match="not pixels of the grid"):
        importers.polynomial(tmp_path / "m.fits", "apogee", GRID + 0.02, "vacuum", LABELS)
    (tmp_path / "n.fits").write_bytes(fits.primary_hdu({"LABELS": "TEFF"}) + fits.image_hdu("THETA", np.ones((3, 4))))
    with pytest.raises(errors.DataError, match="no image 'SCATTER'"):
        importers.polynomial(tmp_path / "n.fits", "apogee", GRID, "vacuum", LABELS)
