import type { Socket } from 'node:net';
import { atOnce } from '../../load/at-once.ts';
import { Callers, post } from '../../load/caller.ts';
import { obey } from '../../load/rounds.ts';
import { openStream, subscriptionBy } from '../../load/sockets.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';
import { webhookPayloads } from '../../support/webhooks.ts';
import { inOpenLoop, type Latencies } from './latencies.ts';
import { Events, Stamps } from './stamps.ts';

/*
 * A day of a tenant: so many users, who follow five of so many topics each. Of what is published 70 % is for one user, 25 % for
 * a topic, 5 % for everyone, and the data are events that GitHub sends. So many times a second somebody loses the
 * stream and resumes it. A round lasts until all that was published has come to all whom it was for.
 */

export interface Day {
  readonly heard: Latencies;
  readonly answered: Latencies;
  readonly deliveries: number;
}

const [, , port = '', users = '', topics = '', perSecond = '', messages = '', comebacks = ''] = process.argv;
const FOLLOWED = 5;
const CONNECTIONS = 8;
/** What has not come by then will not come, in ms. */
const PATIENCE_MS = 30_000;

const PAYLOADS = webhookPayloads().map(({ arrives }) => arrives);
const authorization = { authorization: `Bearer ${serviceToken()}` };
const stamps = new Stamps();

/** A user whose stream goes on behind the last event that came. */
class Reader {
  readonly #token: string;
  #socket: Socket | undefined;
  #lastId: string | undefined;

  constructor(n: number) {
    const followed = Array.from({ length: FOLLOWED }, (_, k) => topicOf(n + k * (Number(topics) / FOLLOWED)));
    this.#token = userToken({ user: userOf(n), topics: followed });
  }

  async open(): Promise<void> {
    const events = new Events();
    this.#socket = await openStream(
      { port: Number(port) },
      subscriptionBy(this.#token, this.#lastId),
      (text) => this.#read(events.whole(text)),
    );
  }

  async comeBack(): Promise<void> {
    this.#socket?.destroy();
    await this.open();
  }

  #read(events: string): void {
    for (const [, name, id = ''] of events.matchAll(/(?:^event: (.+)\n)?^id: (\d+)$/gm)) {
      // An event with a name, such as `caught-up`, moves the place and is no notification.
      if (name === undefined && this.#lastId !== undefined && BigInt(id) <= BigInt(this.#lastId))
        throw new Error(`${id} came behind ${this.#lastId}`);
      this.#lastId = id;
    }
    stamps.read(events);
  }
}

const userOf = (n: number): string => `user-${n % Number(users)}`;
const topicOf = (n: number): string => `topic-${n % Number(topics)}`;

/** Whom the n-th message is for, and how many these are. */
function recipientsOf(n: number): { to: object; count: number } {
  const turn = n % 20;
  if (turn === 0) return { to: { everyone: true }, count: Number(users) };
  if (turn <= 5) return { to: { topic: topicOf(n * 7) }, count: (Number(users) * FOLLOWED) / Number(topics) };
  return { to: { user: userOf(n * 7_919) }, count: 1 };
}

const readers = Array.from({ length: Number(users) }, (_, n) => new Reader(n));
let published = 0;
let next = 0;

async function publish(callers: Callers, n: number, meant: number): Promise<void> {
  const data = `{"at":${meant},"event":${PAYLOADS[(n * 31) % PAYLOADS.length]}}`;
  const body = JSON.stringify(recipientsOf(n).to);
  const status = await callers.send(
    post('/v1/notifications', `{"to":${body},"type":"github","data":${data}}`, authorization),
  );
  if (status !== 201) throw new Error(`a publish was answered ${status}`);
}

async function comeBackInTurn(): Promise<void> {
  const seconds = Number(messages) / Number(perSecond);
  await inOpenLoop(Number(comebacks), Math.round(Number(comebacks) * seconds), async () => {
    next = (next + 1) % readers.length;
    await readers[next]?.comeBack();
  });
}

await obey({
  prepare: () => atOnce(100, readers, (reader) => reader.open()),
  async round(): Promise<Day> {
    const callers = new Callers(Number(port), CONNECTIONS);
    const first = published;
    published += Number(messages);
    const deliveries = Array.from({ length: Number(messages) }, (_, k) => recipientsOf(first + k).count);
    const expected = deliveries.reduce((sum, count) => sum + count, 0);
    const heard = stamps.next(expected);
    const [answered] = await Promise.all([
      inOpenLoop(Number(perSecond), Number(messages), (k, meant) => publish(callers, first + k, meant)),
      comeBackInTurn(),
    ]);
    const late = setTimeout(() => {
      throw new Error('not all that was published has come');
    }, PATIENCE_MS);
    const day = { heard: await heard, answered, deliveries: expected };
    clearTimeout(late);
    callers.close();
    return day;
  },
});
