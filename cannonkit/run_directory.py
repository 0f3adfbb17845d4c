"""The files of a finished run: which is what, what is absent, and their columns.

A run is a directory as configs/pipeline.mk fills it, or a handful of files named on a command line. Names
of surveys and models come from the files (X of X.model.fits, X_scaled.fits, the prefixes of the training
table), so any pair of surveys has a report. Every file is opened through stream, checked, and read only in the
columns that are asked for.
"""
import glob
import os
from typing import NamedTuple

import numpy as np

from cannonkit import errors, fits, provenance, schema, stream


class Part(NamedTuple):
    """A kind of file of a run: where it lies, its products, and what is missing where there is none."""

    patterns: tuple       # in the directory, best first; * is the name of the survey or model
    products: tuple       # None: a table of someone else
    what: str             # what it is, for the list of absent files


PARTS = {
    "training": Part(("training.fits",), ("training",), "common stars and training set (cc-crossmatch)"),
    "selection": Part(("*_catalogue.fits",), ("training",), "one spectrum per star of each survey (cc-crossmatch)"),
    "repeat selection": Part(("*_repeats.fits",), ("training",), "repeat observations (cc-crossmatch)"),
    "spectra": Part(("*_spectra.fits",), ("spectra",), "spectra on one grid (cc-resample)"),
    "model": Part(("*.model.fits",), ("model",), "models (cc-train)"),
    "relation": Part(("vmicro/*.model.fits",), ("model",), "models with GALAH's relation for v_micro (figure A3)"),
    "labels": Part(("*.final.fits", "*.flagged.fits", "*.labels.fits"), ("labels",),
                   "labels of every spectrum (cc-infer, cc-flag, cc-errors apply)"),
    "repeats": Part(("*.repeats.fits",), ("labels",), "labels of the repeat observations (cc-infer)"),
    "errors": Part(("*.errors.fits",), ("errors",), "error factors and precision (cc-errors calibrate)"),
    "pulls": Part(("*.pulls.fits",), ("errors",), "widths of pulls on repeats kept aside (cc-errors validate)"),
    "catalogue": Part(("*_scaled.fits",), ("catalogue",), "scaled catalogues (cc-merge)"),
    "clusters": Part(("clusters.fits", "mock/clusters*.fits"), (None,), "cluster members"),
    "truth": Part(("truth.fits", "mock/truth.fits"), ("truth",), "known truth (of a mock only)"),
}


class File(NamedTuple):
    """One file of a run."""

    name: str             # of the survey, model or scale; '' where there is only one
    path: str
    header: fits.Header   # primary
    n_row: int
    columns: dict         # {name: schema.Column} of the row table
    row_header: fits.Header
    mock: bool


