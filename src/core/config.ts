import { isIP } from 'node:net';
import { availableParallelism, hostname } from 'node:os';
import { z } from 'zod';
import { DatabaseUrlError, readDatabaseUrl } from './database-url.ts';
import { LIMITS, type LimitName } from './limits.ts';
import { SERVICE_SCOPES } from './identifiers.ts';
import { TUNING, type Tuning } from './tuning.ts';
import packageJson from '../../package.json' with { type: 'json' };

/*
 * Every setting of the service: read from the environment once, validated at start with one message that names
 * every bad one, then frozen. A number is a setting only if an operator has a reason to turn it; the others are
 * constants (tuning.ts). `npm run docs:reference` writes .env.example and docs/reference/settings.md from here.
 */

const integer = (fallback: number, min: number, max: number) =>
  z.coerce.number().int().min(min).max(max).default(fallback);
const flag = (fallback: boolean) =>
  z
    .enum(['true', 'false'])
    .default(fallback ? 'true' : 'false')
    .transform((value) => value === 'true');
/** The default of a limit that a tenant can have for itself. */
const limit = (name: LimitName, fallback: number) => {
  const { least, most, meaning } = LIMITS[name];
  return integer(fallback, least, most).describe(`${meaning} Default of \`limits.${name}\` of a tenant.`);
};
const list = z
  .string()
  .default('')
  .transform((value) =>
    value
      .split(',')
      .map((item) => item.trim())
      .filter((item) => item !== ''),
  );

const databaseUrl = z
  .string()
  .superRefine((url, context) => {
    try {
      readDatabaseUrl(url);
    } catch (error) {
      if (!(error instanceof DatabaseUrlError)) throw error;
      context.addIssue({ code: 'custom', message: error.message });
    }
  })
  .optional();

function isNetwork(text: string): boolean {
  const [address = '', bits, ...more] = text.split('/');
  const most = isIP(address) === 6 ? 128 : 32;
  return (
    isIP(address) > 0 &&
    more.length === 0 &&
    (bits === undefined || (/^\d{1,3}$/.test(bits) && Number(bits) <= most))
  );
}

function isHttpsOrLoopback(url: string): boolean {
  const { protocol, hostname: host } = URL.parse(url) ?? {};
  return protocol === 'https:' || (host !== undefined && isLoopback(host));
}

const NATS_URL_FORM =
  'tls://user:password@host:4222, or nats:// on loopback; what is special in a password is written as in any URL (%40 for @)';

function isNatsUrl(text: string): boolean {
  const { protocol, hostname: host, username, pathname, search } = URL.parse(text) ?? {};
  if (host === undefined || host === '' || pathname !== '' || search !== '') return false;
  return (protocol === 'tls:' && username !== '') || (protocol === 'nats:' && isLoopback(host));
}

const MIB = 1024 * 1024;

/** More than any machine has use for: a worker keeps a processor busy. */
const MOST_WORKERS = 256;

/** Signatures by a key pair, whose public part an issuer shows. EdDSA is Ed25519. */
export const ASYMMETRIC_ALGORITHMS = [
  'RS256',
  'RS384',
  'RS512',
  'PS256',
  'PS384',
  'PS512',
  'ES256',
  'ES384',
  'ES512',
  'EdDSA',
] as const;

/** Where the service can be reached. */
const listening = {
  PORT: integer(3000, 0, 65_535).describe('Port to listen on; 0 takes a free one.'),
  HOST: z
    .string()
    .optional()
    .describe('Address to listen on. Default: every address, but loopback only with a self-made secret.'),
  METRICS_PORT: z.coerce
    .number()
    .int()
    .min(0)
    .max(65_535)
    .optional()
    .describe(
      'Port of a listener of its own for /metrics, which then is not served on PORT; 0 takes a free one.',
    ),
  METRICS_HOST: z.string().min(1).default('127.0.0.1').describe('Address that METRICS_PORT listens on.'),
  TRUSTED_PROXIES: list
    .pipe(z.array(z.string().refine(isNetwork, 'names addresses or networks such as 10.0.0.0/8')))
    .describe(
      'Addresses or networks (CIDR) of the proxies whose X-Forwarded-For is believed, separated by commas; for the audit log. Default: none.',
    ),
};

