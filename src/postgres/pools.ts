import { Pool } from './pool.ts';
import { TenantPool } from './tenant-pool.ts';

/* Of the service's login: one tenant at a time. */

/** Appends, and what they are charged to. Nothing else uses it: publishing must not wait for what users ask. */
export class AppendPool extends TenantPool {}
/** What clients and administrators write: arrivals, acknowledgements, tickets, orders to streams, acts. Short statements. */
export class ClientPool extends TenantPool {}
/** Reads of the log for streams. */
export class BacklogPool extends TenantPool {}
/** Questions of operators. */
export class HistoryPool extends TenantPool {}

/* Of the engine's login: across tenants. */

/** What a node does for all its streams at once: the ledger, the heads of their logs, its own signs of life. Also the registries of the installation. */
export class CrossTenantPool extends Pool {}
/** What other nodes changed. Nothing else uses it: a revocation must not wait behind publishes. */
export class ChangeFeedPool extends Pool {}
