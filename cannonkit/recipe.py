"""Recipes: what a survey's files look like and how two surveys are joined, as plain data.

A survey is a YAML file in `configs/` (apogee_dr16, galah_dr3, miles), loaded into a `Survey`; a pair
of surveys (apogee_galah) into a `Pair`; a table to attach (Gaia, distances, cluster members) into an
`Attach`. Nothing in the code knows a survey by name.

Columns of a survey's own catalogue are written as *references*, in lists of which the first that
exists is used, because names change between releases:

    NAME          a column (case matters first, then any case)
    NAME[7]       one element of a vector column (flattened)
    10^NAME[7]    ten to the power of it

and texts (ids, files) as *templates*, again in lists: "2M{star_id}" puts in the column's value
without blanks; doubled braces stay as single ones ("{sobject_id}{{ccd}}.fits").

Who uses what: stages.catalogue turns rows of a survey's catalogue into the columns of
`schema.survey_columns` without prefix; surveys.read opens files. Tables beside the recipes (line
masks, continuum pixels) are read by `read_linemask` and `read_continuum`.
"""
import csv
import math
import os
from dataclasses import dataclass, field, fields, is_dataclass, replace

from cannonkit import bitmasks, errors
from cannonkit.recipe_spectra import Spectra

OPERATORS = (">", ">=", "<", "<=", "==", "!=", "between", "in", "not_in", "finite", "bits_clear", "bits_set")
RELATIONS = ("galah_vmicro",)
COLUMNS = ("snr", "dr2_source_id", "dr3_source_id", "parallax", "e_parallax", "r_est", "r_lo", "r_hi")


def _one_of(what, value, known):
    """Raise ValueError (which config.load gives a file and a line) for a value that is not known."""
    if value not in known:
        raise ValueError(f"{what}: {value!r} is not known{errors.did_you_mean(value, known)}")


def _known_bits(word, names):
    _one_of("word", word, bitmasks.WORDS)
    for name in names:
        _one_of("bit", name, bitmasks.WORDS[word])


# --- catalogue ------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Position:
    """Where the star is: `frame` icrs (lon = RA, lat = Dec, degrees), galactic (l, b, degrees) or
    designation (2MASS style hhmmssss+ddmmsss in a text; ICRS to 0.1 arcsec)."""

    frame: str = "icrs"
    lon: tuple[str, ...] = ()
    lat: tuple[str, ...] = ()
    designation: tuple[str, ...] = ()
    pm_lon: tuple[str, ...] = ()   # mas/yr, times cos(lat); with `epoch`, for propagation
    pm_lat: tuple[str, ...] = ()
    epoch: float = 0.0             # Julian year of lon and lat; 0 = not known

    def __post_init__(self):
        _one_of("frame", self.frame, ("icrs", "galactic", "designation"))


@dataclass(frozen=True)
class Choice:
    """Other columns for rows whose `column` (a text) starts with one of `prefixes`."""

    column: tuple[str, ...]
    prefixes: tuple[str, ...]
    value: tuple[str, ...]
    error: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mean:
    """Mean of several columns, weighted with 1 / error^2: the elements of a row whose flag is 0 and
    whose value and error are valid. Three lists of equal length (flag may be empty)."""

    value: tuple[str, ...]
    error: tuple[str, ...]
    flag: tuple[str, ...] = ()

    def __post_init__(self):
        if len(self.value) != len(self.error) or len(self.flag) not in (0, len(self.value)):
            raise ValueError("a weighted mean needs as many errors and flags as values")


@dataclass(frozen=True)
class Label:
    """A label of the survey: the column of its value and of its error, or a relation.

    mean       where no column of `value` exists: a weighted mean of others
    choice     other columns for some rows
    error_is   sigma, variance (root taken), log10_sigma, log10_variance (error of log10(value))
    relation   galah_vmicro: v_micro from teff and logg (Buder et al. 2021, equations 4 and 5)
    optional   a catalogue without the column gives NaN instead of an error
    """

    value: tuple[str, ...] = ()
    error: tuple[str, ...] = ()
    error_is: str = "sigma"
    relation: str = ""
    choice: Choice | None = None
    mean: Mean | None = None
    unit: str = ""                 # of labels that schema.LABELS does not know
    optional: bool = False

    def __post_init__(self):
        _one_of("error_is", self.error_is, ("sigma", "variance", "log10_sigma", "log10_variance"))
        if bool(self.relation) == bool(self.value or self.mean):
            raise ValueError("a label needs a `value` (or `mean`) or a `relation`, not both")
        if self.relation:
            _one_of("relation", self.relation, RELATIONS)


