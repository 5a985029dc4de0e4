"""Follows the nodes of a cluster from one of them, as programs of a managed service do. Takes that node's address; when it has said
`found 3`, one of the nodes is to leave, and it ends when it knows."""

import asyncio
import sys

import emcache

KEYS = 100
POLL_SECONDS = 0.3
PATIENCE_SECONDS = 20


async def use(client):
    for number in range(KEYS):
        key = f"followed{number}".encode()
        await client.set(key, b"value %d" % number)
        item = await client.get(key)
        assert item.value == b"value %d" % number, (key, item)


async def follow(host, port):
    client = await emcache.create_client(
        [emcache.MemcachedHostAddress(host, port)],
        timeout=PATIENCE_SECONDS,
        autodiscovery=True,
        autodiscovery_poll_interval=POLL_SECONDS,
    )
    nodes = client.cluster_managment().nodes
    assert len(nodes()) == 3, nodes()
    await use(client)
    print("found 3", flush=True)
    for _ in range(int(PATIENCE_SECONDS / POLL_SECONDS)):
        if len(nodes()) == 2:
            break
        await asyncio.sleep(POLL_SECONDS)
    assert len(nodes()) == 2, nodes()
    await use(client)
    await client.close()


HOST, PORT = sys.argv[1].rsplit(":", 1)
asyncio.run(follow(HOST, int(PORT)))
