"""Text files: words reversed, swapped, left out; rows kept as they are; the records of a run."""

import csv
import hashlib
import io
import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conftest import Ran, picture, rows, save, tree_digest
from edgekit.augment.draws import generator
from edgekit.augment.op import OPS
from edgekit.augment.policy import AUGMIX, RAND, TRIVIAL
from edgekit.augment.text.graphemes import clusters
from edgekit.augment.text.op import TEXT_OPS
from edgekit.augment.text.rows import look
from edgekit.augment.text.run import Recipe, Tally, draw, outputs, variants
from edgekit.cli import app
from edgekit.cli.console import Console
from edgekit.data.sample import Sample

ANY = st.text(max_size=40)
# Words, spaces, and what joins: marks, emoji, flags, Hangul, Devanagari, ends of lines.
PARTS = ("a", "to", " ", "  ", "\t", "\u00a0", "\u0301", "\u200d", "\U0001f468", "\U0001f3fd", "\U0001f1e9", "\u1100")
PARTS += ("\u1161", "\u11a8", "\uac00", "\u0915", "\u094d", "\u0937", "\r", "\n", "\u0600", "\ufe0f", "\u2764")
JOINING = st.lists(st.sampled_from(PARTS), max_size=12).map("".join)
LINES = "id,review,stars,split\n"


def op(text):
    return TEXT_OPS.parse(text)


def change(text, said):
    one = op(said)
    return one.change(text, one.sample(np.random.default_rng(0), text))


def texts(path):
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.DictReader(file))


# ---- grapheme clusters


@pytest.mark.parametrize(
    "whole",
    [
        "e\u0301\u0323",  # marks
        "\r\n",
        "\U0001f468\u200d\U0001f469\u200d\U0001f467",  # a family
        "\U0001f44d\U0001f3fd",  # a skin tone
        "\u2764\ufe0f\u200d\U0001f525",
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",  # the flag of England
        "\U0001f1e9\U0001f1ea",
        "\u1100\u1161\u11a8",  # Hangul from its letters
        "\uac00\u11a8",
        "\u0915\u094d\u0937\u093f",  # a conjunct and its vowel
        "\u0e01\u0e33",  # Thai with am
        "\u0600\u0661",  # a number sign and its digit
    ],
)
def test_what_is_one_character_to_the_eye_is_one_cluster(whole):
    assert clusters(f"x{whole}" if whole == "\r\n" else whole)[-1] == whole
    assert clusters(f"{whole}\U0001f600{whole}") == [whole, "\U0001f600", whole]


def test_flags_are_pairs_and_halves_of_syllables_are_not_joined():
    flags = "\U0001f1e9\U0001f1ea\U0001f1eb\U0001f1f7\U0001f1ee"
    assert [len(one) for one in clusters(flags)] == [2, 2, 1]
    assert clusters("\u1161\u1100") == ["\u1161", "\u1100"]
    assert clusters("\u0915\u0937") == ["\u0915", "\u0937"]
    assert clusters("a\n\u0301") == ["a", "\n", "\u0301"]  # nothing joins an end of a line


@given(ANY | JOINING)
@settings(max_examples=300, deadline=None)
def test_clusters_join_to_the_text(text):
    assert "".join(clusters(text)) == text
    assert all(clusters(text))


# ---- ops


def test_a_reversal_keeps_white_space_where_it_is():
    assert change(" the  quick\tfox ", "flip") == " fox  quick\tthe "
    assert change("cafe\u0301 \U0001f1e9\U0001f1ea!", "flip unit=chars") == "!\U0001f1e9\U0001f1ea e\u0301fac"


@pytest.mark.parametrize("unit", ["words", "chars"])
@given(text=ANY | JOINING)
@settings(max_examples=300, deadline=None)
def test_a_reversal_twice_is_the_text(unit, text):
    there = change(text, f"flip unit={unit}")
    assert change(there, f"flip unit={unit}") == text
    assert sorted(there) == sorted(text)


def test_what_cannot_be_reversed_back_stays():
    assert change("\u0301a", "flip unit=chars") == "\u0301a"  # the mark would go to the letter


