import { obey } from '../../load/rounds.ts';
import { Sockets } from '../../load/sockets.ts';
import { wireOf } from '../wires/all.ts';
import { subscriptionsTo } from '../wires/wire.ts';
import { Stamps } from './stamps.ts';

/*
 * So many users of a system, from the user `first` on, one stream each. A round lasts until so many messages have come, to all of
 * them together.
 */

const [, , system = '', port = '', users = '', to = '', expected = '', first = '0'] = process.argv;

const wire = wireOf(system);
const stamps = new Stamps();
const sockets = new Sockets(
  Number(port),
  subscriptionsTo(wire, Number(users), to === 'everyone' ? 'everyone' : 'user', Number(first)),
  stamps.heard,
  wire.host,
);

await obey({
  prepare: () => sockets.openAll(100),
  round: () => stamps.next(Number(expected)),
});
