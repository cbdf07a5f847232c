/** What the tests use of `node:assert/strict`, for browsers. */

function fail(message) {
  throw new Error(message);
}

function show(value) {
  return JSON.stringify(value) ?? String(value);
}

/** Whether two values are alike: plain objects and lists by what is in them, all else by identity. */
function alike(one, other) {
  if (Object.is(one, other)) return true;
  if (typeof one !== "object" || typeof other !== "object" || !one || !other) return false;
  if (Object.getPrototypeOf(one) !== Object.getPrototypeOf(other)) return false;
  if (one instanceof Map || one instanceof Set) return one.size === other.size && alike([...one], [...other]);
  const keys = Object.keys(one);
  return keys.length === Object.keys(other).length && keys.every((key) => Object.hasOwn(other, key) && alike(one[key], other[key]));
}

async function rejects(promise, expected) {
  try {
    await (typeof promise === "function" ? promise() : promise);
  } catch (error) {
    if (!expected) return;
    if (expected === Error || expected.prototype instanceof Error) {
      if (!(error instanceof expected)) throw error;
    } else if (typeof expected === "function") {
      if (expected(error) !== true) throw error;
    } else {
      for (const [key, value] of Object.entries(expected)) if (!alike(error[key], value)) throw error;
    }
    return;
  }
  fail("It was to be rejected, and was not.");
}

export default {
  deepEqual: (actual, expected) => alike(actual, expected) || fail(`${show(actual)} is not ${show(expected)}`),
  equal: (actual, expected) => Object.is(actual, expected) || fail(`${show(actual)} is not ${show(expected)}`),
  notEqual: (actual, expected) => Object.is(actual, expected) && fail(`both are ${show(actual)}`),
  ok: (value) => value || fail(`${show(value)} is not true`),
  rejects,
};
