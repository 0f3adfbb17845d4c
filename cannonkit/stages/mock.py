"""The mock as a whole: stars, both surveys' catalogue rows, side tables and the truth (formats.md D).

`plan` draws everything but the spectra; the command asks stages/mock_spectra.py for those, block by block.
"""

from dataclasses import replace
from typing import NamedTuple

import numpy as np

from cannonkit import schema
from cannonkit.stages import mock_atoms, mock_spectra, mock_stars, mock_surveys

LABELS = mock_surveys.LABELS
SENTINEL = -9999.99
FILE_WIDTH = 80


class Survey(NamedTuple):
    """One survey's spectra: star and repeat number of each, catalogue rows by name, what to observe."""

    star: np.ndarray
    repeat: np.ndarray
    snr: np.ndarray
    columns: dict
    observations: mock_spectra.Observation


class Plan(NamedTuple):
    """Everything that is decided before spectra are made."""

    stars: np.ndarray
    apogee: Survey
    visits: np.ndarray
    galah: Survey
    grids: tuple
    missing_camera: np.ndarray
    no_hdu4: np.ndarray


def plan(settings):
    """Draw stars and both catalogues. settings: config.Mock. The same settings give the same plan."""

    def rng(k):
        return np.random.default_rng([settings.seed, k])

    stars = mock_stars.draw(settings, rng(1))
    apogee = _apogee(stars, settings, rng(2))
    galah = _galah(stars, settings, rng(3))
    draw = rng(4)
    n = len(galah.star)
    # Some lack a camera (the infrared one, most often), 0.2 % the normalised extension (0.04 % in DR3: formats.md A2).
    missing = np.full(n, -1)
    lost = draw.random(n) < settings.missing_cameras
    missing[lost] = draw.choice([3, 3, 3, 0, 1], size=int(lost.sum()))
    no_hdu4 = draw.random(n) < 0.002
    visits = mock_spectra.n_visits(apogee.observations, settings)
    apogee.columns["NVISITS"] = visits
    return Plan(stars, apogee, visits, galah, mock_spectra.galah_grids(galah.observations, settings), missing, no_hdu4)


# --- APOGEE -----------------------------------------------------------------------------------------


