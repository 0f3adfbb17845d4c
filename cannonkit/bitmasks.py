"""Every bit that cannonkit reads or writes: name, number, meaning. Written once, here.

Survey bits are facts of APOGEE DR16 (data model pages of SDSS) and GALAH DR3 (Buder et al. 2021);
the masks of the paper (section 3.2) are built from names by the recipes.
"""
from typing import NamedTuple


class Bit(NamedTuple):
    """One bit: its number (0 = least significant), its name and its meaning."""

    number: int
    name: str
    meaning: str


class Bits(dict):
    """A mapping name -> Bit for one integer word."""

    def __init__(self, word, *bits):
        super().__init__((name, Bit(number, name, meaning)) for number, name, meaning in bits)
        self.word = word

    def __getattr__(self, name):
        try:
            return 1 << self[name].number
        except KeyError:
            raise AttributeError(f"{self.word} has no bit {name!r}") from None

    def mask(self, *names):
        """The word with the named bits set. Raises KeyError naming an unknown bit."""
        value = 0
        for name in names:
            value |= 1 << self[name].number
        return value

    def names_in(self, value):
        """Names of the bits set in `value`, lowest first; an unknown bit appears as `BIT_n`."""
        value = int(value)
        known = {bit.number: bit.name for bit in self.values()}
        return [known.get(n, f"BIT_{n}") for n in range(64) if value >> n & 1]


# --- our own words -----------------------------------------------------------------------------

SPECTRUM_STATUS = Bits(
    "spectrum status",
    (0, "MISSING_FILE", "a file of the star is not there"),
    (1, "BROKEN_FILE", "a file of the star cannot be read or is damaged"),
    (2, "WRONG_LAYOUT", "a file of the star has another survey's layout"),
    (3, "MISSING_SEGMENT", "a camera or detector of the star is missing"),
    (4, "NOT_NORMALISED", "the survey's normalised extension is missing"),
    (5, "NORMALISATION_FAILED", "the continuum could not be fitted in a segment"),
    (6, "TOO_FEW_PIXELS", "fewer good pixels than the recipe asks for"),
    (7, "NO_PATH", "the catalogue names no file for this row"),
    (8, "BAD_VALUES", "NaN flux or negative error in more than 1 % of the pixels; masked"),
    (9, "NO_VELOCITY", "the velocity to take out is not known"),
)
# Bits that leave a spectrum without usable pixels; the others only warn.
SPECTRUM_UNUSABLE = SPECTRUM_STATUS.mask("MISSING_FILE", "BROKEN_FILE", "WRONG_LAYOUT", "NO_PATH", "NO_VELOCITY")

FIT_STATUS = Bits(
    "fit status",
    (0, "ITERATION_LIMIT", "stopped at the largest number of iterations, not converged"),
    (1, "SINGULAR", "the normal matrix is singular: some label cannot be measured"),
    (2, "TOO_FEW_PIXELS", "no more usable pixels than labels"),
    (3, "AT_EDGE", "a label lies outside the 2.5-97.5 percentiles of the training set"),
    (4, "OUTSIDE_TRAINING", "a label lies outside the range of the training set"),
    (5, "SECOND_MINIMUM", "another start found a second, different minimum"),
    (6, "NO_SPECTRUM", "the input row has no usable spectrum"),
    (7, "BAD_PIXELS_MASKED", "NaN flux or invalid ivar in the input; those pixels were masked"),
    (8, "NO_FIXED_VALUE", "a label that was to be held fixed has no value for this star"),
)
# Bits after which the labels are NaN.
FIT_FAILED = FIT_STATUS.mask("SINGULAR", "TOO_FEW_PIXELS", "NO_SPECTRUM", "NO_FIXED_VALUE")

PIXEL_STATUS = Bits(
    "pixel status of a model",
    (0, "AT_ZERO", "the likelihood is largest at zero scatter"),
    (1, "TOO_FEW_STARS", "fewer good stars than terms"),
    (2, "ALL_MASKED", "no star has data in this pixel"),
    (3, "SINGULAR", "dependent terms: the solution is the minimum-norm one"),
    (4, "ITERATION_LIMIT", "the scatter did not converge"),
)
# Bits with which a pixel is not used: theta 0, s2 infinite.
PIXEL_UNUSABLE = PIXEL_STATUS.mask("TOO_FEW_STARS", "ALL_MASKED")

FLAG_SURVEY = Bits("flag_survey", (0, "INVALID_LABEL", "a label of the survey's own pipeline is invalid"))

# --- APOGEE --------------------------------------------------------------------------------------

