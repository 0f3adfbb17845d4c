"""What instruments do to the mock's spectra: noise, junk, masks, sky, telluric lines. Compiled.

Random numbers are counters hashed with a key of (seed, survey, spectrum, visit, plane): the same for any
chunk,
order and number of threads. Formats.md A1, A2 (rates) and D5 (what differs between visits and what does not).
"""

import math

import numpy as np
from numba import njit

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


MIDDLE = 0.47575


@njit(cache=True, error_model="numpy")
def middle_quantile(q):
    """The standard normal number below which a share 0.5 + q lies, |q| at most MIDDLE, to 1e-8 (P. Acklam's rational
    functions)."""
    r = q * q
    top = (((((-3.969683028665376e1 * r + 2.209460984245205e2) * r - 2.759285104469687e2) * r
             + 1.383577518672690e2) * r - 3.066479806614716e1) * r + 2.506628277459239) * q
    return top / (((((-5.447609879822406e1 * r + 1.615858368580409e2) * r - 1.556989798598866e2) * r
                    + 6.680131188771972e1) * r - 1.328068155288572e1) * r + 1.0)


@njit(cache=True, error_model="numpy")
def tail_quantile(q):
    """The same where |q| is larger."""
    r = math.sqrt(-2.0 * math.log(0.5 - abs(q)))
    top = ((((-7.784894002430293e-3 * r - 3.223964580411365e-1) * r - 2.400758277161838) * r
            - 2.549732539343734) * r + 4.374664141464968) * r + 2.938163982698783
    tail = top / ((((7.784695709041462e-3 * r + 3.224671290700398e-1) * r + 2.445134137142996) * r
                   + 3.754408661907416) * r + 1.0)
    return tail if q < 0.0 else -tail


@njit(cache=True, nogil=True, error_model="numpy")
def fill_normal(key, out):
    """Fill out (n,) with standard normal numbers of stream `key`: quantiles of its uniform ones.

    A loop without a branch, which runs on vector units, then the tails: the same bits in half the time.
    """
    n = out.shape[0]
    u = np.empty(n)
    for i in range(n):
        u[i] = uniform(key, i) - 0.5
        out[i] = middle_quantile(u[i])
    for i in indices_above(u, MIDDLE):
        out[i] = tail_quantile(u[i])


@njit(cache=True)
def indices_above(values, limit):
    """Where the absolute of values (n,) is above limit."""
    found, n = np.empty(values.shape[0], np.int32), 0
    for i in range(values.shape[0]):
        found[n] = i
        n += abs(values[i]) > limit
    return found[:n]


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
GALAH_SKY = np.array([
    5867.6, 6498.7, 6533.0, 6553.6, 6577.2, 6596.6, 7712.2, 7716.6, 7750.6, 7759.9, 7794.1, 7808.5, 7821.5, 7841.3,
    7853.3,
])
# OH lines in the H band (vacuum, Angstrom).
APOGEE_SKY = np.array([
    15187.1, 15240.9, 15287.8, 15332.4, 15395.3, 15432.2, 15462.1, 15500.8, 15509.8, 15539.7, 15546.1, 15570.2,
    15597.6, 15631.4, 15655.2, 15702.5, 15848.1, 15869.3, 15888.0, 15972.6, 16030.8, 16079.8, 16128.6, 16194.6,
    16235.4, 16302.4, 16317.2, 16341.8, 16350.7, 16388.5, 16442.2, 16475.5, 16502.4, 16553.8, 16586.9, 16654.0,
    16689.2, 16692.4, 16709.0, 16732.5, 16795.0, 16840.5, 16903.7, 16909.6, 16955.1,
])
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


LOG_START, LOG_STEP = 4.179, 6e-6  # of the apStar grid
C2 = 1.4387769e8  # h c / k, Angstrom K


@njit(cache=True)
def fill_uniforms(key, out):
    """Fill out (n,) with uniform numbers of stream `key`."""
    for i in range(out.shape[0]):
        out[i] = uniform(key, i)


