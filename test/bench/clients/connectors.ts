import { obey } from '../../load/rounds.ts';
import { Sockets } from '../../load/sockets.ts';
import { wireOf } from '../wires/all.ts';
import { subscriptionsTo } from '../wires/wire.ts';

/* So many users of a system who all connect, some at a time. In each round they leave, if they are there, and connect. */

const [, , system = '', port = '', users = '', atOnce = '', first = '0'] = process.argv;
const wire = wireOf(system);
const sockets = new Sockets(
  Number(port),
  subscriptionsTo(wire, Number(users), 'everyone', Number(first)),
  undefined,
  wire.host,
);

await obey({
  async round() {
    sockets.cutAll();
    const began = performance.now();
    await sockets.openAll(Number(atOnce));
    return performance.now() - began;
  },
});
