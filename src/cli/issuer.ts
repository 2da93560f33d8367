import 'reflect-metadata';
import { readFile } from 'node:fs/promises';
import { buffer } from 'node:stream/consumers';
import type { parseArgs } from 'node:util';
import { DataSource, type EntityManager } from 'typeorm';
import type { z } from 'zod';
import type { Change, Outcome } from '../admin/audited-transactions.ts';
import {
  changeIssuer,
  issuerView,
  registerIssuer,
  removeIssuer,
  type IssuerView,
} from '../admin/issuer-registry.ts';
import { AuditEntity, COMMAND, recordAction, type Action } from '../audit/audit.store.ts';
import { IssuerEntity, IssuersStore } from '../auth/issuers.ts';
import { issuerRegistrationSchema, type IssuerRegistration } from '../auth/registration.ts';
import { readSettings, settingsSchema } from '../core/config.ts';
import { Problem } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import { dataSourceOptions } from '../postgres/connection.ts';
import { CrossTenantTransactions } from '../postgres/entity-transactions.ts';
import type { PoolOptions } from '../postgres/pool.ts';
import { CrossTenantPool } from '../postgres/pools.ts';
import { DATABASE_SETTINGS, onDatabase, parse, UsageError, type Command } from './command.ts';

export const HELP = `Registers who may sign tokens, beside the issuer of the settings.

  tidings issuer add --iss <iss> --jwks-url <url> --audience <aud> --tenant <tenant> [...]
  tidings issuer list [--json]
  tidings issuer disable <iss>
  tidings issuer enable <iss>
  tidings issuer remove <iss>

  --iss             the iss of its tokens, byte by byte
  --jwks-url        where its keys are; https, or http on loopback
  --keys <file>     in place of it: a JWK Set of public keys
  --secret <file>   in place of it: the secret of HS256, at least 32 bytes; - reads standard input.
                    Needs ISSUER_SECRETS_KEY, the same as the service has.
  --audience        the aud that its tokens carry; may be given several times
  --tenant          the one tenant of all its tokens, whatever they claim
  --tenants         in place of it: the tenants that its tokens may name, separated by commas
  --scopes          service scopes that its tokens may carry, separated by commas:
                    notifications:publish, history:read (both are the default), notifications:broadcast,
                    operations:write, tenants:admin
  --algorithms      separated by commas; default RS256 with --jwks-url, HS256 with --secret
  --claim           where a token says what, as a name or a JSON pointer; may be given several times:
                    tenant=org_id, user=sub, topics=groups, device=device, scopes=/realm_access/roles
  --require-at-jwt  its tokens have to be of the type at+jwt (RFC 9068)
  --name            for people
  --json            print the list as one line of JSON

It works on DATABASE_URL, or without it on the service's own database under DATA_DIR, running or not. Nodes that run
hear of it within a second. What it does is in the audit log of the tenants concerned.
`;

const settings = settingsSchema.pick({
  ...DATABASE_SETTINGS,
  DATABASE_CONNECT_TIMEOUT_MS: true,
  DATABASE_STATEMENT_TIMEOUT_MS: true,
  JWT_ISSUER: true,
  ISSUER_SECRETS_KEY: true,
});
type Settings = Readonly<z.infer<typeof settings>>;

/** `tidings issuer`: the registry of issuers from the command line, above all for the first one. */
export const issuer: Command = async (args, environment, terminal) => {
  const subcommand = await readArguments(args, terminal.input);
  if (subcommand.kind === 'help') return terminal.print(HELP);
  const config = readSettings(environment, settings);
  const text = await onDatabase(config, terminal.report, async ({ crossTenant }) => {
    const pool = new CrossTenantPool(poolOptions(config, crossTenant));
    const source = registrySource(config, crossTenant);
    try {
      await source.initialize();
      const transactions = new CrossTenantTransactions(source, poolOptions(config, crossTenant));
      return await new IssuerCommand(transactions, new IssuersStore(pool, pool), config).run(subcommand);
    } catch (error) {
      throw usageErrorOf(error);
    } finally {
      if (source.isInitialized) await source.destroy();
      await pool.end();
    }
  });
  terminal.print(`${text}\n`);
};

