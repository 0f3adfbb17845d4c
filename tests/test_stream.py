"""Products in files and pipes: what is written is read back; what is cut, damaged or foreign is refused."""
import os
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

from cannonkit import errors, fits, provenance, schema, stream

N_PIX, N_ROW = 50, 200


def product(path, rng, n_row=N_ROW, kind="spectra", **options):
    """A product at `path`, called `kind`, with the rows of spectra; returns its rows."""
    table = schema.spectra_table(N_PIX, 12)
    rows = table.rows(n_row, id=[b"star %d" % i for i in range(n_row)], flux=rng.random((n_row, N_PIX)), ivar=1.0,
                      visit=np.arange(n_row), snr_survey=80, snr=np.nan, status=0, n_bad=0)
    wavelength = schema.WAVELENGTH.rows(N_PIX, wavelength=np.arange(N_PIX) + 5000.0, segment=0)
    extension = stream.Extension("WAVELENGTH", wavelength, schema.WAVELENGTH, {"MEDIUM": "air"})
    with stream.create(path, kind, table, n_row, [extension], header={"SURVEY": "apogee"},
                       record={"command": "cc-test", "settings": {"text": "naïve\n'quoted'"}}, **options) as out:
        for first in range(0, n_row, 64):
            out.write(rows[first:first + 64])
    return rows


@pytest.fixture
def pipe_stdin(monkeypatch):
    """Give bytes to the process's standard input through a real pipe."""
    kept = os.dup(0)
    threads = []

    def feed(data):
        read, write = os.pipe()

        def send():
            try:
                with os.fdopen(write, "wb") as f:
                    f.write(data)
            except BrokenPipeError:
                pass
        os.dup2(read, 0)
        os.close(read)
        threads.append(threading.Thread(target=send))
        threads[-1].start()
    yield feed
    os.dup2(kept, 0)
    os.close(kept)
    for t in threads:
        t.join()


@pytest.mark.parametrize("piped", [False, True])
@pytest.mark.parametrize("reuse", [1, 2])
def test_memory_of_chunks_is_used_again(tmp_path, rng, pipe_stdin, reuse, piped):
    """A chunk's rows stand until `reuse` chunks later; the memory is that of reuse + 1 chunks."""
    rows = product(tmp_path / "a.fits", rng)
    if piped:
        pipe_stdin((tmp_path / "a.fits").read_bytes())
    with stream.open_source("-" if piped else tmp_path / "a.fits") as source:
        kept, places = [], set()
        for first, part in source.chunks(30, reuse=reuse):
            kept.append((first, part))
            places.add(part.__array_interface__["data"][0])
            for at, one in kept[-reuse:]:
                np.testing.assert_array_equal(one["flux"], rows["flux"][at:at + 30])
        assert len(kept) == 7 and len(places) == reuse + 1


def read_all(source, chunk=None):
    parts = [np.array(rows) for _, rows in source.chunks(chunk)]
    return np.concatenate(parts).astype(source.table.dtype)     # concatenate makes them native


@pytest.mark.parametrize("chunk", [1, 7, 64, 1000])
def test_file_round_trip(tmp_path, rng, chunk):
    rows = product(tmp_path / "a.fits", rng)
    with stream.open_source(tmp_path / "a.fits", "spectra", verify=True) as source:
        assert source.n_row == N_ROW and source.header["SURVEY"] == "apogee"
        assert source.extensions["WAVELENGTH"].header["MEDIUM"] == "air"
        assert source.extensions["WAVELENGTH"].data["wavelength"][3] == 5003.0
        assert read_all(source, chunk).tobytes() == rows.tobytes()
        assert source.table["flux"].unit == "" and source.table.names == schema.spectra_table(N_PIX, 12).names


