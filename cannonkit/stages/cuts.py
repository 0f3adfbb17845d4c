"""Quality cuts: a recipe's Cut on the rows of a table, and the bits of `reject` (paper section 3.2)."""
import numpy as np

from cannonkit import bitmasks, errors, schema


class CutTest:
    """A recipe's Cut on a table: `passes(rows, mapped)` -> bool (n_row,)."""

    def __init__(self, cut, columns, flags, sentinel):
        self.cut, self.sentinel, self.reference, self.flag = cut, sentinel, None, None
        self.skipped = False
        self.name, self.meaning = cut.name, cut.meaning or describe(cut)
        what = f"cut {cut.name}"
        if cut.flag:
            self.flag = flags[cut.flag]
            self.reference = columns.reference(self.flag.column, what)
            if self.reference is None and not (cut.optional or self.flag.optional):
                columns.required(self.flag.column, what)
        elif cut.column:
            self.reference = columns.reference(cut.column, what)
            if self.reference is None and not cut.optional:
                columns.required(cut.column, what)
        self.skipped = self.reference is None and not cut.mapped
        self.needed = [self.reference.name] if self.reference is not None else []

    def passes(self, rows, mapped):
        """True where the row satisfies the cut. `mapped` (our columns) is used by cuts on them alone."""
        cut = self.cut
        if self.skipped:
            return np.ones(len(rows), bool)
        if self.flag is not None:
            words = self.reference.words(rows)
            return (words != schema.NULL_ID) & (words & self.flag.mask == 0)
        if cut.op.startswith("bits"):
            mask = bitmasks.WORDS[cut.word].mask(*cut.bits)
            words = self.reference.words(rows)
            wanted = 0 if cut.op == "bits_clear" else mask
            return (words != schema.NULL_ID) & (words & mask == wanted)
        if cut.mapped:
            if cut.mapped not in mapped.dtype.names:
                raise errors.ConfigError(f"cut {cut.name}: no mapped column {cut.mapped!r}"
                                         f"{errors.did_you_mean(cut.mapped, mapped.dtype.names)}")
            values = mapped[cut.mapped]
            values = values.astype(np.float64) if values.dtype.kind == "f" else values
        elif self.reference.kind == "S":
            values = self.reference.texts(rows)
        else:
            values = self.reference.numbers(rows, self.sentinel)
        return compare(values, cut)


def compare(values, cut):
    """The comparisons of a Cut on float64, integer or bytes values; NaN fails each of them."""
    text = values.dtype.kind == "S"
    wanted = [str(v).encode() if text else v for v in (cut.values or (cut.value,))]
    if not text and any(isinstance(v, str) for v in wanted):
        raise errors.ConfigError(f"cut {cut.name}: a text is compared with numbers")
    if cut.op == "finite":
        return values != b"" if text else np.isfinite(values)
    if cut.op == "==":
        return values == wanted[0]
    valid = np.ones(len(values), bool) if text or values.dtype.kind != "f" else ~np.isnan(values)
    if cut.op == "!=":
        return valid & (values != wanted[0])
    if cut.op == "in":
        return valid & np.isin(values, np.array(wanted))
    if cut.op == "not_in":
        return valid & ~np.isin(values, np.array(wanted))
    if cut.op == "between":
        return (values >= wanted[0]) & (values <= wanted[1])
    operator = {">": np.greater, ">=": np.greater_equal, "<": np.less, "<=": np.less_equal}[cut.op]
    return operator(values, wanted[0])


def describe(cut):
    """A cut in words: `snr > 80`."""
    what = cut.mapped or cut.flag or "/".join(cut.column)
    if cut.flag:
        return f"no bad bit in {what}"
    if cut.bits:
        return f"{what}: {cut.op.replace('_', ' ')} {', '.join(cut.bits)}"
    if cut.op == "finite":
        return f"{what} is valid"
    return f"{what} {cut.op} {cut.value if not cut.values else ', '.join(map(str, cut.values))}"


class Rejects:
    """The names of the bits of `reject`: `add(name, meaning)` gives the next bit's value."""

    def __init__(self):
        self.names, self.meanings = [], []

    def add(self, name, meaning):
        if len(self.names) == 62:
            raise errors.ConfigError("more than 62 cuts")
        self.names.append(name)
        self.meanings.append(meaning)
        return 1 << (len(self.names) - 1)

    def cards(self):
        """Header cards {REJBnn: (name, meaning)}."""
        return {f"REJB{i:02d}": (name, meaning)
                for i, (name, meaning) in enumerate(zip(self.names, self.meanings, strict=True))}


def cut_table(reject, rejects):
    """Rows for the table of cuts: (name, meaning, removed by it alone, removed in order, left after it)."""
    left = np.ones(len(reject), bool)
    out = []
    for i, (name, meaning) in enumerate(zip(rejects.names, rejects.meanings, strict=True)):
        fails = reject & (1 << i) != 0
        out.append((name, meaning, int(fails.sum()), int((fails & left).sum()), int((left & ~fails).sum())))
        left &= ~fails
    return out
