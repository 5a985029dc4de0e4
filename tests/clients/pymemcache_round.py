"""One round of everything a program does with pymemcache. Takes the server's port."""

import sys

from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient
from pymemcache.exceptions import MemcacheError, MemcacheServerError
from pymemcache import serde

ADDRESS = ("127.0.0.1", int(sys.argv[1]))
TIMEOUTS = {"connect_timeout": 10, "timeout": 10}


def check(got, expected):
    assert got == expected, f"expected {expected!r:.200}, got {got!r:.200}"


def stores_and_reads(client):
    check(client.get("absent"), None)
    check(client.set("key", "value", noreply=False), True)
    check(client.get("key"), b"value")
    check(client.add("key", "other", noreply=False), False)
    check(client.replace("key", "third", noreply=False), True)
    check(client.append("key", "!", noreply=False), True)
    check(client.prepend("key", "?", noreply=False), True)
    check(client.get("key"), b"?third!")
    check(client.delete("key", noreply=False), True)
    check(client.delete("key", noreply=False), False)


def compares_and_swaps(client):
    client.set("swap", "one", noreply=False)
    value, version = client.gets("swap")
    check(value, b"one")
    check(client.cas("swap", "two", version, noreply=False), True)
    check(client.cas("swap", "three", version, noreply=False), False)
    check(client.cas("never", "x", version, noreply=False), None)
    check(client.get("swap"), b"two")
    found = client.gets_many(["swap", "never"])
    check({key: pair[0] for key, pair in found.items()}, {"swap": b"two"})


def counts(client):
    check(client.incr("counter", 1, noreply=False), None)
    client.set("counter", "10", noreply=False)
    check(client.incr("counter", 5), 15)
    check(client.decr("counter", 20), 0)
    client.set("counter", str(2**64 - 1), noreply=False)
    check(client.incr("counter", 1), 0)


def takes_many_at_once(client):
    values = {f"many:{n}": f"value {n}" * (n % 50) for n in range(500)}
    check(client.set_many(values, noreply=False), [])
    found = client.get_many(list(values) + ["absent"])
    check(found, {key: value.encode() for key, value in values.items()})
    check(client.delete_many(list(values), noreply=False), True)
    check(client.get_many(list(values)), {})


def writes_without_waiting(client):
    for n in range(300):
        client.set(f"quick:{n}", str(n), noreply=True)
    for n in range(0, 300, 2):
        client.delete(f"quick:{n}", noreply=True)
    for n in range(300):
        check(client.get(f"quick:{n}"), None if n % 2 == 0 else str(n).encode())


def expires(client):
    client.set("short", "x", expire=-1, noreply=False)
    check(client.get("short"), None)
    client.set("long", "x", expire=1000, noreply=False)
    check(client.touch("long", 2000, noreply=False), True)
    check(client.touch("absent", 2000, noreply=False), False)
    check(client.get("long"), b"x")


def moves_large_values(client):
    for size in (0, 1, 4096, 70_000, 500_000, 1_000_000):
        value = bytes(n % 251 for n in range(1000)) * (size // 1000 + 1)
        client.set("large", value[:size], noreply=False)
        check(client.get("large"), value[:size])
    try:
        client.set("large", bytes(2_000_000), noreply=False)
    except MemcacheServerError:
        pass
    else:
        raise AssertionError("two megabytes were stored")
    check(client.get("large"), None)


def refuses_what_is_wrong(client):
    client.set("word", "abc", noreply=False)
    try:
        client.incr("word", 1)
    except MemcacheError:
        pass
    else:
        raise AssertionError("a word was counted")
    check(client.get("word"), b"abc")


def tells_about_itself(client):
    assert client.version(), "no version"
    stats = client.stats()
    assert int(stats[b"curr_connections"]) >= 1, stats
    assert int(stats[b"cmd_set"]) > 0, stats


def speaks_every_language():
    client = Client(ADDRESS, allow_unicode_keys=True, encoding="utf-8", **TIMEOUTS)
    for word in ("naïve", "日本語", "🦀" * 20):
        client.set(word, word, noreply=False)
        check(client.get(word), word.encode())
    check(client.get_many(["naïve", "日本語"]), {"naïve": "naïve".encode(), "日本語": "日本語".encode()})


def keeps_python_values():
    client = HashClient([ADDRESS], serde=serde.pickle_serde, **TIMEOUTS)
    value = {"list": [1, 2, 3], "text": "é", "nested": {"none": None}}
    client.set("object", value)
    check(client.get("object"), value)
    client.set("number", 42)
    check(client.get("number"), 42)
    client.set_many({f"object:{n}": [n] for n in range(100)})
    check(client.get_many([f"object:{n}" for n in range(100)]), {f"object:{n}": [n] for n in range(100)})


def flushes(client):
    client.set("gone", "x", noreply=False)
    check(client.flush_all(noreply=False), True)
    check(client.get("gone"), None)


def main():
    for client in (Client(ADDRESS, **TIMEOUTS), PooledClient(ADDRESS, max_pool_size=4, **TIMEOUTS)):
        for step in (stores_and_reads, takes_many_at_once, writes_without_waiting, expires, moves_large_values):
            step(client)
        flushes(client)
    client = Client(ADDRESS, **TIMEOUTS)
    for step in (compares_and_swaps, counts, refuses_what_is_wrong, tells_about_itself):
        step(client)
    speaks_every_language()
    keeps_python_values()
    client.quit()


main()
