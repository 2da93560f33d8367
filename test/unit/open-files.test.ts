import { readdirSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { eventually } from '../support/eventually.ts';

/** Less the one that is used to look. */
const openFiles = (): number => readdirSync('/proc/self/fd').length - 1;

test('open files are those that are open when nobody looks', async () => {
  const { openFiles: gauge } = new Metrics();
  // Something else of this process may open a file between the two looks.
  await eventually(async () =>
    expect((await gauge?.get())?.values).toEqual([{ labels: {}, value: openFiles() }]),
  );
});
