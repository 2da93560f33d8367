import { randomUUID } from 'node:crypto';
import { Inject, Injectable, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import { type Observable, Subject, type Subscription } from 'rxjs';
import { z } from 'zod';
import { ChangeFeed, type ChangeSource, NOT_IN_SNAPSHOT } from '../cluster/change-feed.ts';
import { TokenStatus } from '../auth/tokens.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { type TenantId, topicSchema, type Topic, type UserId } from '../core/identifiers.ts';
import { beingErased, nowBeingErased } from '../postgres/erased.ts';
import { ChangeFeedPool, ClientPool } from '../postgres/pools.ts';
import type { RunOfTenant } from '../postgres/tenant-pool.ts';
import type { Statement } from '../postgres/pool.ts';
import { type Connection } from './connection.ts';
import { Hubs } from './hubs.ts';
import { jittered } from './frames.ts';

/** What a new token changes about an open stream. Times in ms since 1970. */
interface Renewed {
  readonly topics: readonly Topic[];
  readonly expiresAt: number;
  readonly issuer: string;
  readonly tokenId: string | undefined;
  readonly issuedAt: number | undefined;
}

/** Something that open streams are told, on whichever node they are. */
export type StreamCommand =
  | { readonly kind: 'close'; readonly connectionId: string }
  | { readonly kind: 'disconnect'; readonly user: UserId }
  | {
      readonly kind: 'renew';
      readonly connectionId: string;
      readonly user: UserId;
      readonly renewed: Renewed;
    };

/** A command as it was stored; `at` by the database's clock, in ms since 1970. `reconcile`: the user may have too many streams. */
export type StoredStreamCommand = (StreamCommand | { readonly kind: 'reconcile'; readonly user: UserId }) & {
  readonly tenantId: TenantId;
  readonly id: string;
  readonly at: number;
};

/*
 * A node that cannot reach the database for a while still hears of it. Renewals are many, and after minutes nothing is left
 * to be renewed: five-minute tokens of ten thousand streams would keep millions of rows a day. No row: the data of the user
 * is being erased, which ends every stream of theirs.
 */
const INSERT: Statement = {
  name: 'stream_command_insert',
  text: `
insert into stream_commands (tenant_id, order_id, kind, user_id, connection_id, renewed, expires_at)
select $1, $2, $3, $4, $5, $6,
  clock_timestamp() + case when $3 = 'renew' then interval '15 minutes' else interval '1 day' end
where not ${beingErased('$4::text')}
returning order_id`,
};

/* What nobody has heard after a minute somebody has found again. */
const RECONCILE: Statement = {
  name: 'stream_command_reconcile',
  text: `
insert into stream_commands (tenant_id, order_id, kind, user_id, expires_at)
select $1, gen_random_uuid(), 'reconcile', user_id, clock_timestamp() + interval '1 minute' from unnest($2::text[]) as u (user_id)`,
};

/* Of all tenants: which of them have streams here is looked up in memory. */
const SINCE: Statement = {
  name: 'stream_command_since',
  text: `
select tenant_id, order_id, kind, user_id, connection_id, renewed, (extract(epoch from at) * 1000)::float8 as at
from stream_commands where ${NOT_IN_SNAPSHOT} order by at`,
};

const renewedSchema = z.object({
  topics: z.array(topicSchema),
  expiresAt: z.number(),
  issuer: z.string(),
  tokenId: z.string().optional(),
  issuedAt: z.number().optional(),
});

type Row = Record<string, unknown> & {
  readonly tenant_id: TenantId;
  readonly order_id: string;
  readonly at: number;
} & (
    | { readonly kind: 'close'; readonly connection_id: string }
    | { readonly kind: 'disconnect'; readonly user_id: UserId }
    | { readonly kind: 'reconcile'; readonly user_id: UserId }
    | {
        readonly kind: 'renew';
        readonly connection_id: string;
        readonly user_id: UserId;
        readonly renewed: string;
      }
  );

/** The SQL of commands to open streams. */
@Injectable()
export class StreamCommandsStore {
  constructor(
    private readonly pool: ClientPool,
    private readonly changes: ChangeFeedPool,
  ) {}

  /** In the transaction of `run`. False: the data of the user is being erased, and there is nothing to be told. */
  async insert(run: RunOfTenant, tenantId: TenantId, command: StreamCommand): Promise<boolean> {
    const rows = await run(tenantId, INSERT, [
      randomUUID(),
      command.kind,
      command.kind === 'close' ? null : command.user,
      command.kind === 'disconnect' ? null : command.connectionId,
      command.kind === 'renew' ? JSON.stringify(command.renewed) : null,
    ]);
    return rows.length > 0;
  }

  /** As a statement of its own. Throws Problem `being_erased`. */
  async renew(tenantId: TenantId, command: StreamCommand & { kind: 'renew' }): Promise<void> {
    const run: RunOfTenant = (...statement) => this.pool.rows(...statement);
    if (!(await this.insert(run, tenantId, command))) throw nowBeingErased();
  }

  /** As a statement of its own. */
  async reconcile(tenantId: TenantId, users: readonly UserId[]): Promise<void> {
    await this.pool.rows(tenantId, RECONCILE, [users]);
  }

  /** Those that were not visible in the snapshot `snapshot`, in their order. */
  async since(snapshot: string): Promise<readonly StoredStreamCommand[]> {
    return (await this.changes.rows<Row>(SINCE, [snapshot])).map(commandOf);
  }
}

function commandOf(row: Row): StoredStreamCommand {
  const common = { tenantId: row.tenant_id, id: row.order_id, at: row.at };
  if (row.kind === 'close') return { ...common, kind: 'close', connectionId: row.connection_id };
  if (row.kind === 'disconnect') return { ...common, kind: 'disconnect', user: row.user_id };
  if (row.kind === 'reconcile') return { ...common, kind: 'reconcile', user: row.user_id };
  const { tokenId, issuedAt, ...renewed } = renewedSchema.parse(JSON.parse(row.renewed));
  return {
    ...common,
    kind: 'renew',
    connectionId: row.connection_id,
    user: row.user_id,
    renewed: { ...renewed, tokenId, issuedAt },
  };
}

/** What open streams are told by whichever node was asked: to close, or to go on with a new token. */
@Injectable()
export class StreamCommands implements ChangeSource {
  readonly #received = new Subject<StoredStreamCommand>();
  /** Ids of the last look: what is read twice was in it. */
  #known = new Set<string>();

  constructor(
    changes: ChangeFeed,
    private readonly store: StreamCommandsStore,
  ) {
    changes.register(this);
  }

  /** Each command once, in the sequence in which they were given. */
  get received(): Observable<StoredStreamCommand> {
    return this.#received;
  }

  /** A node without streams has nothing to be told. */
  load(): Promise<void> {
    return Promise.resolve();
  }

  async catchUp(since: string): Promise<void> {
    const commands = await this.store.since(since);
    const known = this.#known;
    this.#known = new Set(commands.map(({ id }) => id));
    for (const command of commands) if (!known.has(command.id)) this.#received.next(command);
  }
}

/** Ends and renews open streams when something was revoked, or somebody commanded it, on whichever node that was. */
@Injectable()
export class StreamControl implements OnModuleInit, OnModuleDestroy {
  #subscriptions: Subscription[] = [];

  constructor(
    private readonly hubs: Hubs,
    private readonly tokenStatus: TokenStatus,
    private readonly commands: StreamCommands,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  onModuleInit(): void {
    this.#subscriptions = [
      this.tokenStatus.changed.subscribe((tenantId) => this.#recheckAll(tenantId)),
      this.commands.received.subscribe((command) => this.#obey(command)),
    ];
  }

  onModuleDestroy(): void {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
  }

  /** Something was revoked, suspended or registered otherwise: whom would it not let in any more? */
  #recheckAll(tenantId: TenantId | 'all'): void {
    for (const id of tenantId === 'all' ? this.hubs.keys() : [tenantId])
      for (const connection of this.hubs.connections(id)) this.#recheck(connection);
  }

  #recheck(connection: Connection): void {
    if (this.tokenStatus.refusal(connection.subscriber.caller) !== undefined) this.#revoke(connection);
  }

  #obey(command: StoredStreamCommand): void {
    if (command.kind === 'renew') {
      const { tenantId, user, connectionId, renewed, at } = command;
      const connection = this.hubs.find(tenantId, user, connectionId);
      connection?.renew(tokenOf(command, renewed), at, randomUUID());
      // The node that took the new token may have been the last to hear that it is revoked.
      if (connection !== undefined) this.#recheck(connection);
      return;
    }
    // That one is for Eviction.
    if (command.kind === 'reconcile') return;
    const meant =
      command.kind === 'disconnect'
        ? this.hubs.ofUser(command.tenantId, command.user)
        : this.hubs.connections(command.tenantId);
    for (const connection of meant) {
      if (command.kind === 'close' && !connection.isKnownAs(command.connectionId)) continue;
      // A command that is heard late, after the database was away, does not mean who has come since.
      if (connection.subscriber.openedAt <= command.at) this.#revoke(connection);
    }
  }

  #revoke(connection: Connection): void {
    connection.end('revoked', jittered(this.config.STREAM_RETRY_MS));
  }
}

function tokenOf(
  { tenantId, user }: StoredStreamCommand & { readonly kind: 'renew' },
  { topics, expiresAt, issuer, tokenId, issuedAt }: Renewed,
) {
  const caller = { tenantId, subject: user, issuer, tokenId, issuedAt };
  return { topics, tokenExpiresAt: expiresAt, caller };
}
