"""Spectra from their own pixels onto the common grid, with inverse variance (paper section 3.1). Compiled.

Every method is a sum over neighbouring input pixels, F_j = sum_i w_ij f_i with sum_i w_ij = 1, so a flat
spectrum stays flat, and var_j = sum_i w_ij^2 / ivar_i for independent input noise:

flux      w_ij = overlap of pixels i and j / width of j: the mean flux density over the output pixel, so the
          integral of flux over wavelength is conserved; the choice for surveys (no ringing, no negative
          weights)
linear    the two pixels around the centre of j
cubic     Lagrange's cubic through the four pixels around it: exact for cubics, on any smooth grid
lanczos   sin(pi x) sin(pi x / 3) / (pi x)^2 of six pixels, x in pixels, weights made to add up to 1

Output pixels share input pixels, so their noise is correlated and `ivar` is one over each pixel's variance,
not the inverse of a covariance: chi-square summed over pixels scatters more than its number of pixels says.
Neighbours on equal steps half a pixel out of phase have a correlation of 0.50 (flux), 0.50 (linear), 0.38
(cubic) and 0.26 (lanczos); steps that differ by 0.5 % run through all phases, with means 0.28, 0.28, 0.21,
0.11 (GALAH onto its common grid); equal grids none. `neighbour_correlation` gives it for any pair of grids.

An input pixel with ivar 0 poisons (ivar 0) exactly the output pixels in which its weight is not zero. An
output pixel that is not wholly covered by the input (flux), or whose stencil leaves the input (the
others), gets ivar 0: no extrapolation. Cost: one pass over input and output, about 10 ns a pixel.

These loops are serial and release the interpreter lock: cc-resample runs them in each of its threads, on a block
of stars each. Against `prange` over the stars of a block, with files read by other threads, that took a quarter
less processor time (4.1 against 5.5 s for 5,000 apStar files on two shared cores), since no thread waits for
another's share four times a block. A star's numbers depend on nothing but its own row.
"""
import numpy as np
from numba import njit

METHODS = {"flux": 0, "linear": 1, "cubic": 2, "lanczos": 3}
SCALES = {"linear": 0, "log10": 1, "listed": 2}
ERROR_KINDS = {"sigma": 0, "ivar": 1, "variance": 2, "relative": 3}
NOT_ALIGNED = -(1 << 62)   # see `offset` of resample
_TOUCH = 1e-6   # overlaps and offsets below this fraction of a pixel are rounding errors of equal grids


@njit(cache=True, nogil=True, error_model="numpy")
def _sampled_median(values, n, step, scratch):
    """Median of every `step`-th positive value; 0 when there is none."""
    k = 0
    for i in range(0, n, step):
        if values[i] > 0.0:
            scratch[k] = values[i]
            k += 1
    return np.median(scratch[:k]) if k > 0 else 0.0