def test_the_disk_begins_early(tmp_path, rng, monkeypatch):
    """Every byte but the last few goes to the disk while the file is written; the hint may be missing or fail."""
    sent = []
    monkeypatch.setattr(stream, "SEND_BYTES", 100)
    honest = stream._send_to_disk
    monkeypatch.setattr(stream, "_send_to_disk", lambda fd, *part: (sent.append(part), honest(fd, *part)))
    product(tmp_path / "a.fits", rng)
    assert [offset for offset, _ in sent] == [0, *np.cumsum([size for _, size in sent])[:-1]]
    assert sum(size for _, size in sent) > 0.9 * (tmp_path / "a.fits").stat().st_size
    honest(-1, 0, 10)                                           # a bad descriptor: no exception
    monkeypatch.setattr(stream.ctypes, "CDLL", lambda name: object())
    honest(-1, 0, 10)                                           # no such call


def test_pipe_gives_the_rows_and_sums_of_the_file(tmp_path, rng, pipe_stdin):
    rows = product(tmp_path / "a.fits", rng)
    pipe_stdin((tmp_path / "a.fits").read_bytes())
    with stream.open_source("-", "spectra") as source:
        assert read_all(source, 33).tobytes() == rows.tobytes()
        with stream.open_source(tmp_path / "a.fits") as file:
            assert source.datasums() == file.datasums()


def test_stdout_equals_the_file_but_for_two_cards(tmp_path, monkeypatch):
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "0")
    product(tmp_path / "a.fits", np.random.default_rng(5))
    read, write = os.pipe()
    kept = os.dup(1)
    collected = []

    def collect():
        with os.fdopen(read, "rb") as f:
            collected.append(f.read())
    thread = threading.Thread(target=collect)
    thread.start()
    os.dup2(write, 1)
    os.close(write)
    try:
        product("-", np.random.default_rng(5))
    finally:
        os.dup2(kept, 1)
        os.close(kept)
    thread.join()
    file = (tmp_path / "a.fits").read_bytes()
    assert len(file) == len(collected[0])
    cards = [(file[i:i + 80], collected[0][i:i + 80]) for i in range(0, len(file), 80)]
    different = {a[:8].strip() for a, b in cards if a != b}
    assert different <= {b"CHECKSUM", b"DATASUM"} and different


def test_provenance_chains(tmp_path, rng):
    product(tmp_path / "a.fits", rng)
    with stream.open_source(tmp_path / "a.fits") as source:
        with stream.create(tmp_path / "b.fits", "labels", schema.labels_table(["teff"]), 0, sources=[source],
                           record={"command": "cc-next"}):
            pass
    with stream.open_source(tmp_path / "b.fits") as source:
        records = provenance.from_header(source.header)
    assert [r["command"] for r in records] == ["cc-next", "cc-test"]
    assert records[1]["settings"]["text"] == "naïve\n'quoted'"
    assert records[0]["inputs"][0]["record"] == records[1]["id"]
    with stream.open_source(tmp_path / "a.fits") as source:
        assert records[0]["inputs"][0]["datasum"] == source.datasums()


def test_every_truncation_is_refused(tmp_path, rng, pipe_stdin):
    product(tmp_path / "a.fits", rng, n_row=30)
    data = (tmp_path / "a.fits").read_bytes()
    cuts = list(range(0, len(data), fits.BLOCK)) + [1, 79, 2881, 5000, len(data) - 1]
    for cut in cuts:
        (tmp_path / "cut.fits").write_bytes(data[:cut])
        with pytest.raises(errors.DataError):
            stream.open_source(tmp_path / "cut.fits")
        pipe_stdin(data[:cut])
        with pytest.raises(errors.DataError):
            with stream.open_source("-") as source:
                read_all(source)


