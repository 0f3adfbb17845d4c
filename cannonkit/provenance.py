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

ROW_FOR_ROW = ("cc-resample", "cc-infer", "cc-flag", "cc-errors")     # their first input is the one with the rows
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
    Parts of one run have the records of the first: a thousand times those would fill the headers of all that follows.
    """
    inputs, upstream, runs = [], {}, {}
    for source in sources:
        known = from_header(source.header)
        shard, run = run_of(known)
        if shard is not None:
            known = runs.setdefault(run, known)
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


def run_of(records):
    """(shard, run) of a file with these records: [I, N] or None, and a text that all parts of the run share.

    A part that came by a pipe is one of the run of the first command in the pipe that was given a shard.
    """
    by_id, steps = {r["id"]: r for r in records}, []
    step = records[0] if records else None
    while step is not None and step not in steps:
        steps.append(step)
        first = (step.get("inputs") or [{}])[0]
        piped = not step.get("shard") and step.get("command") in ROW_FOR_ROW
        step = by_id.get(first.get("record")) if piped else None
    shard = steps[-1].get("shard") if steps else None
    steps = steps if shard else steps[:1]
    run = []
    for k, step in enumerate(steps):
        inputs = [i.get("datasum") or i.get("name") for i in step.get("inputs", ())]
        run += [{n: v for n, v in step.items() if n not in ("id", "arguments", "shard", "inputs")},
                inputs if k == len(steps) - 1 else inputs[1:]]
    good = isinstance(shard, list) and len(shard) == 2 and all(isinstance(x, int) for x in shard)
    return (shard if good else None), json.dumps(run, sort_keys=True, default=str)


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
        inputs = list(record.get("inputs", ()))
        while inputs:
            source, n = inputs.pop(0), 0
            while source.get("record") and inputs and inputs[0].get("record") == source["record"]:
                inputs.pop(0)           # another part of the same run
                n += 1
            more = f" and {n} more parts" if n else ""
            lines.append(f"{indent}  <- {source.get('name')}{more} ({source.get('product') or 'foreign'})")
            parent = by_id.get(source.get("record"))
            if parent is not None and parent["id"] not in seen:
                show(parent, depth + 2, seen | {parent["id"]})
    if records:
        show(records[0], 0, {records[0]["id"]})
    return lines
