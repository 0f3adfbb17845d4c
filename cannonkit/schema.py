"""Every FITS extension and column that cannonkit writes: name, type, unit, meaning. Written once.

A `Table` is a list of `Column`s with the numpy dtype of its rows as they stand in the file
(big-endian). Column types: i2 i4 i8 u1 f4 f8 and S<n> (bytes); truth values are u1, 0 or 1. Missing values
are NaN in floats, blank in strings, the column's `null` (FITS TNULL) in integers.
"""
from dataclasses import dataclass, replace

import numpy as np

from cannonkit import errors

ID_WIDTH = 64       # a survey's name for one spectrum (sobject_id, APOGEE_ID, APSTAR_ID)
STAR_ID_WIDTH = 32  # what groups spectra of one star
NULL_ID = -9223372036854775808  # TNULL of 64-bit integers: no survey flag or Gaia id has it


@dataclass(frozen=True)
class Label:
    """A stellar label: our name, FITS unit, meaning, and its column in Table A1 of the paper."""

    name: str
    unit: str
    description: str
    table_a1: str = ""


LABELS = {label.name: label for label in (
    Label("teff", "K", "effective temperature", "teff"),
    Label("logg", "dex", "surface gravity, log10(g / (cm/s^2))", "logg"),
    Label("fe_h", "dex", "metallicity [Fe/H]", "feh"),
    Label("alpha_fe", "dex", "alpha enhancement [alpha/Fe]", "alphafe"),
    Label("vmicro", "km/s", "microturbulence velocity", "vmicro"),
    Label("vbroad", "km/s", "line broadening velocity", "vbroad"),
)}
FLAG_LABELS = ("teff", "logg", "fe_h", "alpha_fe")  # labels of the distance, equation 5


def label(name, unit=""):
    """The Label called `name`; a name that is not one of the paper's six gets the unit given."""
    return LABELS.get(name) or Label(name, unit, f"label {name}")


# --- columns and tables -----------------------------------------------------------------------

@dataclass(frozen=True)
class Column:
    """One column. `dtype` is a numpy type without byte order; `shape` is that of one row's value."""

    name: str
    dtype: str
    unit: str = ""
    description: str = ""
    shape: tuple = ()
    null: int | None = None
    ucd: str = ""

    @property
    def numpy_dtype(self):
        """Big-endian numpy type, as in the file."""
        return np.dtype(self.dtype).newbyteorder(">")


@dataclass(frozen=True)
class Table:
    """An extension of rows: its name and columns, in order."""

    name: str
    columns: tuple

    def __post_init__(self):
        names = [c.name.casefold() for c in self.columns]
        twice = sorted({n for n in names if names.count(n) > 1})
        if twice:
            raise errors.DataError(f"{self.name}: two columns called {twice[0]!r} (names are compared ignoring case)")

    @property
    def names(self):
        return tuple(c.name for c in self.columns)

    @property
    def dtype(self):
        return np.dtype([(c.name, c.numpy_dtype, c.shape) if c.shape else (c.name, c.numpy_dtype)
                         for c in self.columns])

    def __getitem__(self, name):
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)

    def with_columns(self, columns):
        """The table with more columns at its end; one of the same name is replaced in its place."""
        new = {c.name: c for c in columns}
        kept = tuple(new.pop(c.name, c) for c in self.columns)
        return replace(self, columns=kept + tuple(new.values()))

    def without(self, names):
        return replace(self, columns=tuple(c for c in self.columns if c.name not in names))

    def only(self, names):
        return replace(self, columns=tuple(self[n] for n in names))

    def empty(self, n_row):
        """`n_row` rows with every value missing: NaN, blank, null, or 0 where there is no null."""
        rows = np.zeros(n_row, self.dtype)
        for c in self.columns:
            if c.numpy_dtype.kind == "f":
                rows[c.name] = np.nan
            elif c.null is not None:
                rows[c.name] = c.null
        return rows

    def rows(self, n_row, source=None, **values):
        """Rows from arrays by column name; columns not given come from `source`, or are missing."""
        rows = np.zeros(n_row, self.dtype)
        for c in self.columns:
            if c.name in values:
                rows[c.name] = values.pop(c.name)
            elif source is not None and c.name in source.dtype.names:
                rows[c.name] = source[c.name]
            elif c.numpy_dtype.kind == "f":
                rows[c.name] = np.nan
            elif c.null is not None:
                rows[c.name] = c.null
        if values:
            raise KeyError(f"{self.name} has no column {sorted(values)}")
        return rows


