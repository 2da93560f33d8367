import { obey } from '../../load/rounds.ts';
import { Sockets } from '../../load/sockets.ts';
import { wireOf } from '../wires/all.ts';
import { subscriptionsTo } from '../wires/wire.ts';

/* So many users of a system who all connect, some at a time. In one round they connect, in the next they leave. */

const [, , system = '', port = '', users = '', atOnce = '', first = '0'] = process.argv;
const wire = wireOf(system);
const sockets = new Sockets(
  Number(port),
  subscriptionsTo(wire, Number(users), 'everyone', Number(first)),
  undefined,
  wire.host,
);

let connected = false;

await obey({
  async round() {
    connected = !connected;
    if (connected) await sockets.openAll(Number(atOnce));
    else sockets.cutAll();
  },
});
