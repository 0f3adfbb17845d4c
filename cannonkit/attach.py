"""Attach columns of other tables to a survey's rows: Gaia, distances, cluster members.

Of the attached table only the key (or position) of every row is held, and the wanted columns of the rows that
find a partner. Of several rows for one star the one with the largest `rank` is taken, else the first.
"""
import re
from dataclasses import replace

import numpy as np

from cannonkit import errors, recipe, schema, surveys
from cannonkit.stages import crossmatch, sky
from cannonkit.stages.columns import Columns
from cannonkit.stages.cuts import CutTest

_FIELD = re.compile(r"{([^{}]*)}")


def load(text):
    """The Attach of `RECIPE` or `RECIPE,name=COLUMN,...`: the same with other names for its key or columns, and
    (on=COLUMN) another column of ours that the key is compared with.

    Raises UsageError for a name that the recipe has not."""
    name, *changes = text.split(",")
    attach = recipe.load_attach(name)
    for change in changes:
        what, _, column = (part.strip() for part in change.partition("="))
        if not column or what not in ("key", "on", *attach.columns):
            raise errors.UsageError(f"--attach {text}: {change!r}: expected NAME=COLUMN"
                                    f"{errors.did_you_mean(what, ['key', 'on', *attach.columns])}")
        if what in ("key", "on"):
            attach = replace(attach, **{what: ("{" + column + "}",)})
        else:
            columns = dict(attach.columns)
            ranks = columns[what].column == attach.rank         # then it still does, under its other name
            columns[what] = replace(columns[what], column=(column,))
            attach = replace(attach, columns=columns, rank=(column,) if ranks else attach.rank)
    return attach


def needed(attach):
    """Names of our columns that the join reads."""
    if attach.by == "sky":
        return ("ra", "dec")
    return tuple(name for template in attach.on[:1] for name in _FIELD.findall(template))


class Attachment:
    """An attached table on one survey's rows.

    table   open table (surveys.open_table);  ours  {name: array} with the columns `needed` of every row
    epoch   Julian year of our positions, 0 = not known (then nothing is propagated)
    Afterwards: `values` {name: array (n_row,)}, `found` bool (n_row,), `counts` for the log.
    """

    def __init__(self, attach, table, ours, survey, epoch=0.0):
        self.attach, self.columns = attach, Columns(table.columns, surveys.table_place(table))
        rows, keys = self._read_keys(table)
        if attach.by == "sky":
            theirs = keys["ra"], keys["dec"]
            if epoch > 0 and "pm_ra" in keys:
                theirs = sky.propagate(*theirs, keys["pm_ra"], keys["pm_dec"], epoch - attach.position.epoch)
            left, right, _, _ = crossmatch.join_sky((ours["ra"], ours["dec"]), theirs, attach.radius, "all")
        else:
            left, right, _ = crossmatch.join_keys(our_keys(attach, ours, survey), keys["key"], "all")
        n_row = len(next(iter(ours.values())))
        if "rank" in keys:      # pairs are sorted by left row, then separation, then row: the sort is stable
            order = np.lexsort((-np.nan_to_num(keys["rank"][right], nan=-np.inf), left))
            left, right = left[order], right[order]
        first = np.flatnonzero(np.diff(left, prepend=-1))
        self.counts = {"rows": n_row, "found": len(first),
                       "further partners, not used": len(left) - len(first)}
        self.found = np.zeros(n_row, bool)
        self.found[left[first]] = True
        self._take_values(table, rows[right[first]], left[first], n_row)

    def _read_keys(self, table):
        """Row numbers that count, and their key or position (and rank)."""
        attach, find = self.attach, self.columns
        tests = [CutTest(cut, find, {}, attach.sentinel_below) for cut in attach.where]
        rank = find.required(attach.rank, "rank") if attach.rank else None
        if attach.by == "sky":
            position = sky.PositionReader(attach.position, find)
            needs = position.needed
        else:
            key = find.template(attach.key, "key")
            needs = key.needed
        names = list(dict.fromkeys([*needs, *(n for t in tests for n in t.needed),
                                    *([rank.name] if rank else [])]))
        rows, parts = [], []
        for first, raw in surveys.chunks_or_nothing(table, names):
            keep = np.ones(len(raw), bool)
            for test in tests:
                keep &= test.passes(raw, None)
            part = {}
            if attach.by == "sky":
                part["ra"], part["dec"] = position.read(raw)
                if position.moves:
                    part["pm_ra"], part["pm_dec"] = position.proper_motion(raw)
            else:
                part["key"] = key.fill(raw, first + np.arange(len(raw)))
            if rank:
                part["rank"] = rank.numbers(raw, attach.sentinel_below)
            keep = np.flatnonzero(keep)
            rows.append(first + keep)
            parts.append({name: array[keep] for name, array in part.items()})
        return np.concatenate(rows), {name: np.concatenate([p[name] for p in parts]) for name in parts[0]}

    def _take_values(self, table, their_rows, our_rows, n_row):
        """Read the wanted columns of the partners; rows without one get missing values."""
        readers = {}
        for name, column in self.attach.columns.items():
            readers[name] = self.columns.required(column.column, f"attached column {name}")
        self.table, self.values = [], {}
        for name, column in self.attach.columns.items():
            kind = np.dtype(column.dtype)
            null = schema.NULL_ID if kind.kind == "i" else None
            self.table.append(schema.Column(name, column.dtype, column.unit, column.meaning, null=null))
            self.values[name] = np.full(n_row, np.nan, kind) if kind.kind == "f" else \
                np.full(n_row, null, kind) if null is not None else np.zeros(n_row, kind)
        order = np.argsort(their_rows, kind="stable")
        their_rows, our_rows = their_rows[order], our_rows[order]
        for first, raw in table.chunks(surveys.chunk_rows(table), list({r.name: None for r in readers.values()})):
            begin, end = np.searchsorted(their_rows, [first, first + len(raw)])
            if begin == end:
                continue
            wanted, place = raw[their_rows[begin:end] - first], our_rows[begin:end]
            for name, reader in readers.items():
                self.values[name][place] = self._value(name, reader, wanted)

    def _value(self, name, reader, rows):
        kind = self.values[name].dtype
        if kind.kind == "f":
            return reader.numbers(rows, self.attach.sentinel_below)
        if kind.kind == "i":
            return reader.integers(rows)
        texts = reader.texts(rows)
        longest = int(np.char.str_len(texts).max(initial=0))
        if longest > kind.itemsize:
            raise errors.DataError(f"{self.columns.place}: column {reader.name!r} has texts of {longest} "
                                   f"characters, the recipe's column {name} has {kind.itemsize}")
        return texts


def our_keys(attach, ours, survey):
    """Bytes keys of our rows by the recipe's template `on`; blank where a part is missing."""
    columns = {}
    for name, array in ours.items():
        kind = array.dtype.str.lstrip("<>|=")
        columns[name] = schema.Column(name, kind, null=schema.NULL_ID if kind == "i8" else None)
    rows = np.empty(len(next(iter(ours.values()))), [(n, a.dtype) for n, a in ours.items()])
    for name, array in ours.items():
        rows[name] = array
    return Columns(columns, survey).template(attach.on, "on").fill(rows, None)
