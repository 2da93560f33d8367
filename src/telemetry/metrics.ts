import { readdir } from 'node:fs/promises';
import { Injectable } from '@nestjs/common';
import { Counter, Gauge, Histogram, Registry, collectDefaultMetrics } from 'prom-client';
import { VERSION } from '../core/config.ts';

/** Seconds. Fine around a commit (a few ms), coarse where only "too long" matters. */
const COMMIT_SECONDS = [
  0.0005, 0.001, 0.002, 0.004, 0.008, 0.016, 0.032, 0.064, 0.125, 0.25, 0.5, 1, 2.5, 10,
];
const REQUEST_SECONDS = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 10];
const BATCH_SIZES = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1_000, 10_000];

const OPEN_FILES = 'process_open_fds';

/**
 * Of the default metrics those for which each scrape lists every socket, and holds up everybody for 10 ms where 5,000
 * streams are open. `tidings_connections` says as much; open files, which are limited, are counted aside.
 */
const OF_EVERY_SOCKET = [
  OPEN_FILES,
  ...['handles', 'requests', 'resources'].flatMap((what) => [
    `nodejs_active_${what}`,
    `nodejs_active_${what}_total`,
  ]),
];

const ROUND_RESULTS = ['done', 'skipped', 'failed'] as const;
/** How a round of maintenance ended. */
export type RoundResult = (typeof ROUND_RESULTS)[number];

/**
 * A counter whose series are there from the start: `increase()` does not see the first event of a series that begins
 * with it. What is not in the list of its values cannot be counted.
 */
interface KnownCounter<Label extends string, Value extends string> {
  inc(by?: number): void;
  inc(labels: Readonly<Record<Label, Value>>, by?: number): void;
  get(): ReturnType<Counter<Label>['get']>;
}

/**
 * What an operator can watch. Every number is of this node alone, and nothing names a tenant: a label per tenant
 * would tell one customer's size to whoever may read the metrics, and grow without bound.
 * Labels take their values from short lists. On a hot path count once per batch, not per item.
 */
@Injectable()
export class Metrics {
  /** A registry of its own: two services in one process (tests) do not add up. */
  readonly registry = new Registry();
  /** What /metrics answers. One of several workers has another way to say it (src/app/workers.ts): that of all of them. */
  read = (): Promise<string> => this.registry.metrics();

