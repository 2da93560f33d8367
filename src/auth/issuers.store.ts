import { Injectable } from '@nestjs/common';
import { Column, Entity, Not, PrimaryColumn, QueryFailedError, type EntityManager } from 'typeorm';
import { NOT_IN_SNAPSHOT } from '../cluster/change-feed.store.ts';
import { WRITTEN_NOW } from '../postgres/entity-transactions.ts';
import type { Statement } from '../postgres/pool.ts';
import { ChangeFeedPool, CrossTenantPool } from '../postgres/pools.ts';
import type { IssuerDefinition } from './registration.schema.ts';
import type { IssuerState } from './registration.ts';

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

/**
 * A row of the registry, as administrators edit it. It belongs to no tenant: what an issuer may do in which one is in its
 * definition. One that is deleted stays, so that every node hears of it.
 */
@Entity('issuers')
export class IssuerEntity {
  @PrimaryColumn('uuid', { name: 'issuer_id' })
  id!: string;

  @Column('text')
  iss!: string;

  @Column('text', { nullable: true })
  name!: string | null;

  @Column('text')
  status!: 'active' | 'disabled' | 'deleted';

  @Column('jsonb')
  definition!: IssuerDefinition;

  @Column('bytea', { name: 'sealed_secret', nullable: true })
  sealedSecret!: Buffer | null;

  @Column('timestamptz', { name: 'revoked_before', nullable: true })
  revokedBefore!: Date | null;

  @Column('bigint')
  version!: number;

  @Column('timestamptz', { name: 'created_at' })
  createdAt!: Date;

  @Column('timestamptz', { name: 'updated_at' })
  updatedAt!: Date;

  /** Who wrote the row last; only the change feed reads it. An xid8, of which TypeORM knows nothing. */
  @Column('text', { select: false })
  transaction!: string;
}

const COLUMNS = `issuer_id as id, iss, name, status, definition, sealed_secret as "sealedSecret",
  revoked_before as "revokedBefore", version, created_at as "createdAt", updated_at as "updatedAt"`;

const FIND: Statement = {
  name: 'issuer_find',
  text: `select ${COLUMNS} from issuers where issuer_id = $1 and status <> 'deleted'`,
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

/** The registry of issuers. What takes `entities` is part of a transaction of the caller, who keeps the record of it. */
@Injectable()
export class IssuersStore {
  constructor(
    private readonly changes: ChangeFeedPool,
    private readonly engine: CrossTenantPool,
  ) {}

  /** `iss-taken`: another issuer is registered with this `iss`, and the transaction cannot go on; throw, to undo it. */
  async insert(entities: EntityManager, id: string, state: IssuerState): Promise<IssuerRecord | 'iss-taken'> {
    return await unlessTaken(async () => {
      await entities.insert(IssuerEntity, { id, ...state });
      return await found(entities, id);
    });
  }

  /** Keeps other writers out until the transaction ends. Undefined if there is no such issuer. */
  async lock(entities: EntityManager, id: string): Promise<IssuerRecord | undefined> {
    const row = await entities.findOne(IssuerEntity, {
      where: { id, status: Not('deleted') },
      lock: { mode: 'pessimistic_write' },
    });
    return row === null ? undefined : recordOf(row);
  }

  /** For an issuer that is locked. `iss-taken`: as of `insert`. */
  async update(entities: EntityManager, id: string, state: IssuerState): Promise<IssuerRecord | 'iss-taken'> {
    return await unlessTaken(async () => {
      if (!(await edit(entities, id, state)))
        throw new Error('The issuer to be changed is not there, though it was locked.');
      return await found(entities, id);
    });
  }

  /** Takes its secret away as well. False if there is no such issuer. */
  async remove(entities: EntityManager, id: string): Promise<boolean> {
    return await edit(entities, id, { status: 'deleted', sealedSecret: null });
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

/** False if there is no such issuer. */
async function edit(entities: EntityManager, id: string, changes: Partial<IssuerEntity>): Promise<boolean> {
  const { affected } = await entities
    .createQueryBuilder()
    .update(IssuerEntity)
    .set({ ...changes, version: () => 'version + 1', ...WRITTEN_NOW })
    .where({ id, status: Not('deleted') })
    .execute();
  return affected === 1;
}

const found = async (entities: EntityManager, id: string): Promise<IssuerRecord> =>
  recordOf(await entities.findOneByOrFail(IssuerEntity, { id }));

/* Of this index and of no other: an id that exists twice is a defect and shall be heard. */
const ISS_IS_UNIQUE = 'issuers_iss_unique';

async function unlessTaken(write: () => Promise<IssuerRecord>): Promise<IssuerRecord | 'iss-taken'> {
  try {
    return await write();
  } catch (error) {
    if (error instanceof QueryFailedError && Reflect.get(error, 'constraint') === ISS_IS_UNIQUE)
      return 'iss-taken';
    throw error;
  }
}

function recordOf(row: IssuerEntity): IssuerRecord {
  const { id, iss, name, status, definition, sealedSecret, revokedBefore, version, createdAt, updatedAt } =
    row;
  if (status === 'deleted') throw new Error('a deleted issuer is not shown');
  return { id, iss, name, status, definition, sealedSecret, revokedBefore, version, createdAt, updatedAt };
}
