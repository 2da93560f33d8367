import { randomUUID } from 'node:crypto';
import { Inject, Injectable, type OnModuleDestroy, type OnModuleInit } from '@nestjs/common';
import type { Subscription } from 'rxjs';
import { TokenStatus } from '../auth/token-status.ts';
import { CONFIG, type Config } from '../core/config.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Connection } from './connection.ts';
import { jittered } from './frames.ts';
import { Hubs } from './hubs.ts';
import { Eviction } from './eviction.ts';
import { StreamCommands } from './stream-commands.ts';
import type { Renewed, StoredStreamCommand } from './stream-commands.store.ts';

/** Ends and renews open streams when something was revoked, or somebody ordered it, on whichever node that was. */
@Injectable()
export class StreamControl implements OnModuleInit, OnModuleDestroy {
  #subscriptions: Subscription[] = [];

  constructor(
    private readonly hubs: Hubs,
    private readonly admission: TokenStatus,
    private readonly orders: StreamCommands,
    private readonly replacements: Eviction,
    @Inject(CONFIG) private readonly config: Config,
  ) {}

  onModuleInit(): void {
    this.#subscriptions = [
      this.admission.changed.subscribe((tenantId) => this.#admitAgain(tenantId)),
      this.orders.received.subscribe((order) => this.#obey(order)),
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
    if (this.admission.refusal(connection.subscriber.caller) !== undefined) this.#revoke(connection);
  }

  #obey(order: StoredStreamCommand): void {
    if (order.kind === 'renew') {
      const { tenantId, user, connectionId, renewed, at } = order;
      const connection = this.hubs.find(tenantId, user, connectionId);
      connection?.renew(tokenOf(order, renewed), at, randomUUID());
      // The node that took the new token may have been the last to hear that it is revoked.
      if (connection !== undefined) this.#admit(connection);
      return;
    }
    if (order.kind === 'reconcile') {
      this.replacements.reconcile(order);
      return;
    }
    const meant =
      order.kind === 'disconnect'
        ? this.hubs.ofUser(order.tenantId, order.user)
        : this.hubs.connections(order.tenantId);
    for (const connection of meant) {
      if (order.kind === 'close' && !connection.isKnownAs(order.connectionId)) continue;
      // An order that is heard late, after the database was away, does not mean who has come since.
      if (connection.subscriber.openedAt <= order.at) this.#revoke(connection);
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
