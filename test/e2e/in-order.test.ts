import type { Server } from 'node:http';
import type { Socket } from 'node:net';
import { afterAll, afterEach, beforeAll, describe, expect, test } from '@jest/globals';
import pg from 'pg';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { publish } from '../support/api.ts';
import { startService, type Service } from '../support/app.ts';
import { eventually } from '../support/eventually.ts';
import { serviceToken, userToken } from '../support/tokens.ts';
import { RawConnection, requestText } from '../support/wire.ts';

/* Requests that come in one packet (pipelining, RFC 9112 § 9.3.2): who is answered when, and what is done at all. */

/** The paths of what was begun, in order. */
const begun: string[] = [];
/** Told when something is begun. */
let onBegun: ((socket: Socket) => void) | undefined;
const accepted: Socket[] = [];

let service: Service;
beforeAll(async () => {
  service = await startService(
    {},
    {
      prepare: (app) => {
        const server: Server = app.getHttpServer();
        server.prependListener('connection', (socket: Socket) => accepted.push(socket));
        app
          .getHttpAdapter()
          .getInstance()
          .addHook('onRequest', ({ url, raw: { socket } }, _reply, done) => {
            begun.push(url);
            onBegun?.(socket);
            done();
          });
      },
    },
  );
});
afterAll(() => service.close());

const opened: RawConnection[] = [];
afterEach(() => {
  for (const { socket } of opened.splice(0)) socket.destroy();
  begun.length = 0;
  accepted.length = 0;
});

async function pipeline(...requests: readonly string[]): Promise<RawConnection> {
  const connection = await RawConnection.open(service.url);
  opened.push(connection);
  connection.send(...requests);
  return connection;
}

let users = 0;
const newUser = () => `user-${(users += 1)}`;

const LIVE = requestText('/health/live');
const NOTHING = requestText('/v1/nothing');
const streamOf = (user: string, path = '/v1/stream') => requestText(path, { token: userToken({ user }) });
const publishTo = (user: string, text: string, tenant = 'acme') =>
  requestText('/v1/notifications', {
    token: serviceToken({ tenant }),
    body: { to: { user }, type: 't', data: text },
  });

const isOpen = ({ body }: { body: string } = { body: '' }) => body.includes('event: caught-up');
const textsIn = (body: string) => [...body.matchAll(/"data":"(.*?)"/g)].map(([, text]) => text);

const STATUS: Record<string, number> = { live: 200, nothing: 404, publish: 201, unauthorized: 401 };

describe('a stream among requests that came in one packet', () => {
  test.each([
    [['live']],
    [['nothing']],
    [['publish']],
    [['unauthorized']],
    [['publish', 'live', 'publish']],
    [['live', 'nothing', 'unauthorized', 'publish', 'live', 'publish', 'nothing']],
    [[]],
  ])('is answered behind these before it: %j, and is the last', async (before) => {
    const user = newUser();
    const requests: Record<string, string> = {
      live: LIVE,
      nothing: NOTHING,
      publish: publishTo(user, 'before'),
      unauthorized: requestText('/v1/stream'),
    };
    const behind = [LIVE, publishTo(user, 'behind'), streamOf(user), NOTHING];
    const connection = await pipeline(
      ...before.map((name) => requests[name] ?? ''),
      streamOf(user),
      ...behind,
    );
    await connection.until((answers) => isOpen(answers[before.length]), 'the stream');
    await publish(service.url, serviceToken(), { to: { user }, type: 't', data: 'at last' });
    await connection.until(
      (answers) => textsIn(answers[before.length]?.body ?? '').includes('at last'),
      'what was published then',
    );

    const answers = connection.answers;
    expect(answers.map(({ status }) => status)).toEqual([...before.map((name) => STATUS[name]), 200]);
    expect(answers.at(-1)?.headers).toMatchObject({
      'content-type': 'text/event-stream',
      connection: 'close',
    });
    expect(textsIn(answers.at(-1)?.body ?? '')).toEqual([
      ...before.filter((name) => name === 'publish').map(() => 'before'),
      'at last',
    ]);
    expect(begun.filter((path) => path === '/v1/stream')).toHaveLength(
      before.filter((name) => name === 'unauthorized').length + 1,
    );
  });

  test('is answered when what is before it was answered later', async () => {
    const user = newUser();
    const connection = await pipeline(publishTo(user, 'one'), streamOf(user));
    await connection.until(([, stream]) => stream !== undefined && isOpen(stream), 'the stream');
    expect(textsIn(connection.answers[1]?.body ?? '')).toEqual(['one']);
  });

  test('ends when its client leaves, whatever was sent behind it', async () => {
    const user = newUser();
    const metrics = service.app.get(Metrics);
    const connection = await pipeline(LIVE, streamOf(user), ...Array<string>(100).fill(LIVE));
    await connection.until(([, stream]) => isOpen(stream), 'the stream');
    connection.socket.end();
    await connection.closed;
    await eventually(async () => expect((await metrics.connections.get()).values[0]?.value).toBe(0));
  });
});

describe('a connection whose first answer takes its time', () => {
  /** Holds what is published to a tenant until it is released. */
  async function hold(tenant: string): Promise<() => Promise<void>> {
    await publish(service.url, serviceToken({ tenant }), { to: { user: 'x' }, type: 't', data: 0 });
    const client = new pg.Client({ connectionString: service.database.url });
    await client.connect();
    await client.query('begin');
    await client.query('select 1 from tenant_logs where tenant_id = $1 for update', [tenant]);
    return async () => {
      await client.query('rollback');
      await client.end();
    };
  }

  test('has nothing begun behind it when its client leaves', async () => {
    const release = await hold('left');
    const metrics = service.app.get(Metrics);
    const streams = async () =>
      (await metrics.streamsOpened.get()).values.reduce((sum, { value }) => sum + value, 0);
    const before = await streams();
    begun.length = 0;
    const connection = await pipeline(publishTo('bob', 'one', 'left'), streamOf('bob'), LIVE);
    await eventually(() => expect(begun).toEqual(['/v1/notifications']));
    connection.socket.destroy();
    await eventually(() => expect(accepted.at(-1)?.destroyed).toBe(true));
    await release();
    // Whatever it left behind would be begun before this is answered.
    await publish(service.url, serviceToken({ tenant: 'left' }), {
      to: { user: 'bob' },
      type: 't',
      data: 'two',
    });
    expect(begun).toEqual(['/v1/notifications', '/v1/notifications']);
    expect(await streams()).toBe(before);
  });

  test.each([
    ['without bodies', requestText('/health/live', { headers: { padding: 'x'.repeat(900) } })],
    ['with bodies', requestText('/v1/nothing', { method: 'POST', body: 'x'.repeat(900) })],
  ])('is not read far ahead: requests %s', async (_what, request) => {
    const count = 1_000;
    let furthest = 0;
    onBegun = ({ bytesRead }) => {
      furthest = Math.max(furthest, bytesRead - begun.length * request.length);
    };
    const connection = await pipeline(request.repeat(count));
    await connection.until((answers) => answers.length === count, 'all answers');
    onBegun = undefined;
    expect(begun).toHaveLength(count);
    expect(furthest).toBeLessThan(512 * 1024);
  });

  test('is cut off when it has hundreds behind it in one packet, and nothing of them is begun', async () => {
    const connection = await pipeline(LIVE.repeat(1_000));
    await connection.closed;
    expect(begun.length).toBeLessThanOrEqual(1);
  });
});
