"""Between YAML nodes and typed dataclasses: `build` one way, `dump_section` the other.

Scalars follow the core schema of YAML 1.2, with one difference that only refuses: an integer
with leading zeros (`0123`) is text, not a number.
"""
import dataclasses
import math
import operator
import re
import types

from cannonkit import errors
from cannonkit.strict_yaml import Node

_NULL = re.compile(r"(null|Null|NULL|~|)\Z")
_TRUE = re.compile(r"(true|True|TRUE)\Z")
_FALSE = re.compile(r"(false|False|FALSE)\Z")
_INTEGER = re.compile(r"[-+]?(0|[1-9][0-9]*)\Z|0o[0-7]+\Z|0x[0-9a-fA-F]+\Z")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+(\.[0-9]*)?)([eE][-+]?[0-9]+)?\Z")
_INFINITE = re.compile(r"([-+]?)\.(inf|Inf|INF)\Z")
_NAN = re.compile(r"\.(nan|NaN|NAN)\Z")
_LEADING_ZERO = re.compile(r"[-+]?0[0-9]+\Z")


class Place:
    """Where a value comes from: a file and a path of keys, for messages."""

    def __init__(self, source, path=()):
        self.source, self.path = source, tuple(path)

    def inside(self, key):
        return Place(self.source, (*self.path, key))

    def fail(self, node, message):
        """Raise ConfigError `file, line N: key 'a.b': message`; UsageError for a value of --set."""
        place = node.source or (f"{self.source}, line {node.line}" if node.line else str(self.source))
        key = ""
        for part in self.path:
            key += f"[{part}]" if isinstance(part, int) else f".{part}" if key else str(part)
        kind = errors.UsageError if node.source else errors.ConfigError
        raise kind(f"{place}: key {key!r}: {message}" if key else f"{place}: {message}")


def scalar(text, plain=True):
    """The value of a YAML scalar: None, bool, int, float or str. Quoted text is always str."""
    if not plain:
        return text
    if _NULL.match(text):
        return None
    if _TRUE.match(text):
        return True
    if _FALSE.match(text):
        return False
    if _INTEGER.match(text) and len(text) < 100:
        return int(text, 0)
    if _FLOAT.match(text) and not _LEADING_ZERO.match(text):
        return float(text)
    infinite = _INFINITE.match(text)
    if infinite:
        return -math.inf if infinite[1] == "-" else math.inf
    return math.nan if _NAN.match(text) else text


# --- types ----------------------------------------------------------------------------------------

def members(kind):
    """The alternatives of a type: (int, NoneType) for `int | None`, (int,) for int."""
    origin = getattr(kind, "__origin__", None)
    if isinstance(kind, types.UnionType) or getattr(origin, "_name", None) == "Union" \
            or str(origin) == "typing.Union":
        return tuple(kind.__args__)
    return (kind,)


def field_types(cls):
    """{field name: type}, also where annotations are strings (`from __future__ import annotations`)."""
    fields = dataclasses.fields(cls)
    if any(isinstance(f.type, str) for f in fields):
        import typing

        hints = typing.get_type_hints(cls)
        return {f.name: hints[f.name] for f in fields}
    return {f.name: f.type for f in fields}


def is_simple(kind):
    """Whether a value of this type can be an option: a scalar, or a tuple of scalars."""
    scalars = (bool, int, float, str, type(None))
    return all(m in scalars or (_origin(m) is tuple and all(a in scalars or a is Ellipsis
                                                           for a in m.__args__))
               for m in members(kind))


def _origin(kind):
    return getattr(kind, "__origin__", None)


def describe(kind):
    """A type in words."""
    names = {bool: "true or false", int: "an integer", float: "a number", str: "text",
             type(None): "null", object: "anything"}
    words = []
    for member in members(kind):
        if member in names:
            words.append(names[member])
        elif member is tuple or _origin(member) is tuple:
            words.append("a list")
        else:
            words.append("a mapping")
    if float in members(kind) and int in members(kind):
        words.remove("an integer")
    return " or ".join(dict.fromkeys(words))


