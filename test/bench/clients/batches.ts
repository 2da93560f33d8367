import { Callers } from '../../load/caller.ts';
import { obey } from '../../load/rounds.ts';
import { publishBatch } from '../wires/tidings.ts';
import { now, stamped } from './messages.ts';

/* Publishes so many notifications to each of so many users of Tidings, from the user `first` on, a hundred per request. */

const [, , port = '', users = '', each = '', bytes = '', first = '0'] = process.argv;
const BATCH = 100;
const AT_ONCE = 8;

await obey({
  async round() {
    const callers = new Callers(Number(port), AT_ONCE);
    const batches = Array.from({ length: Math.ceil((Number(users) * Number(each)) / BATCH) }, (_, b) =>
      Array.from({ length: BATCH }, (__, n) => Number(first) + ((b * BATCH + n) % Number(users))),
    ).values();
    const publish = async (): Promise<void> => {
      for (const batch of batches) {
        const status = await callers.send(publishBatch(batch, stamped(now(), Number(bytes))));
        if (status !== 201) throw new Error(`a batch was answered ${status}`);
      }
    };
    await Promise.all(Array.from({ length: AT_ONCE }, publish));
    callers.close();
  },
});