@njit(cache=True, nogil=True, error_model="numpy")
def clean(flux, error, bits, n_in, kind, bad_bits, spike, spike_sigma, least_error, ivar, n_invalid):
    """Fill `ivar` from the survey's errors and mask bad pixels; repair `flux` where it is no number.

    flux         (n_star, n_input, n_max) float64; NaN and infinite values are set to 0 and masked
    error        (n_star, n_input, n_max) float64, of the kind ERROR_KINDS[...]: sigma, ivar, variance, or
                 sigma / flux (relative)
    bits         (n_star, n_input, n_max) int64 survey mask, or (0, 0, 0): a bit of `bad_bits` masks
    n_in         (n_star, n_input) int64, pixels in use; 0 = the input is not there
    spike        mask flux > spike + spike_sigma * sigma; infinite = never
    least_error  mask sigma < least_error * (median sigma of the input, from every 8th pixel): a relative
                 error near zero flux gives an absurd weight
    ivar         (n_star, n_input, n_max) float64, output; 0 = masked. A zero, NaN or infinite error masks
    n_invalid    (n_star,) int64, output: pixels with negative error, or non-finite flux that has an error
    """
    n_star, n_input, n_max = flux.shape
    for m in range(n_star):
        sigma = np.empty(n_max)
        scratch = np.empty(n_max // 8 + 1)
        invalid = 0
        for q in range(n_input):
            n = n_in[m, q]
            for i in range(n):
                f, e = flux[m, q, i], error[m, q, i]
                if e < 0.0:
                    invalid += 1
                s = 0.0
                if e > 0.0 and e < np.inf:
                    if kind == 0:
                        s = e
                    elif kind == 1:
                        s = 1.0 / np.sqrt(e)
                    elif kind == 2:
                        s = np.sqrt(e)
                    else:
                        s = e * abs(f)
                    if not np.isfinite(f):
                        invalid += 1
                        s = 0.0
                if not np.isfinite(f):
                    flux[m, q, i] = 0.0
                if s > 0.0 and s < np.inf:
                    if bits.shape[0] > 0 and (bits[m, q, i] & bad_bits) != 0:
                        s = 0.0
                    elif f > spike + spike_sigma * s:
                        s = 0.0
                else:
                    s = 0.0
                sigma[i] = s
            least = 0.0
            if least_error > 0.0:
                least = least_error * _sampled_median(sigma, n, 8, scratch)
            for i in range(n):
                s = sigma[i]
                ivar[m, q, i] = 1.0 / (s * s) if s > 0.0 and s >= least else 0.0
        n_invalid[m] = invalid


@njit(cache=True, nogil=True, error_model="numpy")
def _input_grid(scale, start, step, factor, listed, n, centre, edge):
    """Centres and edges (n + 1) of the input pixels, increasing, in the units of the output grid."""
    if scale == 0:
        for i in range(n):
            centre[i] = factor * (start + step * i)
        for i in range(n + 1):
            edge[i] = factor * (start + step * (i - 0.5))
        return
    if scale == 1:
        for i in range(n):
            centre[i] = factor * 10.0 ** (start + step * i)
        for i in range(n + 1):
            edge[i] = factor * 10.0 ** (start + step * (i - 0.5))
        return
    for i in range(n):
        centre[i] = factor * listed[i]
    for i in range(1, n):
        edge[i] = 0.5 * (centre[i - 1] + centre[i])
    edge[0] = centre[0] - (edge[1] - centre[0]) if n > 1 else centre[0]
    edge[n] = centre[n - 1] + (centre[n - 1] - edge[n - 1])


@njit(cache=True, nogil=True, error_model="numpy")
def _taps(method, t, below, centre, i, n, weight):
    """Weights of pixels first..first+count-1 for a point a fraction t after pixel i; returns (first, count).

    A first below 0 or a last above n - 1 is possible: its weight is then zero or the point is not covered.
    """
    if t < _TOUCH:
        weight[0] = 1.0
        return i, 1
    if method == 1:
        weight[0], weight[1] = 1.0 - t, t
        return i, 2
    if method == 2:
        first = i - 1
        if first < 0 or first + 3 >= n:
            return first, 4
        for a in range(4):
            product = 1.0
            for b in range(4):
                if a != b:
                    product *= (below - centre[first + b]) / (centre[first + a] - centre[first + b])
            weight[a] = product
        return first, 4
    total = 0.0
    for a in range(6):
        x = np.pi * (t - (a - 2))
        weight[a] = 3.0 * np.sin(x) * np.sin(x / 3.0) / (x * x)
        total += weight[a]
    for a in range(6):
        weight[a] /= total
    return i - 2, 6


@njit(cache=True, nogil=True, error_model="numpy")
def _interpolate(method, flux, ivar, centre, n, wavelength, first, stop, out_flux, out_ivar):
    """Output pixels first..stop-1 by linear, cubic or Lanczos interpolation of one input."""
    weight = np.empty(6)
    i = 0
    for p in range(first, stop):
        x = wavelength[p]
        if n < 2 or x < centre[0] - _TOUCH * (centre[1] - centre[0]) \
                or x > centre[n - 1] + _TOUCH * (centre[n - 1] - centre[n - 2]):
            continue
        while i < n - 2 and centre[i + 1] <= x:
            i += 1
        t = (x - centre[i]) / (centre[i + 1] - centre[i])
        j = i
        if t > 1.0 - _TOUCH:
            j, t = i + 1, 0.0
        tap, count = _taps(method, t, x, centre, j, n, weight)
        if tap < 0 or tap + count > n:
            continue
        value, variance, good = 0.0, 0.0, True
        for a in range(count):
            if ivar[tap + a] <= 0.0:
                good = False
                break
            value += weight[a] * flux[tap + a]
            variance += weight[a] * weight[a] / ivar[tap + a]
        if good and variance > 0.0:
            out_flux[p] = value
            out_ivar[p] = 1.0 / variance


@njit(cache=True, nogil=True, error_model="numpy")
def _rebin(flux, ivar, edge, n, low, high, first, stop, out_flux, out_ivar):
    """Output pixels first..stop-1 as means of the flux density over them: conserves flux."""
    i = 0
    for p in range(first, stop):
        a, b = low[p], high[p]
        tiny = _TOUCH * (b - a)
        if n < 1 or a < edge[0] - tiny or b > edge[n] + tiny:
            continue
        while i < n - 1 and edge[i + 1] <= a + tiny:
            i += 1
        total, value, variance, good = 0.0, 0.0, 0.0, True
        k = i
        while k < n and edge[k] < b - tiny:
            w = min(edge[k + 1], b) - max(edge[k], a)
            if ivar[k] <= 0.0:
                good = False
                break
            total += w
            value += w * flux[k]
            variance += w * w / ivar[k]
            k += 1
        if good and variance > 0.0:
            out_flux[p] = value / total
            out_ivar[p] = total * total / variance


@njit(cache=True, nogil=True, error_model="numpy")
def resample(flux, ivar, n_in, scale, start, step, factor, listed, offset, method,
             wavelength, low, high, piece, source, out_flux, out_ivar):
    """Put every input of every star onto its pieces of the common grid.

    flux, ivar     (n_star, n_input, n_max) float64, from `clean`: no NaN; ivar 0 = masked
    n_in           (n_star, n_input) int64: pixels in use; 0 = not there, its pieces get ivar 0
    scale          (n_star, n_input) int64 of SCALES; start, step (n_star, n_input) float64: centre of
                   pixel i = start + step * i, in Angstrom or log10(Angstrom), step > 0
    factor         (n_star,) float64: wavelengths are multiplied by it (1 / (1 + v/c) takes v out)
    listed         (n_star, n_input, n_max) float64 increasing centres, or (0, 0, 0) where none is listed
    offset         (n_star, n_piece) int64: the input's pixels are those of the piece, which begins with input
                   pixel `offset`: copy; NOT_ALIGNED: resample
    method         METHODS[...]
    wavelength, low, high   (n_pix,) float64 Angstrom: centres and edges of the output pixels
    piece          (n_piece, 2) int64 first and stop pixel; source (n_piece,) int64: input of each piece
    out_flux, out_ivar      (n_star, n_pix) float64, output; flux 1 and ivar 0 where there is no value

    Each star writes only its own row.
    """
    n_star, n_input, n_max = flux.shape
    for m in range(n_star):
        centre = np.empty(n_max + 1)
        edge = np.empty(n_max + 2)
        out_flux[m, :] = 1.0
        out_ivar[m, :] = 0.0
        done = -1                       # the input whose pixels stand in centre and edge
        for g in range(piece.shape[0]):
            q = source[g]
            n = n_in[m, q]
            first, stop = piece[g, 0], piece[g, 1]
            if n == 0:
                continue
            if offset[m, g] != NOT_ALIGNED:
                for p in range(first, stop):
                    i = p - first + offset[m, g]
                    if 0 <= i < n and ivar[m, q, i] > 0.0:
                        out_flux[m, p] = flux[m, q, i]
                        out_ivar[m, p] = ivar[m, q, i]
                continue
            if done != q:
                row = listed[m, q] if listed.shape[0] > 0 else centre
                _input_grid(scale[m, q], start[m, q], step[m, q], factor[m], row, n, centre, edge)
                done = q
            if method == 0:
                _rebin(flux[m, q], ivar[m, q], edge, n, low, high, first, stop, out_flux[m], out_ivar[m])
            else:
                _interpolate(method, flux[m, q], ivar[m, q], centre, n, wavelength, first, stop,
                             out_flux[m], out_ivar[m])


@njit(cache=True, nogil=True, error_model="numpy")
def median(values, n, scratch):
    """Median of values[:n] (no NaN), exactly; `scratch` (n,) is overwritten. NaN where n is 0.

    Counts in 512 bins, then sorts one bin: three passes, a quarter of the time of a selection. Values that crowd
    into one bin (outliers stretch the range) are sorted whole.
    """
    if n == 0:
        return np.nan
    low, high = values[0], values[0]
    for i in range(n):
        low, high = min(low, values[i]), max(high, values[i])
    if not (high > low and high - low < 1e300):
        return low if high == low else np.median(values[:n])
    count = np.zeros(513, np.int64)
    scale = 512.0 / (high - low)
    for i in range(n):
        count[int((values[i] - low) * scale)] += 1
    rank, below, b = (n - 1) // 2, 0, 0
    while below + count[b] <= rank:
        below += count[b]
        b += 1
    inside = count[b]
    if 2 * inside > n:
        return np.median(values[:n])
    m, above = 0, np.inf
    for i in range(n):
        k = int((values[i] - low) * scale)
        if k == b:
            scratch[m] = values[i]
            m += 1
        elif k > b:
            above = min(above, values[i])
    part = np.sort(scratch[:m])
    middle = part[rank - below]
    if n % 2 == 1:
        return middle
    return 0.5 * (middle + (part[rank - below + 1] if rank - below + 1 < inside else above))


@njit(cache=True, nogil=True, error_model="numpy")
def finish(flux, ivar, dead, wavelength, windows, doppler, spike, spike_sigma, most_error,
           out_flux, out_ivar, snr, n_bad, n_good):
    """Last masks, measured S/N and counts; float32 output.

    flux, ivar   (n_star, n_pix) float64, normalised; not changed
    dead         (n_pix,) bool: outside all segments or in a window of the rest frame; always masked
    windows      (n_window, 2) float64 Angstrom, observed frame; doppler (n_star,) float64 = observed / rest
                 wavelength, NaN = not known: then no window is masked
    spike        mask flux > spike + spike_sigma * sigma (infinite: never); most_error masks sigma above it
    out_flux, out_ivar   (n_star, n_pix) float32, output; flux 1 and ivar 0 where masked
    snr          (n_star,) float64, output: median of flux sqrt(ivar) over good pixels, NaN without any
    n_bad        (n_star,) int64, output: masked pixels that are not dead; n_good the others
    """
    n_star, n_pix = flux.shape
    least = 1.0 / (most_error * most_error)
    for m in range(n_star):
        ratio, scratch, root = np.empty(n_pix), np.empty(n_pix), np.empty(n_pix)
        masked = dead
        if windows.shape[0] > 0 and np.isfinite(doppler[m]):
            masked = dead.copy()
            for k in range(windows.shape[0]):
                a = np.searchsorted(wavelength, windows[k, 0] / doppler[m])
                b = np.searchsorted(wavelength, windows[k, 1] / doppler[m])
                masked[a:b] = True
        for p in range(n_pix):                     # apart, so that the roots are taken several at a time
            root[p] = np.sqrt(ivar[m, p])
        good, bad = 0, 0
        for p in range(n_pix):
            f, w = flux[m, p], ivar[m, p]
            keep = (w > least) & (w < 1e30) & (abs(f) < 1e30) & (not masked[p])      # false for NaN
            keep &= not ((f > spike) & ((f - spike) * root[p] > spike_sigma))
            out_flux[m, p] = f if keep else 1.0
            out_ivar[m, p] = w if keep else 0.0
            ratio[good] = f * root[p]
            good += keep
            bad += not (keep | dead[p])
        snr[m] = median(ratio, good, scratch)
        n_good[m], n_bad[m] = good, bad


@njit(cache=True, nogil=True, error_model="numpy")
def neighbour_correlation(scale, start, step, n, method, wavelength, low, high, correlation):
    """Noise correlation of each output pixel with the next, for unit input noise.

    One input of n pixels (scale, start, step as in `resample`); `correlation` (n_pix,) float64 is the output;
    0 where the two share no input pixel, NaN where one of them is not covered. A pixel at a time: for
    checks and reports, not for a survey.
    """
    n_pix = wavelength.shape[0]
    centre, edge = np.empty(n + 1), np.empty(n + 2)
    _input_grid(scale, start, step, 1.0, centre, n, centre, edge)
    flux, ivar = np.zeros(n), np.ones(n)
    rows = np.zeros((2, n))
    out_flux, out_ivar = np.empty(n_pix), np.zeros(n_pix)
    correlation[:] = np.nan
    covered = np.zeros(n_pix)
    for p in range(n_pix):
        lo = np.searchsorted(centre[:n], low[p]) - 5
        hi = np.searchsorted(centre[:n], high[p]) + 5
        rows[1, :] = 0.0
        out_ivar[p] = 0.0
        for i in range(max(0, lo), min(n, hi)):
            flux[i] = 1.0
            if method == 0:
                _rebin(flux, ivar, edge, n, low, high, p, p + 1, out_flux, out_ivar)
            else:
                _interpolate(method, flux, ivar, centre, n, wavelength, p, p + 1, out_flux, out_ivar)
            flux[i] = 0.0
            rows[1, i] = out_flux[p] if out_ivar[p] > 0.0 else 0.0
        covered[p] = out_ivar[p]
        if p > 0 and covered[p] > 0.0 and covered[p - 1] > 0.0:
            dot = 0.0
            for i in range(n):
                dot += rows[0, i] * rows[1, i]
            correlation[p - 1] = dot * np.sqrt(covered[p] * covered[p - 1])
        rows[0, :] = rows[1, :]
