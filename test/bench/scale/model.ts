import { settingsSchema } from '../../../src/core/config.ts';
import { TUNING } from '../../../src/core/tuning.ts';

/*
 * What Tidings costs at sizes that nobody has measured, from what was. docs/explanation/scale.md is written from here
 * (`npm run docs:reference`), so an input that is changed changes every number that comes of it.
 */

/** A number that results are made of. */
export interface Input {
  readonly value: number;
  readonly unit: string;
  readonly what: string;
  /** Where it was measured, or why it is assumed. */
  readonly from: string;
}

const PERFORMANCE = '[performance](../performance.md)';
const BENCH = '[test/bench](../../test/bench/README.md)';

/** CPU is of one processor of the machine of the bench. */
export const MEASURED = {
  delivery: {
    value: 13.6,
    unit: 'µs of a node',
    what: 'a delivery of a broadcast',
    from: `${PERFORMANCE}, 5,000 streams`,
  },
  notification: {
    value: 1_160,
    unit: 'µs of a node',
    what: 'a notification to one user, published alone, delivered, recorded',
    from: `${PERFORMANCE}, 400 a second, 10,000 streams, one tenant`,
  },
  publish: {
    value: 156,
    unit: 'µs of a node',
    what: 'a publish',
    from: `${PERFORMANCE}, 64 clients`,
  },
  connectNew: {
    value: 532,
    unit: 'µs of a node',
    what: 'a connect with a token that the node has not seen',
    from: PERFORMANCE,
  },
  connectKnown: {
    value: 270,
    unit: 'µs of a node',
    what: 'a connect with a token that it has seen',
    from: PERFORMANCE,
  },
  memory: { value: 4.4, unit: 'KiB', what: 'resident memory of an idle stream', from: PERFORMANCE },
  memoryOfNode: {
    value: 187,
    unit: 'MiB',
    what: 'resident memory of a node without its streams',
    from: `${PERFORMANCE}: 230 MiB with 10,000 streams`,
  },
  streams: {
    value: 15_000,
    unit: 'streams',
    what: 'most that one node was measured with',
    from: PERFORMANCE,
  },
  append: {
    value: 779,
    unit: 'µs of PostgreSQL',
    what: 'an append of one notification',
    from: '[ADR 6](../adr/0006-charged-by-the-append.md)',
  },
  interval: {
    value: 15,
    unit: 'µs of PostgreSQL',
    what: 'an interval of `sent`, of 1,000 in a statement (its time, so at most)',
    from: '[ADR 3](../adr/0003-interval-ledger-indexes.md)',
  },
  intervalWal: {
    value: 313,
    unit: 'bytes',
    what: 'WAL of an interval',
    from: '[ADR 3](../adr/0003-interval-ledger-indexes.md)',
  },
  comeback: {
    value: 550,
    unit: 'µs of PostgreSQL',
    what: 'a client that comes back, 20 notifications behind',
    from: `${BENCH}: 440–660`,
  },
  stored: {
    value: 640,
    unit: 'bytes',
    what: 'disk of a notification with its receipts and indexes',
    from: `${BENCH}: 7 GB for logs of 11,010,000`,
  },
} as const satisfies Record<string, Input>;

