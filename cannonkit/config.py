"""Settings: every scientific default, once, as a field of a frozen dataclass.

A command's settings are one dataclass, marked `@section`; in YAML they stand under the class's
name in small letters (`class Flag` -> `flag:`), so one file such as configs/cannon.yaml can hold
the settings of a whole run. Values are resolved in this order, later ones win:

    the field's default  <  --config FILE  <  --set key=value  <  the option --key

A field is written `name: type = setting(default, "help", low=..., choices=...)`; its help, unit,
range and choices are checked and shown wherever the value comes from. Recipes (recipe.py) use
`setting` and `load` in the same way. Types: bool, int, float, str, tuples, dicts, nested
dataclasses, `X | None` and unions of scalars. A field whose name ends with `_` drops it in YAML
(`from_` is the key `from`).

This module imports no YAML reader: that happens in `load`, when there is a file to read.
"""
import dataclasses
import os

SECTIONS = {}  # section name -> dataclass, filled by @section


def setting(default=dataclasses.MISSING, help="", *, factory=dataclasses.MISSING, unit="", low=None,
            high=None, above=None, below=None, choices=None, option=True, shown=None):
    """A dataclass field with its help text and limits.

    low, high     the smallest and largest legal value (of each element, in a tuple or dict)
    above, below  the same, exclusive
    choices       the legal values
    unit          shown in the help
    shown         what the help says of the default, where its value says nothing to a reader
    option        False: no command-line option for it (it can still be --set)
    factory       makes the default of a mutable or nested value, as in dataclasses.field
    Without a default or a factory the key must be given.
    """
    limits = {"help": help, "unit": unit, "low": low, "high": high, "above": above, "below": below,
              "choices": choices, "option": option, "shown": shown}
    return dataclasses.field(default=default, default_factory=factory,
                             metadata={k: v for k, v in limits.items() if v not in (None, "")})


def section(cls):
    """Make `cls` a frozen dataclass and a section of --config files."""
    cls = dataclasses.dataclass(frozen=True)(cls)
    SECTIONS[section_name(cls)] = cls
    return cls


def section_name(cls):
    """The key under which a settings class stands in a YAML file."""
    return cls.__name__.lower()


def load(path, cls):
    """Read a strict YAML file into a `cls` (a dataclass): the whole file is its mapping.

    Raises errors.ConfigError with file, line and key for everything that is wrong in the file
    (unknown, missing or repeated key, wrong type, value out of range, a ValueError raised by the
    dataclass's __post_init__), errors.NoInputError where the file cannot be opened.
    """
    from cannonkit import strict_yaml, typed

    return typed.build(strict_yaml.read(path), cls, typed.Place(path))


def resolve(cls, args):
    """The settings of one command: defaults < --config < --set < options, as a frozen `cls`.

    `args` is what cli's parser returned; attributes that are absent count as not given, so that
    an empty argparse.Namespace() gives the defaults. Every section of the --config file is
    checked, not only this command's. Raises errors.ConfigError for the file, UsageError for --set.
    """
    from cannonkit import typed

    return typed.resolve(cls, args, {**SECTIONS, section_name(cls): cls})


def dump(settings, help=None):
    """YAML text of a section, with each field's help as a comment; `load`ing it gives it back."""
    from cannonkit import typed

    return typed.dump_section(section_name(type(settings)), settings, help or {})


def plain(settings):
    """Settings as nested dicts, lists and scalars, for the provenance record."""
    from cannonkit import typed

    return typed.plain(settings)


def find(name, suffix=".yaml"):
    """The path of a recipe: an existing file, or one of the package's own by its name.

    `find("apogee_dr16")`, `find("apogee_dr16.yaml")` and `find("my/own.yaml")` all work; a file
    that is there comes first. Raises errors.NoInputError naming the recipes that there are.
    """
    from cannonkit import errors

    name = os.fspath(name)
    if os.path.exists(name):
        return name
    folder = recipe_folder()
    if name and os.sep not in name:
        for candidate in (name, name + suffix):
            path = os.path.join(folder, candidate)
            if os.path.isfile(path):
                return path
    known = sorted(f[:-len(suffix)] for f in os.listdir(folder) if f.endswith(suffix))
    raise errors.NoInputError(f"{name}: no such file, and no recipe of that name"
                              f"{errors.did_you_mean(name, known)}")


