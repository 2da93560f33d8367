import { Caller, post } from '../../load/caller.ts';
import { obey } from '../../load/rounds.ts';
import { userToken } from '../../support/tokens.ts';
import type { Log } from '../rows.ts';
import { inClosedLoops, LatencyRecorder, type Latencies } from './latencies.ts';
import { now } from './messages.ts';

/*
 * What users ask of their inboxes, one call after the other, then many at once. A user has no more than 20 calls at once, so
 * each of them asks a few times only.
 */

/** How long calls took; `moves`: how often `seen` was moved in a second, by 64 clients. */
export interface InboxCalls {
  readonly page: Latencies;
  readonly counts: Readonly<Record<string, Latencies>>;
  readonly markOne: Latencies;
  readonly markAll: Latencies;
  readonly moves: number;
}

const [, , port = '', text = '{}'] = process.argv;
const { tenant, floor, head } = JSON.parse(text) as Log;

/** With inboxes of one thing in plenty: see inboxes.ts. */
const SPECIAL = ['direct', 'wide', 'marked', 'rich'];
const CALLS_OF_ONE = 8;
const USERS = 200;
const CLIENTS = 64;
const SECONDS = 5;

const tokens = new Map<string, string>();
function authorizationOf(user: string): { authorization: string } {
  const topics = user.startsWith('user-') ? [`topic-${Number(user.slice(5)) % 50}`] : [];
  const token = tokens.get(user) ?? userToken({ tenant, user, topics });
  tokens.set(user, token);
  return { authorization: `Bearer ${token}` };
}
const get = (path: string, user: string): string =>
  `GET ${path} HTTP/1.1\r\nhost: tidings\r\nauthorization: ${authorizationOf(user).authorization}\r\n\r\n`;
const mark = (user: string, body: object): string =>
  post('/v1/inbox/marks', JSON.stringify(body), authorizationOf(user));
const usersFrom = (first: number): string[] => Array.from({ length: USERS }, (_, n) => `user-${first + n}`);

async function send(caller: Caller, request: string): Promise<void> {
  const status = await caller.send(request);
  if (status !== 200) throw new Error(`a call of an inbox was answered ${status}`);
}

async function oneAfterTheOther(requests: readonly string[]): Promise<Latencies> {
  const recorder = new LatencyRecorder();
  const caller = new Caller(Number(port));
  for (const request of requests) {
    const began = now();
    await send(caller, request);
    recorder.record(now() - began);
  }
  caller.close();
  return recorder.latencies;
}

/** The newest of their inboxes. */
async function newestOf(users: readonly string[]): Promise<string[]> {
  const ids: string[] = [];
  for (const user of users) {
    const url = `http://127.0.0.1:${port}/v1/inbox?filter=unread&limit=1`;
    const answer = await fetch(url, { headers: authorizationOf(user) });
    const { items } = (await answer.json()) as { items: { id: string }[] };
    ids.push(items[0]?.id ?? '');
  }
  return ids;
}

let first = 0;
let moved = 0;

await obey({
  async round(): Promise<InboxCalls> {
    // Others in each round, since their marks stay.
    const users = usersFrom((first += USERS));
    const page = await oneAfterTheOther(users.map((user) => get('/v1/inbox?filter=unread&limit=20', user)));
    const counts: Record<string, Latencies> = {};
    for (const user of SPECIAL)
      counts[user] = await oneAfterTheOther(
        Array.from({ length: CALLS_OF_ONE }, () => get('/v1/inbox/counts', user)),
      );
    const ids = await newestOf(users);
    const markOne = await oneAfterTheOther(
      users.map((user, n) => mark(user, { items: [{ id: ids[n], read: true }] })),
    );
    const markAll = await oneAfterTheOther(users.map((user) => mark(user, { readUpTo: String(head) })));
    const callers = Array.from({ length: CLIENTS }, () => new Caller(Number(port)));
    const { perSecond } = await inClosedLoops(callers, SECONDS, async (caller) => {
      // Each of ten thousand in turn, a little further each time.
      const [user, turn] = [moved % 10_000, Math.floor(moved / 10_000)];
      moved += 1;
      const seenUpTo = Math.floor(head - (head - floor) * 0.05) + turn;
      await send(caller, mark(`user-${user}`, { seenUpTo: String(seenUpTo) }));
    });
    for (const caller of callers) caller.close();
    return { page, counts, markOne, markAll, moves: perSecond };
  },
});
