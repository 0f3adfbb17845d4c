"""Products in files and pipes: opened checked, read and written by row chunks, never left half-written.

One layout, front to back: primary header with provenance; small extensions; the one big row table; END,
a tiny table with each extension's row count and DATASUM. A stream without a good END is cut or damaged.
Files are written unnamed beside their target and linked when whole. Memory is O(chunk), but for the
small extensions. Foreign FITS files (survey catalogues) are read through the same door.
"""
import ctypes
import errno
import gzip
import os
import select
import stat
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

import cannonkit
from cannonkit import errors, fits, headers, provenance, schema

FORMAT = 1                       # CKFORMAT: layout version of our products
CHUNK_BYTES = 8 << 20            # default chunk of rows when a command sets none
MAX_SMALL = 2 << 30              # bytes of a small extension read from a pipe
MAKERS = {"training": "cc-crossmatch", "spectra": "cc-resample", "model": "cc-train", "labels": "cc-infer",
          "errors": "cc-errors calibrate"}
SEND_BYTES = 32 << 20            # of an output file that go to the disk together


_AGAIN = (errno.EDQUOT, errno.ESTALE, errno.ENOLCK, errno.ETIMEDOUT)     # trouble that passes: Slurm requeues


def _transfer_error(message, error):
    """TransferError, or TryAgainError where the trouble passes by itself."""
    kind = errors.TryAgainError if error.errno in _AGAIN else errors.TransferError
    return kind(f"{message}: {error.strerror}")


def _when_ready(fd, writing, call, *args):
    """call(*args); on a pipe that somebody made non-blocking, as soon as it can go on."""
    while True:
        try:
            return call(*args)
        except InterruptedError:
            continue
        except BlockingIOError:
            select.select([] if writing else [fd], [fd] if writing else [], [])


@dataclass
class Extension:
    """A small extension: an array (image) or rows (table, with its schema.Table), and header values."""

    name: str
    data: np.ndarray
    table: schema.Table | None = None
    header: dict = field(default_factory=dict)


# --- reading ------------------------------------------------------------------------------------

