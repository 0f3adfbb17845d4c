"""The rows of a training table, made chunk by chunk: one survey's selection, two surveys joined, or an
existing training table passed through. No catalogue is ever in memory as a whole: first only what selects and
pairs its rows is read, then the rows that are kept.

Each of the three has surveys (names), n_row, table (schema.Table of its rows), rejects, header, sources,
counts (text lines for the log), `chunks()` -> structured rows as on disk, `column(names)` -> {name: array}.
"""
from dataclasses import replace

import numpy as np

from cannonkit import errors, recipe, schema, surveys
from cannonkit.stages import crossmatch, sky
from cannonkit.stages.catalogue import Mapping
from cannonkit.stages.columns import Columns
from cannonkit.stages.cuts import Rejects
from cannonkit.stages.selection import split_held_out


class _Rows:
    """What the three have in common."""

    sources, header, counts, epochs = (), {}, (), {}

    def column(self, names):
        """Whole columns of the rows: {name: array}, by a pass over the tables."""
        parts = [{n: schema.native(rows[n]).copy() for n in names} for rows in self.chunks()]
        if not parts:
            dtype = self.table.dtype.newbyteorder("=")
            return {n: np.zeros(0, dtype[n]) for n in names}
        return {n: np.concatenate([p[n] for p in parts]) for n in names}


class SurveyRows(_Rows):
    """The rows of one survey's selection."""

    def __init__(self, table, survey, select, position=None):
        self.rejects = Rejects()
        self.source, self.surveys = table, (survey.survey,)
        self.mapping = Mapping(survey, table.columns, surveys.table_place(table), select,
                               rejects=self.rejects, position=position)
        self.rows, _, counts = surveys.chosen_rows(table, self.mapping)
        self.n_row, self.sources = len(self.rows), (table,)
        self.header = {"SURVEY": (survey.survey, "prefix of its columns"),
                       "SELECT": (select, "which rows of the catalogue")}
        self.counts = [_line(table, counts), *_skipped(table, self.mapping)]
        self.epochs = {survey.survey: (position or survey.catalogue.position).epoch}
        self.table = schema.Table("TRAINING", (*_prefixed(self.mapping), *_LAST))
        self.split_by = f"{survey.survey}_star_id"

    def chunks(self):
        for mapped, reject in surveys.mapped_chunks(self.source, self.mapping, self.rows):
            out = np.zeros(len(mapped), self.table.dtype)
            _fill(out, self.surveys[0], mapped)
            out["reject"], out["selected"] = reject, reject == 0
            yield out


