"""Which output each folder stands for, and the assignment that would fit better."""

import itertools
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from edgekit.errors import EdgekitError
from edgekit.measure.classes import Classes, Folders, assign, names_in, read_names, reassignment, resolve


def names_file(tmp_path, text):
    path = tmp_path / "classes.txt"
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    "text",
    [
        "cat\ndog\nbird\n",
        "\ufeffcat\r\ndog\r\nbird",
        "\n\ncat\n\n dog\nbird\n\n",
        '["cat", "dog", "bird"]',
        '{"2": "bird", "0": "cat", "1": "dog"}',
    ],
)
def test_a_file_of_names(tmp_path, text):
    path = names_file(tmp_path, text)
    assert read_names(path) == ("cat", "dog", "bird")
    found = resolve(["bird", "cat"], 3, file=path)
    assert found.index == {"bird": 2, "cat": 0} and found.sure and found.names == ("cat", "dog", "bird")


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("Great White", "great_white"),
        ("animals/cat", "cat"),
        ("animals/cat", "animals/cat"),
        ("n01440764", "n01440764 tench, Tinca"),
    ],
)
def test_names_are_matched_as_people_write_them(tmp_path, folder, name):
    assert resolve([folder], 2, file=names_file(tmp_path, f"other\n{name}\n")).index == {folder: 1}


def test_the_whole_path_wins_over_its_last_part(tmp_path):
    path = names_file(tmp_path, "a/x\nb/x\nx")
    assert resolve(["a/x", "b/x"], 3, file=path).index == {"a/x": 0, "b/x": 1}


def test_a_last_part_that_two_names_share_is_no_match(tmp_path):
    with pytest.raises(EdgekitError, match="crane"):
        resolve(["birds/crane"], 3, file=names_file(tmp_path, "crane\ncrane\nox"))


def test_folders_that_are_not_in_the_list_are_quoted_with_the_nearest(tmp_path):
    with pytest.raises(EdgekitError) as caught:
        resolve(["cat", "dgo"], 3, file=names_file(tmp_path, "cat\ndog\nbird"))
    assert "dgo" in caught.value.message and "dgo -> dog" in caught.value.hint


def test_two_folders_of_one_class_are_refused(tmp_path):
    with pytest.raises(EdgekitError, match="all the class"):
        resolve(["a/cat", "b/cat"], 2, file=names_file(tmp_path, "cat\ndog"))


def test_as_many_names_as_outputs(tmp_path):
    with pytest.raises(EdgekitError, match="2 class names, but the model has 3 outputs"):
        resolve(["cat"], 3, file=names_file(tmp_path, "cat\ndog"))


@pytest.mark.parametrize("text", ['{"a": "cat"}', "[1.5, {}]", "[", "{not json"])
def test_files_that_are_not_names(tmp_path, text):
    with pytest.raises(EdgekitError, match=r"classes\.txt"):
        read_names(names_file(tmp_path, text))


def test_no_such_file(tmp_path):
    with pytest.raises(EdgekitError, match="no such file"):
        read_names(tmp_path / "none.txt")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        ("edgekit.classes", '["b", "a"]'),
        ("names", "{0: 'b', 1: 'a'}"),
        ("labels", "b,a"),
        ("classes", '["b", "a"]'),
        ("classes", "b\na"),
    ],
)
def test_names_in_metadata(key, text):
    found = resolve(["a", "b"], 2, metadata={key: text})
    assert found.index == {"a": 1, "b": 0} and found.sure and key in found.source


def test_metadata_of_another_length_or_kind_is_passed_over():
    assert resolve(["a", "b"], 2, metadata={"labels": "x,y,z"}).source == "folder names in sorted order"
    assert names_in({"names": "__import__('os')"}) is None
    assert names_in({"names": "{" * 10_000}) is None


def test_apostrophes_in_ultralytics_names():
    assert names_in({"names": """{0: "bull's eye", 1: 'x'}"""})[0] == ("bull's eye", "x")


def test_numbered_folders():
    found = resolve(["3", "0"], 5)
    assert found.index == {"0": 0, "3": 3} and found.sure and found.names == ("0", "-", "-", "3", "-")
    assert resolve(["007", "010"], 11).index == {"007": 7, "010": 10}


def test_numbers_where_the_metadata_has_other_names():
    found = resolve(["0", "2"], 3, metadata={"names": "cat,dog,bird"})
    assert found.index == {"0": 0, "2": 2} and found.names == ("cat", "dog", "bird")
    found = resolve(["1", "0"], 2, metadata={"names": "1,0"})
    assert found.index == {"1": 0, "0": 1} and found.sure
    with pytest.raises(EdgekitError, match="no class for"):
        resolve(["0", "cow"], 3, metadata={"names": "cat,dog,bird"})


def test_unpadded_numbers_are_not_sure_beyond_ten():
    assert not resolve([str(number) for number in range(12)], 12).sure


def test_a_number_beyond_the_outputs():
    with pytest.raises(EdgekitError, match=r"the folder 10: .* 0 to 9"):
        resolve([str(number) for number in range(1, 11)], 10)


