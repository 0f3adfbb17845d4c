"""A survey's catalogue in our columns: labels, errors, flags, positions, quality cuts.

Paper section 3.2. A `Mapping` is made once for a catalogue (its recipe and the columns that it has) and then
turns chunks of its rows into rows of `columns_of(survey)`, the columns of a training table without prefix.
Quality cuts never drop a row: each has a bit in `reject`, so that every star carries every reason.
A recipe's selections do drop rows: one spectrum per star, or the repeats (stages/selection.py).

Missing values: NaN and the recipe's sentinel (below -9000 in APOGEE) become NaN in floats; integers with
TNULL become schema.NULL_ID; texts are blank.
"""
from dataclasses import replace

import numpy as np

from cannonkit import errors, schema
from cannonkit.stages.columns import Columns, NoColumn
from cannonkit.stages.cuts import CutTest, Rejects
from cannonkit.stages.sky import PositionReader

GAIA_IDS = ("dr2_source_id", "dr3_source_id")


def galah_vmicro(teff, logg):
    """v_micro (km/s) of GALAH's relation, equations 4 and 5 of Buder et al. 2021; NaN where an input is NaN.

    Cool main sequence (teff < 5500 K and logg > 4.2): 1.1 + 1.6e-4 (teff - 5500); all others:
    1.1 + 1.0e-4 (teff - 5500) + 4e-7 (teff - 5500)^2.
    """
    d = np.asarray(teff, np.float64) - 5500.0
    logg = np.asarray(logg, np.float64)
    out = np.where((d < 0) & (logg > 4.2), 1.1 + 1.6e-4 * d, 1.1 + 1.0e-4 * d + 4e-7 * d * d)
    return np.where(np.isnan(logg), np.nan, out)


def columns_of(survey, spectrum_width=None):
    """schema.Column's of a survey's mapped rows, without prefix."""
    prefix = survey.survey + "_"
    units = {name: label.unit for name, label in survey.catalogue.labels.items()}
    out = []
    for column in schema.survey_columns(survey.survey, tuple(survey.catalogue.labels)):
        name = column.name[len(prefix):]
        unit = column.unit or units.get(name.removeprefix("e_"), "")
        out.append(replace(column, name=name, unit=unit))
        if name == "spectrum" and spectrum_width is not None:
            out[-1] = replace(out[-1], dtype=f"S{spectrum_width}")
    return tuple(out)