def test_flipped_bytes_are_found(tmp_path, rng, pipe_stdin):
    product(tmp_path / "a.fits", rng, n_row=30, kind="labels")
    data = (tmp_path / "a.fits").read_bytes()
    with stream.open_source(tmp_path / "a.fits") as source:
        start = source.hdu.data_start
        size = source.hdu.data_size
    for at in rng.integers(start, start + size, 20):
        bad = bytearray(data)
        bad[at] ^= 0x10
        (tmp_path / "bad.fits").write_bytes(bad)
        with pytest.raises(errors.DataError, match="DATASUM"):
            stream.open_source(tmp_path / "bad.fits", verify=True)
        with stream.open_source(tmp_path / "bad.fits") as source:
            with pytest.raises(errors.DataError, match="DATASUM"):
                for _ in source.chunks(8):
                    pass
            if not (at - start) // source.hdu.axes[0] >= 10:
                list(source.chunks(8, start=10))            # a part of the rows is not all that the sum is of
        pipe_stdin(bytes(bad))
        with pytest.raises(errors.DataError, match="DATASUM"):
            with stream.open_source("-") as source:
                read_all(source)


def test_mutated_headers_are_refused(tmp_path, rng):
    """A changed header byte is found by the CHECKSUM of its HDU, if the structure still makes sense."""
    product(tmp_path / "a.fits", rng, n_row=10)
    data = (tmp_path / "a.fits").read_bytes()
    with stream.open_source(tmp_path / "a.fits") as source:
        header_end = source.hdu.data_start
    for at in rng.integers(0, header_end, 400):
        bad = bytearray(data)
        bad[at] = bad[at] ^ 1 if rng.random() < 0.5 else rng.integers(32, 127)
        if bad == data:
            continue
        (tmp_path / "bad.fits").write_bytes(bad)
        with pytest.raises(errors.DataError) as caught:
            stream.open_source(tmp_path / "bad.fits", verify=True)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("content, says", [
    (b"", "empty"), (b"hello world" * 1000, "not a FITS file"), (b"\x1f\x8b junk" * 500, "gzip"),
    (b"\x89PNG\r\n" + bytes(5000), "not a FITS file"), (b"<html>404</html>" * 300, "not a FITS file")])
def test_foreign_junk(tmp_path, pipe_stdin, content, says):
    (tmp_path / "x.fits").write_bytes(content)
    with pytest.raises(errors.DataError, match=says):
        stream.open_source(tmp_path / "x.fits")
    pipe_stdin(content)
    with pytest.raises(errors.DataError, match=says):
        stream.open_source("-")


def test_two_files_in_one(tmp_path, rng, pipe_stdin):
    product(tmp_path / "a.fits", rng, n_row=3)
    data = (tmp_path / "a.fits").read_bytes()
    (tmp_path / "two.fits").write_bytes(data * 2)
    with pytest.raises(errors.DataError):
        stream.open_source(tmp_path / "two.fits")
    pipe_stdin(data * 2)
    with pytest.raises(errors.DataError, match="after END"):
        with stream.open_source("-") as source:
            read_all(source)


def test_wrong_product_is_named(tmp_path, rng):
    product(tmp_path / "a.fits", rng)
    with pytest.raises(errors.DataError, match="a spectra product, expected labels or model"):
        stream.open_source(tmp_path / "a.fits", ("labels", "model"))


def test_names_are_plain_file_names(tmp_path, rng, monkeypatch):
    monkeypatch.chdir(tmp_path)
    product("a.fits", rng)
    for name in ("a.fits(copy.fits)", "!a.fits", "a.fits[1]", "http://example.invalid/a.fits", "a.fits\nb", "a\0b"):
        with pytest.raises(errors.NoInputError):
            stream.open_source(name)
    assert sorted(os.listdir()) == ["a.fits"]
    with pytest.raises(errors.NoInputError, match="is a directory"):
        stream.open_source(tmp_path)


def foreign(path):
    """A table with what survey files hold: unsigned, scaled, null, logical, vectors, strings. By astropy."""
    from astropy.io import fits as af
    c = af.Column
    af.BinTableHDU.from_columns([
        c("u16", "I", bzero=32768, array=np.array([0, 5, 65535], "u2")),
        c("nul", "J", null=-99, array=[1, -99, 3]),
        c("flag", "L", array=[True, False, True]),
        c("vec", "4E", dim="(2,2)", array=np.arange(12.0).reshape(3, 2, 2)),
        c("name", "8A", array=["a", "bb", "c  d"]),
        c("big", "K", array=[2 ** 53 + 1, -1, 2 ** 63 - 1]),
        c("u64", "K", bzero=2 ** 63, array=np.array([0, 2 ** 63, 2 ** 64 - 1], "u8")),
        c("heap", "PJ()", array=np.array([[1], [1, 2], []], dtype=object)),
    ]).writeto(path)


