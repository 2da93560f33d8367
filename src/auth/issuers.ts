import { Inject, Injectable, Logger, Module } from '@nestjs/common';
import { Subject, type Observable } from 'rxjs';
import { ChangeFeed, ChangeFeedModule, type ChangeSource } from '../cluster/change-feed.ts';
import { CONFIG, type Config } from '../core/config.ts';
import { messageOf } from '../core/errors.ts';
import { environmentIssuer, type Issuer, type IssuerTenants } from './issuer.ts';
import { IssuerEntity, type IssuerRow, IssuersStore } from './issuers.store.ts';
import { GivenKeys, RemoteKeys, SharedSecret, type VerificationKeys, within } from './keys.ts';
import { issuerDefinitionSchema, type IssuerDefinition } from './registration.schema.ts';
import { SecretSeal } from './secrets.ts';
import { TypeOrmModule } from '@nestjs/typeorm';
import { CROSS_TENANT } from '../postgres/entity-transactions.ts';

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
