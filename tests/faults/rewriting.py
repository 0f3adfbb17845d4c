"""Products with something changed, whole and with right checksums: what another program could have made."""

import numpy as np

from cannonkit import fits, schema, stream


def product(source, target, rows=None, extensions=None, header=None, columns=None):
    """Write `source` again.

    rows(rows) -> rows        change values (structured array, native)
    extensions(name, data)    -> data of a small extension
    header                    {key: value} that replaces cards of the primary header
    columns(list of schema.Column) -> list: other columns; values by name, absent ones zero
    """
    with stream.open_source(source) as found:
        table, data = found.table, found.read()
        keep = {
            k: v
            for k, v in found.header.items()
            if k in ("MODEL", "SURVEY", "SCALE", "MEDIUM", "NLABEL", "ORDER") or k.isupper() and k not in _STRUCTURE
        }
        small = [stream.Extension(e.name, e.data, e.table, _plain(e.header)) for e in found.extensions.values()]
        row_header, kind = _plain(found.hdu.header), found.product
    if rows is not None:
        data = rows(data)
    if extensions is not None:
        for e in small:
            e.data = extensions(e.name, e.data)
    if columns is not None:
        table = schema.Table(table.name, tuple(columns(list(table.columns))))
        new = np.zeros(len(data), table.dtype)
        for name in table.names:
            if name in data.dtype.names and data.dtype[name].shape == table.dtype[name].shape:
                try:
                    new[name] = data[name]
                except (ValueError, TypeError):  # a text where numbers were
                    pass
        data = new
    with stream.create(
        target, kind, table, len(data), small, {**keep, **(header or {})}, row_header=row_header, overwrite=True
    ) as out:
        out.write(data)
    return target


_STRUCTURE = {
    "SIMPLE",
    "BITPIX",
    "NAXIS",
    "EXTEND",
    "PRODUCT",
    "CKFORMAT",
    "ORIGIN",
    "DATE",
    "CHECKSUM",
    "DATASUM",
    "XTENSION",
    "PCOUNT",
    "GCOUNT",
    "TFIELDS",
    "EXTNAME",
    "CKROWS",
    "LONGSTRN",
    "COMMENT",
    "HISTORY",
}


def _plain(header):
    return {
        k: v
        for k, v in header.items()
        if k not in _STRUCTURE
        and not k.startswith(("NAXIS", "TTYPE", "TFORM", "TUNIT", "TDIM", "TNULL", "TCOMM", "TUCD", "TSCAL", "TZERO"))
    }


def catalogue(source, target, change=None, cards=None, columns=None):
    """The world's catalogue again, a plain foreign table.

    change(name, values) -> values; cards: {key: value} of the table's header; columns(list) -> list of
    (name, array) to write.
    """
    with stream.open_source(source) as found:
        data = found.read()
    pairs = [(n, data[n] if change is None else change(n, data[n].copy())) for n in data.dtype.names]
    if columns is not None:
        pairs = columns(pairs)
    table = schema.Table("TOY", tuple(schema.Column(n, _dtype(v), shape=v.shape[1:]) for n, v in pairs))
    rows = np.zeros(len(data), table.dtype)
    for n, v in pairs:
        rows[n] = v
    target.write_bytes(fits.primary_hdu() + fits.table_hdu(table, rows, cards))
    return target


def _dtype(values):
    return f"S{values.dtype.itemsize}" if values.dtype.kind == "S" else values.dtype.str[1:]