/** Runs one subcommand in a transaction together with its audit records, and says what it did. */
class IssuerCommand {
  constructor(
    private readonly transactions: CrossTenantTransactions,
    private readonly issuers: IssuersStore,
    private readonly config: Settings,
  ) {}

  async run(subcommand: Exclude<Subcommand, { kind: 'help' }>): Promise<string> {
    if (subcommand.kind === 'list') return listing(await this.#all(), subcommand.json);
    if (subcommand.kind === 'add') {
      const { registration } = subcommand;
      const { id, iss } = await this.#perform('issuer.create', (entities) =>
        registerIssuer(entities, this.issuers, registration, this.config),
      );
      return `Registered ${iss} as ${id}. Nodes that run take its tokens within a second.`;
    }
    const { id } = await this.#find(subcommand.iss);
    if (subcommand.kind === 'remove') {
      await this.#perform('issuer.delete', (entities) => removeIssuer(entities, this.issuers, id));
      return `Removed ${subcommand.iss}. Its tokens are refused and its streams end within a second.`;
    }
    const status = subcommand.kind === 'disable' ? 'disabled' : 'active';
    await this.#perform('issuer.update', (entities) =>
      changeIssuer(entities, this.issuers, id, { status }, this.config),
    );
    return status === 'active'
      ? `Enabled ${subcommand.iss}. Its tokens are taken again within a second.`
      : `Disabled ${subcommand.iss}. Its tokens are refused and its streams end within a second.`;
  }

  async #perform<Result>(
    action: Action,
    work: (entities: EntityManager) => Promise<Outcome<Result, IssuerView>>,
  ): Promise<Result> {
    const { result } = await this.transactions.transaction(async (entities) => {
      const outcome = await work(entities);
      if (outcome.change !== undefined) await this.#record(entities, action, outcome.change);
      return outcome;
    });
    return result;
  }

  /** A command has no tenant of its own: each tenant that the issuer may name gets a record, which names no other tenant. */
  async #record(entities: EntityManager, action: Action, change: Change<IssuerView>): Promise<void> {
    const { target, before, after } = change;
    const shown = after ?? before;
    const concerned = shown?.tenants ?? (shown?.tenant == null ? [] : [shown.tenant]);
    for (const tenantId of concerned) {
      await recordAction(entities, {
        tenantId,
        actor: COMMAND,
        remoteAddress: null,
        requestId: null,
        action,
        target,
        before: seenBy(tenantId, before),
        after: seenBy(tenantId, after),
      });
    }
  }

  async #find(iss: string): Promise<IssuerView> {
    const found = (await this.#all()).find((known) => known.iss === iss);
    if (found !== undefined) return found;
    throw new UsageError(
      iss === this.config.JWT_ISSUER
        ? 'This is the issuer of the settings; it is changed in the environment of the service.'
        : 'No issuer with this iss is registered. `tidings issuer list` shows those that are.',
    );
  }

  async #all(): Promise<IssuerView[]> {
    const all: IssuerView[] = [];
    for (let after: string | undefined; ; after = all.at(-1)?.id) {
      const page = await this.issuers.page(after, PAGE_ROWS);
      all.push(...page.map(issuerView));
      if (page.length < PAGE_ROWS) return all;
    }
  }
}

/** What the command line asks for. */
type Subcommand =
  | { readonly kind: 'help' }
  | { readonly kind: 'list'; readonly json: boolean }
  | { readonly kind: 'add'; readonly registration: IssuerRegistration }
  | { readonly kind: 'disable' | 'enable' | 'remove'; readonly iss: string };

