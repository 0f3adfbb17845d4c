"""Misfit components (design.md 5): the two steps of expectation maximisation, by blocks. Compiled.

    F_n = theta (v_n + y_n) + U z_n + noise,   noise variance 1/ivar + s2,   z_n ~ N(0, 1)

v_n are the terms at the labels of a training star. Where these have errors, y_n = G_n T_n e_n with e_n ~ N(0, 1),
G_n = dv/dx and T_n a root of the errors' covariance S_n: the covariance then holds J_n S_n J_n' with J_n = theta G_n.
With the loading L = (U, theta without the constant), K + n_moving columns, and H_n = diag(1, G_n T_n), (z, y) = H e.
Without label errors L = U and H_n = 1.

Expectation, per star, with W = 1 / (1/ivar + s2): D = L'WL, e = L'Wr, A = I + H'DH;
    mean of (z, y) = H A^-1 H'e,   covariance = H A^-1 H',
    -2 ln L = sum (w r^2 - ln w) - e'H A^-1 H'e + ln|A|.
A loading fitted to n_star stars has an n_star-th of each star's own noise in every pixel, together as much as it has
information on weak labels; so a star can be judged by the loading without it, which needs the same sums only.
Maximisation, at y = 0, per pixel, one after the other with the rest held: u from its normal equations with the second
moments; theta by a weighted least-squares step; s2 by equation 3 with r^2 + u' Cov u for r^2.

The products with n_loading (n_loading + 1) / 2 columns are float32: their error, 1e-7 of a sum, is far below the
statistical one, and where the iteration ends does not depend on the accuracy of theta's matrix at all. Cost per
iteration: 2 n_star n_pix times (3 K^2 / 2 + the distinct products of two terms).
"""
from typing import NamedTuple

import numpy as np
from numba import njit

from cannonkit.kernels import dense, scatter
from cannonkit.kernels.spectrum import is_sane
from cannonkit.kernels.sums import spread_pairs


@njit(cache=True, error_model="numpy")
def _weigh(flux, ivar, scale, s2, model, weight, residual):
    """weight and residual flux - model of one star over a tile, 0 where a pixel is not used; float64."""
    for q in range(flux.shape[0]):
        i = np.float64(ivar[q]) * scale[q]
        if is_sane(flux[q], ivar[q]) and i > 0.0:
            weight[q] = i / (1.0 + i * s2[q])
            residual[q] = flux[q] - model[q]
        else:
            weight[q] = 0.0
            residual[q] = 0.0


@njit(cache=True, nogil=True)
def standardise(flux, ivar, scale, rows, design, theta_rows, s2, first, stop, out):
    """out (stop - first, n_pix) float32 = residual * sqrt(weight) of the stars rows[first:stop]; see expect."""
    n_pix = s2.shape[0]
    n_tile, _, tile = theta_rows.shape
    model = np.empty((stop - first, tile))
    weight, residual = np.empty(tile), np.empty(tile)
    for t in range(n_tile):
        at = t * tile
        end = min(at + tile, n_pix)
        np.dot(design[first:stop], theta_rows[t], model)
        for k in range(stop - first):
            n = rows[first + k]
            _weigh(flux[n, at:end], ivar[n, at:end], scale[at:end], s2[at:end], model[k], weight, residual)
            for q in range(end - at):
                out[k, at + q] = residual[q] * np.sqrt(weight[q])


