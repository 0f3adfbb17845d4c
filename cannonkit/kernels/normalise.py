"""Continuum normalisation of spectra on the common grid, segment by segment, in place. Compiled.

Three kinds of continuum, each per star and segment (detector or camera):

fit         least squares of basis functions (Chebyshev polynomials, sines and cosines) through continuum
            pixels, coefficients = (B' W B)^-1 B' W F; cost n_continuum * n_term^2
percentile  running percentile in windows of given width, at nodes an eighth of the width apart, linear
            between
gaussian    running mean with Gaussian weights, at nodes a tenth of sigma apart, linear between: the curvature
            missed is 0.00125 sigma^2 C'', less than 1e-4 of the flux for real spectra

Serial loops that release the interpreter lock, as in kernels/resample.py.

Weights are 1/sigma^2 with sigma replaced by its running median over neighbouring continuum pixels unless it
is more than twice that: survey errors follow the noise (a pixel that fluctuates down gets a smaller error
and more weight), and 1/sigma^2 as it stands makes the continuum too low by 1/(S/N)^2, 0.0025 at S/N 20.
"""
import numpy as np
from numba import njit

HALF_WINDOW = 12     # continuum pixels on each side in the running median of the error
PIVOT = 1e-11        # a pivot of the scaled normal matrix below this: dependent or unconstrained terms


