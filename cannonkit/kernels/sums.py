"""The compressed solver of equation 4 (design.md 4): matrix products, then Newton steps on sums. Compiled.

For a block of 64 stars and tiles of about a thousand pixels, two float32 products give each star's
    M_tu = sum_p w_p theta_pt theta_pu   (weights @ pairs)       and   b_t = sum_p w_p r_p theta_pt,
added over the tiles in float64. From then on a step of the fit costs about n_term^2 operations. One float64
pass over the residuals r - theta v(x) at the minimum found on the sums gives chi2 and the gradient to full
accuracy, and with them the last step. A star whose sums are not good enough for that (labels nearly
dependent: a float32 sum is known to about 1e-7; or a last step longer than expected) is left to kernels/pixels.py.
kernels/infer.py puts these parts together.

Cost per star: 2 n_pix (K (K + 1) / 2 + K) operations in float32 and 4 n_pix K in float64 for K terms.

Input row k of the whole table stands at place k mod 64 of its block and missing rows have zero weights. A
row of a product depends on its place in the block and on nothing else, so that chunks, shards and threads
change no bit.
"""
import numpy as np
from numba import njit

from cannonkit.kernels.copying import copy_matrix
from cannonkit.kernels.minimise import factorise, gauss_newton_matrix, newton_step
from cannonkit.kernels.spectrum import is_sane, median, read_floats
from cannonkit.kernels.terms import add_curvature, fill_terms

BLOCK = 64
# About so many pixels per matrix product: few enough that float32 sums of a tile are good to 1e-7, many
# enough that adding tiles in float64 costs little.
TILE = 1100
# The smallest pivot of the unit-diagonal normal matrix for which the sums are used: their relative error of
# some 1e-7 is then below 1e-4 of the covariance.
WELL_CONDITIONED = 3e-3
# The last step may gain this much in chi2, (0.03 of an error bar)^2: Newton's error after it is below 1e-3.
LAST_GAIN = 1e-3