@njit(cache=True, nogil=True)
def expect(flux, ivar, scale, rows, design, theta_rows, s2, loading, pairs, mix, at, share, own, first, stop, mean,
           cov, value):
    """Posterior of (z, y) and -2 ln L of the stars rows[first:stop].

    flux, ivar  (n_star, n_pix)  float32; ivar 0, NaN and impossible values mask a pixel; scale (n_pix,) multiplies
                ivar and is 0 in unusable pixels, where s2 (n_pix,) is any finite number
    rows        (n,) int64, the stars; design (n, n_term) float64, their terms
    theta_rows  (n_tile, n_term, tile) float64, tiles of theta' (sums.tiled)
    loading     (n_tile, tile, n_loading) float64; pairs (n_tile, tile, n_pair) float32 (sums.pairs_of)
    mix         (n, n_loading, n_latent) float64, H_n, or (0, n_loading, n_loading) for H = I
    at, share   (n, n_loading) float64, or (0, n_loading): judge each star by a fit without it. The loading was fitted
                to residuals f at (z, y) = at; without the star it is L - f share', the residual r + own f; own (n,)
    mean        (n, n_loading) float64, cov (n, n_pair) float32 packed as pairs, value (n,) float64: outputs
    """
    n_pix = s2.shape[0]
    n_tile, tile, n_loading = loading.shape
    n_block, n_pair = stop - first, pairs.shape[2]
    model = np.empty((n_block, tile))
    weight, residual = np.empty(tile), np.empty(tile)
    weights = np.zeros((n_block, tile), np.float32)
    weighted = np.zeros((n_block, tile))
    product = np.empty((n_block, n_pair), np.float32)
    sums, right, square = np.zeros((n_block, n_pair)), np.zeros((n_block, n_loading)), np.zeros(n_block)
    for t in range(n_tile):
        begin = t * tile
        end = min(begin + tile, n_pix)
        np.dot(design[first:stop], theta_rows[t], model)
        for k in range(n_block):
            n = rows[first + k]
            _weigh(flux[n, begin:end], ivar[n, begin:end], scale[begin:end], s2[begin:end], model[k], weight, residual)
            total = 0.0
            logs = 0.0
            for q in range(end - begin):
                w = weight[q]
                if w > 0.0:
                    total += w * residual[q] * residual[q]
                    logs += np.log(w)
                weights[k, q] = w
                weighted[k, q] = w * residual[q]
            square[k] += total
            value[first + k] = total - logs if t == 0 else value[first + k] + total - logs
            weights[k, end - begin:] = 0.0
            weighted[k, end - begin:] = 0.0
        np.dot(weights, pairs[t], product)
        sums += product
        right += np.dot(weighted, loading[t])
    matrix = np.empty((n_loading, n_loading))
    for k in range(n_block):
        n = first + k
        spread_pairs(sums[k], matrix)
        if at.shape[0] > 0:
            left = right[k] - np.dot(matrix, at[n])                 # f'W times the loading, the residual, and f
            with_residual = square[k] - np.dot(at[n], right[k])
            with_itself = with_residual - np.dot(at[n], left)
            for i in range(n_loading):
                right[k, i] += own[n] * (left[i] - share[n, i] * with_itself) - share[n, i] * with_residual
                for j in range(n_loading):
                    matrix[i, j] += (share[n, i] * share[n, j] * with_itself - share[n, i] * left[j]
                                     - left[i] * share[n, j])
        if mix.shape[0] > 0:
            h = mix[n]
            small = np.dot(np.dot(h.T, matrix), h)
            e = np.dot(h.T, right[k])
        else:
            small, e = matrix.copy(), right[k].copy()
        for i in range(small.shape[0]):
            small[i, i] += 1.0
        root = np.linalg.cholesky(small)
        inverse = np.linalg.inv(root)
        half = np.dot(inverse, e)
        for i in range(half.size):
            value[n] += 2.0 * np.log(root[i, i]) - half[i] * half[i]
        back = np.dot(half, inverse)
        if mix.shape[0] > 0:
            mean[n] = np.dot(mix[n], back)
            inverse = np.dot(inverse, mix[n].T)
        else:
            mean[n] = back
        posterior = np.dot(np.ascontiguousarray(inverse.T), np.ascontiguousarray(inverse))
        a = 0
        for i in range(n_loading):
            for j in range(i, n_loading):
                cov[n, a] = posterior[i, j]
                a += 1


@njit(cache=True)
def _load(flux, ivar, scale, rows, first, stop, block_flux, block_ivar):
    """Transpose a block of pixels to (pixel, star); what is not used gets flux 0 and ivar 0."""
    for k in range(rows.shape[0]):
        n = rows[k]
        for p in range(first, stop):
            used = scale[p] > 0.0 and is_sane(flux[n, p], ivar[n, p])
            block_flux[p - first, k] = flux[n, p] if used else 0.0
            block_ivar[p - first, k] = ivar[n, p] * scale[p] if used else 0.0


class Kept(NamedTuple):
    """Theta's normal matrices, factorised (dense.factorise), with the sum of the weights where they were made.

    Made anew where that has changed by a tenth: theta's step comes from its exact gradient, so that an old matrix costs
    a part of a step and no accuracy. factor (n_pix, n_term, n_term), unit (n_pix, n_term), n_dependent (n_pix,) int64.
    """

    factor: np.ndarray
    unit: np.ndarray
    n_dependent: np.ndarray
    sum_weight: np.ndarray


@njit(cache=True)
def _renew(weights, products, pair_index, terms_on, first, kept):
    """Bring `kept` up to date for the pixels first, ... with `weights` (n, n_star)."""
    n_term = pair_index.shape[0]
    todo = np.empty(weights.shape[0], np.int64)
    n_todo = 0
    for p in range(weights.shape[0]):
        total = weights[p].sum()
        if total > 0.0 and not abs(total / kept.sum_weight[first + p] - 1.0) < 0.1:
            kept.sum_weight[first + p] = total
            todo[n_todo] = p
            n_todo += 1
    if n_todo == 0:
        return
    sums = np.dot(weights[todo[:n_todo]], products)
    matrix = np.empty((n_term, n_term))
    for a in range(n_todo):
        p = first + todo[a]
        for i in range(n_term):
            for j in range(n_term):
                matrix[i, j] = sums[a, pair_index[i, j]]
        kept.n_dependent[p] = dense.factorise(matrix, terms_on[p], kept.factor[p], kept.unit[p])


