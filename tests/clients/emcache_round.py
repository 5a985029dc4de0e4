"""Everything a program does with emcache, as lines to compare. Takes the server's port."""

import asyncio
import time

import emcache

from transcript import HOST, OVER_ONE_SECOND, PORT, SIZES, TOO_LARGE, WORDS, pattern, say


async def ask(label, call, *arguments, **options):
    """`say` for a coroutine, without the versions of items."""
    try:
        value = await call(*arguments, **options)
    except Exception as error:

        def reraise(error=error):
            raise error

        return say(label, reraise)
    return say(label, without_version(value))


def without_version(value):
    if isinstance(value, emcache.Item):
        return (value.value, value.flags)
    if isinstance(value, dict):
        return {key: without_version(item) for key, item in value.items()}
    return value


async def stores_and_reads(client):
    await ask("get absent", client.get, b"absent")
    for verb in ("replace", "append", "prepend"):
        await ask(f"{verb} absent", getattr(client, verb), b"absent", b"x")
    await ask("delete absent", client.delete, b"absent")
    for verb in ("set", "add", "replace", "append", "prepend"):
        await ask(verb, getattr(client, verb), b"key", verb.encode())
        await ask(f"get after {verb}", client.get, b"key")
    await ask("set with flags", client.set, b"key", b"flagged", flags=65535)
    await ask("get with flags", client.get, b"key", return_flags=True)
    await ask("delete", client.delete, b"key")
    await ask("get after delete", client.get, b"key")


async def compares_and_swaps(client):
    await client.set(b"swap", b"one")
    item = await client.gets(b"swap")
    say("gets", item.value)
    await ask("cas", client.cas, b"swap", b"two", item.cas)
    await ask("cas again", client.cas, b"swap", b"three", item.cas)
    await ask("cas absent", client.cas, b"never", b"x", item.cas)
    await ask("get after cas", client.get, b"swap")


async def counts(client):
    await ask("increment absent", client.increment, b"counter", 1)
    await client.set(b"counter", b"10")
    await ask("increment", client.increment, b"counter", 5)
    await ask("decrement below zero", client.decrement, b"counter", 20)
    await client.set(b"word", b"abc")
    await ask("increment a word", client.increment, b"word", 1)


async def takes_many_at_once(client):
    values = {f"many:{n}".encode(): b"v" * n for n in range(500)}
    await asyncio.gather(*(client.set(key, value) for key, value in values.items()))
    await ask("get_many", client.get_many, [*values, b"absent"])
    await ask("gets_many", client.gets_many, [*list(values)[:50], b"absent"])
    await asyncio.gather(*(client.set(key, b"again", noreply=True) for key in list(values)[:100]))
    await ask("gat_many", client.gat_many, 100, list(values)[100:200])
    await asyncio.gather(*(client.delete(key) for key in list(values)[::2]))
    await ask("get_many of what is left", client.get_many, list(values)[100:])


async def expires(client):
    await client.set(b"short", b"x", exptime=1)
    await client.set(b"touched", b"x", exptime=30)
    await client.set(b"read", b"x", exptime=30)
    await client.set(b"long", b"x", exptime=1000)
    await client.set(b"until", b"x", exptime=int(time.time()) + 1000)
    await client.set(b"since", b"x", exptime=int(time.time()) - 1000)
    await ask("touch", client.touch, b"touched", 1000)
    await ask("touch absent", client.touch, b"absent", 1000)
    await ask("gat", client.gat, 1000, b"read")
    await ask("gat absent", client.gat, 1000, b"absent")
    await asyncio.sleep(OVER_ONE_SECOND)
    await ask("later", client.get_many, [b"short", b"touched", b"read", b"long", b"until", b"since"])


async def moves_values_of_every_kind(client):
    for size in SIZES:
        await ask(f"set {size}", client.set, b"size", pattern(size))
        await ask(f"get {size}", client.get, b"size")
    await ask("set too large", client.set, b"size", bytes(TOO_LARGE))
    await ask("get too large", client.get, b"size")
    for value in (b"\r\n", b"END\r\n", b"VALUE size 0 1\r\nx\r\n", b"\x00\xff" * 100):
        await ask("set bytes", client.set, b"bytes", value)
        await ask("get bytes", client.get, b"bytes")
    for word in WORDS:
        await ask(f"set {word}", client.set, word.encode(), word.encode())
        await ask(f"get {word}", client.get, word.encode())


async def joins_single_reads():
    """Reads of many tasks, which this client sends as one request."""
    client = await emcache.create_client([emcache.MemcachedHostAddress(HOST, PORT)], autobatching=True, timeout=10.0)
    await client.set(b"batch", b"x")
    found = await asyncio.gather(*(client.get(b"batch" if n % 2 else b"absent") for n in range(200)))
    say("autobatching", [None if item is None else item.value for item in found])
    await client.close()


async def flushes(client):
    await client.set(b"gone", b"x")
    node = emcache.MemcachedHostAddress(HOST, PORT)
    await ask("flush_all later", client.flush_all, node, delay=100)
    await ask("get before it", client.get, b"gone")
    await ask("flush_all", client.flush_all, node)
    await ask("get after it", client.get, b"gone")


async def main():
    node = emcache.MemcachedHostAddress(HOST, PORT)
    client = await emcache.create_client([node], timeout=10.0, max_connections=4)
    steps = (stores_and_reads, compares_and_swaps, counts, takes_many_at_once, expires, moves_values_of_every_kind)
    for step in (*steps, flushes):
        await step(client)
    await client.close()
    await joins_single_reads()


asyncio.run(main())
