"""Labels of spectra (paper section 3.5, equation 4), by blocks of 64 stars. Compiled.

`fit_block` is the compressed solver (kernels/sums.py: matrix products, then iterations on sums), pixels.fit_stars the
general one (every iteration over the pixels). Both descend in the same way (kernels/minimise.py) from several
starts, and both give every star its own rows of the outputs and nothing else.

Neither has a prange: the caller spreads blocks over threads of its own, which take the next block, of this chunk or
the one after it, whenever they are free, and do not wait for each other at the end of a chunk.

Arrays (K = terms without the constant, n_label = labels)
flux_rows, ivar_rows  (n_star, n_byte)  uint8, rows of a table; from byte flux_at, ivar_at stand n_pix float32
swap                  bool, the numbers are big-endian on a little-endian machine (or the reverse)
constant              (n_pix,)   float64, the model at the pivot: theta of the constant term
theta                 (n_pix, K) float64, the other coefficients; 0 in unusable pixels. Misfit components (design.md 5)
                      are further columns, here and in theta32, theta_rows and pairs: as many as z has
s2                    (n_pix,)   float64, finite
ivar_scale            (n_pix,)   float64, multiplies ivar; 0 where the model has no pixel
constant32, s2_32, ivar_scale32  float32 copies
theta32               (n_tile, tile, K') float32, tiled theta with columns of zeros up to a multiple of 16
theta_rows            (n_tile, K, tile) float64, the same without them
pairs                 (n_tile, K (K + 1) / 2, tile) float32, products of two columns of theta
starts                (n_start, n_label) float64, scaled labels; row 0 is overwritten per star with the linear
                      solution (every term a free parameter), row 1 is the pivot, the rest as given
linear                (n_label,) int64, which term is x_i alone, -1 if none
free                  (n_free,)  int64, labels that are fitted
fixed                 (n_star, n_label) float64, scaled values of the others; NaN for those that are fitted
low, high             (n_label,) float64, the range within which a minimum is preferred
label, power          (K, n_factor) int64, the terms (kernels/terms.py)
prior_mean, prior_ivar (n_label,) float64, of the scaled labels; prior_ivar 0: none
scratch               what sums.scratch makes: its contents before and after mean nothing
x, second             (n_star, n_label) float64 output, the solution and the second minimum
cov                   (n_star, n_label, n_label) float64 output, covariance of the scaled labels
numbers               (n_star, 4) float64 output: chi2, chi2 of the second minimum minus it, snr, snr with s2
counts                (n_star, 4) int64 output: pixels used, pixels masked as invalid, iterations, state
z                     (n_star, n_component) float64 output, mean of the components' amplitudes; they are eliminated
                      (kernels/marginal.py), and chi2 and cov are the marginal ones
"""
import numpy as np
from numba import njit

from cannonkit.kernels.copying import copy_matrix, copy_vector
from cannonkit.kernels.marginal import eliminate, move, posterior, settle, smallest_share
from cannonkit.kernels.minimise import CONVERGED, SINGULAR, best_of_starts
from cannonkit.kernels.pixels import TRY_PIXELS, cannot_fit, clear, covariance_of, hold, linear_start
from cannonkit.kernels.sums import (
    BLOCK,
    LAST_GAIN,
    WELL_CONDITIONED,
    add_products,
    clear_missing,
    last_step,
    read_block,
    residual_pass,
    smallest_pivot,
    spread_pairs,
)
from cannonkit.kernels.terms import fill_terms


