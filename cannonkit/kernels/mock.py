"""Line synthesis, broadening and pixels of the mock surveys. Compiled; arrays in, arrays out.

A star's spectrum on a grid of constant velocity step: line opacity over continuous opacity, eta, summed over
lines with Voigt profiles (Boltzmann, Saha through `density`, thermal width and v_micro, damping); then the
Milne-Eddington flux F/Fc = (1 + q / (1 + eta)) / (1 + q) with q = 2/3 of the slope of the source function, so
weak lines grow in proportion and strong ones saturate (curve of growth). Rotation, macroturbulence and the
line-spread function are one kernel, applied only at the pixels that are wanted.

Cost: 20 to 100 grid points per line; about 3 ms for a star in the H band on one core.
"""

import math

import numpy as np
from numba import njit, prange

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
CUT = 5e-5  # opacity ratios below this are left out of a line's wings
C2_EV = 12398.42  # h c in eV Angstrom
RYDBERG_EV = 13.598


@njit(cache=True)
def voigt(a, x):
    """H(a, x), the Voigt function with H(0, 0) = 1, to 1e-4 (Humlicek 1982, W4 algorithm)."""
    s = abs(x) + a
    t = complex(a, -x)
    if s >= 15.0:
        return (t * 0.5641896 / (0.5 + t * t)).real
    if s >= 5.5:
        u = t * t
        return (t * (1.410474 + u * 0.5641896) / (0.75 + u * (3.0 + u))).real
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


@njit(cache=True)
def add_lines(
    eta, first, step, wavelength, species, excitation, log_gf, damping, mass, density, state, v_micro
):
    """Add the opacity ratio of lines to eta (n_point,), whose point i is at exp(first + step i) Angstrom.

    wavelength (n_line,) Angstrom, vacuum, ascending; species (n_line,) rows of `density` (n_species,) and
    `mass`
    (atomic units); damping (n_line,) log10 of the van der Waals width per hydrogen atom at 10^4 K, below
    -50 for none; state = a row of build_atmospheres; v_micro km/s.
    """
    t = state[T_LINE]
    kt = K_EV * t
    collision = state[N_HYDROGEN] * state[H_NEUTRAL] * (t / 1e4) ** 0.3
    n_point = eta.shape[0]
    for i in range(wavelength.shape[0]):
        s = species[i]
        w = wavelength[i]
        b = math.sqrt(1.662892e-2 * t / mass[s] + v_micro * v_micro)  # km/s
        emission = 1.0 - math.exp(-C2_EV / (w * kt))
        strength = (
            0.02654
            * 10.0 ** log_gf[i]
            * density[s]
            * math.exp(-excitation[i] / kt)
            * emission
            * (w * 1e-8)
            / (1.7724539 * b * 1e5)
            / state[KAPPA]
        )
        if strength < CUT:
            continue
        a = 0.0
        reach = math.sqrt(max(math.log(strength / CUT), 0.0))
        if damping[i] > -50.0:
            # natural width 1e8 / s; Doppler width in frequency is b / lambda
            a = (1e8 + 10.0 ** damping[i] * collision) / (4.0 * math.pi) * (w * 1e-8) / (b * 1e5)
            reach = max(reach, min(math.sqrt(strength * a / (1.7724539 * CUT)), 2500.0 / b))
        place = (math.log(w) - first) / step
        per_point = step * LIGHT / b
        low = max(int(math.ceil(place - reach / per_point)), 0)
        high = min(int(math.floor(place + reach / per_point)), n_point - 1)
        if a == 0.0:
            for k in range(low, high + 1):
                x = (k - place) * per_point
                eta[k] += strength * math.exp(-x * x)
        else:
            for k in range(low, high + 1):
                eta[k] += strength * voigt(a, (k - place) * per_point)


@njit(cache=True)
def add_hydrogen(eta, first, step, hydrogen, h_per_nucleus, state):
    """Add hydrogen lines to eta: linear Stark profile, normalised, with its wings going as distance^-5/2.

    hydrogen (n, 4): vacuum wavelength (Angstrom), lower level, upper level, f. Formed where tau is about 1.
    The half width of an average Stark component is that of 0.35 n_up^2 units; ions and electrons count twice.
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
        for k in range(eta.shape[0]):
            d = abs(math.exp(first + step * k) - w)
            if d < 300.0:
                value = scale * wing / (d * d * math.sqrt(d) + core25)
                # An opaque core is formed higher, where it is cooler and the lower level is emptier.
                eta[k] += value if value < 0.1 else 0.1 * (value / 0.1) ** 0.6


@njit(parallel=True, cache=True, nogil=True)  # files are written meanwhile
def synthesise(
    region,
    first,
    step,
    wavelength,
    species,
    excitation,
    log_gf,
    damping,
    mass,
    hydrogen,
    density,
    state,
    v_micro,
    flux,
):
    """Fill flux (n_star, n_point), continuum-normalised, before any broadening but the lines' own.

    Arguments as in add_lines; density (n_star, n_region, n_species), state (n_star, n_region, N_STATE),
    v_micro (n_star,) km/s. Parallel over stars; each iteration writes its own row.
    """
    for m in prange(flux.shape[0]):
        eta = np.zeros(flux.shape[1])
        add_lines(
            eta,
            first,
            step,
            wavelength,
            species,
            excitation,
            log_gf,
            damping,
            mass,
            density[m, region],
            state[m, region],
            v_micro[m],
        )
        add_hydrogen(eta, first, step, hydrogen, density[m, region, 0], state[m, region])
        q = 2.0 / 3.0 * state[m, region, SLOPE]
        for k in range(flux.shape[1]):
            flux[m, k] = (1.0 + q / (1.0 + eta[k])) / (1.0 + q)


@njit(cache=True)
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
        for j in range(kernel.shape[0]):
            u = ((j - half) * step - offset - shift) / sigma
            if u * u < 60.0:
                kernel[j] += weight * math.exp(-0.5 * u * u)
    total = 0.0
    for j in range(kernel.shape[0]):
        total += kernel[j]
    for j in range(kernel.shape[0]):
        kernel[j] /= total


N_PHASE = 8
N_ZONE = 6


@njit(cache=True)
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
        one, two = 0.0, 0.0
        for j in range(2 * half + 1):
            value = fine[base - half + j]
            one += kernels[z, p, j] * value
            two += kernels[z, p + 1, j] * value
        out[k] = one + f * (two - one)


@njit(parallel=True, cache=True, nogil=True)  # files are written meanwhile
def observe_many(
    fine,
    star,
    first,
    step,
    log_start,
    log_step,
    linear,
    n_pix,
    sigma_start,
    sigma_stop,
    v_rotation,
    v_macro,
    v_shift,
    out,
):
    """Fill out (n_spectrum, n_longest): spectrum i shows star[i] of fine (n_star, n_point) on its own grid.

    Pixel k is at ln(wavelength) = log_start[i] + log_step[i] k, or, where `linear`, at wavelength
    log_start[i] + log_step[i] k Angstrom; n_pix[i] pixels, the rest of the row is 1. Other arguments
    (n_spectrum,) as in `observe`. Parallel over spectra.
    """
    for i in prange(out.shape[0]):
        grid = np.empty(n_pix[i])
        for k in range(n_pix[i]):
            u = log_start[i] + log_step[i] * k
            grid[k] = math.log(u) if linear else u
        out[i, n_pix[i] :] = 1.0
        observe(
            fine[star[i]],
            first,
            step,
            grid,
            sigma_start[i],
            sigma_stop[i],
            v_rotation[i],
            v_macro[i],
            v_shift[i],
            out[i, : n_pix[i]],
        )