def test_foreign_table_values(tmp_path):
    foreign(tmp_path / "f.fits")
    with stream.open_source(tmp_path / "f.fits") as source:
        assert source.product is None
        rows = source.read(["u16", "nul", "flag", "vec", "name", "big", "u64"])
        assert source.columns["nul"].null == -99
        with pytest.raises(errors.DataError, match="variable-length"):
            source.require(["heap"])
        with pytest.raises(errors.DataError, match="did you mean 'flag'"):
            source.require(["falg"])
    assert rows["u16"].tolist() == [0, 5, 65535]
    assert rows["flag"].tolist() == [1, 0, 1]
    assert rows["vec"].tolist() == np.arange(12.0).reshape(3, 2, 2).tolist()
    assert schema.text(rows["name"]).tolist() == ["a", "bb", "c  d"]
    assert rows["big"].tolist() == [2 ** 53 + 1, -1, 2 ** 63 - 1]
    assert rows["u64"].tolist() == [0, 2 ** 63, 2 ** 64 - 1]


def test_scaled_integers_as_astropy_reads_them(tmp_path):
    from astropy.io import fits as af
    table = schema.Table("T", (schema.Column("s", "i2", null=7), schema.Column("y", "i4"), schema.Column("b", "u1")))
    rows = np.zeros(3, table.dtype)
    rows["s"], rows["y"], rows["b"] = [0, 7, -32768], [1, 2, 3], [0, 128, 255]
    (tmp_path / "t.fits").write_bytes(fits.primary_hdu() + fits.table_hdu(
        table, rows, {"TSCAL1": 0.5, "TZERO1": 10.0, "TZERO3": -128}))
    with stream.open_source(tmp_path / "t.fits") as source:
        ours = source.read()
    with af.open(tmp_path / "t.fits") as hdus:
        theirs = hdus[1].data
        assert ours["s"][[0, 2]].tolist() == theirs["s"][[0, 2]].tolist() == [10.0, -16374.0]
        assert np.isnan(ours["s"][1])
        assert ours["y"].tolist() == [1, 2, 3]
        assert ours["b"].tolist() == theirs["b"].tolist() == [-128, 0, 127]


def test_substring_arrays_are_refused_not_crashed_on(tmp_path):
    rows = np.zeros(4, [("name", "S20"), ("x", ">f8")])
    rows["x"] = 3
    table = schema.Table("T", (schema.Column("name", "S20"), schema.Column("x", "f8")))
    data = fits.primary_hdu() + fits.table_hdu(table, rows).replace(b"'20A     '", b"'20A2    '")
    (tmp_path / "s.fits").write_bytes(data)
    with stream.open_source(tmp_path / "s.fits") as source:
        assert source.read(["x"])["x"].tolist() == [3, 3, 3, 3]
        with pytest.raises(errors.DataError, match="substring"):
            source.require(["name"])


def test_lying_headers(tmp_path):
    table = schema.Table("T", (schema.Column("x", "f8"),))
    good = fits.primary_hdu() + fits.table_hdu(table, np.zeros(4, [("x", ">f8")]))
    for old, new, says in [(f"NAXIS2  = {4:>20}", f"NAXIS2  = {2 ** 31 + 5:>20}", "asks for"),
                           (f"NAXIS1  = {8:>20}", f"NAXIS1  = {9:>20}", "add up to 8"),
                           (f"NAXIS2  = {4:>20}", f"NAXIS2  = {-4:>20}", "NAXIS2"),
                           ("'1D      '", "'1Y      '", "TFORM1")]:
        assert old.encode() in good
        (tmp_path / "lie.fits").write_bytes(good.replace(old.encode(), new.encode()))
        with pytest.raises(errors.DataError, match=says):
            stream.open_source(tmp_path / "lie.fits")


