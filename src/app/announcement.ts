import { type Config, isLoopback, VERSION } from '../core/config.ts';
import { readDatabaseUrl } from '../core/database-url.ts';

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
export function demo(origin: string, dataDir: string): string {
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