class Source:
    """An open FITS input; see `open_source`. Use as a context manager.

    name (for messages), product (ours: 'spectra', ...; None: foreign), header (primary), extensions
    {name: Extension} (ours only, in order), table (schema.Table of the row table), n_row, hdu.
    """

    def __init__(self, name, hdu_selector=None):
        self.name, self._selector = name, hdu_selector
        self.extensions, self.product, self._sums, self._end = {}, None, {}, None

    # both kinds of input fill these
    header = None
    hdu = None
    seekable = True                  # False: the rows can be read once only

    @property
    def table(self):
        return self.hdu.table.table

    @property
    def columns(self):
        return self.hdu.table.columns

    @property
    def n_row(self):
        return self.hdu.n_row

    def place(self, column=None, row=None):
        """`file[EXT]: column 'x', row 7` for messages."""
        return errors.where(self.name, self.hdu.name or self.hdu.index, column, row)

    def require(self, names, numbers=(), arrays=None):
        """Raise DataError with the columns that there are, if one of `names` is absent or unusable.

        numbers: more such names; these must hold one real number a row. arrays: {name: shape of a row's
        numbers}.
        """
        shapes = {**dict.fromkeys(numbers, ()), **(arrays or {})}
        self.hdu.table.require([*names, *shapes])
        for name, shape in shapes.items():
            column = self.columns[name]
            if column.shape != tuple(shape) or np.dtype(column.dtype).kind not in "fiu":
                found = "text" if np.dtype(column.dtype).kind == "S" else f"{column.dtype} of shape {column.shape}"
                wanted = f"{tuple(shape)} numbers" if shape else "one number"
                raise errors.DataError(f"{self.place(name)}: {found} in a row, expected {wanted}")

    def require_spectra(self):
        """DataError unless the rows are those of a spectra product: flux and ivar on its own WAVELENGTH."""
        if "WAVELENGTH" not in self.extensions:
            raise errors.DataError(f"{self.name}: spectra without a WAVELENGTH extension: damaged")
        shape = (len(self.extensions["WAVELENGTH"].data),)
        self.require(["id", "star_id"], ["visit", "snr_survey", "status"], {"flux": shape, "ivar": shape})

    def default_chunk(self):
        return max(64, CHUNK_BYTES // max(1, self.hdu.axes[0]) // 64 * 64)

    def chunks(self, chunk=None, columns=None, start=0, stop=None, reuse=0):
        """Yield (first row, rows) in order; rows are big-endian structured arrays of `columns` (all).

        The next chunk is read while the caller works on this one. reuse=n: into memory used before (making new
        memory for every chunk costs as much as reading it); a chunk's rows are gone n chunks later.
        """
        if columns is not None:
            self.require(columns)
        chunk = int(chunk or self.default_chunk())
        stop = self.n_row if stop is None else min(stop, self.n_row)
        reader = self._raw_chunks(chunk, start, stop, [None] * (reuse + 1) if reuse else None)
        with ThreadPoolExecutor(1) as pool:
            ahead = pool.submit(next, reader, None)
            first = start
            while (raw := ahead.result()) is not None:
                ahead = pool.submit(next, reader, None)
                yield first, self.hdu.table.decode(raw, columns)
                first += len(raw)
        self._finish(start, stop)

    def rows(self, start, stop, columns=None):
        """Rows start to stop of a file (there must be some), read at once; big-endian, as `chunks` yields them."""
        return self.hdu.table.decode(next(self._raw_chunks(stop - start, start, stop)), columns)

    def read(self, columns=None):
        """All rows, native byte order."""
        parts = [np.array(rows) for _, rows in self.chunks(None, columns)]
        if not parts:
            empty = np.zeros(0, self.hdu.table.dtype)
            parts = [self.hdu.table.decode(empty, columns)]
        rows = np.concatenate(parts) if len(parts) > 1 else parts[0]
        return rows.astype(rows.dtype.newbyteorder("="))

    def datasums(self):
        """DATASUM of each extension as far as known now (a stream's row table: only after its rows)."""
        return dict(self._sums)

    def verify(self):
        """Compare the DATASUM of the rows now, where that can be done before they are read."""

    def _finish(self, start, stop):
        pass

    def close(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()

    def _check_product(self, product):
        wanted = (product,) if isinstance(product, str) else product
        if wanted is not None and self.product not in wanted:
            found = f"a {self.product} product" if self.product else "not a cannonkit product"
            makers = ", ".join(f"{MAKERS[name]} makes {name}" for name in wanted if name in MAKERS)
            raise errors.DataError(f"{self.name}: {found}, expected {' or '.join(wanted)}"
                                   + (f" ({makers})" if makers else ""))

    def _check_format(self):
        found = self.header.get("CKFORMAT")
        if found != FORMAT:
            raise errors.DataError(f"{self.name}: CKFORMAT {found!r}, this version reads {FORMAT}")

    def _check_end(self, rows, hdus):
        """END's rows against the extensions before it: names and counts."""
        listed = [(str(n), int(c)) for n, c in zip(schema.text(rows["extname"]), rows["n_row"], strict=True)]
        found = [(h.name, h.count) for h in hdus]
        if listed != found:
            raise errors.DataError(f"{self.name}[END]: lists {listed}, the file has {found}: damaged")
        return {name: int(s) for (name, _), s in zip(listed, rows["datasum"], strict=True)}


def _recycled(memory, n):
    """n bytes of the oldest of some buffers, which are made when they are first needed; None: no such buffers."""
    if memory is None:
        return None
    memory.append(memory.pop(0))
    if memory[-1] is None or len(memory[-1]) < n:
        memory[-1] = np.empty(n, np.uint8)
    return memory[-1][:n]


def _end_table(hdu, data, place):
    """END's rows from its bytes with their padding; its header has their DATASUM."""
    if hdu.table is None or hdu.table.dtype != schema.END.dtype:
        raise errors.DataError(f"{place}[END]: columns are not those of an END table: damaged")
    total = fits.Sum()
    total.add(data)
    if total.value != _as_int(hdu.header["DATASUM"]):
        raise errors.DataError(f"{place}[END]: DATASUM of the data is {total.value}, "
                               f"the header says {hdu.header['DATASUM']}: damaged")
    return np.frombuffer(data[:hdu.data_size], schema.END.dtype)


def _small(hdu, data):
    if hdu.kind == "image":
        return Extension(hdu.name, hdu.image(data), None, hdu.header)
    if hdu.kind == "ascii":
        raise errors.DataError(f"{hdu.place}: ASCII tables are not part of our products")
    raw = np.frombuffer(data, hdu.table.dtype)
    rows = hdu.table.decode(raw)
    return Extension(hdu.name, rows.astype(rows.dtype.newbyteorder("=")), hdu.table.table, hdu.header)


class _FileSource(Source):
    """A regular file: the whole structure, and the data of the small extensions, are checked before the first row
    is used; the rows' DATASUM before that (`verify`), or when they have all been read in order (not of spectra).
    """

    def __init__(self, name, fd, selector=None, verify=False):
        super().__init__(name, selector)
        self.fd = fd
        hdus = fits.walk(fd, name)
        self.header = hdus[0].header
        if "CKFORMAT" not in self.header and hdus[-1].name != "END":
            self.hdu = self._foreign_table(hdus)
            for h in hdus:
                if "DATASUM" in h.header:
                    self._sums[h.name or str(h.index)] = _as_int(h.header["DATASUM"])
            return
        for h in hdus:
            # A stream that was kept in a file: its row table's sum is known to END only.
            streamed = h.header.get("CKROWS") is True and not {"CHECKSUM", "DATASUM"} & set(h.header)
            if not streamed:
                h.check_header()
        self._check_format()
        self.product = self.header.text("PRODUCT")
        if hdus[-1].name != "END":
            raise errors.DataError(f"{name}: no END extension: cut or damaged")
        if len(hdus) < 3 or hdus[-2].kind != "table":
            raise errors.DataError(f"{name}: no row table before END: damaged")
        end = hdus[-1]
        rows = _end_table(end, fits.pread_exact(fd, end.padded_size, end.data_start, end.place), name)
        self._sums = self._check_end(rows, hdus[1:-1])
        self.end_header = hdus[-1].header
        self.hdu = hdus[-2]
        self.hdus = hdus
        if verify:
            self.verify()
        for h in hdus[1:-2]:
            data, total = fits.pread_exact(fd, h.padded_size, h.data_start, h.place), fits.Sum()
            total.add(data)
            self._compare(h, total)
            self.extensions[h.name] = _small(h, data[:h.data_size])

    def verify(self):
        """Read a product's row table and compare its DATASUM with END's, before the first row is used."""
        if self.product is None:
            return
        total, step = fits.Sum(), 16 << 20
        for at in range(0, self.hdu.padded_size, step):
            total.add(fits.pread_exact(self.fd, min(step, self.hdu.padded_size - at), self.hdu.data_start + at,
                                       self.hdu.place))
        self._compare(self.hdu, total)

    def _compare(self, hdu, total):
        if total.value != self._sums[hdu.name]:
            raise errors.DataError(f"{hdu.place}: DATASUM of the data is {total.value}, "
                                   f"END says {self._sums[hdu.name]}: damaged")

    def _foreign_table(self, hdus):
        wanted = self._selector
        if wanted is not None:
            for h in hdus:
                if str(wanted) == str(h.index) or str(wanted).casefold() == h.name.casefold() != "":
                    if h.kind != "table":
                        raise errors.DataError(f"{h.place}: is {'an ASCII table' if h.kind == 'ascii' else 'an image'}"
                                               ", expected a binary table")
                    return h
            names = [h.name or str(h.index) for h in hdus]
            raise errors.DataError(f"{self.name}: no HDU {wanted!r}{errors.did_you_mean(wanted, names)}")
        for h in hdus:
            if h.kind == "table":
                if "ZTABLE" in h.header or "ZIMAGE" in h.header:
                    raise errors.DataError(f"{h.place}: is tile-compressed (.fz): unpack it first (funpack)")
                return h
        kinds = ", ".join(f"{h.name or h.index} ({h.kind})" for h in hdus)
        raise errors.DataError(f"{self.name}: no binary table among its HDUs: {kinds}")

    def _raw_chunks(self, chunk, start, stop, memory=None):
        width, layout = self.hdu.axes[0], self.hdu.table
        # Rows of a product that are read from the first to the last have their DATASUM compared at the end; not those
        # of spectra, where it costs a tenth of cc-infer's time (verify does it).
        checked = self.product not in (None, "spectra") and (start, stop) == (0, self.n_row)
        total = fits.Sum() if checked else None
        for first in range(start, stop, chunk):
            n = min(chunk, stop - first)
            data = fits.pread_exact(self.fd, n * width, self.hdu.data_start + first * width, self.hdu.place,
                                    _recycled(memory, n * width))
            if total is not None:
                total.add(data)
            yield data.view(layout.dtype)
        if total is not None:
            total.add(fits.pread_exact(self.fd, self.hdu.padded_size - self.hdu.data_size,
                                       self.hdu.data_start + self.hdu.data_size, self.hdu.place))
            self._compare(self.hdu, total)

    def close(self):
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None


def _as_int(value):
    try:
        return int(str(value))
    except ValueError:
        return 0


class _PipeSource(Source):
    """One of our products from a pipe: front to back, sums checked on the way, END at last."""

    seekable = False

    def __init__(self, name, fd, header, header_bytes, selector=None):
        super().__init__(name, selector)
        self.fd, self.header = fd, header
        self.product = header.text("PRODUCT") or None
        self._check_format()
        fits.Hdu(header, 0, name).check_header()
        self._seen, self._next_row = [], 0
        while True:
            hdu = self._next_hdu()
            if hdu.header.get("CKROWS") is True:
                if hdu.kind != "table":
                    raise errors.DataError(f"{hdu.place}: CKROWS in an extension that is no table: damaged")
                self.hdu = hdu
                self._total = fits.Sum()
                return
            hdu.check_header()
            if hdu.data_size > MAX_SMALL:
                raise errors.DataError(f"{hdu.place}: {hdu.data_size} bytes in a small extension: damaged")
            data = self._exact(hdu.padded_size, hdu.place)
            total = fits.Sum()
            total.add(data)
            self._sums[hdu.name] = total.value
            stated = hdu.header["DATASUM"]
            if _as_int(stated) != total.value:
                raise errors.DataError(f"{hdu.place}: DATASUM of the data is {total.value}, "
                                       f"the header says {stated}: damaged")
            self.extensions[hdu.name] = _small(hdu, data[:hdu.data_size])

    def _next_hdu(self):
        header, _ = fits.read_header(lambda n: self._exact(n, f"{self.name}: header of HDU {len(self._seen) + 1}"),
                                     f"{self.name}: HDU {len(self._seen) + 1}")
        hdu = fits.Hdu(header, len(self._seen) + 1, self.name)
        self._seen.append(hdu)
        return hdu

    def _exact(self, n, place, out=None):
        buffer = np.empty(n, np.uint8) if out is None else out
        view, done = memoryview(buffer), 0
        while done < n:
            try:
                got = _when_ready(self.fd, False, os.readv, self.fd, [view[done:]])
            except OSError as error:
                raise _transfer_error(f"{place}: read failed", error) from None
            if got == 0:
                raise errors.DataError(f"{place}: the stream ends {n - done} bytes too early "
                                       "(did the command before the pipe fail?)")
            done += got
        return buffer

    def _raw_chunks(self, chunk, start, stop, memory=None):
        if self._next_row > start:
            raise errors.InternalError(f"{self.name}: a pipe can be read only once")
        width, layout = self.hdu.axes[0], self.hdu.table
        while self._next_row < stop:
            # rows before `start` are read and counted, since a pipe cannot seek
            limit = start if self._next_row < start else stop
            n = min(chunk, limit - self._next_row)
            data = self._exact(n * width, self.hdu.place, _recycled(memory, n * width))
            self._total.add(data)
            self._next_row += n
            if self._next_row > start:
                yield data.view(layout.dtype)

    def _finish(self, start, stop):
        for _ in self._raw_chunks(self.default_chunk(), self.n_row, self.n_row):
            pass
        while self._next_row < self.n_row:
            n = min(self.default_chunk(), self.n_row - self._next_row)
            self._total.add(self._exact(n * self.hdu.axes[0], self.hdu.place))
            self._next_row += n
        padding = self._exact(self.hdu.padded_size - self.hdu.data_size, self.hdu.place)
        if padding.any():
            raise errors.DataError(f"{self.hdu.place}: padding after the rows is not zero: damaged")
        self._sums[self.hdu.name] = self._total.value
        end = self._next_hdu()
        end.check_header()
        if end.name != "END":
            raise errors.DataError(f"{self.name}: extension {end.name!r} after the rows, expected END: damaged")
        data = self._exact(end.padded_size, end.place)
        sums = self._check_end(_end_table(end, data, self.name), self._seen[:-1])
        for extension, expected in sums.items():
            if self._sums.get(extension) != expected:
                raise errors.DataError(f"{self.name}[{extension}]: DATASUM of the data is {self._sums.get(extension)}, "
                                       f"END says {expected}: damaged")
        self.end_header = end.header
        if _when_ready(self.fd, False, os.read, self.fd, 1):
            raise errors.DataError(f"{self.name}: more bytes after END: damaged, or two files in one stream")


def _spool(fd, start, name):
    """The rest of a pipe (after `start`, already read) in an unlinked temporary file; its descriptor."""
    spool = _temporary(name)
    try:
        spool.write(start)
        spool.flush()
        out = spool.fileno()
        os.lseek(out, 0, os.SEEK_END)
        while True:
            try:
                if not _when_ready(fd, False, os.splice, fd, out, 1 << 20):
                    break
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                data = _when_ready(fd, False, os.read, fd, 1 << 20)
                if not data:
                    break
                while data:
                    data = data[os.write(out, data):]
        return os.dup(out)
    except OSError as error:
        raise _transfer_error(f"{name}: cannot spool to {tempfile.gettempdir()}", error) from None
    finally:
        spool.close()


def _temporary(name):
    try:
        return tempfile.TemporaryFile(prefix="cannonkit-")
    except OSError as error:
        raise errors.TransferError(f"{name}: no temporary file can be made: {error.strerror}") from None


def _gunzip(fd, name):
    out = _temporary(name)
    os.lseek(fd, 0, os.SEEK_SET)
    try:
        with os.fdopen(os.dup(fd), "rb") as file, gzip.open(file) as packed:
            while data := packed.read(1 << 20):
                out.write(data)
        out.flush()
        return os.dup(out.fileno())
    except (EOFError, gzip.BadGzipFile, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise _transfer_error(f"{name}: cannot unpack to {tempfile.gettempdir()}", error) from None
        raise errors.DataError(f"{name}: gzip data are cut or damaged ({error})") from None
    except Exception as error:           # zlib.error
        raise errors.DataError(f"{name}: gzip data are damaged ({error})") from None
    finally:
        os.close(fd)
        out.close()


def open_source(path, product=None, hdu=None, verify=False):
    """Open a FITS input: a path, or `-` for standard input (a pipe, or `< file`).

    product: name(s) of our products that are accepted; None accepts anything, foreign files too.
    hdu: name or number of a foreign file's table; default its first binary table.
    verify: compare all DATASUMs first (regular files; a pipe is always verified, at its end).
    Raises NoInputError if it cannot be opened, DataError naming what is wrong with it.
    """
    if str(path) == "-":
        name = "standard input"
        try:
            fd = os.dup(0)
        except OSError:
            raise errors.NoInputError("standard input is closed") from None
        if stat.S_ISREG(os.fstat(fd).st_mode):
            os.close(fd)
            fd = os.open("/proc/self/fd/0", os.O_RDONLY | os.O_CLOEXEC)
        elif os.isatty(fd):
            raise errors.UsageError("standard input is a terminal: give a file or a pipe")
    else:
        name, fd = str(path), fits.open_fd(path)
    if stat.S_ISREG(os.fstat(fd).st_mode):
        if os.pread(fd, 2, 0) == b"\x1f\x8b":
            fd = _gunzip(fd, name)
        source = _open_or_close(_FileSource, name, fd, hdu, verify)
    else:
        source = _open_pipe(name, fd, hdu, verify)
    try:
        source._check_product(product)
    except errors.CannonkitError:
        source.close()
        raise
    return source


def _open_or_close(kind, name, fd, *args):
    try:
        return kind(name, fd, *args)
    except BaseException:
        os.close(fd)
        raise


def _open_pipe(name, fd, hdu, verify):
    start = b""
    try:
        while len(start) < fits.BLOCK and (
                data := _when_ready(fd, False, os.read, fd, fits.BLOCK - len(start))):
            start += data
    except OSError as error:
        raise _transfer_error(f"{name}: read failed", error) from None
    if not start:
        raise errors.DataError(f"{name}: empty (did the command before the pipe fail?)")
    if start.startswith(b"SIMPLE  =") and b"CKFORMAT=" in start:
        rest = [start]

        def read(n):
            if rest:
                return rest.pop()
            data = b""
            while len(data) < n:
                more = _when_ready(fd, False, os.read, fd, n - len(data))
                if not more:
                    raise errors.DataError(f"{name}: the stream ends in its primary header")
                data += more
            return data
        header, length = fits.read_header(read, f"{name}: HDU 0")
        source = _open_or_close(_PipeSource, name, fd, header, length, hdu)
        source.close = lambda: os.close(fd)
        return source
    if not start.startswith((b"SIMPLE  =", b"\x1f\x8b")):
        raise errors.DataError(f"{name}: not a FITS file (starts with {start[:10]!r}, expected 'SIMPLE  =')")
    spooled = _spool(fd, start, name)
    os.close(fd)
    if start[:2] == b"\x1f\x8b":
        spooled = _gunzip(spooled, name)
    return _open_or_close(_FileSource, name, spooled, hdu, verify)


# --- writing ------------------------------------------------------------------------------------

def _send_to_disk(fd, offset, size):
    """Have the disk begin with these bytes of a file, so that the fsync at its end has little left to wait for.

    Linux's sync_file_range, a hint: where there is none, or it fails, fsync does it all.
    """
    try:
        call = ctypes.CDLL(None).sync_file_range
    except AttributeError:
        return
    call(ctypes.c_int(fd), ctypes.c_int64(offset), ctypes.c_int64(size), ctypes.c_uint(2))     # SYNC_FILE_RANGE_WRITE


class _Target:
    """Where bytes go: an unnamed file that gets its name when whole, or standard output."""

    def __init__(self, path, overwrite):
        self.path, self.overwrite, self.temporary = str(path), overwrite, None
        self.written = self.sent = 0
        if self.path == "-":
            self.fd, self.name = 1, "standard output"
            try:
                os.fstat(1)
            except OSError:
                raise errors.TransferError("standard output is closed") from None
            if os.isatty(1):
                raise errors.UsageError("will not write FITS to a terminal: give -o FILE or a pipe")
            self.seekable = False
            return
        self.name, self.seekable = self.path, True
        check_target(self.path, overwrite)
        self.directory = os.path.dirname(self.path) or "."
        try:
            self.fd = os.open(self.directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o666)
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL, errno.ENOENT):
                raise errors.CannotCreateError(
                    f"{self.path}: cannot write in its directory: {error.strerror}") from None
            try:
                self.fd, self.temporary = tempfile.mkstemp(
                    prefix=f".{os.path.basename(self.path)}.{os.environ.get('SLURM_JOB_ID', '')}.{os.getpid()}.",
                    dir=self.directory)
                umask = os.umask(0)
                os.umask(umask)
                os.fchmod(self.fd, 0o666 & ~umask)
            except OSError as error:
                raise errors.CannotCreateError(f"{self.path}: {error.strerror}") from None

    def write(self, data):
        view = memoryview(data).cast("B")
        while len(view):
            try:
                done = _when_ready(self.fd, True, os.write, self.fd, view)
            except OSError as error:
                raise _transfer_error(f"{self.name}: write failed", error) from None
            view = view[done:]
            self.written += done
        if self.written - self.sent >= SEND_BYTES and self.seekable:
            _send_to_disk(self.fd, self.sent, self.written - self.sent)
            self.sent = self.written

    def patch(self, data, offset):
        while len(data):
            try:
                done = os.pwrite(self.fd, data, offset)
            except InterruptedError:
                continue
            except OSError as error:
                raise _transfer_error(f"{self.name}: write failed", error) from None
            data, offset = data[done:], offset + done

    def commit(self):
        if not self.seekable:
            return
        try:
            os.fsync(self.fd)
            self._name_it()
            self._sync_directory()
        except FileExistsError:
            raise errors.CannotCreateError(
                f"{self.path}: exists (made while we ran); --overwrite replaces it") from None
        except OSError as error:
            raise _transfer_error(f"{self.path}: cannot finish", error) from None

    def _sync_directory(self):
        """Make the new name last. Where that fails, the name goes again (an old file that it replaced is gone)."""
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOTSUP):     # file systems that sync no directories
                return
            if not self.overwrite:
                os.unlink(self.path)
            raise
        finally:
            os.close(directory)

    def _name_it(self):
        if self.temporary is not None:
            if self.overwrite:
                os.rename(self.temporary, self.path)
            else:
                os.link(self.temporary, self.path)
                os.unlink(self.temporary)
            self.temporary = None
            return
        directory = os.open(self.directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            link = f"/proc/self/fd/{self.fd}"
            base = os.path.basename(self.path)
            if not self.overwrite:
                # src_dir_fd makes Python use linkat, which follows the /proc link
                os.link(link, base, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=True)
                return
            temporary = f".{base}.{os.environ.get('SLURM_JOB_ID', '')}.{os.getpid()}.tmp"
            os.link(link, temporary, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=True)
            try:
                os.rename(temporary, base, src_dir_fd=directory, dst_dir_fd=directory)
            except OSError:
                os.unlink(temporary, dir_fd=directory)
                raise
        finally:
            os.close(directory)

    def close(self):
        if not self.seekable:
            return
        if self.fd is not None:
            os.close(self.fd)
            self.fd = None
        if self.temporary is not None:
            os.unlink(self.temporary)
            self.temporary = None


def check_target(path, overwrite=False, inputs=()):
    """Raise before any work where an output cannot be made: it exists, is an input, has no directory."""
    path = str(path)
    if path == "-":
        return
    directory = os.path.dirname(path) or "."
    if not os.path.isdir(directory):
        raise errors.CannotCreateError(f"{path}: directory {directory} does not exist")
    if os.path.isdir(path):
        raise errors.CannotCreateError(f"{path}: is a directory")
    if os.path.islink(path) and not os.path.exists(path):
        raise errors.CannotCreateError(f"{path}: is a dangling symbolic link")
    if os.path.lexists(path):
        for source in inputs:
            if os.path.exists(source) and os.path.samefile(path, source):
                raise errors.CannotCreateError(f"{path}: is also an input")
        if not overwrite:
            raise errors.CannotCreateError(f"{path}: exists; --overwrite replaces it")


def write_bytes(path, data, overwrite=False):
    """A small file (a figure, a page) of `data`, whole or not at all; the errors are those of `create`."""
    target = _Target(path, overwrite)
    try:
        target.write(data)
        target.commit()
    finally:
        target.close()


_finished = []


def finished(forget=False):
    """Products written since the last call with `forget`: [{file, product, rows, counts}], in order."""
    done = list(_finished)
    if forget:
        _finished.clear()
    return done


class Output:
    """A product being written; see `create`. `write` takes row chunks in order, `note` values for END."""

    def __init__(self, path, product, table, n_row, extensions, header, sources, record, overwrite, row_header):
        if product not in schema.PRODUCTS:
            raise errors.InternalError(f"unknown product {product!r}")
        self.table, self.n_row, self.sources, self.product = table, int(n_row), sources, product
        self._dtype, self._written, self._notes = table.dtype, 0, {}
        self._sums, self._total = [], fits.Sum()
        if path != "-":
            check_target(path, overwrite, [s.name for s in sources])
        self.target = _Target(path, overwrite)
        try:
            self._start(product, extensions, header, sources, record, row_header)
        except BaseException:
            self.target.close()
            raise

    def _start(self, product, extensions, header, sources, record, row_header):
        values = {"PRODUCT": (product, "what this file is"),
                  "CKFORMAT": (FORMAT, "layout version"),
                  "ORIGIN": (f"cannonkit {cannonkit.__version__}", "maker"), **(header or {})}
        mock = [s.header.get("MOCK") for s in sources]
        if any(mock) and "MOCK" not in values:
            values["MOCK"] = (True, "simulated data: not real stars")
        cards = fits.primary_cards(values) + [provenance.date_card(),
                                              provenance.to_cards(provenance.chain(record, sources))]
        self.target.write(fits.sealed_header(cards, 0))
        offset = 0
        for extension in extensions:
            data = np.asarray(extension.data)
            # one that was read brings its whole header: without what describes its layout
            cards = headers.kept(extension.header, True) if isinstance(extension.header, fits.Header) \
                else extension.header
            if extension.table is not None:
                block = fits.table_hdu(extension.table, data, cards)
                count = len(data)
            else:
                block = fits.image_hdu(extension.name, data, cards)
                count = data.size
            self.target.write(block)
            total = fits.Sum()
            width = extension.table.dtype.itemsize if extension.table is not None else data.dtype.itemsize
            size = -(-count * width // fits.BLOCK) * fits.BLOCK
            total.add(block[len(block) - size:])
            self._sums.append((extension.name, count, total.value))
        self._row_cards = fits.table_cards(self.table, self.n_row, {
            "CKROWS": (True, "the big row table"), **(row_header or {})})
        self._row_header = fits.header_bytes(self._row_cards + [" " * 80, " " * 80])
        if self.target.seekable:
            offset = os.lseek(self.target.fd, 0, os.SEEK_CUR)
        self._row_offset = offset
        self.target.write(self._row_header)

    def write(self, rows):
        """Append rows (structured, with at least the table's columns; any byte order)."""
        if rows.dtype != self._dtype:
            raw = np.zeros(len(rows), self._dtype)
            for name in self.table.names:
                raw[name] = rows[name]
            rows = raw
        rows = np.ascontiguousarray(rows)
        if self._written + len(rows) > self.n_row:
            raise errors.InternalError(f"{self.target.name}: more than {self.n_row} rows written")
        data = rows.view(np.uint8).reshape(-1) if len(rows) else np.empty(0, np.uint8)
        self._total.add(data)
        self.target.write(data)
        self._written += len(rows)

    def note(self, key, value, comment=""):
        """A value that is known only at the end; stands in END's header."""
        self._notes[key] = (value, comment)

    def finish(self):
        """Write padding, sums and END, and give the file its name."""
        if self._written != self.n_row:
            raise errors.InternalError(f"{self.target.name}: {self._written} rows written, {self.n_row} announced")
        size = self._written * self._dtype.itemsize
        self.target.write(bytes(-size % fits.BLOCK))
        self._sums.append((self.table.name, self.n_row, self._total.value))
        if self.target.seekable:
            sealed = fits.sealed_header(self._row_cards, self._total.value)
            assert len(sealed) == len(self._row_header)
            self.target.patch(sealed, self._row_offset)
        rows = np.zeros(len(self._sums), schema.END.dtype)
        rows["extname"] = [n.encode() for n, _, _ in self._sums]
        rows["n_row"] = [c for _, c, _ in self._sums]
        rows["datasum"] = [s for _, _, s in self._sums]
        for i, source in enumerate(self.sources, 1):
            for j, (name, value) in enumerate(sorted(source.datasums().items()), 1):
                self._notes[f"INS{i}_{j}"] = (f"{name} {value}", f"DATASUM of input {i}")
        self.target.write(fits.table_hdu(schema.END, rows, self._notes))
        self.target.commit()
        counts = {comment or key: value for key, (value, comment) in self._notes.items() if not key.startswith("INS")}
        _finished.append({"file": self.target.path, "product": self.product, "rows": self.n_row, "counts": counts})

    def __enter__(self):
        return self

    def __exit__(self, kind, value, traceback):
        try:
            if kind is None:
                self.finish()
        finally:
            self.target.close()


def create(path, product, table, n_row, extensions=(), header=None, sources=(), record=None, overwrite=False,
           row_header=None):
    """Open a product for writing: a path, or `-` for standard output; a context manager with `write`.

    table: schema.Table of the rows, n_row of which must be written; extensions: small ones, in order;
    header: {key: value or (value, comment)} of the primary header, row_header of the row table;
    sources: open Sources whose provenance is chained; record: from `cli.record`.
    Nothing stands under `path` until the block ends without an exception; a stream gets no END then.
    Raises CannotCreateError (target), TransferError (write), UsageError (terminal).
    """
    return Output(str(path), product, table, n_row, list(extensions), header, list(sources), record, overwrite,
                  row_header)
