import { Caller } from '../../load/caller.ts';
import { obey } from '../../load/rounds.ts';
import { LatencyRecorder, type Latencies } from './latencies.ts';
import { guarded, now, publishBatch, publishTo, stamped } from './wire.ts';

/*
 * So many clients, each of which sends its next request when the last was answered, for so many seconds. What is measured of
 * the time that an answer takes says little of a crowd that does not wait; it is the throughput that is looked for.
 */

export interface Throughput extends Latencies {
  /** Requests that were answered in a second. */
  readonly perSecond: number;
}

const [, , what = '', port = '', clients = '', seconds = '', bytes = '', batch = ''] = process.argv;
const users = (n: number): number[] => Array.from({ length: Number(batch) }, (_, k) => (n + k) % 1_000);

function request(n: number): string {
  const data = stamped(now(), Number(bytes));
  switch (what) {
    case 'batch':
      return publishBatch(users(n), data);
    case 'guarded':
      return guarded(data);
    default:
      return publishTo('tidings', n % 1_000, data);
  }
}

await obey({
  async round(): Promise<Throughput> {
    const recorder = new LatencyRecorder();
    const until = now() + Number(seconds) * 1_000_000;
    let sent = 0;
    const work = async (): Promise<void> => {
      const caller = new Caller(Number(port));
      for (let began = now(); began < until; began = now()) {
        const status = await caller.send(request((sent += 1)));
        if (status !== 201) throw new Error(`a request was answered ${status}`);
        recorder.record(now() - began);
      }
      caller.close();
    };
    await Promise.all(Array.from({ length: Number(clients) }, work));
    const { latencies } = recorder;
    return { ...latencies, perSecond: latencies.count / Number(seconds) };
  },
});