def key_of(name):
    """The YAML key of a field: `from_` is written `from`."""
    return name.rstrip("_")


# --- nodes to values ------------------------------------------------------------------------------

def build(node, cls, place, base=None, overrides=None):
    """A `cls` from a map Node; keys that are absent keep the default, or base's value.

    overrides  {field name: value} that win over the node (options).
    Raises ConfigError naming file, line and key.
    """
    if node.kind != "map":
        place.fail(node, f"expected a mapping (key: value), found {_found(node)}")
    kinds = field_types(cls)
    fields = {key_of(f.name): f for f in dataclasses.fields(cls) if f.init}
    for key, value in node.value.items():
        if key not in fields:
            place.fail(value, f"unknown key {key!r}{errors.did_you_mean(key, fields)}")
    given = {}
    for key, field in fields.items():
        name = field.name
        inner = base if base is None else getattr(base, name)
        if overrides and name in overrides:
            given[name] = overrides[name]
        elif key in node.value:
            if inner is None:
                inner = _default(field)
            given[name] = convert(node.value[key], kinds[name], place.inside(key), field.metadata, inner)
        elif base is not None:
            given[name] = inner
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            place.fail(node, f"key {key!r} is missing")
    try:
        return cls(**given)
    except ValueError as error:
        place.fail(node, str(error))


def _default(field):
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def convert(node, kind, place, limits=(), base=None):
    """The value of a Node as a `kind`, checked against its limits (field metadata)."""
    problem = None
    for member in sorted(members(kind), key=_width):
        origin = _origin(member) or member
        if member is object:
            return _plain_node(node, place)
        if dataclasses.is_dataclass(member):
            if node.kind == "map":
                start = base if isinstance(base, member) else None
                return build(node, member, place, start)
        elif origin is tuple:
            if node.kind == "list":
                return _sequence(node, member, place, limits)
        elif origin is dict:
            if node.kind == "map":
                return _mapping(node, member, place, limits)
        elif node.kind == "scalar":
            fits, value, why = _scalar_as(scalar(node.value, node.plain), node, member)
            if fits:
                wrong = out_of_range(value, limits)
                if wrong:
                    place.fail(node, wrong)
                return value
            problem = problem or why
    hint = f" ({problem})" if problem else ""
    place.fail(node, f"expected {describe(kind)}, found {_found(node)}{hint}")


def _width(member):
    """Try narrow types before wide ones: `int | float | str` must keep 3 an int."""
    order = [type(None), bool, int, float, str]
    return order.index(member) if member in order else len(order)


def _scalar_as(value, node, member):
    """(fits, value, hint) of a YAML scalar as one Python type."""
    if member is type(None):
        return value is None, None, None
    if member is bool:
        hint = "write true or false" if str(value).lower() in ("yes", "no", "on", "off", "y", "n") else None
        return isinstance(value, bool), value, hint
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if member is int:
        if number and isinstance(value, int):
            return -2**63 <= value < 2**63, value, "beyond 64 bits"
        return False, None, _number_hint(node)
    if member is float:
        if number:
            overflow = isinstance(value, float) and math.isinf(value) and "inf" not in node.value.lower()
            huge = isinstance(value, int) and abs(value) > 2**63
            return not (overflow or huge), value if overflow or huge else float(value), "too large"
        return False, None, _number_hint(node)
    if member is str:
        return isinstance(value, str), value, f'write "{node.value}" for text'
    raise TypeError(f"a setting cannot be of type {member!r}")


def _number_hint(node):
    if node.plain and _LEADING_ZERO.match(node.value):
        return "a number has no leading zeros"
    return "a number is written without quotes" if not node.plain else None


def _sequence(node, kind, place, limits):
    inner = getattr(kind, "__args__", (object, Ellipsis))
    if len(inner) == 2 and inner[1] is Ellipsis:
        inner = (inner[0],) * len(node.value)
    elif len(node.value) != len(inner):
        place.fail(node, f"expected {len(inner)} values, found {len(node.value)}")
    return tuple(convert(item, one, place.inside(n), limits)
                 for n, (item, one) in enumerate(zip(node.value, inner, strict=True)))


