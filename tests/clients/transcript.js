// What the node rounds share: one printed line for each check. Two servers that behave alike give the same lines:
// nothing that may differ between them is printed, and a long value is told by its length and its checksum.
"use strict";

const crypto = require("node:crypto");

const PORT = Number(process.argv[2]);
const ADDRESS = `127.0.0.1:${PORT}`;

const SHOWN_SIZE_MAX = 60;

// Longer than one second by the clocks of both servers, which tick once a second.
const OVER_ONE_SECOND_MS = 2200;

// Sizes around the ends of packets, buffers, pages and the largest item.
const SIZES = [0, 1, 1023, 4095, 4096, 16383, 65536, 300000, 524289, 1000000, 1048000];

const TOO_LARGE = 2000000;

const WORDS = ["naïve", "日本語", "🦀".repeat(20), "Ελληνικά", "кэш"];

function show(value) {
  if (Buffer.isBuffer(value)) return shorten(`<${value.toString("latin1")}>`);
  if (Array.isArray(value)) return shorten(`[${value.map(show).join(", ")}]`);
  if (value instanceof Error) return `error ${value.message}`.replaceAll(String(PORT), "PORT");
  if (value !== null && typeof value === "object") {
    const pairs = Object.keys(value).sort().map((key) => `${key}: ${show(value[key])}`);
    return shorten(`{${pairs.join(", ")}}`);
  }
  return shorten(JSON.stringify(value) ?? "undefined");
}

function shorten(text) {
  if (text.length <= SHOWN_SIZE_MAX) return JSON.stringify(text);
  const checksum = crypto.createHash("sha1").update(text, "utf8").digest("hex").slice(0, 8);
  return `${JSON.stringify(text.slice(0, 20))}.. ${text.length} long, checksum ${checksum}`;
}

// Prints one line: what `check` gives in the end, or the error it ends with. Returns that value.
async function say(label, check) {
  let value;
  try {
    value = await (typeof check === "function" ? check() : check);
  } catch (error) {
    value = error instanceof Error ? error : new Error(String(error));
  }
  console.log(`${label}: ${show(value)}`);
  return value;
}

function pattern(size) {
  return Buffer.alloc(size, Buffer.from(Array.from({ length: 256 }, (_, byte) => byte)));
}

const sleep = (milliseconds) => new Promise((resolve) => setTimeout(resolve, milliseconds));

module.exports = { ADDRESS, OVER_ONE_SECOND_MS, SIZES, TOO_LARGE, WORDS, pattern, say, sleep };
