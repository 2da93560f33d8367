import { settingsSchema } from '../../../src/core/config.ts';
import { TUNING } from '../../../src/core/tuning.ts';
import { BUSY } from '../../../src/http/connection-throttle.ts';
import {
  ASSUMED,
  billOf,
  costOfStream,
  fullest,
  installationOf,
  installationsFor,
  MEASURED,
  RESOURCES,
  type Input,
  type Resource,
} from './model.ts';
import { SEED, STREAMS_PER_NODE } from './picture.ts';
import { letIn, simulate, streamsWithRoom } from './storm.ts';

/* docs/explanation/scale.md. Every number in it is made here, of the inputs in model.ts. */

const SIZES = [1e3, 1e4, 1e5, 1e6, 1e7, 1e8];
const [MILLION, HUNDRED_MILLION] = [1e6, 1e8];

/** What to do when something is full: before it is, since then it is late. */
const ADVICE: Readonly<Record<Resource, string>> = {
  database: 'several installations',
  sessions: 'PgBouncer',
  disk: 'fewer days kept',
  wal: 'several installations',
  reading: 'several installations',
};

export const scalePage = (): string => `# Scale

<!-- Written by \`npm run docs:reference\` from test/bench/scale. -->

What Tidings would cost with a thousand to a hundred million people connected at once, on paper. Nobody has run it with more than ${count(MEASURED.streams.value)} streams on a node, or with more than a few nodes. The numbers come of unit costs that were measured, and of assumptions about people, machines and prices. Both stand [below](#what-it-is-made-of); change them in \`test/bench/scale/model.ts\`. [Scale beyond one PostgreSQL](../how-to/scale.md) says what to do.

**Conclude**: ${conclusion()}

## From a thousand to a hundred million

All of it in one installation: one PostgreSQL, and a balancer that gives each stream to any node. Per second, in the busiest hour.

${table(
  [
    'streams',
    'nodes',
    'memory of nodes',
    'published',
    'delivered',
    'PostgreSQL',
    'disk',
    'fullest',
    'of what there is',
    'then',
  ],
  SIZES.map((streams) => {
    const all = installationOf(streams);
    const what = fullest(all);
    const full = all.use[what];
    return [
      count(streams),
      count(all.nodes),
      `${number(all.memory)} GiB`,
      number(all.published),
      number(all.delivered),
      `${number(all.database)} processors`,
      `${number(all.disk)} TB`,
      RESOURCES[what],
      percent(full),
      full > 0.5 ? ADVICE[what] : '',
    ];
  }),
)}

A stream costs its node ${number(costOfStream())} µs of each second. That is ${percent(perStreamOfNode())} of a processor for ${count(MEASURED.streams.value)}, so nodes are as many as ${count(MEASURED.streams.value)} streams each make, and one more that may be lost. By CPU one would hold ${number((ASSUMED.busy.value * 1e6) / costOfStream())}, which nobody has measured. Memory is never what is full.

What is used, of what one installation has (100 % is full):

${table(
  ['streams', ...Object.values(RESOURCES)],
  SIZES.map((streams) => {
    const { use } = installationOf(streams);
    return [count(streams), ...(Object.keys(RESOURCES) as Resource[]).map((what) => percent(use[what]))];
  }),
)}

- **Up to a hundred thousand** nothing is full but what is set: \`MAX_CONNECTIONS\` of a node (${count(MAX_CONNECTIONS)}), and \`MAX_CONNECTIONS_PER_TENANT\` (${count(ASSUMED.tenant.value)}), which a tenant with more people needs raised. The second node is there in case the first is lost.
- **Sessions** are full first, and cost nothing to mend: a pooler ([PgBouncer](../how-to/deploy.md#pgbouncer-between)).
- **PostgreSQL's processors** are next, and grow faster than the number of people. Every node reads every notification of the tenants that it has streams of, and a balancer gives it streams of all: ${count(installationOf(1e7).nodes)} nodes read each of ${number(installationOf(1e7).published)} notifications a second. Were the streams of a tenant on two nodes only, ten million would need ${number(installationOf(1e7, 2).database)} processors of PostgreSQL instead of ${number(installationOf(1e7).database)}.
- **A single tenant** is bounded by the chain of commits on its log's row: thousands of publishes a second, tens of thousands in batches ([performance](../performance.md)). No further machine changes that.

## How many installations, and what they cost

The fewest in which nothing is full. Tenants are independent of each other, so installations share nothing.

${table(
  [
    'streams',
    'installations',
    'nodes, all',
    'PostgreSQL, each',
    'disk, each',
    'nodes, a month',
    'PostgreSQL',
    'disk',
    'traffic',
    'a million deliveries',
  ],
  SIZES.map((streams) => {
    const { count: installations, each } = installationsFor(streams);
    const bill = billOf(streams);
    return [
      count(streams),
      count(installations),
      count(installations * each.nodes),
      `${number(each.database)} processors`,
      `${number(each.disk)} TB`,
      dollars(bill.nodes),
      dollars(bill.databases),
      dollars(bill.disk),
      dollars(bill.traffic),
      `$${perMillion(streams).toFixed(2)}`,
    ];
  }),
)}

PostgreSQL and its disk are paid twice, for a standby. Balancers, backups and people are not in it.

## When a node is gone

Its streams come back to the others. \`retry:\` has told each to wait between ${seconds(0.5)} and ${seconds(1.5)}. The nodes that are left do not know their tokens, so a connect costs ${MEASURED.connectNew.value} µs. The connection throttle begins new connections as long as the event loop is below ${percent(BUSY)}: beside ${count(STREAMS_PER_NODE)} streams that is ${count(Math.round(letIn(STREAMS_PER_NODE)))} a second. The rest waits, and those who are connected already do not.

![Connects asked of a node, its CPU, and seconds until all are back, by nodes](../performance/storm.svg)

A simulation with a seed (\`test/bench/scale/storm.ts\`); the fullest of the nodes that are left:

${table(
  [
    'nodes before',
    'gone',
    'connects asked in a second',
    'CPU in that second',
    'longest wait',
    'all are back after',
  ],
  [2, 3, 5, 10, 20].flatMap((nodes) =>
    (['lost', 'stopped'] as const).map((gone) => {
      const storm = simulate({ nodes, streamsPerNode: STREAMS_PER_NODE, gone, seed: SEED });
      return [
        String(nodes),
        gone,
        count(storm.asked),
        percent(storm.share),
        storm.waited < 0.1 ? 'none' : `${storm.waited.toFixed(1)} s`,
        `${storm.over.toFixed(1)} s`,
      ];
    }),
  ),
)}

What follows for settings:

- **\`MAX_CONNECTIONS\`** has to have room for the streams of the node that is gone. With ${count(MAX_CONNECTIONS)}, two nodes may have ${count(streamsWithRoom(2, MAX_CONNECTIONS))} streams each, three ${count(streamsWithRoom(3, MAX_CONNECTIONS))}, ten ${count(streamsWithRoom(10, MAX_CONNECTIONS))}. Alert at that. Beyond it clients get \`bye\` \`over-limit\` and come again and again.
- **A node that is stopped** leaves nothing to set: its streams are told to come back ${count(TUNING.RETURNS_PER_SECOND)} a second, which a single other node lets in beside its own.
- **A node that is lost** leaves nothing to set, either. ${lost()} More and smaller nodes make both less.
- **PostgreSQL** has ${number((STREAMS_PER_NODE * MEASURED.comeback.value) / 1e6)} s of a processor to do for ${count(STREAMS_PER_NODE)} that come back. It is asked for all of them in a hundred statements or so.

Not in it: clients whose machine has lost its network notice after their own time-out and come later, which makes the storm smaller; proxies may need time to see that a node is gone, and answer 502 meanwhile.

## What it is made of

Measured. µs are of one processor of [the machine of the bench](../performance.md), an Intel Xeon in a virtual machine of 2 processors, which the service, PostgreSQL and the load shared.

${inputs(MEASURED)}

Assumed:

${inputs(ASSUMED)}

Beside these the model has the constants of the service itself (\`src/core/tuning.ts\` and the defaults of settings). It leaves out what was not measured: how PostgreSQL slows down when many sessions work at once, how caches fill, what a network between machines adds. Nor are inboxes in it: [each call, and each event that tells a stream its numbers](../performance.md#what-does-an-inbox-cost), takes PostgreSQL a few milliseconds. Take its numbers for the order of magnitude, and for what comes first.
`;

