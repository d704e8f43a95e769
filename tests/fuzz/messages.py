"""Protobuf messages of a known type whose fields come from a fuzzer's bytes."""

from __future__ import annotations

from typing import Any

from google.protobuf.message import Message

from tests.fuzz.reader import Reader


def mutate(message: Message, reader: Reader) -> None:
    """Set one to four fields of ``message``, at any depth, to something else."""
    for _ in range(1 + reader.byte() % 4):
        _mutate_one(message, reader)


def _mutate_one(message: Message, reader: Reader) -> None:
    fields = message.DESCRIPTOR.fields
    if not fields:
        return
    descriptor = reader.pick(fields)
    if reader.byte() < 16:
        message.ClearField(descriptor.name)
        return
    held: Any = getattr(message, descriptor.name)
    if descriptor.is_repeated:
        for _ in range(reader.byte() % 5):
            if descriptor.message_type is not None:
                _mutate_one(held.add(), reader)
            else:
                held.append(_value(descriptor, "" if descriptor.type == descriptor.TYPE_STRING else b"", reader))
    elif descriptor.message_type is not None:
        held.SetInParent()
        mutate(held, reader)
    else:
        setattr(message, descriptor.name, _value(descriptor, held, reader))


def _value(descriptor: Any, held: Any, reader: Reader) -> Any:
    kinds = type(descriptor)
    if descriptor.type == kinds.TYPE_STRING:
        return changed(str(held).encode(), reader).decode("utf-8", "replace")
    if descriptor.type == kinds.TYPE_BYTES:
        return changed(bytes(held), reader)
    if descriptor.type == kinds.TYPE_DOUBLE:
        return reader.number()
    if descriptor.type == kinds.TYPE_BOOL:
        return bool(reader.byte() & 1)
    bits = 32 if descriptor.type == kinds.TYPE_UINT32 else 64
    return reader.integer(bits)


def changed(data: bytes, reader: Reader) -> bytes:
    """``data`` with one change, or something else altogether."""
    at = reader.integer(32) % (len(data) + 1)
    size = 1 + reader.byte() % 64
    way = reader.byte() % 8
    if way == 0:
        return data[:at]
    if way == 1:
        return data[:at] + reader.take(size) + data[at:]
    if way == 2:
        return data[:at] + bytes([reader.byte()]) * size + data[at + size :]
    if way == 3:
        return bytes(len(data))
    if way == 4:
        return b"\xff" * len(data)
    if way == 5:
        return data + data[:size]
    if way == 6:
        return reader.take(size)
    return data[:at] + reader.take(size) + data[at + size :]