class Run:
    """Files of a run by kind: `files[kind]` is {name: File}, in the order of the names.

    root     the directory, or None for files from a command line
    absent   [(pattern, what)] of kinds without a file, [(path, reason)] of files that cannot be used
    """

    def __init__(self, root=None):
        self.root, self.files, self.absent, self.unusable = root, {kind: {} for kind in PARTS}, [], []
        self._columns, self._models = {}, {}

    # --- finding ------------------------------------------------------------------------------

    @classmethod
    def of_directory(cls, root):
        """The files of a run directory. NoInputError: no directory, or nothing of a run in it."""
        root = os.fspath(root)
        if not os.path.isdir(root):
            raise errors.NoInputError(f"{root}: no such directory" if not os.path.exists(root)
                                      else f"{root}: is not a directory; a run directory was expected")
        run, found = cls(root), 0
        for kind, part in PARTS.items():
            for pattern in part.patterns:
                start, end = pattern.split("*", 1) if "*" in os.path.basename(pattern) else (pattern, "")
                for path in sorted(glob.glob(os.path.join(glob.escape(root), pattern))):
                    name = os.path.relpath(path, root)[len(start):-len(end)] if end else ""
                    name = "" if kind == "clusters" else name
                    if kind == "labels" and name.endswith(".repeats") or name in run.files[kind]:
                        continue
                    found += 1
                    run._add(kind, name, path, strict=False)
            if not run.files[kind]:
                run.absent.append((part.patterns[0], part.what))
        if not found:
            wanted = ", ".join(part.patterns[0] for part in PARTS.values())
            raise errors.NoInputError(f"{root}: nothing of a run in it; expected some of {wanted} "
                                      "(configs/pipeline.mk makes them)")
        return run

    @classmethod
    def of_directories(cls, roots):
        """The files of several run directories, to be compared: names are `acgs (demo)`, with the directory's."""
        run = cls()
        for number, root in enumerate(roots, 1):
            own, name = cls.of_directory(root), os.path.basename(os.path.abspath(root))
            if name in [os.path.basename(os.path.abspath(other)) for other in roots[:number - 1]]:
                name = f"{name} {number}"
            for kind, files in own.files.items():
                run.files[kind].update({f"{key} ({name})": f._replace(name=f"{key} ({name})")
                                        for key, f in files.items()})
            run.unusable += [(os.path.join(name, path), reason) for path, reason in own.unusable]
        return run

    @classmethod
    def of_files(cls, paths):
        """Files given by name, told apart by what they hold. DataError for one that a report cannot use."""
        run = cls()
        for path in paths:
            with stream.open_source(path) as source:
                kind, name = _kind_of(source), source.header.text("MODEL").lower()
                if kind in ("selection", "spectra"):
                    name = _surveys(source.columns)[0] if kind == "selection" else source.header.text("SURVEY")
                elif kind == "catalogue":
                    name = source.header.text("SCALE") or "catalogue"
                elif kind in ("training", "clusters", "truth"):
                    name = ""
            base = name or _stem(path)
            name, k = ("" if kind in ("training", "clusters", "truth") else base), 1
            while name in run.files[kind]:
                k += 1
                name = f"{base} {k}"
            run._add(kind, name, path, strict=True)
        return run

    def _add(self, kind, name, path, strict):
        try:
            with stream.open_source(path) as source:
                if source.product not in PARTS[kind].products:
                    raise errors.DataError(f"{path}: a {source.product or 'foreign'} file, expected "
                                           f"{' or '.join(str(p) for p in PARTS[kind].products)}")
                self.files[kind][name] = File(name, os.fspath(path), source.header, source.n_row,
                                              dict(source.columns), source.hdu.header,
                                              source.header.get("MOCK") is True)
        except (errors.DataError, errors.NoInputError) as error:
            if strict:
                raise
            self.unusable.append((os.path.relpath(path, self.root), str(error)))

    # --- reading ------------------------------------------------------------------------------

    def file(self, kind, name=""):
        """The File of a kind and name, or None."""
        return self.files[kind].get(name)

    def all_files(self):
        return [f for group in self.files.values() for f in group.values()]

    def read(self, file, names):
        """{column: native array of all rows}; a column is read once. DataError for one that is not there."""
        missing = [n for n in names if (file.path, n) not in self._columns]
        if missing:
            with stream.open_source(file.path) as source:
                source.require(missing)
                columns = {n: source.columns[n] for n in missing}
                out = {n: np.empty((source.n_row, *c.shape), c.numpy_dtype.newbyteorder("="))
                       for n, c in columns.items()}
                for first, rows in source.chunks(columns=missing):
                    for n in missing:
                        out[n][first:first + len(rows)] = rows[n]
            self._columns.update({(file.path, n): values for n, values in out.items()})
        return {n: self._columns[file.path, n] for n in names}

    def extension(self, file, name):
        """A small extension of a product: stream.Extension, or None where it has none of that name."""
        with stream.open_source(file.path) as source:
            return source.extensions.get(name)

    def whole(self, file, name):
        """All rows of one table of a product, the row table or a small one; None where it has none of that name."""
        with stream.open_source(file.path) as source:
            if source.hdu.name == name:
                return source.read()
            found = source.extensions.get(name)
            return found.data if found is not None else None

    def rows_at(self, file, rows, names):
        """Structured rows (native) at these places of a large table, which is not read as a whole."""
        rows = np.asarray(rows, np.int64)
        with stream.open_source(file.path) as source:
            source.require(names)
            out = np.zeros(len(rows), source.table.only(names).dtype.newbyteorder("="))
            order = np.argsort(rows, kind="stable")
            at = 0
            while at < len(order):
                stop = at + 1   # rows that follow each other in the file are read together
                while stop < len(order) and rows[order[stop]] - rows[order[stop - 1]] <= 1 and stop - at < 512:
                    stop += 1
                first, last = rows[order[at]], rows[order[stop - 1]]
                for start, block in source.chunks(512, list(names), start=int(first), stop=int(last) + 1):
                    inside = (rows[order[at:stop]] >= start) & (rows[order[at:stop]] < start + len(block))
                    for n in names:
                        out[n][order[at:stop][inside]] = block[n][rows[order[at:stop][inside]] - start]
                at = stop
        return out

    def model(self, name):
        """The Model called `name`."""
        from cannonkit import model

        if name not in self._models:
            self._models[name] = model.read(self.files["model"][name].path)
        return self._models[name]

    # --- what belongs together ----------------------------------------------------------------

    def surveys(self):
        """Surveys of the training table, in its order: its columns are {survey}_star_id."""
        training = self.file("training")
        return _surveys(training.columns) if training else []

    def labels_of(self, survey):
        """Label names that a survey has in the training table, in the order of the columns."""
        columns = self.file("training").columns
        ours = [n for n in schema.LABELS if f"{survey}_{n}" in columns]
        more = [n[len(survey) + 3:] for n in columns if n.startswith(f"{survey}_e_")]
        return ours + [n for n in more if n not in ours and n != "parallax" and f"{survey}_{n}" in columns]

    def scale_pairs(self):
        """[(model, model)] of one label scale and different spectra, in the order of the training's surveys."""
        order = {s: k for k, s in enumerate(self.surveys())}
        files = self.files["labels"] or self.files["model"]
        ours = [(f.header.text("SCALE"), order.get(f.header.text("SURVEY"), 99), f.header.text("SURVEY"), name)
                for name, f in files.items()]
        pairs = []
        for a in sorted(ours):
            for b in sorted(ours):
                if a[0] and a[0] == b[0] and a[2] != b[2] and (a[1], a[2]) < (b[1], b[2]):
                    pairs.append((a[3], b[3]))
        return sorted(pairs, key=lambda pair: -order.get(files[pair[0]].header.text("SCALE"), 0))

    def histories(self):
        """Provenance records of all files, each once: [(path, records)] of those that no other record names."""
        return [(f.path, provenance.from_header(f.header)) for f in self.all_files()]


def _stem(path):
    base = os.path.basename(os.fspath(path))
    base = base.removesuffix(".fits")
    for kind in ("model", "labels", "flagged", "final", "repeats", "errors", "pulls"):
        base = base.removesuffix(f".{kind}")
    return base


def _surveys(columns):
    return [n.removesuffix("_star_id") for n in columns if n.endswith("_star_id")]


def _kind_of(source):
    if source.product is None:
        return "clusters"
    if source.product == "training":
        return "training" if len(_surveys(source.columns)) > 1 else "selection"
    if source.product == "errors":
        return "pulls" if source.table.name == "PULLS" else "errors"
    for kind, part in PARTS.items():
        if source.product in part.products:
            return kind
    raise errors.DataError(f"{source.name}: a {source.product} product: no figure is made from one")
