"""Everything a program does with pymemcache, as lines to compare. Takes the server's port."""

import socket
import time

from pymemcache import serde
from pymemcache.client.base import Client, PooledClient
from pymemcache.client.hash import HashClient

from transcript import HOST, OVER_ONE_SECOND, PORT, SIZES, TOO_LARGE, WORDS, pattern, say

ADDRESS = (HOST, PORT)
OPTIONS = {"connect_timeout": 10, "timeout": 10, "default_noreply": False}


def stores_and_reads(client):
    say("get absent", client.get, "absent")
    for verb in ("replace", "append", "prepend", "delete"):
        say(f"{verb} absent", getattr(client, verb), "absent", *([] if verb == "delete" else ["x"]))
    for verb in ("set", "add", "replace", "append", "prepend"):
        say(verb, getattr(client, verb), "key", verb)
        say(f"get after {verb}", client.get, "key")
    say("delete", client.delete, "key")
    say("get after delete", client.get, "key")
    say("add", client.add, "key", "fresh")
    say("get after add", client.get, "key")


def compares_and_swaps(client):
    client.set("swap", "one")
    value, version = client.gets("swap")
    say("gets", value)
    say("cas", client.cas, "swap", "two", version)
    say("cas again", client.cas, "swap", "three", version)
    say("cas absent", client.cas, "never", "x", version)
    say("gets after cas", lambda: client.gets("swap")[0])
    say("a new version", client.gets("swap")[1] != version)
    say("gets absent", client.gets, "never")
    say("gets_many", {key: pair[0] for key, pair in client.gets_many(["swap", "never"]).items()})


def counts(client):
    say("incr absent", client.incr, "counter", 1)
    client.set("counter", "10")
    say("incr", client.incr, "counter", 5)
    say("decr below zero", client.decr, "counter", 20)
    client.set("counter", str(2**64 - 1))
    say("incr over the end", client.incr, "counter", 1)
    client.set("word", "abc")
    say("incr a word", client.incr, "word", 1)
    say("the word", client.get, "word")
    say("incr by a word", client.raw_command, "incr counter x")


def takes_many_at_once(client):
    values = {f"many:{n}": f"value {n} " * (n % 50) for n in range(1000)}
    say("set_many", client.set_many, values)
    say("get_many", client.get_many, [*values, "absent"])
    say("delete_many", client.delete_many, list(values)[::2])
    say("get_many of what is left", client.get_many, list(values))
    say("the same key twice", client.get_many, ["many:1", "many:1"])
    say("get_many of nothing", client.get_many, [])


def writes_without_waiting(client):
    for n in range(1000):
        client.set(f"quick:{n}", str(n), noreply=True)
    for n in range(0, 1000, 2):
        client.delete(f"quick:{n}", noreply=True)
    for n in range(1, 1000, 4):
        client.incr(f"quick:{n}", 1, noreply=True)
    say("after noreply", [client.get(f"quick:{n}") for n in range(1000)])


def expires(client):
    say("set in the past", client.set, "past", "x", expire=-1)
    say("get of the past", client.get, "past")
    client.set("short", "x", expire=1)
    client.set("touched", "x", expire=30)
    client.set("long", "x", expire=1000)
    client.set("until", "x", expire=int(time.time()) + 1000)
    client.set("since", "x", expire=int(time.time()) - 1000)
    say("touch", client.touch, "touched", 1000)
    say("touch absent", client.touch, "absent", 1000)
    say("gat", client.raw_command, "gat 1 long", "END\r\n")
    say("gat absent", client.raw_command, "gat 1 absent", "END\r\n")
    time.sleep(OVER_ONE_SECOND)
    say("later", client.get_many, ["short", "touched", "long", "until", "since"])


def moves_large_values(client):
    for size in SIZES:
        say(f"set {size}", client.set, f"size:{size}", pattern(size))
        say(f"get {size}", client.get, f"size:{size}")
    say("get all sizes", client.get_many, [f"size:{size}" for size in SIZES])
    client.set("large", "old")
    say("set too large", client.set, "large", bytes(TOO_LARGE))
    say("get too large", client.get, "large")
    client.set("grows", pattern(600_000))
    say("append too much", client.append, "grows", pattern(600_000))
    say("get what did not grow", client.get, "grows")


def is_safe_for_bytes(client):
    for value in (b"\r\n", b"END\r\n", b"VALUE key 0 1\r\nx\r\n", b"\x00\xff" * 100, b"set k 0 0 1\r\nx\r\n"):
        say("set bytes", client.set, "bytes", value)
        say("get bytes", client.get, "bytes")


def refuses_keys(client):
    say("key of 250", client.set, "k" * 250, "x")
    say("get of 250", client.get, "k" * 250)
    say("key of 251", client.set, "k" * 251, "x")
    say("key with a space", client.set, "a b", "x")
    say("flags", client.set, "flags", "x", flags=2**32 - 1)
    say("raw flags", client.raw_command, "get flags", "END\r\n")


def speaks_every_language():
    client = Client(ADDRESS, allow_unicode_keys=True, encoding="utf-8", **OPTIONS)
    for word in WORDS:
        say(f"set {word}", client.set, word, word)
        say(f"get {word}", client.get, word)
    say("all words", client.get_many, list(WORDS))


def keeps_python_values():
    for name, options in (("pickle", {"serde": serde.pickle_serde}), ("compressed", {"serde": serde.compressed_serde})):
        client = HashClient([ADDRESS], connect_timeout=10, timeout=10, **options)
        values = {"text": "é" * 5000, "number": 42, "nested": {"list": [1, None]}, "bytes": pattern(5000)}
        say(f"{name} set_many", client.set_many, values)
        say(f"{name} get_many", client.get_many, list(values))


def reconnects(client):
    client.set("kept", "x")
    client.close()
    say("get after close", client.get, "kept")
    client.sock.shutdown(socket.SHUT_RDWR)
    say("get over a dead socket", lambda: type(raised_by(client.get, "kept")).__name__)
    say("get after it", client.get, "kept")
    client.quit()
    say("get after quit", client.get, "kept")


def raised_by(call, *arguments):
    try:
        return call(*arguments)
    except Exception as error:
        return error


def tells_about_itself(client):
    say("version is dotted numbers", client.version().replace(b".", b"").isdigit())
    stats = client.stats()
    say("counts sets", stats[b"cmd_set"] > 0 and stats[b"get_hits"] > 0)
    say("verbosity", client.raw_command, "verbosity 1")
    say("cache_memlimit", client.cache_memlimit, 64)


def flushes(client):
    client.set("gone", "x")
    say("flush_all with delay", client.flush_all, 100)
    say("get before it", client.get, "gone")
    say("flush_all", client.flush_all)
    say("get after it", client.get, "gone")


def main():
    client = Client(ADDRESS, **OPTIONS)
    steps = (stores_and_reads, compares_and_swaps, counts, takes_many_at_once, writes_without_waiting, expires)
    for step in (*steps, moves_large_values, is_safe_for_bytes, refuses_keys, reconnects, tells_about_itself):
        step(client)
    pooled = PooledClient(ADDRESS, max_pool_size=4, **OPTIONS)
    for step in (stores_and_reads, takes_many_at_once, writes_without_waiting, is_safe_for_bytes):
        step(pooled)
    speaks_every_language()
    keeps_python_values()
    flushes(client)


main()
