import type { TestDatabase } from './database.ts';

type Plan = readonly { Plan: PlanNode }[];
interface PlanNode {
  'Node Type': string;
  'Relation Name'?: string;
  'Index Cond'?: string;
  Plans?: PlanNode[];
}

/**
 * The tables that a statement reads without a condition on an index that names the tenant: with these values, and as
 * a connection plans it once it has run the statement a few times.
 */
export async function scannedWhole(
  database: TestDatabase,
  sql: string,
  values: readonly unknown[],
): Promise<string[]> {
  const plans = [
    await database.query<{ 'QUERY PLAN': Plan }>(`explain (format json) ${sql}`, values),
    await database.query<{ 'QUERY PLAN': Plan }>(`explain (generic_plan, format json) ${sql}`),
  ];
  return plans.flatMap(([row]) => {
    if (row === undefined) throw new Error('there is no plan');
    return row['QUERY PLAN'].flatMap(({ Plan: root }) => readsOf(root));
  });
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
