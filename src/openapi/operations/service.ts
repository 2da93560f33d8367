import { z } from 'zod';
import { liveSchema, readySchema } from '../../health/readiness.store.ts';
import type { Operation } from '../operation.ts';
import { VERSION } from '../../core/config.ts';

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

const METRICS = `# HELP tidings_connections Open streams.
# TYPE tidings_connections gauge
tidings_connections 1204
`;

const page = (path: string, id: string, summary: string, description: string): Operation => ({
  method: 'get',
  path,
  id,
  tag: 'Operation',
  summary,
  description,
  access: 'public',
  answers: [
    { status: 200, description: 'The page.', content: [{ mediaType: 'text/html', text: '<!doctype html>' }] },
  ],
  problems: [],
});

export const serviceOperations: readonly Operation[] = [
  {
    method: 'get',
    path: '/health/live',
    id: 'live',
    tag: 'Operation',
    summary: 'Is the process alive?',
    description: 'Asks nothing else. Restart the service when this fails.',
    access: 'public',
    answers: [
      {
        status: 200,
        description: 'It is.',
        content: [
          {
            mediaType: 'application/json',
            schema: liveSchema,
            examples: { live: { summary: 'Alive', value: { status: 'live' } } },
          },
        ],
      },
    ],
    problems: [],
  },
  {
    method: 'get',
    path: '/health/ready',
    id: 'ready',
    tag: 'Operation',
    summary: 'Does this node take work?',
    description: `503 only while it shuts down or its tables are missing. A database that is away is *reported* and no
reason to turn callers away: streams stay open, and a balancer's own 503 would make every browser's \`EventSource\`
give up.`,
    access: 'public',
    answers: [
      {
        status: 200,
        description: 'It does.',
        content: [{ mediaType: 'application/json', schema: readySchema, examples: readyExamples }],
      },
      {
        status: 503,
        description: 'It does not: `draining` or `not-migrated`.',
        content: [
          {
            mediaType: 'application/json',
            schema: readySchema,
            examples: { draining: { summary: 'Shutting down', value: { ...ready, status: 'draining' } } },
          },
        ],
      },
    ],
    problems: [],
  },
  {
    method: 'get',
    path: '/metrics',
    id: 'metrics',
    tag: 'Operation',
    summary: 'Metrics of this node',
    description:
      'In the text format of Prometheus. No metric names a tenant. Not here, but at an address of their own, if `METRICS_PORT` is set.',
    access: 'public',
    answers: [
      { status: 200, description: 'All metrics.', content: [{ mediaType: 'text/plain', text: METRICS }] },
    ],
    problems: ['not_found'],
  },
  {
    method: 'get',
    path: '/openapi.json',
    id: 'openApi',
    tag: 'Operation',
    summary: 'This document',
    description: 'OpenAPI 3.1, made from the schemas that the service validates with.',
    access: 'public',
    answers: [
      {
        status: 200,
        description: 'The document.',
        content: [
          {
            mediaType: 'application/json',
            schema: z.looseObject({ openapi: z.string() }),
            examples: { start: { summary: 'Its beginning', value: { openapi: '3.1.1' } } },
          },
        ],
      },
    ],
    problems: [],
  },
  page('/docs', 'apiReference', 'The API reference', 'This document as a page, to read and to try.'),
  page('/docs/errors', 'errorReference', 'The error reference', 'Every error code, and what to do about it.'),
  {
    method: 'get',
    path: '/docs/assets/{name}',
    id: 'docsAsset',
    tag: 'Operation',
    summary: 'Scripts and styles of these pages',
    description: 'Served from here; nothing is loaded from elsewhere.',
    access: 'public',
    pathParameters: z.object({ name: z.string() }),
    answers: [
      {
        status: 200,
        description: 'The file.',
        content: [
          { mediaType: 'text/javascript', text: '' },
          { mediaType: 'text/css', text: '' },
        ],
      },
    ],
    problems: ['not_found'],
  },
];
