import { Injectable } from '@nestjs/common';
import { NOT_IN_SNAPSHOT } from '../cluster/change-feed.store.ts';
import type { Pool, Statement } from '../postgres/pool.ts';
import { ChangeFeedPool, CrossTenantPool } from '../postgres/pools.ts';
import type { IssuerDefinition } from './registration.schema.ts';
import type { IssuerState } from './registration.ts';
import { errorCode } from '../postgres/errors.ts';

/** A registered issuer. */
export interface IssuerRecord extends IssuerState {
  readonly id: string;
  readonly version: number;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** A row as nodes read it. What is in `definition` was written by whichever version of the service wrote it. */
export interface IssuerRow extends Omit<IssuerRecord, 'definition' | 'status'> {
  readonly definition: unknown;
  readonly status: 'active' | 'disabled' | 'deleted';
}

/* Issuers belong to no tenant: no statement here names one. What they may do in which tenant is in their definition. */

const COLUMNS = `issuer_id as id, iss, name, status, definition, sealed_secret as "sealedSecret",
  revoked_before as "revokedBefore", version, created_at as "createdAt", updated_at as "updatedAt"`;

/* 'do nothing' on the iss and on nothing else: an id that exists twice is a defect and shall be heard. */
const INSERT: Statement = {
  name: 'issuer_insert',
  text: `
insert into issuers (issuer_id, iss, name, status, definition, sealed_secret, revoked_before)
values ($1, $2, $3, $4, $5, $6, $7)
on conflict (iss) where status <> 'deleted' do nothing
returning ${COLUMNS}`,
};

const LOCK: Statement = {
  name: 'issuer_lock',
  text: `select ${COLUMNS} from issuers where issuer_id = $1 and status <> 'deleted' for update`,
};

const FIND: Statement = {
  name: 'issuer_find',
  text: `select ${COLUMNS} from issuers where issuer_id = $1 and status <> 'deleted'`,
};

const UPDATE: Statement = {
  name: 'issuer_update',
  text: `
update issuers set iss = $2, name = $3, status = $4, definition = $5, sealed_secret = $6, revoked_before = $7,
  version = version + 1, updated_at = now(), transaction = pg_current_xact_id()
where issuer_id = $1 and status <> 'deleted'
returning ${COLUMNS}`,
};

/* The row stays, so that every node hears of it; the secret does not. */
const REMOVE: Statement = {
  name: 'issuer_remove',
  text: `
update issuers set status = 'deleted', sealed_secret = null,
  version = version + 1, updated_at = now(), transaction = pg_current_xact_id()
where issuer_id = $1 and status <> 'deleted'
returning issuer_id as id`,
};

const PAGE: Statement = {
  name: 'issuer_page',
  text: `
select ${COLUMNS} from issuers where issuer_id > $1 and status <> 'deleted' order by issuer_id limit $2`,
};

const ALL: Statement = {
  name: 'issuers_all',
  text: `select ${COLUMNS} from issuers where status <> 'deleted'`,
};

const CHANGED: Statement = {
  name: 'issuers_changed',
  text: `select ${COLUMNS} from issuers where ${NOT_IN_SNAPSHOT}`,
};

const FIRST_ID = '00000000-0000-0000-0000-000000000000';

/** The SQL of the issuers. Who writes passes the transaction in which the act is recorded, too. */
@Injectable()
export class IssuersStore {
  constructor(
    private readonly changes: ChangeFeedPool,
    private readonly engine: CrossTenantPool,
  ) {}

  /** Undefined if an issuer with this `iss` is registered. */
  async insert(run: Pool['rows'], id: string, state: IssuerState): Promise<IssuerRecord | undefined> {
    const [row] = await run<IssuerRecord & Row>(INSERT, valuesOf(id, state));
    return row;
  }

  /** Keeps other writers out until the transaction ends. Undefined if there is no such issuer. */
  async lock(run: Pool['rows'], id: string): Promise<IssuerRecord | undefined> {
    const [row] = await run<IssuerRecord & Row>(LOCK, [id]);
    return row;
  }

  /**
   * For an issuer that is locked. `iss-taken`: another one is registered with this `iss`, and the transaction cannot go
   * on; throw, so that it is rolled back.
   */
  async update(run: Pool['rows'], id: string, state: IssuerState): Promise<IssuerRecord | 'iss-taken'> {
    try {
      const [row] = await run<IssuerRecord & Row>(UPDATE, valuesOf(id, state));
      if (row === undefined) throw new Error('The issuer to be changed is not there, though it was locked.');
      return row;
    } catch (error) {
      if (errorCode(error) === UNIQUE_VIOLATION) return 'iss-taken';
      throw error;
    }
  }

  /** False if there is no such issuer. */
  async remove(run: Pool['rows'], id: string): Promise<boolean> {
    const rows = await run<{ id: string }>(REMOVE, [id]);
    return rows.length > 0;
  }

  async find(id: string): Promise<IssuerRecord | undefined> {
    const [row] = await this.engine.rows<IssuerRecord & Row>(FIND, [id]);
    return row;
  }

  /** By id, which grows with time if it is a UUIDv7; `after` is the last id of the page before. */
  async page(after: string | undefined, limit: number): Promise<IssuerRecord[]> {
    return await this.engine.rows<IssuerRecord & Row>(PAGE, [after ?? FIRST_ID, limit]);
  }

  /** All that are not deleted. */
  async all(): Promise<IssuerRow[]> {
    return await this.changes.rows<IssuerRow & Row>(ALL);
  }

  /** What the transaction `since` (an xid8 as text) or a later one wrote; the deleted ones, too. */
  async changedSince(since: string): Promise<IssuerRow[]> {
    return await this.changes.rows<IssuerRow & Row>(CHANGED, [since]);
  }
}

type Row = Record<string, unknown>;

const UNIQUE_VIOLATION = '23505';

function valuesOf(id: string, state: IssuerState): unknown[] {
  const { iss, name, status, definition, sealedSecret, revokedBefore } = state;
  return [
    id,
    iss,
    name,
    status,
    JSON.stringify(definition satisfies IssuerDefinition),
    sealedSecret,
    revokedBefore,
  ];
}
