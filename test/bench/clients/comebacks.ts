import { obey } from '../../load/rounds.ts';
import { Sockets } from '../../load/sockets.ts';
import { wireOf } from '../wires/all.ts';
import { subscriptionsTo } from '../wires/wire.ts';

/* So many users, from the user `first` on, whose devices are known and who have gone; in a round they all come back at once. */

/** How long it took until all had all there is, and how many notifications that was. */
export interface Comeback {
  readonly seconds: number;
  readonly notifications: number;
}

const [, , system = '', port = '', users = '', first = '0'] = process.argv;
let notifications = 0;
const sockets = new Sockets(
  Number(port),
  subscriptionsTo(wireOf(system), Number(users), 'user', Number(first)),
  (text) => (notifications += text.split('"at":').length - 1),
);

await obey({
  async prepare() {
    await sockets.openAll(100);
    sockets.cutAll();
  },
  async round(): Promise<Comeback> {
    notifications = 0;
    const began = performance.now();
    await sockets.openAll();
    return { seconds: (performance.now() - began) / 1_000, notifications };
  },
});
