"""Distances, leverage and flags against plain NumPy."""
import types

import numpy as np
import pytest

from cannonkit import bitmasks, schema
from cannonkit.errors import DataError
from cannonkit.stages import flag, vectorizer
from cannonkit.stages.lookup import Lookup

NAMES = ("teff", "logg", "fe_h", "alpha_fe", "vmicro", "vbroad")
SIGMA = np.array([600.0, 0.9, 0.3, 0.1, 0.3, 4.0])
CENTRE = np.array([5200.0, 3.4, -0.2, 0.08, 1.3, 8.0])


def model_of(rng, n_train=300, names=NAMES, rms=None):
    """What training_of uses of a model.Model, with Gaussian training labels."""
    labels = CENTRE + SIGMA * rng.normal(size=(n_train, len(NAMES)))
    training = np.zeros(n_train, [("star_id", "S32"), ("used", "u1"), *((n, "f8") for n in NAMES)])
    training["star_id"] = [f"S{k:05d}".encode() for k in range(n_train)]
    training["used"] = 1
    for i, n in enumerate(NAMES):
        training[n] = labels[:, i]
    low, pivot, high = np.percentile(labels[:, :len(names)], [2.5, 50, 97.5], axis=0)
    rms = np.array([80.0, 0.12, 0.06, 0.04, 0.1, 1.0]) if rms is None else rms

    class FakeModel(types.SimpleNamespace):
        def crossval_rms(self, names):
            return np.array([rms[NAMES.index(n)] for n in names])

        def label_index(self, name):
            if name not in names:
                raise DataError(f"no label {name!r}")
            return names.index(name)

        @property
        def training_labels(self):
            return np.stack([self.training[n] for n in names], axis=1)[self.training["used"] != 0]

    return FakeModel(label_names=names, training=training, powers=vectorizer.powers_of(len(names)),
                     low=low, pivot=pivot, high=high, scale=high - low)


@pytest.mark.parametrize("metric, power, root", [("squared", 2, 1), ("absolute", 1, 1), ("root", 2, 2)])
def test_distance_is_equation_5(metric, power, root):
    rng = np.random.default_rng(3)
    model = model_of(rng)
    model.training["used"][::7] = 0                         # stars left out of the training are no neighbours
    training = flag.training_of(model)
    labels = np.concatenate([model.training_labels[:5], CENTRE + 2 * SIGMA * rng.normal(size=(50, 6))])
    star_id = np.array([b"none"] * len(labels), "S32")
    star_id[:5] = model.training["star_id"][model.training["used"] != 0][:5]
    k = np.array([80.0, 0.12, 0.06, 0.04])
    own = model.training["star_id"][model.training["used"] != 0]
    for m, (star, name) in enumerate(zip(labels, star_id, strict=True)):
        others = model.training_labels[own != name][:, :4]
        d = np.sort((np.abs((star[:4] - others) / k) ** power).sum(axis=1) ** (1 / root))[:10].mean()
        assert flag.training_distance(labels[m:m + 1], star_id[m:m + 1], training, metric)[0] == \
            pytest.approx(d, rel=1e-12)
    assert flag.not_in_training(star_id, training).tolist() == [False] * 5 + [True] * 50


def test_nan_labels_have_no_distance_and_the_flag():
    rng = np.random.default_rng(4)
    training = flag.training_of(model_of(rng))
    labels = np.tile(CENTRE, (4, 1))
    labels[1, 2], labels[2, 5], labels[3, 0] = np.nan, np.nan, 5200 + 80 * 40
    star_id = np.zeros(4, "S32")
    distance = flag.training_distance(labels, star_id, training)
    # v_broad is no label of the distance: a NaN there leaves the distance, but not the leverage.
    assert np.isnan(distance).tolist() == [False, True, False, False]
    assert flag.is_outside(distance, 8).tolist()[1:] == [True, bool(distance[2] > 8), True]
    assert np.isnan(flag.leverage(labels, training)).tolist() == [False, True, True, False]
    assert np.isnan(flag.outside_fraction(labels, training)).tolist() == [False, True, True, False]


