import { Callers, post } from '../../load/caller.ts';
import { obey } from '../../load/rounds.ts';
import { Sockets, subscriptionBy } from '../../load/sockets.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';
import { inOpenLoop } from './latencies.ts';
import { stamped } from './messages.ts';
import { Stamps } from './stamps.ts';

/*
 * So many users of Tidings with one stream each, spread over so many tenants, each of which has a service that publishes to
 * its own. A round publishes so many messages, so many a second, to one user after the other, and lasts until all have come.
 */

const [, , port = '', users = '', tenants = '', perSecond = '', messages = '', bytes = ''] = process.argv;
const CONNECTIONS = 8;

const tenantOf = (n: number): string => `tenant-${n % Number(tenants)}`;
const userOf = (n: number): string => `user-${n}`;
const authorizations = Array.from({ length: Number(tenants) }, (_, n) => ({
  authorization: `Bearer ${serviceToken({ tenant: tenantOf(n) })}`,
}));

const stamps = new Stamps();
const sockets = new Sockets(
  Number(port),
  Array.from({ length: Number(users) }, (_, n) =>
    subscriptionBy(userToken({ tenant: tenantOf(n), user: userOf(n) })),
  ),
  stamps.heard,
);

await obey({
  prepare: () => sockets.openAll(100),
  async round() {
    const callers = new Callers(Number(port), CONNECTIONS);
    const [heard] = await Promise.all([
      stamps.next(Number(messages)),
      inOpenLoop(Number(perSecond), Number(messages), async (k, meant) => {
        const n = k % Number(users);
        const body = `{"to":{"user":"${userOf(n)}"},"type":"bench","data":${stamped(meant, Number(bytes))}}`;
        const authorization = authorizations[n % Number(tenants)];
        const status = await callers.send(post('/v1/notifications', body, authorization));
        if (status !== 201) throw new Error(`a publish was answered ${status}`);
      }),
    ]);
    callers.close();
    return heard;
  },
});
