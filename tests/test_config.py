"""Settings and strict YAML: every fault of reliability row 20, the order of precedence, round trips."""
import argparse
import dataclasses
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cannonkit import cli, config, errors, strict_yaml, typed


@dataclasses.dataclass(frozen=True)
class Window:
    low: float = config.setting(0.0, "first wavelength", unit="Angstrom")
    high: float = config.setting(1.0, "last wavelength", unit="Angstrom")

    def __post_init__(self):
        if self.low >= self.high:
            raise ValueError(f"low = {self.low} is not below high = {self.high}")


@dataclasses.dataclass(frozen=True)
class Toy:
    order: int = config.setting(2, "order of the model", low=1, high=3)
    limit: float = config.setting(8.0, "flag beyond this", above=0)
    metric: str = config.setting("squared", "how to add", choices=("squared", "absolute", "root"))
    labels: tuple[str, ...] = config.setting(("teff", "logg"), "labels")
    pair: tuple[int, float] = (1, 2.0)
    censor: bool = config.setting(True, "use masks")
    seed: int | None = config.setting(None, "seed")
    scale: float | str = config.setting("auto", "factor, or auto")
    window: Window = config.setting(factory=Window)
    windows: dict[str, Window] = config.setting(factory=dict)
    cuts: dict[str, float] = config.setting(factory=lambda: {"snr": 30.0})
    from_: str = config.setting("", "where from")


@pytest.fixture
def load(tmp_path):
    """load(text or bytes) -> a Toy from a file of that content."""

    def call(text, cls=Toy):
        path = tmp_path / "toy.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return config.load(path, cls)

    return call


def test_values_and_types(load):
    toy = load("order: 3\nlimit: 1e-4\nlabels: [teff, 'no', \"1\"]\npair: [4, 5]\ncensor: false\n"
               "seed: 7\nscale: 1.5\nwindow: {low: 2, high: .inf}\nwindows:\n  a: {high: 9}\n"
               "cuts: {x: -1.5e+3}\nfrom: here\n")
    assert (toy.order, toy.limit, toy.labels) == (3, 1e-4, ("teff", "no", "1"))
    assert toy.pair == (4, 5.0) and isinstance(toy.pair[1], float)
    assert (toy.censor, toy.seed, toy.scale, toy.from_) == (False, 7, 1.5, "here")
    assert toy.window == Window(2.0, math.inf) and toy.windows == {"a": Window(0.0, 9.0)}
    assert toy.cuts == {"x": -1500.0}
    assert load("") == load("# nothing\n") == load("{}") == Toy()


@pytest.mark.parametrize(("text", "value"), [
    ("1e-4", 1e-4), ("1E5", 1e5), (".5", 0.5), ("5.", 5.0), ("-3", -3), ("+3", 3), ("0x1F", 31), ("0o17", 15),
    ("no", "no"), ("on", "on"), ("y", "y"), ("True", True), ("FALSE", False), ("~", None),
    ("null", None), ("", None),
    ("0123", "0123"), ("1_000", "1_000"), ("12:30:00", "12:30:00"), ("2020-01-01", "2020-01-01"),
    ("-.inf", -math.inf), ("1e", "1e"), ("e5", "e5"), ("0b11", "0b11"), ("1.2.3", "1.2.3"),
])
def test_scalars_of_yaml_1_2(text, value):
    found = typed.scalar(text)
    assert found == value and type(found) is type(value)


def test_nan_is_nan():
    assert math.isnan(typed.scalar(".nan"))


