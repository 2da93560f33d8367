import { setTimeout as sleep } from 'node:timers/promises';
import { Injectable } from '@nestjs/common';
import { z } from 'zod';
import { Draining } from '../core/config.ts';
import { Problem } from '../core/errors.ts';
import { deviceIdSchema, topicSchema, type TenantId, type UserId } from '../core/identifiers.ts';
import { createdAt, type Position } from '../core/position.ts';
import {
  ConnectionsStore,
  type ConnectionPlace,
  type ConnectionRecord,
} from '../history/connections.store.ts';
import { ENGAGEMENTS, type Engagement } from '../history/delivery-status.ts';
import { HistoryService, itemJson } from '../history/history.service.ts';
import { HistoryPool } from '../postgres/pools.ts';
import { keyOf, lowestOf, personalDataOfUser, type Key, type PersonalData } from './inventory.ts';
import { type Statement } from '../postgres/pool.ts';

const time = z.iso.datetime();
const positionText = z.string().regex(/^\d{1,16}$/);

/** The lines of an export by kind. Lines of kind `notification` are items of history, with `kind` in front. */
export const exportLineSchemas = {
  device: z.strictObject({
    kind: z.literal('device'),
    device: deviceIdSchema,
    cursor: positionText,
    topics: z.array(topicSchema),
    lastSeenAt: time,
  }),
  connection: z.strictObject({
    kind: z.literal('connection'),
    connectionId: z.uuid(),
    device: deviceIdSchema,
    node: z.string(),
    since: time,
    until: time.nullable(),
    position: positionText,
    reason: z.string().nullable(),
    topics: z.array(topicSchema),
  }),
  sent: z.strictObject({
    kind: z.literal('sent'),
    device: deviceIdSchema,
    connectionId: z.uuid(),
    from: positionText,
    to: positionText,
    at: time,
    replayed: z.boolean(),
  }),
  acknowledgement: z.strictObject({
    kind: z.literal('acknowledgement'),
    device: deviceIdSchema,
    from: positionText,
    to: positionText,
    at: time,
    by: z.enum(['ack', 'resume']),
    topics: z.array(topicSchema),
  }),
  inbox: z.strictObject({
    kind: z.literal('inbox'),
    since: positionText.meta({ description: 'What was for topics and everyone up to here is not in it.' }),
    seenUpTo: positionText,
    readUpTo: positionText,
    archivedUpTo: positionText,
    revision: positionText,
  }),
  mark: z.strictObject({
    kind: z.literal('mark'),
    position: positionText,
    read: z.boolean().nullable().meta({ description: 'Null: as `readUpTo` of the inbox says.' }),
    readAt: time.nullable().meta({ description: 'When `read` was set.' }),
    archived: z.boolean().nullable().meta({ description: 'Null: as `archivedUpTo` of the inbox says.' }),
    archivedAt: time.nullable().meta({ description: 'When `archived` was set.' }),
  }),
  engagement: z.strictObject({
    kind: z.literal('engagement'),
    engagement: z.enum(ENGAGEMENTS),
    of: z.enum(['one', 'all']).meta({ description: 'The notification at `to`, or all in (`from`, `to`].' }),
    from: positionText,
    to: positionText,
    at: time,
    topics: z.array(topicSchema),
  }),
  answer: z.strictObject({
    kind: z.literal('answer'),
    publisher: z.string(),
    key: z.string(),
    at: time,
    notifications: z.array(z.uuid()),
  }),
  ticket: z.strictObject({ kind: z.literal('ticket'), device: deviceIdSchema, expiresAt: time }),
  order: z.strictObject({
    kind: z.literal('order'),
    order: z.enum(['disconnect', 'renew']),
    connectionId: z.uuid().nullable(),
    at: time,
    expiresAt: time,
  }),
  revocation: z.strictObject({
    kind: z.literal('revocation'),
    id: z.uuid(),
    issuedBefore: time,
    createdAt: time,
    expiresAt: time,
  }),
};

/** Rows of one page of the tables below. Each page is read by a statement of its own, so that none holds a snapshot open. */
const ROWS = 1_000;

/** How rows of a table become lines of one kind. */
interface Kind<Row> {
  readonly statement: Statement;
  readonly lowest: Key;
  /** The line of a row; undefined: it has none. */
  readonly line: (row: Row) => object | undefined;
}

function kind<Row>(name: string, data: PersonalData, columns: string, line: Kind<Row>['line']): Kind<Row> {
  const { columns: key, after } = keyOf(data, '$3::text[]');
  return {
    lowest: lowestOf(data),
    line,
    statement: {
      name: `export_${name}`,
      text: `
select ${columns}, array[${data.key.map(([column]) => `t.${column}::text`).join(', ')}] as page_key
from ${data.table} t
where t.tenant_id = $1 and (${key}) > (${after}) and ${data.which ?? 'true'}
order by ${key} limit $4`,
    },
  };
}

