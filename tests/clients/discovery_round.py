"""Finds the nodes of a cluster from one of them, as programs of a managed service do. Takes that node's address."""

import sys

from elasticache_auto_discovery import discover
from pymemcache.client.hash import HashClient

KEYS = 300
TIMEOUT_SECONDS = 10

nodes = [(ip.decode(), int(port)) for _, ip, port in discover(sys.argv[1], TIMEOUT_SECONDS)]
assert len(nodes) == 3, nodes
client = HashClient(nodes, default_noreply=False, connect_timeout=TIMEOUT_SECONDS, timeout=TIMEOUT_SECONDS)
for number in range(KEYS):
    assert client.set(f"discovered{number}", f"value {number}")
for number in range(KEYS):
    assert client.get(f"discovered{number}") == f"value {number}".encode(), number
