import { post } from '../../load/caller.ts';
import { get, OPEN, type Wire } from './wire.ts';

export const tutorial: Wire = {
  subscription: (n) => ({ request: get(`/subscribe/${n}`), ready: OPEN }),
  publish: (to, data) => post('/publish', `{${to === 'everyone' ? '' : `"user":"${to}",`}"data":${data}}`),
};