const database = {
  DATABASE_URL: databaseUrl.describe(
    'PostgreSQL 15 or newer, by the login of the service, which sees one tenant at a time. Several hosts after commas are tried in turn for one that takes writes; a Unix socket is ?host=/folder. Without it the service starts its own under DATA_DIR.',
  ),
  DATABASE_ENGINE_URL: databaseUrl.describe(
    'The same database by the login for what concerns all tenants: heads of logs, receipts, maintenance. Needed with DATABASE_URL.',
  ),
  DATABASE_OWNER_URL: databaseUrl.describe(
    'The same database by the login that owns the tables. With it every start brings the tables up to date, and makes the other two logins if they are missing; without it `npm run migrate` has to have done so.',
  ),
  DATABASE_LISTEN_URL: databaseUrl.describe(
    'The same database by the login for what concerns all tenants, past a pooler in transaction mode: nodes hear one another by LISTEN. Default: DATABASE_ENGINE_URL.',
  ),
  NATS_URL: list
    .pipe(z.array(z.string().refine(isNatsUrl, NATS_URL_FORM)))
    .describe(
      'NATS servers of one cluster, separated by commas, by which nodes hear one another instead of LISTEN: tls://user:password@host:4222, or nats:// on loopback.',
    ),
  DATA_DIR: z
    .string()
    .min(1)
    .default('.data')
    .describe('Folder of the embedded database and the self-made secret.'),
  DATABASE_CONNECTIONS_PER_POOL: integer(4, 1, 100).describe(
    'Connections in each of the five pools: appending, what clients write, the backlog, history, and what concerns all tenants. Thirteen more come on top. Of several WORKERS each gets its part of them, and two at least.',
  ),
  DATABASE_CONNECT_TIMEOUT_MS: integer(5_000, 100, 120_000).describe(
    'Longest wait for a database connection, in ms; then 503.',
  ),
  DATABASE_STATEMENT_TIMEOUT_MS: integer(15_000, 100, 600_000).describe(
    'Longest run of a statement that a request waits for, in ms; then 503.',
  ),
  DATABASE_PREPARED_STATEMENTS: flag(true).describe(
    'Whether statements are prepared by name; `false` for poolers in transaction mode that cannot keep them (PgBouncer before 1.21).',
  ),
};

/** Who may call: whose tokens count, what they may carry, and the pages that browsers call from. */
const callers = {
  JWT_SECRET: z
    .string()
    .refine((secret) => Buffer.byteLength(secret) >= 32, 'has at least 32 bytes')
    .optional()
    .describe('HS256 secret, at least 32 bytes. Either this or JWKS_URL.'),
  JWKS_URL: z
    .url({ protocol: /^https?$/ })
    .refine(isHttpsOrLoopback, 'https, or http on loopback')
    .optional()
    .describe('Where the signing keys of the issuer are (RFC 7517); https, or http on loopback.'),
  JWKS_ALGORITHMS: list
    .pipe(z.array(z.enum(ASYMMETRIC_ALGORITHMS)))
    .transform((names) => (names.length === 0 ? ['RS256' as const] : names))
    .describe(
      `Algorithms accepted with JWKS_URL, separated by commas: ${ASYMMETRIC_ALGORITHMS.join(', ')}. Default: RS256.`,
    ),
  JWT_ISSUER: z.string().min(1).default('tidings').describe('The `iss` that a token of this issuer has.'),
  JWT_AUDIENCE: z.string().min(1).default('tidings').describe('The `aud` that a token of this issuer has.'),
  JWT_SCOPES: list
    .pipe(z.array(z.enum(SERVICE_SCOPES)))
    .transform((scopes) => (scopes.length === 0 ? [...SERVICE_SCOPES] : scopes))
    .describe(
      'Service scopes that tokens of this issuer may carry, separated by commas; a token with another one is refused.',
    ),
  JWT_REQUIRE_AT_JWT: flag(false).describe(
    'Whether its tokens have to be of type `at+jwt` (RFC 9068), so that no ID token passes for an access token.',
  ),
  JWT_CLOCK_TOLERANCE_SECONDS: integer(5, 0, 60).describe(
    'How long past its end a token is still taken on requests, for clocks that differ. Streams forgive nothing.',
  ),
  MAX_TOKEN_LIFETIME_DAYS: integer(3_650, 1, 36_500).describe(
    'Longest life of a token; one that is issued for longer is refused. Revocations are kept as long.',
  ),
  ISSUER_SECRETS_KEY: z
    .string()
    .refine((secret) => Buffer.byteLength(secret) >= 32, 'has at least 32 bytes')
    .optional()
    .describe(
      'Seals the HS256 secrets of registered issuers in the database, at least 32 bytes. Without it none can be registered.',
    ),
  TENANT_PROVISIONING: z
    .enum(['auto', 'explicit'])
    .default('auto')
    .describe(
      '`auto`: the first valid token of a tenant makes the tenant, unless it was deleted; `explicit`: only an administrator does.',
    ),
  CORS_ORIGINS: list.describe(
    'Origins that browsers may call from for every tenant, separated by commas. Default: none. A tenant can have its own beside these.',
  ),
  COOKIE_SAME_SITE: z
    .enum(['strict', 'lax', 'none'])
    .default('strict')
    .describe('`SameSite` of the session cookie; `none` for applications on another site.'),
};

