"""Everything a program does with python-binary-memcached, as lines to compare. Takes the server's port."""

import time

import bmemcached

from transcript import HOST, OVER_ONE_SECOND, PORT, SIZES, TOO_LARGE, WORDS, pattern, say


def stores_and_reads(client):
    say("get absent", client.get, "absent")
    say("replace absent", client.replace, "absent", "x")
    say("delete absent", client.delete, "absent")
    for verb in ("set", "add", "replace"):
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
    say("get after cas", client.get, "swap")
    say("gets absent", client.gets, "never")
    value, version = client.gets("swap")
    say("delete of another version", client.delete, "swap", cas=version + 1)
    say("delete of this version", client.delete, "swap", cas=version)
    say("get after delete", client.get, "swap")


def counts(client):
    say("incr absent", client.incr, "counter", 1)
    say("incr again", client.incr, "counter", 5)
    say("incr with a default", client.incr, "other", 1, default=40)
    say("decr below zero", client.decr, "counter", 20)
    say("decr absent", client.decr, "third", 1, default=2**64 - 1)
    say("incr over the end", client.incr, "third", 1)
    client.set("word", "abc")
    say("incr a word", client.incr, "word", 1)
    client.set("text", "10")
    say("incr a text", client.incr, "text", 1)


def takes_many_at_once(client):
    values = {f"many:{n}": f"value {n} " * (n % 50) for n in range(1000)}
    say("set_multi", client.set_multi, values)
    say("get_multi", client.get_multi, [*values, "absent"])
    found = client.get_multi(["many:1", "many:2", "absent"], get_cas=True)
    say("get_multi with versions", {key: pair[0] for key, pair in found.items()})
    for key in list(values)[::2]:
        client.delete(key)
    say("delete_multi", client.delete_multi, ["many:1", "many:3", "absent"])
    say("get_multi of what is left", client.get_multi, list(values))
    _, version = client.gets("many:5")
    mappings = {("many:5", version): "swapped", ("many:7", 999_999): "never", ("absent", 999_999): "never"}
    swapped = client.set_multi_cas(mappings)
    say("set_multi_cas", {key: version is not None for key, version in swapped.items()})
    say("get_multi after it", client.get_multi, ["many:5", "many:7", "absent"])


def keeps_python_values(client):
    for value in (42, 4.5, True, None, b"bytes", [1, "two", {"three": 3}], "x" * 500_000, *WORDS, pattern(5000)):
        say("set", client.set, "object", value)
        say("get", client.get, "object")
    for value in (b"\r\n", b"END\r\n", b"\x80\x00" * 50, b"\x00\xff" * 100):
        say("set bytes", client.set, "bytes", value)
        say("get bytes", client.get, "bytes")
    for word in WORDS:
        say(f"set {word}", client.set, word, word)
        say(f"get {word}", client.get, word)


def expires(client):
    client.set("short", "x", time=1)
    client.set("long", "x", time=1000)
    client.set("until", "x", time=int(time.time()) + 1000)
    client.set("since", "x", time=int(time.time()) - 1000)
    time.sleep(OVER_ONE_SECOND)
    say("later", client.get_multi, ["short", "long", "until", "since"])


def moves_large_values(client):
    for size in SIZES:
        say(f"set {size}", client.set, f"size:{size}", pattern(size), compress_level=0)
        say(f"get {size}", client.get, f"size:{size}")
    say("get all sizes", client.get_multi, [f"size:{size}" for size in SIZES])
    client.set("large", "old")
    say("set too large", client.set, "large", bytes(TOO_LARGE), compress_level=0)
    say("get too large", client.get, "large")


def reconnects(client):
    client.set("kept", "x")
    client.disconnect_all()
    say("get after disconnect_all", client.get, "kept")


def tells_about_itself(client):
    stats = next(iter(client.stats().values()))
    say("counts sets", int(stats["cmd_set"]) > 0 and int(stats["get_hits"]) > 0)
    say("settings", sorted(set(next(iter(client.stats("settings").values()))) & {"maxbytes", "maxconns", "evictions"}))
    client.set("gone", "x")
    say("flush_all later", client.flush_all, 100)
    say("get before it", client.get, "gone")
    say("flush_all", client.flush_all)
    say("get after it", client.get, "gone")


def main():
    client = bmemcached.Client([f"{HOST}:{PORT}"], socket_timeout=10)
    steps = (stores_and_reads, compares_and_swaps, counts, takes_many_at_once, keeps_python_values)
    for step in (*steps, expires, moves_large_values, reconnects, tells_about_itself):
        step(client)


main()
