"""Everything a program does with aiomcache, as lines to compare. Takes the server's port."""

import asyncio
import time

import aiomcache

from transcript import HOST, OVER_ONE_SECOND, PORT, SIZES, TOO_LARGE, WORDS, pattern, say

CONNECTIONS = 4


async def ask(label, call, *arguments, **options):
    """`say` for a coroutine."""
    try:
        value = await call(*arguments, **options)
    except Exception as error:

        def reraise(error=error):
            raise error

        return say(label, reraise)
    return say(label, value)


async def stores_and_reads(client):
    await ask("get absent", client.get, b"absent")
    await ask("replace absent", client.replace, b"absent", b"x")
    await ask("delete absent", client.delete, b"absent")
    for verb in ("set", "add", "replace", "append", "prepend"):
        await ask(verb, getattr(client, verb), b"key", verb.encode())
        await ask(f"get after {verb}", client.get, b"key")
    await ask("delete", client.delete, b"key")
    await ask("get after delete", client.get, b"key")


async def compares_and_swaps(client):
    await client.set(b"swap", b"one")
    value, version = await client.gets(b"swap")
    say("gets", value)
    await ask("cas", client.cas, b"swap", b"two", version)
    await ask("cas again", client.cas, b"swap", b"three", version)
    await ask("get after cas", client.get, b"swap")
    await ask("gets absent", client.gets, b"never")


async def counts(client):
    await ask("incr absent", client.incr, b"counter", 1)
    await client.set(b"counter", b"10")
    await ask("incr", client.incr, b"counter", 5)
    await ask("decr below zero", client.decr, b"counter", 20)
    await client.set(b"word", b"abc")
    await ask("incr a word", client.incr, b"word", 1)


async def takes_many_at_once(client):
    values = {f"many:{n}".encode(): b"v" * n for n in range(500)}
    await asyncio.gather(*(client.set(key, value) for key, value in values.items()))
    await ask("multi_get", client.multi_get, *values, b"absent")
    await asyncio.gather(*(client.delete(key) for key in list(values)[::2]))
    await ask("multi_get of what is left", client.multi_get, *values)
    await client.set(b"shared", b"0")
    await asyncio.gather(*(client.incr(b"shared", 1) for _ in range(500)))
    await ask("after many tasks", client.get, b"shared")


async def expires(client):
    await client.set(b"short", b"x", exptime=1)
    await client.set(b"touched", b"x", exptime=30)
    await client.set(b"long", b"x", exptime=1000)
    await client.set(b"until", b"x", exptime=int(time.time()) + 1000)
    await client.set(b"since", b"x", exptime=int(time.time()) - 1000)
    await ask("touch", client.touch, b"touched", 1000)
    await ask("touch absent", client.touch, b"absent", 1000)
    await asyncio.sleep(OVER_ONE_SECOND)
    await ask("later", client.multi_get, b"short", b"touched", b"long", b"until", b"since")


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


async def keeps_python_values():
    client = aiomcache.FlagClient(HOST, PORT, get_flag_handler=from_flags, set_flag_handler=to_flags)
    for value in (b"bytes", "text", 42):
        await ask("set with flags", client.set, b"flags", value)
        await ask("get with flags", client.get, b"flags")
    await client.close()


async def to_flags(value):
    return (b"%d" % value, 7) if isinstance(value, int) else (value.encode(), 2**32 - 1)


async def from_flags(value, flags):
    return (value, flags)


async def tells_about_itself(client):
    stats = await client.stats()
    say("counts sets", int(stats[b"cmd_set"]) > 0 and int(stats[b"get_hits"]) > 0)
    say("version is dotted numbers", (await client.version()).replace(b".", b"").isdigit())
    await client.set(b"gone", b"x")
    await ask("flush_all", client.flush_all)
    await ask("get after it", client.get, b"gone")


async def main():
    client = aiomcache.Client(HOST, PORT, pool_size=CONNECTIONS)
    steps = (stores_and_reads, compares_and_swaps, counts, takes_many_at_once, expires, moves_values_of_every_kind)
    for step in steps:
        await step(client)
    await keeps_python_values()
    await client.close()
    client = aiomcache.Client(HOST, PORT)
    await ask("get of a new client", client.get, b"swap")
    await tells_about_itself(client)
    await client.close()


asyncio.run(main())
