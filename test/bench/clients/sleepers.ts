import { obey } from '../../load/rounds.ts';
import { Sockets } from '../../load/sockets.ts';
import { wireOf } from '../wires/all.ts';
import { subscriptionsTo } from '../wires/wire.ts';

/* So many users who connect, and read nothing from then on. */

const [, , system = '', port = '', users = '', first = '0'] = process.argv;
const sockets = new Sockets(
  Number(port),
  subscriptionsTo(wireOf(system), Number(users), 'everyone', Number(first)),
);

await obey({
  async prepare() {
    await sockets.openAll(100);
    sockets.pauseAll();
  },
  round: () => Promise.resolve(),
});
