"""What instruments do to the mock's spectra: noise, junk, masks, sky, telluric lines. Compiled.

Random numbers are counters hashed with a key of (seed, survey, spectrum, visit, plane): the same for any
chunk,
order and number of threads. Formats.md A1, A2 (rates) and D5 (what differs between visits and what does not).
"""

import math

import numpy as np
from numba import njit, prange

LIGHT = 299792.458


@njit(cache=True)
def key_of(a, b, c, d):
    """A 64-bit key from four integers (splitmix64 steps)."""
    z = np.uint64(a) * np.uint64(0x9E3779B97F4A7C15) + np.uint64(0x632BE59BD9B4E019)
    for value in (b, c, d):
        z = mix(z ^ (np.uint64(value) + np.uint64(0x9E3779B97F4A7C15)))
    return z


@njit(cache=True)
def mix(z):
    """The output function of splitmix64: a bijection of 64-bit integers that scrambles all bits."""
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


@njit(cache=True)
def uniform(key, i):
    """Number i of stream `key`, uniform in (0, 1)."""
    z = mix(np.uint64(key) + np.uint64(i + 1) * np.uint64(0x9E3779B97F4A7C15))
    return (np.float64(z >> np.uint64(11)) + 0.5) * (1.0 / 9007199254740992.0)


@njit(cache=True)
def fill_uniform(seed, survey, number, plane, out):
    """Fill out (n, k) with numbers in (0, 1) that depend on seed, survey, the spectra's number (n,) and plane only."""
    for i in range(out.shape[0]):
        key = key_of(seed, survey, number[i], plane)
        for j in range(out.shape[1]):
            out[i, j] = uniform(key, j)


@njit(cache=True)
def normal_quantile(u):
    """The standard normal number below which a share u in (0, 1) lies, to 1e-8 (P. Acklam's rational functions)."""
    q = u - 0.5
    if abs(q) <= 0.47575:
        r = q * q
        top = (((((-3.969683028665376e1 * r + 2.209460984245205e2) * r - 2.759285104469687e2) * r
                 + 1.383577518672690e2) * r - 3.066479806614716e1) * r + 2.506628277459239) * q
        return top / (((((-5.447609879822406e1 * r + 1.615858368580409e2) * r - 1.556989798598866e2) * r
                        + 6.680131188771972e1) * r - 1.328068155288572e1) * r + 1.0)
    r = math.sqrt(-2.0 * math.log(0.5 - abs(q)))
    top = ((((-7.784894002430293e-3 * r - 3.223964580411365e-1) * r - 2.400758277161838) * r
            - 2.549732539343734) * r + 4.374664141464968) * r + 2.938163982698783
    tail = top / ((((7.784695709041462e-3 * r + 3.224671290700398e-1) * r + 2.445134137142996) * r
                   + 3.754408661907416) * r + 1.0)
    return tail if q < 0.0 else -tail


@njit(cache=True)
def fill_normal(key, out):
    """Fill out (n,) with standard normal numbers of stream `key`."""
    for i in range(out.shape[0]):
        out[i] = normal_quantile(uniform(key, i))


NODE = 32


@njit(cache=True)
def wiggles(key, amplitude, out):
    """Multiply out (n,) by a smooth curve about 1: four waves of 0.5 to 5 periods, rms about `amplitude`."""
    n = out.shape[0]
    if amplitude <= 0.0:
        return
    z = np.empty(8)
    fill_normal(key, z)
    left = 0.0
    for node in range(0, n + NODE, NODE):       # cosines at every NODE-th pixel, straight lines between: to 1e-3 of it
        right = 0.0
        for w in range(4):
            right += z[2 * w] * math.cos(math.pi * (1.0 + 2.3 * w) * node / n + 3.0 * z[2 * w + 1])
        for k in range(max(node - NODE, 0), min(node, n)):
            f = (k - node + NODE) / NODE
            out[k] *= 1.0 + amplitude * 0.707 * (left + f * (right - left))
        left = right


