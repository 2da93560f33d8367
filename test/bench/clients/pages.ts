import { asPosition, timeOfPosition } from '../../../src/core/position.ts';
import { obey } from '../../load/rounds.ts';
import { serviceToken } from '../../support/tokens.ts';
import type { Log } from '../rows.ts';
import { LatencyRecorder, type Latencies } from './latencies.ts';
import { now } from './messages.ts';

/*
 * An operator who asks for pages of history, one after the other: with each filter, from so many places of the log on, and
 * there for the next page too. Every round asks from other places.
 */

/** How long pages took: all of them, and those of each filter. */
export interface Pages {
  readonly all: Latencies;
  readonly by: Readonly<Record<string, Latencies>>;
}

const [, , port = '', text = '{}'] = process.argv;
const log = JSON.parse(text) as Log;
const PLACES = 10;
/** Of the way from one place to the next, for each round. */
const SHIFT = 0.37;

type Filter = Readonly<Record<string, string>>;

/** Others at each place, from all over their kind. */
const oneOf = (n: number, many: number): number => Math.floor(n * 7_919) % many;
const user = (n: number): Filter => ({ user: `user-${oneOf(n, log.users)}` });
const topic = (n: number): Filter => ({ topic: `topic-${oneOf(n, log.topics)}` });
const [common, rare] = [{ type: 'order.shipped' }, { type: 'incident.opened' }];

/** Of the place n. All go backwards from there; `user-0` and `news` are those with the most. */
const FILTERS: Readonly<Record<string, (n: number) => Filter>> = {
  none: () => ({}),
  user,
  'busy user': () => ({ user: 'user-0' }),
  topic,
  'busy topic': () => ({ topic: 'news' }),
  type: () => common,
  'rare type': () => rare,
  delivered: () => ({ status: 'delivered' }),
  expired: () => ({ status: 'expired' }),
  sent: () => ({ status: 'sent' }),
  queued: () => ({ status: 'queued' }),
  'one hour': (n) => ({ since: timeAt(n, -3_600_000) }),
  'user and type': (n) => ({ ...user(n), ...common }),
  'user and status': (n) => ({ ...user(n), status: 'sent' }),
  'busy user, rare type': () => ({ user: 'user-0', ...rare }),
  'busy topic, type and status': () => ({ topic: 'news', ...common, status: 'queued' }),
  'topic and status': (n) => ({ ...topic(n), status: 'queued' }),
  'type and status': () => ({ ...common, status: 'queued' }),
  'rare type and status': () => ({ ...rare, status: 'queued' }),
  'unknown user': () => ({ user: 'nobody' }),
  'unknown topic': () => ({ topic: 'nothing' }),
  'unknown type': () => ({ type: 'no.such.type' }),
};

const authorization = `Bearer ${serviceToken({ tenant: log.tenant, client: 'operator', scope: 'history:read' })}`;

/** The time at which the log holds n of PLACES parts of what it does, and so many ms more. */
function timeAt(n: number, ms = 0): string {
  const row = Math.ceil((n / PLACES) * log.rows);
  return new Date(timeOfPosition(asPosition(log.floor + row * log.stride)) + ms).toISOString();
}

/** @returns the cursor of the next page, if there is one */
async function page(query: Filter, recorders: readonly LatencyRecorder[]): Promise<string | undefined> {
  const url = `http://127.0.0.1:${port}/v1/notifications?${new URLSearchParams(query).toString()}`;
  const began = now();
  const answer = await fetch(url, { headers: { authorization } });
  const body = await answer.text();
  for (const recorder of recorders) recorder.record(now() - began);
  if (answer.status !== 200) throw new Error(`a page was answered ${answer.status}: ${body}`);
  return (JSON.parse(body) as { nextCursor: string | null }).nextCursor ?? undefined;
}

let round = 0;

await obey({
  async round(): Promise<Pages> {
    round += 1;
    const all = new LatencyRecorder();
    const by: Record<string, Latencies> = {};
    for (const [name, filterAt] of Object.entries(FILTERS)) {
      const recorder = new LatencyRecorder();
      for (let n = 1; n <= PLACES; n += 1) {
        const place = n - ((round * SHIFT) % 1);
        const filter = { ...filterAt(place), until: timeAt(place) };
        const cursor = await page(filter, [recorder, all]);
        if (cursor !== undefined) await page({ ...filter, cursor }, [recorder, all]);
      }
      by[name] = recorder.latencies;
    }
    return { all: all.latencies, by };
  },
});