/** What nobody measured: how people use it, what machines there are, what they cost. */
export const ASSUMED = {
  single: { value: 5, unit: 'an hour', what: 'notifications to each connected user', from: 'a busy app' },
  broadcast: { value: 1, unit: 'an hour', what: 'broadcasts of each tenant', from: 'a busy app' },
  reconnect: {
    value: 4,
    unit: 'an hour',
    what: 'times that a stream is lost and comes back',
    from: 'phones, laptops, deployments',
  },
  ack: {
    value: 4,
    unit: 'an hour',
    what: 'acknowledgements of each stream, each at the cost of a publish',
    from: 'they are cumulative: one for several notifications',
  },
  newToken: { value: 1, unit: 'an hour', what: 'new tokens of each user', from: 'the usual life of one' },
  peak: { value: 3, unit: '×', what: 'the busiest hour to the average', from: 'people sleep' },
  tenant: {
    value: settingsSchema.shape.MAX_CONNECTIONS_PER_TENANT.parse(undefined),
    unit: 'streams',
    what: 'of a tenant at once',
    from: 'default of `MAX_CONNECTIONS_PER_TENANT`',
  },
  busy: {
    value: 0.5,
    unit: 'of a processor',
    what: 'that a node or PostgreSQL may use',
    from: 'room for storms',
  },
  read: {
    value: 10,
    unit: 'µs of each',
    what: 'to read one notification of another node, for PostgreSQL and for the node',
    from: 'a guess; a replay takes at most 45 with its delivery',
  },
  head: { value: 2, unit: 'µs of PostgreSQL', what: 'to read the head of one log', from: 'a guess' },
  change: {
    value: 100,
    unit: 'µs of PostgreSQL',
    what: 'a statement of the change feed; five, twice a second and node',
    from: 'a guess',
  },
  socket: {
    value: 4,
    unit: 'KiB',
    what: 'memory of the kernel for a TCP connection',
    from: 'an idle socket',
  },
  frame: {
    value: 500,
    unit: 'bytes',
    what: 'of a delivery on the wire, with TLS and TCP',
    from: '240 bytes of data',
  },
  heartbeat: { value: 100, unit: 'bytes', what: 'of a heartbeat on the wire', from: '7 bytes, TLS, TCP, IP' },
  wal: {
    value: 1_000,
    unit: 'bytes',
    what: 'WAL of a notification',
    from: 'a guess: 240 bytes of data, four indexes',
  },
  databaseCores: {
    value: 64,
    unit: 'processors',
    what: 'the largest PostgreSQL',
    from: 'sold by every large provider',
  },
  databaseDisk: {
    value: 16,
    unit: 'TB',
    what: 'the disk of it',
    from: 'a volume that can still be restored in a day',
  },
  databaseWal: {
    value: 200,
    unit: 'MB a second',
    what: 'WAL that it can write and ship',
    from: 'a standby has to follow',
  },
  databaseSessions: { value: 3_000, unit: 'sessions', what: 'without a pooler', from: 'idle ones are cheap' },
  retention: {
    value: settingsSchema.shape.RETENTION_DAYS.parse(undefined),
    unit: 'days',
    what: 'that are kept',
    from: 'default of `RETENTION_DAYS`',
  },
  processorPrice: {
    value: 0.048,
    unit: '$ an hour',
    what: 'a processor with 4 GiB',
    from: 'price class: general-purpose virtual machine, on demand, large provider',
  },
  diskPrice: {
    value: 0.08,
    unit: '$ a GB and month',
    what: 'disk',
    from: 'price class: network SSD, general purpose',
  },
  trafficPrice: {
    value: 0.05,
    unit: '$ a GB',
    what: 'traffic to the internet',
    from: 'price class: large volumes',
  },
} as const satisfies Record<string, Input>;

/** Sessions of a node: five pools, and what comes on top (src/postgres/database.module.ts, pools.ts). */
const SESSIONS = 5 * settingsSchema.shape.DATABASE_CONNECTIONS_PER_POOL.parse(undefined) + 10;
const HEARTBEAT_SECONDS = settingsSchema.shape.HEARTBEAT_SECONDS.parse(undefined);
const HOURS_PER_MONTH = 730;
const SECONDS_PER_HOUR = 3_600;
const MICRO = 1e-6;

/** What can be full, in parts of what there is: 1 is full. */
export const RESOURCES = {
  database: "PostgreSQL's processors",
  sessions: "PostgreSQL's sessions",
  disk: "PostgreSQL's disk",
  wal: 'WAL',
  reading: "each node reads every node's notifications",
} as const;
export type Resource = keyof typeof RESOURCES;

/** One installation: one PostgreSQL, and as many nodes as its streams need. */
export interface Installation {
  readonly streams: number;
  readonly tenants: number;
  readonly nodes: number;
  /** Of all nodes, in GiB, with the kernel's part. */
  readonly memory: number;
  /** In the busiest hour, per second. */
  readonly published: number;
  readonly delivered: number;
  /** Processors of PostgreSQL that are at work, in the busiest hour. */
  readonly database: number;
  /** TB. */
  readonly disk: number;
  /** Part of a processor that a node uses, in the busiest hour. */
  readonly node: number;
  readonly use: Readonly<Record<Resource, number>>;
}

/** Per second in the busiest hour, of what happens so often an hour. */
const peak = ({ value }: Input): number => (value * ASSUMED.peak.value) / SECONDS_PER_HOUR;

/** What a stream costs its node, in µs of a second, in the busiest hour. */
export function costOfStream(): number {
  const { delivery, notification, publish, connectNew, connectKnown } = MEASURED;
  return (
    peak(ASSUMED.single) * notification.value +
    peak(ASSUMED.broadcast) * delivery.value +
    peak(ASSUMED.reconnect) * connectKnown.value +
    peak(ASSUMED.newToken) * (connectNew.value - connectKnown.value) +
    // An acknowledgement is taken to cost what a publish costs, and a heartbeat what a delivery costs.
    peak(ASSUMED.ack) * publish.value +
    delivery.value / HEARTBEAT_SECONDS
  );
}