def test_fits_plus_gz_and_selected_hdu(tmp_path):
    import gzip
    table = schema.Table("SECOND", (schema.Column("x", "f8"),))
    other = schema.Table("FIRST", (schema.Column("y", "i4"),))
    data = (fits.primary_hdu(pixels=np.arange(8, dtype="u1"))
            + fits.table_hdu(other, np.ones(2, [("y", ">i4")])) + fits.table_hdu(table, np.ones(3, [("x", ">f8")])))
    (tmp_path / "p.fits").write_bytes(data)
    (tmp_path / "p.fits.gz").write_bytes(gzip.compress(data))
    for path in ("p.fits", "p.fits.gz"):
        with stream.open_source(tmp_path / path) as source:
            assert source.table.name == "FIRST" and source.read()["y"].tolist() == [1, 1]
        with stream.open_source(tmp_path / path, hdu="second") as source:
            assert source.read()["x"].tolist() == [1, 1, 1]
        with pytest.raises(errors.DataError, match="no HDU 'third'"):
            stream.open_source(tmp_path / path, hdu="third")


def test_nothing_is_left_on_failure(tmp_path, rng):
    with pytest.raises(ZeroDivisionError):
        with stream.create(tmp_path / "a.fits", "labels", schema.labels_table(["teff"]), 5):
            raise ZeroDivisionError
    with pytest.raises(errors.InternalError, match="0 rows written, 5 announced"):
        with stream.create(tmp_path / "a.fits", "labels", schema.labels_table(["teff"]), 5):
            pass
    assert os.listdir(tmp_path) == []


