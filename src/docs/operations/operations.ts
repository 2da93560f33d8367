import type { Operation } from '../operation.ts';
import { historyOperations } from './history.ts';
import { publishOperations } from './publish.ts';
import { serviceOperations } from './service.ts';
import { streamOperations } from './stream.ts';

/** Every route of the service. A test compares the list with the routes that Fastify has. */
export const operations: readonly Operation[] = [
  ...publishOperations,
  ...streamOperations,
  ...historyOperations,
  ...serviceOperations,
];
