"""Small tables for people: numbers in columns with units, as ECSV and as cells of text."""
import dataclasses
import json
import math

import numpy as np

from cannonkit import schema

_KINDS = {"f4": "float32", "f8": "float64", "i2": "int16", "i4": "int32", "i8": "int64", "u1": "uint8"}


@dataclasses.dataclass
class Listing:
    """A table of a report.

    name    file name without its suffix
    title   one line that says what it shows
    table   schema.Table: names, types, units and meanings of the columns
    rows    list of tuples, one value a column (str, int or float; NaN = none)
    digits  {column: decimals, or a list of them row by row}; other floats get three significant digits
    mock    the numbers come from simulated data
    """

    name: str
    title: str
    table: schema.Table
    rows: list
    digits: dict = dataclasses.field(default_factory=dict)
    mock: bool = False

    def cells(self):
        """Every value as text, row by row."""
        out = []
        for k, row in enumerate(self.rows):
            cells = []
            for column, value in zip(self.table.columns, row, strict=True):
                digits = self.digits.get(column.name)
                cells.append(number(value, digits[k] if isinstance(digits, list) else digits))
            out.append(cells)
        return out

    def ecsv(self, meta=None):
        """The table in ECSV 1.0 (the text format of astropy): units, meanings and `meta` travel along."""
        lines = ["%ECSV 1.0", "---", "delimiter: ','", "datatype:"]
        for c in self.table.columns:
            kind = _KINDS.get(c.dtype, "string")
            entry = {"name": c.name, "datatype": kind}
            if c.unit:
                entry["unit"] = c.unit
            if c.description:
                entry["description"] = c.description
            lines.append("- " + _flow(entry))
        notes = {"title": self.title, "mock": self.mock, **(meta or {})}
        lines.append(f"meta: {_flow(notes)}")
        text = "".join(f"# {line}\n" for line in lines)
        text += ",".join(_quoted(n) for n in self.table.names) + "\n"
        for row in self.rows:
            text += ",".join(_field(v) for v in row) + "\n"
        return text


def _flow(mapping):
    """A mapping in YAML's flow style; JSON is a part of YAML, so its quoting is right."""
    return json.dumps(mapping, ensure_ascii=True)


def _quoted(text):
    return '"' + text.replace('"', '""') + '"' if any(c in text for c in ' ,"\n') or not text else text


def _field(value):
    if isinstance(value, str):
        return _quoted(value.replace("\n", " "))
    if isinstance(value, float | np.floating):
        return "nan" if math.isnan(value) else repr(float(value))
    return str(int(value))


def number(value, digits=None):
    """A value as text: `digits` decimals (three significant digits if None), a true minus sign, NaN as a dash."""
    if isinstance(value, str):
        return value
    if isinstance(value, int | np.integer) and digits is None:
        return f"{int(value):,}".replace(",", "\u2009") if abs(value) >= 10000 else minus(str(int(value)))
    value = float(value)
    if math.isnan(value):
        return "\u2013"
    if digits is None:
        size = abs(value)
        digits = 0 if size >= 100 else 2 if size == 0 else max(0, 2 - math.floor(math.log10(size)))
        if size < 1e-4 and size:
            return minus(f"{value:.2e}")
    text = f"{value:.{digits}f}"
    if float(text) == 0:
        text = text.lstrip("-")
    return minus(text)


def minus(text):
    return text.replace("-", "\u2212")