APOGEE_PIXMASK = Bits(
    "APOGEE_PIXMASK",
    (0, "BADPIX", "bad pixel"),
    (1, "CRPIX", "cosmic ray"),
    (2, "SATPIX", "saturated"),
    (3, "UNFIXABLE", "unfixable"),
    (4, "BADDARK", "bad in the dark frame"),
    (5, "BADFLAT", "bad in the flat field"),
    (6, "BADERR", "very large error"),
    (7, "NOSKY", "no sky from the sky fibres"),
    (8, "LITTROW_GHOST", "Littrow ghost"),
    (9, "PERSIST_HIGH", "high persistence"),
    (10, "PERSIST_MED", "medium persistence"),
    (11, "PERSIST_LOW", "low persistence"),
    (12, "SIG_SKYLINE", "near a strong sky line"),
    (13, "SIG_TELLURIC", "near a strong telluric line"),
    (14, "NOT_ENOUGH_PSF", "little of the profile in good pixels"),
)

APOGEE_STARFLAG = Bits(
    "APOGEE_STARFLAG",
    (0, "BAD_PIXELS", "many bad pixels"),
    (1, "COMMISSIONING", "commissioning data"),
    (2, "BRIGHT_NEIGHBOR", "bright neighbour"),
    (3, "VERY_BRIGHT_NEIGHBOR", "very bright neighbour"),
    (4, "LOW_SNR", "S/N below 5"),
    (9, "PERSIST_HIGH", "many pixels in the high-persistence region"),
    (10, "PERSIST_MED", "many pixels in the medium-persistence region"),
    (11, "PERSIST_LOW", "many pixels in the low-persistence region"),
    (12, "PERSIST_JUMP_POS", "positive jump of persistence"),
    (13, "PERSIST_JUMP_NEG", "negative jump of persistence"),
    (16, "SUSPECT_RV_COMBINATION", "visit velocities differ from the template's"),
    (17, "SUSPECT_BROAD_LINES", "lines broader than the template's"),
    (18, "BAD_RV_COMBINATION", "visit velocities differ very much"),
    (24, "MTPFLUX_LT_75", "flux below 75 % of the fibre block's"),
    (25, "MTPFLUX_LT_50", "flux below 50 % of the fibre block's"),
)

_ASPCAP_LABELS = ("TEFF", "LOGG", "VMICRO", "M_H", "ALPHA_M", "C_M", "N_M")
_ASPCAP_OTHERS = ("CHI2", "COLORTE", "ROTATION", "SN", "SPEC_HOLE", "ATMOS_HOLE", "VSINI")
APOGEE_ASPCAPFLAG = Bits(
    "APOGEE_ASPCAPFLAG",
    *((i, f"{n}_WARN", f"warning on {n}") for i, n in enumerate(_ASPCAP_LABELS)),
    (7, "STAR_WARN", "warning for the star as a whole"),
    *((8 + i, f"{n}_WARN", f"warning on {n}") for i, n in enumerate(_ASPCAP_OTHERS)),
    *((16 + i, f"{n}_BAD", f"bad {n}") for i, n in enumerate(_ASPCAP_LABELS)),
    (23, "STAR_BAD", "bad for the star as a whole"),
    *((24 + i, f"{n}_BAD", f"bad {n}") for i, n in enumerate(_ASPCAP_OTHERS)),
    (31, "NO_ASPCAP_RESULT", "no result of the pipeline"),
)

APOGEE_EXTRATARG = Bits(
    "APOGEE_EXTRATARG",
    (0, "NOT_MAIN", "not a main survey target"),
    (1, "COMMISSIONING", "commissioning data"),
    (2, "TELLURIC", "telluric standard"),
    (3, "APO1M", "observed with the 1 m telescope"),
    (4, "DUPLICATE", "another row of this star has higher S/N"),
)

# --- GALAH ---------------------------------------------------------------------------------------

GALAH_FLAG_SP = Bits(
    "GALAH flag_sp",
    (0, "RUWE", "Gaia DR2 RUWE above 1.4"),
    (1, "BROADENING", "unreliable broadening"),
    (2, "LOW_SNR", "S/N of camera 2 below 10"),
    (3, "REDUCTION", "problem of the reduction"),
    (4, "EMISSION", "emission lines"),
    (5, "BINARY_TSNE", "binary by t-SNE"),
    (6, "BINARY_SEQUENCE", "on the binary sequence"),
    (7, "CHI2", "chi2 unusually low or high"),
    (8, "FE_LINES", "problem of the iron lines"),
    (9, "NO_CONVERGENCE", "SME did not converge"),
    (10, "GRID_LIMIT", "at the limit of the model grid"),
)

GALAH_FLAG_X_FE = Bits(
    "GALAH flag_X_fe",
    (0, "UPPER_LIMIT", "upper limit"),
    (4, "NO_MEASUREMENT", "no reliable measurement"),
    (5, "NOT_MEASURED", "no measurement"),
)

# Words by the name that a recipe uses.
WORDS = {bits.word: bits for bits in (
    APOGEE_PIXMASK, APOGEE_STARFLAG, APOGEE_ASPCAPFLAG, APOGEE_EXTRATARG, GALAH_FLAG_SP, GALAH_FLAG_X_FE)}
