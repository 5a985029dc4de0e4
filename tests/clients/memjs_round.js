// Everything a program does with memjs, as lines to compare. Takes the server's port.
"use strict";

const memjs = require("memjs");

const { ADDRESS, OVER_ONE_SECOND_MS, SIZES, TOO_LARGE, WORDS, pattern, say, sleep } = require("./transcript.js");

const connect = () => memjs.Client.create(ADDRESS, { timeout: 10, conntimeout: 10, retries: 0 });

const read = async (client, key) => {
  const { value, flags } = await client.get(key);
  return [value, flags];
};

// Appending and prepending know no promises.
const join = (client, verb, key, value) =>
  new Promise((resolve, reject) => {
    client[verb](key, value, (error, done) => (error ? reject(error) : resolve(done)));
  });

async function storesAndReads(client) {
  await say("get absent", read(client, "absent"));
  await say("replace absent", client.replace("absent", "x", {}));
  for (const verb of ["append", "prepend"]) await say(`${verb} absent`, join(client, verb, "absent", "x"));
  await say("delete absent", client.delete("absent"));
  for (const verb of ["set", "add", "replace"]) {
    await say(verb, client[verb]("key", verb, {}));
    await say(`get after ${verb}`, read(client, "key"));
  }
  for (const verb of ["append", "prepend"]) {
    await say(verb, join(client, verb, "key", verb));
    await say(`get after ${verb}`, read(client, "key"));
  }
  await say("delete", client.delete("key"));
  await say("get after delete", read(client, "key"));
}

async function counts(client) {
  await say("increment absent", client.increment("counter", 1, {}));
  await say("increment with an initial", client.increment("other", 5, { initial: 40 }));
  await say("increment", client.increment("other", 5, { initial: 40 }));
  await say("decrement below zero", client.decrement("other", 100, {}));
  await client.set("word", "abc", {});
  await say("increment a word", client.increment("word", 1, {}));
}

async function takesManyAtOnce(client) {
  const keys = Array.from({ length: 500 }, (_, n) => `many:${n}`);
  const stored = await Promise.all(keys.map((key, n) => client.set(key, "v".repeat(n), {})));
  await say("many sets", stored);
  await say("many gets", Promise.all([...keys, "absent"].map((key) => read(client, key))));
  await client.set("shared", "0", {});
  await Promise.all(keys.map(() => client.increment("shared", 1, {})));
  await say("many increments", read(client, "shared"));
}

async function movesValuesOfEveryKind(client) {
  for (const size of SIZES) {
    await say(`set ${size}`, client.set("size", pattern(size), {}));
    await say(`get ${size}`, read(client, "size"));
  }
  for (const word of WORDS) {
    await say(`set ${word}`, client.set(encodeURIComponent(word), word, {}));
    await say(`get ${word}`, read(client, encodeURIComponent(word)));
  }
  await say("set too large", client.set("size", Buffer.alloc(TOO_LARGE), {}));
  await say("get too large", read(client, "size"));
}

async function expires(client) {
  await client.set("short", "x", { expires: 1 });
  await client.set("touched", "x", { expires: 30 });
  await client.set("long", "x", { expires: 1000 });
  await client.set("since", "x", { expires: Math.floor(Date.now() / 1000) - 1000 });
  await say("touch", client.touch("touched", 1000));
  await say("touch absent", client.touch("absent", 1000));
  await sleep(OVER_ONE_SECOND_MS);
  for (const key of ["short", "touched", "long", "since"]) await say(`later ${key}`, read(client, key));
}

async function tellsAboutItself(client) {
  const stats = await new Promise((resolve) => client.stats((_error, _server, found) => resolve(found)));
  await say("counts sets", Number(stats.cmd_set) > 0 && Number(stats.get_hits) > 0);
  await client.set("gone", "x", {});
  await say("flush", new Promise((resolve) => client.flush((error) => resolve(error))));
  await say("get after it", read(client, "gone"));
}

async function main() {
  const client = connect();
  for (const step of [storesAndReads, counts, takesManyAtOnce, movesValuesOfEveryKind, expires]) {
    await step(client);
  }
  client.close();
  const again = connect();
  await say("get of a new client", read(again, "long"));
  await tellsAboutItself(again);
  again.quit();
}

// Timers of the client would keep the process for minutes.
main().then(() => process.exit());
