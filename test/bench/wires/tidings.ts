import { post } from '../../load/caller.ts';
import { subscriptionBy } from '../../load/sockets.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';
import type { Wire } from './wire.ts';

const TENANT = 'bench';

const token = serviceToken({ tenant: TENANT, scope: 'notifications:publish notifications:broadcast' });
const authorization = { authorization: `Bearer ${token}` };

export const tidings: Wire = {
  subscription: (n) => subscriptionBy(userToken({ tenant: TENANT, user: `user-${n}` })),
  publish: (to, data) =>
    post(
      '/v1/notifications',
      `{"to":${to === 'everyone' ? '{"everyone":true}' : `{"user":"user-${to}"}`},"type":"bench","data":${data}}`,
      authorization,
    ),
};

/** A batch, each for another user. */
export function publishBatch(users: readonly number[], data: string): string {
  const notifications = users.map((n) => `{"to":{"user":"user-${n}"},"type":"bench","data":${data}}`);
  return post('/v1/notifications/batch', `{"notifications":[${notifications.join(',')}]}`, authorization);
}

/** The same as a publish of one, to a route behind the same guard that does nothing. */
export const guarded = (data: string): string =>
  post('/publish', `{"to":{"user":"user-1"},"type":"bench","data":${data}}`, authorization);