def native(array):
    """`array` in the machine's byte order (itself when it is already)."""
    array = np.asarray(array)
    if array.dtype.isnative:
        return array
    return array.astype(array.dtype.newbyteorder("="))


def text(array):
    """A bytes column as an array of str without trailing blanks."""
    return np.char.rstrip(np.char.decode(np.asarray(array), "latin-1"))


def label_array(rows, names):
    """Columns of `rows` as (n_row, n_label) float64. Raises DataError naming an absent column."""
    missing = [n for n in names if n not in rows.dtype.names]
    if missing:
        raise errors.DataError(f"no column {missing[0]!r}{errors.did_you_mean(missing[0], rows.dtype.names)}")
    return np.stack([np.asarray(rows[n], np.float64) for n in names], axis=1) if names else \
        np.empty((len(rows), 0))


# --- the products -----------------------------------------------------------------------------

PRODUCTS = ("training", "spectra", "model", "labels", "errors", "catalogue", "residuals", "truth")

WAVELENGTH = Table("WAVELENGTH", (
    Column("wavelength", "f8", "Angstrom", "rest wavelength of the pixel; air or vacuum by the MEDIUM keyword"),
    Column("segment", "i2", "", "camera or detector of the pixel, from 0"),
))


def _identity(id_width=ID_WIDTH):
    return (
        Column("id", f"S{id_width}", "", "the survey's name of this spectrum", ucd="meta.id;meta.main"),
        Column("star_id", f"S{STAR_ID_WIDTH}", "", "what spectra of one star have in common", ucd="meta.id"),
        Column("visit", "i4", "", "0 = the star's combined spectrum, k = its visit k"),
    )


def spectra_table(n_pix, file_width=1, id_width=ID_WIDTH):
    """SPECTRA: one spectrum a row, on one grid. ivar = 0 masks a pixel; its flux is then 1."""
    return Table("SPECTRA", _identity(id_width) + (
        Column("file", f"S{max(1, file_width)}", "", "file that the spectrum was read from"),
        Column("snr_survey", "f4", "", "S/N in the survey's catalogue", ucd="stat.snr"),
        Column("snr", "f4", "", "measured S/N per pixel: median of flux times sqrt(ivar)", ucd="stat.snr"),
        Column("n_bad", "i4", "", "pixels masked, of those in the survey's range"),
        Column("status", "i4", "", "what is wrong with the spectrum, bits STATnn of this header; 0 = nothing"),
        Column("flux", "f4", "", "continuum-normalised flux", (n_pix,), ucd="phot.flux.density"),
        Column("ivar", "f4", "", "inverse variance of flux; 0 = masked", (n_pix,)),
    ))


def label_columns(names, units=None):
    """One f8 column per label."""
    units = units or {}
    found = [label(n, units.get(n, "")) for n in names]
    return tuple(Column(x.name, "f8", x.unit, x.description) for x in found)


def second_minimum_columns(names, units=None):
    """Where another start of the fit ended: NaN where all ended in the same minimum."""
    units = units or {}
    found = [label(n, units.get(n, "")) for n in names]
    return (Column("second_delta_chi2", "f8", "", "chi2 of the second minimum minus chi2; negative where it is "
                   "lower, but outside the training range"),
            *(Column(f"second_{x.name}", "f8", x.unit, f"{x.name} in the second minimum") for x in found))


def residuals_table():
    """RESIDUALS: distribution of observed minus model flux, pixel by pixel, over the stars fitted."""
    return Table("RESIDUALS", (
        Column("n_star", "i4", "", "stars with data in the pixel"),
        Column("p16", "f4", "", "16th percentile of observed - model flux"),
        Column("median", "f4", "", "median of observed - model flux"),
        Column("p84", "f4", "", "84th percentile of observed - model flux"),
    ))


