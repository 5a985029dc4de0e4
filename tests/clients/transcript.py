"""What the Python rounds share: one printed line for each check.

Two servers that behave alike give the same lines. Nothing that may differ between them is printed: no port, no version
of an item, no order of a mapping. A long value is told by its length and its checksum.
"""

import sys
import zlib

PORT = int(sys.argv[1])
HOST = "127.0.0.1"

SHOWN_SIZE_MAX = 60

# Longer than one second by the clocks of both servers, which tick once a second.
OVER_ONE_SECOND = 2.2

# Sizes around the ends of packets, buffers, pages and the largest item.
SIZES = (0, 1, 1023, 4095, 4096, 16_383, 65_536, 300_000, 524_289, 1_000_000, 1_048_000)

TOO_LARGE = 2_000_000

WORDS = ("naïve", "日本語", "🦀" * 20, "Ελληνικά", "кэш")


def show(value):
    """Text that is the same for equal values, whatever the order in a mapping."""
    if isinstance(value, dict):
        pairs = sorted((show(key), show(item)) for key, item in value.items())
        return shorten("{" + ", ".join(f"{key}: {item}" for key, item in pairs) + "}")
    if isinstance(value, (list, tuple)):
        return shorten("[" + ", ".join(show(item) for item in value) + "]")
    return shorten(repr(value))


def shorten(text):
    if len(text) <= SHOWN_SIZE_MAX:
        return text
    return f"{text[:20]}.. {len(text)} long, checksum {zlib.crc32(text.encode()):08x}"


def say(label, check, *arguments, **options):
    """Prints one line: what `check` is, or what it returns or raises when it can be called. Returns that value."""
    value = None
    try:
        value = check(*arguments, **options) if callable(check) else check
        outcome = show(value)
    except Exception as error:  # Which one it is belongs to the transcript.
        outcome = f"raises {type(error).__name__}: {error}".replace(str(PORT), "PORT")
    print(f"{label}: {outcome}", flush=True)
    return value


def pattern(size):
    """Bytes of every value, so that nothing on the way may change one."""
    return (bytes(range(256)) * (size // 256 + 1))[:size]