/** @param spread on how many nodes a tenant has streams: on all of them where a balancer gives each stream to any node */
export function installationOf(streams: number, spread = Infinity): Installation {
  const tenants = Math.max(1, Math.round(streams / ASSUMED.tenant.value));
  const single = streams * peak(ASSUMED.single);
  const published = single + tenants * peak(ASSUMED.broadcast);
  const delivered = single + streams * peak(ASSUMED.broadcast);

  const busy = ASSUMED.busy.value;
  const perNode = Math.min(MEASURED.streams.value, busy / (costOfStream() * MICRO));
  // One more, so that one may be lost.
  const nodes = Math.ceil(streams / perNode) + 1;
  const nodesOfTenant = Math.min(nodes, streams / tenants, spread);
  const heardOf = (published * (nodesOfTenant - 1)) / nodes;
  const reading = heardOf * ASSUMED.read.value * MICRO;

  const intervals = Math.min(delivered, nodes * TUNING.RECEIPTS_ROWS_PER_SECOND);
  const heads = (tenants * nodesOfTenant * 1_000) / TUNING.LOG_POLL_MS;
  const changes = (nodes * 5 * 1_000) / TUNING.CHANGES_POLL_MS;
  const database =
    MICRO *
    ((published + streams * peak(ASSUMED.ack)) * MEASURED.append.value +
      intervals * MEASURED.interval.value +
      streams * peak(ASSUMED.reconnect) * MEASURED.comeback.value +
      heardOf * nodes * ASSUMED.read.value +
      heads * ASSUMED.head.value +
      changes * ASSUMED.change.value);
  const wal = published * ASSUMED.wal.value + intervals * MEASURED.intervalWal.value;
  const kept = (published / ASSUMED.peak.value) * SECONDS_PER_HOUR * 24 * ASSUMED.retention.value;
  const disk = (kept * MEASURED.stored.value) / 1e12;
  return {
    streams,
    tenants,
    nodes,
    memory:
      (nodes * MEASURED.memoryOfNode.value) / 1_024 +
      (streams * (MEASURED.memory.value + ASSUMED.socket.value)) / 1_024 ** 2,
    published,
    delivered,
    database,
    disk,
    node: (streams / nodes) * costOfStream() * MICRO + reading,
    use: {
      database: database / (ASSUMED.databaseCores.value * busy),
      sessions: (nodes * SESSIONS) / ASSUMED.databaseSessions.value,
      disk: disk / ASSUMED.databaseDisk.value,
      wal: wal / (ASSUMED.databaseWal.value * 1e6),
      reading: reading / busy,
    },
  };
}

/** What is the fullest. */
export function fullest({ use }: Installation): Resource {
  const [first] = (Object.keys(RESOURCES) as Resource[]).toSorted((a, b) => use[b] - use[a]);
  if (first === undefined) throw new Error('there are resources');
  return first;
}

/** The fewest installations of one size in which nothing is more than full. */
export function installationsFor(streams: number): { readonly count: number; readonly each: Installation } {
  for (let count = 1; ; count += 1) {
    const each = installationOf(streams / count);
    if (each.use[fullest(each)] <= 1) return { count, each };
  }
}

/** What a month costs, in $, and how many deliveries there are in it. */
export interface Bill {
  readonly nodes: number;
  readonly databases: number;
  readonly disk: number;
  readonly traffic: number;
  readonly deliveries: number;
}

export function billOf(streams: number): Bill {
  const { count, each } = installationsFor(streams);
  const month = HOURS_PER_MONTH * ASSUMED.processorPrice.value;
  const deliveries = (each.delivered / ASSUMED.peak.value) * SECONDS_PER_HOUR * HOURS_PER_MONTH * count;
  const heartbeats = (streams / HEARTBEAT_SECONDS) * SECONDS_PER_HOUR * HOURS_PER_MONTH;
  const bytes = deliveries * ASSUMED.frame.value + heartbeats * ASSUMED.heartbeat.value;
  // With a standby of the same size. The smallest has two processors.
  const cores = 2 * Math.max(2, Math.ceil(each.database / ASSUMED.busy.value));
  return {
    nodes: count * each.nodes * month,
    databases: count * cores * month,
    disk: count * 2 * each.disk * 1_000 * ASSUMED.diskPrice.value,
    traffic: (bytes / 1e9) * ASSUMED.trafficPrice.value,
    deliveries,
  };
}
