import { Inject, Injectable, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import { type Observable, Subject, type Subscription } from 'rxjs';
import { ChangeFeed, type ChangeSource } from '../cluster/change-feed.ts';
import { type Renewed, type StoredStreamCommand, StreamCommandsStore } from './stream-commands.store.ts';
import { randomUUID } from 'node:crypto';
import { TokenStatus } from '../auth/tokens.ts';
import { CONFIG, type Config } from '../core/config.ts';
import type { TenantId } from '../core/identifiers.ts';
import { type Connection, Hubs } from './connection.ts';
import { jittered } from './frames.ts';

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
      this.tokenStatus.changed.subscribe((tenantId) => this.#admitAgain(tenantId)),
      this.commands.received.subscribe((command) => this.#obey(command)),
    ];
  }

  onModuleDestroy(): void {
    for (const subscription of this.#subscriptions) subscription.unsubscribe();
  }

  /** Something was revoked, suspended or registered otherwise: whom would it not let in any more? */
  #admitAgain(tenantId: TenantId | 'all'): void {
    for (const id of tenantId === 'all' ? this.hubs.keys() : [tenantId])
      for (const connection of this.hubs.connections(id)) this.#admit(connection);
  }

  #admit(connection: Connection): void {
    if (this.tokenStatus.refusal(connection.subscriber.caller) !== undefined) this.#revoke(connection);
  }

  #obey(command: StoredStreamCommand): void {
    if (command.kind === 'renew') {
      const { tenantId, user, connectionId, renewed, at } = command;
      const connection = this.hubs.find(tenantId, user, connectionId);
      connection?.renew(tokenOf(command, renewed), at, randomUUID());
      // The node that took the new token may have been the last to hear that it is revoked.
      if (connection !== undefined) this.#admit(connection);
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
