"""One round of everything a program does with pylibmc, and so with libmemcached. Takes the server's port."""

import sys
import threading

import pylibmc

SERVERS = [f"127.0.0.1:{sys.argv[1]}"]
TIMEOUTS = {"connect_timeout": 10_000, "send_timeout": 10_000_000, "receive_timeout": 10_000_000}
BEHAVIOURS = [
    {"tcp_nodelay": True, "cas": True},
    {"no_block": True, "tcp_nodelay": True, "cas": True},
]


def check(got, expected):
    assert got == expected, f"expected {expected!r:.200}, got {got!r:.200}"


def connect(behaviours):
    return pylibmc.Client(SERVERS, binary=False, behaviors={**TIMEOUTS, **behaviours})


def stores_and_reads(client):
    check(client.get("absent"), None)
    check(client.set("key", "value"), True)
    check(client.get("key"), "value")
    check(client.add("key", "other"), False)
    check(client.replace("key", "third"), True)
    check(client.append("key", "!"), True)
    check(client.prepend("key", "?"), True)
    check(client.get("key"), "?third!")
    check(client.delete("key"), True)
    check(client.delete("key"), False)


def compares_and_swaps(client):
    client.set("swap", "one")
    value, version = client.gets("swap")
    check(value, "one")
    check(client.cas("swap", "two", version), True)
    check(client.cas("swap", "three", version), False)
    check(client.get("swap"), "two")


def counts(client):
    client.set("counter", 10)
    check(client.incr("counter", 5), 15)
    check(client.decr("counter", 3), 12)


def takes_many_at_once(client):
    values = {f"many:{n}": "v" * n for n in range(300)}
    check(client.set_multi(values), [])
    check(client.get_multi(list(values) + ["absent"]), values)
    check(client.delete_multi(list(values)), True)
    check(client.get_multi(list(values)), {})


def keeps_python_values(client):
    for value in (42, 4.5, True, "日本語", b"bytes", [1, "two", {"three": 3}], "x" * 500_000):
        client.set("object", value, min_compress_len=1000)
        check(client.get("object"), value)


def expires(client):
    client.set("touched", "x", time=1000)
    check(client.touch("touched", 2000), True)
    check(client.touch("absent", 2000), False)
    check(client.get("touched"), "x")


def refuses_too_much(client):
    try:
        stored = client.set("large", bytes(2_000_000))
    except pylibmc.Error:
        stored = False
    check(stored, False)
    check(client.get("large"), None)


def shares_a_pool():
    pool = pylibmc.ThreadMappedPool(connect(BEHAVIOURS[0]))
    connect(BEHAVIOURS[0]).set("shared", 0)

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
    check(connect(BEHAVIOURS[0]).get("shared"), 1600)


def main():
    for behaviours in BEHAVIOURS:
        client = connect(behaviours)
        for step in (stores_and_reads, compares_and_swaps, counts, takes_many_at_once, keeps_python_values, expires):
            step(client)
    refuses_too_much(connect(BEHAVIOURS[0]))
    shares_a_pool()
    client = connect(BEHAVIOURS[0])
    stats = dict(client.get_stats()[0][1])
    assert {"pid", "version", "curr_items"} <= {str(name, "ascii") if isinstance(name, bytes) else name for name in stats}, stats
    check(client.flush_all(), True)
    check(client.get("shared"), None)


main()
