from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgekit.errors import EdgekitError
from edgekit.measure.accuracy import NO_ANSWER, Tally, by_class, confusions, mcnemar, paired, wilson


def tally(outputs, labels, batch=1000):
    result = Tally()
    for start in range(0, len(labels), batch):
        result.add(np.asarray(outputs)[start : start + batch], labels[start : start + batch])
    return result


def test_top1_and_top5():
    scores = np.tile(np.arange(10.0), (4, 1))  # the answer is 9, then 8, 7, 6, 5
    result = tally(scores, [9, 8, 5, 4]).result()
    assert (result.top1, result.top5, result.n) == (0.25, 0.75, 4)
    assert result.low < 0.25 < result.high


def test_top5_needs_ten_classes():
    assert tally(np.eye(9), list(range(9))).result().top5 is None
    assert tally(np.eye(10), list(range(10))).result().top5 == 1.0


@pytest.mark.parametrize("batch", [1, 7, 1000])
def test_batches_do_not_matter(batch):
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(100, 12)), rng.integers(12, size=100)
    result = tally(scores, labels, batch)
    assert (result.correct == (scores.argmax(axis=1) == labels)).all()
    top5 = [label in row.argsort()[-5:] for row, label in zip(scores, labels, strict=True)]
    assert result.correct_top5 is not None
    assert (result.correct_top5 == top5).all()


def test_ties_go_to_the_lowest_index():
    result = tally([[1, 1, 0], [1, 1, 0], [0, 0, 0]], [0, 1, 0])
    assert result.correct.tolist() == [True, False, True]
    assert result.confusion == {(0, 0): 2, (1, 0): 1}


def test_all_equal_scores_have_the_first_five_as_top5():
    flags = tally(np.zeros((10, 10)), list(range(10))).correct_top5
    assert flags is not None
    assert flags.tolist() == [True] * 5 + [False] * 5


def test_nan_is_wrong():
    scores = np.eye(10)
    scores[3, 7] = np.nan
    result = tally(scores, list(range(10)))
    assert result.correct.tolist() == [True] * 3 + [False] + [True] * 6
    assert result.correct_top5 is not None
    assert not result.correct_top5[3]
    assert result.confusion[(3, NO_ANSWER)] == 1


def test_infinities_are_scores():
    assert tally([[-np.inf, 0.0], [np.inf, 0.0]], [1, 0]).correct.all()


@pytest.mark.parametrize("shape", [(-1, 4), (-1, 4, 1, 1)])
@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.uint8])
def test_shapes_and_dtypes(shape, dtype):
    scores = (np.eye(4) * 100).astype(dtype).reshape(shape)
    assert tally(scores, [0, 1, 2, 3]).correct.all()


@pytest.mark.parametrize("shape", [(-1, 1), (-1,), (-1, 1, 1, 1)])
def test_binary_probabilities(shape):
    result = tally(np.array([0.1, 0.6, 0.4, 1.0]).reshape(shape), [0, 1, 1, 1])
    assert result.correct.tolist() == [True, True, False, True]
    assert result.confusion == {(0, 0): 1, (1, 0): 1, (1, 1): 2}
    assert result.result().top5 is None


@pytest.mark.parametrize("batch", [1, 4])
def test_binary_logits_are_known_by_any_batch(batch):
    # The first batch looks like probabilities; the last score shows that all of them are logits.
    result = tally(np.array([[0.1], [0.6], [-0.2], [-3.0]]), [1, 1, 0, 0], batch)
    assert result.correct.all()
    assert result.confusion == {(0, 0): 2, (1, 1): 2}


def test_binary_nan_is_wrong_and_does_not_decide():
    assert tally([[np.nan], [0.4], [np.nan]], [0, 0, 1]).correct.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("outputs", "labels", "words"),
    [
        (np.zeros((2, 3549, 85)), [0, 1], "not that of a classifier"),
        (np.zeros((3, 10)), [0, 1], "not that of a classifier"),
        (np.zeros((2, 10)), [0, 10], "label 10 is outside the model's 10 classes"),
        (np.zeros((2, 10)), [0, -1], "label -1 is outside"),
        (np.zeros((2, 1)), [0, 2], "label 2 is outside the model's 2 classes"),
    ],
)
def test_what_is_not_a_classifier_is_refused(outputs, labels, words):
    with pytest.raises(EdgekitError, match=words):
        Tally().add(outputs, labels)


def test_no_pictures():
    with pytest.raises(EdgekitError, match="no labelled pictures"):
        Tally().result()


def test_changing_classes_are_refused():
    result = tally(np.eye(4), [0, 1, 2, 3])
    with pytest.raises(EdgekitError, match="4 scores for some pictures and 5"):
        result.add(np.eye(5), [0, 1, 2, 3, 4])


