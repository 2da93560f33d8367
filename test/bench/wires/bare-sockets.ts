import { post } from '../../load/caller.ts';
import { get, OPEN, type Wire } from './wire.ts';

/** Whoever comes gets everything. */
export const bareSockets: Wire = {
  subscription: () => ({ request: get('/'), ready: OPEN }),
  publish: (_to, data) => post('/', data),
};
