"""Rows of a table by name: the join of labels with their survey's catalogue."""
import numpy as np

from cannonkit.errors import DataError


class Lookup:
    """Finds names (bytes, trailing blanks ignored) in a column of distinct names.

    names  (n,)  bytes; blank names are never found
    what         of what, for messages
    Raises DataError where a name stands twice. Memory: the names once more, sorted, and 8 bytes each.
    """

    def __init__(self, names, what="the table", unique=True):
        self.names = np.char.rstrip(np.asarray(names))
        self.order = np.argsort(self.names, kind="stable")
        self.sorted = self.names[self.order]
        twice = np.flatnonzero((self.sorted[1:] == self.sorted[:-1]) & (self.sorted[1:] != b""))
        if unique and twice.size:
            name = self.sorted[twice[0]].decode("latin-1")
            raise DataError(f"{what}: {name!r} stands in rows {self.order[twice[0]]} and "
                            f"{self.order[twice[0] + 1]} ({twice.size} names more than once)")
        self._next = 0 if unique else len(self.names)

    def find(self, names):
        """(n,) int64: the row of each name (the first of equal ones), -1 where there is none.

        Names that come in the order of the column, as they do along the pipeline, are not searched for.
        """
        names = np.char.rstrip(np.asarray(names))
        n = len(names)
        if n and np.array_equal(self.names[self._next:self._next + n], names) and np.all(names != b""):
            rows = np.arange(self._next, self._next + n)
            self._next += n
            return rows
        if not len(self.sorted):
            return np.full(n, -1, np.int64)
        place = np.minimum(np.searchsorted(self.sorted, names), len(self.sorted) - 1)
        found = (self.sorted[place] == names) & (names != b"")
        return np.where(found, self.order[place], -1)
