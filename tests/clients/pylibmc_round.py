"""Everything a program does with pylibmc, and so with libmemcached, as lines to compare.

Takes the server's port and `text` or `binary`.
"""

import sys
import threading
import time

import pylibmc

from transcript import HOST, OVER_ONE_SECOND, PORT, SIZES, TOO_LARGE, WORDS, pattern, say

IS_BINARY = sys.argv[2] == "binary"
TIMEOUTS = {"connect_timeout": 10_000, "send_timeout": 10_000_000, "receive_timeout": 10_000_000}
WAITING = {"tcp_nodelay": True, "cas": True}
BEHAVIOURS = {
    "waiting": WAITING,
    "not blocking": {"no_block": True, "tcp_nodelay": True, "cas": True},
    "placing by ketama": {"cas": True, "hash": "murmur", "ketama": True},
}


def connect(**behaviours):
    return pylibmc.Client([f"{HOST}:{PORT}"], binary=IS_BINARY, behaviors={**TIMEOUTS, **behaviours})


def stores_and_reads(client):
    say("get absent", client.get, "absent")
    say("get with a default", client.get, "absent", "default")
    for verb in ("replace", "append", "prepend"):
        say(f"{verb} absent", getattr(client, verb), "absent", "x")
    for verb in ("set", "add", "replace", "append", "prepend"):
        say(verb, getattr(client, verb), "key", verb)
        say(f"get after {verb}", client.get, "key")
    say("delete", client.delete, "key")
    say("delete again", client.delete, "key")
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


def counts(client):
    say("incr absent", client.incr, "counter", 1)
    client.set("counter", 10)
    say("incr", client.incr, "counter", 5)
    say("decr below zero", client.decr, "counter", 20)
    if not IS_BINARY:
        client.set_multi({f"counter:{n}": n for n in range(20)})
        say("incr_multi", client.incr_multi, [f"counter:{n}" for n in range(20)], delta=3)
        say("get after incr_multi", client.get_multi, [f"counter:{n}" for n in range(20)])


def takes_an_error(client):
    """Last of all: libmemcached gives up on a server that refuses to count."""
    client.set("word", "abc")
    say("incr a word", client.incr, "word", 1)


def takes_many_at_once(client):
    values = {f"many:{n}": "v" * n for n in range(1000)}
    say("set_multi", client.set_multi, values)
    say("get_multi", client.get_multi, [*values, "absent"])
    say("get_multi with a prefix", client.get_multi, [str(n) for n in range(50)], key_prefix="many:")
    say("add_multi", lambda: sorted(client.add_multi({"many:1": "x", "fresh:1": "y"})))
    say("delete_multi", client.delete_multi, list(values)[::2])
    say("get_multi of what is left", client.get_multi, list(values))


def keeps_python_values(client):
    for value in (42, 4.5, True, b"bytes", [1, "two", {"three": 3}], "x" * 500_000, *WORDS, pattern(5000)):
        say("set", client.set, "object", value, min_compress_len=1000)
        say("get", client.get, "object")


def expires(client):
    client.set("short", "x", time=1)
    client.set("touched", "x", time=30)
    client.set("long", "x", time=1000)
    client.set("until", "x", time=int(time.time()) + 1000)
    client.set("since", "x", time=int(time.time()) - 1000)
    say("touch", client.touch, "touched", 1000)
    say("touch absent", client.touch, "absent", 1000)
    time.sleep(OVER_ONE_SECOND)
    say("later", client.get_multi, ["short", "touched", "long", "until", "since"])


def moves_large_values(client):
    for size in SIZES:
        say(f"set {size}", client.set, f"size:{size}", pattern(size))
        say(f"get {size}", client.get, f"size:{size}")
    say("get all sizes", client.get_multi, [f"size:{size}" for size in SIZES])
    client.set("large", "old")
    say("set too large", client.set, "large", bytes(TOO_LARGE))
    say("get too large", client.get, "large")


def reconnects(client):
    client.set("kept", "x")
    client.disconnect_all()
    say("get after disconnect_all", client.get, "kept")
    say("get of a clone", client.clone().get, "kept")


def does_not_wait():
    """Requests that libmemcached buffers: quiet ones in the binary protocol, a pipeline in the text protocol."""
    client = connect(buffer_requests=True, no_block=True, tcp_nodelay=True)
    for n in range(500):
        buffers(client.set, f"buffered:{n}", str(n))
    client.get("buffered:0")
    say("after buffered sets", connect().get_multi, [f"buffered:{n}" for n in range(500)])
    if not IS_BINARY:
        client = connect(_noreply=True)
        for n in range(500):
            client.set(f"noreply:{n}", str(n))
        client.get("noreply:0")
        say("after noreply sets", connect().get_multi, [f"noreply:{n}" for n in range(500)])


def buffers(call, *arguments):
    """A request that waits in the client's buffer is an error to pylibmc."""
    try:
        call(*arguments)
    except pylibmc.Error as error:
        assert "error 32" in str(error), error


def shares_a_pool():
    pool = pylibmc.ThreadMappedPool(connect(**WAITING))
    connect().set("shared", 0)

    def count():
        with pool.reserve() as client:
            for _ in range(200):
                client.incr("shared")
        pool.relinquish()

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    say("after eight threads", connect().get, "shared")


def tells_about_itself(client):
    stats = {as_text(name): as_text(value) for name, value in client.get_stats()[0][1].items()}
    say("counts sets", int(stats["cmd_set"]) > 0 and int(stats["get_hits"]) > 0)
    say("version is dotted numbers", stats["version"].replace(".", "").isdigit())
    client.set("gone", "x")
    say("flush_all", client.flush_all)
    say("get after it", client.get, "gone")


def as_text(value):
    return value.decode() if isinstance(value, bytes) else value


def main():
    for name, behaviours in BEHAVIOURS.items():
        say("client", name)
        client = connect(**behaviours)
        for step in (stores_and_reads, compares_and_swaps, counts, takes_many_at_once, keeps_python_values):
            step(client)
    client = connect(**WAITING)
    for step in (expires, moves_large_values, reconnects):
        step(client)
    does_not_wait()
    shares_a_pool()
    tells_about_itself(client)
    takes_an_error(connect())


main()