def labels_table(names, units=None, id_width=ID_WIDTH, n_component=0):
    """LABELS: what cc-infer says of each spectrum, row for row with its input; with n_component, a column z."""
    units = units or {}
    found = [label(n, units.get(n, "")) for n in names]
    return Table("LABELS", _identity(id_width) + (
        Column("snr_survey", "f4", "", "S/N in the survey's catalogue", ucd="stat.snr"),
        *(Column(x.name, "f8", x.unit, x.description) for x in found),
        *(Column(f"e_{x.name}", "f8", x.unit, f"formal error of {x.name}", ucd="stat.error") for x in found),
        Column("cov", "f8", "", "formal covariance of the labels, in products of their units",
               (len(found), len(found))),
        Column("chi2", "f8", "", "chi-square of the fit, model scatter included"),
        Column("r_chi2", "f8", "", "chi2 / (n_pix_used - number of labels)"),
        Column("snr", "f4", "", "measured S/N per pixel: median of flux times sqrt(ivar)", ucd="stat.snr"),
        Column("snr_cannon", "f4", "", "median of flux / sqrt(1/ivar + s2), as earlier Cannon codes give it"),
        Column("n_pix_used", "i4", "", "pixels in the fit"),
        Column("n_pix_bad", "i4", "", "pixels left out because of NaN flux or invalid ivar"),
        Column("n_iter", "i4", "", "iterations of the fit, from all starts together"),
        Column("status", "i4", "", "what is wrong with the fit, bits STATnn of this header; 0 = nothing"),
        Column("spectrum_status", "i4", "", "status word of the input spectrum, bits SPECnn; 0 = nothing"),
        *second_minimum_columns(names, units),
        *((Column("z", "f8", "", "amplitudes of the model's misfit components: mean, given the spectrum",
                  (n_component,)),) if n_component else ()),
    ))


def bit_cards(prefix, bits):
    """Header cards that name every bit of a word: {'STAT00': ('NAME', 'meaning'), ...}."""
    return {f"{prefix}{bit.number:02d}": (bit.name, bit.meaning) for bit in bits.values()}


def survey_columns(survey, labels, extra=()):
    """The block of one survey in a training table: names prefixed with `{survey}_`.

    Positions in degrees (ICRS), parallaxes in mas, distances in pc; `extra` are more Columns.
    """
    block = [
        Column("id", f"S{ID_WIDTH}", "", "name of the spectrum", ucd="meta.id"),
        Column("star_id", f"S{STAR_ID_WIDTH}", "", "name of the star", ucd="meta.id"),
        Column("spectrum", "S160", "", "file of the spectrum, relative to the root of the survey's spectra"),
        Column("ra", "f8", "deg", "right ascension, ICRS", ucd="pos.eq.ra"),
        Column("dec", "f8", "deg", "declination, ICRS", ucd="pos.eq.dec"),
        Column("snr", "f4", "", "S/N of the survey that the cuts use", ucd="stat.snr"),
    ]
    for name in labels:
        x = label(name)
        block += [Column(name, "f8", x.unit, x.description),
                  Column(f"e_{name}", "f8", x.unit, f"error of {name}", ucd="stat.error")]
    block += [
        Column("flag_spectra", "i8", "", "problem-spectrum word of the survey", null=NULL_ID),
        Column("flag_sp", "i8", "", "flag word of the survey's pipeline", null=NULL_ID),
        Column("flag_survey", "i2", "", "1 = a label of the survey is invalid"),
        Column("dr2_source_id", "i8", "", "Gaia DR2 source id", null=NULL_ID, ucd="meta.id"),
        Column("dr3_source_id", "i8", "", "Gaia EDR3 source id", null=NULL_ID, ucd="meta.id"),
        Column("parallax", "f8", "mas", "Gaia parallax", ucd="pos.parallax"),
        Column("e_parallax", "f8", "mas", "error of the parallax", ucd="stat.error;pos.parallax"),
        Column("r_est", "f8", "pc", "distance", ucd="pos.distance"),
        Column("r_lo", "f8", "pc", "lower bound of the distance", ucd="pos.distance"),
        Column("r_hi", "f8", "pc", "upper bound of the distance", ucd="pos.distance"),
        *extra,
    ]
    return tuple(replace(c, name=f"{survey}_{c.name}", description=f"{survey}: {c.description}") for c in block)