/** What a tenant, a request and a node may have. */
const limits = {
  NOTIFICATIONS_PER_SECOND: limit('notificationsPerSecond', 10_000),
  STORED_BYTES_PER_TENANT: limit('storedBytes', 100 * 1024 * MIB),
  // Many readers stop at a line of 65,536 bytes, of which the longest names, six other fields and their JSON take 1,500.
  MAX_DATA_BYTES: limit('dataBytes', 64_000),
  MAX_TOPICS_PER_TOKEN: limit('topicsPerToken', 100),
  MAX_CONNECTIONS_PER_TENANT: limit('connections', 10_000),
  MAX_CONNECTIONS_PER_USER: limit('connectionsPerUser', 50),
  MAX_DEVICES_PER_USER: limit('devicesPerUser', 100),
  MAX_CONNECTIONS: integer(15_000, 1, 1_000_000).describe(
    'Most open streams on this node; one more gets `bye` `over-limit`.',
  ),
  MAX_REQUEST_BYTES: integer(8 * MIB, 1_024, 256 * MIB).describe('Largest request body, in bytes.'),
};

const streams = {
  HEARTBEAT_SECONDS: integer(15, 1, 300).describe(
    'For how long a stream may be silent; then comes a heartbeat. Keep it below the idle limit of every proxy.',
  ),
  TAIL_BYTES: integer(256 * MIB, 1_024, 16_384 * MIB).describe(
    'Memory of this node for the newest part of the logs of all tenants with open streams, in bytes. Streams read the rest from the database.',
  ),
};

/** What is kept, and for how long. */
const retention = {
  RETENTION_DAYS: integer(30, 1, 3_650).describe(
    'How long notifications and their history are kept, unless the tenant has its own number.',
  ),
  DEVICE_IDLE_DAYS: integer(90, 1, 3_650).describe(
    'A device unseen for this long is forgotten once its cursor is older than what is kept.',
  ),
  IDEMPOTENCY_WINDOW_HOURS: integer(24, 1, 24 * 30).describe('How long an Idempotency-Key is remembered.'),
  PARTITION_HOURS: integer(24, 1, 24 * 31).describe(
    'Width of a partition of the log. Retention drops whole partitions. Change it only on an empty database.',
  ),
};

const startAndStop = {
  WORKERS: integer(1, 0, MOST_WORKERS)
    .transform((workers) => (workers === 0 ? Math.min(availableParallelism(), MOST_WORKERS) : workers))
    .describe(
      'How many nodes share the port, each a process of its own; 0 takes one for each processor. What a setting says of a node it says of each of them, except DATABASE_CONNECTIONS_PER_POOL.',
    ),
  NODE_NAME: z
    .string()
    .regex(/^[A-Za-z0-9._-]{1,64}$/)
    .default(
      hostname()
        .replace(/[^A-Za-z0-9._-]/g, '-')
        .slice(0, 64) || 'node',
    )
    .describe(
      'Name of this node in history and logs; of several WORKERS each has -1, -2 and so on behind it. Default: the name of the host.',
    ),
  LOG_LEVEL: z
    .enum(['fatal', 'error', 'warn', 'info', 'debug', 'trace', 'silent'])
    .default('info')
    .describe('Least severe level that is logged.'),
  SHUTDOWN_DEADLINE_SECONDS: integer(10, 1, 300).describe(
    'The process ends at most this long after SIGTERM, with all its WORKERS.',
  ),
  SHUTDOWN_DELAY_SECONDS: integer(3, 0, 120).describe(
    'How long a node that stops goes on with its work while `/health/ready` already fails, if another node lives: as long as the load balancer takes to notice. Within SHUTDOWN_DEADLINE_SECONDS.',
  ),
};

