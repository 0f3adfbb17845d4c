"""FITS as bytes: cards, headers, structure, tables and images, checked before use.

CFITSIO trusts headers more than a pipeline may (heap corruption on `20A2`, wrong numbers from scaled
integers, silent acceptance of files cut between extensions), so the structure is validated here, card
by card, and tables are read and written as raw rows. FITS standard 4.0 section numbers in comments.
"""
import os
import re

import numpy as np

from cannonkit import errors
from cannonkit.schema import Column, Table

BLOCK = 2880
MAX_HEADER_BLOCKS = 4000        # 144,000 cards: far above any survey file
_FORM = re.compile(r"(\d*)([LXBIJKAEDCMPQ])(.*)")
_SIZES = {"L": 1, "B": 1, "I": 2, "J": 4, "K": 8, "A": 1, "E": 4, "D": 8, "C": 8, "M": 16, "P": 8, "Q": 16}
_NUMPY = {"L": "u1", "B": "u1", "I": "i2", "J": "i4", "K": "i8", "E": "f4", "D": "f8"}
_FORMS = {"u1": "B", "i2": "I", "i4": "J", "i8": "K", "f4": "E", "f8": "D", "S": "A"}
_BITPIX = {8: "u1", 16: "i2", 32: "i4", 64: "i8", -32: "f4", -64: "f8"}
_UNSIGNED = {("I", 32768): "u2", ("J", 2147483648): "u4", ("K", 9223372036854775808): "u8", ("B", -128): "i1"}


# --- headers ------------------------------------------------------------------------------------

class Header(dict):
    """Keyword -> value of one HDU (str, int, float, bool; the first wins), and its HISTORY lines.

    `comments` has the text after the slash, `history` the HISTORY cards, 72 characters each.
    """

    def __init__(self, pairs=()):
        super().__init__(pairs)
        self.comments = {}
        self.history = []
        self.sum = None

    def text(self, key, default=""):
        """A value as a string without the blanks around it."""
        return str(self.get(key, default)).strip()


def _value(field):
    """Parse the value field of a card; returns (value, comment). A value that is none is None."""
    field = field.strip()
    if field.startswith("'"):
        end = 1
        while True:
            end = field.find("'", end)
            if end < 0:
                return field[1:].rstrip(), ""
            if field[end:end + 2] == "''":
                end += 2
                continue
            break
        return field[1:end].replace("''", "'").rstrip(), field[end + 1:].lstrip(" /")
    value, _, comment = field.partition("/")
    value = value.strip()
    if value in ("T", "F"):
        return value == "T", comment.strip()
    for kind in (int, float):
        try:
            return kind(value.replace("D", "E") if kind is float else value), comment.strip()
        except ValueError:
            pass
    return None, comment.strip()


def parse_header(block_text, place):
    """Header from its blocks as latin-1 text, END card included. Raises DataError on no END or odd cards."""
    header = Header()
    last = None
    for start in range(0, len(block_text), 80):
        card = block_text[start:start + 80]
        key = card[:8].rstrip()
        if key == "END" and not card[8:].strip():
            return header
        if key == "HISTORY":
            header.history.append(card[8:])
        elif key == "CONTINUE" and isinstance(header.get(last), str) and header[last].endswith("&"):
            value, _ = _value(card[8:])
            header[last] = header[last][:-1] + (value if isinstance(value, str) else "")
        elif card[8:10] == "= ":
            value, comment = _value(card[10:])
            if key in header:
                if key in ("SIMPLE", "XTENSION", "BITPIX", "NAXIS", "TFIELDS", "PCOUNT", "GCOUNT"):
                    raise errors.DataError(f"{place}: keyword {key} appears twice")
            else:
                header[key] = value
                header.comments[key] = comment
                last = key
    raise errors.DataError(f"{place}: header has no END card")


def _integer(header, key, place, low=0, high=2 ** 62, default=None):
    value = header.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        found = "no such keyword" if value is None and key not in header else f"found {value!r}"
        raise errors.DataError(f"{place}: {key}: {found}, expected an integer from {low} to {high}")
    return value