def training_table(surveys, labels, extra=()):
    """TRAINING: one row per star (or per spectrum of one survey's selection), all rows kept."""
    columns = []
    for survey in surveys:
        columns += survey_columns(survey, labels)
    return Table("TRAINING", (*columns, *extra,
                              Column("selected", "u1", "", "the row passes every cut"),
                              Column("reject", "i8", "", "cuts that the row fails, bits REJBnn of this header")))


MODEL_PIXELS = Table("PIXELS", (
    Column("status", "i4", "", "what happened in the fit, bits STATnn of this header; 0 = nothing"),
    Column("n_good", "i4", "", "training stars with data in the pixel"),
    Column("ivar_scale", "f8", "", "the survey's ivar is multiplied by this, in training and in inference"),
))


def model_components_table(n_pix):
    """COMPONENTS of a model that has them: one misfit component a row, the strongest first."""
    return Table("COMPONENTS", (
        Column("strength", "f8", "", "squared S/N of one unit of the component in a mean training spectrum"),
        Column("loading", "f8", "", "flux of one unit of the component: the spectrum is theta v + sum of z loading, "
               "with z of zero mean and unit variance", (n_pix,)),
    ))


MODEL_LABELS = Table("LABELS", (
    Column("name", "S32", "", "label"),
    Column("unit", "S24", "", "its unit"),
    Column("p2_5", "f8", "", "2.5th percentile of the training labels"),
    Column("p50", "f8", "", "median of the training labels: the pivot of equation 2"),
    Column("p97_5", "f8", "", "97.5th percentile of the training labels"),
    Column("bias", "f8", "", "cross-validation: mean of held-out minus input label"),
    Column("scatter", "f8", "", "cross-validation: half the 16-84 range of held-out minus input label"),
    Column("rms", "f8", "", "cross-validation: root mean square of held-out minus input label, K of equation 5"),
))


def model_training_table(names, units=None):
    """TRAINING of a model: every star that was offered; `used` 0 where a label was missing."""
    columns = label_columns(names, units)
    return Table("TRAINING", (
        Column("id", f"S{ID_WIDTH}", "", "name of the spectrum", ucd="meta.id;meta.main"),
        Column("star_id", f"S{STAR_ID_WIDTH}", "", "name of the star", ucd="meta.id"),
        Column("used", "u1", "", "1 = the star was trained on"),
        Column("fold", "i4", "", "fold in which the star was held out, from 0; -1 = none"),
        *columns,
        *(replace(c, name=f"cv_{c.name}", description=f"{c.description}, inferred while held out") for c in columns),
        Column("cv_cov", "f8", "", "formal covariance of the held-out labels", (len(columns), len(columns))),
        Column("cv_status", "i4", "", "status of the held-out fit (bits of cc-infer's labels)"),
    ))


END = Table("END", (
    Column("extname", "S32", "", "name of the extension"),
    Column("n_row", "i8", "", "its rows (tables) or elements (images)"),
    Column("datasum", "i8", "", "its DATASUM"),
))


# --- flags (cc-flag) ----------------------------------------------------------------------------

MODEL_FLAGS = (
    Column("cannon_distance", "f8", "", "distance to the training set, equation 5"),
    Column("leverage", "f8", "", "leverage of the labels in the training design; LEVMEAN = mean of training"),
    Column("outside_fraction", "f8", "", "fraction of labels outside the 2.5-97.5 training percentiles"),
    Column("spectrum_distance", "f8", "", "(chi2 - nu) / sqrt(2 nu), nu = n_pix_used - number of labels"),
    Column("flag_cannon_dist", "i2", "", "1 = cannon_distance above the limit, or none"),
    Column("flag_training", "i2", "", "0 = star of the training set"),
)
SURVEY_FLAGS = (
    Column("flag_spectra", "i8", "", "survey's problem-spectrum word; bits FSPBnn of the header", null=NULL_ID),
    Column("flag_sp_aspcap", "i8", "", "survey's pipeline word, bits FPIBnn of this header", null=NULL_ID),
    Column("flag_survey", "i2", "", "1 = a label of the survey is invalid"),
    Column("flag_snr", "i2", "", "1 = S/N of the survey not above SNRMIN"),
)


