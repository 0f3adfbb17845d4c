"""Files of the mock surveys in the surveys' own layouts: apStar, GALAH cameras, catalogues (formats.md
A1-A4).

Bytes are made from arrays with fits.py's cards; nothing here draws a random number. Every file has MOCK = T
and the generator's name and seed in its primary header, so that no mock is ever taken for data.
"""

import functools
import os

import numpy as np

from cannonkit import errors, fits, schema

GENERATOR = "cannonkit cc-mock"
MISSING = -9999.99


@functools.lru_cache(8)
def mock_cards(seed):
    """Cards that every file of a mock carries."""
    return [
        fits.card("MOCK", True, "simulated: not an observation"),
        fits.card("GENERATR", GENERATOR),
        fits.card("MOCKSEED", int(seed), "seed of the mock"),
    ]


def write(path, data):
    """Write bytes, or pieces of them, to a new file in folders that are made. TransferError, CannotCreateError."""
    try:
        with open(path, "xb") as file:
            file.writelines([data] if isinstance(data, bytes) else data)
    except FileNotFoundError:
        os.makedirs(os.path.dirname(path), exist_ok=True)
        write(path, data)
    except FileExistsError:
        raise errors.CannotCreateError(f"{path}: there already") from None
    except OSError as error:
        raise errors.TransferError(f"{path}: write failed: {error.strerror}") from None


def _image(pixels, dtype, extra=(), name=None):
    """Bytes of an image extension without checksums (as the surveys have them)."""
    pixels = np.ascontiguousarray(pixels, dtype=dtype)
    return fits.header_bytes([*_image_cards(name, pixels.shape, pixels.dtype), *extra]) + fits.data_bytes(pixels)


@functools.lru_cache(256)  # thousands of files share a few shapes: making cards was a fifth of the time
def _image_cards(name, shape, dtype):
    cards = fits.image_cards(name or "", np.empty(shape, dtype))
    return tuple(c for c in cards if name is not None or not c.startswith("EXTNAME"))


# --- APOGEE -----------------------------------------------------------------------------------------

_WAVE = [
    fits.card("CRVAL1", 4.179, "Start log10(wavelength)"),
    fits.card("CDELT1", 6e-6, "Dispersion in log10(wave)"),
    fits.card("CRPIX1", 1, "Pixel of starting wavelength"),
    fits.card("CTYPE1", "LOG-LINEAR"),
    fits.card("DC-FLAG", 1),
]
_PLANES = (
    ("flux", ">f4", "Flux (10^-17 erg/s/cm^2/Ang)"),
    ("error", ">f4", "Err (10^-17 erg/s/cm^2/Ang)"),
    ("mask", ">i2", "Pixel mask"),
    ("sky", ">f4", "Sky (10^-17 erg/s/cm^2/Ang)"),
    ("sky_error", ">f4", "Sky Error"),
    ("telluric", ">f4", "Telluric"),
    ("telluric_error", ">f4", "Telluric Error"),
)
_BUNITS = {name: [*_WAVE, fits.card("BUNIT", unit)] for name, _, unit in _PLANES}

VISIT = schema.Table(
    "",
    (
        schema.Column("JD", "f8", "d"),
        schema.Column("VREL", "f4", "km/s"),
        schema.Column("VRELERR", "f4", "km/s"),
        schema.Column("VHELIO", "f4", "km/s"),
        schema.Column("BC", "f4", "km/s"),
        schema.Column("SNR", "f4"),
        schema.Column("FIBERID", "i4"),
        schema.Column("STARFLAG", "i4"),
    ),
)


