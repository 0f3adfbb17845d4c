"""The rows of cc-resample's TABLE: which star, which file, which S/N.

Three kinds of table: a training table or selection of cc-crossmatch (columns {survey}_id, {survey}_star_id,
{survey}_spectrum, {survey}_snr: row for row, stars without a spectrum too); a survey's own catalogue, read
through its recipe and one of its selections; and any other table with columns `id` and `spectrum` (and
`star_id`, `snr`).
"""
import os
import re
from dataclasses import dataclass

import numpy as np

from cannonkit import errors, schema, stream, surveys
from cannonkit.stages.catalogue import Mapping

FIELD = re.compile(r"\{(\w+)\}")


@dataclass
class Rows:
    """Some rows: id and star_id (bytes), snr and velocity (float64, NaN where not known), file and row
    (lists of str, filled templates; '' where a column of theirs is blank), labels (n_row, n_label)
    float64."""

    id: np.ndarray
    star_id: np.ndarray
    snr: np.ndarray
    velocity: np.ndarray
    file: list
    row: list
    labels: np.ndarray


class Targets:
    """An open TABLE, as rows of one survey. A context manager.

    survey     recipe.Survey with a `spectra` section
    selection  of the recipe, for a survey's own catalogue ('' = catalogue); another table has its own rows
    labels     names of labels to read as well
    Attributes: n_row, file_width, sources (for the provenance chain), name. Raises DataError, NoInputError,
    UsageError.
    """

    def __init__(self, path, survey, selection="", labels=()):
        self.survey, self.label_names, self._kept = survey, tuple(labels), None
        self._table = surveys.open_table(path, survey.catalogue.hdu if str(path) != "-" else None)
        try:
            self._open(selection)
        except BaseException:
            self._table.close()
            raise

    def _open(self, selection):
        table, spectra = self._table, self.survey.spectra
        self.name = table.name
        self.sources = [table] if hasattr(table, "hdu") else []
        self._mapping = self._chosen = None
        prefix = self.survey.survey + "_"
        row = spectra.generic.row if spectra.generic else ""
        fields = set(FIELD.findall(spectra.file + row)) - {"ccd"}
        if table.product not in (None, "training"):
            raise errors.DataError(f"{table.name}: a {table.product} product, expected a training table of "
                                   "cc-crossmatch, a survey catalogue or a table that names spectra")
        if table.product == "training":
            if prefix + "id" not in table.columns:
                raise errors.DataError(f"{table.name}: no columns of survey {self.survey.survey!r}"
                                       f"{errors.did_you_mean(prefix + 'id', table.columns)}")
            self._names = {n: prefix + n for n in ("id", "star_id", "snr", "spectrum", *self.label_names)}
        elif {"id", "spectrum"} <= set(table.columns):
            self._names = {n: n for n in ("id", "star_id", "snr", "spectrum", *self.label_names)}
        else:
            self._names = None
        if self._names is None:
            self._mapping = Mapping(self.survey, table.columns, surveys.table_place(table),
                                    selection or "catalogue")
            if "spectrum" in fields and self._mapping.spectrum is None:
                if not self.survey.catalogue.spectrum:
                    raise errors.ConfigError("the recipe's catalogue has no template `spectrum`, "
                                             "which the file names of its spectra need")
                self._mapping.columns.template(self.survey.catalogue.spectrum, "spectrum")     # says what is missing
            self._chosen, _, self.counts = surveys.chosen_rows(table, self._mapping)
            self.n_row = len(self._chosen)
            widths = {n: self._mapping.dtype[n].itemsize for n in ("id", "star_id", "spectrum")}
        else:
            if selection:
                raise errors.UsageError(f"--select {selection}: {table.name} has its own rows; a selection "
                                        "is for a survey's own catalogue")
            self.n_row, self.counts = table.n_row, {}
            need = {"id", *(f for f in fields if f in self._names)}
            for n in need:
                self._require(self._names[n])
            self._names = {n: c for n, c in self._names.items() if n in need or c in table.columns}
            widths = {n: self._width(c) for n, c in self._names.items() if n in ("id", "star_id", "spectrum")}
        self._velocity = None
        if spectra.velocity.column:
            self._velocity = self._find_velocity(spectra.velocity.column, prefix)
        literal = len(FIELD.sub("", spectra.file)) + 5 * spectra.file.count("{ccd}")
        self.file_width = max(1, literal + sum(widths.get(f, 0) for f in FIELD.findall(spectra.file)))

    def _require(self, column):
        if column not in self._table.columns:
            raise errors.DataError(f"{surveys.table_place(self._table)}: no column {column!r}"
                                   f"{errors.did_you_mean(column, self._table.columns)}")

    def _width(self, column):
        dtype = np.dtype(self._table.columns[column].dtype)
        return dtype.itemsize if dtype.kind == "S" else 20

    def _find_velocity(self, column, prefix):
        for name in (prefix + column, column):
            if name in self._table.columns:
                return name
        self._require(column)
        return None

    def keep(self, size, start, stop):
        """Where TABLE is a pipe, read these rows now, so that `chunks` can give them more than once."""
        if isinstance(self._table, stream.Source) and not self._table.seekable:
            self._kept = list(self.chunks(size, start, stop))

    def chunks(self, size, start=0, stop=None):
        """Yield (number of the first row, Rows) of `size` rows at most, in order."""
        if self._kept is not None:
            yield from self._kept
            return
        stop = self.n_row if stop is None else min(stop, self.n_row)
        if start >= stop:
            return
        if self._mapping is None:
            columns = list(dict.fromkeys([*self._names.values(), *filter(None, [self._velocity])]))
            for first, raw in self._table.chunks(size, columns, start, stop):
                yield first, self._rows({n: raw[c] for n, c in self._names.items()}, raw, first)
            return
        chosen = self._chosen[start:stop]
        needed = [n for n in self._table.columns
                  if n in set(self._mapping.needed) | ({self._velocity} if self._velocity else set())]
        at = start
        for first, raw in self._table.chunks(surveys.CHUNK, needed, int(chosen[0]), int(chosen[-1]) + 1):
            inside = chosen[np.searchsorted(chosen, first):np.searchsorted(chosen, first + len(raw))] - first
            for k in range(0, len(inside), size):
                rows = inside[k:k + size]
                mapped = self._mapping.rows(raw[rows], first + rows)[0]
                yield at, self._rows({n: mapped[n] for n in mapped.dtype.names}, raw[rows], at)
                at += len(rows)

    def _rows(self, columns, raw, first):
        n = len(raw)
        nothing = np.full(n, np.nan)
        texts = {x: self._texts(columns[x]) for x in ("id", "star_id", "spectrum") if x in columns}
        ids = np.array([os.fsencode(t) for t in texts["id"]] or np.zeros(0, "S1"))
        if ids.dtype.itemsize > schema.ID_WIDTH:
            k = int(np.argmax(np.char.str_len(ids)))
            raise errors.DataError(f"{errors.where(self.name, row=first + k)}: id longer than "
                                   f"{schema.ID_WIDTH} characters")
        stars = np.array([os.fsencode(t) for t in texts["star_id"]]) if "star_id" in texts and n else ids
        spectra = self.survey.spectra
        velocity = nothing
        if self._velocity is not None:
            velocity = schema.native(raw[self._velocity]).astype(np.float64)
        labels = [schema.native(columns[x]).astype(np.float64) if x in columns else nothing
                  for x in self.label_names]
        snr = schema.native(columns["snr"]).astype(np.float64) if "snr" in columns else nothing
        return Rows(ids, stars, snr, velocity, self._fill(spectra.file, texts, n),
                    self._fill(spectra.generic.row if spectra.generic else "", texts, n),
                    np.stack(labels, axis=1) if labels else np.zeros((n, 0)))

    @staticmethod
    def _texts(column):
        if column.dtype.kind == "S":
            return [os.fsdecode(value).strip() for value in column.tolist()]
        return [str(value) for value in schema.native(column).tolist()]

    @staticmethod
    def _fill(template, texts, n):
        parts = re.split(r"(\{\w+\})", template)
        out = []
        for k in range(n):
            values = []
            for part in parts:
                name = part[1:-1] if part.startswith("{") else None
                if name in texts:
                    if not texts[name][k]:
                        values = []
                        break
                    values.append(texts[name][k])
                else:
                    values.append(part)
            out.append("".join(values))
        return out

    def close(self):
        self._table.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()
