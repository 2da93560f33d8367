import { Callers } from '../../load/caller.ts';
import { obey } from '../../load/rounds.ts';
import { wireOf } from '../wires/all.ts';
import { inOpenLoop } from './latencies.ts';
import { padded, stamped } from './messages.ts';

/*
 * Publishes so many messages, so many a second, whether answers come or not: to everyone, or to so many users in turn, from
 * the user `first` on.
 */

const [, , system = '', port = '', perSecond = '', messages = '', to = '', bytes = '', first = '0'] =
  process.argv;
const wire = wireOf(system);
/** Messages to everyone beside others that are measured say nothing of when they were sent. */
const dataOf = to === 'unmeasured' ? padded : stamped;

/** Of the publishing service. */
const CONNECTIONS = 8;

await obey({
  async round() {
    // Not kept from round to round: a server may close what lies idle.
    const callers = new Callers(Number(port), CONNECTIONS, wire.host);
    const latencies = await inOpenLoop(Number(perSecond), Number(messages), async (n, meant) => {
      const recipient = Number.isNaN(Number(to)) ? 'everyone' : Number(first) + (n % Number(to));
      const status = await callers.send(wire.publish(recipient, dataOf(meant, Number(bytes))));
      if (status >= 300) throw new Error(`a publish was answered ${status}`);
    });
    callers.close();
    return latencies;
  },
});
