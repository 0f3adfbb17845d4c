"""What two surveys say about the mock's stars: labels with trends and errors, identifiers, flags, S/N.

Formats.md D4, D6, D7 and Table 1 of the paper. A survey's label = truth + a smooth trend of that survey + an
error per row, in that split: the Cannon learns the trend, the error averages out. `scale_labels` gives
truth + trend, which is what a Cannon trained on that survey ought to find.
"""

import numpy as np

from cannonkit import bitmasks
from cannonkit.stages import mock_stars
from cannonkit.stages.catalogue import galah_vmicro

LABELS = ("teff", "logg", "fe_h", "alpha_fe", "vmicro", "vbroad")
GALAH_TEFF = (3000.0, 8000.0)  # the grid of GALAH DR3: labels outside it carry the grid-limit flag
APOGEE_VBROAD_GRID = np.array([1.5, 3.0, 6.0, 12.0, 24.0, 48.0, 96.0])

# Mean of APOGEE - GALAH, giants then dwarfs (paper, Table 1), and the errors per row that, with the scatter of
# the trends, give its sigma: (APOGEE giants, dwarfs), (GALAH giants, dwarfs). APOGEE's v_micro is the truth
# plus VMICRO_OFFSET, GALAH's is its formula; Table 1's offset is what lies between the two.
OFFSET = {
    "teff": (35.0, 0.0),
    "logg": (0.03, 0.08),
    "fe_h": (0.05, 0.0),
    "alpha_fe": (-0.04, -0.02),
    "vbroad": (-3.08, -2.59),
}
VMICRO_OFFSET = (0.0, -0.07)
VMICRO_TYPICAL = (1.4, 1.0)  # km/s, on its scale
ERROR = {
    "teff": ((30.0, 40.0), (58.0, 82.0)),
    "logg": ((0.05, 0.05), (0.118, 0.082)),
    "fe_h": ((0.025, 0.025), (0.050, 0.045)),
    "alpha_fe": ((0.018, 0.018), (0.036, 0.028)),
    "vmicro": ((0.27, 0.385), (0.0, 0.0)),
    "vbroad": ((0.3, 0.0), (1.13, 1.4)),
}


def _difference(name, stars):
    """The smooth part of APOGEE - GALAH for one label, (n_star,)."""
    teff = stars["teff"]
    giant = stars["logg"] < 3.5
    value = np.where(giant, *OFFSET[name])
    if name == "teff":
        return value + np.where(
            giant, 0.03 * np.clip(teff - 4700.0, -700.0, 700.0), 0.03 * np.clip(teff - 5750.0, -900.0, 900.0)
        )
    if name == "fe_h":
        cool = 0.42 * np.exp(-(((np.clip(teff, 3900.0, None) - 3900.0) / 520.0) ** 2))
        warm = 0.18 / (1.0 + np.exp(-(teff - 6050.0) / 70.0))
        return value + np.where(giant, cool - 0.055, warm - 0.025)
    if name == "alpha_fe":
        return value + np.where(
            giant,
            0.10 * np.clip((teff - 4750.0) / 600.0, -1.2, 1.0),
            0.038 * np.clip((teff - 5700.0) / 350.0, -1.5, 1.5),
        )
    return value


GALAH_SHARE = {"teff": 0.5, "logg": 0.7, "fe_h": 0.8, "alpha_fe": 0.6, "vbroad": 0.5}


def scale_labels(stars, survey):
    """Labels on the scale of 'apogee' or 'galah' without errors: dict label -> (n_star,).

    v_micro: GALAH's is its formula of these teff and logg; APOGEE's is the truth plus its offset.
    """
    out = {}
    for name, share in GALAH_SHARE.items():
        d = _difference(name, stars)
        out[name] = stars[name] + ((1.0 - share) * d if survey == "apogee" else -share * d)
    if survey == "galah":
        out["vmicro"] = galah_vmicro(out["teff"], out["logg"])
    else:
        out["vmicro"] = stars["vmicro"] + np.where(stars["logg"] < 3.5, *VMICRO_OFFSET)
        out["vbroad"] = np.maximum(out["vbroad"], 0.8)
    return out


