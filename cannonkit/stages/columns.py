"""Columns of a survey's own table, found by a recipe's references and templates (see recipe.py).

Everything is resolved once, against the columns that the table has; then chunks of rows are read.
"""
import math
import re

import numpy as np

from cannonkit import errors, schema

_REFERENCE = re.compile(r"(10\^)?([^\[\]{}^]+)(?:\[(\d+)\])?")
_FIELD = re.compile(r"{{|}}|{([^{}]*)}")


class NoColumn(errors.DataError):
    """A table lacks what a recipe names; `what` the recipe wants it for, and the names that would do."""

    def __init__(self, place, what, wanted, known):
        names = " or ".join(repr(name) for name in wanted) or "(none named)"
        super().__init__(f"{place}: {what}: no column {names}"
                         f"{errors.did_you_mean(wanted[0] if wanted else '', known)}")
        self.what, self.names = what, names


class Columns:
    """The columns that a raw table has: {name: schema.Column}; names match exactly, else in any case."""

    def __init__(self, columns, place):
        self.columns, self.place = dict(columns), place
        self._folded = {name.casefold(): name for name in reversed(list(self.columns))}

    def name(self, wanted):
        """The table's own name for `wanted`, or None."""
        return wanted if wanted in self.columns else self._folded.get(wanted.casefold())

    def reference(self, references, what):
        """The first of `references` whose column (and element) exists, as a Reference, or None.

        Raises DataError for a vector column where one value is wanted.
        """
        for text in references:
            match = _REFERENCE.fullmatch(text)
            if not match:
                raise errors.ConfigError(f"{what}: {text!r} is no reference to a column "
                                         "(NAME, NAME[3], 10^NAME)")
            name = self.name(match[2])
            if name is None:
                continue
            column = self.columns[name]
            size = math.prod(column.shape)
            if match[3] is not None and int(match[3]) >= size:
                continue
            if match[3] is None and size > 1:
                raise errors.DataError(f"{errors.where(self.place, column=name)}: has {size} elements a row, "
                                       f"{what} asks for {text}")
            return Reference(column, int(match[3] or 0), bool(match[1]), self.place)
        return None

    def required(self, references, what):
        """As `reference`; raises NoColumn naming the columns that there are instead of returning None."""
        found = self.reference(references, what)
        if found is None:
            raise NoColumn(self.place, what, references, self.columns)
        return found

    def has_all(self, template):
        """True where every column that the template names exists."""
        return all(m[1] in (None, "#") or self.name(m[1]) for m in _FIELD.finditer(template))

    def template(self, templates, what):
        """The first of `templates` whose columns all exist, as a Template. Raises NoColumn."""
        for text in templates:
            if self.has_all(text):
                return Template(text, self)
        names = [m[1] for t in templates for m in _FIELD.finditer(t) if m[1] not in (None, "#")]
        raise NoColumn(self.place, what, [n for n in names if not self.name(n)], self.columns)


