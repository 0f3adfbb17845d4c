"""Catalogue rows, cross-reference, means of two rows, and parts of a job, against plain loops."""
import numpy as np
import products
import pytest

from cannonkit import schema
from cannonkit.errors import DataError
from cannonkit.stages import merge


def keys(*names):
    return np.array(names, "S12")


def test_cross_reference_is_mutual_and_takes_the_first():
    other = merge.cross_reference([keys("a", "b", "", "c", "a"), keys("x", "c", "a", "a", "")])
    assert other.tolist() == [7, -1, -1, 6, -1, -1, 3, 0, -1, -1]


def test_cross_reference_of_many():
    rng = np.random.default_rng(1)
    first, second = rng.permutation(5000)[:3000], rng.permutation(5000)[:2500]
    other = merge.cross_reference([first.astype("S6"), second.astype("S8")])
    place = {name: k for k, name in enumerate(second)}
    expected = [place[n] + 3000 if n in place else -1 for n in first]
    assert other[:3000].tolist() == expected
    has = np.flatnonzero(other >= 0)
    assert np.array_equal(other[other[has]], has)
    assert merge.cross_reference([first.astype("S6")]).tolist() == [-1] * 3000
    assert merge.cross_reference([keys(), keys("a")]).tolist() == [-1]


def test_mean_of_two_rows():
    rng = np.random.default_rng(2)
    n, n_label = 50, 3
    root = rng.normal(size=(2, n, n_label, n_label)) * np.array([100.0, 0.1, 0.05])[:, None]
    c1, c2 = root @ root.transpose(0, 1, 3, 2)
    l1, l2 = rng.normal(size=(2, n, n_label)) * np.array([100.0, 0.1, 0.05]) + np.array([5000, 3, -0.2])
    mean = merge.combine(l1, c1, l2, c2)
    for m in range(n):
        a = np.diag(1 / np.diag(c1[m]))
        b = np.diag(1 / np.diag(c2[m]))
        total = np.linalg.inv(a + b)
        np.testing.assert_allclose(mean.labels[m], total @ (a @ l1[m] + b @ l2[m]), rtol=1e-10)
        np.testing.assert_allclose(mean.cov[m], total @ (a @ c1[m] @ a + b @ c2[m] @ b) @ total, rtol=1e-8)
        d = l1[m] - l2[m]
        assert mean.chi2[m] == pytest.approx(d @ np.linalg.inv(c1[m] + c2[m]) @ d, rel=1e-6)
    assert np.all(mean.dof == 3)
    assert np.all((mean.labels >= np.minimum(l1, l2)) & (mean.labels <= np.maximum(l1, l2)))


def test_mean_is_consistent_when_the_errors_are_right():
    rng = np.random.default_rng(3)
    n = 4000
    sigma = np.array([80.0, 0.1, 0.05, 0.03])
    correlation = 0.4 + 0.6 * np.eye(4)
    cov = np.broadcast_to(correlation * sigma[:, None] * sigma, (n, 4, 4))
    root = np.linalg.cholesky(cov[0])
    l1, l2 = rng.normal(size=(2, n, 4)) @ root.T
    mean = merge.combine(l1, cov, l2, 1.0 * cov)
    assert abs(mean.chi2.mean() - 4) < 4 * np.sqrt(8 / n)
    np.testing.assert_allclose(mean.labels.std(axis=0), sigma / np.sqrt(2), rtol=0.05)
    np.testing.assert_allclose(np.sqrt(mean.cov[0].diagonal()), sigma / np.sqrt(2), rtol=1e-12)


def test_labels_that_one_row_lacks_come_from_the_other():
    cov = np.tile(np.diag([4.0, 1.0]), (4, 1, 1))
    l1, l2 = np.array([[1.0, 2], [np.nan, 2], [np.nan, np.nan], [1, 2]]), np.array([[3.0, 2], [3, 4], [5, 6], [3, 4]])
    c1, c2 = cov.copy(), cov.copy()
    c1[3], c2[3] = np.nan, np.nan
    mean = merge.combine(l1, c1, l2, c2)
    np.testing.assert_array_equal(mean.labels[:3], [[2, 2], [3, 3], [5, 6]])
    assert np.isnan(mean.labels[3]).all() and np.isnan(mean.cov[3]).all()
    assert mean.dof.tolist() == [2, 1, 0, 0]
    np.testing.assert_allclose(mean.chi2[:2], [4 / 8, 4 / 2])
    assert np.isnan(mean.chi2[2:]).all()
    np.testing.assert_allclose(mean.cov[1], [[4, 0], [0, 0.5]])


