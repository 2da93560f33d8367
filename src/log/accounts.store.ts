import { Injectable } from '@nestjs/common';
import type { Statement } from '../postgres/pool.ts';
import { AppendPool } from '../postgres/pools.ts';
import type { TenantId } from '../core/identifiers.ts';
import type { Usage } from './account.ts';

/** A balance, and how long ago it was so. */
export interface DatedUsage extends Usage {
  /** ms by the database's clock; 0 when that was set back since. */
  readonly age: number;
}

const READ: Statement = {
  name: 'read_account',
  text: `
select spent, appended_bytes - removed_bytes as "storedBytes",
  greatest(0, extract(epoch from clock_timestamp() - spent_at) * 1000)::float8 as age
from tenant_logs where tenant_id = $1`,
};

/** The SQL that asks what a tenant has used; what charges it is the append itself. */
@Injectable()
export class UsageStore {
  constructor(private readonly pool: AppendPool) {}

  /** A tenant that has no stream yet has used nothing. */
  async read(tenantId: TenantId): Promise<DatedUsage> {
    const [row] = await this.pool.rows<DatedUsage & Record<string, unknown>>(tenantId, READ);
    return row ?? { spent: 0, storedBytes: 0, age: 0 };
  }
}