@pytest.mark.parametrize("classes", [1, 2, 3, 12])
def test_the_figures_of_each_class_are_those_counted_one_by_one(classes):
    rng = np.random.default_rng(classes)
    width = max(2, classes)
    labels = rng.integers(width, size=90)
    scores = [rng.normal(size=(90, classes)) for _ in range(2)]
    scores[1][7] = np.nan
    tallies = [tally(each, labels, 16) for each in scores]
    answers = []
    for each in scores:
        best = (each[:, 0] > 0).astype(int) if classes == 1 else np.nan_to_num(each).argmax(axis=1)
        answers.append([NO_ANSWER if np.isnan(row).any() else int(one) for row, one in zip(each, best, strict=True)])
    for number, one in enumerate(by_class(*tallies, [f"c{i}" for i in range(width - 1)])):
        assert one.name == (f"c{number}" if number < width - 1 else str(number))
        assert one.n == sum(label == number for label in labels)
        for found, counts in zip(answers, (one.before, one.after), strict=True):
            pairs = list(zip(labels == number, np.array(found) == number, strict=True))
            assert counts.tp == pairs.count((True, True))
            assert counts.fp == pairs.count((False, True))
            assert counts.fn == pairs.count((True, False))
            assert counts.tn == pairs.count((False, False))
        own = [(b == number, a == number) for label, b, a in zip(labels, *answers, strict=True) if label == number]
        assert (one.lost, one.gained) == (own.count((True, False)), own.count((False, True)))
        assert one.p_value == mcnemar(one.lost, one.gained)


def test_confusions_of_both_models_stand_side_by_side():
    before = tally(np.eye(3)[[0, 1, 1, 2]], [0, 0, 1, 2])
    scores = np.eye(3)[[0, 0, 2, 2]]
    scores[3, 0] = np.nan
    after = tally(scores, [0, 0, 1, 2])
    cells = [(one.label, one.answer, one.before, one.after) for one in confusions(before, after)]
    assert cells == [(0, 0, 1, 2), (0, 1, 1, 0), (1, 1, 1, 0), (1, 2, 0, 1), (2, 2, 1, 0), (2, None, 0, 1)]


def test_nothing_was_added():
    assert by_class(Tally(), Tally(), ()) == ()
    assert confusions(Tally(), Tally()) == ()


def test_wilson_by_published_values():
    # Newcombe 1998, Stat. Med. 17:857, table I.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_mcnemar_is_the_exact_binomial():
    for lost in range(12):
        for gained in range(12):
            changed, fewer = lost + gained, min(lost, gained)
            exact = min(1.0, 2 * sum(math.comb(changed, k) for k in range(fewer + 1)) / 2**changed)
            assert mcnemar(lost, gained) == pytest.approx(exact, rel=1e-9)
    assert mcnemar(2500, 2500) == pytest.approx(1.0)
    assert mcnemar(0, 5000) == pytest.approx(0.0, abs=1e-300)


def test_paired_counts():
    before = np.array([1, 1, 1, 0, 0, 1, 1, 1, 1, 1], bool)
    after = np.array([1, 0, 0, 1, 0, 1, 1, 1, 1, 1], bool)
    delta = paired(before, after)
    assert (delta.lost, delta.gained, delta.n) == (2, 1, 10)
    assert delta.drop == pytest.approx(0.1)
    assert delta.low < 0.1 < delta.high
    assert delta.p_value == 1.0
    assert json.loads(json.dumps(delta.to_dict()))["lost"] == 2


def test_paired_equal_models_are_not_certain():
    delta = paired([True] * 100, [True] * 100)
    assert delta.drop == 0.0
    assert delta.low == pytest.approx(-delta.high)
    assert 0.005 < delta.high < 0.04


def test_paired_refuses_other_pictures():
    with pytest.raises(EdgekitError, match="3 pictures before and 2 after"):
        paired([True] * 3, [True] * 2)
    with pytest.raises(EdgekitError):
        paired([], [])


@settings(deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_paired_is_antisymmetric_and_holds_its_estimate(flags):
    before, after = zip(*flags, strict=True)
    there, back = paired(before, after), paired(after, before)
    assert there.drop == pytest.approx(sum(before) / len(before) - sum(after) / len(after))
    assert (there.drop, there.low, there.high) == pytest.approx((-back.drop, -back.high, -back.low))
    assert -1 <= there.low <= there.drop <= there.high <= 1
    assert 0 < there.p_value <= 1


@pytest.mark.parametrize("n", [100, 500, 3000])
@pytest.mark.parametrize(("lost", "gained"), [(0.002, 0.002), (0.01, 0.002), (0.03, 0.01), (0.05, 0.05), (0.1, 0.02)])
def test_interval_covers_the_true_drop(n, lost, gained):
    rng = np.random.default_rng(n)
    runs, covered = 1500, 0
    for only_before, only_after, _ in rng.multinomial(n, [lost, gained, 1 - lost - gained], size=runs):
        before, after = np.ones(n, bool), np.ones(n, bool)
        before[:only_after] = False
        after[only_after : only_after + only_before] = False
        delta = paired(before, after)
        covered += delta.low <= lost - gained <= delta.high
    # 0.947 is the lowest exact coverage found; less three standard errors of this simulation.
    assert covered / runs >= 0.947 - 3 * math.sqrt(0.05 * 0.95 / runs)
