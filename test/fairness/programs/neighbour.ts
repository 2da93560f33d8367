import { Agent } from 'node:http';
import { setTimeout as sleep } from 'node:timers/promises';
import { StreamClient } from '../../support/stream-client.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';
import { postJson } from '../../load/post-json.ts';
import { obey } from '../../load/rounds.ts';

/*
 * The tenant that did nothing wrong: publishes to a user who is connected, so many a second, whether answers come or not.
 * What it measures counts from when it meant to send, in ms: nothing is left out because something else was slow.
 */

const [, , url = '', perSecond = '', seconds = ''] = process.argv;
const [rate, count] = [Number(perSecond), Number(perSecond) * Number(seconds)];
const agent = new Agent({ keepAlive: true });
const token = serviceToken({ tenant: 'neighbour' });

/** When those that have not come yet were meant to be sent. */
const meantAt = new Map<number, number>();
let round = { published: [] as number[], delivered: [] as number[] };
let sent = 0;
let arrived: (() => void) | undefined;

async function publish(n: number, meant: number): Promise<void> {
  meantAt.set(n, meant);
  const body = JSON.stringify({ to: { user: 'alice' }, type: 'n', data: n });
  const status = await postJson(`${url}/v1/notifications`, token, body, agent);
  if (status !== 201) throw new Error(`the neighbour was answered ${status}`);
  round.published.push(performance.now() - meant);
}

await obey({
  async prepare() {
    const stream = await StreamClient.open(url, userToken({ tenant: 'neighbour' }));
    await stream.untilEvent('caught-up');
    let seen = stream.events.length;
    stream.response.on('data', () => {
      const now = performance.now();
      for (; seen < stream.events.length; seen += 1) {
        const { event, data = '' } = stream.events[seen] ?? {};
        if (event !== undefined) continue;
        const { data: n } = JSON.parse(data) as { data: number };
        const meant = meantAt.get(n);
        if (meant !== undefined) round.delivered.push(now - meant);
        meantAt.delete(n);
      }
      if (meantAt.size === 0) arrived?.();
    });
  },
  async round() {
    round = { published: [], delivered: [] };
    const began = performance.now();
    const answers: Promise<void>[] = [];
    for (let n = 0; n < count; n += 1) {
      const meant = began + (n * 1_000) / rate;
      await sleep(Math.max(0, meant - performance.now()));
      answers.push(publish((sent += 1), meant));
    }
    const all = new Promise<void>((resolve) => (arrived = resolve));
    await Promise.all(answers);
    if (meantAt.size > 0) await all;
    return round;
  },
});
