const LOWEST = {
  text: '',
  bytea: '\\x',
  smallint: '-1',
  bigint: '-1',
  uuid: '00000000-0000-0000-0000-000000000000',
  timestamptz: '-infinity',
} as const;

/** The values of a key, as text. */
export type Key = readonly string[];

/** Where rows lie, and the key by which they are read in pages: that of an index, behind the tenant and what `which` fixes. */
export interface PersonalData {
  readonly table: string;
  readonly key: readonly (readonly [column: string, type: keyof typeof LOWEST])[];
  /** SQL of a further condition on the row `t`. */
  readonly which?: string;
}

/**
 * Where the data of a user is, beside the answers to idempotency keys. Devices come first: without its device nothing
 * can be confirmed any more. Revocations stay, or what was revoked would be good again; so does the audit log.
 *
 * @param user SQL of the user
 * @param upTo SQL of the last position that is meant
 */
export function personalDataOfUser({ user, upTo }: { readonly user: string; readonly upTo: string }) {
  const which = `t.user_id = ${user}`;
  return {
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
 * Where a tenant has rows, beside its stream, which goes first of all, and its own row, which stays as that of one that was
 * deleted. A test holds the list against the tables that there are.
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
  connections: { table: 'connections', key: [['connection_id', 'uuid']] },
  counts: { table: 'connection_counts', key: [['node', 'text']] },
  notifications: { table: 'notifications', key: [['position', 'bigint']] },
} as const satisfies Record<string, PersonalData>;

/** SQL: the key of the row `t`, and the one behind which a page begins; `after` is SQL of a text[]. */
export const keyOf = ({ key }: PersonalData, after: string) => ({
  columns: key.map(([column]) => `t.${column}`).join(', '),
  after: key.map(([, type], index) => `(${after})[${index + 1}]::${type}`).join(', '),
});

/** The key that lies before all others. */
export const lowestOf = ({ key }: PersonalData): Key => key.map(([, type]) => LOWEST[type]);
