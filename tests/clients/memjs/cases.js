// memjs (binary protocol) against a server: node cases.js PORT PHASE SETTLES PID
//
// PHASE is `cases`, `remember` or `recall` (what was remembered before a restart of the server). With SETTLES 1 records are
// forced to disk where a case says so. PID is the server's process, or 0. Prints `ok NAME` or `FAILED NAME: reason` for each.
"use strict";

const assert = require("assert");
const fs = require("fs");
const memjs = require("memjs");
const net = require("net");

const [port, phase, settles, pid] = [process.argv[2], process.argv[3], process.argv[4] === "1", Number(process.argv[5])];
const TIMEOUT_SECONDS = 1;
const MIB = 1024 * 1024;

function connect(options) {
  const silent = { log: function () {} };
  return memjs.Client.create("127.0.0.1:" + port, { timeout: TIMEOUT_SECONDS, retries: 1, logger: silent, ...options });
}

// Forces all records to disk.
function settle() {
  if (!settles) return Promise.resolve();
  return new Promise(function (resolve, reject) {
    const connection = net.connect(port, "127.0.0.1", () => connection.write("debugflush\r\n"));
    connection.on("error", reject);
    connection.on("data", function (answer) {
      connection.end();
      String(answer) === "OK\r\n" ? resolve() : reject(new Error("debugflush was answered with " + answer));
    });
  });
}

function sleep(milliseconds) {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}

// Bytes of all kinds, told by a number.
function valueOf(size) {
  const value = Buffer.alloc(size);
  for (let at = 0; at < size; at++) value[at] = (at * 31 + (at >> 8) * 17 + size) & 255;
  return value;
}

async function fails(action) {
  try {
    return !(await action());
  } catch {
    return true;
  }
}

async function read(client, key) {
  return (await client.get(key)).value;
}

