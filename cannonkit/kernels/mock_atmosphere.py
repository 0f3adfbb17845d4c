"""One-dimensional grey atmospheres and opacities for the mock's line model. Compiled; arrays in, arrays out.

For each star: hydrostatic equilibrium on a grid of optical depths at 5000 A with T^4 = 3/4 Teff^4 (tau + q),
electrons from Saha's equation of the usual donors, H- opacity of John 1988 (A&A 193, 189) with neutral
hydrogen (Kramers), molecules by mass action. What the line synthesis needs is then read
off where lines and continuum of a spectral region form. Cost: about 0.1 ms per star.

cgs units inside; wavelengths in micrometres where the opacity fits have them so.
"""

import math

import numpy as np
from numba import njit

K_EV = 8.617333e-5  # Boltzmann constant, eV/K
K_CGS = 1.380649e-16
N_DEPTH = 17
SURFACE = 0.46  # q of the T(tau) relation: T(0) = 0.77 Teff, cooler than grey, as lines demand
HELIUM = 0.085  # n(He)/n(H)
SAHA = 0.33298  # (2 pi m_e)^1.5 k^2.5 / h^3, so that N1/N0 P_e = 2 SAHA T^2.5 U1/U0 exp(-I/kT)


@njit(cache=True)
def saha_ratio(temperature, electron_pressure, ionisation, u_ion_over_neutral):
    """N(ion)/N(neutral) by Saha's equation; pressure in dyn/cm2, ionisation in eV."""
    return (
        2.0
        * SAHA
        * temperature**2.5
        * u_ion_over_neutral
        * math.exp(-ionisation / (K_EV * temperature))
        / electron_pressure
    )


@njit(cache=True)
def h_minus(wavelength, temperature):
    """H- absorption, bound-free plus free-free, cm2 per neutral H atom per unit electron pressure (cm4/dyn).

    John 1988; wavelength in micrometres, stimulated emission included. Holds for 0.364 um and longer.
    """
    bound_free = 0.0
    if wavelength < 1.6419:
        x = 1.0 / wavelength - 1.0 / 1.6419
        r = math.sqrt(x)
        f = 152.519 + r * (49.534 + r * (-118.858 + r * (92.536 + r * (-34.194 + r * 4.982))))
        sigma = 1e-18 * wavelength**3 * x * r * f
        c2 = 14387.77
        bound_free = (
            0.750
            * temperature**-2.5
            * math.exp(c2 / (1.6419 * temperature))
            * (1.0 - math.exp(-c2 / (wavelength * temperature)))
            * sigma
        )
    w, w1 = wavelength, 1.0 / wavelength
    theta = 5040.0 / temperature
    t = math.sqrt(theta)
    free_free = (
        theta
        * t
        * (2483.346 * w**2 + 285.827 + w1 * (-2054.291 + w1 * (2827.776 + w1 * (-1341.537 + w1 * 208.952))))
    )
    free_free += theta**2 * (
        -3449.889 * w**2 - 1158.382 + w1 * (8746.523 + w1 * (-11485.632 + w1 * (5303.609 - w1 * 812.939)))
    )
    free_free += (
        theta**2
        * t
        * (
            2200.040 * w**2
            + 2427.719
            + w1 * (-13651.105 + w1 * (16755.524 + w1 * (-7510.494 + w1 * 1132.738)))
        )
    )
    free_free += theta**3 * (
        -696.271 * w**2 - 1841.400 + w1 * (8624.970 + w1 * (-10051.530 + w1 * (4400.067 - w1 * 655.020)))
    )
    free_free += (
        theta**3
        * t
        * (88.283 * w**2 + 444.517 + w1 * (-1863.864 + w1 * (2095.288 + w1 * (-901.788 + w1 * 132.985))))
    )
    return bound_free + 1e-29 * max(free_free, 0.0)


@njit(cache=True)
def neutral_hydrogen(wavelength, temperature):
    """Bound-free and free-free absorption of neutral hydrogen, cm2 per atom: Kramers with Gaunt factors 1."""
    beta = 1.0 / (K_EV * temperature)
    total = 0.0
    a = 1e4 * wavelength
    for n in range(2, 9):
        if a < 911.75 * n * n:
            total += math.exp(-13.598 * (1.0 - 1.0 / (n * n)) * beta) / n**3
    # n > 8 and the free electrons, as an integral
    free = math.exp(-13.598 * beta) / (2.0 * 13.598 * beta)
    upper = math.exp(-13.598 * (1.0 - 1.0 / 81.0) * beta) / (2.0 * 13.598 * beta)
    emission = 1.0 - math.exp(-14387.77 / (wavelength * temperature))
    return 1.0449e-26 * a**3 * (total + max(upper, free)) * emission


