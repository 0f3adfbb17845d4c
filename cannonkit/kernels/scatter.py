"""The scatter of one pixel at given residuals (paper equation 3): a problem in one unknown. Compiled.

With w_n = 1 / (sigma_n^2 + s2) = ivar_n / (1 + ivar_n s2) and residuals r_n the objective and its slope are

    L(s2) = sum_n [ w_n r_n^2 - ln w_n ],     f(s2) = dL/ds2 = sum_n [ w_n - w_n^2 r_n^2 ].

Where theta is the least-squares solution at s2, f is the slope of the profile likelihood too (its derivative
in theta vanishes). `trace` is what restricted likelihood takes away from the slope, T (sum w^2 / sum w), with
T chosen so that it equals tr[(V'WV)^-1 V'W^2 V] where the normal matrix was made; 0 is plain likelihood.
Stars with ivar = 0 count for nothing. Cost: one division a star and evaluation, no logarithm.
"""
import numpy as np
from numba import njit

# Sums may be regrouped for the vector units; NaN and infinity keep their meaning.
REGROUP = {"reassoc", "contract", "nsz"}

NO_SIGN = np.int64(0x7fffffffffffffff)     # the bits of a float but its sign

MAX_CANDIDATE = 4
FLOOR = 1e-12          # of the typical variance: smaller than that is zero


@njit(cache=True, fastmath=REGROUP, error_model="numpy")
def moments(ivar, residual, s2):
    """(f, df/ds2, sum w, sum w^2) at s2. ivar (n_star,) float32, residual (n_star,) float64."""
    f = 0.0
    slope = 0.0
    sum_w = 0.0
    sum_w2 = 0.0
    for n in range(ivar.shape[0]):
        i = np.float64(ivar[n])
        w = i / (1.0 + i * s2)
        t = w * residual[n] * residual[n]
        f += w - w * t
        slope += w * w * (2.0 * t - 1.0)
        sum_w += w
        sum_w2 += w * w
    return f, slope, sum_w, sum_w2


@njit(cache=True, fastmath=REGROUP, error_model="numpy")
def weigh(ivar, s2, todo, lo, hi, residual, weighted, weighted_twice, sums):
    """Adds to row a of sums (n, 4) what `moments` gives for the stars [lo, hi) of pixel todo[a].

    ivar (n_pix, n_star), s2 (n_pix,); residual, and what is filled: weighted = w r, weighted_twice = w^2 r,
    (n, hi - lo) float64.
    """
    for a in range(todo.size):
        row, r, once, twice, s2_here = ivar[todo[a], lo:hi], residual[a], weighted[a], weighted_twice[a], s2[todo[a]]
        f = 0.0
        slope = 0.0
        sum_w = 0.0
        sum_w2 = 0.0
        for n in range(hi - lo):
            i = np.float64(row[n])
            w = i / (1.0 + i * s2_here)
            b = w * r[n]
            t = b * r[n]
            once[n] = b
            twice[n] = w * b
            f += w - w * t
            slope += w * w * (2.0 * t - 1.0)
            sum_w += w
            sum_w2 += w * w
        sums[a, 0] += f
        sums[a, 1] += slope
        sums[a, 2] += sum_w
        sums[a, 3] += sum_w2


@njit(cache=True, fastmath=REGROUP, error_model="numpy")
def four_slopes(ivar, residual, s2):
    """f at s2, 4 s2, 16 s2 and 64 s2, for the price of one division a star."""
    f = 0.0
    g = 0.0
    h = 0.0
    k = 0.0
    for n in range(ivar.shape[0]):
        i = np.float64(ivar[n])
        r2 = residual[n] * residual[n]
        t = i * s2
        a, b, c, d = 1.0 + t, 1.0 + 4.0 * t, 1.0 + 16.0 * t, 1.0 + 64.0 * t
        ab, cd = a * b, c * d
        u = i / (ab * cd)
        v, w, x, y = u * b * cd, u * a * cd, u * ab * d, u * ab * c
        f += v - v * v * r2
        g += w - w * w * r2
        h += x - x * x * r2
        k += y - y * y * r2
    return f, g, h, k


@njit(cache=True)
def less_trace(f, slope, sum_w, sum_w2, trace):
    """Slope of the restricted objective and its derivative from those of the plain one."""
    if trace > 0.0 and sum_w > 0.0:
        mean = sum_w2 / sum_w
        f -= trace * mean
        slope += trace * mean * mean
    return f, slope


@njit(cache=True)
def restricted(ivar, residual, s2, trace):
    """Slope of the (restricted) objective and its derivative, of which the trace's part is approximate."""
    f, slope, sum_w, sum_w2 = moments(ivar, residual, s2)
    return less_trace(f, slope, sum_w, sum_w2, trace)


@njit(cache=True)
def objective(ivar, residual, s2):
    """L(s2) of equation 3 over the stars with ivar > 0."""
    value = 0.0
    for n in range(ivar.shape[0]):
        i = np.float64(ivar[n])
        if i > 0.0:
            w = i / (1.0 + i * s2)
            value += w * residual[n] * residual[n] - np.log(w)
    return value


