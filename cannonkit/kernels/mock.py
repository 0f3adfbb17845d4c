"""Line synthesis, broadening and pixels of the mock surveys. Compiled; arrays in, arrays out.

A star's spectrum on a grid of constant velocity step: line opacity over continuous opacity, eta, summed over
lines with Voigt profiles (Boltzmann, Saha through `density`, thermal width and v_micro, damping); then the
Milne-Eddington flux F/Fc = (1 + q / (1 + eta)) / (1 + q) with q = 2/3 of the slope of the source function, so
weak lines grow in proportion and strong ones saturate (curve of growth). Rotation, macroturbulence and the
line-spread function are one kernel, applied only at the pixels that are wanted.

Cost: 10 to 100 grid points per line; 0.3 ms for a star in the H band on one core, 0.2 ms for its pixels.
kernels/mock_stream.py is quicker, to a stated error. Serial loops that release the interpreter lock: a thread makes a
block of spectra from beginning to end.
"""

import math

import numpy as np
from numba import njit

from cannonkit.kernels.mock_atmosphere import (
    H_NEUTRAL,
    K_EV,
    KAPPA,
    KAPPA_DEEP,
    N_HYDROGEN,
    NE_DEEP,
    SLOPE,
    T_DEEP,
    T_LINE,
)

LIGHT = 299792.458  # km/s
NODES, MOST_A = 64, 0.25  # of add_core's series: nodes per unit of x; the widest damping
CUT = 5e-5  # opacity ratios below this are left out of a line's wings
C2_EV = 12398.42  # h c in eV Angstrom
RYDBERG_EV = 13.598


@njit(cache=True, error_model="numpy")
def voigt(a, x):
    """H(a, x), the Voigt function with H(0, 0) = 1, to 1e-4 (Humlicek 1982, W4 algorithm)."""
    s = abs(x) + a
    if s >= 5.5:  # written out: a division of complex numbers costs five times as much
        re, im = a * a - x * x, -2.0 * a * x  # u = t^2 of t = a - i x
        if s >= 15.0:
            top, bottom, low, high = 0.5641896, 0.0, 0.5 + re, im
        else:
            top, bottom = 1.410474 + 0.5641896 * re, 0.5641896 * im
            low, high = 0.75 + 3.0 * re + re * re - im * im, 3.0 * im + 2.0 * re * im
        return ((a * top + x * bottom) * low + (a * bottom - x * top) * high) / (low * low + high * high)
    t = complex(a, -x)
    if a >= 0.195 * abs(x) - 0.176:
        return (
            (16.4955 + t * (20.20933 + t * (11.96482 + t * (3.778987 + t * 0.5642236))))
            / (16.4955 + t * (38.82363 + t * (39.27121 + t * (21.69274 + t * (6.699398 + t)))))
        ).real
    u = t * t
    w = (
        t
        * (
            36183.31
            - u
            * (3321.9905 - u * (1540.787 - u * (219.0313 - u * (35.76683 - u * (1.320522 - u * 0.56419)))))
        )
        / (
            32066.6
            - u
            * (
                24322.84
                - u * (9022.228 - u * (2186.181 - u * (364.2191 - u * (61.57037 - u * (1.841439 - u)))))
            )
        )
    )
    return (np.exp(u) - w).real


@njit(cache=True, error_model="numpy")  # no test for a denominator of 0: the loop runs on vector units
def add_wing(part, strength, a, x, step):
    """Add strength H(a, x + k step) to part (n,) where |x| is 15 or more: Humlicek's first region, real part."""
    half = 0.5 + a * a
    factor = 0.5641896 * a * strength
    for k in range(part.shape[0]):
        u = (x + k * step) ** 2
        v = half - u
        part[k] += factor * (half + u) / (v * v + 4.0 * a * a * u)


@njit(cache=True, error_model="numpy")  # runs on vector units
def add_shoulder(part, strength, a, first, place, per_point):
    """Add strength H(a, x) to part (n,), x = (first + k - place) per_point, |x| + a from 5.5 on: as `voigt` has it."""
    for k in range(part.shape[0]):
        x = (first + k - place) * per_point
        re, im = a * a - x * x, -2.0 * a * x
        far = abs(x) + a >= 15.0
        top = 0.5641896 if far else 1.410474 + 0.5641896 * re
        bottom = 0.0 if far else 0.5641896 * im
        low = 0.5 + re if far else 0.75 + 3.0 * re + re * re - im * im
        high = im if far else 3.0 * im + 2.0 * re * im
        value = (a * top + x * bottom) * low + (a * bottom - x * top) * high
        part[k] += strength * (value / (low * low + high * high))


