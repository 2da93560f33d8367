const MIB = 1024 * 1024;

/** What a tenant is limited in. The names are part of the API and of what is stored. */
export const LIMIT_NAMES = [
  'notificationsPerSecond',
  'burst',
  'dataBytes',
  'storedBytes',
  'topicsPerToken',
  'connections',
  'connectionsPerUser',
  'devicesPerUser',
] as const;
export type LimitName = (typeof LIMIT_NAMES)[number];

/** Between which values each lies. The defaults are settings (config.ts). */
export const LIMITS = {
  notificationsPerSecond: {
    least: 1,
    most: 1_000_000,
    meaning: 'Notifications that a tenant may publish per second in the long run.',
  },
  burst: {
    least: 1,
    most: 1_000_000_000,
    meaning: 'Notifications that a tenant may publish at once after a pause.',
  },
  dataBytes: {
    least: 1,
    most: 16 * MIB,
    meaning: 'Largest `data` of one notification, in bytes without white space.',
  },
  storedBytes: {
    least: 1,
    most: 2 ** 50,
    meaning: 'Bytes of `data` that are kept for a tenant.',
  },
  topicsPerToken: { least: 0, most: 1_000, meaning: 'Most topics that a token may carry.' },
  connections: {
    least: 1,
    most: 10_000_000,
    meaning: 'Most open streams of a tenant, on all nodes together.',
  },
  connectionsPerUser: {
    least: 1,
    most: 100_000,
    meaning: 'Most open streams of one user, on all nodes together.',
  },
  devicesPerUser: {
    least: 1,
    most: 100_000,
    meaning: 'Most devices of one user that have a cursor.',
  },
} as const satisfies Record<LimitName, { least: number; most: number; meaning: string }>;

/** The limits that hold for a tenant. */
export type Limits = Readonly<Record<LimitName, number>>;

/** What an administrator set for one tenant; null: the settings decide. */
export type OwnLimits = Readonly<Record<LimitName, number | null>>;

/** The settings that decide where a tenant has no limit of its own. */
export interface DefaultLimits {
  readonly NOTIFICATIONS_PER_SECOND: number;
  readonly NOTIFICATIONS_BURST_SECONDS: number;
  readonly MAX_DATA_BYTES: number;
  readonly MAX_REQUEST_BYTES: number;
  readonly STORED_BYTES_PER_TENANT: number;
  readonly MAX_TOPICS_PER_TOKEN: number;
  readonly MAX_CONNECTIONS_PER_TENANT: number;
  readonly MAX_CONNECTIONS_PER_USER: number;
  readonly MAX_DEVICES_PER_USER: number;
}

/** Limits from what is stored, or was sent. What a newer version may have put there is passed over, name or value. */
export function readLimits(stored: unknown): OwnLimits {
  const members = new Map<string, unknown>(
    typeof stored === 'object' && stored !== null ? Object.entries(stored) : [],
  );
  const own = (name: LimitName) => {
    const value = members.get(name);
    return typeof value === 'number' && Number.isSafeInteger(value) ? value : null;
  };
  return {
    notificationsPerSecond: own('notificationsPerSecond'),
    burst: own('burst'),
    dataBytes: own('dataBytes'),
    storedBytes: own('storedBytes'),
    topicsPerToken: own('topicsPerToken'),
    connections: own('connections'),
    connectionsPerUser: own('connectionsPerUser'),
    devicesPerUser: own('devicesPerUser'),
  };
}

/** A tenant without limits of its own. */
export const NO_LIMITS: OwnLimits = Object.freeze(readLimits(undefined));

/** The limits that hold for a tenant on this node: what it has of its own, within what the process itself can bear. */
export function limitsOf(own: OwnLimits, defaults: DefaultLimits): Limits {
  const bounded = (name: LimitName, fallback: number): number => {
    const { least, most } = LIMITS[name];
    return Math.min(Math.max(own[name] ?? fallback, least), mostOf(name, defaults), most);
  };
  const notificationsPerSecond = bounded('notificationsPerSecond', defaults.NOTIFICATIONS_PER_SECOND);
  return Object.freeze({
    notificationsPerSecond,
    // Of its own rate: whoever lowers that to ten a second does not mean twenty thousand at once.
    burst: bounded('burst', notificationsPerSecond * defaults.NOTIFICATIONS_BURST_SECONDS),
    dataBytes: bounded('dataBytes', defaults.MAX_DATA_BYTES),
    storedBytes: bounded('storedBytes', defaults.STORED_BYTES_PER_TENANT),
    topicsPerToken: bounded('topicsPerToken', defaults.MAX_TOPICS_PER_TOKEN),
    connections: bounded('connections', defaults.MAX_CONNECTIONS_PER_TENANT),
    connectionsPerUser: bounded('connectionsPerUser', defaults.MAX_CONNECTIONS_PER_USER),
    devicesPerUser: bounded('devicesPerUser', defaults.MAX_DEVICES_PER_USER),
  });
}

/** No administrator gets a node beyond what its settings let one request hold. */
export function mostOf(
  name: LimitName,
  { MAX_REQUEST_BYTES }: Pick<DefaultLimits, 'MAX_REQUEST_BYTES'>,
): number {
  const { most } = LIMITS[name];
  return name === 'dataBytes' ? Math.min(most, MAX_REQUEST_BYTES) : most;
}
