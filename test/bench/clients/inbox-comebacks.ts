import { obey } from '../../load/rounds.ts';
import { Sockets, subscriptionBy } from '../../load/sockets.ts';
import { userToken } from '../../support/tokens.ts';

/* So many users, whose devices are known and who have gone; in a round they all come back at once, and stay until they have their numbers. */

const [, , port = '', tenant = '', users = ''] = process.argv;

const sockets = new Sockets(
  Number(port),
  Array.from({ length: Number(users) }, (_, n) => {
    const { request } = subscriptionBy(
      userToken({ tenant, user: `user-${n}`, device: 'phone', topics: [`topic-${n % 50}`] }),
    );
    return {
      request: request.replace('/v1/stream', '/v1/stream?inbox=1&from=latest'),
      ready: 'event: inbox',
    };
  }),
);

await obey({
  /** @returns how long it took until all had their numbers, in ms */
  async round(): Promise<number> {
    const began = performance.now();
    await sockets.openAll();
    const ms = performance.now() - began;
    sockets.cutAll();
    return ms;
  },
});
