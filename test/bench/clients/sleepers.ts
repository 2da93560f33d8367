import { obey } from '../../load/rounds.ts';
import { Sockets } from '../../load/sockets.ts';
import type { SystemName } from '../systems/system.ts';
import { subscriptionTo } from './wire.ts';

/* So many users who connect, and read nothing from then on. */

const [, , system = '', port = '', users = '', first = '0'] = process.argv;
const sockets = new Sockets(
  Number(port),
  Array.from({ length: Number(users) }, (_, n) =>
    subscriptionTo(system as SystemName, Number(first) + n, 'everyone'),
  ),
);

await obey({
  async prepare() {
    await sockets.openAll(100);
    sockets.pauseAll();
  },
  round: () => Promise.resolve(),
});
