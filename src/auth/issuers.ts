import { Inject, Injectable, Logger, Module } from '@nestjs/common';
import { Subject, type Observable } from 'rxjs';
import { TypeOrmModule } from '@nestjs/typeorm';
import { Column, Entity, Not, PrimaryColumn, QueryFailedError, type EntityManager } from 'typeorm';
import { ChangeFeed, ChangeFeedModule, type ChangeSource, NOT_IN_SNAPSHOT } from '../cluster/change-feed.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { messageOf } from '../core/errors.ts';
import { CROSS_TENANT, WRITTEN_NOW } from '../postgres/entity-transactions.ts';
import type { Statement } from '../postgres/pool.ts';
import { ChangeFeedPool, CrossTenantPool } from '../postgres/pools.ts';
import { environmentIssuer, type Issuer, type IssuerTenants } from './issuer.ts';
import { GivenKeys, RemoteKeys, SharedSecret, type VerificationKeys, within } from './keys.ts';
import { issuerDefinitionSchema, type IssuerDefinition, type IssuerState } from './registration.ts';
import { SecretSeal } from './secrets.ts';

/** A registered issuer. */
export interface IssuerRecord extends IssuerState {
  readonly id: string;
  readonly version: number;
  readonly createdAt: Date;
  readonly updatedAt: Date;
}

/** A row as nodes read it. What is in `definition` was written by whichever version of the service wrote it. */
interface IssuerRow extends Omit<IssuerRecord, 'definition' | 'status'> {
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

/** What this node made of one version of a registration. */
interface Known {
  readonly version: number;
  /** Undefined if it cannot be used here. */
  readonly issuer: Issuer | undefined;
  /** Kept for the next version, so that a change of something else does not throw away what was fetched. */
  readonly remote: RemoteKeys | undefined;
}

/** Every issuer whose tokens count, in memory: the one of the settings, and those that were registered. */
@Injectable()
export class Issuers implements ChangeSource {
  readonly #logger = new Logger(Issuers.name);
  readonly #changed = new Subject<void>();
  readonly #environment: Issuer;
  readonly #seal: SecretSeal | undefined;
  #known = new Map<string, Known>();
  #byIss: ReadonlyMap<string, Issuer>;

  constructor(
    changes: ChangeFeed,
    private readonly store: IssuersStore,
    @Inject(CONFIG) config: Config,
  ) {
    this.#environment = environmentIssuer(config, (url) => this.#remoteKeys('environment', url));
    this.#byIss = new Map([[this.#environment.iss, this.#environment]]);
    if (config.ISSUER_SECRETS_KEY !== undefined) this.#seal = new SecretSeal(config.ISSUER_SECRETS_KEY);
    changes.register(this);
  }

  /** The issuer with exactly this `iss`, disabled ones included. The same object until its registration changes. */
  find(iss: string): Issuer | undefined {
    return this.#byIss.get(iss);
  }

  /** Some issuer was changed, added or removed. */
  get changed(): Observable<void> {
    return this.#changed;
  }

  async load(): Promise<void> {
    const rows = await this.store.all();
    const before = this.#known;
    this.#known = new Map(rows.map((row) => [row.id, this.#read(row, before.get(row.id)?.remote)]));
    this.#publish();
  }

  async catchUp(since: string): Promise<void> {
    const news = (await this.store.changedSince(since)).filter((row) => this.#isNews(row));
    if (news.length === 0) return;
    const gone = news.filter(({ status }) => status === 'deleted');
    for (const row of gone) this.#known.delete(row.id);
    // By itself: what another registration of the same `iss` trusts is another matter.
    if (gone.length > 0) this.#publish();
    for (const row of news) {
      if (row.status !== 'deleted') this.#known.set(row.id, this.#read(row, this.#known.get(row.id)?.remote));
    }
    this.#publish();
  }

  #isNews({ id, status, version }: IssuerRow): boolean {
    const known = this.#known.get(id);
    return status === 'deleted' ? known !== undefined : known?.version !== version;
  }

  /** In one step: nobody sees an `iss` that moves from one issuer to another at both of them, or at none. */
  #publish(): void {
    const registered = [...this.#known.values()].flatMap(({ issuer }) => issuer ?? []);
    this.#byIss = new Map([this.#environment, ...registered].map((issuer) => [issuer.iss, issuer]));
    this.#changed.next();
  }

  #read(row: IssuerRow, before: RemoteKeys | undefined): Known {
    const { id, version } = row;
    try {
      // It was registered before the settings named it, and the settings win.
      if (row.iss === this.#environment.iss)
        throw new Error('The settings name another issuer of this name (JWT_ISSUER).');
      const definition = issuerDefinitionSchema.parse(row.definition);
      const keys = this.#keysOf(row, definition, before);
      const remote = keys instanceof RemoteKeys ? keys : undefined;
      return { version, issuer: issuerOf(row, definition, keys), remote };
    } catch (error) {
      // One registration that this node cannot use must keep neither the others nor the service from working.
      const reason = messageOf(error);
      this.#logger.error(`issuer ${id} cannot be used, its tokens are refused: ${reason}`);
      return { version, issuer: undefined, remote: undefined };
    }
  }

  #keysOf(row: IssuerRow, definition: IssuerDefinition, before: RemoteKeys | undefined): VerificationKeys {
    const { jwksUrl, keys } = definition;
    if (jwksUrl !== undefined) return before?.url === jwksUrl ? before : this.#remoteKeys(row.id, jwksUrl);
    if (keys !== undefined) return new GivenKeys(keys);
    if (row.sealedSecret === null) throw new Error('It has neither keys nor a secret.');
    if (this.#seal === undefined) throw new Error('Its secret is sealed, and ISSUER_SECRETS_KEY is not set.');
    return new SharedSecret(this.#seal.open(row.id, row.sealedSecret));
  }

  #remoteKeys(id: string, url: string): RemoteKeys {
    return new RemoteKeys(url, (message) => this.#logger.warn(`issuer ${id}: ${message}`));
  }
}

function issuerOf(row: IssuerRow, definition: IssuerDefinition, keys: VerificationKeys): Issuer {
  const { algorithms, audiences, claims, scopes, requireAtJwt } = definition;
  return {
    id: row.id,
    iss: row.iss,
    version: row.version,
    status: row.status === 'active' ? 'active' : 'disabled',
    algorithms,
    audiences,
    tenants: tenantsOf(definition),
    claims,
    scopes: new Set(scopes),
    requireAtJwt,
    revokedBefore: row.revokedBefore?.getTime(),
    keys: within(algorithms, keys),
  };
}

function tenantsOf({ tenant, tenants }: IssuerDefinition): IssuerTenants {
  if (tenant !== undefined) return { kind: 'fixed', tenantId: tenant };
  // A registration names tenants. Should a row name none, it grants none.
  return { kind: 'listed', tenantIds: new Set(tenants) };
}

/** Who may sign tokens. Needs global providers of CONFIG and the database. */
@Module({
  imports: [ChangeFeedModule, TypeOrmModule.forFeature([IssuerEntity], CROSS_TENANT)],
  providers: [Issuers, IssuersStore],
  exports: [Issuers, IssuersStore],
})
export class IssuersModule {}