@njit(cache=True, error_model="numpy")
def add_core(part, strength, a, first, place, per_point, series):
    """The same where |x| + a is less than 5.5. series (n_node, 6): Taylor coefficients of H in a at |x| = node / NODES.

    Without nodes, or where `a` is above MOST_A, `voigt` gives H; else the series, linear between nodes, to 1e-4.
    """
    if series.shape[0] == 0 or a > MOST_A or per_point > 2.0:
        for k in range(part.shape[0]):
            part[k] += strength * voigt(a, (first + k - place) * per_point)
        return
    for k in range(part.shape[0]):
        node = abs((first + k - place) * per_point) * NODES
        j = int(node)
        f = node - j
        value = 0.0
        for n in range(5, -1, -1):
            value = value * a + (series[j, n] + f * (series[j + 1, n] - series[j, n]))
        part[k] += strength * value


@njit(cache=True, error_model="numpy")
def add_lines(eta, first, step, wavelength, log_wavelength, species, excitation, gf, damping, mass, density, state,
              v_micro, series):
    """Add the opacity ratio of lines to eta (n_point,), whose point i is at exp(first + step i) Angstrom.

    wavelength (n_line,) Angstrom, vacuum, ascending, and its logarithm; species (n_line,) rows of `density`
    (n_species,) and `mass` (atomic units); damping (n_line,) van der Waals width per hydrogen atom at 10^4 K, 0 for
    none; state = a row of build_atmospheres; v_micro km/s; series as in add_core.
    """
    t = state[T_LINE]
    kt = K_EV * t
    collision = state[N_HYDROGEN] * state[H_NEUTRAL] * (t / 1e4) ** 0.3
    n_point = eta.shape[0]
    n_species = mass.shape[0]
    width, factor, second = np.empty(n_species), np.empty(n_species), np.empty(n_species)
    for s in range(n_species):
        width[s] = math.sqrt(1.662892e-2 * t / mass[s] + v_micro * v_micro)  # km/s
        factor[s] = 0.02654 * density[s] / (1.7724539 * width[s] * 1e5) / state[KAPPA]
        per_point = step * LIGHT / width[s]
        second[s] = math.exp(-2.0 * per_point * per_point)
    for i in range(log_wavelength.shape[0]):
        s = species[i]
        w = wavelength[i]
        if factor[s] * gf[i] * (w * 1e-8) < 0.999 * CUT:        # both factors below are less than 1
            continue
        b = width[s]
        emission = 1.0 - math.exp(-C2_EV / (w * kt))
        strength = factor[s] * gf[i] * math.exp(-excitation[i] / kt) * emission * (w * 1e-8)
        if strength < CUT:
            continue
        a = 0.0
        reach = math.sqrt(max(math.log(strength / CUT), 0.0))
        if damping[i] > 0.0:
            # natural width 1e8 / s; Doppler width in frequency is b / lambda
            a = (1e8 + damping[i] * collision) / (4.0 * math.pi) * (w * 1e-8) / (b * 1e5)
            reach = max(reach, min(math.sqrt(strength * a / (1.7724539 * CUT)), 2500.0 / b))
        place = (log_wavelength[i] - first) / step
        per_point = step * LIGHT / b
        low = max(int(math.ceil(place - reach / per_point)), 0)
        high = min(int(math.floor(place + reach / per_point)), n_point - 1)
        if a == 0.0:
            # exp(-x^2) at equal steps: the ratio of neighbours falls by a constant factor
            x = (low - place) * per_point
            value = strength * math.exp(-x * x)
            ratio = math.exp(-per_point * (2.0 * x + per_point))
            for k in range(low, high + 1):
                eta[k] += value
                value *= ratio
                ratio *= second[s]
        else:
            near = int(15.0 / per_point) + 1
            left, right = max(int(place) - near, low), min(int(place) + 1 + near, high)
            core = max((5.5 - a) / per_point, 0.0)          # points of the core; one more on each side does no harm
            inner = min(max(int(place - core), left), right + 1)
            outer = min(max(int(place + core) + 2, inner), right + 1)
            add_shoulder(eta[left:inner], strength, a, left, place, per_point)
            add_core(eta[inner:outer], strength, a, inner, place, per_point, series)
            add_shoulder(eta[outer : right + 1], strength, a, outer, place, per_point)
            add_wing(eta[low:left], strength, a, (low - place) * per_point, per_point)
            add_wing(eta[right + 1 : high + 1], strength, a, (right + 1 - place) * per_point, per_point)


@njit(cache=True, error_model="numpy")  # a plain loop: it runs on vector units
def add_stark_wing(part, wave, w, strength, core25):
    """Add strength / (|wave - w|^2.5 + core25) to part (n,)."""
    for k in range(part.shape[0]):
        d = abs(wave[k] - w)
        part[k] += strength / (d * d * math.sqrt(d) + core25)


