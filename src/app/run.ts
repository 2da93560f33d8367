import { setTimeout as sleep } from 'node:timers/promises';
import { loadOrCreateSecret } from '../auth/secrets.ts';
import { readConfig, removedSettings, type Config, isLoopback, VERSION } from '../core/config.ts';
import type { Tuning } from '../core/tuning.ts';
import type { DatabaseUrls } from '../postgres/roles.ts';
import { openDatabase } from '../postgres/open-database.ts';
import { checkRoom } from '../postgres/sessions.ts';
import { readDatabaseUrl } from '../core/database-url.ts';
import { endAfter, endNow, report, serveNode, SIGNALS } from './node.ts';

/**
 * A terminal sends Ctrl-C to everyone in it, and npm passes it on once more: what comes this soon after the first
 * signal, in ms, is its echo and not a second Ctrl-C.
 */
const ECHO_MS = 500;

/** The log of the start is written a moment late, in ms; what a person should read comes after it. */
const LOG_LAG_MS = 100;

/**
 * Runs the service until it is told to stop: as one node, as the primary of several workers, or as one of these.
 *
 * @param tuning what a test has in place of constants
 * @throws ConfigError or StartError with a sentence for the operator, or whatever ended it
 */
export async function run(environment: NodeJS.ProcessEnv, tuning: Partial<Tuning> = {}): Promise<void> {
  const config = readConfig(environment, tuning);
  const workers = config.WORKERS > 1 ? await import('./workers.ts') : undefined;
  if (workers?.isWorker === true) return await workers.work();
  const stop = new AbortController();
  const onSignal = signalHandler(stop);
  for (const signal of SIGNALS) process.on(signal, onSignal);
  try {
    const removed = removedSettings(environment);
    if (removed !== undefined) report(removed);
    await serve(config, stop.signal, workers?.serveByWorkers ?? serveNode);
  } catch (error) {
    // Told to stop while it was still waiting for the database.
    if (stop.signal.aborted && error instanceof Error && error.name === 'AbortError') return;
    throw error;
  } finally {
    for (const signal of SIGNALS) process.off(signal, onSignal);
  }
}

/** One life of the service; what was opened is closed in reverse, also when a later step fails. */
async function serve(settings: Config, stop: AbortSignal, serveBy: typeof serveNode): Promise<void> {
  stop.addEventListener('abort', () => endAfter(settings.SHUTDOWN_DEADLINE_SECONDS));
  const database = await openDatabase(settings, report, stop);
  try {
    await checkRoom(database.urls.crossTenant, settings);
    const config = await complete(settings, database.urls);
    const listens = (origin: string) => void sleep(LOG_LAG_MS).then(() => announce(settings, origin));
    await serveBy(config, { stop, listens });
  } finally {
    await database.close();
  }
}

/** As quiet as the log is asked to be, unless somebody tries the service, and needs the commands to do so. */
function announce(settings: Config, origin: string): void {
  if (isSelfContained(settings)) process.stdout.write(demo(origin, settings.DATA_DIR));
  else if (['info', 'debug', 'trace'].includes(settings.LOG_LEVEL)) report(announcement(settings, origin));
}

/** The first signal asks for a stop, a second one does not wait for it. */
function signalHandler(stop: AbortController): () => void {
  let first: number | undefined;
  return () => {
    const now = performance.now();
    first ??= now;
    stop.abort();
    if (now - first > ECHO_MS) endNow('Stopped at once.');
  };
}

/** Nothing was configured: database and secret are our own, so nobody but this machine may come in. */
function isSelfContained({ DATABASE_URL, JWT_SECRET, JWKS_URL }: Config): boolean {
  return DATABASE_URL === undefined && JWT_SECRET === undefined && JWKS_URL === undefined;
}

async function complete(settings: Config, { service, crossTenant }: DatabaseUrls): Promise<Config> {
  // The owner's login is for the start only: nothing of the application gets to see it.
  const config = {
    ...settings,
    DATABASE_URL: service,
    DATABASE_ENGINE_URL: crossTenant,
    DATABASE_OWNER_URL: undefined,
  };
  if (!isSelfContained(settings)) return Object.freeze(config);
  if (config.HOST !== undefined && config.HOST !== LOOPBACK) {
    report(
      `HOST=${config.HOST} is not used: with a self-made secret the service listens on ${LOOPBACK} only. Set JWT_SECRET or JWKS_URL.`,
    );
  }
  const secret = await loadOrCreateSecret(config.DATA_DIR);
  return Object.freeze({ ...config, JWT_SECRET: secret, HOST: LOOPBACK });
}

