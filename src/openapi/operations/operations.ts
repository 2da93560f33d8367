import type { Operation } from '../operation.ts';
import { adminOperations } from './admin.ts';
import { historyOperations } from './history.ts';
import { privacyOperations } from './privacy.ts';
import { publishOperations } from './publish.ts';
import { serviceOperations } from './service.ts';
import { sessionOperations } from './session.ts';
import { streamOperations } from './stream.ts';

/** Every route of the service. A test compares the list with the routes that Fastify has. */
export const operations: readonly Operation[] = [
  ...publishOperations,
  ...streamOperations,
  ...sessionOperations,
  ...historyOperations,
  ...adminOperations,
  ...privacyOperations,
  ...serviceOperations,
];
