"""Open a survey's catalogue and read it through its recipe: raw FITS or CSV, or a training product.

    rows = surveys.read("GALAH_DR3_main_allstar_v2.fits", "galah_dr3")            # one row per star
    rows = surveys.read("training.fits", "galah_dr3")                              # from a training product
    rows = surveys.read(path, recipe, "repeats", columns=["id", "star_id", "teff"])

gives a structured array (native byte order) with the columns of `schema.survey_columns` without prefix: id,
star_id, spectrum, ra, dec, snr, <label>, e_<label>, flag_spectra, flag_sp, flag_survey, dr2_source_id,
dr3_source_id, parallax, e_parallax, r_est, r_lo, r_hi, and `selected` (bool), `reject` (int64).
Missing values are NaN, blank, schema.NULL_ID. A flag word is bad where
`word & recipe.catalogue.flags[name].stored_mask` is not 0.
"""
import csv
import os
import re

import numpy as np

from cannonkit import errors, fits, recipe, schema, stream
from cannonkit.schema import Column
from cannonkit.stages import selection as select
from cannonkit.stages.catalogue import Mapping

_LEADING_ZERO = re.compile(r"[-+]?0[0-9]")     # 007 is a name, not a number
CHUNK = 16384             # rows of a catalogue in memory at a time; fewer where they are wide
CHUNK_BYTES = 16 << 20