def apstar_bytes(row, planes, visits, weight, shift, seed, flat):
    """A whole apStar or asStar file of DR16: HDUs 0 to 9.

    row     a row of the allStar table (structured)
    planes  dict of (n_row, 8575) arrays: flux, error, mask, sky, sky_error, telluric, telluric_error
    visits  NVISITS; weight, shift (visits,) shares of S/N^2 and residual velocities (km/s)
    flat    with one visit: planes are 1-D (8575,), as the data model's wording allows
    """
    text = fits.card
    velocity = float(row["VHELIO_AVG"])
    cards = [
        text("SIMPLE", True),
        text("BITPIX", 16),
        text("NAXIS", 0),
        text("EXTEND", True),
        *mock_cards(seed),
        *_WAVE,
        text("NWAVE", 8575),
        text("FIELD", _word(row["FIELD"])),
        text("OBJID", _word(row["APOGEE_ID"])),
        text("TELESCOP", _word(row["TELESCOPE"])),
        text("LOCID", int(row["LOCATION_ID"])),
        text("SNR", round(float(row["SNR"]), 4), "Median S/N per apStar pixel"),
        text("NVISITS", visits),
        text("COMBTYPE", 1),
        text("STARFLAG", int(row["STARFLAG"])),
        text("ANDFLAG", int(row["ANDFLAG"])),
        text("RA", float(row["RA"])),
        text("DEC", float(row["DEC"])),
        text("J", round(float(row["J"]), 3)),
        text("H", round(float(row["H"]), 3)),
        text("K", round(float(row["K"]), 3)),
        text("VHELIO", velocity),
        text("VSCATTER", round(float(np.std(shift[:visits])), 4)),
        text("VERR", 0.03),
        text("RVTEFF", round(float(row["RV_TEFF"]))),
        text("RVLOGG", round(float(row["RV_LOGG"]), 1)),
        text("RVFEH", round(float(row["RV_FEH"]), 1)),
    ]
    snr = float(row["SNR"])
    for v in range(visits):
        cards += [
            text(f"SFILE{v + 1}", f"apVisit-r12-mock-{v + 1:03d}.fits"),
            text(f"DATE{v + 1}", f"2015-0{1 + v % 9}-1{v % 10}T03:00:00"),
            text(f"SNRVIS{v + 1}", round(snr * float(weight[v]) ** 0.5, 3)),
            text(f"FLAG{v + 1}", 0),
            text(f"VHELIO{v + 1}", round(velocity + float(shift[v]), 4)),
        ]
    parts = [fits.header_bytes(cards)]
    n_row = 1 if visits == 1 else 2 + visits
    for name, dtype, _ in _PLANES:
        pixels = planes[name][:n_row]
        parts.append(_image(pixels[0] if flat and n_row == 1 else pixels, dtype, _BUNITS[name]))
    parts.append(_image(np.linspace(1.0, 0.1, 26), ">f8"))
    table = np.zeros(visits, VISIT.dtype)
    table["JD"] = 2457000.5 + 30.0 * np.arange(visits)
    table["VHELIO"] = velocity + shift[:visits]
    table["VREL"] = table["VHELIO"] - 12.0
    table["BC"] = 12.0
    table["VRELERR"] = 0.05
    table["SNR"] = snr * np.sqrt(weight[:visits])
    table["FIBERID"] = 100
    cards = [c for c in fits.table_cards(VISIT, visits) if not c.startswith("EXTNAME")]
    parts.append(fits.header_bytes(cards) + fits.data_bytes(table))
    return b"".join(parts)


def _word(value):
    return value.decode().strip() if isinstance(value, bytes) else str(value).strip()


def _c(name, dtype, unit="", shape=()):
    return schema.Column(name, dtype, unit, shape=shape)


