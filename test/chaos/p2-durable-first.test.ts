import { describe, expect, jest, test } from '@jest/globals';
import pg from 'pg';
import { post, type StoredAnswer } from '../support/api.ts';
import { startService } from '../support/app.ts';
import { createDatabase } from '../support/database.ts';
import { eventually } from '../support/eventually.ts';
import { startPostgres } from '../support/postgres-server.ts';
import { startServiceProcess } from '../support/service-process.ts';
import { StreamClient } from '../support/stream-client.ts';
import { serviceToken, userToken } from '../support/tokens.ts';

jest.setTimeout(600_000);

const PUBLISHERS = 12;

/** Publishes without a pause until told to stop, and remembers every id that was answered with 201. */
function publishers(url: string) {
  const answered: string[] = [];
  const stop = new AbortController();
  const run = async (n: number) => {
    for (let i = 0; !stop.signal.aborted; i += 1) {
      try {
        const notification = { to: { user: 'alice' }, type: 't', data: { n, i } };
        const { status, body } = await post<StoredAnswer>(
          `${url}/v1/notifications`,
          serviceToken({ client: `c${n}` }),
          notification,
        );
        if (status === 201) answered.push(body.id);
        else await new Promise((resolve) => setTimeout(resolve, 20));
      } catch {
        // The connection to the service died: this one was not answered.
        if (!stop.signal.aborted) await new Promise((resolve) => setTimeout(resolve, 20));
      }
    }
  };
  const done = Promise.all(Array.from({ length: PUBLISHERS }, async (_, n) => await run(n)));
  return {
    answered,
    stop: async () => {
      stop.abort();
      await done;
    },
  };
}

/** Waits for so many, however long they take. */
const untilAnswered = async (answered: string[], count: number) =>
  await eventually(() => expect(answered.length).toBeGreaterThan(count), { within: 120_000 });

/** Everything that a stream of the user holds from the beginning. */
async function everythingOn(url: string): Promise<Set<string>> {
  const stream = await StreamClient.open(url, userToken(), { query: { from: 'earliest' } });
  await stream.untilEvent('caught-up');
  await stream.cut();
  return new Set(stream.notifications.map(({ id }) => id));
}

describe('what was answered with 201', () => {
  test('is there after the service was killed in the midst of publishing', async () => {
    const database = await createDatabase();
    const victim = await startServiceProcess(database);
    const work = publishers(victim.url);
    await untilAnswered(work.answered, 100);
    victim.kill('SIGKILL');
    expect(await victim.ended).toEqual({ code: null, signal: 'SIGKILL' });
    await work.stop();

    const after = await startService({}, { database });
    const there = await everythingOn(after.url);
    expect(work.answered.filter((id) => !there.has(id))).toEqual([]);
    await after.close();
    await database.drop();
  });

  test('is there after the database was killed in the midst of publishing, again and again', async () => {
    const server = await startPostgres();
    const service = await startService(
      {},
      {
        database: {
          url: server.url,
          urls: server.urls,
          query: async () => await Promise.resolve([]),
          drop: async () => await Promise.resolve(),
        },
      },
    );
    const work = publishers(service.url);
    for (let round = 0; round < 3; round += 1) {
      await untilAnswered(work.answered, work.answered.length + 100);
      await server.kill();
      await server.start();
    }
    await untilAnswered(work.answered, work.answered.length + 10);
    await server.kill();
    await work.stop();
    await server.start();

    const client = new pg.Client({ connectionString: server.url });
    await client.connect();
    const { rows } = await client.query<{ id: string }>(
      `select id from notifications where tenant_id = 'acme'`,
    );
    await client.end();
    const stored = new Set(rows.map(({ id }) => id));
    expect(work.answered.filter((id) => !stored.has(id))).toEqual([]);
    expect(new Set(work.answered).size).toBe(work.answered.length);
    // And a stream has them all.
    const there = await eventually(async () => await everythingOn(service.url));
    expect(work.answered.filter((id) => !there.has(id))).toEqual([]);
    await service.close();
    await server.remove();
  });
});
