"""How a file was made: one record per command, chained through the outputs.

A record says command, version, arguments, resolved settings and inputs (name, product, DATASUM of each
extension, record of the run that made it). It travels as JSON in HISTORY cards of the primary header,
each starting with `CK1 `, together with the records of everything upstream.
"""
import hashlib
import json
import os
import time

import cannonkit
from cannonkit import fits

_MARK = "CK1 "
_PIECE = 68


def _identity(record):
    text = json.dumps(record, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def kind(product, header):
    """What a product is called: a training table of one survey is a selection of its rows."""
    return "selection" if product == "training" and header.text("SELECT") else product


def chain(record, sources):
    """Records for an output: the new one first, then those of its sources, each once.

    record: dict with command, arguments, settings (from `cli.record`), or None for an unnamed maker.
    """
    inputs, upstream = [], {}
    for source in sources:
        known = from_header(source.header)
        inputs.append({"name": os.path.basename(source.name), "product": kind(source.product, source.header),
                       "datasum": source.datasums(), "record": known[0]["id"] if known else None})
        upstream.update((r["id"], r) for r in known)
    new = {"command": "", "version": cannonkit.__version__, **(record or {}), "inputs": inputs}
    return [{"id": _identity(new), **new}, *upstream.values()]


def to_cards(records):
    """HISTORY cards that hold `records`."""
    lines = []
    for record in records:
        text = json.dumps(record, ensure_ascii=True, separators=(",", ":"))
        pieces = [text[i:i + _PIECE] for i in range(0, len(text), _PIECE)]
        lines += [f"HISTORY {_MARK}{piece:<{_PIECE}}" for piece in pieces]
    return "".join(lines)


def from_header(header):
    """The records in a primary header, newest first; [] for a file that is not ours or has damaged ones."""
    text = "".join(line[len(_MARK):].ljust(_PIECE)[:_PIECE] for line in header.history if line.startswith(_MARK))
    records, decoder, at = [], json.JSONDecoder(), 0
    try:
        while text[at:].strip():
            at += len(text[at:]) - len(text[at:].lstrip())
            record, at = decoder.raw_decode(text, at)
            if not isinstance(record, dict) or "id" not in record:
                return []
            records.append(record)
    except (ValueError, RecursionError):
        return []
    return records


def models_of(header):
    """DATASUMs, {extension: sum}, of the models behind labels: those that the runs of cc-infer in a header read."""
    return [source.get("datasum") for record in from_header(header) if record.get("command") == "cc-infer"
            for source in record.get("inputs", ()) if source.get("product") == "model"]


def date_card():
    """DATE: now, or SOURCE_DATE_EPOCH, so that equal inputs can give equal headers."""
    seconds = float(os.environ.get("SOURCE_DATE_EPOCH", time.time()))
    return fits.card("DATE", time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)), "UTC, when it was made")


def tree(records):
    """Lines that show the chain of records as a tree, newest first."""
    by_id = {r["id"]: r for r in records}
    lines = []

    def show(record, depth, seen):
        indent = "  " * depth
        lines.append(f"{indent}{record.get('command', '?')} {record.get('version', '')}".rstrip())
        for source in record.get("inputs", ()):
            lines.append(f"{indent}  <- {source.get('name')} ({source.get('product') or 'foreign'})")
            parent = by_id.get(source.get("record"))
            if parent is not None and parent["id"] not in seen:
                show(parent, depth + 2, seen | {parent["id"]})
    if records:
        show(records[0], 0, {records[0]["id"]})
    return lines
