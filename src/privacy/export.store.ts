import { Injectable } from '@nestjs/common';
import type { Statement } from '../postgres/pool.ts';
import { HistoryPool } from '../postgres/pools.ts';
import type { TenantId, UserId } from '../core/identifiers.ts';
import type { Position } from '../core/position.ts';
import { keyOf, lowestOf, personalDataOfUser, type Key, type PersonalData } from './inventory.ts';

/** Rows of one page. */
const ROWS = 1_000;

/** Rows of a kind, read page by page: each is a statement of its own, and none holds a snapshot open. */
interface Kind<Row> {
  readonly statement: Statement;
  readonly lowest: Key;
  /** What the export says of a row; undefined: nothing. */
  readonly line: (row: Row) => object | undefined;
}

function kind<Row>(name: string, place: PersonalData, columns: string, line: Kind<Row>['line']): Kind<Row> {
  const { columns: key, after } = keyOf(place, '$3::text[]');
  return {
    lowest: lowestOf(place),
    line,
    statement: {
      name: `export_${name}`,
      text: `
select ${columns}, array[${place.key.map(([column]) => `t.${column}::text`).join(', ')}] as place
from ${place.table} t
where t.tenant_id = $1 and (${key}) > (${after}) and ${place.which ?? 'true'}
order by ${key} limit $4`,
    },
  };
}

const { devices, sent, acknowledgements, tickets, orders } = personalDataOfUser({ user: '$2', upTo: '' });

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

/* All keys of the tenant are looked at: which answers name something of the user is known to the log alone. */
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

/** The SQL of what is stored of a user, beside notifications and connections, which history reads. */
@Injectable()
export class ExportStore {
  constructor(private readonly pool: HistoryPool) {}

  async *rest(tenantId: TenantId, user: UserId): AsyncGenerator<readonly object[]> {
    yield* this.#pages(DEVICES, tenantId, user);
    yield* this.#pages(SENT, tenantId, user);
    yield* this.#pages(ACKNOWLEDGEMENTS, tenantId, user);
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
      const rows: (Row & { place: Key })[] = await this.pool.rows(tenantId, statement, [user, after, ROWS]);
      yield rows.flatMap((row) => line(row) ?? []);
      after = rows.length < ROWS ? undefined : rows.at(-1)?.place;
    }
  }
}
