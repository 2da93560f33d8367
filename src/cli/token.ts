import type { parseArgs } from 'node:util';
import { JwtService } from '@nestjs/jwt';
import type { z } from 'zod';
import { readClaims } from '../auth/claims.ts';
import { loadOrCreateSecret } from '../auth/dev-secret.ts';
import { readSettings, settingsSchema } from '../core/config.ts';
import { parse, UsageError, type Command } from './command.ts';
import { environmentRules } from '../auth/issuer.ts';

const HELP = `Prints a token that this service accepts, signed with its current secret.

  tidings token --tenant <tenant> --user <user> [--topics <a,b>] [--device <device>]
  tidings token --tenant <tenant> --client <client> --scope "<scope> ..." [--topics <a,b>]

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

const settings = settingsSchema.pick({
  // With a database of its own the service has no secret of its own.
  DATABASE_URL: true,
  DATA_DIR: true,
  JWT_SECRET: true,
  JWKS_URL: true,
  JWT_ISSUER: true,
  JWT_AUDIENCE: true,
  JWT_SCOPES: true,
  JWT_CLOCK_TOLERANCE_SECONDS: true,
  MAX_TOPICS_PER_TOKEN: true,
  MAX_TOKEN_LIFETIME_DAYS: true,
});
type Settings = Readonly<z.infer<typeof settings>>;

/** `tidings token`. Standard output carries the token alone, so that `$(tidings token …)` is one. */
export const token: Command = async (args, environment, terminal) => {
  const { values } = parse({ args: [...args], options: OPTIONS });
  if (values.help) return terminal.print(HELP);
  const claims = claimsOf(values);
  const seconds = secondsOf(values['expires-in']);
  const config = readSettings(environment, settings);
  const jwt = new JwtService({ secret: await currentSecret(config) });
  const signed = await jwt.signAsync(claims, {
    algorithm: 'HS256',
    issuer: config.JWT_ISSUER,
    audience: config.JWT_AUDIENCE,
    expiresIn: seconds,
  });
  // The service's own rules decide: a token that it would refuse is not handed out.
  const limits = { ...config, topicsPerToken: () => config.MAX_TOPICS_PER_TOKEN };
  const { refused } = readClaims(jwt.decode(signed), environmentRules(config), limits, Date.now());
  if (refused !== undefined) throw new UsageError(`The service would refuse this token. ${refused}`);
  terminal.print(`${signed}\n`);
};

function claimsOf({ tenant, user, topics, device, client, scope }: Arguments): Record<string, unknown> {
  if (tenant === undefined) throw new UsageError('--tenant is missing.');
  if ((user === undefined) === (client === undefined)) {
    throw new UsageError('Give --user for a person or --client for a service, one of them.');
  }
  const list = topics === undefined ? {} : { topics: topics.split(',').filter((topic) => topic !== '') };
  if (client !== undefined) {
    if (scope === undefined)
      throw new UsageError('--client needs --scope, for example notifications:publish.');
    if (device !== undefined) throw new UsageError('--device goes with --user.');
    return { tenant_id: tenant, sub: client, scope, ...list };
  }
  if (scope !== undefined)
    throw new UsageError('--scope goes with --client: a token with one cannot act as a user.');
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
  if (!(seconds > 0)) throw new UsageError('--expires-in takes a number and a unit: 90s, 15m, 1h or 30d.');
  return seconds;
}

async function currentSecret({ JWT_SECRET, JWKS_URL, DATA_DIR }: Settings): Promise<string> {
  if (JWKS_URL !== undefined) {
    throw new UsageError('With JWKS_URL the issuer alone can sign tokens; get one from there.');
  }
  return JWT_SECRET ?? loadOrCreateSecret(DATA_DIR);
}
