/* What became of the tests, for the end of a log: `node .ci/summary.mjs FOLDER`, where Jest left its results. Fails if one failed or was skipped. */
import { readdirSync, readFileSync } from 'node:fs';
import { join, relative } from 'node:path';

/** Suites that are named as the slowest. */
const SLOWEST = 10;
/** Of a failure, in characters. */
const SHOWN = 1_500;

const [folder] = process.argv.slice(2);
const runs = readdirSync(folder).map((file) => JSON.parse(readFileSync(join(folder, file), 'utf8')));
if (runs.length === 0) console.log('The tests left no result.');

const suites = runs.flatMap((run) => run.testResults);
const name = (suite) => relative(process.cwd(), suite.name);
const seconds = ({ startTime, endTime }) => (endTime - startTime) / 1_000;
const tests = suites.flatMap((suite) => suite.assertionResults.map((test) => ({ suite, ...test })));
const those = (...states) => tests.filter(({ status }) => states.includes(status));

console.log('\nThe slowest:');
for (const suite of [...suites].sort((a, b) => seconds(b) - seconds(a)).slice(0, SLOWEST))
  console.log(`${seconds(suite).toFixed(1).padStart(7)} s  ${name(suite)}`);

// A suite that could not even load has no tests to count.
const broken = suites.filter((suite) => suite.status === 'failed' && suite.assertionResults.length === 0);
const failed = those('failed');
// Here everything is installed: what was skipped was not tested.
const skipped = those('pending', 'todo');
for (const suite of broken) console.log(`FAILED TO LOAD: ${name(suite)}\n${suite.message.slice(0, SHOWN)}`);
for (const { suite, fullName, failureMessages } of failed)
  console.log(`FAILED: ${name(suite)} › ${fullName}\n${failureMessages.join('\n').slice(0, SHOWN)}\n`);
for (const { suite, fullName } of skipped)
  console.log(`FAILED, since it was skipped: ${name(suite)} › ${fullName}`);
const failures = failed.length + broken.length + skipped.length;
console.log(`${those('passed').length} passed, ${failures} failed`);
if (runs.length === 0 || failures > 0) process.exitCode = 1;
