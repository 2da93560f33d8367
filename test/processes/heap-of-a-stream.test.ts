import { afterAll, beforeAll, expect, test } from '@jest/globals';
import { Sockets, usersOf } from '../load/sockets.ts';
import { createDatabase, type TestDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { heapOf } from '../support/inspector.ts';
import { startServiceProcess } from '../support/service-process.ts';

let database: TestDatabase;
beforeAll(async () => {
  database = await createDatabase();
});
afterAll(() => database.drop());

test('an open stream keeps at most 3 KiB of heap', async () => {
  const inspected = await startServiceProcess(database, { NODE_OPTIONS: '--inspect=127.0.0.1:0' });
  const port = Number(new URL(inspected.url).port);
  const kept = async (): Promise<number> => {
    const [inspector] = /ws:\/\/\S+/.exec(inspected.stderr) ?? [];
    if (inspector === undefined) throw new Error('The service does not say where its inspector listens.');
    return await heapOf(inspector);
  };
  const warm = new Sockets(port, usersOf('warm', 1_000));
  // So many that what else is compiled and kept meanwhile is little beside them.
  const streams = new Sockets(port, usersOf('kept', 6_000));
  try {
    await warm.openAll(50);
    const before = await kept();
    await streams.openAll(50);
    // What was on its way to be stored is no part of a stream.
    const perStream = await eventually(async () => {
      const bytes = ((await kept()) - before) / 6_000;
      expect(bytes).toBeLessThan(3 * 1_024);
      return bytes;
    });
    expect(perStream).toBeGreaterThan(1_024);
  } finally {
    warm.cutAll();
    streams.cutAll();
    await inspected.end();
  }
});
