import { Pool } from './pool.ts';
import { TenantPool } from './tenant-pool.ts';

/* Of the service's login: one tenant at a time. */

/** Appends, acknowledgements and cursor look-ups: short statements that someone waits for. */
export class AppendPool extends TenantPool {}
/** Reads of the log for streams. */
export class BacklogPool extends TenantPool {}
/** Questions of operators. */
export class HistoryPool extends TenantPool {}

/* Of the engine's login: across tenants. */

/** What a node does for all its streams at once: the ledger, the heads of their logs, its own signs of life. Also the registries of the installation. */
export class EnginePool extends Pool {}
/** What other nodes changed. Nothing else uses it: a revocation must not wait behind publishes. */
export class ChangesPool extends Pool {}