const OPTIONS = {
  iss: { type: 'string' },
  name: { type: 'string' },
  'jwks-url': { type: 'string' },
  keys: { type: 'string' },
  secret: { type: 'string' },
  audience: { type: 'string', multiple: true },
  tenant: { type: 'string' },
  tenants: { type: 'string' },
  scopes: { type: 'string' },
  algorithms: { type: 'string' },
  claim: { type: 'string', multiple: true },
  'require-at-jwt': { type: 'boolean' },
  json: { type: 'boolean' },
  help: { type: 'boolean', short: 'h' },
} as const;

type Values = ReturnType<typeof parseArgs<{ options: typeof OPTIONS }>>['values'];

/** The option that gives a member of the registration, where it is not simply the member's name. */
const OPTION_OF: Readonly<Record<string, string>> = {
  jwksUrl: '--jwks-url',
  audiences: '--audience',
  claims: '--claim',
  requireAtJwt: '--require-at-jwt',
};
const optionOf = (member: string): string => OPTION_OF[member] ?? `--${member}`;

/**
 * Reads the command line, and what it points to.
 *
 * @param input read to its end for `--secret -`
 * @throws UsageError
 */
async function readArguments(args: readonly string[], input: AsyncIterable<Uint8Array>): Promise<Subcommand> {
  const { values, positionals } = parse({ args: [...args], options: OPTIONS, allowPositionals: true });
  const [command, ...rest] = positionals;
  if (values.help === true || command === undefined) return { kind: 'help' };
  switch (command) {
    case 'list':
      accept(values, ['json'], rest, 0);
      return { kind: 'list', json: values.json ?? false };
    case 'disable':
    case 'enable':
    case 'remove':
      accept(values, [], rest, 1);
      return { kind: command, iss: rest[0] ?? '' };
    case 'add': {
      const { json: _, help: __, ...taken } = OPTIONS;
      accept(values, Object.keys(taken), rest, 0);
      return { kind: 'add', registration: registrationOf(await membersOf(values, input)) };
    }
    default:
      throw new UsageError(
        `There is no command ${command}; there are add, list, disable, enable and remove.`,
      );
  }
}

function accept(values: Values, options: readonly string[], rest: readonly string[], count: number): void {
  const foreign = Object.keys(values).find((name) => !options.includes(name));
  if (foreign !== undefined) throw new UsageError(`--${foreign} does not go with this command.`);
  if (rest.length !== count)
    throw new UsageError(
      count === 0 ? 'This command takes options only.' : 'Give the iss of one issuer, and nothing else.',
    );
}

async function membersOf(values: Values, input: AsyncIterable<Uint8Array>): Promise<Record<string, unknown>> {
  const { keys, secret, audience, tenants, scopes, algorithms, claim } = values;
  const members = {
    iss: values.iss,
    name: values.name,
    jwksUrl: values['jwks-url'],
    keys: keys === undefined ? undefined : keysOf(await fileOf('keys', keys)),
    secret: secret === undefined ? undefined : await secretOf(secret, input),
    algorithms: listOf(algorithms),
    audiences: audience,
    tenant: values.tenant,
    tenants: listOf(tenants),
    claims: claim === undefined ? undefined : claimsOf(claim),
    scopes: listOf(scopes),
    requireAtJwt: values['require-at-jwt'],
  };
  return Object.fromEntries(Object.entries(members).filter(([, value]) => value !== undefined));
}

/** The API's own schema validates the issuer; what it refuses is told by the option that it came from. */
function registrationOf(members: Record<string, unknown>): IssuerRegistration {
  const parsed = issuerRegistrationSchema.safeParse(members, {
    error: ({ input }) => (input === undefined ? 'is required' : undefined),
  });
  if (parsed.success) return parsed.data;
  const lines = parsed.error.issues.map(({ path: [member, ...within], message, ...issue }) => {
    const unknown = issue.code === 'unrecognized_keys' ? issue.keys.join(', ') : '';
    return `  - ${[optionOf(String(member)), ...within].join(' ')}: ${unknown === '' ? message : `does not take ${unknown}`}`;
  });
  throw new UsageError(`The issuer cannot be registered like this:\n${lines.join('\n')}`);
}

const listOf = (text: string | undefined): string[] | undefined =>
  text
    ?.split(',')
    .map((item) => item.trim())
    .filter((item) => item !== '');