ALLSTAR = schema.Table(
    "allStar",
    (
        _c("APSTAR_ID", "S57"),
        _c("TARGET_ID", "S47"),
        _c("ASPCAP_ID", "S59"),
        _c("FILE", "S39"),
        _c("APOGEE_ID", "S18"),
        _c("TELESCOPE", "S8"),
        _c("LOCATION_ID", "i4"),
        _c("FIELD", "S16"),
        _c("J", "f4"),
        _c("J_ERR", "f4"),
        _c("H", "f4"),
        _c("H_ERR", "f4"),
        _c("K", "f4"),
        _c("K_ERR", "f4"),
        _c("RA", "f8", "deg"),
        _c("DEC", "f8", "deg"),
        _c("GLON", "f8", "deg"),
        _c("GLAT", "f8", "deg"),
        _c("SURVEY", "S35"),
        _c("NVISITS", "i4"),
        _c("COMBTYPE", "i4"),
        _c("COMMISS", "i2"),
        _c("SNR", "f4"),
        _c("STARFLAG", "i4"),
        _c("ANDFLAG", "i4"),
        _c("VHELIO_AVG", "f4", "km/s"),
        _c("VSCATTER", "f4", "km/s"),
        _c("VERR", "f4", "km/s"),
        _c("RV_TEFF", "f4", "K"),
        _c("RV_LOGG", "f4"),
        _c("RV_FEH", "f4"),
        _c("MEANFIB", "f4"),
        _c("SNREV", "f4"),
        _c("APSTAR_VERSION", "S5"),
        _c("ASPCAP_VERSION", "S3"),
        _c("RESULTS_VERSION", "S7"),
        _c("EXTRATARG", "i2"),
        _c("PARAM", "f4", shape=(9,)),
        _c("FPARAM", "f4", shape=(9,)),
        _c("PARAM_COV", "f4", shape=(81,)),
        _c("FPARAM_COV", "f4", shape=(81,)),
        _c("TEFF", "f4", "K"),
        _c("TEFF_ERR", "f4", "K"),
        _c("LOGG", "f4"),
        _c("LOGG_ERR", "f4"),
        _c("VMICRO", "f4", "km/s"),
        _c("VMACRO", "f4", "km/s"),
        _c("VSINI", "f4", "km/s"),
        _c("M_H", "f4"),
        _c("M_H_ERR", "f4"),
        _c("ALPHA_M", "f4"),
        _c("ALPHA_M_ERR", "f4"),
        _c("ASPCAP_CHI2", "f4"),
        _c("ASPCAP_CLASS", "S5"),
        _c("ASPCAPFLAG", "i4"),
        _c("PARAMFLAG", "i4", shape=(9,)),
        _c("FE_H", "f4"),
        _c("FE_H_ERR", "f4"),
        _c("GAIA_SOURCE_ID", "i8"),
        _c("GAIA_PARALLAX", "f8", "mas"),
        _c("GAIA_PARALLAX_ERROR", "f8", "mas"),
        _c("GAIA_PMRA", "f8", "mas/yr"),
        _c("GAIA_PMDEC", "f8", "mas/yr"),
        _c("GAIA_PHOT_G_MEAN_MAG", "f4"),
        _c("GAIA_R_EST", "f8", "pc"),
        _c("GAIA_R_LO", "f8", "pc"),
        _c("GAIA_R_HI", "f8", "pc"),
    ),
)
PARAM_SYMBOLS = ("TEFF", "LOGG", "LOG10VDOP", "METALS", "C", "N", "O Mg Si S Ca Ti", "LGVSINI", "O")


def allstar_bytes(columns, n, seed):
    """Pieces of the allStar file: HDU 1 n rows of ALLSTAR, HDU 2 index by RA hour, HDU 3 parameter symbols."""
    index = np.searchsorted(columns["RA"], np.arange(25) * 15.0).astype(">i4")
    symbols = schema.Table("", (_c("PARAM_SYMBOL", "S16", shape=(9,)), _c("ELEM_SYMBOL", "S5", shape=(26,))))
    one = np.zeros(1, symbols.dtype)
    one["PARAM_SYMBOL"][0] = PARAM_SYMBOLS
    one["ELEM_SYMBOL"][0, :14] = ("C", "CI", "N", "O", "Na", "Mg", "Al", "Si", "P", "S", "K", "Ca", "Ti", "TiII")
    yield from table_bytes(ALLSTAR, columns, np.arange(n), seed)
    yield _image(index, ">i4")
    yield from _table(symbols, one, np.arange(1))


ROWS = 32768  # of a table made at a time


def rows(table, columns, which):
    """Rows `which` of a schema.Table from columns by name, arrays or scalars."""
    out = np.zeros(len(which), table.dtype)
    for name in table.names:
        value = columns[name]
        out[name] = value[which] if np.ndim(value) else value
    return out


def _table(table, columns, which):
    """Pieces of a table extension without checksums; strings are padded with blanks, as the surveys' are."""
    yield fits.header_bytes(fits.table_cards(table, len(which)))
    for first in range(0, len(which), ROWS):
        raw = rows(table, columns, which[first:first + ROWS])
        for name in table.names:
            if table.dtype[name].base.kind == "S":
                text = np.ascontiguousarray(raw[name])
                letters = text.view(np.uint8)
                letters[letters == 0] = ord(" ")
                raw[name] = text
        yield raw.tobytes()
    yield bytes(-len(which) * table.dtype.itemsize % fits.BLOCK)


def table_bytes(table, columns, which, seed):
    """Pieces of a whole file with one table (HDU 1): the rows `which` of columns by name."""
    yield fits.header_bytes([*fits.primary_cards(), *mock_cards(seed)])
    yield from _table(table, columns, which)


# --- GALAH ------------------------------------------------------------------------------------------