class Mapping:
    """How the rows of one catalogue become ours.

    survey      recipe.Survey
    columns     {name: schema.Column} of the catalogue's table
    place       its name, for messages
    selection   name of one of the recipe's selections, for `where`, `group` and the id template
    cuts        names of the cuts that count (None: all of the recipe's)
    labels      labels that must be valid (None: all of the recipe's that are not optional)
    rejects     Rejects to add this survey's bits to; bit names are SURVEY_CUT
    position    recipe.Position in place of the recipe's

    Raises DataError naming file and column where the catalogue lacks something that is needed: all that it lacks.
    """

    def __init__(self, survey, columns, place, selection="catalogue", cuts=None, labels=None, rejects=None,
                 position=None):
        catalogue = survey.catalogue
        self.survey, self.columns = survey, Columns(columns, place)
        self.selection = catalogue.selection(selection)
        self.sentinel = catalogue.sentinel_below
        find, lacking = self.columns, []

        def wanted(look_up, *arguments):
            try:
                return look_up(*arguments)
            except NoColumn as problem:
                lacking.append(problem)

        self.id = wanted(find.template, self.selection.id or catalogue.id, "id")
        self.star_id = wanted(find.template, catalogue.star_id, "star_id")
        self.spectrum = None
        if any(find.has_all(template) for template in catalogue.spectrum):
            self.spectrum = find.template(catalogue.spectrum, "spectrum")
        position = position or catalogue.position
        self.position = None
        if position.frame == "designation" or find.reference(position.lon, "position: lon"):
            self.position = PositionReader(position, find)
        self.others = {name: find.reference(refs, name) for name, refs in catalogue.columns.items()}
        if "snr" in catalogue.columns:
            wanted(find.required, catalogue.columns["snr"], "snr")
        self.flags = {}
        for name, flag in catalogue.flags.items():
            look_up = find.reference if flag.optional else find.required
            self.flags[name] = wanted(look_up, flag.column, name)
        self.labels = {name: wanted(_LabelReader, name, label, find) for name, label in catalogue.labels.items()}
        self.rejects = Rejects() if rejects is None else rejects
        upper = survey.survey.upper()
        self.cuts, self.skipped_cuts = [], []
        for cut in catalogue.cuts:
            if cuts is not None and cut.name not in cuts:
                continue
            test = wanted(CutTest, cut, find, catalogue.flags, self.sentinel)
            if test is None:
                continue
            if test.skipped:
                self.skipped_cuts.append(cut.name)
            else:
                self.cuts.append((self.rejects.add(f"{upper}_{cut.name}", test.meaning), test))
        if labels is None:
            labels = [name for name, label in catalogue.labels.items() if not label.optional]
        self.needed_labels = [(self.rejects.add(f"{upper}_NO_{name.upper()}", f"valid {name}"), name)
                              for name in labels]
        self.where = [wanted(CutTest, c, find, catalogue.flags, self.sentinel) for c in self.selection.where]
        first = {p.names: p.what for p in reversed(lacking)}
        if len(first) == 1:
            raise lacking[0]
        if lacking:
            raise errors.DataError(f"{place}: lacks columns that the recipe of {survey.survey!r} names: "
                                   + "; ".join(f"{what}: no {names}" for names, what in reversed(first.items()))
                                   + errors.did_you_mean("", columns)
                                   + "; a copy of the recipe can name others, or leave out what is not needed")
        self.table = columns_of(survey, min(160, self.spectrum.width) if self.spectrum else 1)
        self.dtype = schema.Table("ROWS", self.table).dtype.newbyteorder("=")

    @property
    def needed(self):
        """Names of the catalogue's columns that `rows` reads, in the catalogue's order."""
        names = set(self.id.needed) | set(self.star_id.needed)
        if self.spectrum is not None:
            names |= set(self.spectrum.needed)
        if self.position is not None:
            names |= set(self.position.needed)
        names |= {r.name for r in (*self.others.values(), *self.flags.values()) if r is not None}
        for reader in self.labels.values():
            names |= set(reader.needed)
        for test in (*(t for _, t in self.cuts), *self.where):
            names |= set(test.needed)
        return [n for n in self.columns.columns if n in names]

    @property
    def needed_for_selection(self):
        """Names of the columns that `kept`, `star_id.fill`, `id.fill` and `snr` read."""
        names = {n for test in self.where for n in test.needed}
        names |= set(self.star_id.needed) | set(self.id.needed)
        snr = self.others.get("snr")
        if snr is not None:
            names.add(snr.name)
        if any(t.cut.mapped for t in self.where):
            names |= set(self.needed)
        return [n for n in self.columns.columns if n in names]

    def kept(self, rows):
        """True where the selection's `where` keeps the row."""
        keep = np.ones(len(rows), bool)
        for test in self.where:
            keep &= test.passes(rows, self._map(rows, np.arange(len(rows))) if test.cut.mapped else None)
        return keep

    def snr(self, rows):
        """The catalogue's S/N, float64; NaN where there is none."""
        snr = self.others.get("snr")
        return np.full(len(rows), np.nan) if snr is None else snr.numbers(rows, self.sentinel)

    def rows(self, raw, numbers):
        """(mapped rows, reject words) of raw rows; numbers: which rows of their table they are, int64.

        mapped: structured, native, `self.dtype`. reject: int64, one bit per cut that the row fails.
        """
        out = self._map(raw, numbers)
        reject = np.zeros(len(raw), np.int64)
        for bit, test in self.cuts:
            reject[~test.passes(raw, out)] |= bit
        for bit, name in self.needed_labels:
            reject[np.isnan(out[name])] |= bit
        return out, reject

    def _text(self, name, template, width, raw, numbers):
        texts = template.fill(raw, numbers)
        if texts.dtype.itemsize > width:
            long = np.flatnonzero(np.char.str_len(texts) > width)
            if long.size:
                place = errors.where(self.columns.place, row=int(numbers[long[0]]))
                raise errors.DataError(f"{place}: {name} {texts[long[0]].decode('latin-1')!r} is longer than "
                                       f"{width} characters")
        return texts

    def _map(self, raw, numbers):
        out = np.zeros(len(raw), self.dtype)
        for name in self.dtype.names:
            if self.dtype[name].kind == "f":
                out[name] = np.nan
        out["id"] = self._text("id", self.id, schema.ID_WIDTH, raw, numbers)
        out["star_id"] = self._text("star_id", self.star_id, schema.STAR_ID_WIDTH, raw, numbers)
        if self.spectrum is not None:
            out["spectrum"] = self._text("spectrum", self.spectrum, 160, raw, numbers)
        if self.position is not None:
            out["ra"], out["dec"] = self.position.read(raw)
        for name, reference in self.others.items():
            if name in GAIA_IDS:
                if reference is None:
                    continue
                ids = reference.integers(raw)
                out[name] = np.where(ids > 0, ids, schema.NULL_ID)
            elif reference is not None:
                out[name] = reference.numbers(raw, self.sentinel)
        for name in GAIA_IDS:
            if self.others.get(name) is None:
                out[name] = schema.NULL_ID
        for name in ("flag_spectra", "flag_sp"):
            reference = self.flags.get(name)
            if reference is None:
                out[name] = schema.NULL_ID
                continue
            words, flag = reference.words(raw), self.survey.catalogue.flags[name]
            stored = words & flag.mask != 0 if flag.boolean else words
            out[name] = np.where(words == schema.NULL_ID, words, stored)
        values = {}
        for name, reader in self.labels.items():
            if not reader.label.relation:
                values[name] = reader.read(raw, self.sentinel)
        for name, reader in self.labels.items():
            if reader.label.relation == "galah_vmicro":
                for need in ("teff", "logg"):
                    if need not in values:
                        raise errors.ConfigError(f"label {name}: the relation needs {need}, which "
                                                 f"{self.survey.survey} has not")
                relation = galah_vmicro(values["teff"][0], values["logg"][0])
                values[name] = relation, np.full(len(raw), np.nan)
        invalid = np.zeros(len(raw), bool)
        for name, (value, error) in values.items():
            out[name], out["e_" + name] = value, error
            if not self.survey.catalogue.labels[name].optional:
                invalid |= np.isnan(value)
        out["flag_survey"] = invalid
        return out


