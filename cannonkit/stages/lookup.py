"""Rows of a table by name: the join of labels with their survey's catalogue."""
import numpy as np

from cannonkit.errors import DataError

_PRIMES = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)


def strip_right(names):
    """Bytes without trailing blanks; the array itself where there are none."""
    names = np.ascontiguousarray(names)
    width = names.dtype.itemsize
    if names.size and width and not (names.view(np.uint8).reshape(-1, width) == 32).any():
        return names
    return np.char.rstrip(names)


def _hash(names):
    """(n,) uint64 of names without trailing blanks: equal names give equal numbers, whatever their width."""
    words = max(1, -(-names.dtype.itemsize // 8))
    padded = np.ascontiguousarray(names.astype(f"S{8 * words}", copy=False)).view("<u8").reshape(len(names), words)
    value = np.zeros(len(names), np.uint64)
    for k in range(words):
        # Words of zeros at the end change nothing: names of different widths must agree.
        word = np.ascontiguousarray(padded[:, k])
        if not word.any():
            continue
        mixed = (value ^ word) * np.uint64(_PRIMES[0])
        mixed ^= mixed >> np.uint64(29)
        mixed *= np.uint64(_PRIMES[1])
        value = np.where(word == 0, value, mixed)
    return value


class Lookup:
    """Finds names (bytes, trailing blanks ignored) in a column of distinct names.

    names  (n,)  bytes; blank names are never found
    what         of what, for messages
    Raises DataError where a name stands twice, unless `unique` is False: then the first row is found.
    Memory: the names and 16 bytes each. Names are compared whole; a hash only orders them.
    """

    def __init__(self, names, what="the table", unique=True):
        self.names = strip_right(np.asarray(names))
        hashes = _hash(self.names)
        self.order = np.argsort(hashes)
        self.hashes = hashes[self.order]
        if (self.hashes[1:] == self.hashes[:-1]).any():         # seldom: five times slower, but the first comes first
            filled = np.flatnonzero(self.names != b"")
            self.order = filled[np.argsort(hashes[filled], kind="stable")]
            self.hashes = hashes[self.order]
        self._next = 0 if unique else len(self.names)
        # How many neighbours share a hash: 0, but for equal names and (never seen) collisions.
        same, self.reach = self.hashes[1:] == self.hashes[:-1], 0
        while same.any():
            self.reach += 1
            same = same[1:] & same[:-1]
        if unique and self.reach:
            self._refuse_twice(what)

    def _refuse_twice(self, what):
        twice, first = 0, None
        for step in range(1, self.reach + 1):
            a, b = self.order[:-step], self.order[step:]
            equal = np.flatnonzero((self.hashes[:-step] == self.hashes[step:]) & (self.names[a] == self.names[b])
                                   & (self.names[a] != b""))
            twice += len(equal)
            if len(equal):
                k = equal[np.argmin(a[equal])]
                first = min(first or (a[k], b[k]), (a[k], b[k]))
        if first is not None:
            name = self.names[first[0]].decode("latin-1")
            raise DataError(f"{what}: {name!r} stands in rows {first[0]} and {first[1]} "
                            f"({twice} such pairs of rows)")

    def firsts(self):
        """Rows, in order, that are the first of their name; no blank ones."""
        rows = np.sort(self.order)
        names = self.names[rows]
        keep = names != b""
        if self.reach:
            keep &= self.find(names) == rows
        return rows if keep.all() else rows[keep]

    def find(self, names):
        """(n,) int64: the row of each name (the first of equal ones), -1 where there is none.

        Names that come in the order of the column, as they do along the pipeline, are not searched for.
        """
        names = strip_right(np.asarray(names))
        n = len(names)
        if n and np.array_equal(self.names[self._next:self._next + n], names) and np.all(names != b""):
            rows = np.arange(self._next, self._next + n)
            self._next += n
            return rows
        found = np.full(n, -1, np.int64)
        if not len(self.hashes):
            return found
        hashes = _hash(names)
        wanted = np.argsort(hashes)                             # in their order the search is quicker
        hashes = hashes[wanted]
        place = np.searchsorted(self.hashes, hashes)
        for step in range(self.reach + 1):
            at = np.minimum(place + step, len(self.hashes) - 1)
            near = self.hashes[at] == hashes
            here, row = wanted[near], self.order[at[near]]
            hit = (found[here] < 0) & (self.names[row] == names[here]) & (names[here] != b"")
            found[here[hit]] = row[hit]
        return found