@njit(cache=True, error_model="numpy")
def galah_signal(clean, shape, z, inverse_snr, scatter, value, error):
    """Fill value and error (n,) of a camera, but for junk: photon noise that is correlated with the neighbour's."""
    n = clean.shape[0]
    for k in range(n):
        x = 2.0 * k / n - 1.0
        flux = clean[k] * shape[k]
        error[k] = inverse_snr * math.sqrt(1.0 / max(clean[k], 0.05) * (1.0 - 0.08) / (1.0 - 0.25 * x * x))
        noise = (z[k + 1] + 0.5 * z[k]) / 1.1180340
        value[k] = flux + scatter * error[k] * flux * noise


@njit(cache=True, error_model="numpy")
def galah_oxygen(start, step, doppler, pick, value, error):
    """Residuals of the O2 band in camera 4."""
    n = value.shape[0]
    first = max(int((7593.0 / doppler - start) / step) - 1, 0)
    for k in range(first, n):
        observed = (start + step * k) * doppler
        if not observed < 7688.0:
            break
        if 7593.0 < observed:
            depth = 0.9 * math.exp(-(((observed - 7606.0) / 9.0) ** 2)) + 0.5 * math.exp(
                -(((observed - 7632.0) / 28.0) ** 2)
            )
            comb = 0.5 + 0.5 * math.cos(2.0 * math.pi * observed / 2.4)
            value[k] *= 1.0 + (uniform(pick, 200001) - 0.45 + uniform(pick, 70000 + k) - 0.5) * depth * comb
            error[k] *= 1.0 + 2.0 * depth


@njit(cache=True, nogil=True, error_model="numpy")  # nogil: a thread for each block of spectra
def galah_planes(clean, n_pix, camera, start, step, velocity, inverse_snr, scatter, level, slope, number, seed, wiggle,
                 junk, normalised, sigma, counts, with_sky, sky_sigma):
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
    longest = clean.shape[1]
    noise, waves, chance, sky = np.empty(longest + 1), np.empty(longest), np.empty(longest), np.empty(longest)
    for i in range(clean.shape[0]):
        n = n_pix[i]
        z, shape, u = noise[: n + 1], waves[:n], chance[:n]
        value, error = normalised[i, :n], sigma[i, :n]
        fill_normal(key_of(seed, 2, number[i], 10 + camera[i]), z)
        pick = key_of(seed, 2, number[i], 20 + camera[i])
        shape[:] = 1.0
        wiggles(key_of(seed, 2, number[i], 30 + camera[i]), wiggle, shape)
        galah_signal(clean[i, :n], shape, z, inverse_snr[i], scatter[i], value, error)
        doppler = 1.0 + velocity[i] / LIGHT
        if whole:
            for k in range(n):
                x = 2.0 * k / n - 1.0
                sky[k] = 0.03 * (level[i] * (1.0 + slope[i] * x - 0.25 * x * x))
        for s in range(GALAH_SKY.shape[0]):
            centre = int((GALAH_SKY[s] / doppler - start[i]) / step[i])
            r = uniform(pick, 100000 + s) - 0.5
            for k in range(max(centre - 16, 0), min(centre + 17, n)):
                observed = (start[i] + step[i] * k) * doppler
                d = (observed - GALAH_SKY[s]) / 0.12
                if GALAH_SKY[s] <= observed - 0.6 or d <= -5.0:
                    continue
                g = math.exp(-0.5 * d * d)
                if whole:
                    sky[k] += 0.4 * level[i] * g
                if junk:
                    value[k] += 0.25 * r * abs(r) * 4.0 * g
                    error[k] *= 1.0 + g
        if junk:
            if camera[i] == 3:
                galah_oxygen(start[i], step[i], doppler, pick, value, error)
            spike_rate = 0.0003 + 0.0012 * camera[i]
            fill_uniforms(pick, u)
            for k in range(n):
                if 1.5 * spike_rate <= u[k] <= 1.0 - 0.0008:
                    continue
                if u[k] < spike_rate:
                    value[k] += 0.25 + 1.5 * uniform(pick, 50000 + k)
                elif u[k] < 1.5 * spike_rate:
                    value[k] = -0.2 * uniform(pick, 50000 + k) if camera[i] == 3 else value[k]
                else:
                    error[k] = -0.01 if uniform(pick, 50000 + k) < 0.5 else 0.0
                    value[k] *= 0.3 + uniform(pick, 60000 + k)
        if whole:
            for k in range(n):
                x = 2.0 * k / n - 1.0
                continuum = level[i] * (1.0 + slope[i] * x - 0.25 * x * x)
                counts[i, k] = value[k] * continuum
                with_sky[i, k] = value[k] * continuum + sky[k]
                sky_sigma[i, k] = abs(error[k]) * 0.9


