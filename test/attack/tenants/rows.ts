import type { TestDatabase } from '../../support/database.ts';

/** One row of the database, with whom it belongs to. */
export interface StoredRow {
  readonly table: string;
  /** Null: its table belongs to no tenant. */
  readonly tenant: string | null;
  /** Null: it belongs to no user. */
  readonly user: string | null;
  readonly content: string;
}

/** What came and what went between two looks. A row that was changed has gone and come. */
export interface Difference {
  readonly gone: readonly StoredRow[];
  readonly come: readonly StoredRow[];
}

/** Changes by itself: every node says once a second that it is alive. */
const RESTLESS = 'nodes';

/** Every row of every table, whichever tables there are: a table that is added later is looked at, too. */
export class Rows {
  private constructor(
    private readonly database: TestDatabase,
    private readonly everything: string,
    /** The tables that belong to tenants. */
    readonly tables: readonly string[],
  ) {}

  static async of(database: TestDatabase): Promise<Rows> {
    const tables = await database.query<{ name: string; tenant: boolean; user: boolean }>(
      `select t.table_name as name, bool_or(c.column_name = 'tenant_id') as tenant, bool_or(c.column_name = 'user_id') as "user"
       from information_schema.tables t join information_schema.columns c using (table_schema, table_name)
       where t.table_schema = 'public' and t.table_type = 'BASE TABLE' and t.table_name <> $1
         and not (select relispartition from pg_class where oid = format('%I.%I', t.table_schema, t.table_name)::regclass)
       group by 1 order by 1`,
      [RESTLESS],
    );
    const selects = tables.map(
      ({ name, tenant, user }) =>
        `select '${name}' as "table", ${tenant ? 'tenant_id' : 'null'} as tenant,
           ${user ? 'user_id' : 'null'} as "user", to_jsonb(t)::text as content from "${name}" t`,
    );
    return new Rows(
      database,
      `${selects.join(' union all ')} order by content`,
      tables.filter(({ tenant }) => tenant).map(({ name }) => name),
    );
  }

  async look(): Promise<StoredRow[]> {
    return await this.database.query<StoredRow & Record<string, unknown>>(this.everything);
  }

  async since(before: readonly StoredRow[]): Promise<Difference> {
    const after = await this.look();
    const difference = { gone: without(before, after), come: without(after, before) };
    return { gone: difference.gone.filter(isLasting), come: difference.come.filter(isLasting) };
  }
}

/**
 * A node says twice a second how many streams a tenant has on it, so the row of a stream that has come or gone changes a
 * moment later. The streams of globex alone stay from beginning to end.
 */
const isLasting = ({ table, tenant }: StoredRow): boolean =>
  table !== 'connection_counts' || tenant === 'globex';

function without(rows: readonly StoredRow[], others: readonly StoredRow[]): StoredRow[] {
  const nameOf = ({ table, content }: StoredRow) => `${table} ${content}`;
  const known = new Set(others.map(nameOf));
  return rows.filter((row) => !known.has(nameOf(row)));
}