def test_sorted_folders_and_binary_models():
    assert resolve(["b", "a"], 2).index == {"a": 0, "b": 1} and not resolve(["b", "a"], 2).sure
    assert resolve(["no", "yes"], 1).index == {"no": 0, "yes": 1}


def test_too_few_or_too_many_folders_say_how():
    for labels, outputs in ((["a", "b"], 3), (["a", "b", "c"], 2)):
        with pytest.raises(EdgekitError) as caught:
            resolve(labels, outputs)
        assert "--classes" in caught.value.hint


@given(
    st.integers(1, 6).flatmap(
        lambda n: arrays(np.int64, st.tuples(st.just(n), st.integers(n, 7)), elements=st.integers(-9, 9))
    )
)
def test_assignment_is_the_best_of_all(table):
    rows, columns = table.shape
    chosen = assign(table)
    assert len(set(chosen.tolist())) == rows and (chosen >= 0).all()
    best = max(
        sum(table[row, column] for row, column in enumerate(order))
        for order in itertools.permutations(range(columns), rows)
    )
    assert table[np.arange(rows), chosen].sum() == best


def test_assignment_of_a_thousand_classes_is_quick():
    rng = np.random.default_rng(0)
    order = rng.permutation(1000)
    table = rng.integers(0, 3, (1000, 1000))
    table[np.arange(1000), order] += 5
    assert (assign(table) == order).all()


def confusion_of(order, share=0.9, each=50):
    """Answers of a model whose output for folder i is order[i], right in `share` of the pictures."""
    n = len(order)
    table = {}
    for label in range(n):
        for picture in range(each):
            answer = order[label] if picture < share * each else (order[label] + 1 + picture) % n
            table[label, answer] = table.get((label, answer), 0) + 1
    return table


def sorted_classes(n):
    labels = [f"folder {number}" for number in range(n)]
    return Classes(
        {label: i for i, label in enumerate(labels)}, tuple(labels), n, "folder names in sorted order", False
    )


def test_a_shuffled_order_is_found_and_can_be_pasted(tmp_path):
    import subprocess

    order = [3, 0, 1, 2, 5, 4]
    classes = sorted_classes(6)
    found = reassignment(confusion_of(order), classes)
    assert found.better > 0.85 and found.accuracy < 0.2
    error = found.error()
    assert "--classes classes.txt" in error.hint
    command = error.hint.partition("printf")[2].partition(">")[0]
    (tmp_path / "classes.txt").write_text(
        subprocess.run(["bash", "-c", "printf" + command], capture_output=True, text=True).stdout
    )
    again = resolve(list(classes.index), 6, file=tmp_path / "classes.txt")
    assert [again.index[f"folder {i}"] for i in range(6)] == order


def test_fewer_folders_than_outputs_leave_placeholders():
    classes = Classes({"a": 0, "b": 1}, ("a", "b", "-", "-"), 4, "", False)
    found = reassignment({(0, 3): 40, (1, 2): 40}, classes)
    assert found.names == ("-", "-", "b", "a")


def test_a_right_order_and_a_bad_model_are_left_alone():
    assert reassignment(confusion_of(list(range(6)), 0.6), sorted_classes(6)) is None
    rng = np.random.default_rng(1)
    noise = {}
    for label, answer in rng.integers(0, 10, (300, 2)).tolist():
        noise[label, answer] = noise.get((label, answer), 0) + 1
    assert reassignment(noise, sorted_classes(10)) is None


def test_few_pictures_prove_nothing():
    assert reassignment({(0, 1): 1, (1, 2): 1, (2, 0): 1}, sorted_classes(3)) is None


def test_a_binary_model_the_wrong_way_round():
    classes = resolve(["no", "yes"], 1)
    assert reassignment({(0, 1): 45, (0, 0): 5, (1, 0): 45, (1, 1): 5}, classes).names == ("yes", "no")


def test_answers_that_are_none_count_against():
    assert reassignment({(0, -1): 50, (1, -1): 50, (0, 0): 1}, sorted_classes(2)) is None


def test_likelihood_does_not_reward_confidence_only():
    folders = Folders.of(["a", "b"] * 20, Classes({"a": 0, "b": 1}, ("a", "b"), 2, "", True))
    scores = np.tile([[1.0, 0.2], [0.3, 0.9]], (20, 1)) * 3 + 2
    right, one = folders.judge(scores)
    _, ten = folders.judge(scores * 2)
    assert right == 1 and abs(one.mean() - ten.mean()) < 0.02


def test_unknown_order_is_found_from_the_pictures():
    folders = Folders.of(["a", "b", "c"] * 20, None)
    assert folders.can_judge(3) and not folders.can_judge(2)
    assert folders.judge(np.tile(np.eye(3)[[2, 0, 1]], (20, 1)) * 5)[0] == 1
    assert not Folders.of(["a", None] * 20, None).can_judge(2)


def test_names_survive_json():
    assert names_in({"edgekit.classes": json.dumps(["a, b", "c"])})[0] == ("a, b", "c")
