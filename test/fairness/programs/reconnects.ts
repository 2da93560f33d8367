import { giveWay, obey } from '../../load/rounds.ts';
import { Sockets, usersOf } from '../../load/sockets.ts';

/* A tenant whose clients, so many, are all cut at once and come back at once: one time in a round. */

const [, , url = '', count = ''] = process.argv;
giveWay();
const sockets = new Sockets(Number(new URL(url).port), usersOf('flood', Number(count)));

await obey({
  prepare: () => sockets.openAll(),
  async round() {
    sockets.cutAll();
    const began = performance.now();
    await sockets.openAll();
    return `all back after ${Math.round(performance.now() - began)} ms`;
  },
});