const { devices, sent, acknowledgements, inbox, marks, engagements, tickets, orders } = personalDataOfUser({
  user: '$2',
  upTo: '',
});

interface Device {
  device_id: string;
  cursor: Position;
  topics: readonly string[];
  last_seen_at: Date;
}
const DEVICES = kind<Device>(
  'devices',
  devices,
  't.device_id, t.cursor, t.topics, t.last_seen_at',
  (row) => ({
    kind: 'device',
    device: row.device_id,
    cursor: String(row.cursor),
    topics: row.topics,
    lastSeenAt: row.last_seen_at,
  }),
);

interface Interval {
  device_id: string;
  from_position: Position;
  to_position: Position;
  at: Date;
}
const INTERVAL = 't.device_id, t.from_position, t.to_position, t.at';
const SENT = kind<Interval & { connection_id: string; replayed: boolean }>(
  'sent',
  sent,
  `${INTERVAL}, t.connection_id, t.replayed`,
  (row) => ({
    kind: 'sent',
    device: row.device_id,
    connectionId: row.connection_id,
    from: String(row.from_position),
    to: String(row.to_position),
    at: row.at,
    replayed: row.replayed,
  }),
);
const ACKNOWLEDGEMENTS = kind<Interval & { by_resume: boolean; topics: readonly string[] }>(
  'acknowledgements',
  acknowledgements,
  `${INTERVAL}, t.by_resume, t.topics`,
  (row) => ({
    kind: 'acknowledgement',
    device: row.device_id,
    from: String(row.from_position),
    to: String(row.to_position),
    at: row.at,
    by: row.by_resume ? 'resume' : 'ack',
    topics: row.topics,
  }),
);

const INBOX = kind<{
  since: Position;
  seen_up_to: Position;
  read_up_to: Position;
  archived_up_to: Position;
  revision: Position;
}>('inbox', inbox, 't.since, t.seen_up_to, t.read_up_to, t.archived_up_to, t.revision', (row) => ({
  kind: 'inbox',
  since: String(row.since),
  seenUpTo: String(row.seen_up_to),
  readUpTo: String(row.read_up_to),
  archivedUpTo: String(row.archived_up_to),
  revision: String(row.revision),
}));

/** A revision holds its time, as a position does. */
const timeOf = (revision: Position | null) => (revision === null ? null : createdAt(revision));

const MARKS = kind<{
  position: Position;
  read: boolean | null;
  read_revision: Position | null;
  archived: boolean | null;
  archived_revision: Position | null;
}>('marks', marks, 't.position, t.read, t.read_revision, t.archived, t.archived_revision', (row) => ({
  kind: 'mark',
  position: String(row.position),
  read: row.read,
  readAt: timeOf(row.read_revision),
  archived: row.archived,
  archivedAt: timeOf(row.archived_revision),
}));

const ENGAGEMENTS_OF_USER = kind<{
  kind: Engagement;
  single: boolean;
  from_position: Position;
  to_position: Position;
  at: Date;
  topics: readonly string[];
}>('engagements', engagements, 't.kind, t.single, t.from_position, t.to_position, t.at, t.topics', (row) => ({
  kind: 'engagement',
  engagement: row.kind,
  of: row.single ? 'one' : 'all',
  from: String(row.from_position),
  to: String(row.to_position),
  at: row.at,
  topics: row.topics,
}));

/* Reads all keys of the tenant: only the log knows which answers have notifications to the user. */
const ANSWERS = kind<{ publisher: string; key: string; created_at: Date; ids: readonly string[] | null }>(
  'answers',
  {
    table: 'idempotency_keys',
    key: [
      ['publisher', 'text'],
      ['key', 'text'],
    ],
  },
  `t.publisher, t.key, t.created_at, (
    select array_agg(t.ids[n.position - t.first_position + 1] order by n.position) from notifications n
    where n.tenant_id = $1 and n.user_id = $2
      and n.position >= t.first_position and n.position < t.first_position + cardinality(t.ids)
  ) as ids`,
  ({ publisher, key, created_at: at, ids }) =>
    ids === null ? undefined : { kind: 'answer', publisher, key, at, notifications: ids },
);

const TICKETS = kind<{ device: string; expires_at: Date }>(
  'tickets',
  tickets,
  `t.principal::json ->> 'device' as device, t.expires_at`,
  ({ device, expires_at: expiresAt }) => ({ kind: 'ticket', device, expiresAt }),
);

const ORDERS = kind<{ kind: string; connection_id: string | null; at: Date; expires_at: Date }>(
  'orders',
  orders,
  't.kind, t.connection_id, t.at, t.expires_at',
  (row) => ({
    kind: 'order',
    order: row.kind,
    connectionId: row.connection_id,
    at: row.at,
    expiresAt: row.expires_at,
  }),
);

