import { post } from '../../load/caller.ts';
import { sign } from '../../support/tokens.ts';
import { MERCURE, reach } from '../peers.ts';
import { get, OPEN, type To, type Wire } from './wire.ts';

/*
 * Mercure as all its versions speak it: 0.x as it is, 1.x where it is told to be compatible. The parameter `topic` and the
 * claim `mercure` are refused by 1.x otherwise: https://mercure.rocks/docs/UPGRADE
 */

const HUB = '/.well-known/mercure';

const hub = reach(MERCURE);
const token = sign(
  // Who may publish everywhere: https://mercure.rocks/docs/UPGRADE (0.14)
  { mercure: { publish: ['*'] } },
  { alg: 'HS256', typ: 'JWT' },
  hub.secret('MERCURE_PUBLISHER_JWT_KEY'),
);
const HEADERS = {
  host: hub.site,
  authorization: `Bearer ${token}`,
  'content-type': 'application/x-www-form-urlencoded',
};

/* Selectors without braces are compared as they are, also by a 1.x that is compatible: no pattern is tried. */
const topicOf = (to: To): string => (to === 'everyone' ? to : `user-${to}`);

export const mercure: Wire = {
  host: hub.host,
  // The head is sent when the subscriber is in: https://github.com/dunglas/mercure/blob/main/subscribe.go
  subscription: (n, to) => ({
    request: get(`${HUB}?topic=${topicOf(to === 'everyone' ? to : n)}`, hub.site),
    ready: OPEN,
  }),
  // https://mercure.rocks/docs/concepts/publishing
  publish: (to, data) => post(HUB, new URLSearchParams({ topic: topicOf(to), data }).toString(), HEADERS),
};