/** The settings by what an operator does with them, in the order in which they are documented. */
export const SETTING_GROUPS: Readonly<Record<string, Readonly<Record<string, z.ZodType>>>> = {
  Listening: listening,
  Database: database,
  'Who may call': callers,
  Limits: limits,
  Streams: streams,
  Retention: retention,
  'Start and stop': startAndStop,
};

export const settingsSchema = z.object({
  ...listening,
  ...database,
  ...callers,
  ...limits,
  ...streams,
  ...retention,
  ...startAndStop,
});

/** What was a setting once, and what it was replaced by, if by anything. */
const REMOVED_SETTINGS: ReadonlyMap<string, keyof Settings | undefined> = new Map([
  ['DATABASE_APPEND_CONNECTIONS', 'DATABASE_CONNECTIONS_PER_POOL'],
  ['DATABASE_BACKLOG_CONNECTIONS', 'DATABASE_CONNECTIONS_PER_POOL'],
  ['DATABASE_HISTORY_CONNECTIONS', 'DATABASE_CONNECTIONS_PER_POOL'],
  ['DATABASE_ENGINE_CONNECTIONS', 'DATABASE_CONNECTIONS_PER_POOL'],
  ...[
    'BACKLOG_PAGE_BYTES',
    'BACKLOG_PAGE_ROWS',
    'BACKLOG_READERS',
    'CHANGES_POLL_MS',
    'INGEST_BATCH_SIZE',
    'INGEST_QUEUE_BYTES',
    'INGEST_QUEUE_NOTIFICATIONS',
    'LEDGER_FLUSH_MS',
    'LEDGER_QUEUE_LIMIT',
    'LEDGER_ROWS_PER_SECOND',
    'LOG_POLL_MS',
    'MAINTENANCE_INTERVAL_SECONDS',
    'MAX_DATA_DEPTH',
    'MAX_NOTIFICATIONS_PER_REQUEST',
    'NOTIFICATIONS_BURST_SECONDS',
    'PARTITIONS_AHEAD',
    'SHUTDOWN_SPREAD_SECONDS',
    'STREAM_BUFFER_BYTES',
    'STREAM_RETRY_MS',
    'STREAM_STALL_SECONDS',
    'STREAM_TICKET_SECONDS',
    'TAIL_BYTES_PER_TENANT',
    'TOKEN_CACHE_SIZE',
    'TOKEN_EXPIRY_NOTICE_SECONDS',
    'TOKEN_EXPIRY_SPREAD_SECONDS',
  ].map((name) => [name, undefined] as const),
]);

export type Settings = z.infer<typeof settingsSchema>;
/** All that the code reads: what the operator decides, and what nobody has to. */
export type Config = Readonly<Settings> & Tuning;

/** The injection token of the frozen configuration. */
export const CONFIG = Symbol('config');
/** The AbortSignal by which the service is told to stop: for what waits before it has started. */
export const STOP = Symbol('stop');
/**
 * What a process has its name by (a UUID, src/cluster/nodes.ts). It is given to a worker, so that the one that takes a dead
 * one's place need not wait for its name; any other process makes it up.
 */
export const INSTANCE = Symbol('instance');

/** Whether this node is on its way out. There is no way back. */
export class Draining {
  #announced = false;
  #active = false;

  /** It is not ready any more, so that whoever sends it requests looks for another node. It still takes them. */
  get announced(): boolean {
    return this.#announced;
  }

  /** It begins nothing new and finishes what it has. */
  get active(): boolean {
    return this.#active;
  }

  announce(): void {
    this.#announced = true;
  }

  begin(): void {
    this.#announced = this.#active = true;
  }
}

/** Thrown at start; its message is for the operator. */
export class ConfigError extends Error {
  override readonly name = 'ConfigError';
}

/**
 * Reads and checks all settings. An empty value counts as unset, as compose files write it.
 *
 * @param tuning what a test has in place of constants
 * @throws ConfigError that names every fault
 */
