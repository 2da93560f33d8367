import { lookup } from 'node:dns/promises';
import { once } from 'node:events';
import { networkInterfaces } from 'node:os';
import type { NestFastifyApplication } from '@nestjs/platform-fastify';
import type { Config } from '../core/config.ts';
import { StartError } from '../core/errors.ts';

/**
 * Connections that the kernel keeps for a node whose event loop is busy (`net.core.somaxconn` may allow less). What is above
 * waits for seconds until the client asks again, and Node's own 511 are fewer than come back when another node is gone.
 */
const BACKLOG = 4_096;

interface NodeLife {
  /** Ends it. */
  readonly stop: AbortSignal;
  /** Told the origin that it listens on, once it does. */
  readonly listens: (origin: string) => void;
  /** Given the application before it is initialised. */
  readonly prepare?: (app: NestFastifyApplication) => void;
  /** By which it has its name; see INSTANCE. */
  readonly instance?: string;
}

/**
 * The life of one node: from its application to the end of its streams.
 *
 * @param config with the URLs of a database that is migrated
 * @throws ConfigError or StartError with a sentence for the operator, or whatever ended it
 */
export async function serveNode(
  config: Config,
  { stop, listens, prepare, instance }: NodeLife,
): Promise<void> {
  // Only here: the primary of several workers serves nothing, and need not load the service.
  const { createApp } = await import('./app.ts');
  const stopped = stop.aborted ? undefined : once(stop, 'abort');
  const app = await createApp(config, { stop, instance });
  try {
    if (stop.aborted) return;
    prepare?.(app);
    // What fails here is no matter of the port.
    await app.init();
    listens(await listen(app, config));
    await stopped;
  } finally {
    await app.close();
  }
}

/** Returns the origin to reach the service at. */
async function listen(app: NestFastifyApplication, config: Config): Promise<string> {
  const host = config.HOST ?? everyAddress();
  try {
    // For `localhost` Fastify would open a second server, with nothing of what guards the first (src/app/pipeline.ts).
    const { address } = await lookup(host, { order: 'ipv4first' });
    await app.listen({ port: config.PORT, host: address, backlog: BACKLOG });
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

/* What every process of the service has: the words that it says to people, and its ends. */

/** What asks a process to stop. */
export const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP'] as const;

/** For the operator at the terminal; the structured log has standard output to itself. */
export function report(line: string): void {
  process.stderr.write(`${line}\n`);
}

export function endNow(why: string): void {
  report(why);
  process.exit(1);
}

/** @param seconds SHUTDOWN_DEADLINE_SECONDS */
export function endAfter(seconds: number): void {
  setTimeout(
    () => endNow(`The stop took longer than ${seconds} s (SHUTDOWN_DEADLINE_SECONDS).`),
    seconds * 1_000,
  ).unref();
}