class Reference:
    """One value a row: a column, one element of a vector column, or ten to its power."""

    def __init__(self, column, element, power, place):
        self.column, self.element, self.power = column, element, power
        self.where = errors.where(place, column=column.name)
        self.name, self.kind = column.name, np.dtype(column.dtype).kind

    def raw(self, rows):
        """The value as it stands, native byte order, (n_row,)."""
        values = rows[self.name]
        if values.ndim > 1:
            values = values.reshape(len(values), math.prod(values.shape[1:]))[:, self.element]
        return schema.native(values)

    def numbers(self, rows, sentinel=None):
        """float64 values; NaN for TNULL, values below `sentinel`, and infinities. Texts raise DataError."""
        if self.kind == "S":
            raise errors.DataError(f"{self.where}: is a text, a number was expected")
        raw = self.raw(rows)
        values = raw.astype(np.float64)
        if self.column.null is not None:
            values[raw == self.column.null] = np.nan
        values[~np.isfinite(values)] = np.nan
        if sentinel is not None and self.kind == "f":
            values[values < sentinel] = np.nan
        if self.power:
            with np.errstate(over="ignore"):
                values = 10.0 ** values
            values[~np.isfinite(values)] = np.nan
        return values

    def integers(self, rows):
        """int64 values; schema.NULL_ID for TNULL, NaN and blank texts. Exact for 64-bit integers; a float
        that is no whole number, or beyond 2^53, raises DataError (its last digits are lost)."""
        raw = self.raw(rows)
        if self.kind == "S":
            values = np.full(len(raw), schema.NULL_ID, np.int64)
            texts = strip(raw)
            filled = texts != b""
            try:
                values[filled] = texts[filled].astype(np.int64)
            except (ValueError, OverflowError):
                raise errors.DataError(f"{self.where}: a text that is no whole number") from None
            return values
        if self.kind == "f":
            good = np.isfinite(raw)
            if np.any(np.abs(raw[good]) > 2.0 ** 53) or np.any(raw[good] != np.trunc(raw[good])):
                raise errors.DataError(f"{self.where}: exact whole numbers are needed: it is a float column "
                                       "with fractions or values beyond 2^53")
            values = np.full(len(raw), schema.NULL_ID, np.int64)
            values[good] = raw[good].astype(np.int64)
            return values
        if self.kind == "u" and raw.dtype.itemsize == 8 and np.any(raw > np.iinfo(np.int64).max):
            raise errors.DataError(f"{self.where}: values beyond 2^63")
        values = raw.astype(np.int64)
        if self.column.null is not None:
            values[raw == self.column.null] = schema.NULL_ID
        return values

    def words(self, rows):
        """Bits as int64: a signed 16- or 32-bit word with its highest bit set stays below 2^16 or 2^32."""
        values = self.integers(rows)
        size = np.dtype(self.column.dtype).itemsize
        if self.kind == "i" and size < 8:
            values = np.where(values == schema.NULL_ID, values, values & ((1 << 8 * size) - 1))
        return values

    def texts(self, rows):
        """Values as bytes without surrounding blanks; blank for TNULL and NaN."""
        raw = self.raw(rows)
        if self.kind == "S":
            return strip(raw)
        values = self.integers(rows)
        texts = values.astype("S20")
        texts[values == schema.NULL_ID] = b""
        return texts


class Template:
    """A text a row: literals and columns ({NAME}), {#} = the row's number in its table, from 0."""

    def __init__(self, text, columns):
        self.parts, at = [], 0
        for match in _FIELD.finditer(text):
            self.parts.append(text[at:match.start()].encode())
            if match[0] == "{{" or match[0] == "}}":
                self.parts.append(match[0][:1].encode())
            elif match[1] == "#":
                self.parts.append(None)
            else:
                self.parts.append(columns.required((match[1],), "template"))
            at = match.end()
        self.parts.append(text[at:].encode())
        self.parts = [p for p in self.parts if p != b""]
        self.needed = [p.name for p in self.parts if isinstance(p, Reference)]

    @property
    def width(self):
        """Upper bound of the text's length."""
        return max(1, sum(len(p) if isinstance(p, bytes) else
                          np.dtype(p.column.dtype).itemsize if p is not None and p.kind == "S" else 20
                          for p in self.parts))

    def fill(self, rows, numbers):
        """Bytes (n_row,); blank where any of its columns is blank. numbers: of the rows, in their table."""
        if len(self.parts) == 1 and isinstance(self.parts[0], Reference):
            return self.parts[0].texts(rows)
        out, blank = np.full(len(rows), b"", "S1"), np.zeros(len(rows), bool)
        for part in self.parts:
            if isinstance(part, bytes):
                value = part
            elif part is None:
                value = np.asarray(numbers).astype("S20")
            else:
                value = part.texts(rows)
                blank |= value == b""
            out = np.char.add(out, value)
        out[blank] = b""
        return out


def strip(texts):
    """Bytes without leading and trailing blanks."""
    texts = np.ascontiguousarray(texts)
    if texts.size and texts.dtype.itemsize:
        view = texts.view(np.uint8).reshape(len(texts), -1)
        if not ((view == 32) | (view == 9)).any():
            return texts
    return np.char.strip(texts)