@njit(cache=True, error_model="numpy")
def add_hydrogen(eta, wave, hydrogen, h_per_nucleus, state):
    """Add hydrogen lines to eta: linear Stark profile, normalised, with its wings going as distance^-5/2.

    wave (n_point,) Angstrom; hydrogen (n, 4): vacuum wavelength (Angstrom), lower level, upper level, f. Formed
    where tau is about 1. The half width of an average Stark component is that of 0.35 n_up^2 units; ions and
    electrons count twice.
    """
    t = state[T_DEEP]
    kt = K_EV * t
    field = 1.25e-9 * state[NE_DEEP] ** (2.0 / 3.0)
    for i in range(hydrogen.shape[0]):
        w, low, up, f = hydrogen[i, 0], hydrogen[i, 1], hydrogen[i, 2], hydrogen[i, 3]
        excitation = RYDBERG_EV * (1.0 - 1.0 / (low * low))
        level = h_per_nucleus * 2.0 * low * low * math.exp(-excitation / kt)
        emission = 1.0 - math.exp(-C2_EV / (w * kt))
        shift = w * w * 1.92e-10 * 0.35 * up * up  # Angstrom per unit of field (esu)
        k2 = 3.0 * shift**1.5
        core = (2.643 * k2) ** (2.0 / 3.0) * field
        doppler = w * math.sqrt(1.662892e-2 * t / 1.008 + 1.0) / LIGHT
        core = math.sqrt(core * core + doppler * doppler)
        wing = k2 * field**1.5
        scale = 8.853e-13 * (w * 1e-8) ** 2 * f * level * emission / state[KAPPA_DEEP] * 1e8
        core25 = core**2.5
        if scale * wing < CUT * core25:
            continue
        reach = min((scale * wing / CUT) ** 0.4, 300.0)
        near = min((scale * wing / 0.1) ** 0.4, reach)
        places = np.searchsorted(wave, np.array([w - reach, w - near, w + near, w + reach]))
        add_stark_wing(eta[places[0] : places[1]], wave[places[0] : places[1]], w, scale * wing, core25)
        add_stark_wing(eta[places[2] : places[3]], wave[places[2] : places[3]], w, scale * wing, core25)
        for k in range(places[1], places[2]):
            d = abs(wave[k] - w)
            value = scale * wing / (d * d * math.sqrt(d) + core25)
            # An opaque core is formed higher, where it is cooler and the lower level is emptier.
            eta[k] += value if value < 0.1 else 0.1 * (value / 0.1) ** 0.6


@njit(cache=True, error_model="numpy")
def fill_flux(first, step, wave, wavelength, log_wavelength, species, excitation, gf, width, mass, hydrogen, density,
              state, v_micro, series, eta, flux):
    """Fill flux (n_point,) of a star, continuum-normalised; eta (n_point,) is overwritten. Others as in add_lines."""
    eta[:] = 0.0
    add_lines(eta, first, step, wavelength, log_wavelength, species, excitation, gf, width, mass, density, state,
              v_micro, series)
    add_hydrogen(eta, wave, hydrogen, density[0], state)
    q = 2.0 / 3.0 * state[SLOPE]
    for k in range(flux.shape[0]):
        flux[k] = (1.0 + q / (1.0 + eta[k])) / (1.0 + q)


@njit(cache=True, nogil=True, error_model="numpy")
def synthesise(region, first, step, wavelength, species, excitation, log_gf, damping, mass, hydrogen, density, state,
               v_micro, flux):
    """Fill flux (n_star, n_point), continuum-normalised, before any broadening but the lines' own.

    wavelength (n_line,) Angstrom; log_gf; damping log10 of the width, below -50 for none; others as in add_lines;
    density (n_star, n_region, n_species), state (n_star, n_region, N_STATE), v_micro (n_star,) km/s.
    """
    log_wavelength, gf = np.log(wavelength), 10.0**log_gf
    width = np.where(damping > -50.0, 10.0**damping, 0.0)
    wave = np.exp(first + step * np.arange(flux.shape[1]))
    eta, none = np.empty(flux.shape[1]), np.empty((0, 6))
    for m in range(flux.shape[0]):
        fill_flux(first, step, wave, wavelength, log_wavelength, species, excitation, gf, width, mass, hydrogen,
                  density[m, region], state[m, region], v_micro[m], none, eta, flux[m])