def tile_sizes(n_pix):
    """(n_tile, tile): the pixels cut into n_tile tiles of equal length, a multiple of 16."""
    n_tile = max(1, -(-n_pix // TILE))
    tile = max(1, -(-n_pix // (16 * n_tile))) * 16
    return max(1, -(-n_pix // tile)), tile


def tiled(array):
    """(n_pix, ...) -> (n_tile, tile, ...), padded with zeros, contiguous."""
    n_tile, tile = tile_sizes(len(array))
    out = np.zeros((n_tile * tile, *array.shape[1:]), dtype=array.dtype)
    out[:len(array)] = array
    return out.reshape(n_tile, tile, *array.shape[1:])


def padded(theta):
    """theta (n_tile, tile, K) as float32 with columns of zeros up to a multiple of 16: the products are quicker."""
    n_term = theta.shape[2]
    out = np.zeros((*theta.shape[:2], -(-n_term // 16) * 16), dtype=np.float32)
    out[:, :, :n_term] = theta
    return out


def pairs_of(theta):
    """The products of `pair_rows` for theta (n_pix, K), pixel by pixel: (n_tile, tile, K (K + 1) / 2) float32."""
    return np.ascontiguousarray(pair_rows(np.ascontiguousarray(tiled(theta).transpose(0, 2, 1))).transpose(0, 2, 1))


def pair_rows(theta_rows):
    """Products theta_t theta_u, t <= u, row-major: (n_tile, K, tile) -> (n_tile, K (K + 1) / 2, tile) float32."""
    n_tile, n_term, tile = theta_rows.shape
    out = np.empty((n_tile, n_term * (n_term + 1) // 2, tile), dtype=np.float32)
    for part, rows in zip(theta_rows, out, strict=True):
        at = 0
        for t in range(n_term):
            np.multiply(part[t], part[t:], out=rows[at:at + n_term - t], casting="same_kind")
            at += n_term - t
    return out


def scratch(n_tile, tile, n_column, n_all, n_term):
    """The larger arrays that `fit_block` works in. Its thread keeps them: making them anew costs as much as reading."""
    n_sum = n_all * (n_all + 1) // 2
    return (np.empty((n_tile, BLOCK, tile), np.float32), np.empty((n_tile, BLOCK, tile), np.float32),
            np.empty((n_sum, BLOCK), np.float32), np.empty((BLOCK, n_column), np.float32), np.empty((n_sum, BLOCK)),
            np.empty((BLOCK, n_column)), np.empty((BLOCK, n_term, n_term)), np.empty((BLOCK, tile)),
            np.empty((BLOCK, tile), np.float32))


# The loops below are short and take few arrays each, so that the compiler makes vector instructions of them.
# error_model="numpy": no test for division by zero (1 + a s2 is at least 1), which would prevent that.

@njit(cache=True, error_model="numpy")
def scaled_ivar(flux, ivar, ivar_scale, out):
    """out = ivar * ivar_scale, 0 where flux or ivar are not sane (all float32). Returns the invalid pixels."""
    n_bad = 0
    for q in range(out.size):
        sane = is_sane(flux[q], ivar[q])
        out[q] = ivar[q] * ivar_scale[q] if sane else np.float32(0.0)
        n_bad += (ivar[q] != np.float32(0.0)) & (not sane)
    return n_bad


@njit(cache=True, error_model="numpy")
def weight_of(ivar, s2, out):
    """out = 1 / (1/ivar + s2), 0 where ivar is 0 (float32). Returns the pixels used."""
    n_used = 0
    for q in range(out.size):
        out[q] = ivar[q] / (np.float32(1.0) + ivar[q] * s2[q])
        n_used += ivar[q] > np.float32(0.0)
    return n_used


@njit(cache=True, error_model="numpy")
def weighted_residual(flux, constant, weight, out):
    """out = weight (flux - constant), 0 where weight is 0 (float32)."""
    for q in range(out.size):
        out[q] = weight[q] * (flux[q] - constant[q]) if weight[q] > np.float32(0.0) else np.float32(0.0)


@njit(cache=True, error_model="numpy")
def signal_to_noise(flux, weight, out):
    """out = flux sqrt(weight), +inf where weight is 0 (float32)."""
    for q in range(out.size):
        out[q] = flux[q] * np.sqrt(weight[q]) if weight[q] > np.float32(0.0) else np.float32(np.inf)


@njit(cache=True, error_model="numpy")
def residual_and_pull(flux, constant, weight, model, pull):
    """model becomes flux - constant - model (float64), pull = weight times that (float32); 0 without weight."""
    for q in range(flux.size):
        left = np.float64(flux[q]) - constant[q] - model[q] if weight[q] > np.float32(0.0) else 0.0
        model[q] = left
        pull[q] = np.float32(weight[q] * left)


# fastmath reassoc: the sum may be taken in lanes. The order is the compiler's, the same for every star.
@njit(cache=True, fastmath={"reassoc"})
def weighted_square(residual, weight):
    """sum of weight residual^2; residual float64, weight float32."""
    total = 0.0
    for q in range(residual.size):
        total += weight[q] * residual[q] * residual[q]
    return total


@njit(cache=True)
def read_block(flux_rows, flux_at, ivar_rows, ivar_at, swap, first, n_star, place, constant, s2, ivar_scale,
               words, values, weights, weighted, ratio, ratio_s2, numbers, counts):
    """Read the stars first .. first + n_star - 1 into rows place ... of the float32 tiles.

    weights, weighted (n_tile, 64, tile) take w and w r; words (2, tile) uint32, values (tile,) float32,
    ratio, ratio_s2 (n_pix,) are scratch. numbers[:, 2:4] and counts[:, 0:2] are filled.
    """
    n_pix = constant.size
    for k in range(n_star):
        m = first + k
        n_used = 0
        n_bad = 0
        for t in range(weights.shape[0]):
            at = t * weights.shape[2]
            end = min(at + weights.shape[2], n_pix)
            n = end - at
            read_floats(flux_rows[m], flux_at + 4 * at, swap, n, words[0])
            read_floats(ivar_rows[m], ivar_at + 4 * at, swap, n, words[1])
            flux = words[0].view(np.float32)[:n]
            ivar = values[:n]
            weight = weights[t, place + k, :n]
            n_bad += scaled_ivar(flux, words[1].view(np.float32)[:n], ivar_scale[at:end], ivar)
            n_used += weight_of(ivar, s2[at:end], weight)
            weighted_residual(flux, constant[at:end], weight, weighted[t, place + k, :n])
            signal_to_noise(flux, ivar, ratio[at:end])
            signal_to_noise(flux, weight, ratio_s2[at:end])
        counts[m, 0] = n_used
        counts[m, 1] = n_bad
        numbers[m, 2] = median(ratio, counts[m, 0])          # not n_used: compiled again for its first value, 0
        numbers[m, 3] = median(ratio_s2, counts[m, 0])


@njit(cache=True)
def clear_missing(n_last, n_row, weights, weighted):
    """Zeros in the tiles (n_tile, 64, tile) where no star or no pixel stands: the last tile has n_last pixels."""
    if n_row < BLOCK:
        weights.fill(np.float32(0.0))
        weighted.fill(np.float32(0.0))
    for k in range(BLOCK):
        for q in range(n_last, weights.shape[2]):
            weights[-1, k, q] = np.float32(0.0)
            weighted[-1, k, q] = np.float32(0.0)


@njit(cache=True)
def add_products(weights, weighted, pairs, theta, product_m, product_b, sum_m, sum_b):
    """Add the tiles' products: sum_m (n_sum, 64) and sum_b (64, K') float64; product_* are float32 scratch.

    With the stars as columns the first product is a fifth quicker: OpenBLAS takes 16 of them at a time.
    """
    sum_m.fill(0.0)
    sum_b.fill(0.0)
    for t in range(weights.shape[0]):
        np.dot(pairs[t], weights[t].T, product_m)
        np.dot(weighted[t], theta[t], product_b)
        for k in range(sum_m.shape[0]):
            for j in range(sum_m.shape[1]):
                sum_m[k, j] += product_m[k, j]
        for k in range(sum_b.shape[0]):
            for j in range(sum_b.shape[1]):
                sum_b[k, j] += product_b[k, j]


@njit(cache=True)
def spread_pairs(sums, matrix):
    """The symmetric matrix (K, K) from its sums over t <= u, row-major."""
    at = 0
    for t in range(matrix.shape[0]):
        for u in range(t, matrix.shape[0]):
            matrix[t, u] = sums[at]
            matrix[u, t] = sums[at]
            at += 1


@njit(cache=True)
def smallest_pivot(hessian, free, scale_by, factor):
    """Smallest pivot of the free part of hessian with unit diagonal; -1 if it is not positive definite."""
    for i in range(scale_by.size):
        scale_by[i] = np.sqrt(hessian[i, i]) if hessian[i, i] > 0.0 else 0.0
    return factorise(hessian, 0.0, scale_by, free, factor)


@njit(cache=True)
def residual_pass(flux_rows, flux_at, swap, first, n_star, place, constant, weights, fitted, terms, theta_rows,
                  theta, words, model, pull, product, chi2, slope_v):
    """chi2 (64,) and slope_v (64, K) = theta' w (r - theta v) at v = terms (64, K) of each star, float64.

    theta_rows (n_tile, K, tile) float64, theta (n_tile, tile, K) float32; the residuals are float64, their
    product with theta, a small sum of small numbers, float32. model, pull (64, tile), product (64, K), words
    (2, tile) scratch; `fitted` (64,) says which places hold a star to do.
    """
    n_pix = constant.size
    chi2.fill(0.0)
    slope_v.fill(0.0)
    pull.fill(np.float32(0.0))
    for t in range(theta.shape[0]):
        np.dot(terms, theta_rows[t], model)
        at = t * theta.shape[1]
        end = min(at + theta.shape[1], n_pix)
        n = end - at
        for k in range(n_star):
            if fitted[place + k]:
                read_floats(flux_rows[first + k], flux_at + 4 * at, swap, n, words[0])
                weight = weights[t, place + k, :n]
                residual = model[place + k, :n]
                residual_and_pull(words[0].view(np.float32)[:n], constant[at:end], weight, residual,
                                  pull[place + k, :n])
                chi2[place + k] += weighted_square(residual, weight)
        if n < theta.shape[1]:
            pull[:, n:] = np.float32(0.0)
        np.dot(pull, theta[t], product)
        for k in range(slope_v.shape[0]):
            for j in range(slope_v.shape[1]):
                slope_v[k, j] += product[k, j]


@njit(cache=True)
def last_step(x, sum_m, sum_b, slope_v, chi2, free, label, power, prior_mean, prior_ivar, hessian):
    """Move x by the Newton step of the exact gradient slope_v (K,) and the sums' Hessian.

    Returns (chi2 after the step, gain of the objective); a negative gain: singular, x unchanged. Fills
    hessian with the Gauss-Newton matrix, prior included, at the new x.
    """
    n_term, n_label = sum_b.size, x.size
    v = np.empty(n_term)
    gradient = np.empty(label.shape)
    full = np.empty((n_label, n_label))
    data_slope, slope, step = np.zeros(n_label), np.zeros(n_label), np.zeros(n_label)
    scale_by, factor = np.empty(n_label), np.zeros((n_label, n_label))
    empty1, empty2 = np.empty(0), np.empty((0, n_term))
    fill_terms(x, label, power, v, gradient)
    gauss_newton_matrix(x, label, power, sum_m, sum_b, 0.0, empty2, empty1, empty1, prior_ivar, hessian)
    for k in range(n_term):
        for f in range(label.shape[1]):
            if label[k, f] >= 0:
                data_slope[label[k, f]] += gradient[k, f] * slope_v[k]
    for i in range(n_label):
        slope[i] = data_slope[i] - prior_ivar[i] * (x[i] - prior_mean[i])
    copy_matrix(hessian, full)
    add_curvature(x, label, power, -slope_v, full)
    gain = newton_step(hessian, full, slope, free, 0.0, scale_by, factor, step)
    if gain < 0.0:
        return chi2, gain
    for i in range(n_label):
        chi2 -= 2.0 * data_slope[i] * step[i]
        for j in range(n_label):
            chi2 += step[i] * (full[i, j] - (prior_ivar[i] if i == j else 0.0)) * step[j]
        x[i] += step[i]
    gauss_newton_matrix(x, label, power, sum_m, sum_b, 0.0, empty2, empty1, empty1, prior_ivar, hessian)
    return chi2, gain
