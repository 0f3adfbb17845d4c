"""A spectrum from the survey's pixels to a row of the product, star by star (paper section 3.1). Compiled.

The four steps of kernels/resample.py and kernels/normalise.py one after another for one star before the next, so
that its arrays (a few hundred kB) stay in the processor's cache: a third less time than step by step for a block.
Serial; releases the interpreter lock (see kernels/resample.py).
"""
import numpy as np
from numba import njit

from cannonkit.kernels import normalise, resample

NONE, FIT, RUNNING = 0, 1, 2
_clean, _resample, _finish = resample.clean, resample.resample, resample.finish
_fit, _running = normalise.fit, normalise.running


@njit(cache=True, nogil=True, error_model="numpy")
def to_grid(flux, error, bits, n_in, kind, bad_bits, spike_before, spike_sigma, least_error,
            scale, start, step, factor, listed, offset, method, wavelength, low, high, piece, source,
            continuum, segments, basis, chosen, width, percentile, least, weighted,
            dead, windows, doppler, spike_after, most_error,
            out_flux, out_ivar, snr, n_bad, n_good, n_invalid, failed):
    """Fill out_flux, out_ivar (n_star, n_pix) float32 and, per star, snr, n_bad, n_good, n_invalid, failed.

    continuum   NONE (failed is 0), FIT (normalise.fit) or RUNNING (normalise.running)
    spike_before masks on the survey's pixels (resample.clean), spike_after on the common grid (resample.finish);
    all others as in the functions that take them: clean, resample, fit or running, finish.
    """
    n_star, n_input, n_max = flux.shape
    n_pix = wavelength.shape[0]
    ivar = np.empty((1, n_input, n_max))
    grid_flux, grid_ivar = np.empty((1, n_pix)), np.empty((1, n_pix))
    for m in range(n_star):
        one = slice(m, m + 1)
        _clean(flux[one], error[one], bits[one], n_in[one], kind, bad_bits, spike_before, spike_sigma, least_error,
               ivar, n_invalid[one])
        _resample(flux[one], ivar, n_in[one], scale[one], start[one], step[one], factor[one], listed[one],
                  offset[one], method, wavelength, low, high, piece, source, grid_flux, grid_ivar)
        failed[m] = 0
        if continuum == FIT:
            _fit(grid_flux, grid_ivar, segments, basis, chosen, least, weighted, failed[one])
        elif continuum == RUNNING:
            _running(grid_flux, grid_ivar, segments, wavelength, chosen, width, percentile, least, weighted,
                     failed[one])
        _finish(grid_flux, grid_ivar, dead, wavelength, windows, doppler[one], spike_after, spike_sigma, most_error,
                out_flux[one], out_ivar[one], snr[one], n_bad[one], n_good[one])
