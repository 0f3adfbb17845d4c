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
            high=None, above=None, below=None, choices=None, option=True):
    """A dataclass field with its help text and limits.

    low, high     the smallest and largest legal value (of each element, in a tuple or dict)
    above, below  the same, exclusive
    choices       the legal values
    unit          shown in the help
    option        False: no command-line option for it (it can still be --set)
    factory       makes the default of a mutable or nested value, as in dataclasses.field
    Without a default or a factory the key must be given.
    """
    limits = {"help": help, "unit": unit, "low": low, "high": high, "above": above, "below": below,
              "choices": choices, "option": option}
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
    checked, not only this command's.
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

# --- cc-crossmatch --------------------------------------------------------------------------------

@section
class Crossmatch:
    """Which rows, how two tables are joined (empty or 0: as the recipe says), and what is held out."""

    select: str = setting("", "rows of each survey: catalogue (one per star), repeats, all, or another "
                          "selection of the recipe; empty: catalogue")
    by: str = setting("", "join by identifier or on the sky", choices=("", "id", "sky"))
    radius: float = setting(0.0, "largest separation of a pair on the sky", unit="arcsec", low=0, high=3600)
    find: str = setting("", "one-to-one or all pairs", choices=("", "best", "all"))
    keep: str = setting("", "pairs only, or every row of LEFT", choices=("", "inner", "left"))
    left_position: str = setting("", "where LEFT has its positions: degrees:RA,DEC or galactic:L,B or "
                                 "designation:NAME (2MASS), with the names of its columns")
    right_position: str = setting("", "the same for RIGHT")
    split: float = setting(1.0, "fraction of the stars, by a hash of their identifier, that may be selected; "
                           "the others get the reject bit HELD_OUT", above=0, high=1)
    seed: int = setting(0, "another number, another split", low=0, high=2 ** 62)

# --- cc-resample ----------------------------------------------------------------------------------

# --- cc-train -------------------------------------------------------------------------------------

# --- cc-infer -------------------------------------------------------------------------------------

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
    snr_min: float | None = setting(None, "flag_snr = 1 where the survey's S/N is not above this; none: the "
                                    "recipe's", low=0.0)

# --- cc-errors ------------------------------------------------------------------------------------

# --- cc-merge -------------------------------------------------------------------------------------

# --- cc-mock --------------------------------------------------------------------------------------

# --- cc-report ------------------------------------------------------------------------------------

@section
class Report:
    """Figures and tables of a run."""

    reference: str = setting("", "survey whose Teff and log g order the label differences; none given: the "
                             "training table's second")
    logg_cut: float = setting(3.5, "giants have log g below this (Tables 1 and 3)", unit="dex")
    bins: int = setting(16, "bins of the running medians", low=2, high=1000)
    min_count: int = setting(10, "a bin with fewer stars has no running median", low=1)
    clusters: tuple[str, ...] = setting((), "clusters to draw, in this order; none given: the `cluster_count` "
                                        "with most members")
    cluster_count: int = setting(5, "clusters side by side", low=1, high=12)
    membership: float = setting(0.5, "members have a probability above this", low=0.0, high=1.0)
    isochrones: str = setting("", "folder with CLUSTER.csv (columns teff, logg) to draw in cluster diagrams")
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
