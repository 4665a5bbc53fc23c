from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgekit.errors import EdgekitError
from edgekit.measure.drift import SQNR_CAP_DB, Drift, DriftResult


def drift(before, after, batch=1000) -> DriftResult:
    """Compare models of one output."""
    result = Drift()
    for start in range(0, len(before), batch):
        result.add([np.asarray(before)[start : start + batch]], [np.asarray(after)[start : start + batch]])
    return result.result()


def test_equal_outputs():
    x = np.random.default_rng(0).normal(size=(5, 10)).astype(np.float32)
    result = drift(x, x)
    assert result == DriftResult(SQNR_CAP_DB, pytest.approx(1.0), 1.0, 5, True, (SQNR_CAP_DB,))
    assert json.loads(json.dumps(result.to_dict()))["sqnr_db"] == SQNR_CAP_DB


def test_sqnr_by_definition():
    x = np.array([[3.0, 4.0]])
    assert drift(x, x * 1.1).sqnr_db == pytest.approx(20.0)
    assert drift(x, 0 * x).sqnr_db == pytest.approx(0.0)
    assert drift(x, -x).cosine == pytest.approx(-1.0)


def test_silence():
    zero = np.zeros((2, 3))
    assert (drift(zero, zero).sqnr_db, drift(zero, zero).cosine) == (SQNR_CAP_DB, 1.0)
    assert (drift(zero, zero + 1).sqnr_db, drift(zero, zero + 1).cosine) == (-SQNR_CAP_DB, 0.0)


@pytest.mark.parametrize("batch", [1, 7])
def test_batches_do_not_matter(batch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(50, 10))
    y = x + 0.5 * rng.normal(size=x.shape)
    whole, parts = drift(x, y), drift(x, y, batch)
    assert parts.sqnr_db == pytest.approx(whole.sqnr_db, abs=1e-9)
    assert parts.cosine == pytest.approx(whole.cosine, abs=1e-12)
    assert (parts.agreement, parts.n) == (whole.agreement, 50)
    assert whole.agreement == (x.argmax(1) == y.argmax(1)).mean()


def test_sums_are_exact_where_float32_would_not_be():
    x = np.full((4, 1_000_000), 1000.0, np.float32)
    y = x.copy()
    y[0, 0] += 1
    assert drift(x, y, batch=1).sqnr_db == pytest.approx(10 * np.log10(4e6 * 1e6), abs=1e-6)


def test_several_outputs():
    x, y = np.ones((4, 10)), np.full((4, 5, 5), 100.0)
    result = Drift()
    result.add([x, y], [x * 0.9, y])
    result = result.result()
    assert result.outputs_db == pytest.approx((20.0, SQNR_CAP_DB))
    assert result.sqnr_db == pytest.approx(10 * np.log10((40 + 1e6) / 0.4))
    assert result.agreement is None
    assert result.n == 4


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1, 1)])
def test_agreement_of_classifiers(shape):
    x = np.zeros((6, 4))
    x[:, 1] = 1
    y = x.copy()
    y[0, 2] = 2
    assert drift(x.reshape(shape), y.reshape(shape)).agreement == pytest.approx(5 / 6)


@pytest.mark.parametrize("shape", [(1, 3549, 85), (2, 21, 32, 32), (8,)])
def test_no_agreement_for_anything_else(shape):
    assert drift(np.ones(shape), np.ones(shape)).agreement is None


def test_binary_agreement():
    # Probabilities are cut at 0.5, logits at 0; one logit anywhere decides for all.
    x, y = np.array([[0.4], [0.9], [0.2]]), np.array([[0.6], [0.8], [0.1]])
    assert drift(x, y).agreement == pytest.approx(2 / 3)
    for batch in (1, 4):
        logits = drift(np.vstack([x, [[-4.0]]]), np.vstack([y, [[-3.0]]]), batch)
        assert logits.agreement == 1.0


def test_nan_is_not_finite():
    x = np.ones((3, 4))
    y = x.copy()
    y[1, 2] = np.nan
    result = drift(x, y)
    assert not result.finite
    assert (result.sqnr_db, result.cosine) == (-SQNR_CAP_DB, 0.0)
    assert result.agreement == pytest.approx(2 / 3)
    json.dumps(result.to_dict(), allow_nan=False)


def test_a_mask_of_infinities_in_both_is_no_drift():
    x = np.array([[1.0, -np.inf, 2.0]])
    assert drift(x, x).finite
    assert drift(x, x).sqnr_db == SQNR_CAP_DB
    assert not drift(x, -x).finite
    assert not drift(x, np.array([[1.0, 0.0, np.inf]])).finite


def test_other_shape_is_noise():
    result = drift(np.ones((1, 7, 6)), np.ones((1, 3, 6)))
    assert result.sqnr_db == pytest.approx(0.0)
    assert result.finite


def test_outputs_must_be_as_many():
    with pytest.raises(EdgekitError, match="2 and 1 outputs"):
        Drift().add([np.ones(1), np.ones(1)], [np.ones(1)])


def test_nothing_added():
    assert Drift().result() == DriftResult(SQNR_CAP_DB, 1.0, None, 0, True, ())


@pytest.mark.parametrize("dtype", [np.float16, np.int64, np.uint8, np.bool_])
def test_dtypes(dtype):
    x = np.array([[1, 0], [0, 1]]).astype(dtype)
    assert drift(x, x).sqnr_db == SQNR_CAP_DB
    assert drift(x, 1 - x.astype(np.int64)).agreement == 0.0


@given(st.floats(1e-12, 1e12), st.floats(-1, 1))
def test_scale_does_not_matter(scale, error):
    x = np.array([[1.0, -2.0, 3.0]])
    y = x + error
    plain, scaled = drift(x, y), drift(x * scale, y * scale)
    assert -SQNR_CAP_DB <= plain.sqnr_db <= SQNR_CAP_DB
    assert scaled.cosine == pytest.approx(plain.cosine)
    if abs(error) > 1e-6:
        assert scaled.sqnr_db == pytest.approx(plain.sqnr_db, abs=1e-3)