def _apogee(stars, settings, rng):
    star, repeat = mock_surveys.rows_of(stars, "apogee", settings, rng)
    snr = mock_surveys.signal_to_noise(stars, star, repeat, "apogee", rng)
    order = np.argsort(stars["ra"][star], kind="stable")  # as in allStar
    star, repeat, snr = star[order], repeat[order], snr[order]
    s = stars[star]
    labels, errors = mock_surveys.observed_labels(s, "apogee", settings.label_noise, rng)
    starflag, aspcapflag, lost = mock_surveys.apogee_flags(stars, star, snr, settings, rng)
    n = len(star)
    south = s["dec"] < -20.0
    telescope = np.where(south, b"lco25m", b"apo25m")
    ids = np.array([b"2M" + name for name in s["tmass"]], dtype="S18")
    field = _fields(s, repeat)
    prefix = np.where(south, b"as", b"ap")
    kind = np.where(south, b"s", b"n")
    cls = mock_surveys.aspcap_class(s)
    giant_grid = np.isin(cls, (b"GKg", b"Mg"))
    param = np.zeros((n, 9))
    param[:, 0], param[:, 1] = labels["teff"], labels["logg"]
    param[:, 2] = np.log10(labels["vmicro"])
    param[:, 3], param[:, 4], param[:, 5] = labels["fe_h"], s["c_fe"], s["n_fe"]
    param[:, 6] = labels["alpha_fe"]
    param[:, 7] = np.log10(np.maximum(labels["vbroad"], 0.1))
    fparam = param + np.array([60.0, 0.15, 0.0, 0.02, 0.0, 0.0, 0.01, 0.0, 0.0])
    sigma = np.stack(
        [
            errors["teff"],
            errors["logg"],
            errors["vmicro"] / labels["vmicro"] / 2.3026,
            errors["fe_h"],
            np.full(n, 0.03),
            np.full(n, 0.05),
            errors["alpha_fe"],
            np.maximum(errors["vbroad"], 0.3) / np.maximum(labels["vbroad"], 0.5) / 2.3026,
            np.full(n, 0.03),
        ],
        axis=1,
    )
    covariance = np.zeros((n, 81), np.float32)       # as allStar has it
    covariance[:, ::10] = sigma**2
    full = covariance.copy()
    full[:, 1] = full[:, 9] = 0.3 * sigma[:, 0] * sigma[:, 1]
    # Named tags: none for faint stars (H > 14.6) and where ASPCAP has no result.
    unnamed = lost | (s["h_mag"] > 14.6)

    def tag(value, missing=SENTINEL):
        return np.where(unnamed, missing, value).astype(np.float32)

    for array, missing in ((param, SENTINEL), (fparam, SENTINEL), (covariance, -999.99), (full, -999.99)):
        array[lost] = missing
    k = np.clip(s["h_mag"], None, 99.0)
    spread = 0.02 * rng.standard_normal((n, 3))
    columns = {
        "APSTAR_ID": _join(b"apogee.", telescope, b".stars.", field, b".", ids),
        "TARGET_ID": _join(telescope, b".", field, b".", ids),
        "ASPCAP_ID": _join(b"apogee.", telescope, b".r12.l33.", field, b".", ids),
        "FILE": _join(prefix, b"Star-r12-", ids, b".fits"),
        "APOGEE_ID": np.char.ljust(ids, 18),
        "TELESCOPE": telescope,
        "FIELD": field,
        "LOCATION_ID": 4000 + np.unique(field, return_inverse=True)[1],
        "J": k + 0.45 + spread[:, 0],
        "J_ERR": 0.024,
        "H": k,
        "H_ERR": 0.026,
        "K": k - 0.09 + spread[:, 1],
        "K_ERR": 0.023,
        "RA": s["ra"],
        "DEC": s["dec"],
        "GLON": galactic(s["ra"], s["dec"])[0],
        "GLAT": galactic(s["ra"], s["dec"])[1],
        "SURVEY": b"mock",
        "COMBTYPE": 1,
        "COMMISS": 0,
        "SNR": snr,
        "STARFLAG": _int32(starflag),
        "ANDFLAG": _int32(starflag & 0x21),
        "VHELIO_AVG": s["radial_velocity"],
        "VSCATTER": np.where(s["companion"] >= 0, 3.0, 0.1),
        "VERR": 0.03,
        "RV_TEFF": 250.0 * np.round(s["teff"] / 250.0),
        "RV_LOGG": 0.5 * np.round(2.0 * s["logg"]),
        "RV_FEH": 0.5 * np.round(2.0 * s["fe_h"]),
        "MEANFIB": rng.integers(1, 301, n),
        "SNREV": 1.03 * snr,
        "APSTAR_VERSION": b"stars",
        "ASPCAP_VERSION": b"r12",
        "RESULTS_VERSION": b"l33",
        "EXTRATARG": np.where(repeat > 0, 16, 0),
        "PARAM": param,
        "FPARAM": fparam,
        "PARAM_COV": covariance,
        "FPARAM_COV": full,
        "TEFF": tag(labels["teff"]),
        "TEFF_ERR": tag(errors["teff"], -999.99),
        "LOGG": tag(labels["logg"]),
        "LOGG_ERR": tag(errors["logg"], -999.99),
        "VMICRO": tag(labels["vmicro"]),
        "VMACRO": tag(np.where(giant_grid, labels["vbroad"], 1.0)),
        "VSINI": tag(np.where(giant_grid, SENTINEL, labels["vbroad"])),
        "M_H": tag(labels["fe_h"]),
        "M_H_ERR": tag(errors["fe_h"], -999.99),
        "ALPHA_M": tag(labels["alpha_fe"]),
        "ALPHA_M_ERR": tag(errors["alpha_fe"], -999.99),
        "ASPCAP_CHI2": tag(2.0 + (snr / 120.0) ** 2),
        "ASPCAP_CLASS": np.where(lost, b"", cls),
        "ASPCAPFLAG": _int32(aspcapflag),
        "PARAMFLAG": 0,
        "FE_H": tag(labels["fe_h"] + 0.01 * rng.standard_normal(n)),
        "FE_H_ERR": tag(0.02, -999.99),
        "GAIA_SOURCE_ID": s["dr2_source_id"],
        **_gaia_columns(s, rng, kind),
    }
    return Survey(star, repeat, snr, columns, mock_spectra.observations("apogee", star, snr, settings))