@njit(cache=True, error_model="numpy")
def broadening_kernel(sigma, v_rotation, offset, step, kernel):
    """Fill kernel (2 h + 1,), unit sum: Gaussian of `sigma` km/s with a rotation profile of `v_rotation`
    km/s.

    Point j stands at (j - h) * step - offset km/s. Rotation with limb darkening 0.6 is a sum of Gaussians at
    points spaced by at most 0.7 sigma.
    """
    half = (kernel.shape[0] - 1) // 2
    n = int(v_rotation / (0.7 * sigma)) + 1
    kernel[:] = 0.0
    for r in range(-n, n + 1):
        x = r / (n + 0.5)
        weight = 1.0
        shift = 0.0
        if v_rotation > 0.05:
            y = 1.0 - x * x
            weight = 0.2546479 * math.sqrt(y) + 0.3 * y        # Gray: 2 (1 - e) / pi and e / 2, e = 0.6
            shift = x * v_rotation
        elif r != 0:
            continue
        low = max(half + int(math.ceil((offset + shift - 7.7 * sigma) / step)), 0)
        high = min(half + int(math.floor((offset + shift + 7.7 * sigma) / step)), kernel.shape[0] - 1)
        # a Gaussian at equal steps: the ratio of neighbours falls by a constant factor
        u = ((low - half) * step - offset - shift) / sigma
        h = step / sigma
        value, ratio, second = weight * math.exp(-0.5 * u * u), math.exp(-h * (u + 0.5 * h)), math.exp(-h * h)
        for j in range(low, high + 1):
            kernel[j] += value
            value *= ratio
            ratio *= second
    total = 0.0
    for j in range(kernel.shape[0]):
        total += kernel[j]
    for j in range(kernel.shape[0]):
        kernel[j] /= total


N_PHASE = 8
N_ZONE = 6


@njit(cache=True, fastmath={"reassoc", "contract"})  # lets the sums run on vector units; NaN keeps its meaning
def two_sums(values, first, second):
    """Sums of values * first and values * second, (n,) each."""
    one, two = 0.0, 0.0
    for j in range(first.shape[0]):
        one += first[j] * values[j]
        two += second[j] * values[j]
    return one, two


@njit(cache=True, error_model="numpy")
def observe(fine, first, step, log_wavelength, sigma_start, sigma_stop, v_rotation, v_macro, v_shift, out):
    """Fill out (n_pix,) with the broadened spectrum at the pixels' ln(wavelength), ascending.

    fine             (n_point,) flux on the grid exp(first + step i)
    sigma_start, sigma_stop   km/s, Gaussian width of the line-spread function at the first and last pixel
    v_rotation       km/s, v sin i;  v_macro  km/s, Gaussian macroturbulence exp(-(v / v_macro)^2)
    v_shift          km/s, residual radial velocity: the spectrum is shifted to the red by it
    Pixels off the grid get 1. Kernels are tabulated at 6 places along the segment and 8 phases of a grid
    step.
    """
    n_pix = out.shape[0]
    v_step = step * LIGHT
    widest = max(sigma_start, sigma_stop)
    reach = 4.0 * math.sqrt(widest * widest + 0.5 * v_macro * v_macro) + v_rotation
    half = int(reach / v_step) + 2
    kernels = np.empty((N_ZONE, N_PHASE + 1, 2 * half + 1))
    for z in range(N_ZONE):
        lsf = sigma_start + (sigma_stop - sigma_start) * (z + 0.5) / N_ZONE
        sigma = math.sqrt(lsf * lsf + 0.5 * v_macro * v_macro)
        for p in range(N_PHASE + 1):
            broadening_kernel(sigma, v_rotation, p / N_PHASE * v_step, v_step, kernels[z, p])
    shift = math.log1p(v_shift / LIGHT)
    for k in range(n_pix):
        place = (log_wavelength[k] - shift - first) / step
        base = int(math.floor(place))
        if base - half < 0 or base + half + 1 >= fine.shape[0]:
            out[k] = 1.0
            continue
        z = min(k * N_ZONE // n_pix, N_ZONE - 1)
        phase = (place - base) * N_PHASE
        p = int(phase)
        f = phase - p
        one, two = two_sums(fine[base - half : base + half + 1], kernels[z, p], kernels[z, p + 1])
        out[k] = one + f * (two - one)


@njit(cache=True, nogil=True, error_model="numpy")
def observe_many(fine, star, first, step, log_start, log_step, linear, n_pix, sigma_start, sigma_stop, v_rotation,
                 v_macro, v_shift, out):
    """Fill out (n_spectrum, n_longest): spectrum i shows star[i] of fine (n_star, n_point) on its own grid.

    Pixel k is at ln(wavelength) = log_start[i] + log_step[i] k, or, where `linear`, at wavelength
    log_start[i] + log_step[i] k Angstrom; n_pix[i] pixels, the rest of the row is 1. Other arguments
    (n_spectrum,) as in `observe`.
    """
    for i in range(out.shape[0]):
        grid = np.empty(n_pix[i])
        for k in range(n_pix[i]):
            u = log_start[i] + log_step[i] * k
            grid[k] = math.log(u) if linear else u
        out[i, n_pix[i] :] = 1.0
        observe(fine[star[i]], first, step, grid, sigma_start[i], sigma_stop[i], v_rotation[i], v_macro[i], v_shift[i],
                out[i, : n_pix[i]])
