"""Whole numbers of variable length, and sequential reading from bytes."""

from __future__ import annotations


def encode_varint(value: int) -> bytes:
    """A number from 0 up, seven bits a byte, the lowest first; the top bit says that more follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


class ByteReader:
    """Reads bytes in sequence, from `at` on."""

    def __init__(self, content: bytes, at: int) -> None:
        self.content = content
        self.at = at

    def take(self, size: int) -> bytes:
        """The next `size` bytes. Raises: ValueError if fewer are left."""
        if size > len(self.content) - self.at:
            raise ValueError("cut off")
        self.at += size
        return self.content[self.at - size : self.at]

    def number(self) -> int:
        """The next `encode_varint`. Raises: ValueError if it is cut off or beyond 70 bits."""
        value = 0
        for shift in range(0, 70, 7):
            (byte,) = self.take(1)
            value |= (byte & 127) << shift
            if byte < 128:
                return value
        raise ValueError("number too long")