def flag_columns(survey=True):
    """Columns that cc-flag adds; those of the survey's words only where its catalogue is given."""
    return MODEL_FLAGS + (SURVEY_FLAGS if survey else ())


# --- errors (cc-errors) -------------------------------------------------------------------------

def error_columns(names, units=None):
    """Columns that cc-errors apply adds: final errors, their covariance, where they come from."""
    units = units or {}
    found = [label(n, units.get(n, "")) for n in names]
    n = len(found)
    return (*(Column(f"err_{x.name}", "f8", x.unit, f"final error of {x.name}", ucd="stat.error")
              for x in found),
            Column("cov_final", "f8", "", "covariance with err_<label>^2 on its diagonal", (n, n)),
            Column("error_source", "i2", "",
                   "bit i = error of label i is the precision, not the scaled formal one"))


def _interval(name, what):
    return (Column(name, "f8", "", what),
            Column(f"{name}_err", "f8", "", f"bootstrap standard deviation of {name}"),
            Column(f"{name}_lo", "f8", "", f"lower end of the 2-sigma interval of {name}"),
            Column(f"{name}_hi", "f8", "", f"upper end of the 2-sigma interval of {name}"))


FACTORS = Table("FACTORS", (
    Column("label", "S16", "", "label"),
    Column("unit", "S16", "", "its unit"),
    *_interval("f_robust", "factor of the formal error, from 16-84 widths without outliers"),
    *_interval("f_standard", "factor of the formal error, from variances (equation 6)"),
    Column("f_1684", "f8", "", "factor from half the 84th minus 16th percentile, with outliers"),
    Column("offset", "f8", "", "median of label minus reference, in label units; 0 for repeats"),
    Column("n_pair", "i8", "", "pairs (differences) used"),
    Column("n_independent", "f8", "", "sum of their weights: n - 1 per group of n"),
    Column("n_group", "i8", "", "stars"),
    Column("n_outlier", "i8", "", "outlying pairs"),
    Column("scale", "f8", "", "label units per unit of the scaled label (p97.5 - p2.5)"),
    Column("f_scaled", "f8", "", "f_1684 times scale: for a covariance in scaled units, as in Table 4"),
    Column("f_full", "f8", "", "factor of the full model at ln g = 0; NaN = not fitted"),
    Column("floor_full", "f8", "", "floor of the full model at ln g = 0, in label units"),
))
PRECISION = Table("PRECISION", (
    Column("label", "S16", "", "label"),
    Column("kind", "S16", "", "paper: with the noise of the best spectrum; unbiased: without"),
    Column("a", "f8", "", "precision = a exp(-snr / b) + c, in label units"),
    Column("b", "f8", "", "S/N scale"),
    Column("c", "f8", "", "plateau, in label units"),
    Column("n", "i8", "", "differences behind it"),
))
PRECISION_POINTS = Table("POINTS", (
    Column("label", "S16", "", "label"),
    Column("snr", "f8", "", "median S/N of the bin"),
    Column("width", "f8", "", "half 16-84 range of lower-S/N minus best spectrum, in label units"),
    Column("error", "f8", "", "its standard error"),
    Column("count", "i8", "", "differences in the bin"),
))
FULL = Table("FULL", (
    Column("label", "S16", "", "label"),
    Column("axis1", "S16", "", "quantity (snr: in ln S/N)"),
    Column("axis2", "S16", "", "second quantity; blank for a function of one"),
    Column("x1", "f8", "", "node in axis1, as interpolated"),
    Column("x2", "f8", "", "node in axis2; NaN for a function of one"),
    Column("value", "f8", "", "ln g at the node"),
    Column("count", "f8", "", "pairs behind the node"),
))
PULLS = Table("PULLS", (
    Column("label", "S16", "", "label"),
    Column("axis", "S16", "", "quantity of the bins; all = one bin"),
    Column("low", "f8", "", "smallest value in the bin"),
    Column("high", "f8", "", "largest value in the bin"),
    Column("centre", "f8", "", "median value in the bin"),
    Column("n_pair", "i8", "", "pairs"),
    Column("n_independent", "f8", "", "sum of their weights"),
    Column("formal", "f8", "", "16-84 width of pulls with the formal errors"),
    Column("factor", "f8", "", "16-84 width of pulls with the factor alone"),
    Column("paper", "f8", "", "16-84 width of pulls with the paper's final errors"),
    Column("full", "f8", "", "16-84 width of pulls with the full model; NaN = not fitted"),
    Column("error", "f8", "", "standard error of a width of 1"),
))


