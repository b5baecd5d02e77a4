"""How a run is told: ids and messages, short enough to follow."""

from __future__ import annotations

from typing import Any

from skate.spec import CallTemplate


def short(word: Any) -> str:
    """Ids as their distinctive digits, messages without their defaults."""
    if isinstance(word, bytes):
        if len(word) == 16 and word.endswith(b"-node-------"):
            return word[:4].decode()
        if len(word) in (16, 20) and word[4:5] == b"n" and word[5:8].isdigit():
            parts = (word[8:11], word[11:16], word[16:])
            numbers = (f"{int.from_bytes(part, 'big'):x}" for part in parts if part)
            return f"{word[4:8].decode()}:{'.'.join(numbers)}"
        return word.hex()[8:14] + "." + word.hex()[26:] if len(word) > 12 else repr(word)
    if isinstance(word, list | tuple):
        return "[" + " ".join(short(w) for w in word) + "]"
    if isinstance(word, CallTemplate):
        return f"{word.kind} {word.name} {short(word.strategy)}"
    if hasattr(word, "__struct_fields__"):
        fields = ((name, getattr(word, name)) for name in word.__struct_fields__)
        shown = " ".join(f"{name}={short(x)}" for name, x in fields if x or x == 0)
        return f"{type(word).__name__}({shown})"
    return str(word)
