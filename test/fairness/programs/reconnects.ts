import { giveWay, obey } from './rounds.ts';
import { Sockets } from './sockets.ts';

/* A tenant whose clients, so many, are all cut at once and come back at once: one time in a round. */

const [, , url = '', count = ''] = process.argv;
giveWay();
const sockets = new Sockets(url, 'flood', Number(count));

await obey({
  prepare: () => sockets.openAll(),
  async round() {
    sockets.cutAll();
    const began = performance.now();
    await sockets.openAll();
    return `all back after ${Math.round(performance.now() - began)} ms`;
  },
});
