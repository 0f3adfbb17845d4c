"""The spectral model: coefficients and scatter of every pixel, label scaling, cross-validation.

One dataclass of plain arrays (paper equations 1 to 3). Flux is continuum-normalised, wavelengths in Angstrom,
labels in their own units. An unusable pixel has theta 0, s2 infinite and a bit of bitmasks.PIXEL_UNUSABLE.
"""
from dataclasses import dataclass, field

import numpy as np

from cannonkit import bitmasks
from cannonkit.errors import DataError, did_you_mean
from cannonkit.kernels import vectorizer


@dataclass
class Model:
    """A trained model. Shapes: n_pix pixels, n_term terms, n_label labels.

    wavelength (n_pix,) f8 Angstrom; segment (n_pix,) i2; medium 'air' or 'vacuum'
    theta (n_pix, n_term) f8; s2 (n_pix,) f8, excess variance (inf: pixel unusable)
    pixel_status (n_pix,) i4, bits of bitmasks.PIXEL_STATUS; n_good (n_pix,) i4, stars with data in the pixel
    ivar_scale (n_pix,) f8: what the survey's inverse variances are multiplied with, here and in cc-infer
    censor (n_pix, n_label) u1: 1 = the label acts in this pixel, 0 = it and its cross terms are zero there
    powers (n_term, n_label) i8: the terms; term 0 is the constant
    label_names, label_units; low, pivot, high (n_label,): percentiles 2.5, 50, 97.5 of the training labels
    bias, scatter, rms (n_label,): cross-validated minus input label: median, (84-16)/2, root mean square;
    NaN without cross-validation
    training: structured rows (native) with id, star_id, used, fold, the labels, cv_<label>, cv_cov
    survey (of the spectra), scale_survey (of the labels), name, options: what the header says of the training
    """

    wavelength: np.ndarray
    segment: np.ndarray
    medium: str
    theta: np.ndarray
    s2: np.ndarray
    pixel_status: np.ndarray
    n_good: np.ndarray
    ivar_scale: np.ndarray
    censor: np.ndarray
    powers: np.ndarray
    label_names: tuple
    label_units: tuple
    low: np.ndarray
    pivot: np.ndarray
    high: np.ndarray
    bias: np.ndarray
    scatter: np.ndarray
    rms: np.ndarray
    training: np.ndarray
    survey: str = ""
    scale_survey: str = ""
    name: str = ""
    options: dict = field(default_factory=dict)

    @property
    def n_pix(self):
        return self.theta.shape[0]

    @property
    def n_term(self):
        return self.theta.shape[1]

    @property
    def n_label(self):
        return len(self.label_names)

    @property
    def scale(self):
        """(n_label,) p97.5 - p2.5: label units of one unit of the scaled label (equation 2)."""
        return self.high - self.low

    @property
    def usable(self):
        """(n_pix,) bool: pixels that say something about the labels."""
        return np.isfinite(self.s2) & (self.pixel_status & bitmasks.PIXEL_UNUSABLE == 0)

    @property
    def training_labels(self):
        """(n_used, n_label) f8: labels of the stars that the model was trained on."""
        rows = self.training[self.training["used"] != 0]
        return np.stack([np.asarray(rows[n], np.float64) for n in self.label_names], axis=1)

    def label_index(self, name):
        """Place of a label. DataError naming the model's labels if it has none of that name."""
        if name not in self.label_names:
            raise DataError(f"the model has no label {name!r}{did_you_mean(name, self.label_names)}")
        return self.label_names.index(name)

    def crossval_rms(self, names):
        """Cross-validation RMS of the named labels, in label units: K of equation 5.

        DataError if a label is not in the model or the model was trained without cross-validation.
        """
        rms = np.array([self.rms[self.label_index(n)] for n in names], dtype=np.float64)
        bad = [n for n, value in zip(names, rms, strict=True) if not (np.isfinite(value) and value > 0)]
        if bad:
            raise DataError(f"the model has no cross-validation RMS of {', '.join(bad)}: "
                            "train it with cc-train --cross-validate 12")
        return rms

    def scaled(self, labels):
        """Scaled labels (n_star, n_label) of equation 2. NaN stays NaN."""
        return (np.atleast_2d(np.asarray(labels, dtype=np.float64)) - self.pivot) / self.scale

    def predict(self, labels):
        """Model flux (n_star, n_pix) f8 for labels (n_star, n_label) in label units.

        A label that is NaN gives a NaN spectrum; unusable pixels are NaN.
        """
        flux = vectorizer.design_matrix(self.scaled(labels), self.powers) @ self.theta.T
        flux[:, ~self.usable] = np.nan
        return flux