FAULTS = {
    "unknown key": ("order: 2\nlimt: 3\n", 2, "did you mean 'limit'?"),
    "unknown inner key": ("window:\n  lo: 3\n", 2, "'window': unknown key 'lo'"),
    "duplicate key": ("order: 2\nlimit: 3\norder: 3\n", 3, "'order' is given twice (first in line 1)"),
    "no as a boolean": ("\ncensor: no\n", 2, "write true or false"),
    "text as a number": ("limit: '3'\n", 1, "expected a number, found the text '3'"),
    "leading zero": ("order: 0123\n", 1, "no leading zeros"),
    "clock time": ("limit: 12:30:00\n", 1, "expected a number"),
    "number as text": ("from: 12\n", 1, "expected text"),
    "float as integer": ("order: 2.5\n", 1, "expected an integer"),
    "boolean as integer": ("order: true\n", 1, "expected an integer"),
    "null": ("order:\n", 1, "expected an integer, found nothing"),
    "below the range": ("order: 0\n", 1, "at least 1"),
    "above the range": ("order: 4\n", 1, "at most 3"),
    "on an open limit": ("limit: 0\n", 1, "more than 0"),
    "NaN in a range": ("limit: .nan\n", 1, "out of range"),
    "overflow": ("limit: 1e999\n", 1, "too large"),
    "huge integer": ("seed: 9223372036854775808\n", 1, "expected an integer or null"),
    "no choice": ("metric: sqared\n", 1, "did you mean 'squared'?"),
    "list for a scalar": ("limit: [3]\n", 1, "found a list"),
    "scalar for a list": ("labels: teff\n", 1, "expected a list"),
    "wrong element": ("labels: [teff,\n  3]\n", 2, "'labels[1]'"),
    "wrong length": ("pair: [1]\n", 1, "expected 2 values, found 1"),
    "scalar for a mapping": ("window: 3\n", 1, "expected a mapping"),
    "rule of the class": ("window:\n  low: 3\n  high: 2\n", 2, "low = 3.0 is not below high = 2.0"),
    "list at the top": ("- a\n- b\n", 1, "expected a mapping"),
    "text at the top": ("just text\n", 1, "expected a mapping"),
    "tab": ("window:\n\tlow: 3\n", 2, "tab"),
    "tab inside": ("window: {low: 3}\nwindows:\n  a:\n  \t high: 3\n", 4, "tab"),
    "two documents": ("order: 2\n---\norder: 3\n", 2, "second document"),
    "NUL": (b"order: 2\nfrom: a\0b\n", 2, "control character"),
    "escaped NUL": ('from: "a\\0b"\n', 1, "NUL"),
    "escape character": (b"from: \x1b[2J\n", 1, "control character"),
    "not UTF-8": (b"order: 2\n\nfrom: \xff\n", 3, "not UTF-8"),
    "tag": ("from: !!python/object/apply:os.system [ls]\n", 1, "tags"),
    "binary tag": ("from: !!binary aGVsbG8=\n", 1, "tags"),
    "alias": ("order: 2\nwindow: &w {low: 0}\nwindows: {a: *w}\n", 2, "anchors"),
    "alias bomb": ("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\nd: [*c,*c]\n", 1, "anchors"),
    "merge key": ("window:\n  <<: {low: 3}\n", 2, "merge keys"),
    "3,000 deep": ("a: " + "[" * 3000 + "]" * 3000, 1, "20 levels"),
    "3,000 open": ("a: " + "[" * 3000, 1, "20 levels"),
    "deep mappings": ("".join(" " * n + "a:\n" for n in range(30)), 21, "20 levels"),
    "unclosed": ("labels: [a, b\norder: 2\n", 2, "not YAML"),
    "key that is a list": ("? [a, b]\n: 3\n", 1, "key"),
    "too large": (b"#" * (1 << 20) + b"\n", None, "larger than"),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("parser", ["C", "Python"])
def test_faults(name, parser, load, monkeypatch):
    import yaml

    if parser == "C" and not hasattr(yaml, "CSafeLoader"):
        pytest.skip("PyYAML without libyaml")
    if parser == "Python":
        monkeypatch.delattr(yaml, "CSafeLoader", raising=False)
    text, line, words = FAULTS[name]
    with pytest.raises(errors.ConfigError) as caught:
        load(text)
    message = str(caught.value)
    assert "toy.yaml" in message and words in message
    assert line is None or f"line {line}:" in message
    assert caught.value.code == 78


def test_merge_bomb_is_refused_at_once(load):
    inner = "".join(f"  k{n}: 1\n" for n in range(2000))
    text = f"base: &base\n{inner}other:\n" + "  <<: *base\n" * 2000
    with pytest.raises(errors.ConfigError, match="anchors"):
        load(text)


def test_missing_key(load):
    @dataclasses.dataclass(frozen=True)
    class Needs:
        name: str
        size: int = 3

    with pytest.raises(errors.ConfigError, match=r"toy.yaml, line 1: key 'name' is missing"):
        load("size: 2\n", Needs)
    assert load("name: x\n", Needs) == Needs("x")


def test_file_that_cannot_be_read(tmp_path):
    for path in (tmp_path / "absent.yaml", tmp_path):
        with pytest.raises(errors.NoInputError, match="cannot be read"):
            config.load(path, Toy)


def test_nested_defaults_are_kept(load):
    @dataclasses.dataclass(frozen=True)
    class Outer:
        window: Window = config.setting(factory=lambda: Window(5.0, 9.0))

    assert load("window: {high: 7}\n", Outer) == Outer(Window(5.0, 7.0))


def test_string_annotations(load):
    cls = dataclasses.make_dataclass("Text", [("n", "int", 3), ("words", "tuple[str, ...]", ())], frozen=True)
    assert load("n: 4\nwords: [a]\n", cls) == cls(4, ("a",))


# --- precedence -----------------------------------------------------------------------------------

def parser_for(cls):
    parser = cli.new_parser("cc-toy", "A toy.")
    cli.add_settings(parser, cls)
    return parser


@pytest.fixture
def resolve(tmp_path, monkeypatch):
    """resolve(text of the --config file or None, option, ...) -> Toy."""
    monkeypatch.setitem(config.SECTIONS, "toy", Toy)
    monkeypatch.setitem(config.SECTIONS, "window", Window)

    def call(text, *options):
        if text is not None:
            (tmp_path / "run.yaml").write_text(text)
            options = ("--config", str(tmp_path / "run.yaml"), *options)
        return config.resolve(Toy, parser_for(Toy).parse_args(list(options)))

    return call


def test_order_of_precedence(resolve):
    assert resolve(None) == Toy()
    assert resolve("toy: {order: 1}\n").order == 1
    assert resolve("toy: {order: 1}\n", "--set", "order=3").order == 3
    assert resolve("toy: {order: 1}\n", "--set", "order=3", "--order", "2").order == 2
    expected = dataclasses.replace(Toy(), order=2, limit=3.0)
    assert resolve("toy: {order: 1, limit: 3}\n", "--order", "2") == expected
    assert config.resolve(Toy, argparse.Namespace()) == Toy()


def test_set_reaches_inner_keys(resolve):
    toy = resolve("toy: {window: {low: 0.25}}\n", "--set", "window.high=0.5", "--set", "windows.a.high=2",
                  "--set", "cuts={x: 1}", "--set", "labels=[a, b]", "--set", "seed=")
    assert toy.window == Window(0.25, 0.5) and toy.windows == {"a": Window(0.0, 2.0)}
    assert toy.cuts == {"x": 1.0} and toy.labels == ("a", "b") and toy.seed is None


def test_options_become_types(resolve):
    toy = resolve(None, "--limit", "1e-4", "--labels", "teff, 0123", "--pair", "3,4", "--no-censor",
                  "--seed", "none", "--scale", "2", "--from", "12")
    assert toy.limit == 1e-4 and toy.labels == ("teff", "0123") and toy.pair == (3, 4.0)
    assert (toy.censor, toy.seed, toy.scale, toy.from_) == (False, None, 2.0, "12")
    assert resolve(None, "--scale", "auto").scale == "auto"


@pytest.mark.parametrize(("options", "words"), [
    (["--order", "0"], "--order: 0 is out of range: must be at least 1"),
    (["--order", "two"], "--order: expected an integer, found the text 'two'"),
    (["--limit", "-1e-4"], "must be more than 0"),
    (["--metric", "rot"], "did you mean 'root'?"),
    (["--pair", "1"], "expected 2 values"),
    (["--ordr", "2"], "no such option: --ordr (did you mean '--order'?)"),
    (["--orde", "2"], "no such option"),
    (["--window", "2"], "no such option"),
    (["--set", "order"], "expected key=value"),
])
def test_wrong_options_are_usage_errors(resolve, options, words):
    with pytest.raises(errors.UsageError) as caught:
        resolve(None, *options)
    assert words in str(caught.value)


@pytest.mark.parametrize(("options", "words"), [
    (["order=9"], "--set order=9: key 'order': 9 is out of range"),
    (["window.lo=1"], "--set window.lo=1: key 'window': unknown key 'lo'"),
    (["ordr=1"], "--set ordr=1: unknown key 'ordr' (did you mean 'order'?"),
    (["order=[1"], "not YAML"),
    (["order=*a"], "aliases"),
    (["window.low=1", "window.high=0"], "not below"),
])
def test_wrong_set_is_a_usage_error_too(resolve, options, words):
    with pytest.raises(errors.UsageError) as caught:
        resolve(None, *[part for text in options for part in ("--set", text)])
    assert words in str(caught.value)


def test_all_sections_are_checked(resolve):
    assert resolve("window: {high: 3}\ntoy: {order: 1}\n").order == 1
    assert resolve("toy:\nwindow:\n") == Toy()
    with pytest.raises(errors.ConfigError, match=r"run.yaml, line 2: key 'window': unknown key 'hgh'"):
        resolve("toy: {order: 1}\nwindow: {hgh: 3}\n")
    with pytest.raises(errors.ConfigError, match=r"unknown section 'order': it stands under 'toy:'"):
        resolve("order: 1\n")
    with pytest.raises(errors.ConfigError, match=r"unknown section 'toi' \(did you mean 'toy'"):
        resolve("toi: {order: 1}\n")
    with pytest.raises(errors.ConfigError, match="expected sections"):
        resolve("- toy\n")


# --- round trips ----------------------------------------------------------------------------------

def test_dump_comes_back(resolve):
    toy = Toy(order=3, limit=1e-7, labels=("no", "0123", "a b", "", "null", "é"), seed=None, scale="1e5",
              window=Window(-math.inf, 1e300), windows={"x y": Window()}, cuts={"1": 2.0},
              from_="it's \"quoted\" #")
    text = config.dump(toy)
    assert "# order of the model" in text
    assert resolve(text) == toy


@given(st.one_of(st.none(), st.booleans(), st.integers(-2**63, 2**63 - 1), st.floats(allow_nan=False),
                 st.text(st.characters(exclude_categories=["Cs"], exclude_characters=["\0"]))))
def test_every_scalar_comes_back(value):
    text = f"key: {typed.text_of(value)}\n"
    node = strict_yaml.parse(text.encode(), "text").value["key"]
    found = typed.scalar(node.value, node.plain)
    assert found == value and type(found) is type(value)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(data):
    try:
        node = strict_yaml.parse(data, "bytes")
    except errors.ConfigError as error:
        assert str(error).startswith("bytes")
    else:
        assert node.kind in ("scalar", "list", "map")


def test_defaults_of_all_commands_are_legal(tmp_path):
    for name, cls in config.SECTIONS.items():
        path = tmp_path / f"{name}.yaml"
        path.write_text(config.dump(cls()))
        found = config.resolve(cls, argparse.Namespace(config=str(path)))
        assert found == cls(), name
        for field in dataclasses.fields(cls):
            assert field.metadata.get("help"), f"{name}.{field.name} has no help text"


def test_recipes_are_found_by_name(tmp_path, monkeypatch):
    folder = config.recipe_folder()
    for name in ("apogee_dr16", "apogee_dr16.yaml"):
        assert config.find(name) == f"{folder}/apogee_dr16.yaml"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "apogee_dr16.yaml").write_text("x: 1\n")
    assert config.find("apogee_dr16.yaml") == "apogee_dr16.yaml"
    with pytest.raises(errors.NoInputError, match="did you mean 'apogee_dr16'"):
        config.find("apogee_dr61")
    for name in ("", "../apogee_dr16", "linemask_galah_dr3.csv/x"):
        with pytest.raises(errors.NoInputError):
            config.find(name)
