"""Rows 1 to 4: cut, damaged, changed and foreign input, on every command, as a file and through a pipe."""

import gzip
import random

import numpy as np
import pytest

from cannonkit import fits, stream

READERS = ("resample", "train", "infer", "flag", "calibrate", "apply", "merge")  # of our own products


def cuts(data, number, chosen):
    """Places to cut: boundaries of blocks and of HDUs, odd offsets; `number` in all."""
    blocks = list(range(fits.BLOCK, len(data), fits.BLOCK))
    odd = [1, 79, 80, 2879, 2881, len(data) - 1, len(data) - fits.BLOCK + 80]
    odd += [chosen.randrange(1, len(data)) for _ in range(20)]
    if number >= len(blocks) + len(odd):
        return blocks + odd
    return chosen.sample(blocks, min(len(blocks), number // 2)) + chosen.sample(odd, number - number // 2)


@pytest.mark.parametrize("name", READERS)
def test_truncated(world, tools, tool, play, judge, many, name):
    """Cut input: 65 before any row is used (file), or at its end (pipe); no END passed on, no output."""
    verdict = judge(1)
    data = world[tools[name][1]].read_bytes()
    cut = play.folder / "cut.fits"
    boundaries = [h.data_start + h.padded_size for h in _hdus(world[tools[name][1]])][:-1]
    chosen = random.Random(name)
    for at in [0, *boundaries, *cuts(data, many(4, 400), chosen)]:
        cut.write_bytes(data[:at])
        before = play.files()
        verdict.refused(
            f"{name}, file cut at {at}", play(*tool(name, cut), "-o", "out.fits"), 65, ["cut.fits"], play, before
        )
        if name == "merge":  # reads files only
            continue
        answer = play(*tool(name, "-"), "-o", "out.fits", stdin=cut)
        verdict.refused(f"{name}, pipe cut at {at}", answer, 65, ["standard input"], play, before)
        if at > len(data) - 3 * fits.BLOCK:  # rows have gone out by then: no END may follow them
            answer = play(*tool(name, "-"), "-o", "-", stdin=cut)
            verdict.refused(f"{name}, pipe to pipe, cut at {at}", answer, 65, [], play, before)
            verdict.check(f"{name}: no END after a cut at {at}", b"EXTNAME = 'END     '" not in answer.out)


def _hdus(path):
    with open(path, "rb") as file:
        return fits.walk(file.fileno(), str(path))


@pytest.mark.parametrize("name", READERS)
def test_flipped_byte(world, tools, tool, play, judge, many, name):
    """A flipped data byte: found by every command, in a file and in a pipe, before its output has a name."""
    verdict = judge(2)
    path = world[tools[name][1]]
    hdus = _hdus(path)[1:]
    chosen = random.Random(name)
    bad = play.folder / "bad.fits"
    for _ in range(many(2, 50)):
        hdu = chosen.choice([h for h in hdus if h.data_size])
        at = hdu.data_start + chosen.randrange(hdu.data_size)
        data = bytearray(path.read_bytes())
        data[at] ^= 1 << chosen.randrange(8)
        bad.write_bytes(data)
        before = play.files()
        answer = play("check", bad)
        verdict.check(
            f"cc-check, byte {at} of {path.name}", answer.code == 65 and b"NOT GOOD" in answer.out, repr(answer)
        )
        options = ["--verify"] if name in ("infer", "train") else []       # of spectra only then
        verdict.refused(
            f"{name}, byte {at}", play(*tool(name, bad), "-o", "out.fits", *options), 65, ["bad.fits"], play, before
        )
        if name != "merge":
            verdict.refused(
                f"{name}, byte {at} in a pipe",
                play(*tool(name, "-"), "-o", "out.fits", stdin=bad),
                65,
                ["standard input", hdu.name],
                play,
                before,
            )


@pytest.mark.parametrize("product", ["labels", "model", "toy", "wide"])
@pytest.mark.parametrize("aimed", [False, True])
def test_changed_headers(world, zygote, tmp_path, judge, many, product, aimed):
    """Changed header bytes: refused or the same data; in a product of ours always one of these two.

    A foreign file carries no checksum that must be there, so a changed name or type of a column can be legal
    FITS with other data (counted, but not wrong); it must never crash, hang or fill the memory.
    """
    verdict = judge(3)
    path = tmp_path / "source.fits"
    if product == "wide":
        _wide(path)
    else:
        path.write_bytes(world[product].read_bytes())
    total, at_once = many(25, 700), 100
    for first in range(0, total, at_once):
        answer = zygote.ask(
            "mutate",
            600,
            path=str(path),
            seed=first,
            count=min(at_once, total - first),
            aimed=aimed,
            folder=str(tmp_path),
        )
        assert answer["code"] == 0, answer
        for kind, detail in answer["value"]:
            if kind == "refused":
                verdict.counts[0] += 1
                verdict.counts[1] += 1
            else:
                foreign = product in ("toy", "wide")
                verdict.check(f"{product}: {kind} {detail}", kind == "same" or (kind == "different" and foreign), kind)


def _wide(path):
    """A table with every kind of column that surveys have, strings and scaled integers among them."""
    from astropy.io import fits as af

    c = af.Column
    af.HDUList(
        [
            af.PrimaryHDU(np.arange(12, dtype="f4").reshape(3, 4)),
            af.BinTableHDU.from_columns(
                [
                    c("name", "20A", array=["abc", "d", "ef"]),
                    c("pair", "20A", dim="(10,2)", array=[["a", "b"]] * 3),
                    c("short", "I", null=-1, array=[1, -1, 3]),
                    c("u16", "I", bzero=32768, array=np.array([0, 5, 65535], "u2")),
                    c("x", "D", array=[1.0, np.nan, 3]),
                    c("image", "6E", dim="(3,2)", array=np.arange(18.0).reshape(3, 2, 3)),
                    c("flag", "L", array=[True, False, True]),
                    c("heap", "PJ()", array=np.array([[1], [1, 2], []], dtype=object)),
                ],
                name="WIDE",
            ),
        ]
    ).writeto(path)


def junk(world):
    chosen = random.Random(4)
    good = world["labels"].read_bytes()
    return {
        "empty": b"",
        "text": b"hello world\n" * 500,
        "random": chosen.randbytes(20000),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(9000),
        "html": b"<!DOCTYPE html><title>404</title>" * 200,
        "gz of junk": gzip.compress(b"not fits" * 1000),
        "broken gz": gzip.compress(good)[:-2000],
        "gz magic": b"\x1f\x8b" + bytes(5000),
        "two files": good + good,
        "trailing junk": good + b"x" * 100,
        "trailing block": good + bytes(2880),
    }


def test_not_fits(world, tools, tool, play, judge):
    verdict = judge(4)
    for what, data in junk(world).items():
        (play.folder / "junk.fits").write_bytes(data)
        before = play.files()
        for name in tools:
            verdict.refused(
                f"{name}, {what}", play(*tool(name, "junk.fits"), "-o", "out.fits"), 65, ["junk.fits"], play, before
            )
            if name != "merge":
                verdict.refused(
                    f"{name}, {what} in a pipe",
                    play(*tool(name, "-"), "-o", "out.fits", stdin=play.folder / "junk.fits"),
                    65,
                    ["standard input"],
                    play,
                    before,
                )
        answer = play("check", "junk.fits")
        verdict.check(f"cc-check, {what}", answer.code == 65 and answer.out.count(b"\n") == 1, repr(answer))


def test_wrong_product_and_no_file(world, tools, tool, play, judge):
    verdict = judge(4)
    before = play.files()
    for name in tools:
        verdict.refused(
            f"{name}, no file", play(*tool(name, "absent.fits"), "-o", "out.fits"), 66, ["absent.fits"], play, before
        )
        verdict.refused(
            f"{name}, a folder", play(*tool(name, world.folder), "-o", "out.fits"), 66, ["directory"], play, before
        )
        if name not in ("merge", "crossmatch"):
            other = "model" if tools[name][1] != "model" else "labels"
            verdict.refused(
                f"{name}, a {other}", play(*tool(name, world[other]), "-o", "out.fits"), 65, [other], play, before
            )


def test_the_world_is_whole(world):
    for name in ("spectra", "model", "labels", "flagged", "errors", "final"):
        with stream.open_source(world[name], verify=True) as source:
            assert source.n_row > 0