def recipe_folder():
    """The folder with the recipes that come with the package."""
    return os.path.join(os.path.dirname(os.path.abspath(__file__)), "configs")


# === sections: one per command, each kept by the command's owner ==================================

RECIPE = "as the recipe says"

# --- cc-crossmatch --------------------------------------------------------------------------------

@section
class Crossmatch:
    """Which rows, how two tables are joined (empty or 0: as the recipe says), and what is held out."""

    select: str = setting("", "rows of each survey: catalogue (one per star), repeats, all, or another "
                          "selection of the recipe; empty: catalogue")
    by: str = setting("", "join by identifier or on the sky", choices=("", "id", "sky"), shown=RECIPE)
    radius: float = setting(0.0, "largest separation of a pair on the sky", unit="arcsec", low=0, high=3600,
                            shown=RECIPE)
    find: str = setting("", "one-to-one or all pairs", choices=("", "best", "all"), shown=RECIPE)
    keep: str = setting("", "pairs only, or every row of LEFT", choices=("", "inner", "left"), shown=RECIPE)
    left_position: str = setting("", "where LEFT has its positions: degrees:RA,DEC or galactic:L,B or "
                                 "designation:NAME (2MASS), with the names of its columns")
    right_position: str = setting("", "the same for RIGHT")
    split: float = setting(1.0, "fraction of the stars, by a hash of their identifier, that may be selected; "
                           "the others get the reject bit HELD_OUT", above=0, high=1)
    seed: int = setting(0, "another number, another split", low=0, high=2 ** 62)

# --- cc-resample ----------------------------------------------------------------------------------

@section
class Resample:
    """Which spectra, and what replaces the recipe's choices (none: as the recipe says)."""

    visits: str = setting("combined", "of a file with several spectra of the star (apStar): the combined one; all: "
                          "that and then each visit; only: the visits (the combined one where there is but one)",
                          choices=("combined", "all", "only"))
    method: str | None = setting(None, "resampling: flux (conserving), linear, cubic or lanczos",
                                 choices=("flux", "linear", "cubic", "lanczos"), shown=RECIPE)
    missing_segment: str | None = setting(None, "a star without one of its cameras: reject it or keep the others",
                                          choices=("reject", "keep"), shown=RECIPE)
    max_failed: int | None = setting(None, "exit with code 1 if more spectra than this have no usable pixel; the "
                                     "output is written all the same", low=0, shown="no limit")
    continuum_fraction: float = setting(0.07, "of --find-continuum: fraction of the pixels", above=0, below=1)

# --- cc-train -------------------------------------------------------------------------------------