@njit(cache=True, error_model="numpy")
def apogee_signal(clean, base, shape, noise, slope, level, flux, error):
    """Fill level, flux and error (n,) of a detector, without noise; clean (n + 2,) has a pixel more on both sides."""
    for k in range(base.shape[0]):
        f = clean[k + 1] - slope * (clean[k + 2] - clean[k])
        level[k] = base[k] * shape[k]
        flux[k] = level[k] * f
        error[k] = level[k] * noise * math.sqrt(max(f, 0.05))


@njit(cache=True)
def pixel_of(wavelength):
    """Pixel of the apStar grid at or below a wavelength (Angstrom)."""
    return int(math.floor((math.log10(wavelength) - LOG_START) / LOG_STEP))


@njit(cache=True, error_model="numpy")
def apogee_visit(clean, wave, base, ends, scale, doppler, noise, slope, number, visit, visits, seed, wiggle, junk,
                 persistence, flux, error, mask, sky, absorbed):
    """Fill flux, error, mask (n_pix,) of one visit inside its detectors; sky and absorbed too where they have pixels.

    base (n_pix,) continuum; noise: relative error at flux 1; slope: of the residual velocity, in pixels; others as in
    apogee_planes, of one spectrum.
    """
    n_pix = clean.shape[0]
    whole = sky.shape[0] > 0
    key = key_of(seed, 1, number, 10 + visit)
    pick = key_of(seed, 1, number, 100 + visit)
    z, level, residual, u = np.empty(n_pix), np.empty(n_pix), np.zeros(n_pix), np.empty(n_pix)
    fill_normal(key, z)
    shape = np.ones(n_pix)
    wiggles(key_of(seed, 1, number, 200 + visit), 2.0 * wiggle, shape)
    bad_rate = 0.002 + 0.004 * uniform(pick, 900001) / math.sqrt(visits)
    for d in range(3):
        a, b = ends[2 * d], ends[2 * d + 1]
        wiggles(key_of(seed, 1, number, 300 + 3 * visit + d), wiggle, shape[a:b])
        apogee_signal(clean[a - 1 : b + 1], base[a:b], shape[a:b], noise, slope, level[a:b], flux[a:b], error[a:b])
        mask[a:b] = 0
        if whole:
            sky[a:b] = 0.05 * level[a:b]
            absorbed[a:b] = 1.0
        # The Earth's motion puts sky lines elsewhere in each visit's rest frame.
        for t in range(APOGEE_SKY.shape[0]):
            centre = pixel_of(APOGEE_SKY[t] / doppler)
            for k in range(max(centre - 8, a), min(centre + 9, b)):
                x = (wave[k] * doppler - APOGEE_SKY[t]) / 0.35
                if abs(x) < 3.2:
                    g = math.exp(-0.5 * x * x)
                    mask[k] |= 1 << 12
                    if whole:
                        sky[k] += (0.3 + 2.0 * uniform(pick, 910000 + t)) * scale * g
                    if junk:
                        r = uniform(pick, 920000 + t) - 0.5
                        residual[k] += 1.2 * r**3 * g * level[k] * 4.0
                    error[k] *= 1.0 + 3.0 * g
        for t in range(APOGEE_TELLURIC.shape[0]):
            first, last = pixel_of(APOGEE_TELLURIC[t, 0] / doppler), pixel_of(APOGEE_TELLURIC[t, 1] / doppler)
            for k in range(max(first - 1, a), min(last + 3, b)):
                w = wave[k] * doppler
                if not APOGEE_TELLURIC[t, 0] < w < APOGEE_TELLURIC[t, 1]:
                    continue
                comb = math.cos(2.0 * math.pi * w / 4.3)
                if comb > 0.0:
                    if whole:
                        absorbed[k] -= APOGEE_TELLURIC[t, 2] * comb**4
                    if comb > 0.72:
                        mask[k] |= 1 << 13
                    if junk:
                        residual[k] += 0.03 * APOGEE_TELLURIC[t, 2] * comb**4 * level[k] * z[t]
        for edge in range(10):                  # as at the ends of real detectors
            for k in (a + edge, b - 1 - edge):
                error[k] *= 10.0 ** (12.0 - 1.2 * edge)
                mask[k] |= 1 << 14
        if persistence > 0 and d == 0:
            for k in range(a, a + (b - a) // 2):
                mask[k] |= 1 << persistence
        for k in range(a, b):
            flux[k] = flux[k] + error[k] * z[k] + residual[k]
    if not junk:
        return
    fill_uniforms(pick, u)
    run, bit, wrong = 0, 0, 0.0
    for d in range(3):
        for k in range(ends[2 * d], ends[2 * d + 1]):
            if run == 0 and u[k] < 0.5 * bad_rate:
                run = 1 + int(3.0 * uniform(pick, 10000 + k))
                bit = int(8.0 * uniform(pick, 20000 + k))
                bit = 14 if bit == 7 else bit
                wrong = uniform(pick, 30000 + k)
            if run > 0:
                run -= 1
                mask[k] |= 1 << bit
                if wrong < 0.6:
                    error[k] = 1e10 * (1.0 + 300.0 * wrong)
                    flux[k] = level[k] * (0.5 + 1.2 * wrong)
                else:
                    flux[k] += level[k] * (wrong - 0.7)


@njit(cache=True, error_model="numpy")
def add_visit(flux, error, mask, weight, sums, word):
    """Add pixels of a visit to sums (7, n) of 1/e^2, f/e^2, w, w f, (w e)^2, and the least error with its flux."""
    for k in range(flux.shape[0]):
        e = error[k]
        use, lower = e < 1e9, e < sums[5, k]
        sums[0, k] += 1.0 / (e * e) if use else 0.0
        sums[1, k] += flux[k] / (e * e) if use else 0.0
        sums[5, k] = e if lower else sums[5, k]
        sums[6, k] = flux[k] if lower else sums[6, k]
        word[k] |= mask[k]
    for k in range(flux.shape[0]):
        e = error[k]
        use = e < 1e9
        sums[2, k] += weight if use else 0.0
        sums[3, k] += weight * flux[k] if use else 0.0
        sums[4, k] += weight**2 * e * e if use else 0.0


@njit(cache=True, error_model="numpy")
def black_body(w, teff, scale, top):
    """A black body of teff K at w Angstrom that is `scale` at 16000; top = exp(c2 / (16000 teff)) - 1."""
    u = 16000.0 / w
    return scale * u * u * u * u * u * top / (math.exp(C2 / (w * teff)) - 1.0)


@njit(cache=True, error_model="numpy")
def fill_continuum(wave, teff, scale, every, base):
    """Fill base (n,) with a black body of teff K that is `scale` at 16000 Angstrom.

    Every `every`-th pixel is computed, lines lie between: for 16, right to 1e-7.
    """
    n = wave.shape[0]
    top = math.exp(C2 / (16000.0 * teff)) - 1.0
    left = black_body(wave[0], teff, scale, top)
    for first in range(0, n, every):
        last = min(first + every, n - 1)
        right = black_body(wave[last], teff, scale, top)
        for k in range(first, last):
            base[k] = left + (right - left) * (k - first) / (last - first)
        left = right
    base[n - 1] = left


@njit(cache=True, nogil=True, error_model="numpy")  # nogil: a thread for each block of spectra
def apogee_planes(clean, n_visit, teff, scale, velocity, snr, weight, shift, number, seed, wiggle, junk, persistence,
                  ends, flux, error, mask, sky, sky_error, telluric, telluric_error):
    """Fill the rows of apStar files: planes (n, n_row, 8575), rows 0, 1 combined, then one per visit.

    clean      (n, n_pix) noiseless normalised flux on the apStar grid
    n_visit    (n,); a file with one visit has one row, the visit itself. n_row 1: row 0 is all that is wanted
    teff       K, for the continuum's slope; scale (n,) flux at 16000 A; velocity km/s to the observer
    snr        (n,) of the combined spectrum; weight (n, most visits) shares of S/N^2, sum 1; shift (n, most
               visits) km/s, residual velocity of each visit
    persistence   (n,) 0 or the bit to set in the blue third
    ends       (n, 6) first and one-past-last filled pixel of the three detectors
    sky, sky_error, telluric and telluric_error may have no rows: then they are not wanted.
    No data: 0 in flux, error and mask 0, as DR16 has it.
    """
    n_pix = clean.shape[1]
    whole = sky.shape[0] > 0
    wave = 10.0 ** (LOG_START + LOG_STEP * np.arange(n_pix))
    base, sums, word = np.empty(n_pix), np.empty((7, n_pix)), np.empty(n_pix, np.int64)
    own_flux, own_error, own_mask = np.empty(n_pix), np.empty(n_pix), np.empty(n_pix, np.int64)
    none = np.empty(0)
    for i in range(clean.shape[0]):
        visits = n_visit[i]
        rows = visits > 1 and flux.shape[1] > 1
        fill_continuum(wave, teff[i], scale[i], 1 if whole else 16, base)
        for r in range(2 if rows else 1):
            flux[i, r], error[i, r], mask[i, r] = 0.0, 0.0, 0
        sums[:5], sums[5], sums[6], word[:] = 0.0, 1e30, 0.0, 0
        for v in range(visits):
            f, e, m, glow, tell = own_flux, own_error, own_mask, none, none
            if rows or visits == 1:
                r = 2 + v if rows else 0
                f, e, m = flux[i, r], error[i, r], mask[i, r]
                if whole:
                    glow, tell = sky[i, r], telluric[i, r]
            doppler = 1.0 + (velocity[i] + 25.0 * (uniform(key_of(seed, 1, number[i], 100 + v), 900002) - 0.5)) / LIGHT
            apogee_visit(clean[i], wave, base, ends[i], scale[i], doppler, 1.0 / (snr[i] * math.sqrt(weight[i, v])),
                         0.5 * shift[i, v] / (LIGHT * LOG_STEP * 2.302585), number[i], v, visits, seed, wiggle, junk,
                         persistence[i], f, e, m, glow, tell)
            for d in range(3):
                a, b = ends[i, 2 * d], ends[i, 2 * d + 1]
                if visits > 1:
                    add_visit(f[a:b], e[a:b], m[a:b], weight[i, v], sums[:, a:b], word[a:b])
                if whole:
                    r = 2 + v if rows else 0
                    for k in range(a, b):
                        sky_error[i, r, k] = 0.03 * glow[k] + 0.1
                        telluric_error[i, r, k] = 0.005 + 0.02 * (1.0 - tell[k])
                        if rows:
                            sky[i, 0, k] += glow[k] / visits
                            telluric[i, 0, k] += tell[k] / visits
        if visits == 1:
            continue
        for d in range(3):
            for k in range(ends[i, 2 * d], ends[i, 2 * d + 1]):
                seen = sums[0, k] > 0.0
                flux[i, 0, k] = sums[1, k] / sums[0, k] if seen else sums[6, k]
                error[i, 0, k] = 1.0 / math.sqrt(sums[0, k]) if seen else sums[5, k]
                mask[i, 0, k] = word[k]
                if rows:
                    flux[i, 1, k] = sums[3, k] / sums[2, k] if seen else sums[6, k]
                    error[i, 1, k] = math.sqrt(sums[4, k]) / sums[2, k] if seen else sums[5, k]
                    mask[i, 1, k] = word[k]
                    if whole:
                        sky[i, 1, k], telluric[i, 1, k] = sky[i, 0, k], telluric[i, 0, k]
                        sky_error[i, :2, k] = 0.03 * sky[i, 0, k] / math.sqrt(visits)
                        telluric_error[i, :2, k] = 0.005 / math.sqrt(visits)
