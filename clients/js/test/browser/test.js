/** What the tests use of `node:test`, for browsers. Runs them one after another; `results` are shown as they come. */

const tests = [];

export function test(name, body) {
  tests.push({ name, body });
}

/** Run what was registered; answers `{name, error}` of each, the error null where there was none. */
export async function run() {
  const results = [];
  for (const { name, body } of tests) {
    const after = [];
    let error = null;
    try {
      await body({ after: (done) => after.push(done) });
    } catch (thrown) {
      error = thrown?.stack ?? String(thrown);
    }
    for (const done of after.reverse()) await done();
    results.push({ name, error });
  }
  return results;
}