def observed_labels(stars, survey, label_noise, rng):
    """Labels with errors: dict of labels, and dict of the reported errors (NaN where a survey has none)."""
    giant = stars["logg"] < 3.5
    n = len(stars)
    labels = scale_labels(stars, survey)
    reported = {}
    for name in LABELS:
        sigma = np.where(giant, *ERROR[name][0 if survey == "apogee" else 1])
        noise = rng.standard_normal(n)
        if label_noise:
            if name == "vmicro" and survey == "apogee":   # ASPCAP fits log v_micro: its error is a factor, 1 on average
                width = sigma / np.where(giant, *VMICRO_TYPICAL)
                labels[name] = labels[name] * np.exp(width * noise - 0.5 * width**2)
            else:
                labels[name] = labels[name] + sigma * noise
        reported[name] = np.maximum(sigma, 1e-3) * rng.uniform(0.8, 1.4, n)
    if survey == "galah":
        labels["vmicro"] = galah_vmicro(labels["teff"], labels["logg"])
        labels["vbroad"] = np.maximum(labels["vbroad"], 1.0)
        reported["vmicro"] = np.full(n, np.nan)
    else:
        labels["vmicro"] = np.clip(labels["vmicro"], 0.31, 4.8)
        wanted = np.maximum(labels["vbroad"], 1.0)
        step = np.abs(np.log(wanted[:, None] / APOGEE_VBROAD_GRID)).argmin(axis=1)
        labels["vbroad"] = np.where(giant, wanted, APOGEE_VBROAD_GRID[step])
    return labels, reported


# --- rows: which star, which observation ----------------------------------------------------------


def _groups(n_extra, candidates, mean_extra, largest, rng):
    """Pick stars and how many extra spectra each gets: geometric sizes, at most `largest` spectra in all."""
    counts = {}
    order = rng.permutation(candidates)
    p = 1.0 / mean_extra
    left = n_extra
    for star in order:
        if left <= 0:
            break
        k = min(int(rng.geometric(p)), largest - 1, left)
        counts[int(star)] = k
        left -= k
    return counts


def rows_of(stars, survey, settings, rng):
    """Star number and repeat number of each spectrum of a survey, in catalogue order: two int64 arrays.

    Repeat 0 is the best one. Groups: 2 to 14 spectra in APOGEE, 2 to 15 in GALAH (formats.md D7).
    """
    there = np.flatnonzero(stars["in_apogee" if survey == "apogee" else "in_galah"])
    plain = there[np.isin(stars["kind"][there], (b"dwarf", b"giant"))]
    extra = (
        _groups(settings.apogee_repeats, plain, 1.26, 14, rng)
        if survey == "apogee"
        else _groups(settings.galah_repeats, plain, 1.90, 15, rng)
    )
    star, repeat = [], []
    for s in there:
        k = extra.get(int(s), 0)
        star += [s] * (k + 1)
        repeat += list(range(k + 1))
    return np.array(star, dtype=np.int64), np.array(repeat, dtype=np.int64)


def signal_to_noise(stars, star, repeat, survey, rng):
    """Catalogue S/N of each spectrum; the best of a group comes first."""
    n = len(star)
    median, width = (165.0, 0.45) if survey == "apogee" else (52.0, 0.38)
    snr = median * np.exp(width * rng.standard_normal(n))
    common = stars["in_apogee"][star] & stars["in_galah"][star]
    snr = np.where(common, snr, snr * (0.75 if survey == "apogee" else 0.72))
    in_group = np.isin(star, star[repeat > 0])
    snr = np.where(in_group & (repeat > 0), snr * rng.uniform(0.15, 0.95, n), snr)
    snr = np.clip(snr, 6.0, 900.0 if survey == "apogee" else 250.0)
    # within a group: best first
    order = np.lexsort((-snr, star))
    best = np.empty(n)
    best[np.lexsort((repeat, star))] = snr[order]
    return best


