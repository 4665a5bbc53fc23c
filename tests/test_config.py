"""The configuration loader: precedence, origins, unknown keys, paths."""

import pytest

from edgekit import config
from edgekit.augment.settings import augment
from edgekit.compress.settings import compress
from edgekit.errors import EdgekitError

COMMANDS = {"augment": augment, "compress": compress}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in list(__import__("os").environ):
        if name.startswith("EDGEKIT_"):
            monkeypatch.delenv(name)
    return tmp_path


def write(folder, text, name="edgekit.toml"):
    (folder / name).write_text(text)
    return config.load(None)


def test_command_line_beats_environment_beats_file_beats_default(folder, monkeypatch):
    loaded = write(folder, "seed = 1\n[augment]\ncopies = 2\nquality = 70\n")
    monkeypatch.setenv("EDGEKIT_SEED", "5")
    monkeypatch.setenv("EDGEKIT_AUGMENT_COPIES", "6")
    effective = config.resolve(augment, {"quality": "80"}, loaded)
    settings = effective.settings
    assert (settings.quality, settings.copies, settings.seed, settings.workers) == (80, 6, 5, 0)
    assert effective.origins["quality"] == "command line"
    assert effective.origins["copies"] == "EDGEKIT_AUGMENT_COPIES"
    assert effective.origins["seed"] == "EDGEKIT_SEED"
    assert effective.origins["workers"] == "default"
    monkeypatch.delenv("EDGEKIT_SEED")
    assert config.resolve(augment, {}, loaded).origins["seed"] == "edgekit.toml"


def test_unknown_keys_are_listed_all_at_once(folder):
    loaded = write(folder, "sed = 1\n[augment]\ncopys = 2\n[compress]\nzzz = 1\n")
    with pytest.raises(EdgekitError) as error:
        config.check_keys(loaded, COMMANDS)
    assert "sed, augment.copys, compress.zzz" in error.value.message
    assert "augment.copys -> augment.copies" in error.value.hint


def test_pyproject_counts_only_with_its_table(folder):
    assert write(folder, "[project]\nname = 'x'\n", "pyproject.toml").path is None
    loaded = write(folder, "[tool.edgekit.augment]\ncopies = 7\n", "pyproject.toml")
    assert config.resolve(augment, {}, loaded).settings.copies == 7
    assert write(folder, "[augment]\ncopies = 8\n").path.name == "edgekit.toml"


def test_the_nearest_file_counts(folder, monkeypatch):
    write(folder, "[augment]\ncopies = 7\n")
    inner = folder / "a" / "b"
    inner.mkdir(parents=True)
    monkeypatch.chdir(inner)
    assert config.load(None).path == folder / "edgekit.toml"


def test_paths_are_relative_to_the_file(folder):
    inner = folder / "conf"
    inner.mkdir()
    (inner / "my.toml").write_text("[compress]\ncalib = 'pics'\nreport = ['a.json']\n")
    settings = config.resolve(compress, {}, config.load("conf/my.toml")).settings
    assert settings.calib == "conf/pics"
    assert settings.report == ("conf/a.json",)


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[augment]\ncopies = -1\n", "edgekit.toml: augment: copies=-1 is below 0"),
        ("[augment]\ncopies = 'x'\n", "is not a number"),
        ("[augment]\nops = 'flip'\n", "is not a list"),
        ("[augment]\nops = {flip = 1}\n", "is not a list"),
        ("[augment]\ncopies = {a = 1}\n", "is not a number"),
        ("[augment]\nout = ''\n", "out= is empty"),
        ("[augment]\nforce = 'maybe'\n", "neither true nor false"),
    ],
)
def test_values_are_checked_with_their_origin(folder, text, what):
    loaded = write(folder, text)
    with pytest.raises(EdgekitError, match=r"edgekit\.toml") as error:
        config.resolve(augment, {}, loaded)
    assert what in error.value.message


def test_broken_toml_and_missing_file(folder):
    (folder / "edgekit.toml").write_text("seed = = 1")
    with pytest.raises(EdgekitError, match="not valid TOML"):
        config.load(None)
    with pytest.raises(EdgekitError, match="no such configuration file"):
        config.load("nope.toml")
    assert config.load(None, search=False).path is None


def test_a_variable_that_edgekit_does_not_know(folder, monkeypatch):
    monkeypatch.setenv("EDGEKIT_AUGMENT_COPYS", "3")
    with pytest.raises(EdgekitError, match="EDGEKIT_AUGMENT_COPYS") as error:
        config.resolve(augment, {}, config.Loaded())
    assert "EDGEKIT_AUGMENT_COPIES" in error.value.hint


def test_gates_of_the_file(folder):
    loaded = write(folder, "[gate]\naccuracy.drop = '<=0.01'\n'size.ratio' = '<=0.4'\n")
    assert config.gates(loaded) == ("accuracy.drop<=0.01", "size.ratio<=0.4")


def test_a_key_in_both_spellings(folder):
    loaded = write(folder, "[augment]\nmax-pixels = 1\nmax_pixels = 2\n")
    with pytest.raises(EdgekitError, match=r"augment\.max-pixels is given twice"):
        config.check_keys(loaded, COMMANDS)


def test_odd_files(folder, monkeypatch):
    assert write(folder, "tool = 3\n", "pyproject.toml").path is None
    with pytest.raises(EdgekitError, match="is not a table"):
        write(folder, "[tool]\nedgekit = 3\n", "pyproject.toml")
    (folder / "edgekit.toml").write_bytes(b"\xef\xbb\xbf[augment]\ncopies = 7\n")
    assert config.resolve(augment, {}, config.load(None)).settings.copies == 7
    with pytest.raises(EdgekitError, match="--config is empty"):
        config.load("")
    monkeypatch.setenv("EDGEKIT_CONFIG", "nope.toml")
    assert config.load(None, search=False).path is None


def test_large_numbers_stay_what_they_are(folder):
    for seed in (2**53 + 1, 10**26 + 1):
        assert config.resolve(augment, {"seed": str(seed)}, config.Loaded()).settings.seed == seed
        assert config.resolve(augment, {}, write(folder, f"seed = {min(seed, 2**63 - 1)}")).settings.seed >= 2**53