@njit(cache=True, fastmath=REGROUP)
def limits(ivar, residual, n_fitted):
    """(typical, top): the harmonic mean variance of the stars, and an s2 above which the slope is positive."""
    sum_w = 0.0
    n_good = 0
    bits = residual.view(np.int64)              # the vector units find the largest whole number, not the largest float
    largest_bits = np.zeros(1, np.int64)
    largest = np.int64(0)
    for n in range(ivar.shape[0]):
        on = ivar[n] > 0.0
        n_good += on
        sum_w += ivar[n]
        largest = max(largest, (bits[n] & NO_SIGN) * np.int64(on))
    if n_good == 0:
        return 1.0, 1.0
    typical = n_good / sum_w
    largest_bits[0] = largest
    far = largest_bits.view(np.float64)[0]
    return typical, max(4.0 * far * far * n_good / max(1, n_good - n_fitted), typical)


@njit(cache=True)
def root(ivar, residual, trace, low, high, start, tolerance):
    """The s2 in [low, high] where the slope changes from negative to positive: Newton in ln s2, bracketed.

    Ends with the first step below `tolerance`, which is still taken and leaves about its square.
    """
    s2 = start if low < start < high else np.sqrt(low * high)
    for _ in range(100):
        f, slope = restricted(ivar, residual, s2, trace)
        if f > 0.0:
            high = s2
        else:
            low = s2
        curvature = s2 * s2 * slope + s2 * f                # second derivative in ln s2
        step = -s2 * f / curvature if curvature > 0.0 else 2.0
        if abs(step) < tolerance:
            return s2 * np.exp(step)
        new = s2 * np.exp(min(max(step, -3.0), 3.0))
        if not low < new < high or curvature <= 0.0:
            new = np.sqrt(low * high)
        if abs(new - s2) <= 1e-12 * s2:
            return new
        s2 = new
    return s2


@njit(cache=True)
def scan(ivar, residual, trace, n_fitted, low, high, start):
    """Find every minimum of the objective in s2 at fixed residuals, on a grid of steps of four.

    Fills low, high and start (MAX_CANDIDATE,) with brackets of the interior minima and a first guess in each.
    Returns (number of brackets, True if s2 = 0 is a minimum: the slope there is not negative, the number of equal
    stars that would weigh as much at s2 = 0).
    """
    typical, top = limits(ivar, residual, n_fitted)
    before, slope, sum_w, sum_w2 = moments(ivar, residual, 0.0)
    before, _ = less_trace(before, slope, sum_w, sum_w2, trace)
    n_effective = sum_w * sum_w / sum_w2
    at_zero = before >= 0.0
    n_found = 0
    negative = not at_zero
    left = FLOOR * typical
    before *= left
    s2 = 0.01 * typical
    slopes = np.empty(4)
    while True:
        if trace == 0.0:
            slopes[0], slopes[1], slopes[2], slopes[3] = four_slopes(ivar, residual, s2)
        else:
            for k in range(4):
                slopes[k], _ = restricted(ivar, residual, s2 * 4.0 ** k, trace)
        for k in range(4):
            f = slopes[k]
            last = s2 >= top
            if negative and (f >= 0.0 or last):
                if n_found < MAX_CANDIDATE:
                    low[n_found] = left
                    high[n_found] = s2
                    # Where the slope in ln s2 would be zero if it were linear there.
                    share = before / (before - s2 * f) if f > 0.0 else 0.5
                    start[n_found] = left * (s2 / left) ** share
                    n_found += 1
                negative = False
            elif f < 0.0:
                negative = True
                left = s2
                before = s2 * f
            if last:
                return n_found, at_zero, n_effective
            s2 *= 4.0


@njit(cache=True)
def descend(ivar, residual, trace, n_fitted, s2):
    """The minimum that a walk downhill from s2 reaches, at fixed residuals; 0 where it ends at the boundary."""
    typical, top = limits(ivar, residual, n_fitted)
    at_zero, _ = restricted(ivar, residual, 0.0, trace)
    if s2 <= 0.0:
        if at_zero >= 0.0:
            return 0.0
        s2 = FLOOR * typical
    f, _ = restricted(ivar, residual, s2, trace)
    if f < 0.0:
        low = s2
        high = s2
        while high < top and f < 0.0:
            high *= 4.0
            f, _ = restricted(ivar, residual, high, trace)
        return root(ivar, residual, trace, low, high, np.sqrt(low * high), 1e-9)
    low = s2
    while f >= 0.0:
        low *= 0.25
        if low < FLOOR * typical:
            return 0.0
        f, _ = restricted(ivar, residual, low, trace)
    return root(ivar, residual, trace, low, min(4.0 * low, s2), 2.0 * low, 1e-9)


@njit(cache=True)
def median_rule(ivar, residual):
    """s2 by the rule of AnniesLasso: the median over all stars of r^2 ivar / (1 + ivar s2) is 1, else 0.

    Masked stars enter the median as zeros, as they do there.
    """
    n_star = ivar.shape[0]
    chi2 = np.empty(n_star)
    largest = 0.0
    for n in range(n_star):
        chi2[n] = ivar[n] * residual[n] * residual[n]
        if ivar[n] > 0.0:
            largest = max(largest, residual[n] * residual[n])
    if np.median(chi2) <= 1.0:
        return 0.0
    low = 0.0
    high = largest
    for _ in range(200):
        s2 = 0.5 * (low + high)
        for n in range(n_star):
            i = np.float64(ivar[n])
            chi2[n] = i / (1.0 + i * s2) * residual[n] * residual[n]
        if np.median(chi2) > 1.0:
            low = s2
        else:
            high = s2
        if high - low <= 1e-10 * high:
            break
    return 0.5 * (low + high)