function claimsOf(pairs: readonly string[]): Record<string, string | string[]> {
  const claims: Record<string, string | string[]> = {};
  const scopes: string[] = [];
  for (const pair of pairs) {
    const [, what, claim] = /^([a-z]+)=(.+)$/s.exec(pair) ?? [];
    if (what === undefined || claim === undefined)
      throw new UsageError(
        '--claim takes what it is about and where it is: tenant=org_id, scopes=/realm_access/roles.',
      );
    if (what === 'scopes') scopes.push(claim);
    else if (what in claims) throw new UsageError(`--claim ${what}= was given twice.`);
    else claims[what] = claim;
  }
  return scopes.length === 0 ? claims : { ...claims, scopes };
}

/** The secret is never an argument itself, since every user of the machine can read those; no message repeats it either. */
async function secretOf(source: string, input: AsyncIterable<Uint8Array>): Promise<string> {
  const text = source === '-' ? (await buffer(input)).toString() : await fileOf('secret', source);
  return text.replace(/\r?\n$/, '');
}

async function fileOf(option: 'keys' | 'secret', file: string): Promise<string> {
  try {
    return await readFile(file, 'utf8');
  } catch {
    const or = option === 'secret' ? ', or - for standard input' : '';
    throw new UsageError(`--${option} takes the name of a file that can be read${or}.`);
  }
}

function keysOf(text: string): unknown {
  try {
    const keys: unknown = JSON.parse(text);
    return keys;
  } catch {
    throw new UsageError('--keys takes a file that holds a JWK Set in JSON (RFC 7517).');
  }
}

const PAGE_ROWS = 200;

const seenBy = (tenantId: TenantId, view: IssuerView | null): IssuerView | null =>
  view === null || view.tenants === null ? view : { ...view, tenants: [tenantId] };

function listing(issuers: readonly IssuerView[], json: boolean): string {
  if (json) return JSON.stringify(issuers);
  if (issuers.length === 0) return 'No issuer is registered beside the one of the settings.';
  return issuers
    .map(({ id, iss, status, tenant, tenants, scopes, algorithms, jwksUrl, hasSecret }) =>
      [
        `${iss}${status === 'active' ? '' : ' (disabled)'}`,
        `  id       ${id}`,
        `  tenants  ${tenant === null ? `may name ${(tenants ?? []).join(', ')}` : `always ${tenant}`}`,
        `  scopes   ${scopes.join(', ') || 'none: users only'}`,
        `  keys     ${algorithms.join(', ')}, ${hasSecret ? 'a secret' : (jwksUrl ?? 'registered by value')}`,
      ].join('\n'),
    )
    .join('\n\n');
}

/** What the API would answer as a problem, in the words of the command line; another error stays as it is. */
function usageErrorOf(error: unknown): unknown {
  if (!(error instanceof Problem)) return error;
  const faults = (error.errors ?? []).map(
    ({ pointer, detail }) => `  - ${optionOf(pointer.split('/')[1] ?? '')}: ${detail}`,
  );
  return new UsageError([error.detail, ...faults].join('\n'));
}

const registrySource = (config: Settings, url: string): DataSource =>
  new DataSource({
    ...dataSourceOptions({
      url,
      name: 'tidings issuer command',
      connectTimeoutMs: config.DATABASE_CONNECT_TIMEOUT_MS,
      answerTimeoutMs: config.DATABASE_STATEMENT_TIMEOUT_MS + config.DATABASE_CONNECT_TIMEOUT_MS,
    }),
    entities: [IssuerEntity, AuditEntity],
    poolSize: 1,
  });

const poolOptions = (config: Settings, url: string): PoolOptions => ({
  url,
  name: 'issuer command',
  connections: 1,
  connectTimeoutMs: config.DATABASE_CONNECT_TIMEOUT_MS,
  statementTimeoutMs: config.DATABASE_STATEMENT_TIMEOUT_MS,
  preparedStatements: false,
});
