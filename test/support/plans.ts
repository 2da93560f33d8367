import pg from 'pg';
import type { TestDatabase } from './database.ts';
import type { Ran } from './pools.ts';

export interface PlanNode {
  'Node Type': string;
  'Relation Name'?: string;
  'Index Cond'?: string;
  'Recheck Cond'?: string;
  Filter?: string;
  'Actual Loops'?: number;
  'Actual Rows'?: number;
  'Rows Removed by Filter'?: number;
  'Rows Removed by Index Recheck'?: number;
  Plans?: PlanNode[];
}

/** How the login that ran a statement has it planned. `options`: of EXPLAIN, beside the format. */
export async function explain(
  { urls }: Pick<TestDatabase, 'urls'>,
  { statement, values, tenantId }: Ran,
  options: string[] = [],
): Promise<PlanNode> {
  const client = new pg.Client({
    connectionString: tenantId === undefined ? urls.crossTenant : urls.service,
  });
  await client.connect();
  try {
    await client.query('begin');
    await client.query(`select set_config('tidings.tenant', $1, true)`, [tenantId ?? '']);
    const generic = options.includes('generic_plan');
    const { rows } = await client.query<{ 'QUERY PLAN': { Plan: PlanNode }[] }>(
      `explain (${[...options, 'format json'].join(', ')}) ${statement.text}`,
      generic ? [] : [...values],
    );
    const plan = rows[0]?.['QUERY PLAN'][0]?.Plan;
    if (plan === undefined) throw new Error('there is no plan');
    return plan;
  } finally {
    await client.end();
  }
}

/** What a statement of a tenant reads by the plan that a pool with `genericPlans` makes of it. Names no tenant: `forgetStatements`. */
export async function explainGeneric(
  { urls }: Pick<TestDatabase, 'urls'>,
  { statement, values, tenantId }: Ran,
): Promise<PlanNode> {
  const client = new pg.Client({ connectionString: urls.service });
  await client.connect();
  try {
    await client.query('begin');
    await client.query(
      `select set_config('tidings.tenant', $1, true), set_config('plan_cache_mode', 'force_generic_plan', true)`,
      [tenantId],
    );
    await client.query(`prepare explained as ${statement.text}`);
    const { rows } = await client.query<{ 'QUERY PLAN': { Plan: PlanNode }[] }>(
      `explain (analyze, format json) execute explained (${values.map(literal).join(', ')})`,
    );
    const plan = rows[0]?.['QUERY PLAN'][0]?.Plan;
    if (plan === undefined) throw new Error('there is no plan');
    return plan;
  } finally {
    await client.end();
  }
}

function literal(value: unknown): string {
  if (value === null) return 'null';
  if (Array.isArray(value)) return `array[${value.map(literal).join(', ')}]::text[]`;
  if (typeof value !== 'string' && typeof value !== 'number')
    throw new TypeError(`${typeof value} as a value`);
  return pg.escapeLiteral(String(value));
}

/**
 * The tables that a statement reads without a condition on an index that names the tenant: with these values, and as
 * a connection plans it once it has run the statement a few times.
 */
export async function scannedWhole(database: Pick<TestDatabase, 'urls'>, ran: Ran): Promise<string[]> {
  const plans = [await explain(database, ran), await explain(database, ran, ['generic_plan'])];
  return plans.flatMap(readsOf);
}

function readsOf(step: PlanNode): string[] {
  const table = step['Relation Name'];
  const reads =
    step['Node Type'].endsWith('Scan') &&
    table !== undefined &&
    !(step['Index Cond'] ?? '').includes('tenant_id');
  const here = reads && step['Node Type'] !== 'Bitmap Heap Scan' ? [`${step['Node Type']} on ${table}`] : [];
  return [...here, ...(step.Plans ?? []).flatMap(readsOf)];
}