@njit(cache=True, nogil=True)
def fit_block(first, n_row, place, flux_rows, flux_at, ivar_rows, ivar_at, swap, constant, theta, s2, ivar_scale,
              constant32, theta32, s2_32, ivar_scale32, pairs, theta_rows, starts, linear, free, fixed, low, high,
              label, power, prior_mean, prior_ivar, max_iter, scratch, x, cov, second, numbers, counts, z):
    """Fit the stars first ... first + n_row - 1 of the arrays; arrays as in the module's docstring.

    place  the first one's place in its block of 64: row k of the whole table has place k mod 64

    A star whose sums are not good enough gets the state TRY_PIXELS and is left to pixels.fit_stars.
    """
    if n_row == 0:
        return
    n_label = x.shape[1]
    n_pix, n_all = theta.shape
    n_term, n_component = label.shape[0], z.shape[1]
    n_tile, tile, n_column = theta32.shape
    words, values = np.empty((2, tile), dtype=np.uint32), np.empty(tile, dtype=np.float32)
    ratio, ratio_s2 = np.empty(n_pix, dtype=np.float32), np.empty(n_pix, dtype=np.float32)
    weights, weighted, product_m, product_b, sum_m, sum_b, matrix, model, pull = scratch
    terms, slope_v = np.zeros((BLOCK, n_all)), np.empty((BLOCK, n_column))
    full = np.empty((n_all, n_all))
    z_factor = np.zeros((BLOCK, n_component, n_component))
    z_cross, z_half = np.empty((BLOCK, n_component, n_term)), np.empty((BLOCK, n_component))
    new_terms = np.empty(n_term)
    chi2, fitted = np.empty(BLOCK), np.zeros(BLOCK, dtype=np.bool_)
    slopes = np.empty((n_term, label.shape[1]))
    own = np.empty(starts.shape)
    hessian = np.empty((n_label, n_label))
    scale_by, factor = np.empty(n_label), np.zeros((n_label, n_label))
    empty1, empty2 = np.empty(0), np.empty((0, n_term))
    clear_missing(n_pix - (n_tile - 1) * tile, n_row, weights, weighted)
    for m in range(first, first + n_row):
        clear(x[m], cov[m], second[m], numbers[m], counts[m], z[m])
    read_block(flux_rows, flux_at, ivar_rows, ivar_at, swap, first, n_row, place, constant32, s2_32,
               ivar_scale32, words, values, weights, weighted, ratio, ratio_s2, numbers, counts)
    add_products(weights, weighted, pairs, theta32, product_m, product_b, sum_m, sum_b)
    for k in range(n_row):
        m, at = first + k, place + k
        state = cannot_fit(counts[m, 0], free, fixed[m], n_label)
        if state == CONVERGED:
            if n_component == 0:
                spread_pairs(sum_m[:, at], matrix[at])
            else:
                spread_pairs(sum_m[:, at], full)
                eliminate(full, sum_b[at, :n_all], matrix[at], z_factor[at], z_cross[at], z_half[at])
            copy_matrix(starts, own)
            linear_start(matrix[at], sum_b[at, :n_term], linear, low, high, own[0])
            hold(own, free, fixed[m])
            _, numbers[m, 1], counts[m, 2], state = best_of_starts(
                own, free, low, high, label, power, matrix[at], sum_b[at, :n_term], 0.0,
                empty2, empty1, empty1, prior_mean, prior_ivar, max_iter, x[m], hessian, second[m])
            if state != SINGULAR and smallest_pivot(hessian, free, scale_by, factor) > WELL_CONDITIONED:
                fitted[at] = True
                fill_terms(x[m], label, power, terms[at], slopes)
                if n_component > 0:
                    posterior(z_factor[at], z_cross[at], z_half[at], terms[at, :n_term], terms[at, n_term:])
                    if smallest_share(hessian, full, label, slopes, free) < WELL_CONDITIONED:
                        fitted[at], state = False, TRY_PIXELS
            else:
                state = TRY_PIXELS
        counts[m, 3] = state
    residual_pass(flux_rows, flux_at, swap, first, n_row, place, constant, weights, fitted, terms,
                  theta_rows, theta32, words, model, pull, product_b, chi2, slope_v)
    for k in range(n_row):
        m, at = first + k, place + k
        if fitted[at]:
            if n_component > 0:
                copy_vector(terms[at, n_term:], z[m])
                chi2[at] += settle(z_factor[at], z_cross[at], slope_v[at, :n_all], z[m], z_half[at])
            numbers[m, 0], gain = last_step(x[m], matrix[at], sum_b[at, :n_term], slope_v[at, :n_term], chi2[at],
                                            free, label, power, prior_mean, prior_ivar, hessian)
            if n_component > 0:
                fill_terms(x[m], label, power, new_terms, slopes)
                move(z_factor[at], z_cross[at], z_half[at], terms[at, :n_term], new_terms, z[m])
            if (counts[m, 3] == CONVERGED and not (0.0 <= gain <= LAST_GAIN)) or \
                    not covariance_of(hessian, free, cov[m]):
                counts[m, 3] = TRY_PIXELS