@pytest.mark.parametrize("name", TEXT_OPS.names())
@given(text=ANY | JOINING, seed=st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_op_keeps_the_contract(name, text, seed):
    one = TEXT_OPS.get(name)()
    params = one.sample(np.random.default_rng(seed), text)
    assert params == one.sample(np.random.default_rng(seed), text)
    made = one.change(text, json.loads(json.dumps(params)))
    assert made == one.change(text, params)
    before, after = text.split(), made.split()
    if name in ("flip", "swap"):
        assert sorted(before) == sorted(after)
        assert [c for c in text if c.isspace()] == [c for c in made if c.isspace()]
    if name == "delete":
        left = iter(before)
        assert all(word in left for word in after)  # in order
        assert bool(before) == bool(after)
    if name == "punctuate":
        assert made == text or len(after) > len(before)
        for place, _ in sorted(params.get("marks", ()), reverse=True):
            del after[place + sum(other < place for other, _ in params["marks"])]
        assert after == before


def test_how_much_is_changed_is_what_was_asked_for():
    text = " ".join(map(str, range(200)))
    rng = np.random.default_rng(1)
    assert len(op("swap 0.1").sample(rng, text)["swaps"]) == 20
    assert len(op("swap 0").sample(rng, text)["swaps"]) == 1
    assert all(b - a == 1 for a, b in op("swap 1 adjacent=true").sample(rng, text)["swaps"])
    assert all(a != b and max(a, b) < 200 for a, b in op("swap 1").sample(rng, text)["swaps"])
    assert 5 < len(op("delete 0.1").sample(rng, text)["words"]) < 40
    assert len(op("delete 1").sample(rng, text)["words"]) == 199
    assert op("delete 0").sample(rng, text)["words"] == []
    assert {mark for _ in range(9) for _, mark in op("punctuate 1").sample(rng, text)["marks"]} == set(".;?:!,")


def test_a_variant_depends_on_the_text_the_seed_and_its_number_alone():
    recipe = Recipe((op("swap 0.5"), op("delete 0.2")), seed=3)
    text = "one two three four five six seven eight"
    assert draw(recipe, text, 1) == draw(recipe, text, 1)
    assert len({draw(recipe, text, number)[0].text for number in range(1, 9)}) > 4
    made = [variant.text for variant in variants(recipe, text) if variant is not None]
    assert len(set(made)) == len(made) and text not in made


def test_a_recipe_without_chance_is_not_drawn_again(monkeypatch):
    drawn = []
    monkeypatch.setattr("edgekit.augment.text.run.generator", lambda *key: drawn.append(key) or generator(*key))
    made = list(variants(Recipe((op("flip"),)), "a b"))
    assert [one and one.text for one in made] == ["b a", None, None, None]
    assert len(drawn) == 2
    assert list(variants(Recipe((op("flip"),)), "a")) == [None] * 4


# ---- files: what is read, and how it is written


def written(path, recipe=None, **columns):
    """Give the bytes of the output of a file, and the tally."""
    found, tally = look(path, **columns), Tally()
    recipe = recipe or Recipe((op("flip"),), copies=1)
    made = [data for row, data, _ in outputs(found, recipe, tally) if not row.reason]
    return found.prefix.encode() + b"".join(made), tally


@pytest.mark.parametrize(
    ("name", "content", "made"),
    [
        ("a.csv", b"text\na b\n", b"text\na b\nb a\n"),
        ("a.csv", b"\xef\xbb\xbftext,n\r\na b,1\r\n", b"\xef\xbb\xbftext,n\r\na b,1\r\nb a,1\r\n"),
        ("a.csv", b"n;text;m\n1;a b;2,5\n3;c d;4,5", b"n;text;m\n1;a b;2,5\n1;b a;2,5\n3;c d;4,5\n3;d c;4,5\n"),
        ("a.csv", b'"n","text"\n"1","a b"\n', b'"n","text"\n"1","a b"\n"1","b a"\n'),
        ("a.csv", b'n,text\n1,"a, ""b"""\n', b'n,text\n1,"a, ""b"""\n1,"""b"" a,"\n'),
        ("a.csv", b'n,text\n1,"a \\"b\\", c"\n', b'n,text\n1,"a \\"b\\", c"\n1,"c \\"b\\", a"\n'),
        ("a.csv", b"'n','text'\n'1','a, b'\n", b"'n','text'\n'1','a, b'\n'1','b a,'\n"),
        ("a.csv", b'text,n\n"a\nb c",1\n', b'text,n\n"a\nb c",1\n"c\nb a",1\n'),
        ("a.csv", b"n,text\n\n1,a b\n", b"n,text\n\n1,a b\n1,b a\n"),
        ("a.csv", b"text\na, b\n", b"text\na, b\nb a,\n"),  # one column, whatever is in it
        ("a.tsv", b'n\ttext\n1\t"a b\n2\tc, d" e\n', b'n\ttext\n1\t"a b\n1\tb "a\n2\tc, d" e\n2\te d" c,\n'),
        ("a.jsonl", b'{"n":1.50,"text":"a b","k":[1,{"text":"x y"}]}\n', None),
        ("a.jsonl", b'{ "text" : "a \\u00fc" , "id":1e3}\r\n\n', None),
        ("a.txt", b"a b\r\n\r\nc d", b"a b\r\nb a\r\n\r\nc d\r\nd c\r\n"),
        ("a.txt", "\ufeffa ü\n".encode(), "\ufeffa ü\nü a\n".encode()),
    ],
)
def test_everything_but_the_text_is_kept(tmp_path, name, content, made):
    path = tmp_path / name
    path.write_bytes(content)
    if made is None:
        line, new = content.splitlines(keepends=True)[0], {b'"a b"': b'"b a"', b'"a \\u00fc"': b'"\\u00fc a"'}
        changed = line
        for old, turned in new.items():
            changed = changed.replace(old, turned)
        made = line + changed + content[len(line) :]
    assert written(path)[0] == made


def test_the_csv_of_an_output_is_read_back_as_it_should(tmp_path):
    rng = np.random.default_rng(5)
    letters = ["a", "bb", '"', ",", ";", "\n", " ", "'", "ü", "\\", "  "]
    for number in range(30):
        some = ["".join(rng.choice(letters, 6)) for _ in range(8)]
        table = [["id", "text", "k"], *([str(place), f"x {one} y", one[:2]] for place, one in enumerate(some))]
        whole = io.StringIO(newline="")
        quoting = csv.QUOTE_ALL if number % 2 else csv.QUOTE_MINIMAL
        csv.writer(whole, delimiter=",;\t"[number % 3], quoting=quoting).writerows(table)
        (tmp_path / "a.csv").write_text(whole.getvalue(), newline="", encoding="utf-8")
        made, _ = written(tmp_path / "a.csv")
        read = list(csv.reader(io.StringIO(made.decode(), newline=""), delimiter=",;\t"[number % 3]))
        flipped = [change(row[1], "flip") for row in table[1:]]
        expected = [table[0]]
        for row, text in zip(table[1:], flipped, strict=True):
            expected += [row, [row[0], text, row[2]]] if text != row[1] else [row]
        assert read == expected


@given(st.dictionaries(st.text(max_size=5), st.none() | st.booleans() | st.floats(allow_nan=False) | ANY, max_size=4))
@settings(max_examples=80, deadline=None)
def test_the_objects_of_an_output_differ_in_their_text_alone(tmp_path_factory, said):
    path = tmp_path_factory.getbasetemp() / "objects.jsonl"
    path.write_text(json.dumps({"text": "x y"} | said | {"text": "a b"}) + "\n", newline="")
    one, other = written(path)[0].decode().splitlines()
    assert json.loads(other) == json.loads(one) | {"text": "b a"}
    assert list(json.loads(other)) == list(json.loads(one))


def test_a_number_is_a_column_where_there_is_no_header(tmp_path):
    (tmp_path / "a.csv").write_text("pos,a b\nneg,c d\n")
    made, tally = written(tmp_path / "a.csv", text="2", label="1")
    assert made == b"pos,a b\npos,b a\nneg,c d\nneg,d c\n"
    assert tally.classes == {"pos": 2, "neg": 2}


def test_rows_that_cannot_be_used_are_left_out_and_those_without_text_stay(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [b'{"text":"a b"}', b'{"text":""}', b'{"text":null}', b"[1]", b'{"n":1}', b'{"text":"\xff"}', b'{"text":"a']
    lines += [b'{"text":"\\ud800 a"}', b'{"text":"a b"} x', b"{" * 3, b'{"a":' * 2000, b"  ", b'{"text":"c d",}']
    path.write_bytes(b"\n".join(lines) + b"\n")
    made, tally = written(path)
    assert made == b'{"text":"a b"}\n{"text":"b a"}\n{"text":""}\n  \n'
    assert (tally.counts.sources, tally.counts.rejected, tally.counts.empty) == (12, 10, 1)
    assert tally.first_rejected == "line 3: text is no text"


def test_a_mark_that_no_field_can_hold_is_no_variant(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('n\ttext\n1\t"a b\n')
    found, tally = look(path), Tally()
    row = next(iter(found.rows()))
    with pytest.raises(ValueError):
        row.remake("a\tb")
    assert list(outputs(found, Recipe((op("flip"),), copies=1), tally))[-1][1] == b'1\tb "a\n'


# ---- the command


@pytest.fixture
def edgekit(tmp_path, monkeypatch, capsys):
    """Run `edgekit ...` in this process: there are many of them, and none is heavy."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("EDGEKIT_")]:
        monkeypatch.delenv(name)

    def run(*arguments):
        capsys.readouterr()
        code = app._run(list(map(str, arguments)), Console(json="--json" in arguments), False, None)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def reviews(tmp_path):
    path = tmp_path / "reviews.csv"
    path.write_text(
        LINES + '1,"Good, really good",5,train\n2,bad and too long,1,train\n3,kept for later,4,test\n4,,2,train\n'
        "5,one,4,train\n6,too, many,fields,here,5,train\n"
    )
    return path


def test_a_csv_file_becomes_a_larger_one_with_its_records(edgekit, reviews, tmp_path):
    before = reviews.read_bytes()
    done = edgekit("augment", "reviews.csv", "--text-column", "review", "--label-column", "stars", "--flip")
    assert done.code == 0, done.err
    out = tmp_path / "reviews-augmented"
    assert sorted(path.name for path in out.iterdir()) == [
        "manifest.jsonl",
        "rejected.jsonl",
        "reviews.csv",
        "run.json",
    ]
    made = texts(out / "reviews.csv")
    assert [row["id"] for row in made] == ["1", "1", "2", "2", "3", "4", "5"]
    assert made[1] == {"id": "1", "review": "good really Good,", "stars": "5", "split": "train"}
    said = rows(out / "manifest.jsonl")
    for row in said:
        there = made[row["row"] - 1]
        assert row["sha256"] == hashlib.sha256(there["review"].encode()).hexdigest()
        assert (row["label"], row["split"]) == (there["stars"], there["split"])
        assert row["source_row"] == int(there["id"]) and row["file_name"] == row["source"] == "reviews.csv"
    assert [row["variant"] for row in said] == [0, 1, 0, 1, 0, 0]  # none of the split test, none of one word
    assert said[1]["ops"] == [{"name": "flip", "fields": {"unit": "words", "p": 1.0}, "params": {}}]
    rejected = rows(out / "rejected.jsonl")
    assert [(row["line"], row["reason"]) for row in rejected] == [(7, "has 7 fields, and the first row 4")]
    assert "6 rows" not in done.out and "5 rows (text: review)" in done.out
    assert "1 row untouched: only the split train is augmented" in done.out
    assert reviews.read_bytes() == before


def test_the_records_are_enough_to_make_a_text_again(edgekit, tmp_path):
    lines = [f"word{number} and some more of it, number {number}" for number in range(30)]
    (tmp_path / "a.txt").write_text("\n".join(lines) + "\n")
    done = edgekit("augment", "a.txt", "--flip", "--swap", "0.3", "--delete", "0.2", "--punctuate", "0.4", "-n", "3")
    assert done.code == 0, done.err
    made = (tmp_path / "a-augmented" / "a.txt").read_text().splitlines()
    said = rows(tmp_path / "a-augmented" / "manifest.jsonl")
    assert len(said) == len(made) == 120
    for row in said:
        text = lines[row["source_row"] - 1]
        for one in row["ops"]:
            text = TEXT_OPS.from_dict({"use": one["name"], **one["fields"]}).change(text, one["params"])
        assert text == made[row["row"] - 1]


def test_the_same_bytes_every_time_and_for_rows_in_another_order(edgekit, tmp_path):
    lines = [json.dumps({"id": n, "text": f"this is text number {n} of many"}) for n in range(40)]
    (tmp_path / "a.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "a.jsonl").write_text("\n".join(reversed([*lines, '{"id": 99, "text": "new"}'])) + "\n")
    flags = ("--swap", "0.3", "--seed", "7")
    for path in ("a.jsonl", "b/a.jsonl"):
        assert edgekit("augment", path, *flags).code == 0
    command = [sys.executable, "-m", "edgekit", "augment", "a.jsonl", *flags, "--out", "again", "--workers", "3"]
    subprocess.run(command, cwd=tmp_path, check=True, env=os.environ | {"PYTHONHASHSEED": "4"}, capture_output=True)
    assert tree_digest(tmp_path / "again") == tree_digest(tmp_path / "a-augmented")
    one, other = ((tmp_path / path / "a.jsonl").read_text().splitlines() for path in ("again", "b/a-augmented"))
    assert set(one) <= set(other)
    assert edgekit("augment", "a.jsonl", "--swap", "0.3", "--seed", "8", "--out", "c").code == 0
    assert (tmp_path / "c" / "a.jsonl").read_text().splitlines() != one


def test_up_to_date_force_dry_run_and_json(edgekit, reviews, tmp_path):
    flags = ("augment", "reviews.csv", "--text-column", "review", "--swap", "0.2")
    dry = edgekit(*flags, "--dry-run", "--json")
    assert not (tmp_path / "reviews-augmented").exists()
    done = edgekit(*flags, "--json")
    assert dry.json["counts"] == done.json["counts"]
    assert (done.json["schema"], done.json["status"]) == ("edgekit.augment-text/1", "written")
    assert "about" not in edgekit(*flags, "--dry-run").out
    assert "up to date (" in edgekit(*flags).out
    other = edgekit(*flags, "--seed", "1")
    assert other.code == 2 and "--force" in other.err
    assert edgekit(*flags, "--seed", "1", "--if-changed").code == 0
    assert edgekit(*flags, "--force").code == 0
    with (tmp_path / "reviews-augmented" / "reviews.csv").open("a") as file:
        file.write("7,added,1,train\n")
    assert edgekit(*flags).code == 2  # no longer what was written
    assert edgekit(*flags, "--force").code == 0
    (tmp_path / "reviews-augmented" / "mine.txt").write_text("x")
    refused = edgekit(*flags, "--force", "--seed", "2")
    assert refused.code == 2 and "mine.txt" in refused.err
    assert edgekit(*flags, "--out", "strict", "--strict").code == 1


def test_variants_alone_keep_the_rows_of_other_splits(edgekit, reviews, tmp_path):
    assert edgekit("augment", "reviews.csv", "--text-column", "review", "--flip", "--no-originals").code == 0
    assert [row["id"] for row in texts(tmp_path / "reviews-augmented" / "reviews.csv")] == ["1", "2", "3"]


def test_verify_knows_an_output_of_text(edgekit, reviews, tmp_path):
    assert edgekit("augment", "reviews.csv", "--text-column", "review", "--flip").code == 0
    out = tmp_path / "reviews-augmented"
    done = edgekit("verify", out)
    assert done.code == 0 and "intact (6 texts, 1 rejected row)" in done.out
    assert edgekit("verify", out, "--json").json["texts"] == 6
    replay = edgekit("augment", "--replay", out)
    assert replay.code == 2 and "not replayed" in replay.err
    made = (out / "reviews.csv").read_text()
    (out / "reviews.csv").write_text(made.replace("bad", "good"))
    (out / "more.txt").write_text("x")
    done = edgekit("verify", out)
    assert done.code == 1 and "reviews.csv: was edited" in done.out and "more.txt: was not made" in done.out


BAD = [
    (("a.csv", "--flip"), b"id,review\n1,a b\n", "it is not told which column is the text: id, review"),
    (("a.csv", "--flip", "--text-column", "reviw"), b"id,review\n1,a b\n", "did you mean --text-column review?"),
    (("a.csv", "--flip", "--label-column", "x"), b"id,text\n1,a b\n", "it has id, text"),
    (("a.csv", "--rotate", "5"), b"text\na b\n", "rotate is an op of pictures, and a.csv is a text file"),
    (("a.csv", "--op", "swp"), b"text\na b\n", "did you mean swap?"),
    (("a.csv", "--delete", "2"), b"text\na b\n", "use a number from 0 to 1"),
    (("a.csv", "--flip", "--quality", "9", "--preview", "x.png"), b"text\na b\n", "--quality, --preview: of pictures"),
    (("a.csv",), b"text\na b\n", "no op was given"),
    (("a.csv", "--flip", "-n", "0", "--no-originals"), b"text\na b\n", "nothing to write"),
    (("a.csv", "--flip", "--no-originals"), b"text\na\n", "every variant is equal to its source"),
    (("b.csv", "--flip"), b"", "b.csv: no such file"),
    (("a.csv", "--flip"), b"", "a.csv: is empty"),
    (("a.csv", "--flip"), b"text\n", "has no text in text"),
    (("a.csv", "--flip"), b'n,text\n1,a b\n2,"c d\n3,e f\n', "a.csv:3: a quote is opened here and never closed"),
    (("a.csv", "--flip"), "text\nä b\n".encode("utf-16"), "is not UTF-8 but UTF-16"),
    (("a.txt", "--flip"), "ä b\nü c\n".encode("latin-1"), "iconv -f LATIN1 -t UTF-8 a.txt > a.utf8.txt"),
    (("a.csv", "--flip", "--text-column", "t"), "ü,t\n1,a b\n".encode("latin-1"), "is not UTF-8"),
    (("a.txt", "--flip", "--text-column", "x"), b"a b\n", "a text a line has no columns"),
    (("a.jsonl", "--flip"), b'[{"text": "a b"}]\n', "has no JSON object in its first lines"),
    (("a.jsonl", "--flip"), b'{"text": 3}\n', "none of its rows can be used (first: line 1: text is no text)"),
    (("a.csv", "--flip"), b"text,split\na b,test\nc d,val\n", "no row is of the split train"),
    (("a.csv", "--flip", "--out", "."), b"text\na b\n", "holds the source"),
    (("a.csv", "--flip", "--out", "a.csv"), b"text\na b\n", "lies inside the source"),
    (("run.jsonl", "--flip", "--out", "no/where"), b'{"text": "a b"}\n', "no such folder to write into"),
    (("manifest.jsonl", "--flip"), b'{"text": "a b"}\n', "is called as a record in the output is"),
]


@pytest.mark.parametrize(("arguments", "content", "said"), BAD, ids=[said[:30] for _, _, said in BAD])
def test_what_is_wrong_is_said_and_nothing_is_written(edgekit, tmp_path, arguments, content, said):
    (tmp_path / (arguments[0] if arguments[0] != "b.csv" else "c.csv")).write_bytes(content)
    before = sorted(path.name for path in tmp_path.iterdir())
    done = edgekit("augment", *arguments)
    assert done.code == 2, done.out + done.err
    assert said in done.err and "Traceback" not in done.err
    assert done.err.count("\n") == 2
    assert sorted(path.name for path in tmp_path.iterdir()) == before


def test_ops_and_columns_of_text_are_refused_for_pictures(edgekit, tmp_path):
    save(tmp_path / "imgs" / "a.png", picture(1))
    for arguments, said in (
        (("--swap", "0.1"), "swap is an op of text files, and imgs is none"),
        (("--flip", "--text-column", "x"), "--text-column is of text files, and imgs is none"),
    ):
        done = edgekit("augment", "imgs", *arguments)
        assert done.code == 2 and said in done.err


def test_an_interrupted_run_leaves_nothing(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("".join(f"line {number} of a rather long file of text\n" for number in range(60_000)))
    command = [sys.executable, "-m", "edgekit", "augment", "a.txt", "--swap", "0.5", "-n", "9"]
    run = subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    stage = tmp_path / ".a-augmented.edgekit-partial" / "a.txt"
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (stage.exists() and stage.stat().st_size):
        time.sleep(0.02)
    run.send_signal(signal.SIGINT)
    assert "interrupted; nothing was kept" in run.communicate()[1]
    assert run.returncode == 130
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]


def test_what_says_something_of_places_is_told(edgekit, tmp_path):
    (tmp_path / "test.jsonl").write_text('{"text": "a b", "entities": [[0, 1]]}\n')
    done = edgekit("augment", "test.jsonl", "--flip")
    assert "entities: copied as they are" in done.err and "called like a test split" in done.err


def test_settings_come_from_the_file_too(edgekit, tmp_path):
    (tmp_path / "edgekit.toml").write_text(
        '[augment]\nops = ["flip unit=chars"]\ntext-column = "review"\nquality = 9\ntext = true\n'
    )
    (tmp_path / "a.csv").write_text("review,n\nab cd,1\n")
    assert edgekit("augment", "a.csv").code == 0
    assert (tmp_path / "a-augmented" / "a.csv").read_text() == "review,n\nab cd,1\ndc ba,1\n"
    (tmp_path / "edgekit.toml").write_text('[augment]\nops = ["rotate 9"]\n')
    done = edgekit("augment", "a.csv", "--force")
    assert done.code == 2 and "edgekit.toml: augment.ops: rotate is an op of pictures" in done.err


# ---- pictures that show text


@pytest.mark.parametrize("name", ["flip", "vflip", "transpose"])
def test_pictures_of_text_are_not_mirrored(edgekit, tmp_path, name):
    save(tmp_path / "imgs" / "a.png", picture(1))
    (tmp_path / "edgekit.toml").write_text("[augment]\ntext = true\n")
    done = edgekit("augment", "imgs", f"--{name}")
    assert done.code == 2 and f"{name} mirrors, and the pictures show text" in done.err
    assert not (tmp_path / "imgs-augmented").exists()
    assert edgekit("augment", "imgs", f"--{name}", "--no-config", "--dry-run").code == 0
    assert edgekit("augment", "imgs", "--rotate", "5", "--dry-run").code == 0


def test_no_preset_mirrors_pictures_of_text(edgekit, tmp_path):
    save(tmp_path / "imgs" / "a.png", picture(1))
    done = edgekit("augment", "imgs", "--preset", "light", "--text")
    assert done.code == 2 and "preset light: flip mirrors" in done.err
    assert edgekit("augment", "imgs", "--preset", "document", "--text", "--dry-run").code == 0


def test_what_mirrors_says_so():
    sample = Sample("", np.zeros((32, 48, 3), np.uint8))
    for cls in OPS:
        if cls.partners:
            continue
        found = False
        for seed in range(20):
            one = cls()
            moved = one.matrix(one.sample(np.random.default_rng(seed), sample), sample.size)
            found |= moved is not None and np.linalg.det(moved[0]) < 0
        assert found == cls.mirrors, cls.spec_name()
    assert not {cls.spec_name() for cls in OPS if cls.mirrors} & {*TRIVIAL, *RAND, *AUGMIX}


def test_ops_lists_those_of_text(edgekit):
    listed = edgekit("ops", "--json").json
    assert [one["name"] for one in listed["text_ops"]] == TEXT_OPS.names()
    done = edgekit("ops")
    assert "Text files" in done.out and "labels may not hold" in done.out
    shown = edgekit("augment", "--help")
    assert "--swap" in shown.out and "--text-column" in shown.out