@njit(cache=True)
def continuum(wavelength, temperature, electron_pressure, neutral_fraction):
    """Continuous absorption in cm2 per hydrogen nucleus."""
    k = neutral_fraction * (
        h_minus(wavelength, temperature) * electron_pressure + neutral_hydrogen(wavelength, temperature)
    )
    return k + 1e-32


@njit(cache=True)
def electrons(temperature, gas_pressure, abundance, elements, start):
    """Electron pressure (dyn/cm2) at one depth by bisection-safe Newton steps in its logarithm.

    abundance (n_element,) number ratios to hydrogen, elements as mock_atoms.element_table().
    """
    log_pe = math.log(start)
    log_t = math.log(temperature / 5000.0)
    at_unit = np.empty(elements.shape[0])       # N(ion)/N(neutral) times the electron pressure
    for e in range(elements.shape[0]):
        u = elements[e, 5] / elements[e, 3] * math.exp((elements[e, 6] - elements[e, 4]) * log_t)
        at_unit[e] = saha_ratio(temperature, 1.0, elements[e, 2], u)
    for _ in range(40):
        pe = math.exp(log_pe)
        free, slope = 0.0, 0.0
        for e in range(elements.shape[0]):
            r = at_unit[e] / pe
            x = r / (1.0 + r)
            n = 1.0 if e == 0 else abundance[e]
            free += n * x
            slope -= n * x * (1.0 - x)
        nuclei = 1.0 + HELIUM
        # pe = pg free / (nuclei + free)
        f = math.log(gas_pressure * free / (nuclei + free)) - log_pe
        df = slope / free * nuclei / (nuclei + free) - 1.0
        step = -f / df
        step = min(max(step, -3.0), 3.0)
        log_pe += step
        if abs(step) < 1e-9:
            break
    return math.exp(log_pe)


@njit(cache=True)
def mass_action(temperature, n_first, n_second, molecule, elements):
    """Number density of a molecule over the product of its atoms' densities (cm3), by mass action."""
    a, b = int(molecule[0]), int(molecule[1])
    mass = elements[a, 0] * elements[b, 0] / (elements[a, 0] + elements[b, 0])
    kt = K_EV * temperature
    rotation = kt / (1.239842e-4 * molecule[6]) / molecule[4]
    vibration = 1.0 / (1.0 - math.exp(-1.239842e-4 * molecule[5] / kt))
    q = molecule[3] * rotation * vibration
    ua = elements[a, 3] * (temperature / 5000.0) ** elements[a, 4]
    ub = elements[b, 3] * (temperature / 5000.0) ** elements[b, 4]
    # (h^2 / 2 pi mu k T)^1.5 = 5.332e-21 (mu T)^-1.5 cm3 with mu in atomic units
    return 5.332e-21 * (mass * temperature) ** -1.5 * q / (ua * ub) * math.exp(molecule[2] / kt)


@njit(cache=True)
def free_pair(total_a, total_b, k):
    """Free densities of a and b when a + b <-> ab has constant k and the totals are given."""
    # total_a = a (1 + k b), total_b = b (1 + k a)
    p = 1.0 + k * (total_b - total_a)
    a = 2.0 * total_a / (p + math.sqrt(p * p + 4.0 * k * total_a))
    return a, total_b / (1.0 + k * a)


@njit(cache=True)
def free_self(total, k):
    """Free density when 2 a <-> a2 with constant k: total = a + 2 k a^2."""
    if k * total < 1e-8:
        return total
    return (math.sqrt(1.0 + 8.0 * k * total) - 1.0) / (4.0 * k)