class PairRows(_Rows):
    """The common stars of two surveys. join: recipe.Join."""

    def __init__(self, left, right, pair, join, select="", positions=(None, None)):
        self.rejects, self.join = Rejects(), join
        self.sources = (left, right)
        sides = []
        for table, side, position in zip((left, right), (pair.left, pair.right), positions, strict=True):
            sides.append(_Side(table, side, select or side.selection, position, join.by, pair.labels,
                               self.rejects))
        self.left, self.right = sides
        self.surveys = tuple(s.survey.survey for s in sides)
        self.no_partner = 0
        if join.keep == "left":
            self.no_partner = self.rejects.add(f"{self.surveys[1].upper()}_NONE", "a partner in this survey")
        self._pair_up()
        self.header = {"SURVEY": (",".join(self.surveys), "prefixes of their columns"),
                       "JOINBY": (join.by, "identifier or position"),
                       "JOINFIND": (join.find, "one-to-one or all"),
                       "JOINKEEP": (join.keep, "pairs only, or every left row")}
        extra = ()
        if join.by == "sky":
            self.header["JOINRAD"] = (join.radius, "[arcsec] largest separation")
            extra = (schema.Column("separation", "f4", "arcsec", "separation of the pair"),)
        columns = (*_prefixed(self.left.mapping), *_prefixed(self.right.mapping), *extra, *_LAST)
        self.table = schema.Table("TRAINING", columns)
        self.epochs = {s.survey.survey: s.epoch for s in sides}
        self.split_by = f"{self.surveys[0]}_star_id"
        self._used = self._right_raw = None

    def _pair_up(self):
        left, right, join = self.left, self.right, self.join
        separation = None
        if join.by == "sky":
            first, second = _same_epoch(left, right)
            pair_left, pair_right, separation, counts = crossmatch.join_sky(
                first, second, join.radius, join.find, left.keys.get("snr"), right.keys.get("snr"))
        else:
            pair_left, pair_right, counts = crossmatch.join_keys(
                left.keys["key"], right.keys["key"], join.find, left.keys.get("snr"), right.keys.get("snr"))
        n_pair = len(pair_left)
        self.largest = float(separation.max()) if separation is not None and n_pair else None
        if join.keep == "left":
            pair_left, pair_right, place = crossmatch.keep_left(pair_left, pair_right, len(left.rows))
            if separation is not None:
                separation = np.append(separation, np.nan)[place]
        self.pair_left, self.pair_right, self.separation = pair_left, pair_right, separation
        self.n_row = len(pair_left)
        self.counts = [*left.counts, *right.counts]
        said = ", ".join(f"{n} {what}" for what, n in counts.items() if n and what != "pairs")
        how = f"within {join.radius:g} arcsec" if join.by == "sky" else "by identifier"
        largest = "" if self.largest is None else f", largest separation {self.largest:.3f} arcsec"
        what = "common stars" if join.find == "best" else "pairs"
        self.counts.append(f"{n_pair} {what} of {self.surveys[0]} and {self.surveys[1]} {how}{largest}"
                           f"{'; ' + said if said else ''}")
        # what pairs the rows is not needed any more
        left.keys = right.keys = None

    def _take_right(self):
        """Raw rows (columns that are needed) of the right rows that have a partner, each once."""
        right = self.right
        self._used = np.unique(self.pair_right[self.pair_right >= 0])
        parts = [raw for _, raw in surveys.raw_chunks(right.source, right.mapping.needed,
                                                      right.rows[self._used])]
        self._right_raw = np.concatenate(parts) if parts else None

    def _partners(self, other):
        """Mapped rows and reject words of right rows `other`; missing values where other is -1."""
        mapping = self.right.mapping
        has = np.flatnonzero(other >= 0)
        rows = schema.Table("ROWS", mapping.table).empty(len(other) if len(has) < len(other) else 0)
        words = np.full(len(other), self.no_partner, np.int64)
        if len(has):
            raw = self._right_raw[np.searchsorted(self._used, other[has])]
            mapped, words[has] = mapping.rows(raw, self.right.rows[other[has]])
            if len(has) == len(other):
                return mapped, words
            rows[has] = mapped
        return rows, words

    def chunks(self):
        if self._used is None:
            self._take_right()
        left, lefts, at = self.left, np.unique(self.pair_left), 0
        for mapped, reject in surveys.mapped_chunks(left.source, left.mapping, left.rows[lefts]):
            begin, end = np.searchsorted(self.pair_left, [lefts[at], lefts[at + len(mapped) - 1] + 1])
            own = np.searchsorted(lefts, self.pair_left[begin:end]) - at
            at += len(mapped)
            partners, words = self._partners(self.pair_right[begin:end])
            out = np.zeros(end - begin, self.table.dtype)
            _fill(out, self.surveys[0], mapped[own])
            _fill(out, self.surveys[1], partners)
            words |= reject[own]
            if self.separation is not None:
                out["separation"] = self.separation[begin:end]
            out["reject"], out["selected"] = words, words == 0
            yield out


class TableRows(_Rows):
    """An existing training table, as it is."""

    def __init__(self, table):
        self.source, self.table, self.n_row, self.sources = table, table.table, table.n_row, (table,)
        self._from_pipe = [] if table.name == "standard input" else None
        self.surveys = tuple(name[:-3] for name in self.table.names
                             if name.endswith("_id") and f"{name[:-3]}_star_id" in self.table.names)
        if not self.surveys:
            raise errors.DataError(f"{table.name}: no survey's columns (SURVEY_id, SURVEY_star_id)")
        self.rejects = Rejects()
        header = table.hdu.header
        number = 0
        while f"REJB{number:02d}" in header:
            self.rejects.add(header.text(f"REJB{number:02d}"), header.comments.get(f"REJB{number:02d}", ""))
            number += 1
        self.header = {key: (table.header[key], table.header.comments.get(key, ""))
                       for key in ("SURVEY", "SELECT", "JOINBY", "JOINFIND", "JOINKEEP", "JOINRAD")
                       if key in table.header}
        self.counts = [f"{table.name}: {table.n_row} rows of {' and '.join(self.surveys)}"]
        self.split_by = f"{self.surveys[0]}_star_id"

    def chunks(self):
        if self._from_pipe:          # a pipe can be read once: its rows are kept for the next pass
            yield from self._from_pipe
            return
        for _, rows in self.source.chunks(surveys.chunk_rows(self.source)):
            if self._from_pipe is not None:
                self._from_pipe.append(rows.copy())
            yield rows


class _Side:
    """One catalogue of a pair: its chosen rows with what the join compares."""

    def __init__(self, table, side, select, position, by, labels, rejects):
        self.source, self.survey = table, side.survey
        place = surveys.table_place(table)
        position = position or side.survey.catalogue.position
        self.mapping = Mapping(side.survey, table.columns, place, select, side.cuts, labels, rejects,
                               position)
        self.epoch = position.epoch
        if by == "sky":
            reader = self.mapping.position
            if reader is None:
                raise errors.DataError(f"{place}: no position for a join on the sky: the recipe names "
                                       f"{', '.join(position.lon) or 'no columns'} (see --left-position)")
            self.moves = reader.moves
            what = _Positions(reader, self.mapping)
        else:
            what = _Keys(side.key, self.mapping)
        self.rows, self.keys, counts = surveys.chosen_rows(table, self.mapping, also=what)
        self.counts = [_line(table, counts), *_skipped(table, self.mapping)]