const cases = {
  async store_and_read(client, key) {
    assert.strictEqual(await read(client, key), null);
    assert.strictEqual(await client.set(key, "first"), true);
    await settle();
    assert.strictEqual(String(await read(client, key)), "first");
    assert.strictEqual(await client.set(key, Buffer.from("second value")), true);
    await settle();
    assert.strictEqual(String(await read(client, key)), "second value");
    assert.strictEqual(await client.delete(key), true);
    await settle();
    assert.strictEqual(await read(client, key), null);
    assert.strictEqual(await client.delete(key), false);
  },

  async values_of_all_sizes(client, key) {
    const sizes = [0, 1, 100, 4095, 4096, 10000, 100000, 1000000, MIB - 400];
    for (const size of sizes) assert.strictEqual(await client.set(key + size, valueOf(size)), true);
    await settle();
    for (const size of sizes) assert.ok(valueOf(size).equals(await read(client, key + size)), "a value of " + size + " bytes");
  },

  async value_too_large(client, key) {
    assert.strictEqual(await client.set(key, "small"), true);
    await settle();
    assert.ok(await fails(() => client.set(key, Buffer.alloc(MIB + 100))), "it is refused");
    assert.strictEqual(await client.set(key + ":other", "x"), true);
    assert.strictEqual(await read(client, key), null);
  },

  async many_at_once(client, key) {
    const numbers = Array.from({ length: 300 }, (_, number) => number);
    await Promise.all(numbers.map((number) => client.set(key + number, valueOf(number * 20))));
    await settle();
    const values = await Promise.all(numbers.map((number) => read(client, key + number)));
    for (const number of numbers) assert.ok(valueOf(number * 20).equals(values[number]), "value " + number);
  },

  async add_and_replace(client, key) {
    assert.strictEqual(await client.replace(key, "a"), false);
    assert.strictEqual(await client.add(key, "b"), true);
    await settle();
    assert.strictEqual(await client.add(key, "c"), false);
    assert.strictEqual(await client.replace(key, "d"), true);
    await settle();
    assert.strictEqual(String(await read(client, key)), "d");
  },

  async append(client, key) {
    assert.ok(await fails(() => client.append(key, "x")), "append to what is absent");
    assert.strictEqual(await client.set(key, "middle"), true);
    await settle();
    assert.strictEqual(await client.append(key, "-end"), true);
    await settle();
    // What this version of the library sends as a prepend is an append.
    assert.strictEqual(await client.prepend(key, "-more"), true);
    await settle();
    assert.strictEqual(String(await read(client, key)), "middle-end-more");
  },

  async count(client, key) {
    assert.deepStrictEqual(await client.increment(key, 3, { initial: 40 }), { success: true, value: 40 });
    await settle();
    assert.deepStrictEqual(await client.increment(key, 3, {}), { success: true, value: 43 });
    await settle();
    assert.deepStrictEqual(await client.decrement(key, 4, {}), { success: true, value: 39 });
    await settle();
    assert.deepStrictEqual(await client.decrement(key, 1000, {}), { success: true, value: 0 });
    assert.strictEqual(await client.set(key, "text"), true);
    await settle();
    assert.ok(await fails(() => client.increment(key, 1, {})), "a text is no number");
    assert.strictEqual(String(await read(client, key)), "text");
  },

  async expiry_and_touch(client, key) {
    for (const [suffix, expires] of [[":short", 1], [":long", 1000], [":shorter", 1000], [":longer", 2]]) {
      assert.strictEqual(await client.set(key + suffix, "x", { expires: expires }), true);
    }
    await settle();
    assert.strictEqual(await client.touch(key + ":shorter", 1), true);
    assert.strictEqual(await client.touch(key + ":longer", 1000), true);
    assert.strictEqual(await client.touch(key + ":absent", 1000), false);
    await settle();
    await sleep(3200);
    assert.strictEqual(await read(client, key + ":short"), null);
    assert.strictEqual(await read(client, key + ":shorter"), null);
    assert.strictEqual(String(await read(client, key + ":long")), "x");
    assert.strictEqual(String(await read(client, key + ":longer")), "x");
  },

  async keys_of_all_kinds(client, key) {
    const keys = ["k".repeat(250), key + ":\u043a\u043b\u044e\u0447", key + ":\u9375", key + ":a blank", key + ":\n\t\u0001\u007f"];
    for (const each of keys) assert.strictEqual(await client.set(each, "value of " + each), true);
    await settle();
    for (const each of keys) assert.strictEqual(String(await read(client, each)), "value of " + each);
  },

  async statistics(client, key) {
    await client.set(key, "x");
    await settle();
    const stats = await new Promise(function (resolve, reject) {
      client.stats((error, _server, found) => (error ? reject(error) : resolve(found)));
    });
    for (const name of ["pid", "uptime", "version", "curr_items", "cmd_get", "limit_maxbytes"]) {
      assert.ok(name in stats, "stats have " + name);
    }
    await new Promise(function (resolve, reject) {
      client.resetStats((error) => (error ? reject(error) : resolve()));
    });
  },

  async time_out(_client, key) {
    if (pid === 0) return;
    const client = connect({ retries: 0, failoverTime: 1 });
    assert.strictEqual(await client.set(key, "x"), true);
    await settle();
    process.kill(pid, "SIGSTOP");
    try {
      const tasks = "/proc/" + pid + "/task/";
      const runs = (task) => fs.readFileSync(tasks + task + "/stat", "utf8").split(") ").pop()[0] !== "T";
      while (fs.readdirSync(tasks).some(runs)) await sleep(10);
      const begun = Date.now();
      assert.ok(await fails(() => client.get(key)), "a server that is stopped does not answer");
      assert.ok(Date.now() - begun < 20000 * TIMEOUT_SECONDS, "it fails in time");
    } finally {
      process.kill(pid, "SIGCONT");
    }
    client.close();
    const again = connect();
    assert.strictEqual(String(await read(again, key)), "x");
    again.close();
  },

  async flush(client, key) {
    await client.set(key, "x");
    await settle();
    await client.flush();
    await settle();
    assert.strictEqual(await read(client, key), null);
    assert.strictEqual(await client.set(key, "y"), true);
    await settle();
    assert.strictEqual(String(await read(client, key)), "y");
  },

  async quit(_client, key) {
    const client = connect();
    assert.strictEqual(await client.set(key, "x"), true);
    client.quit();
    const again = connect();
    assert.strictEqual(String(await read(again, key)), "x");
    again.close();
  },
};

const REMEMBERED = [1, 5000, 300000];

async function remember(client) {
  for (const size of REMEMBERED) assert.strictEqual(await client.set("memjs:remembered:" + size, valueOf(size)), true);
}

async function recall(client) {
  for (const size of REMEMBERED) assert.ok(valueOf(size).equals(await read(client, "memjs:remembered:" + size)), "of " + size);
}

async function run(name, action) {
  const client = connect();
  try {
    await action(client, "memjs:" + name + ":" + (settles ? "disk" : "ram"));
    console.log("ok " + name);
  } catch (error) {
    console.log("FAILED " + name + ": " + String(error.stack).replace(/\n/g, " | "));
  }
  client.close();
}

async function main() {
  if (phase !== "cases") return run(phase, phase === "remember" ? remember : recall);
  for (const [name, action] of Object.entries(cases)) await run(name, action);
}

main().then(() => process.exit(0));
