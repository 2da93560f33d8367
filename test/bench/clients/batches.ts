import { atOnce } from '../../load/at-once.ts';
import { Callers } from '../../load/caller.ts';
import { obey } from '../../load/rounds.ts';
import { publishBatch } from '../wires/tidings.ts';
import { now, stamped } from './messages.ts';

/* Publishes so many notifications to each of so many users of Tidings, from the user `first` on, a hundred per request. */

const [, , port = '', users = '', each = '', bytes = '', first = '0'] = process.argv;
const BATCH = 100;
const CONNECTIONS = 8;

await obey({
  async round() {
    const callers = new Callers(Number(port), CONNECTIONS);
    const batches = Array.from({ length: Math.ceil((Number(users) * Number(each)) / BATCH) }, (_, b) =>
      Array.from({ length: BATCH }, (__, n) => Number(first) + ((b * BATCH + n) % Number(users))),
    );
    await atOnce(CONNECTIONS, batches, async (batch) => {
      const status = await callers.send(publishBatch(batch, stamped(now(), Number(bytes))));
      if (status !== 201) throw new Error(`a batch was answered ${status}`);
    });
    callers.close();
  },
});