@dataclass(frozen=True)
class Flag:
    """A word of the survey: `bad` names its bad bits in bitmasks.WORDS[word]; without `bad`, every
    nonzero value is bad. `boolean`: store 1 where bad, 0 elsewhere, instead of the word."""

    column: tuple[str, ...]
    word: str = ""
    bad: tuple[str, ...] = ()
    boolean: bool = False
    optional: bool = False

    def __post_init__(self):
        if self.word or self.bad:
            _known_bits(self.word, self.bad)

    @property
    def mask(self):
        """The bad bits of the word in the survey's catalogue, as an integer; -1 = all of them."""
        return bitmasks.WORDS[self.word].mask(*self.bad) if self.bad else -1

    @property
    def stored_mask(self):
        """The bad bits of the value that cannonkit stores (1 where `boolean`): bad = value & this != 0."""
        return 1 if self.boolean else self.mask


@dataclass(frozen=True)
class Cut:
    """What a good row satisfies. Exactly one of column (of the survey's catalogue), mapped (of ours:
    snr, teff, ra ...) and flag (one of the recipe's flags, no bad bit set) says what is looked at.

    op   > >= < <= == != between (two values, ends included) in not_in   with value / values
         finite         a finite number that is no sentinel
         bits_clear bits_set   no / every bit of `bits`, names in bitmasks.WORDS[word]
    NaN, sentinels and null integers fail every comparison. optional: skipped where the column is absent.
    """

    name: str
    column: tuple[str, ...] = ()
    mapped: str = ""
    flag: str = ""
    op: str = ""
    value: float | int | str | None = None
    values: tuple[float | int | str, ...] = ()
    word: str = ""
    bits: tuple[str, ...] = ()
    optional: bool = False
    meaning: str = ""

    def __post_init__(self):
        if not 1 <= len(self.name) <= 40:
            raise ValueError("a cut needs a name of 1 to 40 characters")
        if bool(self.column) + bool(self.mapped) + bool(self.flag) != 1:
            raise ValueError("a cut needs one of `column`, `mapped` and `flag`")
        if self.flag:
            return
        _one_of("op", self.op, OPERATORS)
        if self.op.startswith("bits"):
            if not self.bits:
                raise ValueError("`bits` is missing")
            _known_bits(self.word, self.bits)
        elif self.op in ("in", "not_in") and not self.values or \
                self.op == "between" and len(self.values) != 2:
            raise ValueError(f"op {self.op!r} needs `values`")
        elif self.op in OPERATORS[:6] and self.value is None:
            raise ValueError(f"op {self.op!r} needs a `value`")


@dataclass(frozen=True)
class Selection:
    """Which rows of the catalogue a table has: `where` drops rows (cuts only mark them); then
    one_per_star keeps the row with the highest S/N of each star_id, group keeps stars that have
    group[0] to group[1] rows. `id` replaces the catalogue's template (repeats need names of their own)."""

    where: tuple[Cut, ...] = ()
    one_per_star: bool = False
    group: tuple[int, ...] = ()
    id: tuple[str, ...] = ()

    def __post_init__(self):
        if self.group and not (len(self.group) == 2 and 1 <= self.group[0] <= self.group[1]):
            raise ValueError("group: two sizes, the smallest and the largest")


