"""Records as tf.Example messages, in the bytes that TFDS writes, without protobuf.

A shard of 100,000 images is 6 GB: protobuf would copy each image several times, these functions
copy it once. Map entries are in the order of their keys, as in protobuf's deterministic form, so
the same record always gives the same bytes.

Fields (tensorflow/core/example/{example,feature}.proto): Example.features = 1; Features.feature =
1, a map of key = 1 to value = 2; Feature.bytes_list = 1, Feature.float_list = 2; value = 1 in both
lists. All are length-delimited.
"""

import struct
from collections.abc import Sequence

from ilias_jax.records import Box

_ONE, _TWO = b"\x0a", b"\x12"  # field numbers 1 and 2, each with wire type 2
_SMALL = tuple(bytes((value,)) for value in range(0x80))


def _varint(value: int) -> bytes:
    """Seven bits a byte, lowest first; the high bit says that more follow."""
    if value < len(_SMALL):
        return _SMALL[value]
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _wrap(tag: bytes, head: bytes, num_bytes: int) -> bytes:
    """Head of a field that holds `head` and `num_bytes` bytes after it."""
    return tag + _varint(len(head) + num_bytes) + head


def _entry(key: bytes, kind: bytes, head: bytes, num_bytes: int) -> bytes:
    """Head of a map entry; `num_bytes` bytes follow the head of its list's value."""
    feature = _wrap(kind, head, num_bytes)
    value = _wrap(_ONE, key, 0) + _wrap(_TWO, feature, num_bytes)
    return _wrap(_ONE, value, num_bytes)


def _bytes_entry(key: bytes, num_bytes: int) -> bytes:
    """Head of an entry whose value is one string of `num_bytes` bytes."""
    return _entry(key, _ONE, _wrap(_ONE, b"", num_bytes), num_bytes)


def _boxes_entry(boxes: Sequence[Box]) -> bytes:
    """The entry of [N, 4] float32 values; an empty list has no value field at all."""
    values = [value for box in boxes for value in box]
    packed = struct.pack(f"<{len(values)}f", *values)
    return _entry(b"boxes", _TWO, _wrap(_ONE, packed, 0) if values else b"", 0)


_NO_BOXES = _boxes_entry(())


def image_example(image_id: str, jpeg: bytes, boxes: Sequence[Box] = ()) -> bytes:
    """Serializes an image record: features `boxes`, `id` and `image`."""
    name = image_id.encode()
    head = _boxes_entry(boxes) if boxes else _NO_BOXES
    head += _bytes_entry(b"id", len(name)) + name + _bytes_entry(b"image", len(jpeg))
    return b"".join((_wrap(_ONE, head, len(jpeg)), jpeg))


def text_example(query_id: str, text: str) -> bytes:
    """Serializes a text query: features `id` and `text`."""
    name, value = query_id.encode(), text.encode()
    body = _bytes_entry(b"id", len(name)) + name + _bytes_entry(b"text", len(value)) + value
    return _wrap(_ONE, body, 0)
