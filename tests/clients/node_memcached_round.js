// Everything a program does with the npm package memcached, as lines to compare. Takes the server's port.
"use strict";

const Memcached = require("memcached");

const { ADDRESS, OVER_ONE_SECOND_MS, SIZES, TOO_LARGE, WORDS, pattern, say, sleep } = require("./transcript.js");

const OPTIONS = { timeout: 10000, retries: 0, maxValue: 10 * TOO_LARGE, maxKeySize: 250 };

// This client sends bytes above 0x7f as two.
const BINARY_SIZE_MAX = 600000;

// What one call of the client gives its callback.
const ask = (client, verb, ...parameters) =>
  new Promise((resolve, reject) => {
    client[verb](...parameters, (error, value) => (error ? reject(error) : resolve(value)));
  });

async function storesAndReads(client) {
  const tell = (label, verb, ...parameters) => say(label, ask(client, verb, ...parameters));
  await tell("get absent", "get", "absent");
  await tell("replace absent", "replace", "absent", "x", 0);
  await tell("append absent", "append", "absent", "x");
  await tell("prepend absent", "prepend", "absent", "x");
  await tell("del absent", "del", "absent");
  for (const verb of ["set", "add", "replace"]) {
    await tell(verb, verb, "key", verb, 0);
    await tell(`get after ${verb}`, "get", "key");
  }
  for (const verb of ["append", "prepend"]) {
    await tell(verb, verb, "key", verb);
    await tell(`get after ${verb}`, "get", "key");
  }
  await tell("del", "del", "key");
  await tell("get after del", "get", "key");
}

async function comparesAndSwaps(client) {
  await ask(client, "set", "swap", "one", 0);
  const { cas, swap } = await ask(client, "gets", "swap");
  await say("gets", swap);
  await say("cas", ask(client, "cas", "swap", "two", cas, 0));
  await say("cas again", ask(client, "cas", "swap", "three", cas, 0));
  await say("cas absent", ask(client, "cas", "never", "x", cas, 0));
  await say("get after cas", ask(client, "get", "swap"));
  await say("gets absent", ask(client, "gets", "never"));
}

async function counts(client) {
  await say("incr absent", ask(client, "incr", "counter", 1));
  await ask(client, "set", "counter", 10, 0);
  await say("incr", ask(client, "incr", "counter", 5));
  await say("decr below zero", ask(client, "decr", "counter", 20));
  await ask(client, "set", "word", "abc", 0);
  await say("incr a word", ask(client, "incr", "word", 1));
}

async function takesManyAtOnce(client) {
  const keys = Array.from({ length: 500 }, (_, n) => `many:${n}`);
  await say("many sets", Promise.all(keys.map((key, n) => ask(client, "set", key, "v".repeat(n), 0))));
  await say("getMulti", ask(client, "getMulti", [...keys, "absent"]));
  await say("many dels", Promise.all(keys.map((key) => ask(client, "del", key))));
  await say("getMulti after it", ask(client, "getMulti", keys));
  await ask(client, "set", "shared", 0, 0);
  await Promise.all(keys.map(() => ask(client, "incr", "shared", 1)));
  await say("many incrs", ask(client, "get", "shared"));
}

async function movesValuesOfEveryKind(client) {
  for (const size of SIZES.filter((size) => size <= BINARY_SIZE_MAX)) {
    await say(`set ${size}`, ask(client, "set", "size", pattern(size), 0));
    await say(`get ${size}`, ask(client, "get", "size"));
  }
  for (const value of [42, true, { nested: [1, null] }, ...WORDS, "\r\nEND\r\n"]) {
    await say("set", ask(client, "set", "object", value, 0));
    await say("get", ask(client, "get", "object"));
  }
}

async function expires(client) {
  await ask(client, "set", "short", "x", 1);
  await ask(client, "set", "touched", "x", 30);
  await ask(client, "set", "long", "x", 1000);
  await ask(client, "set", "since", "x", Math.floor(Date.now() / 1000) - 1000);
  await say("touch", ask(client, "touch", "touched", 1000));
  await say("touch absent", ask(client, "touch", "absent", 1000));
  await sleep(OVER_ONE_SECOND_MS);
  for (const key of ["short", "touched", "long", "since"]) await say(`later ${key}`, ask(client, "get", key));
}

async function tellsAboutItself(client) {
  const [version] = await ask(client, "version");
  await say("version is dotted numbers", /^[\d.]+$/.test(version.version));
  const [stats] = await ask(client, "stats");
  await say("counts sets", stats.cmd_set > 0 && stats.get_hits > 0);
  await ask(client, "set", "gone", "x", 0);
  await say("flush", ask(client, "flush"));
  await say("get after it", ask(client, "get", "gone"));
}

// Last of all: this client gives up on a server that refuses a value.
async function isRefused() {
  const client = new Memcached(ADDRESS, OPTIONS);
  await ask(client, "set", "large", "old", 0);
  await say("set too large", ask(client, "set", "large", Buffer.alloc(TOO_LARGE), 0));
  client.end();
  const again = new Memcached(ADDRESS, OPTIONS);
  await say("get too large", ask(again, "get", "large"));
  again.end();
}

async function main() {
  const client = new Memcached(ADDRESS, OPTIONS);
  for (const step of [storesAndReads, comparesAndSwaps, counts, takesManyAtOnce, movesValuesOfEveryKind, expires]) {
    await step(client);
  }
  client.end();
  const again = new Memcached(ADDRESS, { ...OPTIONS, poolSize: 1 });
  await say("get of a new client", ask(again, "get", "long"));
  await tellsAboutItself(again);
  again.end();
  await isRefused();
}

// Timers of the client would keep the process for minutes.
main().then(() => process.exit());
