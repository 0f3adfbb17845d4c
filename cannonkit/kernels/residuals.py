"""Running distribution of residuals per pixel: counts in fixed bins. Compiled.

The bins are equal in asinh(residual / UNIT): 6e-5 wide near zero, 3 % of the residual further out, from
-REACH to REACH; what lies beyond falls into the outermost. Counts are whole numbers, so neither the order of
the stars nor chunks nor threads change them. Memory: n_pix * N_BIN * 4 bytes, whatever the number of stars.
"""
import numpy as np
from numba import njit, prange

N_BIN = 512
UNIT = 0.002
REACH = 4.0
_STEP = 2.0 * np.arcsinh(REACH / UNIT) / N_BIN


@njit(parallel=True, cache=True)
def add_residuals(flux, ivar, predicted, counts):
    """Count flux - predicted of each star in its bin, pixel by pixel.

    flux, ivar  (n_star, n_pix)  float32; pixels with ivar not above 0 or flux not finite are left out
    predicted   (n_star, n_pix)  float64, the model; NaN (star without labels, unusable pixel) is left out
    counts      (n_pix, N_BIN)   int32, changed in place
    """
    n_star, n_pix = flux.shape
    middle = N_BIN / 2
    for p in prange(n_pix):
        for m in range(n_star):
            if ivar[m, p] > 0.0 and np.isfinite(ivar[m, p]):
                residual = flux[m, p] - predicted[m, p]
                if np.isfinite(residual):
                    place = int(np.floor(np.arcsinh(residual / UNIT) / _STEP + middle))
                    counts[p, min(max(place, 0), N_BIN - 1)] += 1


@njit(cache=True)
def fill_quantiles(counts, fractions, quantiles):
    """Fill quantiles (n_pix, n_fraction) from counts (n_pix, N_BIN): linear within a bin, NaN without stars.

    The error is at most the width of a bin, for smooth distributions a small part of it.
    """
    n_pix, n_bin = counts.shape
    for p in range(n_pix):
        total = 0
        for b in range(n_bin):
            total += counts[p, b]
        for k in range(fractions.size):
            quantiles[p, k] = np.nan
            wanted = fractions[k] * total
            before = 0
            for b in range(n_bin):
                if counts[p, b] > 0 and before + counts[p, b] >= wanted:
                    low = UNIT * np.sinh((b - n_bin / 2) * _STEP)
                    high = UNIT * np.sinh((b + 1 - n_bin / 2) * _STEP)
                    quantiles[p, k] = low + (high - low) * (wanted - before) / counts[p, b]
                    break
                before += counts[p, b]