def _mapping(node, kind, place, limits):
    key_kind, value_kind = getattr(kind, "__args__", (str, object))
    out = {}
    for key, item in node.value.items():
        if key_kind is int:
            number = scalar(key)
            if not isinstance(number, int) or isinstance(number, bool):
                place.fail(item, f"key {key!r} must be an integer")
            out[number] = convert(item, value_kind, place.inside(key), limits)
        else:
            out[key] = convert(item, value_kind, place.inside(key), limits)
    return out


def _plain_node(node, place):
    if node.kind == "scalar":
        return scalar(node.value, node.plain)
    if node.kind == "list":
        return tuple(_plain_node(item, place) for item in node.value)
    return {key: _plain_node(item, place) for key, item in node.value.items()}


def _found(node):
    if node.kind != "scalar":
        return "a list" if node.kind == "list" else "a mapping"
    value = scalar(node.value, node.plain)
    if value is None:
        return "nothing"
    kind = {bool: "true or false", int: "the integer", float: "the number", str: "the text"}[type(value)]
    shown = node.value if len(node.value) <= 40 else node.value[:37] + "..."
    return f"{kind} {shown!r}" if isinstance(value, str) else f"{kind} {shown}"


def out_of_range(value, limits):
    """What is wrong with a scalar, in words, or None. `limits` is a field's metadata."""
    if not limits or value is None:
        return None
    choices = limits.get("choices")
    if choices is not None and value not in choices:
        return f"{value!r} is no choice{errors.did_you_mean(value, choices)}"
    if isinstance(value, (str, bool)):
        return None
    tests = (("low", operator.ge, "at least"), ("high", operator.le, "at most"),
             ("above", operator.gt, "more than"), ("below", operator.lt, "less than"))
    for name, holds, words in tests:
        limit = limits.get(name)
        if limit is not None and not holds(value, limit):  # NaN fails every test
            return f"{value!r} is out of range: must be {words} {limit!r}"
    return None


# --- the command line -----------------------------------------------------------------------------

def option_value(text, field, kind):
    """The value of an option's text: numbers as in YAML, text without quotes, tuples with commas,
    `none` where nothing is a legal value.

    Raises ConfigError with a message without a place (cli adds the option's name).
    """
    place = Place("value")
    kinds = members(kind)
    if type(None) in kinds and text in ("none", "null", ""):
        return None
    sequence = next((m for m in kinds if _origin(m) is tuple), None)
    if sequence is not None:
        items = [Node("scalar", part.strip(), plain=_plain_for(part.strip(), sequence.__args__[0]))
                 for part in text.split(",")] if text else []
        return convert(Node("list", items), kind, place, field.metadata)
    return convert(Node("scalar", text, plain=_plain_for(text, kind)), kind, place, field.metadata)


def _plain_for(text, kind):
    """An option's text is text where only text is allowed: `--name 0123` needs no quotes."""
    kinds = set(members(kind))
    if str not in kinds:
        return True
    return any(m in kinds and _scalar_as(scalar(text), Node("scalar", text), m)[0]
               for m in (type(None), bool, int, float))


def resolve(cls, args, sections):
    """See config.resolve. `sections` maps the legal top-level keys of a --config file to classes."""
    from cannonkit import config, strict_yaml

    own = config.section_name(cls)
    path = getattr(args, "config", None)
    node, place = Node("map", {}), Place("settings")
    if path:
        root = strict_yaml.read(path)
        place = Place(path)
        if root.kind != "map":
            place.fail(root, f"expected sections such as '{own}:', found {_found(root)}")
        for key, value in root.value.items():
            if key not in sections:
                fields = {key_of(f.name) for f in dataclasses.fields(cls)}
                hint = f": it stands under '{own}:'" if key in fields else errors.did_you_mean(key, sections)
                place.fail(value, f"unknown section {key!r}{hint}")
            if value.kind == "scalar" and scalar(value.value, value.plain) is None:
                value = Node("map", {}, value.line)  # "train:" with nothing under it
            if key == own:
                node = value
            else:
                build(value, sections[key], place.inside(key))
        place = place.inside(own)
    for text in getattr(args, "set", None) or ():
        node = _with_set(node, text, strict_yaml)
    prefix = "setting_"
    overrides = {name[len(prefix):]: value for name, value in vars(args).items() if name.startswith(prefix)}
    names = {f.name for f in dataclasses.fields(cls)}
    return build(node, cls, place, overrides={k: v for k, v in overrides.items() if k in names})