@njit(cache=True, nogil=True)
def maximise(flux, ivar, scale, rows, terms, terms_t, products, pair_index, terms_on, z, z_t, second, cov_t, spent,
             first, stop, theta, s2, components, kept):
    """New components, theta and s2 of the pixels [first, stop), in place.

    terms       (n, n_term) float64, v_n; terms_t its transpose; products (n, n_sum) the distinct products of two, and
                pair_index (n_term, n_term) where they are;  terms_on (n_pix, n_term) uint8
    z           (n, K) float64, means; z_t its transpose
    second      (n, n_pair) float32, packed over t <= u: z z' and covariance;  cov_t (n_pair, n) float32, covariance
    spent       degrees of freedom per pixel that s2 makes up for (0: plain likelihood)
    kept        Kept of all pixels; NaN in sum_weight where there is none yet
    """
    n_star, n_term = terms.shape
    n, n_component = stop - first, z.shape[1]
    data, noise = np.empty((n, n_star)), np.empty((n, n_star), np.float32)
    _load(flux, ivar, scale, rows, first, stop, data, noise)
    weights, narrow = np.empty((n, n_star)), np.empty((n, n_star), np.float32)
    for p in range(n):
        for k in range(n_star):
            i = np.float64(noise[p, k])
            weights[p, k] = i / (1.0 + i * s2[first + p])
            narrow[p, k] = weights[p, k]
    _renew(weights, products, pair_index, terms_on, first, kept)
    residual = data - np.dot(theta[first:stop], terms_t)
    loading = np.zeros((n, n_component))
    squares, spread = np.empty((n, cov_t.shape[0]), np.float32), np.zeros((n, n_star), np.float32)
    if n_component > 0:
        moments = np.dot(narrow, second)
        right = np.dot(weights * residual, z)
        active = np.ones(n_component, np.uint8)
        factor, unit = np.empty((n_component, n_component)), np.empty(n_component)
        matrix = np.empty((n_component, n_component))
        for p in range(n):
            if scale[first + p] > 0.0:
                spread_pairs(moments[p], matrix)
                n_dependent = dense.factorise(matrix, active, factor, unit)
                dense.solve(n_dependent, factor, unit, right[p], loading[p])
            a = 0
            for i in range(n_component):
                for j in range(i, n_component):
                    squares[p, a] = loading[p, i] * loading[p, j] * (1.0 if i == j else 2.0)
                    a += 1
        residual -= np.dot(loading, z_t)
        np.dot(squares, cov_t, spread)
    slope = np.dot(weights * residual, terms)
    step = np.zeros((n, n_term))
    for p in range(n):
        if scale[first + p] > 0.0:
            dense.solve(kept.n_dependent[first + p], kept.factor[first + p], kept.unit[first + p], slope[p], step[p])
    residual -= np.dot(step, terms_t)
    for p in range(n):
        if scale[first + p] > 0.0:
            n_fitted = n_component
            for i in range(n_term):
                n_fitted += terms_on[first + p, i]
            for k in range(n_star):
                residual[p, k] = np.sqrt(residual[p, k] * residual[p, k] + max(spread[p, k], np.float32(0.0)))
            s2[first + p] = scatter.descend(noise[p], residual[p], spent, n_fitted, s2[first + p])
            theta[first + p] += step[p]
            components[first + p] = loading[p]


@njit(cache=True)
def mean_weights(flux, ivar, scale, rows, s2, of_pixel, of_star):
    """of_pixel (n_pix,) = mean weight over the stars with data there; of_star (n,) = mean over pixels of w / of_pixel.

    0 where there is no data; float64 outputs.
    """
    n_pix = s2.shape[0]
    count = np.zeros(n_pix)
    of_pixel[:] = 0.0
    for turn in range(2):
        for k in range(rows.shape[0]):
            n = rows[k]
            total = 0.0
            n_good = 0
            for p in range(n_pix):
                i = np.float64(ivar[n, p]) * scale[p]
                if is_sane(flux[n, p], ivar[n, p]) and i > 0.0:
                    w = i / (1.0 + i * s2[p])
                    if turn == 0:
                        of_pixel[p] += w
                        count[p] += 1.0
                    else:
                        total += w / of_pixel[p]
                        n_good += 1
            if turn == 1:
                of_star[k] = total / max(1, n_good)
        if turn == 0:
            for p in range(n_pix):
                of_pixel[p] /= max(1.0, count[p])
