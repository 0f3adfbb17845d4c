"""Read YAML as data: a small, strict subset of YAML 1.2, with the line of every value.

PyYAML's events are used, none of its constructors, so nothing in a file can run code, and scalars
mean what YAML 1.2 says (typed.py): `1e-4` is a number, `no` is text. Refused with file and line:
repeated keys, anchors and aliases, merge keys, tags, a second document, tabs, NUL bytes, text
that is not UTF-8, more than 1 MiB, more than 20 levels.
"""
from cannonkit import errors

MAX_BYTES = 1 << 20
MAX_DEPTH = 20


class Node:
    """A value and where it stands.

    kind    "scalar" (value: text), "list" (value: list of Node) or "map" (value: {key: Node})
    plain   of a scalar: written without quotes, so that it can be a number, a boolean or null
    line    1-based; None where there is no file
    source  what to call the place in a message where that is not the file (`--set order=2`)
    """

    __slots__ = ("kind", "value", "line", "plain", "source")

    def __init__(self, kind, value, line=None, plain=True, source=None):
        self.kind, self.value, self.line, self.plain, self.source = kind, value, line, plain, source


def read(path):
    """The Node of a file; an empty file is an empty map. Errors: see `parse`, and NoInputError."""
    try:
        with open(path, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise errors.NoInputError(f"{path}: cannot be read: {error.strerror}") from None
    return parse(data, path)


def parse(data, name):
    """The Node of bytes or str. Raises errors.ConfigError `name, line N: ...`."""
    return _tree(_decode(data, name), name)


def fail(name, line, message):
    """Raise ConfigError with file and line."""
    place = f"{name}, line {line}" if line else str(name)
    raise errors.ConfigError(f"{place}: {message}")


def _decode(data, name):
    if isinstance(data, str):
        text = data
        if _has_surrogates(text):
            fail(name, None, "not UTF-8 text")
    else:
        if len(data) > MAX_BYTES:
            fail(name, None, f"larger than {MAX_BYTES} bytes; this is no recipe or settings file")
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            fail(name, data.count(b"\n", 0, error.start) + 1, "not UTF-8 text")
    for number, line in enumerate(text.split("\n"), 1):
        if not line.isprintable():
            for char in line:
                if (char < " " and char not in "\t\r") or "\x7f" <= char < "\xa0" or char in "\u2028\u2029":
                    fail(name, number, f"control character {char!r}")
            if line.lstrip(" ").startswith("\t"):
                fail(name, number, "a tab in the indentation; use spaces")
    return text


def _has_surrogates(text):
    return any("\ud800" <= char <= "\udfff" for char in text) if not text.isascii() else False


def _tree(text, name):
    """Events to Nodes with an explicit stack, so that depth is bounded by us, not by recursion."""
    import yaml

    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    root = None
    n_document = 0
    stack = []  # (node, pending key or None) of the open collections

    def add(node, line):
        nonlocal root
        if not stack:
            root = node
            return
        parent, key = stack[-1]
        if parent.kind == "list":
            parent.value.append(node)
        elif key is None:
            if node.kind != "scalar":
                fail(name, line, "a key must be a single word or text")
            if node.plain and node.value == "<<":
                fail(name, line, "merge keys (<<) are not supported; write the values out")
            if node.value in parent.value:
                first = parent.value[node.value].line
                fail(name, line, f"key {node.value!r} is given twice (first in line {first})")
            stack[-1] = (parent, node.value)
        else:
            parent.value[key] = node
            stack[-1] = (parent, None)

    try:
        for event in yaml.parse(text, Loader=loader):
            line = event.start_mark.line + 1
            if isinstance(event, yaml.AliasEvent):
                fail(name, line, f"aliases (*{event.anchor}) are not supported; write the value out")
            if getattr(event, "anchor", None):
                fail(name, line, f"anchors (&{event.anchor}) are not supported")
            if getattr(event, "tag", None):
                fail(name, line, f"tags ({event.tag}) are not supported")
            if isinstance(event, yaml.ScalarEvent):
                if "\0" in event.value or _has_surrogates(event.value):
                    fail(name, line, "an escape that is no text (NUL or half a character)")
                add(Node("scalar", event.value, line, event.style in (None, "")), line)
            elif isinstance(event, yaml.CollectionStartEvent):
                is_map = isinstance(event, yaml.MappingStartEvent)
                node = Node("map" if is_map else "list", {} if is_map else [], line)
                add(node, line)
                if len(stack) >= MAX_DEPTH:
                    fail(name, line, f"nested more than {MAX_DEPTH} levels deep")
                stack.append((node, None))
            elif isinstance(event, yaml.CollectionEndEvent):
                stack.pop()
            elif isinstance(event, yaml.DocumentStartEvent):
                n_document += 1
                if n_document > 1:
                    fail(name, line, "a second document (---) begins here; one file holds one")
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
        problem = getattr(error, "problem", None) or "not readable as YAML"
        if "\t" in problem or "\\t" in problem:
            problem += "; use spaces, not tabs"
        fail(name, mark.line + 1 if mark else None, f"not YAML: {problem}")
    if root is None or (root.kind == "scalar" and root.plain and root.value == ""):
        return Node("map", {}, 1)
    return root
