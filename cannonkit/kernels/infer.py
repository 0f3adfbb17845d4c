"""Labels of spectra (paper section 3.5, equation 4), parallel over stars. Compiled.

`fit` takes the compressed solver (kernels/sums.py: matrix products, then iterations on sums) or the general one
(kernels/pixels.py: every iteration over the pixels). Both descend in the same way (kernels/minimise.py) from
several starts, and both give every star its own rows of the outputs and nothing else.

Arrays (K = terms without the constant, n_label = labels; sums.py's own need not hold anything for the other)
flux_rows, ivar_rows  (n_star, n_byte)  uint8, rows of a table; from byte flux_at, ivar_at stand n_pix float32
swap                  bool, the numbers are big-endian on a little-endian machine (or the reverse)
first_row             int64, the table's row at which this chunk starts: row k is at place k mod 64 of its block
constant              (n_pix,)   float64, the model at the pivot: theta of the constant term
theta                 (n_pix, K) float64, the other coefficients; 0 in unusable pixels. Misfit components (design.md 5)
                      are further columns, here and in theta32, theta_rows and pairs: as many as z has
s2                    (n_pix,)   float64, finite
ivar_scale            (n_pix,)   float64, multiplies ivar; 0 where the model has no pixel
constant32, s2_32, ivar_scale32  float32 copies
theta32               (n_tile, tile, K) float32, tiled theta; theta_rows (n_tile, K, tile) the same, float64
pairs                 (n_tile, tile, K (K + 1) / 2) float32, products of two columns of theta
starts                (n_start, n_label) float64, scaled labels; row 0 is the pivot, row 1 is overwritten per
                      star with the linear solution (every term a free parameter), the rest as given
linear                (n_label,) int64, which term is x_i alone, -1 if none
free                  (n_free,)  int64, labels that are fitted
fixed                 (n_star, n_label) float64, scaled values of the others; NaN for those that are fitted
low, high             (n_label,) float64, the range within which a minimum is preferred
label, power          (K, n_factor) int64, the terms (kernels/terms.py)
prior_mean, prior_ivar (n_label,) float64, of the scaled labels; prior_ivar 0: none
x, second             (n_star, n_label) float64 output, the solution and the second minimum
cov                   (n_star, n_label, n_label) float64 output, covariance of the scaled labels
numbers               (n_star, 4) float64 output: chi2, chi2 of the second minimum minus it, snr, snr with s2
counts                (n_star, 4) int64 output: pixels used, pixels masked as invalid, iterations, state
z                     (n_star, n_component) float64 output, mean of the components' amplitudes; they are eliminated
                      (kernels/marginal.py), and chi2 and cov are the marginal ones
"""
from numba import njit, prange

from cannonkit.kernels.pixels import fit_some_stars
from cannonkit.kernels.sums import fit_some_blocks


@njit(parallel=True, cache=True, nogil=True)     # nogil: the next chunk is read meanwhile
def fit(from_sums, flux_rows, flux_at, ivar_rows, ivar_at, swap, first_row, constant, theta, s2, ivar_scale,
        constant32, theta32, s2_32, ivar_scale32, pairs, theta_rows, starts, linear, free, fixed, low, high,
        label, power, prior_mean, prior_ivar, max_iter, n_worker, x, cov, second, numbers, counts, z):
    """Fit every star; arrays as in the module's docstring.

    One prange over n_worker threads: each does every n_worker-th block of 64 stars (or star), with scratch of its
    own, so the blocks need not be alike. (A prange over blocks would make the scratch anew for each.)
    """
    for worker in prange(n_worker):
        if from_sums:
            fit_some_blocks(
                worker, n_worker, flux_rows, flux_at, ivar_rows, ivar_at, swap, first_row, constant, theta, s2,
                ivar_scale, constant32, theta32, s2_32, ivar_scale32, pairs, theta_rows, starts, linear, free,
                fixed, low, high, label, power, prior_mean, prior_ivar, max_iter, x, cov, second, numbers, counts, z)
        else:
            fit_some_stars(
                worker, n_worker, flux_rows, flux_at, ivar_rows, ivar_at, swap, constant, theta, s2, ivar_scale,
                starts, linear, free, fixed, low, high, label, power, prior_mean, prior_ivar, max_iter,
                x, cov, second, numbers, counts, z)
