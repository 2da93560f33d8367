import { accessSync, constants, statSync } from 'node:fs';
import { delimiter, join } from 'node:path';
import { TEST_SECRET } from '../support/tokens.ts';

/** A program of another make that nothing here builds or downloads. */
export interface Foreign {
  /** Its name on the PATH. */
  readonly program: string;
  readonly site: string;
}

/** A server that is measured where there is one, also one that runs already. */
export interface Peer extends Foreign {
  /** The environment variable that says where one runs already. */
  readonly url: string;
  /** Those that hold the secrets it knows its clients by. They are called as it calls them itself. */
  readonly secrets: readonly string[];
}

export const MERCURE = {
  program: 'mercure',
  site: 'https://mercure.rocks',
  url: 'MERCURE_URL',
  secrets: ['MERCURE_PUBLISHER_JWT_KEY'],
} as const satisfies Peer;

export const CENTRIFUGO = {
  program: 'centrifugo',
  site: 'https://centrifugal.dev',
  url: 'CENTRIFUGO_URL',
  secrets: ['CENTRIFUGO_HTTP_API_KEY', 'CENTRIFUGO_CLIENT_TOKEN_HMAC_SECRET_KEY'],
} as const satisfies Peer;

/** By which nodes of Tidings hear one another. */
export const NATS = { program: 'nats-server', site: 'https://nats.io' } as const satisfies Foreign;

type Environment = Readonly<Record<string, string | undefined>>;

/** Where a peer runs, the program to start, what to do to have one, or what is wrong with what was said of it. */
export type Whereabouts =
  | { readonly url: URL }
  | { readonly path: string }
  | { readonly missing: string }
  | { readonly wrong: string };

/** Finds a peer. One that runs already goes before one on the PATH. */
export function locate(foreign: Foreign | Peer, env: Environment = process.env): Whereabouts {
  const peer = 'url' in foreign ? foreign : undefined;
  const given = peer && env[peer.url];
  if (peer !== undefined && given !== undefined) return elsewhere(peer, given, env);
  const path = onPath(foreign.program, env['PATH'] ?? '');
  if (path !== undefined) return { path };
  const how = `put ${foreign.program} (${foreign.site}) on the PATH`;
  if (peer === undefined) return { missing: how };
  const variables = [peer.url, ...peer.secrets].join(', ');
  return { missing: `${how}, or give one that runs by ${variables}` };
}

function elsewhere(peer: Peer, given: string, env: Environment): Whereabouts {
  const url = URL.parse(given);
  if (url?.protocol !== 'http:')
    return {
      wrong: `${peer.url} is where ${peer.program} runs, such as http://127.0.0.1:3000, not ${given}`,
    };
  const lacking = peer.secrets.filter((name) => env[name] === undefined);
  if (lacking.length > 0) return { wrong: `${peer.url} needs ${lacking.join(' and ')} beside it` };
  return { url };
}

const onPath = (program: string, path: string): string | undefined =>
  path
    .split(delimiter)
    .map((folder) => join(folder, program))
    .find(isProgram);

function isProgram(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return statSync(file).isFile();
  } catch {
    return false;
  }
}

/** How clients reach a peer, and by which secrets. One that was started here has the same for all. */
export interface Reach<Secret extends string> {
  readonly host: string;
  /** What its `host` header says: a server may have several sites. */
  readonly site: string;
  secret(name: Secret): string;
}

export function reach<Secret extends string>(
  peer: Peer & { readonly secrets: readonly Secret[] },
  env: Environment = process.env,
): Reach<Secret> {
  const given = env[peer.url];
  if (given === undefined) return { host: '127.0.0.1', site: 'localhost', secret: () => TEST_SECRET };
  const { hostname, host } = new URL(given);
  return { host: hostname, site: host, secret: (name) => env[name] ?? '' };
}
