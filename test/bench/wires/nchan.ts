import { post } from '../../load/caller.ts';
import { get, OPEN, type Wire } from './wire.ts';

/** A channel for each user, and one for everyone. */
export const nchan: Wire = {
  subscription: (n, to) => ({
    request: get(`/subscribe/${to === 'everyone' ? 'everyone' : n}`),
    ready: OPEN,
  }),
  publish: (to, data) => post(`/publish/${to}`, data),
};
