import { randomUUIDv7 } from 'node:crypto';
import type { EntityManager } from 'typeorm';
import { ChangeFeed } from '../../src/cluster/change-feed.ts';
import {
  CrossTenantTransactions,
  TenantTransactions,
  type TenantTransaction,
} from '../../src/postgres/entity-transactions.ts';
import { tenantIdSchema, userIdSchema } from '../../src/core/identifiers.ts';
import { NO_LIMITS } from '../../src/core/limits.ts';
import { IssuersStore } from '../../src/auth/issuers.ts';
import {
  issuerPatchSchema,
  issuerRegistrationSchema,
  newIssuer,
  patchedIssuer,
} from '../../src/auth/registration.ts';
import { RevocationsStore, type RevocationRequest } from '../../src/auth/revocations.ts';
import { StreamCommandsStore, type StreamCommand } from '../../src/delivery/stream-commands.ts';
import { TenantsStore, type TenantSettings } from '../../src/tenants/tenants.ts';
import type { Service } from './app.ts';

/* What administrators do, by the statements of the administrative API and without its routes. */

/** Runs `work` in a transaction of the tenant; after that it counts on the node that took it. */
async function act<Result>(
  { app }: Service,
  tenant: string,
  work: (transaction: TenantTransaction) => Promise<Result>,
): Promise<Result> {
  const result = await app.get(TenantTransactions).transaction(tenantIdSchema.parse(tenant), work);
  await app.get(ChangeFeed).now();
  return result;
}

/** The same on the registry of issuers. */
async function actOnRegistry<Result>(
  { app }: Service,
  work: (entities: EntityManager) => Promise<Result>,
): Promise<Result> {
  const result = await app.get(CrossTenantTransactions).transaction(work);
  await app.get(ChangeFeed).now();
  return result;
}

const revoke = async (service: Service, tenant: string, request: RevocationRequest): Promise<void> => {
  const { MAX_TOKEN_LIFETIME_DAYS: days } = service.config;
  const stored = await act(service, tenant, ({ run }) =>
    service.app.get(RevocationsStore).insert(run, tenantIdSchema.parse(tenant), request, days),
  );
  if (stored === undefined) throw new Error('The revocation was refused.');
};

export const revokeToken = (service: Service, tenant: string, jti: string, expiresAt?: Date) =>
  revoke(service, tenant, { kind: 'token', jti, expiresAt });

export const revokeUser = (service: Service, tenant: string, user: string, issuedBefore?: Date) =>
  revoke(service, tenant, { kind: 'user', user: userIdSchema.parse(user), issuedBefore });

/** An order to open streams. */
export const order = (service: Service, tenant: string, given: StreamCommand) =>
  act(service, tenant, ({ run }) =>
    service.app.get(StreamCommandsStore).insert(run, tenantIdSchema.parse(tenant), given),
  );

export const disconnect = (service: Service, tenant: string, user: string) =>
  order(service, tenant, { kind: 'disconnect', user: userIdSchema.parse(user) });

export const closeConnection = (service: Service, tenant: string, connectionId: string) =>
  order(service, tenant, { kind: 'close', connectionId });

/** Makes the tenant if it is not there. */
export async function setTenant(
  service: Service,
  tenant: string,
  settings: Partial<TenantSettings>,
): Promise<void> {
  const store = service.app.get(TenantsStore);
  const id = tenantIdSchema.parse(tenant);
  const usual: TenantSettings = {
    name: null,
    status: 'active',
    keptDays: null,
    corsOrigins: [],
    limits: NO_LIMITS,
  };
  await act(service, tenant, async (transaction) => {
    const made = await store.create(transaction, id, { ...usual, ...settings });
    if (made !== undefined) return;
    await store.lock(transaction, id);
    await store.update(transaction, id, { ...usual, ...settings });
  });
}

/** Registers an issuer and answers its id. */
export async function registerIssuer(service: Service, registration: object): Promise<string> {
  const id = randomUUIDv7();
  const state = newIssuer(id, issuerRegistrationSchema.parse(registration), service.config);
  const record = await actOnRegistry(service, (entities) =>
    service.app.get(IssuersStore).insert(entities, id, state),
  );
  if (record === 'iss-taken') throw new Error('The issuer is registered already.');
  return id;
}

export async function patchIssuer(service: Service, id: string, patch: object): Promise<void> {
  const store = service.app.get(IssuersStore);
  await actOnRegistry(service, async (entities) => {
    const current = await store.lock(entities, id);
    if (current === undefined) throw new Error('There is no such issuer.');
    await store.update(entities, id, patchedIssuer(current, issuerPatchSchema.parse(patch), service.config));
  });
}

export const deleteIssuer = (service: Service, id: string) =>
  actOnRegistry(service, (entities) => service.app.get(IssuersStore).remove(entities, id));