def _gaia_columns(s, rng, _):
    parallax, error = _parallax(s, rng, 0.04)
    return {
        "GAIA_PARALLAX": parallax,
        "GAIA_PARALLAX_ERROR": error,
        "GAIA_PMRA": s["pmra"],
        "GAIA_PMDEC": s["pmdec"],
        "GAIA_PHOT_G_MEAN_MAG": s["g_mag"],
        "GAIA_R_EST": s["distance"] * 1.01,
        "GAIA_R_LO": s["distance"] * 0.96,
        "GAIA_R_HI": s["distance"] * 1.07,
    }


def _parallax(s, rng, floor):
    error = floor * (1.0 + 0.4 * np.clip(s["g_mag"] - 12.0, 0.0, 8.0))
    return 1e3 / s["distance"] + error * rng.standard_normal(len(s)), error


def _join(*parts):
    out = np.char.add(parts[0], parts[1])
    for part in parts[2:]:
        out = np.char.add(out, part)
    return out


def _int32(word):
    """A 32-bit word as the signed integer that FITS has: bit 31 makes it negative."""
    return np.asarray(word, dtype=np.int64).astype(np.uint32).view(np.int32)


def _fields(s, repeat):
    """Field names: clusters by name, others by 10 degree cells; each repeat of a star is in another field."""
    glon, glat = galactic(s["ra"], s["dec"])
    names = []
    for i in range(len(s)):
        cluster = s["cluster"][i].decode().replace(" ", "")
        name = cluster or f"{int(glon[i] // 10) * 10:03d}{int(np.floor(glat[i] / 10)) * 10:+03d}"
        names.append(name + (f"-{'BCDEFGHIJKLMNO'[repeat[i] - 1]}" if repeat[i] > 0 else ""))
    return np.array(names, dtype="S16")


def galactic(ra, dec):
    """Galactic longitude and latitude (deg) of ICRS positions (deg); pole at 192.85948, 27.12825."""
    ra, dec = np.radians(ra), np.radians(dec)
    pole_ra, pole_dec, node = np.radians(192.85948), np.radians(27.12825), 122.93192
    b = np.arcsin(np.sin(dec) * np.sin(pole_dec) + np.cos(dec) * np.cos(pole_dec) * np.cos(ra - pole_ra))
    y = np.cos(dec) * np.sin(ra - pole_ra)
    x = np.sin(dec) * np.cos(pole_dec) - np.cos(dec) * np.sin(pole_dec) * np.cos(ra - pole_ra)
    return (node - np.degrees(np.arctan2(y, x))) % 360.0, np.degrees(b)


# --- GALAH ------------------------------------------------------------------------------------------


def _galah(stars, settings, rng):
    star, repeat = mock_surveys.rows_of(stars, "galah", settings, rng)
    snr = mock_surveys.signal_to_noise(stars, star, repeat, "galah", rng)
    ids = mock_surveys.sobject_ids(len(star), rng)
    order = np.argsort(ids)
    star, repeat, snr, ids = star[order], repeat[order], snr[order], ids[order]
    s = stars[star]
    n = len(star)
    labels, errors = mock_surveys.observed_labels(s, "galah", settings.label_noise, rng)
    flag, chi2 = mock_surveys.galah_flags(stars, star, labels["teff"], snr, settings, rng)
    lost = (rng.random(n) < 0.02 * settings.flag_rate) | ((flag & 512) != 0)  # no result of SME
    lost |= (s["kind"] == b"hot") & (rng.random(n) < 0.3)
    flag[lost] |= 512
    no_alpha = ~lost & (rng.random(n) < 0.03 * settings.flag_rate)
    poor = ~lost & (s["fe_h"] < -1.8) & (rng.random(n) < 0.3)

    def nan(value, where=lost):
        return np.where(where, np.nan, value)

    ratio = np.array(mock_spectra.GALAH_SNR_RATIO) / mock_spectra.GALAH_SNR_RATIO[1]
    columns = {
        "star_id": s["tmass"],
        "sobject_id": ids,
        "dr2_source_id": s["dr2_source_id"],
        "dr3_source_id": s["dr3_source_id"],
        "survey_name": b"galah_mock",
        "field_id": 4000 + ids // 100000 % 4000,
        "flag_repeat": repeat,
        "wg4_field": np.where(s["cluster"] == b"", b"galah", s["cluster"]),
        "wg4_pipeline": b"free",
        "flag_sp": flag,
        "teff": nan(labels["teff"]),
        "e_teff": nan(errors["teff"]),
        "logg": nan(labels["logg"]),
        "e_logg": nan(errors["logg"]),
        "fe_h": nan(labels["fe_h"]),
        "e_fe_h": nan(errors["fe_h"]),
        "flag_fe_h": np.where(lost, 16, np.where(poor, 1, 0)),
        "fe_h_atmo": nan(labels["fe_h"] + 0.02),
        "vmic": nan(labels["vmicro"]),
        "vbroad": nan(labels["vbroad"]),
        "e_vbroad": nan(errors["vbroad"]),
        "chi2_sp": chi2,
        "alpha_fe": nan(labels["alpha_fe"], lost | no_alpha),
        "e_alpha_fe": nan(errors["alpha_fe"], lost | no_alpha),
        "nr_alpha_fe": np.where(no_alpha, 0, 12),
        "flag_alpha_fe": np.where(lost | no_alpha, 32, 0),
        "rv_galah": s["radial_velocity"] + 0.3 * rng.standard_normal(n),
        "e_rv_galah": 0.3,
        "snr_c1_iraf": snr * ratio[0],
        "snr_c2_iraf": snr,
        "snr_c3_iraf": snr * ratio[2],
        "snr_c4_iraf": snr * ratio[3],
        "red_flag": 0,
        "ra_dr2": s["ra"] + 15.5 / 3.6e6 * s["pmra"] / np.cos(np.radians(s["dec"])),
        "dec_dr2": s["dec"] + 15.5 / 3.6e6 * s["pmdec"],
        "ebv": 0.05,
    }
    return Survey(star, repeat, snr, columns, mock_spectra.observations("galah", star, snr, settings))


