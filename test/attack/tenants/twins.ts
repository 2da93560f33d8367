import { randomUUID } from 'node:crypto';
import { call } from '../../support/admin.ts';
import { publish, type StoredAnswer } from '../../support/api.ts';
import { StreamClient } from '../../support/stream-client.ts';
import { callersOf, type Callers } from './callers.ts';
import { untilRecorded, type Stage } from './stage.ts';

/** A tenant whose user, token id, device and topics are also those of another. */
export interface Twin extends Callers {
  readonly id: string;
  /** Of alice, on her phone. */
  readonly token: string;
  open(query?: Record<string, string>, token?: string): Promise<StreamClient>;
  /** Opens a stream, and leaves when it has caught up: what it was sent, as data. */
  read(query?: Record<string, string>, token?: string): Promise<unknown[]>;
  publish(to: object, data: unknown): Promise<StoredAnswer>;
  /** A request of its operator or, where it takes that, of its administrator. */
  act(
    method: string,
    path: string,
    body?: unknown,
  ): Promise<{ status: number; body: Record<string, unknown> }>;
}

export const JTI = 'the-same-jti';

/** Two tenants that nobody has used. Their streams are on one node; what is done, is done through `acting`. */
export function twins(stage: Stage, acting: 'node' | 'otherNode'): readonly [left: Twin, right: Twin] {
  const pair = randomUUID();
  return [twin(stage, acting, `left-${pair}`), twin(stage, acting, `right-${pair}`)];
}

function twin({ node, ...nodes }: Stage, acting: 'node' | 'otherNode', id: string): Twin {
  const callers = callersOf(id);
  const { url } = acting === 'node' ? node : nodes[acting];
  const token = callers.user('alice', { topics: ['news'], device: 'phone', claims: { jti: JTI } });
  const open: Twin['open'] = async (query = {}, by = token) => {
    const stream = await StreamClient.open(node.url, by, { query });
    await stream.untilEvent('caught-up');
    return stream;
  };
  return {
    ...callers,
    id,
    token,
    open,
    async read(query, by) {
      const stream = await open(query, by);
      await stream.cut();
      await untilRecorded(node.database, (await stream.untilEvent('sync'))['connectionId']);
      return stream.notifications.map(({ data }) => data);
    },
    publish: (to, data) => publish(url, callers.billing, { to, type: 'note', data }),
    act: (method, path, body) =>
      call(method, `${url}${path}`, path.startsWith('/v1/tenants') ? callers.admin : callers.operator, body),
  };
}
