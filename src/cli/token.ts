import { parseArgs } from 'node:util';
import { JwtService } from '@nestjs/jwt';
import { readClaims } from '../auth/claims.ts';
import { loadOrCreateSecret } from '../auth/dev-secret.ts';
import { readConfig, type Config } from '../config.ts';
import { environmentRules } from '../issuers/environment.ts';

const HELP = `Prints a token that this service accepts, signed with its current secret.

  npm run --silent token -- --tenant <tenant> --user <user> [--topics <a,b>] [--device <device>]
  npm run --silent token -- --tenant <tenant> --client <client> --scope "<scope> ..." [--topics <a,b>]

  --tenant      whose user or service it is
  --user        a person, who may open a stream and acknowledge
  --topics      topics of that person, separated by commas; or those that the service may publish to, if not all
  --device      ties the token to one device of that person
  --client      a service or an operator
  --scope       what it may do, separated by spaces:
                notifications:publish, notifications:broadcast (to everyone), history:read,
                operations:write, tenants:admin
  --expires-in  how long it is good: 90s, 15m, 1h (default), 30d

The secret is JWT_SECRET, or without it the one that the service made under DATA_DIR.
`;

const OPTIONS = {
  tenant: { type: 'string' },
  user: { type: 'string' },
  topics: { type: 'string' },
  device: { type: 'string' },
  client: { type: 'string' },
  scope: { type: 'string' },
  'expires-in': { type: 'string', default: '1h' },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

type Arguments = ReturnType<typeof parseArgs<{ options: typeof OPTIONS }>>['values'];

const SECONDS = new Map([
  ['s', 1],
  ['m', 60],
  ['h', 3_600],
  ['d', 86_400],
]);

/** Standard output carries the token alone, so that `$(npm run --silent token -- …)` is one. */
async function run(): Promise<void> {
  const { values } = parseArgs({ options: OPTIONS });
  if (values.help) {
    process.stdout.write(HELP);
    return;
  }
  const claims = claimsOf(values);
  const seconds = secondsOf(values['expires-in']);
  const config = readConfig(process.env);
  const jwt = new JwtService({ secret: await currentSecret(config) });
  const token = await jwt.signAsync(claims, {
    algorithm: 'HS256',
    issuer: config.JWT_ISSUER,
    audience: config.JWT_AUDIENCE,
    expiresIn: seconds,
  });
  // The service's own rules decide: a token that it would refuse is not handed out.
  const limits = { ...config, topicsPerToken: () => config.MAX_TOPICS_PER_TOKEN };
  const { refused } = readClaims(jwt.decode(token), environmentRules(config), limits, Date.now());
  if (refused !== undefined) throw new Error(`The service would refuse this token. ${refused}`);
  process.stdout.write(`${token}\n`);
}

function claimsOf({ tenant, user, topics, device, client, scope }: Arguments): Record<string, unknown> {
  if (tenant === undefined) throw new Error('--tenant is missing.');
  if ((user === undefined) === (client === undefined)) {
    throw new Error('Give --user for a person or --client for a service, one of them.');
  }
  const list = topics === undefined ? {} : { topics: topics.split(',').filter((topic) => topic !== '') };
  if (client !== undefined) {
    if (scope === undefined) throw new Error('--client needs --scope, for example notifications:publish.');
    if (device !== undefined) throw new Error('--device goes with --user.');
    return { tenant_id: tenant, sub: client, scope, ...list };
  }
  if (scope !== undefined)
    throw new Error('--scope goes with --client: a token with one cannot act as a user.');
  return {
    tenant_id: tenant,
    sub: user,
    ...list,
    ...(device === undefined ? {} : { device }),
  };
}

function secondsOf(text: string): number {
  const [, digits, unit] = /^(\d{1,9})([smhd])$/.exec(text) ?? [];
  const seconds = Number(digits) * (SECONDS.get(unit ?? '') ?? Number.NaN);
  if (!(seconds > 0)) throw new Error('--expires-in takes a number and a unit: 90s, 15m, 1h or 30d.');
  return seconds;
}

async function currentSecret({ JWT_SECRET, JWKS_URL, DATA_DIR }: Config): Promise<string> {
  if (JWKS_URL !== undefined) {
    throw new Error('With JWKS_URL the issuer alone can sign tokens; get one from there.');
  }
  return JWT_SECRET ?? loadOrCreateSecret(DATA_DIR);
}

try {
  await run();
} catch (error) {
  process.stderr.write(
    `${error instanceof Error ? error.message : String(error)}\n(--help tells how to use this.)\n`,
  );
  process.exitCode = 1;
}