# Night-sky emission inside cameras 2 to 4 of GALAH (OH and atomic lines, air, Angstrom).
GALAH_SKY = np.array(
    [
        5867.6,
        6498.7,
        6533.0,
        6553.6,
        6577.2,
        6596.6,
        7712.2,
        7716.6,
        7750.6,
        7759.9,
        7794.1,
        7808.5,
        7821.5,
        7841.3,
        7853.3,
    ]
)
# OH lines in the H band (vacuum, Angstrom).
APOGEE_SKY = np.array(
    [
        15187.1,
        15240.9,
        15287.8,
        15332.4,
        15395.3,
        15432.2,
        15462.1,
        15500.8,
        15509.8,
        15539.7,
        15546.1,
        15570.2,
        15597.6,
        15631.4,
        15655.2,
        15702.5,
        15848.1,
        15869.3,
        15888.0,
        15972.6,
        16030.8,
        16079.8,
        16128.6,
        16194.6,
        16235.4,
        16302.4,
        16317.2,
        16341.8,
        16350.7,
        16388.5,
        16442.2,
        16475.5,
        16502.4,
        16553.8,
        16586.9,
        16654.0,
        16689.2,
        16692.4,
        16709.0,
        16732.5,
        16795.0,
        16840.5,
        16903.7,
        16909.6,
        16955.1,
    ]
)
# Telluric bands in the H band: start, stop (vacuum, Angstrom), depth (CO2, CH4, H2O).
APOGEE_TELLURIC = np.array(
    [
        [15100.0, 15190.0, 0.10],
        [15310.0, 15340.0, 0.05],
        [15700.0, 15790.0, 0.12],
        [15990.0, 16110.0, 0.14],
        [16580.0, 16720.0, 0.06],
    ]
)


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")  # nogil: files are written meanwhile
def galah_planes(
    clean,
    n_pix,
    camera,
    start,
    step,
    velocity,
    inverse_snr,
    scatter,
    level,
    slope,
    number,
    seed,
    wiggle,
    junk,
    normalised,
    sigma,
    counts,
    with_sky,
    sky_sigma,
):
    """Fill the five planes of GALAH camera files, all (n, longest) float64, row i valid up to n_pix[i].

    clean        (n, longest) noiseless normalised flux at rest
    camera       (n,) 0..3; start, step (n,) rest-frame grid (Angstrom, air); velocity (n,) km/s, to the
    observer inverse_snr  (n,) median relative error, HDU 1; scatter: its share that is pixel-to-pixel noise
    level, slope (n,) counts and their relative slope; number (n,) key of the spectrum
    wiggle       rms of the continuum waves; junk: False leaves out spikes, bad pixels and sky residuals
    counts, with_sky and sky_sigma may have no rows: then they are not wanted.
    Neighbouring noise is correlated (0.4), as after resampling.
    """
    whole = counts.shape[0] > 0
    for i in prange(clean.shape[0]):
        n = n_pix[i]
        z = np.empty(n + 1)
        fill_normal(key_of(seed, 2, number[i], 10 + camera[i]), z)
        pick = key_of(seed, 2, number[i], 20 + camera[i])
        shape = np.ones(n)
        wiggles(key_of(seed, 2, number[i], 30 + camera[i]), wiggle, shape)
        spike_rate = 0.0003 + 0.0012 * camera[i]
        doppler = 1.0 + velocity[i] / LIGHT
        nearest = 0
        for k in range(n):
            x = 2.0 * k / n - 1.0
            continuum = level[i] * (1.0 + slope[i] * x - 0.25 * x * x)
            flux = clean[i, k] * shape[k]
            error = inverse_snr[i] * math.sqrt(
                1.0 / max(clean[i, k], 0.05) * (1.0 - 0.08) / (1.0 - 0.25 * x * x)
            )
            noise = (z[k + 1] + 0.5 * z[k]) / 1.1180340
            value = flux + scatter[i] * error * flux * noise
            observed = (start[i] + step[i] * k) * doppler
            sky = 0.03 * continuum
            while nearest < GALAH_SKY.shape[0] and GALAH_SKY[nearest] <= observed - 0.6:
                nearest += 1
            for s in range(nearest, GALAH_SKY.shape[0]):
                d = (observed - GALAH_SKY[s]) / 0.12
                if d <= -5.0:
                    break
                sky += 0.4 * level[i] * math.exp(-0.5 * d * d)
                if junk:
                    r = uniform(pick, 100000 + s) - 0.5
                    value += 0.25 * r * abs(r) * 4.0 * math.exp(-0.5 * d * d)
                    error *= 1.0 + math.exp(-0.5 * d * d)
            if junk:
                if camera[i] == 3 and 7593.0 < observed < 7688.0:
                    depth = 0.9 * math.exp(-(((observed - 7606.0) / 9.0) ** 2)) + 0.5 * math.exp(
                        -(((observed - 7632.0) / 28.0) ** 2)
                    )
                    comb = 0.5 + 0.5 * math.cos(2.0 * math.pi * observed / 2.4)
                    value *= 1.0 + (uniform(pick, 200001) - 0.45 + uniform(pick, 70000 + k) - 0.5) * depth * comb
                    error *= 1.0 + 2.0 * depth
                u = uniform(pick, k)
                if u < spike_rate:
                    value += 0.25 + 1.5 * uniform(pick, 50000 + k)
                elif u < 1.5 * spike_rate and camera[i] == 3:
                    value = -0.2 * uniform(pick, 50000 + k)
                elif u > 1.0 - 0.0008:
                    error = -0.01 if uniform(pick, 50000 + k) < 0.5 else 0.0
                    value *= 0.3 + uniform(pick, 60000 + k)
            normalised[i, k] = value
            sigma[i, k] = error
            if whole:
                counts[i, k] = value * continuum
                with_sky[i, k] = value * continuum + sky
                sky_sigma[i, k] = abs(error) * 0.9


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")  # nogil: files are written meanwhile
def apogee_planes(
    clean,
    n_visit,
    teff,
    scale,
    velocity,
    snr,
    weight,
    shift,
    number,
    seed,
    wiggle,
    junk,
    persistence,
    ends,
    flux,
    error,
    mask,
    sky,
    sky_error,
    telluric,
    telluric_error,
):
    """Fill the rows of apStar files: planes (n, n_row, 8575), rows 0, 1 combined, then one per visit.

    clean      (n, n_pix) noiseless normalised flux on the apStar grid
    n_visit    (n,); a file with one visit has one row, the visit itself
    teff       K, for the continuum's slope; scale (n,) flux at 16000 A; velocity km/s to the observer
    snr        (n,) of the combined spectrum; weight (n, most visits) shares of S/N^2, sum 1; shift (n, most
               visits) km/s, residual velocity of each visit
    persistence   (n,) 0 or the bit to set in the blue third
    ends       (n, 6) first and one-past-last filled pixel of the three detectors
    sky, sky_error, telluric and telluric_error may have no rows: then they are not wanted.
    No data: 0 in flux, error and mask 0, as DR16 has it.
    """
    n_pix = clean.shape[1]
    log_start, log_step = 4.179, 6e-6
    whole = sky.shape[0] > 0
    wave = 10.0 ** (log_start + log_step * np.arange(n_pix))
    for i in prange(clean.shape[0]):
        visits = n_visit[i]
        first = 0 if visits == 1 else 2
        z = np.empty(n_pix)
        c2 = 1.4387769e8
        top = math.exp(c2 / (16000.0 * teff[i])) - 1.0
        base = np.empty(n_pix)
        for k in range(n_pix):
            w = wave[k]
            u = 16000.0 / w
            base[k] = scale[i] * u * u * u * u * u * top / (math.exp(c2 / (w * teff[i])) - 1.0)
        for v in range(visits):
            row = first + v
            key = key_of(seed, 1, number[i], 10 + v)
            pick = key_of(seed, 1, number[i], 100 + v)
            fill_normal(key, z)
            shape = np.ones(n_pix)
            wiggles(key_of(seed, 1, number[i], 200 + v), 2.0 * wiggle, shape)
            for d in range(3):
                wiggles(
                    key_of(seed, 1, number[i], 300 + 3 * v + d),
                    wiggle,
                    shape[ends[i, 2 * d] : ends[i, 2 * d + 1]],
                )
            bad_rate = 0.002 + 0.004 * uniform(pick, 900001) / math.sqrt(visits)
            noise = 1.0 / (snr[i] * math.sqrt(weight[i, v]))
            slope = 0.5 * shift[i, v] / (LIGHT * log_step * 2.302585)
            # The Earth's motion puts sky lines elsewhere in each visit's rest frame.
            doppler = 1.0 + (velocity[i] + 25.0 * (uniform(pick, 900002) - 0.5)) / LIGHT
            run, bit, wrong = 0, 0, 0.0
            s = 0
            for d in range(3):
                for k in range(ends[i, 2 * d], ends[i, 2 * d + 1]):
                    w = wave[k] * doppler
                    low, high = max(k - 1, 0), min(k + 1, n_pix - 1)
                    f = clean[i, k] - slope * (clean[i, high] - clean[i, low])
                    level = base[k] * shape[k]
                    sigma = level * noise * math.sqrt(max(f, 0.05))
                    word = 0
                    glow = 0.05 * level
                    residual = 0.0
                    while s < APOGEE_SKY.shape[0] and APOGEE_SKY[s] < w:
                        s += 1
                    for t in range(max(s - 1, 0), min(s + 1, APOGEE_SKY.shape[0])):
                        x = (w - APOGEE_SKY[t]) / 0.35
                        if abs(x) < 3.2:
                            g = math.exp(-0.5 * x * x)
                            glow += (0.3 + 2.0 * uniform(pick, 910000 + t)) * scale[i] * g
                            word |= 1 << 12
                            if junk:
                                r = uniform(pick, 920000 + t) - 0.5
                                residual += 1.2 * r**3 * g * level * 4.0
                            sigma *= 1.0 + 3.0 * g
                    absorbed = 1.0
                    for t in range(APOGEE_TELLURIC.shape[0]):
                        if APOGEE_TELLURIC[t, 0] < w < APOGEE_TELLURIC[t, 1]:
                            comb = math.cos(2.0 * math.pi * w / 4.3)
                            if comb > 0.0:
                                absorbed -= APOGEE_TELLURIC[t, 2] * comb**4
                                if comb > 0.72:
                                    word |= 1 << 13
                                if junk:
                                    residual += 0.03 * APOGEE_TELLURIC[t, 2] * comb**4 * level * z[t]
                    edge = min(k - ends[i, 2 * d], ends[i, 2 * d + 1] - 1 - k)
                    if edge < 10:
                        sigma *= 10.0 ** (12.0 - 1.2 * edge)        # as at the ends of real detectors
                        word |= 1 << 14
                    if persistence[i] > 0 and d == 0 and k < ends[i, 0] + (ends[i, 1] - ends[i, 0]) // 2:
                        word |= 1 << persistence[i]
                    value = level * f + sigma * z[k] + residual
                    if junk:
                        if run == 0 and uniform(pick, k) < 0.5 * bad_rate:
                            run = 1 + int(3.0 * uniform(pick, 10000 + k))
                            bit = int(8.0 * uniform(pick, 20000 + k))
                            bit = 14 if bit == 7 else bit
                            wrong = uniform(pick, 30000 + k)
                        if run > 0:
                            run -= 1
                            word |= 1 << bit
                            if wrong < 0.6:
                                sigma = 1e10 * (1.0 + 300.0 * wrong)
                                value = level * (0.5 + 1.2 * wrong)
                            else:
                                value += level * (wrong - 0.7)
                    flux[i, row, k] = value
                    error[i, row, k] = sigma
                    mask[i, row, k] = word
                    if whole:
                        sky[i, row, k] = glow
                        sky_error[i, row, k] = 0.03 * glow + 0.1
                        telluric[i, row, k] = absorbed
                        telluric_error[i, row, k] = 0.005 + 0.02 * (1.0 - absorbed)
        if visits > 1:
            for d in range(3):
                for k in range(ends[i, 2 * d], ends[i, 2 * d + 1]):
                    total, mean, word, glow, tell = 0.0, 0.0, 0, 0.0, 0.0
                    total1, mean1, var1, best, best_flux = 0.0, 0.0, 0.0, 1e30, 0.0
                    for v in range(visits):
                        r = 2 + v
                        e = error[i, r, k]
                        word |= mask[i, r, k]
                        if whole:
                            glow += sky[i, r, k] / visits
                            tell += telluric[i, r, k] / visits
                        if e < best:
                            best, best_flux = e, flux[i, r, k]
                        if e < 1e9:
                            total += 1.0 / (e * e)
                            mean += flux[i, r, k] / (e * e)
                            total1 += weight[i, v]
                            mean1 += weight[i, v] * flux[i, r, k]
                            var1 += weight[i, v] ** 2 * e * e
                    if total > 0.0:
                        flux[i, 0, k] = mean / total
                        error[i, 0, k] = 1.0 / math.sqrt(total)
                        flux[i, 1, k] = mean1 / total1
                        error[i, 1, k] = math.sqrt(var1) / total1
                    else:
                        flux[i, 0, k] = flux[i, 1, k] = best_flux
                        error[i, 0, k] = error[i, 1, k] = best
                    for r in range(2):
                        mask[i, r, k] = word
                        if whole:
                            sky[i, r, k] = glow
                            sky_error[i, r, k] = 0.03 * glow / math.sqrt(visits)
                            telluric[i, r, k] = tell
                            telluric_error[i, r, k] = 0.005 / math.sqrt(visits)
