import type { Attempt, Entry, Table } from './attempt.ts';
import type { OperationKey, ParameterKey } from '../document.ts';
import { administration } from './table.admin.ts';
import { inbox } from './table.inbox.ts';
import { history } from './table.history.ts';
import { privacy } from './table.privacy.ts';
import { publishing } from './table.publish.ts';
import { streaming } from './table.streams.ts';

const SAME_FOR_ALL = 'takes nothing, and says the same to all';

/** Every operation of the service, with every way to name in it what belongs to somebody else. */
export const TABLE: Table = {
  ...publishing,
  ...streaming,
  ...inbox,
  ...history,
  ...administration,
  ...privacy,
  'GET /health/live': SAME_FOR_ALL,
  'GET /health/ready': SAME_FOR_ALL,
  'GET /metrics': SAME_FOR_ALL,
  'GET /openapi.json': SAME_FOR_ALL,
  'GET /docs': SAME_FOR_ALL,
  'GET /docs/errors': SAME_FOR_ALL,
  'GET /docs/assets/{name}': {
    request: () => ({}),
    parameters: { 'path name': 'is one of a few files that are the same for all' },
  },
};

/** An attempt in its place. */
export interface Case extends Attempt {
  readonly operation: OperationKey;
  readonly entry: Entry;
  readonly parameter: ParameterKey;
}

/** Every attempt at an operation. */
export function attemptsOf(operation: OperationKey): Case[] {
  const entry = TABLE[operation];
  if (typeof entry !== 'object') return [];
  return Object.entries(entry.parameters).flatMap(([parameter, attempts]) =>
    typeof attempts === 'object'
      ? attempts.map((attempt) => ({
          ...attempt,
          operation,
          entry,
          parameter: parameter as ParameterKey,
        }))
      : [],
  );
}
