"""Where libmemcached puts keys, asked through pylibmc: prints the vectors of client/golden/libmemcached.txt.

Each server is a thread that stores nothing and tells which keys it was asked for.
"""

import socket
import threading

import pylibmc

# Name of the distribution, pylibmc's behaviours, and servers with their weights.
SHAPES = [
    ("modulo", {}, [(11211, 1)] * 4),
    ("modulo", {}, [(11311, 1)] * 7),
    ("ketama", {"ketama": True}, [(11211, 1)] * 3),
    ("ketama", {"ketama": True}, [(11311, 1)] * 5),
    ("ketama", {"ketama": True}, [(11211, 1), (11311, 1), (11312, 1), (11211, 1), (11311, 1)] * 2),
    ("ketama_weighted", {"ketama_weighted": True}, [(11211, 1)] * 4),
    ("ketama_weighted", {"ketama_weighted": True}, [(11211, 1), (11311, 2), (11311, 7), (11211, 3), (11312, 11)]),
    ("ketama_weighted", {"ketama_weighted": True}, [(11311, 100), (11311, 1), (11311, 33)]),
]

KEYS = [b"user:%d:profile" % n for n in range(150)] + [b"k" * n for n in range(1, 40)] + [b"k" * 250]
KEYS += [("schlüssel-%d" % n).encode() for n in range(20)]


class Server:
    """A server that misses every key and remembers it."""

    def __init__(self, address):
        self.keys = []
        self.listener = socket.create_server(address)
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.serve, args=(connection,), daemon=True).start()

    def serve(self, connection):
        for line in connection.makefile("rb"):
            words = line.split()
            if words[0] in (b"get", b"gets"):
                self.keys += words[1:]
                connection.sendall(b"END\r\n")
            elif words[0] == b"version":
                connection.sendall(b"VERSION 1.6.0\r\n")
            else:
                return


def main():
    print("# Where libmemcached puts keys. Written by tests/clients/placement_vectors.py with pylibmc", pylibmc.__version__)
    print("# list DISTRIBUTION HOST:PORT/WEIGHT...")
    print("# key BYTES-IN-HEX SERVER      of the list above, counted from 0")
    running = {}
    for name, behaviors, shape in SHAPES:
        addresses = [("127.77.0.%d" % (n + 1), port) for n, (port, _) in enumerate(shape)]
        servers = [running.setdefault(address, None) or Server(address) for address in addresses]
        running.update(zip(addresses, servers))
        named = [("%s:%d" % address, weight) for address, (_, weight) in zip(addresses, shape)]
        client = pylibmc.Client(["%s:%d" % pair for pair in named], behaviors=dict(behaviors))
        print("list", name, " ".join("%s/%d" % pair for pair in named))
        for key in KEYS:
            client.get(key)
            [number] = [n for n, server in enumerate(servers) if server.keys]
            servers[number].keys.clear()
            print("key", key.hex(), number)
        client.disconnect_all()


if __name__ == "__main__":
    main()