class Hdu:
    """One header-data unit: name, kind ('image', 'table', 'ascii'), header, shape or row layout.

    `data_start` is its offset in the file (None in a pipe), `data_size` its bytes without padding.
    """

    def __init__(self, header, index, place):
        self.header = header
        self.index = index
        self.name = header.text("EXTNAME")
        self.place = f"{place}[{self.name or index}]"
        self.data_start = None
        first = "SIMPLE" if index == 0 else "XTENSION"
        if first not in header:
            raise errors.DataError(f"{place}: HDU {index} does not start with {first}: not a FITS file, or damaged")
        kind = "IMAGE" if index == 0 else header.text("XTENSION")
        kinds = {"IMAGE": "image", "BINTABLE": "table", "TABLE": "ascii"}
        if kind not in kinds:
            raise errors.DataError(f"{self.place}: XTENSION {kind!r}, expected one of {', '.join(kinds)}")
        self.kind = kinds[kind]
        bitpix = header.get("BITPIX")
        if bitpix not in _BITPIX or isinstance(bitpix, bool):
            raise errors.DataError(f"{self.place}: BITPIX {bitpix!r}, expected one of {sorted(_BITPIX)}")
        naxis = _integer(header, "NAXIS", self.place, 0, 999)
        self.axes = tuple(_integer(header, f"NAXIS{i}", self.place) for i in range(1, naxis + 1))
        pcount = _integer(header, "PCOUNT", self.place, default=0)
        gcount = _integer(header, "GCOUNT", self.place, 0, default=1)
        if self.kind != "image" and (naxis != 2 or bitpix != 8 or gcount != 1):
            raise errors.DataError(f"{self.place}: a table has NAXIS 2, BITPIX 8 and GCOUNT 1; "
                                   f"found {naxis}, {bitpix} and {gcount}")
        if self.kind == "image" and header.get("GROUPS") is True:
            raise errors.DataError(f"{self.place}: random groups are not supported")
        count = 1
        for n in self.axes:
            count *= n
        self.data_size = (abs(bitpix) // 8) * gcount * (pcount + count) if naxis else 0
        if self.data_size >= 2 ** 62:
            raise errors.DataError(f"{self.place}: NAXISn ask for {self.data_size} bytes")
        self.table = Layout(self) if self.kind == "table" else None

    @property
    def padded_size(self):
        return -(-self.data_size // BLOCK) * BLOCK

    @property
    def n_row(self):
        return self.axes[1] if self.kind != "image" else 0

    @property
    def count(self):
        """Rows of a table, elements of an image."""
        if self.kind != "image":
            return self.n_row
        return int(np.prod(self.axes, dtype=object)) if self.axes else 0

    def check_header(self):
        """Raise DataError unless the header bytes and its DATASUM agree with its CHECKSUM."""
        total = Sum()
        try:
            total._fold(self.header.sum.value + int(self.header.text("DATASUM", "none")))
        except ValueError:
            raise errors.DataError(f"{self.place}: no DATASUM in the header: damaged") from None
        if "CHECKSUM" not in self.header or total.value not in (0, 0xFFFFFFFF):
            raise errors.DataError(f"{self.place}: the header disagrees with its CHECKSUM: "
                                   "damaged, or edited after it was written")

    def image(self, data):
        """The pixels of an image HDU from its bytes, native byte order, scaled by BSCALE and BZERO."""
        pixels = np.frombuffer(data, np.dtype(_BITPIX[self.header["BITPIX"]]).newbyteorder(">"))
        pixels = pixels.reshape(self.axes[::-1])
        scale, zero = self.header.get("BSCALE", 1), self.header.get("BZERO", 0)
        if scale == 1 and zero == 0:
            return pixels.astype(pixels.dtype.newbyteorder("="))
        return pixels * np.float64(scale) + np.float64(zero)


class Layout:
    """The row layout of a binary table: raw dtype, columns, and which ones cannot be used and why.

    Attributes: dtype (raw rows, big-endian), columns {name: Column}, problems {name: reason}, decoded
    (dtype after decoding logicals, scaled and unsigned integers; equal to dtype where nothing needs it).
    """

    def __init__(self, hdu):
        header, place = hdu.header, hdu.place
        n_field = _integer(header, "TFIELDS", place, 0, 999)
        self.place, self.columns, self.problems, self._decoders = place, {}, {}, {}
        raw, used, seen = [], 0, set()
        for i in range(1, n_field + 1):
            form = header.text(f"TFORM{i}").upper()
            match = _FORM.fullmatch(form)
            if not match:
                raise errors.DataError(f"{place}: TFORM{i} {form!r} is no binary table format")
            repeat, code, rest = int(match[1] or 1), match[2], match[3].strip()
            size = -(-repeat // 8) if code == "X" else repeat * _SIZES[code]
            used += size
            name = header.text(f"TTYPE{i}")
            problem = None
            if not name:
                name, problem = f"#{i}", "it has no name"
            elif name.casefold() in seen:
                name, problem = f"{name}#{i}", "another column has the same name (ignoring case)"
            seen.add(name.casefold())
            column, decoder = None, None
            if code in "PQ":
                problem = problem or f"variable-length arrays ({form}) are not supported"
            elif code == "X":
                problem = problem or f"bit arrays ({form}) are not supported"
            elif code in "CM":
                problem = problem or f"complex numbers ({form}) are not supported"
            elif code == "A" and rest:
                problem = problem or f"substring arrays ({form}) are not supported"
            elif size == 0:
                problem = problem or "it is empty"
            if problem is None:
                column, decoder, problem = _column(header, i, name, repeat, code, f"{place}: ")
            if problem is not None:
                self.problems[name] = problem
                raw.append((name, f"V{size}") if size else None)
                continue
            self.columns[name] = column
            raw.append((name, column.numpy_dtype, column.shape) if decoder is None else decoder[0])
            if decoder is not None:
                self._decoders[name] = decoder[1]
        if used != hdu.axes[0]:
            raise errors.DataError(f"{place}: NAXIS1 is {hdu.axes[0]}, the columns' TFORMn add up to {used}")
        self.dtype = np.dtype([_packed(f) for f in raw if f is not None])
        self.table = Table(hdu.name or f"HDU{hdu.index}", tuple(self.columns.values()))

    def decode(self, rows, names=None):
        """Raw rows -> rows of the wanted columns; only columns that need it are converted."""
        names = list(self.columns) if names is None else list(names)
        if not self._decoders and not self.problems:
            return rows if names == list(self.columns) else rows[names]
        if not any(n in self._decoders for n in names):
            return rows[names]
        out = np.empty(len(rows), self.table.only(names).dtype)
        for n in names:
            out[n] = self._decoders[n](rows[n]) if n in self._decoders else rows[n]
        return out

    def require(self, names):
        """Raise DataError for a column that is absent or cannot be used."""
        for name in names:
            if name in self.problems:
                raise errors.DataError(f"{self.place}: column {name!r}: {self.problems[name]}")
            if name not in self.columns:
                raise errors.DataError(f"{self.place}: no column {name!r}{errors.did_you_mean(name, self.columns)}")


def _packed(field):
    name, dtype, shape = (*field, ())[:3]
    return (name, dtype, shape) if shape else (name, dtype)


def _column(header, i, name, repeat, code, place):
    """Column of field i: (Column, (raw field, decoder) or None, problem or None)."""
    common = dict(unit=header.text(f"TUNIT{i}"), ucd=header.text(f"TUCD{i}"),
                  description=header.text(f"TCOMM{i}") or header.comments.get(f"TTYPE{i}", ""))
    shape = () if repeat == 1 or code == "A" else (repeat,)
    width = repeat
    dim = header.text(f"TDIM{i}")
    if dim:
        if not re.fullmatch(r"\(\s*\d+(\s*,\s*\d+)*\s*\)", dim):
            return None, None, f"TDIM{i} {dim!r} is malformed"
        sizes = [int(s) for s in dim.strip("()").split(",")]
        if int(np.prod(sizes, dtype=object)) != repeat:
            return None, None, f"TDIM{i} {dim} does not hold {repeat} elements"
        if code == "A":
            width, sizes = sizes[0], sizes[1:]
            if width == 0:
                return None, None, "it is empty"
        shape = tuple(sizes[::-1])
        if shape == (1,):
            shape = ()
    if code == "A":
        return Column(name, f"S{width}", shape=shape, **common), None, None
    kind = _NUMPY[code]
    raw = (name, np.dtype(kind).newbyteorder(">"), shape)
    null = header.get(f"TNULL{i}") if code in "BIJK" else None
    if null is not None and (isinstance(null, bool) or not isinstance(null, int)):
        return None, None, f"TNULL{i} {null!r} is no integer"
    if code == "L":
        return Column(name, "u1", shape=shape, **common), (raw, lambda x: (x == ord("T")).astype("u1")), None
    scale, zero = header.get(f"TSCAL{i}", 1), header.get(f"TZERO{i}", 0)
    if isinstance(scale, bool) or isinstance(zero, bool) or not all(isinstance(x, int | float) for x in (scale, zero)):
        return None, None, f"TSCAL{i} or TZERO{i} is no number"
    if scale == 1 and zero == 0:
        return Column(name, kind, shape=shape, null=null, **common), None, None
    wide = _UNSIGNED.get((code, int(zero))) if scale == 1 and zero == int(zero) else None
    if wide is not None:
        offset = int(zero)
        shifted = None if null is None else null + offset

        def decode(x, wide=wide, offset=offset):
            bits = 8 * np.dtype(wide).itemsize
            unsigned = x.astype(f"u{bits // 8}")
            return (unsigned + np.array(offset % (1 << bits), unsigned.dtype)).astype(wide)
        return Column(name, wide, shape=shape, null=shifted, **common), (raw, decode), None

    def decode(x, scale=float(scale), zero=float(zero), null=null):
        values = x.astype(np.float64) * scale + zero
        return values if null is None else np.where(x == null, np.nan, values)
    return Column(name, "f8", shape=shape, **common), (raw, decode), None


# --- writing headers ----------------------------------------------------------------------------

def escaped(text):
    """ASCII text for a header: what FITS cannot hold stands as a backslash escape."""
    text = str(text).encode("ascii", "backslashreplace").decode()
    return "".join(c if " " <= c <= "~" else f"\\x{ord(c):02x}" for c in text)


def card(key, value, comment=""):
    """One or (long strings, by the CONTINUE convention) several 80-character cards."""
    if isinstance(value, bool | np.bool_):
        field = f"{'T' if value else 'F':>20}"
    elif isinstance(value, int | np.integer):
        field = f"{int(value):>20}"
    elif isinstance(value, float | np.floating):
        if not np.isfinite(value):
            return card(key, str(float(value)), comment)
        number = repr(float(value)).upper()
        field = f"{number:>20}"
    elif value is None:
        field = f"{'':>20}"
    else:
        text = escaped(value).replace("'", "''")
        if len(text) > 68:
            return _long_string(key, text, comment)
        quoted = f"'{text:<8}'"
        field = f"{quoted:<20}"
    line = f"{key:<8}= {field}"
    if comment and len(line) + 3 + len(escaped(comment)) <= 80:
        line += f" / {escaped(comment)}"
    return f"{line:<80}"


def _long_string(key, text, comment):
    pieces = []
    while text:
        cut = 67
        while cut < len(text) and text[cut - 1] == "'" and (len(text[:cut]) - len(text[:cut].rstrip("'"))) % 2:
            cut -= 1                                    # never between the two of a doubled quote
        pieces.append(text[:cut])
        text = text[cut:]
    lines = [f"{key:<8}= '{pieces[0]}&'"] + [f"CONTINUE  '{p}&'" for p in pieces[1:]]
    lines[-1] = lines[-1][:-2] + "'"
    return "".join(f"{line:<80}" for line in lines)


def history(text):
    """HISTORY cards of one text, 72 characters each."""
    text = escaped(text)
    return "".join(f"HISTORY {text[i:i + 72]:<72}" for i in range(0, max(len(text), 1), 72))


def header_bytes(cards):
    """Header blocks from a list of card strings; adds END, the padding, and LONGSTRN where a string continues."""
    long = next((i for i, c in enumerate(cards) if c[80:88] == "CONTINUE"), None)
    if long is not None:
        cards = [*cards[:long], card("LONGSTRN", "OGIP 1.0", "long strings continue"), *cards[long:]]
    text = "".join(cards) + f"{'END':<80}"
    return text.ljust(-(-len(text) // BLOCK) * BLOCK).encode("ascii")


def extra_cards(values):
    """Cards of a dict {key: value or (value, comment)}."""
    return [card(k, *v) if isinstance(v, tuple) else card(k, v) for k, v in (values or {}).items()]


def primary_cards(values=None, history_cards=""):
    return [card("SIMPLE", True, "FITS standard 4.0"), card("BITPIX", 8), card("NAXIS", 0),
            card("EXTEND", True), *extra_cards(values), history_cards]


def table_cards(table, n_row, values=None):
    """Cards of a binary table with the columns of `table`, without CHECKSUM and DATASUM."""
    if len(table.columns) > 999:
        raise errors.DataError(f"{table.name}: {len(table.columns)} columns, FITS allows 999")
    cards = [card("XTENSION", "BINTABLE"), card("BITPIX", 8), card("NAXIS", 2),
             card("NAXIS1", table.dtype.itemsize, "bytes per row"), card("NAXIS2", n_row, "rows"),
             card("PCOUNT", 0), card("GCOUNT", 1), card("TFIELDS", len(table.columns)),
             card("EXTNAME", table.name)]
    for i, c in enumerate(table.columns, 1):
        base = np.dtype(c.dtype)
        count = int(np.prod(c.shape)) if c.shape else 1
        if base.kind == "S":
            form = f"{base.itemsize * count}A"
        elif base.str[1:] in _FORMS:
            form = f"{count}{_FORMS[base.str[1:]]}"
        else:
            raise errors.DataError(f"{table.name}: column {c.name!r} has type {c.dtype}, which we do not write")
        cards += [card(f"TTYPE{i}", c.name), card(f"TFORM{i}", form)]
        if base.kind == "S" and c.shape:
            cards.append(card(f"TDIM{i}", str((base.itemsize, *c.shape[::-1])).replace(" ", "")))
        elif len(c.shape) > 1:
            cards.append(card(f"TDIM{i}", str(tuple(c.shape[::-1])).replace(" ", "")))
        if c.unit:
            cards.append(card(f"TUNIT{i}", c.unit))
        if c.null is not None:
            cards.append(card(f"TNULL{i}", c.null))
        if c.ucd:
            cards.append(card(f"TUCD{i}", c.ucd))
        if c.description:
            cards.append(card(f"TCOMM{i}", c.description))
    return cards + extra_cards(values)


def image_cards(name, data, values=None):
    """Cards of an image extension holding `data` (u1, i2, i4, i8, f4 or f8)."""
    kinds = {v: k for k, v in _BITPIX.items()}
    bitpix = kinds[data.dtype.str[1:]]
    return [card("XTENSION", "IMAGE"), card("BITPIX", bitpix), card("NAXIS", data.ndim),
            *(card(f"NAXIS{i}", n) for i, n in enumerate(data.shape[::-1], 1)),
            card("PCOUNT", 0), card("GCOUNT", 1), card("EXTNAME", name), *extra_cards(values)]


# --- checksums (appendix J of the standard) -----------------------------------------------------

class Sum:
    """DATASUM of bytes that come in pieces: ones' complement sum of big-endian 32-bit words."""

    def __init__(self):
        self.total, self._carry = 0, b""

    def add(self, data):
        data = np.frombuffer(data, np.uint8) if not isinstance(data, np.ndarray) else data.reshape(-1).view(np.uint8)
        if self._carry:
            need = min(4 - len(self._carry), len(data))
            self._carry += data[:need].tobytes()
            data = data[need:]
            if len(self._carry) < 4:
                return
            self._fold(int.from_bytes(self._carry, "big"))
            self._carry = b""
        whole = len(data) // 4 * 4
        self._fold(int(data[:whole].view(">u4").sum(dtype=np.uint64)))
        self._carry = data[whole:].tobytes()

    def _fold(self, value):
        self.total += value
        while self.total >> 32:
            self.total = (self.total & 0xFFFFFFFF) + (self.total >> 32)

    @property
    def value(self):
        """The sum so far, a last incomplete word padded with zeros."""
        if not self._carry:
            return self.total
        total = self.total + int.from_bytes(self._carry.ljust(4, b"\0"), "big")
        return (total & 0xFFFFFFFF) + (total >> 32)


def checksum_text(total):
    """The 16 characters of CHECKSUM for an HDU whose other bytes add up to `total`."""
    value = ~total & 0xFFFFFFFF
    skipped = {*range(0x3A, 0x41), *range(0x5B, 0x61)}
    out = [0] * 16
    for i in range(4):
        byte = value >> (24 - 8 * i) & 0xFF
        chars = [byte // 4 + 0x30 + (byte % 4 if j == 0 else 0) for j in range(4)]
        while any(c in skipped for c in chars):
            for j in (0, 2):
                if chars[j] in skipped or chars[j + 1] in skipped:
                    chars[j] += 1
                    chars[j + 1] -= 1
        for j in range(4):
            out[4 * j + i] = chars[j]
    return bytes(out[-1:] + out[:-1]).decode("ascii")


def sealed_header(cards, datasum):
    """Header blocks with DATASUM and CHECKSUM of an HDU whose data add up to `datasum`."""
    both = [card("CHECKSUM", "0" * 16, "HDU checksum"), card("DATASUM", str(datasum), "data checksum")]
    total = Sum()
    total.add(header_bytes(cards + both))
    total._fold(datasum)
    return header_bytes(cards + [card("CHECKSUM", checksum_text(total.value), "HDU checksum"), both[1]])


def data_bytes(array):
    """Big-endian bytes of an array or rows, with the padding of an HDU."""
    array = np.ascontiguousarray(array)
    if array.dtype.fields is None:
        array = array.astype(array.dtype.newbyteorder(">"), copy=False)
    data = array.tobytes()
    return data.ljust(-(-len(data) // BLOCK) * BLOCK, b"\0")


def table_hdu(table, rows, values=None):
    """Bytes of a whole table extension with checksums; `rows` by column names, any byte order."""
    raw = np.zeros(len(rows), table.dtype)
    for name in table.names:
        raw[name] = rows[name]
    data = data_bytes(raw)
    total = Sum()
    total.add(data)
    return sealed_header(table_cards(table, len(raw), values), total.value) + data


def image_hdu(name, pixels, values=None):
    """Bytes of a whole image extension with checksums."""
    pixels = np.asarray(pixels)
    data = data_bytes(pixels)
    total = Sum()
    total.add(data)
    return sealed_header(image_cards(name, pixels, values), total.value) + data


def primary_hdu(values=None, history_cards="", pixels=None):
    """Bytes of a primary HDU; without pixels (the usual case for tables) it has no data."""
    if pixels is None:
        return sealed_header(primary_cards(values, history_cards), 0)
    pixels = np.asarray(pixels)
    cards = image_cards("", pixels)[1:-3]
    data = data_bytes(pixels)
    total = Sum()
    total.add(data)
    return sealed_header([card("SIMPLE", True), *cards, card("EXTEND", True), *extra_cards(values), history_cards],
                         total.value) + data


# --- reading ------------------------------------------------------------------------------------

def open_fd(path):
    """Open a regular file by its plain name (no CFITSIO syntax); NoInputError says why not."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise errors.NoInputError(f"{path}: {reason}") from None
    if os.path.isdir(f"/proc/self/fd/{fd}"):
        os.close(fd)
        raise errors.NoInputError(f"{path}: is a directory")
    return fd


def pread_exact(fd, n, offset, place, out=None):
    """Exactly n bytes from `offset` into a new (or given) uint8 array; DataError if the file is shorter."""
    buffer = np.empty(n, np.uint8) if out is None else out
    view = memoryview(buffer)
    done = 0
    while done < n:
        try:
            got = os.preadv(fd, [view[done:]], offset + done)
        except OSError as error:
            raise errors.TransferError(f"{place}: read failed: {error.strerror}") from None
        if got == 0:
            raise errors.DataError(f"{place}: file ends at byte {offset + done}, {n - done} bytes are missing")
        done += got
    return buffer


def read_header(read, place):
    """Header text read block by block with `read(n)`; returns (Header, number of bytes).

    `Header.sum` is the ones' complement sum of its bytes, for `Hdu.check_header`.
    """
    blocks, total = [], Sum()
    while len(blocks) < MAX_HEADER_BLOCKS:
        data = bytes(read(BLOCK))
        total.add(data)
        block = data.decode("latin-1")
        blocks.append(block)
        if any(block[i:i + 80].rstrip() == "END" for i in range(0, BLOCK, 80)):
            header = parse_header("".join(blocks), place)
            header.sum = total
            return header, BLOCK * len(blocks)
    raise errors.DataError(f"{place}: no END card in {MAX_HEADER_BLOCKS} header blocks")


def walk(fd, place, last=None):
    """The HDUs of an open regular file, each checked and placed; stops after HDU number `last`.

    Without `last` the whole structure is checked: the last HDU ends where the file ends.
    Raises DataError naming file, HDU, keyword, what was found and what was expected.
    """
    size = os.fstat(fd).st_size
    if size == 0:
        raise errors.DataError(f"{place}: the file is empty")
    hdus, offset = [], 0
    while offset < size:
        if last is not None and len(hdus) > last:
            return hdus
        if offset == 0 or size - offset < BLOCK:
            start = bytes(pread_exact(fd, min(10, size - offset), offset, place))
            if offset == 0 and not start.startswith(b"SIMPLE  ="[:len(start)]):
                kind = "gzip data" if start[:2] == b"\x1f\x8b" else repr(start)
                raise errors.DataError(f"{place}: not a FITS file (starts with {kind}, expected 'SIMPLE  =')")
            if size - offset < BLOCK:
                raise errors.DataError(f"{place}: {size - offset} bytes at the end that are no HDU: cut or damaged")
        position = offset

        def read(n):
            nonlocal position
            position += n
            return pread_exact(fd, n, position - n, f"{place}: header of HDU {len(hdus)}")  # noqa: B023
        header, length = read_header(read, f"{place}: HDU {len(hdus)}")
        hdu = Hdu(header, len(hdus), place)
        hdu.data_start = offset + length
        offset = hdu.data_start + hdu.padded_size
        if offset > size:
            raise errors.DataError(f"{hdu.place}: header asks for {hdu.data_size} bytes of data, "
                                   f"the file has {size - hdu.data_start}: cut or damaged")
        hdus.append(hdu)
    return hdus


def read_hdu_image(fd, hdu):
    """The pixels of an image HDU, native byte order."""
    if hdu.kind != "image":
        raise errors.DataError(f"{hdu.place}: is a table, expected an image")
    return hdu.image(pread_exact(fd, hdu.data_size, hdu.data_start, hdu.place))


def read_hdu_rows(fd, hdu, start=0, stop=None, names=None):
    """Rows start..stop of a table HDU, decoded, big-endian."""
    stop = hdu.n_row if stop is None else min(stop, hdu.n_row)
    if names is not None:
        hdu.table.require(names)
    width = hdu.axes[0]
    data = pread_exact(fd, max(0, stop - start) * width, hdu.data_start + start * width, hdu.place)
    return hdu.table.decode(data.view(hdu.table.dtype), names)