const LOOPBACK = '127.0.0.1';

/** What a start with settings tells people: where it is, on what it works, and what is left out that they may miss. */
export function announcement(settings: Config, origin: string): string {
  const { hostname } = new URL(origin);
  const isEverywhere = ['[::]', '0.0.0.0'].includes(hostname);
  const here = isEverywhere ? origin.replace(hostname, '127.0.0.1') : origin;
  const lines = [
    `Tidings ${VERSION} listens on ${here}${isEverywhere ? ', and on every other address of this machine' : ''}.`,
    `  Reference  ${here}/docs`,
    `  Database   ${databaseOf(settings)}`,
    `  Tokens     ${tokensOf(settings)}`,
    ...missing(settings, hostname).map((line) => `  Not set    ${line}`),
  ];
  return lines.join('\n');
}

function databaseOf({ DATABASE_URL, DATABASE_OWNER_URL, DATA_DIR }: Config): string {
  if (DATABASE_URL === undefined) return `its own PostgreSQL under ${DATA_DIR}, for one machine`;
  const updates = DATABASE_OWNER_URL === undefined ? '' : '; each start brings its tables up to date';
  return `${readDatabaseUrl(DATABASE_URL).place}${updates}`;
}

function tokensOf({ JWKS_URL, JWT_ISSUER, JWT_AUDIENCE }: Config): string {
  const { host, pathname } = (JWKS_URL === undefined ? null : URL.parse(JWKS_URL)) ?? {};
  const keys = host === undefined ? 'JWT_SECRET' : `the keys at ${host}${pathname ?? ''}`;
  return `signed by ${keys}, with iss ${JWT_ISSUER} and aud ${JWT_AUDIENCE}; and those of registered issuers`;
}

function missing({ JWKS_URL, JWT_ISSUER, CORS_ORIGINS, METRICS_PORT }: Config, host: string): string[] {
  const lines: string[] = [];
  if (JWKS_URL !== undefined && JWT_ISSUER === DEFAULT_ISSUER)
    lines.push(`JWT_ISSUER: tokens count with the iss ${DEFAULT_ISSUER} only; a provider writes its own`);
  if (CORS_ORIGINS.length === 0)
    lines.push(
      'CORS_ORIGINS: browsers are refused on pages of another origin, unless their tenant allows it',
    );
  if (METRICS_PORT === undefined && !isLoopback(host))
    lines.push('METRICS_PORT: /metrics is answered beside the API, to whoever reaches it');
  return lines;
}

const DEFAULT_ISSUER = 'tidings';

/** Commands for the first minute with the service, for a shell in the project's folder. */
function demo(origin: string, dataDir: string): string {
  const where = dataDir === '.data' ? '' : `DATA_DIR=${quote(dataDir)} `;
  const token = (claims: string) =>
    `"Authorization: Bearer $(${where}npm run --silent token -- --tenant acme ${claims})"`;
  const notification = '{"to":{"user":"alice"},"type":"demo.hello","data":{"text":"Hello, Alice"}}';
  return `
Tidings ${VERSION} listens on ${origin} with a secret of its own, for trying things out.
Its reference is at ${origin}/docs.
Paste these into another shell, in this folder:

  Listen as the user alice of the tenant acme:

    curl -N -H ${token('--user alice')} ${origin}/v1/stream

  Send her a notification, as the service billing would:

    curl -H ${token('--client billing --scope notifications:publish')} -H 'Content-Type: application/json' -d '${notification}' ${origin}/v1/notifications

  See what reached her, as an operator:

    curl -H ${token('--client ops --scope history:read')} '${origin}/v1/notifications?user=alice'

Ctrl-C stops everything.
`;
}

/** A word for a POSIX shell. */
function quote(text: string): string {
  return /^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", `'\\''`)}'`;
}