class _Keys:
    """The key of each row, from columns of ours that are made for it alone."""

    def __init__(self, templates, mapping):
        names = {"id": mapping.id, "star_id": mapping.star_id}
        others = {n: r for n, r in mapping.others.items() if n in ("dr2_source_id", "dr3_source_id") and r}
        columns = {name: schema.Column(name, f"S{t.width}") for name, t in names.items()}
        columns.update({name: schema.Column(name, "i8", null=schema.NULL_ID) for name in others})
        self.template = Columns(columns, f"key of {mapping.survey.survey}").template(templates, "key")
        self.readers = {n: names.get(n) or others[n] for n in self.template.needed}
        self.mapping = mapping
        self.needed = [x for n in self.template.needed
                       for x in (names[n].needed if n in names else [others[n].name])]

    def __call__(self, raw, numbers):
        parts = {}
        for name, reader in self.readers.items():
            if name in ("id", "star_id"):
                parts[name] = reader.fill(raw, numbers)
            else:
                ids = reader.integers(raw)
                parts[name] = np.where(ids > 0, ids, schema.NULL_ID)
        rows = np.empty(len(raw), [(n, a.dtype) for n, a in parts.items()])
        for name, array in parts.items():
            rows[name] = array
        return {"key": self.template.fill(rows, numbers), **_snr(self.mapping, raw)}


class _Positions:
    """The position of each row, and its proper motion where it has one."""

    def __init__(self, reader, mapping):
        self.reader, self.mapping, self.needed = reader, mapping, reader.needed

    def __call__(self, raw, numbers):
        ra, dec = self.reader.read(raw)
        out = {"ra": ra, "dec": dec, **_snr(self.mapping, raw)}
        if self.reader.moves:
            out["pm_ra"], out["pm_dec"] = self.reader.proper_motion(raw)
        return out


def _snr(mapping, raw):
    """The S/N, where the survey has one, for ties."""
    return {"snr": mapping.snr(raw)} if mapping.others.get("snr") is not None else {}


def _same_epoch(left, right):
    """Positions of both sides, moved to one epoch where both are known and one has proper motions."""
    first = left.keys["ra"], left.keys["dec"]
    second = right.keys["ra"], right.keys["dec"]
    if left.epoch > 0 and right.epoch > 0 and left.epoch != right.epoch:
        years = right.epoch - left.epoch
        if left.moves:
            first = sky.propagate(*first, left.keys["pm_ra"], left.keys["pm_dec"], years)
        elif right.moves:
            second = sky.propagate(*second, right.keys["pm_ra"], right.keys["pm_dec"], -years)
    return first, second


_LAST = tuple(c for c in schema.training_table((), ()).columns if c.name in ("selected", "reject"))


def _prefixed(mapping):
    return tuple(replace(c, name=f"{mapping.survey.survey}_{c.name}") for c in mapping.table)


def _fill(out, survey, mapped):
    for name in mapped.dtype.names:
        out[f"{survey}_{name}"] = mapped[name]


def _line(table, counts):
    return f"{table.name}: " + ", ".join(f"{n} {what}" for what, n in counts.items())


def _skipped(table, mapping):
    if mapping.skipped_cuts:
        yield f"{table.name}: no column for the cuts {', '.join(mapping.skipped_cuts)}: not applied"


def position_of(text):
    """The recipe.Position of `degrees:RA,DEC`, `galactic:L,B` or `designation:NAME`; None for ''."""
    if not text:
        return None
    frame, _, names = text.partition(":")
    names = [n.strip() for n in names.split(",") if n.strip()]
    if frame == "designation" and len(names) == 1:
        template = names[0] if "{" in names[0] else "{" + names[0] + "}"
        return recipe.Position(frame="designation", designation=(template,))
    if frame in ("degrees", "galactic") and len(names) == 2:
        frame = "icrs" if frame == "degrees" else frame
        return recipe.Position(frame=frame, lon=(names[0],), lat=(names[1],))
    raise errors.SettingError(f"position {text!r}: expected degrees:RA,DEC or galactic:L,B or designation:NAME",
                              "left_position", "right_position")


def hold_out(rows, fraction, seed):
    """Which rows are held out of the training set: bool (n_row,), by star_id of the first survey."""
    return split_held_out(rows.column([rows.split_by])[rows.split_by], fraction, seed)