def _with_set(node, text, strict_yaml):
    """The map Node with one `key=value` or `key.inner=value` put in."""
    key, equals, value = text.partition("=")
    source = f"--set {text}"
    if not equals or not key.strip():
        raise errors.UsageError(f"{source}: expected key=value")
    try:
        leaf = strict_yaml.parse(value, source)
    except errors.ConfigError as error:
        raise errors.UsageError(str(error)) from None
    if leaf.kind == "map" and not leaf.value and not value.strip().startswith("{"):
        leaf = Node("scalar", "")  # `key=` alone is null
    _rename_source(leaf, source)
    root = Node("map", dict(node.value) if node.kind == "map" else {}, node.line)
    here = root
    *parents, last = key.strip().split(".")
    for part in parents:
        inner = here.value.get(part)
        inner = Node("map", dict(inner.value) if inner is not None and inner.kind == "map" else {}, source=source)
        here.value[part] = inner
        here = inner
    here.value[last] = leaf
    return root


def _rename_source(node, source):
    node.line, node.source = None, source
    children = node.value.values() if node.kind == "map" else node.value if node.kind == "list" else ()
    for child in children:
        _rename_source(child, source)


# --- values to text -------------------------------------------------------------------------------

def plain(value):
    """Nested dicts, lists and scalars of a dataclass or any value in one."""
    if dataclasses.is_dataclass(value):
        return {key_of(f.name): plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.init}
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [plain(item) for item in value]
    return value


def text_of(value):
    """A scalar or a list as YAML 1.2 in one line; `scalar` reads it back to the same value."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, float):
        if math.isfinite(value):
            return repr(value)
        return ".nan" if math.isnan(value) else ".inf" if value > 0 else "-.inf"
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(text_of(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_quoted(str(k))}: {text_of(v)}" for k, v in value.items()) + "}"
    return _quoted(value)


def _quoted(text):
    safe = re.match(r"[A-Za-z_/][A-Za-z0-9_./+-]*\Z", text)
    if safe and scalar(text) == text and text.lower() not in ("yes", "no", "on", "off", "y", "n"):
        return text
    out = ""
    for char in text:
        if char in '"\\':
            out += "\\" + char
        elif char.isascii() and char.isprintable():
            out += char
        else:
            number = ord(char)
            out += f"\\x{number:02x}" if number < 256 else f"\\u{number:04x}" if number < 65536 \
                else f"\\U{number:08x}"
    return f'"{out}"'


def dump_section(name, settings, help):
    """The YAML of one section; see config.dump."""
    lines = [f"{name}:"]
    _dump_fields(settings, "  ", lines, help)
    if len(lines) == 1:
        lines = [f"{name}: {{}}"]
    return "\n".join(lines) + "\n"


def _dump_fields(settings, indent, lines, help):
    for field in dataclasses.fields(settings):
        if not field.init:
            continue
        value = getattr(settings, field.name)
        words = help.get(field.name) or field.metadata.get("help", "")
        if words:
            unit = field.metadata.get("unit")
            lines.append(f"{indent}# {' '.join(words.split())}{f' [{unit}]' if unit else ''}")
        key = key_of(field.name)
        if dataclasses.is_dataclass(value) and dataclasses.fields(value):
            lines.append(f"{indent}{key}:")
            _dump_fields(value, indent + "  ", lines, {})
        else:
            lines.append(f"{indent}{key}: {text_of(plain(value))}")