export function readConfig(environment: NodeJS.ProcessEnv, tuning: Partial<Tuning> = {}): Config {
  return Object.freeze({ ...TUNING, ...tuning, ...readSettings(environment, settingsSchema) });
}

/** A line for the operator if the environment has settings that are none any more: they must not go unnoticed, nor stop the start. */
export function removedSettings(environment: NodeJS.ProcessEnv): string | undefined {
  const set = [...REMOVED_SETTINGS].filter(([name]) => (environment[name] ?? '') !== '');
  if (set.length === 0) return undefined;
  const names = set.map(([name, successor]) => `${name} (${successor ?? 'a constant'} now)`);
  return `Settings that have no effect any more, to be removed: ${names.join(', ')}.`;
}

/**
 * Reads and checks the settings of a part of the schema (`settingsSchema.pick`), for what needs no others: whatever is
 * wrong with the rest of the environment does not concern it.
 *
 * @throws ConfigError that names every fault
 */
export function readSettings<Schema extends z.ZodObject>(
  environment: NodeJS.ProcessEnv,
  schema: Schema,
): Readonly<z.infer<Schema>> {
  const set = Object.fromEntries(
    Object.keys(schema.shape).flatMap((name) => {
      const value = environment[name];
      return value === undefined || value === '' ? [] : [[name, value]];
    }),
  );
  const isAsked = (name: keyof Settings) => name in schema.shape;
  const isSet = (name: keyof Settings) => name in set;
  const parsed = schema.safeParse(set);
  const faults = parsed.success
    ? []
    : parsed.error.issues.map((issue) => `${issue.path.join('.')}: ${issue.message}`);
  if (isSet('JWT_SECRET') && isSet('JWKS_URL')) {
    faults.push(
      'JWT_SECRET and JWKS_URL: set one of them, so that the algorithm of a token is never in doubt',
    );
  }
  if (isSet('DATABASE_URL') && isAsked('DATABASE_ENGINE_URL') && !isSet('DATABASE_ENGINE_URL')) {
    faults.push('DATABASE_ENGINE_URL: needed with DATABASE_URL, for another login');
  }
  for (const name of [
    'DATABASE_ENGINE_URL',
    'DATABASE_LISTEN_URL',
    'NATS_URL',
    'DATABASE_OWNER_URL',
  ] as const) {
    if (isSet(name) && !isSet('DATABASE_URL')) faults.push(`${name}: goes with DATABASE_URL`);
  }
  if (isSet('DATABASE_URL') && isAsked('JWT_SECRET') && !isSet('JWT_SECRET') && !isSet('JWKS_URL')) {
    faults.push('JWT_SECRET or JWKS_URL: one of them is needed with DATABASE_URL');
  }
  const { SHUTDOWN_DELAY_SECONDS: delay, SHUTDOWN_DEADLINE_SECONDS: deadline }: Partial<Settings> =
    parsed.data ?? {};
  if (delay !== undefined && deadline !== undefined && delay >= deadline)
    faults.push('SHUTDOWN_DELAY_SECONDS: less than SHUTDOWN_DEADLINE_SECONDS, of which it is a part');
  if (!parsed.success || faults.length > 0) {
    throw new ConfigError(
      `Settings that cannot be used (see .env.example):\n${faults.map((fault) => `  - ${fault}`).join('\n')}`,
    );
  }
  return Object.freeze(parsed.data);
}

/* The application is created after its database was opened, which is when these are known. */

/** Where callers' requests are read and written, for one tenant at a time. */
export const serviceUrl = ({ DATABASE_URL: url }: Pick<Config, 'DATABASE_URL'>): string => known(url);

/** Where statements across tenants run. */
export const engineUrl = ({ DATABASE_ENGINE_URL: url }: Pick<Config, 'DATABASE_ENGINE_URL'>): string =>
  known(url);

function known(url: string | undefined): string {
  if (url === undefined) throw new Error('The application is created after its database was opened.');
  return url;
}

/** The version of Tidings, as package.json has it (Semantic Versioning): the one place where it stands. */
export const VERSION: string = packageJson.version;

/** Whether a host, as `URL.hostname` has it, is this machine: what goes there over plain http is read by nobody else. */
export const isLoopback = (host: string): boolean =>
  host === 'localhost' || host === '[::1]' || /^127(?:\.\d+){3}$/.test(host);
