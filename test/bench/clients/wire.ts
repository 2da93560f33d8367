import { post } from '../../load/caller.ts';
import { subscriptionBy, type Subscription } from '../../load/sockets.ts';
import { serviceToken, userToken } from '../../support/tokens.ts';
import type { SystemName } from '../systems/system.ts';

/* What clients say to each of the systems, so that the same programs can load all of them. */

/** Whom a message is for: everyone who listens, or the user of that number. */
export type To = 'everyone' | number;

const TENANT = 'bench';
const OPEN = '\r\n\r\n';

const get = (path: string): string =>
  `GET ${path} HTTP/1.1\r\nhost: localhost\r\naccept: text/event-stream\r\n\r\n`;

/** The stream of the user `n`. In nchan a stream is one of a channel, so it depends on what will be published. */
function subscriptionTo(system: SystemName, n: number, to: 'everyone' | 'user'): Subscription {
  switch (system) {
    case 'tidings':
      return subscriptionBy(userToken({ tenant: TENANT, user: `user-${n}` }));
    case 'nchan':
      return { request: get(`/subscribe/${to === 'everyone' ? 'everyone' : n}`), ready: OPEN };
    case 'tutorial':
      return { request: get(`/subscribe/${n}`), ready: OPEN };
    default:
      return { request: get('/'), ready: OPEN };
  }
}

/** The streams of so many users, from the user `first` on. */
export const subscriptionsTo = (
  system: SystemName,
  users: number,
  to: 'everyone' | 'user',
  first = 0,
): Subscription[] => Array.from({ length: users }, (_, n) => subscriptionTo(system, first + n, to));

const token = serviceToken({ tenant: TENANT, scope: 'notifications:publish notifications:broadcast' });
const authorization = { authorization: `Bearer ${token}` };

/** A publish of `data`, which is JSON. */
export function publishTo(system: SystemName, to: To, data: string): string {
  switch (system) {
    case 'tidings':
      return post(
        '/v1/notifications',
        `{"to":${to === 'everyone' ? '{"everyone":true}' : `{"user":"user-${to}"}`},"type":"bench","data":${data}}`,
        authorization,
      );
    case 'nchan':
      return post(`/publish/${to}`, data);
    case 'tutorial':
      return post('/publish', `{${to === 'everyone' ? '' : `"user":"${to}",`}"data":${data}}`);
    default:
      return post('/', data);
  }
}

/** A batch for Tidings, each for another user. */
export function publishBatch(users: readonly number[], data: string): string {
  const notifications = users.map((n) => `{"to":{"user":"user-${n}"},"type":"bench","data":${data}}`);
  return post('/v1/notifications/batch', `{"notifications":[${notifications.join(',')}]}`, authorization);
}

/** `data` of `bytes` bytes that says when it was meant to be sent, in µs by a clock that all processes share. */
export const stamped = (at: number, bytes: number): string => filled(`{"at":${at},"text":"`, bytes);

/** The same of other data, which says nothing. */
export const padded = (_at: number, bytes: number): string => filled(`{"text":"`, bytes);

const filled = (head: string, bytes: number): string =>
  `${head}${'x'.repeat(Math.max(0, bytes - head.length - 2))}"}`;

/** µs by that clock. */
export const now = (): number => Number(process.hrtime.bigint() / 1_000n);

/** The same as a publish of one, to a route behind the same guard that does nothing. */
export const guarded = (data: string): string =>
  post('/publish', `{"to":{"user":"user-1"},"type":"bench","data":${data}}`, authorization);