  readonly published = this.#counter('tidings_published_total', 'Notifications stored in the log.');
  readonly publishRequests = this.#counter(
    'tidings_publish_requests_total',
    'Publish requests by how they ended: stored, replayed (known Idempotency-Key), limited (the tenant is over its rate or its storage), refused (the request was at fault) or unavailable (503).',
    { result: ['stored', 'replayed', 'limited', 'refused', 'unavailable'] },
  );
  readonly batchSize = this.#histogram(
    'tidings_batch_size',
    'Notifications appended by one statement.',
    BATCH_SIZES,
  );
  readonly appendSeconds = this.#histogram(
    'tidings_append_seconds',
    'Time from the start of an append statement until its commit was known.',
    COMMIT_SECONDS,
  );
  readonly ingestQueue = this.#gauge('tidings_ingest_queue', 'Notifications that wait to be appended.');

  readonly connections = this.#gauge('tidings_connections', 'Open streams.');
  readonly streamsOpened = this.#counter(
    'tidings_streams_opened_total',
    'Streams opened, by how they resumed (the `resume` of the `sync` event).',
    { resume: ['exact', 'undelivered', 'latest', 'earliest', 'gap', 'reset'] },
  );
  readonly streamsEnded = this.#counter(
    'tidings_streams_ended_total',
    'Streams ended, by reason: `client`, `stalled`, or that of the `bye` event.',
    {
      reason: [
        'client',
        'stalled',
        'token-expired',
        'revoked',
        'shutdown',
        'replaced',
        'over-limit',
        'unavailable',
      ],
    },
  );
  readonly overLimit = this.#counter(
    'tidings_over_limit_total',
    'Streams that got `bye` `over-limit`, by limit: `node` (MAX_CONNECTIONS), `connections`, `devicesPerUser`.',
    { limit: ['node', 'connections', 'devicesPerUser'] },
  );
  readonly deliveries = this.#counter(
    'tidings_deliveries_total',
    'Notifications written to a socket: live as they were published, or replayed from the backlog.',
    { kind: ['live', 'replayed'] },
  );
  readonly deliveredBytes = this.#counter(
    'tidings_delivered_bytes_total',
    'Bytes of notifications written to sockets.',
  );
  readonly commitToSocketSeconds = this.#histogram(
    'tidings_commit_to_socket_seconds',
    'Time from the commit, on whichever node, until the notification was offered to every connection that it is for, and written to those that are live. For what another node committed it begins a little earlier, with the time in its position.',
    COMMIT_SECONDS,
  );
  readonly gapsAnnounced = this.#counter(
    'tidings_gaps_announced_total',
    'Streams that were told that retention took away what they had not read.',
  );

  readonly backlogStatements = this.#counter(
    'tidings_backlog_statements_total',
    'Statements that read the log for streams.',
  );
  readonly backlogRows = this.#counter(
    'tidings_backlog_rows_total',
    'Notifications that those statements returned.',
  );
  readonly backlogBytes = this.#counter(
    'tidings_backlog_bytes_total',
    'Bytes of `data` that those statements returned.',
  );
  readonly behind = this.#gauge(
    'tidings_behind',
    'Streams that are reading the log because they are not live.',
  );
  readonly tailBytes = this.#gauge('tidings_tail_bytes', 'Memory that holds the newest part of the log.');
  readonly tailHoles = this.#counter(
    'tidings_tail_holes_total',
    'Batches that did not follow what this node knew, so that the log was read to close the hole.',
  );

  readonly receiptsQueue = this.#gauge(
    'tidings_receipts_queue',
    'Intervals that are not stored yet, those that still grow among them.',
  );
  readonly receiptsDropped = this.#counter(
    'tidings_receipts_dropped_total',
    'Intervals of `sent` forgotten because the queue of receipts was full.',
  );
  readonly receiptsFlushSeconds = this.#histogram(
    'tidings_receipts_flush_seconds',
    'Time that one flush of receipts took.',
    REQUEST_SECONDS,
  );
  readonly acknowledgements = this.#counter(
    'tidings_acknowledgements_total',
    'Acknowledgements that were stored.',
  );
  readonly inboxMarkings = this.#counter(
    'tidings_inbox_markings_total',
    'Calls by which users marked what is in their inbox, and that were stored.',
  );

  readonly busMessages = this.#counter(
    'tidings_bus_messages_total',
    'Messages by which nodes tell one another that there is something new.',
    { direction: ['sent', 'received', 'refused'] },
  );
  readonly busConnected = this.#gauge(
    'tidings_bus_connected',
    'Whether other nodes are heard at once, or there are none (1), or they are heard by polling only (0).',
  );
  readonly busQueueUsage = this.#gauge(
    'tidings_bus_queue_usage',
    'How full the queue of notifications of PostgreSQL is, 0 to 1. Grows while a session listens and does not read.',
  );

  readonly erasures = this.#gauge(
    'tidings_erasures',
    'Erasures of users and tenants that are under way, on whichever node.',
  );

  readonly partitionsAhead = this.#gauge(
    'tidings_partitions_ahead',
    'Partitions of the log that are ready for the time to come; at 0 publishing is about to stop.',
  );
  readonly headAheadOfClock = this.#gauge(
    'tidings_head_ahead_of_clock_seconds',
    'How far the newest position of any tenant lies in the future; grows when a clock was set back.',
  );
  readonly oldestSnapshot = this.#gauge(
    'tidings_oldest_snapshot_seconds',
    'Age of the oldest snapshot that the database still serves; a long one slows every append.',
  );
  readonly maintenanceFailures = this.#counter(
    'tidings_maintenance_failures_total',
    'Steps of maintenance that failed and will be tried again.',
    { step: ['lock', 'partitions', 'floor', 'drop', 'sweep', 'watch'] },
  );

  readonly maintenanceRounds = this.#counter(
    'tidings_maintenance_rounds_total',
    'Rounds of maintenance by how they ended: done, skipped (another session was at it) or failed (one of its steps did).',
    { result: ROUND_RESULTS },
  );
  readonly maintenanceDone = this.#gauge(
    'tidings_maintenance_done_timestamp_seconds',
    'When a round of maintenance was last done by this node, in seconds since 1970; 0 before the first.',
  );

  readonly httpRequests = this.#histogram(
    'tidings_http_request_seconds',
    'Time to answer a request, by route pattern. Streams are not in it.',
    REQUEST_SECONDS,
    ['method', 'route', 'status'],
  );

  readonly openFiles: Gauge | undefined;

  constructor() {
    this.#gauge('tidings_build_info', 'Always 1; the label is the version that this node runs.', ['version'])
      .labels(VERSION)
      .set(1);
    collectDefaultMetrics({ register: this.registry });
    for (const name of OF_EVERY_SOCKET) this.registry.removeSingleMetric(name);
    if (process.platform === 'linux')
      this.openFiles = new Gauge({
        name: OPEN_FILES,
        help: 'Open file descriptors; each stream is one.',
        registers: [this.registry],
        async collect() {
          // Without a descriptor left to look with, the other metrics are needed all the more.
          const files = await readdir('/proc/self/fd').catch(() => undefined);
          // Less the one that was used to look.
          if (files !== undefined) this.set(files.length - 1);
        },
      });
  }

  /** `labels`: every value that the label can have. */
  #counter<Label extends string = never, Value extends string = never>(
    name: string,
    help: string,
    labels?: Readonly<Record<Label, readonly Value[]>>,
  ): KnownCounter<Label, Value> {
    const values = Object.entries<readonly Value[]>(labels ?? {});
    const labelNames = values.map(([label]) => label);
    const counter = new Counter({ name, help, labelNames, registers: [this.registry] });
    for (const [label, known] of values) for (const value of known) counter.inc({ [label]: value }, 0);
    return counter;
  }

  #gauge<Label extends string = never>(
    name: string,
    help: string,
    labelNames: readonly Label[] = [],
  ): Gauge<Label> {
    return new Gauge({ name, help, labelNames, registers: [this.registry] });
  }

  #histogram<Label extends string = never>(
    name: string,
    help: string,
    buckets: number[],
    labelNames: readonly Label[] = [],
  ): Histogram<Label> {
    return new Histogram({ name, help, buckets, labelNames, registers: [this.registry] });
  }
}