class TextTable:
    """A table in a text: name, n_row, columns, `chunks`, as an open FITS table has. Types are found by column:
    whole numbers (64 bits, exact), numbers (empty = NaN), texts (007 is one).

    names, rows: the columns' names and the rows' texts.  text: what they were read from, for DATASUM.
    """

    product = None

    def __init__(self, path, names, rows, text):
        self.name = str(path)
        if len({n.casefold() for n in names}) < len(names) or "" in names:
            raise errors.DataError(f"{path}: its header line has blank names or the same name twice")
        for number, row in enumerate(rows):
            if len(row) != len(names):
                raise errors.DataError(f"{errors.where(path, row=number)}: {len(row)} values for "
                                       f"{len(names)} columns")
        arrays = [_typed(values) for values in (zip(*rows, strict=True) if rows else [()] * len(names))]
        self._data = np.empty(len(rows), [(n, a.dtype) for n, a in zip(names, arrays, strict=True)])
        self.columns = {}
        for name, array in zip(names, arrays, strict=True):
            self._data[name] = array
            kind = array.dtype.str.lstrip("<>|=")
            self.columns[name] = Column(name, kind, null=schema.NULL_ID if kind == "i8" else None)
        self.n_row, self.header = len(rows), fits.Header()
        self._sum = fits.Sum()
        data = text.encode()
        self._sum.add(np.frombuffer(data.ljust(-(-len(data) // 4) * 4, b"\0"), np.uint8))

    def chunks(self, chunk=None, columns=None, start=0, stop=None):
        """Yield (first row, rows) of the wanted columns."""
        stop = self.n_row if stop is None else min(stop, self.n_row)
        chunk = chunk or CHUNK
        for first in range(start, stop, chunk):
            rows = self._data[first:min(first + chunk, stop)]
            yield first, rows if columns is None else rows[list(columns)]

    def datasums(self):
        """Of the text, padded with zeros to whole words."""
        return {"text": self._sum.value}

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        pass


def _typed(values):
    values = [v.strip() for v in values]
    filled = [v for v in values if v]
    if filled and not any("_" in v or _LEADING_ZERO.match(v) for v in filled):
        try:
            if all(abs(int(v)) < 2 ** 63 for v in filled):
                return np.array([int(v) if v else schema.NULL_ID for v in values], np.int64)
        except ValueError:
            pass
        try:
            return np.array([float(v) if v else np.nan for v in values])
        except ValueError:
            pass
    texts = [v.encode() for v in values]
    return np.array(texts, f"S{max([1, *map(len, texts)])}")


def open_table(path, hdu=None):
    """A raw catalogue or one of our products, for reading by chunks: FITS; or by its name a text:

        NAME.csv     comma-separated, a header line, `#` lines are comments
        NAME.txt     separated by blanks, a header line (with or without `#`)
        a directory  all its .txt files as one table, with a column `cluster` that has the file's name
                     (so Vasiliev & Baumgardt 2021 publish the members of globular clusters)

    Raises NoInputError, DataError."""
    name = os.fspath(path)
    if name.lower().endswith(".csv"):
        return _read_csv(name)
    if name.lower().endswith(".txt"):
        names, rows, text = _read_blanks(name)
        return TextTable(name, names, rows, text)
    if os.path.isdir(name):
        return _read_directory(name)
    return stream.open_source(path, hdu=hdu)


def _text(path):
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            return file.read()
    except UnicodeDecodeError:
        raise errors.DataError(f"{path}: not a text file (UTF-8)") from None
    except OSError as error:
        raise errors.NoInputError(f"{path}: {error.strerror}") from None


def _read_csv(path):
    text = _text(path)
    rows = list(csv.reader(line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")))
    if not rows:
        raise errors.DataError(f"{path}: empty")
    return TextTable(path, [name.strip() for name in rows[0]], rows[1:], text)


def _read_blanks(path):
    """Column names, rows and text of a table whose values are separated by blanks."""
    text = _text(path)
    lines = [line.split() for line in text.splitlines() if line.strip()]
    if not lines:
        raise errors.DataError(f"{path}: empty")
    names = lines[0][1:] if lines[0][0] == "#" else [lines[0][0].lstrip("#"), *lines[0][1:]]
    return names, [line for line in lines[1:] if not line[0].startswith("#")], text


def _read_directory(path):
    files = sorted(f for f in os.listdir(path) if f.lower().endswith(".txt"))
    if not files:
        raise errors.NoInputError(f"{path}: a directory without .txt files")
    names, rows, texts = None, [], []
    for file in files:
        found, more, text = _read_blanks(os.path.join(path, file))
        if names is not None and found != names:
            raise errors.DataError(f"{os.path.join(path, file)}: columns {' '.join(found)}, those of {files[0]} "
                                   f"are {' '.join(names)}")
        names = found
        rows += [[*row, file[:-4]] for row in more]
        texts.append(text)
    return TextTable(path, [*names, "cluster"], rows, "".join(texts))


def table_place(table):
    """The table's name for messages."""
    return table.place() if hasattr(table, "place") else table.name


def chunk_rows(table):
    """How many rows of the table to read at a time."""
    width = table.hdu.axes[0] if getattr(table, "hdu", None) is not None else 1
    return max(1, min(CHUNK, CHUNK_BYTES // max(1, width)))


def chosen_rows(table, mapping, also=None):
    """The rows of the mapping's selection: sorted row numbers (int64), and counts for the log.

    also   function(raw rows, their numbers) -> dict of arrays, called on every chunk with the columns
           mapping.needed_for_selection and `also.needed`; its arrays come back for the chosen rows.
    Returns (rows, {name: array}, counts).
    """
    chosen = mapping.selection
    needed = list(dict.fromkeys([*mapping.needed_for_selection, *(also.needed if also else ())]))
    numbers, star_ids, snrs, extras = [], [], [], []
    for first, raw in chunks_or_nothing(table, needed):
        keep = np.flatnonzero(mapping.kept(raw))
        if len(keep) < len(raw):
            raw = raw[keep]
        keep += first
        numbers.append(keep)
        if chosen.one_per_star or chosen.group:
            star_ids.append(mapping.star_id.fill(raw, keep))
            snrs.append(mapping.snr(raw))
        if also:
            extras.append(also(raw, keep))
    rows = np.concatenate(numbers)
    counts = {"rows": table.n_row, "kept by the recipe": len(rows)}
    keep = slice(None)
    if chosen.one_per_star or chosen.group:
        ids, snr = np.concatenate(star_ids), np.concatenate(snrs)
        keep = np.arange(len(rows))
        if chosen.one_per_star:
            keep = select.one_per_star(ids, snr)
            counts["more rows of the same star"] = len(rows) - len(keep)
        if chosen.group:
            inside, n_star, n_large = select.in_groups(ids[keep], snr[keep], *chosen.group)
            keep = keep[inside]
            counts["stars"] = n_star
            if n_large:
                counts[f"stars with more than {chosen.group[1]} rows, left out"] = n_large
    names = list(extras[0]) if also else ()
    return rows[keep], {n: np.concatenate([e.pop(n) for e in extras])[keep] for n in names}, counts


def chunks_or_nothing(table, columns):
    """`table.chunks`, but a table without rows gives one chunk of no rows."""
    if table.n_row:
        yield from table.chunks(chunk_rows(table), columns)
    else:
        yield 0, schema.Table("ROWS", tuple(table.columns[n] for n in columns)).empty(0)


def raw_chunks(table, columns, rows):
    """Yield (row numbers, raw rows) of the sorted row numbers `rows`, chunk by chunk of the table."""
    for first, raw in table.chunks(chunk_rows(table), columns):
        begin, end = np.searchsorted(rows, [first, first + len(raw)])
        if begin < end:
            yield rows[begin:end], raw[rows[begin:end] - first]


def mapped_chunks(table, mapping, rows):
    """Yield (mapped rows, reject words) of the sorted row numbers `rows`, chunk by chunk of the table."""
    for numbers, raw in raw_chunks(table, mapping.needed, rows):
        yield mapping.rows(raw, numbers)


def read(path, survey, selection=None, columns=None):
    """Rows of a survey as a structured array; see the module. survey: recipe.Survey or a recipe's name.

    selection   "catalogue" (default for a raw catalogue), "repeats" or "all"; a training product has its own
    columns     names to return (default all); `selected` and `reject` are always there
    """
    if isinstance(survey, str | os.PathLike):
        survey = recipe.load_survey(survey)
    with open_table(path, survey.catalogue.hdu) as table:
        if table.product is not None:
            return _from_training(table, survey, columns)
        mapping = Mapping(survey, table.columns, table_place(table), selection or "catalogue")
        rows, _, _ = chosen_rows(table, mapping)
        names = [n for n in mapping.dtype.names if columns is None or n in columns]
        _all_known(columns, mapping.dtype.names, table.name)
        dtype = [(n, mapping.dtype[n]) for n in names] + [("selected", "?"), ("reject", "i8")]
        out, at = np.empty(len(rows), dtype), 0
        for mapped, reject in mapped_chunks(table, mapping, rows):
            part = out[at:at + len(mapped)]
            for name in names:
                part[name] = mapped[name]
            part["reject"], part["selected"] = reject, reject == 0
            at += len(mapped)
    return out


def _from_training(table, survey, columns):
    if table.product != "training":
        raise errors.DataError(f"{table.name}: a {table.product} product, expected a survey catalogue or a "
                               "training table")
    prefix = survey.survey + "_"
    names = {c[len(prefix):]: c for c in table.columns if c.startswith(prefix)}
    if "id" not in names:
        raise errors.DataError(f"{table.name}: no columns of survey {survey.survey!r}")
    _all_known(columns, names, table.name)
    names = {n: c for n, c in names.items() if columns is None or n in columns}
    raw = table.read(list(dict.fromkeys([prefix + "id", *names.values(), "selected", "reject"])))
    raw = raw[schema.text(raw[prefix + "id"]) != ""]
    dtype = [(n, raw.dtype[c]) for n, c in names.items()] + [("selected", "?"), ("reject", "i8")]
    out = np.empty(len(raw), dtype)
    for name, column in names.items():
        out[name] = raw[column]
    out["selected"], out["reject"] = raw["selected"] != 0, raw["reject"]
    return out


def _all_known(columns, known, place):
    for name in columns or ():
        if name not in known and name not in ("selected", "reject"):
            raise errors.DataError(f"{place}: no column {name!r}{errors.did_you_mean(name, known)}")