def test_targets(tmp_path, rng):
    product(tmp_path / "a.fits", rng)
    before = (tmp_path / "a.fits").read_bytes()
    with pytest.raises(errors.CannotCreateError, match="exists; --overwrite"):
        product(tmp_path / "a.fits", rng)
    assert (tmp_path / "a.fits").read_bytes() == before
    product(tmp_path / "a.fits", rng, overwrite=True)
    assert (tmp_path / "a.fits").read_bytes() != before
    with pytest.raises(errors.CannotCreateError, match="does not exist"):
        product(tmp_path / "no" / "a.fits", rng)
    with pytest.raises(errors.CannotCreateError, match="is a directory"):
        product(tmp_path, rng, overwrite=True)
    with stream.open_source(tmp_path / "a.fits") as source:
        with pytest.raises(errors.CannotCreateError, match="also an input"):
            stream.create(tmp_path / "a.fits", "labels", schema.labels_table(["teff"]), 0, sources=[source],
                          overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["a.fits"]


def test_without_unnamed_files(tmp_path, rng, monkeypatch):
    """A file system without O_TMPFILE (NFS): a temporary name in the same directory instead."""
    real = os.open

    def refuse(path, flags, *args, **kwargs):
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            raise OSError(95, "Operation not supported")
        return real(path, flags, *args, **kwargs)
    monkeypatch.setattr(os, "open", refuse)
    rows = product(tmp_path / "a.fits", rng)
    product(tmp_path / "a.fits", np.random.default_rng(1), overwrite=True)
    with pytest.raises(ZeroDivisionError):
        with stream.create(tmp_path / "b.fits", "labels", schema.labels_table(["teff"]), 5):
            raise ZeroDivisionError
    assert os.listdir(tmp_path) == ["a.fits"]
    with stream.open_source(tmp_path / "a.fits") as source:
        assert source.read().shape == rows.shape


_WRITER = """
import sys, time
import numpy as np
from cannonkit import errors, schema, stream
table = schema.labels_table(["teff", "logg"])
try:
    with stream.create(sys.argv[1], "labels", table, 2000) as out:
        for i in range(20):
            out.write(table.rows(100, teff=float(sys.argv[2])))
            print(i, file=sys.stderr, flush=True)
            time.sleep(float(sys.argv[3]))
except errors.CannonkitError as error:
    sys.exit(error.code)
"""


def writer(path, value, pause, **options):
    return subprocess.Popen([sys.executable, "-c", _WRITER, str(path), str(value), str(pause)],
                            stderr=subprocess.PIPE, **options)


def test_kill_leaves_nothing(tmp_path):
    with writer(tmp_path / "k.fits", 1, 0.05) as process:
        for _ in range(5):
            process.stderr.readline()
        process.send_signal(signal.SIGKILL)
    assert os.listdir(tmp_path) == []


def test_race_has_one_winner(tmp_path):
    processes = [writer(tmp_path / "r.fits", i, 0.001) for i in range(6)]
    for p in processes:
        p.communicate()
    assert sorted(p.returncode for p in processes) == [0] + [73] * 5
    with stream.open_source(tmp_path / "r.fits", verify=True) as source:
        assert len(np.unique(source.read()["teff"])) == 1
    assert os.listdir(tmp_path) == ["r.fits"]


def test_full_device_and_closed_stdout():
    with open("/dev/full", "wb") as full, writer("-", 1, 0, stdout=full) as process:
        process.communicate()
    assert process.returncode == 74
    process = subprocess.run(["bash", "-c", f"{sys.executable} -c '{_WRITER}' - 1 0 >&-"], capture_output=True)
    assert process.returncode == 74


@pytest.mark.parametrize("program", ["fitsverify", "stilts", "asttable"])
def test_referees_accept_products(tmp_path, rng, program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")
    product(tmp_path / "a.fits", rng)
    path = str(tmp_path / "a.fits")
    command = {"fitsverify": ["fitsverify", "-q", path], "stilts": ["stilts", "tpipe", f"in={path}#2", "omode=count"],
               "asttable": ["asttable", path, "-hSPECTRA", "--information"]}[program]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    expected = {"fitsverify": "verification OK", "stilts": f"rows: {N_ROW}", "asttable": "flux"}[program]
    assert expected in done.stdout


def test_astropy_reads_without_a_warning(tmp_path, rng):
    from astropy.io import fits as af
    from astropy.table import Table
    rows = product(tmp_path / "a.fits", rng)
    with af.open(tmp_path / "a.fits", checksum=True) as hdus:
        assert [h.name for h in hdus] == ["PRIMARY", "WAVELENGTH", "SPECTRA", "END"]
        hdus.verify("exception")
        assert np.array_equal(hdus["SPECTRA"].data["flux"], rows["flux"])
    assert Table.read(tmp_path / "a.fits", hdu="WAVELENGTH")["wavelength"].unit.to_string() == "Angstrom"


def test_long_and_odd_header_text(tmp_path):
    from astropy.io import fits as af
    text = {"LONG": "it''s " * 40 + "é\n\x00", "QUOTES": "'" * 150, "SHORT": "a'b"}
    with stream.create(tmp_path / "h.fits", "labels", schema.labels_table(["teff"]), 0, header=text):
        pass
    with stream.open_source(tmp_path / "h.fits") as source:
        ours = {k: source.header[k] for k in text}
    assert ours["SHORT"] == "a'b" and ours["QUOTES"] == "'" * 150
    assert ours["LONG"] == ("it''s " * 40 + r"\xe9\x0a\x00")
    with af.open(tmp_path / "h.fits") as hdus:
        assert {k: hdus[0].header[k] for k in text} == ours


def test_no_rows(tmp_path, rng, pipe_stdin):
    product(tmp_path / "a.fits", rng, n_row=0)
    with stream.open_source(tmp_path / "a.fits", verify=True) as source:
        assert source.n_row == 0 and len(source.read()) == 0
    pipe_stdin((tmp_path / "a.fits").read_bytes())
    with stream.open_source("-") as source:
        assert [r for r in source.chunks()] == []
        assert source.datasums()["SPECTRA"] == 0