# --- the catalogue (cc-merge catalogue; Table A1 of the paper) -------------------------------------

# label -> (name in Table A1, unit in words, UCD)
_A1_LABELS = {
    "teff": ("teff", "K", "effective temperature", "phys.temperature.effective"),
    "logg": ("logg", "log(cm/s^2)", "surface gravity", "phys.gravity"),
    "fe_h": ("feh", "dex", "metallicity [Fe/H]", "phys.abund.Z"),
    "alpha_fe": ("alphafe", "dex", "alpha enhancement [alpha/Fe]", "phys.abund"),
    "vmicro": ("vmicro", "km/s", "microturbulence velocity", "phys.veloc.microTurb"),
    "vbroad": ("vbroad", "km/s", "line broadening velocity", "phys.veloc"),
}
A1_NAMES = {name: a1[0] for name, a1 in _A1_LABELS.items()}


def _a1_labels(suffix, source, error):
    for a1, unit, what, ucd in _A1_LABELS.values():
        yield Column(f"{a1}{suffix}", "f8", unit, f"{source} {what}", ucd=ucd)
        yield Column(f"e_{a1}{suffix}", "f8", unit, f"{error} {source} {what}", ucd=f"stat.error;{ucd}")


def catalogue_table(names, id_width=ID_WIDTH):
    """CATALOGUE: the 44 columns of Table A1 in their order, then ours. `names` are the labels of `cov`."""
    n = len(names)
    table_a1 = (
        Column("Unique_ID", f"S{id_width}", "", "the survey's id of the spectrum: APOGEE_ID or sobject_id",
               ucd="meta.id;meta.main"),
        Column("dr2_source_id", "i8", "", "Gaia DR2 source id", null=NULL_ID, ucd="meta.id.cross"),
        Column("dr3_source_id", "i8", "", "Gaia EDR3 source id", null=NULL_ID, ucd="meta.id.cross"),
        Column("ra", "f8", "deg", "right ascension, ICRS", ucd="pos.eq.ra;meta.main"),
        Column("dec", "f8", "deg", "declination, ICRS", ucd="pos.eq.dec;meta.main"),
        *_a1_labels("Cann", "Cannon", "final error of"),
        Column("r_chi_sq", "f8", "", "reduced chi-square of the Cannon fit: chi2 / (pixels - labels - 1)",
               ucd="stat.fit.chi2"),
        Column("snrCann", "f8", "", "S/N as the Cannon gives it, model scatter included", ucd="stat.snr"),
        Column("Cannon_distance", "f8", "", "distance to the training set, equation 5", ucd="stat.param"),
        Column("flag_id", "i2", "", "0 = GALAH spectrum, 1 = APOGEE spectrum", ucd="meta.code"),
        Column("flag_Cannon_dist", "i2", "", "1 = Cannon_distance above the limit, or none",
               ucd="meta.code.qual"),
        Column("flag_spectra", "i8", "", "problem spectrum: STARFLAG, or 1 for GALAH; bits SnBnn of header",
               null=NULL_ID, ucd="meta.code.qual"),
        Column("flag_sp_aspcap", "i8", "", "pipeline flag: flag_sp or ASPCAPFLAG; bits PnBnn of header",
               null=NULL_ID, ucd="meta.code.qual"),
        Column("flag_survey", "i2", "", "1 = a label of the survey is invalid", ucd="meta.code.qual"),
        Column("flag_training", "i2", "", "0 = in the training set", ucd="meta.code.member"),
        *_a1_labels("", "survey", "error of"),
        Column("snr", "f8", "", "S/N of the survey", ucd="stat.snr"),
        Column("r_est", "f8", "pc", "distance (Bailer-Jones et al. 2021)", ucd="pos.distance"),
        Column("r_lo", "f8", "pc", "lower bound of the distance", ucd="pos.distance;stat.min"),
        Column("r_hi", "f8", "pc", "upper bound of the distance", ucd="pos.distance;stat.max"),
        Column("parallax", "f8", "mas", "Gaia EDR3 parallax", ucd="pos.parallax"),
        Column("e_parallax", "f8", "mas", "error of the parallax", ucd="stat.error;pos.parallax"),
    )
    ours = (
        Column("star_id", f"S{STAR_ID_WIDTH}", "", "the survey's name of the star", ucd="meta.id"),
        Column("other_row", "i8", "", "row (from 0) with the other survey's spectrum of the star",
               null=NULL_ID, ucd="meta.record"),
        Column("other_id", f"S{id_width}", "", "Unique_ID of that row", ucd="meta.id.cross"),
        Column("flag_snr", "i2", "", "1 = S/N of the survey not above SnSNR of this header",
               ucd="meta.code.qual"),
        Column("reject", "i8", "", "quality cuts that the survey's row fails; bits RnBnn of this header",
               null=NULL_ID, ucd="meta.code.qual"),
        Column("fit_status", "i4", "", "what is wrong with the fit; bits STATnn of this header",
               ucd="meta.code.error"),
        Column("spectrum_status", "i4", "", "what is wrong with the spectrum; bits SPECnn of this header",
               ucd="meta.code.error"),
        Column("leverage", "f8", "", "leverage of the labels in the training design", ucd="stat.param"),
        Column("outside_fraction", "f8", "", "fraction of labels outside the 2.5-97.5 training percentiles",
               ucd="stat.param"),
        Column("spectrum_distance", "f8", "", "(chi2 - nu) / sqrt(2 nu)", ucd="stat.fit.goodness"),
        Column("second_delta_chi2", "f8", "", "chi2 of a second minimum minus that of the best; NaN = none",
               ucd="stat.fit.chi2"),
        Column("error_source", "i2", "",
               "bit i = error of label i is the precision, not the scaled formal one", ucd="meta.code"),
        Column("cov", "f8", "", "covariance of Cannon labels, final errors, in products of units",
               (n, n), ucd="stat.covariance"),
    )
    return Table("CATALOGUE", table_a1 + ours)