const RETRY_SECONDS = TUNING.STREAM_RETRY_MS / 1_000;
const MAX_CONNECTIONS = settingsSchema.shape.MAX_CONNECTIONS.parse(undefined);

function conclusion(): string {
  const million = installationsFor(MILLION);
  const hundred = installationsFor(HUNDRED_MILLION);
  const what = fullest(million.each);
  return `a million people take ${installations(million.count)} with ${count(million.count * million.each.nodes)} nodes and a PostgreSQL of ${number(million.each.database / ASSUMED.busy.value)} processors, for $${perMillion(MILLION).toFixed(2)} per million deliveries. ${RESOURCES[what]} are the fullest, at ${percent(million.each.use[what])}. A hundred million do not fit one PostgreSQL, by a factor of ${number(installationOf(HUNDRED_MILLION).use.database)}; ${installations(hundred.count)} of ${number(hundred.each.streams / 1e6)} million streams each hold them, at the same price per delivery.`;
}

const installations = (many: number): string => (many === 1 ? 'one installation' : `${many} installations`);

function lost(): string {
  const two = simulate({ nodes: 2, streamsPerNode: STREAMS_PER_NODE, gone: 'lost', seed: SEED });
  const five = simulate({ nodes: 5, streamsPerNode: STREAMS_PER_NODE, gone: 'lost', seed: SEED });
  return `Of two nodes, the one that is left is asked for ${count(two.asked)} connects in a second, lets in what it can, and has everybody back after ${two.over.toFixed(1)} s; of five, after ${five.over.toFixed(1)} s without a queue.`;
}

const perStreamOfNode = (): number => costOfStream() * MEASURED.streams.value * 1e-6;

function perMillion(streams: number): number {
  const { nodes, databases, disk, traffic, deliveries } = billOf(streams);
  return ((nodes + databases + disk + traffic) / deliveries) * 1e6;
}

const seconds = (part: number): string => `${(RETRY_SECONDS * part).toFixed(1)} s`;

/** Two figures that count, as people write them. */
function number(value: number): string {
  if (value >= 100) return count(Number(value.toPrecision(2)));
  return String(Number(value.toPrecision(2)));
}

const count = (value: number): string => value.toLocaleString('en');
const percent = (part: number): string => (part > 0 && part < 0.001 ? '< 0.1 %' : `${number(part * 100)} %`);
const dollars = (value: number): string => `$${number(Math.max(1, value))}`;

const inputs = (all: Readonly<Record<string, Input>>): string =>
  table(
    ['what', 'value', 'from'],
    Object.values(all).map(({ value, unit, what, from }) => [
      what,
      `${value.toLocaleString('en')} ${unit}`,
      from,
    ]),
  );

function table(header: readonly string[], rows: readonly (readonly string[])[]): string {
  const line = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;
  return [line(header), line(header.map(() => '---')), ...rows.map(line)].join('\n');
}