def galah_bytes(camera, name, i, start, step, seed, normalised=True):
    """One camera file of GALAH DR3: HDUs 0 to 4 (0 to 3 where `normalised` is False).

    camera: dict of galah_block; i: row in it; start, step: HDU 0 grid (Angstrom, air, observer's frame).
    """
    n = int(camera["n_pix"][i])
    text = fits.card

    def grid(a, b):
        return [
            text("CRPIX1", 1.0),
            text("CRVAL1", float(a)),
            text("CDELT1", float(b)),
            text("CUNIT1", "Angstroms"),
        ]

    seen = grid(start, step)
    primary = [
        text("SIMPLE", True),
        text("BITPIX", -32),
        text("NAXIS", 1),
        text("NAXIS1", n),
        text("EXTEND", True),
        text("ORIGIN", "GALAH DR3"),
        text("OBJECT", name),
        *seen,
        *mock_cards(seed),
    ]
    parts = [fits.header_bytes(primary), fits.data_bytes(camera["counts"][i, :n].astype(">f4"))]
    for plane, extension in (
        ("sigma", "input_sigma"),
        ("with_sky", "no_sky_subspectrum"),
        ("sky_sigma", "no_sky_sigma"),
    ):
        parts.append(_image(camera[plane][i, :n], ">f4", seen, extension))
    if normalised:
        parts.append(
            _image(
                camera["normalised"][i, :n],
                ">f8",
                grid(camera["start"][i], camera["step"][i]),
                "normalised spectra",
            )
        )
    return b"".join(parts)


GALAH = schema.Table(
    "galah_dr3",
    (
        _c("star_id", "S16"),
        _c("sobject_id", "i8"),
        _c("dr2_source_id", "i8"),
        _c("dr3_source_id", "i8"),
        _c("survey_name", "S16"),
        _c("field_id", "i8"),
        _c("flag_repeat", "i8"),
        _c("wg4_field", "S24"),
        _c("wg4_pipeline", "S8"),
        _c("flag_sp", "i8"),
        _c("teff", "f8", "K"),
        _c("e_teff", "f8", "K"),
        _c("logg", "f8"),
        _c("e_logg", "f8"),
        _c("fe_h", "f8"),
        _c("e_fe_h", "f8"),
        _c("flag_fe_h", "i8"),
        _c("fe_h_atmo", "f8"),
        _c("vmic", "f8", "km/s"),
        _c("vbroad", "f8", "km/s"),
        _c("e_vbroad", "f8", "km/s"),
        _c("chi2_sp", "f8"),
        _c("alpha_fe", "f8"),
        _c("e_alpha_fe", "f8"),
        _c("nr_alpha_fe", "i8"),
        _c("flag_alpha_fe", "i8"),
        _c("rv_galah", "f8", "km/s"),
        _c("e_rv_galah", "f8", "km/s"),
        _c("snr_c1_iraf", "f8"),
        _c("snr_c2_iraf", "f8"),
        _c("snr_c3_iraf", "f8"),
        _c("snr_c4_iraf", "f8"),
        _c("red_flag", "i8"),
        _c("ra_dr2", "f8", "deg"),
        _c("dec_dr2", "f8", "deg"),
        _c("ebv", "f8"),
    ),
)
GAIA = schema.Table(
    "gaia_edr3",
    (
        _c("source_id", "i8"),
        _c("dr3_source_id", "i8"),
        _c("dr2_source_id", "i8"),
        _c("ra", "f8", "deg"),
        _c("dec", "f8", "deg"),
        _c("parallax", "f8", "mas"),
        _c("parallax_error", "f8", "mas"),
        _c("pmra", "f8", "mas/yr"),
        _c("pmdec", "f8", "mas/yr"),
        _c("phot_g_mean_mag", "f4", "mag"),
        _c("ruwe", "f4"),
    ),
)
DISTANCES = schema.Table(
    "gedr3dist",
    (
        _c("source_id", "i8"),
        _c("r_med_geo", "f8", "pc"),
        _c("r_lo_geo", "f8", "pc"),
        _c("r_hi_geo", "f8", "pc"),
        _c("r_med_photogeo", "f8", "pc"),
        _c("r_lo_photogeo", "f8", "pc"),
        _c("r_hi_photogeo", "f8", "pc"),
        _c("flag", "S5"),
    ),
)
CLUSTERS = schema.Table(
    "members",
    (
        _c("cluster", "S16"),
        _c("kind", "S8"),
        _c("source_id", "i8"),
        _c("ra", "f8", "deg"),
        _c("dec", "f8", "deg"),
        _c("memberprob", "f8"),
        _c("age", "f8", "Gyr"),
        _c("fe_h_literature", "f8"),
    ),
)