def test_reduced_chi2_divides_as_the_paper_does():
    found = merge.reduced_chi2([990.0, 5.0], [1000, 7], 6)
    assert found[0] == 990 / 993 and np.isnan(found[1])


def test_catalogue_rows_take_every_column_from_its_place():
    rng = np.random.default_rng(4)
    n = 5
    ids = products.star_names(n)
    table = schema.labels_table(products.LABELS).with_columns(
        (*schema.flag_columns(), *schema.error_columns(products.LABELS)))
    labels = table.rows(n, products.label_rows(ids, ids, products.training_labels(rng, n),
                                               products.covariance(rng, n), np.full(n, 50.0)))
    for name in products.LABELS:
        labels[f"err_{name}"] = rng.uniform(1, 2, n)
    labels["cannon_distance"], labels["flag_cannon_dist"], labels["flag_training"] = 3.5, 1, 1
    survey = np.zeros(n, [(c, "f8") for c in merge.survey_columns() if not c.startswith(("flag", "dr", "reject"))]
                      + [("dr2_source_id", "i8"), ("dr3_source_id", "i8"), ("reject", "i8")])
    for k, name in enumerate(survey.dtype.names):
        survey[name] = 100 * k + np.arange(n)
    survey["dr2_source_id"] = [2**60 + 1, 0, -1, schema.NULL_ID, 7]
    found = np.array([1, 1, 1, 1, 0], bool)
    flags = {"flag_spectra": np.arange(n), "flag_sp_aspcap": np.arange(n) + 10, "flag_survey": np.zeros(n),
             "flag_snr": np.ones(n)}
    out = schema.catalogue_table(products.LABELS)
    rows = merge.catalogue_rows(out, labels, products.LABELS, (found, survey), flags, 1)
    assert rows.dtype.names[:44] == out.names[:44] and schema.N_TABLE_A1 == 44
    np.testing.assert_array_equal(rows["fehCann"], labels["fe_h"])
    np.testing.assert_array_equal(rows["e_alphafeCann"], labels["err_alpha_fe"])
    np.testing.assert_array_equal(rows["feh"], survey["fe_h"])
    np.testing.assert_array_equal(rows["e_vbroad"], survey["e_vbroad"])
    assert rows["dr2_source_id"].tolist() == [2**60 + 1] + [schema.NULL_ID] * 3 + [7]
    assert rows["reject"].tolist()[4] == schema.NULL_ID and rows["reject"][0] == survey["reject"][0]
    assert np.all(rows["flag_id"] == 1) and np.all(rows["other_row"] == schema.NULL_ID)
    np.testing.assert_array_equal(rows["r_chi_sq"], labels["chi2"] / 993)
    assert rows["flag_sp_aspcap"].tolist() == [10, 11, 12, 13, 14]


# --- parts ------------------------------------------------------------------------------------------------

def parts(count=4):
    return [merge.Part(f"p{i}", (i, count), "run", "layout", (("W", 1),), 64) for i in range(count)]


def test_parts_come_into_order():
    some = parts()
    shuffled = [some[k] for k in (2, 0, 3, 1)]
    assert [shuffled[k].name for k in merge.ordered_parts(shuffled)] == ["p0", "p1", "p2", "p3"]


@pytest.mark.parametrize("change, says", [
    (lambda p: p[:2] + p[3:], "missing: part-00002-of-00004.fits"),
    (lambda p: p + [p[1]._replace(name="again")], "part 1 is there twice: p1 and again"),
    (lambda p: p[:3] + [p[3]._replace(run="other")], "p3 is of another run"),
    (lambda p: p[:3] + [p[3]._replace(layout="other")], "p3 has other columns"),
    (lambda p: p[:3] + [p[3]._replace(small=(("W", 2),))], "p3 has other columns or extensions"),
    (lambda p: p + [p[1]._replace(name="half", shard=(1, 2))], "half is part 1 of 2, the others are of 4: its rows"),
    (lambda p: p + [p[0]._replace(name="whole", shard=None)], "whole is no part of an array job"),
    (lambda p: p[:1], "missing: part-00001-of-00004.fits, part-00002-of-00004.fits, part-00003-of-00004.fits")])
def test_parts_are_refused_by_name(change, says):
    with pytest.raises(DataError, match=says.replace("(", ".").replace(")", ".")):
        merge.ordered_parts(change(parts()))
