/*
 * The personal-data inventory: in which tables the data of a user and of a tenant is. Erasure and export go by it.
 */

/** A value below all others of a type. */
const LOWEST = {
  text: '',
  bytea: '\\x',
  smallint: '-1',
  boolean: 'false',
  bigint: '-1',
  uuid: '00000000-0000-0000-0000-000000000000',
  timestamptz: '-infinity',
} as const;

/** The values of a key, as text. */
export type Key = readonly string[];

/** A table with personal data, and the key by which its rows are read in pages: an index has it after the columns that are fixed. */
export interface PersonalData {
  readonly table: string;
  readonly key: readonly (readonly [column: string, type: keyof typeof LOWEST])[];
  /** SQL of a condition on the row `t`, beside that on the tenant. */
  readonly which?: string;
}

/**
 * Where the data of a user is, beside the answers to idempotency keys. Inbox and devices come first, because without them
 * nothing can be marked or confirmed. Revocations stay, since without them revoked tokens would be valid again, and so does
 * the audit log.
 *
 * @param user SQL of the user
 * @param upTo SQL of the last position that is erased
 */
export function personalDataOfUser({ user, upTo }: { readonly user: string; readonly upTo: string }) {
  const which = `t.user_id = ${user}`;
  return {
    inbox: { table: 'inbox_users', key: [['user_id', 'text']], which },
    devices: { table: 'devices', key: [['device_id', 'text']], which },
    tickets: {
      table: 'stream_tickets',
      key: [['hash', 'bytea']],
      which: `t.principal::json ->> 'subject' = ${user}`,
    },
    orders: { table: 'stream_commands', key: [['order_id', 'uuid']], which },
    sent: {
      table: 'sends',
      key: [
        ['width_class', 'smallint'],
        ['to_position', 'bigint'],
        ['device_id', 'text'],
        ['connection_id', 'uuid'],
      ],
      which,
    },
    acknowledgements: {
      table: 'acks',
      key: [
        ['device_id', 'text'],
        ['to_position', 'bigint'],
      ],
      which,
    },
    marks: { table: 'inbox_marks', key: [['position', 'bigint']], which },
    engagements: {
      table: 'engagements',
      key: [
        ['kind', 'text'],
        ['single', 'boolean'],
        ['to_position', 'bigint'],
      ],
      which,
    },
    connections: {
      table: 'connections',
      key: [
        ['since', 'timestamptz'],
        ['connection_id', 'uuid'],
      ],
      which,
    },
    notifications: {
      table: 'notifications',
      key: [['position', 'bigint']],
      which: `${which} and t.position <= ${upTo}`,
    },
  } as const satisfies Record<string, PersonalData>;
}

/**
 * Where a tenant has rows, beside its log, which is deleted first of all, and its own row, which stays and says that it was
 * deleted. A test compares this list with the tables of the database.
 */
export const DATA_OF_TENANT = {
  erasures: { table: 'erasures', key: [['erasure_id', 'uuid']], which: `t.digest <> ''` },
  idempotencyKeys: {
    table: 'idempotency_keys',
    key: [
      ['publisher', 'text'],
      ['key', 'text'],
    ],
  },
  devices: {
    table: 'devices',
    key: [
      ['user_id', 'text'],
      ['device_id', 'text'],
    ],
  },
  tickets: { table: 'stream_tickets', key: [['hash', 'bytea']] },
  orders: { table: 'stream_commands', key: [['order_id', 'uuid']] },
  revocations: { table: 'revocations', key: [['revocation_id', 'uuid']] },
  sent: {
    table: 'sends',
    key: [
      ['user_id', 'text'],
      ['width_class', 'smallint'],
      ['to_position', 'bigint'],
      ['device_id', 'text'],
      ['connection_id', 'uuid'],
    ],
  },
  acknowledgements: {
    table: 'acks',
    key: [
      ['user_id', 'text'],
      ['device_id', 'text'],
      ['to_position', 'bigint'],
    ],
  },
  inbox: { table: 'inbox_users', key: [['user_id', 'text']] },
  marks: {
    table: 'inbox_marks',
    key: [
      ['user_id', 'text'],
      ['position', 'bigint'],
    ],
  },
  engagements: {
    table: 'engagements',
    key: [
      ['user_id', 'text'],
      ['kind', 'text'],
      ['single', 'boolean'],
      ['to_position', 'bigint'],
    ],
  },
  connections: { table: 'connections', key: [['connection_id', 'uuid']] },
  counts: { table: 'connection_counts', key: [['node', 'text']] },
  notifications: { table: 'notifications', key: [['position', 'bigint']] },
} as const satisfies Record<string, PersonalData>;

/**
 * SQL of the key of the row `t`, and of the key behind which a page begins.
 *
 * @param after SQL of a text[] with the values of that key
 */
export const keyOf = ({ key }: PersonalData, after: string) => ({
  columns: key.map(([column]) => `t.${column}`).join(', '),
  after: key.map(([, type], index) => `(${after})[${index + 1}]::${type}`).join(', '),
});

/** A key before all others. */
export const lowestOf = ({ key }: PersonalData): Key => key.map(([, type]) => LOWEST[type]);
