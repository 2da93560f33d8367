import { connect } from 'node:net';
import { expect, test } from '@jest/globals';
import { post, type StoredAnswer } from '../support/api.ts';
import { createDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startServiceProcess } from '../support/service-process.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

const notification = { to: { everyone: true }, type: 't', data: 1 };

test('the process ends on SIGTERM before its deadline, which would be exit code 1, and what it answered is there', async () => {
  const database = await createDatabase();
  const child = await startServiceProcess(database, {
    SHUTDOWN_DEADLINE_SECONDS: '60',
    NODE_NAME: 'child',
  });
  const streams = await Promise.all(
    ['a', 'b'].map(async (user) => await StreamClient.open(child.url, userToken({ user }))),
  );
  for (const stream of streams) await stream.untilEvent('caught-up');
  const ids: string[] = [];
  const stop = new AbortController();
  const publishing = (async () => {
    while (!stop.signal.aborted) {
      const answer = await post<StoredAnswer>(
        `${child.url}/v1/notifications`,
        serviceToken(),
        notification,
      ).catch(() => undefined);
      if (answer?.status === 201) ids.push(answer.body.id);
    }
  })();
  await eventually(() => expect(ids.length).toBeGreaterThan(20));
  // Two that are no help: one does not read, one has said nothing yet.
  streams[1]?.pause();
  const silent = connect(Number(new URL(child.url).port), '127.0.0.1');
  silent.on('error', () => undefined);
  child.kill('SIGTERM');
  expect(await child.ended).toEqual({ code: 0, signal: null });
  stop.abort();
  await publishing;
  expect(streams[0]?.named('bye')).toMatchObject([{ reason: 'shutdown' }]);
  const rows = await database.query<{ id: string }>('select id from notifications');
  const stored = new Set(rows.map(({ id }) => id));
  expect(ids.filter((id) => !stored.has(id))).toEqual([]);
  silent.destroy();
  streams[1]?.resume();
  await streams[1]?.closed;
  await database.drop();
});
