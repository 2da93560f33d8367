import { obey } from '../../load/rounds.ts';
import { Sockets } from '../../load/sockets.ts';
import type { SystemName } from '../systems/system.ts';
import { Stamps } from './stamps.ts';
import { subscriptionsTo } from './wire.ts';

/* So many users of a system, one stream each. A round lasts until so many messages have come, to all of them together. */

const [, , system = '', port = '', users = '', to = '', expected = ''] = process.argv;

const stamps = new Stamps();
const sockets = new Sockets(
  Number(port),
  subscriptionsTo(system as SystemName, Number(users), to === 'everyone' ? 'everyone' : 'user'),
  stamps.heard,
);

await obey({
  prepare: () => sockets.openAll(100),
  round: () => stamps.next(Number(expected)),
});