@dataclass(frozen=True)
class Catalogue:
    """A survey's catalogue: how its columns become ours.

    columns    ours -> theirs, for snr, dr2_source_id, dr3_source_id, parallax, e_parallax, r_est,
               r_lo, r_hi; a named column of which no reference exists becomes missing values (NaN, null)
    sentinel_below   floats below this are missing (NaN); None: no sentinel but NaN
    flags      flag_spectra and flag_sp
    snr_min    S/N of a clean row (flag_snr)
    """

    id: tuple[str, ...]
    star_id: tuple[str, ...]
    hdu: int | str | None = None
    spectrum: tuple[str, ...] = ()
    position: Position = field(default_factory=Position)
    columns: dict[str, tuple[str, ...]] = field(default_factory=dict)
    sentinel_below: float | None = None
    labels: dict[str, Label] = field(default_factory=dict)
    flags: dict[str, Flag] = field(default_factory=dict)
    snr_min: float = 0.0
    cuts: tuple[Cut, ...] = ()
    selections: dict[str, Selection] = field(default_factory=dict)

    def __post_init__(self):
        for name in self.columns:
            _one_of("columns", name, COLUMNS)
        for name in self.flags:
            _one_of("flags", name, ("flag_spectra", "flag_sp"))

    def cut(self, name):
        """The cut called `name`. Raises ConfigError with the names that there are."""
        for cut in self.cuts:
            if cut.name == name:
                return cut
        raise errors.ConfigError(f"no cut {name!r}{errors.did_you_mean(name, [c.name for c in self.cuts])}")

    def selection(self, name):
        """The selection called `name`. "all" is every row; so is "catalogue" where the recipe has none."""
        if name in self.selections:
            return self.selections[name]
        if name in ("all", "catalogue"):
            return Selection()
        raise errors.SettingError(
            f"no selection {name!r}{errors.did_you_mean(name, ['all', *self.selections])}", "select")


# --- surveys and pairs -----------------------------------------------------------------------------


@dataclass(frozen=True)
class Survey:
    """A survey. `survey` is the prefix of its columns in a training table; `flag_id` its number in
    the catalogue of Table A1 (0 GALAH, 1 APOGEE)."""

    survey: str
    catalogue: Catalogue
    title: str = ""
    flag_id: int = 0
    spectra: Spectra | None = None

    def __post_init__(self):
        if not self.survey.isidentifier():
            raise ValueError(f"survey: {self.survey!r} cannot begin column names (letters, digits, _)")


@dataclass(frozen=True)
class Side:
    """One survey of a pair: its recipe (a file beside the pair's, or an installed name), the key that
    is compared (a template over our columns: id, star_id, dr3_source_id ...), and which of the
    recipe's cuts select the training set (None: all)."""

    recipe: str = ""
    survey: Survey | None = None
    key: tuple[str, ...] = ("{star_id}",)
    cuts: tuple[str, ...] | None = None
    selection: str = "catalogue"
    relations: dict[str, str] = field(default_factory=dict)   # label -> relation that replaces it

    def __post_init__(self):
        if not self.recipe and self.survey is None:
            raise ValueError("a side needs a `recipe` or a `survey`")
        for relation in self.relations.values():
            _one_of("relations", relation, RELATIONS)


@dataclass(frozen=True)
class Join:
    """How rows are paired. by: id (equal keys; blank ones never match) or sky (within `radius`
    arcsec). find: best (one-to-one, the closest; ties, and equal keys, go to the highest S/N, then to the
    first row; see stages.crossmatch) or all. keep: inner (pairs only) or left (every row of the left
    table)."""

    by: str = "id"
    radius: float = 1.0
    find: str = "best"
    keep: str = "inner"

    def __post_init__(self):
        _one_of("by", self.by, ("id", "sky"))
        _one_of("find", self.find, ("best", "all"))
        _one_of("keep", self.keep, ("inner", "left"))
        if not 0 < self.radius <= 3600:
            raise ValueError(f"radius: {self.radius} arcsec (expected above 0, at most 3600)")


@dataclass(frozen=True)
class Pair:
    """Two surveys and their training set: stars of both that pass every cut of either and have all
    of `labels` valid in both."""

    left: Side
    right: Side
    join: Join = field(default_factory=Join)
    labels: tuple[str, ...] = ("teff", "logg", "fe_h", "alpha_fe", "vmicro", "vbroad")
    title: str = ""


@dataclass(frozen=True)
class AttachColumn:
    """A column that comes from an attached table: references, type (f8, i8 or S<n>), unit, meaning."""

    column: tuple[str, ...]
    dtype: str = "f8"
    unit: str = ""
    meaning: str = ""


