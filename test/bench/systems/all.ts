import { centrifugo } from './centrifugo.ts';
import { mercure } from './mercure.ts';
import { nats } from './nats.ts';
import { nchan } from './nchan.ts';
import { startNodeProgram } from './node-program.ts';
import type { System, SystemName } from './system.ts';
import { startTidings, tidings } from './tidings.ts';

export const ALL: Readonly<Record<SystemName, System>> = {
  tidings,
  nchan,
  mercure,
  centrifugo,
  tutorial: {
    name: 'tutorial',
    contract: 'answers when the message was handed to an EventEmitter; no token; nothing is stored',
    start: () => startNodeProgram('tutorial'),
  },
  limit: {
    name: 'limit',
    contract: 'no HTTP to speak of: what is published is written to all sockets',
    start: () => startNodeProgram('bare-sockets'),
  },
  guarded: {
    name: 'guarded',
    contract: 'the same framework and the same guard in front of a route that does nothing',
    start: () => startNodeProgram('guarded-route'),
  },
  client: {
    name: 'client',
    contract:
      'the same rows in the same table by a bare pg client; no order, no keys, no limits, no row-level security',
    start: startTidings,
  },
  nats,
};
