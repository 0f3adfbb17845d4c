"""What a command that adds columns to a product keeps of its input's headers."""
import re

_PRIMARY = {"SIMPLE", "BITPIX", "NAXIS", "EXTEND", "PRODUCT", "CKFORMAT", "ORIGIN", "DATE", "CHECKSUM", "DATASUM",
            "COMMENT", "HISTORY", ""}
_TABLE = _PRIMARY | {"XTENSION", "NAXIS1", "NAXIS2", "PCOUNT", "GCOUNT", "TFIELDS", "EXTNAME", "LONGSTRN",
                     "CKROWS", "EXTVER", "EXTLEVEL", "THEAP", "BSCALE", "BZERO", "BLANK"}
_COLUMN = re.compile(r"NAXIS\d+\Z|T(TYPE|FORM|UNIT|NULL|UCD|COMM|DIM|SCAL|ZERO|DISP|BCOL|DMIN|DMAX|LMIN|LMAX)\d+\Z")


def kept(header, table=False):
    """{key: (value, comment)} of a primary header, or of a row table's, without what describes its layout."""
    skip = _TABLE if table else _PRIMARY
    return {key: (value, header.comments.get(key, "")) for key, value in header.items()
            if key not in skip and not (table and _COLUMN.match(key))}