@dataclass(frozen=True)
class Attach:
    """A table whose columns are added to a survey's rows: Gaia, distances, cluster members.

    key      template over the attached table's columns;  on: template over our columns (by: id)
    where    rows of the attached table that count;  rank: of several rows for one star the one with
             the largest value of this column is taken, else the first
    columns  ours -> theirs; a column that the survey has already is filled only where it is missing,
             unless `replace`
    """

    name: str
    columns: dict[str, AttachColumn]
    hdu: int | str | None = None
    by: str = "id"
    key: tuple[str, ...] = ()
    on: tuple[str, ...] = ()
    position: Position = field(default_factory=Position)
    radius: float = 1.0
    where: tuple[Cut, ...] = ()
    rank: tuple[str, ...] = ()
    replace: bool = False
    sentinel_below: float | None = None
    title: str = ""

    def __post_init__(self):
        _one_of("by", self.by, ("id", "sky"))
        if self.by == "id" and not (self.key and self.on):
            raise ValueError("a join by id needs `key` (theirs) and `on` (ours)")
        if any(not cut.column for cut in self.where):
            raise ValueError("where: cuts on columns of the attached table only")


# --- loading ---------------------------------------------------------------------------------------

def find(name, beside=None, suffix=".yaml"):
    """The file of a recipe or table: beside the recipe that names it (directory `beside`), an existing
    path, or an installed one by its bare name ("apogee_dr16"). Raises NoInputError with the names."""
    from cannonkit import config
    if beside is not None and not os.path.isabs(name):
        for candidate in (os.path.join(beside, name), os.path.join(beside, name + suffix)):
            if os.path.isfile(candidate):
                return candidate
    return config.find(name, suffix)


def load_survey(name, beside=None):
    """The Survey of a recipe file or installed name. Raises ConfigError (file, line, key), NoInputError."""
    from cannonkit import config
    path = find(name, beside)
    survey = config.load(path, Survey)
    _check_survey(survey, path)
    return survey


def load_pair(name):
    """The Pair of a recipe file or installed name, its two surveys loaded into left.survey, right.survey."""
    from cannonkit import config
    path = find(name)
    pair = config.load(path, Pair)
    sides = {}
    for which in ("left", "right"):
        side = getattr(pair, which)
        survey = side.survey or load_survey(side.recipe, beside=os.path.dirname(path))
        if side.survey is not None:
            _check_survey(survey, path)
        try:
            for cut in side.cuts or ():
                survey.catalogue.cut(cut)
            survey.catalogue.selection(side.selection)
        except errors.ConfigError as error:
            raise errors.ConfigError(f"{path}: {which}: {error}") from None
        labels = dict(survey.catalogue.labels)
        for label, relation in side.relations.items():
            if label not in labels:
                raise errors.ConfigError(f"{path}: {which}: relations: {survey.survey} has no label "
                                         f"{label!r}{errors.did_you_mean(label, labels)}")
            labels[label] = Label(relation=relation, unit=labels[label].unit)
        survey = replace(survey, catalogue=replace(survey.catalogue, labels=labels))
        for label in pair.labels:
            if label not in labels:
                raise errors.ConfigError(f"{path}: {which}: {survey.survey} has no label {label!r}"
                                         f"{errors.did_you_mean(label, labels)}")
        sides[which] = replace(side, survey=survey)
    pair = replace(pair, **sides)
    if pair.left.survey.survey == pair.right.survey.survey:
        raise errors.ConfigError(f"{path}: both surveys are called {pair.left.survey.survey!r}")
    return pair


def is_pair(name):
    """True where the recipe is a pair of surveys, by its top-level keys; decided without loading it."""
    path = find(name)
    try:
        with open(path, encoding="utf-8", errors="replace") as lines:
            return any(line.startswith(("left:", "right:")) for line in lines)
    except OSError as error:
        raise errors.NoInputError(f"{path}: {error.strerror}") from None


def load_attach(name):
    """The Attach of a recipe file or installed name."""
    from cannonkit import config
    path = find(name)
    return config.load(path, Attach)