# --- side tables ------------------------------------------------------------------------------------


def gaia_columns(stars, settings):
    """Gaia EDR3 and Bailer-Jones columns of the stars that a survey has: two dicts and their number."""
    rng = np.random.default_rng([settings.seed, 5])
    s = stars[stars["in_apogee"] | stars["in_galah"]]
    n = len(s)
    parallax, error = _parallax(s, rng, 0.018)
    gaia = {
        "source_id": s["dr3_source_id"],
        "dr3_source_id": s["dr3_source_id"],
        "dr2_source_id": s["dr2_source_id"],
        "ra": (s["ra"] + 16.0 / 3.6e6 * s["pmra"] / np.cos(np.radians(s["dec"]))) % 360.0,
        "dec": s["dec"] + 16.0 / 3.6e6 * s["pmdec"],
        "parallax": parallax,
        "parallax_error": error,
        "pmra": s["pmra"],
        "pmdec": s["pmdec"],
        "phot_g_mean_mag": s["g_mag"],
        "ruwe": np.where(s["companion"] >= 0, 1.8, 1.0) + 0.05 * rng.standard_normal(n),
    }
    wide = np.clip(error / np.maximum(np.abs(parallax), 0.02), 0.005, 0.5)
    median = s["distance"] * (1.0 + 0.5 * wide * rng.standard_normal(n))
    photo = s["distance"] * (1.0 + 0.3 * wide * rng.standard_normal(n))
    none = rng.random(n) < 0.01  # no colour: no photogeometric distance
    far = {
        "source_id": s["dr3_source_id"],
        "r_med_geo": median,
        "r_lo_geo": median * (1.0 - wide),
        "r_hi_geo": median * (1.0 + 1.2 * wide),
        "r_med_photogeo": np.where(none, np.nan, photo),
        "r_lo_photogeo": np.where(none, np.nan, photo * (1.0 - 0.7 * wide)),
        "r_hi_photogeo": np.where(none, np.nan, photo * (1.0 + 0.8 * wide)),
        "flag": b"10033",
    }
    return gaia, far, n


