import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { networkInterfaces } from 'node:os';
import { setTimeout as sleep } from 'node:timers/promises';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import { loadOrCreateSecret } from '../auth/secrets.ts';
import { readConfig, removedSettings, type Config, isLoopback, VERSION } from '../core/config.ts';
import type { Tuning } from '../core/tuning.ts';
import type { DatabaseUrls } from '../postgres/roles.ts';
import { openDatabase } from '../postgres/open-database.ts';
import { StartError } from '../core/errors.ts';
import { readDatabaseUrl } from '../core/database-url.ts';
import { createApp } from './app.ts';

/**
 * A terminal sends Ctrl-C to everyone in it, and npm passes it on once more: what comes this soon after the first
 * signal, in ms, is its echo and not a second Ctrl-C.
 */
const ECHO_MS = 500;

/** The log of the start is written a moment late, in ms; what a person should read comes after it. */
const LOG_LAG_MS = 100;

/**
 * Runs the service until it is told to stop.
 *
 * @param tuning what a test has in place of constants
 * @throws ConfigError or StartError with a sentence for the operator, or whatever ended it
 */
export async function run(environment: NodeJS.ProcessEnv, tuning: Partial<Tuning> = {}): Promise<void> {
  const stop = new AbortController();
  const onSignal = signalHandler(stop);
  for (const signal of SIGNALS) process.on(signal, onSignal);
  try {
    const config = readConfig(environment, tuning);
    const removed = removedSettings(environment);
    if (removed !== undefined) report(removed);
    await serve(config, stop.signal);
  } catch (error) {
    // Told to stop while it was still waiting for the database.
    if (stop.signal.aborted && error instanceof Error && error.name === 'AbortError') return;
    throw error;
  } finally {
    for (const signal of SIGNALS) process.off(signal, onSignal);
  }
}

/** One life of the service; what was opened is closed in reverse, also when a later step fails. */
async function serve(settings: Config, stop: AbortSignal): Promise<void> {
  const stopped = once(stop, 'abort');
  stop.addEventListener('abort', () => endAfter(settings.SHUTDOWN_DEADLINE_SECONDS));
  const database = await openDatabase(settings, report, stop);
  try {
    const config = await complete(settings, database.urls);
    const app = await createApp(config, { stop });
    try {
      if (stop.aborted) return;
      // What fails here is no matter of the port.
      await app.init();
      const origin = await listen(app, config);
      void sleep(LOG_LAG_MS).then(() => announce(settings, origin));
      await stopped;
    } finally {
      await app.close();
    }
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

function endAfter(seconds: number): void {
  setTimeout(
    () => endNow(`The stop took longer than ${seconds} s (SHUTDOWN_DEADLINE_SECONDS).`),
    seconds * 1_000,
  ).unref();
}

function endNow(why: string): void {
  report(why);
  process.exit(1);
}

const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

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

/** Returns the origin to reach the service at. */
async function listen(app: NestFastifyApplication, config: Config): Promise<string> {
  const host = config.HOST ?? everyAddress();
  try {
    // For `localhost` Fastify would open a second server, with nothing of what guards the first (src/app/pipeline.ts).
    const { address } = await lookup(host, { order: 'ipv4first' });
    await app.listen({ port: config.PORT, host: address });
  } catch (cause) {
    if (cause instanceof StartError) throw cause;
    throw new StartError(whyNotListening(cause, host, config.PORT), { cause });
  }
  const address: unknown = app.getHttpServer().address();
  const port =
    typeof address === 'object' && address !== null && 'port' in address ? Number(address.port) : config.PORT;
  return `http://${host.includes(':') ? `[${host}]` : host}:${port}`;
}

/** `::` takes IPv4 too, but exists only where IPv6 does. */
function everyAddress(): string {
  const hasIpv6 = Object.values(networkInterfaces()).some((addresses) =>
    addresses?.some(({ family }) => family === 'IPv6'),
  );
  return hasIpv6 ? '::' : '0.0.0.0';
}

function whyNotListening(cause: unknown, host: string, port: number): string {
  const code = cause instanceof Error && 'code' in cause ? cause.code : undefined;
  switch (code) {
    case 'EADDRINUSE':
      return `Port ${port} is in use: stop the program that listens there, or choose another with PORT.`;
    case 'EACCES':
      return `Port ${port} may not be opened by this user: choose another with PORT.`;
    case 'EADDRNOTAVAIL':
    case 'ENOTFOUND':
      return `This machine has no address ${host}: correct HOST.`;
    default:
      return `Port ${port} on ${host} cannot be opened: ${cause instanceof Error ? cause.message : String(cause)}`;
  }
}

/** For the operator at the terminal; the structured log has standard output to itself. */
function report(line: string): void {
  process.stderr.write(`${line}\n`);
}

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