N_TABLE_A1 = 44


def best_table(names, id_width=ID_WIDTH):
    """BEST: one row per star, of one or two catalogue rows."""
    n = len(names)
    labels = []
    for name in names:
        a1, unit, what, ucd = _A1_LABELS.get(name, (name, "", f"label {name}", ""))
        labels += [Column(f"{a1}Cann", "f8", unit, f"Cannon {what}, inverse-variance mean", ucd=ucd),
                   Column(f"e_{a1}Cann", "f8", unit, f"its error: Cannon {what}", ucd="stat.error")]
    return Table("BEST", (
        Column("Unique_ID", f"S{id_width}", "", "Unique_ID of the star's first row", ucd="meta.id;meta.main"),
        Column("row", "i8", "", "its row of the catalogue, from 0", ucd="meta.record"),
        Column("other_row", "i8", "", "row of the other survey's spectrum", null=NULL_ID, ucd="meta.record"),
        Column("other_id", f"S{id_width}", "", "its Unique_ID", ucd="meta.id.cross"),
        Column("dr3_source_id", "i8", "", "Gaia EDR3 source id", null=NULL_ID, ucd="meta.id.cross"),
        Column("ra", "f8", "deg", "right ascension, ICRS", ucd="pos.eq.ra;meta.main"),
        Column("dec", "f8", "deg", "declination, ICRS", ucd="pos.eq.dec;meta.main"),
        *labels,
        Column("cov", "f8", "", "covariance of these labels, in products of units", (n, n),
               ucd="stat.covariance"),
        Column("n_used", "i2", "", "rows in the mean; of two rows only the clean one, if one is", ucd="meta.number"),
        Column("consistency_chi2", "f8", "", "chi2 of the difference of the two rows; NaN = one row",
               ucd="stat.fit.chi2"),
        Column("consistency_dof", "i2", "", "its degrees of freedom: labels of both rows", ucd="stat.fit.dof"),
        Column("flag_clean", "i2", "", "1 = no row used has a flag or a bad bit", ucd="meta.code.qual"),
    ))
