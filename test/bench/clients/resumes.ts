import { obey } from '../../load/rounds.ts';
import { Sockets, subscriptionBy } from '../../load/sockets.ts';
import { userToken } from '../../support/tokens.ts';
import { LatencyRecorder, type Latencies } from './latencies.ts';
import { now } from './messages.ts';

/* So many users of a tenant who come back one after the other, each from the same position, and stay until they have all there is. */

/** How long it took from the connection to `caught-up`, and how many notifications came to all of them. */
export interface Resumes extends Latencies {
  readonly notifications: number;
}

const [, , port = '', tenant = '', crowd = '', users = '', after = ''] = process.argv;

const subscriptions = Array.from({ length: Number(users) }, (_, n) =>
  subscriptionBy(userToken({ tenant, user: `${crowd}-${n}`, device: 'phone', topics: ['rare'] }), after),
);

await obey({
  async round(): Promise<Resumes> {
    const recorder = new LatencyRecorder();
    let notifications = 0;
    for (const subscription of subscriptions) {
      const sockets = new Sockets(
        Number(port),
        [subscription],
        (text) => (notifications += text.split('"text":').length - 1),
      );
      const began = now();
      await sockets.openAll();
      recorder.record(now() - began);
      sockets.cutAll();
    }
    return { ...recorder.latencies, notifications };
  },
});