const REVOCATIONS = kind<{ revocation_id: string; issued_before: Date; created_at: Date; expires_at: Date }>(
  'revocations',
  {
    table: 'revocations',
    key: [['revocation_id', 'uuid']],
    which: `t.kind = 'user' and t.subject = $2`,
  },
  't.revocation_id, t.issued_before, t.created_at, t.expires_at',
  (row) => ({
    kind: 'revocation',
    id: row.revocation_id,
    issuedBefore: row.issued_before,
    createdAt: row.created_at,
    expiresAt: row.expires_at,
  }),
);

/** Reads what is stored of a user, except notifications and connections, which history reads. */
@Injectable()
export class ExportStore {
  constructor(private readonly pool: HistoryPool) {}

  async *rest(tenantId: TenantId, user: UserId): AsyncGenerator<readonly object[]> {
    yield* this.#pages(DEVICES, tenantId, user);
    yield* this.#pages(SENT, tenantId, user);
    yield* this.#pages(ACKNOWLEDGEMENTS, tenantId, user);
    yield* this.#pages(INBOX, tenantId, user);
    yield* this.#pages(MARKS, tenantId, user);
    yield* this.#pages(ENGAGEMENTS_OF_USER, tenantId, user);
    yield* this.#pages(ANSWERS, tenantId, user);
    yield* this.#pages(TICKETS, tenantId, user);
    yield* this.#pages(ORDERS, tenantId, user);
    yield* this.#pages(REVOCATIONS, tenantId, user);
  }

  async *#pages<Row>(
    { statement, lowest, line }: Kind<Row>,
    tenantId: TenantId,
    user: UserId,
  ): AsyncGenerator<readonly object[]> {
    for (let after: Key | undefined = lowest; after !== undefined;) {
      const rows: (Row & { page_key: Key })[] = await this.pool.rows(tenantId, statement, [
        user,
        after,
        ROWS,
      ]);
      yield rows.flatMap((row) => line(row) ?? []);
      after = rows.length < ROWS ? undefined : rows.at(-1)?.page_key;
    }
  }
}

/** Notifications, and connections, of one page. */
const NOTIFICATIONS = 200;
const CONNECTIONS = 1_000;

/** Everything that is stored of a user, as lines of JSON. */
@Injectable()
export class UserExport {
  /** By tenant: resolves when its next page may be read. */
  readonly #pauses = new Map<TenantId, Promise<void>>();

  constructor(
    private readonly history: HistoryService,
    private readonly connections: ConnectionsStore,
    private readonly store: ExportStore,
    private readonly draining: Draining,
  ) {}

  /** Page by page, each the text of some whole lines, or empty. Throws the database's error, or Problem `draining`. */
  async *lines(tenantId: TenantId, user: UserId): AsyncGenerator<string> {
    const pages = this.#pages(tenantId, user);
    try {
      for (;;) {
        const { value: lines, done } = await this.#inTurn(tenantId, () => pages.next());
        if (done === true) return;
        if (this.draining.active)
          throw new Problem('draining', 'This node is shutting down.', { retryAfter: 1 });
        yield lines.map((line) => `${line}\n`).join('');
      }
    } finally {
      // The reader may have left before the end.
      await pages.return(undefined);
    }
  }

  /**
   * Reads one page of a tenant at a time, and pauses after it for as long as the page took. Nobody is in a hurry for an
   * export, and eight of them at full speed doubled the time that publishes take.
   */
  async #inTurn<Result>(tenantId: TenantId, read: () => Promise<Result>): Promise<Result> {
    const before = this.#pauses.get(tenantId) ?? Promise.resolve();
    let began = 0;
    const result = before.then(() => {
      began = performance.now();
      return read();
    });
    const pause = result
      .then(
        () => sleep(performance.now() - began),
        () => undefined,
      )
      .finally(() => {
        if (this.#pauses.get(tenantId) === pause) this.#pauses.delete(tenantId);
      });
    this.#pauses.set(tenantId, pause);
    return await result;
  }

  async *#pages(tenantId: TenantId, user: UserId): AsyncGenerator<readonly string[]> {
    let before: Position | undefined;
    do {
      const { items, next } = await this.history.page(tenantId, { user }, before, NOTIFICATIONS);
      yield items.map((item) => `{"kind":"notification",${itemJson(item).slice(1)}`);
      before = next;
    } while (before !== undefined);

    let after: ConnectionPlace | undefined;
    const always = { since: undefined, until: undefined };
    do {
      const { items, reached } = await this.connections.page(tenantId, user, always, after, CONNECTIONS);
      yield items.map((item) => JSON.stringify(connectionLine(item)));
      after = reached;
    } while (after !== undefined);

    for await (const rows of this.store.rest(tenantId, user)) yield rows.map((row) => JSON.stringify(row));
  }
}

function connectionLine({
  connectionId,
  device,
  node,
  since,
  until,
  position,
  reason,
  topics,
}: ConnectionRecord) {
  return {
    kind: 'connection',
    connectionId,
    device,
    node,
    since,
    until,
    position: String(position),
    reason,
    topics,
  };
}
