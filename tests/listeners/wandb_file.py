"""Reads the file that W&B keeps offline: a log in blocks, as LevelDB writes it, each record in protobuf."""

import struct

BLOCK, HEADER = 32768, 7
FULL, LAST = 1, 4


def records(path):
    data, at, parts = path.read_bytes(), HEADER, []
    while at + HEADER <= len(data):
        if BLOCK - at % BLOCK < HEADER:  # too little is left of a block for another record
            at += BLOCK - at % BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[at : at + HEADER])
        parts.append(data[at + HEADER : at + HEADER + length])
        at += HEADER + length
        if kind in (FULL, LAST):
            yield b"".join(parts)
            parts = []


def points(folder):
    """(step, figure) of every point in a run's folder, repetitions included."""
    from wandb.proto import wandb_internal_pb2 as wire

    found = []
    for path in sorted(folder.glob("listeners/wandb/offline-run-*/*.wandb")):
        for data in records(path):
            record = wire.Record.FromString(data)
            items = record.history.item
            found += [(record.history.step.num, item.key or "/".join(item.nested_key)) for item in items]
    return [(step, name) for step, name in found if not name.startswith("_")]