@njit(cache=True, nogil=True, error_model="numpy")
def _smooth_sigma(sigma, n, out):
    """Running median of sigma[:n] into out; values above twice the median stay as they are."""
    window = np.empty(2 * HALF_WINDOW + 2)            # sorted
    count = 0
    for i in range(-HALF_WINDOW, n):
        new, old = i + HALF_WINDOW, i - HALF_WINDOW - 1
        if new < n:
            j = count
            while j > 0 and window[j - 1] > sigma[new]:
                window[j] = window[j - 1]
                j -= 1
            window[j] = sigma[new]
            count += 1
        if old >= 0:
            j = 0
            while window[j] != sigma[old]:
                j += 1
            count -= 1
            for k in range(j, count):
                window[k] = window[k + 1]
        if i >= 0:
            middle = window[count // 2]
            out[i] = middle if sigma[i] < 2.0 * middle else sigma[i]


@njit(cache=True, nogil=True, error_model="numpy")
def _solve(matrix, vector):
    """Solve a symmetric positive system in place by Cholesky; False where it is singular to rounding."""
    n = vector.shape[0]
    scale = np.empty(n)
    for i in range(n):
        if not matrix[i, i] > 0.0:
            return False
        scale[i] = 1.0 / np.sqrt(matrix[i, i])
    for i in range(n):
        for j in range(n):
            matrix[i, j] *= scale[i] * scale[j]
        vector[i] *= scale[i]
    for j in range(n):
        d = matrix[j, j]
        for k in range(j):
            d -= matrix[j, k] * matrix[j, k]
        if not d > PIVOT:
            return False
        d = np.sqrt(d)
        matrix[j, j] = d
        for i in range(j + 1, n):
            s = matrix[i, j]
            for k in range(j):
                s -= matrix[i, k] * matrix[j, k]
            matrix[i, j] = s / d
    for i in range(n):
        s = vector[i]
        for k in range(i):
            s -= matrix[i, k] * vector[k]
        vector[i] = s / matrix[i, i]
    for i in range(n - 1, -1, -1):
        s = vector[i]
        for k in range(i + 1, n):
            s -= matrix[k, i] * vector[k]
        vector[i] = s / matrix[i, i]
    for i in range(n):
        vector[i] *= scale[i]
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def _divide(flux, ivar, continuum, first, stop):
    """Divide a segment by its continuum; pixels where that is not positive are masked. Counts good pixels."""
    for p in range(first, stop):
        c = continuum[p - first]
        if ivar[p] > 0.0 and c > 0.0 and c < np.inf:
            flux[p] /= c
            ivar[p] *= c * c
        else:
            flux[p] = 1.0
            ivar[p] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def _fail(flux, ivar, first, stop):
    for p in range(first, stop):
        flux[p] = 1.0
        ivar[p] = 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def fit(flux, ivar, segments, basis, chosen, least, weighted, failed):
    """Divide by a least-squares continuum.

    flux, ivar  (n_star, n_pix) float64, changed in place; ivar 0 = masked, stays so (flux becomes 1)
    segments    (n_segment, 2) int64: first and stop pixel; pixels in none are not touched
    basis       (n_pix, n_term) float64: basis functions of each pixel's segment
    chosen      (n_pix,) bool: continuum pixels
    least       fewer good continuum pixels in a segment: it fails
    weighted    True: smoothed 1/sigma^2 (see above); False: equal weights
    failed      (n_star,) int64, output: number of segments that have data but could not be fitted: too few
                continuum pixels or dependent terms; they are masked. A segment without any data is not
                counted.
    """
    n_star = flux.shape[0]
    n_term = basis.shape[1]
    for m in range(n_star):
        bad = 0
        for g in range(segments.shape[0]):
            first, stop = segments[g, 0], segments[g, 1]
            pixel = np.empty(stop - first, np.int64)
            sigma = np.empty(stop - first)
            smooth = np.empty(stop - first)
            n, n_data = 0, 0
            for p in range(first, stop):
                if ivar[m, p] > 0.0:
                    n_data += 1
                    if chosen[p]:
                        pixel[n] = p
                        sigma[n] = 1.0 / np.sqrt(ivar[m, p])
                        n += 1
            solved = n >= least and n > 0
            vector = np.zeros(n_term)
            if solved:
                if weighted:
                    _smooth_sigma(sigma, n, smooth)
                else:
                    smooth[:n] = 1.0
                matrix = np.zeros((n_term, n_term))
                for k in range(n):
                    p = pixel[k]
                    w = (smooth[0] / smooth[k]) ** 2
                    for i in range(n_term):
                        b = w * basis[p, i]
                        vector[i] += b * flux[m, p]
                        for j in range(i + 1):
                            matrix[i, j] += b * basis[p, j]
                for i in range(n_term):
                    for j in range(i):
                        matrix[j, i] = matrix[i, j]
                solved = _solve(matrix, vector)
            if not solved:
                _fail(flux[m], ivar[m], first, stop)
                if n_data > 0:
                    bad += 1
                continue
            for p in range(first, stop):
                c = 0.0
                for i in range(n_term):
                    c += basis[p, i] * vector[i]
                smooth[p - first] = c
            _divide(flux[m], ivar[m], smooth, first, stop)
        failed[m] = bad


@njit(cache=True, nogil=True, error_model="numpy")
def _between_nodes(node, value, n_node, wavelength, first, stop, continuum):
    """Linear interpolation of node values at pixels first..stop-1; constant beyond the ends."""
    k = 0
    for p in range(first, stop):
        x = wavelength[p]
        while k < n_node - 2 and node[k + 1] < x:
            k += 1
        if n_node == 1 or x <= node[0]:
            continuum[p - first] = value[0]
        elif x >= node[n_node - 1]:
            continuum[p - first] = value[n_node - 1]
        else:
            t = (x - node[k]) / (node[k + 1] - node[k])
            continuum[p - first] = (1.0 - t) * value[k] + t * value[k + 1]


@njit(cache=True, nogil=True, error_model="numpy")
def running(flux, ivar, segments, wavelength, chosen, width, percentile, least, weighted, failed):
    """Divide by a running percentile (percentile > 0) or a running Gaussian mean (percentile = 0).

    flux, ivar, segments, chosen, least, failed   as in `fit`; `least` counts per segment
    wavelength   (n_pix,) float64 Angstrom, increasing; width: full window (percentile) or sigma (mean),
                 Angstrom
    weighted     of the mean: smoothed 1/sigma^2 times the Gaussian; a percentile has no weights
    Nodes without chosen good pixels near them take the value of their nearest neighbour that has some.
    """
    n_star = flux.shape[0]
    for m in range(n_star):
        bad = 0
        for g in range(segments.shape[0]):
            first, stop = segments[g, 0], segments[g, 1]
            x = np.empty(stop - first)
            f = np.empty(stop - first)
            sigma = np.empty(stop - first)
            smooth = np.empty(stop - first)
            n, n_data = 0, 0
            for p in range(first, stop):
                if ivar[m, p] > 0.0:
                    n_data += 1
                    if chosen[p]:
                        x[n], f[n], sigma[n] = wavelength[p], flux[m, p], 1.0 / np.sqrt(ivar[m, p])
                        n += 1
            if n < least or n == 0:
                _fail(flux[m], ivar[m], first, stop)
                if n_data > 0:
                    bad += 1
                continue
            if weighted:
                _smooth_sigma(sigma, n, smooth)
            else:
                smooth[:n] = 1.0
            reach = 0.5 * width if percentile > 0.0 else 4.0 * width
            spacing = 0.125 * width if percentile > 0.0 else 0.1 * width
            span = wavelength[stop - 1] - wavelength[first]
            n_node = max(2, int(np.ceil(span / spacing)) + 1)
            node = np.empty(n_node)
            value = np.empty(n_node)
            count = np.zeros(n_node, np.int64)
            lo, hi = 0, 0
            for k in range(n_node):
                node[k] = wavelength[first] + span * k / (n_node - 1)
                while lo < n and x[lo] < node[k] - reach:
                    lo += 1
                hi = max(hi, lo)
                while hi < n and x[hi] <= node[k] + reach:
                    hi += 1
                count[k] = hi - lo
                if hi == lo:
                    continue
                if percentile > 0.0:
                    value[k] = np.percentile(f[lo:hi], percentile)
                else:
                    total, top = 0.0, 0.0
                    for i in range(lo, hi):
                        d = (x[i] - node[k]) / width
                        w = np.exp(-0.5 * d * d) * (smooth[lo] / smooth[i]) ** 2
                        total += w
                        top += w * f[i]
                    value[k] = top / total
            for k in range(n_node):                # fill empty nodes from the nearest that is not
                if count[k] == 0:
                    for d in range(1, n_node):
                        if k - d >= 0 and count[k - d] > 0:
                            value[k] = value[k - d]
                            break
                        if k + d < n_node and count[k + d] > 0:
                            value[k] = value[k + d]
                            break
            continuum = np.empty(stop - first)
            _between_nodes(node, value, n_node, wavelength, first, stop, continuum)
            _divide(flux[m], ivar[m], continuum, first, stop)
        failed[m] = bad
