import { Injectable } from '@nestjs/common';
import { ChangesPool, type Statement } from '../database/pool.ts';

/* In text: an xid8 is 64 bits wide, and nothing is done with it here but to hand it back. */
const HORIZON: Statement = {
  name: 'changes_horizon',
  text: `select pg_snapshot_xmin(pg_current_snapshot())::text as horizon`,
};

/** Where in the history of the whole database the next look begins. Belongs to no tenant. */
@Injectable()
export class ChangesStore {
  constructor(private readonly pool: ChangesPool) {}

  /** The oldest transaction that is still under way: every older one is visible or was undone. */
  async horizon(): Promise<string> {
    const [row] = await this.pool.rows<{ horizon: string }>(HORIZON);
    if (row === undefined) throw new Error('The database named no horizon.');
    return row.horizon;
  }
}