def _check_survey(survey, path):
    """What no single mapping shows: cuts that name flags, cuts of one name."""
    catalogue = survey.catalogue
    names = [cut.name for cut in catalogue.cuts]
    for name in names:
        if names.count(name) > 1:
            raise errors.ConfigError(f"{path}: two cuts called {name!r}")
    for cut in (*catalogue.cuts, *(c for s in catalogue.selections.values() for c in s.where)):
        if cut.flag and cut.flag not in catalogue.flags:
            raise errors.ConfigError(f"{path}: cut {cut.name!r}: no flag {cut.flag!r}"
                                     f"{errors.did_you_mean(cut.flag, catalogue.flags)}")


def as_dict(recipe):
    """A recipe as nested dicts and lists without its defaults, for the provenance record."""
    if is_dataclass(recipe):
        return {f.name: as_dict(getattr(recipe, f.name)) for f in fields(recipe)
                if getattr(recipe, f.name) not in (None, "", (), {})}
    if isinstance(recipe, dict):
        return {key: as_dict(value) for key, value in recipe.items()}
    if isinstance(recipe, tuple):
        return [as_dict(value) for value in recipe]
    return recipe


# --- tables beside the recipes ----------------------------------------------------------------------


@dataclass(frozen=True)
class Window:
    """A line window: [wave_lo, wave_hi] in Angstrom, rest frame, in `medium` (air or vacuum)."""

    element: str
    wave_lo: float
    wave_hi: float
    medium: str
    weight: float


@dataclass(frozen=True)
class ContinuumPixel:
    """A continuum pixel by its wavelength (Angstrom, rest frame)."""

    wavelength: float
    medium: str


def read_linemask(name, beside=None):
    """The windows of a line mask: a tuple of Window, those with weight 0 included.

    The file is CSV with a header line (element,wave_lo,wave_hi,medium,weight) and `#` comments.
    Raises ConfigError naming file and line."""
    windows = _read_table(find(name, beside, ".csv"), Window)
    for line, w in windows:
        if not w.wave_lo < w.wave_hi or not w.weight >= 0:
            raise errors.ConfigError(f"{line}: window {w.wave_lo} to {w.wave_hi}, weight {w.weight}")
    return tuple(w for _, w in windows)


def read_continuum(name, beside=None):
    """Continuum pixels: a tuple of ContinuumPixel, in the order of the file (CSV: wavelength,medium)."""
    return tuple(pixel for _, pixel in _read_table(find(name, beside, ".csv"), ContinuumPixel))


def _read_table(path, row_class):
    """[("file: line n", row)] of a CSV file with `#` comments, strictly: the columns of `row_class`."""
    names = [f.name for f in fields(row_class)]
    kinds = {f.name: f.type for f in fields(row_class)}
    rows, header = [], None
    try:
        with open(path, encoding="utf-8", newline="") as lines:
            text = list(lines)
    except UnicodeDecodeError:
        raise errors.ConfigError(f"{path}: not a text file (UTF-8)") from None
    except OSError as error:
        raise errors.NoInputError(f"{path}: {error.strerror}") from None
    for number, line in enumerate(text, 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        where = f"{path}: line {number}"
        values = [v.strip() for v in next(csv.reader([line]))]
        if header is None:
            if values != names:
                raise errors.ConfigError(f"{where}: columns {','.join(values)} (expected {','.join(names)})")
            header = values
            continue
        if len(values) != len(names):
            raise errors.ConfigError(f"{where}: {len(values)} values for {len(names)} columns")
        row = {}
        for name, value in zip(names, values, strict=True):
            if kinds[name] is float:
                try:
                    row[name] = float(value)
                except ValueError:
                    row[name] = math.nan
                if not math.isfinite(row[name]):
                    raise errors.ConfigError(f"{where}: {name}: {value!r} is no number")
            else:
                row[name] = value
        if row.get("medium", "air") not in ("air", "vacuum"):
            raise errors.ConfigError(f"{where}: medium {row['medium']!r} (air or vacuum)")
        rows.append((where, row_class(**row)))
    if header is None:
        raise errors.ConfigError(f"{path}: empty (expected columns {','.join(names)})")
    return rows