@njit(cache=True)
def densities(temperature, gas_pressure, electron_pressure, abundance, elements, molecules, out):
    """Fill out (n_species,) with number of absorbers per hydrogen nucleus, divided by the partition function.

    Species as in mock_atoms: 2 e neutral, 2 e + 1 ion, then molecules. Returns (neutral H per nucleus, nuclei
    of hydrogen per cm3).
    """
    n_element = elements.shape[0]
    t5 = temperature / 5000.0
    free = electron_pressure / gas_pressure
    total = gas_pressure / (K_CGS * temperature) * (1.0 - free)
    hydrogen = total / (1.0 + HELIUM)
    k_h2 = mass_action(temperature, 0.0, 0.0, molecules[6], elements)
    u0 = elements[0, 3]
    r = saha_ratio(temperature, electron_pressure, elements[0, 2], elements[0, 5] / u0)
    h_free = free_self(hydrogen / (1.0 + r), k_h2)
    for e in range(n_element):
        un = elements[e, 3] * t5 ** elements[e, 4]
        ui = elements[e, 5] * t5 ** elements[e, 6]
        r = saha_ratio(temperature, electron_pressure, elements[e, 2], ui / un)
        n = 1.0 if e == 0 else abundance[e]
        out[2 * e] = n / (1.0 + r) / un
        out[2 * e + 1] = n * r / (1.0 + r) / ui
    out[0] = h_free / hydrogen / u0
    # Molecules from the neutral atoms. Carbon and oxygen first share CO, nitrogen is shared with N2.
    c, n, o, ti = 1, 2, 3, 13
    nc = out[2 * c] * elements[c, 3] * t5 ** elements[c, 4] * hydrogen
    nn = out[2 * n] * elements[n, 3] * t5 ** elements[n, 4] * hydrogen
    no = out[2 * o] * elements[o, 3] * t5 ** elements[o, 4] * hydrogen
    nti = out[2 * ti] * elements[ti, 3] * t5 ** elements[ti, 4] * hydrogen
    co = mass_action(temperature, 0.0, 0.0, molecules[1], elements)
    free_c, free_o = free_pair(nc, no, co)
    free_n = free_self(nn, mass_action(temperature, 0.0, 0.0, molecules[5], elements))
    tio = mass_action(temperature, 0.0, 0.0, molecules[4], elements)
    free_ti = nti / (1.0 + tio * free_o)
    out[2 * c] *= free_c / nc
    out[2 * n] *= free_n / nn
    out[2 * o] *= free_o / no
    out[2 * ti] *= free_ti / nti
    for i in range(molecules.shape[0]):
        k = mass_action(temperature, 0.0, 0.0, molecules[i], elements)
        kt = K_EV * temperature
        q = (
            molecules[i, 3]
            * kt
            / (1.239842e-4 * molecules[i, 6])
            / molecules[i, 4]
            / (1.0 - math.exp(-1.239842e-4 * molecules[i, 5] / kt))
        )
        if i == 0:
            pair = free_c * free_n
        elif i == 1:
            pair = free_c * free_o
        elif i == 2:
            pair = free_o * h_free
        elif i == 3:
            pair = free_c * free_c
        elif i == 4:
            pair = free_ti * free_o
        elif i == 5:
            pair = free_n * free_n
        else:
            pair = h_free * h_free
        out[2 * n_element + i] = k * pair / hydrogen / q
    return h_free / hydrogen, hydrogen


@njit(cache=True)
def planck(wavelength, temperature):
    """B up to a factor that depends on wavelength only; micrometres, K."""
    return 1.0 / (math.exp(14387.77 / (wavelength * temperature)) - 1.0)


# Columns of `regions` that build_atmospheres fills.
T_LINE, PE_LINE, PG_LINE, KAPPA, SLOPE, H_NEUTRAL, N_HYDROGEN, T_DEEP, NE_DEEP, KAPPA_DEEP, H_DEEP = range(11)
N_STATE = 11