class _LabelReader:
    """A recipe's Label on a table: `read(rows, sentinel)` -> (value, error), float64; NaN where invalid."""

    def __init__(self, name, label, columns):
        self.label, self.value, self.error, self.choice, self.mean = label, None, None, None, None
        what = f"label {name}"
        if label.relation:
            self.needed = []
            return
        self.value = columns.reference(label.value, what)
        self.error = columns.reference(label.error, f"{what}: error")
        if self.value is None and label.mean is not None:
            flags = label.mean.flag or (None,) * len(label.mean.value)
            self.mean = [tuple(x if x is None else columns.required((x,), what) for x in part)
                         for part in zip(label.mean.value, label.mean.error, flags, strict=True)
                         if columns.name(part[0])]
        if self.value is None and not self.mean and not label.optional:
            columns.required(label.value or (label.mean.value if label.mean else ()), what)
        choice = label.choice
        if choice is not None and self.value is not None and columns.reference(choice.column, what):
            self.choice = (columns.required(choice.column, what), columns.required(choice.value, what),
                           columns.reference(choice.error, what))
        used = [self.value, self.error, *(self.choice or ()), *(x for part in self.mean or () for x in part)]
        self.needed = [r.name for r in used if r is not None]

    def read(self, rows, sentinel):
        n_row = len(rows)
        nothing = np.full(n_row, np.nan)
        if self.mean:
            return self._weighted_mean(rows, sentinel)
        if self.value is None:
            return nothing, nothing.copy()
        value = self.value.numbers(rows, sentinel)
        error = nothing.copy() if self.error is None else self._error(self.error, rows, value, sentinel)
        if self.choice is not None:
            column, other, other_error = self.choice
            classes = column.texts(rows)
            chosen = np.zeros(n_row, bool)
            for prefix in self.label.choice.prefixes:
                chosen |= np.char.startswith(classes, prefix.encode())
            other = other.numbers(rows, sentinel)
            error[chosen] = np.nan if other_error is None else \
                self._error(other_error, rows, other, sentinel)[chosen]
            value = np.where(chosen, other, value)
        error[np.isnan(value)] = np.nan
        return value, error

    def _error(self, reference, rows, value, sentinel):
        """sigma of the label; negative and sentinel errors (-999.99) are NaN."""
        x = reference.numbers(rows, sentinel)
        x[x < 0] = np.nan
        kind = self.label.error_is
        if kind.endswith("variance"):
            x = np.sqrt(x)
        if kind.startswith("log10"):
            x = x * np.log(10.0) * np.abs(value)
        return x

    def _weighted_mean(self, rows, sentinel):
        weight, total = np.zeros(len(rows)), np.zeros(len(rows))
        for value, error, flag in self.mean:
            x, sigma = value.numbers(rows, sentinel), error.numbers(rows, sentinel)
            good = np.isfinite(x) & (sigma > 0)
            if flag is not None:
                good &= flag.numbers(rows) == 0
            w = np.zeros(len(rows))
            w[good] = sigma[good] ** -2.0
            weight += w
            total += np.where(good, w * np.where(good, x, 0.0), 0.0)
        valid = weight > 0
        out, error = np.full(len(rows), np.nan), np.full(len(rows), np.nan)
        out[valid], error[valid] = total[valid] / weight[valid], weight[valid] ** -0.5
        return out, error