@section
class Train:
    """Training of the spectral model and its cross-validation (paper sections 3.1, 3.3, 3.4; equations 1 to 3)."""

    label_names: tuple[str, ...] = setting((), "labels of the model; none given: those of the paper's six that the "
                                           "training table has")
    order: int = setting(2, "terms are all products of up to this many labels", low=1, high=3)
    terms: tuple[str, ...] = setting((), "explicit terms instead of --order, such as teff, teff^2, teff*logg")
    scatter: str = setting("ml", "scatter of a pixel: ml (equation 3), reml (restricted likelihood: unbiased, for "
                           "few stars), median (the rule of the paper's code), none",
                           choices=("ml", "reml", "median", "none"))
    cross_validate: int = setting(12, "folds of the cross-validation; 0: none", low=0, high=10000)
    leave_one_group_out: bool = setting(False, "every group of --group is a fold of its own")
    group: str = setting("", "column of the training table whose equal values stay in one fold; none: the star's id")
    seed: int = setting(1, "seed of the folds", low=0)
    censor: dict[str, tuple[str, ...]] = setting(help="label -> elements in whose line windows it acts; elsewhere "
                                                 "its terms are zero", factory=dict, option=False)
    line_masks: dict[str, str] = setting(help="survey of the spectra -> table of line windows (element, wave_lo, "
                                         "wave_hi, medium, weight)", factory=dict, option=False)
    l1: float = setting(0.0, "L1 penalty on every coefficient but the constant's, in units of the objective of "
                        "equation 3; the minimum is exact (to 1e-9 of the objective), zeros are exact", low=0.0)
    l1_grid: tuple[float, ...] = setting((), "choose the L1 penalty among these by cross-validated likelihood",
                                         low=0.0)
    bounds: dict[str, tuple[float, ...]] = setting(help="term -> [lowest, highest] coefficient (of scaled labels; "
                                                   ".inf for none)", factory=dict, option=False)
    components: str = setting("0", "misfit components: at most so many (those below the noise are left out); auto: as "
                              "many of --components-grid as the cross-validated likelihood wants; 0: the paper's model")
    components_grid: tuple[int, ...] = setting((0, 1, 2, 5, 10, 20), "of --components auto", low=0, high=200)
    label_errors: str = setting("table", "with components: table (the training labels have the errors of its columns "
                                "e_LABEL; one of them without: the scatter of the classic model; all without: none), "
                                "or none (exact labels)",
                                choices=("table", "none"))
    ivar_scale: str = setting("1", "factor on the survey's inverse variances: a number, one per segment separated by "
                              "commas, or measure (from the finest structure of residuals)")

# --- cc-infer -------------------------------------------------------------------------------------

@section
class Infer:
    """Labels of spectra (paper section 3.5, equation 4)."""

    solver: str = setting("auto", "sums: matrix products, then iterations on sums over the pixels; pixels: every "
                          "iteration over the pixels; auto: sums, unless their table would exceed 512 MB",
                          choices=("auto", "sums", "pixels"))
    starts: int = setting(0, "starts besides the pivot and the linear solution: labels of so many training stars, "
                          "drawn at random", low=0, high=1000)
    seed: int = setting(1, "of the random starts", low=0)
    max_iter: int = setting(50, "iterations from one start", low=1, high=10000)
    margin: float = setting(0.5, "the lowest chi2 among solutions within the training labels' range wins, which is "
                            "widened on both sides by this part of p97.5 - p2.5", low=0.0)
    fix: tuple[str, ...] = setting((), "labels held at the values of --values")
    prior: dict[str, tuple[float, float]] = setting(factory=dict, help="Gaussian priors: label -> [mean, sigma], in "
                                                    "the label's unit")
    scaled_covariance: bool = setting(False, "covariance and formal errors in units of the scaled labels, as behind "
                                      "the paper's Table 4")
    clip: float = setting(0.0, "pixels so many errors from the fit (spikes) are left out of a second fit, unless they "
                          "are more than 1 % of a star's; 0: none", low=0.0)
    amplitudes: bool = setting(False, "column z: the amplitudes of the model's misfit components, where it has some")
    max_failed: int | None = setting(None, "exit with code 1 if more spectra than this have no labels; the output is "
                                     "written all the same", low=0, shown="no limit")

# --- cc-flag --------------------------------------------------------------------------------------

@section
class Flag:
    """Distance to the training set and flags (paper section 3.6, equation 5)."""

    metric: str = setting("squared", "sum over labels of the squared or absolute difference over its "
                          "cross-validation RMS; root = mean of the roots of the squared",
                          choices=("squared", "absolute", "root"))
    nearest: int = setting(10, "average over this many nearest training stars", low=1, high=1000)
    limit: float = setting(8.0, "flag stars farther than this from the training set", above=0.0)
    labels: tuple[str, ...] = setting((), "labels of the distance; none given: those of teff, logg, fe_h and "
                                      "alpha_fe that the model has")
    snr_min: float | None = setting(None, "flag_snr = 1 where the survey's S/N is not above this", low=0.0,
                                    shown=RECIPE)

