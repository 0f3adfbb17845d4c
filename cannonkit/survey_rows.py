"""Rows of a survey's catalogue for labels that come by, joined by id, in bounded memory.

    rows_of = SurveyRows("apogee_catalogue.fits", recipe, ("id", "snr", "flag_spectra"))
    found, rows = rows_of(ids)          # rows[k] belongs to ids[k] where found[k]

Along the pipeline labels come in the order of the catalogue that cc-crossmatch selected, and then the
catalogue is read alongside, chunk by chunk; only where they do not are its ids put into an index. A raw
catalogue is read through its recipe at once.
"""
import numpy as np

from cannonkit import errors, schema, stream
from cannonkit.stages.lookup import Lookup, strip_right

BLOCK = 65536


class SurveyRows:
    """See the module. columns: names as in schema.survey_columns, or "reject"; `id` is always there. A column
    that the table lacks is missing (NaN, null) everywhere. `at`: row from which the next ids are tried first."""

    def __init__(self, path, recipe, columns, selection=None):
        self.path, self.recipe, self.at, self.lookup = str(path), recipe, 0, None
        self.source = self.table = None
        names = ("id", *(c for c in columns if c != "id"))
        known = {c.name[2:]: c for c in schema.survey_columns("x", recipe.catalogue.labels)}
        self.dtype = np.dtype([(n, self._type(n, known)) for n in names])
        if not self.path.lower().endswith(".csv"):
            source = stream.open_source(path, hdu=recipe.catalogue.hdu)
            if source.product is not None:
                self._open(source, names)
                return
            source.close()
        from cannonkit import surveys

        raw = surveys.read(path, recipe, selection)
        self.table = np.zeros(len(raw), self.dtype)
        _fill(self.table, raw, {n: n for n in names if n in raw.dtype.names})
        self.lookup = Lookup(self.table["id"], self.path)

    @staticmethod
    def _type(name, known):
        if name == "reject":
            return ">i8"
        return known[name].numpy_dtype if name in known else ">f8"

    def _open(self, source, names):
        prefix = self.recipe.survey + "_"
        if source.product != "training" or prefix + "id" not in source.columns:
            source.close()
            raise errors.DataError(f"{source.name}: a {source.product} product without columns of survey "
                                   f"{self.recipe.survey!r}; expected a survey catalogue or a selection of it")
        self.source = source
        theirs = {n: n if n == "reject" else prefix + n for n in names}
        self.theirs = {ours: name for ours, name in theirs.items() if name in source.columns}

    @property
    def n_row(self):
        return len(self.table) if self.source is None else self.source.n_row

    def reject_bits(self):
        """{bit: (name, meaning)} of the column `reject`."""
        if self.source is None:
            return {i: (cut.name, cut.meaning) for i, cut in enumerate(self.recipe.catalogue.cuts)}
        header = self.source.hdu.header
        return {i: (header.text(key), header.comments.get(key, "")) for i in range(63)
                if (key := f"REJB{i:02d}") in header}

    def __call__(self, ids):
        """(found (n,) bool, rows (n,) structured; missing values where not found)."""
        ids = strip_right(np.asarray(ids))
        n = len(ids)
        if self.source is not None and n and self.at + n <= self.n_row:
            rows = self._read(self.at, self.at + n)
            if np.array_equal(strip_right(rows["id"]), ids) and np.all(ids != b""):
                self.at += n
                return np.ones(n, bool), rows
        if self.lookup is None:
            parts = [raw[self.theirs["id"]].copy() for _, raw in self.source.chunks(BLOCK, [self.theirs["id"]])]
            self.lookup = Lookup(np.concatenate(parts) if parts else np.zeros(0, "S1"), self.path)
        place = self.lookup.find(ids)
        found = place >= 0
        rows = np.zeros(n, self.dtype)
        _fill(rows, None, {})
        if found.any():
            inside = self.table[place[found]] if self.source is None else self._gather(place[found])
            _fill(rows, inside, {name: name for name in self.dtype.names}, found)
            self.at = int(place[found][-1]) + 1
        return found, rows

    def _read(self, start, stop):
        """Rows start to stop, as the file has them (big-endian) where it has every column."""
        columns = list(self.theirs.values())
        if len(self.theirs) == len(self.dtype.names):
            raw = self.source.rows(start, stop, columns)
            fields = [raw.dtype.fields[self.theirs[n]] for n in self.dtype.names]
            return raw.view(np.dtype({"names": self.dtype.names, "formats": [f[0] for f in fields],
                                      "offsets": [f[1] for f in fields], "itemsize": raw.dtype.itemsize}))
        rows = np.zeros(stop - start, self.dtype)
        _fill(rows, self.source.rows(start, stop, columns), self.theirs)
        return rows

    def _gather(self, place):
        """Rows at these places, in any order: the part of the table that holds them is read in blocks."""
        rows = np.zeros(len(place), self.dtype)
        order = np.argsort(place, kind="stable")
        ordered = place[order]
        for start in range(int(ordered[0]), int(ordered[-1]) + 1, BLOCK):
            stop = min(start + BLOCK, int(ordered[-1]) + 1)
            a, b = np.searchsorted(ordered, [start, stop])
            if a < b:
                block = self._read(int(ordered[a]), int(ordered[b - 1]) + 1)
                _fill(rows, block[ordered[a:b] - ordered[a]], {n: n for n in self.dtype.names}, order[a:b])
        return rows

    def close(self):
        if self.source is not None:
            self.source.close()

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


def _fill(rows, raw, names, where=slice(None)):
    """Copy columns {ours: theirs} of `raw` into rows[where]; what it lacks is missing."""
    for ours in rows.dtype.names:
        if ours in names:
            rows[ours][where] = raw[names[ours]]
        elif rows.dtype[ours].kind == "f":
            rows[ours][where] = np.nan
        elif rows.dtype[ours].kind == "i" and rows.dtype[ours].itemsize == 8 and ours != "reject":
            rows[ours][where] = schema.NULL_ID
        elif ours == "flag_survey":
            rows[ours][where] = 1