def apogee_flags(stars, star, snr, settings, rng):
    """STARFLAG and ASPCAPFLAG, int64 words; rates are those of the DR12 rows times settings.flag_rate."""
    n = len(star)
    word, starflag, aspcap = bitmasks.APOGEE_STARFLAG, np.zeros(n, np.int64), np.zeros(n, np.int64)

    def toss(rate):
        return rng.random(n) < rate * settings.flag_rate

    for name, rate in (
        ("COMMISSIONING", 0.046),
        ("BRIGHT_NEIGHBOR", 0.05),
        ("PERSIST_HIGH", 0.10),
        ("PERSIST_MED", 0.06),
        ("PERSIST_LOW", 0.06),
        ("SUSPECT_RV_COMBINATION", 0.46),
        ("SUSPECT_BROAD_LINES", 0.10),
        ("VERY_BRIGHT_NEIGHBOR", 0.01),
        ("BAD_PIXELS", 0.02),
        ("PERSIST_JUMP_POS", 0.01),
        ("PERSIST_JUMP_NEG", 0.005),
        ("MTPFLUX_LT_75", 0.05),
        ("MTPFLUX_LT_50", 0.01),
    ):
        starflag[toss(rate)] |= word.mask(name)
    starflag[snr < 8.0] |= word.mask("LOW_SNR")
    rotator = np.isin(stars["kind"][star], (b"fast rotator", b"binary"))
    starflag[rotator & (rng.random(n) < 0.8)] |= word.mask("SUSPECT_BROAD_LINES")
    word = bitmasks.APOGEE_ASPCAPFLAG
    for name, rate in (
        ("TEFF_WARN", 0.19),
        ("LOGG_WARN", 0.36),
        ("M_H_WARN", 0.24),
        ("ALPHA_M_WARN", 0.02),
        ("C_M_WARN", 0.03),
        ("N_M_WARN", 0.12),
        ("CHI2_WARN", 0.04),
        ("COLORTE_WARN", 0.10),
    ):
        hit = toss(rate)
        aspcap[hit] |= word.mask(name, "STAR_WARN")
    for name, rate in (
        ("TEFF_BAD", 0.03),
        ("LOGG_BAD", 0.05),
        ("M_H_BAD", 0.03),
        ("ALPHA_M_BAD", 0.004),
        ("COLORTE_BAD", 0.05),
        ("ROTATION_BAD", 0.05),
        ("VMICRO_BAD", 0.01),
    ):
        hit = toss(rate)
        aspcap[hit] |= word.mask(name, "STAR_BAD")
    low = snr < 50.0
    aspcap[low] |= word.mask("SN_WARN")
    odd = np.isin(stars["kind"][star], (b"m dwarf", b"hot", b"fast rotator")) & (rng.random(n) < 0.7)
    aspcap[odd] |= word.mask("TEFF_BAD", "STAR_BAD")
    lost = (rng.random(n) < 0.046 * settings.flag_rate) | (
        (stars["kind"][star] == b"hot") & (rng.random(n) < 0.4)
    )
    aspcap[lost] |= word.mask("NO_ASPCAP_RESULT", "STAR_BAD")
    return starflag, aspcap, lost


def galah_flags(stars, star, teff, snr, settings, rng):
    """flag_sp, int64, and chi2_sp; `teff` is GALAH's own (K)."""
    n = len(star)
    word, flag = bitmasks.GALAH_FLAG_SP, np.zeros(n, np.int64)

    def toss(rate):
        return rng.random(n) < rate * settings.flag_rate

    for name, rate in (
        ("RUWE", 0.10),
        ("BROADENING", 0.02),
        ("REDUCTION", 0.01),
        ("BINARY_TSNE", 0.02),
        ("BINARY_SEQUENCE", 0.05),
        ("CHI2", 0.02),
        ("FE_LINES", 0.02),
        ("NO_CONVERGENCE", 0.02),
        ("GRID_LIMIT", 0.02),
    ):
        flag[toss(rate)] |= word.mask(name)
    flag[snr < 10.0] |= word.mask("LOW_SNR")
    kind = stars["kind"][star]
    for name, which, rate in (
        ("EMISSION", b"emission line", 0.9),
        ("BINARY_TSNE", b"binary", 0.6),
        ("BROADENING", b"fast rotator", 0.6),
        ("GRID_LIMIT", b"m dwarf", 0.4),
        ("FE_LINES", b"metal poor", 0.95),
        ("GRID_LIMIT", b"hot", 0.6),
    ):
        flag[(kind == which) & (rng.random(n) < rate)] |= word.mask(name)
    flag[(teff < GALAH_TEFF[0]) | (teff > GALAH_TEFF[1])] |= word.mask("GRID_LIMIT")
    chi2 = 0.55 * np.exp(0.35 * rng.standard_normal(n)) * (1.0 + (snr / 110.0) ** 2)
    return flag, chi2


def sobject_ids(n, rng):
    """Distinct GALAH sobject_id: yymmdd, run, 01, fibre (15 digits)."""
    out = set()
    while len(out) < n:
        year, month, day = rng.integers(14, 19), rng.integers(1, 13), rng.integers(1, 29)
        value = (
            (((int(year) * 100 + int(month)) * 100 + int(day)) * 10000 + int(rng.integers(5, 80))) * 100 + 1
        ) * 1000
        out.add(value + int(rng.integers(1, 393)))
    return np.array(sorted(out), dtype=np.int64)[rng.permutation(n)]


def aspcap_class(stars):
    """ASPCAP_CLASS of each star: GKg, Mg, GKd, Fd, Md, BA."""
    teff, giant = stars["teff"], stars["logg"] < 3.5
    cls = np.where(
        giant,
        np.where(teff < 3900.0, "Mg", "GKg"),
        np.where(teff < 3900.0, "Md", np.where(teff < 6000.0, "GKd", np.where(teff < 7000.0, "Fd", "BA"))),
    )
    return cls.astype("S5")


def kinds():
    """Names of the kinds of stars (truth table)."""
    return mock_stars.KINDS