# --- cc-errors ------------------------------------------------------------------------------------

@section
class Errors:
    """Calibration of errors on repeat observations (paper section 3.7, equation 6)."""

    factor: str = setting("robust", "which factor scales the formal errors: robust (16-84 widths without "
                          "outliers), standard (variances) or 1684 (16-84 widths of everything)",
                          choices=("robust", "standard", "1684"))
    precision: str = setting("paper", "which precision curve: paper (the best spectrum's own noise in it) or "
                             "unbiased", choices=("paper", "unbiased"))
    error_model: str = setting("paper", "paper (one factor, precision by S/N) or full (functions of S/N, Teff, "
                               "log g and [Fe/H])", choices=("paper", "full"))
    full_pairs: int = setting(50000, "the full model is fitted to at most so many pairs, drawn at random", low=100)
    pairs: str = setting("group", "weight of a pair in a group of n spectra: group (2/n) or all (1, as the paper)",
                         choices=("group", "all"))
    draws: int = setting(100, "bootstrap draws over stars", low=2, high=100000)
    seed: int = setting(1, "seed of the bootstrap and of --holdout", low=0)
    snr_bins: int = setting(20, "bins of S/N behind the precision curves, at most", low=1, high=1000)
    smallest_bin: int = setting(20, "fewest differences in such a bin", low=2)
    bins: int = setting(10, "bins of each quantity in validate", low=1, high=1000)
    holdout: float = setting(0.0, "fraction of the stars that calibrate leaves aside for validate", low=0.0,
                             below=1.0)
    labels: tuple[str, ...] = setting((), "labels to calibrate; none given: those of the product")
    label_column: str = setting("{}", "name of a label's column; {} stands for the label")
    covariance: str = setting("cov", "column of the formal covariance, in the order of the labels; empty: "
                              "--error-column")
    error_column: str = setting("", "name of a formal error's column, such as e_{}, where there is no covariance")
    covariance_units: str = setting("label", "the covariance is in label units, or in scaled ones, in units of "
                                    "p97.5 - p2.5 of the reference labels (or of --scales)",
                                    choices=("label", "scaled"))
    scales: dict[str, float] = setting(help="label -> p97.5 - p2.5 of its training set", factory=dict, above=0.0)
    against: tuple[str, ...] = setting((), "compare with reference labels instead of repeats: their columns, one "
                                       "per label, or a name with {}")
    against_error: str = setting("", "name of the reference's error columns, such as e_{}; none: exact")
    star_column: str = setting("star_id", "column that spectra of one star share")
    snr_column: str = setting("snr_survey", "column of the survey's S/N; need not be there with --against")
    rows: str = setting("", "use only rows where COLUMN is one of some whole numbers: fold=1,2")


# --- cc-merge -------------------------------------------------------------------------------------

@section
class Merge:
    """Assembly of a catalogue (paper section 4 and Table A1)."""

    pair: str = setting("apogee_galah", "recipe of the two surveys, for the name that a star has in both (key); "
                        "empty: no cross-reference")


# --- cc-mock --------------------------------------------------------------------------------------

