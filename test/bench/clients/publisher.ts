import { setTimeout as sleep } from 'node:timers/promises';
import { Callers } from '../../load/caller.ts';
import { obey } from '../../load/rounds.ts';
import type { SystemName } from '../systems/system.ts';
import { LatencyRecorder } from './latencies.ts';
import { now, padded, publishTo, stamped } from './wire.ts';

/*
 * Publishes so many messages, so many a second, whether answers come or not: to everyone, or to so many users in turn, from
 * the user `first` on. What it measures counts from when it meant to send, so that nothing is left out because something
 * else was slow.
 */

const [, , system = '', port = '', perSecond = '', messages = '', to = '', bytes = '', first = '0'] =
  process.argv;
/** Messages to everyone beside others that are measured say nothing of when they were sent. */
const dataOf = to === 'unmeasured' ? padded : stamped;

/** Of the publishing service. */
const CONNECTIONS = 8;

await obey({
  async round() {
    // Not kept from round to round: a server may close what lies idle.
    const callers = new Callers(Number(port), CONNECTIONS);
    const recorder = new LatencyRecorder();
    const publish = async (n: number, meant: number): Promise<void> => {
      const recipient = Number.isNaN(Number(to)) ? 'everyone' : Number(first) + (n % Number(to));
      const status = await callers.send(
        publishTo(system as SystemName, recipient, dataOf(meant, Number(bytes))),
      );
      if (status >= 300) throw new Error(`a publish was answered ${status}`);
      recorder.record(now() - meant);
    };
    const began = now();
    const answers: Promise<void>[] = [];
    for (let n = 0; n < Number(messages); n += 1) {
      const meant = began + Math.round((n * 1_000_000) / Number(perSecond));
      const early = meant - now();
      if (early > 0) await sleep(early / 1_000);
      answers.push(publish(n, meant));
    }
    await Promise.all(answers);
    callers.close();
    return recorder.latencies;
  },
});