def cluster_columns(stars, settings):
    """Members of the ten clusters with probabilities, and a few field stars with low ones."""
    rng = np.random.default_rng([settings.seed, 6])
    there = np.flatnonzero((stars["cluster"] != b"") & (stars["companion"] < 0))
    field = np.flatnonzero((stars["cluster"] == b"") & stars["in_galah"])[: len(there) // 8]
    which = np.concatenate([there, field])
    s = stars[which]
    name = s["cluster"].copy()
    name[len(there) :] = rng.choice([c[0].encode() for c in mock_stars.CLUSTERS], size=len(field))
    member = np.arange(len(which)) < len(there)
    facts = {c[0].encode(): c for c in mock_stars.CLUSTERS}
    return {
        "cluster": name,
        "kind": np.array([facts[x][1] for x in name], dtype="S8"),
        "source_id": s["dr3_source_id"],
        "ra": s["ra"],
        "dec": s["dec"],
        "memberprob": np.where(member, rng.uniform(0.6, 1.0, len(which)), rng.uniform(0.0, 0.4, len(which))),
        "age": np.array([facts[x][5] for x in name]),
        "fe_h_literature": np.array([facts[x][6] for x in name]),
    }, len(which)


# --- the truth --------------------------------------------------------------------------------------


def truth_table():
    """schema.Table of truth.fits: a row per spectrum of either survey."""
    c = schema.Column
    units = {"teff": "K", "vmicro": "km/s", "vbroad": "km/s"}
    columns = [
        c("survey", "S8", "", "apogee or galah"),
        c("id", "S64", "", "APOGEE_ID or sobject_id, as the catalogue names it"),
        c("repeat_id", "S64", "", "APSTAR_ID or sobject_id, as the repeats name it"),
        c("star_id", "S32", "", "the survey's identifier of the star"),
        c("star", "i8", "", "number of the star in the mock"),
        c("repeat", "i4", "", "0 = the star's best spectrum"),
        c("kind", "S16", "", "what the star is"),
        c("cluster", "S16", "", "cluster, blank for the field"),
        c("common", "u1", "", "1 = both surveys have the star"),
        c("second_generation", "u1", "", "1 = nitrogen-enhanced second generation (planted)"),
        c("snr", "f8", "", "catalogue S/N"),
    ]
    for prefix, what in (
        ("", "truth"),
        ("apogee_", "truth + APOGEE's trend"),
        ("galah_", "truth + GALAH's trend"),
    ):
        columns += [
            c(prefix + name, "f8", units.get(name, "dex"), f"{name}: {what}, no random error")
            for name in LABELS
        ]
    columns += [
        c(f"survey_{name}", "f8", units.get(name, "dex"), f"{name} as the survey's catalogue has it")
        for name in LABELS
    ]
    columns += [
        c("c_fe", "f8", "dex", "hidden label [C/Fe]"),
        c("n_fe", "f8", "dex", "hidden label [N/Fe]"),
        c("v_rotation", "f8", "km/s", "v sin i"),
        c("v_macro", "f8", "km/s", "macroturbulence"),
        c("radial_velocity", "f8", "km/s", "taken out of the spectra"),
        c("distance", "f8", "pc", "distance"),
        c("companion_flux", "f8", "", "flux of a double-lined companion over the star's"),
        c("companion_teff", "f8", "K", "of that companion; other composition and broadening as the star's"),
        c("companion_logg", "f8", "dex", "of that companion"),
        c("companion_vmicro", "f8", "km/s", "of that companion"),
        c("velocity_difference", "f8", "km/s", "companion's radial velocity minus the star's"),
        c("emission", "f8", "", "height of an H-alpha emission line over the continuum"),
        c("h_mag", "f8", "mag", "H magnitude"),
        c("missing_camera", "i2", "", "GALAH camera 1-4 that is not there, 0 = none"),
        c("not_normalised", "u1", "", "1 = GALAH files without normalised flux"),
        c("number", "i8", "", "key of what is random in the spectrum"),
        c("visits", "i4", "", "APOGEE: visits in the spectrum"),
        c("lsf", "f8", "", "width of the line-spread function over the usual one (fibre)"),
        c("velocity_left", "f8", "km/s", "what is left of the radial velocity in the spectrum"),
        c("file", f"S{FILE_WIDTH}", "", "file of the spectrum, as cc-resample names it"),
        c(
            "x_fe",
            "f8",
            "dex",
            "hidden [X/Fe] beyond alpha_fe: " + " ".join(mock_atoms.SYMBOLS),
            (mock_stars.N_ELEMENT,),
        ),
    ]
    return schema.Table("TRUTH", tuple(columns))


def _truth_of(stars, name, survey, labels):
    """Rows of `truth_table` for one survey's spectra, without their identifiers.

    labels: dict of the survey's labels, (n_spectrum,) each.
    """
    s = stars[survey.star]
    out = np.zeros(len(s), truth_table().dtype)
    out["survey"] = name.encode()
    out["common"] = s["in_apogee"] & s["in_galah"]
    out["repeat"], out["snr"] = survey.repeat, survey.snr
    out["companion_flux"] = s["flux_ratio"]
    pair = s["companion"] >= 0
    other = stars[s["companion"]]
    for column in ("teff", "logg", "vmicro"):
        out[f"companion_{column}"] = np.where(pair, other[column], np.nan)
    for column in (
        "star", "kind", "cluster", "second_generation", *LABELS, "c_fe", "n_fe", "v_rotation", "v_macro",
        "radial_velocity", "distance", "x_fe", "velocity_difference", "emission", "h_mag",
    ):
        out[column] = s[column]
    for scale in ("apogee", "galah"):
        on_scale = mock_surveys.scale_labels(s, scale)
        for label in LABELS:
            out[f"{scale}_{label}"] = on_scale[label]
    for label in LABELS:
        out[f"survey_{label}"] = labels[label]
    obs = survey.observations
    out["number"], out["lsf"], out["velocity_left"] = obs.number, obs.lsf, obs.shift
    out["visits"] = 1
    return out


TRUTH_ROWS = 32768  # made at a time


def truth_blocks(plan):
    """Blocks of `truth_table` rows: APOGEE spectra in catalogue order, then GALAH's."""
    for fill, survey in ((_apogee_truth, plan.apogee), (_galah_truth, plan.galah)):
        for first in range(0, len(survey.star), TRUTH_ROWS):
            part = slice(first, first + TRUTH_ROWS)
            columns = {name: value[part] if np.ndim(value) else value for name, value in survey.columns.items()}
            yield fill(plan, part, Survey(survey.star[part], survey.repeat[part], survey.snr[part], columns,
                                          mock_spectra.take(survey.observations, part)))


def truth_rows(plan):
    """All of them together."""
    return np.concatenate(list(truth_blocks(plan)))


def _apogee_truth(plan, part, survey):
    columns = survey.columns
    param = columns["PARAM"]
    named = {"teff": param[:, 0], "logg": param[:, 1], "fe_h": param[:, 3], "alpha_fe": param[:, 6],
             "vmicro": 10.0 ** param[:, 2], "vbroad": 10.0 ** param[:, 7]}
    lost = param[:, 0] < -9000.0
    out = _truth_of(plan.stars, "apogee", survey,
                    {name: np.where(lost, np.nan, value) for name, value in named.items()})
    out["id"] = out["star_id"] = np.char.strip(columns["APOGEE_ID"])
    out["repeat_id"] = columns["APSTAR_ID"]
    out["visits"] = plan.visits[part]
    out["file"] = _join(columns["TELESCOPE"], b"/", columns["FIELD"], b"/", columns["FILE"])
    return out


def _galah_truth(plan, part, survey):
    columns = survey.columns
    named = {name: columns["vmic" if name == "vmicro" else name] for name in LABELS}
    out = _truth_of(plan.stars, "galah", survey, named)
    out["id"] = out["repeat_id"] = columns["sobject_id"].astype("S20")
    out["star_id"] = columns["star_id"]
    out["missing_camera"], out["not_normalised"] = plan.missing_camera[part] + 1, plan.no_hdu4[part]
    out["file"] = np.char.add(out["id"], b"{ccd}.fits")
    return out


DRAWN = 1024  # stars drawn together


def drawn_truth(survey, block, settings):
    """Truth of spectra DRAWN * block to DRAWN * (block + 1) - 1 of an endless mock survey of field stars.

    One spectrum a star, named mock<number>; nothing depends on how many are asked for.
    """
    changes = {"common": 0, "apogee_only": 0, "galah_only": 0, f"{survey}_only": DRAWN, "clusters": 0.0}
    rng = np.random.default_rng([settings.seed, 91, mock_spectra.SURVEY_KEY[survey], block])
    stars = mock_stars.draw(replace(settings, **changes), rng)
    star = np.arange(DRAWN)
    repeat = np.zeros(DRAWN, np.int64)
    snr = mock_surveys.signal_to_noise(stars, star, repeat, survey, rng)
    number = DRAWN * block + star
    labels, _ = mock_surveys.observed_labels(stars[star], survey, settings.label_noise, rng)
    observed = mock_spectra.observations(survey, star, snr, settings, number)
    out = _truth_of(stars, survey, Survey(star, repeat, snr, {}, observed), labels)
    out["id"] = out["repeat_id"] = out["star_id"] = np.char.add(b"mock", np.char.zfill(number.astype("S12"), 12))
    out["star"] = number
    return out
