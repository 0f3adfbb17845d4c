"""Observed minus model flux, pixel by pixel, over any number of stars (Figures 5 and 6 of the paper).

Median, 16th and 84th percentile come from counts in fixed bins (kernels/residuals.py), so memory does not
grow with the number of stars; they are within a bin of the exact percentiles: 6e-5 near zero, 3 % of their
value beyond 0.002.
"""
import numpy as np

from cannonkit.kernels import residuals as kernel
from cannonkit.schema import native

FRACTIONS = (0.16, 0.50, 0.84)
BLOCK = 64          # stars whose model spectra are held at a time


class Residuals:
    """Adds up the residuals of stars for one model.Model; `table_values` gives the result."""

    def __init__(self, model):
        self.model = model
        self.counts = np.zeros((model.n_pix, kernel.N_BIN), dtype=np.int32)

    def add(self, flux, ivar, labels, z=None):
        """Count stars: flux, ivar (n_star, n_pix) float32, labels (n_star, n_label) in label units; NaN: left out.

        z (n_star, K): amplitudes of misfit components, which then belong to the model flux; None without.
        """
        for at in range(0, len(labels), BLOCK):
            part = slice(at, at + BLOCK)
            kernel.add_residuals(np.ascontiguousarray(native(flux[part])), np.ascontiguousarray(native(ivar[part])),
                                 self.model.predict(labels[part], None if z is None else z[part]), self.counts)

    def table_values(self):
        """{column: (n_pix,) array} of schema.residuals_table; NaN where no star has data."""
        quantiles = np.empty((self.model.n_pix, len(FRACTIONS)))
        kernel.fill_quantiles(self.counts, np.array(FRACTIONS), quantiles)
        return {"n_star": self.counts.sum(axis=1), "p16": quantiles[:, 0], "median": quantiles[:, 1],
                "p84": quantiles[:, 2]}