@section
class Mock:
    """The two mock surveys (shared/formats.md D): sizes, what is planted, what is left out."""

    seed: int = setting(2, "seed of every random number", low=0, high=2**31 - 1)
    common: int = setting(1700, "field stars in both surveys", low=0, high=2000000)
    apogee_only: int = setting(170, "field stars in APOGEE only", low=0, high=2000000)
    galah_only: int = setting(170, "field stars in GALAH only", low=0, high=2000000)
    apogee_repeats: int = setting(130, "further spectra of APOGEE stars (DUPLICATE rows), groups of 2 to 14",
                                  low=0, high=2000000)
    galah_repeats: int = setting(190, "further spectra of GALAH stars, groups of 2 to 15", low=0, high=2000000)
    clusters: float = setting(0.15, "members of the ten clusters, as a share of the paper's numbers", low=0.0, high=1.0)
    odd: float = setting(0.3, "share of the stars of one survey only that no training set covers (M dwarfs, hot and "
                         "metal-poor stars, fast rotators, binaries, emission lines)", low=0.0, high=1.0)
    flag_rate: float = setting(0.25, "quality flags: 1 = as often as in real catalogues, 0 = none but those of odd "
                               "stars", low=0.0, high=1.0)
    missing_cameras: float = setting(0.021, "share of GALAH spectra that lack a camera", low=0.0, high=1.0)
    most_visits: int = setting(4, "largest number of visits in an apStar file", low=1, high=6)
    label_noise: bool = setting(True, "errors of the surveys' labels as in Table 1; without: trends only")
    hidden: bool = setting(True, "elements that are no label scatter from star to star, C and N too")
    wiggles: bool = setting(True, "waves in the continuum, new in each visit")
    lsf_variation: bool = setting(True, "a line-spread function that differs from fibre to fibre")
    junk: bool = setting(True, "bad pixels, spikes, sky and telluric residuals")
    growth: float = setting(0.0, "of --generator model: line depths d become d / (1 + growth d), no longer quadratic "
                            "in the labels", low=0.0, high=10.0)
    second_generation_in_both: bool = setting(False, "NGC 104: second-generation stars in APOGEE too, not in GALAH "
                                              "only")

# --- cc-report ------------------------------------------------------------------------------------

@section
class Report:
    """Figures and tables of a run."""

    reference: str = setting("", "survey whose Teff and log g order the label differences; none given: the "
                             "training table's second")
    logg_cut: float = setting(3.5, "giants have log g below this (Tables 1 and 3)", unit="dex")
    bins: int = setting(16, "bins of the running medians", low=2, high=1000)
    min_count: int = setting(10, "a bin with fewer stars has no running median", low=1)
    recipes: tuple[str, ...] = setting(("apogee_dr16", "galah_dr3"), "recipes that say which survey a flag_id is, "
                                       "and which of its bits are bad")
    clusters: tuple[str, ...] = setting((), "clusters to draw, in this order; none given: the `cluster_count` "
                                        "with most members")
    cluster_count: int = setting(5, "clusters side by side", low=1, high=12)
    membership: float = setting(0.5, "members have a probability above this", low=0.0, high=1.0)
    isochrones: str = setting("", "folder with CLUSTER.csv (columns teff, logg) to draw in cluster diagrams")
    pair_cluster: str = setting("NGC 104", "cluster whose pairs of spectra are compared; without it, the one with "
                                "most members")
    pair_width: tuple[float, float, float] = setting((100.0, 0.2, 0.1), "stars of a pair agree in the survey's Teff, "
                                                     "log g and [Fe/H] within these", above=0.0)
    pair_template: str = setting("", "CSV (wavelength,difference) of a template difference, such as nitrogen "
                                 "enhanced by 0.8 dex, to draw with the pairs")
    pair_lines: str = setting("", "CSV (wavelength,species) of candidate lines for the features of pairs, in the "
                              "spectra's medium; none given: the line list of cc-mock")
    r_sun: float = setting(8.2, "distance of the Sun from the galactic centre", unit="kpc", above=0.0)
    z_sun: float = setting(0.0208, "height of the Sun above the galactic plane", unit="kpc")
    residual_stars: int = setting(2000, "training stars in the residual spectra, at most", low=1)
    residual_limit: float = setting(0.01, "a median residual beyond this is listed", above=0.0)
    line_masks: dict[str, str] = setting(
        factory=lambda: {"apogee": "linemask_apogee_dr16", "galah": "linemask_galah_dr3"},
        help="line windows to shade in coefficient spectra, by survey of the spectra")
    spectra: int = setting(8, "spectra drawn by `cc-report spectra`, from the first", low=1, high=60)
    trend_limit: float = setting(0.5, "a trend or a pull at the ends above this part of the scatter is reported",
                                 above=0.0)
    dpi: int = setting(150, "pixels per inch of the PNGs; a figure is 6.9 inches wide", low=50, high=1200)

# --- cc-check -------------------------------------------------------------------------------------
