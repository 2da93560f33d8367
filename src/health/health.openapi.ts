import { VERSION } from '../core/config.ts';
import { json, type Description } from '../http/description.ts';
import { liveSchema, readySchema } from './readiness.store.ts';

const ready = {
  status: 'ready',
  node: 'node-1',
  version: VERSION,
  database: { reachable: true, milliseconds: 0.8 },
};

const readyExamples = {
  ready: { summary: 'Everything is there', value: ready },
  away: {
    summary: 'Without its database, and still taking streams',
    value: { ...ready, database: { reachable: false, milliseconds: 1.2, error: 'ECONNREFUSED' } },
  },
  full: {
    summary: 'With a database whose disk is full',
    value: {
      ...ready,
      database: {
        reachable: true,
        milliseconds: 0.8,
        writeFailure: { error: '53100', since: '2026-11-22T17:00:00.000Z' },
      },
    },
  },
};

export const liveDescription: Description = {
  id: 'live',
  tag: 'Operation',
  summary: 'Is the process alive?',
  description: 'Asks nothing else. Restart the service when this fails.',
  answers: [json(200, 'It is.', liveSchema, { live: { summary: 'Alive', value: { status: 'live' } } })],
  problems: [],
};

export const readyDescription: Description = {
  id: 'ready',
  tag: 'Operation',
  summary: 'Does this node take work?',
  description: `503 only while it shuts down or its tables are missing. A database that is away is *reported* and no
reason to turn callers away: streams stay open, and a balancer's own 503 would make every browser's \`EventSource\`
give up.`,
  answers: [
    json(200, 'It does.', readySchema, readyExamples),
    json(503, 'It does not: `draining` or `not-migrated`.', readySchema, {
      draining: { summary: 'Shutting down', value: { ...ready, status: 'draining' } },
    }),
  ],
  problems: [],
};
