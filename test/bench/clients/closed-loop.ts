import { Caller } from '../../load/caller.ts';
import { obey } from '../../load/rounds.ts';
import { guarded, publishBatch, tidings } from '../wires/tidings.ts';
import { inClosedLoops } from './latencies.ts';
import { now, stamped } from './messages.ts';

/*
 * So many clients, each of which sends its next request when the last was answered, for so many seconds. What is measured of
 * the time that an answer takes says little of a crowd that does not wait; it is the throughput that is looked for.
 */

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
      return tidings.publish(n % 1_000, data);
  }
}

let sent = 0;

await obey({
  async round() {
    const callers = Array.from({ length: Number(clients) }, () => new Caller(Number(port)));
    const throughput = await inClosedLoops(callers, Number(seconds), async (caller) => {
      const status = await caller.send(request((sent += 1)));
      if (status !== 201) throw new Error(`a request was answered ${status}`);
    });
    for (const caller of callers) caller.close();
    return throughput;
  },
});