def test_the_three_metrics_differ_as_in_the_design():
    # Stars 3 K off in all four labels: squared with 8 flags most, absolute fewer, the root none.
    rng = np.random.default_rng(5)
    labels = np.tile(CENTRE, (400, 1))
    labels[:, :4] += 3 * np.array([80.0, 0.12, 0.06, 0.04]) * rng.choice([-1, 1], (400, 4))
    dense = model_of(rng, 4000)
    training = flag.training_of(dense)
    names = np.zeros(len(labels), "S32")
    fraction = {m: flag.is_outside(flag.training_distance(labels, names, training, m), 8).mean()
                for m in ("squared", "absolute", "root")}
    assert fraction["squared"] >= fraction["absolute"] >= fraction["root"] == 0


def test_leverage_is_that_of_least_squares():
    rng = np.random.default_rng(6)
    model = model_of(rng, 200)
    training = flag.training_of(model)
    v = vectorizer.design_matrix((model.training_labels - model.pivot) / model.scale, model.powers)
    hat = v @ np.linalg.solve(v.T @ v, v.T)
    found = flag.leverage(model.training_labels, training)
    np.testing.assert_allclose(found, np.diag(hat), rtol=1e-8)
    assert found.mean() == pytest.approx(training.rank / training.n_train, rel=1e-12)
    far = flag.leverage(np.atleast_2d(CENTRE + 8 * SIGMA), training)
    assert far > 20 * found.max()


def test_dependent_terms_are_left_out_of_the_leverage():
    rng = np.random.default_rng(7)
    model = model_of(rng)
    model.training["vmicro"] = 1e-3 * model.training["teff"]            # linear: 28 terms of rank 21
    training = flag.training_of(model)
    assert training.rank == 21
    assert np.isfinite(flag.leverage(model.training_labels, training)).all()


def test_outside_fraction():
    training = flag.training_of(model_of(np.random.default_rng(8)))
    labels = np.tile(training.pivot, (2, 1))
    labels[1, :3] = training.high[:3] + 1
    assert flag.outside_fraction(labels, training).tolist() == [0.0, 0.5]


def test_spectrum_distance_is_standard_normal_for_right_errors():
    rng = np.random.default_rng(9)
    chi2 = rng.chisquare(2000 - 6, 4000)
    z = flag.spectrum_distance(chi2, np.full(4000, 2000), 6)
    assert abs(z.mean()) < 4 / np.sqrt(4000) and abs(z.std() - 1) < 4 / np.sqrt(8000)
    assert np.isnan(flag.spectrum_distance([5.0], [6], 6))


def test_refusals():
    rng = np.random.default_rng(10)
    with pytest.raises(DataError, match="10 training stars are too few"):
        flag.training_of(model_of(rng, 10))
    with pytest.raises(DataError, match="no label 'alpha_fe'"):
        flag.training_of(model_of(rng, names=NAMES[:3]), ("teff", "alpha_fe"))
    assert flag.training_of(model_of(rng, names=NAMES[:3])).names == ("teff", "logg", "fe_h")


def survey_rows(n):
    return np.zeros(n, [("flag_spectra", "i8"), ("flag_sp", "i8"), ("flag_survey", "i2"), ("snr", "f4")])


def test_survey_flags():
    rows = survey_rows(5)
    rows["snr"] = 30, 25, np.nan, 99, 99
    rows["flag_spectra"] = 0, 0, 0, 1, 0
    rows["flag_sp"] = 0, 8, 0, 0, 0
    status = bitmasks.SPECTRUM_STATUS
    flags = flag.survey_flags(rows, np.array([1, 1, 1, 1, 0], bool), 25.0, True,
                              np.array([status.MISSING_SEGMENT, status.BAD_VALUES, 0, 0, 0]))
    assert flags.flag_spectra.tolist() == [1, 0, 0, 1, schema.NULL_ID]
    assert flags.flag_sp_aspcap.tolist() == [0, 8, 0, 0, schema.NULL_ID]
    assert flags.flag_survey.tolist() == [0, 0, 0, 0, 1]
    assert flags.flag_snr.tolist() == [False, True, True, False, True]
    # Each of these makes a GALAH spectrum a bad one; the others (pixels masked, and so on) do not.
    bad = {"MISSING_FILE", "BROKEN_FILE", "WRONG_LAYOUT", "MISSING_SEGMENT", "NOT_NORMALISED", "NORMALISATION_FAILED",
           "TOO_FEW_PIXELS", "NO_PATH"}
    for bit in status.values():
        one = flag.survey_flags(survey_rows(1), np.ones(1, bool), 25.0, True, np.array([1 << bit.number]))
        assert one.flag_spectra[0] == (bit.name in bad), bit.name
    assert bad <= {bit.name for bit in status.values()}
    # A survey whose word is a bit mask keeps it whatever the spectrum's status is.
    word = flag.survey_flags(rows, np.ones(5, bool), 25.0, False, np.full(5, status.MISSING_SEGMENT))
    assert word.flag_spectra.tolist() == [0, 0, 0, 1, 0]