@njit(cache=True, nogil=True)
def build_atmospheres(
    teff, logg, abundance, elements, molecules, centres, line_depth, hydrogen_depth, state, density
):
    """Fill `state` (n_star, n_region, N_STATE) and `density` (n_star, n_region, n_species).

    teff, logg   (n_star,) float64
    abundance    (n_star, n_element) float64, number ratio to hydrogen (element 0 is ignored)
    elements, molecules   mock_atoms tables
    centres      (n_region,) float64, micrometres
    line_depth, hydrogen_depth   (n_region,) float64, optical depths in the region's continuum where metal and
                 hydrogen lines form

    density is per hydrogen nucleus over the partition function.
    """
    for m in range(teff.shape[0]):
        tau = np.empty(N_DEPTH)
        t = np.empty(N_DEPTH)
        pg = np.empty(N_DEPTH)
        pe = np.empty(N_DEPTH)
        nh = np.empty(N_DEPTH)
        depth = np.zeros((N_DEPTH, centres.shape[0]))
        gravity = 10.0 ** logg[m]
        # mass per hydrogen nucleus
        mass = 1.66054e-24 * (1.008 + 4.0026 * HELIUM)
        scratch = np.empty(density.shape[2])
        kappa5 = 0.0
        for d in range(N_DEPTH):
            tau[d] = 10.0 ** (-4.0 + 0.3 * d)
            t[d] = teff[m] * (0.75 * (tau[d] + SURFACE)) ** 0.25
            if d == 0:
                pg[0] = 10.0 * (gravity / 2.7e4) ** 0.6
                start = 1e-4 * pg[0]
            else:
                # d ln p = g tau / (p kappa) d ln tau, with kappa taken from the layer above, then corrected
                # once
                pg[d] = pg[d - 1] + gravity * (tau[d] - tau[d - 1]) / kappa5
                start = pe[d - 1] * pg[d] / pg[d - 1]
            for _ in range(3):
                pe[d] = electrons(t[d], pg[d], abundance[m], elements, start)
                start = pe[d]
                r = saha_ratio(t[d], pe[d], elements[0, 2], elements[0, 5] / elements[0, 3])
                hydrogen = pg[d] / (K_CGS * t[d]) / (1.0 + HELIUM)
                k_h2 = mass_action(t[d], 0.0, 0.0, molecules[6], elements)
                nh[d] = free_self(hydrogen / (1.0 + r), k_h2) / hydrogen
                new = continuum(0.5, t[d], pe[d], nh[d]) / mass
                if d == 0:
                    pg[0] = math.sqrt(pg[0] * gravity * tau[0] / new)
                else:
                    mean = math.sqrt(new * kappa5)
                    pg[d] = pg[d - 1] + gravity * (tau[d] - tau[d - 1]) / mean
            pe[d] = electrons(t[d], pg[d], abundance[m], elements, start)
            old = kappa5
            kappa5 = continuum(0.5, t[d], pe[d], nh[d]) / mass
            for c in range(centres.shape[0]):
                ratio = continuum(centres[c], t[d], pe[d], nh[d]) / mass / kappa5
                scratch[c] = ratio
                if d == 0:
                    depth[0, c] = tau[0] * ratio
                else:
                    last = continuum(centres[c], t[d - 1], pe[d - 1], nh[d - 1]) / mass / old
                    depth[d, c] = depth[d - 1, c] + (tau[d] - tau[d - 1]) * 0.5 * (ratio + last)
        for c in range(centres.shape[0]):
            t_line = at_depth(depth[:, c], t, line_depth[c])
            pe_line = math.exp(at_depth(depth[:, c], np.log(pe), line_depth[c]))
            pg_line = math.exp(at_depth(depth[:, c], np.log(pg), line_depth[c]))
            h, hydrogen = densities(
                t_line, pg_line, pe_line, abundance[m], elements, molecules, density[m, c]
            )
            t_one = at_depth(depth[:, c], t, 2.0 / 3.0)
            t_deep = at_depth(depth[:, c], t, hydrogen_depth[c])
            pe_deep = math.exp(at_depth(depth[:, c], np.log(pe), hydrogen_depth[c]))
            h_deep = at_depth(depth[:, c], nh, hydrogen_depth[c])
            low = planck(centres[c], teff[m] * (0.75 * SURFACE) ** 0.25)
            s = state[m, c]
            s[T_LINE] = t_line
            s[PE_LINE] = pe_line
            s[PG_LINE] = pg_line
            s[KAPPA] = continuum(centres[c], t_line, pe_line, h)
            s[SLOPE] = (planck(centres[c], t_one) / low - 1.0) * 1.5
            s[H_NEUTRAL] = h
            s[N_HYDROGEN] = hydrogen
            s[T_DEEP] = t_deep
            s[NE_DEEP] = pe_deep / (K_CGS * t_deep)
            s[KAPPA_DEEP] = continuum(centres[c], t_deep, pe_deep, h_deep)
            s[H_DEEP] = h_deep


@njit(cache=True)
def at_depth(depth, values, where):
    """Linear interpolation of values in ln(depth), clamped at both ends; depth increases."""
    if where <= depth[0]:
        return values[0]
    for d in range(1, depth.shape[0]):
        if where <= depth[d]:
            f = math.log(where / depth[d - 1]) / math.log(depth[d] / depth[d - 1])
            return values[d - 1] + f * (values[d] - values[d - 1])
    return values[-1]
