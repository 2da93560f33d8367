import 'reflect-metadata';
import { DataSource, type EntityManager } from 'typeorm';
import type { z } from 'zod';
import {
  changeIssuer,
  issuerView,
  type IssuerView,
  registerIssuer,
  removeIssuer,
} from '../admin/issuer-registry.ts';
import type { Change, Outcome } from '../admin/audited-transactions.ts';
import { type Action, AuditEntity, COMMAND, recordAction } from '../audit/audit.store.ts';
import { readSettings, settingsSchema } from '../core/config.ts';
import { dataSourceOptions } from '../postgres/data-source.ts';
import { CrossTenantTransactions } from '../postgres/entity-transactions.ts';
import type { PoolOptions } from '../postgres/pool.ts';
import { CrossTenantPool } from '../postgres/pools.ts';
import { Problem } from '../core/errors.ts';
import type { TenantId } from '../core/identifiers.ts';
import { IssuerEntity, IssuersStore } from '../auth/issuers.store.ts';
import { UsageError, type Command } from './command.ts';
import { optionOf, readArguments, type Order } from './issuer-arguments.ts';
import { DATABASE_SETTINGS, onDatabase } from './on-database.ts';

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
  const order = await readArguments(args, terminal.input);
  if (order.kind === 'help') {
    terminal.print(HELP);
    return;
  }
  const config = readSettings(environment, settings);
  const text = await onDatabase(config, terminal.report, async ({ engine }) => {
    const pool = new CrossTenantPool(poolOptions(config, engine));
    const source = registrySource(config, engine);
    try {
      await source.initialize();
      const transactions = new CrossTenantTransactions(source, poolOptions(config, engine));
      return await new Registry(transactions, new IssuersStore(pool, pool), config).follow(order);
    } catch (error) {
      throw inWords(error);
    } finally {
      if (source.isInitialized) await source.destroy();
      await pool.end();
    }
  });
  terminal.print(`${text}\n`);
};

class Registry {
  constructor(
    private readonly transactions: CrossTenantTransactions,
    private readonly issuers: IssuersStore,
    private readonly config: Settings,
  ) {}

  async follow(order: Exclude<Order, { kind: 'help' }>): Promise<string> {
    if (order.kind === 'list') return listing(await this.#all(), order.json);
    if (order.kind === 'add') {
      const { registration } = order;
      const { id, iss } = await this.#perform('issuer.create', (entities) =>
        registerIssuer(entities, this.issuers, registration, this.config),
      );
      return `Registered ${iss} as ${id}. Nodes that run take its tokens within a second.`;
    }
    const { id } = await this.#find(order.iss);
    if (order.kind === 'remove') {
      await this.#perform('issuer.delete', (entities) => removeIssuer(entities, this.issuers, id));
      return `Removed ${order.iss}. Its tokens are refused and its streams end within a second.`;
    }
    const status = order.kind === 'disable' ? 'disabled' : 'active';
    await this.#perform('issuer.update', (entities) =>
      changeIssuer(entities, this.issuers, id, { status }, this.config),
    );
    return status === 'active'
      ? `Enabled ${order.iss}. Its tokens are taken again within a second.`
      : `Disabled ${order.iss}. Its tokens are refused and its streams end within a second.`;
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

  /** A command has no tenant of its own: each tenant that is concerned gets a record, and sees no other tenant in it. */
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

function inWords(error: unknown): unknown {
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
