import { randomUUID } from 'node:crypto';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, beforeAll, expect, jest, test } from '@jest/globals';
import { TUNING } from '../../../src/core/tuning.ts';
import { atOnce } from '../../load/at-once.ts';
import { post, type StoredAnswer } from '../../support/api.ts';
import { createDatabase, type TestDatabase } from '../../support/database.ts';
import { eventually } from '../../support/eventually.ts';
import { NGINX, startNginx } from '../../support/nginx.ts';
import { ownPort } from '../../support/own-port.ts';
import { describeWith, type Program } from '../../support/programs.ts';
import { ServiceProcess } from '../../support/service-process.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';

jest.setTimeout(900_000);

const NODES = ['one', 'two', 'three'];
const USERS = 2_000;
const PER_SECOND = 50;

/** A client that comes back when it is told to, at the position that it has, until it is stopped. */
class Client {
  readonly streams: StreamClient[] = [];
  /** When it opened each stream but the first, by `performance.now()`, and how long it had none before, in ms. */
  readonly returns: { readonly at: number; readonly gap: number }[] = [];
  readonly #token: string;
  readonly #stop = new AbortController();

  constructor(
    private readonly url: string,
    readonly user: string,
  ) {
    this.#token = userToken({ user });
  }

  get got(): string[] {
    return this.streams.flatMap(({ notifications }) => notifications.map(({ id }) => id));
  }

  /** For whoever looks for what it misses. */
  get state(): object {
    const streams = this.streams.map(({ status, ended, lastEventId }) => ({ status, ended, lastEventId }));
    return { user: this.user, got: this.got, streams };
  }

  /** Resolves when its first stream is open; the rest goes on by itself. */
  async open(): Promise<void> {
    const first = await this.#next();
    await first?.untilEvent('caught-up');
    void this.#follow(first);
  }

  async stop(): Promise<void> {
    this.#stop.abort();
    await this.streams.at(-1)?.cut();
  }

  async #follow(stream: StreamClient | undefined): Promise<void> {
    const { signal } = this.#stop;
    for (let current = stream; ;) {
      await current?.closed;
      const lost = performance.now();
      await sleep(current?.retries.at(-1) ?? 1_000, undefined, { signal }).catch(() => undefined);
      if (signal.aborted) return;
      current = await this.#next();
      const at = performance.now();
      if (current !== undefined) this.returns.push({ at, gap: at - lost });
    }
  }

  async #next(): Promise<StreamClient | undefined> {
    const lastEventId = this.streams.findLast((one) => one.lastEventId !== undefined)?.lastEventId;
    const stream = await StreamClient.open(
      this.url,
      this.#token,
      lastEventId === undefined ? {} : { lastEventId },
    ).catch(() => undefined);
    if (stream !== undefined) this.streams.push(stream);
    return stream;
  }
}

/** How many of these times, in ms, are within one second. */
function mostInASecond(unsorted: readonly number[]): number {
  const times = unsorted.toSorted((a, b) => a - b);
  return Math.max(0, ...times.map((from, n) => times.findLastIndex((time) => time < from + 1_000) - n + 1));
}

describeWith(NGINX)('three nodes behind nginx, stopped and started one after the other', () => {
  let database: TestDatabase;
  let ports: number[];
  let nodes: ServiceProcess[];
  let nginx: Program & { readonly url: string };
  const launch = async (n: number) => {
    const node = await ServiceProcess.launch(database, {
      NODE_NAME: NODES[n] ?? '',
      PORT: String(ports[n]),
      SHUTDOWN_DELAY_SECONDS: '2',
      SHUTDOWN_DEADLINE_SECONDS: '60',
    });
    await node.ready();
    return node;
  };

  beforeAll(async () => {
    database = await createDatabase();
    ports = await Promise.all(NODES.map(() => ownPort()));
    nodes = await Promise.all(NODES.map((_, n) => launch(n)));
    nginx = await startNginx(ports);
  });
  afterAll(async () => {
    await nginx.end();
    for (const node of nodes) await node.end();
    await database.drop();
  });

  test('nobody loses a notification or gets one twice, and clients come back a few at a time', async () => {
    const clients = Array.from({ length: USERS }, (_, n) => new Client(nginx.url, `user-${n}`));
    await atOnce(50, clients, (client) => client.open());

    const sent = new Map<string, string[]>(clients.map(({ user }) => [user, []]));
    const stop = new AbortController();
    const send = async (user: string): Promise<void> => {
      const key = { 'idempotency-key': randomUUID() };
      const body = { to: { user }, type: 't', data: null };
      for (;;) {
        const answer = await post<StoredAnswer>(
          `${nginx.url}/v1/notifications`,
          serviceToken(),
          body,
          key,
        ).catch(() => undefined);
        if (answer?.status === 201) return void sent.get(user)?.push(answer.body.id);
        await sleep(200);
      }
    };
    const sending: Promise<void>[] = [];
    const publishing = (async () => {
      for (let n = 0; !stop.signal.aborted; n += 1) {
        sending.push(send(`user-${(n * 7) % USERS}`));
        await sleep(1_000 / PER_SECOND);
      }
    })();

    /** How long clients of each node were told to wait, in ms. */
    const told: number[][] = [];
    for (const [n, node] of nodes.entries()) {
      const open = clients.flatMap(({ streams }) => streams.slice(-1)).filter(({ ended }) => !ended);
      node.kill('SIGTERM');
      expect(await node.ended).toEqual({ code: 0, signal: null });
      told.push(
        open.flatMap((stream) => stream.named('bye').map(({ retryAfterMs }) => Number(retryAfterMs))),
      );
      nodes[n] = await launch(n);
    }
    stop.abort();
    await publishing;
    await Promise.all(sending);

    // A connection whose first packet was dropped on the way in is asked for again after a second, then 2, 4, and so on.
    await eventually(
      () => {
        const missing = clients.filter(({ user, got }) => got.length < (sent.get(user)?.length ?? 0));
        expect(missing.map((client) => client.state)).toEqual([]);
      },
      { within: 240_000, every: 500 },
    );
    for (const client of clients) await client.stop();
    for (const { user, got } of clients) expect({ user, got }).toEqual({ user, got: sent.get(user) });

    // A machine that stands still for a while sees more of them at once than were told to come.
    expect(Math.max(...told.map(mostInASecond))).toBeLessThanOrEqual(1.5 * TUNING.RETURNS_PER_SECOND);

    const returns = clients.flatMap((client) => client.returns);
    const gaps = returns.map(({ gap }) => gap).toSorted((a, b) => a - b);
    const published = [...sent.values()].flat().length;
    process.stderr.write(
      `${published} published, ${returns.length} returns, ${mostInASecond(returns.map(({ at }) => at))} in a second at most, after ${Math.round(gaps[Math.floor(gaps.length / 2)] ?? 0)} ms in the median\n`,
    );
    expect(published).toBeGreaterThan(100);
    expect(returns.length).toBeGreaterThanOrEqual(USERS);
  });
});