def test_clean_means_no_bad_bit():
    starflag, aspcap = bitmasks.APOGEE_STARFLAG, bitmasks.APOGEE_ASPCAPFLAG
    rows = np.zeros(5, [("flag_cannon_dist", "i2"), ("flag_survey", "i2"), ("flag_snr", "i2"),
                        ("flag_spectra", "i8"), ("flag_sp_aspcap", "i8")])
    rows["flag_spectra"] = 0, starflag.BRIGHT_NEIGHBOR, starflag.BAD_PIXELS, 0, schema.NULL_ID
    rows["flag_sp_aspcap"][3] = aspcap.NO_ASPCAP_RESULT | aspcap.TEFF_BAD
    clean = flag.is_clean(rows, 0x23E19, 0x9F0000)
    assert clean.tolist() == [True, True, False, False, False]
    assert flag.is_clean_by_zero(rows).tolist() == [True, False, False, False, False]


def test_lookup():
    names = np.array([b"b", b"a  ", b"", b"c", b""], "S8")
    table = Lookup(names)
    assert table.find(np.array([b"c   ", b"a", b"x", b"", b"b"], "S12")).tolist() == [3, 1, -1, -1, 0]
    order = Lookup(np.array([f"{k}".encode() for k in range(100)][::-1]))
    assert order.find(order.names[:40]).tolist() == list(range(40))
    assert order.find(order.names[40:]).tolist() == list(range(40, 100))
    with pytest.raises(DataError, match="'a' stands in rows 0 and 2"):
        Lookup(np.array([b"a", b"b", b"a "], "S4"), "catalogue")
    assert Lookup(np.array([b"a", b"b", b"a"]), unique=False).find(np.array([b"a"])).tolist() == [0]
    assert Lookup(np.zeros(0, "S4")).find(np.array([b"a"])).tolist() == [-1]


@pytest.mark.parametrize("bits", [0, 1, 3])
def test_lookup_is_right_where_hashes_collide(monkeypatch, bits):
    from cannonkit.stages import lookup
    honest = lookup._hash
    monkeypatch.setattr(lookup, "_hash", lambda names: honest(names) & np.uint64(bits))
    names = np.array([b"n%d" % k for k in range(40)])
    table = Lookup(names[::-1])
    asked = np.concatenate([names[5:30:2], [b"", b"no"]])
    assert table.find(asked).tolist() == [39 - k for k in range(5, 30, 2)] + [-1, -1]
    with pytest.raises(DataError, match="'n3' stands in rows 3 and 40 .1 such"):
        Lookup(np.append(names, b"n3"))
    twice = Lookup(np.append(names, b"n3"), unique=False)
    assert twice.find(np.array([b"n3"])).tolist() == [3]
    assert twice.firsts().tolist() == list(range(40))


def test_lookup_of_many_blank_and_equal_names():
    rng = np.random.default_rng(5)
    names = rng.integers(0, 1500, 20000).astype("S6")
    names[rng.permutation(20000)[:8000]] = b""                  # stars without a name: no place in the index
    table = Lookup(names, unique=False)
    first = {}
    for row, name in enumerate(names.tolist()):
        first.setdefault(name, row)
    expected = [first[n] if n else -1 for n in names.tolist()]
    assert table.find(names).tolist() == expected
    assert table.firsts().tolist() == sorted(row for name, row in first.items() if name)
    assert len(table.hashes) == (names != b"").sum() and table.reach < 60
