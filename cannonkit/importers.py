"""Models of other Cannon codes, read into ours: files of plain FITS images, facts only.

No code of other projects is used or run; a pickled model is refused by construction.
"""
import os

import numpy as np

from cannonkit import bitmasks, errors, fits, schema
from cannonkit.model import Model

COLLAPSED = 1e-6    # an rms below this is a fit that failed: real ones are above 1e-4


def polynomial(path, survey, grid, medium, training_labels, name=""):
    """A model file with image extensions THETA and a scatter, as a Model on `grid`.

    path             FITS with either THETA (n_term, n_pix) quadratic without label scaling, SCATTER (an rms),
                     BASELINE and WAVE_VAC (the APOGEE giants of jobovy/apogee), or THETA (n_pix, n_term), S2,
                     POWERS, FIDUCIALS, SCALES and WAVE_AIR; primary keyword LABELS names the labels
    survey           survey whose spectra the model is for (SURVEY of the model file)
    grid             (n_pix,) wavelengths in Angstrom of the spectra; a pixel of the file goes to the grid pixel
                     within a hundredth of its spacing, other grid pixels are unusable (theta 0, s2 infinite)
    medium           'air' or 'vacuum' of `grid`; must be the file's
    training_labels  (n_star, n_label) in label units, for the label range: percentiles and extremes
    The label scale becomes p97.5 - p2.5 of training_labels with the file's own zero point as pivot, so the
    coefficients are rescaled, not changed. Pixels with an rms below COLLAPSED are unusable.
    Raises NoInputError, DataError.
    """
    fd = fits.open_fd(path)
    try:
        hdus = fits.walk(fd, str(path))
        images = {h.name: fits.read_hdu_image(fd, h) for h in hdus[1:] if h.kind == "image" and h.data_size}
        label_names = _label_names(hdus[0].header)
    finally:
        os.close(fd)
    powers, pivot, unit, theta, s2, wavelength, own_medium = _conventions(images, len(label_names), path)
    if own_medium != medium:
        raise errors.DataError(f"{path}: wavelengths are in {own_medium}, the grid in {medium}")
    training_labels = np.asarray(training_labels, np.float64)
    if training_labels.ndim != 2 or training_labels.shape[1] != len(label_names):
        raise errors.DataError(f"{path}: training labels of shape {training_labels.shape}, "
                               f"expected (n_star, {len(label_names)}): {', '.join(label_names)}")
    low, high = np.percentile(training_labels, [2.5, 97.5], axis=0)
    # x_ours * (high - low) = label - pivot = x_theirs * unit
    theta = theta * np.prod(((high - low) / unit) ** powers, axis=1)

    n_pix = len(grid)
    nearest = np.clip(np.searchsorted(grid, wavelength), 1, n_pix - 1)
    nearest -= wavelength - grid[nearest - 1] < grid[nearest] - wavelength
    off = np.abs(grid[nearest] - wavelength) > 0.01 * np.gradient(grid)[nearest]
    if off.any():
        raise errors.DataError(f"{path}: {off.sum()} of {len(off)} pixels are not pixels of the grid "
                               f"(first at {wavelength[np.argmax(off)]:.4f} Angstrom)")
    good = np.isfinite(s2)
    full_theta, full_s2 = np.zeros((n_pix, len(powers))), np.full(n_pix, np.inf)
    full_theta[nearest[good]], full_s2[nearest[good]] = theta[good], s2[good]
    status = np.where(np.isfinite(full_s2), 0, bitmasks.PIXEL_STATUS.ALL_MASKED).astype(np.int32)
    table = schema.model_training_table(label_names)
    training = schema.native(table.rows(len(training_labels), used=1,
                                        **dict(zip(label_names, training_labels.T, strict=True))))
    nothing = np.full(len(label_names), np.nan)
    return Model(
        wavelength=np.asarray(grid, float), segment=np.zeros(n_pix, np.int16), medium=medium, theta=full_theta,
        s2=full_s2, pixel_status=status, n_good=np.where(status == 0, len(training_labels), 0).astype(np.int32),
        ivar_scale=np.ones(n_pix), censor=np.ones((n_pix, len(label_names)), np.uint8), powers=powers,
        label_names=label_names, label_units=tuple(schema.label(n).unit for n in label_names), low=low, pivot=pivot,
        high=high, bias=nothing, scatter=nothing.copy(), rms=nothing.copy(), training=training, survey=survey,
        scale_survey="", name=name, options={"imported": os.path.basename(str(path))})


def label_names(path):
    """Names of the labels of such a file, lower case. Raises NoInputError, DataError."""
    fd = fits.open_fd(path)
    try:
        return _label_names(fits.walk(fd, str(path))[0].header)
    finally:
        os.close(fd)


def _label_names(header):
    return tuple(part.strip().lower() for part in header.text("LABELS").split(",") if part.strip())


def read_labels(path, names):
    """(n_star, n_label) float64 from a text table (commas or blanks; # and % start comments; ECSV too) with columns
    `names`, upper or lower case. Raises NoInputError, DataError."""
    try:
        with open(path, encoding="utf-8") as file:
            lines = [line for line in file if line.strip() and line[0] not in "#%"]
    except OSError as error:
        raise errors.NoInputError(f"{path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise errors.DataError(f"{path}: not a text table") from None
    rows = [line.replace(",", " ").split() for line in lines]
    head = [word.strip('"').lower() for word in rows[0]] if rows else []
    lacking = [name for name in names if name not in head]
    if lacking:
        raise errors.DataError(f"{path}: no column {lacking[0]!r}{errors.did_you_mean(lacking[0], head)}")
    out = np.empty((len(rows) - 1, len(names)))
    for k, words in enumerate(rows[1:], 1):
        try:
            out[k - 1] = [float(words[head.index(name)]) for name in names]
        except (ValueError, IndexError):
            raise errors.DataError(f"{path}: row {k}: not one number in each of {', '.join(names)}") from None
    if not len(out):
        raise errors.DataError(f"{path}: no rows")
    return out


def _conventions(images, n_label, path):
    """(powers, pivot, unit of x, theta (n_pix, n_term), s2, wavelength, medium) of either kind of file."""
    def need(*names):
        missing = [n for n in names if n not in images]
        if missing:
            raise errors.DataError(f"{path}: no image {missing[0]!r}{errors.did_you_mean(missing[0], images)}")
        return [np.asarray(images[n], np.float64) for n in names]
    if "POWERS" in images:
        theta, s2, powers, pivot, unit, wavelength = need("THETA", "S2", "POWERS", "FIDUCIALS", "SCALES", "WAVE_AIR")
        medium, powers = "air", powers.astype(np.int64)
    else:
        from cannonkit.stages import vectorizer
        theta, scatter, pivot, wavelength = need("THETA", "SCATTER", "BASELINE", "WAVE_VAC")
        theta, s2, unit = theta.T, np.where(scatter > COLLAPSED, scatter ** 2, np.inf), np.ones_like(pivot)
        medium, powers = "vacuum", vectorizer.powers_of(n_label, 2)
    if len(pivot) != n_label or powers.shape[1] != n_label or theta.shape != (len(wavelength), len(powers)):
        raise errors.DataError(f"{path}: LABELS names {n_label} labels, THETA has shape {theta.shape} for "
                               f"{len(wavelength)} pixels and {len(powers)} terms of {len(pivot)} labels")
    return powers, pivot, unit, theta, s2, wavelength, medium
