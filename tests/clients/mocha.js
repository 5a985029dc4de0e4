// Runs tests that were written for mocha with node's own runner: `node --require ./mocha.js --test FILE...`.
"use strict";

const runner = require("node:test");

globalThis.describe = runner.describe;
globalThis.before = runner.before;
globalThis.after = runner.after;
globalThis.beforeEach = runner.beforeEach;
globalThis.afterEach = runner.afterEach;

// Mocha hands a test its callback as the only parameter; node's runner hands it as the second one.
globalThis.it = (name, test) => runner.it(name, test.length === 0 ? test : (_context, done) => test(done));

require("should");
